//! What a shoal of real processes costs when nothing happens, and how soon it sees that one is gone.
//!
//! For each size: start, wait until all see all, leave it alone for a while and read what the nodes used, then kill one
//! and ask the others. The engine sleeps and nobody calls, so all that is measured is the price of the shoal itself.
//! The goals for CPU time and gossip are those of three nodes, because one machine that carries sixty processes says
//! nothing about one node's share; memory and false deaths are judged at every size.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::options::{DRILL_ENGINE, PlanOptions, private_cluster_name};
use crate::probe::{counters, readiness};
use crate::report::{GOAL_MET, Progress, Report, remark, table};
use crate::stats::millis;
use crate::usage::Usage;

/// The size to which the goals for CPU time, gossip and detection belong.
const JUDGED_NODES: u16 = 3;
/// After the last question of the start the nodes are left alone for so long before anything is counted.
const SETTLE: Duration = Duration::from_secs(3);
/// How often survivors are asked about the node that was killed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Survivors that are asked in one look: asking all of sixty would cost more than their gossip does.
const ASKED_MAX: usize = 16;
/// A survivor that calls nobody dead for so long never will.
const DETECTION_LIMIT: Duration = Duration::from_secs(30);

/// Measure shoals of several sizes that have nothing to do, and kill a node of each
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Sizes of the shoals, one after the other
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_value = "3,10,30,60",
        value_parser = clap::value_parser!(u16).range(2..=64)
    )]
    nodes: Vec<u16>,
    /// Seconds for which each shoal is left alone and counted
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Largest share of a core that an idle node of three may use, in percent
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    cpu_percent_max: f64,
    /// Most gossip that an idle node of three may send, in kB (1000 bytes) a second
    #[arg(long, value_name = "X", default_value_t = 15.0)]
    gossip_kb_per_s_max: f64,
    /// Largest resident set of a node without a model, in MB
    #[arg(long, value_name = "X", default_value_t = 60.0)]
    rss_mb_max: f64,
    /// Latest moment at which the last of two survivors calls the killed node dead
    #[arg(long, value_name = "MS", default_value_t = 1000.0)]
    detection_ms_max: f64,
    #[command(flatten)]
    how: PlanOptions,
}

#[derive(Debug, Serialize)]
struct ScaleReport {
    bench: &'static str,
    engine: &'static str,
    seconds: u64,
    sizes: Vec<Size>,
    cpu_percent_max: f64,
    gossip_kb_per_s_max: f64,
    rss_mb_max: f64,
    detection_ms_max: f64,
    /// What is beyond a goal; empty when all are met.
    missed: Vec<String>,
    verdict: &'static str,
}

/// One shoal.
#[derive(Debug, Serialize)]
struct Size {
    nodes: u16,
    /// From the first start of a process until the last node was ready.
    ready_ms: u64,
    /// From then until all saw all.
    formed_ms: u64,
    idle: Idle,
    killed: Killed,
}

/// What the nodes used while nothing happened.
#[derive(Debug, Serialize)]
struct Idle {
    /// Of one core.
    cpu_percent: Spread,
    /// Payloads of UDP datagrams, as the node's own counter has them; 28 bytes of headers a datagram are not in it.
    gossip_sent_kb_per_s: Spread,
    gossip_sent_datagrams_per_s: Spread,
    rss_mb: Spread,
    rss_anon_mb: Spread,
    /// Times that any node called another one dead; all of them lived.
    false_deaths: u64,
    /// The same before anything was counted, while as many processes as there are nodes started at one time. Not
    /// judged: on few cores a process that starts waits for its turn longer than gossip waits for its word.
    false_deaths_starting: u64,
}

/// What followed the kill.
#[derive(Debug, Serialize)]
struct Killed {
    /// Until the first survivor called it dead, and until the last one did.
    first_ms: f64,
    last_ms: f64,
    /// Longest time between two questions to one survivor: how much too late these may be.
    error_ms: f64,
    /// Times that a survivor called anybody else dead.
    false_deaths: u64,
}

/// One number of each node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    mean: f64,
    max: f64,
}

impl FromIterator<f64> for Spread {
    /// Of nothing: zero.
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let (mut count, mut sum, mut max) = (0.0f64, 0.0, 0.0f64);
        for value in values {
            (count, sum, max) = (count + 1.0, sum + value, max.max(value));
        }
        Self { mean: sum / count.max(1.0), max }
    }
}

/// # Errors
/// A shoal did not form, a node ended by itself, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    ensure!(
        options.how.data_dir.is_none() || options.nodes.len() == 1,
        "--data-dir is for one size, because each needs a directory of its own"
    );
    let mut sizes = Vec::new();
    for &nodes in &options.nodes {
        sizes.push(size(&options, nodes).await.with_context(|| format!("with {nodes} nodes"))?);
    }
    let result = judge(&options, sizes);
    show(Report::new(options.how.json), &result)?;
    Ok(if result.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn size(options: &Options, nodes: u16) -> Result<Size> {
    let mut progress = Progress::new();
    let plan = options.how.plan(nodes, private_cluster_name(), Some(DRILL_ENGINE.to_owned()))?;
    let mut cluster = Cluster::start(&plan)?;
    let formed = cluster.wait_until_formed(options.how.formed_limit(), &mut progress).await?;
    progress.show(format!("{nodes} nodes: left alone for {} s", options.seconds));
    tokio::time::sleep(SETTLE).await;
    let idle = idle(&mut cluster, Duration::from_secs(options.seconds)).await?;
    progress.show(format!("{nodes} nodes: one is killed"));
    let victim = usize::from(nodes) - 1;
    let killed = kill(&mut cluster, victim).await?;
    progress.clear();
    let name = cluster.nodes()[victim].node_id().to_owned();
    let stopped = cluster.stop(std::future::pending()).await?;
    let directory = stopped.directory.display();
    ensure!(stopped.is_clean_but(&[name]), "not every node left with exit code 0: data and logs are in {directory}");
    stopped.remove_directory()?;
    let (ready_ms, formed_ms) = (formed.ready_ms, formed.formed_ms);
    Ok(Size { nodes, ready_ms, formed_ms, idle, killed })
}

/// What one node has counted and used so far.
#[derive(Clone, Copy, Debug)]
struct Taken {
    at: Instant,
    usage: Usage,
    sent_bytes: u64,
    sent_datagrams: u64,
    lost_peers: u64,
}

async fn take(cluster: &Cluster, index: usize) -> Result<Taken> {
    let node = &cluster.nodes()[index];
    let page = counters(cluster.client(index)).await?;
    let counted = |name: &str, labels: &[(&str, &str)]| {
        let found = page.sum(name, labels).map(|_| page.events(name, labels));
        found.with_context(|| format!("{} has no {name}: it is of an earlier version", node.node_id()))
    };
    let sent = [("direction", "sent")];
    let (sent_bytes, sent_datagrams) =
        (counted("shoal_gossip_bytes_total", &sent)?, counted("shoal_gossip_datagrams_total", &sent)?);
    let lost_peers = counted("shoal_peers_lost_total", &[])?;
    let pid = node.pid().with_context(|| format!("{} has ended", node.node_id()))?;
    Ok(Taken { at: Instant::now(), usage: Usage::of(pid)?, sent_bytes, sent_datagrams, lost_peers })
}

async fn idle(cluster: &mut Cluster, length: Duration) -> Result<Idle> {
    let count = cluster.nodes().len();
    let mut before = Vec::new();
    for index in 0..count {
        before.push(take(cluster, index).await?);
    }
    tokio::time::sleep(length).await;
    let mut spans = Vec::new();
    for (index, before) in before.into_iter().enumerate() {
        spans.push((before, take(cluster, index).await?));
    }
    cluster.ensure_all_run()?;
    let per_s = |of: fn(&Taken) -> f64| -> Spread {
        let rate = |(from, to): &(Taken, Taken)| (of(to) - of(from)) / (to.at - from.at).as_secs_f64();
        spans.iter().map(rate).collect()
    };
    Ok(Idle {
        cpu_percent: per_s(|taken| 100.0 * taken.usage.cpu_s),
        gossip_sent_kb_per_s: per_s(|taken| taken.sent_bytes as f64 / 1000.0),
        gossip_sent_datagrams_per_s: per_s(|taken| taken.sent_datagrams as f64),
        rss_mb: spans.iter().map(|(_, to)| to.usage.rss_mb).collect(),
        rss_anon_mb: spans.iter().map(|(_, to)| to.usage.rss_anon_mb).collect(),
        false_deaths: spans.iter().map(|(from, to)| to.lost_peers - from.lost_peers).sum(),
        false_deaths_starting: spans.iter().map(|(from, _)| from.lost_peers).sum(),
    })
}

/// One survivor, and when it was asked last.
struct Survivor {
    index: usize,
    asked: Instant,
    lost_before: u64,
}

/// Kills node `victim` and asks the others, as many at a time as [`ASKED_MAX`], until every one calls it dead.
async fn kill(cluster: &mut Cluster, victim: usize) -> Result<Killed> {
    let mut lost_before = Vec::new();
    for index in (0..cluster.nodes().len()).filter(|&index| index != victim) {
        lost_before.push((index, take(cluster, index).await?.lost_peers));
    }
    let name = cluster.nodes()[victim].node_id().to_owned();
    cluster.node_mut(victim).kill()?;
    let killed = Instant::now();
    let survivor = |&(index, lost_before): &(usize, u64)| Survivor { index, asked: killed, lost_before };
    let mut waiting: std::collections::VecDeque<Survivor> = lost_before.iter().map(survivor).collect();
    let mut told = Vec::new();
    let (mut first, mut last, mut error) = (None, Duration::ZERO, Duration::ZERO);
    while !waiting.is_empty() {
        if DETECTION_LIMIT < killed.elapsed() {
            bail!("{} survivors still call {name} alive {} s after its kill", waiting.len(), DETECTION_LIMIT.as_secs());
        }
        for _ in 0..waiting.len().min(ASKED_MAX) {
            let Some(mut survivor) = waiting.pop_front() else { break };
            let view = readiness(cluster.client(survivor.index)).await?;
            let at = Instant::now();
            error = error.max(at - survivor.asked);
            survivor.asked = at;
            if view.sees_alive(&name) {
                waiting.push_back(survivor);
                continue;
            }
            last = at - killed;
            first.get_or_insert(last);
            told.push(survivor);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut false_deaths = 0;
    for survivor in &told {
        // One of them was right.
        let lost = take(cluster, survivor.index).await?.lost_peers - survivor.lost_before;
        false_deaths += lost.saturating_sub(1);
    }
    let ms = |duration: Duration| millis(crate::stats::micros(duration));
    Ok(Killed { first_ms: ms(first.unwrap_or_default()), last_ms: ms(last), error_ms: ms(error), false_deaths })
}

fn judge(options: &Options, sizes: Vec<Size>) -> ScaleReport {
    let mut missed = Vec::new();
    let mut beyond = |nodes: u16, what: &str, value: f64, bound: f64| {
        if value.is_nan() || bound < value {
            missed.push(format!("{nodes} nodes: {what} {value:.1}, at most {bound:.1} wanted"));
        }
    };
    for Size { nodes, idle, killed, .. } in &sizes {
        beyond(*nodes, "resident MB", idle.rss_mb.max, options.rss_mb_max);
        beyond(*nodes, "false deaths", (idle.false_deaths + killed.false_deaths) as f64, 0.0);
        if *nodes == JUDGED_NODES {
            beyond(*nodes, "percent of a core", idle.cpu_percent.max, options.cpu_percent_max);
            beyond(*nodes, "kB of gossip a second", idle.gossip_sent_kb_per_s.max, options.gossip_kb_per_s_max);
            beyond(
                *nodes,
                "ms until all survivors call the killed node dead",
                killed.last_ms,
                options.detection_ms_max,
            );
        }
    }
    let verdict = match (missed.is_empty(), sizes.iter().any(|size| size.nodes == JUDGED_NODES)) {
        (false, _) => "goal missed",
        (true, true) => GOAL_MET,
        (true, false) => "goals of every size met; those of CPU time, gossip and detection belong to three nodes",
    };
    ScaleReport {
        bench: "scale",
        engine: DRILL_ENGINE,
        seconds: options.seconds,
        sizes,
        cpu_percent_max: options.cpu_percent_max,
        gossip_kb_per_s_max: options.gossip_kb_per_s_max,
        rss_mb_max: options.rss_mb_max,
        detection_ms_max: options.detection_ms_max,
        missed,
        verdict,
    }
}

fn show(report: Report, result: &ScaleReport) -> Result<()> {
    let pair = |spread: Spread| format!("{:.2} / {:.2}", spread.mean, spread.max);
    let row = |size: &Size| {
        let Size { nodes, ready_ms, formed_ms, idle, killed } = size;
        vec![
            nodes.to_string(),
            ready_ms.to_string(),
            formed_ms.to_string(),
            pair(idle.cpu_percent),
            pair(idle.gossip_sent_kb_per_s),
            format!("{:.0}", idle.gossip_sent_datagrams_per_s.mean),
            pair(idle.rss_mb),
            pair(idle.rss_anon_mb),
            format!("{:.0}", killed.first_ms),
            format!("{:.0} (-{:.0})", killed.last_ms, killed.error_ms),
            (idle.false_deaths + killed.false_deaths).to_string(),
        ]
    };
    let head = [
        "nodes",
        "ready ms",
        "formed ms",
        "cpu % (mean / max)",
        "gossip kB/s",
        "datagrams/s",
        "resident MB",
        "own MB",
        "first dead ms",
        "last dead ms",
        "false deaths",
    ];
    report.line(table(&head, &result.sizes.iter().map(row).collect::<Vec<_>>()))?;
    report.line(format_args!("per node; idle for {} s, engine {}", result.seconds, result.engine))?;
    for what in &result.missed {
        report.line(format_args!("  missed: {what}"))?;
    }
    report.line(format_args!("verdict: {}", result.verdict))?;
    report.json(result)?;
    if result.sizes.is_empty() {
        remark("no size was asked for");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parsed;

    fn options() -> Options {
        parsed(&[])
    }

    fn size(nodes: u16, change: impl FnOnce(&mut Size)) -> Size {
        let of = |value: f64| Spread { mean: value / 2.0, max: value };
        let idle = Idle {
            cpu_percent: of(2.0),
            gossip_sent_kb_per_s: of(15.0),
            gossip_sent_datagrams_per_s: of(60.0),
            rss_mb: of(60.0),
            rss_anon_mb: of(5.0),
            false_deaths: 0,
            false_deaths_starting: 9,
        };
        let killed = Killed { first_ms: 500.0, last_ms: 1000.0, error_ms: 25.0, false_deaths: 0 };
        let mut size = Size { nodes, ready_ms: 1, formed_ms: 1, idle, killed };
        change(&mut size);
        size
    }

    #[test]
    fn three_nodes_at_their_bounds_meet_them_and_beyond_any_one_they_miss_it() {
        assert_eq!(judge(&options(), vec![size(3, |_| {})]).verdict, GOAL_MET);
        type Change = fn(&mut Size);
        let changes: [(&str, Change); 7] = [
            ("percent of a core", |size| size.idle.cpu_percent.max = 2.1),
            ("kB of gossip", |size| size.idle.gossip_sent_kb_per_s.max = 15.1),
            ("resident MB", |size| size.idle.rss_mb.max = 60.1),
            ("false deaths", |size| size.idle.false_deaths = 1),
            ("false deaths", |size| size.killed.false_deaths = 1),
            ("ms until all survivors", |size| size.killed.last_ms = 1001.0),
            ("percent of a core", |size| size.idle.cpu_percent.max = f64::NAN),
        ];
        for (expected, change) in changes {
            let result = judge(&options(), vec![size(3, change)]);
            assert_eq!(result.verdict, "goal missed", "{expected}");
            assert!(result.missed.len() == 1 && result.missed[0].contains(expected), "{:?}", result.missed);
        }
    }

    #[test]
    fn sixty_nodes_on_one_machine_are_judged_by_memory_and_false_deaths_only() {
        let busy = |size: &mut Size| {
            size.idle.cpu_percent.max = 30.0;
            size.idle.gossip_sent_kb_per_s.max = 300.0;
            size.killed.last_ms = 5000.0;
        };
        assert!(judge(&options(), vec![size(60, busy)]).missed.is_empty());
        let result = judge(&options(), vec![size(3, |_| {}), size(60, |size| size.idle.false_deaths = 2)]);
        assert_eq!(result.missed, ["60 nodes: false deaths 2.0, at most 0.0 wanted"]);
    }

    #[test]
    fn a_spread_is_the_mean_and_the_largest() {
        assert_eq!([1.0, 5.0, 3.0].into_iter().collect::<Spread>(), Spread { mean: 3.0, max: 5.0 });
        assert_eq!([].into_iter().collect::<Spread>(), Spread { mean: 0.0, max: 0.0 });
    }
}
