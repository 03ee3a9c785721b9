//! `GET /status`: all that this node knows of itself and of each peer, for `shoal status` and for other programs.
//!
//! For `request`. Pure: a view of the node to a body; deploy/README.md explains the fields to those who read them.
//! Invariants: the shape changes by new fields only, because nodes of two versions work side by side and each is asked
//! by the other's tools; an unknown number is `null`, never 0; the status code is 200 however the node is.
//! Not here: what several such answers mean together (`status`, the command).

use serde::Serialize;

use crate::job::{ModelView, NodeView, PeerView};

/// The body.
#[derive(Serialize)]
struct Status<'a> {
    node_id: &'a str,
    cluster: &'a str,
    version: &'static str,
    api_addr: &'a str,
    uptime_s: u64,
    engine: &'static str,
    engine_message: &'a str,
    door: &'static str,
    can_answer: bool,
    gossip_runs: bool,
    doubts_gossip: bool,
    seeds: usize,
    changed_ms: Option<u64>,
    /// name@revision/precision; empty until it is loaded.
    model: String,
    weight: u32,
    backup: bool,
    wait_us: u64,
    load_percent: u8,
    held: u32,
    forwarded: u32,
    peers: Vec<Peer<'a>>,
}

#[derive(Serialize)]
struct Peer<'a> {
    node_id: &'a str,
    api_addr: &'a str,
    peer_addr: &'a str,
    version: &'a str,
    alive: bool,
    answers_unheard: bool,
    engine: &'a str,
    model: &'a str,
    weight: u32,
    backup: bool,
    gate: &'static str,
    paused: bool,
    changed_ms: Option<u64>,
    in_flight: u32,
    wait_us: Option<u64>,
    busy_percent: Option<u8>,
    held: Option<u32>,
    load_age_ms: Option<u64>,
}

impl<'a> Peer<'a> {
    fn new(peer: &'a PeerView) -> Self {
        Self {
            node_id: &peer.node_id,
            api_addr: &peer.api_addr,
            peer_addr: &peer.peer_addr,
            version: &peer.version,
            alive: peer.alive,
            answers_unheard: peer.answers_unheard,
            engine: &peer.engine,
            model: &peer.model,
            weight: peer.weight,
            backup: peer.backup,
            gate: peer.gate,
            paused: peer.paused,
            changed_ms: peer.changed_ms,
            in_flight: peer.in_flight,
            wait_us: peer.wait_us,
            busy_percent: peer.busy_percent,
            held: peer.held,
            load_age_ms: peer.load_age_ms,
        }
    }
}

/// Writes `GET /status`.
pub(super) fn status(view: &NodeView) -> Vec<u8> {
    let key = |model: &ModelView| format!("{}@{}/{}", model.name, model.revision, model.precision);
    let body = Status {
        node_id: &view.node_id,
        cluster: &view.cluster,
        version: env!("CARGO_PKG_VERSION"),
        api_addr: &view.api_addr,
        uptime_s: view.uptime_s,
        engine: view.engine,
        engine_message: &view.engine_message,
        door: view.door,
        can_answer: view.can_answer,
        gossip_runs: view.gossip_runs,
        doubts_gossip: view.doubts_gossip,
        seeds: view.seeds,
        changed_ms: view.changed_ms,
        model: view.model.as_ref().map_or_else(String::new, key),
        weight: view.weight,
        backup: view.backup,
        wait_us: view.wait_us,
        load_percent: view.load_percent,
        held: view.jobs_held,
        forwarded: view.jobs_forwarded,
        peers: view.peers.iter().map(Peer::new).collect(),
    };
    serde_json::to_vec(&body).expect("strings and numbers always have a JSON form")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::listen::health::tests::view;

    /// The documented shape, field by field: taking one away or renaming it breaks the tools of other versions.
    #[test]
    fn the_body_tells_the_node_and_every_peer() {
        let body: Value = serde_json::from_slice(&status(&view(true))).unwrap();
        assert_eq!(
            body,
            json!({
                "node_id": "a", "cluster": "c", "version": env!("CARGO_PKG_VERSION"), "api_addr": "127.0.0.1:1",
                "uptime_s": 7, "engine": "ready", "engine_message": "", "door": "open", "can_answer": true,
                "gossip_runs": true, "doubts_gossip": false, "seeds": 2, "changed_ms": 6_000,
                "model": "minilm@00ff/f32", "weight": 100, "backup": false, "wait_us": 3, "load_percent": 4, "held": 2, "forwarded": 1,
                "peers": [{
                    "node_id": "b", "api_addr": "127.0.0.1:2", "peer_addr": "127.0.0.1:3", "version": "0.1.0",
                    "alive": true, "answers_unheard": false, "engine": "ready", "model": "minilm@00ff/f32",
                    "weight": 100, "backup": true, "gate": "passing", "paused": false, "changed_ms": 5_000,
                    "in_flight": 1, "wait_us": 12, "busy_percent": 8, "held": 9, "load_age_ms": 10
                }]
            })
        );
    }

    #[test]
    fn what_is_not_known_is_null_or_empty_and_never_zero() {
        let mut unknown = view(false);
        let peer = &mut unknown.peers[0];
        (peer.wait_us, peer.busy_percent, peer.held, peer.load_age_ms) = (None, None, None, None);
        (peer.changed_ms, unknown.changed_ms) = (None, None);
        let body: Value = serde_json::from_slice(&status(&unknown)).unwrap();
        assert_eq!((&body["model"], &body["changed_ms"]), (&json!(""), &Value::Null));
        for name in ["wait_us", "busy_percent", "held", "load_age_ms", "changed_ms"] {
            assert_eq!(body["peers"][0][name], Value::Null, "{name}");
        }
    }
}
