//! How much longer a node's answers take than its word promised.
//!
//! For `peers` and for this node itself. A peer may be slow without knowing it (its path, its neighbours on the same
//! machine) or may lie; its callers see it. This is the probation of slow nodes, as a number instead of a state: the
//! estimate of a peer is multiplied by how far it stretches compared with what is usual.
//! Invariants: between `STRETCH_MIN` and `STRETCH_MAX`; without fresh evidence it fades, so that a peer that got
//! well is tried again.

use serde::{Deserialize, Serialize};

use crate::time::{Micros, MonoTime};

/// Least and most that one answer counts, in thousandths.
const STRETCH_MIN: u64 = 250;
const STRETCH_MAX: u64 = 16_000;
/// Weight of the newest answer: one in so many.
const NEWEST_ONE_IN: u64 = 20;
/// Evidence fades over this time.
const FADE: Micros = Micros::from_ms(10_000);
/// Times below this are mostly noise.
pub(crate) const NOISE: Micros = Micros::from_ms(2);

/// How long something took, measured against what was promised, in thousandths.
pub(crate) fn ratio_permille(promised: Micros, took: Micros) -> u64 {
    took.get().saturating_mul(1000) / promised.max(NOISE).get()
}

/// A smoothed ratio of time taken to time promised, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    permille: u64,
    seen: MonoTime,
}

impl Default for Stretch {
    fn default() -> Self {
        Self { permille: 1000, seen: MonoTime::START }
    }
}

impl Stretch {
    /// An answer that was promised after `promised` took `took`.
    pub fn on_answer(&mut self, now: MonoTime, promised: Micros, took: Micros) {
        let ratio = ratio_permille(promised, took).clamp(STRETCH_MIN, STRETCH_MAX);
        let before = self.permille(now);
        self.permille = (before * (NEWEST_ONE_IN - 1) + ratio) / NEWEST_ONE_IN;
        self.seen = now;
    }

    /// The ratio, faded towards 1 since it was seen.
    #[must_use]
    pub fn permille(&self, now: MonoTime) -> u64 {
        let age = now.since(self.seen).get().min(FADE.get());
        let left = FADE.get() - age;
        let (off, above) = (self.permille.abs_diff(1000), 1000 <= self.permille);
        let faded = off.saturating_mul(left) / FADE.get();
        if above { 1000 + faded } else { 1000 - faded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn after(answers: &[(u64, u64, u64)]) -> Stretch {
        let mut stretch = Stretch::default();
        for &(at, promised, took) in answers {
            stretch.on_answer(ms(at), Micros::from_ms(promised), Micros::from_ms(took));
        }
        stretch
    }

    #[test]
    fn a_few_late_answers_show_and_one_does_not_decide() {
        assert_eq!(after(&[(0, 10, 40)]).permille(ms(0)), 1150);
        assert!(3900 < after(&[(0, 10, 40); 80]).permille(ms(0)));
        assert_eq!(after(&[(0, 10, 10); 5]).permille(ms(0)), 1000);
        assert!(after(&[(0, 10, 1); 60]).permille(ms(0)) < 400);
    }

    #[test]
    fn nothing_is_stretched_beyond_the_bounds() {
        assert!(after(&[(0, 1, u64::MAX / 1000); 99]).permille(ms(0)) <= STRETCH_MAX);
        assert!(STRETCH_MIN <= after(&[(0, u64::MAX / 1000, 0); 99]).permille(ms(0)));
    }

    #[test]
    fn a_peer_that_is_not_asked_is_forgiven_within_ten_seconds() {
        let stretch = after(&[(0, 10, 40); 120]);
        let (at_once, half, all) = (stretch.permille(ms(0)), stretch.permille(ms(5000)), stretch.permille(ms(10_000)));
        assert_eq!(all, 1000);
        assert_eq!(half - 1000, (at_once - 1000) / 2);
    }

    #[test]
    fn a_thousandth_of_a_second_more_or_less_is_noise() {
        assert!(after(&[(0, 0, 2); 9]).permille(ms(0)) <= 1000);
    }
}
