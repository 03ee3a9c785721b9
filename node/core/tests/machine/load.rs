//! What a node says of its load, its limits, and numbers that no honest peer would send.
//!
//! Part of the tests of the machine.

use shoal_core::admission::AdmissionRules;
use shoal_core::cost::Cost;
use shoal_core::id::BatchId;
use shoal_core::lifecycle::Standing;
use shoal_core::load::{DeviceLoad, Report};
use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{Effect, Input, Rules, Verdict};
use shoal_core::peers::PeerFacts;
use shoal_core::share::Share;
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
fn a_node_reckons_with_the_mean_of_those_that_seem_as_fast_and_tells_what_it_learned_itself() {
    let of_peer = |name: &str, per_unit_ns| {
        let told = Report { cost: Cost { fixed: Micros::ZERO, per_unit_ns }, ..report(1, 0) };
        PeerFacts { load: Some(told), ..peer(name, 0) }
    };
    let told = |pool_costs: bool, peers_ns: [u64; 2]| {
        let rules = Rules { pool_costs, ..plain_rules() };
        let mut stage = ready_with(rules, &[of_peer("a", peers_ns[0]), of_peer("b", peers_ns[1])]);
        for (at_ms, took_ms) in (0..300).zip([1, 3, 14].into_iter().cycle()) {
            stage.feed(at_ms, handed(at_ms, None));
            let took = Micros::from_ms(took_ms);
            stage.feed(at_ms, Input::BatchDone { batch: BatchId(at_ms + 1), took, rows: vec![Done] });
        }
        stage.feed(300, Input::Tick);
        // A batch of one unit has just begun: what it takes is the wait.
        stage.feed(300, handed(999, None));
        (stage.node.report(ms(300)).cost, stage.gauges().wait.get())
    };
    let ((learned, alone), (said, among)) = (told(false, [5_000_000; 2]), told(true, [5_000_000; 2]));
    assert_eq!(learned, said);
    assert!(5_800 < alone && among < 5_500, "{alone} {among}");
    // One of them is four times as fast: it does not count.
    let (_, with_one) = told(true, [5_000_000, 1_500_000]);
    assert!(among < with_one && with_one < alone, "{alone} {with_one} {among}");
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
    // The largest that are believed, one more, and what no one would say.
    let (hour_us, minute_ns) = (3_600_000_000, 60_000_000_000);
    let numbers = |believed: u64| [0, 1, believed, believed + 1, u64::MAX / 2, u64::MAX];
    for wait in numbers(hour_us) {
        for fixed in numbers(hour_us) {
            for per_unit_ns in numbers(minute_ns) {
                let cost = Cost { fixed: Micros::new(fixed), per_unit_ns };
                let (held, slots) = if wait == 1 { (1_000_000, 65_536) } else { (0, 1) };
                let hostile = Report { seq: wait, wait: Micros::new(wait), cost, held, slots, ..report(1, 0) };
                let mut stage = hot(&[peer("a", 0), peer("b", 0)]);
                stage.feed(1, heard("a", hostile));
                stage.feed(2, caller(1));
                stage.feed(2000, heard("b", hostile));
                stage.feed(2000, caller(2));
                stage.feed(9000, caller(3));
                stage.feed(9000, callers(4, &[u32::MAX; 9], u64::MAX));
                let held = stage.gauges();
                assert_eq!(held.jobs, 5, "wait {wait} fixed {fixed} per unit {per_unit_ns}: {held:?}");
            }
        }
    }
}

#[test]
fn a_node_never_says_what_its_peers_would_not_believe() {
    let mut stage = Stage::ready(&[]);
    stage.feed(0, caller(1));
    let hung = stage.node.report(ms(3_700_000));
    let mut stage = Stage::starting(&[]);
    stage.feed(0, Input::EngineReady { units: 1, took: Micros::from_ms(61_000) });
    let slow = stage.node.report(ms(1));
    assert!(hung.is_believable() && slow.is_believable(), "{hung:?} {slow:?}");
}

#[test]
fn estimates_of_this_node_never_overflow() {
    let mut stage = Stage::starting(&[]);
    stage.feed(0, Input::EngineReady { units: 1, took: Micros::MAX });
    for number in 0..40 {
        stage.feed(0, Input::Measured { units: 1 + 1000 * (number % 2), took: Micros::MAX });
    }
    for job in 1..=3 {
        stage.feed(0, callers(job, &[u32::MAX; 4000], u64::MAX));
    }
    assert_eq!(stage.gauges().jobs, 3);
}

#[test]
fn the_heat_of_a_node_whose_probe_is_silent_is_what_was_measured_here() {
    let probed = |busy: Option<u8>, memory| {
        Input::Probed(DeviceLoad { busy: busy.map(Share::percent), memory: Some(Share::percent(memory)) })
    };
    for (busy, memory, expected) in [(None, 10, true), (Some(10), 10, false), (Some(10), 80, true)] {
        let mut stage = Stage::ready(&[]);
        stage.feed(1, probed(busy, memory));
        stage.feed(1, callers(1, &[1; 900], 200_000));
        (1..60).for_each(|tick| drop(stage.feed(tick * 100, Input::Tick)));
        assert_eq!(stage.gauges().hot, expected, "busy {busy:?} memory {memory}");
    }
}

#[test]
fn a_device_that_one_caller_keeps_busy_is_in_use_whenever_somebody_looks() {
    let mut stage = Stage::ready(&[]);
    for job in 1..=1000u64 {
        stage.feed((job - 1) * 10, caller(job));
        stage.feed((job - 1) * 10 + 5, Input::Tick);
        stage.feed(job * 10, batch_done(job, &[Done]));
        // Looked at in the moment between two jobs.
        stage.feed(job * 10, Input::Tick);
    }
    assert!(Share::percent(98) <= stage.gauges().load, "{:?}", stage.gauges());
}

#[test]
fn what_was_sent_to_a_peer_that_never_tells_its_load_counts_only_while_it_is_there() {
    let mut stage = hot(&[peer("a", 0)]);
    for job in 1..=50 {
        stage.feed(1 + job, caller(job));
        stage.feed(1 + job, accepted(job, 1, "a"));
        let done = stage.feed(1 + job, answered(job, 1, "a", Verdict::Done));
        assert!(!done.is_empty(), "job {job} stayed here although the peer rests");
    }
}

#[test]
fn a_job_that_is_held_for_a_start_counts_once() {
    let mut stage = Stage::starting(&[]);
    stage.feed(1, caller(1));
    (1..10).for_each(|tick| drop(stage.feed(tick * 100, Input::Tick)));
    assert_eq!(count(&stage, "held_for_start"), 1);
}

#[test]
fn long_batches_count_for_no_more_than_short_ones() {
    let mut stage = Stage::ready(&[]);
    let mut at_ms = 1;
    // Back to back, as on a busy device, and long enough that each counts by its time.
    for (batch, took_ms) in (1..=800).zip([40, 40, 360, 360].into_iter().cycle()) {
        stage.feed(at_ms, callers(batch, &[1], at_ms + DEADLINE_MS));
        at_ms += took_ms;
        let took = Micros::from_ms(took_ms);
        stage.feed(at_ms, Input::BatchDone { batch: BatchId(batch), took, rows: vec![Done] });
    }
    let told = stage.node.report(ms(at_ms)).cost.of(1, 1).get();
    assert!((150_000..250_000).contains(&told), "{told}");
}

#[test]
fn an_estimate_counts_what_runs_and_what_waits_and_there_is_none_without_an_engine() {
    let mut starting = Stage::starting(&[]);
    starting.feed(1, Input::Tick);
    assert_eq!(starting.node.estimate(ms(1), &[1]), None);

    let mut stage = Stage::ready(&[]);
    assert_eq!(stage.node.estimate(ms(1), &[1, 2]), Some(Micros::from_ms(3 * UNIT_MS)));
    // One batch of 50 ms runs since 2, another text of 30 ms waits behind it.
    stage.feed(2, callers(1, &[5], DEADLINE_MS));
    stage.feed(2, callers(2, &[3], DEADLINE_MS));
    assert_eq!(stage.node.estimate(ms(12), &[1]), Some(Micros::from_ms(40 + 30 + 10)));
}

#[test]
fn a_batch_of_several_rows_in_the_warm_up_tells_what_a_larger_batch_costs() {
    // A device that takes 400 ms whatever the size.
    let took = Micros::from_ms(400);
    let cost_of_64 = |inputs: Vec<Input>| {
        let mut stage = Stage::starting(&[]);
        inputs.into_iter().for_each(|input| drop(stage.feed(0, input)));
        stage.node.report(ms(1)).cost.of(64, 1)
    };
    let ready = || Input::EngineReady { units: 1, took };
    assert_eq!(cost_of_64(vec![ready()]), took.times(64));
    let told = cost_of_64(vec![ready(), Input::WarmedUp { units: 8, took }]);
    assert!(told < took.times(2), "{told:?}");
}
