//! The repository as the checks see it: its own files, without what git ignores.
//!
//! For every check in this package.
//! Invariants: paths are relative to the root and use `/`; listings are sorted, so findings come in a fixed order;
//! a symbolic link is never followed.
//! Not here: any rule.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A tree of files to be checked: this repository, or a small bad example of one.
pub(crate) struct Repo {
    root: PathBuf,
    /// Keeps the directory of an example alive as long as the example.
    _example: Option<TempDir>,
}

impl Repo {
    /// The repository that this test was built from.
    pub(crate) fn here() -> Repo {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests package lies below the root");
        Repo { root: root.to_path_buf(), _example: None }
    }

    /// A repository of just these `(path, text)` files, in a temporary directory.
    pub(crate) fn example(files: &[(&str, &str)]) -> Repo {
        let example = TempDir::new().expect("the temporary directory is writable");
        for (path, text) in files {
            let file = example.path().join(path);
            let folder = file.parent().expect("a joined path has a parent");
            fs::create_dir_all(folder).expect("the temporary directory is writable");
            fs::write(&file, text).expect("the temporary directory is writable");
        }
        Repo { root: example.path().to_path_buf(), _example: Some(example) }
    }

    /// The absolute path of the root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a file or a directory lies at `path`.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The text of the file at `path`. A file that is not UTF-8 text has none.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        fs::read(self.root.join(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    }

    /// Every file, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let ignored = ignored_names(&self.text(".gitignore").unwrap_or_default());
        let mut files = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(self.root.join(&folder)).unwrap_or_else(|cause| panic!("{folder}: {cause}"));
            for entry in entries {
                let entry = entry.unwrap_or_else(|cause| panic!("{folder}: {cause}"));
                let kind = entry.file_type().unwrap_or_else(|cause| panic!("{folder}: {cause}"));
                let name = entry.file_name().into_string().expect("file names of the repository are UTF-8");
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                if name == ".git" || ignored.contains(&name) {
                    continue;
                }
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }

    /// Every file whose name ends with `suffix`, with its text, sorted.
    pub(crate) fn texts(&self, suffix: &str) -> Vec<(String, String)> {
        let named = self.files().into_iter().filter(|path| path.ends_with(suffix));
        named.filter_map(|path| self.text(&path).map(|text| (path, text))).collect()
    }
}

/// The names that a `.gitignore` takes out of the tree.
///
/// Only plain names are understood, which keeps this walk equal to git's; a pattern that says more is refused.
fn ignored_names(rules: &str) -> Vec<String> {
    let rules = rules.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names = rules.map(|rule| rule.trim_matches('/').to_owned());
    let names: Vec<String> = names.collect();
    let pattern = names.iter().find(|name| name.contains(['/', '*', '!', '?', '[']));
    assert!(
        pattern.is_none(),
        ".gitignore: `{}` is more than a name; write one plain name a line, because tidy walks the tree by it",
        pattern.map_or("", String::as_str),
    );
    names
}

/// One broken rule: where, what, and how to mend it.
#[derive(Debug)]
pub(crate) struct Finding {
    place: String,
    fault: String,
    fix: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, fault: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { place: place.into(), fault: fault.into(), fix: fix.into() }
    }

    /// A finding at a line, counted from 1.
    pub(crate) fn at(path: &str, line: usize, fault: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding::new(format!("{path}:{line}"), fault, fix)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}\n    fix: {}", self.place, self.fault, self.fix)
    }
}

/// Fails with every finding at once, so that one run shows all there is to mend.
#[track_caller]
pub(crate) fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} broken rule(s)\n\n{}\n", lines.len(), lines.join("\n"));
}

/// For the proof that a check bites: one finding for each of `expected`, in order, each holding that text.
#[track_caller]
pub(crate) fn assert_found(findings: &[Finding], expected: &[&str]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    let all_match = lines.len() == expected.len() && lines.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(all_match, "expected findings that hold {expected:#?}, found:\n{}", lines.join("\n"));
}

#[test]
fn the_walk_leaves_out_what_git_ignores_and_nothing_else() {
    let files = [
        (".gitignore", "# built\n/target\nnotes.txt\n"),
        ("target/a.rs", ""),
        ("node/notes.txt", ""),
        (".ci/run", ""),
        ("b.rs", ""),
    ];
    assert_eq!(Repo::example(&files).files(), [".ci/run", ".gitignore", "b.rs"]);
}

#[test]
#[should_panic(expected = "`*.log` is more than a name")]
fn a_pattern_that_the_walk_cannot_follow_is_refused() {
    Repo::example(&[(".gitignore", "*.log\n")]).files();
}
