//! A revision names what a model computes, not how its files are written.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor, pickle, safetensors};
use shoal_engine::{Embedder, Engine as _, LoadOptions};

use crate::support::{assert_near, copy_of, edit_json, fixture, load, run};

fn revision(directory: &Path) -> String {
    load(directory).card().revision.clone()
}

fn tensors_of_bin(directory: &Path) -> HashMap<String, Tensor> {
    pickle::read_all(directory.join("pytorch_model.bin")).unwrap().into_iter().collect()
}

fn change_one_weight(directory: &Path) {
    let place = directory.join("model.safetensors");
    let mut tensors = safetensors::load(&place, &Device::Cpu).unwrap();
    let name = "encoder.layer.1.output.dense.bias";
    let mut values: Vec<f32> = tensors[name].to_vec1().unwrap();
    values[5] = f32::from_bits(values[5].to_bits() ^ 1);
    tensors.insert(name.to_owned(), Tensor::new(values, &Device::Cpu).unwrap());
    safetensors::save(&tensors, &place).unwrap();
}

#[test]
fn the_file_format_does_not_change_the_revision() {
    let original = revision(&fixture("gte-zh"));
    assert!(original.len() == 16 && original.bytes().all(|byte| byte.is_ascii_hexdigit()), "{original}");
    let tensors = tensors_of_bin(&fixture("gte-zh"));

    let single = copy_of("gte-zh");
    fs::remove_file(single.path().join("pytorch_model.bin")).unwrap();
    let renamed: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| {
            let name = name.strip_prefix("bert.").expect("the fixture has the prefix");
            (
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
                tensor.clone(),
            )
        })
        .collect();
    safetensors::save(&renamed, single.path().join("model.safetensors")).unwrap();
    assert_eq!(revision(single.path()), original, "safetensors without a prefix, old names");

    let sharded = copy_of("gte-zh");
    fs::remove_file(sharded.path().join("pytorch_model.bin")).unwrap();
    let mut shards = [HashMap::new(), HashMap::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        let name = name.replacen("bert.", "encoder.", 1);
        map.insert(name.clone(), format!("part-{}.safetensors", index % 2).into());
        shards[index % 2].insert(name, tensor.clone());
    }
    for (index, shard) in shards.iter().enumerate() {
        safetensors::save(shard, sharded.path().join(format!("part-{index}.safetensors"))).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(sharded.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(revision(sharded.path()), original, "two shards, another prefix");
    let (mut left, mut right) = (load(sharded.path()), load(&fixture("gte-zh")));
    assert_near(&run(&mut left, &["北京"])[0], &run(&mut right, &["北京"])[0], 1e-6, "the same vectors too");
}

#[test]
fn each_thing_that_changes_answers_changes_the_revision() {
    let original = revision(&fixture("st-mean"));
    let changed = |change: &dyn Fn(&Path)| {
        let copy = copy_of("st-mean");
        change(copy.path());
        revision(copy.path())
    };
    assert_eq!(changed(&|_| ()), original, "a copy elsewhere has the same revision");
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 6] = [
        ("one bit of one weight", &|directory| {
            change_one_weight(directory);
        }),
        ("lower-casing", &|directory| {
            edit_json(directory, "tokenizer_config.json", |fields| {
                drop(fields.insert("do_lower_case".into(), false.into()))
            });
        }),
        ("the token limit", &|directory| {
            edit_json(directory, "sentence_bert_config.json", |fields| {
                drop(fields.insert("max_seq_length".into(), 64.into()))
            });
        }),
        ("the pooling", &|directory| {
            edit_json(directory, "1_Pooling/config.json", |fields| {
                fields.insert("pooling_mode_cls_token".into(), true.into());
                fields.insert("pooling_mode_mean_tokens".into(), false.into());
            });
        }),
        ("the epsilon", &|directory| {
            edit_json(directory, "config.json", |fields| drop(fields.insert("layer_norm_eps".into(), 1e-6.into())));
        }),
        ("one word", &|directory| {
            let vocabulary = directory.join("vocab.txt");
            let text = fs::read_to_string(&vocabulary).unwrap().replace("battery", "butter");
            fs::write(&vocabulary, text).unwrap();
        }),
    ];
    for (what, change) in changes {
        assert_ne!(changed(change), original, "{what}");
    }
}

#[test]
fn a_remembered_revision_is_used_until_a_file_changes() {
    let (copy, cache) = (copy_of("st-mean"), tempfile::tempdir().unwrap());
    let options = LoadOptions { revision_cache: Some(cache.path().to_owned()), ..LoadOptions::default() };
    let revision = || Embedder::load(copy.path(), &options).unwrap().card().revision.clone();
    let first = revision();
    let entries = || fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [entry] = &entries()[..] else { panic!("one entry, not {:?}", entries()) };
    // A mark in the entry shows that it is read.
    fs::write(entry, "0123456789abcdef").unwrap();
    assert_eq!(revision(), "0123456789abcdef");
    fs::write(entry, "not a revision!!").unwrap();
    assert_eq!(revision(), first, "a damaged entry is no revision");

    fs::write(entry, "0123456789abcdef").unwrap();
    change_one_weight(copy.path());
    let other = revision();
    assert!(other != first && other != "0123456789abcdef", "another file has another entry");
}

#[test]
fn progress_ends_at_all_bytes_and_the_name_is_the_callers() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let options = LoadOptions {
        name: Some("mine".to_owned()),
        on_progress: Some(Arc::new(move |progress| sink.lock().unwrap().push(progress))),
        ..LoadOptions::default()
    };
    let model = Embedder::load(&fixture("gte-zh"), &options).unwrap();
    assert_eq!(model.card().name, "mine");
    let last = *seen.lock().unwrap().last().expect("one file of weights was read");
    assert_eq!(last.bytes_read, last.bytes_total);
    assert_eq!(last.bytes_total, fs::metadata(fixture("gte-zh").join("pytorch_model.bin")).unwrap().len());
}
