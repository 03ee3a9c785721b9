//! The node as people and probes see it.
//!
//! Part of `shell`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_core::time::MonoTime;

use super::Shell;
use crate::job::{ModelView, NodeView, PeerView};

impl Shell {
    pub(super) fn node_view(&self) -> NodeView {
        let facts = &self.0.facts;
        let members = self.0.members.load();
        let now = self.0.clock.now();
        let (engine, can_answer, jobs_held, gates) = {
            let state = self.lock();
            let gates: Vec<_> = state.node.peers().map(|(id, gate, load)| (id.clone(), gate.name(), load)).collect();
            let node = &state.node;
            let can_answer = node.can_answer() && !node.door().draining();
            (Self::engine_word(node), can_answer, node.gauges(now).jobs, gates)
        };
        let peer = |member: &crate::gossip::Member| {
            let known = gates.iter().find(|(id, ..)| *id == member.id);
            PeerView {
                node_id: member.id.shared(),
                api_addr: Arc::from(member.api_addr.as_str()),
                peer_addr: Arc::from(member.peer_addr.to_string()),
                alive: member.alive,
                gate: known.map_or("passing", |(_, gate, _)| gate),
                engine: Arc::from(member.engine.as_str()),
                model: Arc::from(member.model.as_str()),
                wait_us: known.and_then(|(.., load)| *load).map(|load| load.wait.get()),
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
