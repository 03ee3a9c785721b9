//! A small blocking HTTP/1.1 client, for good requests and for hostile ones.
//!
//! For `node` and the suite. It says what it is told to say, byte for byte, and reads what comes back.
//! Invariants: every read and write has a time limit, and an answer a limit of bytes; nothing is ever sent twice.
//! Not here: connections that are kept for further requests, unless a test holds the [`Connection`] itself.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Limit of connecting, and of each read and write.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer that is read: 2048 vectors of 384 numbers are about 9 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A whole answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// In the order they came; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without the marks of chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// A header that has to be a whole number.
    ///
    /// # Panics
    /// It is absent or none.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let text = self.header(name).unwrap_or_else(|| panic!("no header {name} in {self:?}"));
        text.parse().unwrap_or_else(|_| panic!("header {name} is {text:?}"))
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| {
            panic!("status {}, and the body is no JSON ({fault}): {:.300}", self.status, self.text())
        })
    }
}

/// For messages of tests: the body as text, and not all of a long one.
impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "status {}, headers {:?}, body {:.500}", self.status, self.headers, self.text())
    }
}

/// A well-formed request.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `method path`, without a body.
    #[must_use]
    pub fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// `GET path`.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// `POST path` with a JSON body.
    #[must_use]
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path).header("content-type", "application/json").body(body.to_string())
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with this body; its length is declared.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if self.method == "POST" || !self.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it on a new connection and reads the answer.
    ///
    /// # Errors
    /// No connection, or it broke, or what came back is no HTTP.
    pub fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::open(address)?;
        connection.send(&self.bytes())?;
        if self.method == "HEAD" { connection.answer_without_body() } else { connection.answer() }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// The connection ended before, or what came is no HTTP.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.answer_without_body()?;
        if matches!(answer.status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        answer.body = match (answer.header("transfer-encoding"), answer.header("content-length")) {
            (Some("chunked"), None) => self.chunks()?,
            (None, Some(length)) => {
                let length = length.parse().map_err(|_| broken(format!("content-length: {length}")))?;
                self.take(length)?
            }
            (None, None) => self.rest()?,
            (encoding, length) => return Err(broken(format!("framing {encoding:?} and {length:?}"))),
        };
        Ok(answer)
    }

    /// Reads the head of one answer, as follows a `HEAD`.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub fn answer_without_body(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let (version, status) = (words.next(), words.next().and_then(|status| status.parse().ok()));
        let (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) = (version, status) else {
            return Err(broken(format!("status line: {line}")));
        };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("header: {line}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads until the other side closes, and returns what came.
    ///
    /// # Errors
    /// It does not close within the limit.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| broken(format!("size of a chunk: {line}")))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.take(2)?;
            if ANSWER_BYTES_MAX < body.len() {
                return Err(broken("the answer is too long".to_owned()));
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                break end;
            }
            self.fill_more()?;
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        Ok(line)
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill_more()?;
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill_more(&mut self) -> io::Result<()> {
        if self.fill()? { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads once; `false` at the end. A connection that the other side reset has ended, too.
    fn fill(&mut self) -> io::Result<bool> {
        if ANSWER_BYTES_MAX < self.buffer.len() {
            return Err(broken("the answer is too long".to_owned()));
        }
        let mut part = [0; 64 << 10];
        let count = match self.stream.read(&mut part) {
            Err(fault) if fault.kind() == ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        self.buffer.extend_from_slice(&part[..count]);
        Ok(count != 0)
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
