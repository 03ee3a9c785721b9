//! What the machine of decisions thinks, as metrics: how often each rule decided, and what it holds of itself and of
//! each peer.
//!
//! Part of `telemetry`. Read from the machine when somebody looks: counting costs the path of a request nothing.
//! Invariants: a peer has series only while the machine knows it; labels are names of rules and ids of peers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shoal_core::id::NodeId;
use shoal_core::node::Node;
use shoal_core::time::MonoTime;

use super::PeerLabel;

/// Labels of `shoal_decisions_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: &'static str,
}

/// Metrics that are read from the machine.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    decisions: Family<RuleLabel, Counter>,
    hot: Gauge,
    load_ratio: Gauge<f64, AtomicU64>,
    peer_blocked: Family<PeerLabel, Gauge>,
    peer_paused: Family<PeerLabel, Gauge>,
    peer_stretch_ratio: Family<PeerLabel, Gauge<f64, AtomicU64>>,
    /// The peers that have series.
    shown: Mutex<BTreeSet<NodeId>>,
}

impl Decisions {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("decisions", "How often each rule decided something", self.decisions.clone());
        registry.register("hot", "1 while this node is above the bound of the 75 % rule", self.hot.clone());
        registry.register("load_ratio", "Part of this node in use, as the 75 % rule sees it", self.load_ratio.clone());
        registry.register("peer_blocked", "1 while a peer's connection fails", self.peer_blocked.clone());
        registry.register("peer_paused", "1 while a peer is paused for its errors", self.peer_paused.clone());
        let stretch = self.peer_stretch_ratio.clone();
        registry.register("peer_stretch_ratio", "How long a peer takes, measured against its own word", stretch);
    }

    /// Reads `node`. Whoever calls holds the machine, so one reading ends before the next begins.
    pub(super) fn show(&self, node: &Node, now: MonoTime) {
        for (rule, count) in node.exercised() {
            self.decisions.get_or_create(&RuleLabel { rule }).inner().store(count, Ordering::Relaxed);
        }
        let gauges = node.gauges(now);
        self.hot.set(gauges.hot.into());
        self.load_ratio.set(f64::from(gauges.load.get()) / 100.0);
        let mut peers = BTreeSet::new();
        for peer in node.peers(now) {
            let label = PeerLabel { peer: peer.facts.id.to_string() };
            self.peer_blocked.get_or_create(&label).set((!peer.gate.passes()).into());
            self.peer_paused.get_or_create(&label).set(peer.paused.into());
            self.peer_stretch_ratio.get_or_create(&label).set(peer.stretch_permille as f64 / 1000.0);
            peers.insert(peer.facts.id.clone());
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&peers) {
            let label = PeerLabel { peer: gone.to_string() };
            self.peer_blocked.remove(&label);
            self.peer_paused.remove(&label);
            self.peer_stretch_ratio.remove(&label);
        }
        *shown = peers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use shoal_core::id::BootId;
    use shoal_core::lifecycle::Standing;
    use shoal_core::node::{Input, Rules};
    use shoal_core::peers::PeerFacts;
    use shoal_core::tally::Rule;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn every_rule_has_a_count_and_a_peer_series_only_while_it_is_known() {
        let (decisions, mut registry) = (Decisions::default(), Registry::with_prefix("shoal"));
        decisions.register(&mut registry);
        let id = NodeId::new("here").unwrap();
        let mut node = Node::new(id, BootId(1), Rules::default(), 1);
        let now = MonoTime::START;
        let peer = PeerFacts {
            id: NodeId::new("there").unwrap(),
            boot: BootId(1),
            alive: true,
            standing: Standing::Ready,
            serves: true,
            weight: 100,
            backup: false,
            load: None,
        };
        node.step(now, Input::Membership(vec![peer]), &mut Vec::new());
        decisions.show(&node, now);
        let told = text(&registry);
        for rule in Rule::ALL {
            let series = format!("shoal_decisions_total{{rule=\"{}\"}} 0", rule.name());
            assert!(told.contains(&series), "{series} is not in {told}");
        }
        for series in ["shoal_peer_blocked{peer=\"there\"} 0", "shoal_peer_paused{peer=\"there\"} 0", "shoal_hot 0"] {
            assert!(told.contains(series), "{series} is not in {told}");
        }
        node.step(now, Input::Membership(Vec::new()), &mut Vec::new());
        decisions.show(&node, now);
        assert!(!text(&registry).contains("there"));
    }

    #[test]
    fn every_rule_is_explained_to_the_operator() {
        let readme = include_str!("../../../deploy/README.md");
        for rule in Rule::ALL {
            let row = format!("| `{}` | ", rule.name());
            assert!(readme.contains(&row), "add a row for `{}` to the rules in deploy/README.md", rule.name());
        }
    }
}
