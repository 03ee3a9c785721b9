//! The one table of peers: what gossip says of each, whether its transport works, what it says of its load, and how its
//! answers turned out.
//!
//! For `node`, which asks it for seats.
//! Invariants: everything counted about a peer belongs to one run of its process ([`BootId`]) and goes with it; a peer
//! that does not serve this model, does not take work, or whose gate or breaker does not pass is never offered; one
//! that gossip calls dead only in a panic, and then only while it answers pings.

use serde::{Deserialize, Serialize};

use crate::breaker::{Breaker, BreakerRules};
use crate::cost::Cost;
use crate::gate::{self, Gate, GateRules, Signal};
use crate::id::{BootId, NodeId};
use crate::lifecycle::Standing;
use crate::load::{LoadRules, LoadView, Report};
use crate::prng::Prng;
use crate::route::Seat;
use crate::share::Share;
use crate::stretch::Stretch;
use crate::tally::{Rule, Tally};
use crate::time::{Micros, MonoTime};

/// Round trip that is assumed before the first measurement.
const RTT_UNKNOWN: Micros = Micros::from_ms(1);
/// A peer that gossip calls dead is pinged this often while gossip is in doubt.
const DOUBT_PING_EVERY: Micros = Micros::from_ms(1000);
/// So long a direct word proves that such a peer lives.
const DOUBT_TRUST: Micros = Micros::from_ms(3000);
/// A stretch below this, in thousandths of what is usual, is noise.
const STRETCH_NOISE: u64 = 1500;
/// Part of its share, in percent, that a node gets which has just started.
const SLOW_START_FROM: u64 = 10;

/// When a peer is left alone, and how much it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRules {
    /// Broken connections and silence.
    pub gate: GateRules,
    /// How load ages.
    pub load: LoadRules,
    /// Errors that pause a peer; `None` = none do.
    pub breaker: Option<BreakerRules>,
    /// Errors make a peer less attractive at once, so that one that fails fast does not attract work.
    pub count_errors: bool,
    /// Answers that come later than promised make a peer's promises count for less.
    pub count_stretch: bool,
    /// So long a node that has just started gets less than its share; `None` = not at all.
    pub slow_start: Option<Micros>,
    /// When gossip calls more than so many percent of the peers dead, whether they answer pings counts instead; 0 =
    /// gossip is always believed.
    pub panic_percent: u32,
}

impl Default for PeerRules {
    fn default() -> Self {
        Self {
            gate: GateRules::default(),
            load: LoadRules::default(),
            breaker: Some(BreakerRules::default()),
            count_errors: true,
            count_stretch: true,
            slow_start: Some(Micros::from_ms(3000)),
            panic_percent: 50,
        }
    }
}

/// What gossip says of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Its name.
    pub id: NodeId,
    /// The run of its process.
    pub boot: BootId,
    /// Its heartbeats come.
    pub alive: bool,
    /// Its own word.
    pub standing: Standing,
    /// It holds the model of this node: same name, revision and precision.
    pub serves: bool,
    /// How much work it should get: 100 is normal, 0 is none.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// Its load, if it was gossiped.
    pub load: Option<Report>,
}

/// What came with a direct word of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Its load.
    pub report: Option<Report>,
    /// A measured round trip, the peer's own time taken off.
    pub rtt: Option<Micros>,
}

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
    /// Gates that do not pass, or may not: while there is none, a tick has nothing to look at.
    unsettled: bool,
    panics: bool,
    entries: u64,
}

/// Positions in the table of the peers that may get a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pool {
    first: Vec<u32>,
    backups: Vec<u32>,
    weight_max: u32,
    /// Some weight is not the largest, or rises: a draw has to look at weights.
    uneven: bool,
}

/// Sums over the peers that are heard and said their load.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sums {
    told: u64,
    wait: Micros,
    busy: u64,
    busy_told: u64,
}

/// When a process was first seen to take work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Start {
    /// It does not yet.
    Awaited,
    /// Before this node knew of it, or with it.
    Before,
    /// Then.
    At(MonoTime),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Peer {
    entry: u64,
    facts: PeerFacts,
    gate: Gate,
    breaker: Breaker,
    load: LoadView,
    stretch: Stretch,
    rtt: Micros,
    /// When its last direct word came.
    heard: Option<MonoTime>,
    /// Gossip calls it dead since then.
    dead_since: Option<MonoTime>,
    /// While gossip is in doubt: when it was last pinged.
    doubted: Option<MonoTime>,
    start: Start,
    /// Jobs of this node's callers that are on the way there or there.
    flights: u32,
    /// Units of those that it did not acknowledge yet: its newest report cannot contain them.
    units_unacknowledged: u64,
    /// Units that it acknowledged without a report of its load, since its newest report.
    units_unreported: u64,
}

/// What is asked about a peer's completion.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Units of the job.
    pub units: u64,
    /// Wait of this node.
    pub wait_here: Micros,
    /// The job's completion here, if it may run here.
    pub here: Option<Micros>,
    /// Cost to assume where it is unknown: this node's own.
    pub cost_unknown: Cost,
    /// How far the answers of this node itself stretch, in thousandths.
    pub stretch_here: u64,
}

/// The way that a job takes to a peer, as the table counts it. Give it back with [`Peers::on_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    boot: BootId,
    /// A peer that left the membership and came back is another entry of the table, with counts of its own.
    entry: u64,
    units: u64,
    acknowledged: bool,
}

/// A peer as people and metrics see it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a> {
    /// What gossip says.
    pub facts: &'a PeerFacts,
    /// Whether its transport works.
    pub gate: Gate,
    /// Its errors pause it.
    pub paused: bool,
    /// Its newest word on its load.
    pub report: Option<Report>,
    /// How old that is.
    pub age: Option<Micros>,
    /// How far its answers stretch, in thousandths.
    pub stretch_permille: u64,
    /// Part of its answers that were errors, in thousandths.
    pub error_permille: u64,
    /// Round trip.
    pub rtt: Micros,
    /// Jobs of this node that are there.
    pub flights: u32,
    /// It answers, although gossip calls it dead.
    pub answers_unheard: bool,
}

impl Ticket {
    /// The run of the peer's process that it was sent to.
    #[must_use]
    pub fn boot(self) -> BootId {
        self.boot
    }
}

impl Peer {
    fn new(entry: u64, facts: PeerFacts) -> Self {
        Self {
            entry,
            facts,
            gate: Gate::NEW,
            breaker: Breaker::default(),
            load: LoadView::default(),
            stretch: Stretch::default(),
            rtt: RTT_UNKNOWN,
            heard: None,
            dead_since: None,
            doubted: None,
            start: Start::Awaited,
            flights: 0,
            units_unacknowledged: 0,
            units_unreported: 0,
        }
    }

    /// Takes a claim, unless an earlier run of the process made it. A later run is heard before gossip knows it.
    fn on_report(&mut self, now: MonoTime, report: Report, tally: &mut Tally) {
        if !report.is_believable() {
            return tally.count(Rule::AbsurdReport);
        }
        if self.facts.boot <= report.boot && self.load.on_report(now, report) {
            self.units_unreported = 0;
        }
    }

    fn standing(&self) -> Standing {
        self.load.report().map_or(self.facts.standing, |report| report.standing)
    }

    /// It would get work if it were there.
    fn wanted(&self) -> bool {
        self.facts.serves && 0 < self.facts.weight && self.standing().accepts()
    }

    /// It answers directly although gossip calls it dead.
    fn answers_unheard(&self, now: MonoTime) -> bool {
        let since = |since| self.heard.is_some_and(|heard| since < heard && now.since(heard) < DOUBT_TRUST);
        self.dead_since.is_some_and(since)
    }

    fn may(&self, now: MonoTime, panics: bool) -> bool {
        let there = self.dead_since.is_none() || (panics && self.answers_unheard(now));
        there && self.wanted() && self.gate.passes() && self.breaker.passes(now)
    }

    /// Its weight; less while it has just started.
    fn weight(&self, now: MonoTime, slow_start: Option<Micros>) -> u64 {
        let full = u64::from(self.facts.weight);
        let (Start::At(started), Some(ramp)) = (self.start, slow_start) else { return full * 100 };
        let age = now.since(started).get().min(ramp.get());
        let risen = (100 - SLOW_START_FROM) * age / ramp.get().max(1);
        full * (SLOW_START_FROM + risen)
    }

    fn seat(&self, now: MonoTime, rules: &PeerRules, sums: &Sums, question: &Question) -> Seat {
        let report = self.load.report();
        let told_cost = report.map(|report| report.cost).filter(|&cost| cost != Cost::default());
        let cost = told_cost.unwrap_or(question.cost_unknown);
        let slots = report.map_or(1, |report| report.slots);
        let wait = self.load.wait(now, &rules.load, sums.wait_mean(question.wait_here));
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
            // An error costs the way there and then the whole completion here; twice that, so that a peer which fails
            // every second job is never chosen for being fast.
            let redo = question.here.unwrap_or(completion).max(completion);
            completion += redo.permille(2 * self.breaker.error_permille(now));
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
            unsettled: false,
            panics: false,
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

    /// Takes over what gossip says. Peers that it does not name are forgotten; a new run of a process starts afresh.
    /// While gossip still names the run before, the newest run of a peer counts. With `doubt`, because this node itself
    /// stood still, nobody is called dead who was alive before.
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
            let mut peer = match same {
                Some(peer) if peer.facts.boot == facts.boot => Peer { facts, ..peer },
                Some(_) | None => {
                    self.entries += 1;
                    Peer::new(self.entries, facts)
                }
            };
            match (peer.facts.alive, peer.dead_since) {
                (true, _) => (peer.dead_since, peer.doubted) = (None, None),
                (false, None) if !doubt => peer.dead_since = Some(now),
                (false, _) => {}
            }
            if let Some(report) = load {
                peer.on_report(now, report, tally);
            }
            if peer.start == Start::Awaited && peer.wanted() && peer.dead_since.is_none() {
                peer.start = if settled_in { Start::At(now) } else { Start::Before };
            }
            self.table.push(peer);
        }
        self.unsettled = true;
        self.renew(now);
    }

    /// This node trusts its own ears again: whom gossip calls dead is dead.
    pub fn on_doubt_ended(&mut self, now: MonoTime) {
        for peer in self.table.iter_mut().filter(|peer| !peer.facts.alive) {
            peer.dead_since.get_or_insert(now);
        }
        (self.stale, self.unsettled) = (true, true);
    }

    /// A direct word from `peer`, with its load and a measured round trip where it had them.
    pub fn on_heard(&mut self, now: MonoTime, peer: &NodeId, word: Word, tally: &mut Tally) {
        let in_band = self.rules.load.in_band;
        let (gate_rules, mut stale) = (self.rules.gate, false);
        let Some(peer) = self.of(peer) else { return };
        if !peer.gate.passes() {
            tally.count(Rule::GateOpened);
            stale = true;
        }
        peer.gate = gate::step(now, &gate_rules, peer.gate, Signal::Heard, 0);
        peer.heard = Some(now);
        let stood = peer.standing();
        if let Some(report) = word.report.filter(|_| in_band) {
            peer.on_report(now, report, tally);
        }
        stale |= peer.standing() != stood || peer.dead_since.is_some();
        if let Some(rtt) = word.rtt {
            // One eighth of the newest, as TCP smooths its round trip (RFC 6298).
            peer.rtt = Micros::new((peer.rtt.get().saturating_mul(7).saturating_add(rtt.get())) / 8);
        }
        self.stale |= stale;
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
            tally.count(Rule::GateBlocked);
        }
        (self.unsettled, self.stale) = (true, true);
    }

    /// `peer` gave a whole answer `took` after the job was sent, for which it was expected after `expected`.
    pub fn on_answer(&mut self, now: MonoTime, peer: &NodeId, expected: Micros, took: Micros) {
        let breaker_rules = self.rules.breaker;
        let Some(peer) = self.of(peer) else { return };
        peer.stretch.on_answer(now, expected, took);
        peer.breaker.on_outcome(now, breaker_rules.as_ref(), false);
    }

    /// `peer` did not answer within `took`, and was given up for another.
    pub fn on_late(&mut self, now: MonoTime, peer: &NodeId, expected: Micros, took: Micros) {
        if let Some(peer) = self.of(peer) {
            peer.stretch.on_answer(now, expected, took);
        }
    }

    /// The model of `peer` failed on a job that worked elsewhere.
    pub fn on_blamed(&mut self, now: MonoTime, peer: &NodeId, tally: &mut Tally) {
        let rules = self.rules.breaker;
        let Some(peer) = self.of(peer) else { return };
        if peer.breaker.on_outcome(now, rules.as_ref(), true) {
            tally.count(Rule::BreakerPaused);
            (self.stale, self.unsettled) = (true, true);
        }
    }

    /// Time went by. Appends the peers that are to be pinged now.
    pub fn on_tick(&mut self, now: MonoTime, pings: &mut Vec<NodeId>, (prng, tally): (&mut Prng, &mut Tally)) {
        self.renew_sums();
        if !self.unsettled {
            return;
        }
        let (rules, panics) = (self.rules.gate, self.panics);
        self.unsettled = false;
        for peer in &mut self.table {
            let before = peer.gate;
            peer.gate = gate::step(now, &rules, before, Signal::Tick, prng.next_u64());
            let probes = matches!(peer.gate, Gate::Probing { .. }) && !matches!(before, Gate::Probing { .. });
            let in_doubt = panics && peer.dead_since.is_some() && peer.gate.passes() && peer.wanted();
            let doubts = in_doubt && peer.doubted.is_none_or(|at| at + DOUBT_PING_EVERY <= now);
            if probes || doubts {
                tally.count(Rule::GateProbed);
                peer.doubted = Some(now);
                pings.push(peer.facts.id.clone());
            }
            let rises = peer.weight(now, self.rules.slow_start) != peer.weight(now, None);
            self.unsettled |= !peer.gate.passes() || !peer.breaker.passes(now) || in_doubt || rises;
        }
        self.stale = true;
    }

    /// A job of `units` goes to `peer`. `None` when gossip forgot the peer in this moment.
    pub fn on_sent(&mut self, peer: &NodeId, units: u64) -> Option<Ticket> {
        let peer = self.of(peer)?;
        peer.flights += 1;
        peer.units_unacknowledged += units;
        Some(Ticket { boot: peer.facts.boot, entry: peer.entry, units, acknowledged: false })
    }

    /// `peer` holds the job. Whether that word carried its load says `reported`.
    pub fn on_acknowledged(&mut self, peer: &NodeId, ticket: &mut Ticket, reported: bool) {
        let reported = reported && self.rules.load.in_band;
        if std::mem::replace(&mut ticket.acknowledged, true) {
            return;
        }
        let Some(peer) = self.of(peer).filter(|peer| peer.entry == ticket.entry) else { return };
        peer.units_unacknowledged -= ticket.units;
        if !reported {
            peer.units_unreported += ticket.units;
        }
    }

    /// The job is no longer on the way to `peer`, nor there.
    pub fn on_ended(&mut self, peer: &NodeId, ticket: Ticket) {
        let Some(peer) = self.of(peer).filter(|peer| peer.entry == ticket.entry) else { return };
        peer.flights -= 1;
        if !ticket.acknowledged {
            peer.units_unacknowledged -= ticket.units;
        }
    }

    /// Whether any peer may get a job now.
    #[must_use]
    pub fn any(&self, now: MonoTime) -> bool {
        self.table.iter().any(|peer| peer.may(now, self.panics))
    }

    /// Peers that may get a job now, backups left out, and how many backups there are beside.
    pub fn ready(&mut self, now: MonoTime) -> (usize, usize) {
        self.renew_if_stale(now);
        (self.pool.first.len(), self.pool.backups.len())
    }

    /// Appends seats for a job that may not go to `except`: `draw` random ones, or all.
    ///
    /// Backups are offered only when no other peer may get it. A draw passes over a peer by chance, as far as its
    /// weight is below the largest.
    pub fn seats(
        &mut self,
        now: MonoTime,
        question: &Question,
        draw: Draw<'_>,
        seats: &mut Vec<Seat>,
        (prng, tally): (&mut Prng, &mut Tally),
    ) {
        self.renew_if_stale(now);
        let mut barred: Vec<u32> =
            draw.except.iter().filter_map(|id| self.position(id)).filter_map(|at| u32::try_from(at).ok()).collect();
        barred.sort_unstable();
        let left = |pool: &[u32]| pool.len() - barred.iter().filter(|at| pool.binary_search(at).is_ok()).count();
        let (pool, backup) = match left(&self.pool.first) {
            0 => (&self.pool.backups, true),
            _ => (&self.pool.first, false),
        };
        let before = seats.len();
        let Some(count) = draw.count else {
            let may = pool.iter().filter(|at| barred.binary_search(at).is_err());
            seats.extend(may.map(|&at| self.table[at as usize].seat(now, &self.rules, &self.sums, question)));
            return if backup && before < seats.len() {
                tally.count(Rule::BackupUsed)
            };
        };
        let mut passed_over = None;
        // Positions in the pool that are taken, in order: the draw skips them.
        let mut taken: Vec<usize> = barred.iter().filter_map(|at| pool.binary_search(at).ok()).collect();
        let drawn_max = count.min(pool.len() - taken.len());
        for _ in 0..drawn_max {
            let mut drawn = prng.below(pool.len() - taken.len());
            let at = taken.iter().position(|&skip| {
                let here = drawn < skip;
                drawn += usize::from(!here);
                here
            });
            taken.insert(at.unwrap_or(taken.len()), drawn);
            let peer = &self.table[pool[drawn] as usize];
            if self.pool.uneven {
                let weight = peer.weight(now, self.rules.slow_start);
                if weight <= prng.next_u64() % (u64::from(self.pool.weight_max) * 100).max(1) {
                    if peer.weight(now, None) != weight {
                        tally.count(Rule::SlowStarted);
                    }
                    passed_over = Some(pool[drawn]);
                    continue;
                }
            }
            seats.push(peer.seat(now, &self.rules, &self.sums, question));
        }
        if let Some(at) = passed_over.filter(|_| seats.len() == before && !draw.or_none) {
            seats.push(self.table[at as usize].seat(now, &self.rules, &self.sums, question));
        }
        if backup && before < seats.len() {
            tally.count(Rule::BackupUsed);
        }
    }

    /// A seat for one peer, if it may get a job now.
    pub fn seat(&mut self, now: MonoTime, peer: &NodeId, question: &Question) -> Option<Seat> {
        let at = self.position(peer)?;
        let peer = &self.table[at];
        peer.may(now, self.panics).then(|| peer.seat(now, &self.rules, &self.sums, question))
    }

    /// What the peers that may get jobs hold together, by their own word.
    pub fn holdings(&mut self, now: MonoTime) -> Holdings {
        self.renew_if_stale(now);
        let reports = self.pool.first.iter().map(|&at| self.table[at as usize].load.report());
        reports.fold(Holdings::default(), |sum, report| Holdings {
            nodes: sum.nodes + 1,
            jobs: sum.jobs + report.map_or(0, |report| report.held.into()),
            slots: sum.slots + report.map_or(1, |report| report.slots.into()),
        })
    }

    /// Costs of the peers that may get jobs and said theirs.
    pub fn costs(&mut self, now: MonoTime) -> impl Iterator<Item = Cost> {
        self.renew_if_stale(now);
        self.pool.first.iter().filter_map(|&at| self.table[at as usize].load.report()).map(|report| report.cost)
    }

    /// Mean part of the devices of the peers that is in use; `None` when nobody knows.
    #[must_use]
    pub fn busy_mean(&self) -> Option<Share> {
        let mean = self.sums.busy.checked_div(self.sums.busy_told)?;
        u8::try_from(mean).ok().map(Share::percent)
    }

    /// Round trip to `peer`.
    #[must_use]
    pub fn rtt(&self, peer: &NodeId) -> Micros {
        self.position(peer).map_or(RTT_UNKNOWN, |at| self.table[at].rtt)
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

    /// Forwards to any peer that did not end yet.
    #[must_use]
    pub fn flights(&self) -> u64 {
        self.table.iter().map(|peer| u64::from(peer.flights)).sum()
    }

    fn renew_if_stale(&mut self, now: MonoTime) {
        if self.stale {
            self.renew(now);
        }
    }

    fn renew(&mut self, now: MonoTime) {
        let wanted = self.table.iter().filter(|peer| peer.wanted());
        let (known, dead) =
            wanted.fold((0u64, 0u64), |(known, dead), peer| (known + 1, dead + u64::from(peer.dead_since.is_some())));
        let percent = u64::from(self.rules.panic_percent);
        self.panics = 0 < percent && known * percent < dead * 100;
        let Pool { first, backups, weight_max, uneven } = &mut self.pool;
        first.clear();
        backups.clear();
        (*weight_max, *uneven) = (0, false);
        let mut weight_min = u32::MAX;
        for (at, peer) in (0u32..).zip(&self.table) {
            if !peer.may(now, self.panics) {
                continue;
            }
            if peer.facts.backup {
                backups.push(at)
            } else {
                first.push(at)
            };
            *weight_max = (*weight_max).max(peer.facts.weight);
            weight_min = weight_min.min(peer.facts.weight);
            *uneven |= peer.weight(now, self.rules.slow_start) != peer.weight(now, None);
        }
        *uneven |= weight_min < *weight_max;
        self.stale = false;
        self.renew_sums();
    }

    fn renew_sums(&mut self) {
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
    /// Batches that run there at one time.
    pub slots: u64,
}

/// Whom [`Peers::seats`] may offer.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Not these.
    pub except: &'a [NodeId],
    /// So many by chance; `None` = all.
    pub count: Option<usize>,
    /// Nobody is a good answer where weights pass everybody over: this node can do the job.
    pub or_none: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("a sound id")
    }

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn report(boot: u64, seq: u64, wait_ms: u64, standing: Standing) -> Report {
        Report {
            boot: BootId(boot),
            seq,
            wait: Micros::from_ms(wait_ms),
            cost: Cost { fixed: Micros::ZERO, per_unit_ns: 1_000_000 },
            standing,
            held: 0,
            slots: 1,
            busy: None,
            memory: None,
        }
    }

    fn facts(name: &str, boot: u64) -> PeerFacts {
        PeerFacts {
            id: id(name),
            boot: BootId(boot),
            alive: true,
            standing: Standing::Ready,
            serves: true,
            weight: 100,
            backup: false,
            load: Some(report(boot, 1, 10, Standing::Ready)),
        }
    }

    fn dead(name: &str, boot: u64) -> PeerFacts {
        PeerFacts { alive: false, ..facts(name, boot) }
    }

    /// A table and the chance and counts that go with it. Jobs have 5 units, of a millisecond each.
    struct Stage {
        peers: Peers,
        prng: Prng,
        tally: Tally,
        now: MonoTime,
    }

    impl Stage {
        fn new(members: Vec<PeerFacts>) -> Self {
            Self::with(PeerRules::default(), members)
        }

        fn with(rules: PeerRules, members: Vec<PeerFacts>) -> Self {
            let (prng, tally) = (Prng::new(5), Tally::default());
            let mut stage = Self { peers: Peers::new(rules), prng, tally, now: MonoTime::START };
            stage.members(members);
            stage
        }

        fn members(&mut self, members: Vec<PeerFacts>) {
            self.peers.on_membership(self.now, members, false, &mut self.tally);
        }

        fn word(&mut self, peer: &str, report: Option<Report>) {
            self.peers.on_heard(self.now, &id(peer), Word { report, rtt: None }, &mut self.tally);
        }

        fn failed(&mut self, peer: &str, signal: Signal) {
            self.peers.on_failed(self.now, &id(peer), None, signal, (&mut self.prng, &mut self.tally));
        }

        fn tick(&mut self, at_ms: u64) -> Vec<String> {
            self.now = ms(at_ms);
            let mut pings = Vec::new();
            self.peers.on_tick(self.now, &mut pings, (&mut self.prng, &mut self.tally));
            pings.iter().map(ToString::to_string).collect()
        }

        fn question() -> Question {
            let cost_unknown = Cost { fixed: Micros::ZERO, per_unit_ns: 7_000_000 };
            Question { units: 5, wait_here: Micros::from_ms(30), here: None, cost_unknown, stretch_here: 1000 }
        }

        fn seats(&mut self, except: &[NodeId], count: Option<usize>, or_none: bool) -> Vec<Seat> {
            let mut seats = Vec::new();
            let draw = Draw { except, count, or_none };
            let with = (&mut self.prng, &mut self.tally);
            self.peers.seats(self.now, &Self::question(), draw, &mut seats, with);
            seats
        }

        fn names(&mut self) -> Vec<String> {
            self.seats(&[], None, true).iter().map(|seat| seat.id.to_string()).collect()
        }

        fn completion_ms(&mut self, peer: &str) -> u64 {
            let seat = self.peers.seat(self.now, &id(peer), &Self::question()).expect("it may get the job");
            (seat.completion - seat.rtt).get() / 1000
        }
    }

    #[test]
    fn only_a_peer_that_is_heard_ready_and_has_the_model_is_offered() {
        let cases = [
            (facts("a-ok", 1), true),
            (facts("b-ok", 1), true),
            (facts("c-ok", 1), true),
            (dead("dead", 1), false),
            (PeerFacts { serves: false, ..facts("other-model", 1) }, false),
            (PeerFacts { weight: 0, ..facts("a-door-only", 1) }, false),
            (PeerFacts { load: Some(report(1, 1, 0, Standing::Draining)), ..facts("draining-in-band", 1) }, false),
            (PeerFacts { load: Some(report(1, 1, 0, Standing::Wedged)), ..facts("wedged", 1) }, false),
            (PeerFacts { load: None, standing: Standing::Starting, ..facts("loading", 1) }, false),
            (PeerFacts { load: None, ..facts("silent-but-ready", 1) }, true),
        ];
        let mut stage = Stage::new(cases.iter().map(|(facts, _)| facts.clone()).collect());
        let offered = stage.names();
        for (facts, expected) in cases {
            assert_eq!(offered.contains(&facts.id.to_string()), expected, "{facts:?}");
        }
        let rest = stage.seats(&[id("a-ok"), id("nobody")], None, true);
        assert!(rest.iter().all(|seat| seat.id != id("a-ok")) && rest.len() == 3);
    }

    #[test]
    fn a_draw_gives_different_peers_and_every_pair_equally_often() {
        let mut stage = Stage::new(["a", "b", "c", "d", "e"].map(|name| facts(name, 1)).into());
        let mut pairs = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut pair: Vec<String> =
                stage.seats(&[id("c")], Some(2), true).iter().map(|seat| seat.id.to_string()).collect();
            pair.sort();
            *pairs.entry(pair).or_insert(0u32) += 1;
        }
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(pairs.iter().all(|(pair, &count)| 850 < count && pair[0] != pair[1]), "{pairs:?}");
        let all_but_one = ["a", "b", "c", "d"].map(id);
        assert_eq!(stage.seats(&all_but_one, Some(2), true).len(), 1);
        assert!(stage.seats(&["a", "b", "c", "d", "e"].map(id), Some(2), true).is_empty());
    }

    #[test]
    fn what_was_sent_since_the_last_report_counts_until_a_report_contains_it() {
        let mut stage = Stage::new(vec![facts("a", 1)]);
        assert_eq!(stage.completion_ms("a"), 15);
        let mut tickets = [20, 30].map(|units| stage.peers.on_sent(&id("a"), units).expect("a known peer"));
        assert_eq!((stage.completion_ms("a"), stage.peers.flights()), (65, 2));
        stage.peers.on_acknowledged(&id("a"), &mut tickets[0], true);
        stage.peers.on_acknowledged(&id("a"), &mut tickets[0], true);
        assert_eq!(stage.completion_ms("a"), 45, "an acknowledgement carries a report that contains the job");
        stage.peers.on_acknowledged(&id("a"), &mut tickets[1], false);
        assert_eq!(stage.completion_ms("a"), 45, "this one did not");
        stage.word("a", Some(report(1, 2, 10, Standing::Ready)));
        assert_eq!(stage.completion_ms("a"), 15);
        for ticket in tickets {
            stage.peers.on_ended(&id("a"), ticket);
        }
        assert_eq!((stage.peers.units_unacknowledged(), stage.peers.flights()), (0, 0));
    }

    #[test]
    fn a_job_that_ended_before_it_was_acknowledged_leaves_nothing_behind() {
        let mut stage = Stage::new(vec![facts("a", 1)]);
        let ticket = stage.peers.on_sent(&id("a"), 20).expect("a known peer");
        stage.peers.on_ended(&id("a"), ticket);
        assert_eq!((stage.completion_ms("a"), stage.peers.flights()), (15, 0));
    }

    #[test]
    fn a_new_run_of_a_peer_inherits_neither_blame_nor_counts() {
        let mut stage = Stage::new(vec![facts("a", 1)]);
        let ticket = stage.peers.on_sent(&id("a"), 20).expect("a known peer");
        stage.failed("a", Signal::Broke);
        assert_eq!(stage.names(), [""; 0]);
        stage.members(vec![facts("a", 1)]);
        assert_eq!(stage.names(), [""; 0], "gossip alone does not open a gate");
        stage.members(vec![facts("a", 2)]);
        assert_eq!((stage.names().len(), stage.peers.flights()), (1, 0));
        stage.peers.on_ended(&id("a"), ticket);
        let boot = Some(ticket.boot());
        let with = (&mut stage.prng, &mut stage.tally);
        stage.peers.on_failed(stage.now, &id("a"), boot, Signal::Broke, with);
        assert_eq!((stage.names().len(), stage.peers.flights()), (1, 0), "late news of the old run are harmless");
    }

    #[test]
    fn what_an_earlier_run_of_a_peer_says_does_not_count() {
        let mut stage = Stage::new(vec![PeerFacts { load: None, ..facts("a", 3) }]);
        let known = |stage: &Stage| stage.peers.iter(stage.now).next().and_then(|view| view.report);
        stage.word("a", Some(report(2, 9, 40, Standing::Ready)));
        assert_eq!(known(&stage), None, "in band");
        stage.members(vec![PeerFacts { load: Some(report(2, 9, 40, Standing::Ready)), ..facts("a", 3) }]);
        assert_eq!(known(&stage), None, "by gossip");
    }

    #[test]
    fn a_report_that_cannot_be_true_leaves_the_load_unknown() {
        let absurd = Report { wait: Micros::MAX, ..report(1, 9, 0, Standing::Ready) };
        let mut stage = Stage::new(vec![PeerFacts { load: Some(absurd), ..facts("a", 1) }]);
        // The mean is this node's 30 ms; 5 units at the own cost of 7 ms each.
        assert_eq!(stage.completion_ms("a"), 65);
        stage.word("a", Some(absurd));
        assert_eq!((stage.completion_ms("a"), stage.tally.of(Rule::AbsurdReport)), (65, 2));
    }

    #[test]
    fn the_newest_run_counts_when_gossip_names_two() {
        for members in [vec![dead("a", 1), facts("a", 2)], vec![facts("a", 2), dead("a", 1)]] {
            let mut stage = Stage::new(vec![facts("a", 2)]);
            let _ = stage.peers.on_sent(&id("a"), 5);
            stage.members(members);
            assert_eq!((stage.names().len(), stage.peers.flights()), (1, 1));
        }
    }

    #[test]
    fn a_blocked_peer_is_pinged_once_and_a_word_reopens_it() {
        let mut stage = Stage::new(vec![facts("a", 1)]);
        stage.failed("a", Signal::Broke);
        assert_eq!(stage.tick(999), [""; 0]);
        assert_eq!(stage.tick(1200), ["a"]);
        assert_eq!(stage.tick(1201), [""; 0]);
        stage.word("a", None);
        assert_eq!((stage.names().len(), stage.tally.of(Rule::GateOpened)), (1, 1));
    }

    #[test]
    fn a_peer_that_left_the_membership_is_forgotten_and_late_news_of_it_is_harmless() {
        let mut stage = Stage::new(vec![facts("a", 1)]);
        let ticket = stage.peers.on_sent(&id("a"), 5).expect("a known peer");
        stage.members(vec![]);
        stage.word("a", Some(report(1, 5, 5, Standing::Ready)));
        stage.peers.on_ended(&id("a"), ticket);
        assert_eq!(stage.peers.iter(stage.now).count(), 0);
        assert_eq!(stage.peers.on_sent(&id("a"), 5), None);
    }

    #[test]
    fn the_mean_counts_this_node_and_the_heard_peers() {
        let unknown = PeerFacts { load: None, ..facts("c", 1) };
        let mut stage = Stage::new(vec![facts("a", 1), dead("b", 1), unknown]);
        // Mean of 30 ms here and 10 ms at `a`; 5 units at the own cost.
        assert_eq!(stage.completion_ms("c"), 20 + 35);
    }

    #[test]
    fn a_peer_whose_errors_are_its_own_is_less_attractive_and_then_paused() {
        let mut stage = Stage::new(vec![facts("a", 1), facts("b", 1)]);
        let question = Question { here: Some(Micros::from_ms(100)), ..Stage::question() };
        let mut seen = Vec::new();
        for _ in 0..2 {
            let seat = stage.peers.seat(stage.now, &id("a"), &question).expect("not paused yet");
            seen.push((seat.completion - seat.rtt).get() / 1000);
            stage.peers.on_blamed(stage.now, &id("a"), &mut stage.tally);
        }
        assert_eq!(seen, [15, 15 + 100], "one error of one answer, a half, costs the completion here");
        (0..18).for_each(|_| stage.peers.on_blamed(stage.now, &id("a"), &mut stage.tally));
        assert_eq!((stage.names(), stage.tally.of(Rule::BreakerPaused)), (vec!["b".to_owned()], 1));
        stage.tick(5000);
        assert_eq!(stage.names().len(), 2, "a pause ends by itself");
    }

    #[test]
    fn a_peer_whose_answers_come_late_is_believed_less_than_one_that_keeps_its_word() {
        let mut stage = Stage::new(vec![facts("a", 1), facts("b", 1)]);
        for _ in 0..80 {
            stage.peers.on_answer(stage.now, &id("a"), Micros::from_ms(10), Micros::from_ms(40));
            stage.peers.on_answer(stage.now, &id("b"), Micros::from_ms(10), Micros::from_ms(5));
        }
        let (late, early) = (stage.completion_ms("a"), stage.completion_ms("b"));
        assert!((55..=60).contains(&late) && early == 15, "{late} {early}");
        let usual = Question { stretch_here: 4000, ..Stage::question() };
        let seat = stage.peers.seat(stage.now, &id("a"), &usual).expect("it may get the job");
        assert_eq!((seat.completion - seat.rtt).get() / 1000, 15, "all answers stretch so far here");
    }

    #[test]
    fn a_node_that_has_just_started_gets_less_than_its_share_for_a_while() {
        let mut stage = Stage::new(["a", "b"].map(|name| facts(name, 1)).into());
        let drawn = |stage: &mut Stage, peer: &str| {
            let draws = (0..1000).flat_map(|_| stage.seats(&[], Some(3), true)).collect::<Vec<_>>();
            draws.iter().filter(|seat| seat.id == id(peer)).count()
        };
        assert_eq!(drawn(&mut stage, "a"), 1000, "who was there before this node has not just started");
        stage.now = ms(60_000);
        stage.members(["a", "b", "c"].map(|name| facts(name, 1)).into());
        let at_once = drawn(&mut stage, "c");
        stage.tick(61_500);
        let half = drawn(&mut stage, "c");
        stage.tick(63_000);
        assert!((70..140).contains(&at_once) && (490..610).contains(&half), "{at_once} {half}");
        assert_eq!((drawn(&mut stage, "c"), drawn(&mut stage, "a")), (1000, 1000));
        let restarted = [facts("a", 1), facts("b", 1), facts("c", 2)];
        stage.members(restarted.into());
        assert!(drawn(&mut stage, "c") < 140, "a new run starts anew");
        let only = stage.seats(&["a", "b"].map(id), Some(2), false);
        assert_eq!(only.len(), 1, "it is used where nobody else is");
    }

    #[test]
    fn weights_decide_how_often_a_peer_is_drawn() {
        let light = PeerFacts { weight: 25, ..facts("b", 1) };
        let mut stage = Stage::new(vec![facts("a", 1), light]);
        let draws: Vec<Seat> = (0..4000).flat_map(|_| stage.seats(&[], Some(2), true)).collect();
        let count = |name| draws.iter().filter(|seat| seat.id == id(name)).count();
        assert!(count("a") == 4000 && count("b").abs_diff(1000) < 120, "{} {}", count("a"), count("b"));
    }

    #[test]
    fn backups_are_offered_only_when_nobody_else_may_get_the_job() {
        let backup = PeerFacts { backup: true, ..facts("z", 1) };
        let mut stage = Stage::new(vec![facts("a", 1), backup]);
        assert_eq!(stage.names(), ["a"]);
        let instead = stage.seats(&[id("a")], Some(2), true);
        assert_eq!(instead.iter().map(|seat| seat.id.as_str()).collect::<Vec<_>>(), ["z"]);
        stage.failed("a", Signal::Broke);
        assert_eq!((stage.names(), stage.tally.of(Rule::BackupUsed)), (vec!["z".to_owned()], 2));
    }

    #[test]
    fn when_gossip_calls_most_peers_dead_whoever_answers_pings_is_used() {
        let mut stage = Stage::new(["a", "b", "c"].map(|name| facts(name, 1)).into());
        stage.members(vec![dead("a", 1), facts("b", 1), facts("c", 1)]);
        assert_eq!((stage.tick(100), stage.names().len()), (vec![], 2), "one of three may well be dead");
        stage.members(vec![dead("a", 1), dead("b", 1), facts("c", 1)]);
        assert_eq!(stage.names(), ["c"], "nobody is used who has not answered");
        assert_eq!(stage.tick(200), ["a", "b"]);
        stage.word("b", None);
        assert_eq!(stage.names(), ["b", "c"]);
        assert_eq!(stage.tick(900), [""; 0]);
        assert_eq!(stage.tick(1200), ["a", "b"], "asked again");
        stage.tick(3300);
        assert_eq!(stage.names(), ["c"], "an old word proves nothing");
        stage.members(["a", "b", "c"].map(|name| facts(name, 1)).into());
        assert_eq!((stage.names().len(), stage.tick(3400)), (3, vec![]));
    }

    #[test]
    fn a_node_that_stood_still_calls_nobody_dead_until_it_has_listened_again() {
        let mut stage = Stage::new(["a", "b", "c"].map(|name| facts(name, 1)).into());
        let members = || vec![dead("a", 1), facts("b", 1), facts("c", 1)];
        stage.peers.on_membership(stage.now, members(), true, &mut stage.tally);
        assert_eq!(stage.names().len(), 3);
        stage.peers.on_doubt_ended(stage.now);
        assert_eq!(stage.names(), ["b", "c"]);
    }
}
