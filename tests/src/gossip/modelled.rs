//! The simulator's model of gossip, in virtual time.
//!
//! For the suite, as one of two forms of `Shoal`.
//! Invariants: the same seed gives the same views at the same times; a node reads what its gossip knows as often as the
//! real one does, because that is part of how late it hears.

use std::collections::BTreeMap;

use cluster_sim::sim::gossip::Known;
use cluster_sim::sim::ring::Ring;
use shoal_core::lifecycle::Standing;
use shoal_core::prng::Prng;
use shoal_core::time::Micros;

use super::{Seen, Shoal, Views};

/// How often the real adaptor reads its members.
const READ_INTERVAL: Micros = Micros::from_ms(50);

/// Nodes of the model.
#[derive(Debug)]
pub struct Modelled {
    ring: Ring,
    now: Micros,
    runs: Vec<u64>,
    /// When each running node reads next.
    reads: BTreeMap<usize, Micros>,
    views: Views,
    chance: Prng,
}

impl Modelled {
    /// `nodes` nodes, none of which runs.
    #[must_use]
    pub fn new(nodes: usize, seed: u64) -> Self {
        Self {
            ring: Ring::silent(nodes, 0, seed),
            now: Micros::ZERO,
            runs: vec![0; nodes],
            reads: BTreeMap::new(),
            views: Views::default(),
            chance: Prng::new(seed),
        }
    }

    fn go_to(&mut self, at: Micros) {
        self.ring.rest(Micros::new(at.get() - self.now.get()));
        self.now = at;
    }

    fn read(&mut self, observer: usize) {
        let mut known = Vec::new();
        self.ring.known(observer, &mut known);
        self.views.set(observer, known.iter().map(|known| (known.node, seen(known))).collect());
    }
}

impl Shoal for Modelled {
    fn start(&mut self, node: usize) {
        self.runs[node] += 1;
        // The first round is due at once. Reads lie anyhow to the rounds: the real ones drift, because a late one
        // delays those after it.
        self.ring.start(node, Micros::ZERO);
        let drift = self.chance.below(usize::try_from(READ_INTERVAL.get()).expect("some milliseconds"));
        self.reads.insert(node, self.now + Micros::new(drift as u64));
        self.views.begin(node);
    }

    fn stop(&mut self, node: usize) {
        self.ring.kill(node);
        self.reads.remove(&node);
        self.views.end(node);
    }

    fn announce(&mut self, node: usize, standing: Standing, report: u64) {
        let report = super::report(self.runs[node], standing, report);
        self.ring.announce_with_load(node, standing, report);
    }

    fn views(&self) -> &Views {
        &self.views
    }

    fn until(&mut self, limit: f64, done: &mut dyn FnMut(&Views) -> bool) -> Option<f64> {
        let (began, interval) = (self.now, self.ring.interval().get() as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let deadline = began + Micros::new((limit * interval) as u64);
        while !done(&self.views) {
            let next = self.reads.iter().map(|(&node, &at)| (at, node)).min();
            let Some((at, node)) = next.filter(|&(at, _)| at <= deadline) else {
                self.go_to(deadline);
                return None;
            };
            self.go_to(at);
            self.read(node);
            self.reads.insert(node, at + READ_INTERVAL);
        }
        Some((self.now.get() - began.get()) as f64 / interval)
    }

    fn was_disturbed(&self) -> bool {
        false
    }
}

fn seen(known: &Known) -> Seen {
    let Known { alive, announced, .. } = *known;
    let report = announced.load.map_or(0, |report| report.seq);
    Seen { alive, run: announced.boot, standing: announced.standing, report }
}
