//! Directories that are incomplete, damaged or malicious: an error that names the file, never a panic.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::json;
use shoal_engine::{Embedder, EngineError, LoadOptions};

use crate::support::{copy_of, edit_json};

/// Spoils a copy of a fixture and returns the error, which must name `file`.
#[track_caller]
fn refused(fixture: &str, file: &str, spoil: impl FnOnce(&Path)) -> String {
    let copy = copy_of(fixture);
    spoil(copy.path());
    let Err(cause) = Embedder::load(copy.path(), &LoadOptions::default()) else {
        panic!("a spoilt {file} was accepted");
    };
    let (EngineError::Model { place, .. } | EngineError::Unsupported { place, .. }) = &cause else {
        panic!("{file}: another kind of error: {cause}");
    };
    assert!(place.ends_with(file), "the error names {place}, not {file}: {cause}");
    cause.to_string()
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    for (fixture, missing, named) in [
        ("gte-zh", "config.json", "config.json"),
        ("gte-zh", "pytorch_model.bin", "model.safetensors"),
        ("gte-zh", "vocab.txt", "tokenizer.json"),
        ("st-mean", "model.safetensors", "model.safetensors"),
        ("st-mean", "1_Pooling/config.json", "1_Pooling/config.json"),
    ] {
        let message = refused(fixture, named, |directory| fs::remove_file(directory.join(missing)).unwrap());
        assert_says(&message, &["is missing"]);
    }
    let cause = Embedder::load(Path::new("/nowhere/at/all"), &LoadOptions::default()).unwrap_err();
    assert_says(&cause.to_string(), &["/nowhere/at/all", "cannot be opened"]);
}

#[test]
fn weights_that_are_cut_off_anywhere_are_refused() {
    for (fixture, file) in [("st-mean", "model.safetensors"), ("gte-zh", "pytorch_model.bin")] {
        for keep in [0, 1, 7, 8, 9, 100, 5000, 400_000] {
            refused(fixture, file, |directory| {
                let place = directory.join(file);
                let bytes = fs::read(&place).unwrap();
                fs::write(&place, &bytes[..keep]).unwrap();
            });
        }
    }
}

#[test]
fn weights_with_changed_bytes_are_refused_or_loaded_but_never_a_panic() {
    for (fixture, file) in [("st-mean", "model.safetensors"), ("gte-zh", "pytorch_model.bin")] {
        let copy = copy_of(fixture);
        let place = copy.path().join(file);
        let sound = fs::read(&place).unwrap();
        // Headers and the pickled structure are where a changed byte has a meaning.
        for at in (0..3000).step_by(97).chain((sound.len() - 3000..sound.len()).step_by(97)) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x55;
            fs::write(&place, bytes).unwrap();
            let _ = Embedder::load(copy.path(), &LoadOptions::default());
        }
    }
}

#[test]
fn a_header_that_claims_to_be_huge_is_refused() {
    let message = refused("st-mean", "model.safetensors", |directory| {
        fs::write(directory.join("model.safetensors"), [0xFF; 64]).unwrap();
    });
    assert_says(&message, &["damaged or cut off"]);
}

#[test]
fn tensors_of_another_model_are_refused() {
    let edit = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        refused("st-mean", "model.safetensors", |directory| {
            let place = directory.join("model.safetensors");
            let mut tensors = safetensors::load(&place, &Device::Cpu).unwrap();
            change(&mut tensors);
            safetensors::save(&tensors, &place).unwrap();
        })
    };
    let narrow = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let message =
        edit(&|tensors| drop(tensors.insert("encoder.layer.1.output.dense.weight".into(), narrow((64, 127)))));
    assert_says(&message, &["encoder.layer.1.output.dense.weight", "[64, 127]", "[64, 128]"]);
    let message = edit(&|tensors| drop(tensors.remove("encoder.layer.0.attention.self.query.bias")));
    assert_says(&message, &["no tensor", "encoder.layer.0.attention.self.query.bias"]);
    let message = edit(&|tensors| drop(tensors.remove("embeddings.word_embeddings.weight")));
    assert_says(&message, &["0 tensors whose name ends in"]);
    let message =
        edit(&|tensors| drop(tensors.insert("other.embeddings.word_embeddings.weight".into(), narrow((267, 64)))));
    assert_says(&message, &["2 tensors whose name ends in"]);
    let message = edit(&|tensors| {
        let integers = Tensor::zeros((64, 64), DType::I64, &Device::Cpu).unwrap();
        tensors.insert("encoder.layer.0.attention.self.key.weight".into(), integers);
    });
    assert_says(&message, &["encoder.layer.0.attention.self.key.weight"]);
}

#[test]
fn numbers_of_config_json_are_bounded() {
    for (key, value, words) in [
        ("num_attention_heads", json!(0), "1 to"),
        ("num_attention_heads", json!(7), "do not divide"),
        ("num_attention_heads", json!(-4), "does not parse"),
        ("num_hidden_layers", json!(1_000_000_000u64), "1 to"),
        ("num_hidden_layers", json!("two"), "does not parse"),
        ("hidden_size", json!(u64::MAX), "1 to"),
        ("hidden_size", json!(null), "has no `hidden_size`"),
        ("vocab_size", json!(0), "1 to"),
        ("max_position_embeddings", json!(0), "1 to"),
        ("layer_norm_eps", json!(-1.0), "0 to 0.1"),
    ] {
        let message = refused("st-mean", "config.json", |directory| {
            edit_json(directory, "config.json", |fields| drop(fields.insert(key.into(), value)));
        });
        assert_says(&message, &[words]);
    }
    let message =
        refused("st-mean", "config.json", |directory| fs::write(directory.join("config.json"), "{\"a\":").unwrap());
    assert_says(&message, &["does not parse", "line 1"]);
}

#[test]
fn more_layers_than_the_weights_have_are_refused() {
    let message = refused("st-mean", "model.safetensors", |directory| {
        edit_json(directory, "config.json", |fields| drop(fields.insert("num_hidden_layers".into(), 3.into())));
    });
    assert_says(&message, &["encoder.layer.2."]);
}

#[test]
fn another_architecture_is_refused_with_what_is_supported() {
    for (key, value) in [
        ("model_type", "gpt2"),
        ("model_type", "roberta"),
        ("hidden_act", "silu"),
        ("position_embedding_type", "relative_key"),
    ] {
        let message = refused("st-mean", "config.json", |directory| {
            edit_json(directory, "config.json", |fields| drop(fields.insert(key.into(), value.into())));
        });
        assert_says(&message, &[value, "not supported; supported:", "bert"]);
    }
    let message = refused("st-mean", "1_Pooling/config.json", |directory| {
        edit_json(directory, "1_Pooling/config.json", |fields| {
            fields.insert("pooling_mode_mean_tokens".into(), false.into());
            fields.insert("pooling_mode_max_tokens".into(), true.into());
        });
    });
    assert_says(&message, &["max_tokens", "cls, mean, lasttoken"]);
    let message = refused("gte-zh", "configuration.json", |directory| {
        edit_json(directory, "configuration.json", |fields| {
            fields["model"]["emb_pooler_type"] = "attention".into();
        });
    });
    assert_says(&message, &["attention", "not supported"]);
    let message = refused("st-mean", "modules.json", |directory| {
        let modules = json!([
            {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        ]);
        fs::write(directory.join("modules.json"), modules.to_string()).unwrap();
    });
    assert_says(&message, &["Dense", "Transformer, then Pooling"]);
}

#[test]
fn a_path_that_leads_out_of_the_directory_is_refused() {
    let message = refused("st-mean", "modules.json", |directory| {
        let modules = json!([{"idx": 0, "path": "../../etc", "type": "sentence_transformers.models.Transformer"}]);
        fs::write(directory.join("modules.json"), modules.to_string()).unwrap();
    });
    assert_says(&message, &["../../etc", "outside"]);
    let message = refused("st-mean", "model.safetensors.index.json", |directory| {
        fs::remove_file(directory.join("model.safetensors")).unwrap();
        let index = json!({"weight_map": {"embeddings.word_embeddings.weight": "/etc/passwd"}});
        fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
    });
    assert_says(&message, &["/etc/passwd", "outside"]);
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_is_refused() {
    let message = refused("st-mean", "vocab.txt", |directory| {
        let place = directory.join("vocab.txt");
        let mut text = fs::read_to_string(&place).unwrap();
        text.push_str("oneword\n");
        fs::write(&place, text).unwrap();
    });
    assert_says(&message, &["oneword", "267", "not of the same model"]);
    let message = refused("st-mean", "vocab.txt", |directory| {
        let place = directory.join("vocab.txt");
        let text = fs::read_to_string(&place).unwrap().replace("[SEP]", "[NOSEP]");
        fs::write(&place, text).unwrap();
    });
    assert_says(&message, &["[SEP]"]);
    for content in ["", "{}", "[1, 2", "{\"model\": {\"type\": \"WordPiece\"}}"] {
        refused("st-mean", "tokenizer.json", |directory| fs::write(directory.join("tokenizer.json"), content).unwrap());
    }
    let message =
        refused("st-mean", "vocab.txt", |directory| fs::write(directory.join("vocab.txt"), b"\xFF\xFE").unwrap());
    assert_says(&message, &["not UTF-8"]);
}

#[test]
fn a_limit_without_room_for_a_text_is_refused() {
    let message = refused("st-mean", "vocab.txt", |directory| {
        edit_json(directory, "sentence_bert_config.json", |fields| {
            drop(fields.insert("max_seq_length".into(), 2.into()))
        });
    });
    assert_says(&message, &["2 special tokens"]);
}
