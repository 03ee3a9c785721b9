//! What the machine asks for, done.
//!
//! Part of `shell`.
//! Invariants: nothing here blocks; a job that was sent away always gives the machine one word about that placement,
//! unless the machine itself abandoned it.

use std::ops::Range;
use std::sync::Arc;

use shoal_core::id::{Attempt, JobId, NodeId};
use shoal_core::node::{Effect, EngineFault, Explanation, Input, Outcome, Placed, Refusal, Verdict};
use shoal_core::time::Micros;

use super::call::{Call, Hears, OwnNode};
use super::{Facts, Phase, Shell, State, explain};
use crate::compute::Row;
use crate::forward::{ForwardError, Reply};
use crate::gossip::key;
use crate::job::{Answer, Ending, Failure, Job};
use crate::telemetry::{PeerLabel, PeerOutcome, SourceOutcome, Target};
use crate::wire::{self, Execute, verdict};

impl Shell {
    pub(super) fn perform(&self, state: &mut State, effect: &Effect) {
        match effect {
            Effect::Run { batch, rows } => {
                let now = self.0.clock.now();
                let row = |row: &shoal_core::id::RowRef| {
                    let call = state.calls.get_mut(&row.job).expect("the machine runs only rows of held jobs");
                    if call.started.is_none() {
                        call.started = Some(now);
                        self.count_placement("here");
                    }
                    let index = call.span.start + row.row as usize;
                    Row { texts: Arc::clone(&call.job.texts), index, options: call.job.options }
                };
                let inputs = rows.iter().map(row).collect();
                state.running.insert(*batch, rows.clone());
                self.0.compute.get().expect("only an attached device is ready").run(*batch, inputs);
            }
            Effect::Cut { call, chunk, rows } => self.cut(state, *call, *chunk, rows),
            Effect::Forward { job, attempt, peer, bound, remaining, hedge: _ } => {
                self.count_placement("peer");
                let call = state.calls.get_mut(job).expect("the machine forwards only held jobs");
                // The texts are copied by the task, not here under the lock.
                let (span, peer) = (call.span.clone(), peer.clone());
                let sent = Sent { job: *job, attempt: *attempt, span, peer, bound: *bound, remaining: *remaining };
                let task = call.lane.spawn(self.clone().forward(sent, call.job.clone()));
                call.forwards.push((*attempt, task.abort_handle()));
            }
            Effect::Abandon { job, attempt } => {
                let Some(call) = state.calls.get_mut(job) else { return };
                if let Some(at) = call.forwards.iter().position(|(sent, _)| sent == attempt) {
                    call.forwards.swap_remove(at).1.abort();
                }
            }
            // The offer that this answers looks for it itself.
            Effect::Acknowledge { .. } => {}
            Effect::Finish { job, outcome, placements, explanation } => {
                self.finish(state, *job, (outcome, *placements), explanation.as_deref());
            }
            Effect::Measure => self.0.compute.get().expect("only an attached device is ready").measure(),
            Effect::Canary => self.0.compute.get().expect("only an attached device is ready").canary(),
            Effect::Ping { peer } => {
                self.0.runtime.spawn(self.clone().ping(peer.clone()));
            }
            Effect::Publish { report } => {
                self.mind_wedge(state);
                let Some(gossip) = self.0.gossip.get() else { return };
                gossip.announce(key::LOAD, wire::encode_report(report));
                gossip.announce(key::ENGINE, state.node.standing().name().to_owned());
                // This node may have begun to take work, or ended.
                self.mind_owners(state);
            }
            Effect::StopAccepting => {
                self.0.lookers.on_closing();
                self.0.phase.send_replace(Phase::Closing);
            }
            Effect::Exit => self.end(),
        }
    }

    fn count_placement(&self, target: &'static str) {
        self.0.telemetry.placements.get_or_create(&Target { target }).inc();
    }

    fn message(&self, sent: &Sent, job: &Job) -> Execute {
        let model = match self.0.loaded.load().as_ref() {
            Some(loaded) => loaded.key.to_string(),
            // This node has no model of its own to compare with: the peer is asked for what it announced.
            None => {
                let members = self.0.members.load();
                members
                    .iter()
                    .find(|member| member.id == sent.peer)
                    .map_or_else(String::new, |member| member.model.clone())
            }
        };
        Execute {
            request_id: job.request_id.to_string(),
            traceparent: job.traceparent.as_deref().unwrap_or_default().to_owned(),
            model,
            texts: job.texts[sent.span.clone()].iter().map(|text| text.to_string()).collect(),
            truncation: wire::truncation_number(job.options.truncation),
            normalize: job.options.normalize,
            dimensions: job.options.dimensions,
            remaining_ms: sent.remaining.to_ms_ceil(),
            bound_us: sent.bound.map(Micros::get),
            origin: self.0.facts.node_id.to_string(),
            cluster: self.0.facts.cluster.to_string(),
        }
    }

    async fn forward(self, sent: Sent, job: Job) {
        let message = self.message(&sent, &job);
        let Sent { job, attempt, peer, .. } = sent;
        let label = PeerLabel { peer: peer.to_string() };
        self.0.telemetry.offers.get_or_create(&label).inc();
        let result = match self.peer_addr(&peer) {
            Some(addr) => {
                let flushed = || self.drive(Input::Flushed { job, attempt });
                let acknowledged = |said| {
                    let word = self.believe(&peer, said);
                    self.drive(Input::Accepted { job, attempt, peer: peer.clone(), word });
                };
                let counted = AbandonCount { shell: &self, peer: &peer, armed: true };
                let width = message.dimensions.or_else(|| Some(self.0.loaded.load().as_ref()?.card.dimensions));
                let result = self.0.client.execute(addr, &message, width, flushed, acknowledged).await;
                counted.disarm();
                result
            }
            None => Err(ForwardError::Unreachable("the peer left the shoal".to_owned())),
        };
        let outcome = match result {
            Ok(reply) => self.on_reply(job, attempt, peer.clone(), reply),
            Err(ForwardError::Refused { refusal, said }) => {
                let word = self.believe(&peer, said);
                self.drive(Input::Refused { job, attempt, peer: peer.clone(), word, refusal });
                match refusal {
                    Refusal::Busy => "busy",
                    Refusal::Full => "full",
                    Refusal::Draining => "draining",
                    Refusal::Unable => "unable",
                }
            }
            Err(fault) => {
                tracing::debug!(%peer, %fault, request = %message.request_id, "a forward broke");
                self.drive(Input::Broke { job, attempt, peer: peer.clone() });
                match fault {
                    ForwardError::Unreachable(_) => "unreachable",
                    ForwardError::Garbled(_) => "garbled",
                    ForwardError::Lost(_) | ForwardError::Refused { .. } => "lost",
                }
            }
        };
        self.count_forward(&peer, outcome);
    }

    fn count_forward(&self, peer: &NodeId, outcome: &'static str) {
        self.0.telemetry.forwards.get_or_create(&PeerOutcome { peer: peer.to_string(), outcome }).inc();
    }

    fn on_reply(&self, job: JobId, attempt: Attempt, peer: NodeId, reply: Reply) -> &'static str {
        let word = self.believe(&peer, reply.said);
        if reply.end.verdict == verdict::GIVEN_BACK {
            self.drive(Input::Refused { job, attempt, peer, word, refusal: Refusal::Draining });
            return "draining";
        }
        let (verdict, outcome) = match reply.end.verdict {
            verdict::DONE => (Verdict::Done, "ok"),
            verdict::REJECTED => (Verdict::Rejected, "rejected"),
            verdict::EXPIRED => (Verdict::Expired, "expired"),
            // A verdict of a later version is a failure that this version does not know.
            _ => (Verdict::Failed, "failed"),
        };
        let state = &mut *self.lock();
        // The answer to a placement that was given up is late, also when the job goes on elsewhere.
        let call = state.calls.get_mut(&job).filter(|call| call.forwards.iter().any(|(sent, _)| *sent == attempt));
        match call {
            Some(call) => call.reply = Some((attempt, reply)),
            None => drop(self.0.telemetry.late_answers.inc()),
        }
        self.drive_locked(state, Input::Answered { job, attempt, peer, word, verdict });
        outcome
    }

    async fn ping(self, peer: NodeId) {
        let answer = match self.peer_addr(&peer) {
            Some(addr) => self.0.client.ping(addr).await,
            None => Err(ForwardError::Unreachable("the peer left the shoal".to_owned())),
        };
        match answer {
            Ok(said) => {
                let word = self.believe(&peer, said);
                self.drive(Input::Heard { peer, word });
            }
            Err(fault) => {
                tracing::debug!(%peer, %fault, "a ping was not answered");
                let broke = matches!(fault, ForwardError::Unreachable(_));
                self.drive(Input::PingFailed { peer, broke });
            }
        }
    }

    fn finish(
        &self,
        state: &mut State,
        job: JobId,
        (outcome, placements): (&Outcome, u8),
        explanation: Option<&Explanation>,
    ) {
        let mut call = state.take(job).expect("the machine ends only held jobs");
        if let Hears::Call(of) = call.hears {
            return self.finish_chunk(state, (job, call), of, outcome, placements);
        }
        let leaving = state.node.door().draining();
        let (outcome, answer) = self.result(&mut call, outcome, placements, leaving);
        self.0.telemetry.jobs.get_or_create(&SourceOutcome { source: call.source, outcome }).inc();
        let Facts { node_id, policy, .. } = &self.0.facts;
        let explanation = explanation.map(|it| explain::text(node_id.as_str(), policy, it).into_boxed_str());
        if let Hears::Waiter(waiter) = call.hears {
            // Whoever waited may have left in this moment.
            let _ = waiter.send(Ending { answer, explanation, room: None });
        }
    }

    /// What a job came to: for the metrics, and for who waits.
    pub(super) fn result(
        &self,
        call: &mut Call,
        outcome: &Outcome,
        placements: u8,
        leaving: bool,
    ) -> (&'static str, Result<Answer, Failure>) {
        let own = self.own_node();
        match outcome {
            Outcome::Done { placed: Placed::Here } => ("ok", Ok(call.own_answer(&own, placements))),
            Outcome::Done { placed: Placed::Away(peer, _) } => {
                ("ok", Ok(call.peers_answer(&own, peer.shared(), placements)))
            }
            Outcome::Done { placed: Placed::InChunks } => ("ok", Ok(call.joined_answer(&own, placements))),
            Outcome::Rejected { placed } => {
                // A peer may have failed on the job before: what it said then is not why the job was rejected here.
                call.reply.take_if(|_| *placed == Placed::Here);
                let (index, message) = call.blame();
                ("rejected", Err(Failure::Input { index, message }))
            }
            Outcome::EngineFailed(EngineFault::Everywhere | EngineFault::OnOneNode) => {
                let (index, message) = call.blame();
                ("failed", Err(Failure::Engine { index, message }))
            }
            Outcome::Overloaded { retry_after } => {
                ("overloaded", Err(Failure::Overloaded { retry_after_ms: retry_after.to_ms_ceil() }))
            }
            Outcome::Unavailable { retry_after } => {
                let message = match self.0.engine_message.load().for_callers {
                    _ if leaving => "this node is leaving",
                    "" => "no peer took the request",
                    message => message,
                };
                let message = message.to_owned();
                ("unavailable", Err(Failure::Unavailable { message, retry_after_ms: retry_after.to_ms_ceil() }))
            }
            Outcome::Expired => ("expired", Err(Failure::Expired)),
            Outcome::Refused(refusal) => {
                let message = format!("{refusal:?}").to_lowercase();
                ("refused", Err(Failure::Unavailable { message, retry_after_ms: 0 }))
            }
        }
    }

    fn own_node(&self) -> OwnNode {
        let facts = &self.0.facts;
        let revision = self.0.loaded.load().as_ref().map(|loaded| loaded.revision.clone());
        OwnNode {
            node_id: facts.node_id.shared(),
            model: facts.model_name.clone(),
            revision: revision.unwrap_or_default(),
        }
    }
}

/// One placement of a job on a peer.
struct Sent {
    job: JobId,
    attempt: Attempt,
    /// Which of the job's texts.
    span: Range<usize>,
    peer: NodeId,
    bound: Option<Micros>,
    remaining: Micros,
}

/// Counts a forward whose task was aborted: the machine abandoned it.
struct AbandonCount<'a> {
    shell: &'a Shell,
    peer: &'a NodeId,
    armed: bool,
}

impl AbandonCount<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for AbandonCount<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shell.count_forward(self.peer, "abandoned");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::time::MonoTime;
    use shoal_engine::EmbedOptions;
    use tokio::sync::oneshot;

    use crate::forward::Said;
    use crate::job::Job;
    use crate::shell::peer_door::tests::shell;
    use crate::wire::End;

    /// A call on which a peer failed before this node found fault with its row 3.
    fn call() -> Call {
        let (request_id, texts, options) = (Arc::from("r"), Arc::from([Box::from("text")]), EmbedOptions::default());
        let (client, session, explain) = (0, None, false);
        let job = Job { request_id, traceparent: None, texts, options, deadline_ms: 1000, client, session, explain };
        let mut call = Call::new(job, "caller", MonoTime::START, oneshot::channel().0);
        let end = End { verdict: verdict::FAILED, message: "not finite".to_owned(), ..End::default() };
        call.reply = Some((Attempt(1), Reply { rows: Vec::new(), end, said: Said::default() }));
        call.fault = Some((3, "too long".to_owned()));
        call
    }

    #[tokio::test]
    async fn a_caller_hears_why_the_node_that_rejected_the_job_did_so() {
        let peer = NodeId::new("peer").unwrap();
        for (placed, index, message) in
            [(Placed::Here, 3, "too long"), (Placed::Away(peer, Attempt(1)), 0, "not finite")]
        {
            let (_, told) = shell().result(&mut call(), &Outcome::Rejected { placed: placed.clone() }, 2, false);
            assert_eq!(told.unwrap_err(), Failure::Input { index, message: message.to_owned() }, "{placed:?}");
        }
    }
}
