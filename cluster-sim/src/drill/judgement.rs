//! The result of a drill: its numbers, its verdict, and how both are shown.
//!
//! For `judge`, which fills it, and `drill`, which prints it. The field names are what `--json` prints; the README of
//! this package explains them.
//! Not here: how a number comes about (`judge`, `numbers`).

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::{Serialize, Serializer};

use super::evidence::Setting;
use super::watch::Harmed;
use crate::cluster::End;
use crate::report::{PROVED_NOTHING, Report, table};
use crate::stats::Summary;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Inconclusive,
}

/// Whether an expectation was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Held {
    Yes,
    No,
    /// There was nothing to measure, or not enough for a proof.
    Unknown,
    /// It depends on the speed of the machine, and that was not to be judged.
    NotJudged,
}

/// One expectation and what was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Weighed {
    pub(super) what: String,
    pub(super) value: Option<f64>,
    pub(super) max: Option<f64>,
    pub(super) min: Option<f64>,
    pub(super) held: Held,
}

/// The result of a drill, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Judgement {
    #[serde(flatten)]
    pub(super) setting: Setting,
    pub(super) requests: u64,
    /// Requests without a right answer, for which a node that lived is to blame.
    pub(super) failed: u64,
    /// Requests that were answered with 429 or 503.
    pub(super) refused: u64,
    /// Requests whose text the engines were told to fail on.
    pub(super) poisoned: u64,
    /// Jobs of others that were at a node, or sent to it, when it was hit, and were cut short.
    pub(super) exposed: u64,
    /// How the other nodes' counters name what became of them.
    pub(super) exposed_by: Harmed,
    /// Jobs of others that the nodes held a moment before they were hit.
    pub(super) held_at_fault: u64,
    /// Jobs of others that were offered to them after that.
    pub(super) offered_after: u64,
    /// With 0 failed: the probability that an exposed job fails is below this (95 %).
    pub(super) failure_bound: Option<f64>,
    /// The same for a request, whether exposed or not.
    pub(super) failure_bound_requests: Option<f64>,
    /// Requests whose client went on to another address after the door of a node that was hit had refused or lost it.
    pub(super) redialled: u64,
    /// Requests without a right answer that the doors of nodes that were hit lost.
    pub(super) failed_own_door: u64,
    /// Connections that those doors lost or refused until they were back.
    pub(super) exposed_own_door: u64,
    /// Connections lost or refused by a door whose node lived.
    pub(super) lost_elsewhere: u64,
    pub(super) forwarded_share: f64,
    #[serde(flatten)]
    pub(super) all: Summary,
    /// In the order in which they came first.
    #[serde(serialize_with = "as_map")]
    pub(super) phases: Vec<(String, Summary)>,
    /// From a fault until the last time a job was offered to the node: the longest, and each.
    pub(super) detection_ms: f64,
    pub(super) detection_ms_each: Vec<f64>,
    /// From the return of a node until it computed for another door: the longest, and each.
    pub(super) recovery_ms: f64,
    pub(super) recovery_ms_each: Vec<f64>,
    pub(super) placements_per_request: Placements,
    /// Answers that came after their job had moved on.
    pub(super) late_answers_dropped: u64,
    /// Datagrams between nodes that the fault proxy lost; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lost_datagrams: Option<u64>,
    /// Answers asked for again at another node when all was quiet.
    pub(super) answers_checked: u64,
    pub(super) answers_wrong: usize,
    pub(super) counters_at_rest: bool,
    pub(super) faults: usize,
    /// How the processes ended that were to end.
    pub(super) fault_ends: Vec<String>,
    pub(super) ends: Vec<End>,
    /// How late the generator itself sent, the 99th percentile.
    pub(super) generator_late_p99_ms: f64,
    pub(super) expected: Vec<Weighed>,
    pub(super) verdict: Verdict,
    /// Why the verdict is not `passed`.
    pub(super) reasons: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Placements {
    pub(super) mean: f64,
    pub(super) max: u32,
}

fn as_map<S: Serializer>(phases: &[(String, Summary)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(phases.iter().map(|(name, summary)| (name, summary)))
}

impl fmt::Display for Weighed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.map_or_else(|| "unknown".to_owned(), number);
        write!(out, "{} is {value}", self.what)?;
        if let Some(max) = self.max {
            write!(out, ", at most {}", number(max))?;
        }
        if let Some(min) = self.min {
            write!(out, ", at least {}", number(min))?;
        }
        out.write_str(match self.held {
            Held::Yes => ": met",
            Held::No => ": missed",
            Held::Unknown => ": proves nothing",
            Held::NotJudged => ": not judged",
        })
    }
}

/// Three significant digits, and whole numbers whole.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || 100.0 <= value.abs() { format!("{value:.0}") } else { format!("{value:.2}") }
}

impl Judgement {
    pub(crate) fn is_passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// What all drills of a run mean to whoever started it: one failure is worse than any number that proved nothing.
///
/// # Errors
/// No drill was carried out, which must not look like success.
pub(crate) fn exit_code(verdicts: &[Verdict]) -> Result<ExitCode> {
    ensure!(!verdicts.is_empty(), "every drill was left out, so nothing was tried: see above what each of them needs");
    Ok(if verdicts.contains(&Verdict::Failed) {
        ExitCode::FAILURE
    } else if verdicts.contains(&Verdict::Inconclusive) {
        ExitCode::from(PROVED_NOTHING)
    } else {
        ExitCode::SUCCESS
    })
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
    report.line("")?;
    for weighed in &judgement.expected {
        report.line(format_args!("  {weighed}"))?;
    }
    for reason in &judgement.reasons {
        report.line(format_args!("  because {reason}"))?;
    }
    report.line(format_args!("verdict of {}: {}", judgement.setting.drill, judgement.word()))?;
    Ok(())
}

/// One line a drill, for the end of `all`.
pub(crate) fn overview(judgements: &[Judgement]) -> String {
    let rows: Vec<Vec<String>> = judgements
        .iter()
        .map(|of| {
            let time = |value: f64| if 0.0 < value { format!("{value:.0}") } else { "-".to_owned() };
            vec![
                of.setting.drill.clone(),
                of.requests.to_string(),
                of.failed.to_string(),
                of.exposed.to_string(),
                bound(of.failure_bound),
                of.redialled.to_string(),
                format!("{:.1}", of.all.p50_ms),
                format!("{:.1}", of.all.p99_ms),
                time(of.detection_ms),
                time(of.recovery_ms),
                of.word().to_owned(),
            ]
        })
        .collect();
    let head = [
        "drill",
        "requests",
        "failed",
        "exposed",
        "below",
        "redialled",
        "p50 ms",
        "p99 ms",
        "detect ms",
        "recover ms",
        "verdict",
    ];
    table(&head, &rows)
}

fn bound(bound: Option<f64>) -> String {
    bound.map_or_else(|| "-".to_owned(), |bound| format!("{:.3} %", 100.0 * bound))
}

fn facts(of: &Judgement) -> Vec<Vec<String>> {
    let Harmed { unreachable, lost, garbled, abandoned } = of.exposed_by;
    let (placements, rest) = (of.placements_per_request, if of.counters_at_rest { "yes" } else { "no" });
    let mut facts = vec![
        (
            "requests",
            format!(
                "{} ({:.0} % forwarded), failed below {}",
                of.requests,
                100.0 * of.forwarded_share,
                bound(of.failure_bound_requests)
            ),
        ),
        ("failed at doors that lived", of.failed.to_string()),
        ("jobs of other doors cut short", format!("{}; failed below {}", of.exposed, bound(of.failure_bound))),
        ("  of them", format!("lost {lost}, unreachable {unreachable}, abandoned {abandoned}, garbled {garbled}")),
        ("  at the fault, after it", format!("{} held, {} offered", of.held_at_fault, of.offered_after)),
        (
            "at doors of nodes that were hit",
            format!(
                "{} connections lost, {} redialled, {} failed",
                of.exposed_own_door, of.redialled, of.failed_own_door
            ),
        ),
        ("fault to last job offered", times(&of.detection_ms_each)),
        ("return to work", times(&of.recovery_ms_each)),
        ("placements per request", format!("{:.3} on average, at most {}", placements.mean, placements.max)),
        ("late answers dropped", of.late_answers_dropped.to_string()),
        ("answers checked at another node", format!("{}, {} wrong", of.answers_checked, of.answers_wrong)),
        ("counters at rest", rest.to_owned()),
        ("generator late (p99)", format!("{:.1} ms", of.generator_late_p99_ms)),
    ];
    if let Some(lost) = of.lost_datagrams {
        facts.push(("datagrams lost by the proxy", lost.to_string()));
    }
    if 0 < of.refused {
        facts.push(("refused", of.refused.to_string()));
    }
    if 0 < of.poisoned {
        facts.push(("poisoned", of.poisoned.to_string()));
    }
    if !of.fault_ends.is_empty() {
        facts.push(("ends of processes", summary_of(&of.fault_ends)));
    }
    facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}

fn latencies(of: &Judgement) -> String {
    let row = |name: &str, phase: &Summary| {
        let mut cells = vec![name.to_owned(), phase.requests.to_string()];
        cells.extend([phase.p50_ms, phase.p99_ms, phase.p999_ms, phase.max_ms].map(|value| format!("{value:.1}")));
        cells
    };
    let mut rows: Vec<Vec<String>> = of.phases.iter().map(|(name, phase)| row(name, phase)).collect();
    rows.push(row("all", &of.all));
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
    fn the_worst_verdict_counts_and_none_at_all_is_an_error() {
        use Verdict::{Failed, Inconclusive, Passed};
        assert_eq!(exit_code(&[Passed, Passed]).unwrap(), ExitCode::SUCCESS);
        assert_eq!(exit_code(&[Inconclusive, Passed]).unwrap(), ExitCode::from(3));
        assert_eq!(exit_code(&[Inconclusive, Failed, Passed]).unwrap(), ExitCode::FAILURE);
        assert!(exit_code(&[]).is_err());
    }

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

    #[test]
    fn an_expectation_says_its_value_its_bounds_and_whether_it_is_met() {
        let weighed = Weighed {
            what: "p99_ms of phase slow".to_owned(),
            value: Some(61.24),
            max: Some(60.0),
            min: None,
            held: Held::No,
        };
        assert_eq!(weighed.to_string(), "p99_ms of phase slow is 61.24, at most 60: missed");
    }
}
