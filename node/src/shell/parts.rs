//! A call that the machine cut: its chunks, and their answers joined.
//!
//! Part of `shell`. The call keeps its place in the table and its caller; each chunk has a place of its own beside it.
//! Invariants: a vector has the place of its text, whoever computed it; a fault names the place of the text in the
//! whole call; when the call leaves the table, so do its chunks.
//! Not here: what is cut, when, and where it goes (the machine).

use std::ops::Range;
use std::sync::Arc;

use shoal_core::id::JobId;
use shoal_core::node::Outcome;

use super::call::{Call, OwnNode};
use super::{Shell, State};
use crate::job::{Answer, Failure};

/// Most names in `served_by`; a header has to carry them.
const NAMES_MAX: usize = 16;

/// What is known of the chunks of a call. Their vectors are in the call's own rows.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Chunks that did not end.
    open: Vec<JobId>,
    /// The nodes that computed chunks, in the order of their first answers.
    served_by: Vec<Arc<str>>,
    /// Most hops of a chunk.
    hops: u8,
    /// From the arrival of the call until its first row began to run.
    queue_us: Option<u64>,
    /// Of all chunks together.
    compute_us: u64,
}

impl State {
    /// Takes a job out of the table, and its chunks with it.
    pub(super) fn take(&mut self, job: JobId) -> Option<Call> {
        let call = self.calls.remove(&job)?;
        for chunk in call.parts.iter().flat_map(|parts| &parts.open) {
            self.calls.remove(chunk);
        }
        Some(call)
    }
}

impl Shell {
    /// Some texts of a call are a job of their own.
    pub(super) fn cut(&self, state: &mut State, call: JobId, chunk: JobId, rows: &Range<u32>) {
        let now = self.0.clock.now();
        let whole = state.calls.get_mut(&call).expect("the machine cuts only held calls");
        whole.parts.get_or_insert_default().open.push(chunk);
        let part = whole.chunk(call, rows.start as usize..rows.end as usize, now);
        state.calls.insert(chunk, part);
    }

    /// A chunk of the call `of` ended: what it came to is kept for the end of the call.
    pub(super) fn finish_chunk(
        &self,
        state: &mut State,
        (id, mut chunk): (JobId, Call),
        of: JobId,
        outcome: &Outcome,
        placements: u8,
    ) {
        let leaving = state.node.door().draining();
        let (_, answer) = self.result(&mut chunk, outcome, placements, leaving);
        let whole = state.calls.get_mut(&of).expect("a call ends after its chunks");
        let parts = whole.parts.get_or_insert_default();
        parts.open.retain(|open| *open != id);
        match answer {
            Ok(Answer { rows, served_by, hops, queue_us, compute_us, .. }) => {
                let queue_us = chunk.arrived.since(whole.arrived).get() + queue_us;
                parts.queue_us = Some(parts.queue_us.map_or(queue_us, |earliest| earliest.min(queue_us)));
                parts.compute_us += compute_us;
                parts.hops = parts.hops.max(hops);
                if !parts.served_by.contains(&served_by) {
                    parts.served_by.push(served_by);
                }
                for (place, row) in whole.rows[chunk.span].iter_mut().zip(rows) {
                    *place = Some(row);
                }
            }
            Err(Failure::Input { index, message } | Failure::Engine { index, message }) => {
                // The machine ends the call by the first chunk that failed.
                whole.fault.get_or_insert((chunk.span.start + index, message));
            }
            Err(Failure::Overloaded { .. } | Failure::Unavailable { .. } | Failure::Expired) => {}
        }
    }
}

impl Call {
    /// The vectors of all chunks.
    pub(super) fn joined_answer(&mut self, own: &OwnNode, placements: u8) -> Answer {
        let parts = *self.parts.take().expect("the machine ends a call in chunks only after it cut it");
        let names = &parts.served_by[..parts.served_by.len().min(NAMES_MAX)];
        Answer {
            rows: self.take_rows(),
            served_by: names.join(", ").into(),
            hops: parts.hops,
            placements,
            queue_us: parts.queue_us.unwrap_or(0),
            compute_us: parts.compute_us,
            model: own.model.clone(),
            revision: own.revision.clone(),
            cache: None,
        }
    }
}
