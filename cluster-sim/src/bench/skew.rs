//! Does it matter at which door requests come in?
//!
//! The same total load goes to the same shoal once spread evenly and once skewed to the first door, in turns, so that
//! the machine's moods meet both; every second round begins with the other one. The goal is a p99 at most 1.5 times
//! as long when skewed. By default the hot door gets more than it could serve alone and the shoal 60 % of what it can.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::http::Client;
use crate::load::{Doors, Load, LoadPlan, Outcome, Record, hot_share, skewed};
use crate::options::{LoadOptions, NodeOptions, capacity_per_s, private_cluster_name};
use crate::report::{GOAL_MET, Progress, Report, remark, table};
use crate::stats::{Latencies, Summary, share};

/// Share of the whole shoal's capacity that the default rate asks for.
const DEFAULT_SHARE: f64 = 0.6;
/// The door that gets more than the others.
const HOT: usize = 0;

/// Compare an even load with one skewed to the first door
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    #[command(flatten)]
    load: LoadOptions,
    /// Seconds of each load in each round
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Rounds; each has both loads
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Largest p99 ratio, skewed to even, that meets the goal
    #[arg(long, value_name = "X", default_value_t = 1.5)]
    ratio_max: f64,
}

#[derive(Debug, Serialize)]
struct SkewReport {
    bench: &'static str,
    nodes: u16,
    engine: String,
    rate_per_s: f64,
    skew: f64,
    seconds: u64,
    rounds: u32,
    seed: u64,
    even: Side,
    skewed: Side,
    /// Skewed to even.
    p50_ratio: f64,
    /// Skewed to even, over all rounds together.
    p99_ratio: f64,
    p99_ratio_max: f64,
    /// How late the generator itself sent, the 99th percentile over everything.
    generator_late_p99_ms: f64,
    verdict: &'static str,
}

/// One of the two loads, over all rounds.
#[derive(Debug, Serialize)]
struct Side {
    #[serde(flatten)]
    summary: Summary,
    failed: u64,
    /// Share of answers that another node computed than the one that was asked.
    forwarded_share: f64,
    p99_ms_by_round: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

/// # Errors
/// The shoal did not form, an option is out of range, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(1 < options.nodes.nodes, "--nodes {}: a door can only be hotter than another one", options.nodes.nodes);
    let report = Report::new(options.nodes.how.json);
    let seconds = Duration::from_secs(options.seconds);
    let whole = seconds * options.rounds * 2;
    let rate_per_s = options.load.rate_per_s(options.nodes.nodes, DEFAULT_SHARE, whole)?;
    let mut plan = options.nodes.plan(private_cluster_name(), 0, Some(options.load.engine.clone()))?;
    plan.model = options.load.model.clone();
    let mut cluster = Cluster::start(&plan)?;
    let mut progress = Progress::new();
    cluster.wait_until_formed(options.nodes.formed_limit(), &mut progress).await?;
    report.line(explain(&options, rate_per_s))?;

    let clients = cluster.api_addresses().into_iter().map(Client::new).collect();
    let doors = Arc::new(Doors::new(clients, cluster.node_ids().map(str::to_owned).collect()));
    let mut even: Vec<Vec<Record>> = Vec::new();
    let mut skew: Vec<Vec<Record>> = Vec::new();
    for round in 0..options.rounds {
        // The other one first in every second round, or what warms up or tires would always favour the same.
        for is_skewed in if round % 2 == 0 { [false, true] } else { [true, false] } {
            progress.show(format!("round {} of {}: {}", round + 1, options.rounds, name_of(is_skewed)));
            let weights = skewed(doors.count(), HOT, if is_skewed { options.load.skew } else { 1.0 });
            let seed = options.load.seed.wrapping_add(u64::from(round));
            let load = Load::start(Arc::clone(&doors), &LoadPlan::new(rate_per_s, weights, seed, seconds))?;
            tokio::time::sleep(seconds).await;
            let (records, _) = load.finish().await?;
            if is_skewed { skew.push(records) } else { even.push(records) }
        }
    }
    progress.clear();
    let stopped = cluster.stop(std::future::pending()).await?;
    let result = compare(&options, rate_per_s, &even, &skew);
    show(report, &result)?;
    if result.verdict == GOAL_MET && stopped.is_clean() {
        stopped.remove_directory()?;
        return Ok(ExitCode::SUCCESS);
    }
    remark(format_args!("data and logs: {}", stopped.directory.display()));
    Ok(ExitCode::FAILURE)
}

fn name_of(is_skewed: bool) -> &'static str {
    if is_skewed { "skewed" } else { "even" }
}

fn explain(options: &Options, rate_per_s: f64) -> String {
    let nodes = options.nodes.nodes;
    let hot_per_s = rate_per_s * hot_share(usize::from(nodes), options.load.skew);
    let capacity = capacity_per_s(&options.load.engine).map_or_else(String::new, |capacity| {
        let percent = 100.0 * rate_per_s / (capacity * f64::from(nodes));
        format!("; one node can do {capacity:.1}/s, so all are {percent:.0} % busy")
    });
    format!(
        "{nodes} nodes, engine {}: {rate_per_s:.1} requests/s, even or {hot_per_s:.1}/s of them at one door{capacity}",
        options.load.engine
    )
}

fn side(rounds: &[Vec<Record>]) -> Side {
    let answered_latencies = |records: &[Record]| -> Latencies {
        records.iter().filter(|record| record.answered().is_some()).map(Record::latency_us).collect()
    };
    let all: Vec<Record> = rounds.iter().flatten().cloned().collect();
    let answers = all.iter().filter_map(Record::answered);
    let forwarded = answers.clone().filter(|answered| answered.served_by != answered.door).count() as u64;
    let answered = answers.count() as u64;
    let failures = all.iter().filter_map(|record| match &record.outcome {
        Outcome::Refused { status, .. } => Some(format!("status {status}")),
        Outcome::Failed { what, .. } => Some(what.clone()),
        Outcome::Answered(_) => None,
    });
    Side {
        summary: answered_latencies(&all).summary(),
        // Nobody was killed, so a connection lost on the way is a failure too, although another door answered.
        failed: all.iter().filter(|record| record.answered().is_none() || !record.losses.is_empty()).count() as u64,
        forwarded_share: share(forwarded, answered),
        p99_ms_by_round: rounds.iter().map(|records| answered_latencies(records).summary().p99_ms).collect(),
        failures: failures.take(10).collect(),
    }
}

fn compare(options: &Options, rate_per_s: f64, even: &[Vec<Record>], skew: &[Vec<Record>]) -> SkewReport {
    let late_us = |record: &Record| record.sent_us.saturating_sub(record.intended_us);
    let generator_late_p99_ms = even.iter().chain(skew).flatten().map(late_us).collect::<Latencies>().summary().p99_ms;
    let (even, skewed) = (side(even), side(skew));
    let ratio = |of: fn(&Summary) -> f64| of(&skewed.summary) / of(&even.summary);
    let p99_ratio = ratio(|summary| summary.p99_ms);
    let verdict = if 0 < even.failed + skewed.failed {
        "failed: requests without a right answer"
    } else if p99_ratio <= options.ratio_max {
        GOAL_MET
    } else {
        "goal missed"
    };
    SkewReport {
        bench: "skew",
        nodes: options.nodes.nodes,
        engine: options.load.engine.clone(),
        rate_per_s,
        skew: options.load.skew,
        seconds: options.seconds,
        rounds: options.rounds,
        seed: options.load.seed,
        p50_ratio: ratio(|summary| summary.p50_ms),
        p99_ratio,
        p99_ratio_max: options.ratio_max,
        generator_late_p99_ms,
        verdict,
        even,
        skewed,
    }
}

fn show(report: Report, result: &SkewReport) -> Result<()> {
    let row = |name: &str, side: &Side| {
        let Summary { requests, p50_ms, p99_ms, p999_ms, max_ms } = side.summary;
        let mut cells = vec![name.to_owned(), requests.to_string(), side.failed.to_string()];
        cells.extend([p50_ms, p99_ms, p999_ms, max_ms].map(|value| format!("{value:.1}")));
        cells.push(format!("{:.0} %", 100.0 * side.forwarded_share));
        cells.push(side.p99_ms_by_round.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join(" "));
        cells
    };
    let head = ["load", "answered", "failed", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "forwarded", "p99 ms by round"];
    report.line(table(&head, &[row("even", &result.even), row("skewed", &result.skewed)]))?;
    for what in result.even.failures.iter().chain(&result.skewed.failures) {
        report.line(format_args!("  failed: {what}"))?;
    }
    report.line(format_args!(
        "p50 {:.2}x, p99 {:.2}x of the even load (goal: at most {:.2}x); generator late (p99): {:.1} ms",
        result.p50_ratio, result.p99_ratio, result.p99_ratio_max, result.generator_late_p99_ms
    ))?;
    report.line(format_args!("verdict: {}", result.verdict))?;
    report.json(result)?;
    Ok(())
}
