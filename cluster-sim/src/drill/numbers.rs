//! From the evidence of a drill to its numbers.
//!
//! For `judge`; pure. The question is what clients of the nodes that lived saw. A client of the door of a
//! node that was hit may lose its connection, as with any server, and goes to the next address: counted, and kept
//! apart.
//! Invariants: a request counts as failed exactly once; a poisoned request counts neither as failed nor in latencies.

use std::collections::BTreeMap;

use super::evidence::{Evidence, Fault, FaultKind, Phase};
use super::measures::Measure;
use super::watch::Harmed;
use crate::load::{Outcome, Record};
use crate::stats::{Latencies, Summary, millis, share};

/// Everything that a measure can ask for.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    evidence: &'a Evidence,
    pub(super) blame: Blame,
    pub(super) harmed: Harmed,
}

impl<'a> Numbers<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let harmed = evidence.faults.iter().map(|fault| fault.harmed).fold(Harmed::default(), Harmed::plus);
        Self { evidence, blame: Blame::of(evidence), harmed }
    }

    /// The value of `measure`, of one phase and of one node where that is asked for; `None` = there was nothing to
    /// measure.
    pub(super) fn value(&self, measure: Measure, phase: Option<&str>, node: Option<u16>) -> Option<f64> {
        let evidence = self.evidence;
        let longest = |time: &dyn Fn(&Fault) -> Option<u64>| evidence.faults.iter().filter_map(time).max().map(millis);
        let whole = |count: u64| Some(count as f64);
        match measure {
            Measure::Failed => whole(self.blame.failed_in(evidence, phase)),
            Measure::Refused => {
                let refused = self.records(phase).filter(|record| matches!(record.outcome, Outcome::Refused { .. }));
                whole(refused.count() as u64)
            }
            Measure::Poisoned => whole(self.blame.poisoned),
            Measure::Exposed => self.left().next().and_then(|_| whole(self.harmed.total())),
            Measure::Redialled => whole(self.blame.redialled),
            Measure::FailedOwnDoor => whole(self.blame.failed_own_door),
            Measure::LateAnswers => whole(evidence.late_answers),
            Measure::LostDatagrams => evidence.lost_datagrams.and_then(whole),
            Measure::FalseDeaths => nonzero(evidence.told.of_peers).and_then(|_| whole(self.false_deaths(phase))),
            Measure::OfferedAfterMax => self.left().map(|fault| fault.offered_after_max as f64).reduce(f64::max),
            Measure::PlacementsMax => {
                self.records(None).filter_map(|record| Some(f64::from(record.answered()?.placements))).reduce(f64::max)
            }
            Measure::ForwardedShare => {
                let answers = || self.records(phase).filter_map(Record::answered);
                let forwarded = answers().filter(|answer| answer.served_by != answer.door).count() as u64;
                nonzero(answers().count() as u64).map(|answered| share(forwarded, answered))
            }
            Measure::ShareOfFair => {
                let own = self.served(phase).get(usize::from(node?) - 1).copied()?;
                self.of_fair(phase, own)
            }
            Measure::Unevenness => self.of_fair(phase, self.served(phase).into_iter().max()?),
            Measure::GoodputShare => {
                let seconds =
                    self.phases(phase).map(|phase| millis(phase.until_us - phase.from_us) / 1000.0).sum::<f64>();
                let answered = evidence.records.iter().filter(|record| {
                    record.answered().is_some()
                        && self.phases(phase).any(|phase| (phase.from_us..phase.until_us).contains(&record.done_us))
                });
                let capacity_per_s = evidence.setting.capacity_per_s?;
                (0.0 < seconds).then(|| answered.count() as f64 / seconds / capacity_per_s)
            }
            Measure::P50Ms => self.summary(phase).map(|summary| summary.p50_ms),
            Measure::P99Ms => self.summary(phase).map(|summary| summary.p99_ms),
            Measure::P999Ms => self.summary(phase).map(|summary| summary.p999_ms),
            Measure::MaxMs => self.summary(phase).map(|summary| summary.max_ms),
            Measure::RefusalP99Ms => {
                let refused = self.records(phase).filter(|record| matches!(record.outcome, Outcome::Refused { .. }));
                let summary = refused.map(Record::latency_us).collect::<Latencies>().summary();
                (0 < summary.requests).then_some(summary.p99_ms)
            }
            Measure::DetectionMs => longest(&detection_us),
            Measure::CalledDeadMs => longest(&|fault| Some(fault.called_dead_us? - fault.at_us)),
            Measure::EndedMs => longest(&|fault| Some(fault.ended_us? - fault.at_us)),
            Measure::ReplacedP99Ms => {
                let summary = self.replaced_us().collect::<Latencies>().summary();
                (0 < summary.requests).then_some(summary.p99_ms)
            }
            Measure::SeenMs => longest(&|fault| Some(fault.seen_us?.saturating_sub(fault.back_us?))),
            Measure::RecoveryMs => longest(&|fault| Some(fault.works_us? - fault.back_us?)),
            Measure::RssMb => {
                let last = self.phases(phase).last()?;
                last.rss_mb.iter().copied().reduce(f64::max)
            }
        }
    }

    /// The faults of which it is known what followed.
    fn left(&self) -> impl Iterator<Item = &'a Fault> {
        self.evidence.faults.iter().filter(|fault| fault.left)
    }

    /// Each detection, for people.
    pub(super) fn detections_ms(&self) -> Vec<f64> {
        self.evidence.faults.iter().filter_map(detection_us).map(millis).collect()
    }

    /// Each return to work, for people.
    pub(super) fn recoveries_ms(&self) -> Vec<f64> {
        let faults = self.evidence.faults.iter();
        faults.filter_map(|fault| Some(millis(fault.works_us? - fault.back_us?))).collect()
    }

    /// Latencies of right answers; `None` when there were none.
    pub(super) fn summary(&self, phase: Option<&str>) -> Option<Summary> {
        let answered = self.records(phase).filter(|record| record.answered().is_some() && !record.poisoned);
        let summary = answered.map(Record::latency_us).collect::<Latencies>().summary();
        (0 < summary.requests).then_some(summary)
    }

    fn phases(&self, name: Option<&str>) -> impl Iterator<Item = &'a Phase> {
        self.evidence.phases.iter().filter(move |phase| name.is_none_or(|name| phase.name == name))
    }

    /// The records of one phase, or all.
    fn records(&self, phase: Option<&str>) -> impl Iterator<Item = &'a Record> {
        let evidence = self.evidence;
        evidence.records.iter().filter(move |record| phase.is_none_or(|name| phase_of(evidence, record) == name))
    }

    /// Answers that each node computed.
    fn served(&self, phase: Option<&str>) -> Vec<u64> {
        let mut served = vec![0; usize::from(self.evidence.setting.nodes)];
        self.records(phase).filter_map(Record::answered).for_each(|answer| served[answer.served_by] += 1);
        served
    }

    fn of_fair(&self, phase: Option<&str>, own: u64) -> Option<f64> {
        let served = self.served(phase);
        nonzero(served.iter().sum()).map(|all| share(own, all) * served.len() as f64)
    }

    /// How often a node was called dead whose process ran, and whom nothing had been done to.
    fn false_deaths(&self, phase: Option<&str>) -> u64 {
        let evidence = self.evidence;
        let in_phase = |at_us: u64| {
            phase.is_none() || self.phases(phase).any(|phase| (phase.from_us..phase.until_us).contains(&at_us))
        };
        let is_false = |at_us: u64, peer: &str| {
            let node = evidence.node_ids.iter().position(|node_id| node_id == peer);
            !evidence.faults.iter().any(|fault| Some(fault.node) == node && fault.excuses(at_us, at_us))
        };
        // What is written when the shoal is ended is no news.
        let end_us = evidence.phases.last().map_or(0, |phase| phase.until_us);
        let called = evidence.told.called_dead.iter();
        called.filter(|(at_us, peer)| *at_us < end_us && in_phase(*at_us) && is_false(*at_us, peer)).count() as u64
    }

    /// From each kill until each of its jobs was cut short, which is when it is placed again.
    fn replaced_us(&self) -> impl Iterator<Item = u64> {
        let evidence = self.evidence;
        let kills = evidence.faults.iter().filter(|fault| fault.kind == FaultKind::Kill);
        kills.flat_map(move |kill| {
            let node_id = evidence.node_ids[kill.node].as_str();
            let until_us = kill.back_us.unwrap_or(u64::MAX);
            let broke = evidence.told.broke.iter().filter(move |(_, peer)| peer == node_id);
            broke.filter(move |(at_us, _)| (kill.at_us..until_us).contains(at_us)).map(|(at_us, _)| at_us - kill.at_us)
        })
    }
}

/// Where nothing was offered any more, it was noticed at once; where nobody looked, nothing is known.
fn detection_us(fault: &Fault) -> Option<u64> {
    fault.left.then(|| fault.last_offer_us.unwrap_or(fault.at_us) - fault.at_us)
}

fn nonzero(count: u64) -> Option<u64> {
    (0 < count).then_some(count)
}

/// The phase in which the request was meant to be sent; or the fault that came while it was in flight.
fn phase_of<'a>(evidence: &'a Evidence, record: &Record) -> &'a str {
    let at = evidence.phases.iter().rposition(|phase| phase.from_us <= record.intended_us).unwrap_or(0);
    let hit = evidence.phases[at + 1..].iter().find(|phase| phase.fault && phase.from_us <= record.done_us);
    hit.map_or(&evidence.phases[at].name, |phase| &phase.name)
}

/// Who is to blame for what clients lost.
#[derive(Debug, Default)]
pub(super) struct Blame {
    pub(super) failed: u64,
    pub(super) failed_own_door: u64,
    pub(super) exposed_own_door: u64,
    pub(super) redialled: u64,
    pub(super) lost_elsewhere: u64,
    /// Connections that the generator could not even try to make.
    pub(super) never_dialled: u64,
    pub(super) refused: u64,
    pub(super) poisoned: u64,
    /// Poisoned requests that got an answer: then the poison was none.
    pub(super) poisoned_answered: u64,
    /// Complaints about nodes that lived, with their number.
    complaints: BTreeMap<String, u64>,
}

/// What became of a request, as far as somebody is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guilt {
    Nobody,
    OwnDoor,
    Failed,
}

impl Blame {
    fn of(evidence: &Evidence) -> Self {
        let mut blame = Self::default();
        evidence.records.iter().for_each(|record| blame.add(evidence, record));
        blame
    }

    fn add(&mut self, evidence: &Evidence, record: &Record) {
        let excused = |door: usize, at_us: u64| {
            evidence.faults.iter().any(|fault| fault.node == door && fault.excuses(at_us, at_us))
        };
        let mut redialled = false;
        for loss in &record.losses {
            if loss.own {
                self.never_dialled += 1;
            } else if excused(loss.door, loss.at_us) {
                self.exposed_own_door += 1;
                redialled = true;
            } else {
                self.lost_elsewhere += 1;
                let complaint = format!("door {}: {}", loss.door + 1, loss.what);
                *self.complaints.entry(complaint).or_default() += 1;
            }
        }
        self.refused += u64::from(matches!(record.outcome, Outcome::Refused { .. }));
        if record.poisoned {
            self.poisoned += 1;
            self.poisoned_answered += u64::from(record.answered().is_some());
        }
        match guilt(evidence, record) {
            Guilt::Nobody => self.redialled += u64::from(redialled && record.answered().is_some()),
            Guilt::OwnDoor => self.failed_own_door += 1,
            Guilt::Failed => {
                self.failed += 1;
                let complaint = match &record.outcome {
                    Outcome::Answered(_) => unreachable!("nobody is to blame for an answer"),
                    Outcome::Refused { door, status } => format!("door {}: status {status}", door + 1),
                    Outcome::Failed { door, what, .. } => format!("door {}: {what}", door + 1),
                };
                *self.complaints.entry(complaint).or_default() += 1;
            }
        }
    }

    fn failed_in(&self, evidence: &Evidence, phase: Option<&str>) -> u64 {
        let Some(name) = phase else { return self.failed };
        let in_phase = evidence.records.iter().filter(|record| phase_of(evidence, record) == name);
        in_phase.filter(|record| guilt(evidence, record) == Guilt::Failed).count() as u64
    }

    /// The commonest complaints, most first.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut sorted: Vec<(&String, &u64)> = self.complaints.iter().collect();
        sorted.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
        sorted.iter().take(8).map(|(what, count)| format!("{count} times: {what}")).collect()
    }
}

fn guilt(evidence: &Evidence, record: &Record) -> Guilt {
    let (door, answered) = match record.outcome {
        Outcome::Answered(_) => return Guilt::Nobody,
        // It is the request's own fault, and told so by the status that its dialect has for a model that failed; a lost
        // connection or a refusal would not be.
        Outcome::Failed { ref what, .. } if record.poisoned && what.starts_with("status 424:") => return Guilt::Nobody,
        Outcome::Refused { .. } if evidence.setting.may_refuse => return Guilt::Nobody,
        // A node that has just started holds its callers for two seconds. When by then no node of the shoal can
        // compute, as with models that take longer to load, there is nobody to wait for, and 503 is the right answer.
        Outcome::Refused { status: 503, .. } if nobody_was_ready(evidence, record.done_us) => return Guilt::OwnDoor,
        Outcome::Refused { door, .. } => (door, true),
        Outcome::Failed { door, answered, .. } => (door, answered),
    };
    // Whoever answers runs, and has to answer rightly, whatever was done to it before.
    if answered {
        return Guilt::Failed;
    }
    let was_down = |node: usize| {
        evidence
            .faults
            .iter()
            .filter(move |fault| fault.node == node && fault.excuses(record.intended_us, record.done_us))
    };
    // Who is asked to leave has time to finish: then not even its own clients may lose an answer.
    let lost_with_its_door =
        was_down(door).any(|fault| matches!(fault.kind, FaultKind::Kill | FaultKind::Stop | FaultKind::Late));
    let nobody_was_there = (0..evidence.node_ids.len()).all(|node| was_down(node).next().is_some());
    if lost_with_its_door || nobody_was_there { Guilt::OwnDoor } else { Guilt::Failed }
}

/// Whether every node had been hit and none was seen back, nor had given a right answer since the first one came back.
fn nobody_was_ready(evidence: &Evidence, at_us: u64) -> bool {
    let down = |node: usize| evidence.faults.iter().rfind(|fault| fault.node == node && fault.excuses(at_us, at_us));
    let Some(all) = (0..evidence.node_ids.len()).map(down).collect::<Option<Vec<_>>>() else { return false };
    let Some(first_back_us) = all.iter().filter_map(|fault| fault.back_us).min() else { return false };
    let since = first_back_us..=at_us;
    !evidence.records.iter().any(|record| record.answered().is_some() && since.contains(&record.done_us))
}
