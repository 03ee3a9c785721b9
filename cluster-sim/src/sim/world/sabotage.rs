//! Planted bugs: what reaches the world of a machine, or a machine of the world, is tampered with.
//!
//! Part of `world`, for the tests of `check` only: a check that never fires proves nothing.
//! Invariants: without a planted bug nothing is changed; each bug acts a few times at most where that is enough.

use std::cell::Cell;

use shoal_core::id::Attempt;

use super::super::plan::Sabotage;
use super::super::slab::Key;
use super::Seat;
use super::records::{Batch, Request};

/// How often a bug acts that has to act only now and then.
const EVERY: u64 = 50;

/// Does what one [`Sabotage`] says.
#[derive(Debug)]
pub(super) struct Saboteur {
    bug: Option<Sabotage>,
    turns: Cell<u64>,
    kept: Option<Key>,
    leaked: Option<Key>,
}

impl Saboteur {
    pub(super) fn new(bug: Option<Sabotage>) -> Self {
        Self { bug, turns: Cell::new(0), kept: None, leaked: None }
    }

    fn is(&self, bug: Sabotage) -> bool {
        self.bug == Some(bug)
    }

    /// True every now and then, when it is this bug's turn.
    fn strikes(&self, bug: Sabotage) -> bool {
        if !self.is(bug) {
            return false;
        }
        self.turns.set(self.turns.get() + 1);
        self.turns.get().is_multiple_of(EVERY)
    }

    pub(super) fn loses_finish(&self) -> bool {
        self.strikes(Sabotage::LoseFinish)
    }

    pub(super) fn repeats_finish(&self) -> bool {
        self.strikes(Sabotage::RepeatFinish)
    }

    pub(super) fn breaks_answer(&self) -> bool {
        self.strikes(Sabotage::BreakAnswers)
    }

    pub(super) fn forgets_source(&self) -> bool {
        self.is(Sabotage::ForgetSource)
    }

    pub(super) fn ignores_breaks(&self) -> bool {
        self.is(Sabotage::IgnoreBreaks)
    }

    /// Whether the end of a connection is heard by nobody: it would tell what these bugs hide.
    pub(super) fn ignores_ends(&self) -> bool {
        self.is(Sabotage::IgnoreBreaks) || self.is(Sabotage::HideDead)
    }

    pub(super) fn hides_joined(&self) -> bool {
        self.is(Sabotage::HideJoined)
    }

    pub(super) fn hides_dead(&self) -> bool {
        self.is(Sabotage::HideDead)
    }

    pub(super) fn hides_draining(&self) -> bool {
        self.is(Sabotage::HideDraining)
    }

    pub(super) fn keeps_cut(&self) -> bool {
        self.is(Sabotage::KeepCut)
    }

    pub(super) fn keeps_slow(&self) -> bool {
        self.is(Sabotage::KeepSlow)
    }

    /// Where a forwarded job really goes.
    pub(super) fn target(&self, to: usize, request: Option<&Request>, seats: &[Seat]) -> usize {
        match self.bug {
            Some(Sabotage::SameNodeTwice) => {
                let first = request.filter(|asked| 0 < asked.path_len).map(|asked| asked.path[0] as usize);
                first.unwrap_or(to)
            }
            Some(Sabotage::PreferDead) => {
                let fresh = request.is_some_and(|asked| asked.path_len == 0);
                seats.iter().position(|seat| fresh && seat.gone.is_some()).unwrap_or(to)
            }
            _ => to,
        }
    }

    pub(super) fn attempt(&self, attempt: Attempt) -> Attempt {
        if self.is(Sabotage::MixAttempts) { Attempt(attempt.0.saturating_add(1)) } else { attempt }
    }

    /// For whom an answer is taken to be: now and then for the request before.
    pub(super) fn computed_for(&mut self, request: Key) -> Key {
        if !self.is(Sabotage::SwapAnswers) {
            return request;
        }
        let before = self.kept.replace(request).unwrap_or(request);
        if self.strikes(Sabotage::SwapAnswers) { before } else { request }
    }

    /// Whether a batch never ends: that of the job of nobody.
    pub(super) fn keeps_batch(&self, batch: Option<&Batch>) -> bool {
        let Some(leaked) = self.leaked else { return false };
        batch.is_some_and(|batch| batch.rows.iter().any(|row| row.job.0 == leaked.number()))
    }

    /// `job` is of nobody.
    pub(super) fn leaked(&mut self, job: Key) {
        self.leaked = Some(job);
    }

    /// Whether it is time for a job of nobody; only once.
    pub(super) fn leaks_job(&self) -> bool {
        self.is(Sabotage::LeakJob) && self.leaked.is_none()
    }

    pub(super) fn lies(&self, node: usize) -> bool {
        self.is(Sabotage::OneIdle) && node == 0
    }
}
