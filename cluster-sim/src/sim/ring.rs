//! A shoal that only gossips: the model of gossip by itself, without machines.
//!
//! For the tests of the model, and for a conformance suite that runs the same script against the real gossip.
//! Invariants: as in `gossip`; nothing but datagrams connects the nodes.

use std::collections::BTreeMap;

use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::time::{Micros, MonoTime};

use super::chance::Chance;
use super::gossip::{Announced, Gossip, GossipRules, Known};
use super::net::{Net, NetRules};

#[derive(Clone, Copy, Debug)]
enum Happens {
    Round { node: usize, boot: u64 },
    Datagram { from: usize, to: usize, part: u8 },
}

/// Some nodes, their datagrams and their time.
#[derive(Debug)]
pub struct Ring {
    gossip: Gossip,
    /// The links between them.
    pub net: Net,
    /// What is to come, by time and by the order in which it was made. Not a `Queue`: that cannot look ahead without
    /// going ahead, and whoever lets time go by up to a moment must be able to add something right after it.
    coming: BTreeMap<(MonoTime, u64), Happens>,
    made: u64,
    up: Vec<bool>,
    boots: Vec<u64>,
    now: MonoTime,
}

impl Ring {
    /// `nodes` nodes with [`GossipRules::default`] that start within one round, and a network that loses so many
    /// datagrams in a thousand.
    #[must_use]
    pub fn new(nodes: usize, loss_permille: u32, seed: u64) -> Self {
        let mut ring = Self::silent(nodes, loss_permille, seed);
        let mut chance = Chance::new(seed, "phases", 0);
        for node in 0..nodes {
            let phase = Micros::new(chance.between(0, ring.gossip.interval().get()));
            ring.start(node, phase);
        }
        ring
    }

    /// The same nodes and network, but nobody runs yet.
    #[must_use]
    pub fn silent(nodes: usize, loss_permille: u32, seed: u64) -> Self {
        let net = Net::new(NetRules { loss_permille, ..NetRules::default() }, nodes, seed);
        let gossip = Gossip::new(GossipRules::default(), nodes, seed);
        let (up, boots) = (vec![false; nodes], vec![0; nodes]);
        Self { gossip, net, coming: BTreeMap::new(), made: 0, up, boots, now: MonoTime::START }
    }

    /// A process of `node` starts, is ready, and has its first round after `phase`.
    pub fn start(&mut self, node: usize, phase: Micros) {
        self.boots[node] += 1;
        let boot = self.boots[node];
        self.gossip.start(node, boot);
        self.up[node] = true;
        self.announce(node, Standing::Ready);
        self.push(self.now + phase, Happens::Round { node, boot });
    }

    /// The process of `node` is gone.
    pub fn kill(&mut self, node: usize) {
        self.up[node] = false;
    }

    /// `node` announces what it is up to.
    pub fn announce(&mut self, node: usize, standing: Standing) {
        self.announce_with_load(node, standing, None);
    }

    /// `node` announces what it is up to, and its load.
    pub fn announce_with_load(&mut self, node: usize, standing: Standing, load: Option<Report>) {
        self.gossip.announce(node, Announced { boot: self.boots[node], standing, load });
    }

    /// Lets time go by until `done`, at most for `limit`. Returns how long it took, `None` when it was not done.
    pub fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool, limit: Micros) -> Option<Micros> {
        let began = self.now;
        while !done(self) {
            let next = self.coming.first_entry().filter(|next| next.key().0 <= began + limit);
            let Some(next) = next else {
                self.now = began + limit;
                return None;
            };
            let ((at, _), happens) = next.remove_entry();
            self.now = at;
            match happens {
                Happens::Round { node, boot } if self.up[node] && self.boots[node] == boot => {
                    let mut targets = Vec::new();
                    self.gossip.round(node, &mut targets);
                    targets.into_iter().for_each(|to| self.send(node, to, 0));
                    self.gossip.judge(node, at);
                    self.push(at + self.gossip.interval(), happens);
                }
                Happens::Datagram { from, to, part } if self.up[to] => {
                    match part {
                        0 => self.gossip.on_syn(from, to, at),
                        1 => self.gossip.on_syn_ack(from, to, at),
                        _ => self.gossip.on_ack(from, to),
                    }
                    if part < 2 {
                        self.send(to, from, part + 1);
                    }
                }
                Happens::Round { .. } | Happens::Datagram { .. } => {}
            }
        }
        Some(self.now.since(began))
    }

    /// Lets `time` go by.
    pub fn rest(&mut self, time: Micros) {
        self.run_until(|_| false, time);
    }

    fn push(&mut self, at: MonoTime, happens: Happens) {
        self.coming.insert((at, self.made), happens);
        self.made += 1;
    }

    fn send(&mut self, from: usize, to: usize, part: u8) {
        for way in self.net.datagram(from, to).into_iter().flatten() {
            self.push(self.now + way, Happens::Datagram { from, to, part });
        }
    }

    /// All that `observer` knows of the others, into `known`.
    pub fn known(&self, observer: usize, known: &mut Vec<Known>) {
        self.gossip.known(observer, known);
    }

    /// What `observer` knows of `node`: whether it is alive, which of its processes it is, and what that announced.
    #[must_use]
    pub fn sees(&self, observer: usize, node: usize) -> Option<(bool, u64, Standing)> {
        let mut known: Vec<Known> = Vec::new();
        self.gossip.known(observer, &mut known);
        let known = known.into_iter().find(|known| known.node == node)?;
        Some((known.alive, known.announced.boot, known.announced.standing))
    }

    /// All others whose process runs.
    pub fn others(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.up.len()).filter(move |&other| other != node && self.up[other])
    }

    /// Whether all others know that of `node`.
    #[must_use]
    pub fn all_see(&self, node: usize, expected: (bool, u64, Standing)) -> bool {
        self.others(node).all(|other| self.sees(other, node) == Some(expected))
    }

    /// Time between two rounds of a node.
    #[must_use]
    pub fn interval(&self) -> Micros {
        self.gossip.interval()
    }
}

#[cfg(test)]
mod tests;
