//! Placements that come to nothing, and models that fail: who gets the job then, and who is blamed.
//!
//! Part of the tests of the machine.

use shoal_core::node::RowVerdict::{Done, Failed, Rejected};
use shoal_core::node::{Effect, Input, Refusal, Verdict};

use super::support::*;

#[test]
fn after_a_busy_refusal_a_job_stays_here_and_nobody_is_blamed() {
    let stage = hot(&[peer("a", 0), peer("b", 50)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (2, refused(1, 1, "a", Refusal::Busy), &[]),
        (3, caller(2), &["forward 2#1 to a if within 418 ms"]),
    ]);
    assert_eq!((stage.gate("a"), stage.gate("b")), ("passing", "passing"));
}

#[test]
fn every_refusal_is_placed_again_at_once() {
    for refusal in [Refusal::Full, Refusal::Draining, Refusal::Unable] {
        hot(&[peer("a", 0), peer("b", 50)]).play(&[
            (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
            (2, refused(1, 1, "a", refusal), &["forward 1#2 to b if within 409 ms"]),
        ]);
    }
}

#[test]
fn a_broken_connection_sends_its_jobs_elsewhere_at_once_and_closes_the_gate() {
    let stage = hot(&[peer("a", 0), peer("b", 50)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (1, caller(2), &["forward 2#1 to a if within 410 ms"]),
        (2, accepted(1, 1, "a"), &[]),
        (3, broke(1, 1, "a"), &["forward 1#2 to b if within 408 ms"]),
    ]);
    assert_eq!(stage.gate("a"), "blocking");
    stage.play(&[
        (3, broke(2, 1, "a"), &["forward 2#2 to b if within 408 ms"]),
        (3, caller(3), &["forward 3#1 to b if within 408 ms"]),
        (1002, Input::Tick, &["abandon 1#2", "abandon 2#2", "abandon 3#1"]),
        (1003, Input::Tick, &["ping a"]),
        (1003, Input::Tick, &[]),
    ]);
}

#[test]
fn one_missing_acknowledgement_is_forgiven_and_the_second_closes_the_gate() {
    let stage = hot(&[peer("a", 0)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (2, flushed(1, 1), &[]),
        (304, Input::Tick, &["abandon 1#1"]),
    ]);
    assert_eq!(stage.gate("a"), "passing");
    let stage = stage.play(&[
        (305, caller(2), &["forward 2#1 to a if within 624 ms"]),
        (306, flushed(2, 1), &[]),
        (608, Input::Tick, &["abandon 2#1"]),
    ]);
    assert_eq!(stage.gate("a"), "blocking");
}

#[test]
fn a_word_of_a_peer_ends_its_pause() {
    let stage = hot(&[peer("a", 0)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (2, broke(1, 1, "a"), &[]),
        (3, caller(2), &[]),
        (4, heard("a", report(2, 0)), &[]),
        (4, caller(3), &["forward 3#1 to a if within 427 ms"]),
    ]);
    assert_eq!(stage.gate("a"), "passing");
}

#[test]
fn a_peer_that_does_not_acknowledge_in_time_is_told_to_stop_and_another_gets_the_job() {
    let stage = hot(&[peer("a", 0), peer("b", 50)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (5, flushed(1, 1), &[]),
        // 300 ms and two round trips of 1 ms, from when it left.
        (306, Input::Tick, &[]),
        (307, Input::Tick, &["abandon 1#1", "forward 1#2 to b if within 616 ms"]),
        (308, answered(1, 1, "a", Verdict::Done), &[]),
        (309, answered(1, 2, "b", Verdict::Done), &["finish 1: done on b after 2"]),
    ]);
    assert_eq!(stage.gauges().forwards, 0);
}

#[test]
fn a_peer_that_acknowledged_may_take_as_long_as_the_deadline_allows() {
    hot(&[peer("a", 0), peer("b", 50)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (2, accepted(1, 1, "a"), &[]),
        (302, Input::Tick, &[]),
        (20_000, Input::Tick, &[]),
        (20_001, answered(1, 1, "a", Verdict::Done), &["finish 1: done on a after 1"]),
    ]);
}

#[test]
fn news_of_an_earlier_placement_changes_nothing() {
    let late = [
        accepted(1, 1, "a"),
        answered(1, 1, "a", Verdict::Done),
        answered(1, 1, "a", Verdict::Failed),
        answered(1, 1, "a", Verdict::Rejected),
        answered(1, 1, "a", Verdict::Expired),
        refused(1, 1, "a", Refusal::Busy),
        broke(1, 1, "a"),
        // A placement that never was, and a job that never was.
        answered(1, 9, "b", Verdict::Done),
        answered(77, 1, "b", Verdict::Done),
        broke(77, 1, "b"),
        left(77),
    ];
    for news in late {
        let stage = hot(&[peer("a", 0), peer("b", 50)]).play(&[
            (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
            (2, broke(1, 1, "a"), &["forward 1#2 to b if within 409 ms"]),
            (3, news.clone(), &[]),
        ]);
        let gauges = stage.gauges();
        assert_eq!((gauges.forwards, gauges.unacknowledged), (1, 1), "after {news:?}");
        stage.play(&[(4, answered(1, 2, "b", Verdict::Done), &["finish 1: done on b after 2"])]);
    }
}

#[test]
fn a_job_is_placed_three_times_at_most_on_different_nodes_and_the_last_one_is_here() {
    let stage = hot(&[peer("a", 0), peer("b", 0), peer("c", 0), peer("d", 0)]);
    let mut stage = stage;
    let mut visited = Vec::new();
    let mut effects = stage.feed(1, caller(1));
    while let [Effect::Forward { job, attempt, peer, .. }] = &effects[..] {
        let again = Input::Broke { job: *job, attempt: *attempt, peer: peer.clone() };
        assert!(!visited.contains(peer), "{peer} had the job before: {visited:?}");
        visited.push(peer.clone());
        effects = stage.feed(2, again);
    }
    assert_eq!((visited.len(), effects), (2, vec![]));
    assert_eq!(stage.gauges().queue_rows, 36, "the job waits here");
}

#[test]
fn a_node_that_cannot_compute_asks_a_third_peer_and_then_says_so() {
    let mut stage = Stage::starting(&[peer("a", 0), peer("b", 0), peer("c", 0), peer("d", 0)]);
    let mut effects = stage.feed(1, caller(1));
    for _ in 0..3 {
        let [Effect::Forward { job, attempt, peer, bound: None, .. }] = &effects[..] else {
            panic!("a forward without a bound was due: {effects:?}")
        };
        let again = Input::Broke { job: *job, attempt: *attempt, peer: peer.clone() };
        effects = stage.feed(2, again);
    }
    assert!(matches!(effects[..], [Effect::Finish { placements: 3, .. }]), "{effects:?}");
    stage.assert_at_rest();
}

#[test]
fn rows_of_a_failed_batch_run_alone_and_only_the_bad_one_goes_to_another_node() {
    let stage = Stage::ready(&[peer("a", 500)]).play(&[
        (1, caller(1), &["run 1: 1.0"]),
        (1, caller(2), &[]),
        (1, caller(3), &[]),
        (1, caller(4), &[]),
        (11, batch_done(1, &[Done]), &["finish 1: done here after 1", "run 2: 2.0 3.0 4.0"]),
        (41, batch_failed(2), &["run 3: 2.0"]),
        (51, batch_done(3, &[Done]), &["finish 2: done here after 1", "run 4: 3.0"]),
        (61, batch_failed(4), &["forward 3#2 to a", "run 5: 4.0"]),
        (71, batch_done(5, &[Done]), &["finish 4: done here after 1"]),
        (72, answered(3, 2, "a", Verdict::Failed), &["finish 3: failed everywhere after 2"]),
    ]);
    assert_eq!(stage.gate("a"), "passing", "a request's fault is nobody's blame");
    stage.assert_at_rest();
}

#[test]
fn a_row_that_the_device_could_not_compute_counts_like_a_failed_batch() {
    Stage::ready(&[peer("a", 0)])
        .play(&[
            (1, callers(1, &[1; 3], DEADLINE_MS), &["run 1: 1.0 1.1 1.2"]),
            (31, batch_done(1, &[Done, Failed, Done]), &["run 2: 1.1"]),
            (41, batch_done(2, &[Done]), &["finish 1: done here after 1"]),
            (41, caller(2), &["run 3: 2.0"]),
            (51, batch_done(3, &[Failed]), &["forward 2#2 to a"]),
            (61, answered(2, 2, "a", Verdict::Done), &["finish 2: done on a after 2"]),
        ])
        .assert_at_rest();
}

#[test]
fn a_job_whose_model_failed_on_a_peer_is_done_here() {
    let stage = hot(&[peer("a", 0)]).play(&[
        (1, caller(1), &["forward 1#1 to a if within 410 ms"]),
        (20, answered(1, 1, "a", Verdict::Failed), &[]),
    ]);
    assert_eq!((stage.gate("a"), stage.gauges().queue_rows), ("passing", 36));
}

#[test]
fn a_model_that_failed_here_and_has_no_other_node_to_ask_says_so() {
    Stage::ready(&[])
        .play(&[(1, caller(1), &["run 1: 1.0"]), (11, batch_failed(1), &["finish 1: failed on one node after 1"])])
        .assert_at_rest();
}

#[test]
fn a_text_that_the_caller_has_to_change_ends_its_job_and_no_other() {
    Stage::ready(&[])
        .play(&[
            (1, caller(1), &["run 1: 1.0"]),
            (1, callers(2, &[1, 1, 1, 1, 1, 1], DEADLINE_MS), &[]),
            (11, batch_done(1, &[Rejected]), &["finish 1: rejected here after 1", "run 2: 2.0 2.1 2.2 2.3 2.4"]),
            (61, batch_done(2, &[Done, Rejected, Failed, Done, Rejected]), &["finish 2: rejected here after 1"]),
        ])
        .assert_at_rest();
}
