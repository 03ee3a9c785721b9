//! The public door's view of the node: jobs of callers.
//!
//! Part of `shell`.
//! Invariants: a dropped future is a caller that left; its job is taken out everywhere.

use std::sync::Arc;

use shoal_core::id::JobId;
use shoal_core::node::{Arrival, Effect, Input, Source};
use shoal_core::time::Micros;
use tokio::sync::oneshot;

use super::call::Call;
use super::{Shell, State};
use crate::cache::Size;
use crate::job::{Door, Ending, Job, ModelView, NodeView};
use crate::telemetry::{Route, RouteCode, SourceOutcome};

/// Dimensions assumed for the size of an answer while the model is not loaded.
const DIMENSIONS_UNKNOWN: usize = 1024;

impl Shell {
    /// Gives a job to the machine. Returns its number, who to wait for, and what the machine said at once.
    pub(super) fn arrive(
        &self,
        state: &mut State,
        job: Job,
        source: Source,
    ) -> (Waiting, oneshot::Receiver<Ending>, Vec<Effect>) {
        let now = self.0.clock.now();
        let guess = self.cost_guess();
        let dimensions = self.0.loaded.load().as_ref().map_or(DIMENSIONS_UNKNOWN, |card| card.card.dimensions as usize);
        let units: Arc<[u32]> = job.texts.iter().map(|text| guess.units(text)).collect();
        let bytes = (job.bytes() + job.texts.len() * dimensions * 4) as u64;
        let deadline = now + Micros::from_ms(u64::from(job.deadline_ms));
        state.jobs += 1;
        let id = JobId(state.jobs);
        let (waiter, waiting) = oneshot::channel();
        let name = match source {
            Source::Caller => "caller",
            Source::Peer { .. } => "peer",
        };
        let Job { client, session, explain, .. } = job;
        state.calls.insert(id, Call::new(job, name, now, waiter));
        let arrival = Arrival { job: id, source, units, bytes, deadline, client, session, explain };
        let effects = self.drive_locked(state, Input::Arrived(arrival));
        (Waiting { shell: self.clone(), job: Some(id), source: name }, waiting, effects)
    }
}

/// Whoever waits for a job. Dropped early, the job is left.
#[derive(Debug)]
pub(super) struct Waiting {
    shell: Shell,
    job: Option<JobId>,
    source: &'static str,
}

impl Waiting {
    /// The job ended.
    pub(super) fn done(mut self) {
        self.job = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(job) = self.job else { return };
        let state = &mut *self.shell.lock();
        // It may have ended in the same moment.
        if state.calls.contains_key(&job) {
            self.shell.drive_locked(state, Input::Left { job });
            state.take(job);
            self.shell.0.telemetry.jobs.get_or_create(&SourceOutcome { source: self.source, outcome: "left" }).inc();
        }
    }
}

impl Shell {
    /// Has a job of a caller computed, here or elsewhere.
    pub(super) async fn place_job(&self, job: Job) -> Ending {
        let (waiting, answer) = {
            let (waiting, answer, _) = self.arrive(&mut self.lock(), job, Source::Caller);
            (waiting, answer)
        };
        let ending = answer.await;
        waiting.done();
        ending.expect("the machine ends every job that is not left")
    }
}

impl Door for Shell {
    async fn place(&self, job: Job) -> Ending {
        self.place_cached(job).await
    }

    fn view(&self) -> NodeView {
        self.node_view()
    }

    fn model(&self) -> Option<ModelView> {
        self.model_view()
    }

    fn metrics(&self) -> String {
        let telemetry = &self.0.telemetry;
        telemetry.show_node(&self.lock().node, self.0.clock.now());
        if let Some(results) = &self.0.results {
            let Size { entries, bytes } = results.cache.size();
            telemetry.cache.show(entries, bytes);
        }
        telemetry.text()
    }

    fn observe(&self, route: &'static str, status: u16, seconds: f64) {
        let telemetry = &self.0.telemetry;
        telemetry.http_requests.get_or_create(&RouteCode { route, code: status }).inc();
        telemetry.http_request_seconds.get_or_create(&Route { route }).observe(seconds);
    }

    fn draining(&self) -> bool {
        self.lock().node.door().draining()
    }
}
