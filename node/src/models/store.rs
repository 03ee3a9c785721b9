//! The cache of models: one directory a model, one lock file a model, one staging directory a model.
//!
//! For `models`. Names beginning with a dot are ours; everything else in the cache is a complete model.
//! Invariants: a model appears by one rename, so a reader sees all of it or nothing; the staging directory outlives an
//! interrupted fetch, so the next one goes on from it; it is written only under the lock.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ModelError, Progress};

/// Files below one model that are counted at most.
const FILES_MAX: usize = 10_000;

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredModel {
    /// As [`super::fetch`] takes it.
    pub name: String,
    pub directory: PathBuf,
    pub bytes: u64,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// A model's place in the cache, locked.
#[derive(Debug)]
pub(super) struct Slot {
    directory: PathBuf,
    staging: PathBuf,
    /// Holds the lock until the slot is dropped, also when the process is killed.
    _lock: File,
}

impl Store {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where the model `slug` is or would be.
    pub(super) fn directory(&self, slug: &str) -> PathBuf {
        self.root.join(slug)
    }

    /// Waits until no other process fetches this model, and keeps others from it.
    ///
    /// # Errors
    /// [`ModelError::Disk`] if the cache cannot be written.
    pub(super) fn lock(&self, slug: &str, progress: &Progress) -> Result<Slot, ModelError> {
        fs::create_dir_all(&self.root).map_err(ModelError::disk(&self.root))?;
        let place = self.root.join(format!(".{slug}.lock"));
        let lock = File::create(&place).map_err(ModelError::disk(&place))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.line(&format!("another process is fetching {slug}; waiting for it"));
                lock.lock().map_err(ModelError::disk(&place))?;
            }
            Err(TryLockError::Error(cause)) => return Err(ModelError::Disk { place, cause }),
        }
        let staging = self.root.join(format!(".{slug}.staging"));
        Ok(Slot { directory: self.directory(slug), staging, _lock: lock })
    }

    pub(super) fn list(&self) -> Result<Vec<StoredModel>, ModelError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(ModelError::Disk { place: self.root.clone(), cause }),
        };
        let mut models = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ModelError::disk(&self.root))?;
            let slug = entry.file_name().to_string_lossy().into_owned();
            if !slug.starts_with('.') && entry.path().is_dir() {
                let bytes = bytes_below(&entry.path());
                models.push(StoredModel { name: super::hub::name_of(&slug), directory: entry.path(), bytes });
            }
        }
        models.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(models)
    }
}

impl Slot {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory for files on their way; may hold what an interrupted fetch left.
    ///
    /// # Errors
    /// [`ModelError::Disk`] if it cannot be made.
    pub(super) fn staging(&self) -> Result<&Path, ModelError> {
        fs::create_dir_all(&self.staging).map_err(ModelError::disk(&self.staging))?;
        Ok(&self.staging)
    }

    /// Makes the complete model in `from`, below the staging directory, the one of this slot.
    ///
    /// # Errors
    /// [`ModelError::Disk`].
    pub(super) fn publish(&self, from: &Path) -> Result<PathBuf, ModelError> {
        if self.directory.exists() {
            // What was there is damaged. It goes aside first: a directory cannot replace one that has files.
            let aside = self.staging.join("replaced");
            fs::rename(&self.directory, &aside).map_err(ModelError::disk(&self.directory))?;
        }
        fs::rename(from, &self.directory).map_err(ModelError::disk(&self.directory))?;
        fs::remove_dir_all(&self.staging).map_err(ModelError::disk(&self.staging))?;
        Ok(self.directory.clone())
    }
}

/// Bytes of all files below; what cannot be read counts nothing.
fn bytes_below(directory: &Path) -> u64 {
    let (mut bytes, mut files, mut folders) = (0u64, 0, vec![directory.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            files += 1;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() && files < FILES_MAX => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() => bytes = bytes.saturating_add(metadata.len()),
                _ => {}
            }
        }
    }
    bytes
}
