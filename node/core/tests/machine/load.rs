//! What a node says of its load, its limits, and numbers that no honest peer would send.
//!
//! Part of the tests of the machine.

use shoal_core::admission::AdmissionRules;
use shoal_core::cost::Cost;
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Effect, Input, Rules};
use shoal_core::time::Micros;

use super::support::*;

#[test]
fn load_is_told_on_a_change_but_not_too_often_and_now_and_then_without_one() {
    let mut stage = Stage::ready(&[]);
    let mut told_at = Vec::new();
    let mut tell = |stage: &mut Stage, at_ms, input| {
        let effects = stage.feed(at_ms, input);
        if effects.iter().any(|effect| matches!(effect, Effect::Publish { .. })) {
            told_at.push(at_ms);
        }
    };
    // Ready at 0 is told at once. A wait of 50 ms is worth a word, once 200 ms are over; so is its end.
    for (at_ms, input) in [
        (100, Input::Tick),
        (150, callers(1, &[5, 5], DEADLINE_MS)),
        (199, Input::Tick),
        (200, Input::Tick),
        (200, batch_done(1, &[Done])),
        (250, batch_done(2, &[Done])),
        (399, Input::Tick),
        (400, Input::Tick),
        (1399, Input::Tick),
        (1400, Input::Tick),
        (1401, Input::Leave),
    ] {
        tell(&mut stage, at_ms, input);
    }
    assert_eq!(told_at, [200, 400, 1400, 1401]);
}

#[test]
fn each_report_is_newer_than_the_one_before_and_a_draining_node_does_not_want_work() {
    let mut stage = Stage::ready(&[]);
    let first = stage.node.report(ms(1));
    let second = stage.node.report(ms(1));
    assert!(first.seq < second.seq && first.standing == Standing::Ready);
    stage.feed(2, Input::Leave);
    assert_eq!(stage.node.report(ms(2)).standing, Standing::Draining);
}

#[test]
fn a_batch_that_takes_longer_than_it_should_makes_a_node_look_busy_and_not_idle() {
    let mut stage = Stage::ready(&[]);
    stage.feed(0, caller(1));
    let waits: Vec<u64> = [0, 6, 10, 30, 1010]
        .map(|at_ms| {
            stage.feed(at_ms, Input::Tick);
            stage.gauges().wait.get() / 1000
        })
        .to_vec();
    assert_eq!(waits, [10, 4, 1, 20, 1000]);
}

#[test]
fn what_is_held_never_exceeds_the_limits_whoever_sent_it() {
    let admission = AdmissionRules { jobs_max: 3, bytes_max: 250, ..AdmissionRules::default() };
    let rules = Rules { admission, ..Rules::default() };
    Stage::with_rules(rules, &[peer("a", 500)]).play(&[(0, ready(), &[])]).play(&[
        (1, caller(1), &["run 1: 1.0"]),
        (1, caller(2), &[]),
        (1, caller(3), &["finish 3: overloaded after 0"]),
        (1, handed(4, None), &["finish 4: refused full after 0"]),
        (2, left(2), &[]),
        (2, handed(5, None), &["acknowledge 5, wait 19 ms"]),
        (11, batch_done(1, &[Done]), &["finish 1: done here after 1", "run 2: 5.0"]),
    ]);
}

#[test]
fn no_number_in_a_report_can_stop_a_node_or_lead_it_to_lose_a_job() {
    let numbers = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for wait in numbers {
        for fixed in numbers {
            for per_unit_ns in numbers {
                let cost = Cost { fixed: Micros::new(fixed), per_unit_ns };
                let hostile = Report { seq: wait, wait: Micros::new(wait), cost, ..report(1, 0) };
                let mut stage = hot(&[peer("a", 0), peer("b", 0)]);
                stage.feed(1, heard("a", hostile));
                stage.feed(2, caller(1));
                stage.feed(2000, heard("b", hostile));
                stage.feed(2000, caller(2));
                stage.feed(9000, caller(3));
                let held = stage.gauges();
                assert_eq!(held.jobs, 4, "wait {wait} fixed {fixed} per unit {per_unit_ns}: {held:?}");
            }
        }
    }
}
