//! The one table of peers: what gossip says of each, whether its transport works, what it says of its load.
//!
//! For `node`, which asks it for candidates.
//! Invariants: everything counted about a peer belongs to one run of its process ([`BootId`]) and goes with it; a peer
//! that gossip does not hear, that does not serve this model, or whose gate does not pass is never a candidate.

use std::collections::BTreeMap;

use crate::cost::Cost;
use crate::gate::{self, Gate, GateRules, Signal};
use crate::id::{BootId, JobId, NodeId};
use crate::load::{LoadRules, LoadView, Report};
use crate::route::Candidate;
use crate::time::{Micros, MonoTime};

/// Round trip that is assumed before the first measurement.
const RTT_UNKNOWN: Micros = Micros::from_ms(1);

/// What gossip says of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its name.
    pub id: NodeId,
    /// The run of its process.
    pub boot: BootId,
    /// Its heartbeats come.
    pub alive: bool,
    /// Its engine is ready and it is not draining.
    pub accepting: bool,
    /// It holds the model of this node: same name, revision and precision.
    pub serves: bool,
    /// Its load, if it was gossiped.
    pub load: Option<Report>,
}

/// All peers that gossip knows.
#[derive(Debug, Default)]
pub struct Peers {
    table: BTreeMap<NodeId, Peer>,
}

#[derive(Debug)]
struct Peer {
    facts: PeerFacts,
    gate: Gate,
    load: LoadView,
    rtt: Micros,
    /// Forwards that the peer did not acknowledge yet, with their units. Its newest report cannot contain them, every
    /// acknowledged one is in it: this is what was sent since that report.
    unacknowledged: BTreeMap<JobId, u64>,
}

impl Peer {
    /// Takes a claim, unless an earlier run of the process made it. A later run is heard before gossip knows it.
    fn on_report(&mut self, now: MonoTime, report: Report) {
        if self.facts.boot <= report.boot {
            self.load.on_report(now, report);
        }
    }

    fn accepting(&self) -> bool {
        self.load.report().map_or(self.facts.accepting, |report| report.accepting)
    }

    fn completion(&self, now: MonoTime, question: &Question<'_>) -> Micros {
        let cost = self.load.report().map_or(question.cost_unknown, |report| report.cost);
        let wait = self.load.wait(now, question.rules, question.wait_mean);
        let pending: u64 = self.unacknowledged.values().sum();
        wait + cost.of(pending + question.units, 1) + self.rtt
    }
}

/// What is asked about a peer's completion.
#[derive(Debug)]
pub struct Question<'a> {
    /// How load ages.
    pub rules: &'a LoadRules,
    /// Units of the job.
    pub units: u64,
    /// Wait to assume where it is unknown.
    pub wait_mean: Micros,
    /// Cost to assume where it is unknown: this node's own.
    pub cost_unknown: Cost,
}

impl Peers {
    /// Takes over what gossip says. Peers that it does not name are forgotten; a new run of a process starts afresh.
    /// While gossip still names the run before, the newest run of a peer counts.
    pub fn on_membership(&mut self, now: MonoTime, mut members: Vec<PeerFacts>) {
        members.sort_by(|one, other| (&one.id, other.boot).cmp(&(&other.id, one.boot)));
        members.dedup_by(|older, newer| older.id == newer.id);
        let mut known = std::mem::take(&mut self.table);
        for facts in members {
            let load = facts.load;
            let mut peer = match known.remove(&facts.id) {
                Some(peer) if peer.facts.boot == facts.boot => Peer { facts, ..peer },
                Some(_) | None => Peer {
                    facts,
                    gate: Gate::NEW,
                    load: LoadView::default(),
                    rtt: RTT_UNKNOWN,
                    unacknowledged: BTreeMap::new(),
                },
            };
            if let Some(report) = load {
                peer.on_report(now, report);
            }
            self.table.insert(peer.facts.id.clone(), peer);
        }
    }

    /// A direct word from `peer`, with its load and a measured round trip where it had them.
    pub fn on_heard(&mut self, now: MonoTime, rules: &GateRules, peer: &NodeId, word: Word) {
        let Some(peer) = self.table.get_mut(peer) else { return };
        peer.gate = gate::step(now, rules, peer.gate, Signal::Heard);
        if let Some(report) = word.report {
            peer.on_report(now, report);
        }
        if let Some(rtt) = word.rtt {
            // One eighth of the newest, as TCP smooths its round trip (RFC 6298).
            peer.rtt = Micros::new((peer.rtt.get().saturating_mul(7).saturating_add(rtt.get())) / 8);
        }
    }

    /// The transport to `peer` failed: how, says `signal`.
    pub fn on_failed(&mut self, now: MonoTime, rules: &GateRules, peer: &NodeId, signal: Signal) {
        if let Some(peer) = self.table.get_mut(peer) {
            peer.gate = gate::step(now, rules, peer.gate, signal);
        }
    }

    /// Time went by. Returns the peers that are to be pinged now.
    pub fn on_tick(&mut self, now: MonoTime, rules: &GateRules) -> Vec<NodeId> {
        let mut pings = Vec::new();
        for (id, peer) in &mut self.table {
            let before = peer.gate;
            peer.gate = gate::step(now, rules, before, Signal::Tick);
            if matches!(peer.gate, Gate::Probing { .. }) && !matches!(before, Gate::Probing { .. }) {
                pings.push(id.clone());
            }
        }
        pings
    }

    /// A job of `units` goes to `peer`.
    pub fn on_sent(&mut self, peer: &NodeId, job: JobId, units: u64) {
        if let Some(peer) = self.table.get_mut(peer) {
            peer.unacknowledged.insert(job, units);
        }
    }

    /// `peer` acknowledged, answered, refused or lost the job: it is no longer on the way.
    pub fn on_settled(&mut self, peer: &NodeId, job: JobId) {
        if let Some(peer) = self.table.get_mut(peer) {
            peer.unacknowledged.remove(&job);
        }
    }

    /// Peers that may get a job now, those in `except` left out.
    #[must_use]
    pub fn eligible(&self, except: &[NodeId]) -> Vec<&NodeId> {
        let may = |peer: &Peer| peer.facts.alive && peer.facts.serves && peer.accepting() && peer.gate.passes();
        self.table.iter().filter(|(id, peer)| may(peer) && !except.contains(id)).map(|(id, _)| id).collect()
    }

    /// `peer` with its estimate of completion.
    #[must_use]
    pub fn candidate(&self, now: MonoTime, peer: &NodeId, question: &Question<'_>) -> Option<Candidate> {
        let (id, peer) = self.table.get_key_value(peer)?;
        Some(Candidate { id: id.clone(), completion: peer.completion(now, question), rtt: peer.rtt })
    }

    /// Mean wait over this node (`own`) and the peers that are heard and said theirs.
    #[must_use]
    pub fn wait_mean(&self, own: Micros) -> Micros {
        let told = self.table.values().filter(|peer| peer.facts.alive).filter_map(|peer| peer.load.report());
        let (sum, count) = told.fold((own, 1u64), |(sum, count), report| (sum + report.wait, count + 1));
        Micros::new(sum.get() / count)
    }

    /// Costs of the peers that may get jobs and said theirs.
    pub fn costs(&self) -> impl Iterator<Item = Cost> {
        self.eligible(&[]).into_iter().filter_map(|id| self.table[id].load.report()).map(|report| report.cost)
    }

    /// Name, gate and newest report of each peer, for people and metrics.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, Gate, Option<Report>)> {
        self.table.iter().map(|(id, peer)| (id, peer.gate, peer.load.report()))
    }

    /// Forwards on the way to any peer that were not acknowledged yet.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.table.values().map(|peer| peer.unacknowledged.len()).sum()
    }
}

/// What came with a direct word of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Word {
    /// Its load.
    pub report: Option<Report>,
    /// A measured round trip, the peer's own time taken off.
    pub rtt: Option<Micros>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("a sound id")
    }

    fn report(boot: u64, seq: u64, wait_ms: u64, accepting: bool) -> Report {
        let cost = Cost { fixed: Micros::ZERO, per_unit_ns: 1_000_000 };
        Report { boot: BootId(boot), seq, wait: Micros::from_ms(wait_ms), cost, accepting }
    }

    fn facts(name: &str, boot: u64) -> PeerFacts {
        let load = Some(report(boot, 1, 10, true));
        PeerFacts { id: id(name), boot: BootId(boot), alive: true, accepting: true, serves: true, load }
    }

    fn table(members: Vec<PeerFacts>) -> Peers {
        let mut peers = Peers::default();
        peers.on_membership(MonoTime::START, members);
        peers
    }

    fn completion_ms(peers: &Peers, name: &str) -> u64 {
        let question =
            Question { rules: &LoadRules::default(), units: 5, wait_mean: Micros::ZERO, cost_unknown: Cost::default() };
        let candidate = peers.candidate(MonoTime::START, &id(name), &question).expect("a known peer");
        (candidate.completion - candidate.rtt).get() / 1000
    }

    #[test]
    fn only_a_peer_that_is_heard_ready_and_has_the_model_is_a_candidate() {
        let cases = [
            (facts("ok", 1), true),
            (PeerFacts { alive: false, ..facts("dead", 1) }, false),
            (PeerFacts { serves: false, ..facts("other-model", 1) }, false),
            (PeerFacts { load: Some(report(1, 1, 0, false)), ..facts("draining-in-band", 1) }, false),
            (PeerFacts { load: None, accepting: false, ..facts("loading", 1) }, false),
            (PeerFacts { load: None, ..facts("silent-but-ready", 1) }, true),
        ];
        let peers = table(cases.iter().map(|(facts, _)| facts.clone()).collect());
        let eligible: Vec<String> = peers.eligible(&[]).into_iter().map(ToString::to_string).collect();
        for (facts, expected) in cases {
            assert_eq!(eligible.contains(&facts.id.to_string()), expected, "{facts:?}");
        }
        assert!(!peers.eligible(&[id("ok")]).contains(&&id("ok")));
    }

    #[test]
    fn what_was_sent_since_the_last_report_counts_until_the_peer_acknowledges() {
        let mut peers = table(vec![facts("a", 1)]);
        assert_eq!(completion_ms(&peers, "a"), 15);
        peers.on_sent(&id("a"), JobId(1), 20);
        peers.on_sent(&id("a"), JobId(2), 20);
        assert_eq!(completion_ms(&peers, "a"), 55);
        peers.on_settled(&id("a"), JobId(1));
        assert_eq!(completion_ms(&peers, "a"), 35);
        assert_eq!(peers.unacknowledged(), 1);
    }

    #[test]
    fn a_new_run_of_a_peer_inherits_neither_blame_nor_counts() {
        let mut peers = table(vec![facts("a", 1)]);
        let rules = GateRules::default();
        peers.on_sent(&id("a"), JobId(1), 20);
        for _ in 0..2 {
            peers.on_failed(MonoTime::START, &rules, &id("a"), Signal::Silent);
        }
        assert!(peers.eligible(&[]).is_empty());
        peers.on_membership(MonoTime::START, vec![facts("a", 1)]);
        assert!(peers.eligible(&[]).is_empty(), "gossip alone does not open a gate");
        peers.on_membership(MonoTime::START, vec![facts("a", 2)]);
        assert_eq!((peers.eligible(&[]).len(), peers.unacknowledged()), (1, 0));
    }

    #[test]
    fn what_an_earlier_run_of_a_peer_says_does_not_count() {
        let mut peers = table(vec![facts("a", 2)]);
        let before = peers.iter().next().and_then(|(.., known)| known);
        let mut load = PeerFacts { load: None, ..facts("a", 3) };
        peers.on_membership(MonoTime::START, vec![load.clone()]);
        let word = Word { report: before, rtt: None };
        peers.on_heard(MonoTime::START, &GateRules::default(), &id("a"), word);
        assert_eq!(peers.iter().next().map(|(.., known)| known), Some(None), "in band");
        load.load = before;
        peers.on_membership(MonoTime::START, vec![load]);
        assert_eq!(peers.iter().next().map(|(.., known)| known), Some(None), "by gossip");
    }

    #[test]
    fn the_newest_run_counts_when_gossip_names_two() {
        let dead = PeerFacts { alive: false, ..facts("a", 1) };
        for members in [vec![dead.clone(), facts("a", 2)], vec![facts("a", 2), dead]] {
            let mut peers = table(vec![facts("a", 2)]);
            peers.on_sent(&id("a"), JobId(1), 5);
            peers.on_membership(MonoTime::START, members);
            assert_eq!((peers.eligible(&[]).len(), peers.unacknowledged()), (1, 1));
        }
    }

    #[test]
    fn a_blocked_peer_is_pinged_once_and_a_word_reopens_it() {
        let mut peers = table(vec![facts("a", 1)]);
        let rules = GateRules::default();
        for _ in 0..2 {
            peers.on_failed(MonoTime::START, &rules, &id("a"), Signal::Silent);
        }
        let later = MonoTime::START + rules.pause_first;
        assert_eq!(peers.on_tick(later, &rules), [id("a")]);
        assert!(peers.on_tick(later, &rules).is_empty());
        peers.on_heard(later, &rules, &id("a"), Word::default());
        assert_eq!(peers.eligible(&[]).len(), 1);
    }

    #[test]
    fn a_peer_that_left_the_membership_is_forgotten_and_late_news_of_it_is_harmless() {
        let mut peers = table(vec![facts("a", 1)]);
        peers.on_membership(MonoTime::START, vec![]);
        peers.on_heard(MonoTime::START, &GateRules::default(), &id("a"), Word::default());
        peers.on_settled(&id("a"), JobId(1));
        assert_eq!(peers.iter().count(), 0);
    }

    #[test]
    fn the_mean_counts_this_node_and_the_heard_peers() {
        let peers = table(vec![facts("a", 1), PeerFacts { alive: false, ..facts("b", 1) }]);
        assert_eq!(peers.wait_mean(Micros::from_ms(30)), Micros::from_ms(20));
    }
}
