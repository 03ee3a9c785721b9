//! A file that is not complete yet: its bytes so far, and which version of the file they are of.
//!
//! For `download`. Two files in a directory of their own: the data, and the server's entity tag.
//! Invariants: bytes are offered for going on only if a tag or a digest will tell another version apart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::ModelError;
use super::catalogue::sha256_of;
use super::download::Remote;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) data: PathBuf,
    tag: PathBuf,
}

impl Part {
    /// The part of `remote` below `folder`.
    pub(super) fn of(remote: &Remote, folder: &Path) -> Self {
        let name = remote.name.replace('/', "~");
        Self { data: folder.join(format!("{name}.part")), tag: folder.join(format!("{name}.etag")) }
    }

    /// Bytes that a transfer may go on after.
    pub(super) fn resumable_bytes(&self, remote: &Remote) -> u64 {
        let bytes = fs::metadata(&self.data).map_or(0, |metadata| metadata.len());
        let is_too_long = remote.bytes.is_some_and(|total| total < bytes);
        if is_too_long || (self.tag().is_none() && remote.sha256.is_none()) { 0 } else { bytes }
    }

    /// The entity tag of the bytes, fit for `If-Range`.
    pub(super) fn tag(&self) -> Option<String> {
        let tag = fs::read_to_string(&self.tag).ok()?;
        // A weak tag does not promise the same bytes.
        (tag.starts_with('"') && tag.len() <= 256 && tag.is_ascii()).then_some(tag)
    }

    /// Opens the data to be written from byte `start` on; from 0 on it is a new version with the tag `tag`.
    pub(super) fn open_at(&self, start: u64, tag: Option<&str>) -> io::Result<File> {
        if start == 0 {
            fs::write(&self.tag, tag.unwrap_or_default())?;
        }
        let mut file = OpenOptions::new().create(true).write(true).truncate(start == 0).open(&self.data)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// Forgets everything; what cannot be removed is overwritten later.
    pub(super) fn remove(&self) {
        for file in [&self.data, &self.tag] {
            let _ = fs::remove_file(file);
        }
    }

    /// Checks the complete data and gives it its name.
    ///
    /// # Errors
    /// [`ModelError::Digest`], and the data is gone; [`ModelError::Disk`].
    pub(super) fn finish(self, remote: &Remote, target: &Path) -> Result<(), ModelError> {
        if let Some(expected) = &remote.sha256 {
            let found = sha256_of(&self.data).map_err(ModelError::disk(&self.data))?;
            if !found.eq_ignore_ascii_case(expected) {
                self.remove();
                return Err(ModelError::Digest { place: remote.url.clone(), expected: expected.clone(), found });
            }
        }
        fs::rename(&self.data, target).map_err(ModelError::disk(target))?;
        self.remove();
        Ok(())
    }
}
