//! Deadlines, callers that leave, and nodes that do.
//!
//! Part of the tests of the machine.

use shoal_core::admission::AdmissionRules;
use shoal_core::lifecycle::{DoorState, Standing};
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::{Done, Failed, Rejected};
use shoal_core::node::{Effect, Input, Refusal, Verdict};
use shoal_core::peers::PeerFacts;
use shoal_core::time::Micros;

use super::support::*;

#[test]
fn a_deadline_ends_a_job_in_the_queue_on_the_device_and_on_a_peer() {
    let stage = Stage::ready(&[peer("a", 0)])
        .play(&[
            (1, callers(1, &[1; 5], 60), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
            (1, callers(2, &[1], 90), &["forward 2#1 to a if within 60 ms"]),
            (2, accepted(2, 1, "a"), &[]),
        ])
        // The peer becomes slow, so that the next one stays.
        .play(&[(2, heard("a", report(2, 500)), &[]), (2, callers(3, &[1], 70), &[])]);
    let wait = stage.gauges().wait;
    assert_eq!(wait, Micros::from_ms(59));
    let stage = stage
        .play(&[
            (59, Input::Tick, &[]),
            (60, Input::Tick, &["finish 1: expired after 1"]),
            (70, Input::Tick, &["finish 3: expired after 1"]),
            (90, Input::Tick, &["abandon 2#1", "finish 2: expired after 1"]),
            (91, answered(2, 1, "a", Verdict::Done), &[]),
            (92, batch_done(1, &[Done; 5]), &[]),
        ])
        .play(&[(93, callers(4, &[1], 93), &["finish 4: expired after 0"])]);
    stage.assert_at_rest();
}

#[test]
fn a_job_that_no_node_can_end_in_time_is_refused_at_once_with_a_time_to_come_back() {
    let mut stage = hot_until(445, &[peer("a", 600)]);
    let effects = stage.feed(1, callers(1, &[1], 445));
    let [Effect::Finish { outcome, placements: 0, .. }] = &effects[..] else { panic!("{effects:?}") };
    let shoal_core::node::Outcome::Overloaded { retry_after } = outcome else { panic!("{outcome:?}") };
    let rules = AdmissionRules::default();
    assert!(rules.retry_after_min <= *retry_after && *retry_after <= rules.retry_after_max.times(2), "{retry_after:?}");
    stage.play(&[(1, handed(2, None), &["acknowledge 2, wait 410 ms"])]);
}

#[test]
fn work_with_a_later_deadline_does_not_make_a_job_hopeless() {
    Stage::ready(&[]).play(&[
        (1, callers(1, &[1; 1000], 300_000), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
        (1, callers(2, &[1], 5_000), &[]),
        (1, callers(3, &[1], 300_000), &[]),
        (51, batch_done(1, &[Done; 5]), &["run 2: 2.0 1.5 1.6 1.7 1.8"]),
    ]);
}

#[test]
fn a_peer_that_allows_less_time_does_not_end_a_job_that_has_time_left() {
    Stage::starting(&[peer("a", 0), peer("b", 500)]).play(&[
        (1, caller(1), &["forward 1#1 to a"]),
        (2, answered(1, 1, "a", Verdict::Expired), &["forward 1#2 to b"]),
        (DEADLINE_MS, answered(1, 2, "b", Verdict::Expired), &["finish 1: expired after 2"]),
    ]);
}

#[test]
fn a_job_with_hope_only_on_a_peer_goes_there_although_the_margin_is_not_reached() {
    // 410 ms here, 381 ms there: within the margin of 41 ms, but only the peer is in time.
    hot_until(445, &[peer("a", 370)]).play(&[(1, callers(1, &[1], 445), &["forward 1#1 to a"])]);
}

#[test]
fn the_nearest_deadline_runs_first() {
    Stage::ready(&[]).play(&[
        (1, caller(1), &["run 1: 1.0"]),
        (1, callers(2, &[5], 9_000), &[]),
        (1, callers(3, &[5], 8_000), &[]),
        (11, batch_done(1, &[Done]), &["finish 1: done here after 1", "run 2: 3.0"]),
        (61, batch_done(2, &[Done]), &["finish 3: done here after 1", "run 3: 2.0"]),
    ]);
}

#[test]
fn a_caller_that_leaves_leaves_nothing_behind() {
    Stage::ready(&[peer("a", 0)])
        .play(&[
            (1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
            (1, caller(2), &["forward 2#1 to a if within 100 ms"]),
            (1, caller(3), &["forward 3#1 to a if within 100 ms"]),
            (2, accepted(3, 1, "a"), &[]),
            (2, handed(4, None), &["acknowledge 4, wait 99 ms"]),
            (3, left(2), &["abandon 2#1"]),
            (3, left(3), &["abandon 3#1"]),
            (3, left(4), &[]),
            (3, left(1), &[]),
            (3, left(1), &[]),
            (9, answered(2, 1, "a", Verdict::Done), &[]),
            (51, batch_done(1, &[Done, Failed, Rejected, Done, Done]), &[]),
        ])
        .assert_at_rest();
}

#[test]
fn a_caller_that_leaves_takes_its_rows_that_wait_to_run_alone_along() {
    Stage::ready(&[])
        .play(&[
            (1, callers(1, &[1; 3], DEADLINE_MS), &["run 1: 1.0 1.1 1.2"]),
            (31, batch_failed(1), &["run 2: 1.0"]),
            (32, left(1), &[]),
            (41, batch_failed(2), &[]),
        ])
        .assert_at_rest();
}

#[test]
fn while_its_engine_starts_a_node_serves_callers_through_peers_or_holds_them_for_a_moment() {
    let nobody = [
        vec![],
        vec![PeerFacts { alive: false, ..peer("a", 0) }],
        vec![PeerFacts { serves: false, ..peer("a", 0) }],
        vec![PeerFacts { load: Some(Report { standing: Standing::Draining, ..report(1, 0) }), ..peer("a", 0) }],
    ];
    for peers in nobody {
        let stage = Stage::starting(&peers);
        assert!(!stage.node.can_answer(ms(0)), "{peers:?}");
        let held = stage.play(&[(1, caller(1), &[]), (2000, Input::Tick, &[])]);
        held.play(&[(2001, Input::Tick, &["finish 1: unavailable after 0"])]).assert_at_rest();
    }
    for input in [Input::Tick, Input::EngineFailed] {
        let stage = Stage::starting(&[peer("a", 500)]).play(&[(0, input, &[])]);
        assert!(stage.node.can_answer(ms(0)));
        stage.play(&[(1, caller(1), &["forward 1#1 to a"])]);
    }
}

#[test]
fn an_idle_node_that_seems_slower_than_a_peer_measures_itself_until_it_does_not() {
    let slow = Input::EngineReady { units: 1, took: Micros::from_ms(30) };
    let stage = Stage::starting(&[peer("a", 0)]).play(&[
        (0, slow, &[]),
        (1, caller(1), &["forward 1#1 to a if within 30 ms"]),
        (20, answered(1, 1, "a", Verdict::Done), &["finish 1: done on a after 1"]),
        (999, Input::Tick, &[]),
        (1000, Input::Tick, &["measure"]),
        (1001, Input::Tick, &[]),
        (1010, measured(10), &[]),
        // It was quicker than believed: the next look is sooner.
        (1209, Input::Tick, &[]),
        (1210, Input::Tick, &["measure"]),
        (1220, measured(10), &[]),
    ]);
    // Each look brings the estimate nearer to 10 ms; within 20 % of the peer's it rests.
    let (mut stage, mut measured_at) = (stage, Vec::new());
    for at_ms in (1420..40_000).step_by(100) {
        if stage.feed(at_ms, Input::Tick).contains(&Effect::Measure) {
            stage.feed(at_ms, measured(10));
            measured_at.push(at_ms);
        }
    }
    let rounds = measured_at.len() as u64;
    let expected = (0..rounds).map(|round| 1420 + 200 * round).collect::<Vec<_>>();
    assert!((2..9).contains(&rounds) && measured_at == expected, "{measured_at:?}");
    stage.play(&[(41_000, callers(2, &[1], 900_000), &["run 1: 2.0"])]);
}

#[test]
fn a_node_that_is_slow_measures_itself_once_a_second_and_not_more_often() {
    let slow = Input::EngineReady { units: 1, took: Micros::from_ms(30) };
    let mut stage = Stage::starting(&[peer("a", 0)]).play(&[(0, slow, &[])]);
    let mut rounds = 0;
    for at_ms in (100..20_000).step_by(100) {
        if stage.feed(at_ms, Input::Tick).contains(&Effect::Measure) {
            stage.feed(at_ms, measured(30));
            rounds += 1;
        }
    }
    assert_eq!(rounds, 19);
}

#[test]
fn a_node_without_a_faster_peer_or_with_work_does_not_measure_itself() {
    for peers in [vec![], vec![peer("a", 0)], vec![PeerFacts { alive: false, ..peer("a", 0) }]] {
        Stage::ready(&peers).play(&[(5000, Input::Tick, &[])]);
    }
    let slow = Input::EngineReady { units: 1, took: Micros::from_ms(30) };
    Stage::starting(&[peer("a", 60_000)]).play(&[
        (0, slow, &[]),
        (1, caller(1), &["run 1: 1.0"]),
        (2000, Input::Tick, &[]),
        (2001, batch_done(1, &[Done]), &["finish 1: done here after 1"]),
        (2002, Input::Tick, &[]),
    ]);
}

#[test]
fn a_held_caller_is_served_as_soon_as_somebody_can() {
    let stage = Stage::starting(&[]).play(&[(1, caller(1), &[]), (1, caller(2), &[])]);
    stage.play(&[(40, ready(), &["run 1: 1.0 2.0"])]);
    let stage = Stage::starting(&[]).play(&[(1, caller(1), &[])]);
    stage.play(&[(40, Input::Membership(vec![peer("a", 0)]), &["forward 1#1 to a"])]);
    let stage = Stage::starting(&[]).play(&[(1, caller(1), &[])]);
    stage.play(&[(40, Input::EngineFailed, &["finish 1: unavailable after 0"])]).assert_at_rest();
    let stage = Stage::starting(&[]).play(&[(1, caller(1), &[])]);
    stage.play(&[(40, left(1), &[])]).assert_at_rest();
}

#[test]
fn a_job_that_waits_on_a_peer_when_the_engine_becomes_ready_can_still_end_here() {
    Stage::starting(&[peer("a", 0)])
        .play(&[
            (1, caller(1), &["forward 1#1 to a"]),
            (2, ready(), &[]),
            (3, broke(1, 1, "a"), &["run 1: 1.0"]),
            (13, batch_done(1, &[Done]), &["finish 1: done here after 2"]),
        ])
        .assert_at_rest();
}

#[test]
fn an_engine_that_fails_while_jobs_wait_for_it_sends_them_elsewhere() {
    let stage = Stage::ready(&[peer("a", 500)]).play(&[
        (1, caller(1), &["run 1: 1.0"]),
        (1, caller(2), &[]),
        (1, handed(3, None), &["acknowledge 3, wait 30 ms"]),
        (2, Input::EngineFailed, &["forward 1#2 to a", "forward 2#2 to a", "finish 3: refused unable after 1"]),
        (3, batch_failed(1), &[]),
        (4, answered(1, 2, "a", Verdict::Done), &["finish 1: done on a after 2"]),
        (4, answered(2, 2, "a", Verdict::Done), &["finish 2: done on a after 2"]),
    ]);
    stage.assert_at_rest();
}

#[test]
fn a_draining_node_hands_its_callers_on_and_serves_them_itself_when_nobody_else_can() {
    Stage::ready(&[peer("a", 500)]).play(&[
        (1, Input::Leave, &[]),
        (2, caller(1), &["forward 1#1 to a"]),
        (3, refused(1, 1, "a", Refusal::Full), &["run 1: 1.0"]),
        (13, batch_done(1, &[Done]), &["finish 1: done here after 2"]),
    ]);
    Stage::ready(&[]).play(&[(1, Input::Leave, &[]), (2, caller(1), &["run 1: 1.0"])]);
}

#[test]
fn a_draining_node_serves_a_caller_itself_when_no_peer_would_be_in_time() {
    Stage::ready(&[peer("a", 60_000)]).play(&[(1, Input::Leave, &[]), (2, caller(1), &["run 1: 1.0"])]);
}

#[test]
fn a_drain_ends_with_exit_when_the_last_job_is_done() {
    let stage = Stage::ready(&[]).play(&[
        (1, handed(1, None), &["acknowledge 1, wait 10 ms", "run 1: 1.0"]),
        (2, Input::Leave, &[]),
        (3, handed(2, None), &["acknowledge 2, wait 18 ms"]),
        (500, Input::Tick, &[]),
        (502, Input::Tick, &["stop accepting"]),
        (503, handed(3, None), &["finish 3: refused draining after 0"]),
        (510, batch_done(1, &[Done]), &["finish 1: done here after 1", "run 2: 2.0"]),
        (511, Input::Tick, &[]),
        (520, batch_done(2, &[Done]), &["finish 2: done here after 1"]),
        (521, Input::Tick, &["exit"]),
        (522, Input::Tick, &[]),
    ]);
    assert_eq!(stage.node.door(), DoorState::Closed);
    stage.assert_at_rest();
}

#[test]
fn a_caller_whose_upload_outlasted_the_drain_of_a_lone_node_is_still_served() {
    let stage = Stage::ready(&[]).play(&[
        (1, Input::Leave, &[]),
        (501, Input::Tick, &["stop accepting"]),
        (502, Input::Tick, &["exit"]),
        (503, caller(1), &["run 1: 1.0"]),
        (513, batch_done(1, &[Done]), &["finish 1: done here after 1"]),
    ]);
    stage.assert_at_rest();
}

#[test]
fn a_drain_that_takes_too_long_ends_every_job_before_it_exits() {
    let stage = Stage::ready(&[peer("a", 500)]).play(&[
        (1, handed(1, None), &["acknowledge 1, wait 10 ms", "run 1: 1.0"]),
        (2, Input::Leave, &[]),
        (3, callers(2, &[1], 900_000), &["forward 2#1 to a"]),
        (4, accepted(2, 1, "a"), &[]),
        (5, Input::Leave, &["stop accepting"]),
        (1004, Input::Tick, &[]),
        (
            1005,
            Input::Tick,
            &["finish 1: refused draining after 1", "abandon 2#1", "finish 2: unavailable after 1", "exit"],
        ),
        (1006, batch_done(1, &[Done]), &[]),
    ]);
    stage.assert_at_rest();
}
