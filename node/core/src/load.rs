//! What a node says about its load, and how that claim ages.
//!
//! For `peers`, which keeps one [`LoadView`] a peer. Load is time: how long a new job would wait there before it
//! starts, and what it would then cost.
//! Invariants: an unknown or old load is the mean of the others: neither idle nor full; an older report never replaces
//! a newer one, by whatever way it came.

use crate::cost::Cost;
use crate::id::BootId;
use crate::time::{Micros, MonoTime};

/// What a node said about itself at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The run of the process that speaks.
    pub boot: BootId,
    /// Counts the reports of that run; a larger number is newer.
    pub seq: u64,
    /// Time until a new job would start to run.
    pub wait: Micros,
    /// What a batch costs there.
    pub cost: Cost,
    /// Whether the node wants new work: its engine is ready and it is not draining.
    pub accepting: bool,
}

/// How a claim ages.
#[derive(Clone, Copy, Debug)]
pub struct LoadRules {
    /// Up to this age a claim counts in full.
    pub fresh: Micros,
    /// From this age on a claim counts for nothing and the mean of the others stands in its place.
    pub stale: Micros,
}

impl Default for LoadRules {
    fn default() -> Self {
        Self { fresh: Micros::from_ms(250), stale: Micros::from_ms(3000) }
    }
}

/// The newest report of one peer and when it came.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadView {
    newest: Option<(Report, MonoTime)>,
}

impl LoadView {
    /// Takes `report` when it is newer than what is known. Returns whether it was.
    ///
    /// Reports of one peer come by gossip and on its answers, so an older one may arrive later.
    pub fn on_report(&mut self, now: MonoTime, report: Report) -> bool {
        let newer = self.newest.is_none_or(|(known, _)| (known.boot, known.seq) < (report.boot, report.seq));
        if newer {
            self.newest = Some((report, now));
        }
        newer
    }

    /// The newest report.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.newest.map(|(report, _)| report)
    }

    /// The wait to reckon with: the claim while fresh, the `mean` of the others once stale, between them in between.
    #[must_use]
    pub fn wait(&self, now: MonoTime, rules: &LoadRules, mean: Micros) -> Micros {
        let Some((report, heard)) = self.newest else { return mean };
        let age = now.since(heard);
        if age <= rules.fresh {
            return report.wait;
        }
        if rules.stale <= age {
            return mean;
        }
        let (span, old) = (u128::from((rules.stale - rules.fresh).get()), u128::from((age - rules.fresh).get()));
        let mixed = u128::from(report.wait.get()) * (span - old) + u128::from(mean.get()) * old;
        Micros::new(u64::try_from(mixed / span).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(boot: u64, seq: u64, wait_ms: u64) -> Report {
        Report { boot: BootId(boot), seq, wait: Micros::from_ms(wait_ms), cost: Cost::default(), accepting: true }
    }

    fn at_ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    #[test]
    fn a_report_that_comes_late_changes_nothing() {
        let mut view = LoadView::default();
        assert!(view.on_report(at_ms(0), report(5, 10, 40)));
        for (boot, seq) in [(5, 10), (5, 9), (4, 99)] {
            assert!(!view.on_report(at_ms(1), report(boot, seq, 1)), "{boot} {seq}");
        }
        assert_eq!(view.report().map(|known| known.wait), Some(Micros::from_ms(40)));
        assert!(view.on_report(at_ms(2), report(6, 1, 7)), "a new run of the process counts from one");
    }

    #[test]
    fn a_claim_turns_into_the_mean_as_it_ages_and_never_into_idle() {
        let rules = LoadRules::default();
        let mean = Micros::from_ms(20);
        let mut view = LoadView::default();
        assert_eq!(view.wait(at_ms(0), &rules, mean), mean, "unknown is the mean");
        view.on_report(at_ms(0), report(1, 1, 100));
        for (age_ms, wait_ms) in [(0, 100), (250, 100), (1625, 60), (3000, 20), (60_000, 20)] {
            assert_eq!(view.wait(at_ms(age_ms), &rules, mean), Micros::from_ms(wait_ms), "age {age_ms} ms");
        }
    }
}
