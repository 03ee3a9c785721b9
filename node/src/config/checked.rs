//! The checked configuration, the only one that the node uses.
//!
//! For every part of the node. Ranges (`rule`) and relations (`relations`) hold before a value gets here, and defaults
//! that depend on the machine are filled in (`defaults`).
//!
//! Invariants: a [`Config`] comes from [`super::load`] only; times are [`Duration`]s; an address has an IP and a port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shoal_core::route::Policy;

use super::defaults::Filled;
use super::keys::{GpuMode, LogFormat, RawConfig};

/// Everything that the node is told, sound in itself. Units, ranges, defaults and effects of the keys: [`RawConfig`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub node: NodeConfig,
    pub api: ApiConfig,
    pub peer: PeerConfig,
    pub gossip: GossipConfig,
    pub model: ModelConfig,
    pub engine: EngineConfig,
    pub admission: AdmissionConfig,
    pub cache: CacheConfig,
    pub routing: RoutingConfig,
    pub breaker: BreakerConfig,
    pub retry: RetryConfig,
    pub hedge: HedgeConfig,
    pub pulse: PulseConfig,
    pub canary: CanaryConfig,
    pub probe: ProbeConfig,
    pub drain: DrainConfig,
    pub record: RecordConfig,
    pub log: LogConfig,
}

/// Who this node is. See [`super::RawNode`].
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub cluster: String,
    /// `None`: made once and kept in `data_dir`.
    pub id: Option<String>,
    pub data_dir: PathBuf,
    /// Empty = not told.
    pub zone: String,
    /// 0 only with seeds, and not with `backup`.
    pub weight: u32,
    pub backup: bool,
}

/// The public door. See [`super::RawApi`].
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    pub listen: SocketAddr,
    pub advertise: SocketAddr,
    pub body_bytes_max: u64,
    pub inputs_max: u32,
    pub connections_max: u32,
    pub header_timeout: Duration,
    pub body_idle_timeout: Duration,
    pub explain: bool,
}

/// The door for peers. See [`super::RawPeer`].
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    pub listen: SocketAddr,
    /// Loopback or private, like `listen`, because the traffic is not encrypted yet.
    pub advertise: SocketAddr,
    pub connect_timeout: Duration,
    pub accept_timeout: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// At least 65536 above `api.body_bytes_max`.
    pub message_bytes_max: u64,
}

/// How nodes find each other. See [`super::RawGossip`].
#[derive(Clone, Debug, PartialEq)]
pub struct GossipConfig {
    /// HOST:PORT each, not resolved yet.
    pub seeds: Vec<String>,
    pub interval: Duration,
    pub phi_threshold: f64,
    pub dead_grace: Duration,
}

/// What is served. See [`super::RawModel`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// A name, or the path of a directory.
    pub name: String,
    pub cache_dir: PathBuf,
}

/// What computes. See [`super::RawEngine`].
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// `candle`, or `synthetic:` and what the stand-in engine reads itself.
    pub spec: String,
    /// 0 = as many as this process has cores.
    pub threads: u32,
    pub batch_tokens_max: u32,
    pub batch_rows_max: u32,
    /// What a batch takes at most, as estimated.
    pub batch_max: Duration,
}

/// How much work a node holds. See [`super::RawAdmission`].
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionConfig {
    pub jobs_max: u32,
    /// At least `api.body_bytes_max`.
    pub bytes_max: u64,
    /// At most `deadline_max`.
    pub deadline_default: Duration,
    pub deadline_max: Duration,
}

/// Results that are kept. See [`super::RawCache`].
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    /// 0 = none are.
    pub bytes_max: u64,
    pub ttl: Duration,
}

/// Which node gets a call. See [`super::RawRouting`].
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingConfig {
    pub policy: Policy,
    pub margin_min: Duration,
    pub margin_percent: u32,
    pub placements_max: u32,
    /// 100 = never hot.
    pub hot_enter_percent: u32,
    /// Below `hot_enter_percent`.
    pub hot_leave_percent: u32,
    pub hot_dwell: Duration,
    /// Above 100.
    pub session_bound_percent: u32,
    /// Zero = calls stay whole.
    pub chunk: Duration,
    /// Zero = nobody is asked.
    pub ask_after: Duration,
    /// Zero = none.
    pub slow_start: Duration,
    /// 0 = never.
    pub panic_percent: u32,
}

/// When a peer whose model fails is left alone. See [`super::RawBreaker`].
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    pub request_volume: u32,
    /// 0 = never.
    pub error_percent: u32,
    /// At most `sleep_window_max`.
    pub sleep_window: Duration,
    pub sleep_window_max: Duration,
}

/// Extra work by placing again. See [`super::RawRetry`].
#[derive(Clone, Debug, PartialEq)]
pub struct RetryConfig {
    pub budget_percent: u32,
    pub budget_per_second: u32,
}

/// Second placements of late calls. See [`super::RawHedge`].
#[derive(Clone, Debug, PartialEq)]
pub struct HedgeConfig {
    /// 0 = none.
    pub percent: u32,
    pub after_min: Duration,
    pub load_percent_max: u32,
}

/// When a node suspects itself. See [`super::RawPulse`].
#[derive(Clone, Debug, PartialEq)]
pub struct PulseConfig {
    pub late_max: Duration,
    pub doubt: Duration,
}

/// When the model is asked what is known. See [`super::RawCanary`].
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryConfig {
    /// Zero = never.
    pub interval: Duration,
    pub limit_min: Duration,
}

/// How the load of the devices is measured. See [`super::RawProbe`].
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    pub gpu: GpuMode,
    /// `None`: the one that the system finds by its name.
    pub nvml_library: Option<PathBuf>,
}

/// How a node leaves. See [`super::RawDrain`].
#[derive(Clone, Debug, PartialEq)]
pub struct DrainConfig {
    /// At most `limit`.
    pub settle: Duration,
    pub limit: Duration,
}

/// What is recorded. See [`super::RawRecord`].
#[derive(Clone, Debug, PartialEq)]
pub struct RecordConfig {
    /// `None`: nothing is recorded.
    pub file: Option<PathBuf>,
    pub bytes_max: u64,
}

/// What is logged. See [`super::RawLog`].
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// A filter that `tracing_subscriber::EnvFilter` takes.
    pub level: String,
    pub format: LogFormat,
}

impl Config {
    /// Only for values that passed their rules and relations.
    pub(super) fn of_sound(raw: RawConfig, filled: Filled) -> Self {
        let RawConfig {
            node,
            api,
            peer,
            gossip,
            model,
            engine,
            admission,
            cache,
            routing,
            breaker,
            retry,
            hedge,
            pulse,
            canary,
            probe,
            drain,
            record,
            log,
        } = raw;
        Self {
            node: NodeConfig {
                cluster: node.cluster,
                id: node.id,
                data_dir: filled.data_dir,
                zone: node.zone,
                weight: node.weight,
                backup: node.backup,
            },
            api: ApiConfig {
                listen: api.listen,
                advertise: filled.api_advertise,
                body_bytes_max: api.body_bytes_max,
                inputs_max: api.inputs_max,
                connections_max: api.connections_max,
                header_timeout: ms(api.header_timeout_ms),
                body_idle_timeout: ms(api.body_idle_timeout_ms),
                explain: api.explain,
            },
            peer: PeerConfig {
                listen: peer.listen,
                advertise: filled.peer_advertise,
                connect_timeout: ms(peer.connect_timeout_ms),
                accept_timeout: ms(peer.accept_timeout_ms),
                ping_interval: ms(peer.ping_interval_ms),
                ping_timeout: ms(peer.ping_timeout_ms),
                message_bytes_max: peer.message_bytes_max,
            },
            gossip: GossipConfig {
                seeds: gossip.seeds,
                interval: ms(gossip.interval_ms),
                phi_threshold: gossip.phi_threshold,
                dead_grace: Duration::from_secs(gossip.dead_grace_s.into()),
            },
            model: ModelConfig { name: model.name, cache_dir: filled.cache_dir },
            engine: EngineConfig {
                spec: engine.spec,
                threads: engine.threads,
                batch_tokens_max: engine.batch_tokens_max,
                batch_rows_max: engine.batch_rows_max,
                batch_max: ms(engine.batch_ms_max),
            },
            admission: AdmissionConfig {
                jobs_max: admission.jobs_max,
                bytes_max: admission.bytes_max,
                deadline_default: ms(admission.deadline_ms_default),
                deadline_max: ms(admission.deadline_ms_max),
            },
            cache: CacheConfig { bytes_max: cache.bytes_max, ttl: Duration::from_secs(cache.ttl_s.into()) },
            routing: RoutingConfig {
                policy: routing.policy,
                margin_min: ms(routing.margin_ms_min),
                margin_percent: routing.margin_percent,
                placements_max: routing.placements_max,
                hot_enter_percent: routing.hot_enter_percent,
                chunk: ms(routing.chunk_ms),
                ask_after: ms(routing.ask_after_ms),
                hot_leave_percent: routing.hot_leave_percent,
                hot_dwell: ms(routing.hot_dwell_ms),
                session_bound_percent: routing.session_bound_percent,
                slow_start: ms(routing.slow_start_ms),
                panic_percent: routing.panic_percent,
            },
            breaker: BreakerConfig {
                request_volume: breaker.request_volume,
                error_percent: breaker.error_percent,
                sleep_window: ms(breaker.sleep_window_ms),
                sleep_window_max: ms(breaker.sleep_window_ms_max),
            },
            retry: RetryConfig { budget_percent: retry.budget_percent, budget_per_second: retry.budget_per_second },
            hedge: HedgeConfig {
                percent: hedge.percent,
                after_min: ms(hedge.after_ms_min),
                load_percent_max: hedge.load_percent_max,
            },
            pulse: PulseConfig { late_max: ms(pulse.late_ms_max), doubt: ms(pulse.doubt_ms) },
            canary: CanaryConfig { interval: ms(canary.interval_ms), limit_min: ms(canary.limit_ms_min) },
            probe: ProbeConfig { gpu: probe.gpu, nvml_library: probe.nvml_library },
            drain: DrainConfig { settle: ms(drain.settle_ms), limit: ms(drain.limit_ms) },
            record: RecordConfig { file: record.file, bytes_max: record.bytes_max },
            log: LogConfig { level: log.level, format: log.format },
        }
    }
}

fn ms(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
}
