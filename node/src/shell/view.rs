//! The node as people and probes see it.
//!
//! Part of `shell`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_core::id::NodeId;
use shoal_core::time::{Micros, MonoTime};

use super::Shell;
use crate::job::{ModelView, NodeView, PeerView};

/// What the machine thinks of one peer.
struct Gate {
    id: NodeId,
    name: &'static str,
    paused: bool,
    wait: Option<Micros>,
}

impl Shell {
    pub(super) fn node_view(&self) -> NodeView {
        let facts = &self.0.facts;
        let members = self.0.members.load();
        let now = self.0.clock.now();
        let (engine, can_answer, jobs_held, gates) = {
            let state = self.lock();
            let node = &state.node;
            let gate = |peer: shoal_core::peers::PeerView<'_>| Gate {
                id: peer.facts.id.clone(),
                name: peer.gate.name(),
                paused: peer.paused,
                wait: peer.report.map(|report| report.wait),
            };
            let gates: Vec<Gate> = node.peers(now).map(gate).collect();
            let can_answer = node.can_answer(now) && !node.door().draining();
            (node.standing().name(), can_answer, node.gauges(now).jobs, gates)
        };
        let peer = |member: &crate::gossip::Member| {
            let known = gates.iter().find(|gate| gate.id == member.id);
            PeerView {
                node_id: member.id.shared(),
                api_addr: Arc::from(member.api_addr.as_str()),
                peer_addr: Arc::from(member.peer_addr.to_string()),
                alive: member.alive,
                gate: known.map_or("passing", |gate| gate.name),
                paused: known.is_some_and(|gate| gate.paused),
                weight: member.weight,
                backup: member.backup,
                engine: Arc::from(member.engine.as_str()),
                model: Arc::from(member.model.as_str()),
                wait_us: known.and_then(|gate| gate.wait).map(Micros::get),
                version: Arc::from(member.version.as_str()),
            }
        };
        NodeView {
            node_id: facts.node_id.shared(),
            cluster: facts.cluster.clone(),
            engine,
            engine_message: self.0.engine_message.load().to_string(),
            can_answer,
            gossip_runs: self.0.gossip_runs.load(Ordering::Relaxed),
            uptime_s: now.since(MonoTime::START).get() / 1_000_000,
            model: self.model_view(),
            peers: members.iter().map(peer).collect(),
            jobs_held,
        }
    }

    pub(super) fn model_view(&self) -> Option<ModelView> {
        let loaded = self.0.loaded.load();
        loaded.as_ref().map(|loaded| ModelView {
            name: loaded.name.clone(),
            revision: loaded.revision.clone(),
            precision: Arc::from(loaded.card.precision),
            dimensions: loaded.card.dimensions,
            tokens_max: loaded.card.tokens_max,
            pooling: loaded.card.pooling.name(),
            stand_in: loaded.card.stand_in,
            loaded_at_s: loaded.at_s,
        })
    }
}
