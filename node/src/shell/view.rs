//! The node as people and probes see it.
//!
//! Part of `shell`. Invariants: one view takes the machine's lock once, for as long as copying some numbers of each
//! peer takes; texts are shared or made outside of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_core::id::NodeId;
use shoal_core::lifecycle::DoorState;
use shoal_core::load::Report;
use shoal_core::peers;
use shoal_core::share::Share;
use shoal_core::time::{Micros, MonoTime};

use super::Shell;
use crate::gossip::Member;
use crate::job::{ModelView, NodeView, PeerView};

/// What the machine thinks of one peer.
struct Known {
    id: NodeId,
    alive: bool,
    gate: &'static str,
    paused: bool,
    answers_unheard: bool,
    report: Option<Report>,
    report_age: Option<Micros>,
    flights: u32,
    change_age: Option<Micros>,
}

impl Shell {
    pub(super) fn node_view(&self) -> NodeView {
        let facts = &self.0.facts;
        let members = self.0.members.load();
        let (node, known) = {
            let state = &mut *self.lock();
            let now = self.0.clock.now();
            // What changed since the last tick is new, and must not be shown as old.
            state.changes.look(now, &state.node);
            let (node, changes) = (&state.node, &state.changes);
            let known = |peer: peers::PeerView<'_>| Known {
                id: peer.facts.id.clone(),
                alive: peer.facts.alive,
                gate: peer.gate.name(),
                paused: peer.paused,
                answers_unheard: peer.answers_unheard,
                report: peer.report,
                report_age: peer.age,
                flights: peer.flights,
                change_age: changes.age(now, &peer.facts.id),
            };
            // By name, as the machine keeps them.
            let known: Vec<Known> = node.peers(now).map(known).collect();
            let gauges = node.gauges(now);
            let view = NodeView {
                node_id: facts.node_id.shared(),
                cluster: facts.cluster.clone(),
                api_addr: facts.api_addr.clone(),
                engine: node.standing().name(),
                engine_message: String::new(),
                door: door_name(node.door()),
                can_answer: node.can_answer(now) && !node.door().draining(),
                gossip_runs: self.0.gossip_runs.load(Ordering::Relaxed),
                doubts_gossip: node.panics(),
                seeds: facts.seeds,
                uptime_s: now.since(MonoTime::START).get() / 1_000_000,
                changed_ms: changes.own_age(now).map(whole_ms),
                weight: facts.weight,
                backup: facts.backup,
                wait_us: gauges.wait.get(),
                load_percent: gauges.load.get(),
                model: None,
                peers: Vec::new(),
                jobs_held: gauges.jobs,
                jobs_forwarded: gauges.forwards,
            };
            (view, known)
        };
        let peer = |member: &Member| {
            let at = known.binary_search_by(|known| known.id.cmp(&member.id)).ok();
            peer_view(member, at.map(|at| &known[at]))
        };
        NodeView {
            engine_message: self.0.engine_message.load().whole.clone(),
            model: self.model_view(),
            peers: members.iter().map(peer).collect(),
            ..node
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

/// Gossip may have named the peer a moment before the machine heard of it: then there is nothing `known` yet.
fn peer_view(member: &Member, known: Option<&Known>) -> PeerView {
    let report = known.and_then(|known| known.report);
    PeerView {
        node_id: member.id.shared(),
        api_addr: Arc::from(member.api_addr.as_str()),
        peer_addr: Arc::from(member.peer_addr.to_string()),
        // As the machine heard it, so that it goes with the time of the change.
        alive: known.map_or(member.alive, |known| known.alive),
        answers_unheard: known.is_some_and(|known| known.answers_unheard),
        gate: known.map_or("passing", |known| known.gate),
        paused: known.is_some_and(|known| known.paused),
        weight: member.weight,
        backup: member.backup,
        engine: Arc::from(member.engine.as_str()),
        model: Arc::from(member.model.as_str()),
        wait_us: report.map(|report| report.wait.get()),
        busy_percent: report.and_then(|report| report.busy).map(Share::get),
        held: report.map(|report| report.held),
        load_age_ms: known.and_then(|known| known.report_age).map(whole_ms),
        in_flight: known.map_or(0, |known| known.flights),
        changed_ms: known.and_then(|known| known.change_age).map(whole_ms),
        version: Arc::from(member.version.as_str()),
    }
}

fn door_name(door: DoorState) -> &'static str {
    match door {
        DoorState::Open => "open",
        DoorState::Settling { .. } => "settling",
        DoorState::Closing { .. } => "closing",
        DoorState::Closed => "closed",
    }
}

fn whole_ms(time: Micros) -> u64 {
    time.get() / 1000
}
