//! Lays file, environment and flags over each other and remembers where each value came from.
//!
//! For `config`. Every value of every layer passes the rule of its key here, whether or not a later layer overrides it.
//!
//! Invariants: a later layer wins as a whole value (lists are not joined across layers); everything wrong is reported,
//! not only the first; a name that is no key is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::Flag;
use super::file;
use super::keys::{self, Key, SECTIONS, Section};
use super::problem::{ConfigError, LINES_MAX, Place, quoted};
use super::rule::{Complaint, Field, Rule, Written};
use super::suggest;

/// Variables with this prefix set keys, and nothing else may carry it.
pub(super) const PREFIX: &str = "SHOAL__";

/// What the layers said so far.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// By key. The last layer that set it.
    pub(super) settings: BTreeMap<&'static str, (Value, Place)>,
    /// Keys with a value that did not pass: what is said about them together with others would be noise.
    pub(super) broken: BTreeSet<&'static str>,
    pub(super) errors: Vec<ConfigError>,
}

impl Layers {
    pub(super) fn file(&mut self, path: &Path) {
        let fields = match file::read(path) {
            Ok(fields) => fields,
            Err(error) => return self.errors.push(error),
        };
        for Field { name, line, value } in fields {
            let place = Place::File { path: path.to_owned(), line };
            match (SECTIONS.iter().find(|section| section.name == name), value) {
                (Some(section), Written::Table(fields)) => self.section(path, section, fields),
                // An empty section of YAML, whose keys are all comments.
                (Some(_), Written::Nothing) => {}
                (Some(section), _) => {
                    let fix = format!("write {} as a section with keys", section.name);
                    self.errors.push(ConfigError::of_key(name, place, "this is a section, not a value", fix));
                }
                (None, Written::Table(_) | Written::Nothing) => {
                    let fix = self.suggestion(suggest::for_section, &name);
                    self.errors.push(ConfigError::of_key(bare_or_quoted(&name), place, "unknown section", fix));
                }
                (None, _) => self.unknown_key(&bare_or_quoted(&name), place),
            }
        }
    }

    fn section(&mut self, path: &Path, section: &Section, fields: Vec<Field>) {
        for Field { name, line, value } in fields {
            let place = Place::File { path: path.to_owned(), line };
            match section.keys.iter().find(|key| key.name() == name) {
                // Nothing at all stands for "not set", which only a key without a default can be.
                Some(key) if value == Written::Nothing && key.default_value().is_null() => {}
                Some(key) => self.set(key, &value, place),
                None => self.unknown_key(&format!("{}.{}", section.name, bare_or_quoted(&name)), place),
            }
        }
    }

    /// Reads all variables that begin with [`PREFIX`]; the others are not shoal's.
    pub(super) fn environment<'a>(&mut self, variables: impl Iterator<Item = (&'a String, &'a String)>) {
        for (name, value) in variables.filter(|(name, _)| name.starts_with(PREFIX)) {
            match keys::keys().find(|key| key.variable() == *name) {
                Some(key) => self.set(key, &Written::Loose(value.clone()), Place::Environment(name.clone())),
                None => {
                    let fix = self.suggestion(suggest::for_variable, name);
                    self.errors.push(ConfigError::of_thing(cut(name), "unknown environment variable", fix));
                }
            }
        }
    }

    /// Flags that set the same list (`--seed A --seed B`) make one list.
    pub(super) fn flags(&mut self, flags: &[Flag]) {
        let mut lists: BTreeMap<&str, (Vec<Written>, &str)> = BTreeMap::new();
        for flag in flags {
            match keys::key(flag.key) {
                Some(key) if key.rule == Rule::Seeds => {
                    let items = flag.value.split(',').map(|item| Written::Loose(item.to_owned()));
                    lists.entry(key.path).or_insert((Vec::new(), flag.name)).0.extend(items);
                }
                Some(key) => self.set(key, &Written::Loose(flag.value.clone()), Place::Flag(flag.name.to_owned())),
                None => self.unknown_key(flag.key, Place::Flag(flag.name.to_owned())),
            }
        }
        for (path, (items, name)) in lists {
            if let Some(key) = keys::key(path) {
                self.set(key, &Written::List(items), Place::Flag(name.to_owned()));
            }
        }
    }

    fn set(&mut self, key: &'static Key, written: &Written, place: Place) {
        match key.rule.read(written) {
            Ok(value) => {
                self.settings.insert(key.path, (value, place));
            }
            Err(Complaint { problem, fix }) => {
                self.broken.insert(key.path);
                let fix = fix.unwrap_or_else(|| key.rule.wanted(key));
                self.errors.push(ConfigError::of_key(key.path, place, problem, fix));
            }
        }
    }

    fn unknown_key(&mut self, name: &str, place: Place) {
        let fix = self.suggestion(suggest::for_key, name);
        self.errors.push(ConfigError::of_key(cut(name), place, "unknown key", fix));
    }

    /// Looking for the nearest name takes its time, and what is not printed needs none.
    fn suggestion(&self, find: fn(&str) -> String, name: &str) -> String {
        if LINES_MAX <= self.errors.len() { "remove it".to_owned() } else { find(name) }
    }
}

/// A name that could be mistaken for a path, such as `"node.id"` in quotes, keeps its quotes.
fn bare_or_quoted(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(is_bare) { cut(name) } else { quoted(name) }
}

fn cut(name: &str) -> String {
    if name.len() <= 100 { name.to_owned() } else { quoted(name) }
}
