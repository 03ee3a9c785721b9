//! `config.json`: the shape of the encoder, checked before anything is computed with it.
//!
//! For `load`. Every number of the file is hostile until [`EncoderConfig::read`] has bounded it.
//! Invariants: heads divide the hidden size; sizes are small enough that a product of two of them cannot overflow.
//! Not here: pooling and the token limit (`recipe`), the tensors themselves (`weights`).

use serde::Deserialize;

use crate::EngineError;
use crate::directory::{Directory, broken};

/// Name of the file.
pub(crate) const FILE: &str = "config.json";

/// What [`EncoderConfig::read`] accepts as `model_type`, for messages.
pub(crate) const SUPPORTED: &str = "model_type bert or structbert (absolute positions, gelu, gelu_new or relu)";

/// The non-linear function between the two halves of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · Φ(x), by the error function.
    GeluErf,
    /// The same by a hyperbolic tangent.
    GeluTanh,
    Relu,
}

impl Activation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GeluErf => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
        }
    }
}

/// The shape of an encoder of the BERT family.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) model_type: String,
    /// Rows of the word table; every token id is below.
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate_size: usize,
    /// Rows of the position table.
    pub(crate) positions: usize,
    /// Rows of the table of token types.
    pub(crate) token_types: usize,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f64,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    vocab_size: Option<u64>,
    hidden_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    intermediate_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    type_vocab_size: Option<u64>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
}

impl EncoderConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Model`] if it is missing, does not parse or has a number out of range;
    /// [`EngineError::Unsupported`] for another architecture.
    pub(crate) fn read(directory: &Directory) -> Result<Self, EngineError> {
        let Some(raw) = directory.json::<RawConfig>(FILE)? else {
            return Err(broken(
                &directory.place(FILE),
                "is missing; give the directory that holds config.json, the weights and the tokenizer",
            ));
        };
        let unsupported = |what: String| EngineError::Unsupported {
            place: directory.place(FILE).display().to_string(),
            what,
            supported: SUPPORTED.to_owned(),
        };
        let model_type = model_type(&raw).map_err(unsupported)?;
        if let Some(kind) = raw.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(unsupported(format!("position_embedding_type `{kind}`")));
        }
        if raw.is_decoder == Some(true) {
            return Err(unsupported("is_decoder = true".to_owned()));
        }
        let activation = match raw.hidden_act.as_deref().unwrap_or("gelu") {
            "gelu" => Activation::GeluErf,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => return Err(unsupported(format!("hidden_act `{other}`"))),
        };
        let number = |key: &str, value: Option<u64>, default: Option<u64>, max: u64| {
            let Some(value) = value.or(default) else {
                return Err(broken(&directory.place(FILE), format!("has no `{key}`; use the file of the model")));
            };
            match usize::try_from(value) {
                Ok(size) if (1..=max).contains(&value) => Ok(size),
                _ => Err(broken(&directory.place(FILE), format!("`{key}` is {value}, it must be 1 to {max}"))),
            }
        };
        let config = Self {
            model_type,
            vocab_size: number("vocab_size", raw.vocab_size, None, 4_000_000)?,
            hidden_size: number("hidden_size", raw.hidden_size, None, 16_384)?,
            layers: number("num_hidden_layers", raw.num_hidden_layers, None, 256)?,
            heads: number("num_attention_heads", raw.num_attention_heads, None, 1024)?,
            intermediate_size: number("intermediate_size", raw.intermediate_size, None, 131_072)?,
            positions: number("max_position_embeddings", raw.max_position_embeddings, None, 131_072)?,
            token_types: number("type_vocab_size", raw.type_vocab_size, Some(2), 1024)?,
            activation,
            layer_norm_eps: raw.layer_norm_eps.unwrap_or(1e-12),
        };
        if !config.hidden_size.is_multiple_of(config.heads) {
            let what = format!("{} heads do not divide hidden_size {}", config.heads, config.hidden_size);
            return Err(broken(&directory.place(FILE), what));
        }
        if !(0.0..=0.1).contains(&config.layer_norm_eps) {
            let what = format!("`layer_norm_eps` is {}, it must be 0 to 0.1", config.layer_norm_eps);
            return Err(broken(&directory.place(FILE), what));
        }
        Ok(config)
    }
}

/// The model type, or what is not supported.
fn model_type(raw: &RawConfig) -> Result<String, String> {
    match raw.model_type.as_deref() {
        Some(kind @ ("bert" | "structbert")) => Ok(kind.to_owned()),
        Some(other) => Err(format!("model_type `{other}`")),
        // Files of 2019 have no model_type; the class of the checkpoint tells as much.
        None => match raw.architectures.as_deref().and_then(<[String]>::first) {
            Some(class) if class.starts_with("Bert") => Ok("bert".to_owned()),
            Some(class) => Err(format!("architecture `{class}` without a model_type")),
            None => Err("a model without model_type".to_owned()),
        },
    }
}
