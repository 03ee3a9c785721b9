//! What a drill has seen: everything that its numbers and its verdict rest on.
//!
//! For `stage`, which collects it, and `judge`. All times are microseconds since the start of the load.
//! Not here: what it means (`judge`, `numbers`).

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::watch::Harmed;
use crate::cluster::End;
use crate::load::{Checked, Record};

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// SIGKILL.
    Kill,
    /// SIGTERM: the node must drain, exit with 0, and nobody may notice.
    Term,
    /// SIGSTOP: the process hangs, its kernel still takes connections.
    Stop,
    /// Its engine misbehaves, its process is well.
    Engine,
    /// It is not started with the others.
    Late,
}

/// What was set up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) drill: String,
    pub(crate) long: bool,
    pub(crate) nodes: u16,
    pub(crate) engine: String,
    pub(crate) rate_per_s: f64,
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    pub(crate) formed_ms: u64,
    /// What all nodes can do, requests a second, where that is known.
    pub(crate) capacity_per_s: Option<f64>,
    /// Refusals are answers.
    pub(crate) may_refuse: bool,
}

/// One fault and what followed; what was not waited for is `None`.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) node: usize,
    pub(crate) kind: FaultKind,
    pub(crate) at_us: u64,
    /// Jobs of others that the node held a moment before.
    pub(crate) open_at_fault: u64,
    /// It was waited for until the others had left the node alone. Else nothing is known of what they offered to it,
    /// nor of what was cut short.
    pub(crate) left: bool,
    /// How the process ended, and whether with exit code 0.
    pub(crate) end: Option<(String, bool)>,
    pub(crate) ended_us: Option<u64>,
    pub(crate) last_offer_us: Option<u64>,
    pub(crate) called_dead_us: Option<u64>,
    /// Jobs that others offered to it after the fault: all, and the most that one of them did.
    pub(crate) offered_after: u64,
    pub(crate) offered_after_max: u64,
    /// Jobs of others that were cut short on it.
    pub(crate) harmed: Harmed,
    /// When it was started again, went on, or was healed.
    pub(crate) back_us: Option<u64>,
    pub(crate) seen_us: Option<u64>,
    pub(crate) works_us: Option<u64>,
}

impl Fault {
    pub(crate) fn new(node: usize, kind: FaultKind, at_us: u64, open_at_fault: u64) -> Self {
        Self {
            node,
            kind,
            at_us,
            open_at_fault,
            left: false,
            end: None,
            ended_us: None,
            last_offer_us: None,
            called_dead_us: None,
            offered_after: 0,
            offered_after_max: 0,
            harmed: Harmed::default(),
            back_us: None,
            seen_us: None,
            works_us: None,
        }
    }

    /// Whether the node's own door may lose a request or a connection that was under way from `from_us` to `until_us`.
    /// A node whose engine alone misbehaves has no such excuse.
    pub(crate) fn excuses(&self, from_us: u64, until_us: u64) -> bool {
        let back_us = self.seen_us.unwrap_or(u64::MAX);
        self.kind != FaultKind::Engine && self.at_us <= until_us && from_us <= back_us
    }
}

/// A part of the run.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// What was in flight when it began belongs to it.
    pub(crate) fault: bool,
    pub(crate) from_us: u64,
    pub(crate) until_us: u64,
    /// Resident memory of each node that ran at its end, units of 10^6 bytes.
    pub(crate) rss_mb: Vec<f64>,
}

/// What the nodes' logs say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// When a job that had been handed on was cut short, and at which node.
    pub(crate) broke: Vec<(u64, String)>,
    /// When a node called another one dead, and which.
    pub(crate) called_dead: Vec<(u64, String)>,
    /// Lines that told of a peer, alive or dead, those of the start too. None at all means that the logs cannot be read
    /// in this way, because every node tells of every peer that it finds.
    pub(crate) of_peers: u64,
}

/// All that the verdict rests on.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) setting: Setting,
    pub(crate) node_ids: Vec<String>,
    pub(crate) records: Vec<Record>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) told: Told,
    pub(crate) late_answers: u64,
    /// Datagrams between nodes that the fault proxy lost while the load ran; `None` where there was no proxy.
    pub(crate) lost_datagrams: Option<u64>,
    pub(crate) checked: Checked,
    pub(crate) not_at_rest: Vec<String>,
    pub(crate) ends: Vec<End>,
}

impl Evidence {
    /// Writes each request as one JSON object on a line of its own.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_records(&self, file: &Path) -> Result<()> {
        let naming = || format!("writing {}", file.display());
        let mut out = BufWriter::new(File::create(file).with_context(naming)?);
        for record in &self.records {
            serde_json::to_writer(&mut out, record).with_context(naming)?;
            out.write_all(b"\n").with_context(naming)?;
        }
        out.flush().with_context(naming)
    }
}
