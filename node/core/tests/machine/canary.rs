//! The canary: when it is asked for, what its verdict or its silence changes, and that callers' texts change nothing.
//!
//! Part of the tests of the machine. An inference of the canary's size takes 10 ms here, so that it is late after a
//! second, and callers' failing texts ask for one every 200 ms at most.

use shoal_core::id::BatchId;
use shoal_core::lifecycle::EngineState;
use shoal_core::node::RowVerdict::{Done, Failed};
use shoal_core::node::{CanaryRules, CanaryVerdict, Effect, Input, Outcome, PulseRules, Rules, Verdict, Wedge};
use shoal_core::peers::PeerFacts;
use shoal_core::time::Micros;

use super::support::*;

const PASSED: Input = Input::Canary(CanaryVerdict::Passed);
const FAILED: Input = Input::Canary(CanaryVerdict::Failed);

fn with_canary() -> Rules {
    Rules { canary: Some(CanaryRules::default()), ..plain_rules() }
}

fn stage(peers: &[PeerFacts]) -> Stage {
    ready_with(with_canary(), peers)
}

/// Ticks every 25 ms up to and including `until_ms`. Returns when a canary was asked for.
fn ticks(stage: &mut Stage, from_ms: u64, until_ms: u64) -> Vec<u64> {
    let moments = (from_ms..=until_ms).filter(|at_ms| at_ms % 25 == 0);
    let asks = |at_ms: &u64| stage.feed(*at_ms, Input::Tick).contains(&Effect::Canary);
    moments.filter(asks).collect()
}

#[test]
fn a_quiet_node_asks_every_ten_seconds_after_the_last_verdict_and_one_at_a_time() {
    let mut stage = stage(&[]);
    assert_eq!(ticks(&mut stage, 1, 10_500), [10_000], "one is out");
    stage.feed(10_510, PASSED);
    assert_eq!(ticks(&mut stage, 10_511, 30_000), [20_525]);
    let mut silent = ready_with(Rules { canary: None, ..with_canary() }, &[]);
    assert_eq!(ticks(&mut silent, 1, 30_000), [0u64; 0]);
}

#[test]
fn a_text_on_which_the_model_fails_asks_at_once_and_before_anything_else_runs() {
    for fails in [batch_failed(1), batch_done(1, &[Failed, Done])] {
        let mut stage = stage(&[]);
        stage.feed(500, callers(1, &[1, 1], DEADLINE_MS));
        let effects = stage.feed(510, fails);
        let first = effects.iter().find(|effect| !matches!(effect, Effect::Publish { .. }));
        assert_eq!(first, Some(&Effect::Canary), "{effects:?}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Run { .. })), "{effects:?}");
        stage.feed(520, PASSED);
        assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Ready, None));
    }
}

#[test]
fn texts_that_fail_again_and_again_leave_most_of_the_device_to_the_others() {
    let mut stage = stage(&[]);
    let mut asked = 0;
    for round in 1..=100u64 {
        let at_ms = 1000 + round * 20;
        stage.feed(at_ms, caller(round));
        let effects = stage.feed(at_ms + 10, batch_failed(round));
        if effects.contains(&Effect::Canary) {
            asked += 1;
            stage.feed(at_ms + 10, PASSED);
        }
    }
    // Two seconds, one in 200 ms.
    assert!((9..=11).contains(&asked), "{asked}");
    assert_eq!(count(&stage, "wedged"), 0);
}

#[test]
fn a_suspicion_is_no_reason_to_ask_later_than_without_one() {
    // A twentieth of the device's time would be a canary of a second in twenty.
    let ready = Input::EngineReady { units: 1, took: Micros::from_ms(1000) };
    let mut stage = Stage::with_rules(with_canary(), &[]).play(&[(0, ready, &[])]);
    stage.feed(100, callers(1, &[1, 1], DEADLINE_MS));
    stage.feed(200, batch_failed(1));
    assert_eq!(ticks(&mut stage, 201, 10_500), [10_000]);
}

#[test]
fn a_device_that_hangs_makes_the_node_wedged_and_its_work_goes_elsewhere() {
    let mut stage = stage(&[peer("a", 5000)]);
    stage.feed(0, caller(1));
    stage.feed(0, handed(2, None));
    // 10 ms were expected; 200 ms more are a reason to ask.
    assert_eq!(ticks(&mut stage, 1, 1200), [225]);
    let effects = stage.feed(1225, Input::Tick);
    assert_eq!(forwarded(&effects), Some((1, 2, "a".to_owned())), "{effects:?}");
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Finish { outcome: Outcome::Refused(_), .. })),
        "{effects:?}"
    );
    assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Wedged, Some(Wedge::Silent)));
    stage.feed(1230, answered(1, 2, "a", Verdict::Done));
    stage.assert_at_rest();
    // It is out still: no second one.
    assert_eq!(ticks(&mut stage, 1250, 60_000), [0u64; 0]);
    let cost = stage.node.report(ms(60_000)).cost;
    let ends = Input::BatchDone { batch: BatchId(1), took: Micros::from_ms(60_001), rows: vec![Done] };
    let mut stage = stage.play(&[(60_001, ends, &[]), (60_002, PASSED, &[])]);
    assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Ready, None));
    let after = stage.node.report(ms(60_002)).cost;
    assert!(cost.per_unit_ns < after.per_unit_ns && after.of(1, 1) <= cost.of(4, 1), "a minute is no speed: {after:?}");
    stage.play(&[(60_003, callers(3, &[1], 90_000), &["run 2: 3.0"])]);
}

#[test]
fn a_device_that_is_far_slower_than_believed_is_known_to_be_so_after_a_few_turns() {
    // Three seconds for what was ten milliseconds.
    let slow_ms = 3000;
    let mut stage = stage(&[]);
    let (mut at_ms, mut batches) = (0, 0);
    while stage.node.report(ms(at_ms)).cost.of(1, 1).get() < slow_ms * 1000 / 2 {
        batches += 1;
        assert!(batches < 12, "it still believes {:?}", stage.node.report(ms(at_ms)).cost);
        let ran = stage.feed(at_ms, callers(batches, &[1], at_ms + 900_000));
        assert!(ran.iter().any(|effect| matches!(effect, Effect::Run { .. })), "{ran:?}");
        let asked = !ticks(&mut stage, at_ms + 1, at_ms + slow_ms - 1).is_empty();
        at_ms += slow_ms;
        let took = Micros::from_ms(slow_ms);
        let ended = stage.feed(at_ms, Input::BatchDone { batch: BatchId(batches), took, rows: vec![Done] });
        if asked || ended.contains(&Effect::Canary) {
            stage.feed(at_ms + 1, PASSED);
        }
        at_ms += 25;
    }
    assert!(0 < count(&stage, "canary_late"), "it was taken for hung at first");
    // From then on it is slow and ready.
    let wedged = count(&stage, "wedged");
    stage.feed(at_ms, callers(100, &[1], at_ms + 900_000));
    ticks(&mut stage, at_ms + 1, at_ms + slow_ms);
    assert_eq!((stage.node.engine(), count(&stage, "wedged")), (EngineState::Ready, wedged));
}

#[test]
fn a_canary_behind_a_long_batch_has_its_time_after_it() {
    let mut stage = stage(&[]);
    stage.feed(9_990, callers(1, &[1000], DEADLINE_MS));
    assert_eq!(ticks(&mut stage, 9_991, 20_975), [10_000]);
    assert_eq!(stage.node.engine(), EngineState::Ready, "ten seconds are the batch's own");
    ticks(&mut stage, 21_000, 21_000);
    assert_eq!(stage.node.engine(), EngineState::Wedged);
}

#[test]
fn whatever_the_device_ends_gives_the_canary_its_time_again() {
    let mut rules = with_canary();
    (rules.batch.slots, rules.batch.rows_max) = (2, 1);
    let mut stage = ready_with(rules, &[]);
    ticks(&mut stage, 1, 10_000);
    for round in 1..=20u64 {
        let at_ms = 10_000 + round * 500;
        stage.feed(at_ms, caller(round));
        stage.feed(at_ms + 10, batch_done(round, &[Done]));
        ticks(&mut stage, at_ms + 11, at_ms + 499);
        assert_eq!(stage.node.engine(), EngineState::Ready, "at {at_ms} ms");
    }
    assert_eq!(ticks(&mut stage, 20_500, 21_600), [0u64; 0]);
    assert_eq!(stage.node.engine(), EngineState::Wedged, "and then it is late");
}

#[test]
fn a_process_that_stood_still_blames_its_device_for_nothing() {
    let mut stage = ready_with(Rules { pulse: Some(PulseRules::default()), ..with_canary() }, &[]);
    ticks(&mut stage, 1, 10_000);
    let mut stage = stage.play(&[(15_000, Input::Tick, &[]), (15_010, PASSED, &[])]);
    // A batch that was out while it stood still is no longer late than the others.
    stage.feed(15_011, caller(1));
    assert_eq!(ticks(&mut stage, 30_000, 30_000), [30_000], "ten seconds are over all the same");
    assert_eq!(stage.node.engine(), EngineState::Ready);
}

#[test]
fn a_wedged_node_asks_every_second_and_says_what_is_wrong() {
    let mut stage = stage(&[]).play(&[(25, FAILED, &[])]);
    assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Wedged, Some(Wedge::Wrong)));
    assert_eq!(ticks(&mut stage, 26, 5000), [1025], "one is out, however long");
    stage.feed(5000, FAILED);
    assert_eq!(ticks(&mut stage, 5001, 6000), [6000]);
    stage.feed(6001, PASSED);
    assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Ready, None));
    assert_eq!((count(&stage, "wedged"), count(&stage, "recovered")), (1, 1));
}

#[test]
fn an_engine_that_is_gone_is_not_asked() {
    let mut stage = stage(&[]).play(&[(1, Input::EngineFailed, &[]), (2, PASSED, &[]), (3, FAILED, &[])]);
    assert_eq!(ticks(&mut stage, 4, 30_000), [0u64; 0]);
    assert_eq!((stage.node.engine(), stage.node.wedge()), (EngineState::Failed, None));
}

/// What became of a thousand jobs of which so many in a hundred make every model fail.
struct Poisoned {
    stage: Stage,
    /// Sound jobs that did not end as done.
    lost: u64,
    /// Sound jobs that went to a peer, although this node was idle.
    sent_away: u64,
}

fn poisoned(percent: u64) -> Poisoned {
    let stage = stage(&[peer("a", 3), peer("b", 3)]);
    let mut told = Poisoned { stage, lost: 0, sent_away: 0 };
    let stage = &mut told.stage;
    let mut batch = 0;
    for job in 1..=1000u64 {
        let (at_ms, is_poison) = (job * 20, job * 37 % 100 < percent);
        let mut effects = stage.feed(at_ms, caller(job));
        told.sent_away += u64::from(!is_poison && forwarded(&effects).is_some());
        for now_ms in at_ms + 1..=at_ms + 6 {
            if effects.contains(&Effect::Canary) {
                stage.feed(now_ms, PASSED);
            }
            if effects.iter().any(|effect| matches!(effect, Effect::Run { .. })) {
                batch += 1;
                effects = stage.feed(now_ms, if is_poison { batch_failed(batch) } else { batch_done(batch, &[Done]) });
            } else if let Some((job, attempt, peer)) = forwarded(&effects) {
                let verdict = if is_poison { Verdict::Failed } else { Verdict::Done };
                effects = stage.feed(now_ms, answered(job, attempt, &peer, verdict));
            } else {
                break;
            }
            let is_loss = |effect: &Effect| match effect {
                Effect::Finish { outcome, .. } => !matches!(outcome, Outcome::Done { .. }),
                _ => false,
            };
            told.lost += u64::from(!is_poison && effects.iter().any(is_loss));
        }
        for name in ["a", "b"] {
            stage.feed(at_ms + 10, heard(name, report(1 + job, 3)));
        }
    }
    stage.assert_at_rest();
    told
}

#[test]
fn texts_that_fail_everywhere_take_no_node_out_however_many_they_are() {
    for percent in [20, 60, 95] {
        let Poisoned { stage, lost, sent_away } = poisoned(percent);
        assert_eq!((lost, sent_away), (0, 0), "at {percent} % sound jobs were lost, or not done here");
        for rule in ["blamed", "breaker_paused", "wedged"] {
            assert_eq!(count(&stage, rule), 0, "{rule} at {percent} %");
        }
        assert!(0 < count(&stage, "requests_fault") && 0 < count(&stage, "canary_asked"), "{percent} %");
        // Beyond the budget nobody else is asked, and that is no evidence either.
        assert_eq!(0 < count(&stage, "retry_denied"), 20 < percent, "{percent} %");
    }
}

#[test]
fn a_connection_that_ends_is_a_question_and_a_refused_one_the_answer() {
    let parted = |peer: &str| Input::Parted { peer: id(peer) };
    let refused = || Input::PingFailed { peer: id("a"), broke: true };
    let mut stage = stage(&[peer("a", 0)]).play(&[
        (1, parted("a"), &["ping a"]),
        (2, heard("a", report(2, 0)), &[]),
        // It ends every connection as soon as it stands: no loop.
        (3, parted("a"), &[]),
        (1000, parted("a"), &[]),
        (1001, parted("a"), &["ping a"]),
    ]);
    assert_eq!(stage.gate("a"), "passing", "an end in peace is no evidence");
    stage = stage.play(&[(1002, refused(), &[])]);
    assert_eq!(stage.gate("a"), "blocking", "there is nobody");
    let stage = stage.play(&[(1900, parted("a"), &[]), (1901, parted("somebody"), &[])]);
    assert_eq!(count(&stage, "pinged_after_end"), 2);
}
