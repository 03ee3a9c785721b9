//! The rows that wait for this node's device.
//!
//! For `node`. Ordered by the turn that each job has, the earliest first: its deadline, unless it is a chunk of a call.
//! Rows that must run alone (their batch failed) go first, one a batch.
//! Invariants: the sums of rows and units equal what is in the queue (asserted); a removed job leaves nothing behind.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::{self, BatchRules, Work};
use crate::cost::Cost;
use crate::id::{JobId, RowRef};
use crate::time::MonoTime;

/// To find what runs before a job, at most so many jobs are looked at from either end of the queue: with more than
/// twice as many waiting, those between are shared out evenly, which is an estimate.
const LOOKED_AT_MAX: usize = 256;

/// One row that was taken out to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Which text.
    pub row: RowRef,
    /// What it costs.
    pub units: u32,
}

/// Rows that wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    #[serde(with = "as_pairs")]
    jobs: BTreeMap<(MonoTime, JobId), Waiting>,
    alone: VecDeque<Pulled>,
    alone_units: u64,
    rows: u64,
    units: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    units: Arc<[u32]>,
    next: usize,
    /// Sum of `units[next..]`.
    units_left: u64,
}

impl Queue {
    /// Adds all rows of a job; `units[i]` is what row `i` costs.
    pub fn push(&mut self, job: JobId, turn: MonoTime, units: Arc<[u32]>) {
        let Work { rows, units: units_left } = Work::of(&units);
        self.rows += rows;
        self.units += units_left;
        let replaced = self.jobs.insert((turn, job), Waiting { units, next: 0, units_left });
        assert!(replaced.is_none(), "job {job:?} was queued twice");
    }

    /// Adds one row that runs in a batch of its own.
    pub fn push_alone(&mut self, pulled: Pulled) {
        self.rows += 1;
        self.units += u64::from(pulled.units);
        self.alone_units += u64::from(pulled.units);
        self.alone.push_back(pulled);
    }

    /// Takes out what is left of a job that was added with this `turn`.
    pub fn remove(&mut self, job: JobId, turn: MonoTime) {
        if let Some(waiting) = self.jobs.remove(&(turn, job)) {
            self.rows -= (waiting.units.len() - waiting.next) as u64;
            self.units -= waiting.units_left;
        }
        let (rows, units, alone_units) = (&mut self.rows, &mut self.units, &mut self.alone_units);
        self.alone.retain(|pulled| {
            let keep = pulled.row.job != job;
            if !keep {
                *rows -= 1;
                *units -= u64::from(pulled.units);
                *alone_units -= u64::from(pulled.units);
            }
            keep
        });
    }

    /// The job that runs next, unless a row that must run alone does, and what is left of it.
    #[must_use]
    pub fn first(&self) -> Option<(JobId, Work)> {
        let next = self.jobs.first_key_value().filter(|_| self.alone.is_empty());
        next.map(|(&(_, job), waiting)| (job, waiting.left()))
    }

    /// The jobs that wait, the one that runs last first.
    pub fn from_last(&self) -> impl Iterator<Item = JobId> + '_ {
        self.jobs.keys().rev().map(|&(_, job)| job)
    }

    /// Takes out the next batch; empty only when nothing waits. `units_to_learn` as in [`batch::take`].
    pub fn pull(&mut self, rules: &BatchRules, cost: Cost, units_to_learn: u64) -> Vec<Pulled> {
        let pulled: Vec<Pulled> = match self.alone.pop_front() {
            Some(alone) => {
                self.alone_units -= u64::from(alone.units);
                vec![alone]
            }
            None => self.pull_jobs(rules, cost, units_to_learn),
        };
        self.rows -= pulled.len() as u64;
        self.units -= pulled.iter().map(|pulled| u64::from(pulled.units)).sum::<u64>();
        assert!((self.rows == 0) == (self.jobs.is_empty() && self.alone.is_empty()), "the queue lost count of rows");
        pulled
    }

    fn pull_jobs(&mut self, rules: &BatchRules, cost: Cost, units_to_learn: u64) -> Vec<Pulled> {
        let waiting = self.jobs.values().flat_map(|waiting| waiting.units[waiting.next..].iter().copied());
        let mut left = batch::take(rules, cost, units_to_learn, waiting);
        let mut pulled = Vec::with_capacity(left);
        while 0 < left {
            let mut first = self.jobs.first_entry().expect("batch::take counts only rows that are there");
            let job = first.key().1;
            let waiting = first.get_mut();
            let end = waiting.units.len().min(waiting.next + left);
            for index in waiting.next..end {
                let row = RowRef { job, row: u32::try_from(index).expect("admission bounds the rows of a job") };
                pulled.push(Pulled { row, units: waiting.units[index] });
                waiting.units_left -= u64::from(waiting.units[index]);
            }
            left -= end - waiting.next;
            waiting.next = end;
            if end == waiting.units.len() {
                first.remove();
            }
        }
        pulled
    }

    /// Rows that wait.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// All that waits.
    #[must_use]
    pub fn all(&self) -> Work {
        Work { rows: self.rows, units: self.units }
    }

    /// What runs before a job with this `turn` that came now. Exact as long as no more than `LOOKED_AT_MAX` jobs have
    /// an earlier turn, or a later one. Cost: nothing when none has a later one, the common case; else the smaller
    /// number of these, bounded.
    #[must_use]
    pub fn before(&self, turn: MonoTime) -> Work {
        if self.jobs.last_key_value().is_none_or(|(&(last, _), _)| last <= turn) {
            return self.all();
        }
        let alone = Work { rows: self.alone.len() as u64, units: self.alone_units };
        let bound = (turn, JobId(u64::MAX));
        let mut earlier = self.jobs.range(..=bound).map(|(_, waiting)| waiting.left());
        let mut later = self.jobs.range((Bound::Excluded(bound), Bound::Unbounded)).map(|(_, waiting)| waiting.left());
        let (mut before, mut after) = (alone, Work::default());
        for _ in 0..LOOKED_AT_MAX {
            match earlier.next() {
                Some(work) => before = before + work,
                None => return before,
            }
            match later.next() {
                Some(work) => after = after + work,
                None => return self.all() - after,
            }
        }
        let between = self.all() - before - after;
        before + Work { rows: between.rows / 2, units: between.units / 2 }
    }
}

impl Waiting {
    fn left(&self) -> Work {
        Work { rows: (self.units.len() - self.next) as u64, units: self.units_left }
    }
}

/// A map whose keys are no texts, written as a list of pairs.
mod as_pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;
    use crate::time::Micros;

    fn at(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn rules(rows_max: u32) -> BatchRules {
        BatchRules { rows_max, ..BatchRules::default() }
    }

    fn rows_of(pulled: &[Pulled]) -> Vec<(u64, u32)> {
        pulled.iter().map(|pulled| (pulled.row.job.0, pulled.row.row)).collect()
    }

    #[test]
    fn the_earliest_turn_runs_first_and_a_large_job_is_cut() {
        let mut queue = Queue::default();
        queue.push(JobId(1), at(90), Arc::from([1; 5]));
        queue.push(JobId(2), at(50), Arc::from([1; 2]));
        assert_eq!(rows_of(&queue.pull(&rules(4), Cost::default(), 0)), [(2, 0), (2, 1), (1, 0), (1, 1)]);
        assert_eq!(rows_of(&queue.pull(&rules(4), Cost::default(), 0)), [(1, 2), (1, 3), (1, 4)]);
        assert!(queue.pull(&rules(4), Cost::default(), 0).is_empty());
    }

    #[test]
    fn a_row_that_must_run_alone_goes_first_and_alone() {
        let mut queue = Queue::default();
        queue.push(JobId(1), at(1), Arc::from([1; 2]));
        queue.push_alone(Pulled { row: RowRef { job: JobId(7), row: 3 }, units: 9 });
        assert_eq!(rows_of(&queue.pull(&rules(9), Cost::default(), 0)), [(7, 3)]);
        assert_eq!(rows_of(&queue.pull(&rules(9), Cost::default(), 0)), [(1, 0), (1, 1)]);
    }

    #[test]
    fn before_a_job_runs_what_has_an_earlier_or_equal_turn_or_must_run_alone() {
        let mut queue = Queue::default();
        queue.push(JobId(1), at(50), Arc::from([1, 2]));
        queue.push(JobId(2), at(90), Arc::from([10]));
        for (turn_ms, expected) in [(49, 0), (50, 3), (89, 3), (90, 13)] {
            assert_eq!(queue.before(at(turn_ms)).units, expected, "{turn_ms} ms");
        }
        drop(queue.pull(&rules(1), Cost::default(), 0));
        queue.push_alone(Pulled { row: RowRef { job: JobId(7), row: 3 }, units: 100 });
        assert_eq!((queue.before(at(0)).units, queue.before(at(50)).units), (100, 102));
    }

    #[test]
    fn with_a_long_queue_on_both_sides_what_runs_before_is_estimated() {
        let mut queue = Queue::default();
        let jobs = 4000u64;
        (0..jobs).for_each(|job| queue.push(JobId(job), at(job), Arc::from([2])));
        for (turn_ms, least, most) in [(9, 20, 20), (jobs - 9, 2 * (jobs - 8), 2 * (jobs - 8)), (2000, 3990, 4010)] {
            let units = queue.before(at(turn_ms)).units;
            assert!((least..=most).contains(&units), "{units} at {turn_ms} ms");
        }
    }

    #[test]
    fn sums_are_exact_after_any_sequence_of_changes() {
        let mut prng = Prng::new(5);
        let mut queue = Queue::default();
        let mut held: Vec<(JobId, MonoTime)> = Vec::new();
        for number in 0..2000u64 {
            match prng.below(4) {
                0 | 1 => {
                    let (job, turn) = (JobId(number), at(prng.below(50) as u64));
                    let units: Vec<u32> = (1..=6).take(1 + prng.below(5)).collect();
                    queue.push(job, turn, units.into());
                    held.push((job, turn));
                }
                2 if !held.is_empty() => {
                    let (job, turn) = held.swap_remove(prng.below(held.len()));
                    queue.push_alone(Pulled { row: RowRef { job, row: 0 }, units: 4 });
                    queue.remove(job, turn);
                }
                _ => drop(queue.pull(&rules(3), Cost::default(), 0)),
            }
            let rows: usize = queue.jobs.values().map(|waiting| waiting.units.len() - waiting.next).sum();
            assert_eq!(queue.rows(), (rows + queue.alone.len()) as u64);
            let each: u64 = queue.jobs.values().map(|waiting| waiting.units_left).sum();
            let alone: u64 = queue.alone.iter().map(|pulled| u64::from(pulled.units)).sum();
            let all = Work { rows: queue.rows(), units: each + alone };
            assert_eq!((queue.all(), queue.before(at(u64::MAX))), (all, all));
        }
        for (job, turn) in held {
            queue.remove(job, turn);
        }
        assert_eq!(queue.all(), Work::default());
    }
}
