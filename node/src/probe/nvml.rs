//! GPUs by NVIDIA's management library, which comes with the driver and is opened at run time.
//!
//! For the thread that is inside the driver. One binary runs on machines with and without the library.
//! Invariants: what a device does not tell (a MIG slice its busy share, for example) is `None`, and no fault; a library
//! that is missing or at fault is opened anew after a pause, so that GPUs which come back are read again.
//! Not here: limits on time (`watch`); which GPUs are visible (`visible`).

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml as Library};
use shoal_core::time::{Micros, MonoTime};

use super::gpu::{DeviceFigures, DeviceRead, GpuProbe, GpuRead};
use super::visible::{Found, Target, Visible};
use crate::sample::DeviceMemory;

/// What the system's loader is asked for: the name that belongs to the driver, not the one for linking.
const LIBRARY_NAME: &str = "libnvidia-ml.so.1";
/// Most GPUs that are asked. No machine has more; a driver that says so is at fault.
const DEVICES_MAX: u32 = 64;

/// Reads GPUs through the library.
#[derive(Debug)]
pub struct Nvml {
    library: Option<PathBuf>,
    visible: Visible,
    reopen_after: Micros,
    opened: Option<Opened>,
}

/// How the last attempt to open the library ended.
#[derive(Debug)]
struct Opened {
    at: MonoTime,
    result: Result<Session, GpuRead>,
}

/// The open library.
#[derive(Debug)]
struct Session {
    nvml: Library,
    targets: Vec<Target>,
    /// What is said of GPUs that did not say who they are.
    silent: Vec<DeviceRead>,
    is_faulty: bool,
}

impl Nvml {
    /// `library` is a path, instead of what the system finds by its name.
    #[must_use]
    pub const fn new(library: Option<PathBuf>, visible: Visible, reopen_after: Micros) -> Self {
        Self { library, visible, reopen_after, opened: None }
    }
}

impl GpuProbe for Nvml {
    fn read(&mut self, now: MonoTime) -> GpuRead {
        let is_due = |opened: &Opened| {
            let is_well = opened.result.as_ref().is_ok_and(|session| !session.is_faulty);
            !is_well && self.reopen_after <= now.since(opened.at)
        };
        if self.opened.as_ref().is_none_or(is_due) {
            // Closed before it is opened anew: the library counts its users, and starts afresh for the first one only.
            self.opened = None;
            self.opened = Some(Opened { at: now, result: open(self.library.as_deref(), &self.visible) });
        }
        match self.opened.as_mut().map(|opened| &mut opened.result) {
            Some(Ok(session)) => session.read(),
            Some(Err(why)) => why.clone(),
            None => unreachable!("it was opened above"),
        }
    }
}

/// Opens the library and finds the devices that are visible.
fn open(path: Option<&std::path::Path>, visible: &Visible) -> Result<Session, GpuRead> {
    let name = path.map_or(OsStr::new(LIBRARY_NAME), std::path::Path::as_os_str);
    let nvml = Library::builder().lib_path(name).init().map_err(|fault| not_open(name, &fault))?;
    let broken = |what: &str, fault: NvmlError| GpuRead::Broken { why: format!("{what}: {fault}") };
    let count =
        nvml.device_count().map_err(|fault| broken("the driver does not say how many GPUs there are", fault))?;
    if DEVICES_MAX < count {
        return Err(GpuRead::Broken { why: format!("the driver says that there are {count} GPUs") });
    }

    let (mut found, mut silent, mut forbidden) = (Vec::new(), Vec::new(), 0_u32);
    for index in 0..count {
        match identify(&nvml, index) {
            Ok(gpu) => found.push(gpu),
            // Another's: the count holds every GPU of the machine, CUDA only those that this process may use.
            Err(NvmlError::NoPermission) => forbidden += 1,
            Err(fault) => silent.push(faulty(&format!("index {index}"), &fault)),
        }
    }
    if found.is_empty() && silent.is_empty() {
        let why = match forbidden {
            0 => "the driver sees no GPU".to_owned(),
            many => format!("this process may use none of {many} GPUs"),
        };
        return Err(GpuRead::Absent { why });
    }
    let targets = visible.choose(&found, silent.len()).map_err(|why| GpuRead::Broken { why })?;
    if visible.names_gpus() {
        // Those that were not asked for may be as broken as they like.
        silent.clear();
    }
    if targets.is_empty() && silent.is_empty() {
        return Err(GpuRead::Absent { why: format!("{} leaves this process no GPU", visible.variable()) });
    }
    Ok(Session { nvml, targets, silent, is_faulty: false })
}

/// What it means that the library does not open.
fn not_open(name: &OsStr, fault: &NvmlError) -> GpuRead {
    let name = name.to_string_lossy();
    match fault {
        // The loader's words begin with the file that it could not find: another name is something that is missing
        // below a library that is there.
        NvmlError::LibloadingError(fault) => {
            let words = fault.to_string();
            if words.starts_with(&*name) && words.contains("No such file") {
                GpuRead::Absent { why: format!("{name} is not on this machine") }
            } else {
                GpuRead::Broken { why: format!("{name} does not load: {words}") }
            }
        }
        // Without its driver no process computes on a GPU, so this node does not either.
        NvmlError::DriverNotLoaded => GpuRead::Absent {
            why: "the driver of NVIDIA is not loaded, or this process may not see its devices".to_owned(),
        },
        fault => GpuRead::Broken { why: format!("{name} does not start: {fault}") },
    }
}

fn identify(nvml: &Library, index: u32) -> Result<Found, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let pci = device.pci_info()?;
    // Only to tell models apart; what the chip is called on the bus does that as well.
    let model = device.name().unwrap_or_else(|_| format!("model {:#x}", pci.pci_device_id));
    Ok(Found { index, uuid: device.uuid()?, place: (pci.domain, pci.bus, pci.device), model })
}

impl Session {
    fn read(&mut self) -> GpuRead {
        let devices = self.targets.iter().map(|target| self.read_one(target)).chain(self.silent.iter().cloned());
        let devices: Vec<DeviceRead> = devices.collect();
        self.is_faulty = devices.iter().any(|device| device.figures.is_err());
        GpuRead::Present(devices)
    }

    fn read_one(&self, target: &Target) -> DeviceRead {
        let (name, device) = match target {
            Target::Gpu { index, uuid } => (uuid, self.nvml.device_by_index(*index)),
            Target::Slice { uuid } => (uuid, self.nvml.device_by_uuid(uuid.as_str())),
        };
        match device.and_then(|device| figures(&device)) {
            Ok(figures) => DeviceRead { name: Arc::from(name.as_str()), figures: Ok(figures) },
            Err(fault) => faulty(name, &fault),
        }
    }
}

fn figures(device: &Device<'_>) -> Result<DeviceFigures, NvmlError> {
    let busy = told(device.utilization_rates())?;
    let memory = told(device.memory_info())?;
    Ok(DeviceFigures {
        busy_percent: busy.and_then(|busy| u8::try_from(busy.gpu).ok()).filter(|busy| *busy <= 100),
        memory: memory.and_then(|memory| DeviceMemory::new(memory.used, memory.total)),
    })
}

fn faulty(name: &str, fault: &NvmlError) -> DeviceRead {
    DeviceRead { name: Arc::from(name), figures: Err(fault.to_string()) }
}

/// A figure, or `None` where the device or the driver does not give it: MIG, some virtual GPUs, memory that is shared
/// with the CPU, slices in containers (which may not read the GPU below them), drivers before 510.
fn told<T>(figure: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    use NvmlError::{FailedToLoadSymbol, FunctionNotFound, NoData, NoPermission, NotSupported};
    match figure {
        Ok(figure) => Ok(Some(figure)),
        Err(NotSupported | NoPermission | NoData | FunctionNotFound | FailedToLoadSymbol(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}
