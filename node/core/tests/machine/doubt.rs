//! Whom to believe: this node's own ears, gossip that calls everybody dead, and words that contradict each other.
//!
//! Part of the tests of the machine.

use shoal_core::id::{BatchId, BootId};
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Effect, Input, PulseRules, Rules};
use shoal_core::peers::PeerFacts;
use shoal_core::time::Micros;

use super::support::*;

fn with_pulse() -> Rules {
    Rules { pulse: Some(PulseRules::default()), ..plain_rules() }
}

fn dead(name: &str) -> PeerFacts {
    PeerFacts { alive: false, ..peer(name, 0) }
}

#[test]
fn a_node_that_stood_still_blames_nobody_for_what_it_did_not_hear() {
    let pulse = Some(PulseRules::default());
    let asleep = |peers: &[PeerFacts]| {
        ready_with(Rules { pulse, ..plain_rules() }, peers).play(&[
            (0, callers(9, &[1; 40], DEADLINE_MS), &["run 1: 9.0 9.1 9.2 9.3 9.4"]),
            (1, caller(1), &["forward 1#1 to a if within 409 ms"]),
            (2, flushed(1, 1), &[]),
        ])
    };
    let dead = Input::Membership(vec![PeerFacts { alive: false, ..peer("a", 0) }]);
    // It wakes after five seconds; the news that it finds are older than what it has not read yet.
    let woken = asleep(&[peer("a", 0)]).play(&[
        (5000, dead, &[]),
        (5001, Input::Tick, &[]),
        (5002, caller(2), &["forward 2#1 to a if within 5312 ms"]),
        (5003, accepted(1, 1, "a"), &[]),
        (5004, accepted(2, 1, "a"), &[]),
        (5100, Input::Tick, &[]),
    ]);
    assert_eq!((woken.gate("a"), count(&woken, "self_suspected")), ("passing", 1));
    let after = woken.play(&[(5200, Input::Tick, &[]), (5300, Input::Tick, &[]), (5400, Input::Tick, &[])]);
    let after = after.play(&[(5500, Input::Tick, &[]), (5501, caller(3), &[])]);
    assert_eq!(after.node.gauges(ms(5501)).forwards, 2, "what gossip still says then is believed");
}

#[test]
fn a_batch_that_ran_while_this_node_stood_still_teaches_nothing_about_its_device() {
    // A device that hangs lets its process tick, and one may go on for long after its process woke.
    for (ticks, believed) in [(0..0, true), (1..39, false), (30..39, true)] {
        let mut stage = ready_with(with_pulse(), &[]);
        let before = stage.node.report(ms(0)).cost;
        stage.feed(0, caller(1));
        ticks.clone().for_each(|tick| drop(stage.feed(tick * 100, Input::Tick)));
        let took = Micros::from_ms(3900);
        stage.feed(3900, Input::BatchDone { batch: BatchId(1), took, rows: vec![Done] });
        assert_eq!(stage.node.report(ms(3900)).cost == before, believed, "ticks: {ticks:?}");
    }
}

#[test]
fn a_gossip_thread_that_is_late_is_this_nodes_own_fault() {
    let pulse = Some(PulseRules::default());
    let mut stage = ready_with(Rules { pulse, ..plain_rules() }, &[peer("a", 0)]);
    stage.feed(50, Input::Pulse { late: Micros::from_ms(200) });
    assert_eq!(count(&stage, "self_suspected"), 0);
    stage.feed(60, Input::Pulse { late: Micros::from_ms(201) });
    assert_eq!(count(&stage, "self_suspected"), 1);
}

#[test]
fn a_node_whose_gossip_thread_is_always_late_still_notices_silence() {
    let mut stage = hot_with(with_pulse(), &[peer("a", 0), peer("b", 50)])
        .play(&[(1, caller(1), &["forward 1#1 to a if within 410 ms"]), (2, flushed(1, 1), &[])]);
    let abandoned_at = (1..20u64).map(|tick| 2 + tick * 100).find(|&at_ms| {
        stage.feed(at_ms, Input::Pulse { late: Micros::from_ms(250) });
        stage.feed(at_ms, Input::Tick).iter().any(|effect| matches!(effect, Effect::Abandon { .. }))
    });
    // 302 ms as always, 250 ms for its own lateness, and not before the first doubt is over.
    assert_eq!(abandoned_at, Some(602));
}

#[test]
fn a_node_whose_gossip_thread_was_late_once_notices_silence_as_soon_as_ever_again() {
    let abandoned_after = |quiet_ms: u64| {
        let mut stage = ready_with(with_pulse(), &[peer("a", 0), peer("b", 50)]);
        stage.feed(0, Input::Tick);
        stage.feed(50, Input::Pulse { late: Micros::from_ms(5000) });
        // The doubt itself is over after half a second.
        (1..=6 + quiet_ms / 100).for_each(|tick| drop(stage.feed(tick * 100, Input::Tick)));
        let sent_ms = 601 + quiet_ms;
        stage.feed(sent_ms, callers(99, &[1; 40], DEADLINE_MS));
        assert!(forwarded(&stage.feed(sent_ms, caller(1))).is_some());
        stage.feed(sent_ms, flushed(1, 1));
        let mut moments = (sent_ms + 1..sent_ms + 2000).filter(|at_ms| at_ms % 100 == 0);
        let given_up_at = moments.find(|at_ms| {
            stage.feed(*at_ms, Input::Tick).iter().any(|effect| matches!(effect, Effect::Abandon { .. }))
        });
        given_up_at.map(|at_ms| at_ms - sent_ms)
    };
    // 302 ms; and a second more, which is the most, while its own lateness counts: that is over at 1050 ms.
    assert_eq!((abandoned_after(0), abandoned_after(500)), (Some(499), Some(399)));
}

#[test]
fn who_is_first_heard_of_as_dead_is_dead_also_while_this_node_suspects_itself() {
    let mut stage = ready_with(with_pulse(), &[peer("b", 50)]);
    stage.feed(50, Input::Pulse { late: Micros::from_ms(400) });
    stage.feed(60, Input::Membership(vec![dead("a"), dead("b")]));
    stage.feed(61, callers(99, &[1; 40], DEADLINE_MS));
    assert_eq!(stage.where_they_go(62, 1..=1), [Some("b".to_owned())]);
}

#[test]
fn a_node_does_not_suspect_itself_because_it_has_just_started() {
    let mut stage = Stage::with_rules(with_pulse(), &[]);
    stage.feed(9000, Input::Tick);
    assert_eq!(count(&stage, "self_suspected"), 1, "that was a pause");
    let mut node = shoal_core::node::Node::new(id("here"), BootId(1), with_pulse(), 1);
    node.step(ms(9000), Input::Tick, &mut Vec::new());
    assert!(node.exercised().all(|(_, count)| count == 0), "that was its first step");
}

#[test]
fn a_node_that_stood_still_blames_nobody_for_being_late() {
    let mut stage = hot_with(Rules { hedge: Rules::default().hedge, ..with_pulse() }, &[peer("a", 0), peer("b", 5)]);
    stage.feed(2, caller(1));
    stage.feed(3, accepted(1, 1, "a"));
    stage.feed(5000, Input::Tick);
    stage.feed(5001, left(1));
    let stretch = stage.node.peers(ms(5001)).find(|view| view.facts.id == id("a")).map(|view| view.stretch_permille);
    assert_eq!((stretch, count(&stage, "hedged")), (Some(1000), 0));
}

#[test]
fn a_ping_that_fails_while_this_node_suspects_itself_says_nothing() {
    let mut stage = ready_with(with_pulse(), &[peer("a", 0)]);
    stage.feed(50, Input::Pulse { late: Micros::from_ms(400) });
    (0..5).for_each(|_| drop(stage.feed(60, Input::PingFailed { peer: id("a"), broke: false })));
    assert_eq!(stage.gate("a"), "passing");
}

#[test]
fn whoever_gossip_calls_dead_with_most_others_is_pinged_again_and_again() {
    let mut rules = Rules { pulse: Some(PulseRules::default()), ..plain_rules() };
    rules.peers.panic_percent = 50;
    for in_doubt in [false, true] {
        let mut stage = ready_with(rules.clone(), &[peer("a", 0), peer("b", 0)]);
        stage.feed(100, Input::Tick);
        stage.feed(101, Input::Pulse { late: Micros::from_ms(if in_doubt { 400 } else { 0 }) });
        stage.feed(110, Input::Membership(vec![dead("a"), dead("b")]));
        let pings = (2..40).flat_map(|tick| stage.feed(tick * 100, Input::Tick));
        let pings = pings.filter(|effect| matches!(effect, Effect::Ping { .. })).count();
        // Once a second, both of them, for 3.7 s, of which the doubt takes half a second.
        assert!((6..=8).contains(&pings), "{pings} pings, in doubt: {in_doubt}");
        assert_eq!((stage.node.panics(), count(&stage, "panicked")), (true, 1));
    }
}

#[test]
fn the_dead_come_back_by_direct_contact_and_never_by_hearsay() {
    let (gone, back) = (|| Input::Membership(vec![dead("a")]), || Input::Membership(vec![peer("a", 0)]));
    let stage = hot(&[peer("a", 0)]).play(&[
        (10, gone(), &[]),
        (20, back(), &[]),
        (21, caller(1), &[]),
        (22, Input::Tick, &["ping a"]),
        (23, caller(2), &[]),
        // What gossip repeats changes nothing.
        (24, back(), &[]),
        (25, Input::PingFailed { peer: id("a"), broke: false }, &[]),
        (26, back(), &[]),
        (27, caller(3), &[]),
        (1026, Input::Tick, &["ping a"]),
    ]);
    assert_eq!(stage.gauges().forwards, 0);
    let mut stage = stage;
    stage.feed(1027, heard("a", report(2, 0)));
    assert_eq!(stage.where_they_go(1028, 4..=4), [Some("a".to_owned())]);
    // Who spoke while gossip called it dead needs no ping.
    let mut stage = hot(&[peer("a", 0)]);
    stage.feed(10, gone());
    stage.feed(20, heard("a", report(2, 0)));
    stage.feed(30, back());
    assert_eq!(stage.where_they_go(31, 1..=1), [Some("a".to_owned())]);
}

/// Ticks every 100 ms from `from_ms` up to and including `until_ms`; each ping of `a` fails, or is never answered.
/// Returns when `a` was pinged.
fn pings_in_vain(stage: &mut Stage, (from_ms, until_ms): (u64, u64), told: bool) -> Vec<u64> {
    let moments = (from_ms..=until_ms).filter(|at_ms| at_ms % 100 == 0);
    let asks = |at_ms: &u64| {
        let asks = stage.feed(*at_ms, Input::Tick).contains(&Effect::Ping { peer: id("a") });
        if asks && told {
            stage.feed(*at_ms, Input::PingFailed { peer: id("a"), broke: true });
        }
        asks
    };
    moments.filter(asks).collect()
}

#[test]
fn whom_gossip_calls_dead_is_not_asked_after_its_connection_ended_nor_blocked_for_its_silence() {
    let parted = || Input::Parted { peer: id("a") };
    let silent = || Input::PingFailed { peer: id("a"), broke: false };
    let missed = |stage: Stage| {
        let mut stage = stage.play(&[(1, callers(1, &[1; 40], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"])]);
        stage.feed(2, caller(2));
        stage.feed(3, flushed(2, 1));
        stage.feed(310, Input::Tick);
        assert_eq!((stage.gate("a"), count(&stage, "silent")), ("passing", 1), "one silence is no proof");
        stage
    };
    // It was called dead before its connection ended, or while the ping for that was out.
    for asked in [false, true] {
        let mut stage = missed(Stage::ready(&[peer("a", 0), peer("b", 5000)]));
        if asked {
            stage = stage.play(&[(320, parted(), &["ping a"])]);
        }
        let gone = Input::Membership(vec![dead("a"), peer("b", 5000)]);
        let mut stage = stage.play(&[(600, gone, &[]), (601, parted(), &[])]);
        if asked {
            stage.feed(720, silent());
        }
        assert_eq!((stage.gate("a"), count(&stage, "gate_blocked")), ("passing", 0), "asked before: {asked}");
    }
    // In a panic a ping says more than gossip.
    let mut rules = plain_rules();
    rules.peers.panic_percent = 50;
    let mut stage = missed(ready_with(rules, &[peer("a", 0), peer("b", 5000)]));
    stage.feed(600, Input::Membership(vec![dead("a"), dead("b")]));
    assert_eq!((stage.node.panics(), stage.feed(700, Input::Tick).len()), (true, 3), "two pings and the load");
    stage.feed(1100, silent());
    assert_eq!(stage.gate("a"), "blocking");
}

#[test]
fn who_was_gone_for_long_is_asked_as_soon_as_gossip_says_that_it_is_back() {
    let mut stage = hot(&[peer("a", 0)]);
    stage.feed(2, caller(1));
    stage.feed(3, broke(1, 1, "a"));
    stage.feed(500, Input::Membership(vec![dead("a")]));
    // The next one would be at 15.1 s.
    assert_eq!(pings_in_vain(&mut stage, (501, 9_000), true), [1_100, 3_100, 7_100]);
    stage.feed(9_001, Input::Membership(vec![peer("a", 0)]));
    assert_eq!(stage.where_they_go(9_002, 2..=2), [None], "hearsay alone opens nothing");
    assert_eq!(stage.feed(9_100, Input::Tick), [Effect::Ping { peer: id("a") }]);
    stage.feed(9_101, heard("a", report(2, 0)));
    assert_eq!(stage.where_they_go(9_102, 3..=3), [Some("a".to_owned())]);
}

#[test]
fn who_is_called_dead_and_alive_again_and_again_is_pinged_once_for_each_return() {
    for told in [true, false] {
        let mut stage = hot(&[peer("a", 0)]);
        let mut pings = Vec::new();
        for round in 1..=50u64 {
            let at_ms = round * 300;
            stage.feed(at_ms, Input::Membership(vec![dead("a")]));
            pings.extend(pings_in_vain(&mut stage, (at_ms + 1, at_ms + 100), told));
            stage.feed(at_ms + 101, Input::Membership(vec![peer("a", 0)]));
            pings.extend(pings_in_vain(&mut stage, (at_ms + 102, at_ms + 299), told));
        }
        assert!((20..=50).contains(&pings.len()), "{pings:?}");
        let apart_ms = if told { 300 } else { 400 };
        assert!(pings.windows(2).all(|pair| apart_ms <= pair[1] - pair[0]), "{pings:?}");
    }
}

#[test]
fn a_door_whose_peers_are_all_said_to_be_back_holds_its_callers_until_one_answers() {
    let mut rules = plain_rules();
    rules.own.weight = 0;
    let back = |answer: &[Line<'_>]| {
        ready_with(rules.clone(), &[peer("a", 0), peer("b", 0)])
            .play(&[
                (10, Input::Membership(vec![dead("a"), dead("b")]), &[]),
                (20, Input::Membership(vec![peer("a", 0), peer("b", 0)]), &[]),
                (21, caller(1), &[]),
                (22, Input::Tick, &["ping a", "ping b"]),
            ])
            .play(answer)
    };
    back(&[(25, heard("b", report(2, 0)), &["forward 1#1 to b"])]);
    let nobody = |name| Input::PingFailed { peer: id(name), broke: false };
    back(&[(25, nobody("a"), &[]), (26, nobody("b"), &[]), (27, Input::Tick, &["finish 1: unavailable after 0"])]);
}

#[test]
fn a_job_that_nobody_else_can_do_does_not_wait_for_the_end_of_a_pause() {
    let mut rules = plain_rules();
    rules.own.weight = 0;
    let paused = || {
        let stage = ready_with(rules.clone(), &[peer("a", 0)]).play(&[
            (1, caller(1), &["forward 1#1 to a"]),
            (2, broke(1, 1, "a"), &[]),
            (10, Input::Tick, &["ping a"]),
            (11, Input::PingFailed { peer: id("a"), broke: false }, &[]),
            (12, Input::Tick, &["finish 1: unavailable after 1"]),
        ]);
        stage.play(&[(100, caller(2), &[]), (101, Input::Tick, &[])])
    };
    paused().play(&[(501, Input::Tick, &["ping a"]), (502, heard("a", report(2, 0)), &["forward 2#1 to a"])]);
}

#[test]
fn whom_gossip_first_knows_by_name_only_gets_work_as_soon_as_it_is_alive() {
    let mut stage = hot(&[dead("a")]);
    stage.feed(10, Input::Membership(vec![peer("a", 0)]));
    assert_eq!(stage.where_they_go(11, 1..=1), [Some("a".to_owned())]);
    assert_eq!(stage.feed(100, Input::Tick), []);
}

#[test]
fn nobody_panics_over_peers_that_were_never_heard() {
    let mut rules = plain_rules();
    rules.peers.panic_percent = 50;
    let mut stage = ready_with(rules, &[dead("a"), dead("b"), dead("c")]);
    assert_eq!(stage.feed(100, Input::Tick), []);
    assert!(!stage.node.panics());
}

#[test]
fn what_gossip_says_against_a_peer_counts_when_it_is_newer_than_the_peers_word() {
    let wedged = PeerFacts { standing: Standing::Wedged, load: None, ..peer("a", 0) };
    let told = |first: Input, second: Input| {
        let mut stage = hot(&[peer("a", 0)]);
        stage.feed(2, first);
        stage.feed(3, second);
        stage.where_they_go(4, 1..=1)
    };
    let (gossip, word) = (|| Input::Membership(vec![wedged.clone()]), || heard("a", report(2, 0)));
    assert_eq!(told(word(), gossip()), [None]);
    assert_eq!(told(gossip(), word()), [Some("a".to_owned())], "it computes again, and said so itself");
    let mut stage = hot(&[peer("a", 0)]);
    stage.feed(2, gossip());
    stage.feed(3, word());
    stage.feed(4000, Input::Tick);
    assert_eq!(stage.where_they_go(4000, 1..=1), [None], "nobody confirmed that word for long");
}

#[test]
fn a_peer_that_counted_its_reports_up_to_the_largest_number_can_still_be_corrected() {
    let mut stage = hot(&[peer("a", 0)]);
    stage.feed(2, heard("a", Report { seq: u64::MAX, ..report(1, 0) }));
    stage.feed(3, heard("a", Report { standing: Standing::Draining, ..report(2, 0) }));
    assert_eq!((stage.where_they_go(4, 1..=1), count(&stage, "absurd_report")), (vec![None], 1));
}

#[test]
fn that_an_earlier_run_is_dead_says_nothing_of_what_the_present_one_holds() {
    let again = PeerFacts { boot: BootId(2), load: Some(Report { boot: BootId(2), ..report(1, 0) }), ..peer("a", 0) };
    let mut stage = hot(&[again]);
    stage.feed(2, caller(1));
    stage.feed(3, Input::Membership(vec![dead("a")]));
    let view = stage.node.peers(ms(3)).next().map(|view| (view.facts.boot, view.facts.alive, view.flights));
    assert_eq!(view, Some((BootId(2), false, 1)));
}
