//! Every metric and the log format of a node.
//!
//! For `shell`, which counts, and `listen`, which shows. A metric is defined here once, with its unit in its name.
//! Invariants: no label carries anything that a caller wrote; a peer's id is a label only while gossip knows the peer.
//! Readers: `deploy/README.md` lists each metric.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

/// Labels of `shoal_http_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteCode {
    pub route: &'static str,
    pub code: u16,
}

/// Labels of `shoal_http_request_seconds`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Route {
    pub route: &'static str,
}

/// Labels of `shoal_jobs_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceOutcome {
    /// `caller` or `peer`.
    pub source: &'static str,
    /// `ok rejected overloaded unavailable expired failed refused left`.
    pub outcome: &'static str,
}

/// Labels of `shoal_placements_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Target {
    /// `here` or `peer`.
    pub target: &'static str,
}

/// Labels of `shoal_offers_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    pub peer: String,
}

/// Labels of `shoal_forwards_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerOutcome {
    pub peer: String,
    /// `ok rejected failed expired busy full draining unable unreachable lost garbled abandoned`.
    pub outcome: &'static str,
}

/// Labels of `shoal_peers`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerState {
    /// `alive` or `dead`.
    pub state: &'static str,
}

/// All metrics of one node.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    pub http_requests: Family<RouteCode, Counter>,
    pub http_request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    pub jobs: Family<SourceOutcome, Counter>,
    pub placements: Family<Target, Counter>,
    pub offers: Family<PeerLabel, Counter>,
    pub forwards: Family<PeerOutcome, Counter>,
    pub late_answers: Counter,
    pub rows: Counter,
    pub batches: Counter,
    pub batch_rows: Histogram,
    pub batch_seconds: Histogram,
    pub jobs_held: Gauge,
    pub forwards_in_flight: Gauge,
    pub queue_rows: Gauge,
    pub bytes_in_flight: Gauge<i64, AtomicI64>,
    pub wait_seconds: Gauge<f64, AtomicU64>,
    pub peers: Family<PeerState, Gauge>,
}

/// 1 ms to about 65 s.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Telemetry {
    /// All metrics at zero.
    #[must_use]
    pub fn new(version: &'static str, node_id: &str) -> Self {
        let mut registry = Registry::with_prefix("shoal");
        let told = Self {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_request_seconds: Family::new_with_constructor(latency_histogram),
            jobs: Family::default(),
            placements: Family::default(),
            offers: Family::default(),
            forwards: Family::default(),
            late_answers: Counter::default(),
            rows: Counter::default(),
            batches: Counter::default(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            batch_seconds: latency_histogram(),
            jobs_held: Gauge::default(),
            forwards_in_flight: Gauge::default(),
            queue_rows: Gauge::default(),
            bytes_in_flight: Gauge::default(),
            wait_seconds: Gauge::default(),
            peers: Family::default(),
        };
        let build = vec![("version", version.to_owned()), ("node", node_id.to_owned())];
        registry.register("build", "What runs", Info::new(build));
        registry.register("http_requests", "Requests at the public door", told.http_requests.clone());
        registry.register_with_unit(
            "http_request",
            "From the request's head to the answer's head",
            Unit::Seconds,
            told.http_request_seconds.clone(),
        );
        registry.register("jobs", "Jobs that ended, by who asked and how", told.jobs.clone());
        registry.register("placements", "Placements of jobs, on this node or a peer", told.placements.clone());
        registry.register("offers", "Jobs sent to a peer, taken or not", told.offers.clone());
        registry.register("forwards", "Jobs sent to a peer, by how that ended", told.forwards.clone());
        registry.register(
            "late_answers",
            "Answers of a peer that came after the job had moved on",
            told.late_answers.clone(),
        );
        registry.register("rows", "Texts computed here", told.rows.clone());
        registry.register("batches", "Forward passes", told.batches.clone());
        registry.register("batch_rows", "Texts in a forward pass", told.batch_rows.clone());
        registry.register_with_unit("batch", "Time of a forward pass", Unit::Seconds, told.batch_seconds.clone());
        registry.register("jobs_held", "Jobs queued, running or forwarded now", told.jobs_held.clone());
        registry.register("forwards_in_flight", "Jobs on a peer now", told.forwards_in_flight.clone());
        registry.register("queue_rows", "Texts that wait for the device now", told.queue_rows.clone());
        let bytes = told.bytes_in_flight.clone();
        registry.register("bytes_in_flight", "Bytes of texts and vectors held now", bytes);
        registry.register_with_unit(
            "wait",
            "Until a new job would start here",
            Unit::Seconds,
            told.wait_seconds.clone(),
        );
        registry.register("peers", "Other nodes that gossip knows", told.peers.clone());
        Self { registry, ..told }
    }

    /// Forgets the series of peers that are not `known`: as many series as the shoal has nodes.
    pub fn keep_peers(&self, gone: impl Iterator<Item = String>) {
        const OUTCOMES: [&str; 12] = [
            "ok",
            "rejected",
            "failed",
            "expired",
            "busy",
            "full",
            "draining",
            "unable",
            "unreachable",
            "lost",
            "garbled",
            "abandoned",
        ];
        for peer in gone {
            for outcome in OUTCOMES {
                self.forwards.remove(&PeerOutcome { peer: peer.clone(), outcome });
            }
            self.offers.remove(&PeerLabel { peer });
        }
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// Writes logs to standard error: one line an event, or JSON. `level` is a filter such as `info` or `info,hyper=warn`.
///
/// # Errors
/// The filter does not parse.
pub fn init_logs(level: &str, json: bool) -> Result<(), String> {
    // One line a datagram of junk is a way to fill a disk; a filter that names chitchat itself comes later and wins.
    let filter = EnvFilter::try_new(format!("chitchat=error,{level}")).map_err(|fault| fault.to_string())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second call, as tests make it, changes nothing.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_units_and_a_peer_that_is_gone_leaves_no_series() {
        let telemetry = Telemetry::new("0", "n");
        telemetry.offers.get_or_create(&PeerLabel { peer: "gone".to_owned() }).inc();
        telemetry.forwards.get_or_create(&PeerOutcome { peer: "gone".to_owned(), outcome: "lost" }).inc();
        telemetry.http_request_seconds.get_or_create(&Route { route: "embed" }).observe(0.1);
        let text = telemetry.text();
        for name in ["shoal_offers_total{peer=\"gone\"} 1", "shoal_http_request_seconds_bucket", "shoal_jobs_held 0"] {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
        telemetry.keep_peers(["gone".to_owned()].into_iter());
        assert!(!telemetry.text().contains("gone"));
    }
}
