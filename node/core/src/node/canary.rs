//! When to ask this node's model a question whose answer is known, and what follows from the answer.
//!
//! Part of the machine in `node`. What is asked, and whether an answer is right, is the shell's business.
//! Invariants: at most one canary is out; an engine becomes wedged by a canary only, by its verdict or because it stays
//! out: a text on which the model fails asks for a canary and proves nothing, whoever sent it; a canary that is out
//! counts as late only after all that may be before it on the device should have ended, so a busy device is not wedged.

use serde::{Deserialize, Serialize};

use super::rules::CanaryRules;
use super::{CanaryVerdict, Effect, Node, Running};
use crate::lifecycle::EngineState;
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// A batch that takes so many times what it should, and by at least this much longer, is a reason to ask.
const OVERDUE_FACTOR: u64 = 4;
const OVERDUE_BY: Micros = Micros::from_ms(200);
/// A canary may take so many times what an inference of its size should.
const LATE_FACTOR: u64 = 4;
/// Where callers' texts are the reason to ask before it is time anyway, at most one part in so many of the device's
/// time goes to canaries: whoever sends texts that fail must not slow the others down by them.
const SHARE_ONE_IN: u64 = 20;

/// Why the engine is wedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wedge {
    /// The canary's answer was wrong, or an error.
    Wrong,
    /// The canary had no answer in time.
    Silent,
}

/// What is known of the canary.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Canary {
    /// When the one that is out was asked for.
    asked: Option<MonoTime>,
    /// When the last verdict came, or the engine was loaded.
    judged: MonoTime,
    /// The model failed on a text since then, or a batch takes far too long.
    suspected: bool,
    /// When the device last ended anything.
    word: MonoTime,
    wedge: Option<Wedge>,
}

impl Canary {
    /// The engine is loaded, and its first inference was right.
    pub(super) fn on_loaded(&mut self, now: MonoTime) {
        *self = Self { judged: now, word: now, ..Self::default() };
    }

    /// The device ended something: it does not hang.
    pub(super) fn on_word(&mut self, now: MonoTime) {
        self.word = now;
    }

    /// The model failed on a text of somebody.
    pub(super) fn suspect(&mut self) {
        self.suspected = true;
    }
}

impl Node {
    /// Why the engine is wedged; `None` while it is not.
    #[must_use]
    pub fn wedge(&self) -> Option<Wedge> {
        self.canary.wedge.filter(|_| self.engine == EngineState::Wedged)
    }

    /// Asks for a canary as soon as there is a reason and none is out. Comes before the next batch is given to the
    /// device, so that the canary is in front of it.
    pub(super) fn ask_canary_if_due(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let Some(rules) = self.rules.canary.filter(|_| self.canary.asked.is_none()) else { return };
        let after = match self.engine {
            EngineState::Ready if self.canary.suspected => {
                // A suspicion is no reason to ask later than without one.
                rules.interval_min.max(self.canary_time().times(SHARE_ONE_IN)).min(rules.interval)
            }
            EngineState::Ready => rules.interval,
            EngineState::Wedged => rules.interval_wedged,
            EngineState::Starting | EngineState::Failed => return,
        };
        if self.canary.judged + after <= now {
            self.tally.count(Rule::CanaryAsked);
            self.canary.asked = Some(now);
            effects.push(Effect::Canary);
        }
    }

    /// Time went by: a canary without an answer may be late, and so may a batch.
    pub(super) fn mind_canary(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        let Some(rules) = self.rules.canary else { return };
        self.canary.suspected |= self.is_overdue(now);
        let Some(asked) = self.canary.asked else { return };
        if self.engine == EngineState::Ready && self.canary_late_at(&rules, asked) <= now {
            self.tally.count(Rule::CanaryLate);
            self.wedge_engine(now, Wedge::Silent, effects);
        }
    }

    /// The canary ran. An answer that comes after it counted as late is one all the same: the device works again.
    pub(super) fn on_canary(&mut self, now: MonoTime, verdict: CanaryVerdict, effects: &mut Vec<Effect>) {
        self.canary = Canary { asked: None, judged: now, suspected: false, word: now, ..self.canary };
        match (verdict, self.engine) {
            (CanaryVerdict::Failed, EngineState::Ready) => self.wedge_engine(now, Wedge::Wrong, effects),
            (CanaryVerdict::Failed, EngineState::Wedged) => self.canary.wedge = Some(Wedge::Wrong),
            (CanaryVerdict::Passed, EngineState::Wedged) => {
                self.tally.count(Rule::Recovered);
                self.engine = EngineState::Ready;
                self.canary.wedge = None;
                self.publish(now, effects);
                self.place_waiting(now, effects);
            }
            (CanaryVerdict::Passed, EngineState::Ready)
            | (CanaryVerdict::Passed | CanaryVerdict::Failed, EngineState::Starting | EngineState::Failed) => {}
        }
    }

    fn wedge_engine(&mut self, now: MonoTime, wedge: Wedge, effects: &mut Vec<Effect>) {
        self.tally.count(Rule::Wedged);
        self.canary.wedge = Some(wedge);
        self.lose_engine(now, EngineState::Wedged, effects);
    }

    /// When the canary that was asked for at `asked` is late.
    ///
    /// The device does one thing after the other, so whatever it ended lately shows that it works; and a process that
    /// stood still could not listen.
    fn canary_late_at(&self, rules: &CanaryRules, asked: MonoTime) -> MonoTime {
        let since = asked.max(self.canary.word).max(self.stood_still.unwrap_or_default());
        let left = self.running.iter().map(|running| (running.started + self.batch_time(running)).since(since));
        let limit = rules.limit_min.max(self.canary_time().times(LATE_FACTOR));
        since + left.max().unwrap_or_default() + limit + self.lag()
    }

    /// Some batch on the device takes far longer than it should.
    fn is_overdue(&self, now: MonoTime) -> bool {
        self.running.iter().any(|running| {
            let expected = self.batch_time(running);
            let since = running.started.max(self.stood_still.unwrap_or_default());
            expected.times(OVERDUE_FACTOR).max(expected + OVERDUE_BY) < now.since(since)
        })
    }

    /// What a batch should take.
    pub(super) fn batch_time(&self, running: &Running) -> Micros {
        self.cost_here().of(running.units, 1)
    }

    /// What an inference of the canary's size should take.
    fn canary_time(&self) -> Micros {
        self.cost_here().of(self.measure_units, 1)
    }
}
