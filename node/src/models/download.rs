//! One file over HTTP: goes on where an interrupted transfer ended, within limits, checked by its digest.
//!
//! For `hub`. The file grows as a `Part` and gets its name only when it is complete and checked.
//! Invariants: bytes of two versions of a file never end up in one; a server cannot make a file longer than it
//! announced, nor a transfer hang for longer than [`SILENCE_MAX`]; tries without a new byte are counted and limited.

use std::fmt::Display;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::catalogue::sha256_of;
use super::part::Part;
use super::{ModelError, Progress};

/// Largest file that is fetched.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// Largest answer that is no file.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Tries in a row that bring not one byte.
const FRUITLESS_TRIES_MAX: u32 = 4;

/// A file of a server.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// Path below the model's directory.
    pub(super) name: String,
    pub(super) url: String,
    /// As the server's listing says, if it does.
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

/// Speaks to one server.
#[derive(Debug)]
pub(super) struct Downloader {
    agent: Agent,
    bearer: Option<String>,
    /// Before the second try; doubled for each further one.
    retry_pause: Duration,
}

/// Why one try failed.
enum Failed {
    /// May pass by itself. `progressed`: the try brought bytes that are kept.
    Passing {
        cause: ModelError,
        progressed: bool,
    },
    Lasting(ModelError),
}

impl From<ModelError> for Failed {
    fn from(cause: ModelError) -> Self {
        Self::Lasting(cause)
    }
}

/// A body that is about to be written.
struct Transfer {
    body: Body,
    /// Where its first byte belongs.
    start: u64,
    /// Bytes of the whole file, if anybody knows.
    total: Option<u64>,
    tag: Option<String>,
}

impl Downloader {
    /// `bearer` goes with every request, but never along a redirection to another server.
    pub(super) fn new(bearer: Option<String>, retry_pause: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            // A compressed transfer would have another length than the file.
            .accept_encoding("identity")
            .build();
        Self { agent: config.new_agent(), bearer, retry_pause }
    }

    /// A short answer as text.
    ///
    /// # Errors
    /// [`ModelError::Network`] or [`ModelError::Refused`].
    pub(super) fn text(&self, url: &str) -> Result<String, ModelError> {
        self.with_retries(|| {
            let mut response = self.request(url, &[])?;
            let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
            text.map_err(|cause| passing(network(url, &cause), false))
        })
    }

    /// Fetches one file to `target`, unless it is there as it must be; `parts` is a directory for what is incomplete.
    ///
    /// # Errors
    /// [`ModelError`]; what was fetched stays in `parts` unless it is wrong.
    pub(super) fn file(
        &self,
        remote: &Remote,
        target: &Path,
        parts: &Path,
        progress: Progress,
    ) -> Result<(), ModelError> {
        if is_complete(remote, target)? {
            return Ok(());
        }
        for folder in [Some(parts), target.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(ModelError::disk(folder))?;
        }
        let part = Part::of(remote, parts);
        let bar = progress.file(&remote.name, remote.bytes.unwrap_or(0), part.resumable_bytes(remote));
        self.with_retries(|| {
            if 0 < part.resumable_bytes(remote) && remote.bytes == Some(part.resumable_bytes(remote)) {
                return Ok(());
            }
            let transfer = self.open(remote, &part)?;
            write(remote, &part, transfer, |bytes| bar.set(bytes))
        })?;
        part.finish(remote, target)
    }

    /// Repeats what may pass by itself; a try that brought bytes starts the count anew.
    fn with_retries<T>(&self, mut attempt: impl FnMut() -> Result<T, Failed>) -> Result<T, ModelError> {
        let mut fruitless = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failed::Lasting(cause)) => return Err(cause),
                Err(Failed::Passing { progressed: true, .. }) => fruitless = 0,
                Err(Failed::Passing { cause, progressed: false }) => {
                    fruitless += 1;
                    if FRUITLESS_TRIES_MAX <= fruitless {
                        return Err(cause);
                    }
                }
            }
            thread::sleep(self.retry_pause.saturating_mul(1 << fruitless));
        }
    }

    fn request(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<Response<Body>, Failed> {
        let mut request = self.agent.get(url);
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(|cause| passing(network(url, &cause), false))?;
        let status = response.status();
        let refused = || ModelError::Refused { url: url.to_owned(), status: status.as_u16() };
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            408 | 429 | 500..=599 => Err(passing(refused(), false)),
            _ => Err(refused().into()),
        }
    }

    /// Asks for what the part lacks.
    fn open(&self, remote: &Remote, part: &Part) -> Result<Transfer, Failed> {
        let done = part.resumable_bytes(remote);
        let mut headers = Vec::new();
        if 0 < done {
            headers.push((RANGE, format!("bytes={done}-")));
            headers.extend(part.tag().map(|tag| (IF_RANGE, tag)));
        }
        let response = self.request(&remote.url, &headers)?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let range = header(CONTENT_RANGE).and_then(|range| parse_range(&range));
        let (start, announced) = match (response.status(), range) {
            (StatusCode::OK, _) => (0, header(CONTENT_LENGTH).and_then(|length| length.parse().ok())),
            (StatusCode::PARTIAL_CONTENT, Some((start, total))) if start == done && 0 < done => (start, total),
            _ => {
                // The server does not understand where we are; the next try starts from the beginning.
                part.remove();
                return Err(passing(content(remote, "the server did not go on where the transfer ended"), false));
            }
        };
        if let (Some(listed), Some(announced)) = (remote.bytes, announced)
            && listed != announced
        {
            part.remove();
            let what = format!("the hub lists {listed} bytes, the server sends {announced}; run this again");
            return Err(content(remote, what).into());
        }
        let (total, tag) = (remote.bytes.or(announced), header(ETAG));
        if total.is_some_and(|total| FILE_BYTES_MAX < total) {
            return Err(content(remote, format!("has more than {FILE_BYTES_MAX} bytes, which is no model")).into());
        }
        Ok(Transfer { body: response.into_body(), start, total, tag })
    }
}

/// Writes a body behind what the part has. Ends well only when the file is complete.
fn write(remote: &Remote, part: &Part, transfer: Transfer, on_bytes: impl Fn(u64)) -> Result<(), Failed> {
    let Transfer { body, start, total, tag } = transfer;
    let disk = || ModelError::disk(&part.data);
    let mut file = part.open_at(start, tag.as_deref()).map_err(disk())?;
    let mut body = body.into_reader();
    let mut buffer = vec![0; 1 << 16];
    let mut done = start;
    let broken = loop {
        match body.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => {
                done += count as u64;
                if total.unwrap_or(FILE_BYTES_MAX) < done {
                    part.remove();
                    return Err(content(remote, "is longer than the server announced; run this again").into());
                }
                file.write_all(&buffer[..count]).map_err(disk())?;
                on_bytes(done);
            }
            Err(cause) => break Some(cause.to_string()),
        }
    };
    match (broken, total) {
        (_, Some(total)) if done == total => {}
        // Nobody knows the length: the end of the body is the end of the file.
        (None, None) => {}
        (broken, _) => {
            let cause = broken.unwrap_or_else(|| "the connection ended early".to_owned());
            return Err(passing(network(&remote.url, &cause), start < done));
        }
    }
    file.sync_all().map_err(disk())?;
    Ok(())
}

/// Whether an earlier fetch left the file as it must be.
fn is_complete(remote: &Remote, target: &Path) -> Result<bool, ModelError> {
    let Ok(metadata) = fs::metadata(target) else {
        return Ok(false);
    };
    if remote.bytes.is_some_and(|bytes| bytes != metadata.len()) {
        return Ok(false);
    }
    match &remote.sha256 {
        Some(expected) => Ok(sha256_of(target).map_err(ModelError::disk(target))?.eq_ignore_ascii_case(expected)),
        None => Ok(remote.bytes.is_some()),
    }
}

/// `bytes 100-199/200` as the first byte and the length of the whole, which may be unknown (`*`).
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = span.split_once('-')?;
    Some((start.parse().ok()?, if total == "*" { None } else { Some(total.parse().ok()?) }))
}

fn passing(cause: ModelError, progressed: bool) -> Failed {
    Failed::Passing { cause, progressed }
}

fn network(url: &str, cause: &dyn Display) -> ModelError {
    ModelError::Network { url: url.to_owned(), cause: cause.to_string() }
}

fn content(remote: &Remote, what: impl Into<String>) -> ModelError {
    ModelError::Content { place: remote.url.clone(), what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_parse_or_are_refused() {
        assert_eq!(parse_range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(parse_range("bytes 0-9/*"), Some((0, None)));
        for wrong in ["", "bytes */200", "bytes 1-2", "items 1-2/3", "bytes -5-9/10", "bytes 1-2/x"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }
}
