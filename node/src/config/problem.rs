//! What is wrong with a configuration, told in one line: key, place, problem, fix.
//!
//! For `main`, which prints every line and exits with [`EXIT_CODE`], and for the checks at start (a port in use, a seed
//! that does not resolve), so that their lines look the same.
//!
//! Invariants: a line has no line break and a bounded length, whatever a file or a variable holds.

use std::fmt;
use std::path::PathBuf;

/// The exit code for a wrong configuration: `EX_CONFIG` of sysexits.h, which service managers can tell from a crash.
pub const EXIT_CODE: u8 = 78;

/// Most lines that one report prints: a binary file given by mistake must not flood the terminal.
pub(super) const LINES_MAX: usize = 50;

/// Most characters of a foreign text that a line repeats.
const QUOTE_CHARS_MAX: usize = 60;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody set it.
    Default,
    /// Nobody set it, and the default follows something else, such as `XDG_STATE_HOME` or another key.
    Derived(&'static str),
    /// A line of the configuration file, counted from 1.
    File { path: PathBuf, line: usize },
    /// An environment variable, by name.
    Environment(String),
    /// A flag of the command line, by name, dashes included.
    Flag(String),
}

impl Place {
    /// Whether somebody set the value.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !matches!(self, Self::Default | Self::Derived(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::Derived(source) => write!(out, "default, follows {source}"),
            Self::File { path, line } => write!(out, "{}:{line}", one_line(path.display().to_string())),
            Self::Environment(name) | Self::Flag(name) => write!(out, "{name}"),
        }
    }
}

/// One thing that is wrong. Its text is one line:
/// `gossip.seeds (from --seed): "foo:1" does not resolve; check the name or remove it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}{}: {problem}; {fix}", Origin(.place.as_ref()))]
pub struct ConfigError {
    subject: String,
    place: Option<Place>,
    problem: String,
    fix: String,
}

impl ConfigError {
    /// About the value of `key`, which was set at `place`. `problem` says what is wrong, `fix` what to do.
    pub fn of_key(key: impl Into<String>, place: Place, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { subject: one_line(key), place: Some(place), problem: one_line(problem), fix: one_line(fix) }
    }

    /// About something that is no key: a file, a variable, a flag.
    pub fn of_thing(subject: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { subject: one_line(subject), place: None, problem: one_line(problem), fix: one_line(fix) }
    }
}

struct Origin<'a>(Option<&'a Place>);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place @ (Place::Default | Place::Derived(_))) => write!(out, " ({place})"),
            Some(place) => write!(out, " (from {place})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, found in one go. Never empty. Its text is one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` when nothing is wrong.
    pub(super) fn from_list(errors: Vec<ConfigError>) -> Option<Self> {
        if errors.is_empty() { None } else { Some(Self(errors)) }
    }

    /// The lines to print, without a line break; after the first 50 comes one that counts the rest.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = self.0.len().saturating_sub(LINES_MAX);
        let last = (0 < more).then(|| format!("{more} more errors are not shown"));
        self.0.iter().take(LINES_MAX).map(ToString::to_string).chain(last)
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(out, "{line_break}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Foreign messages (of parsers, of the system) may have line breaks and more.
pub(super) fn one_line(text: impl Into<String>) -> String {
    let text: String = text.into();
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// `text` in quotes, on one line, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}
