//! Every metric and the log format of a node.
//!
//! For `shell`, which counts, and `listen`, which shows. A metric is defined here once, with its unit in its name.
//! Invariants: no label carries anything that a caller wrote; a peer's id is a label only while gossip knows the peer.
//! Readers: `deploy/README.md` lists each metric.

mod cache;
mod decisions;
mod gossip;
mod record;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{Atomic, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use shoal_core::node::Node;
use shoal_core::time::MonoTime;

use crate::sample::{GpuState, Sample};
pub use cache::{CacheMetrics, CacheOutcome, CachePlace, CacheServed};
use decisions::Decisions;
pub use gossip::{GossipMetrics, Traffic};
pub use record::RecordMetrics;

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

/// Labels of `shoal_load_reports_refused_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Fault {
    /// `form garbled absurd backwards`.
    pub fault: &'static str,
}

/// Labels of `shoal_canary_runs_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabel {
    /// `passed` or `failed`.
    pub verdict: &'static str,
}

impl VerdictLabel {
    /// The answer was right.
    pub const PASSED: Self = Self { verdict: "passed" };
    /// It was not, or an error.
    pub const FAILED: Self = Self { verdict: "failed" };
}

/// Labels of the metrics of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeviceLabel {
    /// Its UUID.
    pub device: String,
}

/// Labels of `shoal_gpu_state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GpuStateLabel {
    /// `present absent broken hung`.
    pub state: &'static str,
}

/// A share from 0 to 1.
type Ratio = Gauge<f64, AtomicU64>;

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
    pub canary_runs: Family<VerdictLabel, Counter>,
    pub reports_refused: Family<Fault, Counter>,
    pub rows: Counter,
    pub batches: Counter,
    pub batch_rows: Histogram,
    pub batch_seconds: Histogram,
    jobs_held: Gauge,
    forwards_in_flight: Gauge,
    queue_rows: Gauge,
    bytes_in_flight: Gauge<i64, AtomicI64>,
    wait_seconds: Gauge<f64, AtomicU64>,
    pub peers: Family<PeerState, Gauge>,
    pub peers_lost: Counter,
    pub gossip: GossipMetrics,
    pub record: RecordMetrics,
    pub cache: CacheMetrics,
    decisions: Decisions,
    gpu_state: Family<GpuStateLabel, Gauge>,
    gpu_busy_ratio: Family<DeviceLabel, Ratio>,
    gpu_memory_used: Family<DeviceLabel, Gauge>,
    gpu_memory_total: Family<DeviceLabel, Gauge>,
    cpu_ratio: KnownRatio,
    memory_ratio: KnownRatio,
    /// The devices of the last sample, whose series go when they do.
    devices: Mutex<BTreeSet<Arc<str>>>,
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
            canary_runs: Family::default(),
            reports_refused: Family::default(),
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
            peers_lost: Counter::default(),
            gossip: GossipMetrics::new(&mut registry),
            record: RecordMetrics::new(&mut registry),
            cache: CacheMetrics::new(&mut registry),
            decisions: Decisions::default(),
            gpu_state: Family::default(),
            gpu_busy_ratio: Family::default(),
            gpu_memory_used: Family::default(),
            gpu_memory_total: Family::default(),
            cpu_ratio: KnownRatio::default(),
            memory_ratio: KnownRatio::default(),
            devices: Mutex::default(),
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
        let refused = told.reports_refused.clone();
        registry.register("load_reports_refused", "Load reports of peers that cannot be true", refused);
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
        // From the start, so that an alert on the first failure has something to compare with.
        for label in [VerdictLabel::PASSED, VerdictLabel::FAILED] {
            drop(told.canary_runs.get_or_create(&label));
        }
        registry.register("canary_runs", "Canaries that ran, by what they said", told.canary_runs.clone());
        registry.register("peers", "Other nodes that gossip knows", told.peers.clone());
        registry.register("peers_lost", "Times that gossip called a peer dead that had lived", told.peers_lost.clone());
        told.decisions.register(&mut registry);
        registry.register("gpu_state", "1 for the state that the GPUs are in", told.gpu_state.clone());
        registry.register("gpu_busy_ratio", "Share of the last second in which it ran", told.gpu_busy_ratio.clone());
        registry.register_with_unit("gpu_memory_used", "In use", Unit::Bytes, told.gpu_memory_used.clone());
        registry.register_with_unit("gpu_memory_total", "Built in", Unit::Bytes, told.gpu_memory_total.clone());
        registry.register("cpu_ratio", "CPU time used of what this process may use", told.cpu_ratio.clone());
        registry.register("memory_ratio", "Memory used of what this process may use", told.memory_ratio.clone());
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

    /// Shows what the machine holds and thinks at `now`. Whoever calls holds the machine.
    pub fn show_node(&self, node: &Node, now: MonoTime) {
        let gauges = node.gauges(now);
        self.jobs_held.set(gauges.jobs.into());
        self.forwards_in_flight.set(gauges.forwards.into());
        self.queue_rows.set(i64::try_from(gauges.queue_rows).unwrap_or(i64::MAX));
        self.bytes_in_flight.set(i64::try_from(gauges.bytes).unwrap_or(i64::MAX));
        self.wait_seconds.set(gauges.wait.get() as f64 / 1e6);
        self.decisions.show(node, now);
    }

    /// Shows a sample. What is unknown has no series, so that nobody takes it for 0.
    pub fn show_sample(&self, sample: &Sample) {
        for state in GpuState::NAMED {
            let label = GpuStateLabel { state: state.name() };
            let is_known = sample.gpu.state != GpuState::Unread;
            set(&self.gpu_state, &label, is_known.then_some(i64::from(state == sample.gpu.state)));
        }
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        for gpu in &sample.gpus {
            let label = DeviceLabel { device: gpu.name.to_string() };
            set(&self.gpu_busy_ratio, &label, ratio(gpu.busy_percent));
            set(&self.gpu_memory_used, &label, gpu.memory.map(|memory| bytes(memory.used())));
            set(&self.gpu_memory_total, &label, gpu.memory.map(|memory| bytes(memory.total())));
        }
        self.cpu_ratio.set(ratio(sample.cpu_percent));
        self.memory_ratio.set(ratio(sample.memory_percent));

        let devices = sample.gpus.iter().map(|gpu| Arc::clone(&gpu.name)).collect();
        let mut shown = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&devices) {
            let label = DeviceLabel { device: gone.to_string() };
            self.gpu_busy_ratio.remove(&label);
            self.gpu_memory_used.remove(&label);
            self.gpu_memory_total.remove(&label);
        }
        *shown = devices;
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// A share from 0 to 1 that has a series only while it is known.
#[derive(Clone, Debug, Default)]
struct KnownRatio(Arc<Mutex<Option<f64>>>);

impl KnownRatio {
    fn set(&self, ratio: Option<f64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ratio;
    }
}

impl EncodeMetric for KnownRatio {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let ratio = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ratio.map_or(Ok(()), |ratio| encoder.encode_gauge(&ratio))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

fn ratio(percent: Option<u8>) -> Option<f64> {
    percent.map(|percent| f64::from(percent) / 100.0)
}

/// Sets one series of a family, or takes it out where there is no value.
fn set<L, V, A>(family: &Family<L, Gauge<V, A>>, label: &L, value: Option<V>)
where
    L: Clone + std::hash::Hash + Eq,
    A: Atomic<V>,
    Gauge<V, A>: Default,
{
    match value {
        Some(value) => {
            family.get_or_create(label).set(value);
        }
        None => {
            family.remove(label);
        }
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
    use crate::sample::{DeviceMemory, DeviceReading, GpuReading};

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

    /// The series of the probe's metrics, without their descriptions.
    fn probe_series(telemetry: &Telemetry) -> Vec<String> {
        let text = telemetry.text();
        let names = ["shoal_gpu", "shoal_cpu", "shoal_memory"];
        let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_sample_is_shown_and_what_is_unknown_has_no_series() {
        let telemetry = Telemetry::new("0", "n");
        telemetry.show_sample(&Sample::default());
        assert_eq!(probe_series(&telemetry), [""; 0]);

        let device = |name: &str, busy_percent, memory| DeviceReading { name: Arc::from(name), busy_percent, memory };
        let both = [device("a", Some(25), DeviceMemory::new(3, 4)), device("b", None, None)];
        let gpu = GpuReading { state: GpuState::Present, ..GpuReading::default() };
        let sample = Sample { gpu, gpus: both.to_vec(), cpu_percent: Some(50), memory_percent: None };
        telemetry.show_sample(&sample);
        let states = |of: &str| {
            ["absent", "broken", "hung", "present"]
                .map(|state| format!("shoal_gpu_state{{state=\"{state}\"}} {}", i32::from(state == of)))
        };
        let mut expected = vec![
            "shoal_cpu_ratio 0.5".to_owned(),
            "shoal_gpu_busy_ratio{device=\"a\"} 0.25".to_owned(),
            "shoal_gpu_memory_total_bytes{device=\"a\"} 4".to_owned(),
            "shoal_gpu_memory_used_bytes{device=\"a\"} 3".to_owned(),
        ];
        expected.extend(states("present"));
        assert_eq!(probe_series(&telemetry), expected);

        // One device is lost, the other is gone.
        let gpu = GpuReading { state: GpuState::Broken, ..gpu };
        telemetry.show_sample(&Sample { gpu, gpus: vec![device("b", None, None)], ..Sample::default() });
        assert_eq!(probe_series(&telemetry), states("broken"));
    }
}
