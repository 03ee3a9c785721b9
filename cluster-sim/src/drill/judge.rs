//! From the evidence of a drill to its verdict.
//!
//! For `drill`; pure.
//! Invariants: a request that got no right answer from a door whose node lived fails the drill; so does a connection
//! that such a door lost, even though another one answered. A drill in which nothing was at risk never passes, nor
//! does one in which something that it expects could not be measured.

use super::evidence::{Evidence, FaultKind};
use super::judgement::{Held, Judgement, Placements, Verdict, Weighed};
use super::numbers::Numbers;
use super::scenario::Expectation;
use crate::load::Record;
use crate::stats::{Latencies, Summary, rule_of_three, share};

/// The design allows a request on three nodes.
const PLACEMENTS_MAX: u32 = 3;

/// Weighs the evidence against what is expected; with `untimed` what depends on the speed of the machine is shown only.
pub(crate) fn judge(evidence: &Evidence, expected: &[Expectation], untimed: bool) -> Judgement {
    let numbers = Numbers::of(evidence);
    let weighed = weigh(&numbers, expected, evidence.setting.long, untimed);
    let answers = || evidence.records.iter().filter_map(Record::answered);
    let answered = answers().count() as u64;
    let forwarded = answers().filter(|answer| answer.served_by != answer.door).count() as u64;
    let placements = Placements {
        mean: share(answers().map(|answer| u64::from(answer.placements)).sum(), answered),
        max: answers().map(|answer| answer.placements).max().unwrap_or(0),
    };
    let failures = failures(evidence, &numbers, placements, &weighed);
    let unknowns = unknowns(evidence, &numbers, forwarded, &weighed);
    let (verdict, reasons) = match (failures.is_empty(), unknowns.is_empty()) {
        (false, _) => (Verdict::Failed, failures),
        (true, false) => (Verdict::Inconclusive, unknowns),
        (true, true) => (Verdict::Passed, Vec::new()),
    };
    let blame = &numbers.blame;
    let exposed = numbers.harmed.total();
    let nothing = Latencies::new().summary();
    let late_us = |record: &Record| record.sent_us.saturating_sub(record.intended_us);
    let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (detections_ms, recoveries_ms) = (numbers.detections_ms(), numbers.recoveries_ms());
    let mut names: Vec<&str> = Vec::new();
    for phase in &evidence.phases {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let phases: Vec<(String, Summary)> =
        names.into_iter().filter_map(|name| Some((name.to_owned(), numbers.summary(Some(name))?))).collect();
    Judgement {
        setting: evidence.setting.clone(),
        requests: evidence.records.len() as u64,
        failed: blame.failed,
        refused: blame.refused,
        poisoned: blame.poisoned,
        exposed,
        exposed_by: numbers.harmed,
        held_at_fault: evidence.faults.iter().map(|fault| fault.open_at_fault).sum(),
        offered_after: evidence.faults.iter().map(|fault| fault.offered_after).sum(),
        failure_bound: rule_of_three(exposed).filter(|_| blame.failed == 0),
        failure_bound_requests: rule_of_three(evidence.records.len() as u64).filter(|_| blame.failed == 0),
        redialled: blame.redialled,
        failed_own_door: blame.failed_own_door,
        exposed_own_door: blame.exposed_own_door,
        lost_elsewhere: blame.lost_elsewhere,
        forwarded_share: share(forwarded, answered),
        all: numbers.summary(None).unwrap_or(nothing),
        phases,
        detection_ms: longest(&detections_ms),
        detection_ms_each: detections_ms,
        recovery_ms: longest(&recoveries_ms),
        recovery_ms_each: recoveries_ms,
        placements_per_request: placements,
        late_answers_dropped: evidence.late_answers,
        lost_datagrams: evidence.lost_datagrams,
        answers_checked: evidence.checked.answers,
        answers_wrong: evidence.checked.wrong.len(),
        counters_at_rest: evidence.not_at_rest.is_empty(),
        faults: evidence.faults.iter().filter(|fault| fault.kind != FaultKind::Late).count(),
        fault_ends: evidence.faults.iter().filter_map(|fault| Some(fault.end.as_ref()?.0.clone())).collect(),
        ends: evidence.ends.clone(),
        generator_late_p99_ms: evidence.records.iter().map(late_us).collect::<Latencies>().summary().p99_ms,
        expected: weighed,
        verdict,
        reasons,
    }
}

fn weigh(numbers: &Numbers<'_>, expected: &[Expectation], long: bool, untimed: bool) -> Vec<Weighed> {
    let expected = expected.iter().filter(|expectation| long || !expectation.long_only);
    expected
        .map(|expectation| {
            let Expectation { measure, phase, node, max, min, times_max, of_phase, .. } = expectation;
            let value = numbers.value(*measure, phase.as_deref(), *node);
            let base = of_phase.as_deref().and_then(|of| numbers.value(*measure, Some(of), *node));
            // Without a base there is no bound, and nothing can be said.
            let times = times_max.and_then(|times| Some(times * base?));
            let bound = [*max, times].into_iter().flatten().reduce(f64::min);
            let known = value.is_some() && times.is_some() == times_max.is_some();
            let is_met = |value: f64| bound.is_none_or(|bound| value <= bound) && min.is_none_or(|min| min <= value);
            let held = match value.filter(|_| known) {
                _ if untimed && measure.is_timed() => Held::NotJudged,
                None => Held::Unknown,
                Some(value) if is_met(value) => Held::Yes,
                Some(_) if expectation.proof => Held::Unknown,
                Some(_) => Held::No,
            };
            let mut of: Vec<String> = Vec::new();
            of.extend(node.map(|node| format!("node {node}")));
            of.extend(phase.as_ref().map(|phase| format!("phase {phase}")));
            let mut what = measure.name().to_owned();
            if !of.is_empty() {
                what = format!("{what} of {}", of.join(", "));
            }
            Weighed { what, value, max: bound, min: *min, held }
        })
        .collect()
}

/// Why the drill failed.
fn failures(evidence: &Evidence, numbers: &Numbers<'_>, placements: Placements, weighed: &[Weighed]) -> Vec<String> {
    let blame = &numbers.blame;
    let mut reasons = blame.reasons();
    if PLACEMENTS_MAX < placements.max {
        reasons.push(format!("a request was placed {} times, more than {PLACEMENTS_MAX}", placements.max));
    }
    if 0 < blame.poisoned_answered {
        reasons.push(format!("{} poisoned requests were answered as if they were sound", blame.poisoned_answered));
    }
    reasons.extend(evidence.checked.wrong.iter().take(5).map(|what| format!("wrong answer: {what}")));
    reasons.extend(evidence.not_at_rest.iter().map(|what| format!("not at rest: {what}")));
    for fault in evidence.faults.iter().filter(|fault| fault.kind == FaultKind::Term) {
        let node = &evidence.node_ids[fault.node];
        if let Some((end, false)) = &fault.end {
            reasons.push(format!("{node} ended with {end} after SIGTERM"));
        }
        // Not to be reached any more is what the end of a drain looks like; everything else was work it had taken.
        let taken = fault.harmed.total() - fault.harmed.unreachable;
        if 0 < taken {
            reasons.push(format!("{taken} jobs of other doors that {node} had taken were cut short after SIGTERM"));
        }
    }
    let unclean = evidence.ends.iter().filter(|end| !end.clean);
    reasons.extend(unclean.map(|end| format!("{} ended with {} at the end of the drill", end.node, end.end)));
    reasons.extend(weighed.iter().filter(|weighed| weighed.held == Held::No).map(|weighed| format!("{weighed}")));
    reasons
}

/// Why the drill proved nothing.
fn unknowns(evidence: &Evidence, numbers: &Numbers<'_>, forwarded: u64, weighed: &[Weighed]) -> Vec<String> {
    let mut reasons = Vec::new();
    if 0 < numbers.blame.never_dialled {
        let count = numbers.blame.never_dialled;
        reasons.push(format!("the load itself ran out of ports or descriptors: {count} connections were not tried"));
    }
    if forwarded == 0 {
        reasons.push("no request was forwarded".to_owned());
    }
    for fault in evidence.faults.iter().filter(|fault| fault.kind == FaultKind::Term && !fault.left) {
        let node = &evidence.node_ids[fault.node];
        reasons.push(format!(
            "whether jobs were cut short on {node} after SIGTERM is unknown: the scenario needs until_given_up after term"
        ));
    }
    reasons.extend(weighed.iter().filter(|weighed| weighed.held == Held::Unknown).map(|weighed| format!("{weighed}")));
    reasons
}

#[cfg(test)]
mod tests;
