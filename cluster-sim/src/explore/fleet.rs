//! Many runs on all cores.
//!
//! Part of `explore`.
//! Invariants: results come back in the order of the plans, whichever run ends first; at most a few runs wait to be
//! collected, so memory does not grow with their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::{Result, anyhow};
use cluster_sim::sim::plan::Plan;
use cluster_sim::sim::run::{Outcome, Until, run};

use crate::report::Progress;

/// Runs `count` plans on `threads` threads; `each` gets the outcomes in order.
///
/// # Errors
/// A plan could not be made, `each` gave up, or a run panicked (its message is on standard error).
pub(super) fn run_all(
    (threads, count): (usize, u64),
    (what, until): (&str, Until),
    plan: impl Fn(u64) -> Result<Plan> + Sync,
    mut each: impl FnMut(u64, Outcome) -> Result<()>,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let mut progress = Progress::new();
    let result = std::thread::scope(|scope| {
        // A thread that is far ahead waits until its results are collected.
        let (told, outcomes) = mpsc::sync_channel(4 * threads);
        for _ in 0..threads {
            let (told, next, plan) = (told.clone(), &next, &plan);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if count <= index {
                        return;
                    }
                    let outcome = plan(index).map(|plan| run(&Arc::new(plan), until));
                    if told.send((index, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(told);
        let (mut early, mut expected) = (BTreeMap::new(), 0);
        while let Ok((index, outcome)) = outcomes.recv() {
            early.insert(index, outcome);
            while let Some(outcome) = early.remove(&expected) {
                each(expected, outcome?)?;
                expected += 1;
            }
            progress.show(format!("{what}: {expected} of {count}"));
        }
        if expected == count { Ok(()) } else { Err(anyhow!("run {expected} of {what} panicked")) }
    });
    progress.clear();
    result
}
