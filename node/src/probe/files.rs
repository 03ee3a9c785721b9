//! Reading the small files in which the kernel tells its numbers.
//!
//! For `cgroup` and `machine`.
//! Invariants: no file is read beyond [`FILE_BYTES_MAX`]; a number that does not parse is an error that names the file,
//! never 0; a file that is not there is told apart from one that cannot be read.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// Far above what a kernel writes into one of these files on the largest machines.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The text of a file; `None` if it is not there.
pub(super) fn text(path: &Path) -> Result<Option<String>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(format!("{} cannot be opened: {fault}", path.display())),
    };
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        // A group that ends while it is read.
        Err(fault) if fault.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        Err(fault) => Err(format!("{} cannot be read: {fault}", path.display())),
    }
}

/// The text of a file that has to be there.
pub(super) fn existing_text(path: &Path) -> Result<String, String> {
    text(path)?.ok_or_else(|| format!("{} is not there", path.display()))
}

/// The number that a file consists of, made of `text`.
pub(super) fn number(path: &Path, text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| strange(path, text))
}

/// The number behind `name` in a file of lines `name number`, which has to be there.
pub(super) fn number_of(path: &Path, name: &str) -> Result<u64, String> {
    let text = existing_text(path)?;
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']));
    let value = values.next().ok_or_else(|| format!("{} has no line `{name}`", path.display()))?;
    let digits = value.trim().trim_end_matches(" kB");
    number(path, digits)
}

/// Says that a file holds something else than expected.
pub(super) fn strange(path: &Path, text: &str) -> String {
    let beginning: String = text.trim().chars().take(60).collect();
    format!("{} holds {beginning:?}, which is no such value", path.display())
}

/// Which cores a list such as `0-3,8` names, as ranges with both ends; at least one.
pub(super) fn core_ranges(path: &Path, list: &str) -> Result<Vec<(u32, u32)>, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    };
    list.trim().split(',').map(range).collect::<Option<Vec<_>>>().ok_or_else(|| strange(path, list))
}

/// How many cores are in both lists; the ranges of each do not overlap.
pub(super) fn cores_in_both(some: &[(u32, u32)], others: &[(u32, u32)]) -> u64 {
    let overlap = |one: &(u32, u32), other: &(u32, u32)| {
        let (first, last) = (one.0.max(other.0), one.1.min(other.1));
        if first <= last { u64::from(last - first) + 1 } else { 0 }
    };
    some.iter().map(|one| others.iter().map(|other| overlap(one, other)).sum::<u64>()).sum()
}
