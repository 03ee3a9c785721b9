//! Where a job goes: on arrival, and again whenever a placement came to nothing.
//!
//! Part of the machine in `node`.
//! Invariants: a job of a peer never gets a forward; a job is never placed twice on the same node, where a stay in this
//! node's queue of which nothing ran is no placement (`rebalance`); busy and full are no blame, a broken connection is.

use super::explain::{Explanation, Reason};
use super::job::{Flight, Job};
use super::{Arrival, Effect, EngineFault, Node, Outcome, Placed, Refusal, Source, Verdict};
use crate::admission;
use crate::affinity::{self, Holding};
use crate::gate::Signal;
use crate::id::{Attempt, JobId, NodeId};
use crate::lifecycle::{DoorState, EngineState};
use crate::peers::{Draw, Question, Take, Ticket, Word};
use crate::retry::{self, Cause, Next};
use crate::route::{self, Scene, Seat, Sees};
use crate::tally::Rule;
use crate::time::{Micros, MonoTime};

/// Before a job is refused as hopeless, so many peers are asked beyond those that the policy drew.
const ASKED_BEFORE_SHEDDING: usize = 16;

/// How a job goes to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// The completion here, which the peer has to beat.
    pub(super) bound: Option<Micros>,
    /// Another placement of the job stands.
    pub(super) hedge: bool,
}

impl Node {
    pub(super) fn on_arrived(&mut self, now: MonoTime, arrival: Arrival, effects: &mut Vec<Effect>) {
        let id = arrival.job;
        assert!(!arrival.units.is_empty(), "a job has at least one text");
        let is_new = !self.jobs.contains_key(&id) && !self.calls.contains_key(&id);
        assert!(is_new && !id.is_chunk(), "job ids are never used twice, nor those of chunks");
        let fits = admission::fits(&self.rules.admission, self.held(), arrival.bytes);
        if fits && self.is_to_be_cut(now, &arrival) {
            return self.begin_call(now, arrival, effects);
        }
        let Arrival { source, units, bytes, deadline, client, session, explain, .. } = arrival;
        if source == Source::Caller {
            self.count_request();
        }
        if !fits {
            self.tally.count(Rule::ShedFull);
            let outcome = match source {
                Source::Caller => Outcome::Overloaded { retry_after: self.retry_after(now) },
                Source::Peer { .. } => Outcome::Refused(Refusal::Full),
            };
            let explanation = explain.then(Box::default);
            effects.push(Effect::Finish { job: id, outcome, placements: 0, explanation });
            return;
        }
        self.bytes_held += bytes;
        let explanation = explain.then(Box::<Explanation>::default);
        let job = Job { bytes, session, explanation, ..Job::new(now, source, units, deadline, client) };
        self.due = self.due.min(deadline);
        self.jobs.insert(id, job);
        self.place(now, id, Cause::New, effects);
    }

    /// A call that came, or a chunk of one: what may be spent on second placements grows with them.
    pub(super) fn count_request(&mut self) {
        self.retries.on_request(&self.rules.retry_budget.unwrap_or_default().0);
        self.hedges.on_request(&self.rules.hedge.unwrap_or_default().budget);
    }

    pub(super) fn on_left(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        if self.calls.contains_key(&id) {
            return self.end_call(now, id, None, effects);
        }
        // The job may have ended in the same moment. Nobody waits for a chunk alone.
        if !id.is_chunk() && self.jobs.contains_key(&id) {
            self.blame_for_being_late(now, id);
            self.forget(id, effects);
        }
    }

    /// Decides where a job goes that is nowhere.
    pub(super) fn place(&mut self, now: MonoTime, id: JobId, cause: Cause, effects: &mut Vec<Effect>) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        assert!(job.is_nowhere(), "a job is placed where it is nowhere");
        self.waiting -= u32::from(std::mem::take(&mut job.waiting));
        job.parked = None;
        if job.deadline <= now {
            self.tally.count(Rule::Expired);
            return self.finish(now, id, Outcome::Expired, effects);
        }
        match job.source {
            Source::Peer { bound } => self.place_peers_job(now, id, bound, effects),
            Source::Caller => self.place_callers_job(now, id, cause, effects),
        }
    }

    /// Here, or refused before anything is queued: the origin knows what else can be done.
    fn place_peers_job(&mut self, now: MonoTime, id: JobId, bound: Option<Micros>, effects: &mut Vec<Effect>) {
        let job = &self.jobs[&id];
        let completion = self.completion_here(now, job);
        let refusal = if matches!(self.door, DoorState::Closing { .. } | DoorState::Closed) {
            Some(Refusal::Draining)
        } else if !self.can_compute() {
            Some(Refusal::Unable)
        } else if bound.is_some_and(|bound| bound < completion) {
            self.tally.count(Rule::RefusedBusy);
            Some(Refusal::Busy)
        } else if admission::hopeless(now, completion, job.deadline) {
            self.tally.count(Rule::ShedHopeless);
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.finish(now, id, Outcome::Refused(refusal), effects);
        }
        let seats = [self.seat_here(now, id)];
        self.explain(now, id, &seats, &seats[0], Reason::OnlyChoice);
        self.queue_here(now, id, &seats[0], false);
        let report = self.report(now);
        effects.push(Effect::Acknowledge { job: id, report });
    }

    fn place_callers_job(&mut self, now: MonoTime, id: JobId, cause: Cause, effects: &mut Vec<Effect>) {
        self.mind_heat(now);
        let Some((next, paid)) = self.next(now, id, cause, effects) else { return };
        if cause == Cause::New && next != Next::OnlyHere && self.place_by_owner(now, id, next, effects) {
            return;
        }
        let Job { deadline, moved, .. } = self.jobs[&id];
        let siblings = self.siblings(id);
        let is_begun = self.is_begun(id);
        // Who waited here and moved was taken, and may wait here again.
        let is_taken = |seat: &Seat| is_begun || (moved && seat.here);
        let in_time = |seat: &Seat| is_taken(seat) || !admission::hopeless(now, seat.completion, deadline);
        let mut seats = Vec::with_capacity(3);
        if next != Next::OnlyAway {
            seats.push(self.seat_here(now, id));
        }
        let rather_not = !seats.is_empty() && self.would_rather_not(now);
        let take = match self.rules.route.policy.sees() {
            Sees::TwoPeers => Take::ByWeight(self.rules.route.candidates.max(1) as usize),
            Sees::AllPeers => Take::All,
        };
        if next != Next::OnlyHere {
            let optional = !rather_not && seats.first().is_some_and(in_time);
            self.seats_away(now, id, take, optional, &mut seats);
        }
        let able = !seats.is_empty();
        // Who would be late is no choice: neither for its advantage nor for want of a margin.
        seats.retain(in_time);
        let asked_all = next != Next::OnlyHere && take == Take::All;
        if able && seats.is_empty() && paid && !asked_all {
            // The draw, or the rule that the last placement is here, must not refuse what somebody could do.
            self.seats_away(now, id, Take::Evenly(ASKED_BEFORE_SHEDDING), false, &mut seats);
            seats.retain(in_time);
        }
        if rather_not && seats.iter().any(|seat| !seat.here) {
            seats.retain(|seat| !seat.here);
        }
        // Who should not compute, does not because a peer that does has its share of this call for the moment.
        let is_free = |seat: &Seat| !seat.here || !(siblings.here_full || (rather_not && !siblings.full.is_empty()));
        if siblings.make_room() && !seats.iter().any(is_free) {
            return self.park(id, next == Next::OnlyHere);
        }
        if seats.is_empty() {
            return if able { self.shed(now, id, effects) } else { self.wait_or_give_up(now, id, effects) };
        }
        self.charge_own_errors(now, &mut seats);
        let (picked, reason) = self.pick(id, &seats, next);
        if !is_free(&seats[picked]) {
            // This node has its share of the call, and yet no peer is sooner by the margin.
            return self.park(id, false);
        }
        self.explain(now, id, &seats, &seats[picked], reason);
        self.go(now, id, &seats, picked, effects);
        self.ask_how_they_are(now, &seats, effects);
    }

    /// Where the job may go, and whether the retry budget had no objection; `None` when it ended.
    fn next(&mut self, now: MonoTime, id: JobId, cause: Cause, effects: &mut Vec<Effect>) -> Option<(Next, bool)> {
        // Also behind a closed door: whoever still gets here has a connection, and there may be no peer.
        let can_here = self.can_compute();
        let next = retry::next(&self.rules.retry, &self.jobs[&id].history, can_here);
        match next {
            Next::RequestsFault => {
                self.tally.count(Rule::RequestsFault);
                self.finish(now, id, Outcome::EngineFailed(EngineFault::Everywhere), effects);
                return None;
            }
            Next::Nowhere => {
                self.give_up(now, id, effects);
                return None;
            }
            Next::Anywhere | Next::OnlyAway | Next::OnlyHere => {}
        }
        if !matches!(cause, Cause::New | Cause::Room { .. }) {
            self.tally.count(Rule::PlacedAgain);
        }
        let paid = match self.rules.retry_budget {
            Some(budget) if cause.is_charged() => self.retries.take(now, &budget.0),
            Some(_) | None => true,
        };
        if paid {
            // The peer that refused knows better than this node did, and the next one could not be asked again.
            let stays = matches!(cause, Cause::Busy | Cause::Room { only_here: true });
            let next = if stays && next == Next::Anywhere { Next::OnlyHere } else { next };
            return Some((next, true));
        }
        self.tally.count(Rule::RetryDenied);
        // What was only refused has cost nothing yet: it may still run here.
        if cause == Cause::Refused && matches!(next, Next::Anywhere | Next::OnlyHere) {
            return Some((Next::OnlyHere, false));
        }
        self.give_up(now, id, effects);
        None
    }

    /// This node is leaving, or is a backup or paused for its errors while others are there.
    fn would_rather_not(&mut self, now: MonoTime) -> bool {
        let reserved = self.rules.own.backup || !self.own_errors.passes(now);
        self.door.draining() || (reserved && 0 < self.peers.ready(now))
    }

    /// What errors of this node's own model add, by the measure that is used for peers; where nobody else could do the
    /// job they add nothing.
    ///
    /// The margin that a peer has to beat counts as part of doing the job again: it is there to save the way, and a job
    /// that fails here takes the way after all. Without it a node that fails everything, far from its peers, would try
    /// each job first until its retry budget is spent.
    fn charge_own_errors(&self, now: MonoTime, seats: &mut [Seat]) {
        let Some(away) = seats.iter().filter(|seat| !seat.here).min_by_key(|seat| seat.completion) else { return };
        let (away, margin) = (away.completion, self.rules.route.margin_min.max(away.rtt.times(2)));
        if let Some(own) = seats.iter_mut().find(|seat| seat.here && self.rules.peers.count_errors) {
            own.completion += self.own_errors.cost_of_errors(now, away.max(own.completion) + margin);
        }
    }

    fn pick(&mut self, id: JobId, seats: &[Seat], next: Next) -> (usize, Reason) {
        if let [_] = seats {
            let last = next == Next::OnlyHere && seats[0].here;
            return (0, if last { Reason::LastPlacement } else { Reason::OnlyChoice });
        }
        self.turn = self.turn.wrapping_add(1);
        let (client, hot) = (self.jobs[&id].client, self.heat.is_hot());
        let mut scene = Scene { rules: &self.rules.route, seats, hot, client, turn: self.turn, prng: &mut self.prng };
        let picked = route::pick(&mut scene);
        if self.rules.route.policy.sees() == Sees::AllPeers {
            return (picked, Reason::Policy);
        }
        let here = seats.iter().find(|seat| seat.here).map(|seat| seat.completion);
        let best = seats.iter().map(|seat| seat.completion).min();
        match (seats[picked].here, here) {
            (true, _) => {
                if best < here {
                    self.tally.count(Rule::KeptWithinMargin);
                }
                (picked, Reason::HereIsSoonEnough)
            }
            (false, Some(here)) => {
                let inertia = here.percent(self.rules.route.margin_percent.into());
                if hot && here <= seats[picked].completion + inertia {
                    self.tally.count(Rule::LeftHot);
                }
                (picked, Reason::PeerIsSooner)
            }
            (false, None) => (picked, Reason::OnlyChoice),
        }
    }

    /// Puts a job of a session where its owner is, if that may take it. Returns whether it did.
    fn place_by_owner(&mut self, now: MonoTime, id: JobId, next: Next, effects: &mut Vec<Effect>) -> bool {
        let job = &self.jobs[&id];
        let (Some(session), deadline) = (job.session, job.deadline) else { return false };
        let tried = &job.history.tried;
        let owners: Vec<NodeId> = self.owners.owners(session).filter(|owner| !tried.contains(owner)).cloned().collect();
        let held = self.peers.holdings(now);
        let (held_sum, nodes) = (held.jobs + u64::from(self.here), held.nodes + 1);
        for owner in owners {
            let seat = if owner != self.id {
                let question = self.question(now, id, &[]);
                self.peers.seat(now, &owner, &question)
            } else if next == Next::Anywhere && !self.would_rather_not(now) {
                Some(self.seat_here(now, id))
            } else {
                None
            };
            let Some(seat) = seat.filter(|seat| !admission::hopeless(now, seat.completion, deadline)) else { continue };
            let held = if seat.here { u64::from(self.here) } else { u64::from(seat.held.max(seat.mine)) };
            let holding = Holding { held, slots: seat.slots.into(), held_sum, nodes };
            if !affinity::within_bound(&self.rules.affinity, holding) {
                self.tally.count(Rule::OwnerFull);
                continue;
            }
            self.tally.count(Rule::OwnerServed);
            let seats = [seat];
            self.explain(now, id, &seats, &seats[0], Reason::OwnsSession);
            self.go(now, id, &seats, 0, effects);
            return true;
        }
        false
    }

    pub(super) fn go(&mut self, now: MonoTime, id: JobId, seats: &[Seat], picked: usize, effects: &mut Vec<Effect>) {
        let seat = &seats[picked];
        if seat.here {
            return self.queue_here(now, id, seat, false);
        }
        let rules = &self.rules.route;
        let verified = rules.verify && rules.policy.sees() == Sees::TwoPeers;
        let refused = self.jobs[&id].history.busy_refused;
        let own = seats.iter().find(|seat| seat.here).map(|seat| seat.completion);
        let bound = own.filter(|_| verified && !refused);
        self.send_away(now, id, (seat, How { bound, hedge: false }), effects);
    }

    /// A node that was just started knows no peer for some tenths of a second and has no model for some seconds, and a
    /// peer may be about to answer whether it is back: callers are held for a moment instead of being refused.
    fn wait_or_give_up(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        let asks = self.peers.asks(now) || (!job.waited && self.peers.ask(now));
        let may_change = self.engine == EngineState::Starting || asks;
        if may_change && now < job.arrived + self.rules.retry.start_hold {
            job.waiting = true;
            self.waiting += 1;
            if !std::mem::replace(&mut job.waited, true) {
                self.tally.count(Rule::HeldForStart);
            }
        } else {
            self.give_up(now, id, effects);
        }
    }

    /// What peers are asked about the job. Where this node's own seat is among `seats`, its numbers are not made again.
    pub(super) fn question(&self, now: MonoTime, id: JobId, seats: &[Seat]) -> Question {
        let job = &self.jobs[&id];
        let own = seats.iter().find(|seat| seat.here);
        let wait_here = own.map_or_else(|| self.wait_here(now), |own| own.wait);
        let here = own.map(|own| own.completion);
        let here = here.or_else(|| self.can_compute().then(|| self.completion_here(now, job)));
        let stretch_here = self.stretch.permille(now);
        Question {
            units: job.units_sum,
            wait_here,
            here,
            cost_unknown: self.cost_here(),
            alike: self.alike,
            stretch_here,
        }
    }

    /// This node as it offers itself.
    pub(super) fn seat_here(&mut self, now: MonoTime, id: JobId) -> Seat {
        let job = &self.jobs[&id];
        let completion = self.completion_here(now, job);
        Seat {
            id: self.id.clone(),
            here: true,
            completion,
            promised: completion,
            wait: self.wait_here(now),
            rtt: Micros::ZERO,
            age: Some(Micros::ZERO),
            weight: self.rules.own.weight,
            mine: self.here_mine,
            held: self.here,
            slots: self.rules.batch.slots.max(1),
            load: self.load(),
        }
    }

    /// Appends the peers that may get the job. It is `optional` where this node can do the job itself.
    pub(super) fn seats_away(&mut self, now: MonoTime, id: JobId, take: Take, optional: bool, seats: &mut Vec<Seat>) {
        let question = self.question(now, id, seats);
        let siblings = self.siblings(id);
        let draw = Draw { except: &self.jobs[&id].history.tried, full: &siblings.full, take, optional };
        self.peers.seats(now, &question, draw, seats, (&mut self.prng, &mut self.tally));
    }

    pub(super) fn explain(&mut self, now: MonoTime, id: JobId, seats: &[Seat], chosen: &Seat, reason: Reason) {
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        if let Some(explanation) = &mut job.explanation {
            explanation.add(now.since(job.arrived), seats, &chosen.id, reason);
        }
    }

    pub(super) fn send_away(&mut self, now: MonoTime, id: JobId, (seat, how): (&Seat, How), effects: &mut Vec<Effect>) {
        let How { bound, hedge } = how;
        debug_assert!(!self.siblings(id).full.contains(&seat.id), "{} has its share of the call", seat.id);
        let job = self.jobs.get_mut(&id).expect("only a held job is placed");
        assert_eq!(job.source, Source::Caller, "a job of a peer is never handed on");
        self.tally.count(Rule::Forwarded);
        job.history.placements += u8::from(!hedge);
        job.history.attempts += 1;
        job.history.tried.push(seat.id.clone());
        let attempt = Attempt(job.history.attempts);
        let ticket = self.peers.on_sent(&seat.id, job.units_sum);
        let accept_limit = self.rules.accept_limit.0 + seat.rtt.times(2);
        job.flights.push(Flight {
            peer: seat.id.clone(),
            attempt,
            ticket,
            sent: now,
            flushed: None,
            accepted: false,
            accept_limit,
            promised: seat.promised,
            wait: seat.wait,
            hedge,
        });
        let remaining = job.turn.since(now);
        effects.push(Effect::Forward { job: id, attempt, peer: seat.id.clone(), bound, remaining, hedge });
        self.look_at_again(id);
    }

    /// All placements are used up, or there is nowhere to go.
    pub(super) fn give_up(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        let retry_after = self.retry_after(now);
        let outcome = match self.jobs[&id].history.engine_failures {
            0 => Outcome::Unavailable { retry_after },
            _ => Outcome::EngineFailed(EngineFault::OnOneNode),
        };
        self.finish(now, id, outcome, effects);
    }

    fn shed(&mut self, now: MonoTime, id: JobId, effects: &mut Vec<Effect>) {
        self.tally.count(Rule::ShedHopeless);
        let retry_after = self.retry_after(now);
        self.finish(now, id, Outcome::Overloaded { retry_after }, effects);
    }

    pub(super) fn retry_after(&mut self, now: MonoTime) -> Micros {
        let wait = self.wait_here(now);
        admission::retry_after(&self.rules.admission, wait, &mut self.prng)
    }

    /// The flight of this placement, if it still stands: news of an earlier one is late.
    fn flight(&mut self, id: JobId, attempt: Attempt) -> Option<&mut Flight> {
        self.jobs.get_mut(&id)?.flights.iter_mut().find(|flight| flight.attempt == attempt)
    }

    pub(super) fn on_flushed(&mut self, now: MonoTime, id: JobId, attempt: Attempt) {
        if let Some(flight) = self.flight(id, attempt) {
            flight.flushed.get_or_insert(now);
            self.look_at_again(id);
        }
    }

    pub(super) fn on_accepted(&mut self, id: JobId, attempt: Attempt, peer: &NodeId, word: Word) {
        let Some(flight) = self.flight(id, attempt).filter(|flight| flight.peer == *peer) else { return };
        flight.accepted = true;
        // Borrowed apart: the table of peers counts down what the flight holds.
        let Some(mut ticket) = flight.ticket else { return };
        self.peers.on_acknowledged(peer, &mut ticket, word.report.is_some());
        if let Some(flight) = self.flight(id, attempt) {
            flight.ticket = Some(ticket);
        }
    }

    pub(super) fn on_answered(
        &mut self,
        now: MonoTime,
        id: JobId,
        attempt: Attempt,
        verdict: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flight) = self.take_back(id, attempt) else { return };
        let placed = Placed::Away(flight.peer.clone(), attempt);
        match verdict {
            Verdict::Done => {
                let took = now.since(flight.sent);
                self.peers.on_answer(now, &flight.peer, flight.ticket, (flight.promised, took));
                self.learn_lateness(flight.promised, took);
                if flight.hedge {
                    self.tally.count(Rule::HedgeWon);
                }
                self.finish(now, id, Outcome::Done { placed }, effects);
            }
            Verdict::Rejected => self.finish(now, id, Outcome::Rejected { placed }, effects),
            // The peer may allow less time than this node; only the own clock says that it is over.
            Verdict::Expired => self.place_if_nowhere(now, id, Cause::Refused, effects),
            Verdict::Failed => {
                let job = self.jobs.get_mut(&id).expect("take_back found it");
                job.history.engine_failures += 1;
                job.failed_at.push((flight.peer, flight.ticket));
                self.place_if_nowhere(now, id, Cause::Failed, effects);
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
        let Some(flight) = self.take_back(id, attempt) else { return };
        self.blame_for_giving_back(now, &flight);
        if matches!(refusal, Refusal::Full | Refusal::Unable) {
            let until = now + self.rules.publish.interval_max;
            self.peers.on_declined(&flight.peer, flight.ticket, until);
        }
        let job = self.jobs.get_mut(&id).expect("take_back found it");
        job.history.busy_refused |= refusal == Refusal::Busy;
        let cause = match refusal {
            Refusal::Busy => Cause::Busy,
            Refusal::Draining => Cause::Death,
            Refusal::Full | Refusal::Unable => Cause::Refused,
        };
        self.place_if_nowhere(now, id, cause, effects);
    }

    /// A peer that takes a job, sits on it and gives it back costs as much time as one that never answers. Nobody asks
    /// of one that is leaving that it finishes what it has.
    fn blame_for_giving_back(&mut self, now: MonoTime, flight: &Flight) {
        if !flight.accepted || self.in_doubt(now) || self.peers.leaves(now, &flight.peer) {
            return;
        }
        if let Some(late) = flight.late(now) {
            self.peers.on_late(now, &flight.peer, flight.ticket, late);
        }
    }

    /// The way to a peer broke while it had the job.
    pub(super) fn on_broke(&mut self, now: MonoTime, (id, attempt): (JobId, Attempt), effects: &mut Vec<Effect>) {
        // A placement that was given up says nothing about the run of the process that is there now.
        let Some(flight) = self.take_back(id, attempt) else { return };
        self.tally.count(Rule::Broke);
        self.failed(now, &flight, Signal::Broke);
        self.place_if_nowhere(now, id, Cause::Death, effects);
    }

    /// A peer did not acknowledge the job in time: another node gets it.
    pub(super) fn on_silent(&mut self, now: MonoTime, (id, attempt): (JobId, Attempt), effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight(id, attempt).cloned() else { return };
        let (lives, left) = (self.peers.lives(now, &flight.peer, flight.ticket), flight.flushed.is_some());
        self.tally.count(Rule::Silent);
        // A job that did not leave this node yet says nothing about the peer: it may be large.
        if left {
            self.failed(now, &flight, Signal::Silent);
        }
        // From a peer that is gone everything is taken back. One that is slow may have too much work: more of it
        // has to be paid for, and without budget the job stays where it is.
        if let Some(budget) = self.rules.retry_budget.filter(|_| lives && left)
            && !self.retries.take(now, &budget.0)
        {
            self.tally.count(Rule::RetryDenied);
            if let Some(flight) = self.flight(id, attempt) {
                flight.accept_limit = flight.accept_limit.times(2);
            }
            return;
        }
        self.take_back(id, attempt);
        effects.push(Effect::Abandon { job: id, attempt });
        self.place_if_nowhere(now, id, Cause::Death, effects);
    }

    fn failed(&mut self, now: MonoTime, flight: &Flight, signal: Signal) {
        let boot = flight.ticket.map(Ticket::boot);
        self.peers.on_failed(now, &flight.peer, boot, signal, (&mut self.prng, &mut self.tally));
    }

    /// Places a job again unless it is still somewhere: then the other placement may answer yet.
    pub(super) fn place_if_nowhere(&mut self, now: MonoTime, id: JobId, cause: Cause, effects: &mut Vec<Effect>) {
        if self.jobs[&id].is_nowhere() {
            self.place(now, id, cause, effects);
        }
    }

    /// Takes the job back from the peer that had it. `None` when that placement does not stand any more.
    fn take_back(&mut self, id: JobId, attempt: Attempt) -> Option<Flight> {
        let flights = &mut self.jobs.get_mut(&id)?.flights;
        let at = flights.iter().position(|flight| flight.attempt == attempt)?;
        let flight = flights.swap_remove(at);
        if let Some(ticket) = flight.ticket {
            self.peers.on_ended(&flight.peer, ticket);
        }
        if let Some(part) = self.jobs[&id].part {
            self.call_moved(part.of);
        }
        Some(flight)
    }
}
