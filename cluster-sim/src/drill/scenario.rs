//! A drill as it is written down: the shoal, the load, what is done to both and when, and what is expected of it.
//!
//! For `stage`, which carries it out, and `judge`, which holds the result against it. The drills of this program are
//! files in `config/drills`, built in; a file of the user's own is read in the same way.
//! Invariants: a scenario that was read names only nodes that there are, ends, and expects something.
//! Not here: what a step does (`stage`), what a measure means (`measures`).

mod expectation;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::cluster::Setting;
use crate::options::capacity_per_s;
pub(crate) use expectation::Expectation;
pub(crate) use step::{POISON, Protocol, Step, Way};

/// Largest scenario file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// More steps than this is a slip.
const STEPS_MAX: usize = 1000;

/// One drill.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// One line for people.
    pub(crate) about: String,
    #[serde(default = "three")]
    pub(crate) nodes: u16,
    /// Engine of every node, as `shoal serve --engine` takes it.
    pub(crate) engine: String,
    #[serde(default)]
    pub(crate) network: Network,
    /// Nodes that are not started with the others.
    #[serde(default)]
    pub(crate) late: Vec<u16>,
    /// Settings of every node: the key of the configuration file and its value.
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    pub(crate) load: LoadSpec,
    #[serde(default)]
    pub(crate) before: Vec<Step>,
    #[serde(default)]
    pub(crate) round: Vec<Step>,
    /// How often `round` is done.
    #[serde(default = "one")]
    pub(crate) rounds: u32,
    #[serde(default)]
    pub(crate) after: Vec<Step>,
    pub(crate) expect: Vec<Expectation>,
    /// What is different in a long run.
    #[serde(default)]
    long: Long,
}

/// What is between the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// The loopback interface, with a proxy where a step needs one.
    #[default]
    Loopback,
    /// A network namespace for each node, joined by a bridge; only where the system permits it.
    Namespaces,
}

/// What is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadSpec {
    /// Requests a second over all doors; or else `percent`.
    rate_per_s: Option<f64>,
    /// Percent of what `of_nodes` nodes can serve, for an engine whose speed is known.
    percent: Option<f64>,
    /// All of them, unless it is said.
    of_nodes: Option<u16>,
    /// One weight a node; even where absent.
    #[serde(default)]
    doors: Vec<f64>,
    /// 429 and 503 are answers, as where more is asked for than can be done.
    #[serde(default)]
    may_refuse: bool,
    /// The deadline that clients ask for.
    pub(crate) deadline_ms: Option<u32>,
}

/// The value of a setting.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Switch(bool),
    Whole(u64),
    Text(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    rounds: Option<u32>,
    engine: Option<String>,
    rate_per_s: Option<f64>,
    doors: Option<Vec<f64>>,
    /// Beside those of a short run.
    #[serde(default)]
    settings: BTreeMap<String, Value>,
}

fn one() -> u32 {
    1
}

fn three() -> u16 {
    3
}

/// The drills that are built in, in the order of `drill all`.
const BUILT_IN: [(&str, &str); 15] = [
    ("kill", include_str!("../../../config/drills/kill.toml")),
    ("door", include_str!("../../../config/drills/door.toml")),
    ("stop", include_str!("../../../config/drills/stop.toml")),
    ("term", include_str!("../../../config/drills/term.toml")),
    ("rolling", include_str!("../../../config/drills/rolling.toml")),
    ("slow", include_str!("../../../config/drills/slow.toml")),
    ("partition", include_str!("../../../config/drills/partition.toml")),
    ("one-way", include_str!("../../../config/drills/one-way.toml")),
    ("cable", include_str!("../../../config/drills/cable.toml")),
    ("gossip-loss", include_str!("../../../config/drills/gossip-loss.toml")),
    ("herd", include_str!("../../../config/drills/herd.toml")),
    ("join", include_str!("../../../config/drills/join.toml")),
    ("restart-all", include_str!("../../../config/drills/restart-all.toml")),
    ("wedge", include_str!("../../../config/drills/wedge.toml")),
    ("poison", include_str!("../../../config/drills/poison.toml")),
];

/// Names of the drills that are built in.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// Reads the drill called `name`, or the file of that name if it ends in `.toml`.
///
/// # Errors
/// There is none of that name, the file cannot be read, or it says something that makes no sense.
pub(crate) fn read(name: &str, long: bool) -> Result<Scenario> {
    let text = if name.ends_with(".toml") {
        read_file(Path::new(name))?
    } else {
        let built_in = BUILT_IN.iter().find(|(own, _)| *own == name);
        let Some((_, text)) = built_in else {
            bail!(
                "there is no drill `{name}`; there are {}, and files that end in .toml",
                names().collect::<Vec<_>>().join(", ")
            );
        };
        (*text).to_owned()
    };
    parse(&text, long).with_context(|| format!("the drill {name}"))
}

fn read_file(file: &Path) -> Result<String> {
    let bytes = std::fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
    ensure!(bytes <= FILE_BYTES_MAX, "{} has {bytes} bytes, more than {FILE_BYTES_MAX}", file.display());
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

fn parse(text: &str, long: bool) -> Result<Scenario> {
    let mut scenario: Scenario = toml::from_str(text)?;
    if long {
        let Long { rounds, engine, rate_per_s, doors, settings } = scenario.long.clone();
        scenario.settings.extend(settings);
        scenario.rounds = rounds.unwrap_or(scenario.rounds);
        scenario.engine = engine.unwrap_or(scenario.engine);
        scenario.load.doors = doors.unwrap_or(scenario.load.doors);
        if rate_per_s.is_some() {
            scenario.load.rate_per_s = rate_per_s;
            scenario.load.percent = None;
        }
    }
    scenario.check()?;
    Ok(scenario)
}

impl Scenario {
    fn check(&self) -> Result<()> {
        ensure!((2..=64).contains(&self.nodes), "nodes = {}: 2 to 64", self.nodes);
        ensure!((1..=1000).contains(&self.rounds), "rounds = {}: 1 to 1000", self.rounds);
        ensure!(self.steps().count() <= STEPS_MAX, "more than {STEPS_MAX} steps");
        ensure!(!self.expect.is_empty(), "a drill that expects nothing cannot fail: give it an [[expect]]");
        let doors = &self.load.doors;
        ensure!(
            doors.is_empty() || doors.len() == usize::from(self.nodes),
            "load.doors has {} weights for {} nodes",
            doors.len(),
            self.nodes
        );
        ensure!(doors.iter().all(|weight| (0.0..=1e6).contains(weight)), "load.doors: weights are 0 to 1000000");
        self.rate_per_s()?;
        let expected = self.expect.iter().filter_map(|expectation| expectation.node);
        for node in self.steps().flat_map(Step::nodes).chain(self.late.iter().copied()).chain(expected) {
            ensure!((1..=self.nodes).contains(&node), "node {node}: there are nodes 1 to {}", self.nodes);
        }
        for setting in self.settings() {
            ensure!(
                !setting.is_of("log"),
                "settings: `{}` cannot be set, because false_deaths and replaced_p99_ms are read from what the nodes \
                 log: leave it out",
                setting.key
            );
        }
        let phases: BTreeSet<&str> = self.phases().collect();
        for expectation in &self.expect {
            expectation.check(&phases)?;
        }
        for step in self.steps() {
            step.check()?;
            let wants = match step {
                Step::Link { .. } => Some(Network::Loopback),
                Step::Cable { .. } => Some(Network::Namespaces),
                _ => None,
            };
            ensure!(
                wants.is_none_or(|wants| wants == self.network),
                "cables are pulled with network = \"namespaces\", links are cut without"
            );
        }
        Ok(())
    }

    /// Every step once.
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.before.iter().chain(&self.round).chain(&self.after)
    }

    /// The names of the phases, as they are written down.
    pub(crate) fn phases(&self) -> impl Iterator<Item = &str> {
        self.steps().filter_map(|step| match step {
            Step::Phase { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// Requests a second at the beginning.
    ///
    /// # Errors
    /// It is not said, or cannot be known.
    pub(crate) fn rate_per_s(&self) -> Result<f64> {
        let LoadSpec { rate_per_s, percent, of_nodes, .. } = &self.load;
        let rate_per_s = match (rate_per_s, percent) {
            (Some(rate_per_s), None) => *rate_per_s,
            (None, Some(percent)) => {
                let capacity_per_s = capacity_per_s(&self.engine).with_context(|| {
                    format!("load.percent: the speed of engine `{}` is not known, give rate_per_s", self.engine)
                })?;
                percent / 100.0 * capacity_per_s * f64::from(of_nodes.unwrap_or(self.nodes))
            }
            _ => bail!("load: give either rate_per_s or percent"),
        };
        ensure!((0.1..=100_000.0).contains(&rate_per_s), "a rate of {rate_per_s} is not between 0.1 and 100000");
        Ok(rate_per_s)
    }

    /// Whether faults are put between the nodes.
    pub(crate) fn has_links(&self) -> bool {
        self.steps().any(|step| matches!(step, Step::Link { .. }))
    }

    pub(crate) fn may_refuse(&self) -> bool {
        self.load.may_refuse
    }

    /// The settings of every node.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let setting = |(key, value): (&String, &Value)| match value {
            Value::Whole(value) => Setting::of_all(key, value),
            Value::Switch(value) => Setting::of_all(key, value),
            Value::Text(value) => Setting::of_all(key, value),
        };
        self.settings.iter().map(setting).collect()
    }

    /// One weight a node.
    pub(crate) fn weights(&self) -> Vec<f64> {
        match self.load.doors.as_slice() {
            [] => (1..=self.nodes).map(|node| if self.late.contains(&node) { 0.0 } else { 1.0 }).collect(),
            doors => doors.to_vec(),
        }
    }

    /// An upper bound of the time under load.
    pub(crate) fn longest(&self, long: bool, wait_limit: Duration) -> Duration {
        let of = |steps: &[Step]| steps.iter().map(|step| step.longest(long, wait_limit)).sum::<Duration>();
        of(&self.before) + of(&self.round) * self.rounds + of(&self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        about = "a test"
        engine = "synthetic:20ms"
        load = { percent = 70, of_nodes = 2, doors = [8, 1, 1] }
        round = [{ do = "phase", name = "after", fault = true }, { do = "kill", node = 3 }]
        rounds = 2
        expect = [{ measure = "failed", max = 0 }]
        [long]
        rounds = 100
    "#;

    #[test]
    fn the_drills_that_are_built_in_are_sound_short_and_long() {
        for name in names() {
            for long in [false, true] {
                let scenario = read(name, long).unwrap_or_else(|fault| panic!("{name}: {fault:#}"));
                assert!(!scenario.about.is_empty(), "{name}");
            }
        }
    }

    #[test]
    fn a_short_and_a_long_run_differ_in_what_is_said() {
        assert_eq!(parse(SOUND, false).unwrap().rounds, 2);
        let long = parse(SOUND, true).unwrap();
        assert_eq!(long.rounds, 100);
        assert!((long.rate_per_s().unwrap() - 70.0).abs() < 1e-9);
        assert_eq!(long.weights(), [8.0, 1.0, 1.0]);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (old, new, expected) in [
            ("node = 3", "node = 4", "there are nodes 1 to 3"),
            ("doors = [8, 1, 1]", "doors = [8, 1]", "2 weights for 3 nodes"),
            ("percent = 70, ", "", "either rate_per_s or percent"),
            ("expect = [{ measure = \"failed\", max = 0 }]", "expect = []", "cannot fail"),
            ("measure = \"failed\", max = 0", "measure = \"failed\"", "give max, min or times_max"),
            ("measure = \"failed\"", "measure = \"fialed\"", "fialed"),
            ("max = 0", "max = 0, phase = \"afterwards\"", "no step begins a phase `afterwards`"),
            ("do = \"kill\"", "do = \"hit\"", "hit"),
            ("engine = \"synthetic:20ms\"", "engine = \"candle\"", "is not known"),
            ("rounds = 2", "rounds = 0", "1 to 1000"),
            ("about", "aboot", "aboot"),
            ("rounds = 2", "rounds = 2\nsettings = { \"log.level\" = \"warn\" }", "`log.level` cannot be set"),
            ("rounds = 2", "rounds = 2\nsettings = { LOG__level = \"warn\" }", "`LOG__level` cannot be set"),
            ("rounds = 100", "settings = { \"log.format\" = \"json\" }", "`log.format` cannot be set"),
        ] {
            assert!(SOUND.contains(old), "{old}");
            // What is said of a long run counts in a long run.
            let long = old == "rounds = 100";
            let text = format!("{:#}", parse(&SOUND.replacen(old, new, 1), long).unwrap_err());
            assert!(text.contains(expected), "{new}: {text}");
        }
    }

    #[test]
    fn a_drill_that_is_not_there_names_those_that_are() {
        let text = format!("{:#}", read("kil", false).unwrap_err());
        assert!(text.contains("kill, door, stop"), "{text}");
        let text = format!("{:#}", read("nowhere.toml", false).unwrap_err());
        assert!(text.contains("reading nowhere.toml"), "{text}");
    }
}
