//! What the answers of the GPUs, and the lack of one, mean as time goes by.
//!
//! Pure: time and answers come in as values.
//! Invariants: no answer within [`ANSWER_LIMIT`] is a state of its own, not a load; a figure is shown for [`FRESH`] at
//! most; a device that answers with an error has no figure at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shoal_core::time::{Micros, MonoTime};

use super::gpu::{DeviceFigures, DeviceRead, GpuRead};
use crate::sample::{DeviceReading, GpuReading, GpuState};

/// Longer than this no healthy driver takes; one that wakes up a sleeping GPU may.
pub(super) const ANSWER_LIMIT: Micros = Micros::from_ms(1000);
/// A figure older than this says nothing.
const FRESH: Micros = Micros::from_ms(3000);
/// The busy share is the mean over this time: one look sees a short batch or misses it.
const SMOOTHING: Micros = Micros::from_ms(1000);
/// Most looks in a mean, whatever the pace.
const LOOKS_MAX: usize = 32;

/// An answer of the thread that is inside the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// When the first call began.
    pub(super) taken_at: MonoTime,
    pub(super) read: GpuRead,
}

/// What was heard of the GPUs so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The open question.
    asked_at: Option<MonoTime>,
    last: Option<Answer>,
    /// Busy shares of each device that told one in the last answer, oldest first.
    busy: BTreeMap<Arc<str>, VecDeque<(MonoTime, u8)>>,
}

impl Watch {
    /// Whether a question is open.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked_at.is_some()
    }

    pub(super) fn on_question(&mut self, now: MonoTime) {
        self.asked_at = Some(now);
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        self.asked_at = None;
        let devices: &[DeviceRead] = match &answer.read {
            GpuRead::Present(devices) => devices,
            GpuRead::Absent { .. } | GpuRead::Broken { .. } => &[],
        };
        let mut before = std::mem::take(&mut self.busy);
        for device in devices {
            let Ok(DeviceFigures { busy_percent: Some(busy), .. }) = device.figures else { continue };
            let mut looks = before.remove(&device.name).unwrap_or_default();
            looks.push_back((answer.taken_at, busy));
            let is_old = |at: MonoTime| SMOOTHING <= answer.taken_at.since(at);
            while LOOKS_MAX < looks.len() || looks.front().is_some_and(|(at, _)| is_old(*at)) {
                looks.pop_front();
            }
            self.busy.insert(Arc::clone(&device.name), looks);
        }
        self.last = Some(answer);
    }

    /// All GPUs as one, and each by itself.
    pub(super) fn reading(&self, now: MonoTime) -> (GpuReading, Vec<DeviceReading>) {
        let devices = self.devices(now);
        let all = |figures: Vec<Option<u8>>| figures.into_iter().collect::<Option<Vec<u8>>>()?.into_iter().max();
        let reading = GpuReading {
            state: self.state(now),
            busy_percent: all(devices.iter().map(|device| device.busy_percent).collect()),
            memory_percent: all(devices.iter().map(|device| Some(device.memory?.percent())).collect()),
        };
        (reading, devices)
    }

    /// Why the last answer was what it was; the names of the devices where all is well.
    pub(super) fn reason(&self) -> String {
        match self.last.as_ref().map(|last| &last.read) {
            None => String::new(),
            Some(GpuRead::Absent { why } | GpuRead::Broken { why }) => why.clone(),
            Some(GpuRead::Present(devices)) => {
                let fault = |device: &DeviceRead| Some(format!("{}: {}", device.name, device.figures.as_ref().err()?));
                let names = || devices.iter().map(|device| &*device.name).collect::<Vec<_>>().join(", ");
                devices.iter().find_map(fault).unwrap_or_else(names)
            }
        }
    }

    fn state(&self, now: MonoTime) -> GpuState {
        if self.asked_at.is_some_and(|asked_at| ANSWER_LIMIT <= now.since(asked_at)) {
            return GpuState::Hung;
        }
        match self.last.as_ref().map(|last| &last.read) {
            None => GpuState::Unread,
            Some(GpuRead::Absent { .. }) => GpuState::Absent,
            Some(GpuRead::Broken { .. }) => GpuState::Broken,
            Some(GpuRead::Present(devices)) if devices.iter().any(|device| device.figures.is_err()) => GpuState::Broken,
            Some(GpuRead::Present(_)) => GpuState::Present,
        }
    }

    fn devices(&self, now: MonoTime) -> Vec<DeviceReading> {
        let Some(Answer { taken_at, read: GpuRead::Present(devices) }) = &self.last else { return Vec::new() };
        let is_fresh = now.since(*taken_at) < FRESH;
        let reading = |device: &DeviceRead| DeviceReading {
            name: Arc::clone(&device.name),
            busy_percent: self.busy.get(&device.name).and_then(mean).filter(|_| is_fresh),
            memory: device.figures.as_ref().ok().and_then(|figures| figures.memory).filter(|_| is_fresh),
        };
        devices.iter().map(reading).collect()
    }
}

/// To the nearest percent.
fn mean(looks: &VecDeque<(MonoTime, u8)>) -> Option<u8> {
    let count = u64::try_from(looks.len()).ok().filter(|count| 0 < *count)?;
    let sum: u64 = looks.iter().map(|(_, busy)| u64::from(*busy)).sum();
    u8::try_from((sum + count / 2) / count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::DeviceMemory;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::from_micros(ms * 1000)
    }

    fn device(name: &str, busy: impl Into<Option<u8>>, used: impl Into<Option<u64>>) -> DeviceRead {
        let memory = used.into().and_then(|used| DeviceMemory::new(used, 100));
        DeviceRead { name: Arc::from(name), figures: Ok(DeviceFigures { busy_percent: busy.into(), memory }) }
    }

    fn lost(name: &str) -> DeviceRead {
        DeviceRead { name: Arc::from(name), figures: Err("it fell off the bus".to_owned()) }
    }

    /// Asked and answered at once.
    fn look(watch: &mut Watch, at_ms: u64, devices: &[DeviceRead]) {
        watch.on_question(ms(at_ms));
        watch.on_answer(Answer { taken_at: ms(at_ms), read: GpuRead::Present(devices.to_vec()) });
    }

    fn shown(watch: &Watch, at_ms: u64) -> (GpuState, Option<u8>, Option<u8>) {
        let (gpu, _) = watch.reading(ms(at_ms));
        (gpu.state, gpu.busy_percent, gpu.memory_percent)
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        let mut watch = Watch::default();
        assert_eq!(shown(&watch, 0), (GpuState::Unread, None, None));
        watch.on_question(ms(0));
        assert_eq!(shown(&watch, 999), (GpuState::Unread, None, None));
        assert_eq!(shown(&watch, 1000), (GpuState::Hung, None, None));
    }

    #[test]
    fn the_busiest_and_the_fullest_device_speak_for_all() {
        let mut watch = Watch::default();
        look(&mut watch, 0, &[device("a", 10, 80), device("b", 60, 20)]);
        assert_eq!(shown(&watch, 0), (GpuState::Present, Some(60), Some(80)));
        let (_, devices) = watch.reading(ms(0));
        let of = |at: usize| (&*devices[at].name, devices[at].busy_percent, devices[at].memory.unwrap().used());
        assert_eq!([of(0), of(1)], [("a", Some(10), 80), ("b", Some(60), 20)]);
    }

    #[test]
    fn one_silent_figure_hides_the_figure_of_all_but_not_the_other_figure() {
        let mut watch = Watch::default();
        look(&mut watch, 0, &[device("slice", None, 80), device("b", 60, 20)]);
        assert_eq!(shown(&watch, 0), (GpuState::Present, None, Some(80)));
        assert_eq!(watch.reading(ms(0)).1[1].busy_percent, Some(60));
    }

    #[test]
    fn a_lost_device_is_unknown_at_once_and_known_again_when_it_answers() {
        let mut watch = Watch::default();
        look(&mut watch, 0, &[device("a", 90, 10), device("b", 20, 20)]);
        look(&mut watch, 200, &[lost("a"), device("b", 20, 20)]);
        assert_eq!(shown(&watch, 200), (GpuState::Broken, None, None));
        assert_eq!(watch.reading(ms(200)).1[1].busy_percent, Some(20));
        assert_eq!(watch.reason(), "a: it fell off the bus");
        // What the device said before it was lost does not count.
        look(&mut watch, 400, &[device("a", 30, 10), device("b", 20, 20)]);
        assert_eq!(shown(&watch, 400), (GpuState::Present, Some(30), Some(20)));
        watch.on_answer(Answer { taken_at: ms(600), read: GpuRead::Broken { why: "no driver".to_owned() } });
        assert_eq!(shown(&watch, 600), (GpuState::Broken, None, None));
    }

    #[test]
    fn a_call_that_hangs_shows_after_a_second_and_its_last_figure_fades_after_three() {
        let mut watch = Watch::default();
        look(&mut watch, 0, &[device("a", 50, 50)]);
        watch.on_question(ms(200));
        assert_eq!(shown(&watch, 1199), (GpuState::Present, Some(50), Some(50)));
        assert_eq!(shown(&watch, 1200), (GpuState::Hung, Some(50), Some(50)));
        assert_eq!(shown(&watch, 2999), (GpuState::Hung, Some(50), Some(50)));
        assert_eq!(shown(&watch, 3000), (GpuState::Hung, None, None));
        // The call returns, but what it found is from before it hung.
        let devices = vec![device("a", 0, 50)];
        watch.on_answer(Answer { taken_at: ms(200), read: GpuRead::Present(devices) });
        assert_eq!(shown(&watch, 9000), (GpuState::Present, None, None));
        look(&mut watch, 9000, &[device("a", 70, 50)]);
        assert_eq!(shown(&watch, 9000), (GpuState::Present, Some(70), Some(50)));
    }

    #[test]
    fn the_busy_share_is_the_mean_of_the_last_second() {
        let mut watch = Watch::default();
        for (turn, busy) in [100, 0, 0, 100, 3].into_iter().enumerate() {
            look(&mut watch, turn as u64 * 200, &[device("a", busy, 50)]);
        }
        assert_eq!(shown(&watch, 800).1, Some(41), "203 / 5, rounded");
        look(&mut watch, 1000, &[device("a", 0, 50)]);
        assert_eq!(shown(&watch, 1000).1, Some(21), "the first look is a second old: 103 / 5, rounded");
        look(&mut watch, 5000, &[device("a", 8, 50)]);
        assert_eq!(shown(&watch, 5000).1, Some(8));
        for at_ms in 5000..5900 {
            look(&mut watch, at_ms, &[device("a", 9, 50)]);
        }
        assert_eq!(watch.busy[&Arc::from("a") as &Arc<str>].len(), LOOKS_MAX);
    }

    #[test]
    fn an_absent_gpu_is_a_state_without_figures() {
        let mut watch = Watch::default();
        look(&mut watch, 0, &[device("a", 50, 50)]);
        watch.on_answer(Answer { taken_at: ms(200), read: GpuRead::Absent { why: "no library".to_owned() } });
        assert_eq!(shown(&watch, 200), (GpuState::Absent, None, None));
        assert_eq!((watch.reading(ms(200)).1, watch.reason().as_str()), (Vec::new(), "no library"));
    }
}
