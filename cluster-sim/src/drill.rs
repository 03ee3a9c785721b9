//! `cluster-sim drill`: a fault in a real shoal under load, and a verdict on what its clients saw.
//!
//! For `main`. A drill is a `scenario`; `stage` carries it out and collects `evidence`, `judge` weighs its `numbers`
//! and makes a `judgement`. `watch` and `log` read what the nodes say meanwhile.

mod evidence;
mod judge;
mod judgement;
mod log;
mod measures;
mod numbers;
mod scenario;
mod stage;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use cluster_sim::netns;

use crate::options::{PlanOptions, private_cluster_name};
use crate::report::{Progress, Report, remark};
use judgement::Judgement;
use scenario::{Network, Scenario};
use stage::Run;

/// Break a real shoal under load and judge what its clients saw
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Names of drills, files that end in .toml, `all`, or `list`
    #[arg(required = true, value_name = "DRILL")]
    drills: Vec<String>,
    /// As long as it takes to prove something: many rounds, and longer waits
    #[arg(long)]
    long: bool,
    /// Rounds, where the drill has rounds [default: what the drill says]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Show what depends on the speed of the machine, and do not judge it
    #[arg(long)]
    untimed: bool,
    /// Write every request into this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Seed of arrival times, doors and texts
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    plan: PlanOptions,
}

/// # Errors
/// A shoal did not form, or a drill could not be carried out to its end.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let report = Report::new(options.plan.json);
    if options.drills == ["list"] {
        for name in scenario::names() {
            report.line(format_args!("{name:12} {}", scenario::read(name, false)?.about))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = match options.drills.as_slice() {
        [all] if all == "all" => scenario::names().map(str::to_owned).collect(),
        names => names.to_vec(),
    };
    // All of them first: a slip in the last one is told at once and not after an hour.
    let mut scenarios = Vec::new();
    for name in &names {
        let mut scenario = scenario::read(name, options.long)?;
        scenario.rounds = options.rounds.unwrap_or(scenario.rounds);
        scenarios.push(scenario);
    }
    ensure!(
        options.plan.data_dir.is_none() || names.len() == 1,
        "--data-dir is for one drill, because each needs a directory of its own"
    );
    ensure!(options.records.is_none() || names.len() == 1, "--records is for one drill");
    let mut judgements = Vec::new();
    for (name, scenario) in names.iter().zip(&scenarios) {
        if let (Network::Namespaces, Err(why)) = (scenario.network, netns::available()) {
            ensure!(1 < names.len(), "{name} needs network namespaces: {why}");
            remark(format_args!("{name} is left out, because it needs network namespaces: {why}"));
            continue;
        }
        judgements.push(one(&options, name, scenario, report).await?);
    }
    if 1 < judgements.len() {
        report.line(format_args!("\n{}", judgement::overview(&judgements)))?;
    }
    judgement::exit_code(&judgements.iter().map(Judgement::verdict).collect::<Vec<_>>())
}

async fn one(options: &Options, name: &str, scenario: &Scenario, report: Report) -> Result<Judgement> {
    let mut plan = options.plan.plan(scenario.nodes, private_cluster_name(), Some(scenario.engine.clone()))?;
    plan.settings = scenario.settings();
    plan.late = scenario.late.iter().map(|&node| usize::from(node) - 1).collect();
    plan.in_namespaces = scenario.network == Network::Namespaces;
    plan.proxy_seed = scenario.has_links().then_some(options.seed);
    plan.log_level = log::LOG_LEVEL.to_owned();
    let file_name =
        PathBuf::from(name).file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into());
    let (long, seed) = (options.long, options.seed);
    let run = Run { name: file_name, long, seed, formed_limit: options.plan.formed_limit() };
    report.line(format_args!(
        "\n{}: {} ({} nodes, engine {}, {:.0} requests/s)",
        run.name,
        scenario.about,
        scenario.nodes,
        scenario.engine,
        scenario.rate_per_s()?
    ))?;
    let mut progress = Progress::new();
    let (evidence, stopped) = stage::carry_out(scenario, &plan, &run, &mut progress).await?;
    if let Some(file) = &options.records {
        evidence.write_records(file)?;
    }
    let judgement = judge::judge(&evidence, &scenario.expect, options.untimed);
    judgement::show(report, &judgement)?;
    if judgement.is_passed() {
        stopped.remove_directory()?;
    } else {
        remark(format_args!("data and logs: {}", stopped.directory.display()));
    }
    Ok(judgement)
}
