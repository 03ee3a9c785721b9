//! Every key that can be set, declared once: its name, type, default, range and what it does.
//!
//! For `config` (reading and checking), `cli` (help texts) and the sample `config/shoal.toml`, which is made from this
//! list, so that documentation, defaults and checks cannot drift apart.
//!
//! Invariants: a key is `section.name`; a default passes its own rule; every value that passes a rule fits its field.
//! Not here: relations between keys (`checked`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_core::route::{Policy, WEIGHT_DEFAULT, WEIGHT_MAX};

use super::rule::Rule;

/// A group of keys, written `[name]` in TOML.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    /// Sentences for people.
    pub about: &'static str,
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`.
    pub path: &'static str,
    /// Sentences for people: the effect, and the default where that is worked out at start.
    pub about: &'static str,
    pub(super) rule: Rule,
}

impl Key {
    /// The part after the dot.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that sets this key: `SHOAL__SECTION__NAME`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("SHOAL__{}", self.path.replace('.', "__").to_uppercase())
    }

    /// The value that holds when nobody sets the key; `null` where it is worked out at start.
    #[must_use]
    pub fn default_value(&self) -> &'static Value {
        static DEFAULTS: LazyLock<Value> = LazyLock::new(|| RawConfig::default().to_json());
        let (section, name) = self.path.split_once('.').unwrap_or((self.path, ""));
        &DEFAULTS[section][name]
    }
}

/// All keys, in the order of the reference file.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

/// The key named `path` (`section.name`).
#[must_use]
pub fn key(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.path == path)
}

/// Turns one list into the raw structs (which parse), their defaults, their documentation and the table [`SECTIONS`].
macro_rules! sections {
    ($(
        $(#[doc = $section_about:literal])+
        $section:ident: $raw:ident {
            $( $(#[doc = $about:literal])+ $name:ident: $type:ty = $default:expr, $rule:expr; )+
        }
    )+) => {
        /// Everything that can be set, as written. Only [`super::Config`], which is checked, is used by the node.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RawConfig {
            $( $(#[doc = $section_about])+ pub $section: $raw, )+
        }

        $(
            $(#[doc = $section_about])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $raw {
                $( $(#[doc = $about])+ pub $name: $type, )+
            }

            impl Default for $raw {
                fn default() -> Self {
                    Self { $( $name: $default, )+ }
                }
            }
        )+

        /// Every section with its keys.
        pub static SECTIONS: &[Section] = &[$(
            Section {
                name: stringify!($section),
                about: concat!($($section_about),+),
                keys: &[$(
                    Key {
                        path: concat!(stringify!($section), ".", stringify!($name)),
                        about: concat!($($about),+),
                        rule: $rule,
                    },
                )+],
            },
        )+];
    };
}

impl RawConfig {
    /// As `{section: {name: value}}`.
    pub(super) fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("texts, numbers and lists always serialise")
    }
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// The policies that a node may be run with. `threshold` is only there to be compared with.
pub(super) const POLICIES: &[&str] =
    &["adaptive", "local", "round_robin", "weighted", "dynamic_weight", "least_conn", "least_load", "ip_hash"];

/// Whether GPUs are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuMode {
    /// They are read where there are any.
    Auto,
    /// The node counts as one without.
    Off,
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const HOUR_MS: u64 = 3_600_000;

sections! {
    /// Who this node is.
    node: RawNode {
        /// Name of the shoal. Nodes that carry another name are refused, so that two shoals in one network stay apart.
        cluster: String = "shoal".to_owned(), Rule::Label { length_min: 1 };
        /// Name of this node, different from that of every other node.
        /// Without it, a name is made at the first start and kept in the data directory.
        id: Option<String> = None, Rule::Label { length_min: 1 };
        /// Directory for what must outlive the process: the node's name, its generation, revisions of models,
        /// and what each model's canary answered. Made when it is missing; one process at a time may use it.
        /// Without it: $XDG_STATE_HOME/shoal, else ~/.local/state/shoal, else ./shoal-data.
        data_dir: Option<PathBuf> = None, Rule::Path { example: "/var/lib/shoal" };
        /// Rack, room or availability zone. Gossiped to the peers; nothing uses it yet. Empty = not told.
        zone: String = String::new(), Rule::Label { length_min: 0 };
        /// How much work this node gets beside the others; 100 is normal. 0 = it computes nothing, not even for its own
        /// callers, and hands everything on; it then needs a seed.
        weight: u32 = WEIGHT_DEFAULT, Rule::Whole { min: 0, max: WEIGHT_MAX as u64 };
        /// A backup computes only while no other node can. Its own callers are served through the others.
        backup: bool = false, Rule::Switch;
    }

    /// The public door: HTTP for callers.
    api: RawApi {
        /// Address on which callers are served. Anyone who reaches it can use the model.
        listen: SocketAddr = SocketAddr::from((LOOPBACK, 8080)), Rule::Address;
        /// Address that is told to peers and people.
        /// Without it: `listen`; where that is `0.0.0.0` or `[::]`, the IP of `peer.advertise` with the port of
        /// `listen`.
        advertise: Option<SocketAddr> = None, Rule::Address;
        /// Longest body of a request; a longer one is answered 413.
        body_bytes_max: u64 = 2_000_000, Rule::Whole { min: KIB, max: 256 * MIB };
        /// Most texts in one call; more are answered 413 or 422, as the caller's dialect has it.
        inputs_max: u32 = 2048, Rule::Whole { min: 1, max: 65_536 };
        /// Most connections of callers at one time; further ones wait to be accepted.
        connections_max: u32 = 1024, Rule::Whole { min: 1, max: 1_000_000 };
        /// Time within which all headers of a request must have come; then the connection is closed.
        header_timeout_ms: u32 = 10_000, Rule::Whole { min: 100, max: 600_000 };
        /// Longest pause between two pieces of a body; then the request is answered 408.
        body_idle_timeout_ms: u32 = 10_000, Rule::Whole { min: 100, max: 600_000 };
        /// Whether a call with the header `x-shoal-explain: 1` is told, in a header of its answer, which nodes could
        /// have had it and why it went where it went. That shows names and loads of nodes to whoever asks.
        explain: bool = false, Rule::Switch;
    }

    /// The door for peers. Its traffic is not encrypted yet, so it may use loopback and private ranges only.
    peer: RawPeer {
        /// Address for peers: TCP carries jobs, UDP on the same port carries gossip.
        listen: SocketAddr = SocketAddr::from((LOOPBACK, 8090)), Rule::Address;
        /// Address at which peers reach this node. Without it: `listen`. Needed where `listen` is `0.0.0.0` or `[::]`.
        advertise: Option<SocketAddr> = None, Rule::Address;
        /// Time to reach a peer before the job goes elsewhere.
        connect_timeout_ms: u32 = 300, Rule::Whole { min: 10, max: 60_000 };
        /// Time that a peer has to accept a job that was sent, before the job goes elsewhere.
        accept_timeout_ms: u32 = 300, Rule::Whole { min: 10, max: 60_000 };
        /// Pause between two pings on a connection.
        ping_interval_ms: u32 = 200, Rule::Whole { min: 10, max: 60_000 };
        /// Time for the answer to a ping; then the connection counts as broken and its jobs go elsewhere.
        ping_timeout_ms: u32 = 400, Rule::Whole { min: 10, max: 60_000 };
        /// Longest message between peers. At least 65536 above `api.body_bytes_max`.
        message_bytes_max: u64 = 16 * MIB, Rule::Whole { min: 128 * KIB, max: GIB };
    }

    /// How nodes find each other and notice that one is gone.
    gossip: RawGossip {
        /// Peers to ask at start; one that is up is enough, and those that are down are tried again.
        /// Empty = this node waits to be found.
        seeds: Vec<String> = Vec::new(), Rule::Seeds;
        /// Pause between two rounds of gossip. Above 100 nodes, use as many milliseconds as there are nodes.
        interval_ms: u32 = 100, Rule::Whole { min: 20, max: 10_000 };
        /// Suspicion at which a silent peer counts as dead: lower is faster, and wrong more often.
        phi_threshold: f64 = 12.0, Rule::Real { min: 1.0, max: 100.0 };
        /// Time for which a dead node is remembered.
        dead_grace_s: u32 = 600, Rule::Whole { min: 10, max: 604_800 };
    }

    /// What is served.
    model: RawModel {
        /// Name of a model, or the path of a directory that holds one.
        name: String = "minilm".to_owned(), Rule::Path { example: "minilm" };
        /// Directory in which fetched models are kept.
        /// Without it: $XDG_CACHE_HOME/shoal/models, else ~/.cache/shoal/models, else `models` in the data directory.
        cache_dir: Option<PathBuf> = None, Rule::Path { example: "/var/cache/shoal/models" };
    }

    /// What computes.
    engine: RawEngine {
        /// `candle` runs the model. `synthetic` is a stand-in for trials, which only takes its time:
        /// `synthetic:DUR[,exp|,burn][,per_batch=DUR]`.
        spec: String = "candle".to_owned(), Rule::Engine;
        /// Threads that compute. 0 = as many as this process has cores.
        threads: u32 = 0, Rule::Whole { min: 0, max: 1024 };
        /// Most tokens in one batch. A single text that is longer runs alone.
        batch_tokens_max: u32 = 16_384, Rule::Whole { min: 16, max: 1_048_576 };
        /// Most texts in one batch.
        batch_rows_max: u32 = 256, Rule::Whole { min: 1, max: 65_536 };
        /// A batch takes in no more than what runs in about this time: shorter means fairer, longer means more a
        /// second.
        batch_ms_max: u32 = 50, Rule::Whole { min: 1, max: 10_000 };
    }

    /// How much work a node holds before it says no.
    admission: RawAdmission {
        /// Most jobs held, running and waiting; one more is answered 429 with Retry-After.
        jobs_max: u32 = 512, Rule::Whole { min: 1, max: 65_536 };
        /// Most bytes of requests and answers held. At least `api.body_bytes_max`.
        bytes_max: u64 = 256 * MIB, Rule::Whole { min: MIB, max: 1024 * GIB };
        /// Time for an answer when the caller names none. At most `deadline_ms_max`.
        deadline_ms_default: u32 = 30_000, Rule::Whole { min: 1, max: HOUR_MS };
        /// Longest time that a caller may ask for; more is cut to this.
        deadline_ms_max: u32 = 300_000, Rule::Whole { min: 1, max: HOUR_MS };
    }

    /// Results that are kept, so that a text is computed once: on the node that was asked, and on the one that owns it
    /// by its key, which any other node asks first. A result is exact, and of one model, revision and precision.
    cache: RawCache {
        /// What all results kept on this node may weigh; a vector of 384 numbers weighs 2 KiB. 0 = none are kept, and
        /// no peer is asked for any.
        bytes_max: u64 = 64 * MIB, Rule::Whole { min: 0, max: 1024 * GIB };
        /// A result that is older is computed again.
        ttl_s: u32 = 3600, Rule::Whole { min: 1, max: 604_800 };
    }

    /// Which node gets a call.
    routing: RawRouting {
        /// How a node is chosen. `adaptive`: whoever is done first, of this node and two random peers. The others are
        /// what load balancers do, for comparison and for taste: `local` (this node), `round_robin` (in turn),
        /// `weighted` (in turn, as `node.weight` says), `dynamic_weight` (by chance, less where load is high),
        /// `least_conn` (fewest jobs of this node), `least_load` (least load by its own word), `ip_hash` (always the
        /// same for one caller). They choose among all nodes that are ready, this one too.
        policy: Policy = Policy::Adaptive, Rule::OneOf(POLICIES);
        /// A peer must finish sooner by at least this much, or the job stays here.
        margin_ms_min: u32 = 2, Rule::Whole { min: 0, max: 10_000 };
        /// A peer must finish sooner by at least this part of the own time, or the job stays here.
        margin_percent: u32 = 10, Rule::Whole { min: 0, max: 1000 };
        /// Most nodes that one job is given to, one after the other, while nodes refuse it or die.
        placements_max: u32 = 3, Rule::Whole { min: 1, max: 8 };
        /// A call that takes much longer than this is cut into chunks of about this time, and each chunk is placed like
        /// a call of its own, at most two on one node at a time. 0 = calls stay whole.
        chunk_ms: u32 = 50, Rule::Whole { min: 0, max: 10_000 };
        /// A call that has to wait here has peers asked how they are whose word is older than this, and moves, before
        /// it runs, to one that turns out to be sooner by the margin. 0 = nobody is asked, and what waits stays.
        ask_after_ms: u32 = 5, Rule::Whole { min: 0, max: 60_000 };
        /// A node with more than this part of its device or memory in use is hot: a peer need no longer be sooner by
        /// `margin_percent` to get work. 100 = never.
        hot_enter_percent: u32 = 75, Rule::Whole { min: 1, max: 100 };
        /// Below this part it is cool again. Less than `hot_enter_percent`.
        hot_leave_percent: u32 = 65, Rule::Whole { min: 0, max: 99 };
        /// Hot or cool holds at least so long, and up to half as long again by chance.
        hot_dwell_ms: u32 = 500, Rule::Whole { min: 0, max: 60_000 };
        /// The owner of a session (`x-session-id`) is passed over while it holds more than this part of the mean of all
        /// nodes.
        session_bound_percent: u32 = 125, Rule::Whole { min: 101, max: 10_000 };
        /// A peer whose process has just started gets less than its share for so long. 0 = its share at once.
        slow_start_ms: u32 = 3000, Rule::Whole { min: 0, max: 600_000 };
        /// When gossip calls more than this part of the peers dead, gossip itself is in doubt, and peers that answer
        /// pings get work all the same. 0 = gossip is always believed.
        panic_percent: u32 = 50, Rule::Whole { min: 0, max: 100 };
    }

    /// When a peer whose model fails is left alone. Only errors count of which the peer is guilty: the same call worked
    /// elsewhere.
    breaker: RawBreaker {
        /// Fewer answers of a peer within ten seconds say nothing.
        request_volume: u32 = 20, Rule::Whole { min: 1, max: 1_000_000 };
        /// This part of errors among them pauses the peer. 0 = errors pause nobody.
        error_percent: u32 = 50, Rule::Whole { min: 0, max: 100 };
        /// The first pause; each further one in a row is twice as long. At most `sleep_window_ms_max`.
        sleep_window_ms: u32 = 5000, Rule::Whole { min: 100, max: HOUR_MS };
        /// The longest pause.
        sleep_window_ms_max: u32 = 30_000, Rule::Whole { min: 100, max: HOUR_MS };
    }

    /// How much extra work a node may cause by giving calls to a second node. What a peer's death causes is not
    /// charged.
    retry: RawRetry {
        /// Part of the calls that may be given to another node after a first one refused or failed.
        budget_percent: u32 = 20, Rule::Whole { min: 0, max: 100 };
        /// So many a second may beside.
        budget_per_second: u32 = 10, Rule::Whole { min: 0, max: 100 };
    }

    /// When a late call is given to a second node while the first one still has it. The first answer wins.
    hedge: RawHedge {
        /// Part of the calls that may be. 0 = none.
        percent: u32 = 2, Rule::Whole { min: 0, max: 10 };
        /// None before it took so long.
        after_ms_min: u32 = 10, Rule::Whole { min: 1, max: 60_000 };
        /// None while more than this part of the other nodes' devices is in use (for one that would run on this node,
        /// of its own): extra work would make others late.
        load_percent_max: u32 = 70, Rule::Whole { min: 0, max: 100 };
    }

    /// When a node suspects that not its peers are silent but that it did not listen: it stood still.
    pulse: RawPulse {
        /// It stood still when its own ticks come later than this.
        late_ms_max: u32 = 200, Rule::Whole { min: 100, max: 60_000 };
        /// For so long after that it calls nobody dead or silent. 0 = it does at once.
        doubt_ms: u32 = 500, Rule::Whole { min: 0, max: 60_000 };
    }

    /// When the model is asked a question whose answer is known. While the answer is wrong or missing, the node
    /// computes nothing and its callers are served by peers.
    canary: RawCanary {
        /// Time from one answer to the next question while nothing seems wrong; it is asked at once when the model
        /// fails on a text, or when the device takes far too long. 0 = never while the node runs, whatever happens; at
        /// a load its answer is compared all the same.
        interval_ms: u32 = 10_000, Rule::Whole { min: 0, max: HOUR_MS };
        /// A missing answer counts after this time (more where an inference takes long), from when it should have
        /// begun.
        limit_ms_min: u32 = 1000, Rule::Whole { min: 100, max: 600_000 };
    }

    /// How the load of the devices is measured.
    probe: RawProbe {
        /// Whether GPUs are read. `auto` reads those that CUDA_VISIBLE_DEVICES leaves, through the library of NVIDIA's
        /// driver; where there is none, and with `off`, the node's share of CPU and memory counts.
        gpu: GpuMode = GpuMode::Auto, Rule::OneOf(&["auto", "off"]);
        /// File of that library. Without it: the libnvidia-ml.so.1 that the system finds.
        nvml_library: Option<PathBuf> = None, Rule::Path { example: "/opt/nvidia/lib64/libnvidia-ml.so.1" };
    }

    /// How a node leaves after SIGTERM.
    drain: RawDrain {
        /// Time for which new callers are still served after the peers were told. At most `limit_ms`.
        settle_ms: u32 = 500, Rule::Whole { min: 0, max: 60_000 };
        /// Time after which the node leaves although work is unfinished.
        limit_ms: u32 = 30_000, Rule::Whole { min: 0, max: HOUR_MS };
    }

    /// A recording of every decision of this process, which `cluster-sim replay` can take again.
    record: RawRecord {
        /// File into which decisions are recorded: sizes, times, names of nodes, and numbers that stand for calls and
        /// callers; never texts or vectors, which no decision looks at. It must not exist yet: nothing is overwritten,
        /// so a node that is started again needs another name. Without it: nothing is recorded.
        file: Option<PathBuf> = None, Rule::Path { example: "/var/lib/shoal/decisions.jsonl" };
        /// The recording ends before the file is longer than this; the node goes on.
        bytes_max: u64 = 256 * MIB, Rule::Whole { min: MIB, max: 1024 * GIB };
    }

    /// What is written to standard error.
    log: RawLog {
        /// Which lines are written: those of this level and graver ones, or what a filter of `tracing` says.
        level: String = "info".to_owned(), Rule::LogFilter;
        /// How lines look: `text` is for people; `json`, one object a line, is for machines.
        format: LogFormat = LogFormat::Text, Rule::OneOf(&["text", "json"]);
    }
}
