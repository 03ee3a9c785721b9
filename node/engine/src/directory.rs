//! Reading a model's directory: small files within limits, each error with the file's place.
//!
//! For the other modules of this package.
//! Invariants: no file is read before its size is known to be within a limit; a name taken from a file never leaves
//! the directory.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::EngineError;

/// Largest `config.json` and its like.
pub(crate) const JSON_BYTES_MAX: u64 = 16 << 20;
/// Largest `tokenizer.json` or `vocab.txt`: the largest in use (a quarter of a million words) have about 20 MB.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

/// A directory that holds, or should hold, a model.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// # Errors
    /// [`EngineError::Model`] if `path` is no directory.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { path: path.to_owned() }),
            Ok(_) => Err(broken(path, "is not a directory; give the directory that holds config.json")),
            Err(cause) => Err(broken(path, format!("cannot be opened: {cause}"))),
        }
    }

    /// Where `name` is or would be.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.place(name).is_file()
    }

    /// The folder `name` below this one, as a file of the model names it.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the name leads out of the directory or the folder is not there.
    pub(crate) fn below(&self, name: &str, named_in: &str) -> Result<Self, EngineError> {
        if !stays_inside(name) {
            let what = format!("names the folder `{name}`, which is outside the model's directory");
            return Err(broken(&self.place(named_in), what));
        }
        Self::open(&self.path.join(name))
    }

    /// The whole file, `None` if it is not there.
    ///
    /// # Errors
    /// [`EngineError::Model`] if it cannot be read or has more than `bytes_max` bytes.
    pub(crate) fn bytes(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, EngineError> {
        let place = self.place(name);
        if !place.is_file() {
            return Ok(None);
        }
        read_file(&place, bytes_max).map(Some)
    }

    /// The file as JSON, `None` if it is not there.
    ///
    /// # Errors
    /// [`EngineError::Model`] with line and column of what does not parse.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, EngineError> {
        let Some(bytes) = self.bytes(name, JSON_BYTES_MAX)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|cause| broken(&self.place(name), unparsable(&cause)))
    }
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// [`EngineError::Model`] if it is longer or cannot be read.
pub(crate) fn read_file(place: &Path, bytes_max: u64) -> Result<Vec<u8>, EngineError> {
    let unreadable = |cause: std::io::Error| broken(place, format!("cannot be read: {cause}"));
    let file = File::open(place).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes_max < bytes {
        return Err(broken(place, format!("has {bytes} bytes, at most {bytes_max} are read; it is no such file")));
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    // One byte more than allowed, so that a file which grows meanwhile is noticed.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
    if bytes_max < content.len() as u64 {
        return Err(broken(place, "grew while it was read; wait until it is complete"));
    }
    Ok(content)
}

/// Whether a relative path from a file of the model stays inside the model's directory.
pub(crate) fn stays_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// An error that names a file of the model.
pub(crate) fn broken(place: &Path, what: impl Into<String>) -> EngineError {
    EngineError::Model { place: place.display().to_string(), what: what.into() }
}

/// What to tell about JSON that does not parse.
pub(crate) fn unparsable(cause: &serde_json::Error) -> String {
    format!("does not parse: {cause}; fetch the file again")
}

#[cfg(test)]
mod tests {
    use super::stays_inside;

    #[test]
    fn a_name_from_a_file_never_leaves_the_directory() {
        for inside in ["", "1_Pooling", "0_Transformer/weights", "./x"] {
            assert!(stays_inside(inside), "{inside}");
        }
        for outside in ["..", "../x", "a/../../x", "/etc"] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }
}
