//! Moments and spans as plain numbers.
//!
//! For every module that decides by time. A [`MonoTime`] counts from the start of one process: it never reads a clock,
//! never crosses the wire, and cannot be compared with another process's.
//! Invariants: arithmetic saturates, so no hostile number from a peer can overflow a decision.

use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// A moment: microseconds since this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MonoTime(u64);

/// A span of time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Micros(u64);

impl MonoTime {
    /// The start of the process.
    pub const START: Self = Self(0);

    /// The moment `micros` microseconds after the start of the process.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start of the process.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time from `earlier` until now; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl Micros {
    /// No time.
    pub const ZERO: Self = Self(0);
    /// Longer than anything.
    pub const MAX: Self = Self(u64::MAX);

    /// A span of `micros` microseconds.
    #[must_use]
    pub const fn new(micros: u64) -> Self {
        Self(micros)
    }

    /// A span of `ms` milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// Microseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, rounded up, at most `u32::MAX`.
    #[must_use]
    pub fn to_ms_ceil(self) -> u32 {
        u32::try_from(self.0.div_ceil(1000)).unwrap_or(u32::MAX)
    }

    /// `self × factor`.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// `self × permille / 1000`, without overflow between.
    #[must_use]
    pub fn permille(self, permille: u64) -> Self {
        let wide = u128::from(self.0) * u128::from(permille) / 1000;
        Self(u64::try_from(wide).unwrap_or(u64::MAX))
    }

    /// `self × percent / 100`.
    #[must_use]
    pub const fn percent(self, percent: u64) -> Self {
        Self(self.0.saturating_mul(percent) / 100)
    }
}

impl Add<Micros> for MonoTime {
    type Output = Self;

    fn add(self, span: Micros) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Add for Micros {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Micros {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_numbers_saturate() {
        assert_eq!(MonoTime::from_micros(u64::MAX) + Micros::new(1), MonoTime::from_micros(u64::MAX));
        assert_eq!(Micros::MAX + Micros::MAX, Micros::MAX);
        assert_eq!(Micros::MAX.times(3), Micros::MAX);
        assert_eq!(Micros::new(1) - Micros::new(2), Micros::ZERO);
        assert_eq!(MonoTime::START.since(MonoTime::from_micros(5)), Micros::ZERO);
        assert_eq!(Micros::MAX.to_ms_ceil(), u32::MAX);
    }

    #[test]
    fn milliseconds_round_up_so_that_a_wait_is_never_told_too_short() {
        assert_eq!(Micros::new(1).to_ms_ceil(), 1);
        assert_eq!(Micros::from_ms(7).to_ms_ceil(), 7);
    }
}
