//! What waits here goes on to a peer that turns out to be sooner.
//!
//! Part of the machine in `node`. Where a job goes is decided by what peers said some time ago. So while a caller's job
//! waits here, those that newcomers are compared with are asked how they are now, and with every word of a peer the
//! last job that may move goes there, if it would be sooner by the margin: a queue is corrected one way after a
//! decision that was wrong, and when a peer runs out of work.
//! Invariants: a job moves once, before any of it ran, and its stay here then was no placement; never a chunk, one of a
//! session, or one that was anywhere else before; one question for its load is out to a peer; under a policy that goes
//! by completion.

use super::explain::Reason;
use super::job::Job;
use super::{Effect, Node, RebalanceRules, Source};
use crate::admission;
use crate::batch::Work;
use crate::id::{JobId, NodeId};
use crate::peers::Take;
use crate::route::{self, Scene, Seat, Sees};
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// So many of the jobs that wait are looked at, from the last one on, for one that may move.
const LOOKED_AT_MAX: usize = 16;

impl Job {
    /// Nothing was decided about it but that it waits here.
    fn may_move(&self) -> bool {
        let only_waits = self.here.is_some_and(|stay| !stay.started && !stay.hedge) && self.flights.is_empty();
        let was_nowhere_else = self.history.attempts == 1;
        self.source == Source::Caller && self.session.is_none() && self.part.is_none() && only_waits && was_nowhere_else
    }
}

impl Node {
    /// Something waits here, and `seats` were compared for another one: asks those whose word is too old.
    pub(super) fn ask_how_they_are(&mut self, now: MonoTime, seats: &[Seat], effects: &mut Vec<Effect>) {
        let Some(rules) = self.rebalance_rules() else { return };
        let Some(own) = seats.iter().find(|seat| seat.here).filter(|own| Micros::ZERO < own.wait) else { return };
        if self.last_to_move().is_none() {
            return;
        }
        for seat in seats.iter().filter(|seat| !seat.here) {
            // Time alone makes a wait shorter by no more than itself: it takes the margin to make a difference.
            let margin = route::margin(&self.rules.route, own.completion, seat.rtt, false);
            let age_max = rules.claim_age_max.max(margin);
            let soonest = seat.completion - seat.wait;
            if soonest + margin < own.completion && self.peers.ask_load(now, &seat.id, age_max) {
                self.tally.count(Rule::LoadAsked);
                effects.push(Effect::Ping { peer: seat.id.clone() });
            }
        }
    }

    /// Asks two random peers for the sake of what waits, although nothing new came.
    pub(super) fn ask_for_what_waits(&mut self, now: MonoTime, effects: &mut Vec<Effect>) {
        if self.rebalance_rules().is_none() {
            return;
        }
        let Some(id) = self.last_to_move() else { return };
        let mut seats = vec![self.seat_of_waiting(now, id)];
        self.seats_away(now, id, Take::ByWeight(self.rules.route.candidates.max(1) as usize), true, &mut seats);
        self.ask_how_they_are(now, &seats, effects);
    }

    /// `peer` said how it is: the last job that may move goes there if it is sooner there.
    pub(super) fn rebalance(&mut self, now: MonoTime, peer: &NodeId, effects: &mut Vec<Effect>) {
        // A node that stood still reads words that are old.
        let Some(rules) = self.rebalance_rules().filter(|_| !self.in_doubt(now)) else { return };
        let Some(id) = self.last_to_move() else { return };
        let own = self.seat_of_waiting(now, id);
        let question = self.question(now, id, std::slice::from_ref(&own));
        let Some(away) = self.peers.seat_for_waiting(now, peer, id, &question) else { return };
        let gain = (own.completion - own.wait).percent(rules.gain_percent.into());
        let gains = away.completion + gain <= own.completion;
        if !gains || admission::hopeless(now, away.completion, self.jobs[&id].deadline) {
            return;
        }
        let seats = [own, away];
        let (hot, turn) = (self.heat.is_hot(), self.turn);
        let mut scene = Scene { rules: &self.rules.route, seats: &seats, hot, client: 0, turn, prng: &mut self.prng };
        let picked = route::pick(&mut scene);
        if seats[picked].here {
            return;
        }
        self.tally.count(Rule::Rebalanced);
        self.take_off_device(id);
        let job = self.jobs.get_mut(&id).expect("what waits is held");
        (job.moved, job.history.placements, job.history.tried_here) = (true, 0, false);
        self.explain(now, id, &seats, &seats[picked], Reason::BecameSooner);
        self.go(now, id, &seats, picked, effects);
    }

    /// None under a policy that does not go by completion, where words do not count, and where a job has one placement:
    /// that is here, and if it moved and came to nothing there would be no other one.
    fn rebalance_rules(&self) -> Option<RebalanceRules> {
        let by_completion = self.rules.route.policy.sees() == Sees::TwoPeers;
        let may_come_back = 1 < self.rules.retry.placements_max;
        self.rules.rebalance.filter(|_| by_completion && may_come_back && self.rules.peers.load.in_band)
    }

    /// The last job that waits for the device and may move.
    fn last_to_move(&self) -> Option<JobId> {
        self.queue.from_last().take(LOOKED_AT_MAX).find(|id| self.jobs[id].may_move())
    }

    /// This node as it offers itself to a job that waits here already.
    fn seat_of_waiting(&mut self, now: MonoTime, id: JobId) -> Seat {
        let job = &self.jobs[&id];
        let own = Work { rows: job.units.len() as u64, units: job.units_sum };
        let before = self.queue.before(job.turn).without(own);
        let (wait, completion) = (self.wait_for(now, before), self.completion_after(now, before, own));
        Seat { wait, completion, promised: completion, ..self.seat_here(now, id) }
    }
}
