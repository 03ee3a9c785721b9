//! Whether this node was deaf while it thinks that others were silent.
//!
//! Part of the machine in `node`. A process that stood still, or that is always late, must not call its peers dead.
//! Invariants: after a doubt a node believes its ears for at least as long as it doubted them; lateness that is
//! allowed for has a bound.

use serde::{Deserialize, Serialize};

use super::Node;
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// A step comes at least so often, because a tick does; a longer gap means that this process stood still.
const STEP_EVERY: Micros = Micros::from_ms(100);
/// Lateness of this node below this is nothing special.
const LAG_NOISE: Micros = Micros::from_ms(20);
/// So long it counts that the gossip thread was late: it says so when it was, and nothing when it was not.
const PULSE_HOLDS: Micros = Micros::from_ms(1000);
/// A node that is later than this does not hear of peers that are gone from acknowledgements that do not come.
const LAG_MAX: Micros = Micros::from_ms(1000);

/// How late this node itself was the last time that it could tell.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Lag {
    tick: Micros,
    pulse: Micros,
    /// When the gossip thread was late last.
    pulsed: MonoTime,
}

impl Node {
    /// A process that stood still finds its sockets full of news and its peers silent: that was itself.
    pub(super) fn mind_the_gap(&mut self, now: MonoTime) {
        let Some(stepped) = self.stepped.replace(now) else { return };
        let Some(pulse) = self.rules.pulse else { return };
        if STEP_EVERY + pulse.late_max < now.since(stepped) {
            self.suspect_self(now);
        }
    }

    fn suspect_self(&mut self, now: MonoTime) {
        let Some(pulse) = self.rules.pulse else { return };
        self.stood_still = Some(now);
        if self.in_doubt(now) || now < self.sure_until {
            return;
        }
        self.tally.count(Rule::SelfSuspected);
        self.doubt_until = Some(now + pulse.doubt);
        self.sure_until = now + pulse.doubt.times(2);
    }

    /// This node suspects itself.
    pub(super) fn in_doubt(&self, now: MonoTime) -> bool {
        self.doubt_until.is_some_and(|until| now < until)
    }

    pub(super) fn on_pulse(&mut self, now: MonoTime, late: Micros) {
        let Some(pulse) = self.rules.pulse else { return };
        self.set_lag(Lag { pulse: late, pulsed: now, ..self.lag });
        if pulse.late_max < late {
            self.suspect_self(now);
        }
    }

    /// So much later than it should, this node hears what peers say.
    pub(super) fn lag(&self) -> Micros {
        let lag = self.lag.tick.max(self.lag.pulse);
        if lag < LAG_NOISE { Micros::ZERO } else { lag.min(LAG_MAX) }
    }

    fn set_lag(&mut self, lag: Lag) {
        let before = self.lag();
        self.lag = lag;
        if self.lag() < before {
            // What was not late with the longer limit may be with the shorter one.
            self.due = MonoTime::START;
        }
    }

    /// A tick came: the later it is, the later this node hears everything else. A doubt may be over.
    pub(super) fn mind_the_ticks(&mut self, now: MonoTime) {
        let ticked = self.ticked.replace(now);
        if let Some(ticked) = ticked.filter(|_| self.rules.pulse.is_some()) {
            let pulse = if now < self.lag.pulsed + PULSE_HOLDS { self.lag.pulse } else { Micros::ZERO };
            self.set_lag(Lag { tick: now.since(ticked) - STEP_EVERY, pulse, ..self.lag });
        }
        if self.doubt_until.is_some_and(|until| until <= now) {
            self.doubt_until = None;
            self.peers.on_doubt_ended(now);
        }
    }
}
