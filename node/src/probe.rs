//! How busy and how full the devices of this node are, and its share of the machine.
//!
//! For `serve`, which starts it; what it tells goes to the core, to gossip and to the metrics.
//! GPUs are read through NVML on a thread of its own, because a call into a driver may never return; the CPU and memory
//! share come from the files of the kernel. A thread of the probe itself looks at both five times a second.
//! Invariants: what is not known is `None`, never 0; at most one thread is inside the driver, and nobody waits for it;
//! each change of state is logged once, with what it means.
//! Not here: what a load leads to (`shoal-core`).

mod cgroup;
mod files;
mod gpu;
mod machine;
mod notice;
mod nvml;
mod visible;
mod watch;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use shoal_core::time::{Micros, MonoTime};

pub use self::gpu::{DeviceFigures, DeviceRead, GpuProbe, GpuRead, NoGpu};
pub use self::nvml::Nvml;
pub use self::visible::Visible;
use crate::clock::{Clock, micros};
use crate::config::{GpuMode, ProbeConfig};
use crate::sample::Sample;

/// A sample that equals the one before is told after this time all the same: the reader sees that the probe lives.
const TELL_EVERY: Micros = Micros::from_ms(700);

/// What to look at, and how often.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    pub gpu: GpuMode,
    /// NVML, if not the one that the system finds by its name.
    pub nvml_library: Option<PathBuf>,
    /// Which GPUs are this process's.
    pub visible: Visible,
    /// Pause between two looks.
    pub interval: Duration,
    /// NVML that is missing or broken is opened anew after this time.
    pub reopen_after: Duration,
    /// The root of the file system, below which `proc` and `sys` are.
    pub root: PathBuf,
}

impl ProbeSettings {
    /// As configured; which GPUs are visible is read from the environment of the process.
    #[must_use]
    pub fn new(config: &ProbeConfig) -> Self {
        Self {
            gpu: config.gpu,
            nvml_library: config.nvml_library.clone(),
            visible: Visible::from_environment(),
            interval: Duration::from_millis(200),
            reopen_after: Duration::from_secs(5),
            root: PathBuf::from("/"),
        }
    }
}

/// The running probe. Dropping it ends the probe without waiting for it, so also while the driver hangs.
#[derive(Debug)]
pub struct Probe {
    _alive: mpsc::Sender<Infallible>,
}

impl Probe {
    /// Starts to look. `tell` is called on a thread of the probe for each change, and at least once a second; it should
    /// return soon.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: ProbeSettings, tell: impl Fn(Sample) + Send + 'static) -> std::io::Result<Self> {
        match settings.gpu {
            GpuMode::Off => Self::start_with(settings, NoGpu::new("switched off by probe.gpu"), tell),
            GpuMode::Auto => {
                let library = settings.nvml_library.clone();
                let nvml = Nvml::new(library, settings.visible.clone(), micros(settings.reopen_after));
                Self::start_with(settings, nvml, tell)
            }
        }
    }

    /// [`Probe::start`] with another way to the GPUs than the settings name.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_with(
        settings: ProbeSettings,
        gpu: impl GpuProbe + 'static,
        tell: impl Fn(Sample) + Send + 'static,
    ) -> std::io::Result<Self> {
        let clock = Clock::start();
        let gpu = gpu::GpuThread::start(gpu, clock)?;
        let looker = Looker {
            gpu,
            watch: watch::Watch::default(),
            machine: machine::Machine::new(settings.root),
            notices: notice::Notices::default(),
            told: None,
        };
        let (alive, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("shoal-probe".to_owned());
        thread.spawn(move || looker.run(clock, settings.interval, &ended, &tell))?;
        Ok(Self { _alive: alive })
    }
}

/// What the thread of the probe owns.
#[derive(Debug)]
struct Looker {
    gpu: gpu::GpuThread,
    watch: watch::Watch,
    machine: machine::Machine,
    notices: notice::Notices,
    told: Option<(MonoTime, Sample)>,
}

impl Looker {
    fn run(mut self, clock: Clock, pause: Duration, ended: &mpsc::Receiver<Infallible>, tell: &impl Fn(Sample)) {
        loop {
            let sample = self.look(clock.now());
            self.tell(clock.now(), sample, tell);
            if ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn look(&mut self, now: MonoTime) -> Sample {
        self.gpu.exchange(now, &mut self.watch);
        let machine = self.machine.look(now);
        let (gpu, gpus) = self.watch.reading(now);
        self.notices.gpu(now, gpu.state, self.watch.reason());
        self.notices.cpu(now, &machine.cpu);
        self.notices.memory(now, &machine.memory);
        Sample { gpu, gpus, cpu_percent: machine.cpu.ok(), memory_percent: machine.memory.ok() }
    }

    fn tell(&mut self, now: MonoTime, sample: Sample, tell: &impl Fn(Sample)) {
        if is_news(self.told.as_ref(), now, &sample) {
            tell(sample.clone());
            self.told = Some((now, sample));
        }
    }
}

/// Whether `sample` is to be told at `now`, when `told` was told last.
fn is_news(told: Option<&(MonoTime, Sample)>, now: MonoTime, sample: &Sample) -> bool {
    told.is_none_or(|(at, told)| TELL_EVERY <= now.since(*at) || told != sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_at_once_and_what_stays_within_a_second() {
        let told = (MonoTime::from_micros(5_000_000), Sample::default());
        let changed = Sample { cpu_percent: Some(1), ..Sample::default() };
        assert!(is_news(None, told.0, &told.1));
        assert!(is_news(Some(&told), told.0, &changed));
        // Five looks a second, none of which finds anything new.
        let looks = (1..=4).map(|look| told.0 + Micros::from_ms(200 * look));
        let at: Vec<bool> = looks.map(|now| is_news(Some(&told), now, &told.1)).collect();
        assert_eq!(at, [false, false, false, true]);
    }
}
