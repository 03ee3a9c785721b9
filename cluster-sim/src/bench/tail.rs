//! `cluster-sim bench tail`: what callers wait when one node turns slow and nobody is told, beside nginx and HAProxy.
//!
//! The same Poisson arrivals go to a shoal whose doors are picked in turn by chance, as DNS does it, and to balancers
//! in front of equal nodes that keep what they get. In the middle the last node turns several times slower. The second
//! half of the table are the same balancers, told beforehand by weights how slow that node would be.
//! Every run has new processes, so nothing that one of them learned helps or hurts the next; contenders take turns
//! within every round, and every second round goes backwards.
//! Not here: what a hop costs (`hop`); the load itself (`load`).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::balancer::{self, Balancer, BalancerPlan, Installed, Method, Program, Server};
use crate::cluster::{Cluster, Setting, free_addresses};
use crate::http::Client;
use crate::load::{Doors, Load, LoadPlan, Outcome, Record};
use crate::options::{NodeOptions, capacity_per_s, private_cluster_name};
use crate::report::{GOAL_MET, NOT_JUDGED, PROVED_NOTHING, Progress, Report, remark, table};
use crate::stats::{Latencies, Summary, share};

/// Sleeps, so that nodes do not take the cores from each other; exponential, because equal times have hardly a tail.
const ENGINE: &str = "synthetic:10ms,exp";
/// Start of each run that is not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// Processes or threads of a balancer. One: only then does it know of all its own connections at every moment.
const WORKERS: u16 = 1;
/// Most requests of one run; their records are kept in memory.
const REQUESTS_MAX: f64 = 1_000_000.0;

/// Compare the tail with that of balancers when one node turns slow and nobody is told
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    /// Engine of every node, a stand-in
    #[arg(long, value_name = "SPEC", default_value = ENGINE)]
    engine: String,
    /// How many times slower the last node turns
    #[arg(long, value_name = "X", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=100))]
    slow: u32,
    /// Percent of what all nodes can do after the turn that is asked for
    #[arg(long, value_name = "P", default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=120))]
    load_percent: u32,
    /// Seconds before the turn, beside one second that is not counted
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    before: u64,
    /// Seconds after it
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    after: u64,
    /// Rounds; each has all contenders
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seed of arrival times, doors and texts
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    /// Largest p99 after the turn, as a multiple of that of nginx without weights
    #[arg(long, value_name = "X", default_value_t = 0.6)]
    ratio_max: f64,
    /// Largest p99 after the turn, as a multiple of that of nginx with the right weights
    #[arg(long, value_name = "X", default_value_t = 1.1)]
    weighted_ratio_max: f64,
}

/// Who distributes the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Shoal,
    Balancer { program: Program, method: Method, weighted: bool },
}

const NGINX: Contender = behind(Program::Nginx, Method::LeastConnections, false);
const NGINX_WEIGHTED: Contender = behind(Program::Nginx, Method::LeastConnections, true);
const CONTENDERS: [Contender; 7] = [
    Contender::Shoal,
    NGINX,
    behind(Program::HaProxy, Method::LeastConnections, false),
    behind(Program::HaProxy, Method::Random, false),
    NGINX_WEIGHTED,
    behind(Program::HaProxy, Method::LeastConnections, true),
    behind(Program::HaProxy, Method::Random, true),
];

const fn behind(program: Program, method: Method, weighted: bool) -> Contender {
    Contender::Balancer { program, method, weighted }
}

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Shoal => "shoal".to_owned(),
            Self::Balancer { program, method, weighted } => {
                let told = if weighted { ", told" } else { "" };
                format!("{} {}{told}", program.name(), program.method_name(method))
            }
        }
    }
}

/// One run of one contender.
#[derive(Debug)]
struct Run {
    records: Vec<Record>,
    /// When the node turned slow, on the line of the records.
    turn_us: u64,
}

/// All runs of one contender.
#[derive(Clone, Debug, Serialize)]
struct Row {
    contender: String,
    before: Summary,
    after: Summary,
    failed: u64,
    /// Share of the answers after the turn that the slow node computed.
    slow_share: f64,
    p99_ms_after_by_round: Vec<f64>,
    /// The shoal's p99 after the turn to this one's.
    shoal_ratio: f64,
    /// Standard error of that ratio, by how far it moves when a round is left out; 0 with one round, which tells none.
    shoal_ratio_error: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TailReport {
    bench: &'static str,
    nodes: u16,
    engine: String,
    slow: u32,
    rate_per_s: f64,
    before_s: u64,
    after_s: u64,
    rounds: u32,
    seed: u64,
    rows: Vec<Row>,
    /// What was not there to compare with, and why.
    missing: Vec<String>,
    /// The shoal's p99 after the turn to that of nginx `least_conn`, without and with weights.
    ratio: Option<f64>,
    ratio_max: f64,
    weighted_ratio: Option<f64>,
    weighted_ratio_max: f64,
    /// How late the generator itself sent, the 99th percentile over everything.
    generator_late_p99_ms: f64,
    verdict: &'static str,
}

/// # Errors
/// Nodes or balancers did not start, an option is out of range, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(1 < options.nodes.nodes, "--nodes {}: a balancer needs at least two", options.nodes.nodes);
    let report = Report::new(options.nodes.how.json);
    let rate_per_s = rate_per_s(&options)?;
    report.line(explain(&options, rate_per_s))?;
    let (installed, missing) = balancer::installed();
    for found in &installed {
        report.line(format_args!("{}: {}", found.program.name(), found.version))?;
    }
    let present = |contender: &Contender| match contender {
        Contender::Shoal => true,
        Contender::Balancer { program, .. } => installed.iter().any(|it| it.program == *program),
    };
    let contenders: Vec<Contender> = CONTENDERS.into_iter().filter(present).collect();
    let mut runs: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut progress = Progress::new();
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let name = contenders[index].name();
            progress.show(format!("round {} of {}: {name}", round + 1, options.rounds));
            let seed = options.seed.wrapping_add(u64::from(round));
            let run = one_run(&options, contenders[index], &installed, (rate_per_s, seed), &mut progress).await;
            runs[index].push(run.with_context(|| format!("running {name}"))?);
        }
    }
    progress.clear();
    let result = judge(&options, rate_per_s, &contenders, &runs, missing);
    show(report, &result)?;
    Ok(match result.verdict {
        GOAL_MET => ExitCode::SUCCESS,
        NOT_JUDGED => ExitCode::from(PROVED_NOTHING),
        _ => ExitCode::FAILURE,
    })
}

/// Requests a second that ask for the wanted part of what is left after the turn.
fn rate_per_s(options: &Options) -> Result<f64> {
    let capacity = capacity_per_s(&options.engine)
        .with_context(|| format!("--engine {}: only a stand-in that takes time can turn slow", options.engine))?;
    let left = f64::from(options.nodes.nodes - 1) + 1.0 / f64::from(options.slow);
    let rate_per_s = f64::from(options.load_percent) / 100.0 * left * capacity;
    let requests = rate_per_s * (options.before + options.after) as f64;
    ensure!(requests <= REQUESTS_MAX, "{requests:.0} requests a run are more than {REQUESTS_MAX:.0}: shorten the run");
    Ok(rate_per_s)
}

fn explain(options: &Options, rate_per_s: f64) -> String {
    let nodes = f64::from(options.nodes.nodes);
    let all_percent = f64::from(options.load_percent) * (nodes - 1.0 + 1.0 / f64::from(options.slow)) / nodes;
    format!(
        "{nodes} nodes, engine {}: {rate_per_s:.1} requests/s, {all_percent:.0} % of what they can do, and {} % of it \
         once the last node is {} times slower",
        options.engine, options.load_percent, options.slow
    )
}

async fn one_run(
    options: &Options,
    contender: Contender,
    installed: &[Installed],
    (rate_per_s, seed): (f64, u64),
    progress: &mut Progress,
) -> Result<Run> {
    let mut plan = options.nodes.plan(private_cluster_name(), 0, Some(options.engine.clone()))?;
    plan.log_level = "warn".to_owned();
    if contender != Contender::Shoal {
        plan.settings.push(Setting::of_all("routing.policy", "local"));
    }
    let mut cluster = Cluster::start(&plan)?;
    cluster.wait_until_formed(options.nodes.formed_limit(), progress).await?;
    let ids: Vec<String> = cluster.node_ids().map(str::to_owned).collect();
    let addresses = cluster.api_addresses();
    // Kept to the end of the run: dropped, it ends.
    let mut in_front = None;
    let doors = match contender {
        Contender::Shoal => Doors::new(addresses.into_iter().map(Client::new).collect(), ids),
        Contender::Balancer { program, method, weighted } => {
            let installed = installed.iter().find(|it| it.program == program).context("only what is there runs")?;
            let slow = addresses.len() - 1;
            let weight = |index: usize| if weighted && index != slow { options.slow } else { 1 };
            let server = |(index, &address)| Server { address, weight: weight(index) };
            let servers = addresses.iter().enumerate().map(server).collect();
            let plan = BalancerPlan { listen: free_addresses(1)?[0], method, servers, workers: WORKERS };
            let balancer = Balancer::start(installed, &plan, &cluster.directory().join(program.name())).await?;
            Doors::behind_balancer(in_front.insert(balancer).address(), ids)
        }
    };
    let before = WARM_UP + Duration::from_secs(options.before);
    let whole = before + Duration::from_secs(options.after);
    let weights = vec![1.0; doors.count()];
    let load = Load::start(Arc::new(doors), &LoadPlan::new(rate_per_s, weights, seed, whole))?;
    tokio::time::sleep(before).await;
    cluster.tell_engine(cluster.nodes().len() - 1, &format!("slow={}", options.slow))?;
    let turn_us = load.now_us();
    tokio::time::sleep(whole.saturating_sub(Duration::from_micros(turn_us))).await;
    let (records, _) = load.finish().await?;
    drop(in_front);
    cluster.ensure_all_run()?;
    let stopped = cluster.stop(std::future::pending()).await?;
    if !stopped.is_clean() {
        remark(format_args!("a node did not end well; data and logs: {}", stopped.directory.display()));
    } else if let Err(fault) = stopped.remove_directory() {
        // No reason to lose what was measured.
        remark(format_args!("{fault:#}"));
    }
    Ok(Run { records, turn_us })
}

fn row(contender: Contender, nodes: u16, runs: &[Run]) -> Row {
    let warm_us = u64::try_from(WARM_UP.as_micros()).unwrap_or(u64::MAX);
    let before = |run: &Run| (warm_us, run.turn_us);
    let after = |run: &Run| (run.turn_us, u64::MAX);
    let slow = usize::from(nodes) - 1;
    let answers = runs.iter().flat_map(|run| within(run, after(run))).filter_map(Record::answered);
    let slow_answers = answers.clone().filter(|answered| answered.served_by == slow).count() as u64;
    let all = runs.iter().flat_map(|run| &run.records);
    // Nobody was killed, so a connection that was lost on the way is a failure too.
    let failed = all.clone().filter(|record| record.answered().is_none() || !record.losses.is_empty());
    let failures = all.filter_map(|record| match &record.outcome {
        Outcome::Failed { what, .. } => Some(what.clone()),
        Outcome::Refused { status, .. } => Some(format!("status {status}")),
        Outcome::Answered(_) => None,
    });
    Row {
        contender: contender.name(),
        before: latencies(runs.iter().flat_map(|run| within(run, before(run)))).summary(),
        after: latencies(runs.iter().flat_map(|run| within(run, after(run)))).summary(),
        failed: failed.count() as u64,
        slow_share: share(slow_answers, answers.count() as u64),
        p99_ms_after_by_round: runs.iter().map(|run| latencies(within(run, after(run))).summary().p99_ms).collect(),
        shoal_ratio: 1.0,
        shoal_ratio_error: 0.0,
        failures: failures.take(5).collect(),
    }
}

/// The records that were meant to be sent in that time.
fn within(run: &Run, (from_us, to_us): (u64, u64)) -> impl Iterator<Item = &Record> + Clone {
    run.records.iter().filter(move |record| from_us <= record.intended_us && record.intended_us < to_us)
}

/// The p99 of `runs` after the turn as a multiple of that of `others`, of the same rounds, and its standard error.
///
/// Rounds differ by much more than the requests of one do, because a queue remembers for seconds.
/// Source: the jackknife, Efron and Stein 1981.
fn p99_ratio(runs: &[Run], others: &[Run]) -> (f64, f64) {
    let p99 = |runs: &[Run], without: Option<usize>| {
        let kept = runs.iter().enumerate().filter(|&(round, _)| Some(round) != without);
        latencies(kept.flat_map(|(_, run)| within(run, (run.turn_us, u64::MAX)))).summary().p99_ms
    };
    let ratio = |without| p99(runs, without) / p99(others, without);
    let rounds = runs.len();
    if rounds < 2 {
        return (ratio(None), 0.0);
    }
    let partial: Vec<f64> = (0..rounds).map(|round| ratio(Some(round))).collect();
    let mean = partial.iter().sum::<f64>() / rounds as f64;
    let squares: f64 = partial.iter().map(|ratio| (ratio - mean).powi(2)).sum();
    (ratio(None), (squares * (rounds - 1) as f64 / rounds as f64).sqrt())
}

fn latencies<'a>(records: impl Iterator<Item = &'a Record>) -> Latencies {
    records.filter(|record| record.answered().is_some()).map(Record::latency_us).collect()
}

/// `runs` by contender and round.
fn judge(
    options: &Options,
    rate_per_s: f64,
    contenders: &[Contender],
    runs: &[Vec<Run>],
    missing: Vec<String>,
) -> TailReport {
    let row = |(&contender, runs): (&Contender, &Vec<Run>)| row(contender, options.nodes.nodes, runs);
    let mut rows: Vec<Row> = contenders.iter().zip(runs).map(row).collect();
    for (row, other) in rows.iter_mut().zip(runs) {
        (row.shoal_ratio, row.shoal_ratio_error) = p99_ratio(&runs[0], other);
    }
    let against = |other: Contender| contenders.iter().position(|&it| it == other).map(|at| rows[at].shoal_ratio);
    let (ratio, weighted_ratio) = (against(NGINX), against(NGINX_WEIGHTED));
    let verdict = match (ratio, weighted_ratio) {
        (_, _) if 0 < rows[0].failed => "goal missed: requests of the shoal without a right answer",
        (Some(ratio), _) if options.ratio_max < ratio => "goal missed: too close to nginx without weights",
        (_, Some(ratio)) if options.weighted_ratio_max < ratio => "goal missed: too far from nginx with weights",
        (Some(_), Some(_)) => GOAL_MET,
        (_, _) => NOT_JUDGED,
    };
    let late_us = |record: &Record| record.sent_us.saturating_sub(record.intended_us);
    let late: Latencies = runs.iter().flatten().flat_map(|run| &run.records).map(late_us).collect();
    TailReport {
        bench: "tail",
        nodes: options.nodes.nodes,
        engine: options.engine.clone(),
        slow: options.slow,
        rate_per_s,
        before_s: options.before,
        after_s: options.after,
        rounds: options.rounds,
        seed: options.seed,
        rows,
        missing,
        ratio,
        ratio_max: options.ratio_max,
        weighted_ratio,
        weighted_ratio_max: options.weighted_ratio_max,
        generator_late_p99_ms: late.summary().p99_ms,
        verdict,
    }
}

fn show(report: Report, result: &TailReport) -> Result<()> {
    let row = |row: &Row| {
        let mut cells = vec![row.contender.clone(), row.after.requests.to_string(), row.failed.to_string()];
        for Summary { p50_ms, p99_ms, p999_ms, .. } in [row.before, row.after] {
            cells.extend([p50_ms, p99_ms, p999_ms].map(|value| format!("{value:.0}")));
        }
        cells.push(format!("{:.1} %", 100.0 * row.slow_share));
        cells.push(format!("{:.2} ± {:.2}", row.shoal_ratio, row.shoal_ratio_error));
        cells.push(row.p99_ms_after_by_round.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" "));
        cells
    };
    let head = [
        "contender",
        "after",
        "failed",
        "p50 before",
        "p99",
        "p99.9",
        "p50 after",
        "p99",
        "p99.9",
        "slow node",
        "shoal's p99",
        "p99 after by round",
    ];
    report.line(table(&head, &result.rows.iter().map(row).collect::<Vec<_>>()))?;
    for row in &result.rows {
        for what in &row.failures {
            report.line(format_args!("  {} failed: {what}", row.contender))?;
        }
    }
    for missing in &result.missing {
        report.line(format_args!("missing: {missing}"))?;
    }
    let told = |ratio: Option<f64>| ratio.map_or("not known".to_owned(), |ratio| format!("{ratio:.2}x"));
    report.line(format_args!(
        "p99 after the turn: {} of nginx least_conn (goal: at most {:.2}x), {} of the same told the weights (goal: at \
         most {:.2}x); generator late (p99): {:.1} ms",
        told(result.ratio),
        result.ratio_max,
        told(result.weighted_ratio),
        result.weighted_ratio_max,
        result.generator_late_p99_ms
    ))?;
    report.line(format_args!("verdict: {}", result.verdict))?;
    report.json(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Answered;
    use crate::options::parsed;

    fn options(line: &[&str]) -> Options {
        parsed(line)
    }

    /// A request a millisecond; the turn is at 2 s. `after_ms` is what those after the turn took.
    fn run(after_ms: u64) -> Run {
        let turn_us = 2_000_000;
        let record = |ms: u64| {
            let intended_us = ms * 1000;
            let took_us = if intended_us < turn_us { 10_000 } else { after_ms * 1000 };
            let answered =
                Answered { door: 0, served_by: usize::from(ms.is_multiple_of(4)) * 2, hops: 0, placements: 1 };
            let (sent_us, done_us, losses) = (intended_us, intended_us + took_us, Vec::new());
            let outcome = Outcome::Answered(answered);
            Record { intended_us, sent_us, done_us, poisoned: false, losses, outcome }
        };
        Run { records: (0..4000).map(record).collect(), turn_us }
    }

    #[test]
    fn the_load_is_a_part_of_what_is_left_after_the_turn() {
        let rate = rate_per_s(&options(&["--engine", "synthetic:10ms,exp"])).unwrap();
        assert!((rate - 0.8 * 2.2 * 100.0).abs() < 1e-9, "{rate}");
        let rate =
            rate_per_s(&options(&["--engine", "synthetic:10ms", "--slow", "2", "--load-percent", "100"])).unwrap();
        assert!((rate - 250.0).abs() < 1e-9, "{rate}");
        for line in [["--engine", "candle"], ["--engine", "synthetic:0"], ["--after", "300"]] {
            assert_eq!(rate_per_s(&options(&line)).is_err(), line[0] == "--engine", "{line:?}");
        }
    }

    #[test]
    fn requests_count_where_they_were_meant_to_be_sent_and_the_warm_up_nowhere() {
        let row = row(Contender::Shoal, 3, &[run(50), run(70)]);
        assert_eq!((row.before.requests, row.after.requests, row.failed), (2000, 4000, 0));
        assert!((row.before.p99_ms - 10.0).abs() < 0.1 && (row.after.p99_ms - 70.0).abs() < 0.1, "{row:?}");
        assert!((row.slow_share - 0.25).abs() < 1e-9, "{row:?}");
        assert_eq!(row.p99_ms_after_by_round.len(), 2);
    }

    #[test]
    fn a_ratio_comes_with_the_error_that_unlike_rounds_make() {
        let close = |(ratio, error): (f64, f64), (expected, spread): (f64, f64)| {
            (ratio - expected).abs() < 0.01 && (error - spread).abs() < 0.01
        };
        assert!(close(p99_ratio(&[run(50)], &[run(100)]), (0.5, 0.0)));
        assert!(close(p99_ratio(&[run(50), run(50)], &[run(100), run(100)]), (0.5, 0.0)));
        // The p99 of both rounds is that of the slower one; without it the ratio is 0.5.
        assert!(close(p99_ratio(&[run(50), run(90)], &[run(100), run(100)]), (0.9, 0.2)));
    }

    #[test]
    fn the_goals_are_judged_against_nginx_without_and_with_weights() {
        let verdict = |shoal_ms, nginx_ms, weighted_ms| {
            let runs = [shoal_ms, nginx_ms, weighted_ms].map(|ms| vec![run(ms)]);
            let contenders = [Contender::Shoal, NGINX, NGINX_WEIGHTED];
            judge(&options(&[]), 1.0, &contenders, &runs, Vec::new()).verdict
        };
        assert_eq!(verdict(50, 100, 50), GOAL_MET);
        assert_eq!(verdict(70, 100, 70), "goal missed: too close to nginx without weights");
        assert_eq!(verdict(50, 100, 40), "goal missed: too far from nginx with weights");
        let alone = judge(&options(&[]), 1.0, &[Contender::Shoal], &[vec![run(50)]], vec!["nginx".to_owned()]);
        assert_eq!((alone.verdict, alone.ratio), (NOT_JUDGED, None));
    }

    #[test]
    fn a_request_of_the_shoal_that_failed_or_lost_a_connection_misses_the_goal() {
        let failed =
            |record: &mut Record| record.outcome = Outcome::Failed { door: 0, answered: true, what: "no".to_owned() };
        let lost = |record: &mut Record| {
            record.losses.push(crate::load::Loss { door: 0, at_us: 1, what: String::new(), own: false })
        };
        for spoil in [failed as fn(&mut Record), lost] {
            let mut shoal = run(50);
            spoil(&mut shoal.records[3000]);
            let runs = [vec![shoal], vec![run(100)], vec![run(50)]];
            let report = judge(&options(&[]), 1.0, &[Contender::Shoal, NGINX, NGINX_WEIGHTED], &runs, Vec::new());
            assert_eq!(report.rows[0].failed, 1);
            assert!(report.verdict.starts_with("goal missed: requests of the shoal"), "{}", report.verdict);
        }
    }
}
