//! Numbers about many requests: latency percentiles and what "no failure seen" is worth.
//!
//! For the drills and benchmarks. Latencies count from the moment at which a request was meant to be sent, so a
//! stall of the shoal or of the generator shows in every request that it delayed.
//! Invariants: a latency above [`LATENCY_US_MAX`] is counted as that, never dropped.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart from a longer one; above every request limit of this tool.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Latencies with three significant digits.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// Percentiles in milliseconds; all zero when nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) requests: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("1 is below the maximum, 3 digits fit");
        Self(histogram)
    }

    pub(crate) fn record(&mut self, latency_us: u64) {
        self.0.saturating_record(latency_us.max(1));
    }

    pub(crate) fn summary(&self) -> Summary {
        let at = |quantile| millis(self.0.value_at_quantile(quantile));
        Summary {
            requests: self.0.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: if self.0.is_empty() { 0.0 } else { millis(self.0.max()) },
        }
    }
}

impl FromIterator<u64> for Latencies {
    fn from_iter<I: IntoIterator<Item = u64>>(latencies_us: I) -> Self {
        let mut all = Self::new();
        latencies_us.into_iter().for_each(|latency_us| all.record(latency_us));
        all
    }
}

/// Microseconds as milliseconds with three decimals.
pub(crate) fn millis(us: u64) -> f64 {
    u32::try_from(us).map_or(f64::INFINITY, f64::from) / 1000.0
}

/// Microseconds of a duration, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Upper end of the 95 % interval of a failure probability after `trials` trials without one failure.
///
/// `None` without a trial: then nothing is known. Source: the rule of three, -ln(0.05) is 2.996.
pub(crate) fn rule_of_three(trials: u64) -> Option<f64> {
    (0 < trials).then(|| (3.0 / trials as f64).min(1.0))
}

/// `part` of `whole`, 0 when the whole is nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The middle one; of an even number the lower one of the middle two, so that it is a value that was seen. `None` of
/// none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_right_ends() {
        let summary = (1..=1000u64).map(|n| n * 1000).collect::<Latencies>().summary();
        assert_eq!(summary.requests, 1000);
        for (value, expected) in [(summary.p50_ms, 500.0), (summary.p99_ms, 990.0), (summary.max_ms, 1000.0)] {
            assert!((value - expected).abs() <= expected / 500.0, "{value} is not about {expected}");
        }
    }

    #[test]
    fn nothing_counted_is_all_zero() {
        let summary = Latencies::new().summary();
        assert_eq!(summary, Summary { requests: 0, p50_ms: 0.0, p99_ms: 0.0, p999_ms: 0.0, max_ms: 0.0 });
    }

    #[test]
    fn a_latency_above_the_scale_is_kept_as_the_largest() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX);
        let summary = latencies.summary();
        assert_eq!(summary.requests, 1);
        assert!(599_000.0 < summary.max_ms, "{summary:?}");
    }

    #[test]
    fn a_median_is_a_value_that_was_seen() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn no_trial_bounds_nothing_and_three_hundred_bound_one_percent() {
        assert_eq!(rule_of_three(0), None);
        assert_eq!(rule_of_three(1), Some(1.0));
        assert_eq!(rule_of_three(300), Some(0.01));
    }
}
