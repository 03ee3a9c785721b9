//! What the world keeps in its tables and in its queue.
//!
//! Part of `world`.
//! Invariants: an event is small and plain; whatever may be gone when it comes is named by a key or by the number of a
//! process, so that a late event finds nothing.

use shoal_core::id::{Attempt, BatchId, JobId, RowRef};
use shoal_core::load::Report;
use shoal_core::node::{Refusal, Verdict};
use shoal_core::time::{Micros, MonoTime};

use super::super::slab::Key;

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Start {
        node: usize,
    },
    Loaded {
        node: usize,
        boot: u64,
    },
    Tick {
        node: usize,
        boot: u64,
    },
    /// A process ends by itself.
    Exit {
        node: usize,
        boot: u64,
    },
    /// A caller may come to a door.
    Arrive {
        door: usize,
    },
    /// A caller's request is read by the process.
    Call {
        node: usize,
        request: Key,
    },
    CallerLeaves {
        request: Key,
    },
    BatchEnds {
        node: usize,
        boot: u64,
        batch: Key,
    },
    Measured {
        node: usize,
        boot: u64,
        took: Micros,
    },
    Canary {
        node: usize,
        boot: u64,
    },
    Probe {
        node: usize,
        boot: u64,
    },
    /// A forwarded job left its node.
    Flushed {
        stream: Key,
    },
    /// A forwarded job arrives.
    Offer {
        stream: Key,
        to: usize,
    },
    /// The acknowledgement waited long enough for the answer.
    Acknowledge {
        node: usize,
        stream: Key,
    },
    Reply {
        stream: Key,
        letter: Key,
        to: usize,
    },
    Cancel {
        node: usize,
        job: Key,
    },
    Broken {
        stream: Key,
        to: usize,
    },
    /// A connection that cannot be alive is found out, unless it became so.
    Keepalive {
        from: usize,
        to: usize,
        connection: u32,
    },
    Pong {
        from: usize,
        to: usize,
        boot: u64,
        sent: MonoTime,
    },
    PingLost {
        from: usize,
        to: usize,
        boot: u64,
        /// There is no process that could take a connection.
        refused: bool,
    },
    /// A node hears that its connection to another one ended.
    Parted {
        from: usize,
        to: usize,
        boot: u64,
    },
    Round {
        node: usize,
        boot: u64,
    },
    /// A datagram arrives: part 0, 1 or 2 of an exchange.
    Gossip {
        from: usize,
        to: usize,
        part: u8,
    },
    Read {
        node: usize,
        boot: u64,
    },
    /// Without gossip: a node looks at another one.
    Look {
        observer: usize,
        node: usize,
    },
    FaultBegins {
        index: usize,
    },
    FaultEnds {
        index: usize,
    },
    Heal,
}

impl Event {
    /// Who cannot take it while stopped.
    pub(super) fn addressee(self) -> Option<usize> {
        match self {
            Self::Loaded { node, .. }
            | Self::Tick { node, .. }
            | Self::Exit { node, .. }
            | Self::Call { node, .. }
            | Self::BatchEnds { node, .. }
            | Self::Measured { node, .. }
            | Self::Canary { node, .. }
            | Self::Probe { node, .. }
            | Self::Cancel { node, .. }
            | Self::Acknowledge { node, .. }
            | Self::Round { node, .. }
            | Self::Read { node, .. }
            | Self::Look { observer: node, .. }
            | Self::Offer { to: node, .. }
            | Self::Reply { to: node, .. }
            | Self::Broken { to: node, .. }
            | Self::Keepalive { from: node, .. }
            | Self::Pong { from: node, .. }
            | Self::PingLost { from: node, .. }
            | Self::Parted { from: node, .. }
            | Self::Gossip { to: node, .. } => Some(node),
            Self::Start { .. }
            | Self::Arrive { .. }
            | Self::CallerLeaves { .. }
            | Self::Flushed { .. }
            | Self::FaultBegins { .. }
            | Self::FaultEnds { .. }
            | Self::Heal => None,
        }
    }
}

/// What a caller wants, until nobody works on it any more.
#[derive(Clone, Debug)]
pub struct Request {
    /// The node whose caller it is.
    pub door: usize,
    /// When the caller came.
    pub arrived: MonoTime,
    /// Time that the caller gave.
    pub limit: Micros,
    /// Microseconds that the work takes alone on an idle device.
    pub unloaded_us: u64,
    /// Its work breaks the model.
    pub poison: bool,
    /// The caller waits.
    pub waits: bool,
    /// Nodes whose device began with it.
    pub executions: u32,
    /// Nodes that it was sent to, in order.
    pub path: [u32; 4],
    /// How many of these there are.
    pub path_len: usize,
    /// It was placed a second time while the first placement stood.
    pub hedged: bool,
    /// A fault touched it: a broken connection, a silence, a failed batch, a process that ended or stood still.
    pub troubled: bool,
    /// Its own process stood still while it waited.
    pub stood_still: bool,
    /// The answer that was delivered last.
    pub answer: Option<Answer>,
    /// Texts.
    pub rows: usize,
    /// Texts that its own node had done when it ended there.
    pub rows_done_here: usize,
    /// How often its machine said that it ended.
    pub ends: u32,
    /// Its machine just heard that it is nowhere.
    pub(super) unplaced: bool,
    pub(super) stretch: f64,
    pub(super) shape: usize,
    pub(super) session: Option<u64>,
    /// The caller and every job for it count one each.
    pub(super) uses: u32,
    /// The job at its own node.
    pub(super) job: Key,
}

/// An answer as it came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When.
    pub at: MonoTime,
    /// From which node.
    pub node: usize,
    /// To which placement.
    pub attempt: Attempt,
    /// For which request it was computed.
    pub computed_for: Key,
}

/// A request as one process holds it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) node: usize,
    pub(super) request: Key,
    /// How it came here; [`Key::NONE`] for a caller's.
    pub(super) stream: Key,
    pub(super) stretch: f64,
    pub(super) shape: usize,
    pub(super) poison: bool,
    pub(super) ran: bool,
    pub(super) rows_done: usize,
    /// Placements on peers: at most two stand at one time.
    pub(super) flights: [Key; 2],
}

/// A placement on a peer, from when it is sent until its origin is done with it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) request: Key,
    pub(super) origin: usize,
    pub(super) job: JobId,
    pub(super) attempt: Attempt,
    pub(super) target: usize,
    pub(super) connection: u32,
    pub(super) sent: MonoTime,
    pub(super) bound: Option<Micros>,
    pub(super) remaining: Micros,
    /// The job at the target, once it was offered.
    pub(super) peers_job: Key,
    pub(super) offered_at: MonoTime,
    /// What comes later on the stream comes after this.
    pub(super) last: MonoTime,
    /// The target took the job, and its word on that when it is not sent yet.
    pub(super) acknowledged: bool,
    pub(super) acknowledgement: Option<Report>,
}

/// A batch on a device.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) batch: BatchId,
    pub(super) rows: Vec<RowRef>,
    pub(super) started: MonoTime,
    /// When it should be done.
    pub(super) ends: MonoTime,
    pub(super) fails: bool,
    pub(super) node: usize,
}

/// What a peer says on a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    pub(super) report: Report,
    /// How long it had the job.
    pub(super) kept: Micros,
    pub(super) says: Says,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Says {
    Accepted,
    Refused(Refusal),
    Answered { verdict: Verdict, computed_for: Key },
}
