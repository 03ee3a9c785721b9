//! What a model's directory holds and whether it can be served, for people and scripts.
//!
//! For `shoal model inspect`. Runs the steps of loading one by one and keeps what each of them learned, so that a
//! directory that cannot be served is still described as far as it can be understood.
//! Invariants: `supported` means that [`crate::load()`] accepts the directory.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config;
use crate::directory::Directory;
use crate::encoder::Encoder;
use crate::load::{Plan, revision};
use crate::{EngineError, Pooling};

/// Files that are listed at most; a model has a dozen.
const FILES_MAX: usize = 1000;

/// What a directory holds; `None` is what could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Inspection {
    pub directory: String,
    /// `model_type` and class as `config.json` has them, `bert (BertModel)` for example.
    pub architecture: Option<String>,
    /// Whether this program can serve the model.
    pub supported: bool,
    /// Why not, and what to do about it.
    pub problem: Option<String>,
    pub files: Vec<InspectedFile>,
    /// Tensors of the encoder.
    pub tensors: Option<usize>,
    /// Numbers in them.
    pub parameters: Option<usize>,
    pub dimensions: Option<usize>,
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub vocabulary: Option<usize>,
    /// Longest text in tokens, special tokens included.
    pub tokens_max: Option<usize>,
    /// `cls`, `mean` or `last`.
    pub pooling: Option<&'static str>,
    pub normalize: Option<bool>,
    /// What decided pooling and normalisation: a file, or the default.
    pub pooling_from: Option<&'static str>,
    /// What stands before the names of the tensors.
    pub prefix: Option<String>,
    pub revision: Option<String>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InspectedFile {
    /// Path below the model's directory.
    pub name: String,
    pub bytes: u64,
}

/// Describes the model in `directory`; `revision_cache` as in [`crate::LoadOptions`].
///
/// Cost: that of loading, without an inference.
#[must_use]
pub fn inspect(directory: &Path, revision_cache: Option<&Path>) -> Inspection {
    let mut inspection = Inspection {
        directory: directory.display().to_string(),
        architecture: architecture(directory),
        files: files(directory),
        ..Inspection::default()
    };
    match fill(&mut inspection, directory, revision_cache) {
        Ok(()) => inspection.supported = true,
        Err(cause) => inspection.problem = Some(cause.to_string()),
    }
    inspection
}

fn fill(inspection: &mut Inspection, directory: &Path, revision_cache: Option<&Path>) -> Result<(), EngineError> {
    let plan = Plan::read(directory)?;
    inspection.dimensions = Some(plan.config.hidden_size);
    inspection.layers = Some(plan.config.layers);
    inspection.heads = Some(plan.config.heads);
    inspection.vocabulary = Some(plan.config.vocab_size);
    inspection.tokens_max = Some(plan.bounds.tokens_max);
    inspection.pooling = Some(Pooling::name(plan.recipe.pooling));
    inspection.normalize = Some(plan.recipe.normalize);
    inspection.pooling_from = Some(plan.recipe.source);
    let (_, fingerprint) = plan.tokenizer()?;
    let mut weights = plan.files.read(|_| ())?;
    inspection.tensors = Some(weights.tensors().len());
    inspection.parameters = Some(weights.tensors().values().map(|tensor| tensor.elem_count()).sum());
    inspection.prefix = Some(weights.prefix.clone());
    let revision = revision(directory, &plan, fingerprint, &weights, revision_cache)?;
    Encoder::new(&plan.config, &mut weights)?;
    inspection.revision = Some(revision);
    Ok(())
}

/// What `config.json` calls the model, whether or not that is supported.
fn architecture(directory: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Names {
        model_type: Option<String>,
        architectures: Option<Vec<String>>,
    }
    let names: Names = Directory::open(directory).ok()?.json(config::FILE).ok()??;
    let class = names.architectures.and_then(|classes| classes.into_iter().next());
    match (names.model_type, class) {
        (Some(kind), Some(class)) => Some(format!("{kind} ({class})")),
        (kind, class) => kind.or(class),
    }
}

/// The files of the directory and of the folders in it, by name.
fn files(directory: &Path) -> Vec<InspectedFile> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), directory.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().take(FILES_MAX) {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => found.push(InspectedFile { name, bytes: metadata.len() }),
                Ok(metadata) if metadata.is_dir() && prefix.is_empty() => folders.push((name + "/", entry.path())),
                _ => {}
            }
        }
    }
    found.sort_by(|left, right| left.name.cmp(&right.name));
    found.truncate(FILES_MAX);
    found
}
