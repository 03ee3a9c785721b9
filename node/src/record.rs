//! A recording of what the machine was told and what it answered, written beside the node's work.
//!
//! For `serve`, which makes the file, and `shell`, which hands over every event with its effects, under its own lock
//! and so in their order.
//! Invariants: the machine never waits for the file: what finds no room is dropped and counted, and the recording goes
//! on with a gap and the whole machine; what waits has a bound in entries and in bytes, the file one in bytes; when the
//! file cannot be written any more the recording ends, and the node does not notice.
//! Not here: what an entry is, and how a recording is replayed (`shoal_core::record`); the thread that writes.

#[cfg(test)]
mod tests;
mod writer;

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use shoal_core::affinity::PARTS_MAX;
use shoal_core::id::RowRef;
use shoal_core::load::Report;
use shoal_core::node::{Effect, Input, Node, NodeOption, OPTIONS_MAX};
use shoal_core::peers::PeerFacts;
use shoal_core::record::{Entry, Header};
use shoal_core::time::MonoTime;
use tokio::sync::oneshot;

use crate::telemetry::RecordMetrics;
use writer::{Sink, Writer};

/// Readable for the user that the node runs as, and nobody else: a recording tells who is in the shoal and how busy.
const MODE: u32 = 0o600;
/// Most entries that wait to be written: some seconds of a busy node, should the disk pause.
const ENTRIES_MAX: usize = 16_384;
/// Most bytes that they take.
const BYTES_MAX: usize = 16 << 20;
/// About what a part of an owner table takes, with its list of owners.
const PART_BYTES: usize = 40;
/// How long the end of the process may wait for the last entries.
const END_LIMIT: Duration = Duration::from_secs(2);

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of the file.
    pub file_bytes_max: u64,
    /// Most entries that wait to be written. At least 2.
    pub entries_max: usize,
    /// Most bytes that they take, about.
    pub bytes_max: usize,
}

impl Limits {
    /// A file of so many bytes, and the usual queue in front of it.
    #[must_use]
    pub fn of_file(file_bytes_max: u64) -> Self {
        Self { file_bytes_max, entries_max: ENTRIES_MAX, bytes_max: BYTES_MAX }
    }
}

/// Makes the file of a recording.
///
/// # Errors
/// There is one of that name already, a broken link too, or none can be made there.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// The machine's side of a recording. Nothing here waits.
#[derive(Debug)]
pub struct Recorder {
    queue: Sender<Waiting>,
    backlog: Arc<Backlog>,
    limits: Limits,
    /// Entries that are missing since the last one that was not.
    dropped: u64,
    metrics: RecordMetrics,
    writer: Thread,
    /// Closed when the writer has ended.
    ended: oneshot::Receiver<Infallible>,
}

/// One entry on its way, with what it counts.
#[derive(Debug)]
struct Waiting {
    entry: Entry,
    bytes: usize,
}

/// What both sides know.
#[derive(Debug, Default)]
struct Backlog {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// The writer writes no more.
    over: AtomicBool,
    /// The node left, and so many entries are missing at the end.
    left: OnceLock<u64>,
}

impl Recorder {
    /// Starts to write to `file`, `header` first.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(file: File, limits: Limits, header: Header, metrics: RecordMetrics) -> io::Result<Self> {
        Self::start_on(file, limits, header, metrics)
    }

    fn start_on(sink: impl Sink, limits: Limits, header: Header, metrics: RecordMetrics) -> io::Result<Self> {
        let (queue, entries) = mpsc::channel();
        let (alive, ended) = oneshot::channel();
        let backlog = Arc::new(Backlog::default());
        let writer = Writer::new(sink, entries, Arc::clone(&backlog), limits.file_bytes_max, metrics.clone());
        let thread = std::thread::Builder::new().name("shoal-record".to_owned()).spawn(move || {
            writer.run();
            drop(alive);
        })?;
        metrics.running.set(1);
        let writer = thread.thread().clone();
        let recorder = Self { queue, backlog, limits, dropped: 0, metrics, writer, ended };
        recorder.push(Entry::Header(Box::new(header)), 0);
        Ok(recorder)
    }

    /// A copy of an event for [`Recorder::on_step`]; `None` when the recording is over.
    #[must_use]
    pub fn copy(&self, input: &Input) -> Option<Input> {
        self.runs().then(|| input.clone())
    }

    /// The machine took `input` and answered with `effects`; `node` is the machine after that.
    pub fn on_step(&mut self, at: MonoTime, input: Input, effects: &[Effect], node: &Node) {
        let bytes = size_of::<Waiting>() + input_bytes(&input) + effects.iter().map(effect_bytes).sum::<usize>();
        self.offer(at, node, bytes, || Entry::Step { at, input, effects: effects.to_vec() });
    }

    /// The machine was asked for its load outside an event; `node` is the machine after that.
    pub fn on_report(&mut self, at: MonoTime, report: Report, node: &Node) {
        self.offer(at, node, size_of::<Waiting>(), || Entry::Report { at, report });
    }

    /// The node left: writes what waits, and then that this was the end.
    pub async fn end(self) {
        let Self { queue, backlog, dropped, writer, ended, .. } = self;
        // The only place that sets it.
        let _ = backlog.left.set(dropped);
        drop(queue);
        writer.unpark();
        if tokio::time::timeout(END_LIMIT, ended).await.is_err() {
            tracing::warn!("the end of the recording could not be written in time");
        }
    }

    fn runs(&self) -> bool {
        !self.backlog.over.load(Ordering::Relaxed)
    }

    fn offer(&mut self, at: MonoTime, node: &Node, bytes: usize, entry: impl FnOnce() -> Entry) {
        if !self.runs() {
            return;
        }
        let waiting = self.backlog.entries.load(Ordering::Acquire);
        if 0 < self.dropped {
            self.drop_one();
            // Only when nothing waits any more: whoever could not keep up needs time, and one machine is enough memory.
            if waiting == 0 {
                self.push(Entry::Gap { dropped: self.dropped }, size_of::<Waiting>());
                self.push(Entry::State { at, node: Box::new(node.clone()) }, size_of::<Waiting>());
                self.dropped = 0;
            }
            return;
        }
        let bytes_waiting = self.backlog.bytes.load(Ordering::Relaxed);
        if waiting < self.limits.entries_max && bytes_waiting.saturating_add(bytes) <= self.limits.bytes_max {
            self.push(entry(), bytes);
            if waiting == self.limits.entries_max / 2 {
                self.writer.unpark();
            }
        } else {
            self.drop_one();
        }
    }

    fn drop_one(&mut self) {
        self.dropped += 1;
        self.metrics.dropped.inc();
    }

    fn push(&self, entry: Entry, bytes: usize) {
        self.backlog.entries.fetch_add(1, Ordering::Relaxed);
        self.backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The writer goes only after it said so in `over`, or with the process.
        let _ = self.queue.send(Waiting { entry, bytes });
    }
}

impl Backlog {
    /// An entry was written, or thrown away.
    fn took(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.entries.fetch_sub(1, Ordering::Release);
    }
}

/// About what an event holds beside its own size.
fn input_bytes(input: &Input) -> usize {
    match input {
        Input::Arrived(arrival) => size_of_val(&*arrival.units),
        Input::BatchDone { rows, .. } => rows.len(),
        Input::Membership(peers) => peers.len() * size_of::<PeerFacts>(),
        // It does not tell its size.
        Input::Owners(_) => PARTS_MAX * PART_BYTES,
        _ => 0,
    }
}

/// About what an effect holds, its own size included.
fn effect_bytes(effect: &Effect) -> usize {
    let beside = match effect {
        Effect::Run { rows, .. } => rows.len() * size_of::<RowRef>(),
        Effect::Finish { explanation: Some(told), .. } => told.decisions.len() * OPTIONS_MAX * size_of::<NodeOption>(),
        _ => 0,
    };
    size_of::<Effect>() + beside
}
