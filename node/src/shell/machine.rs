//! The machine and, where one was asked for, the recording of what it decides.
//!
//! Part of `shell`.
//! Invariants: whatever changes the machine goes through [`Machine::step`] and [`Machine::report`], so nothing can be
//! missing in a recording: the machine itself is lent for looking only. Without a recording nothing is copied.

use std::fs::File;
use std::io;
use std::ops::Deref;

use shoal_core::load::Report;
use shoal_core::node::{Effect, Input, Node, Rules};
use shoal_core::record::{FORMAT, Header};
use shoal_core::time::MonoTime;

use super::Shell;
use crate::clock::unix_ms;
use crate::record::{Limits, Recorder};

/// How this program was built, for people who compare recordings.
const BUILD: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

#[derive(Debug)]
pub(super) struct Machine {
    node: Node,
    recorder: Option<Recorder>,
}

impl Machine {
    pub(super) fn new(node: Node) -> Self {
        Self { node, recorder: None }
    }

    /// As [`Node::step`].
    pub(super) fn step(&mut self, now: MonoTime, input: Input, effects: &mut Vec<Effect>) {
        let copy = self.recorder.as_ref().and_then(|recorder| recorder.copy(&input));
        let before = effects.len();
        self.node.step(now, input, effects);
        if let (Some(recorder), Some(input)) = (&mut self.recorder, copy) {
            recorder.on_step(now, input, &effects[before..], &self.node);
        }
    }

    /// As [`Node::report`].
    pub(super) fn report(&mut self, now: MonoTime) -> Report {
        let report = self.node.report(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.on_report(now, report, &self.node);
        }
        report
    }
}

impl Shell {
    /// Records into `file`, of at most `bytes_max` bytes, what the machine decides. Called before anything reaches the
    /// machine; `rules` and `seed` are those that it was made with.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn record(&self, file: File, bytes_max: u64, rules: Rules, seed: u64) -> io::Result<()> {
        let machine = &mut self.lock().node;
        let facts = &self.0.facts;
        let header = Header {
            format: FORMAT,
            version: facts.version.to_owned(),
            build: BUILD.to_owned(),
            node_id: facts.node_id.clone(),
            boot: facts.boot,
            seed,
            rules,
            wall_clock_unix_ms: unix_ms(),
            state: Box::new(machine.node.clone()),
        };
        let metrics = self.0.telemetry.record.clone();
        machine.recorder = Some(Recorder::start(file, Limits::of_file(bytes_max), header, metrics)?);
        Ok(())
    }

    /// Ends the recording, if there is one. What the machine decides afterwards is not in it.
    pub async fn end_recording(&self) {
        let recorder = self.lock().node.recorder.take();
        if let Some(recorder) = recorder {
            recorder.end().await;
        }
    }
}

impl Deref for Machine {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
