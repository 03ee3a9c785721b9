//! The public HTTP face of a node: HTTP/1.1 and h2c on one port, in the dialects that clients already speak.
//!
//! For `shell`, which gives it a listener and a [`Door`]. `accept` owns connections, `request` the life of one request,
//! `route` the table of paths; `tei` and `openai` turn bytes into jobs and answers into bytes, purely.
//! Invariants: every byte count, item count and wait that a caller controls has a limit in [`Limits`]; a request is
//! observed exactly once; the future of [`Door::place`] lives inside the connection's own, so it ends when the caller
//! leaves.
//! Not here: where a job runs (`shell`), peers (`forward`), texts of metrics (`telemetry`).

mod accept;
mod body;
mod caller;
mod error;
mod health;
mod json;
mod openai;
mod request;
mod route;
mod socket;
mod status;
mod tei;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::json::INPUTS_KEPT_MAX;
use crate::job::Door;
use crate::lanes::Lanes;

/// What callers may cost this node. Every value is checked by the configuration before it comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; further callers wait in the kernel's queue. At least 1.
    pub connections_max: usize,
    /// From the start of a connection, or the end of the request before, until a request's headers are complete.
    /// So it is also how long a kept-alive HTTP/1 connection may be idle.
    pub header_timeout: Duration,
    /// Longest wait for the next piece of a request's body.
    pub body_idle_timeout: Duration,
    /// How long a connection may carry neither a request in work nor a byte: idle HTTP/2, or an answer nobody reads.
    pub idle_timeout: Duration,
    /// Bytes of one request's body.
    pub body_bytes_max: usize,
    /// Bytes of all request bodies together, from their arrival until their answer is written, and of those answers.
    pub bodies_bytes_max: usize,
    /// Texts of one call; at most [`INPUTS_KEPT_MAX`].
    pub inputs_max: usize,
    /// Jobs that the node holds at most; only shown, by `/info`.
    pub jobs_max: u32,
    /// Tokens of one forward pass; only shown, by `/info`.
    pub batch_tokens_max: u32,
    /// Milliseconds that a caller gives who names no `x-deadline-ms`; at most `deadline_ms_max`.
    pub deadline_ms_default: u32,
    /// Most milliseconds that `x-deadline-ms` may ask for.
    pub deadline_ms_max: u32,
    /// Whether a caller may ask why its call went where it went.
    pub explain: bool,
    /// How long [`serve`] waits for open connections after it was told to stop.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_bytes_max: 2_000_000,
            bodies_bytes_max: 256_000_000,
            inputs_max: 2048,
            jobs_max: 512,
            batch_tokens_max: 16_384,
            deadline_ms_default: 30_000,
            deadline_ms_max: 300_000,
            explain: false,
            stop_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves callers on `listener` until `stop` holds `true` (or its sender is gone), then finishes what is in work.
///
/// After the stop nobody new is accepted, HTTP/2 callers get GOAWAY and HTTP/1 answers say `connection: close`.
/// Returns how many connections were still open after [`Limits::stop_timeout`] and were cut off; 0 is a clean stop.
/// A listener that cannot accept (no file descriptors left) is tried again for ever: this function ends by `stop`
/// alone.
pub async fn serve<D: Door>(
    listener: TcpListener,
    limits: Limits,
    door: D,
    lanes: Lanes,
    stop: watch::Receiver<bool>,
) -> usize {
    accept::run(listener, limits, door, lanes, stop).await
}
