//! What the machine hears and what it asks for. Both lists are closed.
//!
//! For the shell and the simulator. Ids only: texts and vectors stay with whoever drives the machine.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::explain::Explanation;
use crate::affinity::OwnerTable;
use crate::id::{Attempt, BatchId, JobId, NodeId, RowRef};
use crate::load::{DeviceLoad, Report};
use crate::peers::{PeerFacts, Word};
use crate::time::{Micros, MonoTime};

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A client of this node.
    Caller,
    /// A peer that handed the job on. It is computed here or refused, never handed on again.
    Peer {
        /// The peer's own completion: refuse as busy when it would be later here. `None` = take it if at all possible.
        bound: Option<Micros>,
    },
}

/// One job that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// A number never used before, and none of [`JobId::of_chunk`].
    pub job: JobId,
    /// Who asked.
    pub source: Source,
    /// What each text costs; at least one text.
    pub units: Arc<[u32]>,
    /// Bytes of the texts and of the vectors that they will become.
    pub bytes: u64,
    /// When the answer is worth nothing any more.
    pub deadline: MonoTime,
    /// A number that stands for the caller's address.
    pub client: u64,
    /// A number that stands for the session, if it belongs to one.
    pub session: Option<u64>,
    /// Why the job went where it went is to be told.
    pub explain: bool,
}

/// What became of one row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowVerdict {
    /// It has a vector.
    Done,
    /// The caller has to change it.
    Rejected,
    /// The model failed on it.
    Failed,
}

/// What a peer says of a job that it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// All vectors are here.
    Done,
    /// The caller has to change the request.
    Rejected,
    /// Its model failed on the job.
    Failed,
    /// The deadline passed there, or could not be met any more.
    Expired,
}

/// Why a peer does not take a job. Nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It would be done later there than at the origin. No blame.
    Busy,
    /// It holds too much. No blame.
    Full,
    /// It is leaving.
    Draining,
    /// It cannot compute: its engine is not ready, or it has another model.
    Unable,
}

/// Where the model failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineFault {
    /// On as many nodes as may be asked: it is the request's own fault.
    Everywhere,
    /// On one node, this one or a peer, and there was no other node to ask.
    OnOneNode,
}

/// What the engine's canary says: an inference whose answer is known. Whether it is late, the machine itself knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CanaryVerdict {
    /// The answer was right.
    Passed,
    /// It was wrong, or an error.
    Failed,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A job came.
    Arrived(Arrival),
    /// Whoever asked for the job is gone.
    Left {
        /// The job.
        job: JobId,
    },
    /// The device ran a batch.
    BatchDone {
        /// Which.
        batch: BatchId,
        /// How long it ran.
        took: Micros,
        /// One verdict a row, in the order of the batch.
        rows: Vec<RowVerdict>,
    },
    /// The device could not run a batch; which row is to blame is unknown.
    BatchFailed {
        /// Which.
        batch: BatchId,
    },
    /// The job left this node: from now on the peer may be expected to acknowledge it.
    Flushed {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
    },
    /// A peer holds the job.
    Accepted {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
        /// Who.
        peer: NodeId,
        /// What it said of itself.
        word: Word,
    },
    /// A peer is done with the job.
    Answered {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
        /// Who.
        peer: NodeId,
        /// What it said of itself.
        word: Word,
        /// What became of the job.
        verdict: Verdict,
    },
    /// A peer does not take the job.
    Refused {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
        /// Who.
        peer: NodeId,
        /// What it said of itself.
        word: Word,
        /// Why.
        refusal: Refusal,
    },
    /// The way to a peer broke, or what came was no answer. Whether the job ran there is unknown; running it twice
    /// costs time but harms nobody.
    Broke {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
        /// Who.
        peer: NodeId,
    },
    /// A peer answered a ping.
    Heard {
        /// Who.
        peer: NodeId,
        /// What it said of itself.
        word: Word,
    },
    /// A peer sent a job: it lives. Whether this node can reach it is another question.
    Called {
        /// Who.
        peer: NodeId,
        /// What it said of itself.
        word: Word,
    },
    /// A ping was not answered.
    PingFailed {
        /// Who.
        peer: NodeId,
        /// No connection could be made, or it broke: nothing gets there now. Otherwise the answer may only be late.
        broke: bool,
    },
    /// The connection to a peer ended. A peer that is leaving or starting again ends it in all peace, so this alone is
    /// no evidence against it.
    Parted {
        /// Who.
        peer: NodeId,
    },
    /// All peers that gossip knows, this node left out.
    Membership(Vec<PeerFacts>),
    /// Who owns which session, made again whenever the ready nodes changed.
    Owners(OwnerTable),
    /// What the probes say of this node's device, or of its share of the machine.
    Probed(DeviceLoad),
    /// So much later than it should have, the gossip thread came to its turn. Told when it was late; that it no longer
    /// is follows from nothing being told for a second.
    Pulse {
        /// How late.
        late: Micros,
    },
    /// The canary that was asked for by [`Effect::Canary`] ran.
    Canary(CanaryVerdict),
    /// The model is loaded and its first inference of `units` took `took`.
    EngineReady {
        /// Units of the first inference.
        units: u64,
        /// Its time.
        took: Micros,
    },
    /// While the model warmed up, a batch of several rows ran too.
    WarmedUp {
        /// Units of the batch.
        units: u64,
        /// Its time.
        took: Micros,
    },
    /// The measurement that was asked for by [`Effect::Measure`] is done.
    Measured {
        /// Units that ran.
        units: u64,
        /// Their time.
        took: Micros,
    },
    /// The model cannot be loaded, or its device is gone. A batch that is out must still be reported as ended.
    EngineFailed,
    /// The node is to leave; said twice, fast.
    Leave,
    /// Time went by.
    Tick,
}

/// Where a job was computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placed {
    /// On this node.
    Here,
    /// On that peer, by that placement.
    Away(NodeId, Attempt),
    /// The call was cut: where each chunk was computed was said when that ended.
    InChunks,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// With vectors.
    Done {
        /// From where.
        placed: Placed,
    },
    /// The caller has to change the request.
    Rejected {
        /// Who says so.
        placed: Placed,
    },
    /// The model failed.
    EngineFailed(EngineFault),
    /// All nodes are too busy. Nothing ran.
    Overloaded {
        /// When to come back.
        retry_after: Micros,
    },
    /// No node can compute it.
    Unavailable {
        /// When to come back.
        retry_after: Micros,
    },
    /// Its deadline passed, or it came to the device too late to meet it while others waited.
    Expired,
    /// The job of a peer is not taken.
    Refused(Refusal),
}

/// Something to do.
///
/// What is said of a job is said of each chunk too: it is run, sent away and finished under its own number. The end of
/// its call comes after those of its chunks; chunks that did not end before are over with it, or with the caller that
/// left, and nothing more is said of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Give these rows to the device, as one batch.
    Run {
        /// Its number.
        batch: BatchId,
        /// Its rows.
        rows: Vec<RowRef>,
    },
    /// These texts of a call are a job of their own from now on, whose rows count from 0.
    Cut {
        /// The call.
        call: JobId,
        /// The job.
        chunk: JobId,
        /// Positions of the texts in the call.
        rows: Range<u32>,
    },
    /// Send the job to a peer.
    Forward {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
        /// Where.
        peer: NodeId,
        /// The completion here, which the peer has to beat; `None` = it has to take the job if it can.
        bound: Option<Micros>,
        /// Time that the peer is given. For a chunk that is as long as its call had when it came, so that it takes its
        /// turn there as it does here; that the call's own time is over, this node notices.
        remaining: Micros,
        /// Another placement of the job stands beside this one.
        hedge: bool,
    },
    /// The peer's answer to this placement is of no use any more: tell it to stop.
    Abandon {
        /// The job.
        job: JobId,
        /// Which placement of it.
        attempt: Attempt,
    },
    /// The job of a peer is held here: acknowledge it, with this load.
    Acknowledge {
        /// The job.
        job: JobId,
        /// The load, the job included.
        report: Report,
    },
    /// The job ended; nothing more will be said of it.
    Finish {
        /// The job.
        job: JobId,
        /// How.
        outcome: Outcome,
        /// How often it was placed.
        placements: u8,
        /// Why it went where it went, if that was asked for.
        explanation: Option<Box<Explanation>>,
    },
    /// Run one small inference on the idle device, to see how fast it is now.
    Measure,
    /// Run the canary as soon as the device is free, before the next batch.
    Canary,
    /// Ask a peer whether it is there.
    Ping {
        /// Who.
        peer: NodeId,
    },
    /// Gossip this load and the states of engine and door.
    Publish {
        /// The load.
        report: Report,
    },
    /// Take no new connection.
    StopAccepting,
    /// End the process.
    Exit,
}
