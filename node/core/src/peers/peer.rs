//! One peer as the table keeps it.
//!
//! Part of `peers`.
//! Invariants: all of it belongs to one run of the peer's process; what time alone changes about a peer, it says in
//! [`Peer::due`], so that the table need not look at everybody all the time.

use serde::{Deserialize, Serialize};

use super::{PeerFacts, PeerRules, Question, Sums, Ticket};
use crate::breaker::Breaker;
use crate::cost::Cost;
use crate::gate::{Gate, GateRules};
use crate::lifecycle::Standing;
use crate::load::{LoadView, Report};
use crate::route::Seat;
use crate::stretch::Stretch;
use crate::tally::{Rule, Tally};
use crate::time::{Micros, MonoTime};

/// Round trip that is assumed before the first measurement.
const RTT_UNKNOWN: Micros = Micros::from_ms(1);
/// A round trip longer than [`RTT_UNKNOWN`] keeps work away, and with it whatever would measure it anew: after this
/// time a ping does. One moment at which a machine was busy would else count for as long as it stays calm.
const RTT_HOLDS: Micros = Micros::from_ms(1000);
/// A peer that gossip calls dead is pinged this often while gossip is in doubt.
const DOUBT_PING_EVERY: Micros = Micros::from_ms(1000);
/// So long a direct word proves that such a peer lives.
const DOUBT_TRUST: Micros = Micros::from_ms(3000);
/// So long a report that the peer takes work counts against gossip that says it does not.
const CONTRADICTED_MAX: Micros = Micros::from_ms(3000);
/// A stretch below this, in thousandths of what is usual, is noise.
const STRETCH_NOISE: u64 = 1500;
/// A peer that spoke within this time and does not acknowledge a job is slow, not gone.
const SLOW_NOT_GONE: Micros = Micros::from_ms(1000);
/// Part of its share, in percent, that a node gets which has just started.
const SLOW_START_FROM: u64 = 10;
/// No process makes so many reports between two that a peer hears: whoever counts so far could never be corrected.
const SEQ_JUMP_MAX: u64 = 1 << 40;

/// When a process was first seen to take work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Start {
    /// It does not yet.
    Awaited,
    /// Before this node knew of it, or with it.
    Before,
    /// Then.
    At(MonoTime),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) entry: u64,
    pub(super) facts: PeerFacts,
    /// Since when gossip says the standing that it says.
    stands_since: MonoTime,
    pub(super) gate: Gate,
    /// When the gate shut the last time.
    pub(super) shut_at: Option<MonoTime>,
    pub(super) breaker: Breaker,
    pub(super) load: LoadView,
    pub(super) stretch: Stretch,
    pub(super) rtt: Micros,
    /// When that was measured, or a ping was sent to measure it.
    pub(super) rtt_at: MonoTime,
    /// When its last direct word came.
    pub(super) heard: Option<MonoTime>,
    /// Gossip called it alive once: only then is there something to disbelieve when gossip calls it dead.
    pub(super) was_alive: bool,
    /// Gossip calls it dead since then.
    pub(super) dead_since: Option<MonoTime>,
    /// While gossip is in doubt: when it was last pinged.
    pub(super) doubted: Option<MonoTime>,
    /// When it was last pinged because its connection had ended.
    pub(super) parted: Option<MonoTime>,
    /// When it was asked for its load, if nothing came of that yet.
    pub(super) asked: Option<MonoTime>,
    /// It did not take a job; until then it is asked only where nobody else can be.
    pub(super) rests_until: Option<MonoTime>,
    pub(super) start: Start,
    /// Jobs of this node's callers that are on the way there or there.
    pub(super) flights: u32,
    /// Units of those that it did not acknowledge yet: its newest report cannot contain them.
    pub(super) units_unacknowledged: u64,
    /// Units that it acknowledged without a report of its load, since its newest report.
    pub(super) units_unreported: u64,
    /// Reports that were taken.
    pub(super) reports: u64,
}

impl Peer {
    pub(super) fn new(now: MonoTime, entry: u64, facts: PeerFacts) -> Self {
        Self {
            entry,
            facts,
            stands_since: now,
            gate: Gate::NEW,
            shut_at: None,
            breaker: Breaker::default(),
            load: LoadView::default(),
            stretch: Stretch::default(),
            rtt: RTT_UNKNOWN,
            rtt_at: now,
            heard: None,
            was_alive: false,
            dead_since: None,
            doubted: None,
            parted: None,
            asked: None,
            rests_until: None,
            start: Start::Awaited,
            flights: 0,
            units_unacknowledged: 0,
            units_unreported: 0,
            reports: 0,
        }
    }

    /// Takes over what gossip says of the same run.
    pub(super) fn with_facts(self, now: MonoTime, facts: PeerFacts) -> Self {
        let stands_since = if facts.standing == self.facts.standing { self.stands_since } else { now };
        Self { facts, stands_since, ..self }
    }

    /// The entry that this ticket was made for.
    pub(super) fn is_of(&self, ticket: Option<Ticket>) -> bool {
        ticket.is_some_and(|ticket| ticket.entry == self.entry)
    }

    /// Takes a claim, unless an earlier run of the process made it. A later run is heard before gossip knows it.
    pub(super) fn on_report(&mut self, now: MonoTime, report: Report, tally: &mut Tally) {
        let known = self.load.report().filter(|known| known.boot == report.boot).map_or(0, |known| known.seq);
        if !report.is_believable() || SEQ_JUMP_MAX < report.seq.saturating_sub(known) {
            // Gossip repeats what it has: of what is older than the newest word nothing follows.
            if self.load.newest().is_none_or(|(known, _)| (known.boot, known.seq) < (report.boot, report.seq)) {
                self.load.on_absurd();
            }
            return tally.count(Rule::AbsurdReport);
        }
        if self.facts.boot <= report.boot && self.load.on_report(now, report) {
            self.units_unreported = 0;
            self.reports += 1;
            self.rests_until = None;
        }
    }

    /// One eighth of a longer one, as TCP smooths its round trip (RFC 6298), and half of a shorter one: what a busy
    /// machine adds is no part of the way.
    pub(super) fn on_rtt(&mut self, now: MonoTime, rtt: Micros) {
        let parts = if rtt < self.rtt { 2 } else { 8 };
        self.rtt = Micros::new((self.rtt.get().saturating_mul(parts - 1).saturating_add(rtt.get())) / parts);
        self.rtt_at = now;
    }

    /// When its round trip is to be measured anew, if that keeps work away from a peer that could have some.
    pub(super) fn rtt_due(&self, now: MonoTime) -> Option<MonoTime> {
        let counts = RTT_UNKNOWN < self.rtt && self.gate.passes() && self.dead_since.is_none() && self.wanted(now);
        counts.then(|| self.rtt_at + RTT_HOLDS)
    }

    /// What it is up to: its last report, unless gossip said later that it takes no work, or nothing confirmed the
    /// report for long.
    pub(super) fn standing(&self, now: MonoTime) -> Standing {
        let said = self.facts.standing;
        match self.load.newest() {
            None => said,
            Some((_, heard)) if !said.accepts() && (heard < self.stands_since || heard + CONTRADICTED_MAX <= now) => {
                said
            }
            Some((report, _)) => report.standing,
        }
    }

    /// It would get work if it were there.
    pub(super) fn wanted(&self, now: MonoTime) -> bool {
        self.facts.serves && 0 < self.facts.weight && self.standing(now).accepts()
    }

    /// It answers directly although gossip calls it dead.
    pub(super) fn answers_unheard(&self, now: MonoTime) -> bool {
        let since = |since| self.heard.is_some_and(|heard| since < heard && now.since(heard) < DOUBT_TRUST);
        self.dead_since.is_some_and(since)
    }

    /// Gossip called it dead after it was alive, and no word of its own says otherwise. (Whom gossip knows by name only
    /// it calls dead too, until it hears the first heartbeat.)
    pub(super) fn is_back_by_hearsay(&self, now: MonoTime) -> bool {
        self.was_alive && self.dead_since.is_some() && !self.answers_unheard(now)
    }

    /// It spoke a moment ago, and nothing was wrong with it before this very moment.
    pub(super) fn lives(&self, now: MonoTime) -> bool {
        let was_well = self.gate.passes() || self.shut_at == Some(now);
        was_well && self.heard.is_some_and(|heard| now < heard + SLOW_NOT_GONE)
    }

    pub(super) fn may(&self, now: MonoTime, panics: bool) -> bool {
        let there = self.dead_since.is_none() || (panics && self.answers_unheard(now));
        there && self.wanted(now) && self.gate.passes()
    }

    /// It is asked only where nobody else can be: it did not take a job a moment ago, or its errors pause it.
    pub(super) fn rests(&self, now: MonoTime) -> bool {
        self.rests_until.is_some_and(|until| now < until) || !self.breaker.passes(now)
    }

    /// It would get work if one could get there, and gossip says that it lives.
    pub(super) fn may_be_back(&self, now: MonoTime) -> bool {
        !self.gate.passes() && self.dead_since.is_none() && self.wanted(now)
    }

    /// Whether one can get there is being asked, or about to be.
    pub(super) fn is_asked(&self, now: MonoTime, rules: &GateRules) -> bool {
        let asked = match self.gate {
            Gate::Passing { .. } => false,
            Gate::Probing { .. } => true,
            Gate::Blocking { until, .. } => until <= now + rules.ping_limit,
        };
        asked && self.may_be_back(now)
    }

    /// How much of its share it gets, in percent: less while it has just started.
    pub(super) fn risen(&self, now: MonoTime, slow_start: Option<Micros>) -> u64 {
        let (Start::At(started), Some(ramp)) = (self.start, slow_start) else { return 100 };
        let age = now.since(started).min(ramp).get();
        let risen = ((100 - SLOW_START_FROM) * age).checked_div(ramp.get());
        risen.map_or(100, |risen| SLOW_START_FROM + risen)
    }

    /// Gossip is in doubt, calls it dead, and only a ping can tell.
    fn is_doubted(&self, now: MonoTime, panics: bool) -> bool {
        panics && self.dead_since.is_some() && self.gate.passes() && self.wanted(now)
    }

    /// Gossip calls it dead and is in doubt: it is time to ask.
    pub(super) fn is_to_be_asked(&self, now: MonoTime, panics: bool) -> bool {
        let due = self.doubted.is_none_or(|at| at + DOUBT_PING_EVERY <= now);
        due && self.is_doubted(now, panics)
    }

    /// The next moment at which time alone changes something about it.
    pub(super) fn due(&self, now: MonoTime, rules: &PeerRules, panics: bool) -> Option<MonoTime> {
        let gate = match self.gate {
            Gate::Passing { .. } => None,
            Gate::Blocking { until, .. } | Gate::Probing { until, .. } => Some(until),
        };
        let start = match (self.start, rules.slow_start) {
            (Start::At(started), Some(ramp)) => Some(started + ramp).filter(|&end| now < end),
            (Start::Awaited | Start::Before | Start::At(_), _) => None,
        };
        let asked = self.is_doubted(now, panics);
        let asked = asked.then(|| self.doubted.map_or(now, |at| at + DOUBT_PING_EVERY));
        let trusted = self.heard.filter(|_| self.answers_unheard(now)).map(|heard| heard + DOUBT_TRUST);
        // Gossip says that it takes no work and its report that it does: until the report is old.
        let contradicted = (!self.facts.standing.accepts()).then(|| self.load.newest()).flatten();
        let outdated = contradicted.map(|(_, heard)| heard + CONTRADICTED_MAX).filter(|&at| now < at);
        let rests = self.rests_until.filter(|&until| now < until);
        let moments = [gate, start, asked, trusted, outdated, rests, self.breaker.paused_until(now), self.rtt_due(now)];
        moments.into_iter().flatten().min()
    }

    pub(super) fn seat(&self, now: MonoTime, rules: &PeerRules, sums: &Sums, question: &Question) -> Seat {
        let report = self.load.report();
        let told_cost = report.map(|report| report.cost).filter(|&cost| cost != Cost::default());
        let cost = told_cost.map_or(question.cost_unknown, |told| question.alike.cost_of(told));
        let slots = report.map_or(1, |report| report.slots);
        let wait = self.load.wait(sums.wait_mean(question.wait_here));
        let sent = if rules.load.count_sent { self.units_unacknowledged + self.units_unreported } else { 0 };
        // On one device what was sent joins the job's own batch; on slots it takes its turn in one of them.
        let (ahead, own) = match slots {
            1 => (Micros::ZERO, cost.of(sent + question.units, 1)),
            _ => (Micros::new(cost.of(sent, u64::from(0 < sent)).get() / u64::from(slots)), cost.of(question.units, 1)),
        };
        let promised = wait + ahead + own;
        let mut completion = promised;
        if rules.count_stretch {
            // What is usual says how good estimates are at all; only what is beyond that is the peer's.
            let usual = question.stretch_here.max(1000);
            let beyond = self.stretch.permille(now).saturating_mul(1000) / usual;
            // Unlike requests alone stretch some answers and not others.
            completion = completion.permille(if beyond < STRETCH_NOISE { 1000 } else { beyond });
        }
        if rules.count_errors {
            let redo = question.here.unwrap_or(completion).max(completion);
            completion += self.breaker.cost_of_errors(now, redo);
        }
        let load = report.and_then(|report| report.busy).unwrap_or_else(|| sums.busy_mean(report));
        Seat {
            id: self.facts.id.clone(),
            here: false,
            completion: completion + self.rtt,
            promised: promised + self.rtt,
            wait: wait + ahead,
            rtt: self.rtt,
            age: self.load.age(now),
            weight: self.facts.weight,
            mine: self.flights,
            held: report.map_or(0, |report| report.held),
            slots,
            load,
        }
    }
}
