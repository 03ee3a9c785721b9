//! Configuration: defaults < file (TOML or YAML) < environment `SHOAL__SECTION__NAME` < flags.
//!
//! For `main` and the commands, which call [`load`] once and hand parts of [`Config`] to the parts of the node.
//!
//! Invariants: a raw struct ([`RawConfig`]) parses, a checked one ([`Config`]) is the only one used; every value knows
//! its place; everything wrong is told at once, each in one line that names key, place and fix; input never panics.
//! Not here: what only the start can tell (a port in use, a seed that does not resolve). Whoever finds that reports it
//! with [`Effective::error`], so that it reads the same.

mod checked;
mod defaults;
mod file;
mod keys;
mod layers;
mod print;
mod problem;
mod relations;
mod rule;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

pub use checked::{
    AdmissionConfig, ApiConfig, BreakerConfig, CacheConfig, CanaryConfig, Config, DrainConfig, EngineConfig,
    GossipConfig, HedgeConfig, LogConfig, ModelConfig, NodeConfig, PeerConfig, ProbeConfig, PulseConfig, RecordConfig,
    RetryConfig, RoutingConfig,
};
pub use keys::{
    GpuMode, Key, LogFormat, RawAdmission, RawApi, RawBreaker, RawCache, RawCanary, RawConfig, RawDrain, RawEngine,
    RawGossip, RawHedge, RawLog, RawModel, RawNode, RawPeer, RawProbe, RawPulse, RawRecord, RawRetry, RawRouting,
    SECTIONS, Section, key, keys,
};
pub use print::{help, sample};
pub use problem::{ConfigError, ConfigErrors, EXIT_CODE, Place};

/// A flag of the command line that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// `section.name`.
    pub key: &'static str,
    /// As typed, dashes included.
    pub name: &'static str,
    pub value: String,
}

/// A configuration that holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub effective: Effective,
}

/// What holds, key by key, and where each value came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    raw: RawConfig,
    /// Without an entry: [`Place::Default`].
    places: BTreeMap<&'static str, Place>,
}

impl Effective {
    /// The values, with defaults filled in.
    #[must_use]
    pub fn raw(&self) -> &RawConfig {
        &self.raw
    }

    /// Where the value of `key` (`section.name`) came from.
    #[must_use]
    pub fn place(&self, key: &str) -> &Place {
        self.places.get(key).unwrap_or(&Place::Default)
    }

    /// An error about `key` (`section.name`) that only the start of the node could find, in the usual form:
    /// `gossip.seeds (from --seed): "foo:1" does not resolve; check the name or remove it`.
    pub fn error(&self, key: &str, problem: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        ConfigError::of_key(key, self.place(key).clone(), problem, fix)
    }
}

/// Reads, lays over each other and checks everything that was set.
///
/// `environment` holds all variables of the process (see [`environment`]): those with the prefix `SHOAL__` set keys,
/// `HOME`, `XDG_STATE_HOME` and `XDG_CACHE_HOME` lead to default directories, the rest is not looked at.
/// Nothing is created, opened (but `file`) or resolved.
///
/// # Errors
/// Everything that is wrong, in the order file, environment, flags, relations between keys.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Loaded, ConfigErrors> {
    let environment: BTreeMap<String, String> = environment.collect();
    let mut layers = layers::Layers::default();
    if let Some(path) = file {
        layers.file(path);
    }
    layers.environment(environment.iter());
    layers.flags(flags);
    let layers::Layers { settings, broken, mut errors } = layers;

    let mut effective = effective(settings);
    let filled = defaults::fill(&mut effective, &environment);
    errors.extend(relations::check(&effective, &filled, &broken));
    match ConfigErrors::from_list(errors) {
        Some(errors) => Err(errors),
        None => Ok(Loaded { config: Config::of_sound(effective.raw.clone(), filled), effective }),
    }
}

/// The variables of this process that [`load`] looks at. What is not UTF-8 gets replacement characters, which no key
/// takes, so that it is reported instead of ending the process.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// The raw configuration with `settings` over the defaults.
fn effective(settings: BTreeMap<&'static str, (Value, Place)>) -> Effective {
    let mut values = RawConfig::default().to_json();
    let mut places = BTreeMap::new();
    for (path, (value, place)) in settings {
        if let Some((section, name)) = path.split_once('.') {
            values[section][name] = value;
        }
        places.insert(path, place);
    }
    let raw = serde_json::from_value(values).expect(
        "a value that passes its rule fits its field: the test `every_value_that_passes_fits_its_field` holds it",
    );
    Effective { raw, places }
}
