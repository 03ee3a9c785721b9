//! What happens around this node's own device: batches out, verdicts in, and how long all that will take.
//!
//! Part of the machine in `node`.
//! Invariants: no more batches are on the device than it has slots; a row whose batch failed runs alone before anybody
//! is blamed.

use super::canary::Wedge;
use super::job::{Flight, Job, Stay};
use super::{EngineFault, Node, Outcome, Placed, Refusal, RowVerdict, Running, Source};
use crate::batch::Work;
use crate::cost::Cost;
use crate::id::{Attempt, BatchId, JobId, RowRef};
use crate::lifecycle::EngineState;
use crate::node::Effect;
use crate::queue::Pulled;
use crate::retry::Cause;
use crate::route::Seat;
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// A batch that is about to end is not believed to end at once: it counts as at least this part of what it should take.
const LEFT_AT_LEAST_ONE_IN: u64 = 8;
/// A batch that ended after its device had been taken for hung counts as at most so many times what it should have
/// taken, however little is known: believed in full, a hang of a minute would be the speed of a device.
const SURPRISE_WEDGED_MAX: u64 = 4;
/// More peers than this make the mean no truer.
const ALIKE_MAX: usize = 64;
/// Time between two looks at who is as fast as this node.
const ALIKE_EVERY: Micros = Micros::from_ms(100);

impl Running {
    /// How long it should still take.
    ///
    /// A batch that is late by so long is expected to take that long again: a device that hangs must not look idle, or
    /// it would attract all work.
    fn left(&self, now: MonoTime, cost: Cost) -> Micros {
        let (expected, elapsed) = (cost.of(self.units, 1), now.since(self.started));
        let left = expected.max(elapsed) - expected.min(elapsed);
        left.max(Micros::new(expected.get() / LEFT_AT_LEAST_ONE_IN))
    }
}

impl Node {
    /// Time until a job that came now would start to run.
    pub(super) fn wait_here(&self, now: MonoTime) -> Micros {
        self.wait_for(now, self.queue.all())
    }

    /// Time until `job`, come now, would be done: the running batches, what runs before it, itself.
    ///
    /// Work with a later turn does not count: a caller in no hurry must not make hopeless who is in one.
    pub(super) fn completion_here(&self, now: MonoTime, job: &Job) -> Micros {
        let own = Work { rows: job.units.len() as u64, units: job.units_sum };
        self.completion_after(now, self.queue.before(job.turn), own)
    }

    /// Time until a job of these units, come now and in no hurry, would be done here, one entry a text; `None` where
    /// this node cannot compute. For a shell that has to know whether something else would be sooner.
    #[must_use]
    pub fn estimate(&self, now: MonoTime, units: &[u32]) -> Option<Micros> {
        self.can_compute().then(|| self.completion_after(now, self.queue.all(), Work::of(units)))
    }

    pub(super) fn completion_after(&self, now: MonoTime, before: Work, own: Work) -> Micros {
        match self.slots() {
            // On one device the job joins the last of the batches before it.
            1 => self.wait_for(now, before + own),
            slots => {
                let cost = self.time_of(own).get() / own.rows.clamp(1, slots);
                self.wait_for(now, before) + Micros::new(cost)
            }
        }
    }

    fn slots(&self) -> u64 {
        self.rules.batch.slots.max(1).into()
    }

    /// Time until a slot is free and `work` has been given to the device.
    pub(super) fn wait_for(&self, now: MonoTime, work: Work) -> Micros {
        let (slots, cost) = (self.slots(), self.cost_here());
        let batches = self.rules.batch.batches(cost, work);
        if self.running.len() as u64 + batches < slots {
            return Micros::ZERO;
        }
        let time = self.time_of(work);
        if slots == 1 {
            let left = self.running.first().map_or(Micros::ZERO, |running| running.left(now, cost));
            return left + time;
        }
        // What runs in many slots ends at any moment (as if it had no memory), so the first slot is free after the
        // harmonic sum; then the queue goes on as fast as all slots together.
        let per_second = |running: &Running| {
            let left = running.left(now, cost).max(cost.of(running.units, 1)).get().max(1);
            1_000_000_000_000 / left
        };
        let rate: u64 = self.running.iter().map(per_second).sum();
        Micros::new(1_000_000_000_000u64.checked_div(rate).unwrap_or(0)) + Micros::new(time.get() / slots)
    }

    /// Time of `work` on one slot.
    fn time_of(&self, work: Work) -> Micros {
        let cost = self.cost_here();
        cost.of(work.units, self.rules.batch.batches(cost, work))
    }

    /// Gives the device batches as long as it has a slot for one.
    pub(super) fn pull(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        while (self.running.len() as u64) < self.slots() && self.engine == EngineState::Ready {
            if self.queue.rows() == 0 {
                return;
            }
            let rows = self.queue.pull(&self.rules.batch, self.cost_here(), self.cost.units_to_learn());
            for pulled in &rows {
                if let Some(Job { here: Some(stay), .. }) = self.jobs.get_mut(&pulled.row.job) {
                    stay.started = true;
                }
            }
            self.note_use(now);
            self.batches += 1;
            let batch = BatchId(self.batches);
            effects.push(Effect::Run { batch, rows: rows.iter().map(|pulled| pulled.row).collect() });
            let units = rows.iter().map(|pulled| u64::from(pulled.units)).sum();
            self.running.push(Running { batch, rows, units, started: now });
        }
    }

    /// Ends a job that comes to the device too late for its deadline, by what it should take: it would take the time of
    /// those behind it, so that they would be late in turn. Under twice the load that can be served a fifth of the
    /// device went into answers that nobody waited for. With nobody behind it, it is tried, because the estimate may be
    /// wrong.
    pub(super) fn end_what_would_be_late(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        if self.slots() <= self.running.len() as u64 {
            return;
        }
        let cost = self.cost_here();
        while let Some((id, left)) = self.queue.first() {
            let job = &self.jobs[&id];
            let late = job.deadline < now + cost.of(left.units, 1);
            if !late || left == self.queue.all() || !job.flights.is_empty() {
                return;
            }
            self.tally.count(Rule::Expired);
            self.finish(now, id, Outcome::Expired, effects);
        }
    }

    /// Looks how fast the idle device is when it seems slower than the fastest peer.
    pub(super) fn measure_if_due(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let rules = self.rules.measure;
        let idle = self.running.is_empty() && self.can_compute();
        let interval = if self.quicker_than_believed { rules.interval_again } else { rules.interval };
        if !idle || now < self.measured + interval {
            return;
        }
        let units = self.measure_units;
        let time = |cost: Cost| cost.of(units, 1);
        let fastest = self.peers.costs(now, usize::MAX).map(time).min();
        if fastest.is_some_and(|fastest| fastest.percent(rules.slower_percent) < time(self.cost_here())) {
            self.tally.count(Rule::Measured);
            self.measured = now;
            effects.push(Effect::Measure);
        }
    }

    /// Looks which peers are as fast as this node, as far as it can tell.
    pub(super) fn look_who_is_alike(&mut self, now: MonoTime) {
        if self.rules.pool_costs && self.alike_at + ALIKE_EVERY <= now {
            self.alike_at = now;
            self.alike = self.cost.alike(self.peers.costs(now, ALIKE_MAX));
        }
    }

    /// The idle device took `took` for `units`. A node that was slow and is not any more is soon among the others
    /// again: where one look finds that, the next ones follow sooner.
    pub(super) fn on_measured(&mut self, now: MonoTime, units: u64, took: Micros) {
        let believed = self.cost.cost().unwrap_or_default().of(units, 1);
        self.quicker_than_believed = took.percent(self.rules.measure.slower_percent) < believed;
        self.canary.on_word(now);
        self.cost.on_measured(units, took);
        (self.learned, self.measured) = (now, now);
    }

    /// The device took `took` for `units`, from `began` on.
    ///
    /// A batch counts for the time since the one before it, from beginning to beginning. From end to end its own length
    /// would be part of that: long batches would count for more than short ones, and where batches are unlike a node
    /// would believe itself slower than it is.
    pub(super) fn learn_cost(&mut self, now: MonoTime, began: MonoTime, units: u64, took: Micros) {
        self.cost.observe(units, took, began.since(self.learned));
        (self.learned, self.measured) = (self.learned.max(began), now);
    }

    pub(super) fn on_batch_done(
        &mut self,
        now: MonoTime,
        batch: BatchId,
        took: Micros,
        verdicts: &[RowVerdict],
        effects: &mut Vec<Effect>,
    ) {
        let running = self.end_batch(now, batch);
        assert_eq!(running.rows.len(), verdicts.len(), "a batch has one verdict a row");
        // What was measured while this whole process stood still says nothing of its device's speed.
        if self.stood_still.is_none_or(|at| at < running.started) {
            match (self.engine, self.wedge()) {
                (EngineState::Ready, _) => self.learn_cost(now, running.started, running.units, took),
                // Either the device hung, or it is so slow that its canary was taken for lost behind this batch. If
                // nothing were learned then, a slow one would be back with the cost that it was believed to have, and
                // be lost again with the next batch.
                (_, Some(Wedge::Silent)) => {
                    let took = took.min(self.batch_time(&running).times(SURPRISE_WEDGED_MAX));
                    self.learn_cost(now, running.started, running.units, took);
                }
                (EngineState::Starting | EngineState::Wedged | EngineState::Failed, _) => {}
            }
        }
        if verdicts.contains(&RowVerdict::Failed) {
            self.canary.suspect();
        }
        let was_alone = running.rows.len() == 1;
        for (pulled, verdict) in running.rows.into_iter().zip(verdicts) {
            match verdict {
                RowVerdict::Done => self.on_row_done(now, pulled.row, effects),
                RowVerdict::Rejected if self.is_here(pulled.row.job) => {
                    self.finish(now, pulled.row.job, Outcome::Rejected { placed: Placed::Here }, effects);
                }
                // Its job ended or moved while the batch ran.
                RowVerdict::Rejected => {}
                RowVerdict::Failed => self.on_row_failed(now, pulled, was_alone, effects),
            }
        }
    }

    pub(super) fn on_batch_failed(&mut self, now: MonoTime, batch: BatchId, effects: &mut Vec<Effect>) {
        let running = self.end_batch(now, batch);
        self.canary.suspect();
        let was_alone = running.rows.len() == 1;
        for pulled in running.rows {
            self.on_row_failed(now, pulled, was_alone, effects);
        }
    }

    fn end_batch(&mut self, now: MonoTime, batch: BatchId) -> Running {
        self.note_use(now);
        self.canary.on_word(now);
        let at = self.running.iter().position(|running| running.batch == batch);
        self.running.remove(at.expect("a batch ends only after it was given to the device"))
    }

    fn is_here(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.here.is_some())
    }

    fn on_row_done(&mut self, now: MonoTime, row: RowRef, effects: &mut Vec<Effect>) {
        let Some(Job { units, here: Some(stay), .. }) = self.jobs.get_mut(&row.job) else { return };
        stay.rows_done += 1;
        if stay.rows_done == units.len() {
            let (stay, took) = (*stay, now.since(stay.since));
            self.stretch.on_answer(now, stay.promised, took);
            self.learn_lateness(stay.promised, took);
            if stay.hedge {
                self.tally.count(Rule::HedgeWon);
            }
            self.finish(now, row.job, Outcome::Done { placed: Placed::Here }, effects);
        }
    }

    pub(super) fn learn_lateness(&mut self, promised: Micros, took: Micros) {
        if let Some(rules) = &self.rules.hedge {
            self.lateness.on_job(rules.quantile_permille, promised, took);
        }
    }

    /// Who is to blame is known only of a row that ran alone: then its job goes once to another node.
    fn on_row_failed(&mut self, now: MonoTime, pulled: Pulled, was_alone: bool, effects: &mut Vec<Effect>) {
        let id = pulled.row.job;
        if !self.is_here(id) {
            return;
        }
        if !was_alone {
            self.queue.push_alone(pulled);
            return;
        }
        let job = self.jobs.get_mut(&id).expect("is_here found it");
        job.history.engine_failures += 1;
        match job.source {
            Source::Peer { .. } => {
                self.finish(now, id, Outcome::EngineFailed(EngineFault::OnOneNode), effects);
            }
            Source::Caller => self.place_elsewhere(now, id, Cause::Failed, effects),
        }
    }

    /// The device is gone: what waits for it or runs on it goes elsewhere, and nobody is blamed.
    pub(super) fn leave_device(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let here: Vec<JobId> = self.jobs.iter().filter(|(_, job)| job.here.is_some()).map(|(&id, _)| id).collect();
        for id in here {
            match self.jobs[&id].source {
                Source::Peer { .. } => self.finish(now, id, Outcome::Refused(Refusal::Unable), effects),
                Source::Caller => self.place_elsewhere(now, id, Cause::Death, effects),
            }
        }
    }

    fn place_elsewhere(&mut self, now: MonoTime, id: JobId, cause: Cause, effects: &mut Vec<Effect>) {
        self.take_off_device(id);
        self.place_if_nowhere(now, id, cause, effects);
    }

    /// Queues a job for this node's device, which `seat` offered.
    pub(super) fn queue_here(&mut self, now: MonoTime, id: JobId, seat: &Seat, hedge: bool) {
        debug_assert!(!self.siblings(id).here_full, "this node has its share of the call");
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        job.history.placements += u8::from(!hedge);
        job.history.attempts += 1;
        job.history.tried_here = true;
        job.here = Some(Stay { rows_done: 0, started: false, since: now, promised: seat.promised, hedge });
        self.here += 1;
        self.here_mine += u32::from(job.source == Source::Caller);
        self.queue.push(id, job.turn, job.units.clone());
        self.look_at_again(id);
    }

    pub(super) fn take_off_device(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.here.take().is_some() {
            self.here -= 1;
            self.here_mine -= u32::from(job.source == Source::Caller);
            self.queue.remove(id, job.turn);
            if let Some(part) = job.part {
                self.call_moved(part.of);
            }
        }
    }

    /// Takes the job out of everything and says how it ended.
    pub(super) fn finish(&mut self, now: MonoTime, id: JobId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let mut job = self.forget(id, effects);
        match &outcome {
            Outcome::Done { placed } => self.blame(now, &job, placed),
            // Where the model failed and nobody else was asked, nobody knows whose fault that is: the jobs that may be
            // placed again show it, and the canary.
            Outcome::EngineFailed(_)
            | Outcome::Rejected { .. }
            | Outcome::Overloaded { .. }
            | Outcome::Unavailable { .. }
            | Outcome::Expired
            | Outcome::Refused(_) => {}
        }
        self.on_chunk_ended(id, &mut job, &outcome);
        let (placements, explanation) = (job.history.placements, job.explanation);
        effects.push(Effect::Finish { job: id, outcome, placements, explanation });
    }

    /// The job was done at `placed`: the nodes whose model failed on it failed by their own fault.
    fn blame(&mut self, now: MonoTime, job: &Job, placed: &Placed) {
        if *placed == Placed::Here {
            self.on_own_answer(now, false);
        } else if job.failed_here() {
            self.tally.count(Rule::Blamed);
            self.on_own_answer(now, true);
        }
        for (peer, ticket) in &job.failed_at {
            self.tally.count(Rule::Blamed);
            self.peers.on_blamed(now, peer, *ticket, &mut self.tally);
        }
    }

    /// This node's own model gave an answer, or (`error`) failed where it should not have.
    fn on_own_answer(&mut self, now: MonoTime, error: bool) {
        if self.own_errors.on_outcome(now, self.rules.peers.breaker.as_ref(), error) {
            self.tally.count(Rule::BreakerPaused);
        }
    }

    /// Takes the job out of everything.
    pub(super) fn forget(&mut self, id: JobId, effects: &mut Vec<Effect>) -> Job {
        self.take_off_device(id);
        let mut job = self.jobs.remove(&id).expect("only a held job can end");
        self.bytes_held -= job.bytes;
        self.waiting -= u32::from(job.waiting);
        self.chunks -= u32::from(job.part.is_some());
        for flight in job.flights.drain(..) {
            if let Some(ticket) = flight.ticket {
                self.peers.on_ended(&flight.peer, ticket);
            }
            effects.push(Effect::Abandon { job: id, attempt: flight.attempt });
        }
        job
    }

    /// The next moment at which something about `job` is late: its deadline, an acknowledgement, itself.
    fn due_of(&self, job: &Job) -> MonoTime {
        let lag = self.lag();
        let silent = job.flights.iter().filter_map(|flight| flight.silent_at(lag));
        silent.chain(self.hedge_at(job)).fold(job.deadline, MonoTime::min)
    }

    /// Something about the job changed that may make it late sooner.
    pub(super) fn look_at_again(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get(&id) {
            self.due = self.due.min(self.due_of(job));
        }
    }

    /// Ends what passed its deadline, places again what a peer did not acknowledge in time, and hedges what is late.
    pub(super) fn end_what_is_late(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        if now < self.due {
            return;
        }
        let late: Vec<JobId> = self.jobs.iter().filter(|(_, job)| self.due_of(job) <= now).map(|(&id, _)| id).collect();
        // Looked at once for all of them: it asks all peers.
        let may_hedge = !late.is_empty() && self.may_hedge(now);
        for id in late {
            self.end_if_late(now, id, may_hedge, effects);
        }
        let next = self.jobs.values().map(|job| self.due_of(job)).min();
        // What is late and stays so, because a hedge was refused, is looked at again with the next tick.
        self.due = next.unwrap_or(now);
    }

    fn end_if_late(&mut self, now: MonoTime, id: JobId, may_hedge: bool, effects: &mut Vec<Effect>) {
        // It may have ended with one before it in the list.
        let Some(job) = self.jobs.get(&id) else { return };
        if job.deadline <= now {
            self.tally.count(Rule::Expired);
            self.blame_for_being_late(now, id);
            return self.finish(now, id, Outcome::Expired, effects);
        }
        if may_hedge && self.hedge_at(job).is_some_and(|at| at <= now) {
            self.hedge(now, id, effects);
        }
        if self.in_doubt(now) {
            return;
        }
        let lag = self.lag();
        let is_silent = |flight: &&Flight| flight.silent_at(lag).is_some_and(|at| at <= now);
        let silent: Vec<Attempt> =
            self.jobs[&id].flights.iter().filter(is_silent).map(|flight| flight.attempt).collect();
        for attempt in silent {
            self.on_silent(now, (id, attempt), effects);
        }
    }

    /// Nobody waits any more for what a peer should have answered by now, or nobody for it alone: its word counts for
    /// less.
    pub(super) fn blame_for_being_late(&mut self, now: MonoTime, id: JobId) {
        if self.in_doubt(now) {
            return;
        }
        for flight in &self.jobs[&id].flights {
            if let Some(late) = flight.late(now) {
                self.peers.on_late(now, &flight.peer, flight.ticket, late);
            }
        }
    }
}
