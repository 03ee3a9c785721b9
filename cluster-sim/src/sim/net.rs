//! What becomes of a datagram, and of bytes on a connection, between two nodes.
//!
//! For `world`. A lost datagram is gone; lost bytes of a connection come late, because TCP sends them again; bytes into
//! a cut wait until it heals or somebody gives up.
//! Invariants: a link is one way: what holds from A to B says nothing of the way back.

use shoal_core::time::Micros;

use super::chance::Chance;

const STREAMS_CUT: u8 = 1;
const DATAGRAMS_CUT: u8 = 2;

/// Time that TCP waits before it sends lost bytes again: the least of Linux.
const RESEND_AFTER: Micros = Micros::from_ms(200);

/// A healthy network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetRules {
    /// Shortest way from one node to another.
    pub way_min: Micros,
    /// Up to so much more by chance.
    pub way_jitter: Micros,
    /// Datagrams in a thousand that are lost.
    pub loss_permille: u32,
    /// Datagrams in a thousand that come twice.
    pub duplicate_permille: u32,
    /// Messages on connections in a thousand that are lost and sent again.
    pub resend_permille: u32,
}

impl Default for NetRules {
    fn default() -> Self {
        Self {
            way_min: Micros::new(150),
            way_jitter: Micros::new(200),
            loss_permille: 0,
            duplicate_permille: 0,
            resend_permille: 0,
        }
    }
}

/// What a fault cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Connections.
    Streams,
    /// Gossip.
    Datagrams,
    /// Everything.
    Both,
}

/// The links between all nodes.
#[derive(Debug)]
pub struct Net {
    rules: NetRules,
    /// As the rules are now, faults included.
    loss_permille: u32,
    nodes: usize,
    /// One set of flags for each ordered pair.
    cut: Vec<u8>,
    cuts: usize,
    /// What the ways to and from a node take beside.
    slow: Vec<Micros>,
    chance: Chance,
}

impl Net {
    /// All nodes reach each other.
    #[must_use]
    pub fn new(rules: NetRules, nodes: usize, seed: u64) -> Self {
        Self {
            rules,
            loss_permille: rules.loss_permille,
            nodes,
            cut: vec![0; nodes * nodes],
            cuts: 0,
            slow: vec![Micros::ZERO; nodes],
            chance: Chance::new(seed, "net", 0),
        }
    }

    /// Time of a message from one node to another when nothing goes wrong.
    pub fn way(&mut self, from: usize, to: usize) -> Micros {
        let jitter = self.chance.below(usize::try_from(self.rules.way_jitter.get()).unwrap_or(0));
        let slow = self.slow[from] + self.slow[to];
        let slow = if slow == Micros::ZERO { slow } else { slow.permille(self.chance.between(500, 1500)) };
        self.rules.way_min + Micros::new(jitter as u64) + slow
    }

    /// Times after which a datagram arrives: none when it is lost, two when it is duplicated.
    pub fn datagram(&mut self, from: usize, to: usize) -> [Option<Micros>; 2] {
        if self.is_cut(from, to, Traffic::Datagrams) || self.chance.happens(self.loss_permille) {
            return [None, None];
        }
        let first = self.way(from, to);
        let twice = self.chance.happens(self.rules.duplicate_permille);
        [Some(first), twice.then(|| self.way(from, to))]
    }

    /// Time after which bytes on a connection arrive; `None` while the link is cut.
    pub fn bytes(&mut self, from: usize, to: usize) -> Option<Micros> {
        if self.is_cut(from, to, Traffic::Streams) {
            return None;
        }
        let way = self.way(from, to);
        let lost = self.chance.happens(self.rules.resend_permille);
        Some(if lost { way + RESEND_AFTER } else { way })
    }

    /// How long after the end of a cut TCP sends again what waited in it.
    pub fn resend(&mut self) -> Micros {
        Micros::new(self.chance.between(1_000, RESEND_AFTER.get()))
    }

    /// Whether all of `traffic` from one node to another is cut.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize, traffic: Traffic) -> bool {
        let bits = bits(traffic);
        self.cuts != 0 && self.cut[from * self.nodes + to] & bits == bits
    }

    /// Whether bytes get through in both directions, as an answer needs.
    #[must_use]
    pub fn connects(&self, one: usize, other: usize) -> bool {
        !self.is_cut(one, other, Traffic::Streams) && !self.is_cut(other, one, Traffic::Streams)
    }

    /// Cuts or joins one direction of one link.
    pub fn set_cut(&mut self, from: usize, to: usize, traffic: Traffic, cut: bool) {
        let flags = &mut self.cut[from * self.nodes + to];
        let before = *flags != 0;
        *flags = if cut { *flags | bits(traffic) } else { *flags & !bits(traffic) };
        let after = *flags != 0;
        self.cuts = self.cuts + usize::from(after) - usize::from(before);
    }

    /// Makes all ways to and from a node longer by about `extra`.
    pub fn set_slow(&mut self, node: usize, extra: Micros) {
        self.slow[node] = extra;
    }

    /// Loses so many datagrams in a thousand from now on, those of the healthy network at least.
    pub fn set_loss(&mut self, permille: u32) {
        self.loss_permille = permille.max(self.rules.loss_permille);
    }

    /// Joins everything.
    pub fn heal(&mut self) {
        self.cut.fill(0);
        self.slow.fill(Micros::ZERO);
        (self.cuts, self.loss_permille) = (0, self.rules.loss_permille);
    }
}

fn bits(traffic: Traffic) -> u8 {
    match traffic {
        Traffic::Streams => STREAMS_CUT,
        Traffic::Datagrams => DATAGRAMS_CUT,
        Traffic::Both => STREAMS_CUT | DATAGRAMS_CUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_one_way_and_of_one_kind() {
        let mut net = Net::new(NetRules::default(), 3, 1);
        net.set_cut(0, 1, Traffic::Streams, true);
        assert_eq!(net.bytes(0, 1), None);
        assert!(net.bytes(1, 0).is_some() && net.datagram(0, 1)[0].is_some() && net.bytes(0, 2).is_some());
        assert!(!net.connects(1, 0) && net.connects(0, 2));
        net.set_cut(0, 1, Traffic::Both, true);
        assert_eq!(net.datagram(0, 1), [None, None]);
        net.set_cut(0, 1, Traffic::Streams, false);
        assert!(net.bytes(0, 1).is_some() && net.datagram(0, 1)[0].is_none());
        net.heal();
        assert!(net.connects(0, 1) && net.datagram(0, 1)[0].is_some());
    }

    #[test]
    fn loss_takes_datagrams_and_only_delays_connections() {
        let rules = NetRules { resend_permille: 100, duplicate_permille: 100, ..NetRules::default() };
        let mut net = Net::new(rules, 2, 1);
        net.set_loss(200);
        let sent: Vec<_> = (0..10_000).map(|_| net.datagram(0, 1)).collect();
        let lost = sent.iter().filter(|ways| ways[0].is_none()).count();
        let twice = sent.iter().filter(|ways| ways[1].is_some()).count();
        assert!(lost.abs_diff(2000) < 200 && twice.abs_diff(800) < 150, "{lost} {twice}");
        let late = (0..10_000).filter_map(|_| net.bytes(0, 1)).filter(|way| RESEND_AFTER <= *way).count();
        assert!(late.abs_diff(1000) < 150, "{late}");
    }

    #[test]
    fn a_slow_node_is_slow_for_all_who_talk_to_it() {
        let mut net = Net::new(NetRules::default(), 3, 1);
        net.set_slow(1, Micros::from_ms(50));
        assert!(Micros::from_ms(25) < net.way(0, 1) && Micros::from_ms(25) < net.way(1, 2));
        assert!(net.way(0, 2) < Micros::from_ms(1));
    }
}
