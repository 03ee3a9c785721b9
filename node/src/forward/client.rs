//! Sending jobs to peers.
//!
//! Part of `forward`. One HTTP/2 connection a peer for each runtime that asks, made on demand and shared by all jobs of
//! that runtime: an answer wakes no other thread than the one that waits for it.
//! Invariants: a connection that broke fails every job on it at once; an answer counts only when it is whole; whoever
//! asked for it hears of each connection that ended, also of one that carried nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use prost::Message as _;
use shoal_core::load::Report;
use shoal_core::node::Refusal;
use shoal_core::peers::Word;
use shoal_core::time::Micros;
use shoal_engine::Embedding;
use tokio::runtime::{Handle, Id};

use super::link::{Ask, Link, LinkAnswer};
use crate::clock::micros;
use crate::wire::{self, AnswerDecoder, CacheFound, CacheGet, CachePut, End, Execute, ReportFault};

/// Bounds of the peer leg.
#[derive(Clone, Copy, Debug)]
pub struct ForwardLimits {
    /// Longest time until a connection stands.
    pub connect: Duration,
    /// While jobs are out, a ping goes out this often.
    pub ping_interval: Duration,
    /// A ping not answered in this time breaks the connection.
    pub ping_timeout: Duration,
    /// Largest message.
    pub message_bytes_max: usize,
}

/// Why a forwarded job has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Nothing was sent. Safe to try another peer.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The peer does not take it. Nothing ran; no blame.
    #[error("refused: {refusal:?}")]
    Refused { refusal: Refusal, said: Said },
    /// Sent, then the connection broke. The job may have run once already.
    #[error("the connection broke: {0}")]
    Lost(String),
    /// What came was no answer. The job may have run.
    #[error("garbled: {0}")]
    Garbled(String),
}

/// What a peer said of itself beside its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What can be believed of it.
    pub word: Word,
    /// Why its load is not among that, where it told one.
    pub fault: Option<ReportFault>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub rows: Vec<Embedding>,
    pub end: End,
    pub said: Said,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// Connections to all peers.
#[derive(Clone, Debug)]
pub struct PeerClient {
    limits: ForwardLimits,
    slots: Arc<Mutex<HashMap<(SocketAddr, Id), Slot>>>,
    ends: Arc<Ends>,
}

/// Who hears that a connection ended.
#[derive(Default)]
struct Ends(OnceLock<Box<dyn Fn(SocketAddr) + Send + Sync>>);

impl std::fmt::Debug for Ends {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Ends {{ heard: {} }}", self.0.get().is_some())
    }
}

impl PeerClient {
    /// No connection yet.
    #[must_use]
    pub fn new(limits: ForwardLimits) -> Self {
        Self { limits, slots: Arc::default(), ends: Arc::default() }
    }

    /// From now on `hears` is told the address of each connection that ended, for whatever reason: a peer that closes
    /// it in peace, one that is gone, one that is no member any more. It must not block. Only the first call counts.
    pub fn on_end(&self, hears: impl Fn(SocketAddr) + Send + Sync + 'static) {
        let _ = self.ends.0.set(Box::new(hears));
    }

    /// Forgets connections to addresses that are not among `members`: the table is as large as the shoal, once for each
    /// runtime.
    pub fn keep_only(&self, members: &[SocketAddr]) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|(addr, _), _| members.contains(addr));
    }

    /// Sends a job, whose vectors have to have `width` values, where that is known. `on_flushed` is called when a
    /// connection stands and takes it, `on_acknowledged` once the peer holds it, before the answer is there.
    ///
    /// Dropping the future cancels the job on the peer.
    ///
    /// # Errors
    /// [`ForwardError`], which says whether the job may have run.
    pub async fn execute(
        &self,
        addr: SocketAddr,
        job: &Execute,
        width: Option<u32>,
        on_flushed: impl FnOnce() + Send,
        on_acknowledged: impl FnOnce(Said) + Send,
    ) -> Result<Reply, ForwardError> {
        let rows_max = job.texts.len();
        let mut answer = self.send(addr, Ask::Execute, job.encode_to_vec().into(), on_flushed).await?;
        let said = said_by(&answer.headers, answer.elapsed);
        match answer.status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                return Err(match refusal_of(&answer.headers) {
                    Some(refusal) => ForwardError::Refused { refusal, said },
                    None => ForwardError::Garbled("a refusal without a reason".to_owned()),
                });
            }
            // It is there and works, and objects to this job: its limits are not the same, or it is of another version.
            // The job is to be placed again; to blame the peer would let one odd request keep all others from it.
            status @ (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE) => {
                tracing::debug!(peer = %addr, %status, request = %job.request_id, "a peer objects to a job");
                return Err(ForwardError::Refused { refusal: Refusal::Unable, said });
            }
            status => return Err(ForwardError::Garbled(format!("status {status}"))),
        }
        on_acknowledged(said);
        let mut decoder = AnswerDecoder::new(rows_max, width, self.limits.message_bytes_max);
        while let Some(piece) = answer.piece().await? {
            decoder.push(piece).map_err(|fault| ForwardError::Garbled(fault.to_string()))?;
        }
        let (rows, end) = decoder.finish().map_err(|fault| ForwardError::Garbled(fault.to_string()))?;
        let (report, fault) =
            apart(Some(&end.load).filter(|load| !load.is_empty()).map(|load| wire::decode_report(load)));
        Ok(Reply { rows, end, said: Said { word: Word { report, rtt: None }, fault } })
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// [`ForwardError`] when there is none within the ping limit.
    pub async fn ping(&self, addr: SocketAddr) -> Result<Said, ForwardError> {
        let ping = async {
            let answer = match self.send(addr, Ask::Ping, Bytes::new(), || {}).await {
                // That says that a connection ended, and not whether the peer is there: a new one tells.
                Err(ForwardError::Lost(_) | ForwardError::Unreachable(_)) => {
                    self.send(addr, Ask::Ping, Bytes::new(), || {}).await?
                }
                answer => answer?,
            };
            match answer.status {
                StatusCode::OK => Ok(said_by(&answer.headers, answer.elapsed)),
                status => Err(ForwardError::Garbled(format!("status {status}"))),
            }
        };
        let silence = |_| Err(ForwardError::Lost("no answer to a ping".to_owned()));
        tokio::time::timeout(self.limits.ping_timeout, ping).await.unwrap_or_else(silence)
    }

    /// Asks for results that the peer has in its cache, and how it is. `None`: it keeps none of that model.
    ///
    /// Bounded in bytes, not in time: whoever asks knows how long it can wait.
    ///
    /// # Errors
    /// [`ForwardError`] when no answer came, or one that is none.
    pub async fn cache_get(
        &self,
        addr: SocketAddr,
        get: &CacheGet,
    ) -> Result<(Option<CacheFound>, Said), ForwardError> {
        let mut answer = self.send(addr, Ask::CacheGet, get.encode_to_vec().into(), || {}).await?;
        let said = said_by(&answer.headers, answer.elapsed);
        if !keeps_results(answer.status)? {
            return Ok((None, said));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.piece().await? {
            if wire::FOUND_BYTES_MAX < body.len() + piece.len() {
                return Err(ForwardError::Garbled("more results than were asked for".to_owned()));
            }
            body.extend_from_slice(&piece);
        }
        let found = CacheFound::decode(&body[..]).map_err(|fault| ForwardError::Garbled(fault.to_string()))?;
        Ok((Some(found), said))
    }

    /// Gives results to their owner, and hears how it is. `false`: it keeps none of that model.
    ///
    /// # Errors
    /// [`ForwardError`] when it did not take them.
    pub async fn cache_put(&self, addr: SocketAddr, put: &CachePut) -> Result<(bool, Said), ForwardError> {
        let answer = self.send(addr, Ask::CachePut, put.encode_to_vec().into(), || {}).await?;
        let said = said_by(&answer.headers, answer.elapsed);
        Ok((keeps_results(answer.status)?, said))
    }

    async fn send(
        &self,
        addr: SocketAddr,
        ask: Ask,
        body: Bytes,
        on_flushed: impl FnOnce() + Send,
    ) -> Result<LinkAnswer, ForwardError> {
        self.connection(addr).await?.send(ask, body, on_flushed).await
    }

    async fn connection(&self, addr: SocketAddr) -> Result<Arc<Link>, ForwardError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry((addr, Handle::current().id())).or_default().clone()
        };
        // Held while connecting: of many jobs for one peer only the first dials.
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        *slot = None;
        let ends = Arc::clone(&self.ends);
        let ended = move || {
            if let Some(hears) = ends.0.get() {
                hears(addr);
            }
        };
        let dialled = tokio::time::timeout(self.limits.connect, Link::dial(addr, &self.limits, ended)).await;
        let link = Arc::new(dialled.map_err(|_| ForwardError::Unreachable("no connection in time".to_owned()))??);
        *slot = Some(Arc::clone(&link));
        Ok(link)
    }
}

/// Whether a peer has a cache for what it was asked. One of an earlier version does not know the path; one that has
/// just changed its model says that there is a conflict.
fn keeps_results(status: StatusCode) -> Result<bool, ForwardError> {
    match status {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(false),
        status => Err(ForwardError::Garbled(format!("status {status}"))),
    }
}

/// A report that was told apart from what is wrong with it.
fn apart(told: Option<Result<Report, ReportFault>>) -> (Option<Report>, Option<ReportFault>) {
    match told {
        Some(Ok(report)) => (Some(report), None),
        Some(Err(fault)) => (None, Some(fault)),
        None => (None, None),
    }
}

fn said_by(headers: &HeaderMap, elapsed: Duration) -> Said {
    let told = headers.get(wire::LOAD_HEADER);
    let told = told.map(|load| load.to_str().map_err(|_| ReportFault::Garbled).and_then(wire::decode_report));
    let (report, fault) = apart(told);
    let held = headers.get(wire::HELD_HEADER).and_then(|held| held.to_str().ok()).and_then(|held| held.parse().ok());
    // Without the peer's own share the measurement says nothing about the way.
    let rtt = held.map(|held| micros(elapsed) - Micros::new(held));
    Said { word: Word { report, rtt }, fault }
}

fn refusal_of(headers: &HeaderMap) -> Option<Refusal> {
    match headers.get(wire::REFUSAL_HEADER)?.as_bytes() {
        b"busy" => Some(Refusal::Busy),
        b"full" => Some(Refusal::Full),
        b"draining" => Some(Refusal::Draining),
        b"unable" => Some(Refusal::Unable),
        _ => None,
    }
}
