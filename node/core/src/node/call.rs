//! A caller's call that is cut into chunks: which chunk starts when, and how the call ends.
//!
//! Part of the machine in `node`. Each chunk is a job like any other; here is what they have in common.
//! Invariants: a call that is held has a chunk that is; no node has more of its chunks than the rules say, a job that
//! is placed again or a second time included; a chunk waits for room only while another one is at a node; a call counts
//! once in what is held, and its chunks not at all; when the call ends, whatever is left of it ends.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::explain::Explanation;
use super::job::{Job, Part};
use super::{Arrival, Effect, Node, Outcome, Placed, Source};
use crate::admission;
use crate::batch::Work;
use crate::cost::Cost;
use crate::id::{JobId, NodeId};
use crate::retry::Cause;
use crate::split::SplitRules;
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// More peers than this make it no clearer what a shoal can do.
const PEERS_MAX: usize = 64;

/// A call that was cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Call {
    units: Arc<[u32]>,
    bytes: u64,
    arrived: MonoTime,
    deadline: MonoTime,
    client: u64,
    /// The first row that is in no chunk yet.
    next: usize,
    /// Chunks that did not end, in the order of their rows.
    open: Vec<JobId>,
    /// How often the chunk was placed that was placed most often.
    placements: u8,
    /// How the first chunk ended that did not end well.
    failed: Option<Outcome>,
    /// How many chunks there were.
    chunks: u32,
    /// Something about its chunks changed in this step.
    moved: bool,
    /// Of its first chunk.
    explanation: Option<Box<Explanation>>,
}

/// Where the other chunks of a chunk's call are. Nowhere, for a job that is no chunk.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// Peers that have as many of them as they may, without those that the chunk was on: to them it does not go again.
    pub(super) full: Vec<NodeId>,
    /// This node has as many of them as it may, and the chunk was not here.
    pub(super) here_full: bool,
    /// At least one is at a node.
    any_out: bool,
}

impl Siblings {
    /// A node may be free for the chunk when one of them ends.
    pub(super) fn make_room(&self) -> bool {
        self.any_out && (self.here_full || !self.full.is_empty())
    }
}

impl Node {
    /// Whether a call is worth being cut, by what its units cost here or, while that is not known, on the fastest peer.
    pub(super) fn is_to_be_cut(&mut self, now: MonoTime, arrival: &Arrival) -> bool {
        let Some(rules) = self.rules.split.filter(|_| arrival.source == Source::Caller && 1 < arrival.units.len())
        else {
            return false;
        };
        let cost = self.cost_of_chunks(now);
        rules.is_worth(&self.rules.batch, cost, &arrival.units)
    }

    fn cost_of_chunks(&mut self, now: MonoTime) -> Cost {
        if self.cost.cost().is_some() {
            return self.cost_here();
        }
        let peers = self.peers.costs(now, PEERS_MAX);
        peers.min_by_key(|cost| cost.of(self.rules.batch.units_max, 1)).unwrap_or_default()
    }

    /// Holds a call, or refuses it when all nodes together could not be in time. Its chunks start at the end of the
    /// step. A session does not keep it together: it is larger than what its owner should do alone.
    pub(super) fn begin_call(&mut self, now: MonoTime, arrival: Arrival, effects: &mut Vec<Effect>) {
        let Arrival { job: id, units, bytes, deadline, client, explain, .. } = arrival;
        let explanation = explain.then(Box::<Explanation>::default);
        if self.time_of_all(now, Work::of(&units)).is_some_and(|time| admission::hopeless(now, time, deadline)) {
            self.tally.count(Rule::ShedHopeless);
            let outcome = Outcome::Overloaded { retry_after: self.retry_after(now) };
            effects.push(Effect::Finish { job: id, outcome, placements: 0, explanation });
            return;
        }
        self.tally.count(Rule::Split);
        self.bytes_held += bytes;
        let call = Call {
            units,
            bytes,
            arrived: now,
            deadline,
            client,
            next: 0,
            open: Vec::new(),
            placements: 0,
            failed: None,
            chunks: 0,
            moved: false,
            explanation,
        };
        self.calls.insert(id, call);
        self.call_moved(id);
    }

    /// Time in which all nodes that take work could do this together, at their own speeds and with nothing else to do:
    /// no call is done sooner. `None` when nobody is known who could.
    fn time_of_all(&mut self, now: MonoTime, work: Work) -> Option<Micros> {
        /// Enough for the rate of the slowest device to be a number.
        const WHOLE: u64 = 1_000_000_000_000;
        let batch = self.rules.batch;
        let rate = |cost: Cost| {
            let time = cost.of(work.units, batch.batches(cost, work));
            WHOLE / (time.get() / u64::from(batch.slots.max(1))).max(1)
        };
        let (ready, own) = (self.peers.ready(now) as u64, rate(self.cost_here()));
        let told = self.peers.costs(now, usize::MAX).map(rate);
        let (told, rates) = told.fold((0, 0u64), |(told, sum), rate| (told + 1, sum.saturating_add(rate)));
        // Who did not say how fast it is counts as fast as this node.
        let alike = ready.saturating_sub(told) + u64::from(self.can_compute());
        let rates = rates.saturating_add(own.saturating_mul(alike));
        (0 < ready || self.can_compute()).then(|| Micros::new(WHOLE / rates.max(1)))
    }

    /// Something changed that may let the next chunk of a call start, or end the call.
    pub(super) fn call_moved(&mut self, id: JobId) {
        if let Some(call) = self.calls.get_mut(&id)
            && !std::mem::replace(&mut call.moved, true)
        {
            self.calls_moved.push(id);
        }
    }

    /// Goes on with the calls about whose chunks something changed. Comes at the end of a step: what else happens in it
    /// finds every job where it was.
    pub(super) fn go_on_with_calls(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        while let Some(id) = self.calls_moved.pop() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.moved = false;
            match &call.failed {
                Some(outcome) => {
                    let outcome = outcome.clone();
                    self.end_call(now, id, Some(outcome), effects);
                }
                None if call.open.is_empty() && call.next == call.units.len() => {
                    self.end_call(now, id, Some(Outcome::Done { placed: Placed::InChunks }), effects);
                }
                None => self.start_chunks(now, id, effects),
            }
        }
    }

    /// Places the chunks of a call that wait for room, then new ones, until one has to wait that may go anywhere.
    fn start_chunks(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let parked = |chunk: &JobId| Some((*chunk, self.jobs.get(chunk)?.parked?));
        let parked: Vec<_> = self.calls[&id].open.iter().filter_map(parked).collect();
        for (chunk, only_here) in parked {
            self.take_turn(now, id, chunk);
            self.place(now, chunk, Cause::Room { only_here }, effects);
            // Where this one may not go, or was, the next one may go.
            if !only_here && self.jobs.get(&chunk).is_none_or(|job| job.is_nowhere() && job.history.attempts == 0) {
                return;
            }
        }
        let Some(rules) = self.rules.split else { return };
        loop {
            let call = &self.calls[&id];
            let is_open = call.failed.is_none() && call.open.len() < rules.open_max.max(1) as usize;
            if !is_open || call.next == call.units.len() {
                return;
            }
            let chunk = self.cut(now, id, &rules, effects);
            self.take_turn(now, id, chunk);
            self.place(now, chunk, Cause::New, effects);
            if self.is_nowhere(chunk) {
                return;
            }
        }
    }

    /// A chunk that goes to a node for the first time takes its turn there as if it were a call of its own that came
    /// now. By the deadline of its call, each chunk would go before everything that came since, until the call is over.
    fn take_turn(&mut self, now: MonoTime, id: JobId, chunk: JobId) {
        let (Some(call), Some(job)) = (self.calls.get(&id), self.jobs.get_mut(&chunk)) else { return };
        if job.history.attempts == 0 {
            job.turn = now + call.deadline.since(call.arrived);
        }
    }

    /// Whether the job is a chunk of a call that was begun: one was placed, or a second one cut. Such a call is not
    /// refused half-way because it may be late: it ends when it is, or comes to a device too late.
    pub(super) fn is_begun(&self, id: JobId) -> bool {
        let job = &self.jobs[&id];
        let Some(Part { of, is_first }) = job.part else { return false };
        !is_first || 0 < job.history.attempts || self.calls.get(&of).is_some_and(|call| 1 < call.chunks)
    }

    /// It waits for room or for a node to start, or ended at once.
    fn is_nowhere(&self, chunk: JobId) -> bool {
        self.jobs.get(&chunk).is_none_or(Job::is_nowhere)
    }

    /// Makes a job of the next rows of a call.
    fn cut(&mut self, now: MonoTime, id: JobId, rules: &SplitRules, effects: &mut Vec<Effect>) -> JobId {
        let cost = self.cost_of_chunks(now);
        let call = self.calls.get_mut(&id).expect("only a held call goes on");
        let is_first = call.next == 0;
        let rows = call.next..call.next + rules.next(&self.rules.batch, cost, &call.units[call.next..]);
        (call.next, call.chunks) = (rows.end, call.chunks + 1);
        self.chunks_made += 1;
        let chunk = JobId::of_chunk(self.chunks_made);
        call.open.push(chunk);
        let units: Arc<[u32]> = Arc::from(&call.units[rows.clone()]);
        let job = Job {
            part: Some(Part { of: id, is_first }),
            explanation: call.explanation.take_if(|_| is_first),
            ..Job::new(now, Source::Caller, units, call.deadline, call.client)
        };
        self.due = self.due.min(job.deadline);
        self.count_request();
        self.tally.count(Rule::ChunkCut);
        self.chunks += 1;
        self.jobs.insert(chunk, job);
        effects.push(Effect::Cut { call: id, chunk, rows: count(&rows) });
        chunk
    }

    /// The chunk waits for another one of its call to end.
    pub(super) fn park(&mut self, id: JobId, only_here: bool) {
        self.jobs.get_mut(&id).expect("only a held job is placed").parked = Some(only_here);
    }

    /// Where the other chunks of its call are.
    pub(super) fn siblings(&self, id: JobId) -> Siblings {
        let mut siblings = Siblings::default();
        if !id.is_chunk() {
            return siblings;
        }
        let Some(Job { part: Some(Part { of, .. }), history, .. }) = self.jobs.get(&id) else { return siblings };
        let Some((call, rules)) = self.calls.get(of).zip(self.rules.split) else { return siblings };
        let (mut here, mut away) = (0, Vec::<(&NodeId, u32)>::new());
        for job in call.open.iter().filter(|&&other| other != id).filter_map(|other| self.jobs.get(other)) {
            here += u32::from(job.here.is_some());
            for flight in &job.flights {
                match away.iter_mut().find(|(peer, _)| **peer == flight.peer) {
                    Some((_, chunks)) => *chunks += 1,
                    None => away.push((&flight.peer, 1)),
                }
            }
        }
        siblings.any_out = 0 < here || !away.is_empty();
        let is_full = |chunks: u32| rules.per_node_max.max(1) <= chunks;
        siblings.here_full = is_full(here) && !history.tried_here;
        let full = away.into_iter().filter(|&(peer, chunks)| is_full(chunks) && !history.tried.contains(peer));
        siblings.full = full.map(|(peer, _)| peer.clone()).collect();
        siblings
    }

    /// A chunk ended and was forgotten.
    pub(super) fn on_chunk_ended(&mut self, chunk: JobId, job: &mut Job, outcome: &Outcome) {
        let Some(Part { of, .. }) = job.part else { return };
        // The call itself may have ended: then nobody asks any more.
        let Some(call) = self.calls.get_mut(&of) else { return };
        call.open.retain(|open| *open != chunk);
        call.note(job);
        if !matches!(outcome, Outcome::Done { .. }) {
            call.failed.get_or_insert_with(|| outcome.clone());
        }
        self.call_moved(of);
    }

    /// Takes a call and what is left of its chunks out of everything. Says how it ended, unless its caller left.
    pub(super) fn end_call(&mut self, now: MonoTime, id: JobId, outcome: Option<Outcome>, effects: &mut Vec<Effect>) {
        let mut call = self.calls.remove(&id).expect("only a held call can end");
        self.bytes_held -= call.bytes;
        for chunk in std::mem::take(&mut call.open) {
            self.blame_for_being_late(now, chunk);
            let mut job = self.forget(chunk, effects);
            call.note(&mut job);
        }
        if let Some(outcome) = outcome {
            let (placements, mut explanation) = (call.placements, call.explanation);
            if let Some(explanation) = &mut explanation {
                explanation.chunks = call.chunks;
            }
            effects.push(Effect::Finish { job: id, outcome, placements, explanation });
        }
    }
}

impl Call {
    /// Keeps what is told of a chunk when the call ends.
    fn note(&mut self, job: &mut Job) {
        self.placements = self.placements.max(job.history.placements);
        self.explanation = self.explanation.take().or_else(|| job.explanation.take());
    }
}

fn count(rows: &Range<usize>) -> Range<u32> {
    let row = |row: usize| u32::try_from(row).expect("admission bounds the rows of a call");
    row(rows.start)..row(rows.end)
}
