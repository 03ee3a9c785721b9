//! One node against a world that says anything in any order: sound news, late news, lies and nonsense.
//!
//! For `machine.rs`. After every event a model of what must be true is compared with the node. The caller's promises of
//! `Node::step` are kept (time goes on, job ids are new, a batch ends once); nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_core::admission::AdmissionRules;
use shoal_core::affinity::OwnerTable;
use shoal_core::batch::BatchRules;
use shoal_core::breaker::BreakerRules;
use shoal_core::budget::BudgetRules;
use shoal_core::cost::Cost;
use shoal_core::id::{Attempt, BatchId, BootId, JobId, NodeId, RowRef};
use shoal_core::lifecycle::{DoorState, Standing};
use shoal_core::load::{DeviceLoad, Report};
use shoal_core::node::{
    Arrival, CanaryVerdict, Effect, Gauges, HedgeRules, Input, Node, Outcome, Placed, Refusal, RetryBudget, RowVerdict,
    Rules, Source, Verdict,
};
use shoal_core::peers::{PeerFacts, Word};
use shoal_core::prng::Prng;
use shoal_core::route::Policy;
use shoal_core::share::Share;
use shoal_core::split::SplitRules;
use shoal_core::time::{Micros, MonoTime};

const EVENTS: usize = 300;
const JOBS_MAX: u32 = 12;
const BYTES_MAX: u64 = 3000;
const PLACEMENTS_MAX: u8 = 3;
/// Most chunks of one call at one node.
const CHUNKS_MAX: u32 = 2;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "never-a-member"];

/// What happened, so that a walk that walks nowhere is noticed.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn assert_all_happened(&self) {
        for (what, least) in [
            ("breaker_paused", 5),
            ("retry_denied", 50),
            ("panicked", 50),
            ("hedged", 50),
            ("slow_started", 50),
            ("rebalanced", 10),
        ] {
            let count = self.0.get(what).copied().unwrap_or(0);
            assert!(least <= count, "{what} decided only {count} times: {:?}", self.0);
        }
        let rare = [
            "hedge",
            "cut",
            "done in chunks",
            "chunk ended with its call",
            "canary",
            "run",
            "forward",
            "second placement",
            "third placement",
            "abandon",
            "acknowledge",
            "ping",
            "exit",
            "done here",
            "done away",
            "rejected",
            "engine failed",
            "overloaded",
            "unavailable",
            "expired",
            "refused",
            "left",
        ];
        for what in rare {
            let count = self.0.get(what).copied().unwrap_or(0);
            assert!(50 <= count, "{what} happened only {count} times, so little of it was tested: {:?}", self.0);
        }
    }
}

/// What a walk came to.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) seen: Seen,
    /// A hash of all effects, in order.
    pub(crate) digest: u64,
}

/// One walk. Panics with the seed and the event when something does not hold.
pub(crate) fn walk(seed: u64) -> Walked {
    let mut walk = Walk::new(seed);
    for _ in 0..EVENTS {
        walk.pass_time();
        let input = walk.any_input();
        walk.feed(input);
    }
    walk.settle();
    for (rule, count) in walk.node.exercised() {
        *walk.seen.0.entry(rule).or_default() += count;
    }
    Walked { seen: walk.seen, digest: walk.digest }
}

struct Walk {
    seed: u64,
    event: usize,
    chance: Prng,
    node: Node,
    now: MonoTime,
    jobs_made: u64,
    /// Jobs that arrived and did not end.
    live: BTreeMap<JobId, Live>,
    /// Jobs that ended or whose caller left.
    over: BTreeSet<JobId>,
    running: Vec<(BatchId, Vec<RowRef>)>,
    canary_is_out: bool,
    slots: usize,
    /// Gossip is always believed, so that a forward to whom it calls dead is a fault.
    believes_gossip: bool,
    members: BTreeMap<NodeId, PeerFacts>,
    /// Peers that were pinged, and did not answer yet.
    pinged: Vec<NodeId>,
    exits: u32,
    stopped: bool,
    seen: Seen,
    digest: u64,
}

/// What the model knows of a job.
#[derive(Debug, Default)]
struct Live {
    caller: bool,
    bytes: u64,
    deadline: MonoTime,
    /// Time that it had when it came.
    patience: Micros,
    rows: usize,
    /// Rows of it that were cut, and the chunks that did not end.
    cut: usize,
    open: BTreeSet<JobId>,
    /// The call that it is a chunk of.
    of: Option<JobId>,
    /// A chunk of it ended badly.
    failed: bool,
    /// The peers that have it: one, or two after a hedge.
    away: Vec<(Attempt, NodeId)>,
    visited: BTreeSet<NodeId>,
    ran_here: BTreeMap<u32, u32>,
    busy_refused: bool,
    acknowledged: bool,
    /// It was seen at two nodes at a time.
    hedged: bool,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let admission = AdmissionRules { jobs_max: JOBS_MAX, bytes_max: BYTES_MAX, ..AdmissionRules::default() };
        let slots = if seed.is_multiple_of(3) { 3 } else { 1 };
        let batch = BatchRules { slots, ..BatchRules::default() };
        let mut rules = Rules { admission, batch, ..Rules::default() };
        let believes_gossip = seed.is_multiple_of(2);
        if believes_gossip {
            (rules.pulse, rules.peers.panic_percent) = (None, 0);
        }
        // The walk is short and hostile: with the usual budget hardly any job would be hedged.
        rules.hedge = Some(HedgeRules {
            budget: BudgetRules { percent: 100, per_second: 10 },
            load_max: Share::FULL,
            ..HedgeRules::default()
        });
        rules.split = match seed % 4 {
            0 => None,
            // A row or two each, so that there are many.
            _ => Some(SplitRules { chunk_time: Micros::from_ms(6), per_node_max: CHUNKS_MAX, open_max: 8 }),
        };
        if seed.is_multiple_of(5) {
            rules.retry_budget = Some(RetryBudget(BudgetRules { percent: 0, per_second: 1 }));
        }
        if seed % 5 < 2 {
            rules.peers.breaker = Some(BreakerRules { request_volume: 1, ..BreakerRules::default() });
        }
        let number = usize::try_from(seed).expect("a small seed");
        rules.route.policy = if seed % 4 < 2 { Policy::Adaptive } else { Policy::ALL[number / 4 % Policy::ALL.len()] };
        Self {
            seed,
            event: 0,
            chance: Prng::new(seed ^ 0x5eed),
            node: Node::new(super::id("here"), BootId(1), rules, seed),
            now: MonoTime::START,
            jobs_made: 0,
            live: BTreeMap::new(),
            over: BTreeSet::new(),
            running: Vec::new(),
            canary_is_out: false,
            slots: slots as usize,
            believes_gossip,
            members: BTreeMap::new(),
            pinged: Vec::new(),
            exits: 0,
            stopped: false,
            seen: Seen::default(),
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.chance.below(count) == 0
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.chance.below(of.len())].clone()
    }

    fn pass_time(&mut self) {
        let micros_max = if self.one_in(20) { 900_000 } else { 12_000 };
        self.now = self.now + Micros::new(self.chance.below(micros_max) as u64);
    }

    // What the world may say.

    fn any_input(&mut self) -> Input {
        if !self.pinged.is_empty() && self.one_in(4) {
            return self.answer_to_a_ping();
        }
        match self.chance.below(100) {
            0..22 => self.any_arrival(),
            22..40 => self.end_of_batch(),
            40..66 => self.news_of_a_peer(),
            66..70 => Input::Left { job: self.any_job() },
            70..72 => Input::Heard { peer: self.any_peer(), word: self.any_word() },
            72..74 => Input::Called { peer: self.any_peer(), word: self.any_word() },
            74..76 => Input::PingFailed { peer: self.any_peer(), broke: self.one_in(2) },
            76..82 => self.any_membership(),
            82 if self.one_in(2) => Input::Measured { units: 1, took: Micros::from_ms(self.chance.below(50) as u64) },
            83 if self.one_in(2) => Input::EngineReady { units: 1, took: Micros::from_ms(5) },
            84 if self.one_in(3) => Input::EngineFailed,
            86 => Input::Canary(self.one_of(&[CanaryVerdict::Passed, CanaryVerdict::Failed])),
            87 => Input::Pulse { late: Micros::from_ms(self.one_of(&[0, 150, 250, u64::MAX])) },
            88 => Input::Probed(DeviceLoad {
                busy: Some(Share::percent(self.one_of(&[0, 70, 80, 255]))).filter(|_| !self.one_in(3)),
                memory: None,
            }),
            89 => Input::Owners(self.any_owners()),
            90..92 => Input::Parted { peer: self.any_peer() },
            85 if self.one_in(6) => Input::Leave,
            _ => Input::Tick,
        }
    }

    /// Mostly of an idle peer, so that what waits here moves.
    fn answer_to_a_ping(&mut self) -> Input {
        let peer = self.pinged.swap_remove(self.chance.below(self.pinged.len()));
        let word = self.any_word();
        let idle = |report| Report { wait: Micros::ZERO, standing: Standing::Ready, slots: 1, ..report };
        let report = if self.one_in(4) { word.report } else { word.report.map(idle) };
        Input::Heard { peer, word: Word { report, ..word } }
    }

    /// Owners of sessions: members, this node, and some that are none.
    fn any_owners(&mut self) -> OwnerTable {
        let nodes: Vec<NodeId> = NAMES.iter().copied().chain(["here"]).map(super::id).collect();
        let parts = (0..4u16).map(|part| vec![part, 5, (part + 1) % 5]).collect();
        OwnerTable::new(nodes, parts).expect("three different nodes a part")
    }

    fn any_arrival(&mut self) -> Input {
        self.jobs_made += 1;
        let rows = if self.one_in(4) { 1 + self.chance.below(40) } else { 1 + self.chance.below(6) };
        let units: Vec<u32> = (0..rows).map(|_| self.one_of(&[0, 1, 1, 2, 5, 40, u32::MAX])).collect();
        // Mostly sound texts: with a job of 2^32 units in the queue nothing else has hope.
        let units = if self.one_in(30) { units } else { units.into_iter().map(|units| units.min(5)).collect() };
        let bound = self.one_of(&[None, Some(0), Some(20_000), Some(900_000), Some(u64::MAX)]).map(Micros::new);
        let source = if self.one_in(3) { Source::Peer { bound } } else { Source::Caller };
        let left_ms =
            if self.one_in(8) { self.one_of(&[0, 5, 50]) } else { self.one_of(&[300, 3000, 30_000, u64::MAX]) };
        let bytes =
            if self.one_in(8) { self.one_of(&[2900, BYTES_MAX + 1, u64::MAX]) } else { self.one_of(&[0, 10, 400]) };
        let deadline = self.now + Micros::from_ms(left_ms);
        let session = if self.one_in(4) { Some(self.chance.next_u64()) } else { None };
        let (client, explain) = (self.chance.next_u64(), self.one_in(4));
        let (job, units) = (JobId(self.jobs_made), Arc::from(units));
        Input::Arrived(Arrival { job, source, units, bytes, deadline, client, session, explain })
    }

    fn end_of_batch(&mut self) -> Input {
        if self.running.is_empty() {
            return Input::Tick;
        }
        let (batch, rows) = self.one_of(&self.running.clone());
        if self.one_in(6) {
            return Input::BatchFailed { batch };
        }
        let verdicts = [RowVerdict::Done; 7].into_iter().chain([RowVerdict::Rejected, RowVerdict::Failed]);
        let verdicts: Vec<RowVerdict> = verdicts.collect();
        let rows = rows.iter().map(|_| self.one_of(&verdicts)).collect();
        let took = self.one_of(&[0, 1_000, 9_000, 20_000, 400_000]);
        Input::BatchDone { batch, took: Micros::new(took), rows }
    }

    /// News of a placement: mostly of one that is current, else of any.
    fn news_of_a_peer(&mut self) -> Input {
        let away: Vec<(JobId, Attempt, NodeId)> = self
            .live
            .iter()
            .flat_map(|(&job, live)| live.away.iter().cloned().map(move |(attempt, peer)| (job, attempt, peer)))
            .collect();
        let (job, attempt, peer) = if away.is_empty() || self.one_in(4) {
            let attempt = self.one_of(&[0, 1, 2, 3, 255]);
            let job = self.any_job();
            // Lies about who speaks are the shell's to prevent: it knows which connection a message came by.
            let mut away = self.live.get(&job).into_iter().flat_map(|live| live.away.clone());
            match away.find(|(current, _)| current.0 == attempt) {
                Some((current, peer)) => (job, current, peer),
                None => (job, Attempt(attempt), self.any_peer()),
            }
        } else {
            self.one_of(&away)
        };
        let word = self.any_word();
        match self.chance.below(6) {
            0 => Input::Accepted { job, attempt, peer, word },
            5 => Input::Flushed { job, attempt },
            1 => {
                let verdicts = [Verdict::Done, Verdict::Done, Verdict::Rejected, Verdict::Failed, Verdict::Expired];
                Input::Answered { job, attempt, peer, word, verdict: self.one_of(&verdicts) }
            }
            2 | 3 => {
                let refusals = [Refusal::Busy, Refusal::Full, Refusal::Draining, Refusal::Unable];
                Input::Refused { job, attempt, peer, word, refusal: self.one_of(&refusals) }
            }
            _ => Input::Broke { job, attempt, peer },
        }
    }

    fn any_job(&mut self) -> JobId {
        let live: Vec<JobId> = self.live.keys().copied().collect();
        if !live.is_empty() && self.one_in(3) {
            return self.one_of(&live);
        }
        JobId(self.chance.below(2 + usize::try_from(self.jobs_made).expect("few")) as u64)
    }

    fn any_peer(&mut self) -> NodeId {
        super::id(NAMES[self.chance.below(NAMES.len())])
    }

    fn any_word(&mut self) -> Word {
        let report = (!self.one_in(3)).then(|| self.any_report());
        let rtt = if self.one_in(2) { Some(Micros::new(self.one_of(&[0, 300, 5_000, u64::MAX]))) } else { None };
        Word { report, rtt }
    }

    fn any_report(&mut self) -> Report {
        let boot = BootId(self.one_of(&[0, 1, 1, 1, 2, u64::MAX]));
        let seq = if self.one_in(100) { u64::MAX } else { self.event as u64 };
        let micros = [0, 0, 1_000, 30_000, 2_000_000];
        let mut any = |of: &[u64]| if self.one_in(50) { u64::MAX } else { self.one_of(of) };
        let cost = Cost { fixed: Micros::new(any(&micros)), per_unit_ns: any(&[0, 1_000, 1_000_000]) };
        let wait = Micros::new(any(&micros));
        let held = u32::try_from(any(&[0, 1, 9])).unwrap_or(u32::MAX);
        let standing = if self.one_in(8) { self.one_of(&Standing::ALL) } else { Standing::Ready };
        let slots = self.one_of(&[1, 1, 1, 8, 0, u32::MAX]);
        let share = |walk: &mut Self| (!walk.one_in(3)).then(|| Share::percent(walk.one_of(&[0, 50, 90, 255])));
        let (busy, memory) = (share(self), share(self));
        Report { boot, seq, wait, cost, standing, held, slots, busy, memory }
    }

    fn any_membership(&mut self) -> Input {
        let mut members = Vec::new();
        let before = std::mem::take(&mut self.members);
        for name in &NAMES[..4] {
            if self.one_in(6) {
                continue;
            }
            let load = (!self.one_in(3)).then(|| self.any_report());
            let boot = BootId(self.one_of(&[1, 1, 1, 1, 2]));
            let (alive, serves, backup) = (!self.one_in(6), !self.one_in(10), self.one_in(6));
            let standing = if self.one_in(8) { self.one_of(&Standing::ALL) } else { Standing::Ready };
            let weight = self.one_of(&[100, 100, 100, 100, 0, 1, u32::MAX]);
            let facts = PeerFacts { id: super::id(name), boot, alive, standing, serves, weight, backup, load };
            if self.one_in(10) {
                members.push(PeerFacts { boot: BootId(0), alive: !alive, ..facts.clone() });
            }
            members.push(facts.clone());
            // That an earlier run is dead says nothing of the run that is known, except that nobody hears it.
            let known = before.get(&facts.id).filter(|known| facts.boot < known.boot && !facts.alive);
            let facts = known.map_or(facts, |known| PeerFacts { alive: false, ..known.clone() });
            self.members.insert(facts.id.clone(), facts);
        }
        Input::Membership(members)
    }

    // What must be true.

    fn feed(&mut self, input: Input) {
        self.event += 1;
        let before = self.describe(&input);
        self.expect_before(&input);
        let mut effects = Vec::new();
        self.node.step(self.now, input.clone(), &mut effects);
        for byte in format!("{effects:?}").bytes() {
            // FNV-1a.
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        for effect in &effects {
            self.check(&input, effect, &before);
        }
        // Nobody waits for a chunk alone.
        if let Input::Left { job } = input
            && !job.is_chunk()
            && let Some(live) = self.live.remove(&job)
        {
            assert!(live.away.is_empty(), "{before}: {live:?}");
            self.over.insert(job);
            self.end_chunks(live.open, &before);
            self.seen.note("left");
        }
        self.check_chunks(&before);
        self.check_gauges(&before);
    }

    fn describe(&self, input: &Input) -> String {
        format!("seed {} event {} at {:?}: {input:?}", self.seed, self.event, self.now)
    }

    /// What an input alone changes in the model.
    fn expect_before(&mut self, input: &Input) {
        match input {
            Input::Arrived(Arrival { job, source, units, bytes, deadline, .. }) => {
                let live = Live {
                    caller: *source == Source::Caller,
                    bytes: *bytes,
                    deadline: *deadline,
                    patience: deadline.since(self.now),
                    rows: units.len(),
                    ..Live::default()
                };
                self.live.insert(*job, live);
            }
            // A canary that was out when the engine was loaded anew is no longer waited for.
            Input::Canary(_) | Input::EngineReady { .. } => self.canary_is_out = false,
            Input::BatchDone { batch, .. } | Input::BatchFailed { batch } => {
                self.running.retain(|(running, _)| running != batch);
            }
            Input::Answered { job, attempt, .. } | Input::Broke { job, attempt, .. } => {
                self.take_back(*job, *attempt);
            }
            Input::Refused { job, attempt, refusal, .. } => {
                let current = self.take_back(*job, *attempt);
                if let Some(live) = self.live.get_mut(job) {
                    live.busy_refused |= current && *refusal == Refusal::Busy;
                }
            }
            _ => {}
        }
    }

    fn take_back(&mut self, job: JobId, attempt: Attempt) -> bool {
        let Some(live) = self.live.get_mut(&job) else { return false };
        let before = live.away.len();
        live.away.retain(|(current, _)| *current != attempt);
        live.away.len() < before
    }

    fn check(&mut self, input: &Input, effect: &Effect, before: &str) {
        match effect {
            Effect::Run { batch, rows } => self.check_run(*batch, rows, before),
            Effect::Cut { call, chunk, rows } => self.check_cut(*call, *chunk, rows.clone(), before),
            Effect::Forward { job, attempt, peer, bound, remaining, hedge } => {
                let count = ["forward", "second placement", "third placement", "a hedge too", "a move too"];
                self.seen.note(count[usize::from(attempt.0) - 1]);
                let live = self.live.get_mut(job).unwrap_or_else(|| panic!("{before}: {job:?} is over, yet forwarded"));
                assert!(live.caller, "{before}: a job of a peer was handed on");
                assert!(*hedge || live.away.is_empty(), "{before}: {job:?} is somewhere already");
                if !live.away.is_empty() {
                    assert!(!std::mem::replace(&mut live.hedged, true), "{before}: {job:?} is hedged twice");
                    self.seen.note("hedge");
                }
                assert!(live.visited.insert(peer.clone()), "{before}: {job:?} was on {peer} before");
                assert!(attempt.0 <= PLACEMENTS_MAX + 2, "{before}: {attempt:?}");
                assert!(!live.busy_refused || bound.is_none(), "{before}: a second busy refusal is possible");
                let most = if live.of.is_some() { live.patience } else { live.deadline.since(self.now) };
                assert!(*remaining <= most, "{before}: {remaining:?} is too long");
                live.away.push((*attempt, peer.clone()));
                assert!(live.away.len() <= 2, "{before}: {live:?}");
                let facts = self.members.get(peer).unwrap_or_else(|| panic!("{before}: {peer} is no member"));
                assert!(facts.serves && 0 < facts.weight, "{before}: {facts:?}");
                assert!(facts.alive || !self.believes_gossip, "{before}: {facts:?}");
                let gate = self.node.peers(self.now).find(|view| view.facts.id == *peer).expect("a member").gate;
                // A tick can hear of several silent peers; the gate may have closed after this forward.
                assert!(gate.passes() || matches!(input, Input::Tick), "{before}: {peer} is {gate:?}");
            }
            Effect::Abandon { job, attempt } => {
                self.seen.note("abandon");
                assert!(self.take_back(*job, *attempt), "{before}: {job:?} {attempt:?} is not away");
            }
            Effect::Acknowledge { job, .. } => {
                self.seen.note("acknowledge");
                let live = self.live.get_mut(job).unwrap_or_else(|| panic!("{before}: {job:?} is over"));
                assert!(!live.caller && !std::mem::replace(&mut live.acknowledged, true), "{before}: {live:?}");
            }
            Effect::Finish { job, outcome, placements, .. } => self.check_finish(*job, outcome, *placements, before),
            Effect::Ping { peer } => {
                self.seen.note("ping");
                self.pinged.push(peer.clone());
                assert!(self.members.contains_key(peer), "{before}: {peer} is no member");
            }
            Effect::Measure => assert!(self.running.is_empty(), "{before}: the device is busy"),
            Effect::Canary => {
                self.seen.note("canary");
                assert!(!std::mem::replace(&mut self.canary_is_out, true), "{before}: a second canary");
            }
            Effect::Publish { .. } => {}
            Effect::StopAccepting => {
                assert!(!std::mem::replace(&mut self.stopped, true), "{before}: said twice");
            }
            Effect::Exit => {
                self.seen.note("exit");
                self.exits += 1;
                assert!(self.stopped && self.exits == 1, "{before}");
                assert!(self.live.is_empty(), "{before}: left with {:?}", self.live);
            }
        }
    }

    fn check_cut(&mut self, call: JobId, chunk: JobId, rows: std::ops::Range<u32>, before: &str) {
        self.seen.note("cut");
        assert!(chunk.is_chunk() && !self.live.contains_key(&chunk), "{before}: {chunk:?} is no new chunk");
        assert!(self.over.insert(chunk), "{before}: {chunk:?} is used twice");
        self.over.remove(&chunk);
        let live = self.live.get_mut(&call).unwrap_or_else(|| panic!("{before}: {call:?} is over, yet cut"));
        assert!(live.caller && live.of.is_none() && !live.failed, "{before}: {live:?}");
        let (start, end) = (rows.start as usize, rows.end as usize);
        assert!(live.cut == start && start < end && end <= live.rows, "{before}: {rows:?} of {live:?}");
        live.cut = end;
        live.open.insert(chunk);
        let part = Live { caller: true, patience: live.patience, rows: rows.len(), of: Some(call), ..Live::default() };
        self.live.insert(chunk, part);
    }

    /// No peer has more chunks of one call than it may, and a call that is cut has one somewhere.
    fn check_chunks(&self, before: &str) {
        for (call, live) in self.live.iter().filter(|(_, live)| 0 < live.cut) {
            assert!(!live.open.is_empty(), "{before}: nothing is left of {call:?}, and it does not end");
            let mut on = BTreeMap::<&NodeId, u32>::new();
            let away = live.open.iter().flat_map(|chunk| &self.live[chunk].away);
            away.for_each(|(_, peer)| *on.entry(peer).or_default() += 1);
            assert!(on.values().all(|&chunks| chunks <= CHUNKS_MAX), "{before}: {call:?} is on {on:?}");
        }
    }

    /// Their call is over, and they are over with it.
    fn end_chunks(&mut self, chunks: BTreeSet<JobId>, before: &str) {
        for chunk in chunks {
            let live = self.live.remove(&chunk).expect("an open chunk lives");
            assert!(live.away.is_empty(), "{before}: {chunk:?} goes on although its call is over: {live:?}");
            assert!(self.over.insert(chunk), "{before}: {chunk:?} ends twice");
            self.seen.note("chunk ended with its call");
        }
    }

    fn check_run(&mut self, batch: BatchId, rows: &[RowRef], before: &str) {
        self.seen.note("run");
        assert!(self.running.len() < self.slots, "{before}: more batches than slots");
        assert!(!rows.is_empty(), "{before}: an empty batch");
        for row in rows {
            let live = self.live.get_mut(&row.job).unwrap_or_else(|| panic!("{before}: {row:?} of a job that is over"));
            // Here and on a peer is a hedge, in either order; there may be one.
            if !live.away.is_empty() && live.ran_here.is_empty() {
                assert!(!std::mem::replace(&mut live.hedged, true), "{before}: {row:?} runs here and on two peers");
            }
            assert!(live.away.len() < 2, "{before}: {row:?} runs here and on two peers");
            assert!((row.row as usize) < live.rows, "{before}: {row:?} is no row of {live:?}");
            let runs = live.ran_here.entry(row.row).or_default();
            *runs += 1;
            assert!(*runs <= 2, "{before}: {row:?} runs a third time here");
        }
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "{before}: a row twice in {rows:?}");
        let chunks: BTreeSet<JobId> = rows.iter().map(|row| row.job).filter(|job| job.is_chunk()).collect();
        let mut of = BTreeMap::<JobId, u32>::new();
        chunks.iter().filter_map(|chunk| self.live[chunk].of).for_each(|call| *of.entry(call).or_default() += 1);
        assert!(of.values().all(|&chunks| chunks <= CHUNKS_MAX), "{before}: too many chunks here: {of:?}");
        self.running.push((batch, rows.to_vec()));
    }

    fn check_finish(&mut self, job: JobId, outcome: &Outcome, placements: u8, before: &str) {
        let live = self.live.remove(&job).unwrap_or_else(|| panic!("{before}: {job:?} ends twice"));
        assert!(self.over.insert(job), "{before}: {job:?} ends twice");
        // A job that ends while a peer computes it is abandoned there; the effects that say so came before.
        assert!(live.away.is_empty(), "{before}: {job:?} ends while {:?} computes it", live.away);
        if let Some(call) = live.of.and_then(|call| self.live.get_mut(&call)) {
            assert!(call.open.remove(&job), "{before}: {job:?} is none of {call:?}");
            call.failed |= !matches!(outcome, Outcome::Done { .. });
        }
        let placed = live.visited.len() + usize::from(!live.ran_here.is_empty());
        // A hedge whose twin never ran or was never sent looks like a placement.
        assert!(
            placements <= PLACEMENTS_MAX && placed <= usize::from(placements) + 1,
            "{before}: {placements} {live:?}"
        );
        let what = match outcome {
            Outcome::Done { placed: Placed::Here } => {
                assert_eq!(live.ran_here.len(), live.rows, "{before}: not every row ran");
                "done here"
            }
            Outcome::Done { placed: Placed::Away(peer, _) } => {
                assert!(live.visited.contains(peer), "{before}: {peer} never had it");
                "done away"
            }
            Outcome::Done { placed: Placed::InChunks } => {
                let is_whole = live.cut == live.rows && live.open.is_empty() && !live.failed && live.of.is_none();
                assert!(is_whole, "{before}: {live:?}");
                "done in chunks"
            }
            Outcome::Rejected { .. } => "rejected",
            Outcome::EngineFailed(_) => "engine failed",
            Outcome::Overloaded { .. } => {
                // What was begun is not refused any more.
                let call = live.of.and_then(|call| self.live.get(&call));
                let is_begun = call.is_some_and(|call| call.cut != live.rows || 0 < placed);
                assert!(live.caller && !is_begun, "{before}: {live:?} of {call:?}");
                "overloaded"
            }
            Outcome::Unavailable { .. } => {
                assert!(live.caller, "{before}");
                "unavailable"
            }
            Outcome::Expired => "expired",
            Outcome::Refused(_) => {
                assert!(!live.caller, "{before}");
                "refused"
            }
        };
        self.seen.note(what);
        assert!(0 == live.cut || live.failed || live.open.is_empty(), "{before}: {live:?}");
        self.end_chunks(live.open, before);
    }

    fn check_gauges(&self, before: &str) {
        let gauges = self.node.gauges(self.now);
        let away = self.live.values().filter(|live| !live.away.is_empty()).count();
        let bytes: u64 = self.live.values().map(|live| live.bytes).sum();
        assert_eq!(
            (gauges.jobs as usize, gauges.forwards as usize, gauges.bytes),
            (self.live.values().filter(|live| live.of.is_none()).count(), away, bytes),
            "{before}"
        );
        assert!(gauges.jobs <= JOBS_MAX && gauges.bytes <= BYTES_MAX, "{before}: {gauges:?}");
        assert!(gauges.unacknowledged == 0 || 0 < away, "{before}: {gauges:?}");
    }

    /// The world becomes kind: the engine computes, peers answer, ticks come. Everything must end.
    fn settle(&mut self) {
        if self.node.door() != DoorState::Closed {
            self.feed(Input::EngineReady { units: 1, took: Micros::from_ms(5) });
        }
        for _ in 0..10_000 {
            self.now = self.now + Micros::from_ms(10);
            let away = self.live.iter().find_map(|(&job, live)| live.away.first().cloned().map(|away| (job, away)));
            if self.canary_is_out {
                self.feed(Input::Canary(CanaryVerdict::Passed));
            }
            let input = match (self.running.first().cloned(), away) {
                (Some((batch, rows)), _) => {
                    Input::BatchDone { batch, took: Micros::from_ms(5), rows: vec![RowVerdict::Done; rows.len()] }
                }
                (None, Some((job, (attempt, peer)))) => {
                    Input::Answered { job, attempt, peer, word: Word::default(), verdict: Verdict::Done }
                }
                (None, None) if self.live.is_empty() => break,
                (None, None) => Input::Tick,
            };
            self.feed(input);
        }
        let told = self.node.gauges(self.now);
        let rest = Gauges { wait: told.wait, hot: told.hot, load: told.load, ..Gauges::default() };
        assert_eq!(told, rest, "seed {}: something is left of {:?}", self.seed, self.live);
    }
}
