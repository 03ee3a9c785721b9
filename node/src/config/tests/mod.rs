//! Tests of the configuration through [`load`], which touch nothing but a temporary directory.
//!
//! Cases are data. Lines of errors are compared whole: they are what people see.

mod errors;
mod fields;
mod hostile;
mod layers;
mod relations;
mod samples;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use shoal_core::route::Policy;

use super::*;
use crate::config::rule::Rule;

/// A user's home, so that no test depends on who runs it.
const HOME: (&str, &str) = ("HOME", "/home/ann");

/// What is set, layer by layer.
#[derive(Clone, Debug, Default)]
struct Given<'a> {
    /// Name, whose ending tells the format, and content.
    file: Option<(&'a str, &'a [u8])>,
    environment: Vec<(&'a str, &'a str)>,
    /// Key, name, value.
    flags: Vec<(&'static str, &'static str, &'a str)>,
}

fn toml(text: &str) -> Given<'_> {
    Given { file: Some(("shoal.toml", text.as_bytes())), ..Given::default() }
}

fn yaml(text: &str) -> Given<'_> {
    Given { file: Some(("shoal.yaml", text.as_bytes())), ..Given::default() }
}

fn variable<'a>(name: &'a str, value: &'a str) -> Given<'a> {
    Given { environment: vec![(name, value)], ..Given::default() }
}

fn typed<'a>(flags: &[(&'static str, &'static str, &'a str)]) -> Given<'a> {
    Given { flags: flags.to_vec(), ..Given::default() }
}

impl Given<'_> {
    /// What [`load`] makes of it. Files are named without their temporary directory.
    fn load(&self) -> Result<Loaded, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let path = self.file.map(|(name, content)| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        });
        let environment = self.environment.iter().chain([&HOME]);
        let environment = environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags: Vec<_> =
            self.flags.iter().map(|(key, name, value)| Flag { key, name, value: (*value).to_owned() }).collect();
        load(path.as_deref(), environment, &flags).map_err(|errors| {
            let hidden = format!("{}/", directory.path().display());
            errors.lines().map(|line| line.replace(&hidden, "")).collect()
        })
    }

    #[track_caller]
    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|lines| panic!("{self:?} does not load: {lines:#?}"))
    }

    #[track_caller]
    fn fails_with(&self, lines: &[&str]) {
        match self.load() {
            Ok(_) => panic!("{self:?} loads"),
            Err(found) => assert_eq!(found, lines, "{self:?}"),
        }
    }
}

impl Loaded {
    /// The value of `key` and its place, as printed.
    fn told(&self, key: &str) -> (Value, String) {
        let (section, name) = key.split_once('.').unwrap();
        (self.effective.raw().to_json()[section][name].clone(), self.effective.place(key).to_string())
    }
}

/// Values at the edges of what `key` takes, as text.
fn edges(key: &Key) -> Vec<String> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    match key.rule {
        Rule::Label { length_min } => vec!["x".repeat(length_min), "A.z_0-9".to_owned(), "x".repeat(64)],
        Rule::Path { .. } => vec!["m".to_owned(), "p".repeat(4096), "a path/with spaces/é".to_owned()],
        Rule::Address => texts(&["127.0.0.1:1", "10.0.0.1:65535", "[fd00::1]:8090"]),
        Rule::Seeds => texts(&["a:1", "10.0.0.1:65535", "[::1]:8090", "node-1.shoal_net.example.:8090"]),
        Rule::Whole { min, max } => vec![min.to_string(), max.to_string()],
        Rule::Real { min, max } => vec![min.to_string(), max.to_string(), format!("{}", (min + max) / 4.0)],
        Rule::OneOf(words) => texts(words),
        Rule::Switch => texts(&["true", "false"]),
        Rule::Engine => texts(&["candle", "synthetic:0", "synthetic:5ms,exp,per_batch=1ms"]),
        Rule::LogFilter => {
            texts(&["off", "WARN", "info,shoal::forward=debug,hyper=warn", "shoal[request{id=1}]=trace"])
        }
    }
}

#[test]
fn keys_are_distinct_and_documented() {
    let paths: BTreeSet<_> = keys().map(|key| key.path).collect();
    let variables: BTreeSet<_> = keys().map(Key::variable).collect();
    assert_eq!((paths.len(), variables.len()), (keys().count(), keys().count()));
    assert!(keys().all(|key| key.about.trim().ends_with('.')), "an explanation is whole sentences");
}

/// Guards the `expect` in [`effective`].
#[test]
fn every_value_that_passes_fits_its_field() {
    for key in keys() {
        for text in edges(key) {
            let value = key.rule.read(&rule::Written::Loose(text.clone()));
            let value = value.unwrap_or_else(|complaint| panic!("{} refuses {text}: {complaint:?}", key.path));
            let settings = BTreeMap::from([(key.path, (value.clone(), Place::Default))]);
            assert_eq!(effective(settings).raw.to_json().pointer(&pointer(key)), Some(&value), "{}", key.path);
        }
    }
}

#[test]
fn the_words_for_a_policy_are_those_of_the_core() {
    let known = Policy::ALL.iter().map(|policy| policy.name());
    let meant_for_nodes: Vec<_> = known.filter(|name| *name != Policy::Threshold.name()).collect();
    assert_eq!(keys::POLICIES, meant_for_nodes);
}

#[test]
fn every_default_passes_its_own_rule() {
    for key in keys().filter(|key| !key.default_value().is_null()) {
        let written = match key.default_value() {
            Value::Array(items) if items.is_empty() => rule::Written::List(Vec::new()),
            Value::String(text) => rule::Written::Loose(text.clone()),
            other => rule::Written::Loose(other.to_string()),
        };
        assert_eq!(key.rule.read(&written).as_ref(), Ok(key.default_value()), "{}", key.path);
    }
}

fn pointer(key: &Key) -> String {
    format!("/{}", key.path.replace('.', "/"))
}

#[test]
fn loading_nothing_gives_the_documented_defaults() {
    let Loaded { config, effective } = Given::default().loaded();
    assert_eq!(config.node.data_dir, PathBuf::from("/home/ann/.local/state/shoal"));
    assert_eq!(config.model.cache_dir, PathBuf::from("/home/ann/.cache/shoal/models"));
    assert_eq!((config.api.advertise, config.peer.advertise), (config.api.listen, config.peer.listen));
    let filled_in = ["node.data_dir", "model.cache_dir", "api.advertise", "peer.advertise"];
    let values = effective.raw().to_json();
    for key in keys().filter(|key| !filled_in.contains(&key.path)) {
        assert_eq!(values.pointer(&pointer(key)), Some(key.default_value()), "{}", key.path);
        assert_eq!(effective.place(key.path), &Place::Default);
    }
}

#[test]
fn errors_found_at_start_read_like_the_others() {
    let loaded = typed(&[("gossip.seeds", "--seed", "foo:1")]).loaded();
    let error = loaded.effective.error("gossip.seeds", "\"foo:1\" does not resolve", "check the name or remove it");
    assert_eq!(
        error.to_string(),
        "gossip.seeds (from --seed): \"foo:1\" does not resolve; check the name or remove it"
    );
    let error = loaded.effective.error("api.listen", "the port is in use", "choose another");
    assert_eq!(error.to_string(), "api.listen (default): the port is in use; choose another");
}
