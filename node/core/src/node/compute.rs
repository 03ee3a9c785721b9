//! What happens around this node's own device: batches out, verdicts in, and how long all that will take.
//!
//! Part of the machine in `node`.
//! Invariants: at most one batch is on the device; a row whose batch failed runs alone before anybody is blamed.

use super::{EngineFault, Job, Node, Outcome, Phase, Placed, Refusal, RowVerdict, Running, Source};
use crate::cost::Cost;
use crate::gate::Signal;
use crate::id::{BatchId, JobId, RowRef};
use crate::lifecycle::EngineState;
use crate::node::Effect;
use crate::queue::Pulled;
use crate::time::{Micros, MonoTime};

impl Node {
    /// Time until a job that came now would start to run.
    pub(super) fn wait_here(&self, now: MonoTime) -> Micros {
        self.completion_after(now, self.queue.units())
    }

    /// Time until a job of `units` that came now would be done: the running batch, what runs before it, itself.
    ///
    /// Work with a later deadline does not count: a caller in no hurry must not make hopeless who is in one.
    pub(super) fn completion_here(&self, now: MonoTime, units: u64, deadline: MonoTime) -> Micros {
        self.completion_after(now, self.queue.units_before(deadline) + units)
    }

    /// Time until the running batch and then `units` are done.
    fn completion_after(&self, now: MonoTime, units: u64) -> Micros {
        let cost = self.cost_here();
        let running = self.running.as_ref().map_or(Micros::ZERO, |running| {
            let (expected, elapsed) = (cost.of(running.units, 1), now.since(running.started));
            // A batch that is late by so long is expected to take that long again: a device that hangs must not look
            // idle, or it would attract all work.
            expected.max(elapsed) - expected.min(elapsed)
        });
        running + cost.of(units, units.div_ceil(self.rules.batch.units_max_at(cost)))
    }

    /// Gives the device its next batch if it is free.
    pub(super) fn pull(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        if self.running.is_some() || self.engine != EngineState::Ready {
            return;
        }
        let rows = self.queue.pull(&self.rules.batch, self.cost_here());
        if rows.is_empty() {
            return;
        }
        self.batches += 1;
        let batch = BatchId(self.batches);
        effects.push(Effect::Run { batch, rows: rows.iter().map(|pulled| pulled.row).collect() });
        let units = rows.iter().map(|pulled| u64::from(pulled.units)).sum();
        self.running = Some(Running { batch, rows, units, started: now });
    }

    /// Looks how fast the idle device is when it seems slower than the fastest peer.
    pub(super) fn measure_if_due(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let rules = self.rules.measure;
        let idle = self.running.is_none() && self.engine == EngineState::Ready;
        if !idle || now < self.measured + rules.interval {
            return;
        }
        let time = |cost: Cost| cost.of(self.measure_units, 1);
        let fastest = self.peers.costs().map(time).min();
        if fastest.is_some_and(|fastest| fastest.percent(rules.slower_percent) < time(self.cost_here())) {
            self.measured = now;
            effects.push(Effect::Measure);
        }
    }

    pub(super) fn on_batch_done(
        &mut self,
        now: MonoTime,
        batch: BatchId,
        took: Micros,
        verdicts: &[RowVerdict],
        effects: &mut Vec<Effect>,
    ) {
        let running = self.end_batch(batch);
        assert_eq!(running.rows.len(), verdicts.len(), "a batch has one verdict a row");
        self.cost.observe(running.units, took);
        self.measured = now;
        let was_alone = running.rows.len() == 1;
        for (pulled, verdict) in running.rows.into_iter().zip(verdicts) {
            match verdict {
                RowVerdict::Done => self.on_row_done(pulled.row, effects),
                RowVerdict::Rejected if self.is_here(pulled.row.job) => {
                    self.finish(pulled.row.job, Outcome::Rejected { placed: Placed::Here }, effects);
                }
                // Its job ended or moved while the batch ran.
                RowVerdict::Rejected => {}
                RowVerdict::Failed => self.on_row_failed(now, pulled, was_alone, effects),
            }
        }
    }

    pub(super) fn on_batch_failed(&mut self, now: MonoTime, batch: BatchId, effects: &mut Vec<Effect>) {
        let running = self.end_batch(batch);
        let was_alone = running.rows.len() == 1;
        for pulled in running.rows {
            self.on_row_failed(now, pulled, was_alone, effects);
        }
    }

    fn end_batch(&mut self, batch: BatchId) -> Running {
        let running = self.running.take().expect("a batch ends only after it was given to the device");
        assert_eq!(running.batch, batch, "the device answered for another batch");
        running
    }

    fn is_here(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| matches!(job.phase, Phase::Here { .. }))
    }

    fn on_row_done(&mut self, row: RowRef, effects: &mut Vec<Effect>) {
        let Some(Job { units, phase: Phase::Here { rows_done }, .. }) = self.jobs.get_mut(&row.job) else { return };
        *rows_done += 1;
        if *rows_done == units.len() {
            self.finish(row.job, Outcome::Done { placed: Placed::Here }, effects);
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
            Source::Peer { .. } => self.finish(id, Outcome::EngineFailed(EngineFault::OnOneNode), effects),
            Source::Caller => self.place_elsewhere(now, id, effects),
        }
    }

    /// The device is gone: what waits for it or runs on it goes elsewhere, and nobody is blamed.
    pub(super) fn leave_device(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let is_here = |job: &Job| matches!(job.phase, Phase::Here { .. });
        let here: Vec<JobId> = self.jobs.iter().filter(|(_, job)| is_here(job)).map(|(&id, _)| id).collect();
        for id in here {
            match self.jobs[&id].source {
                Source::Peer { .. } => self.finish(id, Outcome::Refused(Refusal::Unable), effects),
                Source::Caller => self.place_elsewhere(now, id, effects),
            }
        }
    }

    fn place_elsewhere(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        job.phase = Phase::Arriving;
        self.queue.remove(id, job.deadline);
        self.place(now, id, effects);
    }

    /// Takes the job out of everything and says how it ended.
    pub(super) fn finish(&mut self, id: JobId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let placements = self.forget(id, effects);
        effects.push(Effect::Finish { job: id, outcome, placements });
    }

    /// Takes the job out of everything. Returns how often it was placed.
    pub(super) fn forget(&mut self, id: JobId, effects: &mut Vec<Effect>) -> u8 {
        let job = self.jobs.remove(&id).expect("only a held job can end");
        self.bytes_held -= job.bytes;
        match job.phase {
            Phase::Arriving | Phase::Waiting => {}
            Phase::Here { .. } => self.queue.remove(id, job.deadline),
            Phase::Away { peer, attempt, .. } => {
                self.peers.on_settled(&peer, id);
                effects.push(Effect::Abandon { job: id, attempt });
            }
        }
        job.history.placements
    }

    /// Ends what passed its deadline, and places again what a peer did not acknowledge in time.
    pub(super) fn end_what_is_late(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let late: Vec<JobId> = self.jobs.iter().filter(|(_, job)| job.deadline <= now).map(|(&id, _)| id).collect();
        for id in late {
            self.finish(id, Outcome::Expired, effects);
        }
        let limit = self.rules.accept_limit.0;
        let silent = |job: &Job| match &job.phase {
            Phase::Away { peer, attempt, sent, accepted: false } if *sent + limit <= now => {
                Some((peer.clone(), *attempt))
            }
            Phase::Away { .. } | Phase::Here { .. } | Phase::Waiting | Phase::Arriving => None,
        };
        let silent: Vec<_> = self.jobs.iter().filter_map(|(&id, job)| silent(job).map(|away| (id, away))).collect();
        for (job, (peer, attempt)) in silent {
            effects.push(Effect::Abandon { job, attempt });
            self.on_broke(now, (job, attempt), &peer, Signal::Silent, effects);
        }
    }
}
