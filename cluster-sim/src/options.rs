//! Command-line options that several commands share, and what follows from them.
//!
//! For `main` and the commands. Every number has a range, so that no run is without an end.
//! Not here: options of one command, which are beside it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::ClusterPlan;

/// Engine of drills and benchmarks: an item takes 20 ms of one serial device, whatever the machine's speed.
pub(crate) const DRILL_ENGINE: &str = "synthetic:20ms";
/// Most requests of one run; their records are kept in memory.
pub(crate) const REQUESTS_MAX: f64 = 5_000_000.0;

/// How nodes are started.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeOptions {
    /// Node processes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    #[command(flatten)]
    pub(crate) how: PlanOptions,
}

/// How nodes are started, whatever their number.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlanOptions {
    /// The node's binary [default: `shoal` beside this program]
    #[arg(long, value_name = "FILE")]
    shoal: Option<PathBuf>,
    /// Directory for data and logs, kept afterwards [default: a new one, removed after a clean end]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Compute threads of each node [default: the cores divided by the nodes, at least 1]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads_per_node: Option<u16>,
    /// Longest wait until all nodes are ready and see each other, in seconds
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    formed_limit_s: u64,
    /// One JSON object a line on standard output instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl NodeOptions {
    pub(crate) fn formed_limit(&self) -> Duration {
        self.how.formed_limit()
    }

    /// # Errors
    /// As [`PlanOptions::plan`].
    pub(crate) fn plan(&self, cluster: String, base_port: u16, engine: Option<String>) -> Result<ClusterPlan> {
        Ok(ClusterPlan { base_port, ..self.how.plan(self.nodes, cluster, engine)? })
    }
}

impl PlanOptions {
    pub(crate) fn formed_limit(&self) -> Duration {
        Duration::from_secs(self.formed_limit_s)
    }

    /// # Errors
    /// This program's own place cannot be told, so neither can the place of the binary beside it.
    pub(crate) fn plan(&self, nodes: u16, cluster: String, engine: Option<String>) -> Result<ClusterPlan> {
        let shoal = match &self.shoal {
            Some(shoal) => shoal.clone(),
            None => std::env::current_exe().context("looking for `shoal` beside this program")?.with_file_name("shoal"),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads_per_node = self.threads_per_node.map_or(cores / usize::from(nodes), usize::from).max(1);
        let directory = self.data_dir.clone();
        Ok(ClusterPlan {
            shoal,
            cluster,
            nodes,
            base_port: 0,
            model: None,
            engine,
            threads_per_node,
            settings: Vec::new(),
            log_level: "info".to_owned(),
            late: Vec::new(),
            directory,
            proxy_seed: None,
            record: false,
            cache: false,
            in_namespaces: false,
        })
    }
}

/// What is sent to the shoal by a drill or a benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadOptions {
    /// Requests a second over all doors [default: from the engine's speed, see the command]
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// How many times the load of another door the first one gets
    #[arg(long, value_name = "X", default_value_t = 8.0)]
    pub(crate) skew: f64,
    /// Engine of every node: `candle` or `synthetic:DUR[,exp|,burn][,per_batch=DUR]`
    #[arg(long, value_name = "SPEC", default_value = DRILL_ENGINE)]
    pub(crate) engine: String,
    /// Name or directory of a model
    #[arg(long, value_name = "NAME_OR_DIR")]
    pub(crate) model: Option<String>,
    /// Seed of arrival times, doors and texts
    #[arg(long, value_name = "X", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl LoadOptions {
    /// The rate that was asked for, else `share` of what `nodes` nodes can serve.
    ///
    /// # Errors
    /// Rate, skew or time are out of range, or the engine's speed is not known and no rate was given.
    pub(crate) fn rate_per_s(&self, nodes: u16, share: f64, longest: Duration) -> Result<f64> {
        ensure!((1.0..=1000.0).contains(&self.skew), "--skew {} is not between 1 and 1000", self.skew);
        let rate_per_s = match self.rate {
            Some(rate) => rate,
            None => {
                let capacity = capacity_per_s(&self.engine).with_context(|| {
                    format!("--rate is needed: the speed of engine `{}` is not known beforehand", self.engine)
                })?;
                share * f64::from(nodes) * capacity
            }
        };
        ensure!((0.1..=100_000.0).contains(&rate_per_s), "--rate {rate_per_s} is not between 0.1 and 100000");
        let requests = rate_per_s * longest.as_secs_f64();
        ensure!(
            requests <= REQUESTS_MAX,
            "up to {requests:.0} requests are more than {REQUESTS_MAX:.0}: shorten the run"
        );
        Ok(rate_per_s)
    }
}

/// What one node of a synthetic engine serves at least: items a second when every batch has one item.
///
/// `None` for every other engine and for one that costs nothing. A malformed specification is left to the node, whose
/// message is better.
pub(crate) fn capacity_per_s(engine: &str) -> Option<f64> {
    let mut parts = engine.strip_prefix("synthetic:")?.split(',');
    let mut seconds = seconds(parts.next()?)?;
    for part in parts {
        if let Some(per_batch) = part.trim().strip_prefix("per_batch=") {
            seconds += self::seconds(per_batch)?;
        }
    }
    (0.0 < seconds).then(|| 1.0 / seconds)
}

/// The part of a batch's time that does not depend on its size, in seconds. `None` as for [`capacity_per_s`].
pub(crate) fn per_batch_s(engine: &str) -> Option<f64> {
    let mut parts = engine.strip_prefix("synthetic:")?.split(',').skip(1);
    parts.find_map(|part| part.trim().strip_prefix("per_batch=")).map_or(Some(0.0), seconds)
}

/// `20ms`, `500us`, `1s`, `0`.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..unit_at].parse().ok()?;
    match &text[unit_at..] {
        "us" => Some(number / 1e6),
        "ms" => Some(number / 1e3),
        "s" => Some(number),
        "" if number == 0.0 => Some(0.0),
        _ => None,
    }
}

/// A cluster name that no other run uses, so that a stray node of one never joins another.
pub(crate) fn private_cluster_name() -> String {
    format!("cluster-sim-{}", std::process::id())
}

/// The options of a command, as this line gives them.
#[cfg(test)]
pub(crate) fn parsed<O: clap::Args>(line: &[&str]) -> O {
    try_parsed(line).expect("a sound command line")
}

/// # Errors
/// What clap says of the line.
#[cfg(test)]
pub(crate) fn try_parsed<O: clap::Args>(line: &[&str]) -> Result<O, clap::Error> {
    let command = O::augment_args(clap::Command::new("command").no_binary_name(true));
    O::from_arg_matches(&command.try_get_matches_from(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_counts_a_whole_batch_for_each_item() {
        let cases = [
            ("synthetic:20ms", Some(50.0)),
            ("synthetic:500us,exp", Some(2000.0)),
            ("synthetic:15ms,burn,per_batch=5ms", Some(50.0)),
            ("synthetic:1s", Some(1.0)),
            ("synthetic:0", None),
            ("synthetic:20", None),
            ("synthetic:", None),
            ("candle", None),
        ];
        for (engine, expected) in cases {
            let found = capacity_per_s(engine);
            let same = match (found, expected) {
                (Some(found), Some(expected)) => (found / expected - 1.0f64).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(same, "{engine}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn the_fixed_part_of_a_batch_is_read_wherever_it_stands() {
        for (engine, expected) in [
            ("synthetic:20ms", Some(0.0)),
            ("synthetic:15ms,burn,per_batch=5ms", Some(0.005)),
            ("synthetic:15ms,per_batch=1s,exp", Some(1.0)),
            ("synthetic:15ms,per_batch=soon", None),
            ("candle", None),
        ] {
            assert_eq!(per_batch_s(engine), expected, "{engine}");
        }
    }

    fn load(rate: Option<f64>, engine: &str) -> LoadOptions {
        LoadOptions { rate, skew: 8.0, engine: engine.to_owned(), model: None, seed: 1 }
    }

    #[test]
    fn the_default_rate_is_a_share_of_what_the_nodes_can_serve() {
        let rate = load(None, "synthetic:20ms").rate_per_s(2, 0.7, Duration::from_secs(1)).unwrap();
        assert!((rate - 70.0).abs() < 1e-9, "{rate}");
    }

    #[test]
    fn without_a_known_speed_or_with_too_many_requests_the_run_is_refused() {
        let text = load(None, "candle").rate_per_s(2, 0.7, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(text.contains("--rate is needed"), "{text}");
        let text = load(Some(1000.0), "candle").rate_per_s(2, 0.7, Duration::from_secs(6000)).unwrap_err().to_string();
        assert!(text.contains("shorten the run"), "{text}");
    }
}
