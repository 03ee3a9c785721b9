//! The result of a drill: its numbers, its verdict, and how both are shown.
//!
//! For `judge`, which fills it, and `kill`, which prints it. The field names are what `--json` prints; the README of
//! this package explains them.
//! Not here: how a number comes about (`judge`).

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::judge::Setting;
use super::watch::Harmed;
use crate::cluster::End;
use crate::report::{Report, table};
use crate::stats::Summary;

/// Exit code of a drill that proved nothing.
const INCONCLUSIVE: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Passed,
    Failed,
    Inconclusive,
}

/// The result of a drill, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Judgement {
    #[serde(flatten)]
    pub(super) setting: Setting,
    pub(super) kills: usize,
    pub(super) requests: u64,
    /// Requests without a right answer, for which a node that lived is to blame.
    pub(super) failed: u64,
    /// Requests without a right answer that the victim's own door lost when it was hit.
    pub(super) failed_own_door: u64,
    /// Of those, the ones that the restarted process itself refused before all others saw it ready.
    pub(super) failed_own_door_returning: u64,
    /// Jobs of others that were at the victim, or sent to it, when it was hit, and were cut short.
    pub(super) exposed: u64,
    /// How the survivors' counters name what became of them.
    pub(super) exposed_by: Harmed,
    /// Jobs of others that the victim held a moment before it was hit.
    pub(super) held_at_fault: u64,
    /// Jobs of others that were offered to it after it was hit.
    pub(super) offered_to_dead: u64,
    /// Connections that the victim's own door lost or refused from the fault until it was back.
    pub(super) exposed_own_door: u64,
    /// Requests meant to be sent within 2 s of a fault.
    pub(super) around: u64,
    /// With 0 failed: the probability that an exposed job fails is below this (95 %).
    pub(super) failure_bound: Option<f64>,
    /// The same for a request within 2 s of a fault.
    pub(super) failure_bound_around: Option<f64>,
    /// Requests whose client went on to another address after the victim's door had refused or lost it.
    pub(super) redialled: u64,
    /// Connections lost or refused by a door whose node lived.
    pub(super) lost_elsewhere: u64,
    pub(super) forwarded_share: f64,
    /// Smallest over the rounds.
    pub(super) victim_share_before_min: f64,
    #[serde(flatten)]
    pub(super) all: Summary,
    /// All nodes up.
    pub(super) before: Summary,
    /// From a fault until the restart, with the requests in flight at the fault.
    pub(super) after: Summary,
    /// From the restart until the node was at work again.
    pub(super) returning: Summary,
    /// From the fault until the last time a job was offered to the dead node: the longest, and each.
    pub(super) detection_ms: f64,
    pub(super) detection_ms_each: Vec<f64>,
    /// From the fault until the last survivor called it dead.
    pub(super) called_dead_ms: f64,
    /// From the fault until the process had ended.
    pub(super) ended_ms: f64,
    /// From the restart until every other node saw it ready.
    pub(super) seen_ms: f64,
    /// From the restart until it was at work again: the longest, and each. At work = it computed for another door;
    /// for the hot door, which has too much of its own for that: it computed anything.
    pub(super) recovery_ms: f64,
    pub(super) recovery_ms_each: Vec<f64>,
    pub(super) placements_per_request: Placements,
    /// Answers asked for again at another node when all was quiet.
    pub(super) answers_checked: u64,
    pub(super) answers_wrong: usize,
    pub(super) counters_at_rest: bool,
    pub(super) victim_ends: Vec<String>,
    pub(super) ends: Vec<End>,
    /// How late the generator itself sent, the 99th percentile.
    pub(super) generator_late_p99_ms: f64,
    pub(super) verdict: Verdict,
    /// Why the verdict is not `passed`.
    pub(super) reasons: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Placements {
    pub(super) mean: f64,
    pub(super) max: u32,
}

impl Judgement {
    pub(crate) fn is_passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Passed => ExitCode::SUCCESS,
            Verdict::Failed => ExitCode::FAILURE,
            Verdict::Inconclusive => ExitCode::from(INCONCLUSIVE),
        }
    }
}

/// Prints the judgement as tables, or as JSON.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn show(report: Report, judgement: &Judgement) -> Result<()> {
    report.json(judgement)?;
    if report.is_json() {
        return Ok(());
    }
    report.line(table(&["", ""], &facts(judgement)).trim_start())?;
    report.line("")?;
    report.line(latencies(judgement))?;
    for reason in &judgement.reasons {
        report.line(format_args!("  {reason}"))?;
    }
    let word = match judgement.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Inconclusive => "inconclusive",
    };
    report.line(format_args!("verdict: {word} (rounds: {})", judgement.kills))?;
    Ok(())
}

fn facts(of: &Judgement) -> Vec<Vec<String>> {
    let bound = |bound: Option<f64>| bound.map_or_else(|| "-".to_owned(), |bound| format!("{:.3} %", 100.0 * bound));
    let Harmed { unreachable, lost, garbled, abandoned } = of.exposed_by;
    let (placements, rest) = (of.placements_per_request, if of.counters_at_rest { "yes" } else { "no" });
    let facts = [
        ("requests", format!("{} ({:.0} % forwarded)", of.requests, 100.0 * of.forwarded_share)),
        ("failed at doors that lived", of.failed.to_string()),
        (
            "jobs of other doors cut short",
            format!("{}; failure probability below {}", of.exposed, bound(of.failure_bound)),
        ),
        ("  of them", format!("lost {lost}, unreachable {unreachable}, abandoned {abandoned}, garbled {garbled}")),
        ("  at the fault, after it", format!("{} held, {} offered", of.held_at_fault, of.offered_to_dead)),
        ("requests within 2 s of a fault", format!("{}; below {}", of.around, bound(of.failure_bound_around))),
        ("at the victim's own door", format!("{} connections lost, {} redialled", of.exposed_own_door, of.redialled)),
        (
            "  failed there",
            format!("{}, {} of them after the restart", of.failed_own_door, of.failed_own_door_returning),
        ),
        ("victim's share of answers before", format!("at least {:.0} %", 100.0 * of.victim_share_before_min)),
        ("victim's end", summary_of(&of.victim_ends)),
        ("fault to end of the process", format!("at most {:.0} ms", of.ended_ms)),
        ("fault to last job offered to it", times(&of.detection_ms_each)),
        ("fault to called dead by all", format!("at most {:.0} ms", of.called_dead_ms)),
        ("restart to seen ready by all", format!("at most {:.0} ms", of.seen_ms)),
        ("restart to at work again", times(&of.recovery_ms_each)),
        ("placements per request", format!("{:.3} on average, at most {}", placements.mean, placements.max)),
        ("answers checked at another node", format!("{}, {} wrong", of.answers_checked, of.answers_wrong)),
        ("counters at rest", rest.to_owned()),
        ("generator late (p99)", format!("{:.1} ms", of.generator_late_p99_ms)),
    ];
    facts.map(|(name, value)| vec![name.to_owned(), value]).to_vec()
}

fn latencies(of: &Judgement) -> String {
    let phases = [("before", of.before), ("after the fault", of.after), ("returning", of.returning), ("all", of.all)];
    let rows = phases.map(|(name, phase)| {
        let mut cells = vec![name.to_owned(), phase.requests.to_string()];
        cells.extend([phase.p50_ms, phase.p99_ms, phase.p999_ms, phase.max_ms].map(|value| format!("{value:.1}")));
        cells
    });
    table(&["latency", "answered", "p50 ms", "p99 ms", "p99.9 ms", "max ms"], &rows)
}

/// `21, 40, 63 ms (smallest, middle, largest)`.
fn times(each_ms: &[f64]) -> String {
    let mut sorted = each_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "-".to_owned(),
        [only] => format!("{only:.0} ms"),
        [first, .., last] => {
            format!("{first:.0}, {:.0}, {last:.0} ms (smallest, middle, largest)", sorted[sorted.len() / 2])
        }
    }
}

/// `signal 9 (20 times)`.
fn summary_of(ends: &[String]) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    ends.iter().for_each(|end| *counts.entry(end).or_default() += 1);
    counts.iter().map(|(end, count)| format!("{end} ({count} times)")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_show_the_ends_and_the_middle() {
        assert_eq!(times(&[]), "-");
        assert_eq!(times(&[7.4]), "7 ms");
        assert_eq!(times(&[30.0, 10.0, 20.0]), "10, 20, 30 ms (smallest, middle, largest)");
    }

    #[test]
    fn equal_ends_are_counted() {
        let ends = ["signal 9", "exit code 0", "signal 9"].map(str::to_owned);
        assert_eq!(summary_of(&ends), "exit code 0 (1 times), signal 9 (2 times)");
    }
}
