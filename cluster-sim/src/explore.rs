//! `cluster-sim explore`: many simulated shoals, from seeds, judged and counted.
//!
//! For `main`. Without `--policy`, `--ablate` or `--table` every run is judged, and a broken invariant is told
//! with what led to it and the command that shows it again. The other three compare, and judge nothing.
//! Not here: the simulation itself (`cluster_sim::sim`).

mod compare;
mod fleet;
mod tell;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use cluster_sim::sim::plan::Plan;
use cluster_sim::sim::scenario;
use shoal_core::node::Rules;
use shoal_core::route::Policy;

use crate::report::Report;

/// Most nodes of a simulated shoal.
const NODES_MAX: i64 = 2_000;
const REQUESTS_MAX: u64 = 100_000_000;

/// Simulate many shoals that run the node's own decisions, break them, and judge
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs, one a seed
    #[arg(long, value_name = "K", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,
    /// Seed of the first run
    #[arg(long, value_name = "S", default_value_t = 1)]
    first_seed: u64,
    /// Nodes of a shoal [default: drawn from the seed, or 5 in a named scenario]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=NODES_MAX))]
    nodes: Option<u16>,
    /// A named scenario instead of one drawn from the seed; `list` lists them
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Policies to compare on the same requests and faults; one alone is judged
    #[arg(long, value_name = "P[,P...]", value_delimiter = ',')]
    policy: Vec<String>,
    /// Switch each mechanism off in turn, over the named scenarios
    #[arg(long, conflicts_with_all = ["policy", "table"])]
    ablate: bool,
    /// The reference table: nodes of eight slots, uneven work and old information, one run a cell
    #[arg(long, conflicts_with_all = ["policy", "scenario", "nodes"])]
    table: bool,
    /// Requests of a run; it lasts as long as these take [default: as many as come in its time]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=REQUESTS_MAX))]
    requests: Option<u64>,
    /// Runs at a time [default: the cores]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    json: bool,
}

impl Options {
    fn threads(&self) -> usize {
        self.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// The plan of one run.
    fn plan(&self, scenario: Option<&str>, seed: u64, rules: &Rules) -> Result<Plan> {
        let nodes = self.nodes.map(usize::from);
        let plan = match scenario {
            None => scenario::random(seed, nodes, rules),
            Some(name) => match scenario::named(name, seed, nodes.unwrap_or(5)) {
                Some(plan) => Plan { rules: rules.clone(), ..plan },
                None => bail!("no scenario is called `{name}`; `--scenario list` lists them"),
            },
        };
        Ok(match self.requests {
            Some(requests) => scenario::with_requests(plan, requests),
            None => plan,
        })
    }

    fn policies(&self) -> Result<Vec<Policy>> {
        let known = || Policy::ALL.iter().map(|policy| policy.name()).collect::<Vec<_>>().join(", ");
        let parse = |name: &String| match name.parse() {
            Ok(policy) => Ok(policy),
            Err(_) => bail!("--policy {name}: the policies are {}", known()),
        };
        self.policy.iter().map(parse).collect()
    }

    /// The command that makes one run again.
    fn command(&self, seed: u64) -> String {
        let mut words = format!("cluster-sim explore --first-seed {seed} --seeds 1");
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                words.push_str(&format!(" --{flag} {value}"));
            }
        };
        add("nodes", self.nodes.map(|nodes| nodes.to_string()));
        add("scenario", self.scenario.clone());
        add("policy", self.policy.first().cloned());
        add("requests", self.requests.map(|requests| requests.to_string()));
        words
    }
}

/// # Errors
/// An option is out of range, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    // On a thread of its own, so that Ctrl-C is heard meanwhile.
    let (done, end) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("explore".to_owned()).spawn(move || done.send(explore(&options)))?;
    end.await?
}

fn explore(options: &Options) -> Result<ExitCode> {
    let report = Report::new(options.json);
    if options.scenario.as_deref() == Some("list") {
        tell::scenarios(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let last = options.first_seed.checked_add(options.seeds);
    ensure!(last.is_some(), "--first-seed {} leaves no room for {} seeds", options.first_seed, options.seeds);
    if options.table {
        return compare::table_of_cases(options, report);
    }
    if options.ablate {
        return compare::ablate(options, report);
    }
    match options.policies()?.as_slice() {
        [] => tell::judge(options, report, &Rules::default()),
        [policy] => {
            let mut rules = Rules::default();
            rules.route.policy = *policy;
            tell::judge(options, report, &rules)
        }
        policies => compare::policies(options, report, policies),
    }
}
