//! What one node did with its device and its callers' jobs, made from its recording.
//!
//! Part of `estimate`. A recording holds every event with its moment, so the device's timeline is exact: when each
//! batch began and ended, what ran in it, and when each job joined the queue.
//! Invariants: all moments are of the clock of the one node; a recording with a gap, with a job of several texts or
//! with one that does not say why it went where it went, is an error: nothing is left out without a word.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use shoal_core::batch::BatchRules;
use shoal_core::id::{BatchId, JobId, NodeId};
use shoal_core::node::{Decision, Effect, Input, Outcome, Placed, Source};
use shoal_core::record::Entry;
use shoal_core::time::{Micros, MonoTime};

use crate::replay::next_line;

/// What one node did.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) node: NodeId,
    pub(super) rules: BatchRules,
    /// In the order in which they began. They never overlap: the node has one device.
    pub(super) batches: Vec<Batch>,
    /// When each job that was to run here joined the queue.
    pub(super) queued: BTreeMap<JobId, MonoTime>,
    /// Jobs of callers that ended with an answer, in the order of their end.
    pub(super) answered: Vec<Answered>,
    /// Jobs of peers.
    pub(super) taken: Vec<Taken>,
}

/// The device was taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub(super) from: MonoTime,
    pub(super) to: MonoTime,
    /// One text each. Empty: the node looked how fast it is.
    pub(super) jobs: Vec<JobId>,
}

/// A job of a caller that has its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answered {
    pub(super) job: JobId,
    pub(super) arrived: MonoTime,
    pub(super) ended: MonoTime,
    pub(super) here: bool,
    pub(super) decisions: Vec<Decision>,
    /// The placements on peers.
    pub(super) forwards: Vec<Forward>,
}

/// One placement on a peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Forward {
    pub(super) at: MonoTime,
    pub(super) peer: NodeId,
    /// What the peer was told to beat.
    pub(super) bound: Option<Micros>,
}

/// A job of a peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) job: JobId,
    pub(super) arrived: MonoTime,
    pub(super) bound: Option<Micros>,
}

/// Reads the recording of one node.
///
/// # Errors
/// The file is not a whole recording of a node with one device, or of jobs of one text each.
pub(super) fn read(path: &Path) -> Result<Timeline> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("{name} cannot be read"))?;
    from_lines(BufReader::with_capacity(1 << 20, file)).with_context(|| format!("the recording {name}"))
}

fn from_lines(mut lines: impl BufRead) -> Result<Timeline> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    let mut builder: Option<Builder> = None;
    while next_line(&mut lines, &mut line)? {
        number += 1;
        let entry = serde_json::from_slice(&line).with_context(|| format!("line {number} is no entry"))?;
        match (&mut builder, entry) {
            (None, Entry::Header(header)) => {
                ensure!(header.rules.batch.slots == 1, "a node with {} slots", header.rules.batch.slots);
                builder = Some(Builder::new(header.node_id, header.rules.batch));
            }
            (None, other) => bail!("begins with a {}", other.name()),
            (Some(builder), Entry::Step { at, input, effects }) => {
                builder.step(at, input, effects).with_context(|| format!("line {number}"))?;
            }
            (Some(_), Entry::Gap { dropped }) => bail!("{dropped} entries are missing: the disk was too slow"),
            (Some(_), _) => {}
        }
    }
    let Builder { timeline, unexplained, .. } = builder.context("is empty")?;
    ensure!(unexplained == 0, "{unexplained} jobs do not say why they went where they went: is `api.explain` on?");
    Ok(timeline)
}

struct Builder {
    timeline: Timeline,
    open: BTreeMap<JobId, (MonoTime, Vec<Forward>)>,
    running: BTreeMap<BatchId, Batch>,
    measuring: Option<MonoTime>,
    unexplained: u64,
}

impl Builder {
    fn new(node: NodeId, rules: BatchRules) -> Self {
        let timeline = Timeline {
            node,
            rules,
            batches: Vec::new(),
            queued: BTreeMap::new(),
            answered: Vec::new(),
            taken: Vec::new(),
        };
        Self { timeline, open: BTreeMap::new(), running: BTreeMap::new(), measuring: None, unexplained: 0 }
    }

    fn step(&mut self, at: MonoTime, input: Input, effects: Vec<Effect>) -> Result<()> {
        match input {
            Input::Arrived(arrival) => {
                ensure!(arrival.units.len() == 1, "a job of {} texts", arrival.units.len());
                match arrival.source {
                    Source::Caller => drop(self.open.insert(arrival.job, (at, Vec::new()))),
                    Source::Peer { bound } => {
                        self.timeline.taken.push(Taken { job: arrival.job, arrived: at, bound });
                    }
                }
            }
            Input::BatchDone { batch, .. } | Input::BatchFailed { batch } => {
                let running = self.running.remove(&batch).context("a batch ends that never began")?;
                self.timeline.batches.push(Batch { to: at, ..running });
            }
            Input::Measured { .. } => {
                if let Some(from) = self.measuring.take() {
                    self.timeline.batches.push(Batch { from, to: at, jobs: Vec::new() });
                }
            }
            _ => {}
        }
        effects.into_iter().for_each(|effect| self.effect(at, effect));
        Ok(())
    }

    fn effect(&mut self, at: MonoTime, effect: Effect) {
        match effect {
            Effect::Run { batch, rows } => {
                let jobs = rows.iter().map(|row| row.job).collect();
                self.running.insert(batch, Batch { from: at, to: at, jobs });
            }
            Effect::Measure => self.measuring = Some(at),
            Effect::Acknowledge { job, .. } => drop(self.timeline.queued.insert(job, at)),
            Effect::Forward { job, peer, bound, .. } => {
                if let Some((_, forwards)) = self.open.get_mut(&job) {
                    forwards.push(Forward { at, peer, bound });
                }
            }
            Effect::Finish { job, outcome, explanation, .. } => {
                let Some((arrived, forwards)) = self.open.remove(&job) else { return };
                let Outcome::Done { placed } = outcome else { return };
                let Some(decisions) = explanation.map(|told| told.decisions) else { return self.unexplained += 1 };
                for decision in decisions.iter().filter(|decision| decision.chosen == self.timeline.node) {
                    self.timeline.queued.insert(job, arrived + decision.at);
                }
                let here = placed == Placed::Here;
                self.timeline.answered.push(Answered { job, arrived, ended: at, here, decisions, forwards });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(entries: &[serde_json::Value]) -> Result<Timeline> {
        let rules = shoal_core::node::Rules::default();
        let id = NodeId::new("a").unwrap();
        let boot = shoal_core::id::BootId(1);
        let node = shoal_core::node::Node::new(id.clone(), boot, rules.clone(), 1);
        let header = Entry::Header(Box::new(shoal_core::record::Header {
            format: shoal_core::record::FORMAT,
            version: "0".to_owned(),
            build: "test".to_owned(),
            node_id: id,
            boot,
            seed: 1,
            rules,
            wall_clock_unix_ms: 0,
            state: Box::new(node),
        }));
        let mut text = serde_json::to_string(&header).unwrap() + "\n";
        text.extend(entries.iter().map(|entry| format!("{entry}\n")));
        from_lines(text.as_bytes())
    }

    fn step(at: u64, input: &Input, effects: &[Effect]) -> serde_json::Value {
        json!({"step": {"at": at, "input": input, "effects": effects}})
    }

    fn arrival(job: u64, source: Source, texts: usize) -> Input {
        Input::Arrived(shoal_core::node::Arrival {
            job: JobId(job),
            source,
            units: vec![1; texts].into(),
            bytes: 1,
            deadline: MonoTime::from_micros(1 << 40),
            client: 0,
            session: None,
            explain: true,
        })
    }

    #[test]
    fn batches_looks_and_jobs_get_their_moments() {
        let row = |job| shoal_core::id::RowRef { job: JobId(job), row: 0 };
        let done = Outcome::Done { placed: Placed::Here };
        let explanation = Some(Box::default());
        let finish = Effect::Finish { job: JobId(1), outcome: done, placements: 1, explanation };
        let run = Effect::Run { batch: BatchId(1), rows: vec![row(1)] };
        let verdicts = vec![shoal_core::node::RowVerdict::Done];
        let batch_done = Input::BatchDone { batch: BatchId(1), took: Micros::new(50), rows: verdicts };
        let measured = Input::Measured { units: 1, took: Micros::new(9) };
        let timeline = read(&[
            step(10, &arrival(1, Source::Caller, 1), &[run]),
            step(20, &arrival(2, Source::Peer { bound: Some(Micros::new(7)) }, 1), &[]),
            step(60, &batch_done, &[finish]),
            step(70, &Input::Tick, &[Effect::Measure]),
            step(80, &measured, &[]),
        ]);
        let timeline = timeline.unwrap();
        let at = MonoTime::from_micros;
        let batch = |from, to, jobs: &[u64]| Batch {
            from: at(from),
            to: at(to),
            jobs: jobs.iter().map(|&job| JobId(job)).collect(),
        };
        assert_eq!(timeline.batches, [batch(10, 60, &[1]), batch(70, 80, &[])]);
        assert_eq!(timeline.taken, [Taken { job: JobId(2), arrived: at(20), bound: Some(Micros::new(7)) }]);
        let spans: Vec<_> = timeline.answered.iter().map(|job| (job.arrived, job.ended, job.here)).collect();
        assert_eq!(spans, [(at(10), at(60), true)]);
    }

    #[test]
    fn what_makes_no_exact_timeline_is_refused() {
        let gap = json!({"gap": {"dropped": 3}});
        let placed = Outcome::Done { placed: Placed::Here };
        let finish = Effect::Finish { job: JobId(1), outcome: placed, placements: 1, explanation: None };
        for (entries, expected) in [
            (vec![step(1, &arrival(1, Source::Caller, 1), &[finish])], "1 jobs do not say why"),
            (vec![gap], "3 entries are missing"),
            (vec![step(1, &arrival(1, Source::Caller, 2), &[])], "a job of 2 texts"),
            (vec![json!({"nonsense": 1})], "line 2 is no entry"),
        ] {
            let text = format!("{:#}", read(&entries).unwrap_err());
            assert!(text.contains(expected), "{text}");
        }
        assert!(format!("{:#}", from_lines(&b""[..]).unwrap_err()).contains("is empty"));
    }
}
