//! How good a node's own estimates are: against what happened, and against what it could have done itself.
//!
//! Every node records its decisions, every request asks for the reasons, and the doors get unlike loads, so that many
//! jobs move. Afterwards each promise is held against the real completion, and each job that moved against where it
//! would have been done had it stayed, by the recorded timeline of its node's device.
//! Times are of the machine of decisions: from the decision until the answer is there; what HTTP adds is not in them.

mod judge;
mod timeline;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::http::Client;
use crate::load::{Doors, Load, LoadPlan, Record, hot_share, skewed};
use crate::options::{NodeOptions, capacity_per_s, per_batch_s, private_cluster_name};
use crate::report::{GOAL_MET, PROVED_NOTHING, Progress, Report, remark, table};
use crate::stats::share;
use judge::{Judged, Pace, Skipped};

/// The door that gets more than the others.
const HOT: usize = 0;
/// What comes before this is not judged: the nodes learn how fast they are.
const LEARNING: Duration = Duration::from_secs(5);
/// Fewer judged jobs that moved prove nothing.
const MOVED_MIN: u64 = 100;

/// Hold the nodes' own estimates against what happened
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    /// Engines of the nodes, one run each; may be given more than once
    #[arg(long = "engine", value_name = "SPEC", default_values = ["synthetic:20ms", "synthetic:20ms,exp"])]
    engines: Vec<String>,
    /// Part of what all nodes can do that is asked of them
    #[arg(long, value_name = "X", default_value_t = 0.75)]
    share: f64,
    /// How many times the load of another door the first one gets
    #[arg(long, value_name = "X", default_value_t = 8.0)]
    skew: f64,
    /// Seconds of load with each engine
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=600))]
    seconds: u64,
    /// Seed of arrival times, doors and texts
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    /// Largest median error of an estimate that meets the goal, in percent of what happened
    #[arg(long, value_name = "X", default_value_t = 25.0)]
    error_percent_max: f64,
    /// Least part of the jobs that moved whose target was better, in percent
    #[arg(long, value_name = "X", default_value_t = 80.0)]
    right_percent_min: f64,
}

#[derive(Debug, Serialize)]
struct EstimateReport {
    bench: &'static str,
    nodes: u16,
    skew: f64,
    seconds: u64,
    seed: u64,
    error_percent_max: f64,
    right_percent_min: f64,
    engines: Vec<Findings>,
    verdict: &'static str,
}

/// One run.
#[derive(Debug, Serialize)]
struct Findings {
    engine: String,
    rate_per_s: f64,
    requests: u64,
    failed: u64,
    here: Errors,
    forwarded: Errors,
    all: Errors,
    moved: Moved,
    skipped: Skipped,
    verdict: &'static str,
}

/// |promised - real| / real, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Errors {
    jobs: u64,
    median_percent: f64,
    p90_percent: f64,
    /// The same against what it would have been, had the job's own batch taken the mean time of its size. Of a time
    /// that is random nobody knows more beforehand, so this is what is judged.
    median_without_luck_percent: f64,
    /// Median of (promised - real) / real without luck: below zero where more was promised than kept.
    bias_percent: f64,
}

/// Jobs that moved because a peer was sooner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Moved {
    jobs: u64,
    /// Those that were done at the peer before they would have been here, own luck left out.
    right: u64,
    right_percent: f64,
    /// How much sooner they were done than they would have been here: median and the unluckiest tenth.
    gain_p50_ms: f64,
    gain_p10_ms: f64,
}

/// # Errors
/// A shoal did not form, an option is out of range, a recording cannot be read, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(1 < options.nodes.nodes, "--nodes {}: with one node nothing can be forwarded", options.nodes.nodes);
    ensure!((1.0..=1000.0).contains(&options.skew), "--skew {} is not between 1 and 1000", options.skew);
    ensure!((0.05..=0.95).contains(&options.share), "--share {} is not between 0.05 and 0.95", options.share);
    let report = Report::new(options.nodes.how.json);
    let mut engines = Vec::new();
    for engine in &options.engines {
        let found = measure(&options, report, engine).await.with_context(|| format!("with engine {engine}"))?;
        engines.push(found);
    }
    let verdict = worst(engines.iter().map(|found| found.verdict));
    let result = EstimateReport {
        bench: "estimate",
        nodes: options.nodes.nodes,
        skew: options.skew,
        seconds: options.seconds,
        seed: options.seed,
        error_percent_max: options.error_percent_max,
        right_percent_min: options.right_percent_min,
        engines,
        verdict,
    };
    show(report, &result)?;
    Ok(match verdict {
        GOAL_MET => ExitCode::SUCCESS,
        TOO_FEW => ExitCode::from(PROVED_NOTHING),
        _ => ExitCode::FAILURE,
    })
}

const MISSED: &str = "goal missed";
const FAILED: &str = "failed: requests without a right answer";
const TOO_FEW: &str = "inconclusive: too few jobs moved";

fn worst(verdicts: impl Iterator<Item = &'static str>) -> &'static str {
    let rank = |verdict: &&str| [GOAL_MET, TOO_FEW, MISSED, FAILED].iter().position(|known| known == verdict);
    verdicts.max_by_key(rank).unwrap_or(TOO_FEW)
}

async fn measure(options: &Options, report: Report, engine: &str) -> Result<Findings> {
    let nodes = options.nodes.nodes;
    let capacity = capacity_per_s(engine).context("its speed is not known beforehand: a synthetic engine is needed")?;
    let rate_per_s = options.share * f64::from(nodes) * capacity;
    ensure!((0.1..=10_000.0).contains(&rate_per_s), "{rate_per_s:.1} requests/s are not between 0.1 and 10000");
    let seconds = Duration::from_secs(options.seconds);
    let mut plan = options.nodes.plan(private_cluster_name(), 0, Some(engine.to_owned()))?;
    plan.record = true;
    let mut cluster = Cluster::start(&plan)?;
    let mut progress = Progress::new();
    cluster.wait_until_formed(options.nodes.formed_limit(), &mut progress).await?;
    report.line(format_args!(
        "{nodes} nodes, engine {engine}: {rate_per_s:.1} requests/s, {:.1} of them at one door; all are {:.0} % busy",
        rate_per_s * hot_share(usize::from(nodes), options.skew),
        100.0 * options.share
    ))?;
    let clients = cluster.api_addresses().into_iter().map(Client::that_asks_why).collect();
    let doors = Arc::new(Doors::new(clients, cluster.node_ids().map(str::to_owned).collect()));
    progress.show(format!("load for {} s", options.seconds));
    let weights = skewed(doors.count(), HOT, options.skew);
    let load = LoadPlan::new(rate_per_s, weights, options.seed, seconds);
    let load = Load::start(doors, &load)?;
    tokio::time::sleep(seconds).await;
    let (records, _) = load.finish().await?;
    let recordings: Vec<_> = (0..usize::from(nodes)).map(|index| cluster.recording(index)).collect();
    let stopped = cluster.stop(std::future::pending()).await?;
    progress.clear();
    let directory = stopped.directory.display();
    ensure!(stopped.is_clean(), "not every node left with exit code 0: data and logs are in {directory}");
    let timelines = recordings.iter().map(|path| timeline::read(path)).collect::<Result<Vec<_>>>();
    let timelines = timelines.with_context(|| format!("data and logs are in {directory}"))?;
    let pace = Pace::of(&timelines, 1e6 * per_batch_s(engine).unwrap_or(0.0));
    let learning_us = u64::try_from(LEARNING.as_micros())?;
    let (judged, skipped) = judge::judge(&timelines, pace, learning_us);
    let found = find(options, engine, (rate_per_s, &records), (&judged, skipped));
    if found.verdict == GOAL_MET {
        stopped.remove_directory()?;
    } else {
        remark(format_args!("recordings and logs: {directory}"));
    }
    Ok(found)
}

fn find(
    options: &Options,
    engine: &str,
    (rate_per_s, records): (f64, &[Record]),
    (judged, skipped): (&[Judged], Skipped),
) -> Findings {
    let of = |forwarded: bool| judged.iter().filter(move |job| job.forwarded == forwarded);
    let failed = records.iter().filter(|record| record.answered().is_none() || !record.losses.is_empty()).count();
    let (all, moved) = (errors(judged.iter()), moved(judged));
    let verdict = if 0 < failed {
        FAILED
    } else if moved.jobs < MOVED_MIN {
        TOO_FEW
    } else if all.median_without_luck_percent <= options.error_percent_max
        && options.right_percent_min <= moved.right_percent
    {
        GOAL_MET
    } else {
        MISSED
    };
    Findings {
        engine: engine.to_owned(),
        rate_per_s,
        requests: records.len() as u64,
        failed: failed as u64,
        here: errors(of(false)),
        forwarded: errors(of(true)),
        all,
        moved,
        skipped,
        verdict,
    }
}

fn errors<'a>(judged: impl Iterator<Item = &'a Judged> + Clone) -> Errors {
    let percent = |of: &dyn Fn(&Judged) -> f64| sorted(judged.clone().map(|job| 100.0 * of(job)));
    let real = percent(&|job| (job.promised - job.real).abs() / job.real.max(1.0));
    let without_luck = percent(&|job| (job.promised - job.without_luck).abs() / job.without_luck.max(1.0));
    let bias = percent(&|job| (job.promised - job.without_luck) / job.without_luck.max(1.0));
    Errors {
        jobs: real.len() as u64,
        median_percent: at(&real, 0.5),
        p90_percent: at(&real, 0.9),
        median_without_luck_percent: at(&without_luck, 0.5),
        bias_percent: at(&bias, 0.5),
    }
}

fn moved(judged: &[Judged]) -> Moved {
    let gain_ms = |job: &Judged| Some((job.here_instead? - job.without_luck) / 1000.0);
    let gains = sorted(judged.iter().filter_map(gain_ms));
    let (jobs, right) = (gains.len() as u64, gains.iter().filter(|gain| 0.0 < **gain).count() as u64);
    Moved {
        jobs,
        right,
        right_percent: 100.0 * share(right, jobs),
        gain_p50_ms: at(&gains, 0.5),
        gain_p10_ms: at(&gains, 0.1),
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// A quantile of sorted values; 0 of none.
fn at(sorted: &[f64], quantile: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let rank = (quantile * sorted.len() as f64) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn show(report: Report, result: &EstimateReport) -> Result<()> {
    let mut rows = Vec::new();
    for found in &result.engines {
        for (name, errors) in [("here", found.here), ("forwarded", found.forwarded), ("all", found.all)] {
            let Errors { jobs, median_percent, p90_percent, median_without_luck_percent, bias_percent } = errors;
            let mut row = vec![found.engine.clone(), name.to_owned(), jobs.to_string()];
            let numbers = [median_percent, p90_percent, median_without_luck_percent, bias_percent];
            row.extend(numbers.map(|number| format!("{number:.1}")));
            rows.push(row);
        }
    }
    let head = ["engine", "jobs", "count", "median error %", "p90 error %", "median without luck %", "bias %"];
    report.line(table(&head, &rows))?;
    for found in &result.engines {
        let Moved { jobs, right, right_percent, gain_p50_ms, gain_p10_ms } = found.moved;
        let Skipped { early, placed_again, unlinked } = found.skipped;
        report.line(format_args!(
            "{}: of {jobs} jobs that moved {right} ({right_percent:.1} %) were done sooner than here; sooner by \
             {gain_p50_ms:.1} ms (median), {gain_p10_ms:.1} ms (lowest tenth); not judged: {early} early, \
             {placed_again} placed again, {unlinked} not found; {} failed of {}: {}",
            found.engine, found.failed, found.requests, found.verdict
        ))?;
    }
    report.line(format_args!(
        "verdict: {} (goals: median error without luck at most {:.0} %, right target at least {:.0} %)",
        result.verdict, result.error_percent_max, result.right_percent_min
    ))?;
    report.json(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parsed;

    fn job(promised: f64, real: f64, here_instead: Option<f64>) -> Judged {
        Judged { forwarded: here_instead.is_some(), promised, real, without_luck: real, here_instead }
    }

    #[test]
    fn errors_are_measured_against_what_happened_and_not_against_the_promise() {
        let judged = [job(10.0, 20.0, None), job(20.0, 20.0, None), job(60.0, 20.0, None)];
        let errors = errors(judged.iter());
        assert_eq!((errors.jobs, errors.median_percent, errors.bias_percent), (3, 50.0, 0.0));
        assert!((errors.p90_percent - 200.0).abs() < 1e-9, "{errors:?}");
    }

    #[test]
    fn a_target_is_right_only_where_it_was_sooner() {
        let judged = [job(9.0, 9000.0, Some(10_000.0)), job(9.0, 9000.0, Some(9000.0)), job(9.0, 9.0, None)];
        let moved = moved(&judged);
        assert_eq!((moved.jobs, moved.right, moved.right_percent), (2, 1, 50.0));
        assert_eq!((moved.gain_p10_ms, moved.gain_p50_ms), (0.0, 1.0));
    }

    #[test]
    fn the_worst_of_all_runs_is_the_verdict() {
        assert_eq!(worst([GOAL_MET, GOAL_MET].into_iter()), GOAL_MET);
        assert_eq!(worst([GOAL_MET, TOO_FEW].into_iter()), TOO_FEW);
        assert_eq!(worst([MISSED, TOO_FEW, GOAL_MET].into_iter()), MISSED);
        assert_eq!(worst([MISSED, FAILED].into_iter()), FAILED);
        assert_eq!(worst([].into_iter()), TOO_FEW);
    }

    fn verdict(judged: &[Judged]) -> &'static str {
        let options: Options = parsed(&[]);
        find(&options, "synthetic:20ms", (1.0, &[]), (judged, Skipped::default())).verdict
    }

    #[test]
    fn both_goals_have_to_be_met_by_enough_jobs() {
        let (good, wrong, off) = (job(8.0, 9.0, Some(20.0)), job(8.0, 9.0, Some(5.0)), job(20.0, 9.0, Some(20.0)));
        assert_eq!(verdict(&[good; 99]), TOO_FEW);
        assert_eq!(verdict(&[good; 100]), GOAL_MET);
        assert_eq!(verdict(&[[good; 79].as_slice(), &[wrong; 21]].concat()), MISSED);
        assert_eq!(verdict(&[[good; 80].as_slice(), &[wrong; 20]].concat()), GOAL_MET);
        assert_eq!(verdict(&[[good; 49].as_slice(), &[off; 51]].concat()), MISSED);
    }
}
