//! What went from one party to another, and the chance that decides about it.
//!
//! For the doors, which count and draw, and for drills, which read.
//! Invariants: every ordered pair has its own streams of chance, one for each protocol, so that the n-th datagram
//! between two nodes has the same fate whatever the others send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::rules::{Faults, Passage};
use crate::sim::chance::Chance;

/// How much later a chunk of a connection arrives when it was "lost": Linux never sends again sooner.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Counts of one ordered pair since the proxy started, and what waits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Connections that the sender opened and the receiver took.
    pub connections: u64,
    /// Connections of the sender that had to wait at a cut before they were opened, if they ever were.
    pub connections_held: u64,
    /// Connections of the sender that were reset, by a rule or because the receiver was gone.
    pub connections_reset: u64,
    /// Bytes of connections that were passed on, whoever had opened them.
    pub bytes: u64,
    /// Bytes of connections that the proxy has read and not yet passed on. What a cut keeps in the sockets' own
    /// buffers is not among them.
    pub bytes_waiting: u64,
    /// Chunks of connections that came a retransmission later because they were "lost".
    pub chunks_late: u64,
    /// Datagrams that were passed on, the second ones of doubled datagrams too.
    pub datagrams: u64,
    /// Datagrams that were to be passed on twice.
    pub datagrams_doubled: u64,
    /// Datagrams that were lost, by chance, by a cut, or because too many were waiting.
    pub datagrams_lost: u64,
}

/// One ordered pair.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) counts: Counts,
    tcp: Mutex<Chance>,
    udp: Mutex<Chance>,
}

/// See [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) connections_held: AtomicU64,
    pub(super) connections_reset: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bytes_waiting: AtomicU64,
    pub(super) chunks_late: AtomicU64,
    pub(super) datagrams: AtomicU64,
    pub(super) datagrams_doubled: AtomicU64,
    pub(super) datagrams_lost: AtomicU64,
}

/// Counts one more.
pub(super) fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Lane {
    pub(super) fn new(seed: u64, pair: usize) -> Self {
        let stream = |protocol| Mutex::new(Chance::new(seed, protocol, pair as u64));
        Self { counts: Counts::default(), tcp: stream("proxy tcp"), udp: stream("proxy udp") }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            connections: read(&self.counts.connections),
            connections_held: read(&self.counts.connections_held),
            connections_reset: read(&self.counts.connections_reset),
            bytes: read(&self.counts.bytes),
            bytes_waiting: read(&self.counts.bytes_waiting),
            chunks_late: read(&self.counts.chunks_late),
            datagrams: read(&self.counts.datagrams),
            datagrams_doubled: read(&self.counts.datagrams_doubled),
            datagrams_lost: read(&self.counts.datagrams_lost),
        }
    }

    /// How much later the next chunk of a connection arrives.
    pub(super) fn chunk_delay(&self, faults: &Faults) -> Duration {
        let mut chance = self.tcp.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = delay(&mut chance, faults);
        if happens(&mut chance, faults.loss) {
            one(&self.counts.chunks_late);
            return delay + RETRANSMISSION;
        }
        delay
    }

    /// How long the next handshake packet takes; `None` when it is lost.
    pub(super) fn handshake_delay(&self, faults: &Faults) -> Option<Duration> {
        let mut chance = self.tcp.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = delay(&mut chance, faults);
        (!happens(&mut chance, faults.loss)).then_some(delay)
    }

    /// After how long the next datagram arrives, and after how long once more; nothing for one that is lost.
    pub(super) fn datagram_delays(&self, faults: &Faults) -> [Option<Duration>; 2] {
        if faults.passage != Passage::Open {
            return [None, None];
        }
        let mut chance = self.udp.lock().unwrap_or_else(PoisonError::into_inner);
        if happens(&mut chance, faults.loss) {
            return [None, None];
        }
        let first = delay(&mut chance, faults);
        let second = happens(&mut chance, faults.duplicate).then(|| delay(&mut chance, faults));
        if second.is_some() {
            one(&self.counts.datagrams_doubled);
        }
        [Some(first), second]
    }
}

fn delay(chance: &mut Chance, faults: &Faults) -> Duration {
    if faults.jitter.is_zero() { faults.delay } else { faults.delay + faults.jitter.mul_f64(chance.unit()) }
}

fn happens(chance: &mut Chance, share: f64) -> bool {
    0.0 < share && chance.unit() < share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, pair: usize) -> Vec<[Option<Duration>; 2]> {
        let faults = Faults { jitter: Duration::from_millis(5), duplicate: 0.2, ..Faults::lossy(0.3) };
        let lane = Lane::new(seed, pair);
        (0..1000).map(|_| lane.datagram_delays(&faults)).collect()
    }

    #[test]
    fn fates_repeat_by_seed_differ_by_pair_and_have_their_shares() {
        let first = fates(1, 0);
        assert_eq!(first, fates(1, 0));
        assert_ne!(first, fates(2, 0));
        assert_ne!(first, fates(1, 1));
        let lost = first.iter().filter(|fate| fate[0].is_none()).count();
        let twice = first.iter().filter(|fate| fate[1].is_some()).count();
        assert!((250..350).contains(&lost), "{lost} of 1000 at 30 %");
        assert!((100..180).contains(&twice), "{twice} of 1000 at 20 % of 70 %");
        assert!(first.iter().flatten().flatten().all(|delay| *delay < Duration::from_millis(5)));
    }

    #[test]
    fn what_is_cut_or_rejected_never_arrives() {
        let lane = Lane::new(1, 0);
        for faults in [Faults::CUT, Faults::RESET] {
            assert_eq!(lane.datagram_delays(&faults), [None, None]);
        }
    }
}
