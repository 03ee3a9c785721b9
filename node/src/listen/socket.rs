//! One accepted socket, with what the connection's watchdog has to know about it.
//!
//! For `accept` (which watches) and `request` (which reports). Invariants: every byte either way is noted; a socket
//! that is closed although bytes of a refused body are on their way is closed so that the caller still reads its
//! answer.
//! Not here: when a connection is idle for too long (`accept`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

/// How long a caller whose body was refused may take to read its answer and to stop sending.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much it may send meanwhile: a body of a few times the limit, sent without waiting for an answer.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// What happens on one connection, as seen by its watchdog.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// Milliseconds from `started` until a byte moved or a request ended.
    last_ms: AtomicU64,
    requests: AtomicU64,
    in_work: AtomicUsize,
    unread_body: AtomicBool,
    finish: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_work: AtomicUsize::new(0),
            unread_body: AtomicBool::new(false),
            finish: Notify::new(),
        }
    }

    /// Counts a request as in work until the value is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> InWork {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_work.fetch_add(1, Ordering::Relaxed);
        InWork(Arc::clone(self))
    }

    /// Asks that the connection takes no further requests.
    pub(super) fn finish_soon(&self) {
        self.finish.notify_one();
    }

    /// Ends after [`Self::finish_soon`].
    pub(super) async fn finish_asked(&self) {
        self.finish.notified().await;
    }

    /// Says that bytes of a body may still come although its answer is ready.
    pub(super) fn leave_body_unread(&self) {
        self.unread_body.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_seen_a_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0
    }

    /// Since when nothing happened; `None` while a request is in work.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.in_work.load(Ordering::Relaxed) == 0;
        idle.then(|| self.started + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    fn note(&self) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }
}

/// One request in work.
#[derive(Debug)]
pub(super) struct InWork(Arc<Activity>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.note();
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The socket of one connection.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    lingering: Option<Lingering>,
}

struct Lingering {
    end: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, lingering: None }
    }

    /// Throws away what the caller still sends, until it closes or a limit is reached.
    ///
    /// Closing a socket with unread bytes resets the connection, and a reset makes the caller's kernel discard the
    /// answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, lingering, .. } = self;
        let lingering = lingering
            .get_or_insert_with(|| Lingering { end: Box::pin(sleep(LINGER_TIMEOUT)), bytes_left: LINGER_BYTES_MAX });
        let mut waste = [0; 16_384];
        loop {
            if lingering.end.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && buffer.filled().len() < lingering.bytes_left => {
                    lingering.bytes_left -= buffer.filled().len();
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn noted(&self, moved: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(moved, Poll::Ready(Ok(_))) {
            self.activity.note();
        }
        moved
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.activity.note();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.noted(moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.activity.unread_body.load(Ordering::Relaxed) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
