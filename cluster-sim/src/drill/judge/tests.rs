//! Who is blamed for what, and what makes a verdict.

mod proofs;

use super::*;
use crate::cluster::End;
use crate::drill::evidence::{Fault, Phase, Setting, Told};
use crate::drill::measures::Measure;
use crate::drill::watch::Harmed;
use crate::load::{Answered, Checked, Loss, Outcome};

const VICTIM: usize = 2;

/// At 10 s, given up at 11 s, back at 12 s, seen at 13 s, at work at 14 s.
fn fault(kind: FaultKind) -> Fault {
    let (end, harmed) = match kind {
        FaultKind::Term => (("exit code 0".to_owned(), true), Harmed::default()),
        _ => (("signal 9".to_owned(), false), Harmed { lost: 1, unreachable: 2, ..Harmed::default() }),
    };
    Fault {
        left: true,
        end: Some(end),
        ended_us: Some(10_001_000),
        last_offer_us: Some(10_040_000),
        called_dead_us: Some(11_000_000),
        offered_after: 2,
        offered_after_max: 2,
        harmed,
        back_us: Some(12_000_000),
        seen_us: Some(13_000_000),
        works_us: Some(14_000_000),
        ..Fault::new(VICTIM, kind, 10_000_000, 1)
    }
}

fn record(door: usize, intended_ms: u64, done_ms: u64) -> Record {
    let answered = Answered { door, served_by: (door + 1) % 3, hops: 1, placements: 1 };
    Record {
        intended_us: intended_ms * 1000,
        sent_us: intended_ms * 1000,
        done_us: done_ms * 1000,
        poisoned: false,
        losses: Vec::new(),
        outcome: Outcome::Answered(answered),
    }
}

fn lost(door: usize, at_ms: u64) -> Record {
    let losses = vec![Loss { door, at_us: at_ms * 1000, what: "lost".to_owned(), own: false }];
    Record { losses, ..record(door, at_ms - 5, at_ms + 20) }
}

/// Lost within the answer, so that the client could not go elsewhere.
fn failed(door: usize, at_ms: u64) -> Record {
    let outcome = Outcome::Failed { door, answered: false, what: "the connection ended".to_owned() };
    Record { outcome, ..record(door, at_ms - 5, at_ms) }
}

fn answered_wrongly(door: usize, at_ms: u64) -> Record {
    let outcome = Outcome::Failed { door, answered: true, what: "status 500".to_owned() };
    Record { outcome, ..record(door, at_ms - 5, at_ms) }
}

fn refused(door: usize, at_ms: u64) -> Record {
    Record { outcome: Outcome::Refused { door, status: 503 }, ..record(door, at_ms - 5, at_ms) }
}

fn phase(name: &str, fault: bool, from_ms: u64, until_ms: u64) -> Phase {
    let (from_us, until_us) = (from_ms * 1000, until_ms * 1000);
    Phase { name: name.to_owned(), fault, from_us, until_us, rss_mb: vec![3.0, 5.0] }
}

fn evidence(kind: FaultKind, records: Vec<Record>) -> Evidence {
    let setting = Setting {
        drill: "test".to_owned(),
        long: false,
        nodes: 3,
        engine: "synthetic:20ms".to_owned(),
        rate_per_s: 70.0,
        seed: 1,
        rounds: 1,
        formed_ms: 1,
        capacity_per_s: Some(150.0),
        may_refuse: false,
    };
    let phases = vec![
        phase("before", false, 0, 10_000),
        phase("dead", true, 10_000, 12_000),
        phase("back", false, 12_000, 20_000),
    ];
    Evidence {
        setting,
        node_ids: ["node-1", "node-2", "node-3"].map(str::to_owned).to_vec(),
        records,
        phases,
        faults: vec![fault(kind)],
        told: Told { of_peers: 6, ..Told::default() },
        late_answers: 0,
        lost_datagrams: None,
        checked: Checked { answers: 1, wrong: Vec::new() },
        not_at_rest: Vec::new(),
        ends: Vec::new(),
    }
}

fn expectation(measure: Measure) -> Expectation {
    let (phase, node, max, min, times_max, of_phase) = (None, None, None, None, None, None);
    Expectation { measure, phase, node, max, min, times_max, of_phase, long_only: false, proof: false }
}

fn verdict(kind: FaultKind, records: Vec<Record>) -> (Verdict, Judgement) {
    let judgement = judge(&evidence(kind, records), &[], false);
    (judgement.verdict, judgement)
}

#[test]
fn all_answered_passes_and_bounds_the_failure_probability() {
    let (verdict, judgement) = verdict(FaultKind::Kill, vec![record(0, 9_000, 9_020), record(0, 10_500, 10_520)]);
    assert_eq!(verdict, Verdict::Passed, "{judgement:?}");
    assert_eq!((judgement.exposed, judgement.failure_bound), (3, Some(1.0)));
    assert_eq!((judgement.detection_ms, judgement.recovery_ms), (40.0, 2000.0));
}

#[test]
fn a_failure_at_a_door_that_lived_fails_the_drill_and_bounds_nothing() {
    for (lost, reason) in [
        (failed(0, 10_010), "door 1: the connection ended"),
        (answered_wrongly(0, 10_010), "door 1: status 500"),
        (refused(0, 10_010), "door 1: status 503"),
    ] {
        let (verdict, judgement) = verdict(FaultKind::Kill, vec![record(0, 9_000, 9_020), lost]);
        assert_eq!(verdict, Verdict::Failed);
        assert_eq!((judgement.failed, judgement.failed_own_door, judgement.failure_bound), (1, 0, None));
        assert_eq!(judgement.reasons, [format!("1 times: {reason}")]);
    }
}

#[test]
fn a_refusal_is_an_answer_where_the_drill_says_so() {
    let mut evidence = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020), refused(0, 10_010)]);
    evidence.setting.may_refuse = true;
    let judgement = judge(&evidence, &[], false);
    assert_eq!((judgement.verdict, judgement.failed, judgement.refused), (Verdict::Passed, 0, 1));
}

#[test]
fn the_killed_nodes_own_clients_are_counted_apart_and_only_while_it_was_down() {
    let of = |at_ms| verdict(FaultKind::Kill, vec![record(0, 9_000, 9_020), failed(VICTIM, at_ms)]);
    for (at_ms, expected, own_door) in [
        (10_010, Verdict::Passed, 1),
        (12_500, Verdict::Passed, 1),
        (9_000, Verdict::Failed, 0),
        (13_500, Verdict::Failed, 0),
    ] {
        let (verdict, judgement) = of(at_ms);
        assert_eq!((verdict, judgement.failed_own_door), (expected, own_door), "{at_ms} ms");
    }
}

#[test]
fn what_the_killed_node_answers_itself_once_it_runs_again_is_no_loss_of_its_death() {
    for answer in [answered_wrongly(VICTIM, 12_500), refused(VICTIM, 12_500)] {
        let (verdict, judgement) = verdict(FaultKind::Kill, vec![record(0, 9_000, 9_020), answer]);
        assert_eq!((verdict, judgement.failed, judgement.failed_own_door), (Verdict::Failed, 1, 0));
    }
    let mut evidence = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020), refused(VICTIM, 12_500)]);
    evidence.setting.may_refuse = true;
    assert_eq!(judge(&evidence, &[], false).verdict, Verdict::Passed);
}

#[test]
fn who_is_asked_to_leave_or_whose_engine_misbehaves_may_not_fail_its_own_clients() {
    for kind in [FaultKind::Term, FaultKind::Engine] {
        let (verdict, judgement) = verdict(kind, vec![record(0, 9_000, 9_020), failed(VICTIM, 10_010)]);
        assert_eq!((verdict, judgement.failed), (Verdict::Failed, 1), "{kind:?}");
    }
}

/// All nodes are hit at once.
fn all_hit(kind: FaultKind, records: Vec<Record>) -> Evidence {
    let mut evidence = evidence(kind, [vec![record(0, 9_000, 9_020)], records].concat());
    evidence.faults = (0..3).map(|node| Fault { node, ..fault(kind) }).collect();
    evidence
}

#[test]
fn when_every_node_is_down_nobody_is_to_blame_for_a_client_that_finds_none() {
    let mut evidence = all_hit(FaultKind::Term, vec![failed(1, 10_010)]);
    let judgement = judge(&evidence, &[], false);
    assert_eq!((judgement.failed, judgement.failed_own_door), (0, 1));
    evidence.faults.pop();
    assert_eq!(judge(&evidence, &[], false).failed, 1);
}

#[test]
fn a_node_that_starts_may_say_503_only_while_none_is_ready() {
    let blamed = |evidence: &Evidence| {
        let judgement = judge(evidence, &[], false);
        (judgement.failed, judgement.failed_own_door)
    };
    let started_alone = all_hit(FaultKind::Kill, vec![refused(1, 12_500)]);
    assert_eq!(blamed(&started_alone), (0, 1));
    let another_answered = all_hit(FaultKind::Kill, vec![record(0, 12_100, 12_400), refused(1, 12_500)]);
    assert_eq!(blamed(&another_answered), (1, 0));
    let another_answered_later = all_hit(FaultKind::Kill, vec![refused(1, 12_500), record(0, 12_100, 12_600)]);
    assert_eq!(blamed(&another_answered_later), (0, 1));
    let all_were_back = all_hit(FaultKind::Kill, vec![refused(1, 13_001)]);
    assert_eq!(blamed(&all_were_back), (1, 0));
    let mut one_lived = all_hit(FaultKind::Kill, vec![refused(1, 12_500)]);
    one_lived.faults.remove(0);
    assert_eq!(blamed(&one_lived), (1, 0));
    let full = Record { outcome: Outcome::Refused { door: 1, status: 429 }, ..refused(1, 12_500) };
    assert_eq!(blamed(&all_hit(FaultKind::Kill, vec![full])), (1, 0));
    assert_eq!(blamed(&all_hit(FaultKind::Kill, vec![answered_wrongly(1, 12_500)])), (1, 0));
}

#[test]
fn a_lost_connection_is_excused_only_at_the_victims_door_while_it_was_down() {
    let of = |door, at_ms| verdict(FaultKind::Kill, vec![record(0, 9_000, 9_020), lost(door, at_ms)]);
    let (at_victim, judgement) = of(VICTIM, 10_010);
    assert_eq!((at_victim, judgement.redialled, judgement.lost_elsewhere), (Verdict::Passed, 1, 0));
    let (elsewhere, judgement) = of(0, 10_010);
    assert_eq!((elsewhere, judgement.redialled, judgement.lost_elsewhere), (Verdict::Failed, 0, 1));
    let (victim_was_up, _) = of(VICTIM, 9_500);
    assert_eq!(victim_was_up, Verdict::Failed);
}

#[test]
fn a_load_that_ran_out_of_ports_proves_nothing_and_blames_nobody() {
    let mut record = lost(0, 10_010);
    record.losses[0].own = true;
    let (told, judgement) = verdict(FaultKind::Kill, vec![self::record(0, 9_000, 9_020), record]);
    assert_eq!((told, judgement.lost_elsewhere, judgement.redialled), (Verdict::Inconclusive, 0, 0));
    assert!(judgement.reasons[0].contains("ran out of ports"), "{:?}", judgement.reasons);
}

#[test]
fn a_poisoned_request_has_to_fail_by_an_answer_that_says_so() {
    let poisoned = |record| Record { poisoned: true, ..record };
    let of = |record| verdict(FaultKind::Engine, vec![self::record(0, 9_000, 9_020), poisoned(record)]);
    let outcome = Outcome::Failed { door: 0, answered: true, what: "status 424: the model failed".to_owned() };
    let (told, judgement) = of(Record { outcome, ..failed(0, 10_010) });
    assert_eq!((told, judgement.failed, judgement.poisoned), (Verdict::Passed, 0, 1));
    let (answered, _) = of(record(0, 10_000, 10_010));
    assert_eq!(answered, Verdict::Failed);
    for other in [refused(0, 10_010), failed(0, 10_010), answered_wrongly(0, 10_010)] {
        let (told, judgement) = of(other);
        assert_eq!((told, judgement.failed), (Verdict::Failed, 1));
    }
}

#[test]
fn a_node_that_does_not_exit_with_zero_after_sigterm_fails_the_drill() {
    let mut evidence = evidence(FaultKind::Term, vec![record(0, 9_000, 9_020)]);
    assert_eq!(judge(&evidence, &[], false).verdict, Verdict::Passed);
    evidence.faults[0].end = Some(("exit code 1".to_owned(), false));
    assert_eq!(judge(&evidence, &[], false).verdict, Verdict::Failed);
}

#[test]
fn a_drain_may_become_unreachable_but_not_drop_what_it_took() {
    let of = |harmed| {
        let mut evidence = evidence(FaultKind::Term, vec![record(0, 9_000, 9_020)]);
        evidence.faults[0].harmed = harmed;
        judge(&evidence, &[], false).verdict
    };
    assert_eq!(of(Harmed { unreachable: 1, ..Harmed::default() }), Verdict::Passed);
    assert_eq!(of(Harmed { lost: 1, ..Harmed::default() }), Verdict::Failed);
}

#[test]
fn work_left_over_wrong_answers_and_too_many_placements_fail_the_drill() {
    let spoil: [fn(&mut Evidence); 4] = [
        |evidence| evidence.not_at_rest.push("node-1: shoal_jobs_held=1".to_owned()),
        |evidence| evidence.checked.wrong.push("differs".to_owned()),
        |evidence| evidence.ends.push(End { node: "node-1".to_owned(), end: "signal 6".to_owned(), clean: false }),
        |evidence| {
            let answered = Answered { door: 0, served_by: 1, hops: 1, placements: 4 };
            evidence.records[0].outcome = Outcome::Answered(answered);
        },
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        let mut evidence = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
        spoil(&mut evidence);
        let judgement = judge(&evidence, &[], false);
        assert_eq!((judgement.verdict, judgement.reasons.len()), (Verdict::Failed, 1), "case {number}");
    }
}

#[test]
fn a_request_in_flight_at_a_fault_belongs_to_the_time_after_it_and_to_no_other_phase() {
    let records = vec![
        record(0, 9_000, 9_999),
        record(0, 9_990, 10_030),
        record(0, 11_999, 12_500),
        record(0, 12_000, 12_020),
        record(0, 14_000, 14_020),
    ];
    let (_, judgement) = verdict(FaultKind::Kill, records);
    let counts: Vec<(&str, u64)> =
        judgement.phases.iter().map(|(name, summary)| (name.as_str(), summary.requests)).collect();
    assert_eq!((counts, judgement.all.requests), (vec![("before", 1), ("dead", 2), ("back", 2)], 5));
}

/// One measure of a run with four answers: two before the fault, computed by nodes 2 and 2, two after it.
fn measured(expectation: Expectation, untimed: bool) -> (Option<f64>, Held) {
    let records =
        vec![record(0, 1_000, 1_010), record(0, 2_000, 2_030), record(0, 12_500, 12_540), record(1, 13_500, 13_520)];
    let mut evidence = evidence(FaultKind::Kill, records);
    evidence.told.broke = vec![(10_004_000, "node-3".to_owned()), (10_009_000, "node-1".to_owned())];
    // The second one is false: nothing was done to that node.
    evidence.told.called_dead = vec![(10_700_000, "node-3".to_owned()), (10_700_000, "node-1".to_owned())];
    let judgement = judge(&evidence, &[expectation], untimed);
    (judgement.expected[0].value, judgement.expected[0].held)
}

#[test]
fn measures_are_of_the_run_of_a_phase_or_of_a_node() {
    let of = |measure, phase: Option<&str>, node| {
        let phase = phase.map(str::to_owned);
        measured(Expectation { phase, node, max: Some(1e9), ..expectation(measure) }, false).0
    };
    let about = |value: Option<f64>, expected: f64| value.is_some_and(|value| (value - expected).abs() < 0.1);
    assert_eq!(of(Measure::Failed, None, None), Some(0.0));
    assert!(about(of(Measure::MaxMs, Some("before"), None), 30.0));
    assert!(about(of(Measure::P50Ms, Some("back"), None), 20.0));
    assert_eq!(of(Measure::P50Ms, Some("dead"), None), None);
    assert_eq!(of(Measure::ShareOfFair, Some("before"), Some(2)), Some(3.0));
    assert_eq!(of(Measure::ShareOfFair, Some("before"), Some(1)), Some(0.0));
    assert_eq!(of(Measure::Unevenness, None, None), Some(2.25));
    assert_eq!(of(Measure::ForwardedShare, None, None), Some(1.0));
    // Two answers in eight seconds, of 150 that could be.
    assert!(of(Measure::GoodputShare, Some("back"), None).is_some_and(|share| (share - 0.25 / 150.0).abs() < 1e-9));
    assert_eq!(of(Measure::FalseDeaths, None, None), Some(1.0));
    assert_eq!(of(Measure::FalseDeaths, Some("before"), None), Some(0.0));
    assert!(about(of(Measure::ReplacedP99Ms, None, None), 4.0));
    assert_eq!(of(Measure::SeenMs, None, None), Some(1000.0));
    assert_eq!(of(Measure::RssMb, Some("before"), None), Some(5.0));
    assert_eq!(of(Measure::OfferedAfterMax, None, None), Some(2.0));
}

#[test]
fn an_expectation_holds_between_its_bounds_and_a_timed_one_may_be_left_unjudged() {
    let phase = Some("back".to_owned());
    let of_phase = Some("before".to_owned());
    let max = |max| Expectation { phase: phase.clone(), max: Some(max), ..expectation(Measure::MaxMs) };
    let times = |times| Expectation {
        phase: phase.clone(),
        times_max: Some(times),
        of_phase: of_phase.clone(),
        ..expectation(Measure::MaxMs)
    };
    for (expectation, held) in [
        (max(41.0), Held::Yes),
        (max(39.0), Held::No),
        (times(1.4), Held::Yes),
        (times(1.2), Held::No),
        (Expectation { min: Some(41.0), ..max(50.0) }, Held::No),
        (Expectation { phase: Some("dead".to_owned()), ..times(9.0) }, Held::Unknown),
    ] {
        assert_eq!(measured(expectation.clone(), false).1, held, "{expectation:?}");
        assert_eq!(measured(expectation, true).1, Held::NotJudged);
    }
    let failed = Expectation { max: Some(0.0), ..expectation(Measure::Failed) };
    assert_eq!(measured(failed, true).1, Held::Yes);
}
