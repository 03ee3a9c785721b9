//! Reads a configuration file into fields with line numbers. TOML or YAML, told apart by the name's extension.
//!
//! For `layers`. The file is hostile input: it may be huge, no text, deeply nested or no file at all.
//!
//! Invariants: at most [`FILE_BYTES_MAX`] bytes are read; whatever the file holds, the answer is a value or one line.
//! Not here: what the fields mean.

mod toml;
mod yaml;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::problem::ConfigError;
use super::rule::Field;

/// A configuration of every key with comments has about 10 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A section holds keys and a key holds a list: more than 2 is never right. The reserve gives better messages.
const DEPTH_MAX: usize = 16;

/// What is wrong with the file's syntax, and on which line (from 1) where that is known.
struct Syntax {
    line: Option<usize>,
    problem: String,
}

/// The fields of the file at `path`.
///
/// # Errors
/// One line that names the file, the line in it where the syntax is wrong, and the fix.
pub(super) fn read(path: &Path) -> Result<Vec<Field>, ConfigError> {
    let name = path.display();
    let parse = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::parse,
        Some("yaml" | "yml") => yaml::parse,
        _ => {
            let problem = "the name has neither .toml nor .yaml nor .yml at its end";
            return Err(ConfigError::of_thing(name.to_string(), problem, "rename the file to say what it is"));
        }
    };
    let text = read_text(path)?;
    parse(&text).map_err(|Syntax { line, problem }| {
        let place = line.map(|line| format!(":{line}")).unwrap_or_default();
        ConfigError::of_thing(format!("{name}{place}"), problem, "mend the file")
    })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let wrong = |problem: String, fix: &str| ConfigError::of_thing(path.display().to_string(), problem, fix.to_owned());
    let unreadable = |error: std::io::Error| {
        wrong(format!("the file cannot be read: {error}"), "check the path and who may read it")
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(wrong("this is a directory".to_owned(), "name the file in it"));
    }
    let mut bytes = Vec::new();
    // Not by the file's stated length: a device or a pipe states none.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        let problem = format!("the file is longer than {FILE_BYTES_MAX} bytes");
        return Err(wrong(problem, "check that it is a configuration"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + sound.iter().filter(|byte| **byte == b'\n').count();
        ConfigError::of_thing(format!("{}:{line}", path.display()), "this is not UTF-8 text", "save the file as UTF-8")
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}
