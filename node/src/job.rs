//! The canonical job: what every dialect is decoded into, and what comes back.
//!
//! For `listen` (which makes jobs from callers' bodies), `shell` (which places them), `forward` and `compute`.
//! Invariants: a job is complete once decoded: nothing of the caller's bytes or headers is looked at again.

use std::sync::Arc;

use shoal_engine::{EmbedOptions, Embedding};
use tokio::sync::OwnedSemaphorePermit;

/// One call for embeddings.
#[derive(Clone, Debug)]
pub struct Job {
    /// The caller's `x-request-id` if it was sound, else one made here. At most 64 printable ASCII bytes.
    pub request_id: Arc<str>,
    /// W3C trace context as received, if it was well-formed.
    pub traceparent: Option<Arc<str>>,
    /// 1 to `api.inputs_max` texts, none empty of bytes.
    pub texts: Arc<[Box<str>]>,
    pub options: EmbedOptions,
    /// Time that the caller still gives, milliseconds.
    pub deadline_ms: u32,
    /// Stands for the caller's address; 0 for the job of a peer.
    pub client: u64,
    /// Stands for the session that the caller named.
    pub session: Option<u64>,
    /// The caller wants to know why the job went where it went, and may.
    pub explain: bool,
}

impl Job {
    /// Bytes of all texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum()
    }
}

/// The answer to a [`Job`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// One a text, in the order of the texts.
    pub rows: Vec<Embedding>,
    /// Node that computed it, or the last part of it that did not come out of a cache; where nothing was computed, the
    /// node whose cache gave it. Of a call that was cut: the first nodes that computed a part, with `, ` between.
    pub served_by: Arc<str>,
    /// 0 = `served_by` is the node that the caller asked, 1 = it is a peer, be it only for a part.
    pub hops: u8,
    /// How many nodes the job was given to, refusals included; of a call that was cut, the most of a part; 0 = all of
    /// it came out of caches.
    pub placements: u8,
    /// From arrival until the first row began to run, microseconds.
    pub queue_us: u64,
    /// Time of the forward passes that this job's rows were in, microseconds.
    pub compute_us: u64,
    pub model: Arc<str>,
    pub revision: Arc<str>,
    /// Where its rows were found; `None` where no cache was asked.
    pub cache: Option<FoundIn>,
}

/// Where the rows of an answer were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundIn {
    /// All of them on the node that the caller asked.
    Local,
    /// All of them in caches, at least one in that of a peer.
    Owner,
    /// At least one was computed for this call.
    Miss,
}

impl FoundIn {
    /// Its name, as callers see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Owner => "owner",
            Self::Miss => "miss",
        }
    }
}

/// Why a [`Job`] has no answer. One variant per different status code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The caller has to change the request.
    #[error("input {index}: {message}")]
    Input { index: usize, message: String },
    /// The node holds too much and no peer can take it; nothing ran.
    #[error("all nodes are busy")]
    Overloaded { retry_after_ms: u32 },
    /// No node can compute this now: the model is loading, or no peer holds it.
    #[error("no node can answer now: {message}")]
    Unavailable { message: String, retry_after_ms: u32 },
    /// The caller's time is over.
    #[error("the deadline has passed")]
    Expired,
    /// The model failed on this request on two nodes, or on the only one.
    #[error("the model failed on input {index}: {message}")]
    Engine { index: usize, message: String },
}

/// What became of a [`Job`].
#[derive(Debug)]
pub struct Ending {
    pub answer: Result<Answer, Failure>,
    /// Why it went where it went, as JSON in printable ASCII, if that was asked for.
    pub explanation: Option<Box<str>>,
    /// Room for answers out of the cache, to be given back when the last byte of the answer is written.
    pub room: Option<OwnedSemaphorePermit>,
}

/// One model that can be asked for here, computed on this node or on a peer.
#[derive(Clone, Debug)]
pub struct ModelView {
    pub name: Arc<str>,
    pub revision: Arc<str>,
    pub precision: Arc<str>,
    pub dimensions: u32,
    pub tokens_max: u32,
    /// `cls`, `mean` or `last`.
    pub pooling: &'static str,
    pub stand_in: bool,
    /// Unix seconds when this node loaded it.
    pub loaded_at_s: u64,
}

/// What one node says of itself and of its peers, for `/info`, `/health`, `/readyz?verbose` and `/status`.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub node_id: Arc<str>,
    pub cluster: Arc<str>,
    /// Where callers reach it.
    pub api_addr: Arc<str>,
    /// `starting`, `ready`, `draining`, `wedged` or `failed`.
    pub engine: &'static str,
    /// Why the engine cannot compute, for people; empty when it can.
    pub engine_message: String,
    /// `open`, `settling` (callers are still taken, and asked to go), `closing` or `closed`.
    pub door: &'static str,
    /// An answer can be given, here or through a peer.
    pub can_answer: bool,
    /// The gossip loop runs; while it is started again, what is said of the peers grows old.
    pub gossip_runs: bool,
    /// Gossip calls so many peers dead that pings are believed instead.
    pub doubts_gossip: bool,
    /// How many other addresses it was told to find the others by.
    pub seeds: usize,
    pub uptime_s: u64,
    /// Since its engine or its door last changed, milliseconds; `None` until that was first looked at.
    pub changed_ms: Option<u64>,
    /// How much work it should get: 100 is normal, 0 is none.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// Until a new job would start here, microseconds.
    pub wait_us: u64,
    /// How much of it is in use, percent: what the probes say, else how much of the device's time.
    pub load_percent: u8,
    /// The model of this node; `None` until it is loaded here.
    pub model: Option<ModelView>,
    pub peers: Vec<PeerView>,
    pub jobs_held: u32,
    /// Those of them that are at a peer, each chunk of a call on its own.
    pub jobs_forwarded: u32,
}

/// One peer as this node sees it.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub node_id: Arc<str>,
    pub api_addr: Arc<str>,
    pub peer_addr: Arc<str>,
    /// Gossip hears it.
    pub alive: bool,
    /// It answers this node directly, although gossip calls it dead.
    pub answers_unheard: bool,
    /// `passing`, `blocking` or `probing`: whether its transport gets requests.
    pub gate: &'static str,
    /// Its model failed too often, and it is left alone for a while.
    pub paused: bool,
    /// How much work it should get: 100 is normal, 0 is none.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// Its own word: `starting`, `ready`, `draining`, `wedged` or `failed`.
    pub engine: Arc<str>,
    /// name@revision/precision of what it serves; empty while unknown.
    pub model: Arc<str>,
    /// Its last word on how long a new job would wait, microseconds, if any.
    pub wait_us: Option<u64>,
    /// Its last word on how much of its device is in use, percent, if any.
    pub busy_percent: Option<u8>,
    /// Its last word on how many jobs it holds, if any.
    pub held: Option<u32>,
    /// How old those words are, milliseconds.
    pub load_age_ms: Option<u64>,
    /// Jobs of this node that are there now.
    pub in_flight: u32,
    /// Since it was started, called alive or dead, changed its engine, or its gate began or ceased to pass, as this
    /// node saw it, milliseconds; `None` until that was first looked at.
    pub changed_ms: Option<u64>,
    pub version: Arc<str>,
}

/// What `listen` needs from the rest of the node.
///
/// Dropping the future of [`Door::place`] means that the caller left: the job is cancelled here and on the peer.
pub trait Door: Clone + Send + Sync + 'static {
    fn place(&self, job: Job) -> impl Future<Output = Ending> + Send;
    /// This node's view of itself and its peers, cheap enough for a probe every second.
    fn view(&self) -> NodeView;
    /// [`NodeView::model`] alone, asked for by every request that names a model: override it where a view is costly.
    fn model(&self) -> Option<ModelView> {
        self.view().model
    }
    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    fn metrics(&self) -> String;
    /// Counts one finished HTTP request. `route` is one of a fixed set, never the raw path.
    fn observe(&self, route: &'static str, status: u16, seconds: f64);
    /// Whether connections should be told to close after the answer, because the node is draining.
    fn draining(&self) -> bool;
}
