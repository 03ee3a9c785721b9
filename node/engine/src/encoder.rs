//! The encoder of the BERT family on packed rows: all tokens of a batch lie one after another, without padding.
//!
//! For `embedder`. Linear layers see one `[tokens, width]` matrix; attention sees one row at a time, so no row can see
//! another, no mask is needed, and nothing is computed for padding. f32 only.
//! Invariants: a row in a batch equals the row alone within 1e-5; a value that is not finite stays within its row.
//! Source: Devlin et al. 2019; Vaswani et al. 2017, section 3.

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};

use crate::EngineError;
use crate::config::{Activation, EncoderConfig};
use crate::tokens::TokenRow;
use crate::weights::Weights;

/// Queries of one row that attend at a time: bounds the memory of a long row to heads × this × its length.
const QUERIES_MAX: usize = 512;

/// Rows laid one after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    positions: Vec<u32>,
    lengths: Vec<usize>,
}

impl Packed {
    /// Adds a row; it must have at least one token.
    pub(crate) fn push(&mut self, row: &TokenRow) {
        assert!(!row.ids.is_empty(), "a row without tokens has no vector");
        self.ids.extend(&row.ids);
        self.type_ids.extend(&row.type_ids);
        self.positions.extend((0u32..).take(row.ids.len()));
        self.lengths.push(row.ids.len());
    }

    /// First token and number of tokens of each row.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        self.lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some((start, *length))
        })
    }
}

/// An encoder with its weights.
#[derive(Debug)]
pub(crate) struct Encoder {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    attention_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    output_norm: Norm,
}

/// Self-attention of one layer.
#[derive(Debug)]
struct Attention {
    /// Queries, keys and values in one product; the queries' weights hold the factor 1/√width already.
    query_key_value: Linear,
    output: Linear,
    heads: usize,
    width: usize,
}

#[derive(Debug)]
struct Linear {
    /// `[in, out]`, a transposed view of what the file has.
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Encoder {
    /// Takes the encoder's tensors.
    ///
    /// # Errors
    /// [`EngineError::Model`] if one is missing or has another shape than `config` says.
    pub(crate) fn new(config: &EncoderConfig, weights: &mut Weights) -> std::result::Result<Self, EngineError> {
        let hidden = config.hidden_size;
        let encoder = Self {
            words: weights.take("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            positions: weights.take("embeddings.position_embeddings.weight", &[config.positions, hidden])?,
            types: weights.take("embeddings.token_type_embeddings.weight", &[config.token_types, hidden])?,
            norm: Norm::new(config, weights, "embeddings")?,
            layers: (0..config.layers)
                .map(|index| Layer::new(config, weights, index))
                .collect::<std::result::Result<_, _>>()?,
        };
        Ok(encoder)
    }

    /// The last layer's vectors, `[tokens, width]` f32.
    ///
    /// # Errors
    /// candle's; an id for which a table has no row is one of them.
    pub(crate) fn forward(&self, rows: &Packed) -> Result<Tensor> {
        let table = |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
        let words = table(&self.words, &rows.ids)?;
        let types = table(&self.types, &rows.type_ids)?;
        let positions = table(&self.positions, &rows.positions)?;
        let mut hidden = self.norm.forward(&((words + types)? + positions)?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, rows)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn new(config: &EncoderConfig, weights: &mut Weights, index: usize) -> std::result::Result<Self, EngineError> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            attention: Attention::new(config, weights, index)?,
            attention_norm: Norm::new(config, weights, &name("attention.output"))?,
            up: Linear::new(weights, &name("intermediate.dense"), hidden, intermediate)?,
            activation: config.activation,
            down: Linear::new(weights, &name("output.dense"), intermediate, hidden)?,
            output_norm: Norm::new(config, weights, &name("output"))?,
        })
    }

    fn forward(&self, hidden: &Tensor, rows: &Packed) -> Result<Tensor> {
        let attended = self.attention.forward(hidden, rows)?;
        let hidden = self.attention_norm.forward(&(attended + hidden)?)?;
        let wide = self.up.forward(&hidden)?;
        let wide = match self.activation {
            Activation::GeluErf => wide.gelu_erf()?,
            Activation::GeluTanh => wide.gelu()?,
            Activation::Relu => wide.relu()?,
        };
        self.output_norm.forward(&(self.down.forward(&wide)? + hidden)?)
    }
}

impl Attention {
    fn new(config: &EncoderConfig, weights: &mut Weights, index: usize) -> std::result::Result<Self, EngineError> {
        let hidden = config.hidden_size;
        let width = hidden / config.heads;
        let mut part = |name: &str| -> std::result::Result<(Tensor, Tensor), EngineError> {
            let name = format!("encoder.layer.{index}.attention.self.{name}");
            let weight = weights.take(&format!("{name}.weight"), &[hidden, hidden])?;
            Ok((weight, weights.take(&format!("{name}.bias"), &[hidden])?))
        };
        let (query, key, value) = (part("query")?, part("key")?, part("value")?);
        #[expect(clippy::cast_precision_loss, reason = "a width is far below 2^52")]
        let scale = 1.0 / (width as f64).sqrt();
        let joined = || -> Result<Linear> {
            Linear::of(
                &Tensor::cat(&[(query.0 * scale)?, key.0, value.0], 0)?,
                Tensor::cat(&[(query.1 * scale)?, key.1, value.1], 0)?,
            )
        };
        Ok(Self {
            query_key_value: joined().map_err(|cause| EngineError::Compute(cause.to_string()))?,
            output: Linear::new(weights, &format!("encoder.layer.{index}.attention.output.dense"), hidden, hidden)?,
            heads: config.heads,
            width,
        })
    }

    fn forward(&self, hidden: &Tensor, rows: &Packed) -> Result<Tensor> {
        let projected = self.query_key_value.forward(hidden)?;
        let contexts: Vec<Tensor> = rows
            .spans()
            .map(|(start, length)| self.attend(&projected.narrow(0, start, length)?))
            .collect::<Result<_>>()?;
        self.output.forward(&Tensor::cat(&contexts, 0)?)
    }

    /// Attention within one row: `[tokens, 3 × hidden]` to `[tokens, hidden]`.
    fn attend(&self, row: &Tensor) -> Result<Tensor> {
        let tokens = row.dim(0)?;
        let parts = row.reshape((tokens, 3, self.heads, self.width))?.permute((1, 2, 0, 3))?.contiguous()?;
        let (queries, keys, values) = (parts.get(0)?, parts.get(1)?.t()?, parts.get(2)?);
        let contexts: Vec<Tensor> = (0..tokens)
            .step_by(QUERIES_MAX)
            .map(|start| {
                let some = queries.narrow(1, start, QUERIES_MAX.min(tokens - start))?;
                softmax_last_dim(&some.matmul(&keys)?)?.matmul(&values)
            })
            .collect::<Result<_>>()?;
        Tensor::cat(&contexts, 1)?.transpose(0, 1)?.reshape((tokens, self.heads * self.width))
    }
}

impl Linear {
    fn new(weights: &mut Weights, name: &str, inputs: usize, outputs: usize) -> std::result::Result<Self, EngineError> {
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
        Self::of(&weight, bias).map_err(|cause| EngineError::Compute(cause.to_string()))
    }

    fn of(weight: &Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: weight.t()?, bias })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        input.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    fn new(config: &EncoderConfig, weights: &mut Weights, name: &str) -> std::result::Result<Self, EngineError> {
        let hidden = [config.hidden_size];
        #[expect(clippy::cast_possible_truncation, reason = "candle's layer norm takes its epsilon as f32")]
        let eps = config.layer_norm_eps as f32;
        Ok(Self {
            weight: weights.take(&format!("{name}.LayerNorm.weight"), &hidden)?,
            bias: weights.take(&format!("{name}.LayerNorm.bias"), &hidden)?,
            eps,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        layer_norm(input, &self.weight, &self.bias, self.eps)
    }
}
