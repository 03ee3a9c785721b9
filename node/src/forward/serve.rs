//! Taking jobs from peers.
//!
//! Part of `forward`.
//! Invariants: a job that is not taken costs its sender one round trip and nobody a forward pass; when the sender gives
//! up (it resets the stream, or its connection breaks) the job's future is dropped and the job with it; the leg allows
//! more concurrent streams than admission holds, so that a full node can still say that it is full.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use shoal_core::load::Report;
use shoal_core::node::Refusal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::clock::micros;
use crate::lanes::{Lanes, Moving};
use crate::wire::{self, CacheFound, CacheGet, CachePut, Execute};

/// An answer that is there within this time goes out together with its acknowledgement, as one write.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(3);
/// Connections of peers: each may have one for each of its lanes and one for its pings.
const CONNECTIONS_MAX: usize = 2048;
/// How long a body of a peer may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How often a connection is asked whether its peer is still there, and how long that may take: a machine that lost
/// its power closes nothing, and its connection would hold its place for ever.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What room for messages is counted in.
const ROOM_UNIT_BYTES: usize = 1024;
const HEADER_BYTES_MAX: u32 = 16 << 10;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Peers reset streams as a matter of course, whenever a caller leaves; the guard against floods of resets is for the
/// public door.
const RESETS_MAX: usize = 16 << 10;
/// Pause after the system refused a connection for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an accepted job ended: encoded vectors, the end last.
#[derive(Debug)]
pub struct Ended(pub Vec<Bytes>);

/// What the node says to a job of a peer, at once.
pub enum Offered {
    /// It is held. Dropping `ended` gives it up.
    Held { load: Report, ended: Pin<Box<dyn Future<Output = Ended> + Send>> },
    /// It is not.
    Refused { refusal: Refusal, load: Report },
    /// It makes no sense: the sender is of another cluster, or contradicts itself.
    Absurd { message: String },
}

impl std::fmt::Debug for Offered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held { load, .. } => formatter.debug_struct("Held").field("load", load).finish_non_exhaustive(),
            Self::Refused { refusal, .. } => formatter.debug_tuple("Refused").field(refusal).finish(),
            Self::Absurd { message } => formatter.debug_tuple("Absurd").field(message).finish(),
        }
    }
}

/// What the node says to a message of the result cache, at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Cached {
    /// What was found of what was asked for.
    Found(CacheFound),
    /// What was given is kept.
    Kept,
    /// No results are kept here, as on a node that does not know the message.
    Off,
    /// Results of another model are kept here.
    OtherModel,
    /// It makes no sense: the sender is of another cluster, or contradicts itself.
    Absurd { message: String },
}

/// What this needs from the rest of the node.
pub trait PeerDoor: Clone + Send + Sync + 'static {
    /// A job of a peer. Decides at once.
    fn offer(&self, job: Execute) -> Offered;
    /// A peer asks for results. Computes nothing.
    fn cache_get(&self, get: CacheGet) -> Cached;
    /// A peer gives results.
    fn cache_put(&self, put: CachePut) -> Cached;
    /// This node's load now.
    fn load(&self) -> Report;
}

/// Bounds of this side.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Largest message.
    pub message_bytes_max: usize,
    /// All messages that are being read at one moment, together.
    pub messages_bytes_max: usize,
    /// Concurrent jobs on one connection; more than admission holds.
    pub streams_max: u32,
    /// How long a new connection may take to bring its first request; a peer dials when it has one.
    pub first_request_limit: Duration,
    /// How long answers may take to get out after the stop.
    pub stop_limit: Duration,
}

/// What all connections share.
#[derive(Debug)]
struct Shared<D> {
    limits: ServeLimits,
    door: D,
    /// Room for messages that are being read, in units of [`ROOM_UNIT_BYTES`].
    room: Semaphore,
}

/// Takes connections of peers until `stop` holds `true` or its sender is gone; then finishes the answers that are on
/// their way, for at most `stop_limit`.
pub async fn accept<D: PeerDoor>(
    listener: TcpListener,
    limits: ServeLimits,
    door: D,
    lanes: Lanes,
    stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let room = (limits.messages_bytes_max / ROOM_UNIT_BYTES).min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared { limits, door, room: Semaphore::new(room) });
    let mut stopped = stop.clone();
    loop {
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = told(&mut stopped) => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                let (lane, stream) = (lanes.assign(), Moving::new(stream));
                let handle = lane.handle().clone();
                handle.spawn(async move {
                    match stream.and_then(Moving::arrive) {
                        Ok(stream) => serve_connection(stream, peer, shared, stop).await,
                        Err(fault) => tracing::warn!(%fault, "a peer's connection could not be taken"),
                    }
                    drop((lane, permit));
                });
            }
            Err(fault) => {
                tracing::warn!(%fault, "a peer's connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(CONNECTIONS_MAX).expect("a small number");
    let _ = tokio::time::timeout(limits.stop_limit, connections.acquire_many(all)).await;
}

/// Returns once `stop` holds `true` or nobody can set it any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    // The guard that is returned must not live across an await: it is not `Send`.
    let _ = stop.wait_for(|stop| *stop).await.map(|_| ());
}

async fn serve_connection<D: PeerDoor>(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared<D>>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = shared.limits;
    // Without it small answers wait for the acknowledgement of the one before; the connection works either way.
    let _ = stream.set_nodelay(true);
    let begun = Arc::new(Notify::new());
    let service = service_fn(|request| {
        begun.notify_one();
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(request, &shared).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let silent = async {
        if tokio::time::timeout(limits.first_request_limit, begun.notified()).await.is_ok() {
            std::future::pending().await
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = silent => {
            tracing::debug!(%peer, "a connection without a request is closed");
            return;
        }
        () = told(&mut stop) => {
            // Streams that are open are finished; what the peer opens now it places elsewhere.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(fault) = served {
        tracing::debug!(%peer, %fault, "connection of a peer ended");
    }
}

async fn handle<D: PeerDoor>(request: Request<Incoming>, shared: &Shared<D>) -> Response<AnswerBody> {
    let arrived = Instant::now();
    let door = &shared.door;
    match (request.method(), request.uri().path()) {
        (&Method::POST, wire::PING_PATH) => with_load(arrived, StatusCode::OK, &door.load(), AnswerBody::Empty),
        (&Method::POST, wire::EXECUTE_PATH) => match read(arrived, request, shared).await {
            Ok(job) => execute(arrived, job, door).await,
            Err(refused) => refused,
        },
        (&Method::POST, wire::CACHE_GET_PATH) => match read(arrived, request, shared).await {
            Ok(get) => cached(arrived, door.cache_get(get), door),
            Err(refused) => refused,
        },
        (&Method::POST, wire::CACHE_PUT_PATH) => match read(arrived, request, shared).await {
            Ok(put) => cached(arrived, door.cache_put(put), door),
            Err(refused) => refused,
        },
        _ => absurd(StatusCode::NOT_FOUND, "unknown path"),
    }
}

/// Reads a message. What all connections read at the same time is bounded: a sender that finds no room is told so.
async fn read<D: PeerDoor, M: prost::Message + Default>(
    arrived: Instant,
    request: Request<Incoming>,
    shared: &Shared<D>,
) -> Result<M, Response<AnswerBody>> {
    let body = request.into_body();
    let bytes_max = shared.limits.message_bytes_max;
    // A sender that does not say how much will come is taken for the longest.
    let announced = body.size_hint().exact().map_or(bytes_max, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if bytes_max < announced {
        return Err(absurd(StatusCode::PAYLOAD_TOO_LARGE, "the message is too long"));
    }
    let room = u32::try_from(announced.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
    let Ok(_room) = shared.room.try_acquire_many(room) else {
        return Err(refused(arrived, Refusal::Full, &shared.door.load()));
    };
    let body = Limited::new(body, bytes_max).collect();
    let bytes = match tokio::time::timeout(BODY_LIMIT, body).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => {
            return Err(absurd(StatusCode::PAYLOAD_TOO_LARGE, "the message is too long"));
        }
        Ok(Err(_)) => return Err(absurd(StatusCode::BAD_REQUEST, "the message broke off")),
        Err(_) => return Err(absurd(StatusCode::REQUEST_TIMEOUT, "the message did not come in time")),
    };
    M::decode(bytes).map_err(|_| absurd(StatusCode::BAD_REQUEST, "not a message of this path"))
}

fn cached<D: PeerDoor>(arrived: Instant, said: Cached, door: &D) -> Response<AnswerBody> {
    match said {
        Cached::Found(found) => {
            let body = AnswerBody::Text(Full::new(found.encode_to_vec().into()));
            with_load(arrived, StatusCode::OK, &door.load(), body)
        }
        Cached::Kept => with_load(arrived, StatusCode::OK, &door.load(), AnswerBody::Empty),
        Cached::Off => absurd(StatusCode::NOT_FOUND, "no results are kept here"),
        Cached::OtherModel => absurd(StatusCode::CONFLICT, "results of another model are kept here"),
        Cached::Absurd { message } => absurd(StatusCode::BAD_REQUEST, &message),
    }
}

async fn execute<D: PeerDoor>(arrived: Instant, job: Execute, door: &D) -> Response<AnswerBody> {
    match door.offer(job) {
        Offered::Absurd { message } => absurd(StatusCode::BAD_REQUEST, &message),
        Offered::Refused { refusal, load } => refused(arrived, refusal, &load),
        Offered::Held { load, mut ended } => {
            let body = match tokio::time::timeout(ACKNOWLEDGE_AFTER, &mut ended).await {
                Ok(Ended(parts)) => AnswerBody::Parts(parts.into_iter()),
                Err(_) => AnswerBody::Waiting(ended),
            };
            with_load(arrived, StatusCode::OK, &load, body)
        }
    }
}

fn refused(arrived: Instant, refusal: Refusal, load: &Report) -> Response<AnswerBody> {
    let mut response = with_load(arrived, StatusCode::SERVICE_UNAVAILABLE, load, AnswerBody::Empty);
    response.headers_mut().insert(wire::REFUSAL_HEADER, hyper::header::HeaderValue::from_static(name(refusal)));
    response
}

fn name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Busy => "busy",
        Refusal::Full => "full",
        Refusal::Draining => "draining",
        Refusal::Unable => "unable",
    }
}

fn with_load(arrived: Instant, status: StatusCode, load: &Report, body: AnswerBody) -> Response<AnswerBody> {
    Response::builder()
        .status(status)
        .header(wire::LOAD_HEADER, wire::encode_report(load))
        .header(wire::HELD_HEADER, micros(arrived.elapsed()).get())
        .body(body)
        .expect("the headers are digits and points")
}

fn absurd(status: StatusCode, message: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Text(Full::new(Bytes::from(message.to_owned()))));
    *response.status_mut() = status;
    response
}

/// The body of an answer: there already, or still awaited.
enum AnswerBody {
    Empty,
    Text(Full<Bytes>),
    Waiting(Pin<Box<dyn Future<Output = Ended> + Send>>),
    Parts(std::vec::IntoIter<Bytes>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        use std::task::{Poll, ready};
        loop {
            match &mut *self {
                Self::Empty => return Poll::Ready(None),
                Self::Text(text) => return Pin::new(text).poll_frame(context),
                Self::Waiting(ended) => {
                    let Ended(parts) = ready!(ended.as_mut().poll(context));
                    *self = Self::Parts(parts.into_iter());
                }
                Self::Parts(parts) => return Poll::Ready(parts.next().map(|part| Ok(Frame::data(part)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_end_stream(),
            Self::Waiting(_) => false,
            Self::Parts(parts) => parts.len() == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::cost::Cost;
    use shoal_core::id::BootId;
    use shoal_core::lifecycle::Standing;
    use shoal_core::time::Micros;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::forward::{ForwardError, ForwardLimits, PeerClient};

    /// How long a test waits for what must happen.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A node to which no job makes sense.
    #[derive(Clone)]
    struct Strict;

    impl PeerDoor for Strict {
        fn offer(&self, _job: Execute) -> Offered {
            Offered::Absurd { message: "no".to_owned() }
        }

        /// The cluster stands for what the node says.
        fn cache_get(&self, get: CacheGet) -> Cached {
            match get.cluster.as_str() {
                "off" => Cached::Off,
                "other" => Cached::OtherModel,
                "found" => Cached::Found(CacheFound { at: vec![1], ..CacheFound::default() }),
                _ => Cached::Absurd { message: "no".to_owned() },
            }
        }

        fn cache_put(&self, put: CachePut) -> Cached {
            if put.cluster == "kept" { Cached::Kept } else { Cached::Off }
        }

        fn load(&self) -> Report {
            let cost = Cost { fixed: Micros::ZERO, per_unit_ns: 0 };
            Report {
                boot: BootId(1),
                seq: 1,
                wait: Micros::ZERO,
                cost,
                standing: Standing::Ready,
                held: 0,
                slots: 1,
                busy: None,
                memory: None,
            }
        }
    }

    async fn serve(first_request_limit: Duration) -> (SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let limits = ServeLimits {
            message_bytes_max: 4 << 10,
            messages_bytes_max: 3 << 10,
            streams_max: 8,
            first_request_limit,
            stop_limit: Duration::ZERO,
        };
        tokio::spawn(accept(listener, limits, Strict, Lanes::here(), stopped));
        (addr, stop)
    }

    fn client() -> PeerClient {
        PeerClient::new(ForwardLimits {
            connect: LIMIT,
            ping_interval: LIMIT,
            ping_timeout: LIMIT,
            message_bytes_max: 1 << 10,
        })
    }

    #[tokio::test]
    async fn a_connection_that_brings_no_request_gives_its_place_back() {
        let (addr, _stop) = serve(Duration::from_millis(50)).await;
        for said in ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "still open after {said:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_brought_a_request_stays() {
        let limit = Duration::from_millis(50);
        let (addr, _stop) = serve(limit).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // The preface, empty settings, and a request on stream 1: HEADERS with `:method: POST`, `:scheme: http`,
        // `:path: /`.
        let request = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x83, 0x86, 0x84];
        let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &request].concat();
        stream.write_all(&hello).await.unwrap();
        // Whatever comes meanwhile is the answer; the end must not come within several times the limit.
        let end = tokio::time::timeout(limit * 10, stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_err(), "closed although it had brought a request");
    }

    #[tokio::test]
    async fn a_job_that_a_peer_objects_to_is_no_evidence_against_the_peer() {
        let (addr, _stop) = serve(LIMIT).await;
        for (name, text) in [("absurd", "short".to_owned()), ("too long", "x".repeat(5 << 10))] {
            let job = Execute { texts: vec![text], ..Execute::default() };
            let told = client().execute(addr, &job, None, || (), |_| panic!("nobody holds the job")).await;
            let refused = matches!(told, Err(ForwardError::Refused { refusal: Refusal::Unable, .. }));
            assert!(refused, "{name}: {told:?}");
        }
    }

    #[tokio::test]
    async fn a_peer_without_a_cache_for_the_question_is_no_broken_peer() {
        let (addr, _stop) = serve(LIMIT).await;
        for (cluster, expected) in [("off", None), ("other", None), ("found", Some(vec![1]))] {
            let get = CacheGet { cluster: cluster.to_owned(), ..CacheGet::default() };
            let (found, said) = client().cache_get(addr, &get).await.unwrap();
            assert_eq!(found.map(|found| found.at), expected, "{cluster}");
            assert_eq!(said.word.report.is_some(), cluster == "found", "what is found brings fresh load");
        }
        let absurd = client().cache_get(addr, &CacheGet::default()).await;
        assert!(matches!(absurd, Err(ForwardError::Garbled(_))), "{absurd:?}");
        for (cluster, expected) in [("kept", true), ("off", false)] {
            let put = CachePut { cluster: cluster.to_owned(), ..CachePut::default() };
            assert_eq!(client().cache_put(addr, &put).await.unwrap().0, expected, "{cluster}");
        }
    }

    #[tokio::test]
    async fn messages_beyond_the_room_for_all_of_them_are_refused_as_full() {
        let (addr, _stop) = serve(LIMIT).await;
        let job = |bytes: usize| Execute { texts: vec!["x".repeat(bytes)], ..Execute::default() };
        let told = client().execute(addr, &job(7 << 9), None, || (), |_| panic!("nobody holds the job")).await;
        assert!(matches!(told, Err(ForwardError::Refused { refusal: Refusal::Full, .. })), "{told:?}");
        // The room is given back: the next one is read, and objected to.
        for _ in 0..10 {
            let told = client().execute(addr, &job(2 << 10), None, || (), |_| panic!("nobody holds the job")).await;
            assert!(matches!(told, Err(ForwardError::Refused { refusal: Refusal::Unable, .. })), "{told:?}");
        }
    }
}
