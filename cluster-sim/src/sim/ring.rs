//! A shoal that only gossips: the model of gossip by itself, without machines.
//!
//! For the tests of the model, and for a conformance suite that runs the same script against the real gossip.
//! Invariants: as in `gossip`; nothing but datagrams connects the nodes.

use shoal_core::lifecycle::Standing;
use shoal_core::time::{Micros, MonoTime};

use super::chance::Chance;
use super::gossip::{Announced, Gossip, GossipRules, Known};
use super::net::{Net, NetRules};
use super::queue::Queue;

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
    queue: Queue<Happens>,
    up: Vec<bool>,
    boots: Vec<u64>,
    now: MonoTime,
}

impl Ring {
    /// `nodes` nodes with [`GossipRules::default`] that start within one round, and a network that loses so many
    /// datagrams in a thousand.
    #[must_use]
    pub fn new(nodes: usize, loss_permille: u32, seed: u64) -> Self {
        let net = Net::new(NetRules { loss_permille, ..NetRules::default() }, nodes, seed);
        let gossip = Gossip::new(GossipRules::default(), nodes, seed);
        let (up, boots) = (vec![false; nodes], vec![0; nodes]);
        let mut ring = Self { gossip, net, queue: Queue::default(), up, boots, now: MonoTime::START };
        let mut chance = Chance::new(seed, "phases", 0);
        for node in 0..nodes {
            let phase = Micros::new(chance.between(0, ring.gossip.interval().get()));
            ring.start(node, phase);
        }
        ring
    }

    /// A process of `node` starts, is ready, and has its first round after `phase`.
    pub fn start(&mut self, node: usize, phase: Micros) {
        self.boots[node] += 1;
        let boot = self.boots[node];
        self.gossip.start(node, boot);
        self.up[node] = true;
        self.announce(node, Standing::Ready);
        self.queue.push(self.now + phase, Happens::Round { node, boot });
    }

    /// The process of `node` is gone.
    pub fn kill(&mut self, node: usize) {
        self.up[node] = false;
    }

    /// `node` announces what it is up to.
    pub fn announce(&mut self, node: usize, standing: Standing) {
        self.gossip.announce(node, Announced { boot: self.boots[node], standing, load: None });
    }

    /// Lets time go by until `done`, at most for `limit`. Returns how long it took, `None` when it was not done.
    pub fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool, limit: Micros) -> Option<Micros> {
        let began = self.now;
        while !done(self) {
            let (at, happens) = self.queue.pop()?;
            if limit < at.since(began) {
                self.queue.push(at, happens);
                self.now = began + limit;
                return None;
            }
            self.now = at;
            match happens {
                Happens::Round { node, boot } if self.up[node] && self.boots[node] == boot => {
                    let mut targets = Vec::new();
                    self.gossip.round(node, &mut targets);
                    targets.into_iter().for_each(|to| self.send(node, to, 0));
                    self.gossip.judge(node, at);
                    self.queue.push(at + self.gossip.interval(), happens);
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

    fn send(&mut self, from: usize, to: usize, part: u8) {
        for way in self.net.datagram(from, to).into_iter().flatten() {
            self.queue.push(self.now + way, Happens::Datagram { from, to, part });
        }
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
