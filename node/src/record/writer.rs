//! The thread that writes a recording: entries to lines, lines to the file.
//!
//! Part of `record`.
//! Invariants: the file never becomes longer than it may, and holds whole lines, except that a killed process can leave
//! half of the last one; what was taken from the queue is in the file [`PAUSE`] later, unless the disk is slower.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use shoal_core::record::{ENTRY_BYTES_MAX, EndReason, Entry};

use super::{Backlog, Waiting};
use crate::telemetry::RecordMetrics;

/// How often the writer looks for entries. Nobody wakes it for one: that would cost the machine a system call a step.
const PAUSE: Duration = Duration::from_millis(20);
/// Lines are written when they are so long together.
const CHUNK_BYTES: usize = 256 << 10;
/// Kept free for the last line.
const END_BYTES: u64 = 64;

/// Where lines go.
pub(super) trait Sink: Send + 'static {
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Makes what was written `bytes` long again.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl Sink for File {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.write_all(lines)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        io::Seek::seek(self, io::SeekFrom::Start(bytes)).map(|_| ())
    }
}

/// Why nothing more is written.
enum Stop {
    /// The node left.
    Left,
    /// The recorder is gone, and nobody said why: the node failed.
    Dropped,
    Full,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(fault: io::Error) -> Self {
        Self::Failed(fault)
    }
}

pub(super) struct Writer<S> {
    sink: S,
    queue: Receiver<Waiting>,
    backlog: Arc<Backlog>,
    bytes_max: u64,
    metrics: RecordMetrics,
    /// Whole lines that are not in the sink yet, and how many.
    chunk: Vec<u8>,
    lines: u64,
    /// Bytes of whole lines in the sink.
    written: u64,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(
        sink: S,
        queue: Receiver<Waiting>,
        backlog: Arc<Backlog>,
        bytes_max: u64,
        metrics: RecordMetrics,
    ) -> Self {
        Self { sink, queue, backlog, bytes_max, metrics, chunk: Vec::new(), lines: 0, written: 0 }
    }

    /// Writes until there is nothing more to write.
    pub(super) fn run(mut self) {
        let Err(stop) = self.write_all();
        self.backlog.over.store(true, Ordering::Relaxed);
        self.metrics.running.set(0);
        let ended = match stop {
            Stop::Left => self.end(EndReason::Left),
            Stop::Dropped => Ok(()),
            Stop::Full => {
                let bytes_max = self.bytes_max;
                tracing::warn!(bytes_max, "the recording is as long as it may become and ends; the node goes on");
                self.end(EndReason::Full)
            }
            Stop::Failed(fault) => {
                tracing::warn!(%fault, "the recording cannot be written and ends; the node goes on");
                self.mend()
            }
        };
        if let Err(Stop::Failed(fault)) = ended {
            tracing::warn!(%fault, "the recording has no end: its last line may be half a line");
        }
    }

    fn write_all(&mut self) -> Result<Infallible, Stop> {
        loop {
            match self.queue.try_recv() {
                Ok(Waiting { entry, bytes }) => {
                    let added = self.add(&entry);
                    drop(entry);
                    self.backlog.took(bytes);
                    added?;
                }
                Err(TryRecvError::Empty) => {
                    self.flush()?;
                    std::thread::park_timeout(PAUSE);
                }
                Err(TryRecvError::Disconnected) => {
                    self.flush()?;
                    let Some(&dropped) = self.backlog.left.get() else { return Err(Stop::Dropped) };
                    if 0 < dropped {
                        self.add(&Entry::Gap { dropped })?;
                    }
                    return Err(Stop::Left);
                }
            }
        }
    }

    /// Makes an entry a line, unless there is no room for it.
    fn add(&mut self, entry: &Entry) -> Result<(), Stop> {
        if let Entry::Gap { dropped } = entry {
            tracing::warn!(dropped, "the recording has a gap: entries came faster than they could be written");
        }
        let start = self.chunk.len();
        serde_json::to_writer(&mut self.chunk, entry).map_err(io::Error::from)?;
        self.chunk.push(b'\n');
        let after = self.written + self.chunk.len() as u64;
        if self.bytes_max < after.saturating_add(END_BYTES) || ENTRY_BYTES_MAX < self.chunk.len() - start {
            self.chunk.truncate(start);
            return Err(Stop::Full);
        }
        self.lines += 1;
        if CHUNK_BYTES <= self.chunk.len() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.sink.write(&self.chunk)?;
        self.written += self.chunk.len() as u64;
        self.metrics.bytes.inc_by(self.chunk.len() as u64);
        self.metrics.written.inc_by(self.lines);
        self.chunk.clear();
        // A whole machine may have been in it.
        self.chunk.shrink_to(2 * CHUNK_BYTES);
        self.lines = 0;
        Ok(())
    }

    fn end(&mut self, reason: EndReason) -> Result<(), Stop> {
        let room = std::mem::replace(&mut self.bytes_max, u64::MAX);
        let ended = self.add(&Entry::End { reason }).and_then(|()| self.flush());
        self.bytes_max = room;
        ended
    }

    /// After a failure: takes away what is no whole line. On a full disk that gives the end of the recording its room.
    fn mend(&mut self) -> Result<(), Stop> {
        self.chunk.clear();
        self.lines = 0;
        self.sink.cut(self.written)?;
        if self.written == 0 {
            // Without a header it is no recording, and an end would not make it one.
            return Ok(());
        }
        let ended = self.end(EndReason::WriteFailed);
        if ended.is_err() {
            self.sink.cut(self.written)?;
        }
        ended
    }
}
