//! What a node says of itself and of its peers: the answer to `GET /status`, read without trust.
//!
//! Part of `status`. Pure.
//! Invariants: a field that an older node does not write is unknown, and one that a newer node adds is passed over; no
//! answer brings more than [`PEERS_MAX`] peers, nor a text that cannot be shown.
//! Not here: what several answers mean together (`merge`).

use serde::Deserialize;

use super::text::Text;

/// Most peers of one answer that are looked at: no node knows more.
const PEERS_MAX: usize = 512;

/// One node's answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Said {
    pub(super) node_id: Text,
    #[serde(default)]
    pub(super) cluster: Text,
    #[serde(default)]
    pub(super) version: Text,
    #[serde(default)]
    pub(super) api_addr: Text,
    #[serde(default)]
    pub(super) engine: Text,
    #[serde(default)]
    pub(super) engine_message: Text,
    #[serde(default)]
    pub(super) door: Text,
    pub(super) can_answer: Option<bool>,
    pub(super) gossip_runs: Option<bool>,
    #[serde(default)]
    pub(super) doubts_gossip: bool,
    #[serde(default)]
    pub(super) seeds: u64,
    pub(super) changed_ms: Option<u64>,
    #[serde(default)]
    pub(super) model: Text,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) backup: bool,
    pub(super) wait_us: Option<u64>,
    pub(super) load_percent: Option<u8>,
    pub(super) held: Option<u32>,
    #[serde(default)]
    pub(super) peers: Vec<PeerSaid>,
}

/// What it says of one peer.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PeerSaid {
    pub(super) node_id: Text,
    #[serde(default)]
    pub(super) api_addr: Text,
    #[serde(default)]
    pub(super) peer_addr: Text,
    #[serde(default)]
    pub(super) version: Text,
    pub(super) alive: Option<bool>,
    #[serde(default)]
    pub(super) answers_unheard: bool,
    #[serde(default)]
    pub(super) engine: Text,
    #[serde(default)]
    pub(super) model: Text,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) backup: bool,
    #[serde(default)]
    pub(super) gate: Text,
    #[serde(default)]
    pub(super) paused: bool,
    pub(super) changed_ms: Option<u64>,
    pub(super) in_flight: Option<u32>,
    pub(super) wait_us: Option<u64>,
    pub(super) busy_percent: Option<u8>,
    pub(super) held: Option<u32>,
}

impl Said {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// What makes it no such answer, fit to be shown.
    pub(super) fn read(body: &[u8]) -> Result<Self, Text> {
        let mut said: Self = serde_json::from_slice(body).map_err(|fault| Text::from(fault.to_string()))?;
        if said.node_id.is_empty() {
            return Err(Text::from("it has no node_id"));
        }
        said.peers.truncate(PEERS_MAX);
        Ok(said)
    }

    /// The node is on its way out, and keeps its callers away on purpose.
    pub(super) fn leaves(&self) -> bool {
        matches!(&*self.door, "settling" | "closing" | "closed")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a node says, as it would come over the network.
    pub(in crate::status) fn said(body: &Value) -> Said {
        Said::read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn fields_that_are_not_there_are_unknown_and_new_ones_are_passed_over() {
        let old = said(&json!({ "node_id": "a", "peers": [{ "node_id": "b" }] }));
        assert_eq!((old.can_answer, old.gossip_runs, old.wait_us, &*old.engine), (None, None, None, ""));
        let [peer] = &old.peers[..] else { panic!("{old:?}") };
        assert_eq!((peer.alive, peer.changed_ms, &*peer.gate), (None, None, ""));
        let new = said(&json!({ "node_id": "a", "mood": { "is": ["good"] }, "wait_us": null, "peers": [] }));
        assert_eq!(new.wait_us, None);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error_and_never_steers_a_terminal() {
        for body in [
            "",
            "hello",
            "[]",
            "{}",
            r#"{"node_id": ""}"#,
            r#"{"node_id": "a", "wait_us": -1}"#,
            r#"{"node_id": "a", "wait_us": 1e99}"#,
            r#"{"node_id": "a", "load_percent": 300}"#,
            r#"{"node_id": "a", "peers": {}}"#,
            r#"{"node_id": "a", "peers": [{"alive": true}]}"#,
            r#"{"node_id": "a", "node_id": "b"}"#,
            "{\"node_id\": \"a\", \"alive\u{1b}[2J",
            &"[".repeat(100_000),
        ] {
            let fault = Said::read(body.as_bytes()).unwrap_err();
            assert!(!fault.is_empty() && !fault.contains('\u{1b}'), "{body:.40}: {fault}");
        }
        assert!(Said::read(b"{\"node_id\": \"\xff\"}").is_err());
    }

    #[test]
    fn texts_are_cleaned_and_peers_counted_while_they_are_read() {
        let peers: Vec<Value> = (0..600).map(|number| json!({ "node_id": format!("n{number}") })).collect();
        let hostile = said(&json!({ "node_id": "a\u{1b}]0;x\u{7}", "model": "\u{202e}evil", "peers": peers }));
        assert_eq!((&*hostile.node_id, &*hostile.model, hostile.peers.len()), ("a?]0;x?", "?evil", PEERS_MAX));
    }
}
