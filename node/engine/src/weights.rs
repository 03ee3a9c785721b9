//! A model's tensors from whatever file holds them, under the names that the encoder knows.
//!
//! For `load` and `inspect`. Safetensors in one file or in shards are read into memory and checked by their own parser;
//! PyTorch's `.bin` goes through a parser that knows tensors and nothing else: no code of the file runs.
//! Invariants: a tensor leaves here only with the shape that `config.json` asks for, and as f32.
//! Not mapped into memory: a file that changes under a mapping is undefined behaviour, and candle copies anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::EngineError;
use crate::directory::{Directory, broken, read_file, stays_inside};
use crate::pickle_guard;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const PICKLE_FILE: &str = "pytorch_model.bin";
/// Largest file of weights.
const WEIGHTS_BYTES_MAX: u64 = 64 << 30;
const SHARDS_MAX: usize = 1024;
/// The tensor that every model of the family has; what stands before it is the prefix of all.
const ANCHOR: &str = "embeddings.word_embeddings.weight";

/// The tensors of the encoder by canonical name (no prefix, `LayerNorm.weight` and `.bias`), as stored.
#[derive(Debug)]
pub(crate) struct Weights {
    tensors: BTreeMap<String, Tensor>,
    /// What stood before the names, `bert.` for example.
    pub(crate) prefix: String,
    /// The file that is to blame, for messages: the only one, or the index of the shards.
    place: PathBuf,
}

/// Which files hold a model's weights.
#[derive(Clone, Debug)]
pub(crate) struct WeightFiles {
    place: PathBuf,
    parts: Vec<PathBuf>,
    pickled: bool,
}

/// The index of sharded safetensors.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Finds the weights of a model.
    ///
    /// # Errors
    /// [`EngineError::Model`] if there are none, or a shard is missing.
    pub(crate) fn find(directory: &Directory) -> Result<Self, EngineError> {
        let single = |name: &str, pickled| {
            let place = directory.place(name);
            Self { place: place.clone(), parts: vec![place], pickled }
        };
        if directory.has(SINGLE_FILE) {
            return Ok(single(SINGLE_FILE, false));
        }
        if let Some(index) = directory.json::<Index>(INDEX_FILE)? {
            return Self::of_index(directory, &index);
        }
        if directory.has(PICKLE_FILE) {
            return Ok(single(PICKLE_FILE, true));
        }
        let what =
            format!("is missing, and so are {INDEX_FILE} and {PICKLE_FILE}; fetch the weights in one of these forms");
        Err(broken(&directory.place(SINGLE_FILE), what))
    }

    fn of_index(directory: &Directory, index: &Index) -> Result<Self, EngineError> {
        let place = directory.place(INDEX_FILE);
        let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        if names.is_empty() || SHARDS_MAX < names.len() {
            return Err(broken(&place, format!("names {} shards, it must be 1 to {SHARDS_MAX}", names.len())));
        }
        for name in &names {
            if !stays_inside(name) {
                return Err(broken(
                    &place,
                    format!("names the shard `{name}`, which is outside the model's directory"),
                ));
            }
            if !directory.has(name) {
                return Err(broken(
                    &directory.place(name),
                    format!("is missing, {INDEX_FILE} names it; fetch it again"),
                ));
            }
        }
        Ok(Self { place, parts: names.into_iter().map(|name| directory.place(name)).collect(), pickled: false })
    }

    /// Every file, for the revision cache and for people.
    pub(crate) fn parts(&self) -> &[PathBuf] {
        &self.parts
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().filter_map(|part| fs::metadata(part).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Reads all tensors; `read` hears of the bytes of each file that was read.
    ///
    /// # Errors
    /// [`EngineError::Model`] naming the file that cannot be read, is cut off, or does not hold an encoder.
    pub(crate) fn read(&self, mut read: impl FnMut(u64)) -> Result<Weights, EngineError> {
        let mut tensors = BTreeMap::new();
        for part in &self.parts {
            let found = if self.pickled { read_pickle(part)? } else { read_safetensors(part)? };
            for (name, tensor) in found {
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(broken(&self.place, format!("has the tensor `{name}` twice")));
                }
            }
            read(fs::metadata(part).map_or(0, |metadata| metadata.len()));
        }
        Weights::of(self.place.clone(), tensors)
    }
}

impl Weights {
    fn of(place: PathBuf, found: BTreeMap<String, Tensor>) -> Result<Self, EngineError> {
        let prefixes: Vec<String> =
            found.keys().filter_map(|name| name.strip_suffix(ANCHOR)).map(str::to_owned).collect();
        let [prefix] = &prefixes[..] else {
            let what = format!("has {} tensors whose name ends in `{ANCHOR}`, one encoder has one", prefixes.len());
            return Err(broken(&place, what));
        };
        let mut tensors = BTreeMap::new();
        for (name, tensor) in found {
            let Some(name) = name.strip_prefix(prefix.as_str()) else { continue };
            let belongs = name.starts_with("embeddings.") || name.starts_with("encoder.layer.");
            // Some writers store the numbers 0, 1, 2, … as a tensor.
            if !belongs || name.ends_with("position_ids") || name.ends_with("token_type_ids") {
                continue;
            }
            if !matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
                let what = format!("has `{prefix}{name}` as {:?}; weights are f32, f64, f16 or bf16", tensor.dtype());
                return Err(broken(&place, what));
            }
            let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
            tensors.insert(name, tensor);
        }
        Ok(Self { tensors, prefix: prefix.clone(), place })
    }

    /// The encoder's tensors, as stored.
    pub(crate) fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Takes one tensor out, as f32.
    ///
    /// # Errors
    /// [`EngineError::Model`] if it is missing or has another shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
        let Some(tensor) = self.tensors.remove(name) else {
            let what = format!("has no tensor `{}{name}`; config.json asks for it", self.prefix);
            return Err(broken(&self.place, what));
        };
        if tensor.dims() != shape {
            let what = format!(
                "has `{}{name}` with shape {:?}, config.json asks for {shape:?}; they are not of the same model",
                self.prefix,
                tensor.dims()
            );
            return Err(broken(&self.place, what));
        }
        tensor
            .to_dtype(DType::F32)
            .and_then(|tensor| tensor.contiguous())
            .map_err(|cause| broken(&self.place, format!("has `{name}`, which cannot be made f32: {cause}")))
    }
}

fn read_safetensors(part: &Path) -> Result<Vec<(String, Tensor)>, EngineError> {
    let bytes = read_file(part, WEIGHTS_BYTES_MAX)?;
    let damaged = |cause: String| broken(part, format!("is damaged or cut off ({cause}); fetch it again"));
    let file = SafeTensors::deserialize(&bytes).map_err(|cause| damaged(cause.to_string()))?;
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        // Types that no weight of an encoder has are left out here; one that is needed is then missed by name.
        let Ok(dtype) = DType::try_from(view.dtype()) else { continue };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)
            .map_err(|cause| damaged(cause.to_string()))?;
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

fn read_pickle(part: &Path) -> Result<Vec<(String, Tensor)>, EngineError> {
    let damaged = |cause: String| {
        let what = format!("cannot be read as PyTorch weights ({cause}); fetch it again, or convert it to safetensors");
        broken(part, what)
    };
    pickle_guard::check_file(part).map_err(damaged)?;
    let bytes_max = fs::metadata(part).map_err(|cause| damaged(cause.to_string()))?.len();
    let read = || -> candle_core::Result<Vec<(String, Tensor)>> {
        let file = PthTensors::new(part, None)?;
        let mut tensors = Vec::new();
        for (name, info) in file.tensor_infos() {
            let bytes =
                info.layout.dims().iter().try_fold(info.dtype.size_in_bytes(), |sum, dim| sum.checked_mul(*dim));
            if bytes.is_none_or(|bytes| bytes_max < bytes as u64) {
                candle_core::bail!("tensor {name} claims more bytes than the file has");
            }
            if let Some(tensor) = file.get(name)? {
                tensors.push((name.clone(), tensor));
            }
        }
        Ok(tensors)
    };
    // The parser is not ours and indexes into what the file gives it: a panic there is a damaged file.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(tensors) => tensors.map_err(|cause| damaged(cause.to_string())),
        Err(_) => Err(damaged("its structure is not that of a state dictionary".to_owned())),
    }
}
