//! The TCP side of a door: connections to one node, and the bytes in both directions.
//!
//! For `proxy`. The proxy's kernel accepts every connection, so what a real network does before that is played
//! afterwards: at a cut a connection is held without a byte being read, and one that nobody takes is reset.
//! A door is open while its node listens, so a node that is down refuses connections as it would without a proxy.
//! Invariants: bytes keep their order; each direction of a connection holds at most [`BUFFER_BYTES_MAX`] and one chunk,
//! and is not read beyond; at most [`CONNECTIONS_MAX`] connections of a door exist, more wait in the kernel's queue.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::rules::{Party, Passage, Rules};
use super::traffic::{Lane, one};
use super::{Pair, Shared, owner};

/// Connections of one door at a time.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes that one direction of a connection holds while they are delayed. Divided by the delay it is also the most that
/// a delayed connection carries: 2.6 MB/s at 100 ms.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Pieces that one direction of a connection holds: single bytes would else cost more than what they are.
const PIECES_MAX: usize = 4096;
/// Most that is read at once, and what is lost or delayed as one.
const CHUNK_BYTES: usize = 16 * 1024;
/// When Linux sends the first packet of a connection again.
const SYN_AGAIN: Duration = Duration::from_secs(1);
/// How often a connection that waits at a cut is looked at, whether its opener has given up.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked whether a node that was gone listens again.
const RETURN_EVERY: Duration = Duration::from_millis(10);
/// Pause after an accept that failed, for example for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Neither side can go on: both have to learn it by a reset.
#[derive(Debug)]
struct Broken;

/// Serves the door of node `to` until the runtime ends.
pub(super) async fn open(shared: Arc<Shared>, to: usize, listener: std::net::TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut listener = TcpListener::from_std(listener).expect("the listener was made non-blocking");
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes the semaphore");
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((inbound, SocketAddr::V4(source))) => {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        serve(&shared, to, inbound, source).await;
                        drop(permit);
                    });
                }
                // A listener of IPv4 has no others.
                Ok((_, SocketAddr::V6(_))) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            () = shared.doubts[to].notified() => {
                if is_gone(&shared, to) {
                    drop(listener);
                    listener = reopened(&shared, to).await;
                }
            }
        }
    }
}

/// Whether the node does not listen any more. A cut would hide that, so at a cut the door stays open.
fn is_gone(shared: &Shared, node: usize) -> bool {
    // In this order: a cut that ends after its node has come back must not show the node as it was before.
    let is_hidden = shared.rules.borrow().is_cut_from_anybody(node);
    // When the kernel does not tell, the door stays open, and who comes is reset if the node is gone.
    !is_hidden && owner::listens(shared.nodes[node]).is_ok_and(|listens| !listens)
}

/// The door again, as soon as the node listens or a cut hides whether it does.
async fn reopened(shared: &Shared, node: usize) -> TcpListener {
    loop {
        if !is_gone(shared, node)
            && let Ok(listener) = TcpListener::bind(shared.doors[node]).await
        {
            return listener;
        }
        sleep(RETURN_EVERY).await;
    }
}

/// One connection, from the moment that the proxy's kernel has accepted it.
async fn serve(shared: &Shared, to: usize, mut inbound: TcpStream, source: SocketAddrV4) {
    let from = opener(shared, to, source).await;
    let pair = Pair { from, to: Party::Node(to) };
    let counts = &shared.lane(pair).counts;
    let reset = |stream: TcpStream| {
        // Fails only for a socket that is gone already.
        let _ = stream.set_zero_linger();
    };
    match handshake(shared, pair, &inbound).await {
        Handshake::Done => {}
        Handshake::GivenUp => return,
        Handshake::Rejected => {
            one(&counts.connections_reset);
            return reset(inbound);
        }
    }
    let Ok(mut outbound) = TcpStream::connect(shared.nodes[to]).await else {
        one(&counts.connections_reset);
        shared.doubts[to].notify_one();
        return reset(inbound);
    };
    one(&counts.connections);
    // Fails only for a socket that is gone already.
    let _ = inbound.set_nodelay(true).and_then(|()| outbound.set_nodelay(true));
    if relay(shared, pair, &mut inbound, &mut outbound).await.is_err() {
        one(&counts.connections_reset);
        reset(inbound);
        reset(outbound);
    }
    shared.doubts[to].notify_one();
}

/// Who opened the connection that came from `source`.
async fn opener(shared: &Shared, to: usize, source: SocketAddrV4) -> Party {
    let (door, pids) = (shared.doors[to], shared.pids());
    // Reading what files the processes hold may take a millisecond.
    match tokio::task::spawn_blocking(move || owner::owner(source, door, &pids)).await {
        Ok(Ok(Some(node))) => Party::Node(node),
        _ => Party::Stranger,
    }
}

/// Sleeps, unless there is nothing to sleep: a timer never ends before the next millisecond.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

enum Handshake {
    Done,
    /// Whoever opened the connection has closed it before it was open.
    GivenUp,
    Rejected,
}

/// Waits as long as it takes until two packets, there and back, would have passed.
async fn handshake(shared: &Shared, pair: Pair, inbound: &TcpStream) -> Handshake {
    let mut rules = shared.rules.subscribe();
    let mut is_held = false;
    loop {
        let (there, back) = {
            let rules = rules.borrow_and_update();
            (rules.between(pair).tcp, rules.between(pair.reversed()).tcp)
        };
        let passages = [there.passage, back.passage];
        if passages.contains(&Passage::Reset) {
            return Handshake::Rejected;
        }
        let limit = if passages.contains(&Passage::Cut) {
            if !std::mem::replace(&mut is_held, true) {
                one(&shared.lane(pair).counts.connections_held);
            }
            LOOK_EVERY
        } else {
            let delays = [(pair, &there), (pair.reversed(), &back)];
            let delays = delays.map(|(pair, faults)| shared.lane(pair).handshake_delay(faults));
            if let [Some(there), Some(back)] = delays {
                // A cut that begins while the packets are under way is seen by the first chunk.
                pause(there + back).await;
                return if is_closed(inbound).await { Handshake::GivenUp } else { Handshake::Done };
            }
            SYN_AGAIN
        };
        // A change is looked at at once; the sender of the rules lives as long as the doors.
        let _ = timeout(limit, rules.changed()).await;
        if is_closed(inbound).await {
            return Handshake::GivenUp;
        }
    }
}

/// Whether the other end was closed, without reading what lies before.
async fn is_closed(stream: &TcpStream) -> bool {
    // What is known of a stream is what the runtime last heard of it: let it listen once more.
    tokio::task::yield_now().await;
    // Returns at once: a stream on which nothing was written yet can be written to.
    stream.ready(Interest::READABLE | Interest::WRITABLE).await.is_ok_and(|ready| ready.is_read_closed())
}

/// Both directions, until both ended or the connection broke.
async fn relay(shared: &Shared, pair: Pair, inbound: &mut TcpStream, outbound: &mut TcpStream) -> Result<(), Broken> {
    let (from_opener, to_opener) = inbound.split();
    let (from_node, to_node) = outbound.split();
    let there = Direction::new(shared, pair).pump(from_opener, to_node);
    let back = Direction::new(shared, pair.reversed()).pump(from_node, to_opener);
    tokio::try_join!(there, back).map(|((), ())| ())
}

/// What one direction of a connection has in hand.
struct Direction<'a> {
    pair: Pair,
    lane: &'a Lane,
    back: &'a Lane,
    rules: watch::Receiver<Rules>,
    waiting: VecDeque<(Instant, Piece)>,
    waiting_bytes: usize,
}

enum Piece {
    Bytes(Bytes),
    /// The sender has closed its side.
    End,
    /// The sender's side was reset.
    Reset,
}

impl<'a> Direction<'a> {
    fn new(shared: &'a Shared, pair: Pair) -> Self {
        Self {
            pair,
            lane: shared.lane(pair),
            back: shared.lane(pair.reversed()),
            rules: shared.rules.subscribe(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Passes on what comes, under the rules of the moment, until the sender's end has been passed on too.
    async fn pump(mut self, mut source: ReadHalf<'_>, mut target: WriteHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut is_ended = false;
        loop {
            let faults = self.rules.borrow_and_update().between(self.pair).tcp;
            if faults.passage == Passage::Reset {
                return Err(Broken);
            }
            let is_cut = faults.passage == Passage::Cut;
            let due = self.waiting.front().map(|(due, _)| *due);
            let is_due = !is_cut && due.is_some_and(|due| due <= Instant::now());
            let may_read = !is_cut && !is_ended && self.has_room();
            tokio::select! {
                biased;
                changed = self.rules.changed() => changed.map_err(|_| Broken)?,
                written = write_first(&mut target, &self.waiting), if is_due => match written {
                    Ok(Written::Bytes(count)) => self.passed(count),
                    Ok(Written::End) => return Ok(()),
                    Ok(Written::Reset) => return Err(Broken),
                    Err(_) => return self.receiver_broke().await,
                },
                read = source.read(&mut buffer), if may_read => {
                    let delay = self.lane.chunk_delay(&faults);
                    let piece = match read {
                        Ok(0) => Piece::End,
                        Ok(count) => Piece::Bytes(Bytes::copy_from_slice(&buffer[..count])),
                        Err(_) => Piece::Reset,
                    };
                    is_ended = !matches!(piece, Piece::Bytes(_));
                    self.wait_for(delay, piece);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if !is_cut && !is_due && due.is_some() => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.waiting_bytes < BUFFER_BYTES_MAX && self.waiting.len() < PIECES_MAX
    }

    /// Nothing overtakes: a late piece makes all that follow it late.
    fn wait_for(&mut self, delay: Duration, piece: Piece) {
        let due = Instant::now() + delay;
        let due = self.waiting.back().map_or(due, |(last, _)| due.max(*last));
        if let Piece::Bytes(bytes) = &piece {
            self.waiting_bytes += bytes.len();
            self.lane.counts.bytes_waiting.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        self.waiting.push_back((due, piece));
    }

    /// The receiver took so much of the first piece.
    fn passed(&mut self, count: usize) {
        let Some((_, Piece::Bytes(bytes))) = self.waiting.front_mut() else { return };
        bytes.advance(count);
        if bytes.is_empty() {
            self.waiting.pop_front();
        }
        self.waiting_bytes -= count;
        self.lane.counts.bytes_waiting.fetch_sub(count as u64, Ordering::Relaxed);
        self.lane.counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The receiver's reset goes back to the sender under the rules of that direction.
    async fn receiver_broke(&mut self) -> Result<(), Broken> {
        loop {
            let faults = self.rules.borrow_and_update().between(self.pair.reversed()).tcp;
            if faults.passage != Passage::Cut {
                pause(self.back.chunk_delay(&faults)).await;
                return Err(Broken);
            }
            self.rules.changed().await.map_err(|_| Broken)?;
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.lane.counts.bytes_waiting.fetch_sub(self.waiting_bytes as u64, Ordering::Relaxed);
    }
}

enum Written {
    Bytes(usize),
    End,
    Reset,
}

/// Writes as much of the first piece as the receiver takes.
async fn write_first(target: &mut WriteHalf<'_>, waiting: &VecDeque<(Instant, Piece)>) -> io::Result<Written> {
    match waiting.front() {
        Some((_, Piece::Bytes(bytes))) => match target.write(bytes).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(Written::Bytes(count)),
        },
        // A receiver that is gone needs no end.
        Some((_, Piece::End)) => target.shutdown().await.map_or(Ok(Written::End), |()| Ok(Written::End)),
        Some((_, Piece::Reset)) => Ok(Written::Reset),
        None => std::future::pending().await,
    }
}
