//! A second placement for a job that is late, while the first one stands.
//!
//! Part of the machine in `node`.
//! Invariants: one a job, within its budget, none while whoever would get it is busy (that would make others late), and
//! only where it should be done sooner than it has been waited for; only for callers' jobs that wait, as far as this
//! node can tell; only under a policy that goes by completion, and never while this node suspects itself.
//! Source: Dean and Barroso 2013, "The tail at scale".

use serde::{Deserialize, Serialize};

use super::explain::Reason;
use super::job::{Flight, Job};
use super::place::How;
use super::{Effect, HedgeRules, Node, Source};
use crate::admission;
use crate::id::JobId;
use crate::peers::Take;
use crate::route::{Seat, Sees};
use crate::stretch::{NOISE, ratio_permille};
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// Least and most of the quantile of lateness, in millionths.
const MILLIONTHS_MIN: u64 = 1_000_000;
const MILLIONTHS_MAX: u64 = 100_000_000;

/// A quantile of how long jobs take, measured against what was expected of each.
///
/// Each job moves it by a small step: up when the job is above it, down when below, in the ratio that balances at the
/// quantile (stochastic approximation, Robbins and Monro 1951).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Lateness {
    /// So fine that the smallest step, that of the largest quantile, is not lost in rounding.
    millionths: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { millionths: 3_000_000 }
    }
}

impl Lateness {
    /// A job that should have taken `promised` took `took`.
    pub(super) fn on_job(&mut self, quantile_permille: u32, promised: Micros, took: Micros) {
        let ratio = ratio_permille(promised, took).saturating_mul(1000);
        let (step, quantile) = (self.millionths / 20, u64::from(quantile_permille));
        let moved = if self.millionths < ratio {
            self.millionths + step * quantile / 1000
        } else {
            self.millionths - step * 1000u64.saturating_sub(quantile) / 1000
        };
        self.millionths = moved.clamp(MILLIONTHS_MIN, MILLIONTHS_MAX);
    }

    fn after(self, rules: &HedgeRules, promised: Micros) -> Micros {
        promised.max(NOISE).permille(self.millionths / 1000).max(rules.after_min)
    }
}

impl Node {
    /// When `job` gets a second placement, if it may.
    pub(super) fn hedge_at(&self, job: &Job) -> Option<MonoTime> {
        let rules = self.rules.hedge.as_ref()?;
        if self.rules.route.policy.sees() != Sees::TwoPeers {
            return None;
        }
        if job.hedged || job.source != Source::Caller || job.here.is_some_and(|stay| stay.started) {
            return None;
        }
        let (since, promised) = job.only_placement()?;
        Some(since + self.lateness.after(rules, promised))
    }

    /// Whether there is room for a second placement of anything now.
    pub(super) fn may_hedge(&mut self, now: MonoTime) -> bool {
        let Some(rules) = self.rules.hedge else { return false };
        // This node's own load does not count: its device is busy when it is what makes the job late.
        !self.in_doubt(now) && self.hedges.has(now, &rules.budget) && self.peers.load_mean(now) <= rules.load_max
    }

    /// The job is past the queue of the peer, which lives: what takes long there takes long everywhere.
    fn runs_there(&self, now: MonoTime, flight: &Flight) -> bool {
        let told = self.peers.wait_told(now, &flight.peer);
        flight.accepted && told.is_some_and(|wait| wait == Micros::ZERO || flight.started_at_once())
    }

    /// Places a late job a second time, if somebody else can be in time and the budget allows it.
    pub(super) fn hedge(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let (Some(rules), Some((since, _))) = (self.rules.hedge, self.jobs[&id].only_placement()) else { return };
        // What is late by so long is expected to take that long again: only who is sooner than that is worth it.
        let left = now.since(since);
        let mut seats = Vec::new();
        let job = &self.jobs[&id];
        if job.flights.iter().any(|flight| self.runs_there(now, flight)) {
            if !job.late_told {
                self.blame_for_being_late(now, id);
                self.jobs.get_mut(&id).expect("only a held job is late").late_told = true;
            }
            return;
        }
        let here = job.here.is_none() && !job.history.tried_here && self.can_compute() && !self.door.draining();
        let here = here && self.load() <= rules.load_max && !self.siblings(id).here_full;
        if here {
            seats.push(self.seat_here(now, id));
        }
        self.seats_away(now, id, Take::ByWeight(2), self.can_compute(), &mut seats);
        let deadline = self.jobs[&id].deadline;
        let wins = |seat: &&Seat| seat.completion <= left && !admission::hopeless(now, seat.completion, deadline);
        let Some(best) = seats.iter().filter(wins).min_by_key(|seat| seat.completion).cloned() else { return };
        if !self.hedges.take(now, &rules.budget) {
            return;
        }
        self.tally.count(Rule::Hedged);
        let job = self.jobs.get_mut(&id).expect("only a held job is late");
        job.hedged = true;
        self.blame_for_being_late(now, id);
        self.explain(now, id, &seats, &best, Reason::Hedge);
        if best.here {
            self.queue_here(now, id, &best, true);
        } else {
            self.send_away(now, id, (&best, How { bound: None, hedge: true }), effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    #[test]
    fn the_quantile_is_found_and_follows() {
        let mut lateness = Lateness::default();
        let mut prng = Prng::new(9);
        let promised = Micros::from_ms(10);
        for (slowest, expected) in [(4000, 3800), (40_000, 38_000), (4000, 3800)] {
            for _ in 0..4000 {
                lateness.on_job(950, promised, promised.permille(prng.below(slowest) as u64));
            }
            let (low, high) = (expected * 85 / 100, expected * 115 / 100);
            let found = lateness.millionths / 1000;
            assert!((low..high).contains(&found), "{found} is not near {expected}");
        }
    }

    #[test]
    fn every_quantile_falls_when_nothing_is_late() {
        for quantile in [0, 500, 950, 999] {
            let mut lateness = Lateness::default();
            (0..100_000).for_each(|_| lateness.on_job(quantile, Micros::from_ms(10), Micros::from_ms(1)));
            assert_eq!(lateness.millionths, MILLIONTHS_MIN, "{quantile}");
        }
    }

    #[test]
    fn nothing_is_late_before_the_least_time() {
        let rules = HedgeRules::default();
        assert_eq!(Lateness::default().after(&rules, Micros::ZERO), rules.after_min);
        assert_eq!(Lateness::default().after(&rules, Micros::from_ms(20)), Micros::from_ms(60));
    }
}
