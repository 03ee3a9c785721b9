//! What proves nothing: faults that did nothing, and numbers that nobody took.

use super::*;

#[test]
fn a_drill_in_which_nothing_was_at_risk_or_could_be_measured_is_inconclusive() {
    let exposed = Expectation { min: Some(1.0), proof: true, ..expectation(Measure::Exposed) };
    let mut nothing_exposed = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
    assert_eq!(judge(&nothing_exposed, std::slice::from_ref(&exposed), false).verdict, Verdict::Passed);
    nothing_exposed.faults[0].harmed = Harmed::default();
    assert_eq!(judge(&nothing_exposed, &[exposed], false).verdict, Verdict::Inconclusive);
    let mut nothing_forwarded = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
    let here = Answered { door: 0, served_by: 0, hops: 0, placements: 1 };
    nothing_forwarded.records[0].outcome = Outcome::Answered(here);
    assert_eq!(judge(&nothing_forwarded, &[], false).verdict, Verdict::Inconclusive);
    let sound = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
    let unknown = Expectation { max: Some(10.0), ..expectation(Measure::RefusalP99Ms) };
    let judgement = judge(&sound, &[unknown], false);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert_eq!(judgement.reasons, ["refusal_p99_ms is unknown, at most 10: proves nothing"]);
}

#[test]
fn a_drain_whose_aftermath_nobody_waited_for_proves_nothing() {
    let mut evidence = evidence(FaultKind::Term, vec![record(0, 9_000, 9_020)]);
    evidence.faults[0].left = false;
    let judgement = judge(&evidence, &[], false);
    assert_eq!((judgement.verdict, judgement.reasons.len()), (Verdict::Inconclusive, 1));
    assert!(judgement.reasons[0].contains("until_given_up"), "{:?}", judgement.reasons);
}

#[test]
fn what_nobody_waited_for_is_unknown_and_not_zero() {
    let measures = [Measure::DetectionMs, Measure::OfferedAfterMax, Measure::Exposed];
    let expected = measures.map(|measure| Expectation { max: Some(1e9), ..expectation(measure) });
    let mut evidence = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
    let values = |evidence: &Evidence| {
        let judgement = judge(evidence, &expected, false);
        judgement.expected.iter().map(|weighed| weighed.value).collect::<Vec<_>>()
    };
    assert_eq!(values(&evidence), [Some(40.0), Some(2.0), Some(3.0)]);
    let nobody_looked = Fault::new(VICTIM, FaultKind::Kill, 10_000_000, 1);
    evidence.faults.push(nobody_looked.clone());
    assert_eq!(values(&evidence), [Some(40.0), Some(2.0), Some(3.0)]);
    evidence.faults = vec![nobody_looked];
    assert_eq!(values(&evidence), [None, None, None]);
    assert!(judge(&evidence, &[], false).detection_ms_each.is_empty());
}

#[test]
fn a_fault_that_did_nothing_proves_nothing() {
    let nothing: fn(&mut Evidence) = |_| ();
    let died: fn(&mut Evidence) = |evidence| evidence.told.called_dead.push((10_700_000, "node-1".to_owned()));
    let poisoned: fn(&mut Evidence) = |evidence| {
        let outcome = Outcome::Failed { door: 0, answered: true, what: "status 424: the model failed".to_owned() };
        evidence.records.push(Record { outcome, poisoned: true, ..record(0, 10_000, 10_010) });
    };
    for (measure, happened, expected) in [
        (Measure::FalseDeaths, nothing, Verdict::Inconclusive),
        (Measure::FalseDeaths, died, Verdict::Passed),
        (Measure::LostDatagrams, nothing, Verdict::Inconclusive),
        (Measure::LostDatagrams, |evidence| evidence.lost_datagrams = Some(0), Verdict::Inconclusive),
        (Measure::LostDatagrams, |evidence| evidence.lost_datagrams = Some(1), Verdict::Passed),
        (Measure::Poisoned, nothing, Verdict::Inconclusive),
        (Measure::Poisoned, poisoned, Verdict::Passed),
    ] {
        let mut evidence = evidence(FaultKind::Engine, vec![record(0, 9_000, 9_020)]);
        happened(&mut evidence);
        let proof = Expectation { min: Some(1.0), proof: true, ..expectation(measure) };
        assert_eq!(judge(&evidence, &[proof], false).verdict, expected, "{measure:?}");
    }
}

#[test]
fn deaths_are_unknown_where_the_logs_tell_of_no_peer_at_all() {
    let none = Expectation { max: Some(0.0), ..expectation(Measure::FalseDeaths) };
    let mut evidence = evidence(FaultKind::Kill, vec![record(0, 9_000, 9_020)]);
    assert_eq!(judge(&evidence, std::slice::from_ref(&none), false).verdict, Verdict::Passed);
    evidence.told.of_peers = 0;
    assert_eq!(judge(&evidence, &[none], false).verdict, Verdict::Inconclusive);
}
