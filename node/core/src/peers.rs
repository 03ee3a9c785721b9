//! The one table of peers: what gossip says of each, whether its transport works, what it says of its load, and how its
//! answers turned out.
//!
//! For `node`, which asks it for seats. One peer is in `peer`, whom to offer in `pool`.
//! Invariants: everything counted about a peer belongs to one run of its process ([`BootId`]) and goes with it; a peer
//! that does not serve this model, does not take work, or whose gate does not pass is never offered; one whose errors
//! pause it only where nobody else is left; one that gossip calls dead only in a panic, and then only while it answers
//! pings.

mod facts;
mod peer;
mod pool;

pub use facts::{PeerFacts, PeerRules, PeerView, Question, Word};
pub use pool::{Draw, Take};

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::gate::{self, Gate, Signal};
use crate::id::{BootId, JobId, NodeId};
use crate::lifecycle::Standing;
use crate::load::Report;
use crate::prng::Prng;
use crate::route::Seat;
use crate::share::Share;
use crate::tally::{Rule, Tally};
use crate::time::{Micros, MonoTime};
use peer::{Peer, Start};
use pool::Pool;

/// Means over all peers are made again so often.
const SUMS_EVERY: Micros = Micros::from_ms(100);

/// A peer that ends its connections is pinged for that at most so often: each ping makes a connection that may end.
const PARTED_PING_EVERY: Micros = Micros::from_ms(1000);

/// So long a word on the load holds for a job that is late: a node speaks more often, or does not run.
const WORD_HOLDS: Micros = Micros::from_ms(1500);

/// All peers that gossip knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peers {
    rules: PeerRules,
    /// By name.
    table: Vec<Peer>,
    /// When gossip first named anybody: who comes later has just started.
    first_heard: Option<MonoTime>,
    /// Whom work may go to; made again when `stale`.
    pool: Pool,
    stale: bool,
    sums: Sums,
    sums_at: MonoTime,
    /// Before this moment time alone changes nothing about anybody: until then a tick has nothing to look at.
    due: MonoTime,
    panics: bool,
    /// The present panic was counted.
    panic_counted: bool,
    entries: u64,
}

/// Sums over the peers that are heard and said their load.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sums {
    told: u64,
    wait: Micros,
    busy: u64,
    busy_told: u64,
}

/// The way that a job takes to a peer, as the table counts it. Give it back with [`Peers::on_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    boot: BootId,
    /// A peer that left the membership and came back is another entry of the table, with counts of its own.
    entry: u64,
    units: u64,
    acknowledged: bool,
    /// It was acknowledged without a report, after so many reports.
    unreported_after: Option<u64>,
}

impl Ticket {
    /// The run of the peer's process that it was sent to.
    #[must_use]
    pub fn boot(self) -> BootId {
        self.boot
    }
}

impl Sums {
    /// Mean wait over this node (`own`) and the peers that are heard and said theirs.
    fn wait_mean(&self, own: Micros) -> Micros {
        Micros::new((self.wait + own).get() / (self.told + 1))
    }

    /// Share to assume of a device of which it is unknown: the mean of the others, else what its slots say.
    fn busy_mean(&self, report: Option<Report>) -> Share {
        let slots = || report.map_or(Share::default(), |report| Share::of(report.held.into(), report.slots.into()));
        let mean = self.busy.checked_div(self.busy_told).and_then(|mean| u8::try_from(mean).ok());
        mean.map_or_else(slots, Share::percent)
    }
}

impl Peers {
    /// Nobody yet.
    #[must_use]
    pub fn new(rules: PeerRules) -> Self {
        Self {
            rules,
            table: Vec::new(),
            first_heard: None,
            pool: Pool::default(),
            stale: true,
            sums: Sums::default(),
            sums_at: MonoTime::START,
            due: MonoTime::START,
            panics: false,
            panic_counted: false,
            entries: 0,
        }
    }

    fn position(&self, peer: &NodeId) -> Option<usize> {
        self.table.binary_search_by(|entry| entry.facts.id.cmp(peer)).ok()
    }

    fn of(&mut self, peer: &NodeId) -> Option<&mut Peer> {
        let position = self.position(peer)?;
        Some(&mut self.table[position])
    }

    /// The entry that `ticket` was made for: the run of the process that got the job.
    fn run_of(&mut self, peer: &NodeId, ticket: Option<Ticket>) -> Option<&mut Peer> {
        self.of(peer).filter(|peer| peer.is_of(ticket))
    }

    /// Takes over what gossip says. Peers that it does not name are forgotten; a new run of a process starts afresh.
    ///
    /// A run that was called dead comes back by direct contact only: a node that stood still spreads heartbeats that it
    /// found in its sockets, of processes that are long gone. While gossip still names the run before, the newest run
    /// counts. With `doubt`, because this node itself stood still, nobody is called dead who was alive before.
    pub fn on_membership(&mut self, now: MonoTime, mut members: Vec<PeerFacts>, doubt: bool, tally: &mut Tally) {
        members.sort_by(|one, other| (&one.id, other.boot).cmp(&(&other.id, one.boot)));
        members.dedup_by(|older, newer| older.id == newer.id);
        if self.first_heard.is_none() && !members.is_empty() {
            self.first_heard = Some(now);
        }
        let settled_in = self.rules.slow_start.zip(self.first_heard).is_some_and(|(ramp, first)| first + ramp <= now);
        let mut known = std::mem::take(&mut self.table).into_iter().peekable();
        for facts in members {
            while known.next_if(|peer| peer.facts.id < facts.id).is_some() {}
            let load = facts.load;
            let same = known.next_if(|peer| peer.facts.id == facts.id);
            let is_known = same.is_some();
            let mut peer = match same {
                Some(peer) if peer.facts.boot == facts.boot => peer.with_facts(now, facts),
                // Gossip still mourns the run before, and does not name the run that is known.
                Some(peer) if facts.boot < peer.facts.boot && !facts.alive => {
                    let facts = PeerFacts { alive: false, ..peer.facts.clone() };
                    peer.with_facts(now, facts)
                }
                Some(_) | None => {
                    self.entries += 1;
                    Peer::new(now, self.entries, facts)
                }
            };
            if peer.facts.alive && peer.is_back_by_hearsay(now) {
                let before = peer.gate;
                peer.gate = gate::step(now, &self.rules.gate, before, Signal::Returned, 0);
                if before.passes() && !peer.gate.passes() {
                    tally.count(Rule::GateBlocked);
                }
            }
            match (peer.facts.alive, peer.dead_since) {
                (true, _) => (peer.dead_since, peer.doubted, peer.was_alive) = (None, None, true),
                (false, None) if !(doubt && is_known) => peer.dead_since = Some(now),
                (false, _) => {}
            }
            if let Some(report) = load {
                peer.on_report(now, report, tally);
            }
            if peer.start == Start::Awaited && peer.wanted(now) && peer.dead_since.is_none() {
                peer.start = if settled_in { Start::At(now) } else { Start::Before };
            }
            self.table.push(peer);
        }
        self.due = MonoTime::START;
        self.renew(now);
    }

    /// This node trusts its own ears again: whom gossip calls dead is dead.
    pub fn on_doubt_ended(&mut self, now: MonoTime) {
        for peer in self.table.iter_mut().filter(|peer| !peer.facts.alive) {
            peer.dead_since.get_or_insert(now);
        }
        (self.stale, self.due) = (true, MonoTime::START);
    }

    /// A word of `peer` about a job, with its load and a measured round trip where it had them. Returns whether its
    /// load was news.
    pub fn on_heard(&mut self, now: MonoTime, peer: &NodeId, word: Word, tally: &mut Tally) -> bool {
        self.hear(now, peer, word, (false, tally))
    }

    /// `peer` answered a ping. The same, but for one thing: while jobs are on the way to it that it did not
    /// acknowledge, that it answers pings makes no earlier silence about a job undone. Who is asked all the time how it
    /// is could else swallow jobs for ever.
    pub fn on_pong(&mut self, now: MonoTime, peer: &NodeId, word: Word, tally: &mut Tally) -> bool {
        self.hear(now, peer, word, (true, tally))
    }

    fn hear(&mut self, now: MonoTime, peer: &NodeId, word: Word, (pong, tally): (bool, &mut Tally)) -> bool {
        let gate_rules = self.rules.gate;
        let Some(position) = self.position(peer) else { return false };
        let peer = &mut self.table[position];
        let shut = !peer.gate.passes();
        if shut {
            tally.count(Rule::GateOpened);
        }
        if shut || !pong || peer.units_unacknowledged == 0 {
            peer.gate = gate::step(now, &gate_rules, peer.gate, Signal::Heard, 0);
        }
        (peer.heard, peer.asked) = (Some(now), None);
        let is_dead = peer.dead_since.is_some();
        if let Some(rtt) = word.rtt {
            peer.on_rtt(now, rtt);
            self.due = peer.rtt_due(now).map_or(self.due, |at| self.due.min(at));
        }
        if is_dead {
            self.due = MonoTime::START;
        }
        self.stale |= shut || is_dead;
        let before = self.table[position].reports;
        self.on_word(now, position, word, tally);
        before < self.table[position].reports
    }

    /// Whether to ask `peer` for its load: what it said is older than `age_max`, and no such question is out. That it
    /// is, is noted.
    pub fn ask_load(&mut self, now: MonoTime, peer: &NodeId, age_max: Micros) -> bool {
        let limit = self.rules.gate.ping_limit;
        let Some(peer) = self.of(peer) else { return false };
        let is_old = peer.load.age(now).is_none_or(|age| age_max < age);
        let asks = is_old && peer.asked.is_none_or(|at| at + limit <= now);
        if asks {
            peer.asked = Some(now);
        }
        asks
    }

    /// `peer` sent a job: it lives, but whether one can reach it is another question. That is asked at once.
    pub fn on_called(&mut self, now: MonoTime, peer: &NodeId, word: Word, tally: &mut Tally) {
        let gate_rules = self.rules.gate;
        let Some(position) = self.position(peer) else { return };
        let peer = &mut self.table[position];
        if !peer.gate.passes() {
            peer.gate = gate::step(now, &gate_rules, peer.gate, Signal::Called, 0);
            self.due = MonoTime::START;
        }
        self.on_word(now, position, word, tally);
    }

    /// Takes the load that came with a word.
    fn on_word(&mut self, now: MonoTime, position: usize, word: Word, tally: &mut Tally) {
        let rules = self.rules.load;
        let Some(report) = word.report.filter(|_| rules.in_band) else { return };
        let peer = &mut self.table[position];
        let before = (peer.standing(now), peer.rests_until);
        peer.on_report(now, report, tally);
        self.stale |= before != (peer.standing(now), peer.rests_until);
    }

    /// The transport to `peer` failed: how, says `signal`. `boot` is the run that it failed on, where that is known:
    /// the failure of an earlier one says nothing.
    pub fn on_failed(
        &mut self,
        now: MonoTime,
        peer: &NodeId,
        boot: Option<BootId>,
        signal: Signal,
        (prng, tally): (&mut Prng, &mut Tally),
    ) {
        let rules = self.rules.gate;
        let Some(peer) = self.of(peer).filter(|peer| boot.is_none_or(|boot| boot == peer.facts.boot)) else { return };
        let passed = peer.gate.passes();
        peer.gate = gate::step(now, &rules, peer.gate, signal, prng.next_u64());
        if passed && !peer.gate.passes() {
            peer.shut_at = Some(now);
            tally.count(Rule::GateBlocked);
        }
        (self.stale, self.due) = (true, MonoTime::START);
    }

    /// A ping of `peer` was not answered, or (`broke`) did not get there.
    ///
    /// Of a peer that gossip calls dead no answer is awaited: one that was asked while it seemed to live would only be
    /// blocked for a silence that is explained. In a panic gossip is not believed, and pings have to tell. Nor does it
    /// say anything of a peer that it did not tell its load in time: it is busy, and jobs show whether it takes them.
    pub fn on_ping_failed(&mut self, now: MonoTime, peer: &NodeId, broke: bool, with: (&mut Prng, &mut Tally)) {
        let panics = self.panics;
        let Some(at) = self.position(peer) else { return };
        let was_asked = self.table[at].asked.take().is_some();
        let is_explained = was_asked || (self.table[at].dead_since.is_some() && !panics);
        if !broke && is_explained && self.table[at].gate.passes() {
            return;
        }
        let signal = if broke { Signal::Broke } else { Signal::Silent };
        self.on_failed(now, peer, None, signal, with);
    }

    /// The connection to `peer` ended. Returns whether to ask at once if the peer is there: not where that is known or
    /// being asked anyway, and not again and again of a peer that ends every connection.
    pub fn on_parted(&mut self, now: MonoTime, peer: &NodeId) -> bool {
        let Some(peer) = self.of(peer) else { return false };
        let is_known = !peer.gate.passes() || peer.dead_since.is_some();
        let asks = !is_known && peer.parted.is_none_or(|at| at + PARTED_PING_EVERY <= now);
        if asks {
            peer.parted = Some(now);
        }
        asks
    }

    /// Whether the run of `peer` that `ticket` names spoke a moment ago: if it is silent now, it is slow and not gone.
    #[must_use]
    pub fn lives(&self, now: MonoTime, peer: &NodeId, ticket: Option<Ticket>) -> bool {
        let peer = self.position(peer).map(|at| &self.table[at]);
        peer.is_some_and(|peer| peer.is_of(ticket) && peer.lives(now))
    }

    /// Whether `peer` says that it is leaving.
    #[must_use]
    pub fn leaves(&self, now: MonoTime, peer: &NodeId) -> bool {
        self.position(peer).is_some_and(|at| self.table[at].standing(now) == Standing::Draining)
    }

    /// What `peer` said last of its wait, if that was a moment ago.
    #[must_use]
    pub fn wait_told(&self, now: MonoTime, peer: &NodeId) -> Option<Micros> {
        let load = &self.table[self.position(peer)?].load;
        let (_, heard) = load.newest()?;
        load.report().filter(|_| now < heard + WORD_HOLDS).map(|report| report.wait)
    }

    /// `peer` gave a whole answer `took` after the job was sent, for which it was expected after `expected`.
    pub fn on_answer(
        &mut self,
        now: MonoTime,
        peer: &NodeId,
        ticket: Option<Ticket>,
        (expected, took): (Micros, Micros),
    ) {
        let breaker_rules = self.rules.breaker;
        let Some(peer) = self.run_of(peer, ticket) else { return };
        peer.stretch.on_answer(now, expected, took);
        peer.breaker.on_outcome(now, breaker_rules.as_ref(), false);
    }

    /// `peer` did not answer within `took`, and nobody waits for it any more, or for it alone.
    pub fn on_late(
        &mut self,
        now: MonoTime,
        peer: &NodeId,
        ticket: Option<Ticket>,
        (expected, took): (Micros, Micros),
    ) {
        if let Some(peer) = self.run_of(peer, ticket) {
            peer.stretch.on_answer(now, expected, took);
        }
    }

    /// The model of `peer` failed on a job that worked elsewhere.
    pub fn on_blamed(&mut self, now: MonoTime, peer: &NodeId, ticket: Option<Ticket>, tally: &mut Tally) {
        let rules = self.rules.breaker;
        let Some(peer) = self.run_of(peer, ticket) else { return };
        if peer.breaker.on_outcome(now, rules.as_ref(), true) {
            tally.count(Rule::BreakerPaused);
            (self.stale, self.due) = (true, MonoTime::START);
        }
    }

    /// `peer` is full, or has another model. Until it says its load again, or `until`, it is asked only where nobody
    /// else can be: a node that refuses at once looks idle, and would get everything.
    pub fn on_declined(&mut self, peer: &NodeId, ticket: Option<Ticket>, until: MonoTime) {
        let Some(peer) = self.run_of(peer, ticket) else { return };
        peer.rests_until = Some(until);
        (self.stale, self.due) = (true, self.due.min(until));
    }

    /// Time went by. Appends the peers that are to be pinged now.
    pub fn on_tick(&mut self, now: MonoTime, pings: &mut Vec<NodeId>, (prng, tally): (&mut Prng, &mut Tally)) {
        self.renew_if_stale(now);
        if self.sums_at + SUMS_EVERY <= now {
            self.renew_sums(now);
        }
        if self.panics && !self.panic_counted {
            tally.count(Rule::Panicked);
        }
        self.panic_counted = self.panics;
        if now < self.due {
            return;
        }
        let (rules, panics) = (&self.rules, self.panics);
        let mut due = None;
        for peer in &mut self.table {
            let before = peer.gate;
            peer.gate = gate::step(now, &rules.gate, before, Signal::Tick, prng.next_u64());
            let probes = matches!(peer.gate, Gate::Probing { .. }) && !matches!(before, Gate::Probing { .. });
            if probes || peer.is_to_be_asked(now, panics) {
                tally.count(Rule::GateProbed);
                peer.doubted = Some(now);
                pings.push(peer.facts.id.clone());
            } else if peer.rtt_due(now).is_some_and(|at| at <= now) {
                peer.rtt_at = now;
                pings.push(peer.facts.id.clone());
            }
            due = due.into_iter().chain(peer.due(now, rules, panics)).min();
        }
        self.due = due.unwrap_or(MonoTime::from_micros(u64::MAX));
        self.stale = true;
    }

    /// A job of `units` goes to `peer`. `None` when gossip forgot the peer in this moment.
    pub fn on_sent(&mut self, peer: &NodeId, units: u64) -> Option<Ticket> {
        let peer = self.of(peer)?;
        peer.flights += 1;
        peer.units_unacknowledged += units;
        Some(Ticket { boot: peer.facts.boot, entry: peer.entry, units, acknowledged: false, unreported_after: None })
    }

    /// `peer` holds the job. Whether that word carried its load says `reported`.
    pub fn on_acknowledged(&mut self, peer: &NodeId, ticket: &mut Ticket, reported: bool) {
        let reported = reported && self.rules.load.in_band;
        if std::mem::replace(&mut ticket.acknowledged, true) {
            return;
        }
        let Some(peer) = self.run_of(peer, Some(*ticket)) else { return };
        peer.units_unacknowledged -= ticket.units;
        if !reported {
            peer.units_unreported += ticket.units;
            ticket.unreported_after = Some(peer.reports);
        }
    }

    /// The job is no longer on the way to `peer`, nor there.
    pub fn on_ended(&mut self, peer: &NodeId, ticket: Ticket) {
        let Some(peer) = self.run_of(peer, Some(ticket)) else { return };
        peer.flights -= 1;
        if !ticket.acknowledged {
            peer.units_unacknowledged -= ticket.units;
        }
        if ticket.unreported_after == Some(peer.reports) {
            peer.units_unreported -= ticket.units;
        }
    }

    /// Whether any peer may get a job now.
    #[must_use]
    pub fn any(&self, now: MonoTime) -> bool {
        self.table.iter().any(|peer| peer.may(now, self.panics))
    }

    /// Whether a peer that might get a job is being asked whether one can get there.
    #[must_use]
    pub fn asks(&self, now: MonoTime) -> bool {
        self.table.iter().any(|peer| peer.is_asked(now, &self.rules.gate))
    }

    /// Nobody else can do a job: asks the peers that cannot be reached, as far as is known, without waiting for the end
    /// of their pauses. Returns whether there are any.
    pub fn ask(&mut self, now: MonoTime) -> bool {
        let rules = self.rules.gate;
        for peer in self.table.iter_mut().filter(|peer| peer.may_be_back(now)) {
            peer.gate = gate::step(now, &rules, peer.gate, Signal::Called, 0);
            self.due = MonoTime::START;
        }
        self.asks(now)
    }

    /// Peers that may get a job now, without backups and those that rest.
    pub fn ready(&mut self, now: MonoTime) -> usize {
        self.renew_if_stale(now);
        self.pool.first.at.len()
    }

    /// A seat for one peer, if `job`, which waits at this node, may move there: never to one that others come before,
    /// and to a light one, or one that has just started, only with so many of the jobs as a draw would offer it to. A
    /// job has one lot for each peer, however often that speaks.
    pub fn seat_for_waiting(&mut self, now: MonoTime, peer: &NodeId, job: JobId, question: &Question) -> Option<Seat> {
        self.renew_if_stale(now);
        let at = self.position(peer)?;
        let (list, peer) = (&self.pool.first, &self.table[at]);
        let is_listed = u32::try_from(at).is_ok_and(|at| list.has(at));
        let mut lot = Prng::new(job.0 ^ peer.entry.rotate_left(32));
        let takes = is_listed && list.takes_part(peer.facts.weight, peer.risen(now, self.rules.slow_start), &mut lot);
        takes.then(|| peer.seat(now, &self.rules, &self.sums, question))
    }

    /// A seat for one peer, if it may get a job now.
    pub fn seat(&mut self, now: MonoTime, peer: &NodeId, question: &Question) -> Option<Seat> {
        let at = self.position(peer)?;
        let peer = &self.table[at];
        let may = peer.may(now, self.panics) && peer.breaker.passes(now);
        may.then(|| peer.seat(now, &self.rules, &self.sums, question))
    }

    /// What the peers that may get jobs hold together, by their own word.
    pub fn holdings(&mut self, now: MonoTime) -> Holdings {
        self.renew_if_stale(now);
        let reports = self.pool.first.at.iter().map(|&at| self.table[at as usize].load.report());
        reports.fold(Holdings::default(), |sum, report| Holdings {
            nodes: sum.nodes + 1,
            jobs: sum.jobs + report.map_or(0, |report| report.held.into()),
        })
    }

    /// Costs of the peers that may get jobs and said theirs; of more than `most` such peers that many, from one end of
    /// the table to the other.
    pub fn costs(&mut self, now: MonoTime, most: usize) -> impl Iterator<Item = Cost> {
        self.renew_if_stale(now);
        let at = &self.pool.first.at;
        let step = at.len().div_ceil(most.max(1)).max(1);
        let reports = at.iter().step_by(step).filter_map(|&at| self.table[at as usize].load.report());
        reports.map(|report| report.cost).filter(|&cost| cost != Cost::default())
    }

    /// Mean part of the devices that is in use, of the peers that may get jobs and said their load; nothing when
    /// nobody did. Where the device is not probed, the slots that are taken stand for it.
    pub fn load_mean(&mut self, now: MonoTime) -> Share {
        self.renew_if_stale(now);
        let reports = self.pool.first.at.iter().filter_map(|&at| self.table[at as usize].load.report());
        let load = |report: Report| report.busy.unwrap_or_else(|| Share::of(report.held.into(), report.slots.into()));
        let (sum, told) = reports.fold((0, 0), |(sum, told), report| (sum + u64::from(load(report).get()), told + 1));
        Share::of(sum, u64::max(told, 1) * 100)
    }

    /// Each peer, for people and metrics.
    pub fn iter(&self, now: MonoTime) -> impl Iterator<Item = PeerView<'_>> {
        self.table.iter().map(move |peer| PeerView {
            facts: &peer.facts,
            gate: peer.gate,
            paused: !peer.breaker.passes(now),
            report: peer.load.report(),
            age: peer.load.age(now),
            stretch_permille: peer.stretch.permille(now),
            error_permille: peer.breaker.error_permille(now),
            rtt: peer.rtt,
            flights: peer.flights,
            answers_unheard: peer.answers_unheard(now),
        })
    }

    /// Whether gossip calls so many dead that it is in doubt.
    #[must_use]
    pub fn panics(&self) -> bool {
        self.panics
    }

    /// Units on the way to any peer that were not acknowledged yet.
    #[must_use]
    pub fn units_unacknowledged(&self) -> u64 {
        self.table.iter().map(|peer| peer.units_unacknowledged).sum()
    }

    fn renew_if_stale(&mut self, now: MonoTime) {
        if self.stale {
            self.renew(now);
        }
    }

    fn renew(&mut self, now: MonoTime) {
        // Who never was alive was not lost: while a shoal starts, gossip knows names before it has heard anybody.
        let wanted = self.table.iter().filter(|peer| peer.was_alive && peer.wanted(now));
        let (known, dead) =
            wanted.fold((0u64, 0u64), |(known, dead), peer| (known + 1, dead + u64::from(peer.dead_since.is_some())));
        let percent = u64::from(self.rules.panic_percent);
        let panics = 0 < percent && known * percent < dead * 100;
        if panics != self.panics {
            (self.panics, self.due) = (panics, MonoTime::START);
        }
        let Pool { first, backups, resting } = &mut self.pool;
        first.clear();
        backups.clear();
        resting.clear();
        for (at, peer) in (0u32..).zip(&self.table) {
            if !peer.may(now, panics) {
                continue;
            }
            let list = match (peer.rests(now), peer.facts.backup) {
                (true, _) => &mut *resting,
                (false, true) => &mut *backups,
                (false, false) => &mut *first,
            };
            list.push(at, peer.facts.weight, peer.risen(now, self.rules.slow_start) < 100);
        }
        self.stale = false;
        self.renew_sums(now);
    }

    fn renew_sums(&mut self, now: MonoTime) {
        self.sums_at = now;
        let heard = self.table.iter().filter(|peer| peer.dead_since.is_none());
        self.sums = heard.filter_map(|peer| peer.load.report()).fold(Sums::default(), |sums, report| Sums {
            told: sums.told + 1,
            wait: sums.wait + report.wait,
            busy: sums.busy + report.busy.map_or(0, |busy| busy.get().into()),
            busy_told: sums.busy_told + u64::from(report.busy.is_some()),
        });
    }
}

/// What some nodes hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// How many nodes.
    pub nodes: u64,
    /// Jobs that wait or run there.
    pub jobs: u64,
}

#[cfg(test)]
mod tests;
