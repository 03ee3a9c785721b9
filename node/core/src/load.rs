//! What a node says about its load, and which claim counts.
//!
//! For `peers`, which keeps one [`LoadView`] a peer. Load is time: how long a new job would wait there before it
//! starts, and what it would then cost.
//! Invariants: an unknown load is the mean of the others: neither idle nor full; an older report never replaces a newer
//! one, by whatever way it came; what a node says that tells the impossible is unknown.

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::id::BootId;
use crate::lifecycle::Standing;
use crate::share::Share;
use crate::time::{Micros, MonoTime};

/// Longest wait, and longest batch, that a report may claim.
const TIME_MAX: Micros = Micros::from_ms(3_600_000);
/// Longest time a unit that a report may claim, in nanoseconds.
const UNIT_NS_MAX: u64 = 60_000_000_000;
/// Most slots that a report may claim.
const SLOTS_MAX: u32 = 65_536;
/// Most jobs that a report may claim.
const HELD_MAX: u32 = 1_000_000;

/// What a node said about itself at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The run of the process that speaks.
    pub boot: BootId,
    /// Counts the reports of that run; a larger number is newer.
    pub seq: u64,
    /// Time until a new job would start to run.
    pub wait: Micros,
    /// What a batch costs there.
    pub cost: Cost,
    /// What the node is up to; it wants new work only when it is ready.
    pub standing: Standing,
    /// Jobs that wait or run there.
    pub held: u32,
    /// Batches that run there at one time. At least 1.
    pub slots: u32,
    /// How much of its device is in use; `None` = unknown.
    pub busy: Option<Share>,
    /// How much of its memory is in use; `None` = unknown.
    pub memory: Option<Share>,
}

impl Report {
    /// Whether the numbers can be true at all. Whoever says otherwise is broken, or lies: what it says is not known.
    #[must_use]
    pub fn is_believable(&self) -> bool {
        *self == self.believable()
    }

    /// The same with numbers that others believe: what a node says of itself, however slow it is.
    #[must_use]
    pub fn believable(self) -> Self {
        let cost = Cost { fixed: self.cost.fixed.min(TIME_MAX), per_unit_ns: self.cost.per_unit_ns.min(UNIT_NS_MAX) };
        let (wait, held, slots) = (self.wait.min(TIME_MAX), self.held.min(HELD_MAX), self.slots.clamp(1, SLOTS_MAX));
        Self { wait, cost, held, slots, ..self }
    }
}

/// What a node's probes say of its own device, or of its share of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLoad {
    /// Part of the last second in which the device worked; `None` = unknown.
    pub busy: Option<Share>,
    /// Part of the memory in use; `None` = unknown.
    pub memory: Option<Share>,
}

/// What a claim is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRules {
    /// Whether the reports on answers count. Off, only gossip tells: for comparison.
    pub in_band: bool,
    /// Whether what was sent to a peer since its report counts. Off: for comparison.
    pub count_sent: bool,
}

impl Default for LoadRules {
    fn default() -> Self {
        Self { in_band: true, count_sent: true }
    }
}

/// The newest report of one peer and when it came.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LoadView {
    newest: Option<(Report, MonoTime)>,
    /// Since then the impossible was said.
    absurd: bool,
}

impl LoadView {
    /// Takes `report` when it is newer than what is known. Returns whether it was.
    ///
    /// Reports of one peer come by gossip and on its answers, so an older one may arrive later.
    pub fn on_report(&mut self, now: MonoTime, report: Report) -> bool {
        let newer = self.newest.is_none_or(|(known, _)| (known.boot, known.seq) < (report.boot, report.seq));
        if newer {
            *self = Self { newest: Some((report, now)), absurd: false };
        }
        newer
    }

    /// Something came that cannot be true: until a newer report, nothing is known.
    pub fn on_absurd(&mut self) {
        self.absurd = true;
    }

    /// The newest report, unless the impossible was said since.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.newest.filter(|_| !self.absurd).map(|(report, _)| report)
    }

    /// The newest report and when it came.
    #[must_use]
    pub fn newest(&self) -> Option<(Report, MonoTime)> {
        self.newest
    }

    /// Time since the newest report came.
    #[must_use]
    pub fn age(&self, now: MonoTime) -> Option<Micros> {
        self.newest.map(|(_, heard)| now.since(heard))
    }

    /// The wait to reckon with: the claim, or the `mean` of the others where there is none.
    #[must_use]
    pub fn wait(&self, mean: Micros) -> Micros {
        self.report().map_or(mean, |report| report.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(boot: u64, seq: u64, wait_ms: u64) -> Report {
        Report {
            boot: BootId(boot),
            seq,
            wait: Micros::from_ms(wait_ms),
            cost: Cost::default(),
            standing: Standing::Ready,
            held: 0,
            slots: 1,
            busy: None,
            memory: None,
        }
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
    fn what_is_unknown_is_the_mean_and_never_idle() {
        let mean = Micros::from_ms(20);
        let mut view = LoadView::default();
        assert_eq!(view.wait(mean), mean);
        view.on_report(at_ms(0), report(1, 5, 100));
        assert_eq!(view.wait(mean), Micros::from_ms(100));
        view.on_absurd();
        assert_eq!((view.wait(mean), view.report()), (mean, None));
        assert!(!view.on_report(at_ms(1), report(1, 4, 7)), "what was said before is not news");
        assert!(view.on_report(at_ms(1), report(1, 6, 7)) && view.wait(mean) == Micros::from_ms(7));
    }

    #[test]
    fn what_cannot_be_true_is_not_believed() {
        let sound = report(1, 1, 40);
        assert!(sound.is_believable());
        let slow = |fixed, per_unit_ns| Cost { fixed, per_unit_ns };
        for absurd in [
            Report { wait: Micros::MAX, ..sound },
            Report { cost: slow(Micros::MAX, 0), ..sound },
            Report { cost: slow(Micros::ZERO, u64::MAX), ..sound },
            Report { slots: 0, ..sound },
            Report { slots: u32::MAX, ..sound },
            Report { held: u32::MAX, ..sound },
        ] {
            assert!(!absurd.is_believable() && absurd.believable().is_believable(), "{absurd:?}");
        }
    }
}
