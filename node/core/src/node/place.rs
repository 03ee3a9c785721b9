//! Where a job goes: on arrival, and again whenever a placement came to nothing.
//!
//! Part of the machine in `node`.
//! Invariants: a job of a peer never gets a forward; a job is never placed twice on the same node; busy and full are no
//! blame, a broken connection is.

use super::{Arrival, Effect, EngineFault, Job, Node, Outcome, Phase, Placed, Refusal, Source, Verdict};
use crate::admission;
use crate::gate::Signal;
use crate::id::{Attempt, JobId, NodeId};
use crate::lifecycle::{DoorState, EngineState};
use crate::peers::{Question, Word};
use crate::retry::{self, History, Next};
use crate::route::{self, Candidate, Choice, Here};
use crate::time::{Micros, MonoTime};

impl Node {
    pub(super) fn on_arrived(&mut self, now: MonoTime, arrival: Arrival, effects: &mut Vec<Effect>) {
        let Arrival { job: id, source, units, bytes, deadline } = arrival;
        assert!(!units.is_empty(), "a job has at least one text");
        assert!(!self.jobs.contains_key(&id), "job ids are never used twice");
        if !admission::fits(&self.rules.admission, self.held(), bytes) {
            let outcome = match source {
                Source::Caller => Outcome::Overloaded { retry_after: self.retry_after(now) },
                Source::Peer { .. } => Outcome::Refused(Refusal::Full),
            };
            effects.push(Effect::Finish { job: id, outcome, placements: 0 });
            return;
        }
        let units_sum = units.iter().map(|&units| u64::from(units)).sum();
        let (history, phase) = (History::default(), Phase::Arriving);
        self.bytes_held += bytes;
        self.jobs.insert(id, Job { source, units, units_sum, bytes, arrived: now, deadline, history, phase });
        self.place(now, id, effects);
    }

    pub(super) fn on_left(&mut self, _now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        // The job may have ended in the same moment.
        if self.jobs.contains_key(&id) {
            self.forget(id, effects);
        }
    }

    /// Decides where a job goes that is nowhere.
    pub(super) fn place(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let job = &self.jobs[&id];
        if job.deadline <= now {
            return self.finish(id, Outcome::Expired, effects);
        }
        match job.source {
            Source::Peer { bound } => self.place_peers_job(now, id, bound, effects),
            Source::Caller => self.place_callers_job(now, id, effects),
        }
    }

    /// Here, or refused before anything is queued: the origin knows what else can be done.
    fn place_peers_job(&mut self, now: MonoTime, id: JobId, bound: Option<Micros>, effects: &mut Vec<Effect>) {
        let job = &self.jobs[&id];
        let completion = self.completion_here(now, job.units_sum, job.deadline);
        let refusal = if matches!(self.door, DoorState::Closing { .. } | DoorState::Closed) {
            Some(Refusal::Draining)
        } else if self.engine != EngineState::Ready {
            Some(Refusal::Unable)
        } else if bound.is_some_and(|bound| bound < completion) {
            Some(Refusal::Busy)
        } else if admission::hopeless(now, completion, job.deadline) {
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.finish(id, Outcome::Refused(refusal), effects);
        }
        self.queue_here(id);
        let report = self.report(now);
        effects.push(Effect::Acknowledge { job: id, report });
    }

    fn place_callers_job(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let job = &self.jobs[&id];
        // Also behind a closed door: whoever still gets here has a connection, and there may be no peer.
        let can_here = self.engine == EngineState::Ready;
        let next = retry::next(&self.rules.retry, &job.history, can_here);
        let own = self.completion_here(now, job.units_sum, job.deadline);
        let here = match next {
            Next::RequestsFault => {
                return self.finish(id, Outcome::EngineFailed(EngineFault::Everywhere), effects);
            }
            Next::Nowhere => return self.give_up(now, id, effects),
            Next::OnlyAway => Here::Cannot,
            Next::OnlyHere => Here::Can(own),
            Next::Anywhere if self.door.draining() => Here::LastResort,
            Next::Anywhere => Here::Can(own),
        };
        let candidates = if next == Next::OnlyHere { Vec::new() } else { self.two_candidates(now, id) };
        let able = here != Here::Cannot || !candidates.is_empty();
        // Who would be late is no choice: neither for its advantage nor for want of a margin.
        let deadline = self.jobs[&id].deadline;
        let in_time = |completion| !admission::hopeless(now, completion, deadline);
        let here = if in_time(own) { here } else { Here::Cannot };
        let candidates = candidates.into_iter().filter(|candidate| in_time(candidate.completion)).collect();
        match route::choose(&self.rules.route, here, candidates) {
            Choice::Here => self.queue_here(id),
            Choice::There(peer) => self.send_away(now, id, &peer, here, effects),
            Choice::Nowhere if able => self.shed(now, id, effects),
            Choice::Nowhere => self.wait_or_give_up(now, id, effects),
        }
    }

    /// A node that was just started knows no peer for some tenths of a second and has no model for some seconds:
    /// callers that it was resolved to are held for a moment instead of being refused.
    fn wait_or_give_up(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        if self.engine == EngineState::Starting && now < job.arrived + self.rules.retry.start_hold {
            job.phase = Phase::Waiting;
        } else {
            self.give_up(now, id, effects);
        }
    }

    /// Tries again to place what waits for this node, or a peer, to be able to compute.
    pub(super) fn place_waiting(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let waiting = self.jobs.iter().filter(|(_, job)| matches!(job.phase, Phase::Waiting));
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.place(now, id, effects);
        }
    }

    fn two_candidates(&mut self, now: MonoTime, id: JobId) -> Vec<Candidate> {
        let job = &self.jobs[&id];
        let question = Question {
            rules: &self.rules.load,
            units: job.units_sum,
            wait_mean: self.peers.wait_mean(self.wait_here(now)),
            cost_unknown: self.cost_here(),
        };
        let eligible = self.peers.eligible(&job.history.tried);
        route::two_of(&mut self.prng, eligible.len())
            .filter_map(|index| self.peers.candidate(now, eligible[index], &question))
            .collect()
    }

    fn queue_here(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        job.history.placements += 1;
        job.history.tried_here = true;
        job.phase = Phase::Here { rows_done: 0 };
        self.queue.push(id, job.deadline, job.units.clone());
    }

    fn send_away(&mut self, now: MonoTime, id: JobId, peer: &Candidate, here: Here, effects: &mut Vec<Effect>) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        assert_eq!(job.source, Source::Caller, "a job of a peer is never handed on");
        job.history.placements += 1;
        job.history.tried.push(peer.id.clone());
        let attempt = Attempt(job.history.placements);
        job.phase = Phase::Away { peer: peer.id.clone(), attempt, sent: now, accepted: false };
        self.peers.on_sent(&peer.id, id, job.units_sum);
        let bound = match here {
            Here::Can(own) if !job.history.busy_refused => Some(own),
            Here::Can(_) | Here::LastResort | Here::Cannot => None,
        };
        let remaining = job.deadline.since(now);
        effects.push(Effect::Forward { job: id, attempt, peer: peer.id.clone(), bound, remaining });
    }

    /// All placements are used up, or there is nowhere to go.
    pub(super) fn give_up(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let retry_after = self.retry_after(now);
        let outcome = match self.jobs[&id].history.engine_failures {
            0 => Outcome::Unavailable { retry_after },
            _ => Outcome::EngineFailed(EngineFault::OnOneNode),
        };
        self.finish(id, outcome, effects);
    }

    fn shed(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let retry_after = self.retry_after(now);
        self.finish(id, Outcome::Overloaded { retry_after }, effects);
    }

    fn retry_after(&mut self, now: MonoTime) -> Micros {
        let wait = self.wait_here(now);
        admission::retry_after(&self.rules.admission, wait, &mut self.prng)
    }

    /// The job if `attempt` is its current placement: news of an earlier one is late.
    fn current(&mut self, id: JobId, attempt: Attempt) -> Option<&mut Job> {
        let current = |job: &Job| match &job.phase {
            Phase::Away { attempt: current, .. } => *current == attempt,
            Phase::Here { .. } | Phase::Waiting | Phase::Arriving => false,
        };
        self.jobs.get_mut(&id).filter(|job| current(job))
    }

    pub(super) fn on_accepted(&mut self, now: MonoTime, id: JobId, attempt: Attempt, peer: &NodeId, word: Word) {
        self.heard(now, peer, word);
        let Some(job) = self.current(id, attempt) else { return };
        if let Phase::Away { accepted, .. } = &mut job.phase {
            *accepted = true;
        }
        self.peers.on_settled(peer, id);
    }

    pub(super) fn on_answered(
        &mut self,
        now: MonoTime,
        id: JobId,
        attempt: Attempt,
        verdict: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.take_back(id, attempt) else { return };
        let placed = Placed::Away(peer, attempt);
        match verdict {
            Verdict::Done => self.finish(id, Outcome::Done { placed }, effects),
            Verdict::Rejected => self.finish(id, Outcome::Rejected { placed }, effects),
            // The peer may allow less time than this node; only the own clock says that it is over.
            Verdict::Expired => self.place(now, id, effects),
            Verdict::Failed => {
                let job = self.jobs.get_mut(&id).expect("take_back found it");
                job.history.engine_failures += 1;
                self.place(now, id, effects);
            }
        }
    }

    pub(super) fn on_refused(
        &mut self,
        now: MonoTime,
        id: JobId,
        attempt: Attempt,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        if self.take_back(id, attempt).is_none() {
            return;
        }
        let job = self.jobs.get_mut(&id).expect("take_back found it");
        job.history.busy_refused |= refusal == Refusal::Busy;
        self.place(now, id, effects);
    }

    pub(super) fn on_broke(
        &mut self,
        now: MonoTime,
        (id, attempt): (JobId, Attempt),
        peer: &NodeId,
        signal: Signal,
        effects: &mut Vec<Effect>,
    ) {
        self.peers.on_failed(now, &self.rules.gate, peer, signal);
        if self.take_back(id, attempt).is_some() {
            self.place(now, id, effects);
        }
    }

    /// Takes the job back from the peer that had it. `None` when that placement is not current.
    fn take_back(&mut self, id: JobId, attempt: Attempt) -> Option<NodeId> {
        let job = self.current(id, attempt)?;
        let Phase::Away { peer, .. } = std::mem::replace(&mut job.phase, Phase::Arriving) else { return None };
        self.peers.on_settled(&peer, id);
        Some(peer)
    }
}
