//! From a directory to a model that can compute: finds the parts, checks that they belong together, names the revision.
//!
//! For `embedder`. The steps are those of [`Loaded::read`], from the cheapest check to the dearest.
//! Invariants: nothing of a directory is trusted before it is checked; every error names a file and what to do.
//! Not here: what each file means (`config`, `recipe`, `tokens`, `weights`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{self, EncoderConfig};
use crate::directory::Directory;
use crate::encoder::Encoder;
use crate::recipe::{Recipe, SentenceSettings};
use crate::revision::{Fingerprint, RevisionCache};
use crate::tokenizer_file::{self, TokenizerSettings};
use crate::tokens::{TextTokenizer, TokenizerBounds};
use crate::weights::{WeightFiles, Weights};
use crate::{Card, CostGuess, Embedder, Engine, EngineError};

/// How far loading is: bytes of weights read, of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    pub bytes_read: u64,
    pub bytes_total: u64,
}

/// Called after each file of weights, on the thread that loads.
pub type OnProgress = Arc<dyn Fn(LoadProgress) + Send + Sync>;

/// What [`load`] is told besides the directory.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Name that callers use; `None` = the directory's last component.
    pub name: Option<String>,
    /// Directory where revisions are remembered between starts; it must exist. `None` = compute it each time.
    pub revision_cache: Option<PathBuf>,
    pub on_progress: Option<OnProgress>,
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LoadOptions")
            .field("name", &self.name)
            .field("revision_cache", &self.revision_cache)
            .field("on_progress", &self.on_progress.is_some())
            .finish()
    }
}

/// Loads the embedding model in `directory`. Its first batch is slower than the next ones: run one before serving.
///
/// Takes the layouts of sentence-transformers, Hugging Face and ModelScope: `config.json`; `model.safetensors`, its
/// shards or `pytorch_model.bin`; `tokenizer.json` or `vocab.txt`.
///
/// # Errors
/// [`EngineError::Model`] for a file that is missing, damaged or of another model, [`EngineError::Unsupported`] for an
/// architecture or setting that is not known here.
///
/// Cost: reads all weights once; hashes them too, unless the revision is remembered.
pub fn load(directory: &Path, options: &LoadOptions) -> Result<Box<dyn Engine>, EngineError> {
    Embedder::load(directory, options).map(|embedder| Box::new(embedder) as Box<dyn Engine>)
}

/// What the small files say, all of it checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) config: EncoderConfig,
    pub(crate) settings: TokenizerSettings,
    pub(crate) bounds: TokenizerBounds,
    pub(crate) files: WeightFiles,
}

impl Plan {
    pub(crate) fn read(directory: &Path) -> Result<Self, EngineError> {
        let recipe = Recipe::read(&Directory::open(directory)?)?;
        let config = EncoderConfig::read(&recipe.encoder)?;
        let settings = tokenizer_file::read_settings(&recipe.encoder)?;
        let sentence = SentenceSettings::read(&recipe.encoder)?;
        let bounds = TokenizerBounds {
            tokens_max: sentence.tokens_max(&settings, &config),
            lowercase: sentence.lowercase(),
            vocab_size: config.vocab_size,
            token_types: config.token_types,
        };
        let files = WeightFiles::find(&recipe.encoder)?;
        Ok(Self { recipe, config, settings, bounds, files })
    }

    /// Loads the tokenizer and gathers all of the revision but the tensors.
    pub(crate) fn tokenizer(&self) -> Result<(TextTokenizer, Fingerprint), EngineError> {
        let mut fingerprint = Fingerprint::new();
        let EncoderConfig {
            model_type: _, // structbert computes what bert computes
            vocab_size,
            hidden_size,
            layers,
            heads,
            intermediate_size,
            positions,
            token_types,
            activation,
            layer_norm_eps,
        } = &self.config;
        for (name, number) in [
            ("vocab_size", vocab_size),
            ("hidden_size", hidden_size),
            ("layers", layers),
            ("heads", heads),
            ("intermediate_size", intermediate_size),
            ("positions", positions),
            ("token_types", token_types),
            ("tokens_max", &self.bounds.tokens_max),
        ] {
            fingerprint.number(name, *number);
        }
        fingerprint.text("activation", activation.name());
        fingerprint.real("layer_norm_eps", *layer_norm_eps);
        fingerprint.text("pooling", self.recipe.pooling.name());
        fingerprint.flag("normalize", self.recipe.normalize);
        let tokenizer = TextTokenizer::load(&self.recipe.encoder, &self.settings, self.bounds, &mut fingerprint)?;
        Ok((tokenizer, fingerprint))
    }
}

/// The parts of a model.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) card: Card,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) encoder: Encoder,
}

impl Loaded {
    pub(crate) fn read(directory: &Path, options: &LoadOptions) -> Result<Self, EngineError> {
        let plan = Plan::read(directory)?;
        let (tokenizer, fingerprint) = plan.tokenizer()?;
        let bytes_total = plan.files.bytes();
        let mut progress = LoadProgress { bytes_read: 0, bytes_total };
        let mut weights = plan.files.read(|bytes| {
            progress.bytes_read += bytes;
            if let Some(on_progress) = &options.on_progress {
                on_progress(progress);
            }
        })?;
        let revision = revision(directory, &plan, fingerprint, &weights, options.revision_cache.as_deref())?;
        let encoder = Encoder::new(&plan.config, &mut weights)?;
        Ok(Self { card: card(directory, &plan, revision, options), tokenizer, encoder })
    }
}

/// The model's revision, from the cache if it is there.
pub(crate) fn revision(
    directory: &Path,
    plan: &Plan,
    mut fingerprint: Fingerprint,
    weights: &Weights,
    cache: Option<&Path>,
) -> Result<String, EngineError> {
    let remembered = RevisionCache::new(cache, &fingerprint, plan.files.parts());
    if let Some(revision) = remembered.get() {
        return Ok(revision);
    }
    fingerprint
        .tensors(weights.tensors())
        .map_err(|cause| EngineError::Model { place: directory.display().to_string(), what: cause.to_string() })?;
    let revision = fingerprint.revision();
    remembered.put(&revision);
    Ok(revision)
}

fn card(directory: &Path, plan: &Plan, revision: String, options: &LoadOptions) -> Card {
    let last_component = || {
        let absolute = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let bounded = |number: usize| u32::try_from(number).expect("config and recipe bound it far below");
    let tokens_max = bounded(plan.bounds.tokens_max);
    Card {
        name: options.name.clone().unwrap_or_else(last_component),
        revision,
        precision: "f32",
        dimensions: bounded(plan.config.hidden_size),
        tokens_max,
        pooling: plan.recipe.pooling,
        normalize: plan.recipe.normalize,
        stand_in: false,
        cost: CostGuess::PerToken { tokens_max },
    }
}

/// What an architecture must be, for messages of other packages.
pub const SUPPORTED: &str = config::SUPPORTED;
