//! From what was recorded to numbers and a verdict.
//!
//! For `kill`; pure. The question is what clients of the nodes that lived saw. A client of the killed node's own door
//! may lose its connection, as with any server, and goes to the next address: counted, and kept apart.
//! Invariants: a request that got no right answer from a door whose node lived fails the drill; so does a connection
//! that such a door lost, even though another one answered. A drill in which nothing was at risk never passes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::judgement::{Judgement, Placements, Verdict};
use super::watch::Harmed;
use crate::cluster::End;
use crate::load::{Checked, Outcome, Record};
use crate::stats::{Latencies, millis, rule_of_three, share};

/// Requests meant to be sent so long before or after a fault count as "around" it.
const AROUND_US: u64 = 2_000_000;
/// The design allows a request on three nodes.
const PLACEMENTS_MAX: u32 = 3;

/// What is done to the victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM: the node must drain, exit with 0, and nobody may notice.
    Terminate,
}

/// What was set up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) fault: Fault,
    pub(crate) nodes: u16,
    pub(crate) engine: String,
    pub(crate) rate_per_s: f64,
    pub(crate) skew: f64,
    pub(crate) seed: u64,
    /// Index of the node that is hit.
    pub(crate) victim: usize,
    pub(crate) formed_ms: u64,
}

/// One fault and what followed. Times are those of the records.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Of all answers since the last round (or the start), the share that the victim computed.
    pub(crate) share_before: f64,
    /// Jobs of others that the victim held a moment before.
    pub(crate) open_at_fault: u64,
    pub(crate) fault_us: u64,
    pub(crate) end: String,
    pub(crate) end_is_clean: bool,
    pub(crate) ended_us: u64,
    pub(crate) last_offer_us: Option<u64>,
    pub(crate) called_dead_us: u64,
    /// Jobs that survivors offered to it after the fault.
    pub(crate) offered_after: u64,
    /// Jobs of others that were cut short on it.
    pub(crate) harmed: Harmed,
    pub(crate) restart_us: u64,
    pub(crate) seen_us: u64,
    pub(crate) works_us: u64,
}

/// All that the verdict rests on.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) setting: Setting,
    pub(crate) records: Vec<Record>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) checked: Checked,
    pub(crate) not_at_rest: Vec<String>,
    pub(crate) ends: Vec<End>,
}

impl Round {
    /// Whether the victim's own door may lose what was under way from `from_us` to `until_us`.
    fn excuses(&self, from_us: u64, until_us: u64) -> bool {
        self.fault_us <= until_us && from_us <= self.seen_us
    }

    fn phase_of(&self, record: &Record) -> Option<Phase> {
        if record.done_us < self.fault_us || self.works_us <= record.intended_us {
            None
        } else if record.intended_us < self.restart_us {
            Some(Phase::After)
        } else {
            Some(Phase::Returning)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    After,
    Returning,
}

/// Weighs the evidence.
pub(crate) fn judge(evidence: &Evidence) -> Judgement {
    let Evidence { setting, records, rounds, checked, not_at_rest, ends } = evidence;
    let blame = Blame::of(evidence);
    let phase_of = |record: &Record| rounds.iter().find_map(|round| round.phase_of(record)).unwrap_or(Phase::Before);
    let latencies = |wanted: Option<Phase>| {
        let answered = records.iter().filter(|record| record.answered().is_some());
        let wanted = answered.filter(|record| wanted.is_none_or(|phase| phase_of(record) == phase));
        wanted.map(Record::latency_us).collect::<Latencies>().summary()
    };
    let answers = records.iter().filter_map(Record::answered);
    let answered = answers.clone().count() as u64;
    let forwarded = answers.clone().filter(|answer| answer.served_by != answer.door).count() as u64;
    let placements = Placements {
        mean: share(answers.clone().map(|answer| u64::from(answer.placements)).sum(), answered),
        max: answers.map(|answer| answer.placements).max().unwrap_or(0),
    };
    let harmed = rounds.iter().map(|round| round.harmed).fold(Harmed::default(), Harmed::plus);
    let exposed = harmed.total();
    let is_around =
        |record: &&Record| rounds.iter().any(|round| record.intended_us.abs_diff(round.fault_us) <= AROUND_US);
    let around = records.iter().filter(is_around).count() as u64;
    let since = |from: fn(&Round) -> u64, to: fn(&Round) -> u64| -> Vec<f64> {
        rounds.iter().map(|round| millis(to(round).saturating_sub(from(round)))).collect()
    };
    let fault = |round: &Round| round.fault_us;
    let restart = |round: &Round| round.restart_us;
    let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let detection_ms_each = since(fault, |round| round.last_offer_us.unwrap_or(round.fault_us));
    let recovery_ms_each = since(restart, |round| round.works_us);
    let late_us = |record: &Record| record.sent_us.saturating_sub(record.intended_us);

    let mut reasons = blame.reasons();
    if PLACEMENTS_MAX < placements.max {
        reasons.push(format!("a request was placed {} times, more than {PLACEMENTS_MAX}", placements.max));
    }
    reasons.extend(checked.wrong.iter().take(5).map(|what| format!("wrong answer: {what}")));
    reasons.extend(not_at_rest.iter().map(|what| format!("not at rest: {what}")));
    if setting.fault == Fault::Terminate {
        let unclean = rounds.iter().filter(|round| !round.end_is_clean);
        reasons.extend(unclean.map(|round| format!("the victim ended with {} after SIGTERM", round.end)));
        // Not to be reached any more is what the end of a drain looks like; everything else was work it had taken.
        let taken = harmed.total() - harmed.unreachable;
        if 0 < taken {
            reasons.push(format!("{taken} jobs of other doors that the victim had taken were cut short after SIGTERM"));
        }
    }
    let unclean = ends.iter().filter(|end| !end.clean);
    reasons.extend(unclean.map(|end| format!("{} ended with {} at the end of the drill", end.node, end.end)));
    let mut verdict = if reasons.is_empty() { Verdict::Passed } else { Verdict::Failed };
    if verdict == Verdict::Passed {
        if forwarded == 0 {
            reasons.push("no request was forwarded".to_owned());
        } else if setting.fault == Fault::Kill && exposed == 0 {
            reasons.push("no job of another door was at the victim or sent to it".to_owned());
        }
        if !reasons.is_empty() {
            verdict = Verdict::Inconclusive;
        }
    }
    Judgement {
        setting: setting.clone(),
        kills: rounds.len(),
        requests: records.len() as u64,
        failed: blame.failed,
        failed_own_door: blame.failed_own_door,
        failed_own_door_returning: blame.failed_own_door_returning,
        exposed,
        exposed_by: harmed,
        held_at_fault: rounds.iter().map(|round| round.open_at_fault).sum(),
        offered_to_dead: rounds.iter().map(|round| round.offered_after).sum(),
        exposed_own_door: blame.exposed_own_door,
        around,
        failure_bound: rule_of_three(exposed).filter(|_| blame.failed == 0),
        failure_bound_around: rule_of_three(around).filter(|_| blame.failed == 0),
        redialled: blame.redialled,
        lost_elsewhere: blame.lost_elsewhere,
        forwarded_share: share(forwarded, answered),
        victim_share_before_min: rounds.iter().map(|round| round.share_before).fold(1.0, f64::min),
        all: latencies(None),
        before: latencies(Some(Phase::Before)),
        after: latencies(Some(Phase::After)),
        returning: latencies(Some(Phase::Returning)),
        detection_ms: longest(&detection_ms_each),
        detection_ms_each,
        called_dead_ms: longest(&since(fault, |round| round.called_dead_us)),
        ended_ms: longest(&since(fault, |round| round.ended_us)),
        seen_ms: longest(&since(restart, |round| round.seen_us)),
        recovery_ms: longest(&recovery_ms_each),
        recovery_ms_each,
        placements_per_request: placements,
        answers_checked: checked.answers,
        answers_wrong: checked.wrong.len(),
        counters_at_rest: not_at_rest.is_empty(),
        victim_ends: rounds.iter().map(|round| round.end.clone()).collect(),
        ends: ends.clone(),
        generator_late_p99_ms: records.iter().map(late_us).collect::<Latencies>().summary().p99_ms,
        verdict,
        reasons,
    }
}

/// Who is to blame for what clients lost.
#[derive(Debug, Default)]
struct Blame {
    failed: u64,
    failed_own_door: u64,
    failed_own_door_returning: u64,
    exposed_own_door: u64,
    redialled: u64,
    lost_elsewhere: u64,
    /// Complaints about nodes that lived, with their number.
    complaints: BTreeMap<String, u64>,
}

impl Blame {
    fn of(evidence: &Evidence) -> Self {
        let mut blame = Self::default();
        evidence.records.iter().for_each(|record| blame.add(evidence, record));
        blame
    }

    fn add(&mut self, evidence: &Evidence, record: &Record) {
        let Evidence { setting, rounds, .. } = evidence;
        let excused = |door: usize, from_us: u64, until_us: u64| {
            door == setting.victim && rounds.iter().any(|round| round.excuses(from_us, until_us))
        };
        let mut redialled = false;
        for loss in &record.losses {
            if excused(loss.door, loss.at_us, loss.at_us) {
                self.exposed_own_door += 1;
                redialled = true;
            } else {
                self.lost_elsewhere += 1;
                *self.complaints.entry(format!("door {} lost or refused a connection", loss.door + 1)).or_default() +=
                    1;
            }
        }
        match &record.outcome {
            Outcome::Answered(_) => self.redialled += u64::from(redialled),
            // Who is asked to leave has time to finish: then not even its own clients may lose an answer.
            Outcome::Failed { door, .. }
                if setting.fault == Fault::Kill && excused(*door, record.intended_us, record.done_us) =>
            {
                self.failed_own_door += 1;
                let returning = |round: &Round| (round.restart_us..=round.seen_us).contains(&record.done_us);
                self.failed_own_door_returning += u64::from(rounds.iter().any(returning));
            }
            Outcome::Failed { door, what } => {
                self.failed += 1;
                *self.complaints.entry(format!("door {}: {what}", door + 1)).or_default() += 1;
            }
        }
    }

    /// The commonest complaints, most first.
    fn reasons(&self) -> Vec<String> {
        let mut sorted: Vec<(&String, &u64)> = self.complaints.iter().collect();
        sorted.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        sorted.iter().take(8).map(|(what, count)| format!("{count} times: {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Answered, Loss};

    const VICTIM: usize = 2;

    /// Fault at 10 s, dead at 11 s, restart at 12 s, seen at 13 s, at work at 14 s.
    fn round() -> Round {
        Round {
            share_before: 0.25,
            open_at_fault: 1,
            fault_us: 10_000_000,
            end: "signal 9".to_owned(),
            end_is_clean: false,
            ended_us: 10_001_000,
            last_offer_us: Some(10_040_000),
            called_dead_us: 11_000_000,
            offered_after: 2,
            harmed: Harmed { lost: 1, unreachable: 2, ..Harmed::default() },
            restart_us: 12_000_000,
            seen_us: 13_000_000,
            works_us: 14_000_000,
        }
    }

    fn record(door: usize, intended_ms: u64, done_ms: u64) -> Record {
        let answered = Answered { door, served_by: (door + 1) % 3, hops: 1, placements: 1 };
        Record {
            intended_us: intended_ms * 1000,
            sent_us: intended_ms * 1000,
            done_us: done_ms * 1000,
            losses: Vec::new(),
            outcome: Outcome::Answered(answered),
        }
    }

    fn lost(door: usize, at_ms: u64) -> Record {
        let losses = vec![Loss { door, at_us: at_ms * 1000 }];
        Record { losses, ..record(door, at_ms - 5, at_ms + 20) }
    }

    fn failed(door: usize, at_ms: u64) -> Record {
        let outcome = Outcome::Failed { door, what: "status 503".to_owned() };
        Record { outcome, ..record(door, at_ms - 5, at_ms) }
    }

    fn evidence(fault: Fault, records: Vec<Record>) -> Evidence {
        let engine = "synthetic:20ms".to_owned();
        let setting =
            Setting { fault, nodes: 3, engine, rate_per_s: 70.0, skew: 8.0, seed: 1, victim: VICTIM, formed_ms: 1 };
        let round = match fault {
            Fault::Kill => round(),
            Fault::Terminate => {
                Round { end: "exit code 0".to_owned(), end_is_clean: true, harmed: Harmed::default(), ..round() }
            }
        };
        let (checked, rounds) = (Checked { answers: 1, wrong: Vec::new() }, vec![round]);
        Evidence { setting, records, rounds, checked, not_at_rest: Vec::new(), ends: Vec::new() }
    }

    fn verdict(fault: Fault, records: Vec<Record>) -> (Verdict, Judgement) {
        let judgement = judge(&evidence(fault, records));
        (judgement.verdict, judgement)
    }

    #[test]
    fn all_answered_passes_and_bounds_the_failure_probability() {
        let (verdict, judgement) = verdict(Fault::Kill, vec![record(0, 9_000, 9_020), record(0, 10_500, 10_520)]);
        assert_eq!(verdict, Verdict::Passed, "{judgement:?}");
        assert_eq!((judgement.exposed, judgement.failure_bound), (3, Some(1.0)));
        assert_eq!((judgement.detection_ms, judgement.recovery_ms), (40.0, 2000.0));
    }

    #[test]
    fn a_failure_at_a_door_that_lived_fails_the_drill_and_bounds_nothing() {
        let (verdict, judgement) = verdict(Fault::Kill, vec![record(0, 9_000, 9_020), failed(0, 10_010)]);
        assert_eq!(verdict, Verdict::Failed);
        assert_eq!((judgement.failed, judgement.failed_own_door, judgement.failure_bound), (1, 0, None));
        assert_eq!(judgement.reasons, ["1 times: door 1: status 503"]);
    }

    #[test]
    fn the_killed_nodes_own_clients_are_counted_apart_and_only_while_it_was_down() {
        let of = |at_ms| verdict(Fault::Kill, vec![record(0, 9_000, 9_020), failed(VICTIM, at_ms)]);
        let (while_down, judgement) = of(10_010);
        assert_eq!((while_down, judgement.failed, judgement.failed_own_door), (Verdict::Passed, 0, 1));
        let (returning, judgement) = of(12_500);
        assert_eq!((returning, judgement.failed_own_door_returning), (Verdict::Passed, 1));
        let (long_before, judgement) = of(9_000);
        assert_eq!((long_before, judgement.failed, judgement.failed_own_door), (Verdict::Failed, 1, 0));
        let (long_after, _) = of(13_500);
        assert_eq!(long_after, Verdict::Failed);
    }

    #[test]
    fn who_is_asked_to_leave_may_not_fail_its_own_clients_either() {
        let (verdict, judgement) = verdict(Fault::Terminate, vec![record(0, 9_000, 9_020), failed(VICTIM, 10_010)]);
        assert_eq!((verdict, judgement.failed), (Verdict::Failed, 1));
    }

    #[test]
    fn a_lost_connection_is_excused_only_at_the_victims_door_while_it_was_down() {
        let of = |door, at_ms| verdict(Fault::Kill, vec![record(0, 9_000, 9_020), lost(door, at_ms)]);
        let (at_victim, judgement) = of(VICTIM, 10_010);
        assert_eq!((at_victim, judgement.redialled, judgement.lost_elsewhere), (Verdict::Passed, 1, 0));
        let (elsewhere, judgement) = of(0, 10_010);
        assert_eq!((elsewhere, judgement.redialled, judgement.lost_elsewhere), (Verdict::Failed, 0, 1));
        let (victim_was_up, _) = of(VICTIM, 9_500);
        assert_eq!(victim_was_up, Verdict::Failed);
    }

    #[test]
    fn a_node_that_does_not_exit_with_zero_after_sigterm_fails_the_drill() {
        let mut evidence = evidence(Fault::Terminate, vec![record(0, 9_000, 9_020)]);
        assert_eq!(judge(&evidence).verdict, Verdict::Passed);
        evidence.rounds[0].end_is_clean = false;
        assert_eq!(judge(&evidence).verdict, Verdict::Failed);
    }

    #[test]
    fn a_drain_may_become_unreachable_but_not_drop_what_it_took() {
        let of = |harmed| {
            let mut evidence = evidence(Fault::Terminate, vec![record(0, 9_000, 9_020)]);
            evidence.rounds[0].harmed = harmed;
            judge(&evidence).verdict
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
            let mut evidence = evidence(Fault::Kill, vec![record(0, 9_000, 9_020)]);
            spoil(&mut evidence);
            let judgement = judge(&evidence);
            assert_eq!((judgement.verdict, judgement.reasons.len()), (Verdict::Failed, 1), "case {number}");
        }
    }

    #[test]
    fn a_drill_in_which_nothing_was_at_risk_is_inconclusive() {
        let mut nothing_exposed = evidence(Fault::Kill, vec![record(0, 9_000, 9_020)]);
        nothing_exposed.rounds[0].harmed = Harmed::default();
        assert_eq!(judge(&nothing_exposed).verdict, Verdict::Inconclusive);
        let mut nothing_forwarded = evidence(Fault::Kill, vec![record(0, 9_000, 9_020)]);
        let here = Answered { door: 0, served_by: 0, hops: 0, placements: 1 };
        nothing_forwarded.records[0].outcome = Outcome::Answered(here);
        assert_eq!(judge(&nothing_forwarded).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_request_in_flight_at_the_fault_belongs_to_the_time_after_it() {
        let records = vec![
            record(0, 9_000, 9_999),
            record(0, 9_990, 10_030),
            record(0, 11_999, 12_500),
            record(0, 12_000, 12_020),
            record(0, 14_000, 14_020),
        ];
        let (_, judgement) = verdict(Fault::Kill, records);
        let counts =
            [judgement.before, judgement.after, judgement.returning, judgement.all].map(|phase| phase.requests);
        assert_eq!(counts, [2, 2, 1, 5]);
    }
}
