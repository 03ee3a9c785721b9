//! One call that is held, and where it is.
//!
//! Part of the machine in `node`.
//! Invariants: a job is at two nodes at most, and at two only when the second placement is a hedge; what the table of
//! peers counts for a flight is given back exactly once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Source;
use super::explain::Explanation;
use crate::batch::Work;
use crate::id::{Attempt, JobId, NodeId};
use crate::peers::Ticket;
use crate::retry::History;
use crate::time::{Micros, MonoTime};

/// One call that is held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) units: Arc<[u32]>,
    pub(super) units_sum: u64,
    pub(super) bytes: u64,
    pub(super) arrived: MonoTime,
    pub(super) deadline: MonoTime,
    /// Its place among those that wait for a device: the deadline, unless it is a chunk.
    pub(super) turn: MonoTime,
    pub(super) client: u64,
    pub(super) session: Option<u64>,
    pub(super) history: History,
    /// Peers whose model failed on it, and the runs of their processes. Whom to blame is known only when it worked
    /// elsewhere.
    pub(super) failed_at: Vec<(NodeId, Option<Ticket>)>,
    /// Nowhere: this node starts, or a peer is asked whether it is back, and nobody else can compute.
    pub(super) waiting: bool,
    /// It waited so before.
    pub(super) waited: bool,
    /// Its rows wait or run on this node.
    pub(super) here: Option<Stay>,
    /// It is on a peer, or on two.
    pub(super) flights: Vec<Flight>,
    /// It was late, and whoever has it was told so although it was not placed a second time.
    pub(super) late_told: bool,
    /// It was placed a second time because it was late.
    pub(super) hedged: bool,
    /// It waited here and went on to a peer.
    pub(super) moved: bool,
    pub(super) explanation: Option<Box<Explanation>>,
    pub(super) part: Option<Part>,
    /// It is a chunk and nowhere until another one of its call ends; `true`: it may go to this node only.
    pub(super) parked: Option<bool>,
}

/// What makes a job a chunk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    /// The call.
    pub(super) of: JobId,
    /// It has the first rows of it.
    pub(super) is_first: bool,
}

/// A job on this node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Stay {
    pub(super) rows_done: usize,
    /// A row of it went to the device.
    pub(super) started: bool,
    pub(super) since: MonoTime,
    /// How long it should take.
    pub(super) promised: Micros,
    pub(super) hedge: bool,
}

/// A job on a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Flight {
    pub(super) peer: NodeId,
    pub(super) attempt: Attempt,
    pub(super) ticket: Option<Ticket>,
    pub(super) sent: MonoTime,
    /// When it left this node.
    pub(super) flushed: Option<MonoTime>,
    pub(super) accepted: bool,
    /// How long it may go unacknowledged, from the moment in which it left.
    pub(super) accept_limit: Micros,
    /// How long it should take.
    pub(super) promised: Micros,
    /// How much of that it should wait there before it starts.
    pub(super) wait: Micros,
    pub(super) hedge: bool,
}

impl Flight {
    /// When the peer counts as silent; `None` once it acknowledged. By `lag` this node itself is late.
    pub(super) fn silent_at(&self, lag: Micros) -> Option<MonoTime> {
        if self.accepted {
            return None;
        }
        // Before it left, only a connection that cannot be made holds it up, and that has a limit of its own.
        let limit = self.flushed.map_or(self.sent + self.accept_limit.times(2), |flushed| flushed + self.accept_limit);
        Some(limit + lag)
    }

    /// As far as anybody can tell it started as soon as it came: most of what was promised was its own time.
    pub(super) fn started_at_once(&self) -> bool {
        self.wait.times(4) < self.promised
    }

    /// Without an answer until `now`, it takes longer than it should: what it should have taken, and what it took.
    pub(super) fn late(&self, now: MonoTime) -> Option<(Micros, Micros)> {
        let took = now.since(self.sent);
        (self.promised < took).then_some((self.promised, took))
    }
}

impl Job {
    /// A job that is nowhere yet, of no session, and holds nothing.
    pub(super) fn new(now: MonoTime, source: Source, units: Arc<[u32]>, deadline: MonoTime, client: u64) -> Self {
        Self {
            source,
            units_sum: Work::of(&units).units,
            units,
            bytes: 0,
            arrived: now,
            deadline,
            turn: deadline,
            client,
            session: None,
            history: History::default(),
            failed_at: Vec::new(),
            waiting: false,
            waited: false,
            here: None,
            flights: Vec::new(),
            late_told: false,
            hedged: false,
            moved: false,
            explanation: None,
            part: None,
            parked: None,
        }
    }

    /// Nodes whose model failed on it, peers left out: none or this one.
    pub(super) fn failed_here(&self) -> bool {
        self.failed_at.len() < usize::from(self.history.engine_failures)
    }

    pub(super) fn is_away(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Neither here nor on a peer.
    pub(super) fn is_nowhere(&self) -> bool {
        self.here.is_none() && self.flights.is_empty()
    }

    /// When and for how long it was placed, if it is at one node only.
    pub(super) fn only_placement(&self) -> Option<(MonoTime, Micros)> {
        match (self.here, self.flights.as_slice()) {
            (Some(stay), []) => Some((stay.since, stay.promised)),
            (None, [flight]) => Some((flight.sent, flight.promised)),
            _ => None,
        }
    }
}
