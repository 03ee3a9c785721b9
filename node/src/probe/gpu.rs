//! What a way to read GPUs has to be, and the thread that it runs on.
//!
//! For the probe's own thread, which asks and never waits. A call that does not return keeps its thread: there is one
//! such thread, no second is ever started, and it goes on when the call returns.
//! Not here: what a missing answer means (`watch`).

use std::fmt;
use std::sync::{Arc, mpsc};

use shoal_core::time::MonoTime;

use super::watch::{Answer, Watch};
use crate::clock::Clock;
use crate::sample::DeviceMemory;

/// A way to read the GPUs that this process may compute on.
pub trait GpuProbe: Send + fmt::Debug {
    /// Reads every device once. Called on one thread, a few times a second; may block, at worst for ever.
    fn read(&mut self, now: MonoTime) -> GpuRead;
}

/// What one reading gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuRead {
    /// There is no device for this process, because of `why`.
    Absent { why: String },
    /// There may be devices, but they cannot be asked, because of `why`.
    Broken { why: String },
    /// Every device, with what it said.
    Present(Vec<DeviceRead>),
}

/// What one device said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRead {
    /// As in [`crate::sample::DeviceReading`].
    pub name: Arc<str>,
    /// Or why the device cannot be read at all.
    pub figures: Result<DeviceFigures, String>,
}

/// The figures of a device that can be read. `None` = it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceFigures {
    /// 0 to 100.
    pub busy_percent: Option<u8>,
    pub memory: Option<DeviceMemory>,
}

/// No GPU, without a look.
#[derive(Clone, Copy, Debug)]
pub struct NoGpu {
    why: &'static str,
}

impl NoGpu {
    /// `why` is for people.
    #[must_use]
    pub const fn new(why: &'static str) -> Self {
        Self { why }
    }
}

impl GpuProbe for NoGpu {
    fn read(&mut self, _: MonoTime) -> GpuRead {
        GpuRead::Absent { why: self.why.to_owned() }
    }
}

/// The thread that is inside the driver.
#[derive(Debug)]
pub(super) struct GpuThread {
    questions: mpsc::SyncSender<()>,
    answers: mpsc::Receiver<Answer>,
}

impl GpuThread {
    /// Starts it. It ends when `self` is dropped, or after that when a call that hangs has returned.
    pub(super) fn start(mut gpu: impl GpuProbe + 'static, clock: Clock) -> std::io::Result<Self> {
        let (questions, asked) = mpsc::sync_channel(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("shoal-gpu".to_owned());
        thread.spawn(move || {
            while asked.recv().is_ok() {
                // The moment before the calls: a figure is no younger than that, however long they took.
                let taken_at = clock.now();
                if answer.send(Answer { taken_at, read: gpu.read(taken_at) }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }

    /// Takes the answer, if there is one, and asks again, unless the last question is still open.
    pub(super) fn exchange(&self, now: MonoTime, watch: &mut Watch) {
        match self.answers.try_recv() {
            Ok(answer) => watch.on_answer(answer),
            Err(mpsc::TryRecvError::Empty) => {}
            // Only a panic ends the thread while `self` lives.
            Err(mpsc::TryRecvError::Disconnected) => {
                let why = "the thread that reads the GPUs has ended; only a restart of the node brings it back";
                watch.on_answer(Answer { taken_at: now, read: GpuRead::Broken { why: why.to_owned() } });
                return;
            }
        }
        if !watch.is_waiting() && self.questions.try_send(()).is_ok() {
            watch.on_question(now);
        }
    }
}
