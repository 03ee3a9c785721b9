//! What became of every request.
//!
//! For `load`, which writes, and for the drills, which read counts while the load runs and the records afterwards.
//! All times are microseconds since the start of the load, so that faults can be put on the same line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// One request from its intended sending to its end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// When it was meant to be sent; latency counts from here.
    pub(crate) intended_us: u64,
    /// When it was really sent.
    pub(crate) sent_us: u64,
    pub(crate) done_us: u64,
    /// The text carries the word that a stand-in engine can be told to fail on.
    pub(crate) poisoned: bool,
    /// Addresses at which the connection was refused or lost before an answer, so that the client went to the next.
    pub(crate) losses: Vec<Loss>,
    pub(crate) outcome: Outcome,
}

/// One address that gave no answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Loss {
    pub(crate) door: usize,
    pub(crate) at_us: u64,
    pub(crate) what: String,
    /// The generator itself had no port or descriptor left: nobody was asked, and no node is to blame.
    pub(crate) own: bool,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A right answer.
    Answered(Answered),
    /// 429 or 503: the shoal says that it has no room.
    Refused { door: usize, status: u16 },
    /// No answer, an error status, or an answer that is wrong.
    Failed {
        /// The address to blame: the one that answered wrongly, or the last that was tried.
        door: usize,
        /// An HTTP answer came back, so a process that ran is to blame. Otherwise there was no connection, it was lost,
        /// or nothing came.
        answered: bool,
        what: String,
    },
}

/// What the headers of an answer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answered {
    /// The door that answered; another than the first one tried when that was lost.
    pub(crate) door: usize,
    /// The node that computed.
    pub(crate) served_by: usize,
    pub(crate) hops: u32,
    pub(crate) placements: u32,
}

impl Record {
    pub(crate) fn latency_us(&self) -> u64 {
        self.done_us.saturating_sub(self.intended_us)
    }

    pub(crate) fn answered(&self) -> Option<Answered> {
        match self.outcome {
            Outcome::Answered(answered) => Some(answered),
            Outcome::Refused { .. } | Outcome::Failed { .. } => None,
        }
    }
}

/// A text and its answer, to be asked again elsewhere when all is quiet.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) number: u64,
    pub(crate) served_by: usize,
    pub(crate) vector: Vec<f32>,
}

/// Shared by all requests of one load.
#[derive(Debug)]
pub(crate) struct Ledger {
    records: Mutex<Vec<Record>>,
    samples: Mutex<Vec<Sample>>,
    /// By node: answers computed there.
    served: Vec<AtomicU64>,
    /// By node: answers computed there for a request that came in at another door.
    served_for_others: Vec<AtomicU64>,
}

impl Ledger {
    pub(crate) fn new(nodes: usize) -> Self {
        let zeros = || (0..nodes).map(|_| AtomicU64::new(0)).collect();
        Self { records: Mutex::default(), samples: Mutex::default(), served: zeros(), served_for_others: zeros() }
    }

    pub(crate) fn add(&self, record: Record) {
        if let Some(answered) = record.answered() {
            self.served[answered.served_by].fetch_add(1, Ordering::Relaxed);
            if answered.served_by != answered.door {
                self.served_for_others[answered.served_by].fetch_add(1, Ordering::Relaxed);
            }
        }
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// Keeps `sample` unless `samples_max` are kept already.
    pub(crate) fn add_sample(&self, sample: Sample, samples_max: usize) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < samples_max {
            samples.push(sample);
        }
    }

    /// Answers computed so far, by node.
    pub(crate) fn served(&self) -> Vec<u64> {
        self.served.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Answers that node `index` computed for requests of other doors.
    pub(crate) fn served_for_others(&self, index: usize) -> u64 {
        self.served_for_others[index].load(Ordering::Relaxed)
    }

    /// The records, in the order in which requests ended, and the samples.
    pub(crate) fn take(&self) -> (Vec<Record>, Vec<Sample>) {
        let records = std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner));
        (records, std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_works_for_others_only_when_the_request_came_in_elsewhere() {
        let ledger = Ledger::new(2);
        for door in [0, 1] {
            let answered = Answered { door, served_by: 1, hops: u32::from(door == 0), placements: 1 };
            let outcome = Outcome::Answered(answered);
            ledger.add(Record { intended_us: 0, sent_us: 0, done_us: 1, poisoned: false, losses: Vec::new(), outcome });
        }
        assert_eq!(ledger.served(), [0, 2]);
        assert_eq!((ledger.served_for_others(0), ledger.served_for_others(1)), (0, 1));
    }
}
