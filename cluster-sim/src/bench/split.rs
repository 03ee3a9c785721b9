//! `cluster-sim bench split`: what a shoal makes of one call with many texts.
//!
//! The same calls go to a node that is alone and to one door of a shoal, in turns, so that the machine's moods meet
//! both; every second round begins with the other one. Beside each call one caller asks for single texts at the same
//! door, one after the other: a large call must not keep them waiting. The goal: with three nodes a call is at least
//! 2.2 times as fast as with one. The engine sleeps, so this proves the splitting and not the speed of a machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;

use crate::cluster::{Cluster, Stopped};
use crate::http::{Answer, Client};
use crate::options::{NodeOptions, private_cluster_name};
use crate::report::{GOAL_MET, Progress, Report, remark, table};
use crate::stats::{Latencies, Summary, median, micros};

/// Longest time of one call.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Longest answer to one call: 4,096 vectors of 384 numbers are about 18 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Pause of the caller of single texts between two of them, so that it is no load.
const PAUSE: Duration = Duration::from_millis(20);

/// Compare one call with many texts on one node and on several
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    /// Texts in the call
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..=2048))]
    inputs: u16,
    /// Rounds; each has the call once on one node and once on all
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Engine of every node: `synthetic:DUR[,exp|,burn][,per_batch=DUR]`
    #[arg(long, value_name = "SPEC", default_value = "synthetic:2ms")]
    engine: String,
    /// How many times as fast as on one node the call has to be on all
    #[arg(long, value_name = "X", default_value_t = 2.2)]
    ratio_min: f64,
}

#[derive(Debug, Serialize)]
struct SplitReport {
    bench: &'static str,
    engine: String,
    inputs: u16,
    rounds: u32,
    one: Side,
    all: Side,
    /// Median time on one node to median time on all.
    ratio: f64,
    ratio_min: f64,
    verdict: &'static str,
}

/// One of the two shoals, over all rounds.
#[derive(Debug, Serialize)]
struct Side {
    nodes: u16,
    median_ms: f64,
    ms_by_round: Vec<f64>,
    /// Fewest nodes that computed a part of one call.
    computed_by_min: usize,
    /// Single texts that were asked for beside the calls.
    singles: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

/// What one shoal did.
#[derive(Debug)]
struct Seen {
    ms: Vec<f64>,
    computed_by_min: usize,
    singles: Latencies,
    failures: Vec<String>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { ms: Vec::new(), computed_by_min: usize::MAX, singles: Latencies::new(), failures: Vec::new() }
    }
}

/// A shoal and the client of its first door.
struct Door {
    cluster: Cluster,
    client: Client,
    seen: Seen,
}

/// # Errors
/// A shoal did not form, an option is out of range, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(1 < options.nodes.nodes, "--nodes {}: one node is what the others are compared with", options.nodes.nodes);
    let report = Report::new(options.nodes.how.json);
    let mut progress = Progress::new();
    let mut one = Door::open(&options, 1, &mut progress).await?;
    let mut all = Door::open(&options, options.nodes.nodes, &mut progress).await?;
    report.line(format_args!(
        "1 node and {} nodes, engine {}: calls of {} texts",
        options.nodes.nodes, options.engine, options.inputs
    ))?;
    for round in 0..options.rounds {
        progress.show(format!("round {} of {}", round + 1, options.rounds));
        let body = body(&options, round);
        // The other one first in every second round, or what warms up or tires would always favour the same.
        let (first, second) = if round % 2 == 0 {
            let first = one.call(&options, &body).await;
            (first, all.call(&options, &body).await)
        } else {
            let second = all.call(&options, &body).await;
            (one.call(&options, &body).await, second)
        };
        // The vectors of the stand-in depend on the texts alone, so the two answers are equal to the last byte.
        if let (Some(first), Some(second)) = (first, second)
            && first != second
        {
            all.seen.failures.push(format!("round {}: the vectors differ from those of one node", round + 1));
        }
    }
    progress.clear();
    let (one, one_stopped) = one.close(1).await?;
    let (all, all_stopped) = all.close(options.nodes.nodes).await?;
    let result = compare(&options, one, all);
    show(report, &result)?;
    let stopped = [one_stopped, all_stopped];
    if result.verdict == GOAL_MET && stopped.iter().all(Stopped::is_clean) {
        stopped.iter().try_for_each(Stopped::remove_directory)?;
        return Ok(ExitCode::SUCCESS);
    }
    for stopped in &stopped {
        remark(format_args!("data and logs: {}", stopped.directory.display()));
    }
    Ok(ExitCode::FAILURE)
}

impl Door {
    async fn open(options: &Options, nodes: u16, progress: &mut Progress) -> Result<Self> {
        let cluster = format!("{}-{nodes}", private_cluster_name());
        let mut plan = options.nodes.plan(cluster, 0, Some(options.engine.clone()))?;
        plan.nodes = nodes;
        plan.directory = plan.directory.map(|directory| directory.join(format!("nodes-{nodes}")));
        let mut cluster = Cluster::start(&plan)?;
        cluster.wait_until_formed(options.nodes.formed_limit(), progress).await?;
        let address = *cluster.api_addresses().first().context("a shoal has a door")?;
        Ok(Self { cluster, client: Client::with_answer_limit(address, ANSWER_BYTES_MAX), seen: Seen::default() })
    }

    /// One call, and single ones beside it. Returns its body, if it is an answer.
    async fn call(&mut self, options: &Options, body: &Bytes) -> Option<Bytes> {
        let (singles, failures) = (&mut self.seen.singles, &mut self.seen.failures);
        let started = Instant::now();
        // The single callers stop with the call: the one that is under way then is dropped.
        let answer = tokio::select! {
            answer = self.client.post_json("/embed", body.clone(), CALL_LIMIT) => answer,
            () = ask_single_texts(&self.client, singles, failures) => unreachable!("it asks for ever"),
        };
        let took = started.elapsed();
        let right = answer.map_err(|error| error.to_string()).and_then(|answer| check(options, answer));
        match right {
            Ok(answer) => {
                self.seen.ms.push(took.as_secs_f64() * 1000.0);
                let nodes = answer.header("x-served-by").map_or(0, |nodes| nodes.split(',').count());
                self.seen.computed_by_min = self.seen.computed_by_min.min(nodes);
                Some(answer.body)
            }
            Err(what) => {
                self.seen.failures.push(what);
                None
            }
        }
    }

    async fn close(self, nodes: u16) -> Result<(Side, Stopped)> {
        let stopped = self.cluster.stop(std::future::pending()).await?;
        let Seen { ms, computed_by_min, singles, mut failures } = self.seen;
        failures.truncate(10);
        let side = Side {
            nodes,
            median_ms: median(ms.iter().copied()).unwrap_or(0.0),
            computed_by_min: if ms.is_empty() { 0 } else { computed_by_min },
            ms_by_round: ms,
            singles: singles.summary(),
            failures,
        };
        Ok((side, stopped))
    }
}

/// One caller who asks again as soon as it was answered and a moment has passed.
async fn ask_single_texts(client: &Client, singles: &mut Latencies, failures: &mut Vec<String>) {
    for number in 0u64.. {
        tokio::time::sleep(PAUSE).await;
        let body = Bytes::from(serde_json::json!({ "inputs": format!("single {number}") }).to_string());
        let started = Instant::now();
        match client.post_json("/embed", body, CALL_LIMIT).await {
            Ok(answer) if answer.status == StatusCode::OK => singles.record(micros(started.elapsed())),
            Ok(answer) => failures.push(format!("a single text: status {}: {}", answer.status, answer.excerpt())),
            Err(error) => failures.push(format!("a single text: {error}")),
        }
    }
}

fn body(options: &Options, round: u32) -> Bytes {
    let texts: Vec<String> = (0..options.inputs).map(|text| format!("text {text} of round {round}")).collect();
    serde_json::json!({ "inputs": texts }).to_string().into()
}

/// An answer that has a vector for each text; otherwise what is wrong with it.
fn check(options: &Options, answer: Answer) -> Result<Answer, String> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {}: {}", answer.status.as_u16(), answer.excerpt()));
    }
    // Within a list of lists of numbers this stands between two vectors and nowhere else.
    let vectors = answer.body.windows(3).filter(|bytes| bytes == b"],[").count() + 1;
    if vectors != usize::from(options.inputs) {
        return Err(format!("{vectors} vectors for {} texts", options.inputs));
    }
    Ok(answer)
}

fn compare(options: &Options, one: Side, all: Side) -> SplitReport {
    let ratio = if 0.0 < all.median_ms { one.median_ms / all.median_ms } else { 0.0 };
    let verdict = if !one.failures.is_empty() || !all.failures.is_empty() {
        "failed: calls without a right answer"
    } else if options.ratio_min <= ratio {
        GOAL_MET
    } else {
        "goal missed"
    };
    SplitReport {
        bench: "split",
        engine: options.engine.clone(),
        inputs: options.inputs,
        rounds: options.rounds,
        one,
        all,
        ratio,
        ratio_min: options.ratio_min,
        verdict,
    }
}

fn show(report: Report, result: &SplitReport) -> Result<()> {
    let row = |side: &Side| {
        let Summary { requests, p50_ms, p99_ms, max_ms, .. } = side.singles;
        let mut cells = vec![side.nodes.to_string(), format!("{:.0}", side.median_ms)];
        cells.push(side.ms_by_round.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" "));
        cells.extend([side.computed_by_min.to_string(), requests.to_string()]);
        cells.extend([p50_ms, p99_ms, max_ms].map(|value| format!("{value:.1}")));
        cells
    };
    let head = ["nodes", "median ms", "ms by round", "computed by", "singles", "p50 ms", "p99 ms", "max ms"];
    report.line(table(&head, &[row(&result.one), row(&result.all)]))?;
    for what in result.one.failures.iter().chain(&result.all.failures) {
        report.line(format_args!("  failed: {what}"))?;
    }
    report.line(format_args!(
        "{:.2} times as fast on {} nodes as on one (goal: at least {:.2})",
        result.ratio, result.all.nodes, result.ratio_min
    ))?;
    report.line(format_args!("verdict: {}", result.verdict))?;
    report.json(result)?;
    Ok(())
}
