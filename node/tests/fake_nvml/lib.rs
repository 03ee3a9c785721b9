//! A stand-in for NVIDIA's management library, for `tests/probe_gpu.rs`, which builds it with rustc and opens it as the
//! node opens the real one.
//!
//! What it says stands in the file `control` of the directory that it was built for, read anew at each call; without
//! that file there is no driver. Its lines:
//! `init CODE` · `count NUMBER` · `gpu UUID BUS MODEL BUSY USED TOTAL` · `slice UUID USED TOTAL` ·
//! `fault FUNCTION UUID CODE` · `hang FUNCTION`.
//! A call that hangs waits for the lock on the file `lock`. A start and a shutdown are told to the socket `calls`.
//! Invariants: only the functions that the node may call are here; layouts are those of NVIDIA's nvml.h.

use std::ffi::{CStr, c_char, c_uint, c_ulonglong, c_void};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;

const DIRECTORY: &str = env!("FAKE_NVML_DIRECTORY");

type Return = c_uint;
const SUCCESS: Return = 0;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const DRIVER_NOT_LOADED: Return = 9;

/// A number that is no address: the line of the device in the control file, counted from 1.
type Device = *mut c_void;

#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

/// The control file, line by line, word by word.
struct Control(Vec<Vec<String>>);

impl Control {
    /// Reads it at the beginning of a call of `function`, which hangs here if it is to hang.
    fn on_call(function: &str) -> Option<Self> {
        let control = Self::read()?;
        if !control.lines("hang").any(|line| line[1] == function) {
            return Some(control);
        }
        let lock = File::open(format!("{DIRECTORY}/lock")).expect("the test made the file");
        lock.lock_shared().expect("a lock is waited for");
        Self::read()
    }

    fn read() -> Option<Self> {
        let text = fs::read_to_string(format!("{DIRECTORY}/control")).ok()?;
        Some(Self(text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()))
    }

    fn lines(&self, kind: &str) -> impl Iterator<Item = &[String]> {
        self.0.iter().filter(move |line| line.first().is_some_and(|word| word == kind)).map(Vec::as_slice)
    }

    fn number(&self, kind: &str) -> Option<c_uint> {
        self.lines(kind).next()?[1].parse().ok()
    }

    fn handle(&self, is_it: impl Fn(&[String]) -> bool) -> Option<Device> {
        let line = self.0.iter().position(|line| is_it(line))?;
        Some(std::ptr::without_provenance_mut(line + 1))
    }

    /// The line of a device, or the fault that `function` has there.
    fn device(&self, function: &str, device: Device) -> Result<&[String], Return> {
        let line = device.addr().checked_sub(1).and_then(|line| self.0.get(line)).ok_or(INVALID_ARGUMENT)?;
        let uuid = line.get(1).ok_or(INVALID_ARGUMENT)?;
        match self.lines("fault").find(|fault| fault[1] == function && fault[2] == *uuid) {
            Some(fault) => Err(fault[3].parse().expect("a fault has a code")),
            None => Ok(line),
        }
    }
}

/// Answers for one device: the words behind its UUID go to `answer`.
fn of_device(function: &str, device: Device, answer: impl FnOnce(&[String]) -> Result<(), Return>) -> Return {
    let control = Control::on_call(function).ok_or(DRIVER_NOT_LOADED);
    match control.and_then(|control| answer(control.device(function, device)?)) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

/// The number in a word; a dash says that the device does not tell.
fn told<T: std::str::FromStr>(word: &str) -> Result<T, Return> {
    word.parse().map_err(|_| NOT_SUPPORTED)
}

/// Writes `text` and a zero byte.
///
/// # Safety
/// `to` is valid for writes of `length` bytes.
unsafe fn write_text(text: &str, to: *mut c_char, length: c_uint) -> Result<(), Return> {
    let room = usize::try_from(length).map_err(|_| INVALID_ARGUMENT)?;
    if room <= text.len() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the text and the zero byte fit into `length` bytes, which the caller owns.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Nobody may listen, and nobody is waited for.
fn tell(call: &str) {
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(call.as_bytes(), format!("{DIRECTORY}/calls"))
    });
    drop(told);
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    let code = Control::on_call("nvmlInit_v2").map_or(DRIVER_NOT_LOADED, |control| control.number("init").unwrap_or(0));
    if code == SUCCESS {
        tell("start");
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    tell("shutdown");
    SUCCESS
}

/// # Safety
/// As `nvml.h` has it: `count` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    let Some(control) = Control::on_call("nvmlDeviceGetCount_v2") else { return DRIVER_NOT_LOADED };
    let gpus = c_uint::try_from(control.lines("gpu").count()).expect("a control file is small");
    // SAFETY: the caller gives a place for the number.
    unsafe { count.write(control.number("count").unwrap_or(gpus)) };
    SUCCESS
}

/// # Safety
/// As `nvml.h` has it: `device` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> Return {
    let function = "nvmlDeviceGetHandleByIndex_v2";
    let Some(control) = Control::on_call(function) else { return DRIVER_NOT_LOADED };
    let wanted = usize::try_from(index).ok().and_then(|index| control.lines("gpu").nth(index));
    let Some(handle) = wanted.and_then(|wanted| control.handle(|line| line == wanted)) else {
        return INVALID_ARGUMENT;
    };
    if let Err(code) = control.device(function, handle) {
        return code;
    }
    // SAFETY: the caller gives a place for the handle.
    unsafe { device.write(handle) };
    SUCCESS
}

/// # Safety
/// As `nvml.h` has it: `uuid` is a string, `device` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> Return {
    let Some(control) = Control::on_call("nvmlDeviceGetHandleByUUID") else { return DRIVER_NOT_LOADED };
    // SAFETY: the caller gives a string that ends with a zero byte.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    let Some(handle) = control.handle(|line| matches!(line, [kind, own, ..] if kind != "fault" && *own == uuid)) else {
        return NOT_FOUND;
    };
    // SAFETY: the caller gives a place for the handle.
    unsafe { device.write(handle) };
    SUCCESS
}

/// # Safety
/// As `nvml.h` has it: `uuid` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, length: c_uint) -> Return {
    // SAFETY: the caller gives room for `length` bytes.
    of_device("nvmlDeviceGetUUID", device, |line| unsafe { write_text(&line[1], uuid, length) })
}

/// # Safety
/// As `nvml.h` has it: `name` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, name: *mut c_char, length: c_uint) -> Return {
    // SAFETY: the caller gives room for `length` bytes.
    of_device("nvmlDeviceGetName", device, |line| unsafe { write_text(&line[3], name, length) })
}

/// # Safety
/// As `nvml.h` has it: `pci` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, pci: *mut PciInfo) -> Return {
    of_device("nvmlDeviceGetPciInfo_v3", device, |line| {
        let bus = u32::from_str_radix(&line[2], 16).expect("a bus is a hexadecimal number");
        let (bus_id_legacy, bus_id) = ([0; 16], [0; 32]);
        let info = PciInfo { bus_id_legacy, domain: 0, bus, device: 0, pci_device_id: 1, pci_subsystem_id: 1, bus_id };
        // SAFETY: the caller gives a place for the structure.
        unsafe { pci.write(info) };
        Ok(())
    })
}

/// # Safety
/// As `nvml.h` has it: `utilization` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, utilization: *mut Utilization) -> Return {
    of_device("nvmlDeviceGetUtilizationRates", device, |line| {
        let busy = if line[0] == "gpu" { told(&line[4])? } else { return Err(NOT_SUPPORTED) };
        // SAFETY: the caller gives a place for the structure.
        unsafe { utilization.write(Utilization { gpu: busy, memory: 0 }) };
        Ok(())
    })
}

/// # Safety
/// As `nvml.h` has it: `memory` is valid for a read and a write, and says which version of the structure it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, memory: *mut MemoryV2) -> Return {
    of_device("nvmlDeviceGetMemoryInfo_v2", device, |line| {
        let [.., used, total] = line else { return Err(INVALID_ARGUMENT) };
        let (used, total) = (told(used)?, told::<c_ulonglong>(total)?);
        // SAFETY: the caller gives a structure that it has filled in.
        let version = unsafe { (*memory).version };
        if version >> 24 != 2 || usize::try_from(version & 0xff_ffff) != Ok(size_of::<MemoryV2>()) {
            return Err(INVALID_ARGUMENT);
        }
        let info = MemoryV2 { version, total, reserved: 0, free: total.saturating_sub(used), used };
        // SAFETY: as above.
        unsafe { memory.write(info) };
        Ok(())
    })
}
