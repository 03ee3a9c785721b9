//! One HTTP/2 connection to a peer.
//!
//! For [`super::client`]. On `h2` itself: hyper's client hands each request through a channel and two tasks of its own,
//! and writes the head of a request before it has its body, which is two packets and wakes the peer twice.
//! Invariants: while jobs are out and nothing is heard, the peer is asked for a sign of life, and without one in time
//! every job on the connection fails at once; a job that is dropped is cancelled on the peer; a connection that ended
//! says so to whoever asks.
//! Not here: which address to dial, and what a broken job means (`client`).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::client::{ForwardError, ForwardLimits};
use crate::wire;

/// Streams that may be open before the peer's own limit is known. The peer allows more than its admission holds.
const STREAMS_BEFORE_SETTINGS: usize = 1024;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Jobs given up that are remembered, for a second, so that what the peer still sends for them is passed over and not
/// answered with another reset. Questions about results alone are given up after milliseconds, hundreds at a time.
const RESETS_REMEMBERED_MAX: usize = 16 << 10;
/// Bytes of one answer's headers; a load report and a few numbers.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A connection that stands, or did.
#[derive(Debug)]
pub(super) struct Link {
    requests: SendRequest<Bytes>,
    /// One for each [`Ask`], in its order.
    uris: [Uri; 4],
    shared: Arc<Shared>,
}

/// What the connection's task and its jobs know of each other.
#[derive(Debug)]
struct Shared {
    started: Instant,
    /// Milliseconds from `started` until the peer was last heard.
    heard_ms: AtomicU64,
    jobs: AtomicUsize,
    closed: AtomicBool,
}

/// What is asked of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Execute,
    Ping,
    CacheGet,
    CachePut,
}

/// In the order of [`Ask`].
const PATHS: [&str; 4] = [wire::EXECUTE_PATH, wire::PING_PATH, wire::CACHE_GET_PATH, wire::CACHE_PUT_PATH];

/// An answer whose head is there.
#[derive(Debug)]
pub(super) struct LinkAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// From the request to the head.
    pub(super) elapsed: Duration,
    body: RecvStream,
    out: JobOut,
}

/// A job that is out, until it is dropped.
#[derive(Debug)]
struct JobOut(Arc<Shared>);

impl Link {
    /// `ended` is called once, when the connection ended, for whatever reason.
    ///
    /// # Errors
    /// [`ForwardError::Unreachable`]. There is no limit of time here.
    pub(super) async fn dial(
        addr: SocketAddr,
        limits: &ForwardLimits,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, ForwardError> {
        let unreachable = |fault: &dyn std::fmt::Display| ForwardError::Unreachable(fault.to_string());
        let mut uris = <[Uri; 4]>::default();
        for (uri, path) in uris.iter_mut().zip(PATHS) {
            *uri = format!("http://{addr}{path}").parse().map_err(|fault: InvalidUri| unreachable(&fault))?;
        }
        let stream = TcpStream::connect(addr).await.map_err(|fault| unreachable(&fault))?;
        stream.set_nodelay(true).map_err(|fault| unreachable(&fault))?;
        let handshake = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_concurrent_reset_streams(RESETS_REMEMBERED_MAX)
            // `h2` counts the answers to what it does not remember over the whole life of a connection, as a guard
            // against floods from outside, and then ends it with all that is on it. A peer that is merely late for long
            // enough would come to that number.
            .max_local_error_reset_streams(None)
            .handshake(stream);
        let (requests, mut connection) = handshake.await.map_err(|fault| unreachable(&fault))?;
        let pings = connection.ping_pong().expect("taken once");
        let shared = Arc::new(Shared {
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            jobs: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let watched = Watched {
            connection,
            pings,
            shared: Arc::clone(&shared),
            interval: limits.ping_interval,
            timeout: limits.ping_timeout,
            timer: Box::pin(sleep(Duration::ZERO)),
            watch: Watch::Idle,
        };
        tokio::spawn(async move {
            // Whatever ended it, the jobs on it hear of it when it is dropped, which is now.
            if let Err(fault) = watched.await {
                tracing::debug!(peer = %addr, %fault, "connection to a peer ended");
            }
            ended();
        });
        Ok(Self { requests, uris, shared })
    }

    /// Whether it is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Sends `body` and waits for the head of the answer. `on_flushed` is called when the connection takes it.
    ///
    /// Dropping the future, or the answer before its body was read, cancels the job on the peer.
    ///
    /// # Errors
    /// [`ForwardError::Unreachable`] when nothing was sent, [`ForwardError::Lost`] when the connection broke.
    pub(super) async fn send(
        &self,
        ask: Ask,
        body: Bytes,
        on_flushed: impl FnOnce() + Send,
    ) -> Result<LinkAnswer, ForwardError> {
        let mut requests = self.requests.clone();
        let unreachable = |fault: h2::Error| {
            // The peer closes the connection, or it is broken: the next job dials.
            self.shared.closed.store(true, Ordering::Relaxed);
            ForwardError::Unreachable(fault.to_string())
        };
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(unreachable)?;
        on_flushed();
        let sent = Instant::now();
        let out = JobOut::new(&self.shared);
        let (answer, mut stream) =
            requests.send_request(self.request(ask, body.len()), body.is_empty()).map_err(unreachable)?;
        if !body.is_empty() {
            // What does not fit into the peer's window waits within `h2`: it is there in memory already.
            stream.send_data(body, true).map_err(|fault| self.lost(&fault))?;
        }
        let (head, body) = answer.await.map_err(|fault| self.lost(&fault))?.into_parts();
        self.shared.note_heard();
        Ok(LinkAnswer { status: head.status, headers: head.headers, elapsed: sent.elapsed(), body, out })
    }

    fn lost(&self, fault: &h2::Error) -> ForwardError {
        // Its task is about to say so itself; who is told of a broken job dials anew at once.
        if !fault.is_reset() {
            self.shared.closed.store(true, Ordering::Relaxed);
        }
        ForwardError::Lost(fault.to_string())
    }

    fn request(&self, ask: Ask, bytes: usize) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uris[ask as usize].clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        // A job whose length is not told takes as much of the peer's room as the longest.
        headers.insert(CONTENT_LENGTH, bytes.into());
        request
    }
}

impl LinkAnswer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`ForwardError::Lost`] when the connection or the stream broke.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ForwardError> {
        let lost = |fault: h2::Error| ForwardError::Lost(fault.to_string());
        let Some(piece) = self.body.data().await else { return Ok(None) };
        let piece = piece.map_err(lost)?;
        self.out.0.note_heard();
        // It is taken: as much more may come.
        self.body.flow_control().release_capacity(piece.len()).map_err(lost)?;
        Ok(Some(piece))
    }
}

impl JobOut {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.jobs.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for JobOut {
    fn drop(&mut self) {
        self.0.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn note_heard(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.fetch_max(ms, Ordering::Relaxed);
    }

    fn heard(&self) -> Instant {
        self.started + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed))
    }

    fn has_jobs(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) != 0
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum LinkFault {
    #[error(transparent)]
    Http(#[from] h2::Error),
    #[error("no answer to a ping")]
    Silent,
}

/// A connection and the watch over its peer.
struct Watched {
    connection: Connection<TcpStream, Bytes>,
    pings: PingPong,
    shared: Arc<Shared>,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    watch: Watch,
}

/// What the timer of a [`Watched`] stands for.
#[derive(Clone, Copy, Debug)]
enum Watch {
    /// Nothing: no job was out. The next job wakes the connection, and so this.
    Idle,
    /// The moment at which the peer will have been silent for too long to go unasked.
    Listening,
    /// A ping is out since that moment; the one at which its answer is late.
    Asked(Instant),
}

impl Future for Watched {
    type Output = Result<(), LinkFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(ended) = Pin::new(&mut this.connection).poll(cx) {
            return Poll::Ready(ended.map_err(LinkFault::Http));
        }
        loop {
            match this.watch {
                Watch::Idle if !this.shared.has_jobs() => return Poll::Pending,
                Watch::Idle => {
                    this.timer.as_mut().reset(this.shared.heard() + this.interval);
                    this.watch = Watch::Listening;
                }
                Watch::Listening => {
                    ready!(this.timer.as_mut().poll(cx));
                    let due = this.shared.heard() + this.interval;
                    if !this.shared.has_jobs() || Instant::now() < due {
                        this.watch = Watch::Idle;
                    } else {
                        this.pings.send_ping(Ping::opaque())?;
                        let now = Instant::now();
                        this.timer.as_mut().reset(now + this.timeout);
                        this.watch = Watch::Asked(now);
                    }
                }
                Watch::Asked(since) => {
                    if let Poll::Ready(answered) = this.pings.poll_pong(cx) {
                        answered?;
                        this.shared.note_heard();
                        this.watch = Watch::Idle;
                        continue;
                    }
                    ready!(this.timer.as_mut().poll(cx));
                    let heard = this.shared.heard();
                    if heard <= since {
                        return Poll::Ready(Err(LinkFault::Silent));
                    }
                    // Its word stands behind the answers that it is sending: those are signs of life too. The ping is
                    // still out, and a second one cannot be.
                    this.timer.as_mut().reset(heard + this.timeout);
                    this.watch = Watch::Asked(heard);
                }
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// How long a test waits for what must happen.
    const LIMIT: Duration = Duration::from_secs(20);
    const PING_INTERVAL: Duration = Duration::from_millis(20);
    const PING_TIMEOUT: Duration = Duration::from_millis(50);
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const PING: u8 = 6;
    const GO_AWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// `:status: 200`, as HPACK has it.
    const STATUS_OK: u8 = 0x88;

    fn limits() -> ForwardLimits {
        ForwardLimits {
            connect: LIMIT,
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            message_bytes_max: 1 << 10,
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// Reads one frame: its type and its flags.
    async fn frame(stream: &mut TcpStream) -> (u8, u8) {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        (head[3], head[4])
    }

    /// Reads frames until one of `kind` comes: its stream, or what stands in its place.
    async fn next_of(stream: &mut TcpStream, kind: u8) -> [u8; 4] {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut body).await.unwrap();
            assert_ne!(head[3], GO_AWAY, "the connection is given up: {body:?}");
            if head[3] == kind {
                return [head[5], head[6], head[7], head[8]];
            }
        }
    }

    /// A peer that shakes hands and takes what comes, but never says another word.
    async fn silent(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_peer_that_answers_no_ping_fails_the_jobs_that_are_out_and_the_link_is_closed() {
        let (listener, addr) = listener().await;
        let peer = async {
            let mut stream = silent(&listener).await;
            // Held open until the other side closes: this end must not be what breaks the job.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let caller = async {
            let link = Link::dial(addr, &limits(), || ()).await.unwrap();
            let start = Instant::now();
            let told = link.send(Ask::Execute, Bytes::from_static(b"job"), || ()).await;
            assert!(matches!(told, Err(ForwardError::Lost(_))), "{told:?}");
            assert!(PING_TIMEOUT <= start.elapsed(), "the peer had less time than it should");
            assert!(link.is_closed());
        };
        tokio::time::timeout(LIMIT, async { tokio::join!(peer, caller) }).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_is_not_pinged_while_no_job_is_out() {
        let (listener, addr) = listener().await;
        let link = async { Link::dial(addr, &limits(), || ()).await.unwrap() };
        let (mut stream, link) = tokio::join!(silent(&listener), link);
        let listening = async {
            loop {
                let (kind, _) = frame(&mut stream).await;
                assert_ne!(kind, PING, "a ping although nobody waits");
            }
        };
        let quiet = tokio::time::timeout(PING_INTERVAL * 10, listening).await;
        assert!(quiet.is_err());
        assert!(!link.is_closed());
    }

    #[tokio::test]
    async fn the_head_and_the_body_of_a_job_come_in_one_piece_and_a_dropped_job_is_cancelled() {
        let (listener, addr) = listener().await;
        let link = async { Link::dial(addr, &limits(), || ()).await.unwrap() };
        let (mut stream, link) = tokio::join!(silent(&listener), link);
        let mut kinds = Vec::new();
        let reading = async {
            let mut next = async || {
                let next = frame(&mut stream).await;
                kinds.push(next.0);
                next
            };
            while next().await.0 != HEADERS {}
            assert_eq!(next().await, (DATA, END_STREAM));
        };
        let sending = link.send(Ask::Execute, Bytes::from_static(b"job"), || ());
        tokio::select! {
            () = reading => {}
            told = sending => panic!("nobody answered: {told:?}"),
        }
        // The select dropped the job.
        let cancelled = async { while frame(&mut stream).await.0 != RESET {} };
        tokio::time::timeout(LIMIT, cancelled).await.unwrap();
        assert!(!link.is_closed());
    }

    #[tokio::test]
    async fn answers_that_come_when_their_jobs_are_given_up_never_end_the_connection() {
        /// More than `h2` remembers, and than it answers, unless it is told otherwise.
        const JOBS: usize = 1200;
        let (listener, addr) = listener().await;
        let patient = ForwardLimits { ping_interval: LIMIT, ping_timeout: LIMIT, ..limits() };
        let link = async { Link::dial(addr, &patient, || ()).await.unwrap() };
        let (mut stream, link) = tokio::join!(silent(&listener), link);
        let given_up = async {
            let mut late = Vec::new();
            for _ in 0..JOBS {
                let sending = link.send(Ask::CacheGet, Bytes::from_static(b"job"), || ());
                tokio::select! {
                    id = next_of(&mut stream, HEADERS) => late.push(id),
                    told = sending => panic!("nobody answered: {told:?}"),
                }
            }
            let last_reset = async { while next_of(&mut stream, RESET).await != late[JOBS - 1] {} };
            last_reset.await;
            for id in &late {
                let head = [0, 0, 1, HEADERS, END_HEADERS | END_STREAM, id[0], id[1], id[2], id[3], STATUS_OK];
                stream.write_all(&head).await.unwrap();
            }
            // One that is still wanted gets its answer behind all of those.
            let sending = link.send(Ask::Ping, Bytes::new(), || ());
            let answering = async {
                let id = next_of(&mut stream, HEADERS).await;
                let head = [0, 0, 1, HEADERS, END_HEADERS | END_STREAM, id[0], id[1], id[2], id[3], STATUS_OK];
                stream.write_all(&head).await.unwrap();
            };
            let (told, ()) = tokio::join!(sending, answering);
            assert_eq!(told.unwrap().status, StatusCode::OK);
        };
        tokio::time::timeout(LIMIT, given_up).await.unwrap();
        assert!(!link.is_closed());
    }

    #[tokio::test]
    async fn a_peer_whose_answers_come_lives_although_its_word_to_a_ping_stands_behind_them() {
        let (listener, addr) = listener().await;
        let link = async { Link::dial(addr, &limits(), || ()).await.unwrap() };
        let (mut stream, link) = tokio::join!(silent(&listener), link);
        let peer = async {
            let id = next_of(&mut stream, HEADERS).await;
            let frame = |kind: u8, flags: u8, byte: u8| [0, 0, 1, kind, flags, id[0], id[1], id[2], id[3], byte];
            stream.write_all(&frame(HEADERS, END_HEADERS, STATUS_OK)).await.unwrap();
            next_of(&mut stream, PING).await;
            // For several times as long as the ping may take, the answer goes on and the ping has none.
            let start = Instant::now();
            let mut pieces = tokio::time::interval(PING_TIMEOUT / 10);
            while start.elapsed() < PING_TIMEOUT * 6 {
                pieces.tick().await;
                stream.write_all(&frame(DATA, 0, 7)).await.unwrap();
            }
            stream.write_all(&frame(DATA, END_STREAM, 7)).await.unwrap();
            stream
        };
        let caller = async {
            let mut answer = link.send(Ask::Execute, Bytes::from_static(b"job"), || ()).await.unwrap();
            let mut bytes = 0;
            while let Some(piece) = answer.piece().await.unwrap() {
                bytes += piece.len();
            }
            (bytes, answer)
        };
        let both = async { tokio::join!(peer, caller) };
        let (_stream, (bytes, _answer)) = tokio::time::timeout(LIMIT, both).await.unwrap();
        assert!(5 < bytes && !link.is_closed(), "{bytes}");
        // Silent now, it is given up after all.
        let told = link.send(Ask::Execute, Bytes::from_static(b"job"), || ());
        let told = tokio::time::timeout(LIMIT, told).await.unwrap();
        assert!(matches!(told, Err(ForwardError::Lost(_))), "{told:?}");
    }

    #[tokio::test]
    async fn a_connection_that_the_peer_closes_fails_its_jobs_at_once_and_is_closed_to_the_next() {
        let (listener, addr) = listener().await;
        let long = ForwardLimits { ping_interval: LIMIT, ping_timeout: LIMIT, ..limits() };
        let peer = async {
            let mut stream = silent(&listener).await;
            while frame(&mut stream).await.0 != 1 {}
        };
        let caller = async {
            let link = Link::dial(addr, &long, || ()).await.unwrap();
            let told = link.send(Ask::Execute, Bytes::from_static(b"job"), || ()).await;
            assert!(matches!(told, Err(ForwardError::Lost(_))), "{told:?}");
            let told = link.send(Ask::Ping, Bytes::new(), || ()).await;
            assert!(matches!(told, Err(ForwardError::Unreachable(_))), "{told:?}");
            assert!(link.is_closed());
        };
        tokio::time::timeout(LIMIT, async { tokio::join!(peer, caller) }).await.unwrap();
    }
}
