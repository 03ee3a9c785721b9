//! Nodes that fail, refuse or dawdle: they lose work before they do harm, and nobody else does.
//!
//! Part of the tests of the machine.

use shoal_core::id::{Attempt, BatchId, BootId, JobId};
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::{Done, Failed};
use shoal_core::node::{Effect, Input, Outcome, Refusal, Verdict};
use shoal_core::peers::{PeerFacts, Word};
use shoal_core::time::Micros;

use super::support::*;

fn word(seq: u64, wait_ms: u64) -> Word {
    Word { report: Some(report(seq, wait_ms)), rtt: None }
}

#[test]
fn a_node_whose_own_model_fails_hands_its_callers_on() {
    let mut stage = Stage::ready(&[peer("a", 0), peer("b", 0)]);
    let (mut failed, mut ran) = (0, 0);
    for job in 1..=300u64 {
        let at_ms = job * 10;
        let mut effects = stage.feed(at_ms, caller(job));
        if effects.iter().any(|effect| matches!(effect, Effect::Run { .. })) {
            ran += 1;
            let took = Micros::from_ms(5);
            effects = stage.feed(at_ms + 5, Input::BatchDone { batch: BatchId(ran), took, rows: vec![Failed] });
        }
        if let Some((job, attempt, peer)) = forwarded(&effects) {
            stage.feed(at_ms + 6, answered(job, attempt, &peer, Verdict::Done));
        }
        let is_error = |effect: &&Effect| matches!(effect, Effect::Finish { outcome: Outcome::EngineFailed(_), .. });
        failed += effects.iter().filter(is_error).count();
    }
    // A second one after some seconds, because its error fades and it may be well again.
    assert!(failed == 0 && ran <= 2, "{failed} errors told, {ran} jobs ran here");
}

#[test]
fn a_node_whose_own_model_fails_at_once_hands_its_callers_on_however_far_the_peers_are() {
    let rtt = Micros::from_ms(30);
    let mut stage = Stage::ready(&[peer("a", 0), peer("b", 0)]);
    for round in 1..=60 {
        for name in ["a", "b"] {
            let word = Word { report: Some(report(1 + round, 0)), rtt: Some(rtt) };
            stage.feed(1, Input::Heard { peer: id(name), word });
        }
    }
    let (mut failed, mut ran) = (0, 0);
    for job in 1..=500u64 {
        let (at_ms, is_well) = (job * 20, job <= 200);
        let mut effects = stage.feed(at_ms, caller(job));
        if effects.iter().any(|effect| matches!(effect, Effect::Run { .. })) {
            ran += 1;
            let ends = if is_well { batch_done(ran, &[Done]) } else { batch_failed(ran) };
            effects = stage.feed(at_ms + 10, ends);
        }
        if let Some((job, attempt, peer)) = forwarded(&effects) {
            stage.feed(at_ms + 19, answered(job, attempt, &peer, Verdict::Done));
        }
        let is_error = |effect: &&Effect| matches!(effect, Effect::Finish { outcome: Outcome::EngineFailed(_), .. });
        failed += effects.iter().filter(is_error).count();
    }
    // It worked for long, so that its breaker is far from a pause; and 60 ms of margin are six times the work.
    let failing = ran - 200;
    assert!(failed == 0 && failing < 10, "{failed} errors told, {failing} failing jobs ran here");
}

#[test]
fn a_peer_that_refuses_everything_at_once_does_not_attract_work() {
    for refusal in [Refusal::Full, Refusal::Unable] {
        let mut stage = hot(&[peer("a", 0), peer("b", 5)]);
        let (mut refused, mut served) = (0, 0);
        for job in 101..=300u64 {
            let at_ms = job;
            let mut effects = stage.feed(at_ms, caller(job));
            while let Some((job, attempt, peer)) = forwarded(&effects) {
                let (id, attempt) = (JobId(job), Attempt(attempt));
                effects = if peer == "a" {
                    refused += 1;
                    let word = word(10 + job, 0);
                    stage.feed(at_ms, Input::Refused { job: id, attempt, peer: super::support::id("a"), word, refusal })
                } else {
                    served += 1;
                    stage.feed(at_ms, answered(job, attempt.0, &peer, Verdict::Done))
                };
            }
        }
        assert_eq!((refused, served), (1, 200), "{refusal:?}");
        stage.feed(301, heard("a", report(1000, 0)));
        assert_eq!(forwarded(&stage.feed(302, caller(999))).map(|(_, _, peer)| peer), Some("a".to_owned()));
    }
}

#[test]
fn a_node_that_cannot_compute_asks_also_a_peer_that_refused_a_moment_ago() {
    Stage::starting(&[peer("a", 0)]).play(&[
        (1, caller(1), &["forward 1#1 to a"]),
        (2, refused(1, 1, "a", Refusal::Full), &[]),
        (3, caller(2), &["forward 2#1 to a"]),
    ]);
}

#[test]
fn a_peer_that_takes_jobs_and_never_answers_loses_attraction() {
    let mut stage = hot(&[peer("a", 0), peer("b", 5)]);
    let (mut lost, mut at_ms) = (0, 10);
    for job in 1..=30u64 {
        let effects = stage.feed(at_ms, callers(job, &[1], at_ms + 900));
        let (_, attempt, peer) = forwarded(&effects).expect("a peer is sooner");
        let wait_ms = if peer == "a" { 0 } else { 5 };
        let (number, attempt_id) = (JobId(job), Attempt(attempt));
        let word = word(10 + job, wait_ms);
        stage.feed(at_ms + 1, Input::Accepted { job: number, attempt: attempt_id, peer: id(&peer), word });
        if peer == "a" {
            lost += 1;
            // Half of the callers lose patience before the deadline.
            let gone = if job % 2 == 0 { left(job) } else { Input::Tick };
            stage.feed(at_ms + 900, gone);
            at_ms += 901;
        } else {
            stage.feed(at_ms + 15, answered(job, attempt, &peer, Verdict::Done));
            at_ms += 20;
        }
        stage.feed(at_ms, heard("a", report(1000 + job, 0)));
        stage.feed(at_ms, heard("b", report(1000 + job, 5)));
    }
    assert!(lost < 10, "{lost} of 30 jobs expired at a peer that never answered one");
}

#[test]
fn a_peer_that_takes_jobs_and_gives_them_back_late_loses_attraction_unless_it_is_leaving() {
    let lost = |accepts: bool, standing: Standing, after_ms: u64| {
        let mut stage = hot(&[peer("a", 0), peer("b", 5)]);
        let (mut lost, mut at_ms) = (0, 10);
        for job in 1..=30u64 {
            let effects = stage.feed(at_ms, caller(job));
            let (_, attempt, peer) = forwarded(&effects).expect("a peer is sooner");
            let (number, attempt_id) = (JobId(job), Attempt(attempt));
            let wait_ms = if peer == "a" { 0 } else { 5 };
            let word = word(10 * job, wait_ms);
            if accepts {
                stage.feed(at_ms + 1, Input::Accepted { job: number, attempt: attempt_id, peer: id(&peer), word });
            }
            if peer == "a" {
                lost += 1;
                at_ms += after_ms;
                let word = Word { report: Some(Report { standing, ..report(10 * job + 1, 0) }), rtt: None };
                let refusal = Refusal::Unable;
                stage.feed(at_ms, Input::Refused { job: number, attempt: attempt_id, peer: id("a"), word, refusal });
                stage.feed(at_ms, left(job));
            } else {
                at_ms += 15;
                stage.feed(at_ms, answered(job, attempt, &peer, Verdict::Done));
            }
            // It can compute again, and says so.
            stage.feed(at_ms, heard("a", report(10 * job + 2, 0)));
            stage.feed(at_ms, heard("b", report(10 * job + 2, 5)));
        }
        let stretch =
            stage.node.peers(ms(at_ms)).find(|view| view.facts.id == id("a")).map(|view| view.stretch_permille);
        (lost, stretch.expect("a member"))
    };
    let (late, stretch) = lost(true, Standing::Wedged, 900);
    assert!(late < 10 && 1500 < stretch, "{late} of 30 jobs sat there, and it stretches by {stretch}");
    // One that gives it back at once is not to blame, nor one that never took it, nor one that leaves.
    for (accepts, standing, after_ms) in
        [(true, Standing::Wedged, 3), (false, Standing::Wedged, 250), (true, Standing::Draining, 900)]
    {
        assert_eq!(lost(accepts, standing, after_ms), (30, 1000), "{accepts} {standing:?} {after_ms}");
    }
}

#[test]
fn a_new_run_is_not_blamed_for_the_run_before() {
    let again = PeerFacts { boot: BootId(2), load: Some(Report { boot: BootId(2), ..report(1, 0) }), ..peer("a", 0) };
    let mut stage = hot(&[peer("a", 0), peer("b", 5)]);
    stage.feed(2, caller(1));
    stage.feed(3, answered(1, 1, "a", Verdict::Failed));
    stage.feed(4, Input::Membership(vec![again, peer("b", 5)]));
    assert!(!stage.feed(5, answered(1, 2, "b", Verdict::Done)).is_empty());
    assert!(stage.node.peers(ms(6)).all(|view| view.error_permille == 0));
}

#[test]
fn a_peer_that_calls_but_cannot_be_reached_is_left_alone() {
    let mut stage = hot(&[peer("a", 0), peer("b", 50)]);
    let (mut broken, mut pings) = (0, 0);
    for round in 1..=30u64 {
        let at_ms = 10 * round;
        let mut effects = stage.feed(at_ms, caller(round));
        while let Some((job, attempt, peer)) = forwarded(&effects) {
            let reached = peer == "b";
            broken += u64::from(!reached);
            let news = if reached { answered(job, attempt, "b", Verdict::Done) } else { broke(job, attempt, "a") };
            effects = stage.feed(at_ms, news);
        }
        stage.feed(at_ms + 5, called("a", report(round + 1, 0)));
        let tick = stage.feed(at_ms + 6, Input::Tick);
        if tick.iter().any(|effect| matches!(effect, Effect::Ping { .. })) {
            pings += 1;
            stage.feed(at_ms + 7, Input::PingFailed { peer: id("a"), broke: false });
        }
    }
    assert_eq!((broken, pings), (1, 1), "pinged at once, then not before 400 ms");
}

#[test]
fn a_peer_that_never_acknowledges_is_paused_although_it_sends_jobs() {
    let mut stage = hot(&[peer("a", 0)]);
    for job in 1..=2u64 {
        let at_ms = 310 * job;
        let (job, attempt, _) = forwarded(&stage.feed(at_ms, caller(job))).expect("it has said that it is idle");
        stage.feed(at_ms + 1, flushed(job, attempt));
        stage.feed(at_ms + 150, called("a", report(job + 1, 0)));
        stage.feed(at_ms + 305, Input::Tick);
    }
    assert_eq!(stage.gate("a"), "blocking");
}

#[test]
fn a_job_that_takes_long_to_leave_this_node_is_no_silence_of_the_peer() {
    let mut stage = hot(&[peer("a", 0)]);
    for job in 1..=3 {
        stage.feed(2, caller(job));
    }
    let effects = stage.feed(700, Input::Tick);
    let abandoned = effects.iter().filter(|effect| matches!(effect, Effect::Abandon { .. })).count();
    assert_eq!((abandoned, stage.gate("a")), (3, "passing"), "{effects:?}");
}

#[test]
fn jobs_are_taken_back_from_a_slow_peer_only_as_far_as_the_retry_budget_goes() {
    let mut stage = hot(&[peer("a", 0), peer("b", 5), peer("c", 5)]);
    let mut at_ms = 10;
    for round in 0..10u64 {
        let jobs = || 1000 + round * 40..1040 + round * 40;
        for job in jobs() {
            if let Some((job, attempt, _)) = forwarded(&stage.feed(at_ms, callers(job, &[1], 300_000))) {
                stage.feed(at_ms, flushed(job, attempt));
            }
        }
        stage.feed(at_ms + 310, Input::Tick);
        // All of them speak, later than they should.
        for peer in ["a", "b", "c"] {
            stage.feed(at_ms + 350, heard(peer, report(at_ms, 5)));
        }
        jobs().for_each(|job| drop(stage.feed(at_ms + 351, left(job))));
        at_ms += 800;
    }
    let (silent, denied) = (count(&stage, "silent"), count(&stage, "retry_denied"));
    // Nobody had spoken before the first round: who was silent then could be gone, and is not charged.
    assert!(silent == 400 && 150 < denied, "{silent} times silent, {denied} times left where it was");
}
