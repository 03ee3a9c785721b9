//! The whole machine of one node: events in, effects out.
//!
//! For the shell, which performs the effects with real sockets, and for the simulator, which invents both sides.
//! [`Node::step`] sees lifecycle events only: never texts, vectors or bytes of a body.
//! Invariants: every job that arrived ends by exactly one [`Effect::Finish`], or by the caller leaving; a job that came
//! from a peer is computed here or refused, never forwarded; what is held never exceeds the admission limits; no answer
//! to an earlier placement of a job counts. Held by `node/core/tests/machine.rs`.

mod compute;
mod event;
mod place;

pub use event::{
    AcceptLimit, Arrival, Effect, EngineFault, Input, MeasureRules, Outcome, Placed, PublishRules, Refusal, RowVerdict,
    Rules, Source, Verdict,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::admission::Held;
use crate::cost::{Cost, CostModel};
use crate::gate::{Gate, Signal};
use crate::id::{Attempt, BatchId, BootId, JobId, NodeId};
use crate::lifecycle::{self, DoorSignal, DoorState, EngineState};
use crate::load::Report;
use crate::peers::{Peers, Word};
use crate::prng::Prng;
use crate::queue::{Pulled, Queue};
use crate::retry::History;
use crate::time::{Micros, MonoTime};

/// The decisions of one node, as one value.
#[derive(Debug)]
pub struct Node {
    boot: BootId,
    rules: Rules,
    prng: Prng,
    engine: EngineState,
    door: DoorState,
    jobs: BTreeMap<JobId, Job>,
    bytes_held: u64,
    queue: Queue,
    running: Option<Running>,
    batches: u64,
    cost: CostModel,
    /// When the cost was last observed or asked for.
    measured: MonoTime,
    /// Units of the first inference, which a measurement repeats.
    measure_units: u64,
    peers: Peers,
    report_seq: u64,
    published: Option<(Report, MonoTime)>,
}

/// One call that is held.
#[derive(Debug)]
struct Job {
    source: Source,
    units: Arc<[u32]>,
    units_sum: u64,
    bytes: u64,
    arrived: MonoTime,
    deadline: MonoTime,
    history: History,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nowhere: only while a step decides.
    Arriving,
    /// Nowhere: this node starts, and knows no peer yet that can compute.
    Waiting,
    /// Its rows wait or run on this node.
    Here { rows_done: usize },
    /// On a peer.
    Away { peer: NodeId, attempt: Attempt, sent: MonoTime, accepted: bool },
}

/// The batch on the device.
#[derive(Debug)]
struct Running {
    batch: BatchId,
    rows: Vec<Pulled>,
    units: u64,
    started: MonoTime,
}

/// Numbers of one moment, for metrics and for people. All but `wait` are zero at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Jobs held: queued, running, forwarded.
    pub jobs: u32,
    /// Bytes held.
    pub bytes: u64,
    /// Rows that wait for the device.
    pub queue_rows: u64,
    /// Jobs that are on a peer.
    pub forwards: u32,
    /// Forwards that no peer acknowledged yet.
    pub unacknowledged: u32,
    /// Time until a new job would start here.
    pub wait: Micros,
}

impl Node {
    /// A node that starts: its engine loads, it knows no peer, its door is open. `seed` fixes all chance.
    #[must_use]
    pub fn new(boot: BootId, rules: Rules, seed: u64) -> Self {
        Self {
            boot,
            rules,
            prng: Prng::new(seed),
            engine: EngineState::Starting,
            door: DoorState::Open,
            jobs: BTreeMap::new(),
            bytes_held: 0,
            queue: Queue::default(),
            running: None,
            batches: 0,
            cost: CostModel::default(),
            measured: MonoTime::START,
            measure_units: 1,
            peers: Peers::default(),
            report_seq: 0,
            published: None,
        }
    }

    /// Takes one event at `now` and appends what is to be done to `effects`.
    ///
    /// Caller's promises: `now` never goes back; job ids are never used twice; each [`Effect::Run`] is followed by one
    /// `BatchDone` or `BatchFailed` of its batch; `Tick` comes at least every 100 ms.
    pub fn step(&mut self, now: MonoTime, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Arrived(arrival) => self.on_arrived(now, arrival, effects),
            Input::Left { job } => self.on_left(now, job, effects),
            Input::BatchDone { batch, took, rows } => self.on_batch_done(now, batch, took, &rows, effects),
            Input::BatchFailed { batch } => self.on_batch_failed(now, batch, effects),
            Input::Accepted { job, attempt, peer, word } => self.on_accepted(now, job, attempt, &peer, word),
            Input::Answered { job, attempt, peer, word, verdict } => {
                self.heard(now, &peer, word);
                self.on_answered(now, job, attempt, verdict, effects);
            }
            Input::Refused { job, attempt, peer, word, refusal } => {
                self.heard(now, &peer, word);
                self.on_refused(now, job, attempt, refusal, effects);
            }
            Input::Broke { job, attempt, peer } => self.on_broke(now, (job, attempt), &peer, Signal::Broke, effects),
            Input::Heard { peer, word } => self.heard(now, &peer, word),
            Input::PingFailed { peer } => self.peers.on_failed(now, &self.rules.gate, &peer, Signal::Silent),
            Input::Membership(members) => {
                self.peers.on_membership(now, members);
                self.place_waiting(now, effects);
            }
            Input::Measured { units, took } => {
                self.measured = now;
                self.cost.observe(units, took);
            }
            Input::EngineReady { units, took } => {
                self.engine = EngineState::Ready;
                (self.measured, self.measure_units) = (now, units);
                self.cost.observe(units, took);
                self.publish(now, effects);
                self.place_waiting(now, effects);
            }
            Input::EngineFailed => {
                self.engine = EngineState::Failed;
                self.publish(now, effects);
                self.leave_device(now, effects);
                self.place_waiting(now, effects);
            }
            Input::Leave => {
                self.move_door(now, DoorSignal::Leave, effects);
                self.publish(now, effects);
            }
            Input::Tick => self.on_tick(now, effects),
        }
        self.pull(now, effects);
    }

    /// This node's load as of `now`. Each call counts as one report, so the newest one always wins at the receiver.
    pub fn report(&mut self, now: MonoTime) -> Report {
        self.report_seq += 1;
        Report {
            boot: self.boot,
            seq: self.report_seq,
            wait: self.wait_here(now),
            cost: self.cost_here(),
            accepting: self.accepting(),
        }
    }

    /// What is held and how long a new job would wait.
    #[must_use]
    pub fn gauges(&self, now: MonoTime) -> Gauges {
        let away = self.jobs.values().filter(|job| matches!(job.phase, Phase::Away { .. })).count();
        Gauges {
            jobs: count_u32(self.jobs.len()),
            bytes: self.bytes_held,
            queue_rows: self.queue.rows(),
            forwards: count_u32(away),
            unacknowledged: count_u32(self.peers.unacknowledged()),
            wait: self.wait_here(now),
        }
    }

    /// What the engine can do.
    #[must_use]
    pub fn engine(&self) -> EngineState {
        self.engine
    }

    /// Whether callers are taken.
    #[must_use]
    pub fn door(&self) -> DoorState {
        self.door
    }

    /// Gate and newest report of each peer.
    pub fn peers(&self) -> impl Iterator<Item = (&NodeId, Gate, Option<Report>)> {
        self.peers.iter()
    }

    /// Whether an answer can be given now, here or through a peer.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        self.engine == EngineState::Ready || !self.peers.eligible(&[]).is_empty()
    }

    fn accepting(&self) -> bool {
        self.engine == EngineState::Ready && !self.door.draining()
    }

    fn held(&self) -> Held {
        Held { jobs: count_u32(self.jobs.len()), bytes: self.bytes_held }
    }

    fn heard(&mut self, now: MonoTime, peer: &NodeId, word: Word) {
        self.peers.on_heard(now, &self.rules.gate, peer, word);
    }

    fn cost_here(&self) -> Cost {
        self.cost.cost().unwrap_or_default()
    }

    fn on_tick(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        for peer in self.peers.on_tick(now, &self.rules.gate) {
            effects.push(Effect::Ping { peer });
        }
        self.end_what_is_late(now, effects);
        self.place_waiting(now, effects);
        self.move_door(now, DoorSignal::Tick { idle: self.jobs.is_empty() }, effects);
        self.publish_if_due(now, effects);
        self.measure_if_due(now, effects);
    }

    fn move_door(&mut self, now: MonoTime, signal: DoorSignal, effects: &mut Vec<Effect>) {
        let before = self.door;
        self.door = lifecycle::step(now, &self.rules.drain, before, signal);
        let taking = |door| matches!(door, DoorState::Open | DoorState::Settling { .. });
        if taking(before) && !taking(self.door) {
            effects.push(Effect::StopAccepting);
        }
        if self.door == DoorState::Closed && before != DoorState::Closed {
            self.end_everything(now, effects);
            effects.push(Effect::Exit);
        }
    }

    /// The drain took too long: what is still held is told so, instead of a connection that breaks.
    fn end_everything(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let held: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in held {
            match self.jobs[&id].source {
                Source::Caller => self.give_up(now, id, effects),
                Source::Peer { .. } => self.finish(id, Outcome::Refused(Refusal::Draining), effects),
            }
        }
    }

    fn publish(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let report = self.report(now);
        self.published = Some((report, now));
        effects.push(Effect::Publish { report });
    }

    fn publish_if_due(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let Some((told, at)) = self.published else { return self.publish(now, effects) };
        let rules = &self.rules.publish;
        let age = now.since(at);
        let (old, new) = (told.wait, self.wait_here(now));
        let change = old.max(new) - old.min(new);
        let moved = rules.change_min.max(old.percent(rules.change_percent)) < change;
        if rules.interval_max <= age || (moved && rules.interval_min <= age) {
            self.publish(now, effects);
        }
    }
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
