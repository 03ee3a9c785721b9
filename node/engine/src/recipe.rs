//! What a model's own files say about turning token vectors into an embedding: pooling, normalisation, token limit.
//!
//! For `load`. Three conventions are read, the first that is there decides:
//! 1. sentence-transformers: `modules.json`, the pooling module's `config.json`, a Normalize module or none.
//! 2. ModelScope: `configuration.json` of a sentence-embedding pipeline (`emb_pooler_type`, default cls; `normalize`,
//!    default false: what its pipeline does).
//! 3. A bare encoder: mean over all tokens, not normalised, which is what sentence-transformers makes of one.
//!
//! The token limit is `sentence_bert_config.json`'s, else `tokenizer_config.json`'s; never beyond the position table.

use serde::Deserialize;
use serde_json::Value;

use crate::config::EncoderConfig;
use crate::directory::{Directory, broken};
use crate::tokenizer_file::TokenizerSettings;
use crate::{EngineError, Pooling};

const MODULES_FILE: &str = "modules.json";
const MODELSCOPE_FILE: &str = "configuration.json";
const SENTENCE_FILE: &str = "sentence_bert_config.json";
const SUPPORTED_POOLING: &str = "one of cls, mean, lasttoken";
/// A `model_max_length` above this means "no limit": some files say 1e30.
const TOKENS_MAX_CREDIBLE: f64 = 1e6;

/// How token vectors become an embedding.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Where the encoder's files are: the model's directory, or the folder that `modules.json` names.
    pub(crate) encoder: Directory,
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
    /// The file that decided the two, for people.
    pub(crate) source: &'static str,
}

impl Recipe {
    /// Reads what the files say.
    ///
    /// # Errors
    /// [`EngineError::Model`] for files that do not parse or contradict each other; [`EngineError::Unsupported`] for
    /// a module or a pooling that is not known here.
    pub(crate) fn read(directory: &Directory) -> Result<Self, EngineError> {
        if let Some(modules) = directory.json::<Vec<Module>>(MODULES_FILE)? {
            return Self::of_modules(directory, &modules);
        }
        let here = |pooling, normalize, source| Self { encoder: directory.clone(), pooling, normalize, source };
        let modelscope: Option<ModelScope> = directory.json(MODELSCOPE_FILE)?;
        match modelscope {
            Some(file) if file.task.as_deref() == Some("sentence-embedding") => {
                let model = file.model.unwrap_or_default();
                let kind = model.emb_pooler_type.as_deref().unwrap_or("cls");
                let pooling =
                    pooling_named(kind).ok_or_else(|| unsupported_pooling(directory, MODELSCOPE_FILE, kind))?;
                Ok(here(pooling, model.normalize.unwrap_or(false), MODELSCOPE_FILE))
            }
            _ => Ok(here(Pooling::Mean, false, "the default for a bare encoder")),
        }
    }

    fn of_modules(directory: &Directory, modules: &[Module]) -> Result<Self, EngineError> {
        let mut recipe =
            Self { encoder: directory.clone(), pooling: Pooling::Mean, normalize: false, source: MODULES_FILE };
        let mut has_pooling = false;
        for (index, module) in modules.iter().enumerate() {
            match (index, module.class()) {
                (0, "Transformer") => recipe.encoder = directory.below(&module.path, MODULES_FILE)?,
                (1.., "Pooling") if !has_pooling => {
                    recipe.pooling = read_pooling(&directory.below(&module.path, MODULES_FILE)?)?;
                    has_pooling = true;
                }
                (1.., "Normalize") if has_pooling => recipe.normalize = true,
                (_, class) => {
                    return Err(EngineError::Unsupported {
                        place: directory.place(MODULES_FILE).display().to_string(),
                        what: format!("the module `{class}` as number {index}"),
                        supported: "Transformer, then Pooling, then optionally Normalize".to_owned(),
                    });
                }
            }
        }
        if has_pooling { Ok(recipe) } else { Err(broken(&directory.place(MODULES_FILE), "has no Pooling module")) }
    }
}

/// One step of a sentence-transformers model.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

impl Module {
    /// The class alone: its package moves from version to version.
    fn class(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or(&self.kind)
    }
}

#[derive(Deserialize)]
struct ModelScope {
    task: Option<String>,
    model: Option<ModelScopeModel>,
}

#[derive(Default, Deserialize)]
struct ModelScopeModel {
    emb_pooler_type: Option<String>,
    normalize: Option<bool>,
}

/// Reads the pooling module's file: a flag for each kind, or since sentence-transformers 5 the kind's name.
fn read_pooling(directory: &Directory) -> Result<Pooling, EngineError> {
    const FILE: &str = "config.json";
    let Some(fields) = directory.json::<serde_json::Map<String, Value>>(FILE)? else {
        return Err(broken(&directory.place(FILE), "is missing; fetch the model's pooling configuration too"));
    };
    let names: Vec<&str> = match fields.get("pooling_mode") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => fields
            .iter()
            .filter(|(_, value)| **value == Value::Bool(true))
            .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
            .collect(),
    };
    match names[..] {
        [name] => pooling_named(name).ok_or_else(|| unsupported_pooling(directory, FILE, name)),
        [] => Err(broken(&directory.place(FILE), "switches no pooling on")),
        _ => Err(unsupported_pooling(directory, FILE, &names.join(" and "))),
    }
}

fn pooling_named(name: &str) -> Option<Pooling> {
    match name {
        "cls" | "cls_token" => Some(Pooling::Cls),
        "mean" | "mean_tokens" | "avg" => Some(Pooling::Mean),
        "last" | "lasttoken" => Some(Pooling::Last),
        _ => None,
    }
}

fn unsupported_pooling(directory: &Directory, file: &str, name: &str) -> EngineError {
    EngineError::Unsupported {
        place: directory.place(file).display().to_string(),
        what: format!("pooling `{name}`"),
        supported: SUPPORTED_POOLING.to_owned(),
    }
}

/// What sentence-transformers adds to the tokenizer.
#[derive(Default, Deserialize)]
pub(crate) struct SentenceSettings {
    max_seq_length: Option<u64>,
    do_lower_case: Option<bool>,
}

impl SentenceSettings {
    /// # Errors
    /// [`EngineError::Model`] if the file does not parse.
    pub(crate) fn read(directory: &Directory) -> Result<Self, EngineError> {
        Ok(directory.json(SENTENCE_FILE)?.unwrap_or_default())
    }

    pub(crate) fn lowercase(&self) -> bool {
        self.do_lower_case.unwrap_or(false)
    }

    /// Longest row in tokens that the model is meant for.
    pub(crate) fn tokens_max(&self, settings: &TokenizerSettings, config: &EncoderConfig) -> usize {
        let of_tokenizer = settings.model_max_length.filter(|tokens| (1.0..=TOKENS_MAX_CREDIBLE).contains(tokens));
        let wished = match (self.max_seq_length.filter(|tokens| 0 < *tokens), of_tokenizer) {
            (Some(tokens), _) => usize::try_from(tokens).unwrap_or(usize::MAX),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to a million, as filtered")]
            (None, Some(tokens)) => tokens as usize,
            (None, None) => usize::MAX,
        };
        wished.min(config.positions)
    }
}
