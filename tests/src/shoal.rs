//! Several nodes that are to become one shoal.
//!
//! For the suite. Invariants: each node names all others as seeds, so the order of starting does not matter; all
//! carry a cluster name that no other test has.

use std::net::SocketAddr;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use cluster_sim::proxy::{FaultProxy, Target};

use crate::node::{Node, Plan};
use crate::ports;
use crate::wait::{self, LIMIT};

/// One inference on a machine that is busy with other tests can look slower by some milliseconds, and a quiet node
/// would hand its caller on for that. With this a node answers itself unless a peer is sooner by more than noise; the
/// shipped margin is what drills run with.
const MARGIN: &str = "[routing]\nmargin_ms_min = 50";

/// The nodes, in the order of their plans.
#[derive(Debug)]
pub struct Shoal(Vec<Node>);

/// Plans of `count` nodes, `node-1` to `node-N`, that all know each other's addresses.
#[must_use]
pub fn plans(count: usize, engine: &str) -> Vec<Plan> {
    let plans = unwired(count, engine);
    let seeds: Vec<_> = plans.iter().map(Plan::peer).collect();
    wired(plans, &seeds)
}

/// Each with a name, ports and nobody to ask.
fn unwired(count: usize, engine: &str) -> Vec<Plan> {
    (1..=count).map(|number| Plan::new(&format!("node-{number}"), engine)).collect()
}

/// All in one cluster, each seeded with the addresses of the others; `seeds` are in the order of the plans.
fn wired(plans: Vec<Plan>, seeds: &[SocketAddr]) -> Vec<Plan> {
    let cluster = format!("test-{}", seeds[0].port());
    let wire = |(own, plan): (usize, Plan)| {
        let others = seeds.iter().enumerate().filter(|(index, _)| *index != own);
        others.fold(plan.cluster(&cluster).config(MARGIN), |plan, (_, seed)| plan.seed(seed))
    };
    plans.into_iter().enumerate().map(wire).collect()
}

/// A shoal whose nodes reach each other only through a proxy, which knows them by their index.
///
/// # Panics
/// The proxy cannot be opened, or the nodes do not become ready and see each other.
#[must_use]
#[track_caller]
pub fn ready_behind_a_proxy(count: usize, engine: &str) -> (Shoal, FaultProxy) {
    let plans = unwired(count, engine);
    let targets = plans.iter().map(|plan| Target { node: plan.peer(), door: ports::free() });
    let proxy = FaultProxy::start(&targets.collect::<Vec<_>>(), 1).expect("the doors were free a moment ago");
    let doors: Vec<_> = proxy.doors().collect();
    let plans = wired(plans, &doors).into_iter().zip(&doors);
    let mut shoal = Shoal::start(plans.map(|(plan, door)| plan.flag("--advertise", &door.to_string())).collect());
    shoal.iter().enumerate().for_each(|(index, node)| proxy.learn_pid(index, Some(node.pid())));
    shoal.wait_formed();
    (shoal, proxy)
}

impl Shoal {
    /// Starts `count` nodes and waits until each is ready and sees every other one ready.
    ///
    /// # Panics
    /// They do not get there.
    #[must_use]
    #[track_caller]
    pub fn ready(count: usize, engine: &str) -> Self {
        let mut shoal = Self::start(plans(count, engine));
        shoal.wait_formed();
        shoal
    }

    /// Starts two nodes, of which the first cannot compute (its engine failed at its first inference) and sees the
    /// second one ready: whatever the first one is asked, the second one computes.
    ///
    /// # Panics
    /// They do not get there.
    #[must_use]
    #[track_caller]
    pub fn with_an_unable_door() -> Self {
        let plans = plans(2, "synthetic:0").into_iter().enumerate();
        let plans = plans.map(|(index, plan)| if index == 0 { plan.misbehaving("nan") } else { plan });
        let mut shoal = Self::start(plans.collect());
        shoal[1].wait_ready();
        shoal[0].wait_engine("failed");
        shoal[0].wait_sees("node-2", "ready");
        shoal
    }

    /// Starts nodes and waits for nothing.
    ///
    /// # Panics
    /// One cannot be started.
    #[must_use]
    pub fn start(plans: Vec<Plan>) -> Self {
        Self(plans.into_iter().map(Plan::start).collect())
    }

    /// Waits until every node is ready, sees every other one ready, and may give it work. Returns the time from the
    /// first to the second.
    ///
    /// # Panics
    /// They do not get there.
    #[track_caller]
    pub fn wait_formed(&mut self) -> Duration {
        self.0.iter_mut().for_each(Node::wait_ready);
        let all_ready = Instant::now();
        for node in &self.0 {
            self.0.iter().filter(|other| other.id() != node.id()).for_each(|other| node.wait_sees(other.id(), "ready"));
        }
        let formed = all_ready.elapsed();
        for node in &self.0 {
            // A node that came up a moment before another one has been refused there, and asks again soon.
            wait::until(&format!("every gate of {} passes", node.id()), LIMIT, || {
                self.0.iter().all(|other| other.id() == node.id() || node.peer(other.id())["gate"] == "passing")
            });
        }
        formed
    }

    /// All nodes.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// The sum of a metric over all nodes.
    ///
    /// # Panics
    /// A node does not answer, or has no such metric.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0.iter().map(|node| node.metric(name, labels)).sum()
    }

    /// Waits until no node holds work.
    ///
    /// # Panics
    /// One keeps some.
    #[track_caller]
    pub fn wait_rest(&self) {
        self.0.iter().for_each(Node::wait_rest);
    }
}

impl Index<usize> for Shoal {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.0[index]
    }
}

impl IndexMut<usize> for Shoal {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.0[index]
    }
}
