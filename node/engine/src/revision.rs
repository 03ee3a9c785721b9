//! A model's revision: one hash of everything that decides what a text becomes.
//!
//! For `load`, which puts it on the model's card; peers serve for each other only what has the same revision.
//! Invariants: it depends on values, not on files: the same weights as safetensors, in shards or as `.bin`, under any
//! prefix, have the same revision (test `the_file_format_does_not_change_the_revision`). Each part is hashed with its
//! name and length, so no two different models run together into the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use candle_core::{CpuStorage, Storage, Tensor};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Hex digits of a revision.
const DIGITS: usize = 16;
/// Elements that are turned into bytes at a time.
const CHUNK: usize = 8192;

/// Gathers what a revision depends on.
#[derive(Clone, Debug)]
pub(crate) struct Fingerprint {
    hasher: Sha256,
}

impl Fingerprint {
    pub(crate) fn new() -> Self {
        let mut fingerprint = Self { hasher: Sha256::new() };
        // A change of what is hashed must change every revision.
        fingerprint.text("scheme", "shoal-1");
        fingerprint
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.part(name, value.as_bytes());
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.part(name, &[u8::from(value)]);
    }

    pub(crate) fn number(&mut self, name: &str, value: usize) {
        self.part(name, &(value as u64).to_le_bytes());
    }

    /// A number that need not be whole, by its exact bits.
    pub(crate) fn real(&mut self, name: &str, value: f64) {
        self.part(name, &value.to_bits().to_le_bytes());
    }

    pub(crate) fn vocabulary(&mut self, tokens: &BTreeMap<u32, &str>) {
        self.number("vocabulary", tokens.len());
        for (id, token) in tokens {
            self.part("token", &id.to_le_bytes());
            self.text("text", token);
        }
    }

    /// JSON by its meaning: white space and the order of keys do not count.
    pub(crate) fn json(&mut self, name: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                self.number(name, fields.len());
                let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
                for (key, field) in sorted {
                    self.json(key, field);
                }
            }
            Value::Array(items) => {
                self.number(name, items.len());
                for item in items {
                    self.json("item", item);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => self.text(name, &value.to_string()),
        }
    }

    /// Tensors by canonical name, as they are stored: each has its own hash, computed side by side.
    ///
    /// # Errors
    /// candle's, for a tensor that is not in main memory.
    pub(crate) fn tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> candle_core::Result<()> {
        let hashes: Vec<_> = tensors.par_iter().map(|(_, tensor)| tensor_hash(tensor)).collect();
        for (name, hash) in tensors.keys().zip(hashes) {
            self.part(name, &hash?);
        }
        Ok(())
    }

    fn part(&mut self, name: &str, bytes: &[u8]) {
        for field in [name.as_bytes(), bytes] {
            self.hasher.update((field.len() as u64).to_le_bytes());
            self.hasher.update(field);
        }
    }

    /// The revision of all that was gathered.
    pub(crate) fn revision(self) -> String {
        hex(&self.hasher.finalize())[..DIGITS].to_owned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tensor_hash(tensor: &Tensor) -> candle_core::Result<[u8; 32]> {
    let tensor = tensor.contiguous()?;
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?} {:?};", tensor.dtype(), tensor.dims()));
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(values) = &*storage else {
        candle_core::bail!("a tensor to be hashed is not in main memory");
    };
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    let mut buffer = Vec::with_capacity(CHUNK * 8);
    macro_rules! update {
        ($values:expr) => {
            for chunk in $values[range].chunks(CHUNK) {
                buffer.clear();
                buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&buffer);
            }
        };
    }
    match values {
        CpuStorage::F32(values) => update!(values),
        CpuStorage::F64(values) => update!(values),
        CpuStorage::F16(values) => update!(values),
        CpuStorage::BF16(values) => update!(values),
        _ => candle_core::bail!("a weight has the type {:?}, which is no floating point type", tensor.dtype()),
    }
    Ok(hasher.finalize().into())
}

/// Remembers revisions between starts, so that gigabytes of weights are not hashed each time.
///
/// The key is all that the revision depends on but the tensors, and each file of tensors with its size and time of
/// change. A cache that cannot be read or written is no cache: the revision is computed again.
#[derive(Debug)]
pub(crate) struct RevisionCache {
    entry: Option<PathBuf>,
}

impl RevisionCache {
    /// `small` is the fingerprint of everything but the tensors.
    pub(crate) fn new(directory: Option<&Path>, small: &Fingerprint, files: &[PathBuf]) -> Self {
        let entry =
            directory.and_then(|directory| Some(directory.join(format!("revision-{}", key(small.clone(), files)?))));
        Self { entry }
    }

    pub(crate) fn get(&self) -> Option<String> {
        let revision = fs::read_to_string(self.entry.as_ref()?).ok()?;
        let is_sound = revision.len() == DIGITS && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sound.then_some(revision)
    }

    pub(crate) fn put(&self, revision: &str) {
        let Some(entry) = &self.entry else { return };
        // Written aside and renamed: a node that starts at the same time sees all of it or nothing.
        let aside = entry.with_extension(std::process::id().to_string());
        let written = fs::write(&aside, revision).and_then(|()| fs::rename(&aside, entry));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
    }
}

fn key(mut fingerprint: Fingerprint, files: &[PathBuf]) -> Option<String> {
    for file in files {
        let metadata = fs::metadata(file).ok()?;
        let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        fingerprint.text("file", &fs::canonicalize(file).ok()?.to_string_lossy());
        fingerprint.text("size and time", &format!("{} {}", metadata.len(), changed.as_nanos()));
    }
    Some(fingerprint.revision())
}
