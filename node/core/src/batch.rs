//! How many waiting rows form the next forward pass.
//!
//! For `queue`, whenever the device is free: the batch is pulled, so an idle device never waits for company.
//! Invariants: at least one row; within the limits on rows and on units, the first row excepted; within the limit on
//! time too, unless up to twice the mean batch is taken to learn what a larger one costs.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::time::Micros;

/// A batch need not take more than so many times its fixed part.
const FIXED_TIMES_ENOUGH: u64 = 20;

/// An amount of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Rows.
    pub rows: u64,
    /// Units of all of them.
    pub units: u64,
}

impl Work {
    /// That of these rows; one entry a row, its units.
    #[must_use]
    pub fn of(units: &[u32]) -> Self {
        Self { rows: units.len() as u64, units: units.iter().map(|&units| u64::from(units)).sum() }
    }
}

impl Work {
    /// The rest beside `part`; nothing where it is less, because some amounts are estimates.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self { rows: self.rows.saturating_sub(part.rows), units: self.units.saturating_sub(part.units) }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, units: self.units + other.units }
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { rows: self.rows - other.rows, units: self.units - other.units }
    }
}

/// Bounds of one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRules {
    /// Most rows.
    pub rows_max: u32,
    /// Most units (about tokens); bounds the memory.
    pub units_max: u64,
    /// Longest time that a batch should take. A new arrival waits for the running batch, so this bounds its delay.
    pub time_max: Micros,
    /// A batch that takes no longer is short enough, whatever its fixed part.
    pub time_short: Micros,
    /// Batches on the device at one time. 1 is one device; 8 with `rows_max` 1 are eight slots. At least 1.
    pub slots: u32,
}

impl Default for BatchRules {
    fn default() -> Self {
        let (time_max, time_short) = (Micros::from_ms(50), Micros::from_ms(5));
        Self { rows_max: 256, units_max: 16_384, time_max, time_short, slots: 1 }
    }
}

impl BatchRules {
    /// Most units of a batch on a device with this `cost`.
    ///
    /// A batch answers all its rows at its end, and what comes meanwhile waits for it: company is worth that only as
    /// far as it shares the fixed part, of which a batch that takes twenty times as long has little left to share.
    ///
    /// Where the fixed part alone takes most of `time_max`, the rows may take as long as the fixed part: smaller
    /// batches would spend more than half of the device on it.
    #[must_use]
    pub fn units_max_at(&self, cost: Cost) -> u64 {
        let worth = self.time_short.max(cost.fixed.times(FIXED_TIMES_ENOUGH));
        let limit = self.time_max.min(worth).max(cost.fixed.times(2));
        cost.units_within(limit).min(self.units_max).max(1)
    }
}

impl BatchRules {
    /// How many batches `work` makes at least.
    #[must_use]
    pub fn batches(&self, cost: Cost, work: Work) -> u64 {
        let by_units = work.units.div_ceil(self.units_max_at(cost)).min(work.rows);
        work.rows.div_ceil(self.rows_max.max(1).into()).max(by_units)
    }
}

/// How many rows from the front of `rows` (units each) to run together; 0 only when there is none. So many as
/// `units_to_learn` may be taken although they seem to take too long.
pub fn take(rules: &BatchRules, cost: Cost, units_to_learn: u64, rows: impl Iterator<Item = u32>) -> usize {
    let units_max = rules.units_max_at(cost).max(units_to_learn.min(rules.units_max));
    let mut units_sum = 0u64;
    let mut taken = 0usize;
    for units in rows.take(rules.rows_max.max(1) as usize) {
        units_sum = units_sum.saturating_add(u64::from(units));
        if 0 < taken && units_max < units_sum {
            break;
        }
        taken += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_the_first_limit_it_meets() {
        let rules = BatchRules { rows_max: 4, units_max: 100, ..BatchRules::default() };
        let cheap = Cost { fixed: Micros::ZERO, per_unit_ns: 1 };
        let mostly_fixed = Cost { fixed: Micros::from_ms(60), per_unit_ns: 1_000_000 };
        let slow = Cost { fixed: Micros::from_ms(10), per_unit_ns: 1_000_000 };
        for (cost, rows, expected) in [
            (cheap, vec![], 0),
            (cheap, vec![500], 1),
            (cheap, vec![500, 1], 1),
            (cheap, vec![60, 40, 1], 2),
            (cheap, vec![1; 9], 4),
            (slow, vec![20, 20, 20], 2),
            (slow, vec![41, 1], 1),
            (mostly_fixed, vec![20, 20, 20, 20], 3),
            (Cost::default(), vec![50, 50, 50], 2),
        ] {
            assert_eq!(take(&rules, cost, 0, rows.iter().copied()), expected, "{cost:?} {rows:?}");
        }
    }

    #[test]
    fn a_batch_is_no_longer_than_its_fixed_part_is_worth_sharing() {
        let rules = BatchRules::default();
        for (fixed_us, row_ms, rows) in [
            // Nothing to share: one row, or as many as are short together.
            (0, 20, 1),
            (0, 1, 5),
            (100, 20, 1),
            (100, 1, 4),
            // Twenty times the fixed part.
            (1_000, 1, 19),
            (1_000, 4, 4),
            // From there on the longest time counts, and then the fixed part itself.
            (2_500, 1, 47),
            (10_000, 1, 40),
            (60_000, 1, 60),
        ] {
            let cost = Cost { fixed: Micros::new(fixed_us), per_unit_ns: row_ms * 1_000_000 };
            assert_eq!(take(&rules, cost, 0, std::iter::repeat_n(1, 300)), rows, "{cost:?}");
            let work = Work { rows: 300, units: 300 };
            assert_eq!(rules.batches(cost, work), 300u64.div_ceil(rows as u64), "{cost:?}");
        }
        // A batch has a row at least, however many units that has.
        let cost = Cost { fixed: Micros::new(100), per_unit_ns: 1_000_000 };
        assert_eq!(rules.batches(cost, Work { rows: 3, units: 60 }), 3);
    }

    #[test]
    fn to_learn_a_batch_may_seem_to_take_too_long_but_neither_rows_nor_units_pass_their_limit() {
        let rules = BatchRules { rows_max: 4, units_max: 100, ..BatchRules::default() };
        let slow = Cost { fixed: Micros::ZERO, per_unit_ns: 100_000_000 };
        for (units_to_learn, rows, expected) in
            [(0, vec![1; 9], 1), (2, vec![1; 9], 2), (9, vec![1; 9], 4), (1000, vec![60, 60], 1)]
        {
            assert_eq!(take(&rules, slow, units_to_learn, rows.iter().copied()), expected, "{units_to_learn}");
        }
    }
}
