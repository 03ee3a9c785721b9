//! Connections: how many, for how long, and how they end.
//!
//! For [`super::serve`]. Invariants: a connection has its permit before it is accepted, so callers beyond the limit
//! wait in the kernel and cost nothing here; the loop survives every error of the listener; every connection is
//! watched.
//! Not here: what is said on a connection (`request`).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, error, warn};

use super::Limits;
use super::request::Face;
use super::socket::{Activity, Socket};
use crate::job::Door;
use crate::lanes::{Lanes, Moving};
use crate::ring;

/// First pause after a failed accept; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// Requests that one HTTP/2 connection may have in work.
const STREAMS_MAX: u32 = 256;
/// Bytes of one request's headers, on HTTP/2.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Bytes of the read buffer of an HTTP/1 connection, and so of one request's headers there.
const READ_BUFFER_BYTES_MAX: usize = 128 << 10;
/// How long a connection that was accepted just before the stop may take to bring its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Accepts until the stop, then waits for what is open. See [`super::serve`].
pub(super) async fn run<D: Door>(
    listener: TcpListener,
    limits: Limits,
    door: D,
    lanes: Lanes,
    mut stop: watch::Receiver<bool>,
) -> usize {
    let port = listener.local_addr().map_or(0, |addr| addr.port());
    let listen = Listen {
        face: Arc::new(Face::new(door, limits, port, stop.clone())),
        builder: Arc::new(builder(&limits)),
        permits: Arc::new(Semaphore::new(limits.connections_max)),
        stop: stop.clone(),
        limits,
    };
    let mut open = JoinSet::new();
    let accepting = async {
        let mut backoff = BACKOFF_MIN;
        loop {
            let permit = listen.permit().await;
            match listener.accept().await {
                Ok((stream, caller)) => {
                    backoff = BACKOFF_MIN;
                    listen.take(Moving::new(stream), caller, permit, &lanes, &mut open);
                }
                Err(error) => {
                    if backoff == BACKOFF_MIN {
                        warn!(%error, "cannot accept connections; trying again until it works");
                    }
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
            while let Some(ended) = open.try_join_next() {
                report(ended);
            }
        }
    };
    tokio::select! {
        () = stopped(&mut stop) => {}
        () = accepting => {}
    }

    // Who is in the kernel's queue by now was promised a connection: closing the listener would reset it.
    match listener.into_std() {
        Ok(listener) => {
            while let Ok(permit) = Arc::clone(&listen.permits).try_acquire_owned() {
                match listener.accept() {
                    Ok((stream, caller)) => {
                        listen.take(Moving::from_std(stream), caller, permit, &lanes, &mut open);
                    }
                    Err(_) => break,
                }
            }
        }
        Err(error) => warn!(%error, "callers that were about to be accepted are turned away"),
    }

    let end = Instant::now() + limits.stop_timeout;
    while let Ok(Some(ended)) = timeout_at(end, open.join_next()).await {
        report(ended);
    }
    let cut_off = open.len();
    open.shutdown().await;
    cut_off
}

/// What it takes to serve a connection.
struct Listen<D> {
    face: Arc<Face<D>>,
    builder: Arc<Builder<TokioExecutor>>,
    permits: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
    limits: Limits,
}

impl<D: Door> Listen<D> {
    /// Leave to have one more connection.
    async fn permit(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                debug!(connections_max = self.limits.connections_max, "no connection is free; further callers wait");
                Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed")
            }
        }
    }

    /// Has one connection served on a lane.
    fn take(
        &self,
        stream: io::Result<Moving>,
        caller: SocketAddr,
        permit: OwnedSemaphorePermit,
        lanes: &Lanes,
        open: &mut JoinSet<()>,
    ) {
        let lane = lanes.assign();
        let serving = stream.map(|stream| self.connection(stream, caller.ip(), permit));
        match serving {
            Ok(serving) => {
                let handle = lane.handle().clone();
                let served = async move {
                    if let Err(error) = serving.await {
                        warn!(%error, "a connection could not be taken");
                    }
                    drop(lane);
                };
                open.spawn_on(served, &handle);
            }
            Err(error) => warn!(%error, "a connection could not be taken"),
        }
    }

    /// Serves one connection to its end.
    ///
    /// # Errors
    /// The system cannot wait for it.
    fn connection(
        &self,
        stream: Moving,
        caller: IpAddr,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let (face, builder, stop) = (Arc::clone(&self.face), Arc::clone(&self.builder), self.stop.clone());
        let limits = self.limits;
        let client = client(caller);
        async move {
            let stream = stream.arrive()?;
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection stays with delayed sending");
            }
            let activity = Arc::new(Activity::new());
            let socket = TokioIo::new(Socket::new(stream, Arc::clone(&activity)));
            let service = service_fn(|request| {
                let (face, activity) = (Arc::clone(&face), Arc::clone(&activity));
                async move { Ok::<_, Infallible>(face.answer(request, client, &activity).await) }
            });
            let mut serving = pin!(builder.serve_connection(socket, service));
            let mut watchdog =
                Watchdog { activity: Arc::clone(&activity), limits, stop, stopped_at: None, finish_by: None };
            loop {
                // The connection comes first: a request that has arrived is read before the connection is closed as
                // idle.
                tokio::select! {
                    biased;
                    ended = serving.as_mut() => {
                        if let Err(error) = ended {
                            debug!(%error, "a connection ended early");
                        }
                        break;
                    }
                    verdict = watchdog.next() => match verdict {
                        Verdict::Finish => serving.as_mut().graceful_shutdown(),
                        Verdict::Cut => break,
                    }
                }
            }
            drop(permit);
            Ok(())
        }
    }
}

/// What is to become of a connection.
enum Verdict {
    /// Take no further request; finish what is in work.
    Finish,
    /// Nothing will come of it any more.
    Cut,
}

/// Decides when a connection has to end.
struct Watchdog {
    activity: Arc<Activity>,
    limits: Limits,
    stop: watch::Receiver<bool>,
    stopped_at: Option<Instant>,
    /// Set once it was idle for too long and told to finish: after this it is cut.
    finish_by: Option<Instant>,
}

impl Watchdog {
    /// Waits until something has to be done. Dropping the future loses nothing.
    async fn next(&mut self) -> Verdict {
        loop {
            let now = Instant::now();
            let limit = self.limit();
            if limit.is_some_and(|limit| limit <= now) {
                if !self.activity.has_seen_a_request() || self.finish_by.is_some() {
                    return Verdict::Cut;
                }
                self.finish_by = Some(now + self.limits.header_timeout);
                return Verdict::Finish;
            }
            // What the limit is changes with every request, unseen from here; none begins that could pass before this.
            let soon = now + self.limits.idle_timeout.min(self.limits.header_timeout);
            let wake = limit.map_or(soon, |limit| limit.min(soon));
            tokio::select! {
                () = stopped(&mut self.stop), if self.stopped_at.is_none() => {
                    self.stopped_at = Some(now);
                    if self.activity.has_seen_a_request() {
                        return Verdict::Finish;
                    }
                }
                () = self.activity.finish_asked() => return Verdict::Finish,
                () = sleep_until(wake) => {}
            }
        }
    }

    /// When the connection has to have done something; `None` while a request is in work.
    fn limit(&self) -> Option<Instant> {
        if !self.activity.has_seen_a_request() {
            let limit = self.activity.started() + self.limits.header_timeout;
            return Some(self.stopped_at.map_or(limit, |stopped_at| limit.min(stopped_at + FIRST_REQUEST_GRACE)));
        }
        let idle_since = self.activity.idle_since()?;
        Some(self.finish_by.unwrap_or(idle_since + self.limits.idle_timeout))
    }
}

/// Ends when the stop was given, or can no longer be given.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have said stop.
    let _ = stop.wait_for(|&stopped| stopped).await;
}

/// A number for the caller's machine: one behind IPv4 is the same however the listener was bound.
fn client(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ring::key(&ip.octets()),
        IpAddr::V6(ip) => ring::key(&ip.octets()),
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection's task panicked; the connection is gone");
    }
}

/// HTTP/1.1 and HTTP/2 with every limit that they have.
fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Without the timer the header limit would silently not exist.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_the_same_one_however_the_listener_was_bound() {
        let client = |ip: &str| client(ip.parse().unwrap());
        assert_eq!(client("10.0.0.7"), client("::ffff:10.0.0.7"));
        assert_ne!(client("10.0.0.7"), client("10.0.0.8"));
        assert_ne!(client("::1"), client("127.0.0.1"));
    }
}
