//! A client that costs as little as one can: some connections, each of which sends again as soon as it has its answer.
//!
//! For `bench::hop`, where the client's own time is part of every latency and its CPU is taken from the servers. Closed
//! loop: it finds out how much is possible and what a hop costs, not what callers wait at a given rate (`load` does).
//! Invariants: every answer is read whole and compared with the one that is expected, byte by byte; anything else ends
//! the run; every wait has a limit. Not here: errors that a caller could live with, of which there must be none.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest body of an answer.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What every connection sends, and what it has to get.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    request: &'static [u8],
    body: &'static [u8],
}

/// What one run gave.
#[derive(Debug)]
pub(super) struct Closed {
    /// Ascending.
    latencies_ns: Vec<u64>,
    elapsed: Duration,
}

/// Connections that stand.
#[derive(Debug)]
pub(super) struct Connections(Vec<Connection>);

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Exchange {
    /// A `POST` of `json` to `path`, answered with `body`. Lives as long as the process, as a benchmark's few do.
    pub(super) fn new(path: &str, json: &str, body: Vec<u8>) -> Self {
        Self { request: Vec::leak(request(path, json)), body: Vec::leak(body) }
    }
}

fn request(path: &str, json: &str) -> Vec<u8> {
    let length = json.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: shoal\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), json.as_bytes()].concat()
}

/// One request on a connection of its own.
///
/// # Errors
/// There is no whole answer with status 200 within the limit.
pub(super) async fn ask(address: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    let mut connections = Connections::dial(address, 1).await?;
    let connection = connections.0.first_mut().context("one was asked for")?;
    connection.send(&request(path, json)).await?;
    let (head, end) = connection.answer().await?;
    let head_text = String::from_utf8_lossy(&connection.buffer[..head]).into_owned();
    Ok(Answer { head: head_text, body: connection.buffer[head..end].to_vec() })
}

impl Connections {
    /// # Errors
    /// A connection is refused or not there in time.
    pub(super) async fn dial(address: SocketAddr, count: usize) -> Result<Self> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let dialled = tokio::time::timeout(ANSWER_LIMIT, TcpStream::connect(address)).await;
            let stream = dialled.map_err(|_| anyhow!("no connection to {address} in time"))?;
            let stream = stream.with_context(|| format!("connecting to {address}"))?;
            stream.set_nodelay(true).context("switching delayed sending off")?;
            all.push(Connection { stream, buffer: vec![0; HEAD_BYTES_MAX + BODY_BYTES_MAX] });
        }
        Ok(Self(all))
    }

    /// Sends on all connections for so long; what is under way at the end is waited for.
    ///
    /// # Errors
    /// An answer is missing, late, or not the expected one: then the server did not do the work that is measured.
    pub(super) async fn drive(&mut self, exchange: &Exchange, time: Duration) -> Result<Closed> {
        let start = Instant::now();
        let end = start + time;
        let mut running = JoinSet::new();
        for mut connection in self.0.drain(..) {
            let exchange = exchange.clone();
            running.spawn(async move {
                let mut latencies_ns = Vec::with_capacity(4096);
                let mut sent = Instant::now();
                while sent < end {
                    connection.send(exchange.request).await?;
                    let (head, length) = connection.answer().await?;
                    let done = Instant::now();
                    let body = &connection.buffer[head..length];
                    ensure!(body == exchange.body, "an answer differs from the first one");
                    latencies_ns.push(u64::try_from((done - sent).as_nanos()).unwrap_or(u64::MAX));
                    sent = done;
                }
                Ok((connection, latencies_ns))
            });
        }
        let mut latencies_ns = Vec::new();
        while let Some(joined) = running.join_next().await {
            let (connection, own) = joined.context("a connection's task")??;
            self.0.push(connection);
            latencies_ns.extend(own);
        }
        let elapsed = start.elapsed();
        latencies_ns.sort_unstable();
        Ok(Closed { latencies_ns, elapsed })
    }
}

impl Connection {
    async fn send(&mut self, request: &[u8]) -> Result<()> {
        // So small a request always fits into the kernel's buffer, so this does not wait.
        self.stream.write_all(request).await.context("sending a request")
    }

    /// Reads one answer to the start of the buffer; returns the lengths of its head and of the whole.
    async fn answer(&mut self) -> Result<(usize, usize)> {
        let (mut filled, mut known) = (0, None);
        loop {
            let read = tokio::time::timeout(ANSWER_LIMIT, self.stream.read(&mut self.buffer[filled..])).await;
            let read = read.map_err(|_| anyhow!("no whole answer in {} s", ANSWER_LIMIT.as_secs()))?;
            let read = read.context("reading an answer")?;
            ensure!(read != 0, "the connection ended within an answer, or its answer is too long");
            filled += read;
            if known.is_none() {
                known = lengths(&self.buffer[..filled])?;
            }
            match known {
                Some((_, whole)) if whole < filled => return Err(anyhow!("more came than the answer's length")),
                Some((head, whole)) if whole == filled => return Ok((head, whole)),
                Some(_) | None => {}
            }
        }
    }
}

/// The lengths of an answer's head and of the whole, once its head is there.
fn lengths(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        ensure!(bytes.len() < HEAD_BYTES_MAX, "the head of an answer is longer than {HEAD_BYTES_MAX} bytes");
        return Ok(None);
    };
    let head = &bytes[..end];
    let line = || String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or_default()).into_owned();
    ensure!(head.starts_with(b"HTTP/1.1 200 "), "an answer begins with {:?}", line());
    let name = b"\r\ncontent-length:";
    let found = head.windows(name.len()).position(|window| window.eq_ignore_ascii_case(name));
    let value = found.map(|at| &head[at + name.len()..]).and_then(|rest| rest.split(|&byte| byte == b'\r').next());
    let length: Option<usize> = value.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    let length = length.context("an answer does not say how long it is")?;
    ensure!(length <= BODY_BYTES_MAX, "an answer of {length} bytes is longer than {BODY_BYTES_MAX}");
    Ok(Some((end + 4, end + 4 + length)))
}

impl Closed {
    pub(super) fn requests(&self) -> usize {
        self.latencies_ns.len()
    }

    pub(super) fn per_second(&self) -> f64 {
        self.latencies_ns.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds; 0 when there was no request. `share` from 0 to 1.
    pub(super) fn percentile_us(&self, share: f64) -> f64 {
        let last = self.latencies_ns.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index between 0 and `last`")]
        let index = (share * last as f64).round() as usize;
        self.latencies_ns.get(index).map_or(0.0, |&ns| ns as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Line, Scripted};

    /// So long that a busy machine gets to its first request.
    const TIME: Duration = Duration::from_millis(200);
    /// For what ends sooner, by its error.
    const LIMIT: Duration = Duration::from_secs(30);

    async fn drive(script: Vec<Line>, time: Duration) -> Result<Closed> {
        let server = Scripted::start(vec![script]).await;
        let mut connections = Connections::dial(server.address(), 1).await.unwrap();
        connections.drive(&Exchange::new("/embed", "{}", b"[[1.0]]".to_vec()), time).await
    }

    #[tokio::test]
    async fn every_answer_counts_once_and_percentiles_are_in_order() {
        let closed = drive(vec![Line::ok("[[1.0]]"); 100_000], TIME).await.unwrap();
        assert!(0 < closed.requests());
        assert!(closed.percentile_us(0.0) <= closed.percentile_us(0.5));
        assert!(closed.percentile_us(0.5) <= closed.percentile_us(1.0));
        let rate = closed.requests() as f64 / closed.elapsed.as_secs_f64();
        assert!((closed.per_second() - rate).abs() < 1e-9);
    }

    #[tokio::test]
    async fn another_answer_an_error_status_and_a_lost_connection_end_the_run() {
        let busy = Line::Answer { status: 503, headers: Vec::new(), body: "busy".to_owned() };
        for (line, expected) in [
            (Line::ok("[[2.0]]"), "differs from the first"),
            (busy, "begins with \"HTTP/1.1 503"),
            (Line::Close, "the connection ended"),
        ] {
            let text = format!("{:#}", drive(vec![line], LIMIT).await.unwrap_err());
            assert!(text.contains(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn one_answer_is_given_whole() {
        let server = Scripted::start(vec![vec![Line::ok("[[1.0]]")]]).await;
        let answer = ask(server.address(), "/embed", "{}").await.unwrap();
        assert!(answer.head.starts_with("HTTP/1.1 200 ") && answer.head.ends_with("\r\n\r\n"), "{:?}", answer.head);
        assert_eq!(answer.body, b"[[1.0]]");
    }

    #[test]
    fn the_length_is_found_however_its_name_is_written_and_nothing_else_is_taken_for_it() {
        let lengths = |text: &str| lengths(text.as_bytes());
        assert_eq!(lengths("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").unwrap(), Some((38, 45)));
        assert_eq!(lengths("HTTP/1.1 200 OK\r\ncontent-length:7\r\nx: y\r\n\r\nab").unwrap(), Some((43, 50)));
        assert_eq!(lengths("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n").unwrap(), None);
        for bad in
            ["x-content-length: 7", "content-length: -7", "content-length: 9999999", "transfer-encoding: chunked"]
        {
            assert!(lengths(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n\r\n")).is_err(), "{bad}");
        }
        assert!(lengths(&"x".repeat(HEAD_BYTES_MAX)).is_err());
    }
}
