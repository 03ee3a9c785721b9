//! `cluster-sim up`: a shoal to play with, until Ctrl-C.
//!
//! For people and for `make demo`. Prints what to copy once all see all, reports nodes that end meanwhile (killing one
//! by hand is what a demo is for), and drains all on the first Ctrl-C or SIGTERM; a second one is passed on.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cluster::{Cluster, End, Formed, describe_end};
use crate::options::NodeOptions;
use crate::report::{Progress, Report, remark, table};

/// How often it is looked whether a node has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Start a real shoal on loopback and keep it until Ctrl-C
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    /// Name or directory of the model [default: the node's own default]
    #[arg(long, value_name = "NAME_OR_DIR")]
    model: Option<String>,
    /// Engine of every node: `candle` or `synthetic:DUR[,exp|,burn][,per_batch=DUR]` [default: the node's own default]
    #[arg(long, value_name = "SPEC")]
    engine: Option<String>,
    /// API port of the first node, the others follow; peer ports are 10000 above; 0 = any free ports
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    base_port: u16,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "demo")]
    cluster: String,
}

/// # Errors
/// The shoal could not be started or did not form; standard output is closed.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let report = Report::new(options.nodes.how.json);
    let mut signals = Signals::listen()?;
    let mut plan = options.nodes.plan(options.cluster.clone(), options.base_port, options.engine.clone())?;
    // As a user would run it.
    plan.cache = true;
    plan.model = options.model.clone();
    let mut cluster = Cluster::start(&plan)?;
    let mut progress = Progress::new();
    let formed = tokio::select! {
        formed = cluster.wait_until_formed(options.nodes.formed_limit(), &mut progress) => Some(formed?),
        () = signals.next() => None,
    };
    progress.clear();
    // A node that ended meanwhile was told then: whoever tries what a killed node does has not made `up` fail.
    let mut ended = Vec::new();
    if let Some(formed) = formed {
        announce(report, &cluster, &formed)?;
        ended = stay(report, &mut cluster, &mut signals).await?;
    }
    report.line("draining; once more Ctrl-C is faster")?;
    let stopped = cluster.stop(signals.next()).await?;
    farewell(report, &stopped.ends)?;
    if stopped.is_clean_but(&ended) {
        stopped.remove_directory()?;
        return Ok(ExitCode::SUCCESS);
    }
    remark(format_args!("data and logs: {}", stopped.directory.display()));
    Ok(ExitCode::FAILURE)
}

fn announce(report: Report, cluster: &Cluster, formed: &Formed) -> Result<()> {
    let rows = cluster.nodes().iter().zip(&formed.views).map(|(node, view)| {
        let seen = cluster.node_ids().filter(|other| view.sees_ready(other)).count();
        vec![
            node.node_id().to_owned(),
            view.engine.clone(),
            format!("http://{}", node.command.api),
            seen.to_string(),
            view.model.as_ref().map_or_else(|| "-".to_owned(), |model| model.name.clone()),
            node.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            node.command.log.display().to_string(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    report.line(format_args!(
        "{} nodes ready after {} ms; all saw all {} ms after the last was ready\n",
        rows.len(),
        formed.ready_ms,
        formed.formed_ms
    ))?;
    report.line(table(&["node", "engine", "API", "peers", "model", "pid", "log"], &rows))?;
    report.line("\nAny node answers, and hands on what another one finishes sooner:")?;
    for node in cluster.nodes() {
        report.line(format_args!(
            "  curl -si http://{}/embed -H 'content-type: application/json' -d '{{\"inputs\":\"Hello, shoal\"}}'",
            node.command.api
        ))?;
    }
    report.line("\nKill one with `kill -9 PID` and ask the others. Ctrl-C drains all.")?;
    let nodes = cluster.nodes().iter().zip(&formed.views).map(|(node, view)| {
        json!({
            "node": node.node_id(),
            "engine": view.engine,
            "api": format!("http://{}", node.command.api),
            "pid": node.pid(),
            "model": view.model.as_ref().map(|model| &model.name),
            "revision": view.model.as_ref().map(|model| &model.revision),
            "log": node.command.log,
        })
    });
    let nodes: Vec<_> = nodes.collect();
    let (ready_ms, formed_ms) = (formed.ready_ms, formed.formed_ms);
    report.json(&json!({ "event": "formed", "ready_ms": ready_ms, "formed_ms": formed_ms, "nodes": nodes }))?;
    Ok(())
}

/// Until a signal comes or no node is left; says which node ends meanwhile, and returns those.
async fn stay(report: Report, cluster: &mut Cluster, signals: &mut Signals) -> Result<Vec<String>> {
    let count = cluster.nodes().len();
    let mut reported = vec![false; count];
    let mut ended = Vec::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = signals.next() => return Ok(ended),
            _ = look.tick() => {}
        }
        for (index, reported) in reported.iter_mut().enumerate() {
            let node = cluster.node_mut(index);
            if let Some(status) = node.ended()?
                && !std::mem::replace(reported, true)
            {
                let (node_id, end) = (node.node_id(), describe_end(status));
                report.line(format_args!("{node_id} ended with {end}; its log: {}", node.command.log.display()))?;
                report.json(&json!({ "event": "ended", "node": node_id, "end": end }))?;
                ended.push(node_id.to_owned());
            }
        }
        if reported.iter().all(|&reported| reported) {
            // Nobody kills the last one to see what the others do.
            return Ok(Vec::new());
        }
    }
}

fn farewell(report: Report, ends: &[End]) -> Result<()> {
    report.line(ends.iter().map(|end| format!("{}: {}", end.node, end.end)).collect::<Vec<_>>().join(", "))?;
    report.json(&json!({ "event": "stopped", "nodes": ends }))?;
    Ok(())
}

/// Ctrl-C and SIGTERM. A signal that comes while nobody waits is kept for the next wait.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on neither signal ends the process by itself.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(crate) fn listen() -> Result<Self> {
        let handler = |kind| signal(kind).context("listening for signals");
        Ok(Self { interrupt: handler(SignalKind::interrupt())?, terminate: handler(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
