//! Probes and self-description: `/livez`, `/readyz`, `/health` and `/`.
//!
//! For `request`. Pure: a view of the node to a status and a body. `/livez` says that the process answers, `/readyz`
//! that an answer can be given, here or through a peer, and `/health` tells both to people and older probes.

use serde::Serialize;

use super::route::ENDPOINTS;
use crate::job::{NodeView, PeerView};

/// Body of `GET /readyz?verbose`.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    node_id: &'a str,
    cluster: &'a str,
    engine: &'static str,
    engine_message: &'a str,
    can_answer: bool,
    gossip_runs: bool,
    jobs_held: u32,
    uptime_s: u64,
    version: &'static str,
    model: Option<Model<'a>>,
    peers: Vec<Peer<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    revision: &'a str,
    precision: &'a str,
    dimensions: u32,
    tokens_max: u32,
    pooling: &'static str,
    stand_in: bool,
    loaded_at_s: u64,
}

#[derive(Serialize)]
struct Peer<'a> {
    node_id: &'a str,
    api_addr: &'a str,
    peer_addr: &'a str,
    alive: bool,
    gate: &'static str,
    paused: bool,
    weight: u32,
    backup: bool,
    engine: &'a str,
    model: &'a str,
    wait_us: Option<u64>,
    version: &'a str,
}

impl<'a> Peer<'a> {
    fn new(peer: &'a PeerView) -> Self {
        Self {
            node_id: &peer.node_id,
            api_addr: &peer.api_addr,
            peer_addr: &peer.peer_addr,
            alive: peer.alive,
            gate: peer.gate,
            paused: peer.paused,
            weight: peer.weight,
            backup: peer.backup,
            engine: &peer.engine,
            model: &peer.model,
            wait_us: peer.wait_us,
            version: &peer.version,
        }
    }
}

/// Writes `GET /readyz?verbose`.
pub(super) fn ready_verbose(view: &NodeView) -> Vec<u8> {
    let model = view.model.as_ref().map(|model| Model {
        name: &model.name,
        revision: &model.revision,
        precision: &model.precision,
        dimensions: model.dimensions,
        tokens_max: model.tokens_max,
        pooling: model.pooling,
        stand_in: model.stand_in,
        loaded_at_s: model.loaded_at_s,
    });
    json(&Ready {
        ready: view.can_answer,
        node_id: &view.node_id,
        cluster: &view.cluster,
        engine: view.engine,
        engine_message: &view.engine_message,
        can_answer: view.can_answer,
        gossip_runs: view.gossip_runs,
        jobs_held: view.jobs_held,
        uptime_s: view.uptime_s,
        version: env!("CARGO_PKG_VERSION"),
        model,
        peers: view.peers.iter().map(Peer::new).collect(),
    })
}

/// Writes `GET /readyz`: one line.
pub(super) fn ready_line(view: &NodeView) -> Vec<u8> {
    match (view.can_answer, view.engine_message.as_str()) {
        (true, _) => b"ready\n".to_vec(),
        (false, "") => format!("not ready: engine is {}, no peer can answer\n", view.engine).into_bytes(),
        (false, why) => format!("not ready: engine is {} ({why}), no peer can answer\n", view.engine).into_bytes(),
    }
}

/// Body of `GET /health`.
#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    /// Unix seconds.
    timestamp: u64,
    instance_id: &'a str,
    instance_port: u16,
    version: &'static str,
    model: &'static str,
    /// This node first, then its peers.
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Instance<'a> {
    instance_id: &'a str,
    /// Host and port, empty while unknown; of this node it is what the caller used, so it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    status: &'static str,
}

/// Writes `GET /health`; `now_s` is Unix seconds, `port` this node's own.
pub(super) fn health(view: &NodeView, now_s: u64, port: u16) -> Vec<u8> {
    let word = |healthy| if healthy { "healthy" } else { "unhealthy" };
    let own = Instance { instance_id: &view.node_id, address: None, status: word(view.can_answer) };
    let peers = view.peers.iter().map(|peer| Instance {
        instance_id: &peer.node_id,
        address: Some(&peer.api_addr),
        status: word(peer.alive && &*peer.engine == "ready"),
    });
    json(&Health {
        status: word(view.can_answer),
        timestamp: now_s,
        instance_id: &view.node_id,
        instance_port: port,
        version: env!("CARGO_PKG_VERSION"),
        model: if matches!(view.engine, "ready" | "draining" | "wedged") { "loaded" } else { "not_loaded" },
        instances: std::iter::once(own).chain(peers).collect(),
    })
}

/// Body of `GET /`.
#[derive(Serialize)]
struct Index<'a> {
    name: &'static str,
    version: &'static str,
    node_id: &'a str,
    endpoints: &'static [&'static str],
}

/// Writes `GET /`.
pub(super) fn index(node_id: &str) -> Vec<u8> {
    json(&Index { name: "shoal", version: env!("CARGO_PKG_VERSION"), node_id, endpoints: ENDPOINTS })
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers always have a JSON form")
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::job::ModelView;

    pub(in crate::listen) fn view(can_answer: bool) -> NodeView {
        NodeView {
            node_id: "a".into(),
            cluster: "c".into(),
            api_addr: "127.0.0.1:1".into(),
            engine: if can_answer { "ready" } else { "starting" },
            engine_message: if can_answer { String::new() } else { "loading minilm".into() },
            door: "open",
            can_answer,
            gossip_runs: true,
            doubts_gossip: false,
            seeds: 2,
            uptime_s: 7,
            changed_ms: Some(6_000),
            weight: 100,
            backup: false,
            wait_us: 3,
            load_percent: 4,
            model: can_answer.then(|| ModelView {
                name: "minilm".into(),
                revision: "00ff".into(),
                precision: "f32".into(),
                dimensions: 384,
                tokens_max: 256,
                pooling: "mean",
                stand_in: false,
                loaded_at_s: 5,
            }),
            peers: vec![PeerView {
                node_id: "b".into(),
                api_addr: "127.0.0.1:2".into(),
                peer_addr: "127.0.0.1:3".into(),
                alive: true,
                answers_unheard: false,
                gate: "passing",
                paused: false,
                weight: 100,
                backup: true,
                engine: "ready".into(),
                model: "minilm@00ff/f32".into(),
                wait_us: Some(12),
                busy_percent: Some(8),
                held: Some(9),
                load_age_ms: Some(10),
                in_flight: 1,
                changed_ms: Some(5_000),
                version: "0.1.0".into(),
            }],
            jobs_held: 2,
            jobs_forwarded: 1,
        }
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn verbose_readiness_shows_the_node_and_every_peer() {
        assert_eq!(
            parsed(&ready_verbose(&view(true))),
            json!({
                "ready": true, "node_id": "a", "cluster": "c", "engine": "ready", "engine_message": "",
                "can_answer": true, "gossip_runs": true, "jobs_held": 2, "uptime_s": 7, "version": env!("CARGO_PKG_VERSION"),
                "model": {
                    "name": "minilm", "revision": "00ff", "precision": "f32", "dimensions": 384, "tokens_max": 256,
                    "pooling": "mean", "stand_in": false, "loaded_at_s": 5
                },
                "peers": [{
                    "node_id": "b", "api_addr": "127.0.0.1:2", "peer_addr": "127.0.0.1:3", "alive": true,
                    "gate": "passing", "paused": false, "weight": 100, "backup": true, "engine": "ready",
                    "model": "minilm@00ff/f32", "wait_us": 12, "version": "0.1.0"
                }]
            })
        );
    }

    #[test]
    fn readiness_in_one_line_says_why_not() {
        assert_eq!(ready_line(&view(true)), b"ready\n");
        let why = b"not ready: engine is starting (loading minilm), no peer can answer\n";
        assert_eq!(ready_line(&view(false)), why);
    }

    #[test]
    fn health_counts_the_instances() {
        assert_eq!(
            parsed(&health(&view(false), 99, 8080)),
            json!({
                "status": "unhealthy", "timestamp": 99, "instance_id": "a", "instance_port": 8080,
                "version": env!("CARGO_PKG_VERSION"), "model": "not_loaded",
                "instances": [
                    { "instance_id": "a", "status": "unhealthy" },
                    { "instance_id": "b", "address": "127.0.0.1:2", "status": "healthy" }
                ]
            })
        );
        assert_eq!(parsed(&health(&view(true), 99, 8080))["model"], "loaded");
    }
}
