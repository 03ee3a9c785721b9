//! What happens to what one party sends another, as values.
//!
//! For `proxy` and whoever sets its rules.
//! Invariants: a rule that is in force was checked: shares are between 0 and 1, delays are bounded.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Pair;

/// Longest delay, jitter included.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The node with this place among the targets.
    Node(usize),
    /// Anybody else: a client, a test, a node whose process is not known or has just ended.
    Stranger,
}

impl From<usize> for Party {
    fn from(index: usize) -> Self {
        Self::Node(index)
    }
}

/// Whether anything passes at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    #[default]
    Open,
    /// A pulled cable: silence. Datagrams are lost; bytes of a connection wait until the cut is healed, and a new
    /// connection waits when either of its directions is cut.
    Cut,
    /// A firewall that rejects: connections with this direction are reset, old and new ones. Datagrams are lost.
    Reset,
}

/// What happens in one direction, by TCP or by UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    pub passage: Passage,
    /// Everything arrives so much later.
    pub delay: Duration,
    /// Each datagram or chunk arrives up to so much later still, evenly spread. Datagrams overtake each other by it;
    /// the bytes of a connection stay in order.
    pub jitter: Duration,
    /// Share of the datagrams that are lost; of the chunks of a connection, that arrive a retransmission later.
    pub loss: f64,
    /// Share of the datagrams that arrive twice. Means nothing for TCP.
    pub duplicate: f64,
}

impl Faults {
    pub const NONE: Self =
        Self { passage: Passage::Open, delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, duplicate: 0.0 };
    pub const CUT: Self = Self { passage: Passage::Cut, ..Self::NONE };
    pub const RESET: Self = Self { passage: Passage::Reset, ..Self::NONE };

    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::NONE }
    }

    /// `loss` is a share, 0 to 1.
    #[must_use]
    pub fn lossy(loss: f64) -> Self {
        Self { loss, ..Self::NONE }
    }

    fn check(&self, protocol: &str) -> Result<()> {
        for (name, share) in [("loss", self.loss), ("duplicate", self.duplicate)] {
            ensure!((0.0..=1.0).contains(&share), "{protocol} {name} is {share}; it is a share from 0 to 1");
        }
        let delay = self.delay.saturating_add(self.jitter);
        ensure!(delay <= DELAY_MAX, "{protocol} delay and jitter are {delay:?} together; at most {DELAY_MAX:?} can be");
        Ok(())
    }
}

/// What happens to all that one party sends another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rule {
    pub tcp: Faults,
    pub udp: Faults,
}

impl Rule {
    pub const NONE: Self = Self::both(Faults::NONE);
    pub const CUT: Self = Self::both(Faults::CUT);

    #[must_use]
    pub const fn both(faults: Faults) -> Self {
        Self { tcp: faults, udp: faults }
    }

    #[must_use]
    pub const fn tcp(faults: Faults) -> Self {
        Self { tcp: faults, udp: Faults::NONE }
    }

    #[must_use]
    pub const fn udp(faults: Faults) -> Self {
        Self { tcp: Faults::NONE, udp: faults }
    }
}

/// The rules of all pairs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    nodes: usize,
    /// Rows are senders, the last one strangers; so are columns receivers.
    table: Vec<Rule>,
}

impl Rules {
    pub(super) fn none(nodes: usize) -> Self {
        Self { nodes, table: vec![Rule::NONE; (nodes + 1) * (nodes + 1)] }
    }

    /// How many ordered pairs there are.
    pub(super) fn pairs(&self) -> usize {
        self.table.len()
    }

    /// The place of a pair in a table like this one; `None` for a node that is none of these.
    pub(super) fn index(&self, pair: Pair) -> Option<usize> {
        let place = |party| match party {
            Party::Node(index) => (index < self.nodes).then_some(index),
            Party::Stranger => Some(self.nodes),
        };
        Some(place(pair.from)? * (self.nodes + 1) + place(pair.to)?)
    }

    pub(super) fn between(&self, pair: Pair) -> Rule {
        self.index(pair).map_or(Rule::NONE, |index| self.table[index])
    }

    /// # Errors
    /// There is no such node, or the rule is none that can be.
    pub(super) fn set(mut self, pair: Pair, rule: Rule) -> Result<Self> {
        rule.tcp.check("TCP")?;
        rule.udp.check("UDP")?;
        let Some(index) = self.index(pair) else {
            bail!("no rule from {:?} to {:?} can be: the proxy has {} nodes", pair.from, pair.to, self.nodes);
        };
        self.table[index] = rule;
        Ok(self)
    }

    /// Whether somebody's connections to this node wait because of a cut.
    pub(super) fn is_cut_from_anybody(&self, node: usize) -> bool {
        let parties = (0..self.nodes).map(Party::Node).chain([Party::Stranger]);
        parties.into_iter().any(|other| {
            let pair = Pair { from: other, to: Party::Node(node) };
            [pair, pair.reversed()].into_iter().any(|pair| self.between(pair).tcp.passage == Passage::Cut)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(from: impl Into<Party>, to: impl Into<Party>) -> Pair {
        Pair { from: from.into(), to: to.into() }
    }

    #[test]
    fn a_rule_holds_for_its_ordered_pair_only() {
        let parties = [Party::Node(0), Party::Node(1), Party::Node(2), Party::Stranger];
        for from in parties {
            for to in parties {
                let rules = Rules::none(3).set(pair(from, to), Rule::CUT).unwrap();
                for (other_from, other_to) in parties.iter().flat_map(|a| parties.iter().map(move |b| (*a, *b))) {
                    let expected = if (other_from, other_to) == (from, to) { Rule::CUT } else { Rule::NONE };
                    assert_eq!(rules.between(pair(other_from, other_to)), expected, "{other_from:?} -> {other_to:?}");
                }
            }
        }
    }

    #[test]
    fn rules_that_cannot_be_are_refused_with_what_can() {
        let slow = Faults { jitter: Duration::from_secs(60), ..Faults::delayed(Duration::from_millis(1)) };
        for (from, rule, part) in [
            (0, Rule::udp(Faults::lossy(1.1)), "UDP loss is 1.1; it is a share from 0 to 1"),
            (0, Rule::tcp(Faults::lossy(f64::NAN)), "TCP loss is NaN"),
            (0, Rule::udp(Faults { duplicate: -0.1, ..Faults::NONE }), "UDP duplicate is -0.1"),
            (0, Rule::tcp(slow), "at most 60s"),
            (2, Rule::CUT, "the proxy has 2 nodes"),
        ] {
            let text = Rules::none(2).set(pair(from, 1), rule).unwrap_err().to_string();
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
