//! What the tests of the machine share: short names for inputs, and one way to play a script against a node.
//!
//! For `machine.rs`. Only [`Stage::feed`] touches the machine; scenarios are data: moment, input, expected effects.
//! Times are whole milliseconds since the node started. A ready node needs 10 ms a unit and nothing a batch, so that
//! every expected number can be worked out in the head.

use std::sync::Arc;

use shoal_core::cost::Cost;
use shoal_core::id::{Attempt, BatchId, BootId, JobId, NodeId};
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::{
    Arrival, Effect, EngineFault, Gauges, Input, Node, Outcome, Placed, Refusal, RowVerdict, Rules, Source, Verdict,
};
use shoal_core::peers::{PeerFacts, Word};
use shoal_core::time::{Micros, MonoTime};

pub(crate) mod shoal;
pub(crate) mod walk;

/// What one unit costs on a ready node and on every peer that says so.
pub(crate) const UNIT_MS: u64 = 10;
/// Deadline of a job that names none.
pub(crate) const DEADLINE_MS: u64 = 30_000;

pub(crate) fn ms(ms: u64) -> MonoTime {
    MonoTime::START + Micros::from_ms(ms)
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("tests use sound ids")
}

/// A moment, what happens, and what the node has to do; `Publish` is left out (see [`Stage::feed`]).
pub(crate) type Line<'a> = (u64, Input, &'a [&'a str]);

/// The default rules without what needs ticks between the lines of a script, or chance: self-suspicion, jitter, hedges,
/// pings of peers that gossip calls dead, canaries, questions for the sake of what waits. Calls stay whole. Tests of
/// these turn them on.
pub(crate) fn plain_rules() -> Rules {
    let mut rules = Rules { pulse: None, rebalance: None, hedge: None, split: None, canary: None, ..Rules::default() };
    // Batches are as long as they may be, although nothing here has a fixed part.
    rules.batch.time_short = rules.batch.time_max;
    (rules.peers.gate.jitter_percent, rules.peers.panic_percent) = (0, 0);
    rules
}

/// One node and the time that it lives in.
pub(crate) struct Stage {
    pub(crate) node: Node,
    now: MonoTime,
}

impl Stage {
    /// A node whose engine still loads and that knows `peers`.
    pub(crate) fn starting(peers: &[PeerFacts]) -> Self {
        Self::with_rules(plain_rules(), peers)
    }

    pub(crate) fn with_rules(rules: Rules, peers: &[PeerFacts]) -> Self {
        let mut stage = Self { node: Node::new(id("here"), BootId(1), rules, 1), now: MonoTime::START };
        stage.feed(0, Input::Membership(peers.to_vec()));
        stage
    }

    /// A node that computes, at [`UNIT_MS`] a unit.
    pub(crate) fn ready(peers: &[PeerFacts]) -> Self {
        Self::starting(peers).play(&[(0, ready(), &[])])
    }

    /// The one place where tests touch the machine.
    pub(crate) fn feed(&mut self, at_ms: u64, input: Input) -> Vec<Effect> {
        assert!(self.now <= ms(at_ms), "a script goes forward in time: {at_ms} ms");
        self.now = ms(at_ms);
        let mut effects = Vec::new();
        self.node.step(self.now, input, &mut effects);
        effects
    }

    /// Plays `lines`; each must cause exactly its effects, in that order.
    pub(crate) fn play(mut self, lines: &[Line<'_>]) -> Self {
        for (at_ms, input, expected) in lines {
            let told: Vec<String> = self.feed(*at_ms, input.clone()).iter().filter_map(words).collect();
            assert_eq!(told, *expected, "at {at_ms} ms after {input:?}");
        }
        self
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.node.gauges(self.now)
    }

    /// Nothing is held, queued or on the way.
    pub(crate) fn assert_at_rest(&self) {
        let told = self.gauges();
        assert_eq!(told, Gauges { wait: told.wait, hot: told.hot, load: told.load, ..Gauges::default() });
    }

    /// Name of the gate of `peer`.
    pub(crate) fn gate(&self, peer: &str) -> &'static str {
        let mut peers = self.node.peers(self.now);
        peers.find(|view| view.facts.id.as_str() == peer).map(|view| view.gate.name()).expect("a known peer")
    }
}

/// A job in words; the chunks of all calls are numbered as they are cut.
fn number(job: JobId) -> String {
    if job.is_chunk() { format!("chunk-{}", job.0 - JobId::of_chunk(0).0) } else { job.0.to_string() }
}

/// An effect in words that a script can name. Times are rounded up to milliseconds.
fn words(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Run { batch, rows } => {
            let rows: Vec<String> = rows.iter().map(|row| format!("{}.{}", number(row.job), row.row)).collect();
            format!("run {}: {}", batch.0, rows.join(" "))
        }
        Effect::Cut { call, chunk, rows } => format!("cut {} of {call}: {rows:?}", number(*chunk), call = call.0),
        Effect::Forward { job, attempt, peer, bound, remaining: _, hedge: _ } => {
            let bound = bound.map_or(String::new(), |bound| format!(" if within {} ms", bound.to_ms_ceil()));
            format!("forward {}#{} to {peer}{bound}", number(*job), attempt.0)
        }
        Effect::Abandon { job, attempt } => format!("abandon {}#{}", number(*job), attempt.0),
        Effect::Acknowledge { job, report } => {
            format!("acknowledge {}, wait {} ms", number(*job), report.wait.to_ms_ceil())
        }
        Effect::Finish { job, outcome, placements, .. } => {
            format!("finish {}: {} after {placements}", number(*job), outcome_words(outcome))
        }
        Effect::Measure => "measure".to_owned(),
        Effect::Canary => "canary".to_owned(),
        Effect::Ping { peer } => format!("ping {peer}"),
        Effect::Publish { .. } => return None,
        Effect::StopAccepting => "stop accepting".to_owned(),
        Effect::Exit => "exit".to_owned(),
    })
}

fn outcome_words(outcome: &Outcome) -> String {
    let place = |placed: &Placed| match placed {
        Placed::Here => "here".to_owned(),
        Placed::Away(peer, _) => format!("on {peer}"),
        Placed::InChunks => "in chunks".to_owned(),
    };
    match outcome {
        Outcome::Done { placed } => format!("done {}", place(placed)),
        Outcome::Rejected { placed } => format!("rejected {}", place(placed)),
        Outcome::EngineFailed(EngineFault::Everywhere) => "failed everywhere".to_owned(),
        Outcome::EngineFailed(EngineFault::OnOneNode) => "failed on one node".to_owned(),
        Outcome::Overloaded { .. } => "overloaded".to_owned(),
        Outcome::Unavailable { .. } => "unavailable".to_owned(),
        Outcome::Expired => "expired".to_owned(),
        Outcome::Refused(refusal) => format!("refused {refusal:?}").to_lowercase(),
    }
}

pub(crate) fn report(seq: u64, wait_ms: u64) -> Report {
    let cost = Cost { fixed: Micros::ZERO, per_unit_ns: UNIT_MS * 1_000_000 };
    Report {
        boot: BootId(1),
        seq,
        wait: Micros::from_ms(wait_ms),
        cost,
        standing: Standing::Ready,
        held: 0,
        slots: 1,
        busy: None,
        memory: None,
    }
}

/// A sound peer of this node's speed that said at the start how long one waits there.
pub(crate) fn peer(name: &str, wait_ms: u64) -> PeerFacts {
    let load = Some(report(1, wait_ms));
    PeerFacts {
        id: id(name),
        boot: BootId(1),
        alive: true,
        standing: Standing::Ready,
        serves: true,
        weight: 100,
        backup: false,
        load,
    }
}

pub(crate) fn ready() -> Input {
    Input::EngineReady { units: 1, took: Micros::from_ms(UNIT_MS) }
}

fn arrived(job: u64, source: Source, units: &[u32], deadline_ms: u64) -> Input {
    let units = Arc::from(units);
    Input::Arrived(Arrival {
        job: JobId(job),
        source,
        units,
        bytes: 100,
        deadline: ms(deadline_ms),
        client: 0,
        session: None,
        explain: false,
    })
}

/// A caller's job of one unit.
pub(crate) fn caller(job: u64) -> Input {
    callers(job, &[1], DEADLINE_MS)
}

pub(crate) fn callers(job: u64, units: &[u32], deadline_ms: u64) -> Input {
    arrived(job, Source::Caller, units, deadline_ms)
}

/// A job of one unit that a peer handed on.
pub(crate) fn handed(job: u64, bound_ms: Option<u64>) -> Input {
    arrived(job, Source::Peer { bound: bound_ms.map(Micros::from_ms) }, &[1], DEADLINE_MS)
}

pub(crate) fn left(job: u64) -> Input {
    Input::Left { job: JobId(job) }
}

/// Batch `batch` ran as long as expected of `rows.len()` units.
pub(crate) fn batch_done(batch: u64, rows: &[RowVerdict]) -> Input {
    let took = Micros::from_ms(UNIT_MS * rows.len() as u64);
    Input::BatchDone { batch: BatchId(batch), took, rows: rows.to_vec() }
}

pub(crate) fn measured(took_ms: u64) -> Input {
    Input::Measured { units: 1, took: Micros::from_ms(took_ms) }
}

pub(crate) fn batch_failed(batch: u64) -> Input {
    Input::BatchFailed { batch: BatchId(batch) }
}

pub(crate) fn flushed(job: u64, attempt: u8) -> Input {
    Input::Flushed { job: JobId(job), attempt: Attempt(attempt) }
}

pub(crate) fn accepted(job: u64, attempt: u8, peer: &str) -> Input {
    Input::Accepted { job: JobId(job), attempt: Attempt(attempt), peer: id(peer), word: Word::default() }
}

pub(crate) fn answered(job: u64, attempt: u8, peer: &str, verdict: Verdict) -> Input {
    Input::Answered { job: JobId(job), attempt: Attempt(attempt), peer: id(peer), word: Word::default(), verdict }
}

pub(crate) fn refused(job: u64, attempt: u8, peer: &str, refusal: Refusal) -> Input {
    Input::Refused { job: JobId(job), attempt: Attempt(attempt), peer: id(peer), word: Word::default(), refusal }
}

pub(crate) fn broke(job: u64, attempt: u8, peer: &str) -> Input {
    Input::Broke { job: JobId(job), attempt: Attempt(attempt), peer: id(peer) }
}

pub(crate) fn heard(peer: &str, report: Report) -> Input {
    Input::Heard { peer: id(peer), word: Word { report: Some(report), rtt: None } }
}

/// A node with so long a queue that the next caller goes to a peer.
pub(crate) fn hot(peers: &[PeerFacts]) -> Stage {
    hot_until(DEADLINE_MS, peers)
}

/// The same; what waits there has this deadline.
pub(crate) fn hot_until(deadline_ms: u64, peers: &[PeerFacts]) -> Stage {
    Stage::ready(peers).play(&[(1, callers(99, &[1; 40], deadline_ms), &["run 1: 99.0 99.1 99.2 99.3 99.4"])])
}

/// A node with these rules that computes.
pub(crate) fn ready_with(rules: Rules, peers: &[PeerFacts]) -> Stage {
    Stage::with_rules(rules, peers).play(&[(0, ready(), &[])])
}

/// A node with these rules on whose device a caller's job of 400 ms runs.
pub(crate) fn hot_with(rules: Rules, peers: &[PeerFacts]) -> Stage {
    let mut stage = ready_with(rules, peers);
    stage.feed(1, callers(99, &[1; 40], DEADLINE_MS));
    stage
}

/// How often a rule decided something.
pub(crate) fn count(stage: &Stage, rule: &str) -> u64 {
    stage.node.exercised().find(|(name, _)| *name == rule).map(|(_, count)| count).expect("a rule of this name")
}

/// The first forward among `effects`: job, attempt, peer.
pub(crate) fn forwarded(effects: &[Effect]) -> Option<(u64, u8, String)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Forward { job, attempt, peer, .. } => Some((job.0, attempt.0, peer.to_string())),
        _ => None,
    })
}

/// A peer sent a job, and said its load with it.
pub(crate) fn called(peer: &str, report: Report) -> Input {
    Input::Called { peer: id(peer), word: Word { report: Some(report), rtt: None } }
}

impl Stage {
    /// Feeds jobs of a unit each, of which those that are forwarded are done at once. Returns the peers that they went
    /// to; whoever stays here leaves.
    pub(crate) fn where_they_go(&mut self, at_ms: u64, jobs: std::ops::RangeInclusive<u64>) -> Vec<Option<String>> {
        let mut places = Vec::new();
        for job in jobs {
            let place = forwarded(&self.feed(at_ms, caller(job)));
            match &place {
                Some((job, attempt, peer)) => self.feed(at_ms, answered(*job, *attempt, peer, Verdict::Done)),
                None => self.feed(at_ms, left(job)),
            };
            places.push(place.map(|(_, _, peer)| peer));
        }
        places
    }
}
