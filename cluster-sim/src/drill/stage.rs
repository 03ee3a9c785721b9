//! A scenario carried out: real nodes, real load, one step after the other.
//!
//! For `drill`. Collects the evidence for `judge`.
//! Invariants: every wait has a limit, and what did not come within it ends the drill with an error that says what;
//! the load runs from the first step to the last; who stands still at the end is let go on before the shoal is ended.
//! Not here: what the evidence means (`judge`).

mod waits;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cluster_sim::proxy::{FaultProxy, Faults, Passage, Rule};

use super::evidence::{Evidence, Fault, FaultKind, Phase, Setting};
use super::log::read_logs;
use super::scenario::{POISON, Protocol, Scenario, Step, Way};
use super::watch::{Forwards, forwards_to, not_at_rest, total};
use crate::cluster::{Cluster, ClusterPlan, NodeProcess, Stopped};
use crate::http::Client;
use crate::load::{Doors, Load, LoadPlan, check_samples};
use crate::options::{REQUESTS_MAX, capacity_per_s};
use crate::probe::counters;
use crate::report::Progress;
use crate::usage::Usage;

/// Longest single wait.
const WAIT_LIMIT: Duration = Duration::from_secs(45);
/// How long counters may need to come to rest after the last answer.
const REST_LIMIT: Duration = Duration::from_secs(5);

/// How a drill is run, beside its scenario.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) long: bool,
    pub(crate) seed: u64,
    pub(crate) formed_limit: Duration,
}

/// Carries `scenario` out on the shoal of `plan`.
///
/// # Errors
/// The shoal did not form, or a step did not come to its end.
pub(crate) async fn carry_out(
    scenario: &Scenario,
    plan: &ClusterPlan,
    run: &Run,
    progress: &mut Progress,
) -> Result<(Evidence, Stopped)> {
    let rate_per_s = scenario.rate_per_s()?;
    let mut cluster = Cluster::start(plan)?;
    let formed = cluster.wait_until_formed(run.formed_limit, progress).await?;
    let clients = cluster.api_addresses().into_iter().map(Client::new).collect();
    let node_ids: Vec<String> = cluster.node_ids().map(str::to_owned).collect();
    let doors = Arc::new(Doors::new(clients, node_ids.clone()));
    // Records are kept in memory: a drill that takes too long ends without load, and so without having proved anything.
    let longest = Duration::from_secs_f64(REQUESTS_MAX / rate_per_s);
    let load_plan = LoadPlan {
        rate_per_s,
        weights: scenario.weights(),
        seed: run.seed,
        duration_max: (scenario.longest(run.long, WAIT_LIMIT) + WAIT_LIMIT).min(longest),
        deadline_ms: scenario.load.deadline_ms,
        poison: Some(POISON),
    };
    // Who started first has sent datagrams to nodes that were not there yet.
    let lost_at_first = lost_datagrams(&cluster);
    let load = Load::start(Arc::clone(&doors), &load_plan)?;
    let first = Phase { name: "start".to_owned(), fault: false, from_us: 0, until_us: 0, rss_mb: Vec::new() };
    let nobody = Before { observers: Vec::new(), forwards: Vec::new(), worked: 0 };
    let late = plan.late.iter().map(|&node| (Fault::new(node, FaultKind::Late, 0, 0), nobody.clone())).collect();
    let mut stage = Stage { cluster, load, run, phases: vec![first], faults: late, suspended: BTreeSet::new() };
    let logs = stage.cluster.directory().display().to_string();
    stage.all_steps(scenario, progress).await.with_context(|| format!("logs: {logs}"))?;
    stage.end_phase();
    progress.show(format!("{}: until the last answer", run.name));
    stage.resume_all()?;
    let Stage { cluster, load, phases, faults, .. } = stage;
    let faults = faults.into_iter().map(|(fault, _)| fault).collect();
    let epoch_unix_us = load.epoch_unix_us();
    let (records, samples) = load.finish().await?;
    progress.show(format!("{}: checking answers and counters", run.name));
    let not_at_rest = not_at_rest(&cluster, REST_LIMIT).await;
    let checked = check_samples(&doors, run.seed, &samples).await;
    let late_answers = late_answers(&cluster).await;
    let lost_datagrams = lost_datagrams(&cluster).zip(lost_at_first).map(|(now, at_first)| now - at_first);
    let logs: Vec<_> = cluster.nodes().iter().map(|node| node.command.log.clone()).collect();
    let stopped = cluster.stop(std::future::pending()).await?;
    progress.clear();
    let setting = Setting {
        drill: run.name.clone(),
        long: run.long,
        nodes: scenario.nodes,
        engine: scenario.engine.clone(),
        rate_per_s,
        seed: run.seed,
        rounds: scenario.rounds,
        formed_ms: formed.formed_ms,
        capacity_per_s: capacity_per_s(&scenario.engine).map(|one| one * f64::from(scenario.nodes)),
        may_refuse: scenario.may_refuse(),
    };
    let told = read_logs(&logs, epoch_unix_us)?;
    let ends = stopped.ends.clone();
    let evidence = Evidence {
        setting,
        node_ids,
        records,
        phases,
        faults,
        told,
        late_answers,
        lost_datagrams,
        checked,
        not_at_rest,
        ends,
    };
    Ok((evidence, stopped))
}

/// Datagrams that the proxy has lost until now, over all pairs of nodes; `None` where there is no proxy.
fn lost_datagrams(cluster: &Cluster) -> Option<u64> {
    let proxy = cluster.proxy()?;
    let nodes = 0..cluster.nodes().len();
    let pairs = nodes.clone().flat_map(|from| nodes.clone().map(move |to| (from, to)));
    Some(pairs.map(|(from, to)| proxy.traffic(from, to).datagrams_lost).sum())
}

/// Answers that came after their job had moved on, over all nodes that run now.
async fn late_answers(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for (index, _) in cluster.nodes().iter().enumerate().filter(|(_, node)| node.is_running()) {
        let page = counters(cluster.client(index)).await;
        sum += page.map_or(0, |page| page.events("shoal_late_answers_total", &[]));
    }
    sum
}

struct Stage<'a> {
    cluster: Cluster,
    load: Load,
    run: &'a Run,
    phases: Vec<Phase>,
    /// In the order in which they came.
    faults: Vec<(Fault, Before)>,
    /// Nodes that stand still.
    suspended: BTreeSet<usize>,
}

/// What the others had handed to a node when it was hit, and had got done by it.
#[derive(Clone, Debug)]
struct Before {
    observers: Vec<usize>,
    forwards: Vec<Forwards>,
    worked: u64,
}

impl Stage<'_> {
    async fn all_steps(&mut self, scenario: &Scenario, progress: &mut Progress) -> Result<()> {
        let name = &self.run.name;
        progress.show(format!("{name}: before"));
        self.steps(&scenario.before, "before").await?;
        for number in 1..=scenario.rounds {
            if scenario.round.is_empty() {
                break;
            }
            let which = format!("round {number} of {}", scenario.rounds);
            progress.show(format!("{name}: {which}"));
            self.steps(&scenario.round, &which).await?;
        }
        progress.show(format!("{name}: after"));
        self.steps(&scenario.after, "after").await
    }

    async fn steps(&mut self, steps: &[Step], which: &str) -> Result<()> {
        for (index, step) in steps.iter().enumerate() {
            self.step(step).await.with_context(|| format!("{which}, step {}: {step:?}", index + 1))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Phase { name, fault } => self.begin_phase(name, *fault),
            Step::Wait { .. } => self.wait(step.longest(self.run.long, WAIT_LIMIT)).await?,
            Step::Rate { times } => self.load.set_rate(*times),
            Step::Poison { permille } => self.load.set_poison(*permille),
            Step::Kill { node } => {
                for node in indices(node.all()) {
                    self.hit(node, FaultKind::Kill).await?;
                    self.until_ended(node).await?;
                }
            }
            Step::Term { node } => {
                for node in indices(node.all()) {
                    self.hit(node, FaultKind::Term).await?;
                }
            }
            Step::Stop { node } => {
                for node in indices(node.all()) {
                    self.hit(node, FaultKind::Stop).await?;
                }
            }
            Step::Control { node, words } => {
                for node in indices(node.all()) {
                    self.control(node, words).await?;
                }
            }
            Step::Continue { node } => {
                for node in indices(node.all()) {
                    self.cluster.node_mut(node).resume()?;
                    self.suspended.remove(&node);
                    self.came_back(node);
                }
            }
            Step::Start { node } => {
                for node in indices(node.all()) {
                    self.cluster.node_mut(node).start()?;
                    self.came_back(node);
                }
            }
            Step::Link { .. } => self.link(step)?,
            Step::Heal => self.proxy()?.heal(),
            Step::Cable { node, pulled } => {
                let namespaces = self.cluster.namespaces().context("the nodes are in no namespaces of their own")?;
                for node in indices(node.all()) {
                    if *pulled { namespaces.cut(node)? } else { namespaces.heal(node)? }
                }
            }
            Step::UntilWorks { node, percent } => self.until_works(index(*node), percent / 100.0).await?,
            Step::UntilHoldsWork { node, jobs, jobs_long } => {
                let jobs = jobs_long.filter(|_| self.run.long).unwrap_or(*jobs);
                self.until_holds_work(index(*node), jobs).await?;
            }
            Step::UntilEnded { node } => {
                for node in indices(node.all()) {
                    self.until_ended(node).await?;
                }
            }
            Step::UntilGivenUp { node } => self.until_left(index(*node), true).await?,
            Step::UntilLeftAlone { node } => self.until_left(index(*node), false).await?,
            Step::UntilSeen { node } => {
                for node in indices(node.all()) {
                    self.cluster.wait_until_seen(node, WAIT_LIMIT).await?;
                    let now_us = self.load.now_us();
                    if let Some((fault, _)) = self.last_fault(node) {
                        fault.seen_us.get_or_insert(now_us);
                    }
                }
            }
            Step::UntilWorksAgain { node } => self.until_works_again(index(*node)).await?,
            Step::UntilFormed => {
                self.cluster.wait_until_formed(WAIT_LIMIT, &mut Progress::silent()).await?;
                let now_us = self.load.now_us();
                for (fault, _) in &mut self.faults {
                    if fault.back_us.is_some() {
                        fault.seen_us.get_or_insert(now_us);
                    }
                }
            }
        }
        Ok(())
    }

    fn proxy(&self) -> Result<&FaultProxy> {
        self.cluster.proxy().context("there is no proxy between the nodes: no step of the drill has a link")
    }

    fn link(&self, step: &Step) -> Result<()> {
        let Step::Link { from, to, both_ways, only, passage, delay_ms, jitter_ms, loss } = step else {
            bail!("this is no link");
        };
        let passage = match passage {
            Way::Open => Passage::Open,
            Way::Cut => Passage::Cut,
            Way::Reset => Passage::Reset,
        };
        let (delay, jitter) = (Duration::from_millis(*delay_ms), Duration::from_millis(*jitter_ms));
        let faults = Faults { passage, delay, jitter, loss: *loss, duplicate: 0.0 };
        let rule = match only {
            None => Rule::both(faults),
            Some(Protocol::Tcp) => Rule::tcp(faults),
            Some(Protocol::Udp) => Rule::udp(faults),
        };
        let proxy = self.proxy()?;
        for from in indices(from.all()) {
            for to in indices(to.all()) {
                if *both_ways { proxy.set_both_ways(from, to, rule)? } else { proxy.set(from, to, rule)? }
            }
        }
        Ok(())
    }

    fn begin_phase(&mut self, name: &str, fault: bool) {
        self.end_phase();
        let from_us = self.load.now_us();
        let (name, rss_mb) = (name.to_owned(), Vec::new());
        self.phases.push(Phase { name, fault, from_us, until_us: from_us, rss_mb });
    }

    fn end_phase(&mut self) {
        let now_us = self.load.now_us();
        // A node that has just ended has none.
        let rss_mb = |node: &NodeProcess| Some(Usage::of(node.pid()?).ok()?.rss_mb);
        let rss_mb = self.cluster.nodes().iter().filter_map(rss_mb).collect();
        let last = self.phases.last_mut().expect("there is a phase from the beginning");
        last.until_us = now_us;
        last.rss_mb = rss_mb;
    }

    async fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.cluster.ensure_all_run()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(Duration::from_millis(250))).await;
        }
    }

    fn node_id(&self, node: usize) -> String {
        self.cluster.nodes()[node].node_id().to_owned()
    }

    /// The nodes that can say what they hand to `node`.
    fn observers(&self, node: usize) -> Vec<usize> {
        let nodes = self.cluster.nodes().iter().enumerate();
        nodes
            .filter(|(other, process)| *other != node && process.is_running() && !self.suspended.contains(other))
            .map(|(other, _)| other)
            .collect()
    }

    fn last_fault(&mut self, node: usize) -> Option<&mut (Fault, Before)> {
        self.faults.iter_mut().rev().find(|(fault, _)| fault.node == node)
    }

    async fn hit(&mut self, node: usize, kind: FaultKind) -> Result<()> {
        let observers = self.observers(node);
        let forwards = forwards_to(&self.cluster, &self.node_id(node), &observers).await?;
        let before = Before { observers, worked: self.works_done(node), forwards };
        let at_us = self.load.now_us();
        match kind {
            FaultKind::Kill => self.cluster.node_mut(node).kill()?,
            FaultKind::Term => self.cluster.node_mut(node).terminate()?,
            FaultKind::Stop => {
                self.cluster.node_mut(node).suspend()?;
                self.suspended.insert(node);
            }
            FaultKind::Engine | FaultKind::Late => {}
        }
        let open_at_fault = total(&before.forwards).open();
        self.faults.push((Fault::new(node, kind, at_us, open_at_fault), before));
        Ok(())
    }

    async fn control(&mut self, node: usize, words: &str) -> Result<()> {
        if words.is_empty() {
            self.cluster.tell_engine(node, words)?;
            self.came_back(node);
            return Ok(());
        }
        self.hit(node, FaultKind::Engine).await?;
        self.cluster.tell_engine(node, words)
    }

    fn came_back(&mut self, node: usize) {
        let (now_us, worked) = (self.load.now_us(), self.works_done(node));
        if let Some((fault, before)) = self.last_fault(node) {
            fault.back_us.get_or_insert(now_us);
            before.worked = worked;
        }
    }

    fn resume_all(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.suspended) {
            self.cluster.node_mut(node).resume()?;
        }
        Ok(())
    }
}

fn index(node: u16) -> usize {
    usize::from(node) - 1
}

fn indices(nodes: &[u16]) -> impl Iterator<Item = usize> {
    nodes.iter().map(|&node| index(node))
}
