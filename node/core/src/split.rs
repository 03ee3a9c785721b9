//! How a call with many texts is cut into chunks, so that all nodes can work on it at one time.
//!
//! For `node`, which cuts a chunk whenever one may start, so that later ones are as large as is right by then.
//! Invariants: a chunk has at least one row; a call that would not gain by it is not cut at all.
//! Not here: which node gets a chunk, and when (`node`).

use serde::{Deserialize, Serialize};

use crate::batch::{BatchRules, Work};
use crate::cost::Cost;
use crate::time::Micros;

/// A call is cut only when it takes more than so many percent of the time of one chunk: two halves of a short call
/// would pay the way of one twice and gain little.
const WORTH_PERCENT: u64 = 150;

/// When and how calls are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRules {
    /// A chunk takes about so long on the device. Where the fixed part of a batch is most of that, it takes longer, as
    /// a batch does.
    pub chunk_time: Micros,
    /// Most chunks of one call at one node at one time: one runs, one waits, so that the device is never idle between.
    pub per_node_max: u32,
    /// Most chunks of one call that are out at one time, over all nodes; bounds what a decision looks at.
    pub open_max: u32,
}

/// What rows come to.
struct Plan {
    whole: Micros,
    time: Micros,
    chunks: u64,
}

impl Default for SplitRules {
    fn default() -> Self {
        Self { chunk_time: Micros::from_ms(50), per_node_max: 2, open_max: 64 }
    }
}

impl SplitRules {
    /// How long these rows take on a device that has this `cost` and runs batches by the rules `batch`, and how many
    /// chunks of which time they make: at least 1.
    fn chunks(&self, batch: &BatchRules, cost: Cost, work: Work) -> Plan {
        let batches = batch.batches(cost, work);
        let whole = Micros::new(cost.of(work.units, batches).get() / u64::from(batch.slots.max(1)));
        // By the same rule as a batch, or a chunk would be a part of one.
        let time = self.chunk_time.max(cost.fixed.times(2)).max(Micros::new(1));
        // Rounded up: a chunk that is a little larger than a batch would run as two.
        let chunks = whole.get().div_ceil(time.get()).clamp(1, work.rows.max(1));
        Plan { whole, time, chunks }
    }

    /// Whether a call is worth being cut.
    #[must_use]
    pub fn is_worth(&self, batch: &BatchRules, cost: Cost, units: &[u32]) -> bool {
        // Most calls have one text.
        if units.len() < 2 {
            return false;
        }
        let Plan { whole, time, chunks } = self.chunks(batch, cost, Work::of(units));
        1 < chunks && time.percent(WORTH_PERCENT) < whole
    }

    /// How many rows from the front of `left` the next chunk has; 0 only when there is none. What is left is shared out
    /// evenly, so that the last chunk is not a crumb.
    #[must_use]
    pub fn next(&self, batch: &BatchRules, cost: Cost, left: &[u32]) -> usize {
        let work = Work::of(left);
        let Plan { chunks, .. } = self.chunks(batch, cost, work);
        let share = work.units.div_ceil(chunks);
        let mut taken = 0u64;
        let rows = left.iter().take_while(|&&units| {
            taken = taken.saturating_add(units.into());
            taken <= share
        });
        rows.count().max(1).min(left.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    const BATCH: BatchRules = BatchRules {
        rows_max: 256,
        units_max: 16_384,
        time_max: Micros::from_ms(50),
        time_short: Micros::from_ms(50),
        slots: 1,
    };

    fn cost(fixed_us: u64, per_unit_us: u64) -> Cost {
        Cost { fixed: Micros::new(fixed_us), per_unit_ns: per_unit_us * 1000 }
    }

    /// The rows of each chunk of a call.
    fn cuts(cost: Cost, units: &[u32]) -> Vec<usize> {
        let (rules, mut left, mut cuts) = (SplitRules::default(), units, Vec::new());
        while !left.is_empty() {
            let rows = rules.next(&BATCH, cost, left);
            cuts.push(rows);
            left = &left[rows..];
        }
        cuts
    }

    #[test]
    fn a_call_is_cut_into_chunks_of_one_batch_each_and_a_short_one_is_not() {
        let rules = SplitRules::default();
        for (cost, rows, expected) in [
            // Nothing is known, or next to nothing would be gained.
            (Cost::default(), 2048, vec![2048]),
            (cost(0, 10), 2048, vec![2048]),
            (cost(0, 1000), 1, vec![1]),
            (cost(0, 1000), 75, vec![75]),
            (cost(0, 1000), 76, vec![38, 38]),
            (cost(0, 1000), 110, vec![37, 37, 36]),
            // A row that takes longer than a chunk is one.
            (cost(0, 200_000), 3, vec![1, 1, 1]),
            // The fixed part of a batch counts, and where it is most of it a chunk is as long as a batch may be.
            (cost(5_000, 1000), 100, vec![34, 33, 33]),
            (cost(60_000, 1000), 120, vec![60, 60]),
        ] {
            let units = vec![1; rows];
            assert_eq!(rules.is_worth(&BATCH, cost, &units), 1 < expected.len(), "{cost:?} {rows} rows");
            if 1 < expected.len() {
                assert_eq!(cuts(cost, &units), expected, "{cost:?} {rows} rows");
            }
        }
    }

    #[test]
    fn chunks_of_unlike_rows_are_alike() {
        let units: Vec<u32> = (0..1000u32).map(|row| 1 + row * 7919 % 40).collect();
        let mut left = &units[..];
        let sums: Vec<u64> = cuts(cost(0, 500), &units)
            .into_iter()
            .map(|rows| {
                let (chunk, rest) = left.split_at(rows);
                left = rest;
                Work::of(chunk).units
            })
            .collect();
        // 50 ms are 100 units; a row has up to 40.
        assert!(sums.iter().all(|sum| (55..=100).contains(sum)), "{sums:?}");
    }

    #[test]
    fn whatever_the_rows_cost_every_one_of_them_is_in_one_chunk() {
        let mut prng = Prng::new(3);
        for _ in 0..500 {
            let any = [0, 1, 5, 512, u32::MAX];
            let units: Vec<u32> = (0..1 + prng.below(60)).map(|_| any[prng.below(any.len())]).collect();
            let any = [0, 1, 70_000, u64::MAX / 2000];
            let cost = Cost { fixed: Micros::new(any[prng.below(4)]), per_unit_ns: any[prng.below(4)] };
            let cuts = cuts(cost, &units);
            assert!(cuts.iter().all(|&rows| 0 < rows), "{cost:?} {units:?}");
            assert_eq!(cuts.iter().sum::<usize>(), units.len());
        }
    }
}
