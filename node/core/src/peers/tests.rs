//! The table of peers alone: jobs of 5 units, of a millisecond each.
//!
//! Part of `peers`. What the node makes of it is tested in `node/core/tests/machine`.

use super::*;
use crate::cost::Alike;
use crate::lifecycle::Standing;

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

    /// A ticket for the run of `peer` that is known now; the job itself is over.
    fn ticket(&mut self, peer: &str) -> Option<Ticket> {
        let ticket = self.peers.on_sent(&id(peer), 1)?;
        self.peers.on_ended(&id(peer), ticket);
        Some(ticket)
    }

    fn answered(&mut self, peer: &str, expected_ms: u64, took_ms: u64) {
        let ticket = self.ticket(peer);
        let times = (Micros::from_ms(expected_ms), Micros::from_ms(took_ms));
        self.peers.on_answer(self.now, &id(peer), ticket, times);
    }

    fn blame(&mut self, peer: &str) {
        let ticket = self.ticket(peer);
        self.peers.on_blamed(self.now, &id(peer), ticket, &mut self.tally);
    }

    fn flights(&self) -> u32 {
        self.peers.table.iter().map(|peer| peer.flights).sum()
    }

    fn tick(&mut self, at_ms: u64) -> Vec<String> {
        self.now = ms(at_ms);
        let mut pings = Vec::new();
        self.peers.on_tick(self.now, &mut pings, (&mut self.prng, &mut self.tally));
        pings.iter().map(ToString::to_string).collect()
    }

    fn question() -> Question {
        let cost_unknown = Cost { fixed: Micros::ZERO, per_unit_ns: 7_000_000 };
        Question {
            units: 5,
            wait_here: Micros::from_ms(30),
            here: None,
            cost_unknown,
            alike: Alike::default(),
            stretch_here: 1000,
        }
    }

    fn seats(&mut self, except: &[NodeId], take: Take, optional: bool) -> Vec<Seat> {
        let mut seats = Vec::new();
        let draw = Draw { except, full: &[], take, optional };
        let with = (&mut self.prng, &mut self.tally);
        self.peers.seats(self.now, &Self::question(), draw, &mut seats, with);
        seats
    }

    fn names(&mut self) -> Vec<String> {
        self.seats(&[], Take::All, false).iter().map(|seat| seat.id.to_string()).collect()
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
    let rest = stage.seats(&[id("a-ok"), id("nobody")], Take::All, true);
    assert!(rest.iter().all(|seat| seat.id != id("a-ok")) && rest.len() == 3);
}

#[test]
fn a_draw_gives_different_peers_and_every_pair_equally_often() {
    let mut stage = Stage::new(["a", "b", "c", "d", "e"].map(|name| facts(name, 1)).into());
    let mut pairs = std::collections::BTreeMap::new();
    for _ in 0..6000 {
        let mut pair: Vec<String> =
            stage.seats(&[id("c")], Take::ByWeight(2), true).iter().map(|seat| seat.id.to_string()).collect();
        pair.sort();
        *pairs.entry(pair).or_insert(0u32) += 1;
    }
    assert_eq!(pairs.len(), 6, "{pairs:?}");
    assert!(pairs.iter().all(|(pair, &count)| 850 < count && pair[0] != pair[1]), "{pairs:?}");
    let all_but_one = ["a", "b", "c", "d"].map(id);
    assert_eq!(stage.seats(&all_but_one, Take::ByWeight(2), true).len(), 1);
    assert!(stage.seats(&["a", "b", "c", "d", "e"].map(id), Take::ByWeight(2), true).is_empty());
}

#[test]
fn what_was_sent_since_the_last_report_counts_until_a_report_contains_it() {
    let mut stage = Stage::new(vec![facts("a", 1)]);
    assert_eq!(stage.completion_ms("a"), 15);
    let mut tickets = [20, 30].map(|units| stage.peers.on_sent(&id("a"), units).expect("a known peer"));
    assert_eq!((stage.completion_ms("a"), stage.flights()), (65, 2));
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
    assert_eq!((stage.peers.units_unacknowledged(), stage.flights()), (0, 0));
}

#[test]
fn a_job_that_ended_before_it_was_acknowledged_leaves_nothing_behind() {
    let mut stage = Stage::new(vec![facts("a", 1)]);
    let ticket = stage.peers.on_sent(&id("a"), 20).expect("a known peer");
    stage.peers.on_ended(&id("a"), ticket);
    assert_eq!((stage.completion_ms("a"), stage.flights()), (15, 0));
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
    assert_eq!((stage.names().len(), stage.flights()), (1, 0));
    stage.peers.on_ended(&id("a"), ticket);
    let boot = Some(ticket.boot());
    let with = (&mut stage.prng, &mut stage.tally);
    stage.peers.on_failed(stage.now, &id("a"), boot, Signal::Broke, with);
    assert_eq!((stage.names().len(), stage.flights()), (1, 0), "late news of the old run are harmless");
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
    // A sound word makes it known; one that is absurd and older changes nothing, and a newer one makes it unknown.
    let sound = Report { cost: Cost::default(), ..report(1, 10, 0, Standing::Ready) };
    for (word, completion_ms) in [(sound, 35), (absurd, 35), (Report { seq: 11, ..absurd }, 65)] {
        stage.word("a", Some(word));
        assert_eq!(stage.completion_ms("a"), completion_ms, "{word:?}");
    }
}

#[test]
fn the_newest_run_counts_when_gossip_names_two() {
    for members in [vec![dead("a", 1), facts("a", 2)], vec![facts("a", 2), dead("a", 1)]] {
        let mut stage = Stage::new(vec![facts("a", 2)]);
        let _ = stage.peers.on_sent(&id("a"), 5);
        stage.members(members);
        assert_eq!((stage.names().len(), stage.flights()), (1, 1));
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
        stage.blame("a");
    }
    assert_eq!(seen, [15, 15 + 100], "one error of one answer, a half, costs the completion here");
    (0..18).for_each(|_| stage.blame("a"));
    assert_eq!((stage.names(), stage.tally.of(Rule::BreakerPaused)), (vec!["b".to_owned()], 1));
    stage.members(vec![facts("a", 1)]);
    assert_eq!(stage.names(), ["a"], "where nobody else can do it, errors are no reason to fail for certain");
    stage.members(vec![facts("a", 1), facts("b", 1)]);
    assert_eq!(stage.names(), ["b"]);
    stage.tick(5000);
    assert_eq!(stage.names().len(), 2, "a pause ends by itself");
}

#[test]
fn a_peer_whose_answers_come_late_is_believed_less_than_one_that_keeps_its_word() {
    let mut stage = Stage::new(vec![facts("a", 1), facts("b", 1)]);
    for _ in 0..80 {
        stage.answered("a", 10, 40);
        stage.answered("b", 10, 5);
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
        let draws = (0..1000).flat_map(|_| stage.seats(&[], Take::ByWeight(3), true)).collect::<Vec<_>>();
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
    let only = stage.seats(&["a", "b"].map(id), Take::ByWeight(2), false);
    assert_eq!(only.len(), 1, "it is used where nobody else is");
}

#[test]
fn weights_decide_how_often_a_peer_is_drawn() {
    let light = PeerFacts { weight: 25, ..facts("b", 1) };
    let mut stage = Stage::new(vec![facts("a", 1), light]);
    let draws: Vec<Seat> = (0..4000).flat_map(|_| stage.seats(&[], Take::ByWeight(2), true)).collect();
    let count = |name| draws.iter().filter(|seat| seat.id == id(name)).count();
    assert!(count("a") == 4000 && count("b").abs_diff(1000) < 120, "{} {}", count("a"), count("b"));
}

#[test]
fn backups_are_offered_only_when_nobody_else_may_get_the_job() {
    let backup = PeerFacts { backup: true, ..facts("z", 1) };
    let mut stage = Stage::new(vec![facts("a", 1), backup]);
    assert_eq!(stage.names(), ["a"]);
    assert!(stage.seats(&[id("a")], Take::ByWeight(2), true).is_empty(), "this node can do it");
    let instead = stage.seats(&[id("a")], Take::ByWeight(2), false);
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
    assert_eq!((stage.names(), stage.tick(3400)), (vec!["c".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    stage.word("a", None);
    stage.word("b", None);
    assert_eq!((stage.names().len(), stage.tick(3500)), (3, vec![]), "back by direct contact");
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

#[test]
fn a_long_round_trip_is_measured_anew_where_no_job_does_it_and_a_short_one_is_not() {
    let mut stage = Stage::new(vec![facts("a", 1), facts("b", 1), dead("c", 1)]);
    let measured = |stage: &mut Stage, peer: &str, rtt_ms: u64| {
        let word = Word { report: None, rtt: Some(Micros::from_ms(rtt_ms)) };
        stage.peers.on_heard(stage.now, &id(peer), word, &mut stage.tally);
    };
    let rtt_ms = |stage: &Stage| stage.peers.table[0].rtt.get() / 1000;
    stage.tick(0);
    measured(&mut stage, "a", 200);
    measured(&mut stage, "b", 1);
    assert_eq!(rtt_ms(&stage), 25, "one eighth of what is longer");
    for (at_ms, pings) in [(10, 0), (990, 0), (1000, 1), (1010, 0), (1990, 0), (2000, 1)] {
        assert_eq!(stage.tick(at_ms), vec!["a"; pings], "{at_ms}");
    }
    // The moment was a bad one: with a few answers all is as before.
    for expected_ms in [12, 6, 3] {
        measured(&mut stage, "a", 0);
        assert_eq!(rtt_ms(&stage), expected_ms, "half of what is shorter");
    }
    assert_eq!(stage.tick(2990), Vec::<String>::new());
    assert_eq!(stage.tick(3000), ["a"]);
    measured(&mut stage, "a", 0);
    measured(&mut stage, "a", 0);
    assert_eq!(stage.tick(9000), Vec::<String>::new(), "it keeps no work away any more");
}
