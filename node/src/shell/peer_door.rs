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
use crate::forward::{Cached, Ended, Offered, PeerDoor};
use crate::job::{Answer, Failure, Job};
use crate::wire::{self, CacheGet, CachePut, End, Execute, verdict};

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
        self.drive_locked(state, Input::Called { peer: origin, word: Word::default() });
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
            let ending = answer.await.expect("the machine ends every job that is not left");
            waiting.done();
            shell.encode(ending.answer)
        };
        Offered::Held { load, ended: Box::pin(ended) }
    }

    fn cache_get(&self, get: CacheGet) -> Cached {
        self.on_cache_get(&get)
    }

    fn cache_put(&self, put: CachePut) -> Cached {
        self.on_cache_put(put)
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
        // The public door's own rule, spaces included: what it takes from a caller must not be absurd to a peer.
        let printable = |text: &str| text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        if REQUEST_ID_BYTES_MAX < job.request_id.len() || !printable(&job.request_id) {
            return Err("the request id is not printable".to_owned());
        }
        let traceparent = Some(job.traceparent).filter(|text| text.len() == 55 && printable(text)).map(Arc::from);
        let texts = job.texts.into_iter().map(String::into_boxed_str).collect();
        let deadline_ms = job.remaining_ms.min(facts.deadline_ms_max);
        let request_id = Arc::from(job.request_id);
        let (client, session, explain) = (0, None, false);
        Ok((origin, Job { request_id, traceparent, texts, options, deadline_ms, client, session, explain }))
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
            Err(Failure::Engine { index, message }) => {
                (Vec::new(), end(verdict::FAILED, message, u32::try_from(index).unwrap_or(u32::MAX)))
            }
            // A job of a peer ends so only when it was refused after all: this node closes, or its engine is gone.
            Err(fault @ (Failure::Overloaded { .. } | Failure::Unavailable { .. })) => {
                (Vec::new(), end(verdict::GIVEN_BACK, fault.to_string(), 0))
            }
        };
        Ended(wire::encode_answer(&rows, end))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use shoal_core::id::BootId;
    use shoal_core::node::Rules;

    use crate::cache::Limits;
    use crate::forward::{ForwardLimits, PeerClient};
    use crate::shell::Facts;

    /// A node of its own, which knows nobody and computes nothing.
    pub(in crate::shell) fn shell() -> Shell {
        let facts = Facts {
            node_id: NodeId::new("here").unwrap(),
            boot: BootId(1),
            cluster: Arc::from("c"),
            model_name: Arc::from("m"),
            api_addr: Arc::from("127.0.0.1:1"),
            version: "0",
            weight: 100,
            backup: false,
            policy: "adaptive",
            seeds: 0,
            inputs_max: 2,
            deadline_ms_max: 1000,
            cache: Some(Limits { bytes_max: 1 << 20, ttl: Duration::from_secs(60) }),
            cached_answers_bytes_max: 1 << 20,
        };
        let second = Duration::from_secs(1);
        let limits =
            ForwardLimits { connect: second, ping_interval: second, ping_timeout: second, message_bytes_max: 1 << 20 };
        Shell::new(facts, Rules::default(), 1, PeerClient::new(limits))
    }

    fn job() -> Execute {
        let (cluster, origin, texts) = ("c".to_owned(), "there".to_owned(), vec!["text".to_owned()]);
        Execute { cluster, origin, texts, remaining_ms: 1000, ..Execute::default() }
    }

    #[tokio::test]
    async fn a_request_id_that_the_public_door_takes_is_not_absurd_to_a_peer() {
        let shell = shell();
        for id in ["", "a b", "~!", &"x".repeat(REQUEST_ID_BYTES_MAX)] {
            let offered = shell.offer(Execute { request_id: id.to_owned(), ..job() });
            let sound = matches!(offered, Offered::Refused { refusal: Refusal::Unable, .. });
            assert!(sound, "{id:?}: {offered:?}");
        }
    }

    #[tokio::test]
    async fn a_job_that_makes_no_sense_is_told_so() {
        let shell = shell();
        for absurd in [
            Execute { cluster: "other".to_owned(), ..job() },
            Execute { origin: "not an id".to_owned(), ..job() },
            Execute { truncation: 9, ..job() },
            Execute { texts: vec![], ..job() },
            Execute { texts: vec!["a".to_owned(); 3], ..job() },
            Execute { request_id: "a\nb".to_owned(), ..job() },
            Execute { request_id: "x".repeat(REQUEST_ID_BYTES_MAX + 1), ..job() },
        ] {
            let offered = shell.offer(absurd.clone());
            assert!(matches!(offered, Offered::Absurd { .. }), "{absurd:?}: {offered:?}");
        }
    }
}
