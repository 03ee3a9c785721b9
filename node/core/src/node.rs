//! The whole machine of one node: events in, effects out.
//!
//! For the shell, which performs the effects with real sockets, and for the simulator, which invents both sides.
//! [`Node::step`] sees lifecycle events only: never texts, vectors or bytes of a body.
//! Invariants: every job that arrived ends by exactly one [`Effect::Finish`], or by the caller leaving; a job that came
//! from a peer is computed here or refused, never forwarded nor cut; what is held never exceeds the admission limits;
//! no answer to a placement that was given up counts. Held by `node/core/tests/machine` and by the simulator.

mod call;
mod canary;
mod compute;
mod doubt;
mod event;
mod explain;
mod hedge;
mod job;
mod occupancy;
mod place;
mod rebalance;
mod rules;

pub use canary::Wedge;
pub use event::{
    Arrival, CanaryVerdict, Effect, EngineFault, Input, Outcome, Placed, Refusal, RowVerdict, Source, Verdict,
};
pub use explain::{Decision, Explanation, NodeOption, OPTIONS_MAX, Reason};
pub use rules::{
    AcceptLimit, CanaryRules, HedgeRules, MeasureRules, OwnRules, PublishRules, PulseRules, RebalanceRules,
    RetryBudget, Rules,
};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admission::Held;
use crate::affinity::OwnerTable;
use crate::breaker::Breaker;
use crate::budget::Budget;
use crate::cost::{Alike, Cost, CostModel};
use crate::heat::{self, Heat};
use crate::id::{BatchId, BootId, JobId, NodeId};
use crate::lifecycle::{self, DoorSignal, DoorState, EngineState, Standing};
use crate::load::{DeviceLoad, Report};
use crate::peers::{PeerView, Peers, Word};
use crate::prng::Prng;
use crate::queue::{Pulled, Queue};
use crate::retry::Cause;
use crate::share::Share;
use crate::stretch::Stretch;
use crate::tally::{Rule, Tally};
use crate::time::{Micros, MonoTime};
use call::Call;
use canary::Canary;
use doubt::Lag;
use hedge::Lateness;
use job::Job;
use occupancy::Occupancy;

/// The decisions of one node, as one value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    id: NodeId,
    boot: BootId,
    rules: Rules,
    prng: Prng,
    engine: EngineState,
    door: DoorState,
    /// What is placed: calls, jobs of peers, chunks.
    jobs: BTreeMap<JobId, Job>,
    /// Calls that were cut, which are not among the jobs.
    calls: BTreeMap<JobId, Call>,
    /// Those of them that may go on; empty between steps.
    calls_moved: Vec<JobId>,
    /// Jobs that are chunks.
    chunks: u32,
    chunks_made: u64,
    bytes_held: u64,
    /// Jobs whose rows wait or run here.
    here: u32,
    /// Those of them that callers of this node sent.
    here_mine: u32,
    /// Jobs that wait for a node to start.
    waiting: u32,
    /// Before this moment no job is late.
    due: MonoTime,
    queue: Queue,
    running: Vec<Running>,
    batches: u64,
    cost: CostModel,
    /// The peers that are as fast as this node, as far as it can tell, and when it looked.
    alike: Alike,
    alike_at: MonoTime,
    /// When the last batch of which the cost was learned began, or a measurement of it ended.
    learned: MonoTime,
    /// When the cost was last observed or asked for.
    measured: MonoTime,
    /// The last measurement was quicker than what had been learned.
    quicker_than_believed: bool,
    /// Units of the first inference, which a measurement repeats.
    measure_units: u64,
    canary: Canary,
    stretch: Stretch,
    /// What this node's own model was to blame for.
    own_errors: Breaker,
    device: DeviceLoad,
    occupancy: Occupancy,
    heat: Heat,
    peers: Peers,
    owners: OwnerTable,
    retries: Budget,
    hedges: Budget,
    lateness: Lateness,
    stepped: Option<MonoTime>,
    ticked: Option<MonoTime>,
    lag: Lag,
    /// When it stood still last.
    stood_still: Option<MonoTime>,
    /// This node stood still, and until then it calls nobody dead or silent.
    doubt_until: Option<MonoTime>,
    /// Before this moment it does not suspect itself again: a node that is always late would never notice silence.
    sure_until: MonoTime,
    /// Choices so far.
    turn: u64,
    report_seq: u64,
    published: Option<(Report, MonoTime)>,
    tally: Tally,
}

/// A batch on the device.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Running {
    batch: BatchId,
    rows: Vec<Pulled>,
    units: u64,
    started: MonoTime,
}

/// Numbers of one moment, for metrics and for people. All but `wait`, `hot` and `load` are zero at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Jobs held: queued, running, forwarded. A call that was cut is one.
    pub jobs: u32,
    /// Bytes held.
    pub bytes: u64,
    /// Rows that wait for the device.
    pub queue_rows: u64,
    /// Jobs that are on a peer, each chunk of a call on its own.
    pub forwards: u32,
    /// Units that were sent to a peer which did not acknowledge them yet.
    pub unacknowledged: u64,
    /// Time until a new job would start here.
    pub wait: Micros,
    /// This node is above the bound of the 75 % rule.
    pub hot: bool,
    /// Part of this node that the 75 % rule looks at.
    pub load: Share,
}

impl Node {
    /// A node that starts: its engine loads, it knows no peer, its door is open. `seed` fixes all chance.
    #[must_use]
    pub fn new(id: NodeId, boot: BootId, rules: Rules, seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        // So that nodes which take turns do not all begin with the same one.
        let turn = prng.next_u64() >> 32;
        let retries = Budget::new(&rules.retry_budget.unwrap_or_default().0);
        let hedges = Budget::new(&rules.hedge.unwrap_or_default().budget);
        Self {
            id,
            boot,
            peers: Peers::new(rules.peers.clone()),
            rules,
            prng,
            engine: EngineState::Starting,
            door: DoorState::Open,
            jobs: BTreeMap::new(),
            calls: BTreeMap::new(),
            calls_moved: Vec::new(),
            chunks: 0,
            chunks_made: 0,
            bytes_held: 0,
            here: 0,
            here_mine: 0,
            waiting: 0,
            due: MonoTime::START,
            queue: Queue::default(),
            running: Vec::new(),
            batches: 0,
            cost: CostModel::default(),
            alike: Alike::default(),
            alike_at: MonoTime::START,
            learned: MonoTime::START,
            measured: MonoTime::START,
            quicker_than_believed: false,
            measure_units: 1,
            canary: Canary::default(),
            stretch: Stretch::default(),
            own_errors: Breaker::default(),
            device: DeviceLoad::default(),
            occupancy: Occupancy::default(),
            heat: Heat::default(),
            owners: OwnerTable::default(),
            retries,
            hedges,
            lateness: Lateness::default(),
            stepped: None,
            ticked: None,
            lag: Lag::default(),
            stood_still: None,
            doubt_until: None,
            sure_until: MonoTime::START,
            turn,
            report_seq: 0,
            published: None,
            tally: Tally::default(),
        }
    }

    /// Takes one event at `now` and appends what is to be done to `effects`.
    ///
    /// Caller's promises: `now` never goes back; job ids are never used twice; each [`Effect::Run`] is followed by one
    /// `BatchDone` or `BatchFailed` of its batch, each [`Effect::Canary`] by one `Canary`, unless the device hangs;
    /// `Tick` comes at least every 100 ms.
    pub fn step(&mut self, now: MonoTime, input: Input, effects: &mut Vec<Effect>) {
        self.mind_the_gap(now);
        match input {
            Input::Arrived(arrival) => self.on_arrived(now, arrival, effects),
            Input::Left { job } => self.on_left(now, job, effects),
            Input::BatchDone { batch, took, rows } => self.on_batch_done(now, batch, took, &rows, effects),
            Input::BatchFailed { batch } => self.on_batch_failed(now, batch, effects),
            Input::Flushed { job, attempt } => self.on_flushed(now, job, attempt),
            Input::Accepted { job, attempt, peer, word } => {
                let is_news = self.heard(now, &peer, word);
                self.on_accepted(job, attempt, &peer, word);
                if is_news {
                    self.rebalance(now, &peer, effects);
                }
            }
            Input::Answered { job, attempt, peer, word, verdict } => {
                let is_news = self.heard(now, &peer, word);
                self.on_answered(now, job, attempt, verdict, effects);
                if is_news {
                    self.rebalance(now, &peer, effects);
                }
            }
            Input::Refused { job, attempt, peer, word, refusal } => {
                let is_news = self.heard(now, &peer, word);
                self.on_refused(now, job, attempt, refusal, effects);
                if is_news {
                    self.rebalance(now, &peer, effects);
                }
            }
            Input::Broke { job, attempt, peer: _ } => self.on_broke(now, (job, attempt), effects),
            Input::Heard { peer, word } => {
                let is_news = self.peers.on_pong(now, &peer, word, &mut self.tally);
                self.place_waiting(now, effects);
                if is_news {
                    self.rebalance(now, &peer, effects);
                }
            }
            Input::Called { peer, word } => self.peers.on_called(now, &peer, word, &mut self.tally),
            // Under doubt, who knows whether the peer was silent or this node deaf.
            Input::PingFailed { .. } if self.in_doubt(now) => {}
            Input::PingFailed { peer, broke } => {
                self.peers.on_ping_failed(now, &peer, broke, (&mut self.prng, &mut self.tally));
            }
            Input::Parted { peer } => {
                if self.peers.on_parted(now, &peer) {
                    self.tally.count(Rule::PingedAfterEnd);
                    effects.push(Effect::Ping { peer });
                }
            }
            Input::Membership(members) => {
                self.peers.on_membership(now, members, self.doubt_until.is_some(), &mut self.tally);
                self.place_waiting(now, effects);
            }
            Input::Owners(owners) => self.owners = owners,
            Input::Probed(device) => self.device = device,
            Input::Pulse { late } => self.on_pulse(now, late),
            Input::Canary(verdict) => self.on_canary(now, verdict, effects),
            Input::WarmedUp { units, took } => self.learn_cost(now, now, units, took),
            Input::Measured { units, took } => self.on_measured(now, units, took),
            Input::EngineReady { units, took } => {
                self.engine = EngineState::Ready;
                self.measure_units = units;
                self.canary.on_loaded(now);
                self.learn_cost(now, now, units, took);
                self.publish(now, effects);
                self.place_waiting(now, effects);
            }
            Input::EngineFailed => self.lose_engine(now, EngineState::Failed, effects),
            Input::Leave => {
                self.move_door(now, DoorSignal::Leave, effects);
                self.publish(now, effects);
            }
            Input::Tick => self.on_tick(now, effects),
        }
        self.end_what_would_be_late(now, effects);
        self.go_on_with_calls(now, effects);
        self.ask_canary_if_due(now, effects);
        self.pull(now, effects);
    }

    /// This node's load as of `now`. Each call counts as one report, so the newest one always wins at the receiver.
    pub fn report(&mut self, now: MonoTime) -> Report {
        self.report_seq += 1;
        Report {
            boot: self.boot,
            seq: self.report_seq,
            wait: self.wait_here(now),
            cost: self.cost_told(),
            standing: self.standing(),
            held: self.here,
            slots: self.rules.batch.slots.max(1),
            busy: self.device.busy,
            memory: self.device.memory,
        }
        .believable()
    }

    /// What is held and how long a new job would wait.
    #[must_use]
    pub fn gauges(&self, now: MonoTime) -> Gauges {
        let away = self.jobs.values().filter(|job| job.is_away()).count();
        Gauges {
            jobs: self.held().jobs,
            bytes: self.bytes_held,
            queue_rows: self.queue.rows(),
            forwards: count_u32(away),
            unacknowledged: self.peers.units_unacknowledged(),
            wait: self.wait_here(now),
            hot: self.heat.is_hot(),
            load: self.load_hot(),
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

    /// What this node says of itself to its peers.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing::of(self.engine, self.door)
    }

    /// Each peer as this node sees it.
    pub fn peers(&self, now: MonoTime) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.iter(now)
    }

    /// Whether gossip calls so many peers dead that pings are believed instead.
    #[must_use]
    pub fn panics(&self) -> bool {
        self.peers.panics()
    }

    /// Whether an answer can be given now, here or through a peer.
    #[must_use]
    pub fn can_answer(&self, now: MonoTime) -> bool {
        self.can_compute() || self.peers.any(now)
    }

    /// How often each rule decided something, by name.
    pub fn exercised(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.tally.iter()
    }

    /// The engine is ready, and this node is meant to compute.
    fn can_compute(&self) -> bool {
        self.engine == EngineState::Ready && 0 < self.rules.own.weight
    }

    /// A call counts once, however many chunks of it there are.
    fn held(&self) -> Held {
        let jobs = count_u32(self.jobs.len() + self.calls.len()) - self.chunks;
        Held { jobs, bytes: self.bytes_held }
    }

    /// Returns whether the peer said something new of its load.
    fn heard(&mut self, now: MonoTime, peer: &NodeId, word: Word) -> bool {
        self.peers.on_heard(now, peer, word, &mut self.tally)
    }

    fn cost_here(&self) -> Cost {
        self.alike.cost_of(self.cost_told())
    }

    /// What this node learned of itself.
    fn cost_told(&self) -> Cost {
        self.cost.cost().unwrap_or_default()
    }

    /// How much of the device is in use: what the probe says, else what was measured here.
    fn load(&self) -> Share {
        self.device.busy.unwrap_or_else(|| self.occupancy.share())
    }

    /// The part of this node that the 75 % rule looks at: device or memory, whichever is fuller.
    fn load_hot(&self) -> Share {
        self.load().max(self.device.memory.unwrap_or_default())
    }

    fn lose_engine(&mut self, now: MonoTime, engine: EngineState, effects: &mut Vec<Effect>) {
        self.engine = engine;
        self.publish(now, effects);
        self.leave_device(now, effects);
        self.place_waiting(now, effects);
    }

    fn on_tick(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        self.mind_the_ticks(now);
        let mut pings = Vec::new();
        self.peers.on_tick(now, &mut pings, (&mut self.prng, &mut self.tally));
        effects.extend(pings.into_iter().map(|peer| Effect::Ping { peer }));
        self.look_who_is_alike(now);
        self.mind_heat(now);
        self.mind_canary(now, effects);
        self.end_what_is_late(now, effects);
        self.place_waiting(now, effects);
        self.ask_for_what_waits(now, effects);
        self.move_door(now, DoorSignal::Tick { idle: self.jobs.is_empty() && self.calls.is_empty() }, effects);
        self.publish_if_due(now, effects);
        self.measure_if_due(now, effects);
    }

    /// Looks whether this node is hot.
    fn mind_heat(&mut self, now: MonoTime) {
        self.note_use(now);
        let Some(rules) = self.rules.heat else { return };
        let before = self.heat;
        self.heat = heat::step(now, &rules, before, Some(self.load_hot()), self.prng.next_u64());
        if self.heat.is_hot() && !before.is_hot() {
            self.tally.count(Rule::BecameHot);
        }
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
            self.go_on_with_calls(now, effects);
            effects.push(Effect::Exit);
        }
    }

    /// The drain took too long: what is still held is told so, instead of a connection that breaks.
    fn end_everything(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let held: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in held {
            match self.jobs[&id].source {
                Source::Caller => self.give_up(now, id, effects),
                Source::Peer { .. } => self.finish(now, id, Outcome::Refused(Refusal::Draining), effects),
            }
        }
    }

    /// Tries again to place what waits for this node, or a peer, to be able to compute.
    fn place_waiting(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        if self.waiting == 0 {
            return;
        }
        let waiting = self.jobs.iter().filter(|(_, job)| job.waiting);
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.place(now, id, Cause::New, effects);
            // Where one chunk can go, the next ones can. While it waits, they would wait beside it.
            if let Some(part) = self.jobs.get(&id).filter(|job| !job.is_nowhere()).and_then(|job| job.part) {
                self.call_moved(part.of);
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
        let moved =
            rules.change_min.max(old.percent(rules.change_percent)) < change || told.held.abs_diff(self.here) > 1;
        if rules.interval_max <= age || (moved && rules.interval_min <= age) {
            self.publish(now, effects);
        }
    }
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
