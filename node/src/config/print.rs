//! Prints configurations: the effective one with the place of every value, and the reference of all keys.
//!
//! For `shoal config print`, `shoal config sample` and the help of the flags.
//!
//! Invariants: what is printed as TOML loads again to the same values (tests `effective_text_loads_to_the_same_values`
//! and `the_sample_file_is_the_reference`).

use serde_json::{Value, json};

use super::Effective;
use super::keys::{self, Key, SECTIONS};

/// Columns of a comment in the reference.
const COLUMNS_MAX: usize = 100;

impl Effective {
    /// As TOML that loads again; a comment behind every value says where it came from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let values = self.raw.to_json();
        let mut out = String::from("# The configuration in force, and where each value comes from.\n");
        for section in SECTIONS {
            out.push_str(&format!("\n[{}]\n", section.name));
            for key in section.keys {
                let place = self.place(key.path);
                match &values[section.name][key.name()] {
                    Value::Null => out.push_str(&format!("# {} is not set\n", key.name())),
                    value => out.push_str(&format!("{} = {} # {place}\n", key.name(), toml_value(value))),
                }
            }
        }
        out
    }

    /// As `{section: {name: {"value": ..., "from": place}}}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let values = self.raw.to_json();
        let mut out = json!({});
        for section in SECTIONS {
            for key in section.keys {
                let value = values[section.name][key.name()].clone();
                out[section.name][key.name()] = json!({ "value": value, "from": self.place(key.path).to_string() });
            }
        }
        out
    }
}

/// A TOML file with every key, its default, and a comment on what it does: the text of `config/shoal.toml`.
#[must_use]
pub fn sample() -> String {
    let mut out = String::new();
    comment(
        &mut out,
        "Every key of a shoal node with its default; a key that is left out has the default. Printed by `shoal config \
         sample`. A key `name` in `[section]` is also set by the environment variable SHOAL__SECTION__NAME, which \
         wins over the file; flags of `shoal serve` win over both. `shoal config check` checks a file, `shoal config \
         print` shows what holds and why.",
    );
    for section in SECTIONS {
        out.push('\n');
        comment(&mut out, section.about.trim());
        out.push_str(&format!("[{}]\n", section.name));
        for key in section.keys {
            out.push('\n');
            comment(&mut out, key.about.trim());
            comment(&mut out, &format!("Takes {}.", key.rule.form(key)));
            match key.default_value() {
                Value::Null => out.push_str(&format!("# {} = {}\n", key.name(), json!(key.rule.example(key)))),
                value => out.push_str(&format!("{} = {}\n", key.name(), toml_value(value))),
            }
        }
    }
    out
}

/// What a flag that sets the key `path` does, for its help: effect, key, variable, default.
///
/// # Panics
/// When there is no such key: a mistake in the program.
#[must_use]
pub fn help(path: &str) -> String {
    let key: &Key = keys::key(path).expect("flags name keys that exist: the test `every_flag_sets_a_key` holds it");
    let default = match key.default_value() {
        Value::Null => String::new(),
        Value::String(text) => format!(", default {text}"),
        Value::Array(items) if items.is_empty() => ", default none".to_owned(),
        value => format!(", default {value}"),
    };
    format!("{} [key {path}, env {}{default}]", key.about.trim(), key.variable())
}

/// Texts, numbers and flat lists of them read the same in TOML as in JSON.
fn toml_value(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// `text` as lines of a comment.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if COLUMNS_MAX < line.len() + 1 + word.len() {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
