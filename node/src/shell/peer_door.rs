//! The peer leg's view of the node: jobs of peers.
//!
//! Part of `shell`.
//! Invariants: a peer's job is checked as a caller's is, because a peer may be old or lying.

use std::sync::Arc;

use shoal_core::id::NodeId;
use shoal_core::load::Report;
use shoal_core::node::{Effect, Input, Outcome, Refusal, Source};
use shoal_core::peers::Word;
use shoal_core::time::Micros;

use super::Shell;
use crate::forward::{Ended, Offered, PeerDoor};
use crate::job::{Answer, Failure, Job};
use crate::wire::{self, End, Execute, verdict};

/// Longest `x-request-id` of a peer's job; the public door made it no longer.
const REQUEST_ID_BYTES_MAX: usize = 64;

impl PeerDoor for Shell {
    fn offer(&self, job: Execute) -> Offered {
        let (origin, bound, model) = (job.origin.clone(), job.bound_us.map(Micros::new), job.model.clone());
        let (origin, job) = match self.check(&origin, job) {
            Ok(checked) => checked,
            Err(message) => return Offered::Absurd { message },
        };
        let own_model = self.0.loaded.load().as_ref().map(|loaded| loaded.key.clone());
        let state = &mut *self.lock();
        self.drive_locked(state, Input::Heard { peer: origin, word: Word::default() });
        if own_model.is_none_or(|own| *own != *model) {
            let load = state.node.report(self.0.clock.now());
            return Offered::Refused { refusal: Refusal::Unable, load };
        }
        let (waiting, answer, effects) = self.arrive(state, job, Source::Peer { bound });
        let mut load = None;
        for effect in effects {
            match effect {
                Effect::Acknowledge { report, .. } => load = Some(report),
                Effect::Finish { outcome: Outcome::Refused(refusal), .. } => {
                    waiting.done();
                    return Offered::Refused { refusal, load: state.node.report(self.0.clock.now()) };
                }
                _ => {}
            }
        }
        let load = load.unwrap_or_else(|| state.node.report(self.0.clock.now()));
        let shell = self.clone();
        let ended = async move {
            let answer = answer.await.expect("the machine ends every job that is not left");
            waiting.done();
            shell.encode(answer)
        };
        Offered::Held { load, ended: Box::pin(ended) }
    }

    fn load(&self) -> Report {
        self.lock().node.report(self.0.clock.now())
    }
}

impl Shell {
    fn check(&self, origin: &str, job: Execute) -> Result<(NodeId, Job), String> {
        let facts = &self.0.facts;
        if *job.cluster != *facts.cluster {
            return Err(format!("this is cluster `{}`", facts.cluster));
        }
        let origin = NodeId::new(origin).map_err(|fault| fault.to_string())?;
        let options = job.options().map_err(|fault| fault.to_string())?;
        if job.texts.is_empty() || facts.inputs_max < job.texts.len() {
            return Err(format!("a job has 1 to {} texts", facts.inputs_max));
        }
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if REQUEST_ID_BYTES_MAX < job.request_id.len() || !printable(&job.request_id) {
            return Err("the request id is not printable".to_owned());
        }
        let traceparent = Some(job.traceparent).filter(|text| text.len() == 55 && printable(text)).map(Arc::from);
        let texts = job.texts.into_iter().map(String::into_boxed_str).collect();
        let deadline_ms = job.remaining_ms.min(facts.deadline_ms_max);
        Ok((origin, Job { request_id: Arc::from(job.request_id), traceparent, texts, options, deadline_ms }))
    }

    fn encode(&self, answer: Result<Answer, Failure>) -> Ended {
        let load = wire::encode_report(&self.load());
        let end = |verdict, message: String, row| End { verdict, message, row, load: load.clone(), ..End::default() };
        let (rows, end) = match answer {
            Ok(answer) => {
                let end = End {
                    queue_us: answer.queue_us,
                    compute_us: answer.compute_us,
                    ..end(verdict::DONE, String::new(), 0)
                };
                (answer.rows, end)
            }
            Err(Failure::Input { index, message }) => {
                (Vec::new(), end(verdict::REJECTED, message, u32::try_from(index).unwrap_or(u32::MAX)))
            }
            Err(Failure::Expired) => (Vec::new(), end(verdict::EXPIRED, String::new(), 0)),
            Err(fault @ Failure::Engine { .. }) => (Vec::new(), end(verdict::FAILED, fault.to_string(), 0)),
            // A job of a peer ends so only when it was refused after all: this node closes, or its engine is gone.
            Err(fault @ (Failure::Overloaded { .. } | Failure::Unavailable { .. })) => {
                (Vec::new(), end(verdict::GIVEN_BACK, fault.to_string(), 0))
            }
        };
        Ended(wire::encode_answer(&rows, end))
    }
}
