//! What a node says at `/metrics`, as numbers.
//!
//! For `node`. Invariants: a metric that the list for operators does not have is an error, so that a slip of the pen
//! in a test does not read as zero; a listed one without a matching series is zero, because a counter begins with its
//! first event.

use std::collections::BTreeMap;

/// Has every metric of a node; the tidy checks hold it to the code.
const LISTED: &str = include_str!("../../deploy/README.md");

/// One reading.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Series>);

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Endings that samples of a histogram have beyond its name.
const ENDINGS: &[&str] = &["_bucket", "_count", "_sum"];

impl Metrics {
    /// Reads the text format of Prometheus.
    ///
    /// # Panics
    /// A line is not of that format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = |line| Series::parse(line).unwrap_or_else(|| panic!("no line of metrics: {line}"));
        Self(lines.map(series).collect())
    }

    /// The sum of all series of `name` that carry all of `labels`.
    ///
    /// # Panics
    /// There is no such metric.
    #[must_use]
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let is_listed = LISTED.contains(&format!("`{stem}`")) || LISTED.contains(&format!("`{stem}{{"));
        assert!(is_listed, "deploy/README.md lists no metric {name}");
        let carries = |series: &Series| {
            labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|own| own == value))
        };
        self.0.iter().filter(|series| series.name == name && carries(series)).map(|series| series.value).sum()
    }

    /// Every gauge of work in hand is zero.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        ["shoal_jobs_held", "shoal_forwards_in_flight", "shoal_queue_rows", "shoal_bytes_in_flight"]
            .iter()
            .all(|gauge| self.sum(gauge, &[]) == 0.0)
    }
}

impl Series {
    /// `name{label="value",…} number`
    fn parse(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
                let (value, after) = unquoted(after)?;
                labels.insert(label.to_owned(), value);
                rest = after;
            }
            rest = &rest[1..];
        }
        let value = rest.trim_start().split(' ').next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// The text up to the closing quote, with escapes undone, and what follows the quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, letter) => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP shoal_jobs What.\n# TYPE shoal_jobs counter\n\
                        shoal_jobs_total{source=\"1\",outcome=\"a\\\"},\\\\ \\n\"} 2\n\
                        shoal_jobs_total{source=\"2\"} 3\n\
                        shoal_batch_rows_count 4\nshoal_batch_rows_bucket{le=\"+Inf\"} 4 # {} 1\n\
                        shoal_wait_seconds -1.5\n# EOF\n";

    #[test]
    fn series_are_added_up_by_name_and_labels() {
        let metrics = Metrics::parse(TEXT);
        for (name, labels, expected) in [
            ("shoal_jobs_total", &[][..], 5.0),
            ("shoal_jobs_total", &[("source", "2")][..], 3.0),
            ("shoal_jobs_total", &[("outcome", "a\"},\\ \n")][..], 2.0),
            ("shoal_jobs_total", &[("source", "3")][..], 0.0),
            ("shoal_batch_rows_count", &[][..], 4.0),
            ("shoal_batch_rows_bucket", &[("le", "+Inf")][..], 4.0),
            ("shoal_wait_seconds", &[][..], -1.5),
            ("shoal_offers_total", &[][..], 0.0),
        ] {
            assert_eq!(metrics.sum(name, labels), expected, "{name} {labels:?}");
        }
    }

    #[test]
    #[should_panic(expected = "lists no metric shoal_job_total")]
    fn a_metric_that_is_not_listed_is_an_error() {
        let _ = Metrics::parse(TEXT).sum("shoal_job_total", &[]);
    }
}
