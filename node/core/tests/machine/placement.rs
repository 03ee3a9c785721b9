//! Where a job goes at first, and when it is refused.
//!
//! Part of the tests of the machine.

use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Input, Verdict};

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
