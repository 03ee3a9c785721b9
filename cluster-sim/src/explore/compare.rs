//! Runs that are compared: policies, mechanisms, and the reference table.
//!
//! Part of `explore`. All sides of a comparison see the same requests, sizes and faults.

use std::process::ExitCode;

use anyhow::Result;
use cluster_sim::sim::ablation::{MECHANISMS, Mechanism};
use cluster_sim::sim::report::{Report as Sums, Summary};
use cluster_sim::sim::run::Until;
use cluster_sim::sim::scenario::NAMED;
use cluster_sim::sim::table::{CASES, COLUMNS, MEAN_SERVICE, plan};
use serde::Serialize;
use shoal_core::node::Rules;
use shoal_core::route::Policy;

use super::{Options, fleet};
use crate::report::{Report, table};

/// A mechanism whose removal makes some number of some scenario this much worse stays.
const WORSE_BY: f64 = 1.05;
/// Shares of failed requests below this are compared as if they were this.
const FAILED_MIN: f64 = 1e-4;
/// Waits below this are compared as if they were this.
const WAIT_MIN_MS: f64 = 1.0;

#[derive(Debug, Serialize)]
struct Side {
    name: String,
    requests: u64,
    failed: u64,
    lost_at_door: u64,
    broken: u64,
    #[serde(flatten)]
    summary: Summary,
}

/// All seeds together, and every second one from the first and from the second on: what is seen in both halves is no
/// accident of a few seeds.
#[derive(Debug)]
struct Sides {
    all: Side,
    halves: [Side; 2],
}

fn sum(options: &Options, scenario: Option<&str>, name: &str, rules: &Rules) -> Result<Sides> {
    let mut halves = [(Sums::default(), 0), (Sums::default(), 0)];
    let make = |index| options.plan(scenario, options.first_seed + index, rules);
    fleet::run_all((options.threads(), options.seeds), (name, Until::End), make, |index, outcome| {
        let (sums, broken) = &mut halves[usize::from(index % 2 == 1)];
        sums.add(&outcome.report);
        *broken += u64::from(outcome.broken.is_some());
        Ok(())
    })?;
    let side = |sums: &Sums, broken| {
        let (counts, summary) = (sums.counts, sums.summary());
        let (requests, failed, lost_at_door) = (counts.requests, counts.failed(), counts.door_gone);
        Side { name: name.to_owned(), requests, failed, lost_at_door, broken, summary }
    };
    let parts = [side(&halves[0].0, halves[0].1), side(&halves[1].0, halves[1].1)];
    let [(mut sums, first), (other, second)] = halves;
    sums.add(&other);
    Ok(Sides { all: side(&sums, first + second), halves: parts })
}

/// # Errors
/// An option is wrong, or standard output is closed.
pub(super) fn policies(options: &Options, report: Report, policies: &[Policy]) -> Result<ExitCode> {
    let mut sides = Vec::new();
    for policy in policies {
        let mut rules = Rules::default();
        rules.route.policy = *policy;
        sides.push(sum(options, options.scenario.as_deref(), policy.name(), &rules)?.all);
    }
    report.line(table(
        &["policy", "wait p50 ms", "p99", "p99.9", "mean", "by peer %", "failed", "load max/mean", "runs broken"],
        &sides.iter().map(row).collect::<Vec<_>>(),
    ))?;
    #[derive(Serialize)]
    struct Told<'a> {
        explore: &'static str,
        scenario: &'a str,
        seeds: u64,
        first_seed: u64,
        policies: &'a [Side],
    }
    let scenario = options.scenario.as_deref().unwrap_or("random");
    let (seeds, first_seed) = (options.seeds, options.first_seed);
    report.json(&Told { explore: "policies", scenario, seeds, first_seed, policies: &sides })?;
    Ok(ExitCode::SUCCESS)
}

fn row(side: &Side) -> Vec<String> {
    let Summary { wait_p50_ms, wait_p99_ms, wait_p999_ms, wait_mean_ms, .. } = side.summary;
    let mut cells = vec![side.name.clone()];
    cells.extend([wait_p50_ms, wait_p99_ms, wait_p999_ms, wait_mean_ms].map(|ms| format!("{ms:.1}")));
    cells.push(format!("{:.1}", 100.0 * side.summary.by_peer_share));
    cells.push(side.failed.to_string());
    cells.push(format!("{:.2}", side.summary.load_max_to_mean));
    cells.push(side.broken.to_string());
    cells
}

/// What removing one mechanism does to one scenario: above 1 is worse.
#[derive(Clone, Debug, Serialize)]
struct Effect {
    scenario: &'static str,
    p99: f64,
    p999: f64,
    mean: f64,
    /// 99th percentile of the latency, callers whose own node stood still included.
    latency_p99: f64,
    failed: f64,
    executions: f64,
    /// Runs in which an invariant broke, to those of the whole, one more on both sides.
    broken: f64,
    /// The largest of these that both halves of the seeds show.
    worst: f64,
}

impl Effect {
    fn new(scenario: &'static str, whole: &Sides, part: &Sides) -> Self {
        let [p99, p999, mean, latency_p99, failed, executions, broken] = ratios(&whole.all, &part.all);
        let halves = [0, 1].map(|half| ratios(&whole.halves[half], &part.halves[half]));
        let in_both = |number: usize| halves[0][number].min(halves[1][number]);
        let worst = (0..halves[0].len()).map(in_both).fold(0.0, f64::max);
        Self { scenario, p99, p999, mean, latency_p99, failed, executions, broken, worst }
    }
}

fn ratios(whole: &Side, part: &Side) -> [f64; 7] {
    let ratio = |of: fn(&Summary) -> f64, least: f64| of(&part.summary).max(least) / of(&whole.summary).max(least);
    [
        ratio(|summary| summary.wait_p99_ms, WAIT_MIN_MS),
        ratio(|summary| summary.wait_p999_ms, WAIT_MIN_MS),
        ratio(|summary| summary.wait_mean_ms, WAIT_MIN_MS),
        ratio(|summary| summary.latency_p99_ms, WAIT_MIN_MS),
        ratio(|summary| summary.failed_share, FAILED_MIN),
        ratio(|summary| summary.executions_per_request, FAILED_MIN),
        (part.broken + 1) as f64 / (whole.broken + 1) as f64,
    ]
}

#[derive(Debug, Serialize)]
struct Ablated {
    mechanism: &'static str,
    /// When it is gone something is worse by 5 % or more, in both halves of the seeds.
    earns_its_place: bool,
    effects: Vec<Effect>,
}

/// # Errors
/// An option is wrong, or standard output is closed.
pub(super) fn ablate(options: &Options, report: Report) -> Result<ExitCode> {
    let only = options.scenario.as_deref();
    // A thousand nodes are for speed and say nothing that ten do not.
    let scenarios: Vec<&'static str> = NAMED
        .iter()
        .map(|scenario| scenario.name)
        .filter(|&name| only.map_or(name != "scale", |only| only == name))
        .collect();
    let mut whole = Vec::new();
    for scenario in &scenarios {
        whole.push(sum(options, Some(scenario), scenario, &Rules::default())?);
    }
    let mut all = Vec::new();
    for mechanism in MECHANISMS {
        let ablated = ablate_one(options, mechanism, &scenarios, &whole)?;
        show_ablated(report, &ablated)?;
        all.push(ablated);
    }
    #[derive(Serialize)]
    struct Told<'a> {
        explore: &'static str,
        seeds: u64,
        first_seed: u64,
        whole: Vec<&'a Side>,
        mechanisms: &'a [Ablated],
    }
    let (seeds, first_seed) = (options.seeds, options.first_seed);
    let whole = whole.iter().map(|sides| &sides.all).collect();
    report.json(&Told { explore: "ablation", seeds, first_seed, whole, mechanisms: &all })?;
    Ok(ExitCode::SUCCESS)
}

fn ablate_one(
    options: &Options,
    mechanism: &Mechanism,
    scenarios: &[&'static str],
    whole: &[Sides],
) -> Result<Ablated> {
    let mut rules = Rules::default();
    (mechanism.off)(&mut rules);
    let mut effects = Vec::new();
    for (scenario, whole) in scenarios.iter().zip(whole) {
        let part = sum(options, Some(scenario), &format!("without {}: {scenario}", mechanism.name), &rules)?;
        effects.push(Effect::new(scenario, whole, &part));
    }
    effects.sort_by(|one, other| other.worst.total_cmp(&one.worst));
    let earns_its_place = effects.iter().any(|effect| WORSE_BY <= effect.worst);
    Ok(Ablated { mechanism: mechanism.name, earns_its_place, effects })
}

fn show_ablated(report: Report, ablated: &Ablated) -> Result<()> {
    let verdict = if ablated.earns_its_place { "stays" } else { "makes nothing worse" };
    report.line(format_args!("without {}: {verdict}", ablated.mechanism))?;
    let cells = |effect: &Effect| {
        let mut cells = vec![format!("  {}", effect.scenario)];
        let Effect { p99, p999, mean, latency_p99, failed, executions, .. } = effect;
        cells.extend([p99, p999, mean, latency_p99, failed, executions].map(|x| format!("{x:.2}")));
        cells.push(format!("{:.2}", effect.broken));
        cells.push(format!("{:.2}", effect.worst));
        cells
    };
    let rows: Vec<Vec<String>> = ablated.effects.iter().take(4).map(cells).collect();
    let head = [
        "  worst in",
        "wait p99 x",
        "p99.9 x",
        "mean x",
        "latency p99 x",
        "failed x",
        "executions x",
        "broken x",
        "sure x",
    ];
    report.line(table(&head, &rows))?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Cell {
    case: &'static str,
    column: &'static str,
    /// In units of the mean service time.
    wait_mean: f64,
    wait_p99: f64,
    wait_p999: f64,
    by_peer_share: f64,
    requests: u64,
}

/// # Errors
/// Standard output is closed.
pub(super) fn table_of_cases(options: &Options, report: Report) -> Result<ExitCode> {
    let rules = Rules::default();
    let cells_count = (CASES.len() * COLUMNS.len()) as u64;
    let place = |index: u64| {
        let index = usize::try_from(index).expect("fewer cells than a usize holds");
        (&CASES[index / COLUMNS.len()], &COLUMNS[index % COLUMNS.len()])
    };
    let make = |index| {
        let (case, column) = place(index);
        Ok(plan(case, column, options.first_seed, options.requests, &rules))
    };
    let mut cells = Vec::new();
    fleet::run_all((options.threads(), cells_count), ("cells", Until::End), make, |index, outcome| {
        let (case, column) = place(index);
        let summary = outcome.report.summary();
        let in_services = |ms: f64| ms * 1000.0 / MEAN_SERVICE.get() as f64;
        cells.push(Cell {
            case: case.name,
            column: column.name,
            wait_mean: in_services(summary.wait_mean_ms),
            wait_p99: in_services(summary.wait_p99_ms),
            wait_p999: in_services(summary.wait_p999_ms),
            by_peer_share: summary.by_peer_share,
            requests: outcome.report.counts.requests,
        });
        Ok(())
    })?;
    let text = |cell: &Cell| {
        let Cell { wait_mean, wait_p99, wait_p999, by_peer_share, .. } = cell;
        format!("{wait_mean:.2} / {wait_p99:.2} / {wait_p999:.2} / {:.0} %", 100.0 * by_peer_share)
    };
    let row = |cells: &[Cell]| {
        let mut row = vec![cells[0].case.to_owned()];
        row.extend(cells.iter().map(text));
        row
    };
    let rows: Vec<Vec<String>> = cells.chunks(COLUMNS.len()).map(row).collect();
    let mut head = vec!["wait mean / p99 / p99.9 in mean services, by peer"];
    head.extend(COLUMNS.iter().map(|column| column.name));
    report.line(table(&head, &rows))?;
    #[derive(Serialize)]
    struct Told<'a> {
        explore: &'static str,
        seed: u64,
        cells: &'a [Cell],
    }
    report.json(&Told { explore: "table", seed: options.first_seed, cells: &cells })?;
    Ok(ExitCode::SUCCESS)
}
