//! Every metric that a node writes is explained to the one who reads it, and nothing else is.
//!
//! For whoever adds a metric to the `telemetry` module of the node: it goes into the table of `deploy/README.md`, or
//! into a rule or dashboard below `deploy/`, in the same commit.
//! Invariants: metrics are registered in `telemetry` only, each by a literal name, under the prefix of the registry.
//! Not here: the values, which the black-box suite reads from `/metrics`.

use std::collections::BTreeMap;

use crate::repo::{Finding, Repo, assert_found, assert_none};
use crate::source::{Kind, Token, reads, tokens};

/// The module that defines metrics, as a file or as a folder.
const TELEMETRY: [&str; 2] = ["node/src/telemetry.rs", "node/src/telemetry/"];

/// What the registry puts before every name.
const PREFIX: &str = "shoal_";

/// A comment with these words above a registration says that no reader outside the code is meant.
const INTERNAL: &str = "internal metric";

/// What the text format may add to a registered name.
const SUFFIXES: &[&str] = &["", "_total", "_info", "_bucket", "_sum", "_count"];

/// A metric's name, with its prefix and its unit, and where it is registered.
struct Metric {
    name: String,
    place: String,
    line: usize,
    internal: bool,
}

fn registered(repo: &Repo) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for (place, text) in repo.texts(".rs") {
        if !TELEMETRY.iter().any(|module| place.starts_with(module)) {
            continue;
        }
        let (comments, code): (Vec<_>, Vec<_>) = tokens(&text).into_iter().partition(|it| it.kind == Kind::Comment);
        let marks = comments.iter().filter(|comment| comment.text.contains(INTERNAL));
        let marked: Vec<usize> = marks.map(|comment| comment.line).collect();
        for at in 0..code.len() {
            if let Some(name) = registration(&code, at) {
                let line = code[at].line;
                let internal = marked.contains(&line.saturating_sub(1));
                metrics.push(Metric { name: format!("{PREFIX}{name}"), place: place.clone(), line, internal });
            }
        }
    }
    metrics
}

/// The name, with its unit, that a call of `register` or `register_with_unit` at `at` gives.
fn registration(code: &[Token<'_>], at: usize) -> Option<String> {
    let has_unit = match code[at].text {
        "register" => false,
        "register_with_unit" => true,
        _ => return None,
    };
    let literal = code.get(at + 2).filter(|token| token.kind == Kind::Literal && reads(code, at + 1, &["("]))?;
    let name = literal.text.trim_matches('"');
    if !has_unit {
        return Some(name.to_owned());
    }
    let unit = (at..code.len()).find(|unit| reads(code, *unit, &["Unit", "::"]))?;
    Some(format!("{name}_{}", code.get(unit + 2)?.text.to_lowercase()))
}

/// The metrics named below `deploy/`, each with one place.
fn documented(repo: &Repo) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (path, text) in repo.texts("").into_iter().filter(|(path, _)| path.starts_with("deploy/")) {
        for (index, line) in text.lines().enumerate() {
            let words = line.split(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
            for name in words.filter(|word| is_metric(word)) {
                names.entry(name.to_owned()).or_insert_with(|| format!("{path}:{}", index + 1));
            }
        }
    }
    names
}

fn is_metric(word: &str) -> bool {
    let plain = |letter: char| letter == '_' || letter.is_ascii_lowercase() || letter.is_ascii_digit();
    word.starts_with(PREFIX) && word.chars().all(plain)
}

fn is_form_of(written: &str, name: &str) -> bool {
    written.strip_prefix(name).is_some_and(|suffix| SUFFIXES.contains(&suffix))
}

fn metrics(repo: &Repo) -> Vec<Finding> {
    let registered = registered(repo);
    let documented = documented(repo);
    if registered.is_empty() {
        let fix = "register each metric in the module telemetry, its name as a literal";
        return vec![Finding::new(TELEMETRY[0], "no metric is registered here", fix)];
    }
    let told = |metric: &&Metric| metric.internal || documented.keys().any(|name| is_form_of(name, &metric.name));
    let silent = registered.iter().filter(|metric| !told(metric)).map(|metric| {
        let fault = format!("`{}` is explained nowhere in deploy/", metric.name);
        let fix = format!("add a row to the table of deploy/README.md, or a comment `{INTERNAL}: why` above it");
        Finding::at(&metric.place, metric.line, fault, fix)
    });
    let known = |name: &str| registered.iter().any(|metric| is_form_of(name, &metric.name));
    let unknown = documented.iter().filter(|(name, _)| !known(name)).map(|(name, place)| {
        let fix = "correct the name, or take it out";
        Finding::new(place, format!("no node writes `{name}`"), fix)
    });
    silent.chain(unknown).collect()
}

#[test]
fn every_metric_is_explained_and_every_explained_metric_exists() {
    assert_none(&metrics(&Repo::here()));
}

#[test]
fn a_silent_metric_and_an_invented_one_are_found() {
    let code = "registry.register(\"jobs\", \"Jobs\", a);\nregistry.register(\"rows\", \"Rows\", b);\n\
                registry.register_with_unit(\n\"wait\", \"Wait\", Unit::Seconds, c);\n\
                // internal metric: read by the suite only.\nregistry.register(\"secret\", \"Secret\", d);\n\
                // registry.register(\"comment\", \"Comment\", e);\n";
    let repo = Repo::example(&[
        ("node/src/telemetry.rs", code),
        ("deploy/README.md", "| `shoal_jobs_total` | jobs |\n| `shoal_row_total` | a slip |\n"),
        ("deploy/rules.yaml", "expr: rate(shoal_wait_seconds_sum[1m])\n"),
    ]);
    let expected = [
        "node/src/telemetry.rs:2: `shoal_rows` is explained nowhere",
        "deploy/README.md:2: no node writes `shoal_row_total`",
    ];
    assert_found(&metrics(&repo), &expected);
}

#[test]
fn a_telemetry_without_names_is_found() {
    let repo = Repo::example(&[("node/src/telemetry/mod.rs", "//! Empty.\n")]);
    assert_found(&metrics(&repo), &["no metric is registered here"]);
}
