//! Several nodes that are to become one shoal.
//!
//! For the suite. Invariants: each node names all others as seeds, so the order of starting does not matter; all
//! carry a cluster name that no other test has.

use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

use crate::node::{Node, Plan};
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
    let plans: Vec<Plan> = (1..=count).map(|number| Plan::new(&format!("node-{number}"), engine)).collect();
    let seeds: Vec<_> = plans.iter().map(Plan::peer).collect();
    let cluster = format!("test-{}", seeds[0].port());
    let mut wired = Vec::new();
    for plan in plans {
        let others: Vec<_> = seeds.iter().filter(|seed| **seed != plan.peer()).collect();
        wired.push(others.into_iter().fold(plan.cluster(&cluster).config(MARGIN), |plan, seed| plan.seed(seed)));
    }
    wired
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
