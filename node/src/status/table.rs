//! A report as a table that people read on a terminal.
//!
//! Part of `status`. Pure. Invariants: no line is wider than [`COLUMNS`], whatever the nodes say; a number that nobody
//! knows is `-`, never 0; the columns stand where they stood, also when nothing is known.

use super::findings::Kind;
use super::merge::{Node, Report};
use super::text::{cut, list, span, wait, width, wrap};

/// Widest line.
const COLUMNS: usize = 120;
/// Between two columns.
const GAP: usize = 2;
/// Most findings that are told.
const FINDINGS_MAX: usize = 20;
/// The narrowest that names and models are cut to.
const NAME_MIN: usize = 8;
const MODEL_MIN: usize = 16;
/// The longest word for a state.
const STATE_MAX: usize = 8;
/// Stands where nothing is known.
const UNKNOWN: &str = "-";

/// One column: its heading, whether it holds numbers, and its widest.
struct Column {
    heading: &'static str,
    right: bool,
    width_max: usize,
}

/// `NODE` and `MODEL` share what the others leave, so their widest is that.
const SHOWN: [Column; 11] = [
    Column { heading: "NODE", right: false, width_max: COLUMNS },
    Column { heading: "STATE", right: false, width_max: STATE_MAX },
    Column { heading: "DOOR", right: false, width_max: 9 },
    Column { heading: "WAIT", right: true, width_max: 7 },
    Column { heading: "BUSY", right: true, width_max: 4 },
    Column { heading: "HELD", right: true, width_max: 5 },
    Column { heading: "SENT", right: true, width_max: 5 },
    Column { heading: "GATE", right: false, width_max: 8 },
    Column { heading: "CHANGED", right: true, width_max: 7 },
    Column { heading: "WEIGHT", right: false, width_max: 10 },
    Column { heading: "VERSION", right: false, width_max: 10 },
];

type Row = [String; 12];

/// The report, in lines that end with a line feed.
pub(super) fn table(report: &Report) -> String {
    let mut out = summary(report);
    out.push('\n');
    let headings = SHOWN.iter().map(|column| column.heading).chain(["MODEL"]).map(str::to_owned);
    let headings: Row = headings.collect::<Vec<_>>().try_into().expect("as many headings as columns");
    let rows: Vec<Row> = report.nodes.iter().map(row).collect();
    let widths = widths(&headings, &rows);
    line(&mut out, "", &headings, &widths);
    for (node, row) in report.nodes.iter().zip(&rows) {
        let mark = match (node.well, node.asked) {
            (true, true) => "*",
            (true, false) => "",
            (false, true) => "!*",
            (false, false) => "!",
        };
        line(&mut out, mark, row, &widths);
    }
    out.push('\n');
    for finding in report.findings.iter().take(FINDINGS_MAX) {
        let text = format!("{} {}", finding.text, finding.advice);
        wrap(&mut out, if finding.fault { "! " } else { "  " }, text.trim_end(), COLUMNS);
    }
    if FINDINGS_MAX < report.findings.len() {
        out.push_str(&format!("  and {} more; --json tells all\n", report.findings.len() - FINDINGS_MAX));
    }
    if let Some(agreement) = agreement(report) {
        wrap(&mut out, "  ", agreement, COLUMNS);
    }
    out
}

/// How many nodes are in which state, and who says so.
fn summary(report: &Report) -> String {
    let mut states: Vec<(String, usize)> = Vec::new();
    for node in &report.nodes {
        let state = cut(if node.state.is_empty() { "unknown" } else { &node.state }, STATE_MAX);
        match states.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => states.push((state, 1)),
        }
    }
    let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let nodes = if report.nodes.len() == 1 { "1 node" } else { &format!("{} nodes", report.nodes.len()) };
    let text =
        format!("{}: {nodes}, {}; as {} at {} sees it", report.cluster, list(&states), report.asked, report.asked_at);
    let mut out = String::new();
    wrap(&mut out, "", &text, COLUMNS);
    out
}

/// Said only where it is true: with nothing else found, people want to know that the views were compared.
fn agreement(report: &Report) -> Option<&'static str> {
    let disagree = |kind| matches!(kind, Kind::Unheard | Kind::Isolated | Kind::ViewsDiffer | Kind::SizesDiffer);
    let agree = !report.findings.iter().any(|finding| disagree(finding.kind));
    (agree && 1 < report.answered).then_some("The nodes that answered agree on who is alive.")
}

fn row(node: &Node) -> Row {
    let text = |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
    let number = |number: Option<u32>| number.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string());
    let gate = if node.paused { "paused" } else { node.gate.as_deref().unwrap_or_default() };
    let weight = match (node.weight, node.backup) {
        (weight, false) => number(weight),
        (Some(100) | None, true) => "backup".to_owned(),
        (Some(weight), true) => format!("{weight} backup"),
    };
    // What a node that is gone said of its load is no load.
    let gone = matches!(&*node.state, "dead" | "left");
    let of_living = |word: Option<String>| word.filter(|_| !gone).unwrap_or_else(|| UNKNOWN.to_owned());
    [
        text(&node.node_id),
        text(&node.state),
        node.door.word().to_owned(),
        of_living(node.wait_us.map(wait)),
        of_living(node.busy_percent.map(|busy| format!("{}%", busy.min(100)))),
        of_living(node.held.map(|held| held.to_string())),
        number(node.in_flight),
        text(gate),
        node.changed_ms.map_or_else(|| UNKNOWN.to_owned(), span),
        weight,
        text(&node.version),
        text(&node.model),
    ]
}

/// As wide as what stands in each column, up to its widest; names give way to models, and models to the rest.
fn widths(headings: &Row, rows: &[Row]) -> [usize; 12] {
    let natural = |at: usize| rows.iter().chain([headings]).map(|row| width(&row[at])).max().unwrap_or(0);
    let mut widths = [0; 12];
    for (at, column) in SHOWN.iter().enumerate() {
        widths[at] = natural(at).min(column.width_max);
    }
    let fixed: usize = widths[1..11].iter().sum();
    let left = COLUMNS.saturating_sub(MARK + fixed + 11 * GAP);
    let model = natural(11);
    widths[0] = widths[0].min(left.saturating_sub(model.min(MODEL_MIN)).max(NAME_MIN));
    widths[11] = model.min(left.saturating_sub(widths[0]));
    widths
}

/// Columns before the first, for the marks.
const MARK: usize = 3;

fn line(out: &mut String, mark: &str, row: &Row, widths: &[usize; 12]) {
    let mut text = format!("{mark:<MARK$}");
    for (at, cell) in row.iter().enumerate() {
        let cell = cut(cell, widths[at]);
        let pad = " ".repeat(widths[at].saturating_sub(width(&cell)));
        let right = SHOWN.get(at).is_some_and(|column| column.right);
        let (before, after) = if right { (pad.as_str(), "") } else { ("", pad.as_str()) };
        if at != 0 {
            text.push_str(&" ".repeat(GAP));
        }
        text.extend([before, &cell, after]);
    }
    out.push_str(text.trim_end());
    out.push('\n');
}
