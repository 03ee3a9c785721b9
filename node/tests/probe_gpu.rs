//! The probe on a library that looks like NVIDIA's: everything between the trait and the C functions is the real thing.
//!
//! Each test builds the library with rustc for a directory of its own and says in a file there what it answers.
//! Invariants: tests run one after the other, because they look at the threads of the process; no figure in here is 0,
//! so that a 0 in a sample is always a mistake.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use shoal::config::GpuMode;
use shoal::probe::{DeviceFigures, DeviceRead, GpuProbe as _, GpuRead, Nvml, Probe, ProbeSettings, Visible};
use shoal::sample::{DeviceMemory, GpuState, LoadPercent, Sample};
use shoal_core::time::{Micros, MonoTime};
use tempfile::TempDir;

/// Far above what is ever needed.
const LIMIT: Duration = Duration::from_secs(60);
const REOPEN_AFTER: Duration = Duration::from_millis(100);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Two GPUs, of which the one that NVML counts first is second on the bus.
const TWO: &str = "gpu GPU-aaaa 81 H200 30 100 400\ngpu GPU-bbbb 41 H200 80 20 400\n";

/// The fake library and its directory.
struct Fake {
    directory: TempDir,
    calls: UnixDatagram,
    _turn: MutexGuard<'static, ()>,
}

impl Fake {
    /// Built, and told `control`.
    fn new(control: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let calls = UnixDatagram::bind(directory.path().join("calls")).unwrap();
        calls.set_read_timeout(Some(LIMIT)).unwrap();
        File::create(directory.path().join("lock")).unwrap();
        let fake = Self { directory, calls, _turn: turn };
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_nvml/lib.rs");
        let built = Command::new(rustc)
            .args(["--crate-type", "cdylib", "--edition", "2024", "--deny", "warnings", "-C", "panic=abort"])
            .args([OsString::from("-o"), fake.library().into(), source.into()])
            .args(["--allow", "non_snake_case", "--crate-name", "nvidia_ml"])
            .env("FAKE_NVML_DIRECTORY", fake.directory.path())
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fake.say(control);
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn library(&self) -> PathBuf {
        self.path("libnvidia-ml.so.1")
    }

    /// Changes what the library answers from its next call on.
    fn say(&self, control: &str) {
        fs::write(self.path("next"), control).unwrap();
        fs::rename(self.path("next"), self.path("control")).unwrap();
    }

    fn settings(&self) -> ProbeSettings {
        ProbeSettings {
            gpu: GpuMode::Auto,
            nvml_library: Some(self.library()),
            visible: Visible::default(),
            interval: Duration::from_millis(20),
            reopen_after: REOPEN_AFTER,
            // Without files the share of the machine is unknown.
            root: self.path("no-such-root"),
        }
    }

    fn probe(&self) -> Told {
        Told::start(self.settings())
    }

    /// One reading on this thread, of a library that is opened for it.
    fn read(&self, visible: Visible) -> GpuRead {
        Nvml::new(Some(self.library()), visible, Micros::ZERO).read(MonoTime::START)
    }

    /// Waits until the library was called so.
    fn await_call(&self, wanted: &str) {
        let mut call = [0; 32];
        while {
            let length = self.calls.recv(&mut call).unwrap_or_else(|fault| panic!("no {wanted}: {fault}"));
            &call[..length] != wanted.as_bytes()
        } {}
    }
}

/// A running probe and what it tells.
struct Told {
    probe: Probe,
    samples: mpsc::Receiver<Sample>,
}

impl Told {
    fn start(settings: ProbeSettings) -> Self {
        let (tell, samples) = mpsc::channel();
        let probe = Probe::start(settings, move |sample| drop(tell.send(sample))).unwrap();
        Self { probe, samples }
    }

    /// Waits for a sample that is as wanted. No sample on the way takes what is unknown for 0.
    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&Sample) -> bool) -> Sample {
        let deadline = Instant::now() + LIMIT;
        let mut last = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(sample) = self.samples.recv_timeout(left) else { panic!("{what}: not within {LIMIT:?}: {last:?}") };
            let mut figures = vec![sample.gpu.busy_percent, sample.gpu.memory_percent];
            figures.extend(sample.gpus.iter().map(|gpu| gpu.busy_percent));
            assert!(!figures.contains(&Some(0)), "{what}: {sample:?}");
            if wanted(&sample) {
                return sample;
            }
            last = Some(sample);
        }
    }

    #[track_caller]
    fn until_state(&self, state: GpuState) -> Sample {
        self.until(state.name(), |sample| sample.gpu.state == state)
    }

    /// GPUs that answer, with this load.
    #[track_caller]
    fn until_load(&self, busy: impl Into<Option<u8>>, memory: impl Into<Option<u8>>) -> Sample {
        let wanted = LoadPercent { busy: busy.into(), memory: memory.into() };
        let is_wanted = |sample: &Sample| sample.gpu.state == GpuState::Present && sample.load() == wanted;
        self.until(&format!("{wanted:?}"), is_wanted)
    }
}

/// How many threads of this process are inside the driver or wait to go there.
fn gpu_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "shoal-gpu").count()
}

fn device(name: &str, busy: impl Into<Option<u8>>, memory: Option<DeviceMemory>) -> DeviceRead {
    DeviceRead { name: name.into(), figures: Ok(DeviceFigures { busy_percent: busy.into(), memory }) }
}

#[test]
fn one_probe_goes_through_everything_that_can_happen_to_its_gpus() {
    let fake = Fake::new(TWO);
    fs::rename(fake.library(), fake.path("away")).unwrap();
    let told = fake.probe();
    let absent = told.until_state(GpuState::Absent);
    assert_eq!((absent.load(), absent.gpus), (LoadPercent::default(), Vec::new()));

    // The driver is installed.
    fs::rename(fake.path("away"), fake.library()).unwrap();
    let present = told.until_load(80, 25);
    let gpu = |at: usize| (&*present.gpus[at].name, present.gpus[at].busy_percent, present.gpus[at].memory);
    assert_eq!(gpu(0), ("GPU-bbbb", Some(80), DeviceMemory::new(20, 400)));
    assert_eq!(gpu(1), ("GPU-aaaa", Some(30), DeviceMemory::new(100, 400)));

    // One of two is lost: the other one is still shown, the load of the node is not known.
    let lost = "fault nvmlDeviceGetUtilizationRates GPU-bbbb 15\n";
    fake.say(&format!("{TWO}{lost}"));
    let busy = |sample: &Sample| sample.gpus.iter().map(|gpu| gpu.busy_percent).collect::<Vec<_>>();
    let is_half_known = |sample: &Sample| busy(sample) == [None, Some(30)];
    let broken = told.until("one lost", |sample| sample.gpu.state == GpuState::Broken && is_half_known(sample));
    assert_eq!(broken.load(), LoadPercent::default());

    // It is back, after that all are gone, then back again.
    fake.say(TWO);
    told.until_load(80, 25);
    fake.say(lost);
    told.until("a library that sees no GPU", |sample| sample.gpu.state == GpuState::Absent && sample.gpus.is_empty());
    fake.say(TWO);
    told.until_load(80, 25);

    // A device that does not tell how busy it is; one that does not tell how full it is.
    fake.say("gpu GPU-aaaa 81 H200 30 100 400\ngpu GPU-bbbb 41 H200 - 20 400\n");
    told.until_load(None, 25);
    fake.say("gpu GPU-aaaa 81 H200 30 - 400\ngpu GPU-bbbb 41 H200 80 20 400\n");
    told.until_load(80, None);

    // A call hangs: first the state says so, then the last figures have faded.
    fake.say(TWO);
    told.until_load(80, 25);
    let lock = File::open(fake.path("lock")).unwrap();
    lock.lock().unwrap();
    fake.say(&format!("{TWO}hang nvmlDeviceGetMemoryInfo_v2\n"));
    told.until_state(GpuState::Hung);
    told.until("no figures", |sample| sample.gpu.state == GpuState::Hung && sample.load() == LoadPercent::default());
    assert_eq!(gpu_threads(), 1);
    // It returns.
    fake.say(&TWO.replace(" 80 ", " 60 "));
    lock.unlock().unwrap();
    told.until_load(60, 25);
    assert_eq!(gpu_threads(), 1);
}

#[test]
fn a_probe_that_hangs_is_left_behind_without_waiting() {
    for function in ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetUtilizationRates"] {
        let fake = Fake::new(&format!("{TWO}hang {function}\n"));
        let lock = File::open(fake.path("lock")).unwrap();
        lock.lock().unwrap();
        let told = fake.probe();
        assert_eq!(told.until_state(GpuState::Hung).load(), LoadPercent::default(), "{function}");
        let Told { probe, samples } = told;
        drop(probe);
        // The probe's own thread has ended when nobody can tell any more; the other one is still inside.
        let deadline = Instant::now() + LIMIT;
        while samples.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        assert_eq!(samples.try_recv(), Err(mpsc::TryRecvError::Disconnected), "{function}");
        assert_eq!(gpu_threads(), 1, "{function}");
        // When the call returns after all, the library is closed in order.
        lock.unlock().unwrap();
        fake.await_call("shutdown");
    }
}

#[test]
fn the_visible_gpus_are_found_by_bus_and_by_uuid() {
    let fake = Fake::new(TWO);
    let read = |list: &str| fake.read(Visible::new(Some(list.to_owned()), Some("PCI_BUS_ID")));
    let (a, b) =
        (device("GPU-aaaa", 30, DeviceMemory::new(100, 400)), device("GPU-bbbb", 80, DeviceMemory::new(20, 400)));
    assert_eq!(read("0"), GpuRead::Present(vec![b.clone()]));
    assert_eq!(read("1"), GpuRead::Present(vec![a.clone()]));
    assert_eq!(read("GPU-a,0"), GpuRead::Present(vec![a.clone(), b.clone()]));
    assert!(matches!(read("-1"), GpuRead::Absent { why } if why.contains("CUDA_VISIBLE_DEVICES=\"-1\"")));

    // A slice tells its memory, not how busy it is.
    fake.say(&format!("{TWO}slice MIG-cccc 7 10\n"));
    let slice = device("MIG-cccc", None, DeviceMemory::new(7, 10));
    assert_eq!(read("MIG-cccc"), GpuRead::Present(vec![slice]));
    assert!(matches!(&read("MIG-none"), GpuRead::Present(all) if all[0].figures.is_err()));

    // A GPU that is another's does not count; one that does not say who it is cannot be told from those that are named.
    fake.say(&format!("{TWO}fault nvmlDeviceGetHandleByIndex_v2 GPU-bbbb 4\n"));
    assert_eq!(fake.read(Visible::default()), GpuRead::Present(vec![a.clone()]));
    fake.say(&format!("{TWO}fault nvmlDeviceGetUUID GPU-bbbb 15\n"));
    assert!(matches!(&fake.read(Visible::default()), GpuRead::Present(all)
        if all[0] == a && &*all[1].name == "index 1" && all[1].figures.is_err()));
    assert_eq!(read("GPU-aaaa"), GpuRead::Present(vec![a]));
    assert!(matches!(read("0"), GpuRead::Broken { why } if why.contains("do not answer")));

    // Two models, in an order that only CUDA knows.
    fake.say(&TWO.replace("81 H200", "81 L4"));
    let by_number = fake.read(Visible::new(Some("0".to_owned()), None));
    assert!(matches!(by_number, GpuRead::Broken { why } if why.contains("CUDA_DEVICE_ORDER=PCI_BUS_ID")));
    assert_eq!(read("0"), GpuRead::Present(vec![b]));
}

#[test]
fn what_the_library_says_is_not_believed_blindly() {
    let fake = Fake::new("");
    #[track_caller]
    fn assert_why(read: GpuRead, is_absent: bool, words: &str) {
        let why = match &read {
            GpuRead::Absent { why } if is_absent => why,
            GpuRead::Broken { why } if !is_absent => why,
            _ => panic!("{read:?}"),
        };
        assert!(why.contains(words), "{words} not in {why}");
    }
    let read = |control: &str| {
        fake.say(control);
        fake.read(Visible::default())
    };
    assert_why(read(""), true, "sees no GPU");
    assert_why(read("init 9\n"), true, "is not loaded");
    assert_why(read("init 999\n"), false, "does not start: an internal driver error");
    assert_why(read("init 18\n"), false, "version mismatch");
    assert_why(read("init 12345\n"), false, "12345");
    assert_why(read("count 4294967295\n"), false, "4294967295 GPUs");
    let denied = "gpu GPU-aaaa 81 H200 30 100 400\nfault nvmlDeviceGetHandleByIndex_v2 GPU-aaaa 4\n";
    assert_why(read(denied), true, "may use none of 1 GPUs");
    let unknown = [device("GPU-aaaa", None, None)];
    assert_eq!(read("gpu GPU-aaaa 81 H200 101 401 400\n"), GpuRead::Present(unknown.to_vec()));
    assert_eq!(read("gpu GPU-aaaa 81 H200 4294967295 5 0\n"), GpuRead::Present(unknown.to_vec()));

    fs::write(fake.library(), "no library at all").unwrap();
    assert_why(fake.read(Visible::default()), false, "does not load");
    fs::remove_file(fake.library()).unwrap();
    assert_why(fake.read(Visible::default()), true, "is not on this machine");
}

#[test]
fn without_gpus_the_load_is_that_of_the_machine_that_runs_this() {
    let fake = Fake::new(TWO);
    let settings = ProbeSettings { gpu: GpuMode::Off, root: PathBuf::from("/"), ..fake.settings() };
    let told = Told::start(settings);
    let sample = told.until("both shares", |sample| sample.load().busy.is_some() && sample.load().memory.is_some());
    assert_eq!((sample.gpu.state, sample.gpus), (GpuState::Absent, Vec::new()));
    assert!(0 < sample.memory_percent.unwrap(), "this process alone takes some");
}
