//! Tests of the recorder: real files, real threads, and disks that stall, fill and fail.
//!
//! What is recorded is a real machine; whether the file is sound is asked of the `Replayer`, as `cluster-sim replay`
//! does.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use prometheus_client::registry::Registry;
use shoal_core::id::{BootId, JobId, NodeId};
use shoal_core::node::{Arrival, RowVerdict, Rules, Source};
use shoal_core::record::{EndReason, FORMAT, Replayed, Replayer, Totals};
use shoal_core::time::Micros;

use super::*;

const SMALL_FILE_BYTES: u64 = 64 << 10;

/// A machine that is recorded, one event a millisecond.
struct Desk {
    node: Node,
    now: MonoTime,
    jobs: u64,
    steps: u64,
    recorder: Recorder,
}

impl Desk {
    fn new(sink: impl Sink, limits: Limits) -> Self {
        let (node_id, boot, rules, seed) = (NodeId::new("here").unwrap(), BootId(1), Rules::default(), 7);
        let node = Node::new(node_id.clone(), boot, rules.clone(), seed);
        let header = Header {
            format: FORMAT,
            version: "0.0.0".to_owned(),
            build: "test".to_owned(),
            node_id,
            boot,
            seed,
            rules,
            wall_clock_unix_ms: 0,
            state: Box::new(node.clone()),
        };
        let metrics = RecordMetrics::new(&mut Registry::default());
        let recorder = Recorder::start_on(sink, limits, header, metrics).unwrap();
        let mut desk = Self { node, now: MonoTime::START, jobs: 0, steps: 0, recorder };
        desk.step(Input::EngineReady { units: 16, took: Micros::from_ms(5) });
        desk
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        self.now = self.now + Micros::from_ms(1);
        let (copy, mut effects) = (self.recorder.copy(&input), Vec::new());
        self.node.step(self.now, input, &mut effects);
        self.steps += 1;
        if let Some(copy) = copy {
            self.recorder.on_step(self.now, copy, &effects, &self.node);
        }
        effects
    }

    /// One job of so many rows, computed at once, and one report.
    fn job(&mut self, rows: usize) {
        self.jobs += 1;
        let effects = self.step(Input::Arrived(Arrival {
            job: JobId(self.jobs),
            source: Source::Caller,
            units: vec![5; rows].into(),
            bytes: 100,
            deadline: self.now + Micros::from_ms(60_000),
            client: 0,
            session: None,
            explain: false,
        }));
        let mut batches = started(&effects);
        while let Some((batch, rows)) = batches.pop() {
            let rows = vec![RowVerdict::Done; rows];
            batches.extend(started(&self.step(Input::BatchDone { batch, took: Micros::new(3001), rows })));
        }
        let report = self.node.report(self.now);
        self.recorder.on_report(self.now, report, &self.node);
    }

    /// Jobs until `enough`.
    fn jobs_until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !enough(self) {
            assert!(Instant::now() < deadline, "{what}: not within 30 s");
            self.job(1);
            std::thread::yield_now();
        }
    }
}

fn started(effects: &[Effect]) -> Vec<(shoal_core::id::BatchId, usize)> {
    let started = effects.iter().filter_map(|effect| match effect {
        Effect::Run { batch, rows } => Some((*batch, rows.len())),
        _ => None,
    });
    started.collect()
}

/// A disk that a test holds in its hand.
#[derive(Clone, Default)]
struct Disk(Arc<(Mutex<Platter>, Condvar)>);

#[derive(Default)]
struct Platter {
    bytes: Vec<u8>,
    stalled: bool,
    /// Writing beyond it fails, with what fits written.
    bytes_max: Option<usize>,
}

impl Disk {
    fn stall(&self, stalled: bool) {
        self.0.0.lock().unwrap().stalled = stalled;
        self.0.1.notify_all();
    }

    /// Takes so many bytes more. Returns how many it then holds.
    fn limit(&self, bytes: usize) -> usize {
        let mut platter = self.0.0.lock().unwrap();
        let bytes_max = platter.bytes.len() + bytes;
        platter.bytes_max = Some(bytes_max);
        bytes_max
    }

    fn lines(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().bytes.clone()).unwrap()
    }
}

impl Sink for Disk {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let platter = self.0.0.lock().unwrap();
        let mut platter = self.0.1.wait_while(platter, |platter| platter.stalled).unwrap();
        let room = platter.bytes_max.map_or(usize::MAX, |max| max - platter.bytes.len());
        platter.bytes.extend(&lines[..lines.len().min(room)]);
        if lines.len() <= room { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.0.0.lock().unwrap().bytes.truncate(usize::try_from(bytes).unwrap());
        Ok(())
    }
}

/// Replays what was written; every line has to be whole.
#[track_caller]
fn assert_equal(lines: &str) -> (Totals, Option<EndReason>) {
    assert!(lines.ends_with('\n'), "the last line is torn");
    let mut replayer = Replayer::default();
    for line in lines.lines() {
        let replayed = replayer.feed(serde_json::from_str(line).unwrap()).unwrap();
        assert!(matches!(replayed, Replayed::Equal), "{replayed:?}");
    }
    (replayer.totals(), replayer.end())
}

/// In a directory of its own.
fn new_file() -> (tempfile::TempDir, std::path::PathBuf, File) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.jsonl");
    let file = create(&path).unwrap();
    (directory, path, file)
}

fn wait_over(recorder: &Recorder) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while recorder.runs() {
        assert!(Instant::now() < deadline, "the recording does not end");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_recording_is_whole_and_equal_and_its_owners_alone() {
    let (_directory, path, file) = new_file();
    let mut desk = Desk::new(file, Limits::of_file(1 << 30));
    (0..300).for_each(|rows| desk.job(1 + rows % 7));
    let (metrics, steps) = (desk.recorder.metrics.clone(), desk.steps);
    assert_eq!(metrics.running.get(), 1);
    desk.recorder.end().await;
    let (totals, end) = assert_equal(&std::fs::read_to_string(&path).unwrap());
    assert_eq!((totals.steps, totals.reports, totals.gaps, end), (steps, 300, 0, Some(EndReason::Left)));
    let found = path.metadata().unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    assert_eq!((metrics.bytes.get(), metrics.running.get()), (found.len(), 0));
    assert_eq!((metrics.written.get(), metrics.dropped.get()), (totals.entries, 0));
}

#[test]
fn nothing_is_overwritten_and_no_link_is_followed() {
    let (directory, path, _file) = new_file();
    std::fs::write(&path, "mine").unwrap();
    let link = directory.path().join("link");
    symlink(directory.path().join("nothing"), &link).unwrap();
    for taken in [&path, &link] {
        assert_eq!(create(taken).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{}", taken.display());
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn the_machine_does_not_wait_for_a_disk_that_stalls_and_the_replay_goes_on_after_the_gap() {
    for limits in [
        Limits { entries_max: 8, ..Limits::of_file(1 << 30) },
        Limits { bytes_max: 8 << 10, ..Limits::of_file(1 << 30) },
    ] {
        let disk = Disk::default();
        let mut desk = Desk::new(disk.clone(), limits);
        for _ in 0..3 {
            disk.stall(true);
            desk.jobs_until("entries are dropped", |desk| 20 < desk.recorder.dropped);
            assert!(desk.recorder.backlog.entries.load(Ordering::Relaxed) <= limits.entries_max);
            assert!(desk.recorder.backlog.bytes.load(Ordering::Relaxed) <= limits.bytes_max);
            disk.stall(false);
            desk.jobs_until("it goes on", |desk| desk.recorder.dropped == 0);
            desk.job(3);
        }
        let metrics = desk.recorder.metrics.clone();
        // One more at the end, which no state follows.
        disk.stall(true);
        desk.jobs_until("entries are dropped", |desk| 0 < desk.recorder.dropped);
        disk.stall(false);
        desk.recorder.end().await;
        let (totals, end) = assert_equal(&disk.lines());
        assert_eq!(end, Some(EndReason::Left));
        assert!(4 <= totals.gaps && totals.states + 1 == totals.gaps, "{totals:?}");
        assert_eq!((totals.dropped, totals.entries), (metrics.dropped.get(), metrics.written.get()));
    }
}

#[tokio::test]
async fn a_recording_ends_before_its_file_is_too_long_and_the_node_goes_on() {
    let (_directory, path, file) = new_file();
    let mut desk = Desk::new(file, Limits::of_file(SMALL_FILE_BYTES));
    desk.jobs_until("the file is full", |desk| !desk.recorder.runs());
    desk.job(1);
    assert!(desk.recorder.copy(&Input::Tick).is_none(), "nothing is copied for nobody");
    let metrics = desk.recorder.metrics.clone();
    desk.recorder.end().await;
    let (totals, end) = assert_equal(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(end, Some(EndReason::Full));
    let length = path.metadata().unwrap().len();
    assert!(SMALL_FILE_BYTES - 4096 < length && length <= SMALL_FILE_BYTES, "{length}");
    assert!(100 < totals.steps && totals.steps < desk.steps, "{totals:?} of {}", desk.steps);
    assert_eq!(metrics.running.get(), 0);
}

#[tokio::test]
async fn a_disk_that_fills_ends_the_recording_after_a_whole_line() {
    let disk = Disk::default();
    let mut desk = Desk::new(disk.clone(), Limits::of_file(1 << 30));
    desk.jobs_until("something is written", |desk| 0 < desk.recorder.metrics.written.get());
    let disk_bytes = disk.limit(10_000);
    desk.jobs_until("the disk is full", |desk| !desk.recorder.runs());
    let metrics = desk.recorder.metrics.clone();
    desk.recorder.end().await;
    let (totals, end) = assert_equal(&disk.lines());
    // The last line may find no room either; then there is none, and not half of it.
    assert!(end == Some(EndReason::WriteFailed) || disk_bytes - 40 < disk.lines().len(), "{end:?}");
    assert_eq!(metrics.running.get(), 0);
    assert_eq!(totals.entries, metrics.written.get());
}

#[tokio::test]
async fn a_disk_without_room_for_the_header_is_left_empty() {
    let disk = Disk::default();
    disk.limit(100);
    let desk = Desk::new(disk.clone(), Limits::of_file(1 << 30));
    wait_over(&desk.recorder);
    desk.recorder.end().await;
    assert_eq!(disk.lines(), "");
}

#[test]
fn a_file_that_takes_nothing_ends_the_recording_and_nothing_else() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut desk = Desk::new(full, Limits::of_file(1 << 30));
    wait_over(&desk.recorder);
    (0..100).for_each(|_| desk.job(1));
    assert_eq!((desk.recorder.metrics.running.get(), desk.recorder.metrics.written.get()), (0, 0));
}
