//! A shoal that only gossips, in two forms that are driven by the same words: real, and the simulator's model of it.
//!
//! For `gossip_conformance` in the suite. Time is counted in rounds: the time between two rounds of a node.
//! Invariants: a view is what the node itself would be told, when it would be told; a run of a node has a larger number
//! than the runs before it; both forms have the same settings.
//! Not here: what has to be true of a shoal (the suite).

mod loopback;
mod modelled;

use std::collections::BTreeMap;

use shoal_core::cost::Cost;
use shoal_core::id::BootId;
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::time::Micros;

pub use loopback::Loopback;
pub use modelled::Modelled;

/// Nodes that gossip. Nodes 0 and 1 are everybody's seeds.
pub trait Shoal {
    /// Starts the next run of `node`, which must not run.
    fn start(&mut self, node: usize);

    /// Ends `node` without a word to the others.
    fn stop(&mut self, node: usize);

    /// `node` announces what it is up to, and its load report number `report`; 0 = no report.
    fn announce(&mut self, node: usize, standing: Standing, report: u64);

    /// What the nodes know now.
    fn views(&self) -> &Views;

    /// Lets time go by until `done`, which is asked after every change of a view. Returns after how many rounds, `None`
    /// when it is not within `limit` rounds.
    fn until(&mut self, limit: f64, done: &mut dyn FnMut(&Views) -> bool) -> Option<f64>;

    /// Whether the machine stood still for so long that the times are not those of the gossip.
    fn was_disturbed(&self) -> bool;
}

/// What one node knows of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its heartbeats come.
    pub alive: bool,
    /// Which run of it; the first is 1.
    pub run: u64,
    /// What it says it is up to.
    pub standing: Standing,
    /// Number of its newest load report; 0 = none.
    pub report: u64,
}

/// What each running node knows of the others.
#[derive(Debug, Default)]
pub struct Views {
    of: BTreeMap<usize, BTreeMap<usize, Seen>>,
}

impl Views {
    /// What `observer` knows of `node`; `None` when it does not run, or has not heard of it.
    #[must_use]
    pub fn seen(&self, observer: usize, node: usize) -> Option<Seen> {
        self.of.get(&observer)?.get(&node).copied()
    }

    /// All nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.of.keys().copied()
    }

    /// What every other running node knows of `node`.
    pub fn all_of(&self, node: usize) -> impl Iterator<Item = (usize, Option<Seen>)> + '_ {
        self.running().filter(move |&other| other != node).map(move |other| (other, self.seen(other, node)))
    }

    /// Whether all other running nodes know something of `node`, and `holds` of it.
    pub fn all_see(&self, node: usize, holds: impl Fn(Seen) -> bool) -> bool {
        self.all_of(node).all(|(_, seen)| seen.is_some_and(&holds))
    }

    fn begin(&mut self, node: usize) {
        self.of.insert(node, BTreeMap::new());
    }

    fn end(&mut self, node: usize) {
        self.of.remove(&node);
    }

    fn set(&mut self, observer: usize, seen: BTreeMap<usize, Seen>) {
        self.of.insert(observer, seen);
    }
}

/// A believable report of which only its number matters.
fn report(run: u64, standing: Standing, number: u64) -> Option<Report> {
    (0 < number).then(|| Report {
        boot: BootId(run),
        seq: number,
        wait: Micros::ZERO,
        cost: Cost { fixed: Micros::from_ms(1), per_unit_ns: 1 },
        standing,
        held: 0,
        slots: 1,
        busy: None,
        memory: None,
    })
}
