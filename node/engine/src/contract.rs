//! What every engine promises: the trait, what goes in, what comes out, and how it fails.
//!
//! For the node and for every engine of this package.
//! Invariants: an engine answers each row of a batch exactly once, in order, or fails the batch as a whole.

use std::fmt::Debug;

/// How a text longer than the model's limit is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// Keep the first tokens.
    #[default]
    Right,
    /// Keep the last tokens.
    Left,
    /// Refuse the text with [`RowError::TooLong`].
    Refuse,
}

/// What the caller wants done with one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbedOptions {
    pub truncation: Truncation,
    /// Scale the vector to length 1; `None` = as the model's own files say.
    pub normalize: Option<bool>,
    /// Keep the first so many dimensions; a vector that is normalised is normalised after the cut.
    pub dimensions: Option<u32>,
}

/// One row of a batch.
#[derive(Clone, Copy, Debug)]
pub struct InputText<'a> {
    pub text: &'a str,
    pub options: EmbedOptions,
}

/// One text as a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// [`Card::dimensions`] values, or fewer where the caller asked for fewer; all finite.
    pub values: Vec<f32>,
    /// Tokens that went through the model, special tokens included.
    pub tokens: u32,
}

/// Why one row has no vector although its batch ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The caller forbade truncation. The caller's fault.
    #[error("the text has {tokens} tokens, the model takes at most {tokens_max}; allow truncation or shorten it")]
    TooLong { tokens: u32, tokens_max: u32 },
    /// The caller asked for something that this model does not give. The caller's fault.
    #[error("{0}")]
    Unsupported(String),
    /// The model gave a value that is not a number. Never the caller's fault alone: the node checks itself.
    #[error("the model gave a value that is not a finite number")]
    NonFinite,
}

impl RowError {
    /// Whether the caller has to change the request; everything else is the node's fault.
    #[must_use]
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::Unsupported(_) => true,
            Self::NonFinite => false,
        }
    }
}

/// Why a batch as a whole, or the loading of a model, failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file of the model is missing, unreadable or inconsistent. Nothing was loaded.
    #[error("{place}: {what}")]
    Model { place: String, what: String },
    /// The model's architecture or a setting of it is not supported.
    #[error("{place}: {what} is not supported; supported: {supported}")]
    Unsupported { place: String, what: String, supported: String },
    /// The forward pass failed. The batch has no results.
    #[error("the forward pass failed: {0}")]
    Compute(String),
    /// An engine specification such as `synthetic:20ms` does not parse.
    #[error("engine `{spec}`: {what}")]
    Spec { spec: String, what: String },
}

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The last token's vector.
    Last,
}

impl Pooling {
    /// The name as model files write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }
}

/// How much a text will cost, told from its bytes alone, before anybody tokenised it.
///
/// The unit is abstract ("tokens" of a model, "items" of the stand-in); the node learns seconds per unit from the
/// batches that ran, so only proportions matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostGuess {
    /// Every text costs one unit.
    PerItem,
    /// About one unit a token, at most `tokens_max`.
    PerToken { tokens_max: u32 },
}

impl CostGuess {
    /// Units that `text` will cost, at least 1.
    ///
    /// A CJK character (three bytes of UTF-8) is about one token; of other text four bytes are about one token.
    /// Two special tokens are added.
    #[must_use]
    pub fn units(self, text: &str) -> u32 {
        match self {
            Self::PerItem => 1,
            Self::PerToken { tokens_max } => {
                let (mut wide, mut narrow) = (0usize, 0usize);
                // Bytes beyond what any truncation keeps change nothing; a hostile text must not cost a long scan.
                for &byte in text.as_bytes().iter().take(tokens_max as usize * 16) {
                    wide += usize::from(byte >= 0xE0);
                    narrow += usize::from(byte < 0x80);
                }
                let tokens = wide + narrow.div_ceil(4) + 2;
                u32::try_from(tokens).unwrap_or(u32::MAX).min(tokens_max.max(1))
            }
        }
    }
}

/// What a loaded model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// The name that callers use: `minilm`, or the directory's last component.
    pub name: String,
    /// Hash of tensors, tokenizer and configuration, 16 hex digits; the same for the same model in another file format.
    pub revision: String,
    /// `f32`.
    pub precision: &'static str,
    pub dimensions: u32,
    /// Longest text in tokens, special tokens included.
    pub tokens_max: u32,
    pub pooling: Pooling,
    /// Whether vectors have length 1 when the caller does not say otherwise.
    pub normalize: bool,
    /// True for an engine that only imitates a model.
    pub stand_in: bool,
    pub cost: CostGuess,
}

/// One model on one device. Owned by one thread; a batch blocks it.
pub trait Engine: Send + Debug {
    /// What this engine serves; constant after loading.
    fn card(&self) -> &Card;

    /// Runs one batch. Returns one entry a row, in order.
    ///
    /// # Errors
    /// [`EngineError::Compute`]: the batch has no results, and which row is to blame is unknown.
    fn run(&mut self, batch: &[InputText<'_>]) -> Result<Vec<Result<Embedding, RowError>>, EngineError>;
}
