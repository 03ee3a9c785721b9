//! Who this node is, across restarts: its id, its generation, and the lock on its data directory.
//!
//! For `serve`.
//! Invariants: one process a data directory; a later run of a node has a larger generation, also after the wall clock
//! was set back. A directory that cannot be written is a warning: then the clock alone decides.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use shoal_core::id::NodeId;

use crate::clock::unix_ms;

/// Who this node is in this run. Keep it as long as the process runs: it holds the lock.
#[derive(Debug)]
pub struct Identity {
    pub node_id: NodeId,
    /// Larger than that of every earlier run of this node.
    pub generation: u64,
    /// What could not be kept, for the log.
    pub warnings: Vec<String>,
    _lock: Option<File>,
}

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has the directory.
    #[error("`{}` is in use by another shoal process; stop it or give this one its own directory", .0.display())]
    Locked(PathBuf),
    /// The stored id is no id.
    #[error("`{}` holds no node id; remove the file to get a new one, or set the id", .0.display())]
    Damaged(PathBuf),
}

impl Identity {
    /// Locks `data_dir` (made if it is not there) and reads or makes what it keeps. `configured` wins over a stored id.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(data_dir: &Path, configured: Option<&str>) -> Result<Self, IdentityError> {
        let mut warnings = Vec::new();
        let lock = lock(data_dir, &mut warnings)?;
        let id_file = data_dir.join("node-id");
        let stored = fs::read_to_string(&id_file).ok();
        let node_id = match (configured, stored) {
            (Some(id), _) => NodeId::new(id).map_err(|_| IdentityError::Damaged(id_file))?,
            (None, Some(stored)) => NodeId::new(stored.trim()).map_err(|_| IdentityError::Damaged(id_file))?,
            (None, None) => {
                let made = make_id();
                keep(&id_file, made.as_str(), &mut warnings);
                made
            }
        };
        let generation_file = data_dir.join("generation");
        let last = fs::read_to_string(&generation_file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let generation = unix_ms().max(last.unwrap_or(0).saturating_add(1));
        keep(&generation_file, &generation.to_string(), &mut warnings);
        Ok(Self { node_id, generation, warnings, _lock: lock })
    }
}

fn lock(data_dir: &Path, warnings: &mut Vec<String>) -> Result<Option<File>, IdentityError> {
    let opened = fs::create_dir_all(data_dir).and_then(|()| File::create(data_dir.join("lock")));
    let file = match opened {
        Ok(file) => file,
        Err(fault) => {
            warnings
                .push(format!("`{}` cannot be written ({fault}); nothing is kept across restarts", data_dir.display()));
            return Ok(None);
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(IdentityError::Locked(data_dir.to_owned())),
        Err(TryLockError::Error(fault)) => {
            warnings.push(format!("`{}` cannot be locked ({fault})", data_dir.display()));
            Ok(Some(file))
        }
    }
}

/// Writes beside the file and renames, so that a full disk or a crash leaves the old content.
fn keep(file: &Path, text: &str, warnings: &mut Vec<String>) {
    let beside = file.with_extension("new");
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, file));
    if let Err(fault) = written {
        warnings.push(format!("`{}` could not be written: {fault}", file.display()));
    }
}

/// Twelve hexadecimal digits by chance, after the time of making: unlikely to meet another node's.
fn make_id() -> NodeId {
    let noise = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    NodeId::new(&format!("node-{:012x}", (noise ^ unix_ms()) & 0xFFFF_FFFF_FFFF)).expect("letters, digits and a hyphen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_the_generation_grows() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), None).unwrap();
        let (id, generation) = (first.node_id.clone(), first.generation);
        assert!(matches!(Identity::open(dir.path(), None), Err(IdentityError::Locked(_))));
        drop(first);
        let second = Identity::open(dir.path(), None).unwrap();
        assert_eq!(second.node_id, id);
        assert!(generation < second.generation);
        drop(second);
        assert_eq!(Identity::open(dir.path(), Some("given")).unwrap().node_id.as_str(), "given");
    }

    #[test]
    fn the_generation_grows_also_when_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let future = unix_ms() + 1_000_000_000;
        fs::write(dir.path().join("generation"), future.to_string()).unwrap();
        assert_eq!(Identity::open(dir.path(), None).unwrap().generation, future + 1);
    }

    #[test]
    fn a_damaged_id_is_an_error_and_a_directory_that_cannot_be_written_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node-id"), "not an id\n").unwrap();
        assert!(matches!(Identity::open(dir.path(), None), Err(IdentityError::Damaged(_))));
        // A file stands where the directory should be: unwritable for root too.
        let file = dir.path().join("plain");
        fs::write(&file, "").unwrap();
        let identity = Identity::open(&file, Some("a")).unwrap();
        assert!(!identity.warnings.is_empty());
    }
}
