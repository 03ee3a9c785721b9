//! What a node says about itself: its readiness page and its counters.
//!
//! For the commands that wait for a shoal or judge one. A node's words are parsed leniently (unknown fields and lines
//! are skipped), because a node of another version must still be measurable; what is asked for and absent is told.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::http::Client;

/// How long a probe may take. A node that needs longer to say how it is, is not well.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The counters that are zero when a node has nothing to do.
pub(crate) const REST_GAUGES: [&str; 4] =
    ["shoal_jobs_held", "shoal_forwards_in_flight", "shoal_queue_rows", "shoal_bytes_in_flight"];

/// `GET /readyz?verbose`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    pub(crate) node_id: String,
    pub(crate) engine: String,
    #[serde(default)]
    pub(crate) model: Option<ModelName>,
    #[serde(default)]
    pub(crate) peers: Vec<PeerView>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ModelName {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) revision: String,
}

/// One peer as a node sees it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PeerView {
    pub(crate) node_id: String,
    pub(crate) alive: bool,
    #[serde(default)]
    pub(crate) engine: Option<String>,
}

impl Readiness {
    /// The node computes, and answers its callers.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready && self.engine == "ready"
    }

    /// The node believes that the peer called `node_id` lives and computes.
    pub(crate) fn sees_ready(&self, node_id: &str) -> bool {
        let ready = |peer: &PeerView| peer.alive && peer.engine.as_deref() == Some("ready");
        self.peers.iter().any(|peer| peer.node_id == node_id && ready(peer))
    }

    /// The node believes that the peer called `node_id` lives.
    pub(crate) fn sees_alive(&self, node_id: &str) -> bool {
        self.peers.iter().any(|peer| peer.node_id == node_id && peer.alive)
    }

    /// The node sees every one of `node_ids` but itself ready.
    pub(crate) fn sees_all_ready<'a>(&self, mut node_ids: impl Iterator<Item = &'a str>) -> bool {
        node_ids.all(|node_id| node_id == self.node_id || self.sees_ready(node_id))
    }
}

/// Asks a node how it is. A 503 with a readable page is an answer: a starting node says so.
///
/// # Errors
/// The node did not answer, or not with a readiness page.
pub(crate) async fn readiness(client: &Client) -> Result<Readiness> {
    let answer = client.get("/readyz?verbose", PROBE_LIMIT).await?;
    serde_json::from_slice(&answer.body).with_context(|| {
        format!("GET /readyz?verbose of {}: status {}: {}", client.address(), answer.status, answer.excerpt())
    })
}

/// Reads a node's counters.
///
/// # Errors
/// The node did not answer 200.
pub(crate) async fn counters(client: &Client) -> Result<Counters> {
    let answer = client.get("/metrics", PROBE_LIMIT).await?;
    anyhow::ensure!(answer.status == 200, "GET /metrics of {}: status {}", client.address(), answer.status);
    Ok(Counters::parse(&String::from_utf8_lossy(&answer.body)))
}

/// The samples of one page in the Prometheus text format.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Counters {
    pub(crate) fn parse(page: &str) -> Self {
        Self(page.lines().filter_map(sample).collect())
    }

    /// The sum over all samples of `name` that carry all of `labels`; `None` when there is no such sample.
    ///
    /// A labelled counter appears with its first event, so its absence means 0; a gauge without labels must be there.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let carries = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.iter().any(|(own_key, own_value)| own_key == key && own_value == value)
        };
        let mut found =
            self.0.iter().filter(|sample| sample.name == name && labels.iter().all(|label| carries(sample, label)));
        let first = found.next()?.value;
        Some(first + found.map(|sample| sample.value).sum::<f64>())
    }

    /// As [`Counters::sum`] for a counter of whole events.
    pub(crate) fn events(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels).unwrap_or(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and counters are whole"
        )]
        let events = sum as u64;
        events
    }

    /// The gauges that should be 0 at rest and are not, as `name=value`.
    pub(crate) fn not_at_rest(&self) -> Vec<String> {
        let complaint = |name: &&str| match self.sum(name, &[]) {
            Some(0.0) => None,
            Some(value) => Some(format!("{name}={value}")),
            None => Some(format!("{name} is missing")),
        };
        REST_GAUGES.iter().filter_map(complaint).collect()
    }
}

/// One line, `name{key="value",...} number`; `None` for comments and for what does not parse.
fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = match line.find(['{', ' '])? {
        at if line[at..].starts_with('{') => {
            let (labels, rest) = labels(&line[at + 1..])?;
            (&line[..at], labels, rest)
        }
        at => (&line[..at], Vec::new(), &line[at..]),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what follows it.
fn labels(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.trim().to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(
        "# HELP shoal_offers Jobs offered to a peer.\n# TYPE shoal_offers counter\n",
        "shoal_offers_total{peer=\"node-2\"} 7\nshoal_offers_total{peer=\"node-3\"} 5\n",
        "shoal_forwards_total{peer=\"node-2\",outcome=\"ok\"} 4\n",
        "shoal_forwards_total{peer=\"node-2\",outcome=\"lost\"} 2\n",
        "shoal_jobs_held 3\nshoal_queue_rows 0\nshoal_bytes_in_flight 0 1700000000\n",
        "odd{text=\"a \\\"b\\\" } c\"} 1\nshoal_offers_total{peer=\"cut\nnonsense\n# EOF\n",
    );

    #[test]
    fn sums_go_over_samples_that_carry_all_asked_labels() {
        let counters = Counters::parse(PAGE);
        let check = |name, labels: &[(&str, &str)], expected: u64| {
            assert_eq!(counters.events(name, labels), expected, "{name} {labels:?}");
        };
        check("shoal_offers_total", &[], 12);
        check("shoal_offers_total", &[("peer", "node-3")], 5);
        check("shoal_forwards_total", &[("peer", "node-2")], 6);
        check("shoal_forwards_total", &[("peer", "node-2"), ("outcome", "lost")], 2);
        check("shoal_forwards_total", &[("peer", "node-3")], 0);
        check("odd", &[("text", "a \"b\" } c")], 1);
    }

    #[test]
    fn a_gauge_that_is_missing_is_not_at_rest() {
        let complaints = Counters::parse(PAGE).not_at_rest();
        assert_eq!(complaints, ["shoal_jobs_held=3", "shoal_forwards_in_flight is missing"]);
    }

    fn view(peers: &str) -> Readiness {
        let page = format!(r#"{{"ready":true,"node_id":"a","engine":"ready","jobs_held":0,"peers":[{peers}]}}"#);
        serde_json::from_str(&page).unwrap()
    }

    #[test]
    fn a_node_sees_all_only_when_every_other_is_alive_and_ready() {
        let peer = |id, alive, engine| format!(r#"{{"node_id":"{id}","alive":{alive},"engine":"{engine}"}}"#);
        let cases = [
            (vec![peer("b", true, "ready"), peer("c", true, "ready")], true),
            (vec![peer("b", true, "ready")], false),
            (vec![peer("b", true, "ready"), peer("c", false, "ready")], false),
            (vec![peer("b", true, "starting"), peer("c", true, "ready")], false),
        ];
        for (peers, expected) in cases {
            let seen = view(&peers.join(",")).sees_all_ready(["a", "b", "c"].into_iter());
            assert_eq!(seen, expected, "{peers:?}");
        }
    }

    #[test]
    fn a_draining_node_lives_but_is_not_ready() {
        let seen = view(r#"{"node_id":"b","alive":true,"engine":"draining","wait_us":3}"#);
        assert!(seen.sees_alive("b"));
        assert!(!seen.sees_ready("b"));
        assert!(!seen.sees_alive("c"));
    }
}
