//! Repositories of models on Hugging Face and ModelScope: which files they have, and which of them we need.
//!
//! For `models`. Both hubs are asked for a listing first, so that sizes and digests are known before a byte is written.
//! Invariants: a path of a listing becomes a path on disk only if it is one that we want; a token goes to the hub that
//! it is for, and never in the clear over a network.
//! Not here: the transfer of a file (`download`).

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::download::{Downloader, Remote};
use super::{ModelError, Progress};

/// Where complete files lie, below the staging directory.
const FILES: &str = "files";
const PARTS: &str = "parts";
const REVISION: &str = "revision";

/// Files of a listing that are looked at; repositories have dozens.
const LISTED_MAX: usize = 10_000;
/// Longest part of a repository's name.
const NAME_BYTES_MAX: usize = 96;
/// Files that are wanted if they are there, beside the weights.
const SMALL_FILES: [&str; 9] = [
    "README.md",
    "config.json",
    "configuration.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];
const SINGLE_WEIGHTS: &str = "model.safetensors";
const INDEXED_WEIGHTS: &str = "model.safetensors.index.json";
const PICKLED_WEIGHTS: &str = "pytorch_model.bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hub {
    HuggingFace,
    ModelScope,
}

/// A repository of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    hub: Hub,
    owner: String,
    name: String,
}

/// Where the hubs are and who we are to them.
#[derive(Clone)]
pub struct HubOptions {
    /// Without a final slash.
    pub huggingface: String,
    /// Without a final slash.
    pub modelscope: String,
    /// Sent to Hugging Face only.
    pub huggingface_token: Option<String>,
    /// Before the second try of a transfer; doubled for each further one.
    pub retry_pause: Duration,
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HubOptions")
            .field("huggingface", &self.huggingface)
            .field("modelscope", &self.modelscope)
            .field("has_token", &self.huggingface_token.is_some())
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// As `HF_ENDPOINT`, `HF_TOKEN` and `MODELSCOPE_ENDPOINT` say, the public hubs if they say nothing.
    #[must_use]
    pub fn from_environment() -> Self {
        let set =
            |name: &str| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let endpoint = |name: &str, public: &str| {
            let endpoint = set(name).unwrap_or_else(|| public.to_owned());
            endpoint.trim_end_matches('/').to_owned()
        };
        Self {
            huggingface: endpoint("HF_ENDPOINT", "https://huggingface.co"),
            modelscope: endpoint("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
            huggingface_token: set("HF_TOKEN"),
            retry_pause: Duration::from_millis(500),
        }
    }
}

impl Repository {
    /// `ORG/NAME`, `huggingface:ORG/NAME` or `modelscope:ORG/NAME`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (hub, path) = match text.split_once(':') {
            Some(("modelscope", path)) => (Hub::ModelScope, path),
            Some(("huggingface", path)) => (Hub::HuggingFace, path),
            Some(_) => return None,
            None => (Hub::HuggingFace, text),
        };
        let (owner, name) = path.split_once('/')?;
        let is_sound = |part: &str| {
            let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            // Two hyphens part owner and name in the cache; the hubs do not allow them in a name.
            (1..=NAME_BYTES_MAX).contains(&part.len())
                && part.bytes().all(is_known)
                && !part.starts_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        (is_sound(owner) && is_sound(name)).then(|| Self { hub, owner: owner.to_owned(), name: name.to_owned() })
    }

    /// Its name in the cache.
    pub(super) fn slug(&self) -> String {
        match self.hub {
            Hub::HuggingFace => format!("{}--{}", self.owner, self.name),
            Hub::ModelScope => format!("modelscope--{}--{}", self.owner, self.name),
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    fn listing_url(&self, hubs: &HubOptions) -> String {
        match self.hub {
            Hub::HuggingFace => format!("{}/api/models/{}/revision/main?blobs=true", hubs.huggingface, self.path()),
            Hub::ModelScope => {
                format!("{}/api/v1/models/{}/repo/files?Revision=master&Recursive=true", hubs.modelscope, self.path())
            }
        }
    }

    fn file_url(&self, hubs: &HubOptions, revision: &str, path: &str) -> String {
        match self.hub {
            Hub::HuggingFace => format!("{}/{}/resolve/{revision}/{path}", hubs.huggingface, self.path()),
            Hub::ModelScope => {
                format!("{}/api/v1/models/{}/repo?Revision=master&FilePath={path}", hubs.modelscope, self.path())
            }
        }
    }
}

/// The name of a model as [`super::fetch`] takes it, from its name in the cache.
pub(super) fn name_of(slug: &str) -> String {
    match slug.split("--").collect::<Vec<_>>()[..] {
        ["modelscope", owner, name] => format!("modelscope:{owner}/{name}"),
        [owner, name] => format!("{owner}/{name}"),
        _ => slug.to_owned(),
    }
}

/// A file as a hub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    path: String,
    bytes: Option<u64>,
    sha256: Option<String>,
}

/// What a repository has, at one revision.
#[derive(Debug)]
struct Listing {
    /// Changes when any file does.
    revision: String,
    files: Vec<Listed>,
}

/// Fetches what is needed of a repository to a folder of `staging`; returns that folder.
///
/// # Errors
/// [`ModelError`]; what was fetched of the same revision is kept for the next try.
pub(super) fn fetch(
    repository: &Repository,
    hubs: &HubOptions,
    staging: &Path,
    progress: &Progress,
) -> Result<PathBuf, ModelError> {
    let token = match repository.hub {
        Hub::HuggingFace if is_private(&hubs.huggingface) => hubs.huggingface_token.clone(),
        Hub::HuggingFace | Hub::ModelScope => None,
    };
    let downloader = Downloader::new(token, hubs.retry_pause);
    let url = repository.listing_url(hubs);
    let listing = Listing::parse(repository.hub, &downloader.text(&url)?)
        .map_err(|what| ModelError::Content { place: url.clone(), what })?;
    let wanted = wanted(&listing.files).map_err(|what| ModelError::Content { place: repository.path(), what })?;
    keep_only(staging, &listing.revision)?;
    let complete = staging.join(FILES);
    for file in wanted {
        let remote = Remote {
            name: file.path.clone(),
            url: repository.file_url(hubs, &listing.revision, &file.path),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        };
        downloader.file(&remote, &complete.join(&file.path), &staging.join(PARTS), *progress)?;
    }
    Ok(complete)
}

/// Whether nobody on the way can read what is sent.
fn is_private(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("http://").map(|rest| rest.split([':', '/']).next().unwrap_or(rest));
    endpoint.starts_with("https://") || host.is_some_and(|host| matches!(host, "127.0.0.1" | "localhost"))
}

/// Empties the staging directory if it holds files of another revision.
fn keep_only(staging: &Path, revision: &str) -> Result<(), ModelError> {
    let marker = staging.join(REVISION);
    if fs::read_to_string(&marker).is_ok_and(|kept| kept == revision) {
        return Ok(());
    }
    for folder in [FILES, PARTS] {
        let folder = staging.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(ModelError::disk(&folder))?;
        }
    }
    fs::write(&marker, revision).map_err(ModelError::disk(&marker))
}

/// The files that a model needs, or what it lacks.
fn wanted(files: &[Listed]) -> Result<Vec<&Listed>, String> {
    let has = |path: &str| files.iter().any(|file| file.path == path);
    if !has("config.json") && !has("0_Transformer/config.json") {
        return Err("has no config.json; it is no model that can be served".to_owned());
    }
    let folder = if has("config.json") { "" } else { "0_Transformer/" };
    let weights = [SINGLE_WEIGHTS, INDEXED_WEIGHTS, PICKLED_WEIGHTS].map(|name| format!("{folder}{name}"));
    let Some(weights) = weights.into_iter().find(|path| has(path)) else {
        return Err(format!("has none of {SINGLE_WEIGHTS}, {INDEXED_WEIGHTS} and {PICKLED_WEIGHTS}"));
    };
    let is_wanted = |path: &str| {
        let is_small = match path.split_once('/') {
            None => SMALL_FILES.contains(&path),
            Some((module, name)) => is_module_folder(module) && SMALL_FILES.contains(&name),
        };
        let is_shard = weights.ends_with(INDEXED_WEIGHTS) && path.strip_prefix(folder).is_some_and(is_shard);
        path == weights || is_shard || is_small
    };
    Ok(files.iter().filter(|file| is_wanted(&file.path)).collect())
}

/// `1_Pooling` and its like: a number, then letters.
fn is_module_folder(folder: &str) -> bool {
    folder.split_once('_').is_some_and(|(number, name)| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.and_then(|numbers| numbers.split_once("-of-")).is_some_and(|(part, of)| is_number(part) && is_number(of))
}

impl Listing {
    fn parse(hub: Hub, text: &str) -> Result<Self, String> {
        match hub {
            Hub::HuggingFace => Self::of_huggingface(text),
            Hub::ModelScope => Self::of_modelscope(text),
        }
    }

    fn of_huggingface(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            lfs: Option<Large>,
        }
        #[derive(Deserialize)]
        struct Large {
            sha256: Option<String>,
        }
        let answer: Answer = parse(text)?;
        if answer.sha.is_empty() || !answer.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("the listing has no sound revision".to_owned());
        }
        let listed = |file: Sibling| Listed {
            path: file.rfilename,
            bytes: file.size,
            sha256: file.lfs.and_then(|large| large.sha256),
        };
        let files = answer.siblings.into_iter().take(LISTED_MAX).map(listed).collect();
        Ok(Self { revision: answer.sha, files })
    }

    fn of_modelscope(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Data {
            files: Vec<Blob>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Blob {
            path: String,
            size: Option<u64>,
            sha256: Option<String>,
            r#type: Option<String>,
        }
        let answer: Answer = parse(text)?;
        let is_file = |blob: &Blob| blob.r#type.as_deref() != Some("tree");
        let listed = |blob: Blob| Listed {
            path: blob.path,
            bytes: blob.size,
            sha256: blob.sha256.filter(|digest| !digest.is_empty()),
        };
        let files: Vec<Listed> = answer.data.files.into_iter().take(LISTED_MAX).filter(is_file).map(listed).collect();
        // The branch moves; what it holds now is its revision.
        let revision = Sha256::digest(format!("{files:?}")).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { revision, files })
    }
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|cause| format!("the listing does not parse: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::{Hub, Listed, Repository, is_private, name_of, wanted};

    #[test]
    fn names_of_repositories_are_told_from_paths_and_survive_the_cache() {
        for (text, slug) in [
            ("BAAI/bge-small-en-v1.5", "BAAI--bge-small-en-v1.5"),
            ("modelscope:iic/nlp_gte", "modelscope--iic--nlp_gte"),
        ] {
            let repository = Repository::parse(text).unwrap();
            assert_eq!(repository.slug(), slug);
            assert_eq!(name_of(slug), text);
        }
        assert_eq!(Repository::parse("huggingface:a/b").unwrap().hub, Hub::HuggingFace);
        for path in ["", "minilm", "./a", "../a", "/a/b", "a/b/c", "a/..", "a/", "C:a/b", "a b/c", "a--b/c", "a/-b"] {
            assert_eq!(Repository::parse(path), None, "{path}");
        }
    }

    #[test]
    fn only_files_that_a_model_needs_are_wanted_and_no_path_leads_out() {
        let chosen = |paths: &[&str]| {
            let listed = |path: &&str| Listed { path: (*path).to_owned(), bytes: None, sha256: None };
            let files: Vec<Listed> = paths.iter().map(listed).collect();
            wanted(&files).map(|files| files.into_iter().map(|file| file.path.clone()).collect::<Vec<_>>())
        };
        let all = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "1_Pooling/config.json",
            "../config.json",
            "/etc/config.json",
            "/config.json",
            "1_Pooling/../config.json",
            "train.py",
            "vocab.txt",
        ];
        assert_eq!(chosen(&all).unwrap(), ["config.json", "model.safetensors", "1_Pooling/config.json", "vocab.txt"]);
        let sharded =
            ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-x.safetensors"];
        assert_eq!(chosen(&sharded).unwrap(), sharded[..3]);
        assert_eq!(chosen(&["config.json", "pytorch_model.bin"]).unwrap().len(), 2);
        assert!(chosen(&["config.json", "flax_model.msgpack"]).unwrap_err().contains("none of"));
        assert!(chosen(&["model.safetensors"]).unwrap_err().contains("config.json"));
    }

    #[test]
    fn a_token_goes_only_where_nobody_on_the_way_can_read_it() {
        for (endpoint, private) in [
            ("https://hub.example", true),
            ("http://127.0.0.1:8000", true),
            ("http://localhost/x", true),
            ("http://hub.example", false),
            ("http://127.0.0.1.evil.example", false),
        ] {
            assert_eq!(is_private(endpoint), private, "{endpoint}");
        }
    }
}
