//! Sending jobs to peers.
//!
//! Part of `forward`. One HTTP/2 connection a peer, made on demand and shared by all jobs.
//! Invariants: a connection that broke fails every job on it at once; an answer counts only when it is whole.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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

use super::link::{Ask, Link, LinkAnswer};
use crate::clock::micros;
use crate::wire::{self, AnswerDecoder, End, Execute, ReportFault};

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
    slots: Arc<Mutex<HashMap<SocketAddr, Slot>>>,
}

impl PeerClient {
    /// No connection yet.
    #[must_use]
    pub fn new(limits: ForwardLimits) -> Self {
        Self { limits, slots: Arc::default() }
    }

    /// Forgets connections to addresses that are not among `members`: the table is as large as the shoal.
    pub fn keep_only(&self, members: &[SocketAddr]) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|addr, _| members.contains(addr));
    }

    /// Sends a job. `on_flushed` is called when a connection stands and takes it, `on_acknowledged` once the peer holds
    /// it, before the answer is there.
    ///
    /// Dropping the future cancels the job on the peer.
    ///
    /// # Errors
    /// [`ForwardError`], which says whether the job may have run.
    pub async fn execute(
        &self,
        addr: SocketAddr,
        job: &Execute,
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
        let mut decoder = AnswerDecoder::new(rows_max, self.limits.message_bytes_max);
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
            let answer = self.send(addr, Ask::Ping, Bytes::new(), || {}).await?;
            match answer.status {
                StatusCode::OK => Ok(said_by(&answer.headers, answer.elapsed)),
                status => Err(ForwardError::Garbled(format!("status {status}"))),
            }
        };
        let silence = |_| Err(ForwardError::Lost("no answer to a ping".to_owned()));
        tokio::time::timeout(self.limits.ping_timeout, ping).await.unwrap_or_else(silence)
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
            slots.entry(addr).or_default().clone()
        };
        // Held while connecting: of many jobs for one peer only the first dials.
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        *slot = None;
        let dialled = tokio::time::timeout(self.limits.connect, Link::dial(addr, &self.limits)).await;
        let link = Arc::new(dialled.map_err(|_| ForwardError::Unreachable("no connection in time".to_owned()))??);
        *slot = Some(Arc::clone(&link));
        Ok(link)
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
