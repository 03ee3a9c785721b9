//! Where a job goes at first, and when it is refused.
//!
//! Part of the tests of the machine.

use shoal_core::id::BootId;
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Effect, Input, Node, Outcome, OwnRules, Rules, Verdict};
use shoal_core::peers::PeerFacts;
use shoal_core::time::Micros;

use super::support::*;

#[test]
fn an_idle_node_serves_its_callers_itself() {
    let stage = Stage::ready(&[peer("a", 0), peer("b", 0)]);
    stage
        .play(&[
            (1, caller(1), &["run 1: 1.0"]),
            (11, batch_done(1, &[Done]), &["finish 1: done here after 1"]),
            (11, caller(2), &["run 2: 2.0"]),
            (21, batch_done(2, &[Done]), &["finish 2: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn a_long_queue_here_and_an_idle_peer_make_a_forward() {
    Stage::ready(&[peer("a", 0)])
        .play(&[
            (1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
            // 90 ms + 10 ms here; 0 + 10 ms + 1 ms of way there.
            (1, caller(2), &["forward 2#1 to a if within 100 ms"]),
            (2, accepted(2, 1, "a"), &[]),
            (15, answered(2, 1, "a", Verdict::Done), &["finish 2: done on a after 1"]),
            (51, batch_done(1, &[Done; 5]), &["run 2: 1.5 1.6 1.7 1.8"]),
            (91, batch_done(2, &[Done; 4]), &["finish 1: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn a_peer_that_is_sooner_by_less_than_the_margin_gets_nothing() {
    // 100 ms here with itself; a margin of 10 ms; 1 ms of way.
    for (wait_ms, expected) in [(80, &["forward 2#1 to a if within 100 ms"][..]), (79 + 2, &[])] {
        Stage::ready(&[peer("a", wait_ms - 2)])
            .play(&[(1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"]), (1, caller(2), expected)]);
    }
}

#[test]
fn what_was_sent_and_not_yet_acknowledged_counts_as_load_of_the_peer() {
    Stage::ready(&[peer("a", 0), peer("b", 5)])
        .play(&[(1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"])])
        .play(&[
            (1, caller(2), &["forward 2#1 to a if within 100 ms"]),
            (1, caller(3), &["forward 3#1 to b if within 100 ms"]),
            (1, caller(4), &["forward 4#1 to a if within 100 ms"]),
        ]);
}

#[test]
fn a_job_of_a_peer_is_never_handed_on_in_whatever_state_this_node_is() {
    let busy = [(1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"][..])];
    let fast = [peer("a", 0), peer("b", 0)];
    let states = [
        (Stage::starting(&fast), "finish 7: refused unable after 0"),
        (Stage::starting(&fast).play(&[(0, Input::EngineFailed, &[])]), "finish 7: refused unable after 0"),
        (Stage::ready(&fast).play(&busy), "acknowledge 7, wait 100 ms"),
        (Stage::ready(&fast).play(&busy).play(&[(1, Input::Leave, &[])]), "acknowledge 7, wait 100 ms"),
        (
            Stage::ready(&fast).play(&busy).play(&[(1, Input::Leave, &[]), (1, Input::Leave, &["stop accepting"])]),
            "finish 7: refused draining after 0",
        ),
    ];
    for (stage, expected) in states {
        stage.play(&[(1, handed(7, None), &[expected])]);
    }
}

#[test]
fn a_job_of_a_peer_is_refused_as_busy_only_when_it_would_be_later_here_than_there() {
    for (bound_ms, expected) in [
        (Some(99), "finish 7: refused busy after 0"),
        (Some(100), "acknowledge 7, wait 100 ms"),
        (None, "acknowledge 7, wait 100 ms"),
    ] {
        Stage::ready(&[]).play(&[
            (1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
            (1, handed(7, bound_ms), &[expected]),
        ]);
    }
}

#[test]
fn the_model_failing_on_a_job_of_a_peer_is_told_to_the_peer_and_not_tried_elsewhere() {
    Stage::ready(&[peer("a", 0)])
        .play(&[
            (1, handed(7, None), &["acknowledge 7, wait 10 ms", "run 1: 7.0"]),
            (11, batch_failed(1), &["finish 7: failed on one node after 1"]),
        ])
        .assert_at_rest();
}

/// How many of the jobs that `script` leads to are refused as hopeless, over fifty seeds of chance.
fn shed(script: impl Fn(&mut dyn FnMut(u64, Input) -> Vec<Effect>)) -> usize {
    let mut shed = 0;
    for seed in 0..50 {
        let mut node = Node::new(id("here"), BootId(1), plain_rules(), seed);
        script(&mut |at_ms, input| {
            let mut effects = Vec::new();
            node.step(ms(at_ms), input, &mut effects);
            let is_shed =
                |effect: &&Effect| matches!(effect, Effect::Finish { outcome: Outcome::Overloaded { .. }, .. });
            shed += effects.iter().filter(is_shed).count();
            effects
        });
    }
    shed
}

#[test]
fn a_job_that_only_one_peer_can_do_in_time_is_not_refused_because_chance_drew_others() {
    let light = PeerFacts { weight: 1, ..peer("light", 0) };
    let busy = ["b", "c", "d", "e", "f"].map(|name| peer(name, 60_000));
    let told = shed(|feed| {
        feed(0, Input::Membership([&[light.clone()][..], &busy].concat()));
        feed(0, ready());
        feed(1, callers(1, &[1; 200], 3000));
        feed(2, callers(2, &[100], 3000));
    });
    assert_eq!(told, 0);
}

#[test]
fn a_peer_that_has_just_started_is_used_where_the_job_would_else_be_refused() {
    let again = PeerFacts { boot: BootId(2), load: Some(Report { boot: BootId(2), ..report(1, 0) }), ..peer("a", 0) };
    let told = shed(|feed| {
        feed(0, Input::Membership(vec![peer("a", 0)]));
        feed(0, ready());
        feed(10_000, Input::Membership(vec![again.clone()]));
        feed(10_001, callers(1, &[1; 400], 14_500));
        let effects = feed(10_003, callers(2, &[100], 15_000));
        assert!(forwarded(&effects).is_some(), "{effects:?}");
    });
    assert_eq!(told, 0);
}

#[test]
fn the_last_placement_goes_to_a_third_peer_when_this_node_would_be_too_late() {
    let mut stage = hot_until(445, &[peer("a", 0), peer("b", 0), peer("c", 0)]);
    let mut effects = stage.feed(1, callers(1, &[1], 445));
    let mut asked = Vec::new();
    while let Some((job, attempt, peer)) = forwarded(&effects) {
        effects = stage.feed(2, broke(job, attempt, &peer));
        asked.push(peer);
    }
    asked.sort();
    assert_eq!(asked, ["a", "b", "c"]);
}

#[test]
fn a_backup_gets_nothing_while_this_node_can_do_the_work_whatever_its_weight() {
    let backup = |weight| PeerFacts { backup: true, weight, ..peer("z", 0) };
    assert_eq!(hot(&[backup(100)]).where_they_go(2, 1..=1), [None]);
    let beside = hot(&[peer("a", 0), backup(10_000)]).where_they_go(2, 101..=200);
    assert!(beside.iter().all(|place| place.as_deref() == Some("a")), "{beside:?}");
    let mut leaving = hot(&[backup(100)]);
    leaving.feed(1, Input::Leave);
    assert_eq!(leaving.where_they_go(2, 1..=1), [Some("z".to_owned())]);
}

#[test]
fn a_node_that_leaves_hands_on_every_caller_that_a_peer_can_serve() {
    let heavy = PeerFacts { weight: 10_000, ..peer("heavy", 0) };
    let others = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| peer(name, 0));
    let mut stage = Stage::ready(&[&[heavy][..], &others].concat());
    stage.feed(1, Input::Leave);
    assert!(stage.where_they_go(2, 1..=100).iter().all(Option::is_some));
}

#[test]
fn slow_start_of_no_time_is_no_slow_start() {
    for slow_start in [None, Some(Micros::ZERO)] {
        let mut rules = plain_rules();
        rules.peers.slow_start = slow_start;
        let mut stage = ready_with(rules, &[]);
        stage.feed(10_000, Input::Membership(vec![peer("z", 9000)]));
        stage.feed(20_000, Input::Membership(vec![peer("a", 0), peer("z", 9000)]));
        stage.feed(20_000, callers(999, &[1; 40], 90_000));
        stage.feed(20_000, heard("z", report(50, 9000)));
        let places = stage.where_they_go(20_000, 1..=100);
        assert!(places.iter().all(|place| place.as_deref() == Some("a")), "{slow_start:?}: {places:?}");
    }
}

#[test]
fn a_node_of_weight_zero_computes_nothing_of_peers_either() {
    let own = OwnRules { weight: 0, backup: false };
    let stage = ready_with(Rules { own, ..plain_rules() }, &[]);
    stage.play(&[(1, handed(1, None), &["finish 1: refused unable after 0"])]);
}
