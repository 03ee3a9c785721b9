//! Real inference, end to end: files on disk to vectors over HTTP.
//!
//! The small models and their expected vectors are in `tests/fixtures`, as made by the reference implementation;
//! `minilm` is a real model, which `make test` fetches once.

use std::path::PathBuf;

use cluster_tests::binaries::{binaries, workspace};
use cluster_tests::command::{self, Finished};
use cluster_tests::node::{Node, Plan};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::LIMIT;
use serde_json::{Value, json};

use crate::{numbers, vector};

fn fixture(name: &str) -> PathBuf {
    workspace().join("tests/fixtures").join(name)
}

fn read(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn shoal(arguments: &[&str]) -> Finished {
    command::run(&binaries().shoal, arguments, &[], LIMIT)
}

/// A node that serves a small model of the fixtures.
fn serving(name: &str) -> Node {
    let mut node = Plan::new(name, "candle").flag("--model", &fixture(name).display().to_string()).start();
    node.wait_ready();
    node
}

/// The text and the expected vector of each row of a file.
fn rows(file: &Value) -> Vec<(String, Vec<f64>)> {
    let rows = file["rows"].as_array().expect("a list of rows");
    let row = |row: &Value| (row["text"].as_str().expect("a text").to_owned(), numbers(&row["embedding"]));
    rows.iter().map(row).collect()
}

/// The largest difference between two vectors.
#[track_caller]
fn distance(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

fn cosine(left: &[f64], right: &[f64]) -> f64 {
    let dot = |left: &[f64], right: &[f64]| left.iter().zip(right).map(|(left, right)| left * right).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

/// `minilm` in the cache of this machine, or the command that puts it there.
fn assert_minilm_is_there() {
    let inspected = shoal(&["model", "inspect", "minilm", "--json"]);
    assert_eq!(
        inspected.code,
        Some(0),
        "the model is not in the cache; run: cargo run --bin shoal -- model fetch minilm\n{inspected:?}"
    );
}

#[test]
fn small_models_give_the_vectors_of_the_reference() {
    // What the expected vectors are: normalised as the model's own files say, or as they left the pooling.
    for (name, normalize) in [("gte-zh", true), ("st-mean", false)] {
        let golden = read(fixture(name).join("golden.json"));
        let tolerance = golden["tolerance_abs"].as_f64().expect("a tolerance");
        let node = serving(name);
        let rows = rows(&golden);
        assert!(rows.iter().any(|(text, _)| 500 < text.chars().count()), "a long row is among them");
        let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
        let batch = node.post("/embed", &json!({ "inputs": texts, "normalize": normalize }));
        assert_eq!(batch.status, 200, "{}", batch.text());
        let batch = batch.json();
        for (index, (text, expected)) in rows.iter().enumerate() {
            let alone = vector(&node.post("/embed", &json!({ "inputs": text, "normalize": normalize })));
            let off = distance(&alone, expected);
            assert!(off <= tolerance, "{name}, row {index}: off by {off}");
            let off = distance(&alone, &numbers(&batch[index]));
            assert!(off <= 1e-5, "{name}, row {index}: alone and in a batch differ by {off}");
        }
        let tokens: usize = golden["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| row["input_ids"].as_array().expect("token ids").len())
            .sum();
        let openai = node.post("/v1/embeddings", &json!({ "input": texts, "model": name })).json();
        assert_eq!(openai["usage"]["prompt_tokens"], tokens, "{name}");
        for (index, (_, expected)) in rows.iter().enumerate() {
            let unit = numbers(&openai["data"][index]["embedding"]);
            assert!(0.99999 < cosine(&unit, expected), "{name}, row {index}");
            assert!((cosine(&unit, &unit) - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn a_text_that_may_not_be_cut_is_refused_when_it_is_too_long() {
    let node = serving("st-mean");
    let long = "长文本".repeat(300);
    let refused = node.post("/embed", &json!({ "inputs": ["a", long], "truncate": false }));
    assert_eq!((refused.status, &refused.json()["error_type"]), (422, &json!("Validation")), "{}", refused.text());
    let text = refused.text();
    assert!(text.contains("text 1") && text.contains("128"), "{text}");
    assert_eq!(node.post("/embed", &json!({ "inputs": "a", "truncate": false })).status, 200);
    // The ends differ, so the side that is cut shows.
    let ends = |direction: &str| {
        let body = json!({ "inputs": format!("a{long}z"), "truncation_direction": direction });
        vector(&node.post("/embed", &body))
    };
    assert!(1e-4 < distance(&ends("Left"), &ends("Right")));
}

#[test]
fn a_real_model_tells_what_it_is() {
    let node = serving("st-mean");
    let info = node.get("/info").json();
    for (key, expected) in [
        ("model_id", json!("st-mean")),
        ("model_type", json!({ "embedding": { "pooling": "mean" } })),
        ("max_input_length", json!(128)),
        ("dimensions", json!(64)),
        ("stand_in", json!(false)),
        ("model_dtype", json!("float32")),
    ] {
        assert_eq!(info[key], expected, "{key}");
    }
    let inspected = shoal(&["model", "inspect", &fixture("st-mean").display().to_string(), "--json"]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    let card: Value = serde_json::from_str(&inspected.output).expect("JSON on standard output");
    assert_eq!(card["revision"], info["revision"], "the same revision as the node announces: {card}");
    assert_eq!((&card["dimensions"], &card["tokens_max"]), (&json!(64), &json!(128)));
}

#[test]
fn nodes_with_different_models_do_not_answer_for_each_other() {
    // The same name, other weights: the revision in gossip keeps them apart.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let twin = directory.path().join("st-mean");
    let gte = fixture("gte-zh").display().to_string();
    std::os::unix::fs::symlink(&gte, &twin).expect("a link can be made");
    let models = [fixture("st-mean").display().to_string(), twin.display().to_string()];
    let wired = plans(2, "candle").into_iter().zip(&models).map(|(plan, model)| plan.flag("--model", model));
    let mut shoal = Shoal::start(wired.collect());
    shoal.wait_formed();
    let own: Vec<Vec<f64>> = shoal.iter().map(|node| vector(&node.embed("a"))).collect();
    assert!(1e-3 < distance(&own[0], &own[1]));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..10 {
                    let answer = shoal[0].embed(&format!("text {number}"));
                    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-1")));
                }
            });
        }
    });
    assert_eq!(shoal.metric("shoal_offers_total", &[]), 0.0);
}

#[test]
fn minilm_on_any_of_three_nodes_answers_like_sentence_transformers() {
    assert_minilm_is_there();
    // No peer is ever sooner by ten seconds, so each node answers its callers itself.
    let keep = "[routing]\nmargin_ms_min = 10000";
    let wired = plans(3, "candle").into_iter().map(|plan| plan.flag("--model", "minilm").config(keep));
    let mut shoal = Shoal::start(wired.collect());
    shoal.wait_formed();
    let rows = rows(&read(fixture("minilm-expected.json")));
    assert!(20 <= rows.len(), "{} texts", rows.len());
    let mut worst: f64 = 1.0;
    for node in shoal.iter() {
        for (text, expected) in &rows {
            let answer = node.embed(text);
            if text.is_empty() {
                // Nothing to work on is a mistake to both dialects.
                assert_eq!(answer.status, 400);
                continue;
            }
            assert_eq!(answer.header("x-served-by"), Some(node.id()));
            let cosine = cosine(&vector(&answer), expected);
            assert!(0.99999 <= cosine, "{} for {text:.40}: {cosine}", node.id());
            worst = worst.min(cosine);
        }
    }
    println!("the worst cosine of {} texts on 3 nodes is {worst}", rows.len());
    let info = shoal[0].get("/info").json();
    assert_eq!((&info["max_input_length"], &info["dimensions"]), (&json!(256), &json!(384)));
}

#[test]
fn models_in_the_cache_are_listed() {
    assert_minilm_is_there();
    let listed = shoal(&["model", "list", "--json"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let models: Value = serde_json::from_str(&listed.output).expect("JSON on standard output");
    let models = models.as_array().expect("a list of models");
    assert!(models.iter().any(|model| model["name"] == "minilm"), "{models:?}");
    let empty = tempfile::tempdir().expect("a temporary directory");
    let listed = shoal(&["model", "list", "--json", "--cache-dir", &empty.path().display().to_string()]);
    assert_eq!((listed.code, listed.output.trim()), (Some(0), "[]"), "{listed:?}");
}

#[test]
fn a_model_that_is_not_there_is_told_with_the_way_to_get_it() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let plan = Plan::new("n", "");
    let (api, peer) = (plan.api().to_string(), plan.peer().to_string());
    let data = empty.path().join("data").display().to_string();
    let cache = empty.path().join("cache").display().to_string();
    let mut arguments = vec!["serve", "--engine", "candle", "--model", "minilm", "--data-dir", &data];
    arguments.extend(["--api-listen", &api, "--peer-listen", &peer]);
    let ended = command::run(&binaries().shoal, &arguments, &[("SHOAL__MODEL__CACHE_DIR", &cache)], LIMIT);
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let complaints = ended.complaints();
    let [complaint] = complaints[..] else { panic!("not one line: {ended:?}") };
    for word in ["model.name", "minilm", "shoal model fetch"] {
        assert!(complaint.contains(word), "{word} is missing in: {complaint}");
    }
}
