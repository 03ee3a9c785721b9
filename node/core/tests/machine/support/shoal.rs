//! A few real machines that talk to each other in virtual time, while some are killed and come back.
//!
//! For `machine.rs`. Messages and breaks take a little time each; a kill breaks every stream of the node and forgets
//! all it held; at most one node is down at a time, so that there is capacity for what is left.
//! Not here: lost messages, hangs, partitions, statistics (that is `cluster-sim`'s).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_core::id::{Attempt, BatchId, BootId, JobId, NodeId, RowRef};
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::{
    Arrival, CanaryVerdict, Effect, Gauges, Input, Node, Outcome, Placed, Refusal, RowVerdict, Rules, Source, Verdict,
};
use shoal_core::peers::{PeerFacts, Word};
use shoal_core::prng::Prng;
use shoal_core::time::{Micros, MonoTime};

/// What a text costs on every node.
const ROW: Micros = Micros::from_ms(10);
const TICK: Micros = Micros::from_ms(50);
const LOAD_ENDS: MonoTime = MonoTime::from_micros(6_000_000);
const HEALED_BY: MonoTime = MonoTime::from_micros(40_000_000);
const DEADLINE: Micros = Micros::from_ms(20_000);

/// What happened in some runs, so that a run in which nothing can go wrong is noticed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    callers: u64,
    chunks: u64,
    forwards: u64,
    kills: u64,
    broken: u64,
    orphans: u64,
    served_after_return: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.callers += other.callers;
        self.chunks += other.chunks;
        self.forwards += other.forwards;
        self.kills += other.kills;
        self.broken += other.broken;
        self.orphans += other.orphans;
        self.served_after_return += other.served_after_return;
    }

    pub(crate) fn assert_all_happened(&self) {
        assert!(3000 < self.callers && 3000 < self.chunks && 300 < self.forwards && 20 < self.kills, "{self:?}");
        assert!(20 < self.broken && 10 < self.orphans && 100 < self.served_after_return, "{self:?}");
    }
}

/// A placement of a job of `origin` on a peer, from when it is sent until either side is done with it.
type Stream = (usize, JobId, Attempt);

#[derive(Debug)]
enum Event {
    Tick { to: usize, boot: BootId },
    Gossip { to: usize },
    Call { to: usize },
    BatchEnds { on: usize, boot: BootId, batch: BatchId, rows: usize },
    Execute { stream: Stream, to: usize, units: Arc<[u32]>, bound: Option<Micros>, remaining: Micros },
    Reply { stream: Stream, from: usize, report: Report, reply: Reply },
    Cancel { to: usize, boot: BootId, job: JobId },
    Broken { stream: Stream, to: usize },
    Kill,
    Start { on: usize },
}

#[derive(Debug)]
enum Reply {
    Accepted,
    Refused(Refusal),
    Answered(Verdict),
}

/// One process, or the place where one was.
struct Seat {
    boot: BootId,
    up: Option<Node>,
    heard: MonoTime,
    published: Option<Report>,
    /// Texts of the jobs it holds, and the stream that each job of a peer came by.
    units: BTreeMap<JobId, Arc<[u32]>>,
    from: BTreeMap<JobId, Stream>,
    /// Callers of this run of the process that wait.
    waiting: BTreeSet<JobId>,
    /// Of each call that was cut, the rows that are done.
    cut: BTreeMap<JobId, usize>,
    /// The call of each chunk.
    chunks: BTreeMap<JobId, JobId>,
}

struct Shoal {
    seed: u64,
    chance: Prng,
    now: MonoTime,
    events: BTreeMap<(MonoTime, u64), Event>,
    events_made: u64,
    seats: Vec<Seat>,
    /// Open streams, the seat that each leads to, and the run of that seat's process.
    streams: BTreeMap<Stream, (usize, BootId)>,
    jobs_made: u64,
    seen: Seen,
}

/// One run: load with kills, then rest. Panics with the seed when something does not hold.
pub(crate) fn run(seed: u64) -> Seen {
    let mut chance = Prng::new(seed);
    let seats = 3 + chance.below(3);
    let mut shoal = Shoal {
        seed,
        chance,
        now: MonoTime::START,
        events: BTreeMap::new(),
        events_made: 0,
        seats: Vec::new(),
        streams: BTreeMap::new(),
        jobs_made: 0,
        seen: Seen::default(),
    };
    for on in 0..seats {
        shoal.seats.push(Seat {
            boot: BootId(0),
            up: None,
            heard: MonoTime::START,
            published: None,
            units: BTreeMap::new(),
            from: BTreeMap::new(),
            waiting: BTreeSet::new(),
            cut: BTreeMap::new(),
            chunks: BTreeMap::new(),
        });
        shoal.start(on);
        shoal.at(Micros::ZERO, Event::Gossip { to: on });
        shoal.at(Micros::from_ms(300), Event::Call { to: on });
    }
    shoal.at(Micros::from_ms(1000), Event::Kill);
    while let Some(((at, _), event)) = shoal.events.pop_first() {
        if HEALED_BY < at {
            break;
        }
        shoal.now = at;
        shoal.happen(event);
    }
    shoal.check_rest();
    shoal.seen
}

impl Shoal {
    fn at(&mut self, after: Micros, event: Event) {
        self.events_made += 1;
        self.events.insert((self.now + after, self.events_made), event);
    }

    fn jitter(&mut self, micros_min: u64, micros_max: usize) -> Micros {
        Micros::new(micros_min + self.chance.below(micros_max) as u64)
    }

    fn name(seat: usize) -> NodeId {
        super::id(&format!("node-{seat}"))
    }

    fn seat_of(peer: &NodeId) -> usize {
        peer.as_str().trim_start_matches("node-").parse().expect("a name from here")
    }

    fn start(&mut self, on: usize) {
        let seat = &mut self.seats[on];
        seat.boot = BootId(seat.boot.0 + 1);
        seat.up = Some(Node::new(Self::name(on), seat.boot, Rules::default(), self.seed ^ (on as u64)));
        let boot = seat.boot;
        self.step(on, Input::EngineReady { units: 1, took: ROW });
        self.at(TICK, Event::Tick { to: on, boot });
    }

    /// Feeds one node, if it is up, and performs what it wants.
    fn step(&mut self, on: usize, input: Input) {
        let Some(node) = &mut self.seats[on].up else { return };
        let mut effects = Vec::new();
        node.step(self.now, input, &mut effects);
        for effect in effects {
            self.perform(on, effect);
        }
    }

    fn perform(&mut self, on: usize, effect: Effect) {
        match effect {
            Effect::Run { batch, rows } => {
                let boot = self.seats[on].boot;
                self.seen.served_after_return +=
                    u64::from(1 < boot.0 && rows.iter().any(|row| self.is_handed(on, row)));
                let took = ROW.times(rows.len() as u64);
                self.at(took, Event::BatchEnds { on, boot, batch, rows: rows.len() });
            }
            Effect::Cut { call, chunk, rows } => {
                self.seen.chunks += 1;
                let units: Arc<[u32]> = Arc::from(&self.seats[on].units[&call][rows.start as usize..rows.end as usize]);
                self.seats[on].units.insert(chunk, units);
                self.seats[on].chunks.insert(chunk, call);
                self.seats[on].cut.entry(call).or_default();
            }
            Effect::Forward { job, attempt, peer, bound, remaining, hedge: _ } => {
                self.seen.forwards += 1;
                assert!(!self.seats[on].from.contains_key(&job), "seed {}: a second hop", self.seed);
                let (to, stream) = (Self::seat_of(&peer), (on, job, attempt));
                assert_ne!(to, on, "seed {}: a node sent a job to itself", self.seed);
                let units = Arc::clone(&self.seats[on].units[&job]);
                let way = self.jitter(100, 900);
                self.streams.insert(stream, (to, self.seats[to].boot));
                self.at(way, Event::Execute { stream, to, units, bound, remaining });
            }
            Effect::Abandon { job, attempt } => self.close((on, job, attempt)),
            Effect::Acknowledge { job, report } => self.reply(on, job, report, Reply::Accepted),
            Effect::Finish { job, outcome, placements, .. } => self.finish(on, job, outcome, placements),
            Effect::Publish { report } => self.seats[on].published = Some(report),
            Effect::Measure => self.step(on, Input::Measured { units: 1, took: ROW }),
            Effect::Canary => self.step(on, Input::Canary(CanaryVerdict::Passed)),
            Effect::Ping { peer } => {
                let to = Self::seat_of(&peer);
                let word = self.seats[to].up.as_mut().map(|node| node.report(self.now));
                let input = match word {
                    Some(report) => Input::Heard { peer, word: Word { report: Some(report), rtt: None } },
                    None => Input::PingFailed { peer, broke: true },
                };
                self.step(on, input);
            }
            Effect::StopAccepting | Effect::Exit => panic!("seed {}: nobody asked node {on} to leave", self.seed),
        }
    }

    fn is_handed(&self, on: usize, row: &RowRef) -> bool {
        self.seats[on].from.contains_key(&row.job)
    }

    fn reply(&mut self, from: usize, job: JobId, report: Report, reply: Reply) {
        let stream = self.seats[from].from[&job];
        let way = self.jitter(100, 900);
        self.at(way, Event::Reply { stream, from, report, reply });
    }

    fn finish(&mut self, on: usize, job: JobId, outcome: Outcome, placements: u8) {
        let seed = self.seed;
        let units = self.seats[on].units.remove(&job).unwrap_or_else(|| panic!("seed {seed}: {job:?} ended twice"));
        if let Some(call) = self.seats[on].chunks.remove(&job) {
            let done = matches!(outcome, Outcome::Done { placed: Placed::Here | Placed::Away(..) });
            assert!(done && (1..=3).contains(&placements), "seed {seed}: node {on} lost a chunk: {outcome:?}");
            *self.seats[on].cut.get_mut(&call).expect("a chunk's call is cut") += units.len();
            return;
        }
        if let Some(rows) = self.seats[on].cut.remove(&job) {
            assert_eq!(rows, units.len(), "seed {seed}: {job:?} ended without all of its rows");
        }
        if self.seats[on].waiting.remove(&job) {
            assert!(matches!(outcome, Outcome::Done { .. }), "seed {seed}: node {on} lost {job:?}: {outcome:?}");
            return assert!((1..=3).contains(&placements), "seed {seed}: {job:?} was placed {placements} times");
        }
        let report =
            self.seats[on].up.as_mut().map(|node| node.report(self.now)).expect("only a running node finishes");
        let reply = match outcome {
            Outcome::Done { placed: Placed::Here } => Reply::Answered(Verdict::Done),
            Outcome::Refused(refusal) => Reply::Refused(refusal),
            Outcome::Expired => Reply::Answered(Verdict::Expired),
            other => panic!("seed {seed}: a job of a peer cannot end as {other:?}"),
        };
        self.reply(on, job, report, reply);
        self.seats[on].from.remove(&job);
    }

    /// The origin is done with a stream: its peer stops working for it.
    fn close(&mut self, stream: Stream) {
        let Some((to, boot)) = self.streams.remove(&stream) else { return };
        let job = self.seats[to].from.iter().find(|(_, from)| **from == stream).map(|(&job, _)| job);
        if let Some(job) = job {
            let way = self.jitter(100, 900);
            self.at(way, Event::Cancel { to, boot, job });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { to, boot } if boot == self.seats[to].boot && self.seats[to].up.is_some() => {
                self.step(to, Input::Tick);
                self.at(TICK, Event::Tick { to, boot });
            }
            Event::Tick { .. } => {}
            Event::Gossip { to } => self.gossip(to),
            Event::Call { to } => self.call(to),
            Event::BatchEnds { on, boot, batch, rows } if boot == self.seats[on].boot => {
                let took = ROW.times(rows as u64);
                self.step(on, Input::BatchDone { batch, took, rows: vec![RowVerdict::Done; rows] });
            }
            Event::BatchEnds { .. } => {}
            Event::Execute { stream, to, units, bound, remaining } => {
                self.execute(stream, to, units, bound, remaining);
            }
            Event::Reply { stream, from, report, reply } => self.deliver(stream, from, report, reply),
            Event::Cancel { to, boot, job } if boot == self.seats[to].boot => {
                self.drop_job(to, job);
            }
            Event::Cancel { .. } => {}
            Event::Broken { stream: (origin, job, attempt), to } => {
                if self.streams.remove(&(origin, job, attempt)).is_some() {
                    self.seen.broken += 1;
                    self.step(origin, Input::Broke { job, attempt, peer: Self::name(to) });
                }
            }
            Event::Kill => self.kill(),
            Event::Start { on } => self.start(on),
        }
    }

    /// The view of one node: fresh loads of the others; who was killed is heard of half a second later.
    fn gossip(&mut self, to: usize) {
        let pause = self.jitter(80_000, 60_000);
        self.at(pause, Event::Gossip { to });
        for seat in &mut self.seats {
            if seat.up.is_some() {
                seat.heard = self.now;
            }
        }
        let others = self.seats.iter().enumerate().filter(|(other, _)| *other != to);
        let members = others.map(|(other, seat)| PeerFacts {
            id: Self::name(other),
            boot: seat.boot,
            alive: self.now.since(seat.heard) < Micros::from_ms(500),
            standing: Standing::Ready,
            serves: true,
            weight: 100,
            backup: false,
            load: seat.published,
        });
        let members = Input::Membership(members.collect());
        self.step(to, members);
    }

    /// A caller, and when the next one comes. Node 0 alone gets more than it can compute.
    fn call(&mut self, to: usize) {
        let pause = if to == 0 { self.jitter(1_000, 24_000) } else { self.jitter(10_000, 160_000) };
        if self.now < LOAD_ENDS {
            self.at(pause, Event::Call { to });
        }
        if self.seats[to].up.is_none() {
            return;
        }
        self.seen.callers += 1;
        // Each node gets more work than it could do alone now and then, as one call of a second's work.
        let rows = if self.chance.below(60) == 0 { 100 } else { 1 + self.chance.below(3) };
        let job = self.hold(to, Arc::from(vec![1; rows]));
        self.seats[to].waiting.insert(job);
        self.arrive(to, job, Source::Caller, DEADLINE);
    }

    fn hold(&mut self, on: usize, units: Arc<[u32]>) -> JobId {
        self.jobs_made += 1;
        let job = JobId(self.jobs_made);
        self.seats[on].units.insert(job, units);
        job
    }

    fn arrive(&mut self, on: usize, job: JobId, source: Source, remaining: Micros) {
        let units = Arc::clone(&self.seats[on].units[&job]);
        let deadline = self.now + remaining;
        let (client, session, explain) = (0, None, false);
        let arrival = Arrival { job, source, units, bytes: 1000, deadline, client, session, explain };
        self.step(on, Input::Arrived(arrival));
    }

    fn execute(&mut self, stream: Stream, to: usize, units: Arc<[u32]>, bound: Option<Micros>, remaining: Micros) {
        let Some((_, boot)) = self.streams.get(&stream).copied() else { return };
        if self.seats[to].up.is_none() || self.seats[to].boot != boot {
            return self.at(Micros::new(100), Event::Broken { stream, to });
        }
        let job = self.hold(to, units);
        self.seats[to].from.insert(job, stream);
        self.arrive(to, job, Source::Peer { bound }, remaining);
    }

    fn deliver(&mut self, stream: Stream, from: usize, report: Report, reply: Reply) {
        let (origin, job, attempt) = stream;
        // What a node said before it was killed may or may not have left it; here it was lost.
        let lives = self.seats[from].up.is_some() && self.seats[from].boot == report.boot;
        if !lives || !self.streams.contains_key(&stream) {
            return;
        }
        let (peer, word) = (Self::name(from), Word { report: Some(report), rtt: Some(Micros::from_ms(1)) });
        let input = match reply {
            Reply::Accepted => Input::Accepted { job, attempt, peer, word },
            Reply::Refused(refusal) => Input::Refused { job, attempt, peer, word, refusal },
            Reply::Answered(verdict) => Input::Answered { job, attempt, peer, word, verdict },
        };
        if !matches!(input, Input::Accepted { .. }) {
            self.streams.remove(&stream);
        }
        self.step(origin, input);
    }

    /// Whoever wanted `job` of `on` is gone.
    fn drop_job(&mut self, on: usize, job: JobId) {
        if self.seats[on].from.remove(&job).is_some() {
            self.seats[on].units.remove(&job);
            self.step(on, Input::Left { job });
        }
    }

    fn kill(&mut self) {
        let victim = self.chance.below(self.seats.len());
        self.seen.kills += 1;
        let seat = &mut self.seats[victim];
        (seat.up, seat.published) = (None, None);
        seat.units.clear();
        seat.from.clear();
        seat.waiting.clear();
        seat.cut.clear();
        seat.chunks.clear();
        let to_victim: Vec<Stream> =
            self.streams.iter().filter(|(_, (to, _))| *to == victim).map(|(&stream, _)| stream).collect();
        for stream in to_victim {
            let way = self.jitter(100, 900);
            self.at(way, Event::Broken { stream, to: victim });
        }
        let of_victim: Vec<Stream> = self.streams.keys().filter(|(origin, ..)| *origin == victim).copied().collect();
        for stream in of_victim {
            self.seen.orphans += 1;
            self.close(stream);
        }
        let down = self.jitter(50_000, 900_000);
        self.at(down, Event::Start { on: victim });
        let pause = self.jitter(1_000_000, 400_000);
        if self.now + pause < LOAD_ENDS {
            self.at(pause, Event::Kill);
        }
    }

    fn check_rest(&self) {
        assert!(self.streams.is_empty(), "seed {}: open streams {:?}", self.seed, self.streams);
        for (on, seat) in self.seats.iter().enumerate() {
            let node = seat.up.as_ref().expect("every killed node was started again");
            let told = (seat.waiting.len(), seat.units.len(), seat.from.len() + seat.chunks.len() + seat.cut.len());
            assert_eq!(told, (0, 0, 0), "seed {}: node {on} still owes answers", self.seed);
            assert_eq!(node.gauges(self.now), Gauges::default(), "seed {}: node {on} is not at rest", self.seed);
        }
    }
}
