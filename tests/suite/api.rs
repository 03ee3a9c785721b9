//! What callers get when they ask well: both dialects, self-description, and the headers of every answer.

use cluster_tests::http::{Answer, Request};
use cluster_tests::node::{Node, Plan, embed};
use serde_json::{Value, json};

use crate::{numbers, vector};

/// Width of the stand-in's vectors.
const WIDTH: usize = 384;

fn node() -> Node {
    let mut node = Plan::new("api", "synthetic:0").start();
    node.wait_ready();
    node
}

#[track_caller]
fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[track_caller]
fn assert_close(left: &[f64], right: &[f64]) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= 1e-6, "value {index}: {left} and {right}");
    }
}

/// Little-endian f32 in the standard alphabet with padding.
fn decoded(base64: &str) -> Vec<f64> {
    let digit = |letter: u8| -> u32 {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let at = alphabet.iter().position(|own| *own == letter).expect("a letter of the standard alphabet");
        u32::try_from(at).expect("the alphabet has 64 letters")
    };
    assert_eq!(base64.len() % 4, 0, "padded");
    let mut bytes = Vec::new();
    for group in base64.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0, |bits, letter| bits << 6 | digit(*letter)) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    let value = |four: &[u8]| f64::from(f32::from_le_bytes(four.try_into().expect("four bytes")));
    bytes.chunks(4).map(value).collect()
}

#[test]
fn tei_answers_one_vector_a_text_in_order() {
    let node = node();
    let one = node.embed("a text");
    assert_eq!(one.header("content-type"), Some("application/json"));
    assert_eq!(vector(&one).len(), WIDTH);
    assert!((length(&vector(&one)) - 1.0).abs() < 1e-5, "normalised unless told otherwise");
    let three = node.post("/embed", &json!({ "inputs": ["b", "a text", "b"] })).json();
    let rows: Vec<Vec<f64>> = three.as_array().expect("a list of vectors").iter().map(numbers).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1], vector(&one));
    assert_eq!(rows[0], rows[2]);
    assert_ne!(rows[0], rows[1]);
}

#[test]
fn tei_options_do_what_they_say() {
    let node = node();
    let ask = |body: &Value| vector(&node.post("/embed", body));
    let raw = ask(&json!({ "inputs": "a text", "normalize": false }));
    let unit = ask(&json!({ "inputs": "a text", "truncate": true, "truncation_direction": "Left" }));
    assert!(1.5 < length(&raw), "not normalised");
    assert_close(&raw.iter().map(|value| value / length(&raw)).collect::<Vec<_>>(), &unit);
    let narrow = ask(&json!({ "inputs": "a text", "dimensions": 8 }));
    assert_eq!(narrow.len(), 8);
    assert_close(&narrow, &raw[..8].iter().map(|value| value / length(&raw[..8])).collect::<Vec<_>>());
}

#[test]
fn openai_answers_the_same_vectors_as_numbers_and_as_base64() {
    let node = node();
    let ask = |body: Value| {
        let answer = node.post("/v1/embeddings", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let texts = json!(["first text", "and a second one"]);
    let float = ask(json!({ "input": texts, "model": "minilm", "encoding_format": "float" }));
    assert_eq!((&float["object"], &float["model"]), (&json!("list"), &json!("minilm")));
    // The stand-in counts words.
    assert_eq!(float["usage"], json!({ "prompt_tokens": 6, "total_tokens": 6 }));
    let base64 = ask(json!({ "input": texts, "model": "minilm", "encoding_format": "base64" }));
    assert_eq!(float["data"].as_array().map(Vec::len), Some(2));
    for index in 0..2 {
        let (float, base64) = (&float["data"][index], &base64["data"][index]);
        assert_eq!((&float["object"], &float["index"]), (&json!("embedding"), &json!(index)));
        let values = numbers(&float["embedding"]);
        assert_eq!(values.len(), WIDTH);
        assert_close(&decoded(base64["embedding"].as_str().expect("base64 is text")), &values);
        assert_eq!(values, vector(&node.embed(texts[index].as_str().expect("a text"))), "the same as in /embed");
    }
    let plain = ask(json!({ "input": "first text" }));
    assert_eq!(plain["data"][0]["embedding"], float["data"][0]["embedding"], "a model and a format need not be named");
    let narrow = ask(json!({ "input": "first text", "dimensions": 5, "user": "ignored" }));
    let narrow = numbers(&narrow["data"][0]["embedding"]);
    assert_eq!(narrow.len(), 5);
    assert!((length(&narrow) - 1.0).abs() < 1e-5, "cut vectors are normalised again");
    assert_eq!(node.post("/embeddings", &json!({ "input": "first text" })).json(), plain, "the path without /v1");
}

#[test]
fn a_call_takes_2048_texts_and_not_one_more() {
    let node = node();
    let texts: Vec<String> = (0..2049).map(|number| format!("text {number}")).collect();
    let tei = node.post("/embed", &json!({ "inputs": texts[..2048] })).json();
    let openai = node.post("/v1/embeddings", &json!({ "input": texts[..2048] })).json();
    assert_eq!((tei.as_array().map(Vec::len), openai["data"].as_array().map(Vec::len)), (Some(2048), Some(2048)));
    for index in [0, 1, 1024, 2047] {
        let alone = vector(&node.embed(&texts[index]));
        assert_eq!(numbers(&tei[index]), alone, "text {index}");
        assert_eq!(numbers(&openai["data"][index]["embedding"]), alone, "text {index}");
    }
    assert_eq!(openai["usage"]["total_tokens"], 2 * 2048);
    let tei = node.post("/embed", &json!({ "inputs": texts }));
    assert_eq!((tei.status, &tei.json()["error_type"]), (422, &json!("Validation")), "{}", tei.text());
    let openai = node.post("/v1/embeddings", &json!({ "input": texts }));
    assert_eq!((openai.status, &openai.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    for refused in [tei, openai] {
        assert!(refused.text().contains("2049") && refused.text().contains("2048"), "{}", refused.text());
    }
    node.wait_rest();
}

#[test]
fn a_node_tells_what_it_is() {
    let node = node();
    let info = node.get("/info").json();
    for (key, expected) in [
        ("model_id", json!("minilm")),
        ("model_dtype", json!("float32")),
        ("model_type", json!({ "embedding": { "pooling": "mean" } })),
        ("max_input_length", json!(512)),
        ("max_client_batch_size", json!(2048)),
        ("stand_in", json!(true)),
        ("dimensions", json!(WIDTH)),
        ("node_id", json!("api")),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(info[key], expected, "{key}");
    }
    let models = node.get("/v1/models").json();
    assert_eq!((&models["object"], models["data"].as_array().map(Vec::len)), (&json!("list"), Some(1)));
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["object"]), (&json!("minilm"), &json!("model")));
    assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
    assert_eq!(&node.get("/v1/models/minilm").json(), model);
    let health = node.get("/health").json();
    assert_eq!((&health["status"], &health["instance_id"]), (&json!("healthy"), &json!("api")));
    assert_eq!(health["instance_port"], node.plan().api().port());
    assert_eq!(node.get("/livez").text(), "alive\n");
    assert_eq!(node.get("/readyz").text(), "ready\n");
    let index = node.get("/").json();
    assert!(index["endpoints"].as_array().is_some_and(|paths| paths.contains(&json!("POST /embed"))), "{index}");
    let head = node.ask(&Request::new("HEAD", "/info"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(0 < head.number("content-length"));
    assert!(node.log().contains("stand-in"), "the log says that no model is behind this:\n{}", node.log());
}

#[test]
fn metrics_count_what_was_asked() {
    let node = node();
    node.post("/embed", &json!({ "inputs": ["a", "b", "c"] }));
    node.post("/v1/embeddings", &json!({ "input": "a" }));
    assert_eq!(node.post("/embed", &json!({ "inputs": [] })).status, 400);
    let answer = node.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let metrics = node.metrics();
    for (name, labels, expected) in [
        ("shoal_http_requests_total", &[("route", "/embed"), ("code", "200")][..], 1.0),
        ("shoal_http_requests_total", &[("route", "/embed"), ("code", "400")][..], 1.0),
        ("shoal_http_requests_total", &[("route", "/v1/embeddings"), ("code", "200")][..], 1.0),
        ("shoal_http_request_seconds_count", &[("route", "/embed")][..], 2.0),
        ("shoal_jobs_total", &[("source", "caller"), ("outcome", "ok")][..], 2.0),
        ("shoal_jobs_total", &[][..], 2.0),
        ("shoal_placements_total", &[("target", "here")][..], 2.0),
        ("shoal_rows_total", &[][..], 4.0),
        ("shoal_build_info", &[("node", "api"), ("version", env!("CARGO_PKG_VERSION"))][..], 1.0),
    ] {
        assert_eq!(metrics.sum(name, labels), expected, "{name} {labels:?}");
    }
    assert!(metrics.at_rest());
}

#[test]
fn every_answer_carries_an_id_and_its_node() {
    let node = node();
    let id = |answer: &Answer| answer.header("x-request-id").expect("every answer has an id").to_owned();
    let own = node.ask(&embed("a").header("x-request-id", "my-request 1"));
    assert_eq!(id(&own), "my-request 1");
    let refused = node.ask(&Request::post("/embed", &json!({})).header("x-request-id", "bad-1"));
    assert_eq!((refused.status, id(&refused).as_str()), (422, "bad-1"));
    assert_eq!(refused.header("x-served-by"), Some("api"));
    let (first, second) = (id(&node.embed("a")), id(&node.embed("a")));
    assert!(first != second && first.len() == 32, "{first} {second}");
    let too_long = "x".repeat(65);
    assert_ne!(id(&node.ask(&embed("a").header("x-request-id", &too_long))), too_long);
    let answer = node.embed("a few words");
    assert_eq!((answer.header("x-served-by"), answer.number("x-shoal-placements")), (Some("api"), 1));
    assert_eq!((answer.number("x-compute-tokens"), answer.number("x-compute-characters")), (3, 11));
}
