//! Runs that are judged, and what is said of them.
//!
//! Part of `explore`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use cluster_sim::sim::digest::Digest;
use cluster_sim::sim::report::{Counts, Report as Sums, Summary};
use cluster_sim::sim::run::{Failure, Until};
use cluster_sim::sim::scenario::NAMED;
use serde::Serialize;
use shoal_core::node::Rules;

use super::{Options, fleet};
use crate::report::{Report, table};

/// Broken runs that are told one by one; all are counted.
const BROKEN_TOLD: usize = 20;

#[derive(Debug, Serialize)]
struct Told {
    explore: &'static str,
    scenario: String,
    seeds: u64,
    first_seed: u64,
    nodes: Option<u16>,
    policy: &'static str,
    /// Of everything that happened in all runs.
    digest: String,
    counts: Counts,
    summary: Summary,
    /// How often each rule of the machines decided something.
    exercised: BTreeMap<&'static str, u64>,
    broken: u64,
    /// The same for each invariant.
    broken_by: BTreeMap<&'static str, u64>,
    broken_runs: Vec<BrokenRun>,
    seconds: f64,
    /// For each core that worked.
    events_per_s: f64,
}

#[derive(Debug, Serialize)]
struct BrokenRun {
    seed: u64,
    invariant: &'static str,
    what: String,
    at_ms: f64,
    node: usize,
    /// The command that shows it again.
    again: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trail: Vec<String>,
}

/// Carries out all runs and judges each.
///
/// # Errors
/// An option is wrong, or standard output is closed.
pub(super) fn judge(options: &Options, report: Report, rules: &Rules) -> Result<ExitCode> {
    let name = options.scenario.clone().unwrap_or_else(|| "random".to_owned());
    let began = Instant::now();
    let (mut sums, mut digest, mut exercised) = (Sums::default(), Digest::default(), BTreeMap::new());
    let (mut broken_by, mut told): (BTreeMap<&'static str, u64>, Vec<BrokenRun>) = (BTreeMap::new(), Vec::new());
    let threads = options.threads().min(usize::try_from(options.seeds).unwrap_or(usize::MAX));
    let plan = |index| options.plan(options.scenario.as_deref(), options.first_seed + index, rules);
    fleet::run_all((threads, options.seeds), (&name, Until::Broken), plan, |index, outcome| {
        digest.word(outcome.digest);
        sums.add(&outcome.report);
        for (rule, count) in outcome.exercised {
            *exercised.entry(rule).or_insert(0) += count;
        }
        if let Some(failure) = outcome.broken {
            *broken_by.entry(failure.broken.invariant).or_insert(0) += 1;
            if told.len() < BROKEN_TOLD {
                let run = broken_run(options, options.first_seed + index, failure, told.is_empty());
                show_broken(report, &run)?;
                told.push(run);
            }
        }
        Ok(())
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let broken = broken_by.values().sum();
    let result = Told {
        explore: "judged",
        scenario: name,
        seeds: options.seeds,
        first_seed: options.first_seed,
        nodes: options.nodes,
        policy: rules.route.policy.name(),
        digest: format!("{:016x}", digest.value()),
        counts: sums.counts,
        summary: sums.summary(),
        exercised,
        broken,
        broken_by,
        broken_runs: told,
        seconds,
        events_per_s: sums.counts.events as f64 / seconds / threads as f64,
    };
    show(report, &result)?;
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Only the first one tells what led to it: the others are often the same.
fn broken_run(options: &Options, seed: u64, failure: Failure, first: bool) -> BrokenRun {
    let Failure { broken, trail } = failure;
    BrokenRun {
        seed,
        invariant: broken.invariant,
        what: broken.what,
        at_ms: broken.at.as_micros() as f64 / 1000.0,
        node: broken.node,
        again: options.command(seed),
        trail: if first { trail } else { Vec::new() },
    }
}

fn show_broken(report: Report, run: &BrokenRun) -> Result<()> {
    let BrokenRun { seed, invariant, what, at_ms, node, again, trail } = run;
    report.line(format_args!("seed {seed}: {invariant} is broken at {at_ms:.3} ms, node {node}: {what}"))?;
    for line in trail {
        report.line(format_args!("  {line}"))?;
    }
    report.line(format_args!("  again: {again}"))?;
    Ok(())
}

fn show(report: Report, told: &Told) -> Result<()> {
    let Told { counts, summary, .. } = told;
    report.line(format_args!(
        "{} runs of {}: {} requests, {} by a peer ({:.1} %), {} not answered, {} faults, {} events",
        told.seeds,
        told.scenario,
        counts.requests,
        counts.done_by_peer,
        100.0 * summary.by_peer_share,
        counts.failed(),
        counts.faults,
        counts.events,
    ))?;
    report.line(format_args!(
        "wait p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms; executions a request {:.4}; load, largest to mean {:.2}",
        summary.wait_p50_ms,
        summary.wait_p99_ms,
        summary.wait_p999_ms,
        summary.executions_per_request,
        summary.load_max_to_mean,
    ))?;
    let rules: Vec<Vec<String>> =
        told.exercised.iter().map(|(rule, count)| vec![(*rule).to_owned(), count.to_string()]).collect();
    report.line(table(&["rule", "decided"], &rules))?;
    let never: Vec<&str> = told.exercised.iter().filter(|(_, count)| **count == 0).map(|(rule, _)| *rule).collect();
    if !never.is_empty() {
        report.line(format_args!("these runs say nothing about: {}", never.join(", ")))?;
    }
    let by: Vec<String> = told.broken_by.iter().map(|(invariant, runs)| format!("{invariant} in {runs}")).collect();
    let by = if by.is_empty() { "nothing".to_owned() } else { by.join(", ") };
    report.line(format_args!(
        "{:.1} s, {:.2} million events a second and thread; digest {}; broken: {by}",
        told.seconds,
        told.events_per_s / 1e6,
        told.digest,
    ))?;
    report.json(told)?;
    Ok(())
}

/// # Errors
/// Standard output is closed.
pub(super) fn scenarios(report: Report) -> Result<()> {
    let rows: Vec<Vec<String>> =
        NAMED.iter().map(|scenario| vec![scenario.name.to_owned(), scenario.about.to_owned()]).collect();
    report.line(table(&["scenario", "what it asks"], &rows))?;
    report.json(&NAMED.iter().map(|scenario| (scenario.name, scenario.about)).collect::<BTreeMap<_, _>>())?;
    Ok(())
}
