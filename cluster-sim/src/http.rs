//! An HTTP/1.1 client for one address: it reuses an idle connection or dials a new one.
//!
//! For the load generator and the probes. Unlike an ordinary client it never tries again by itself, and it tells apart
//! what a caller must know to judge a node: whether a single byte of an answer had come when the connection was lost.
//! Invariants: every call ends within its limit; an answer has at most as many bytes as the client takes; an idle
//! connection is not used after [`IDLE_LIMIT`], which is far below any server's own limit, so a server that closes one
//! under a request has no excuse.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Longest answer that is read, unless a client is told otherwise. A vector of 4,096 numbers is about 50 kB.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Idle connections that are kept; more are closed. A batch answers hundreds at once, and who closes most of them and
/// dials anew runs out of ports.
const IDLE_MAX: usize = 256;
/// How long an idle connection may be used again.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's text; `None` when it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The first bytes of the body as text, for a complaint.
    pub(crate) fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(120).collect()
    }
}

/// Why a call has no whole answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection. Nothing was sent: another address may be tried.
    Refused(io::Error),
    /// The connection ended before the first byte of an answer: another address may be tried, as browsers do.
    LostBeforeAnswer,
    /// The connection ended within an answer.
    LostDuringAnswer,
    /// No whole answer within the limit.
    TimedOut,
    /// The answer is not HTTP or too long.
    Invalid(String),
}

impl CallError {
    /// Whether a client that knows several addresses moves on to the next one.
    pub(crate) fn may_go_elsewhere(&self) -> bool {
        match self {
            Self::Refused(_) | Self::LostBeforeAnswer => true,
            Self::LostDuringAnswer | Self::TimedOut | Self::Invalid(_) => false,
        }
    }

    /// Whether this process ran out of something and so asked nobody.
    pub(crate) fn is_own(&self) -> bool {
        let Self::Refused(cause) = self else { return false };
        let out_of = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        Errno::from_io_error(cause).is_some_and(|errno| out_of.contains(&errno))
    }

    /// Whether something answered, although not rightly.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Invalid(_) => true,
            Self::Refused(_) | Self::LostBeforeAnswer | Self::LostDuringAnswer | Self::TimedOut => false,
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(cause) => write!(out, "no connection: {cause}"),
            Self::LostBeforeAnswer => out.write_str("the connection ended before an answer"),
            Self::LostDuringAnswer => out.write_str("the connection ended within the answer"),
            Self::TimedOut => out.write_str("no whole answer within the limit"),
            Self::Invalid(what) => write!(out, "not a valid answer: {what}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Connections to one address.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    /// The node is asked, with every request, to say why it went where it went.
    asks_why: bool,
    answer_bytes_max: usize,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Bytes that came from the server so far.
    received: Arc<AtomicU64>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let (asks_why, answer_bytes_max) = (false, ANSWER_BYTES_MAX);
        Self { address, asks_why, answer_bytes_max, idle: Mutex::new(Vec::new()) }
    }

    /// A client that takes answers of up to so many bytes.
    pub(crate) fn with_answer_limit(address: SocketAddr, answer_bytes_max: usize) -> Self {
        Self { answer_bytes_max, ..Self::new(address) }
    }

    /// A client whose every request asks the node why it went where it went.
    pub(crate) fn that_asks_why(address: SocketAddr) -> Self {
        Self { asks_why: true, ..Self::new(address) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// # Errors
    /// [`CallError`]; an answer with an error status is an answer.
    pub(crate) async fn get(&self, path: &str, limit: Duration) -> Result<Answer, CallError> {
        self.call(Method::GET, path, Bytes::new(), None, limit).await
    }

    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post_json(&self, path: &str, body: Bytes, limit: Duration) -> Result<Answer, CallError> {
        self.call(Method::POST, path, body, None, limit).await
    }

    /// As [`Client::post_json`], by a client that may tell the server how long it waits.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn post_json_within(
        &self,
        path: &str,
        body: Bytes,
        deadline_ms: Option<u32>,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        self.call(Method::POST, path, body, deadline_ms, limit).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline_ms: Option<u32>,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(deadline_ms) = deadline_ms {
            request = request.header("x-deadline-ms", deadline_ms);
        }
        if self.asks_why {
            request = request.header("x-shoal-explain", "1");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| CallError::Invalid(format!("the request itself: {error}")))?;
        tokio::time::timeout(limit, self.exchange(request)).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        let mut connection = match self.reuse().await {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let received_before = connection.received.load(Ordering::Relaxed);
        let lost = |connection: &Connection, error: &hyper::Error| {
            if error.is_parse() {
                CallError::Invalid(error.to_string())
            } else if connection.received.load(Ordering::Relaxed) == received_before {
                CallError::LostBeforeAnswer
            } else {
                CallError::LostDuringAnswer
            }
        };
        let response = connection.sender.send_request(request).await.map_err(|error| lost(&connection, &error))?;
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, self.answer_bytes_max).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(CallError::Invalid(format!("more than {} bytes", self.answer_bytes_max)));
            }
            Err(_) => return Err(CallError::LostDuringAnswer),
        };
        self.keep(connection);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// The idle connection that was used last and that the server has not closed.
    async fn reuse(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() < IDLE_LIMIT && connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The oldest are at the front; whoever is too old there will never be reached from the back in time.
        idle.retain(|kept| kept.since.elapsed() < IDLE_LIMIT);
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn dial(&self) -> Result<Connection, CallError> {
        let stream = TcpStream::connect(self.address).await.map_err(CallError::Refused)?;
        stream.set_nodelay(true).map_err(CallError::Refused)?;
        let received = Arc::new(AtomicU64::new(0));
        let counted = Counted { stream, received: Arc::clone(&received) };
        let (sender, driver) = handshake(TokioIo::new(counted)).await.map_err(|_| CallError::LostBeforeAnswer)?;
        // Ends when the sender is dropped or the server closes; what went wrong is told to the sender.
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Connection { sender, received })
    }
}

/// A stream that counts what comes in, so that "not one byte of an answer" can be told from "a part of it".
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let count = buffer.filled().len().saturating_sub(before);
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Line, Scripted};

    const LIMIT: Duration = Duration::from_secs(5);

    async fn call(lines: Vec<Line>) -> Result<Answer, CallError> {
        let server = Scripted::start(vec![lines]).await;
        Client::new(server.address()).get("/", LIMIT).await
    }

    #[tokio::test]
    async fn a_second_call_uses_the_same_connection() {
        let server = Scripted::start(vec![vec![Line::ok("one"), Line::ok("two")]]).await;
        let client = Client::new(server.address());
        for expected in ["one", "two"] {
            assert_eq!(client.get("/", LIMIT).await.unwrap().body, expected);
        }
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn a_connection_closed_under_a_request_without_a_byte_may_go_elsewhere() {
        let error = call(vec![Line::Close]).await.unwrap_err();
        assert!(matches!(error, CallError::LostBeforeAnswer), "{error}");
        assert!(error.may_go_elsewhere());
    }

    #[tokio::test]
    async fn a_connection_closed_after_a_part_of_the_head_may_not_go_elsewhere() {
        let error = call(vec![Line::Raw("HTTP/1.1 200 OK\r\ncontent-le"), Line::Close]).await.unwrap_err();
        assert!(matches!(error, CallError::LostDuringAnswer), "{error}");
        assert!(!error.may_go_elsewhere());
    }

    #[tokio::test]
    async fn a_connection_closed_within_the_body_may_not_go_elsewhere() {
        let error =
            call(vec![Line::Raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[["), Line::Close]).await.unwrap_err();
        assert!(matches!(error, CallError::LostDuringAnswer), "{error}");
    }

    #[tokio::test]
    async fn bytes_of_an_earlier_answer_on_the_connection_are_not_bytes_of_this_one() {
        let server = Scripted::start(vec![vec![Line::ok("one"), Line::Close]]).await;
        let client = Client::new(server.address());
        client.get("/", LIMIT).await.unwrap();
        let error = client.get("/", LIMIT).await.unwrap_err();
        assert!(matches!(error, CallError::LostBeforeAnswer), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_http_is_invalid_and_may_not_go_elsewhere() {
        let error = call(vec![Line::Raw("SSH-2.0-nonsense\r\n\r\n")]).await.unwrap_err();
        assert!(matches!(error, CallError::Invalid(_)), "{error}");
    }

    #[tokio::test]
    async fn silence_ends_at_the_limit() {
        let server = Scripted::start(vec![vec![Line::Silence]]).await;
        let error = Client::new(server.address()).get("/", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut), "{error}");
    }

    #[tokio::test]
    async fn nobody_listening_is_refused() {
        // Bound and not listening: the port is refused and yet nobody else can get it.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Client::new(socket.local_addr().unwrap()).get("/", LIMIT).await.unwrap_err();
        assert!(matches!(error, CallError::Refused(_)), "{error}");
        assert!(error.may_go_elsewhere());
    }
}
