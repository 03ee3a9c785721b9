//! What the probe saw of the devices and of the machine, as values.
//!
//! For `probe`, which takes samples, `telemetry`, which shows them, and whoever tells the core how loaded this node is.
//! Invariants: a figure that is not known is `None`, never 0; shares are percent, 0 to 100.
//! Not here: how a figure is measured, and for how long it holds (`probe`).

use std::sync::Arc;

/// The machine and its devices at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub gpu: GpuReading,
    /// Every device that this process may compute on, also one that cannot be read now.
    pub gpus: Vec<DeviceReading>,
    /// CPU time used of what this process may use, over about the last second.
    pub cpu_percent: Option<u8>,
    /// Memory used of what this process may use, without file cache that can be dropped.
    pub memory_percent: Option<u8>,
}

/// All GPUs of the node as one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuReading {
    pub state: GpuState,
    /// Of the busiest device, over about the last second. `None` as soon as that of one device is not known: it might
    /// be the busiest.
    pub busy_percent: Option<u8>,
    /// Of the fullest device; `None` likewise.
    pub memory_percent: Option<u8>,
}

/// Whether GPUs can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuState {
    /// Nobody has answered yet.
    #[default]
    Unread,
    /// Every device answers.
    Present,
    /// No library, no driver or no device for this process: this node computes on its CPU.
    Absent,
    /// The library or a device answers with an error.
    Broken,
    /// A call to the driver does not return.
    Hung,
}

impl GpuState {
    /// The states that have a name, which is all but the one before the first answer.
    pub const NAMED: [Self; 4] = [Self::Present, Self::Absent, Self::Broken, Self::Hung];

    /// As a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Present => "present",
            Self::Absent => "absent",
            Self::Broken => "broken",
            Self::Hung => "hung",
        }
    }
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReading {
    /// Its UUID as the driver writes it (`GPU-…` or `MIG-…`), or `index N` of one that does not tell.
    pub name: Arc<str>,
    /// Share of about the last second in which at least one kernel ran.
    pub busy_percent: Option<u8>,
    pub memory: Option<DeviceMemory>,
}

/// Memory of a device in bytes. `used` is at most `total`, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    used: u64,
    total: u64,
}

impl DeviceMemory {
    /// `None` if the numbers cannot be true.
    #[must_use]
    pub const fn new(used: u64, total: u64) -> Option<Self> {
        if 0 < total && used <= total { Some(Self { used, total }) } else { None }
    }

    /// Bytes in use, by whomever.
    #[must_use]
    pub const fn used(self) -> u64 {
        self.used
    }

    /// Bytes that the device has.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.total
    }

    /// The share in use, rounded to the nearest percent.
    #[must_use]
    pub fn percent(self) -> u8 {
        percent_of(self.used, self.total).unwrap_or(100)
    }
}

/// How loaded the device is that this node computes on. `None` = unknown: neither idle nor full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadPercent {
    pub busy: Option<u8>,
    pub memory: Option<u8>,
}

impl Sample {
    /// The load of the node's device: that of its GPUs, or of its share of the machine where it has none.
    ///
    /// GPUs that are there but cannot be read do not make the node one that computes on its CPU: its load is unknown.
    #[must_use]
    pub fn load(&self) -> LoadPercent {
        match self.gpu.state {
            GpuState::Absent => LoadPercent { busy: self.cpu_percent, memory: self.memory_percent },
            GpuState::Unread | GpuState::Present | GpuState::Broken | GpuState::Hung => {
                LoadPercent { busy: self.gpu.busy_percent, memory: self.gpu.memory_percent }
            }
        }
    }
}

/// `part` of `whole` to the nearest percent, at most 100; `None` if there is no whole.
#[must_use]
pub fn percent_of(part: u64, whole: u64) -> Option<u8> {
    if whole == 0 {
        return None;
    }
    let rounded = (u128::from(part) * 100 + u128::from(whole) / 2) / u128::from(whole);
    u8::try_from(rounded.min(100)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(state: GpuState) -> Sample {
        Sample {
            gpu: GpuReading { state, busy_percent: Some(70), memory_percent: None },
            gpus: Vec::new(),
            cpu_percent: Some(20),
            memory_percent: Some(30),
        }
    }

    #[test]
    fn a_node_without_a_gpu_is_as_loaded_as_its_share_of_the_machine() {
        assert_eq!(sample(GpuState::Absent).load(), LoadPercent { busy: Some(20), memory: Some(30) });
    }

    #[test]
    fn a_node_with_a_gpu_never_passes_its_cpu_off_as_the_device() {
        for state in [GpuState::Unread, GpuState::Present, GpuState::Broken, GpuState::Hung] {
            assert_eq!(sample(state).load(), LoadPercent { busy: Some(70), memory: None }, "{state:?}");
        }
        assert_eq!(Sample::default().load(), LoadPercent { busy: None, memory: None });
    }

    #[test]
    fn a_percent_is_rounded_and_bounded_and_has_a_whole() {
        let cases = [(0, 9, 0), (1, 200, 1), (1, 201, 0), (199, 200, 100), (7, 7, 100), (8, 7, 100)];
        for (part, whole, percent) in cases {
            assert_eq!(percent_of(part, whole), Some(percent), "{part} of {whole}");
        }
        assert_eq!(percent_of(u64::MAX, u64::MAX), Some(100));
        assert_eq!(percent_of(0, 0), None);
    }

    #[test]
    fn memory_that_cannot_be_is_none() {
        assert_eq!(DeviceMemory::new(0, 0), None);
        assert_eq!(DeviceMemory::new(2, 1), None);
        assert_eq!(DeviceMemory::new(3, 4).map(DeviceMemory::percent), Some(75));
    }
}
