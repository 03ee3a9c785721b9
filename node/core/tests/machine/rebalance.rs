//! What waits here and moves to a peer that turns out to be sooner: who is asked, what moves, and what does not.
//!
//! Part of the tests of the machine.

use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Arrival, Input, PulseRules, RebalanceRules, Refusal, Rules, Verdict};
use shoal_core::peers::PeerFacts;
use shoal_core::route::Policy;
use shoal_core::time::Micros;

use super::support::*;

fn with_rebalance() -> Rules {
    Rules { rebalance: Some(RebalanceRules::default()), ..plain_rules() }
}

/// A node on whose device 50 of 90 ms run; what came at 2 ms waits behind them. `a` says that one waits 200 ms there.
fn waiting(rules: Rules, came: Input) -> Stage {
    let mut stage = ready_with(rules, &[peer("a", 200)]);
    stage.feed(1, callers(99, &[1; 9], DEADLINE_MS));
    assert!(forwarded(&stage.feed(2, came)).is_none(), "it waits");
    stage
}

#[test]
fn with_each_word_of_a_peer_the_last_that_waits_moves_if_it_is_sooner_there() {
    waiting(with_rebalance(), caller(1))
        .play(&[
            // 21 ms of the batch that runs, 4 + 1 rows, itself. What the peer said is 30 ms old.
            (30, caller(2), &["ping a"]),
            (31, heard("a", report(2, 0)), &["forward 2#2 to a if within 80 ms"]),
            (32, accepted(2, 2, "a"), &[]),
            (33, heard("a", report(3, 10)), &["forward 1#2 to a if within 68 ms"]),
            (34, accepted(1, 2, "a"), &[]),
            // The job whose rows run stays.
            (35, heard("a", report(4, 0)), &[]),
            (45, answered(2, 2, "a", Verdict::Done), &["finish 2: done on a after 1"]),
            (46, answered(1, 2, "a", Verdict::Done), &["finish 1: done on a after 1"]),
            (51, batch_done(1, &[Done; 5]), &["run 2: 99.5 99.6 99.7 99.8"]),
            (91, batch_done(2, &[Done; 4]), &["finish 99: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn nothing_moves_for_less_than_the_margin_or_for_what_was_known() {
    // 19 ms of the batch that runs, 4 rows, itself: 69 ms. There: its wait, 10 ms, 1 ms of way. The margin is 6.9 ms,
    // and what it has to gain is as much as it takes.
    for (report, expected) in [
        (report(2, 48), &["forward 1#2 to a if within 69 ms"][..]),
        (report(2, 49), &[]),
        // As old as what is known.
        (report(1, 0), &[]),
    ] {
        waiting(with_rebalance(), caller(1)).play(&[(32, heard("a", report), expected)]);
    }
}

#[test]
fn a_job_that_moved_and_was_refused_takes_its_turn_here_and_stays() {
    waiting(with_rebalance(), caller(1))
        .play(&[
            (3, heard("a", report(2, 0)), &["forward 1#2 to a if within 98 ms"]),
            (4, refused(1, 2, "a", Refusal::Busy), &[]),
            (5, heard("a", report(3, 0)), &[]),
            (51, batch_done(1, &[Done; 5]), &["run 2: 1.0 99.5 99.6 99.7 99.8"]),
            (101, batch_done(2, &[Done; 5]), &["finish 1: done here after 2", "finish 99: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn a_peer_that_dies_with_a_job_that_moved_to_it_costs_one_placement() {
    waiting(with_rebalance(), caller(1))
        .play(&[
            (3, heard("a", report(2, 0)), &["forward 1#2 to a if within 98 ms"]),
            (4, broke(1, 2, "a"), &[]),
            (51, batch_done(1, &[Done; 5]), &["run 2: 1.0 99.5 99.6 99.7 99.8"]),
            (101, batch_done(2, &[Done; 5]), &["finish 1: done here after 2", "finish 99: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn a_peer_is_asked_while_something_waits_when_its_word_is_old_and_no_question_is_out() {
    waiting(with_rebalance(), caller(1)).play(&[
        // A tenth of the completion here is the margin: what is younger changes nothing.
        (7, Input::Tick, &[]),
        (12, Input::Tick, &["ping a"]),
        (37, Input::Tick, &[]),
        (40, heard("a", report(2, 300)), &[]),
        (44, Input::Tick, &[]),
        (47, Input::Tick, &["ping a"]),
        // Nothing came of that one.
        (440, Input::Tick, &[]),
        (447, Input::Tick, &["ping a"]),
    ]);
    let mut idle = ready_with(with_rebalance(), &[peer("a", 200)]);
    idle.feed(1, caller(1));
    idle.play(&[(12, Input::Tick, &[]), (50, Input::Tick, &[])]);
}

#[test]
fn what_is_a_peers_of_a_session_a_chunk_or_begun_stays() {
    let of_a_session = match caller(1) {
        Input::Arrived(arrival) => Input::Arrived(Arrival { session: Some(7), ..arrival }),
        other => other,
    };
    for came in [of_a_session, handed(1, None)] {
        waiting(with_rebalance(), came.clone()).play(&[(32, heard("a", report(2, 0)), &[]), (60, Input::Tick, &[])]);
    }
    let whole = Rules { split: Rules::default().split, ..with_rebalance() };
    let mut cut = ready_with(whole, &[peer("a", 200)]);
    cut.feed(1, callers(99, &[1; 40], DEADLINE_MS));
    assert!(forwarded(&cut.feed(2, heard("a", report(2, 190)))).is_none(), "its chunks are placed when they may start");
    assert_eq!(count(&cut, "rebalanced"), 0);
}

#[test]
fn nothing_moves_to_whom_a_job_that_comes_would_not_go_to() {
    let sound = peer("a", 200);
    for facts in [
        PeerFacts { backup: true, ..sound.clone() },
        PeerFacts { weight: 0, ..sound.clone() },
        PeerFacts { serves: false, ..sound.clone() },
        PeerFacts { alive: false, ..sound.clone() },
    ] {
        let mut stage = ready_with(with_rebalance(), &[facts.clone(), peer("b", 200)]);
        stage.feed(1, callers(99, &[1; 9], DEADLINE_MS));
        stage.feed(2, caller(1));
        stage.feed(32, heard("a", report(2, 0)));
        assert_eq!(count(&stage, "rebalanced"), 0, "{facts:?}");
    }
    let mut light = ready_with(with_rebalance(), &[PeerFacts { weight: 1, ..sound }, peer("b", 200)]);
    light.feed(1, callers(99, &[1; 9], DEADLINE_MS));
    light.feed(2, caller(1));
    for word in 2..12 {
        light.feed(32, heard("a", report(word, 0)));
    }
    assert_eq!(count(&light, "rebalanced"), 0, "a hundredth of ten words is none");
}

#[test]
fn a_policy_that_does_not_go_by_completion_is_not_overruled() {
    let mut rules = with_rebalance();
    rules.route.policy = Policy::Local;
    waiting(rules, caller(1)).play(&[
        (30, caller(2), &[]),
        (32, heard("a", report(2, 0)), &[]),
        (60, Input::Tick, &[]),
    ]);
}

#[test]
fn where_a_job_has_one_placement_it_stays_here() {
    let mut rules = with_rebalance();
    rules.retry.placements_max = 1;
    waiting(rules, caller(1)).play(&[(32, heard("a", report(2, 0)), &[]), (60, Input::Tick, &[])]);
}

#[test]
fn a_job_moves_only_where_it_is_in_time_and_one_that_comes_back_is_not_turned_away() {
    let came = callers(1, &[1], 130);
    // The batch takes twice as long as it should, so that 1 would be late here.
    waiting(with_rebalance(), came.clone()).play(&[(120, heard("a", report(2, 0)), &[])]);
    waiting(with_rebalance(), came)
        .play(&[
            (100, heard("a", report(2, 0)), &["forward 1#2 to a if within 59 ms"]),
            (101, refused(1, 2, "a", Refusal::Busy), &[]),
            (105, batch_done(1, &[Done; 5]), &["run 2: 1.0 99.5 99.6 99.7 99.8"]),
            (125, batch_done(2, &[Done; 5]), &["finish 1: done here after 2", "finish 99: done here after 1"]),
        ])
        .assert_at_rest();
}

#[test]
fn on_a_device_of_several_slots_what_waits_for_one_moves() {
    let mut rules = with_rebalance();
    (rules.batch.slots, rules.batch.rows_max) = (2, 1);
    ready_with(rules, &[peer("a", 200)]).play(&[
        (1, callers(8, &[10], DEADLINE_MS), &["run 1: 8.0"]),
        (1, callers(9, &[10], DEADLINE_MS), &["run 2: 9.0"]),
        (2, caller(1), &[]),
        // Half of 100 ms until one of the slots is free, and itself.
        (12, heard("a", report(2, 0)), &["forward 1#2 to a if within 60 ms"]),
    ]);
}

#[test]
fn that_a_busy_peer_does_not_say_its_load_in_time_blocks_nobody_and_a_refused_connection_does() {
    let failed = |broke| Input::PingFailed { peer: id("a"), broke };
    let silent = waiting(with_rebalance(), caller(1)).play(&[
        (30, caller(2), &["ping a"]),
        (430, failed(false), &[]),
        (431, Input::Tick, &["ping a"]),
        (831, failed(false), &[]),
    ]);
    assert_eq!(silent.gate("a"), "passing");
    let gone = waiting(with_rebalance(), caller(1)).play(&[(30, caller(2), &["ping a"]), (31, failed(true), &[])]);
    assert_eq!(gone.gate("a"), "blocking");
}

#[test]
fn a_peer_that_says_how_it_is_and_acknowledges_no_job_is_blocked_after_two_of_them() {
    let mut stage = hot_with(with_rebalance(), &[peer("a", 0)]);
    for (at, job) in [(2, 1), (250, 2)] {
        assert_eq!(forwarded(&stage.feed(at, caller(job))), Some((job, 1, "a".to_owned())));
        stage.feed(at, flushed(job, 1));
    }
    stage.feed(310, Input::Tick);
    assert_eq!((stage.gate("a"), count(&stage, "silent")), ("passing", 1));
    stage.feed(320, heard("a", report(2, 5000)));
    stage.feed(560, Input::Tick);
    assert_eq!((stage.gate("a"), count(&stage, "silent")), ("blocking", 2));
}

#[test]
fn a_node_that_stood_still_moves_nothing_by_words_that_may_be_old() {
    let rules = Rules { pulse: Some(PulseRules::default()), ..with_rebalance() };
    waiting(rules, caller(1))
        .play(&[(31, Input::Pulse { late: Micros::from_ms(400) }, &[]), (32, heard("a", report(2, 0)), &[])]);
}
