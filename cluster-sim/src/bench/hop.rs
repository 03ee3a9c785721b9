//! `cluster-sim bench hop`: what one forward costs, beside nginx and HAProxy.
//!
//! One node with an engine that takes no time is asked in four ways: directly, through a node that computes nothing and
//! so forwards everything, through nginx, and through HAProxy. All ways take turns within every round, so the machine's
//! moods meet them all, and every second round goes backwards. What is compared is taken within a round; what is shown
//! is the median of the rounds.
//! Not here: what a caller waits at a given rate (`tail`), the client (`closed`).

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::closed::{self, Closed, Connections, Exchange};
use crate::balancer::{self, Balancer, BalancerPlan, Method, Program, Server};
use crate::cluster::{Cluster, Setting, free_addresses};
use crate::options::{NodeOptions, private_cluster_name};
use crate::process_time;
use crate::report::{GOAL_MET, NOT_JUDGED, PROVED_NOTHING, Progress, Report, remark, table};
use crate::stats::median;

/// It answers at once, so that nothing but the way to it is measured.
const ENGINE: &str = "synthetic:0";
/// Which node computes, and which hands everything on.
const COMPUTES: usize = 0;
const FORWARDS: usize = 1;
/// Threads or processes of each balancer, as many as a node has threads for its callers on two cores.
const WORKERS: u16 = 2;
/// Before each turn is measured.
const WARM_UP: Duration = Duration::from_millis(300);
const PATH: &str = "/embed";
const JSON: &str = r#"{"inputs":"many fish move as one and have no leader"}"#;
/// Jobs that a node may hold: far above what the connections can bring.
const JOBS_MAX: u32 = 4096;

/// Measure what one forward costs, beside nginx and HAProxy in front of the same node
#[derive(Clone, Debug, clap::Args)]
#[command(mut_arg("nodes", just_two))]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    /// Connections that each way is asked over; may be given several times
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 64])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: Vec<u16>,
    /// Seconds of each way in each round
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Rounds; each has all ways
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Largest p50 that a forward may add at the fewest connections, in microseconds
    #[arg(long, value_name = "US", default_value_t = 120.0)]
    added_us_max: f64,
    /// Least throughput through a forward at the most connections, as a multiple of HAProxy's
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    ratio_min: f64,
}

/// One node computes and one forwards; there is nothing to choose.
fn just_two(nodes: clap::Arg) -> clap::Arg {
    nodes.default_value("2").value_parser(clap::value_parser!(u16).range(2..=2)).hide(true)
}

/// How the node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Direct,
    Forward,
    Nginx,
    HaProxy,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forward => "one forward",
            Self::Nginx => Program::Nginx.name(),
            Self::HaProxy => Program::HaProxy.name(),
        }
    }
}

/// A way that is there: where to ask, and which process stands between.
#[derive(Clone, Copy, Debug)]
struct Door {
    way: Way,
    address: SocketAddr,
    /// Process id of what is in front of the node.
    front: Option<u32>,
}

/// One way, one number of connections, one round.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
    /// CPU of a request, in microseconds, by who used it.
    node_us: f64,
    front_us: f64,
    generator_us: f64,
}

/// All rounds of one way at one number of connections: medians.
#[derive(Clone, Debug, Serialize)]
struct Row {
    way: Way,
    connections: u16,
    p50_us: f64,
    p99_us: f64,
    requests_per_s: f64,
    /// Median over the rounds of what this way's p50 has above the direct one's.
    added_p50_us: Option<f64>,
    /// Median over the rounds of this way's requests a second to HAProxy's.
    times_haproxy: Option<f64>,
    cpu_node_us: f64,
    cpu_front_us: Option<f64>,
    cpu_generator_us: f64,
}

#[derive(Debug, Serialize)]
struct HopReport {
    bench: &'static str,
    rounds: u32,
    seconds: u64,
    cores: usize,
    rows: Vec<Row>,
    /// What was not there to compare with, and why.
    missing: Vec<String>,
    added_us: Option<f64>,
    added_us_max: f64,
    times_haproxy: Option<f64>,
    times_haproxy_min: f64,
    verdict: &'static str,
}

/// # Errors
/// The nodes did not start, an answer was wrong, or standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let report = Report::new(options.nodes.how.json);
    let mut plan = options.nodes.plan(private_cluster_name(), 0, Some(ENGINE.to_owned()))?;
    // The second node forwards everything, and neither limits nor logs are part of what is measured.
    plan.settings = vec![Setting::of_node(FORWARDS, "node.weight", 0), Setting::of_all("admission.jobs_max", JOBS_MAX)];
    plan.log_level = "warn".to_owned();
    let mut cluster = Cluster::start(&plan)?;
    let mut progress = Progress::new();
    cluster.wait_until_formed(options.nodes.formed_limit(), &mut progress).await?;
    let (balancers, missing) = start_balancers(&cluster, report).await?;
    let doors = doors(&cluster, &balancers)?;
    let exchange = same_answer(&doors, &cluster).await?;

    let mut turns: Vec<Vec<Vec<Turn>>> = vec![vec![Vec::new(); options.connections.len()]; doors.len()];
    let node = cluster.nodes()[COMPUTES].pid().context("the node has ended")?;
    for round in 0..options.rounds {
        for (at, &connections) in options.connections.iter().enumerate() {
            let mut order: Vec<usize> = (0..doors.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let door = doors[index];
                progress.show(format!(
                    "round {} of {}: {} over {connections} connections",
                    round + 1,
                    options.rounds,
                    door.way.name()
                ));
                let (exchange, time) = (exchange.clone(), Duration::from_secs(options.seconds));
                let turn = move || take_turn(door, node, usize::from(connections), &exchange, time);
                let turn = tokio::task::spawn_blocking(turn).await?;
                turns[index][at].push(turn.with_context(|| format!("asking through {}", door.way.name()))?);
            }
        }
        cluster.ensure_all_run()?;
    }
    progress.clear();
    drop(balancers);
    let stopped = cluster.stop(std::future::pending()).await?;
    let result = judge(&options, &doors, &turns, missing);
    show(report, &result)?;
    match result.verdict {
        GOAL_MET if stopped.is_clean() => {
            stopped.remove_directory()?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => remark(format_args!("data and logs: {}", stopped.directory.display())),
    }
    Ok(if result.verdict == NOT_JUDGED { ExitCode::from(PROVED_NOTHING) } else { ExitCode::FAILURE })
}

/// Starts what is installed; returns beside it how to install the rest.
async fn start_balancers(cluster: &Cluster, report: Report) -> Result<(Vec<(Way, Balancer)>, Vec<String>)> {
    let server = Server { address: cluster.api_addresses()[COMPUTES], weight: 1 };
    let (installed, missing) = balancer::installed();
    let mut started = Vec::new();
    for installed in installed {
        let name = installed.program.name();
        let way = match installed.program {
            Program::Nginx => Way::Nginx,
            Program::HaProxy => Way::HaProxy,
        };
        let listen = free_addresses(1)?[0];
        let plan = BalancerPlan { listen, method: Method::InTurn, servers: vec![server], workers: WORKERS };
        let balancer = Balancer::start(&installed, &plan, &cluster.directory().join(name)).await?;
        report.line(format_args!("{name}, {}:\n{}", installed.version, balancer.configuration()))?;
        started.push((way, balancer));
    }
    Ok((started, missing))
}

fn doors(cluster: &Cluster, balancers: &[(Way, Balancer)]) -> Result<Vec<Door>> {
    let address = cluster.api_addresses();
    let front = cluster.nodes()[FORWARDS].pid().context("the node that forwards has ended")?;
    let mut doors = vec![
        Door { way: Way::Direct, address: address[COMPUTES], front: None },
        Door { way: Way::Forward, address: address[FORWARDS], front: Some(front) },
    ];
    doors.extend(balancers.iter().map(|(way, balancer)| {
        let (address, front) = (balancer.address(), Some(balancer.process()));
        Door { way: *way, address, front }
    }));
    Ok(doors)
}

/// Asks once through every door: all must give the same bytes, computed by the same node, and forwarded where that is
/// what is measured.
async fn same_answer(doors: &[Door], cluster: &Cluster) -> Result<Exchange> {
    let mut first: Option<Vec<u8>> = None;
    let computes = cluster.nodes()[COMPUTES].node_id();
    for door in doors {
        let answer = closed::ask(door.address, PATH, JSON).await?;
        let name = door.way.name();
        let hops = u8::from(door.way == Way::Forward);
        for expected in [format!("x-served-by: {computes}"), format!("x-shoal-hops: {hops}")] {
            let said = answer.head.lines().any(|line| line.eq_ignore_ascii_case(&expected));
            ensure!(said, "{name}: `{expected}` is not in the answer's head:\n{}", answer.head);
        }
        let first = first.get_or_insert_with(|| answer.body.clone());
        ensure!(*first == answer.body, "{name} answers other bytes than {}", doors[0].way.name());
    }
    let body = first.ok_or_else(|| anyhow!("there is no door"))?;
    Ok(Exchange::new(PATH, JSON, body))
}

/// Drives one way from a thread and a runtime of its own: one thread is the cheapest client, and disturbs least.
fn take_turn(door: Door, node: u32, connections: usize, exchange: &Exchange, time: Duration) -> Result<Turn> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let used = || -> Result<[Duration; 3]> {
        let front = door.front.map_or(Ok(Duration::ZERO), process_time::with_children)?;
        Ok([process_time::of(node)?, front, process_time::of(std::process::id())?])
    };
    runtime.block_on(async {
        let mut connections = Connections::dial(door.address, connections).await?;
        connections.drive(exchange, WARM_UP).await?;
        let before = used()?;
        let closed = connections.drive(exchange, time).await?;
        let after = used()?;
        Ok(turn(&closed, before, after))
    })
}

fn turn(closed: &Closed, before: [Duration; 3], after: [Duration; 3]) -> Turn {
    let requests = closed.requests().max(1) as f64;
    let each_us = |who: usize| after[who].saturating_sub(before[who]).as_secs_f64() * 1e6 / requests;
    Turn {
        p50_us: closed.percentile_us(0.5),
        p99_us: closed.percentile_us(0.99),
        per_second: closed.per_second(),
        node_us: each_us(0),
        front_us: each_us(1),
        generator_us: each_us(2),
    }
}

/// `turns` by door, number of connections and round.
fn judge(options: &Options, doors: &[Door], turns: &[Vec<Vec<Turn>>], missing: Vec<String>) -> HopReport {
    let at = |way: Way| doors.iter().position(|door| door.way == way);
    let mut rows = Vec::new();
    for (column, &connections) in options.connections.iter().enumerate() {
        for (index, door) in doors.iter().enumerate() {
            let own = &turns[index][column];
            let of = |value: fn(&Turn) -> f64| median(own.iter().map(value));
            // Within a round the machine was in the same mood for both.
            let against = |other: Option<usize>, compare: fn(&Turn, &Turn) -> f64| {
                let other = &turns[other?][column];
                median(own.iter().zip(other).map(|(own, other)| compare(own, other)))
            };
            rows.push(Row {
                way: door.way,
                connections,
                p50_us: of(|turn| turn.p50_us).unwrap_or_default(),
                p99_us: of(|turn| turn.p99_us).unwrap_or_default(),
                requests_per_s: of(|turn| turn.per_second).unwrap_or_default(),
                added_p50_us: against(at(Way::Direct).filter(|&it| it != index), |own, direct| {
                    own.p50_us - direct.p50_us
                }),
                times_haproxy: against(at(Way::HaProxy), |own, haproxy| own.per_second / haproxy.per_second),
                cpu_node_us: of(|turn| turn.node_us).unwrap_or_default(),
                cpu_front_us: door.front.and_then(|_| of(|turn| turn.front_us)),
                cpu_generator_us: of(|turn| turn.generator_us).unwrap_or_default(),
            });
        }
    }
    let forward = |connections: Option<&u16>| {
        rows.iter().find(|row| row.way == Way::Forward && Some(&row.connections) == connections)
    };
    let added_us = forward(options.connections.iter().min()).and_then(|row| row.added_p50_us);
    let times_haproxy = forward(options.connections.iter().max()).and_then(|row| row.times_haproxy);
    let verdict = match (added_us, times_haproxy) {
        (Some(added), _) if options.added_us_max < added => "goal missed: a forward adds too much",
        (Some(_), Some(times)) if times < options.ratio_min => "goal missed: too few requests through a forward",
        (Some(_), Some(_)) => GOAL_MET,
        (_, _) => NOT_JUDGED,
    };
    HopReport {
        bench: "hop",
        rounds: options.rounds,
        seconds: options.seconds,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        rows,
        missing,
        added_us,
        added_us_max: options.added_us_max,
        times_haproxy,
        times_haproxy_min: options.ratio_min,
        verdict,
    }
}

fn show(report: Report, result: &HopReport) -> Result<()> {
    let optional =
        |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let row = |row: &Row| {
        vec![
            row.connections.to_string(),
            row.way.name().to_owned(),
            format!("{:.0}", row.p50_us),
            optional(row.added_p50_us, 0),
            format!("{:.0}", row.p99_us),
            format!("{:.0}", row.requests_per_s),
            optional(row.times_haproxy, 2),
            format!("{:.0}", row.cpu_node_us),
            optional(row.cpu_front_us, 0),
            format!("{:.0}", row.cpu_generator_us),
        ]
    };
    let head = [
        "connections",
        "way",
        "p50 us",
        "added us",
        "p99 us",
        "requests/s",
        "x haproxy",
        "node cpu us",
        "front cpu us",
        "generator cpu us",
    ];
    report.line(table(&head, &result.rows.iter().map(row).collect::<Vec<_>>()))?;
    for missing in &result.missing {
        report.line(format_args!("missing: {missing}"))?;
    }
    report.line(format_args!(
        "a forward adds {} us (goal: at most {:.0}) and carries {} times what haproxy does (goal: at least {:.2}); \
         {} cores for all",
        optional(result.added_us, 0),
        result.added_us_max,
        optional(result.times_haproxy, 2),
        result.times_haproxy_min,
        result.cores,
    ))?;
    report.line(format_args!("verdict: {}", result.verdict))?;
    report.json(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{parsed, try_parsed};

    fn options() -> Options {
        parsed(&[])
    }

    fn door(way: Way) -> Door {
        Door { way, address: SocketAddr::from(([127, 0, 0, 1], 1)), front: (way != Way::Direct).then_some(1) }
    }

    /// Three rounds of one way over one and over 64 connections; the machine is twice as slow in the second.
    fn rounds(p50_us: f64, per_second: f64) -> Vec<Vec<Turn>> {
        let turn = |mood: f64| Turn { p50_us: p50_us * mood, per_second: per_second / mood, ..Turn::default() };
        vec![[1.0, 2.0, 1.0].map(turn).to_vec(); 2]
    }

    fn verdict(forward: (f64, f64), haproxy: Option<f64>) -> HopReport {
        let mut doors = vec![door(Way::Direct), door(Way::Forward)];
        let mut turns = vec![rounds(50.0, 40_000.0), rounds(forward.0, forward.1)];
        let mut missing = Vec::new();
        match haproxy {
            Some(per_second) => {
                doors.push(door(Way::HaProxy));
                turns.push(rounds(80.0, per_second));
            }
            None => missing.push("haproxy is not there".to_owned()),
        }
        judge(&options(), &doors, &turns, missing)
    }

    #[test]
    fn the_goals_are_judged_by_what_is_compared_within_a_round() {
        let report = verdict((150.0, 20_000.0), Some(30_000.0));
        assert_eq!((report.added_us, report.verdict), (Some(100.0), GOAL_MET));
        assert!((report.times_haproxy.unwrap() - 2.0 / 3.0).abs() < 1e-9, "{report:?}");
        assert_eq!(verdict((171.0, 20_000.0), Some(30_000.0)).verdict, "goal missed: a forward adds too much");
        let few = verdict((150.0, 14_999.0), Some(30_000.0));
        assert_eq!(few.verdict, "goal missed: too few requests through a forward");
    }

    #[test]
    fn without_haproxy_the_rest_is_measured_and_nothing_is_called_met() {
        let report = verdict((150.0, 20_000.0), None);
        assert_eq!((report.verdict, report.missing.len()), (NOT_JUDGED, 1));
        assert_eq!((report.rows.len(), report.added_us, report.times_haproxy), (4, Some(100.0), None));
        assert!(report.rows.iter().all(|row| row.way != Way::HaProxy));
    }

    #[test]
    fn the_bench_has_two_nodes_and_no_other_number() {
        assert_eq!(options().nodes.nodes, 2);
        assert!(try_parsed::<Options>(&["--nodes", "3"]).is_err());
    }
}
