//! What the machine does not see of a job: its texts, its vectors so far, and who waits for them.
//!
//! Part of `shell`.
//! Invariants: whoever waits hears exactly once; a call that is dropped with nobody told has been left by its caller.
//! Not here: what the chunks of one call have in common (`parts`).

use std::ops::Range;
use std::sync::Arc;

use shoal_core::id::{Attempt, JobId};
use shoal_core::time::MonoTime;
use shoal_engine::{Embedding, RowError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::parts::Parts;
use crate::forward::Reply;
use crate::job::{Answer, Ending, Job};

/// One call that is held, or one chunk of it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) job: Job,
    /// Which of the job's texts: all of them, or those of the chunk.
    pub(super) span: Range<usize>,
    /// `caller` or `peer`.
    pub(super) source: &'static str,
    pub(super) arrived: MonoTime,
    /// Where its caller waits, and so where it is sent from.
    pub(super) lane: Handle,
    /// When its first row went to the device.
    pub(super) started: Option<MonoTime>,
    pub(super) compute_us: u64,
    pub(super) rows: Vec<Option<Embedding>>,
    /// The last row that has no vector, and why.
    pub(super) fault: Option<(usize, String)>,
    /// The placements on peers, those that came to nothing too; the machine makes only a few.
    pub(super) forwards: Vec<(Attempt, AbortHandle)>,
    pub(super) reply: Option<(Attempt, Reply)>,
    pub(super) hears: Hears,
    /// It was cut.
    pub(super) parts: Option<Box<Parts>>,
}

/// Who hears how it ended.
#[derive(Debug)]
pub(super) enum Hears {
    Waiter(oneshot::Sender<Ending>),
    /// It is a chunk of that call.
    Call(JobId),
}

impl Call {
    /// Must be called within the runtime that the caller waits in.
    pub(super) fn new(job: Job, source: &'static str, arrived: MonoTime, waiter: oneshot::Sender<Ending>) -> Self {
        let span = 0..job.texts.len();
        Self::of(job, span, source, (arrived, Handle::current()), Hears::Waiter(waiter))
    }

    /// A chunk of this call, which is `id`: the texts at `span`.
    pub(super) fn chunk(&self, id: JobId, span: Range<usize>, now: MonoTime) -> Self {
        Self::of(self.job.clone(), span, self.source, (now, self.lane.clone()), Hears::Call(id))
    }

    fn of(
        job: Job,
        span: Range<usize>,
        source: &'static str,
        (arrived, lane): (MonoTime, Handle),
        hears: Hears,
    ) -> Self {
        let rows = vec![None; span.len()];
        let (started, fault, reply, parts) = (None, None, None, None);
        let forwards = Vec::new();
        Self { job, span, source, arrived, lane, started, compute_us: 0, rows, fault, forwards, reply, hears, parts }
    }

    /// A row came from the device.
    pub(super) fn on_row(&mut self, row: usize, result: Result<Embedding, RowError>) {
        match result {
            Ok(embedding) => self.rows[row] = Some(embedding),
            Err(fault) => self.fault = Some((row, fault.to_string())),
        }
    }

    /// The vectors that this node computed.
    pub(super) fn own_answer(&mut self, own: &OwnNode, placements: u8) -> Answer {
        Answer {
            rows: self.take_rows(),
            served_by: own.node_id.clone(),
            hops: 0,
            placements,
            queue_us: self.started.map_or(0, |started| started.since(self.arrived).get()),
            compute_us: self.compute_us,
            model: own.model.clone(),
            revision: own.revision.clone(),
            cache: None,
        }
    }

    /// All rows, each of which has its vector.
    pub(super) fn take_rows(&mut self) -> Vec<Embedding> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.map(|row| row.expect("the machine ends a job as done only when each row was")).collect()
    }

    /// The vectors that a peer computed.
    pub(super) fn peers_answer(&mut self, own: &OwnNode, peer: Arc<str>, placements: u8) -> Answer {
        let (_, reply) = self.reply.take().expect("the machine ends a job by a reply only when it heard of it");
        Answer {
            rows: reply.rows,
            served_by: peer,
            hops: 1,
            placements,
            queue_us: reply.end.queue_us,
            compute_us: reply.end.compute_us,
            model: own.model.clone(),
            revision: own.revision.clone(),
            cache: None,
        }
    }

    /// Which input is to blame, and why.
    pub(super) fn blame(&mut self) -> (usize, String) {
        let replied = self.reply.take().map(|(_, reply)| (reply.end.row as usize, reply.end.message));
        replied.or_else(|| self.fault.take()).unwrap_or_else(|| (0, "no reason was given".to_owned()))
    }
}

/// What this node writes on its answers.
#[derive(Debug)]
pub(super) struct OwnNode {
    pub(super) node_id: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) revision: Arc<str>,
}
