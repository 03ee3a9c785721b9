//! What the machine hears and what it asks for. Both lists are closed.
//!
//! For the shell and the simulator. Ids only: texts and vectors stay with whoever drives the machine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::explain::Explanation;
use crate::admission::AdmissionRules;
use crate::affinity::{AffinityRules, OwnerTable};
use crate::batch::BatchRules;
use crate::budget::BudgetRules;
use crate::heat::HeatRules;
use crate::id::{Attempt, BatchId, JobId, NodeId, RowRef};
use crate::lifecycle::DrainRules;
use crate::load::{DeviceLoad, Report};
use crate::peers::{PeerFacts, PeerRules, Word};
use crate::retry::RetryRules;
use crate::route::{RouteRules, WEIGHT_DEFAULT};
use crate::share::Share;
use crate::time::{Micros, MonoTime};

/// All settings of the decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What this node is among the others.
    pub own: OwnRules,
    /// What is held.
    pub admission: AdmissionRules,
    /// What runs together.
    pub batch: BatchRules,
    /// When a job moves.
    pub route: RouteRules,
    /// How often a job is placed.
    pub retry: RetryRules,
    /// Extra work that placing again may cause; `None` = any.
    pub retry_budget: Option<RetryBudget>,
    /// When a peer is left alone, and how much it is believed.
    pub peers: PeerRules,
    /// When this node is hot; `None` = never.
    pub heat: Option<HeatRules>,
    /// How far the owner of a session may be above the mean.
    pub affinity: AffinityRules,
    /// When a late job is placed a second time; `None` = never.
    pub hedge: Option<HedgeRules>,
    /// When this node suspects itself; `None` = never.
    pub pulse: Option<PulseRules>,
    /// How a node leaves.
    pub drain: DrainRules,
    /// When load is gossiped.
    pub publish: PublishRules,
    /// How long a peer may take to acknowledge a job.
    pub accept_limit: AcceptLimit,
    /// When an idle node looks how fast it is.
    pub measure: MeasureRules,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            own: OwnRules::default(),
            admission: AdmissionRules::default(),
            batch: BatchRules::default(),
            route: RouteRules::default(),
            retry: RetryRules::default(),
            retry_budget: Some(RetryBudget::default()),
            peers: PeerRules::default(),
            heat: Some(HeatRules::default()),
            affinity: AffinityRules::default(),
            hedge: Some(HedgeRules::default()),
            pulse: Some(PulseRules::default()),
            drain: DrainRules::default(),
            publish: PublishRules::default(),
            accept_limit: AcceptLimit::default(),
            measure: MeasureRules::default(),
        }
    }
}

/// What this node is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRules {
    /// How much work it should get: 100 is normal; 0 is none, not even that of its own callers.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
}

impl Default for OwnRules {
    fn default() -> Self {
        Self { weight: WEIGHT_DEFAULT, backup: false }
    }
}

/// Extra work that placing again may cause. What a peer's death causes is not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget(pub BudgetRules);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(BudgetRules { percent: 20, per_second: 10 })
    }
}

/// When a late job of a caller is placed a second time, while the first placement stands; the first answer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HedgeRules {
    /// What may be spent on it.
    pub budget: BudgetRules,
    /// A job is late when it takes longer than this quantile of the jobs before, measured against their estimates;
    /// thousandths.
    pub quantile_permille: u32,
    /// Never before so long.
    pub after_min: Micros,
    /// Not while more than this part of the devices is in use.
    pub load_max: Share,
}

impl Default for HedgeRules {
    fn default() -> Self {
        Self {
            budget: BudgetRules { percent: 2, per_second: 0 },
            quantile_permille: 950,
            after_min: Micros::from_ms(10),
            load_max: Share::percent(70),
        }
    }
}

/// When this node suspects that not the others are silent but it did not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseRules {
    /// It stood still when its own ticks are later than this.
    pub late_max: Micros,
    /// So long it calls nobody dead or silent after that; then it believes its ears for at least as long.
    pub doubt: Micros,
}

impl Default for PulseRules {
    fn default() -> Self {
        Self { late_max: Micros::from_ms(200), doubt: Micros::from_ms(500) }
    }
}

/// When load is gossiped: on a change, but not too often, and at least now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRules {
    /// Never more often.
    pub interval_min: Micros,
    /// Never less often.
    pub interval_max: Micros,
    /// Least change that is worth a word.
    pub change_min: Micros,
    /// Least change in percent.
    pub change_percent: u64,
}

impl Default for PublishRules {
    fn default() -> Self {
        Self {
            interval_min: Micros::from_ms(200),
            interval_max: Micros::from_ms(1000),
            change_min: Micros::from_ms(5),
            change_percent: 10,
        }
    }
}

/// When an idle node looks how fast it is.
///
/// A node that seems slow hands all work on, and without work it would never learn that it is not slow, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasureRules {
    /// Time since the last batch or measurement.
    pub interval: Micros,
    /// It looks only while a batch here seems to take more than so many percent of one at the fastest peer.
    pub slower_percent: u64,
}

impl Default for MeasureRules {
    fn default() -> Self {
        Self { interval: Micros::from_ms(1000), slower_percent: 120 }
    }
}

/// How long a peer may take to acknowledge a job before it counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptLimit(pub Micros);

impl Default for AcceptLimit {
    fn default() -> Self {
        Self(Micros::from_ms(300))
    }
}

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
    /// A number never used before.
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
    /// The deadline passed there.
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

/// What the engine's canary says: an inference whose answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CanaryVerdict {
    /// The answer was right, and in time.
    Passed,
    /// It was wrong, or did not come.
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
    },
    /// All peers that gossip knows, this node left out.
    Membership(Vec<PeerFacts>),
    /// Who owns which session, made again whenever the ready nodes changed.
    Owners(OwnerTable),
    /// What the probes say of this node's device, or of its share of the machine.
    Probed(DeviceLoad),
    /// So much later than it should have, the gossip thread came to its turn.
    Pulse {
        /// How late.
        late: Micros,
    },
    /// The canary ran.
    Canary(CanaryVerdict),
    /// The model is loaded and its first inference of `units` took `took`.
    EngineReady {
        /// Units of the first inference.
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
    /// Its deadline passed.
    Expired,
    /// The job of a peer is not taken.
    Refused(Refusal),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Give these rows to the device, as one batch.
    Run {
        /// Its number.
        batch: BatchId,
        /// Its rows.
        rows: Vec<RowRef>,
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
        /// Time left.
        remaining: Micros,
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
