//! What callers get when they ask badly: an error in the words of the dialect that they speak.

use cluster_tests::http::{Answer, Request};
use cluster_tests::node::{Node, Plan};
use serde_json::json;

const JSON: &str = "application/json";

fn node() -> Node {
    let mut node = Plan::new("api", "synthetic:0").start();
    node.wait_ready();
    node
}

/// `{"error":…,"error_type":…}`
#[track_caller]
fn assert_tei(answer: &Answer, status: u16, error_type: &str, word: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(2), "{body}");
    assert_eq!(body["error_type"], error_type, "{body}");
    let message = body["error"].as_str().expect("a message");
    assert!(message.contains(word), "{word} is missing in: {message}");
    assert_eq!(answer.header("content-type"), Some(JSON));
}

/// `{"error":{"message":…,"type":…,"param":…,"code":…}}`
#[track_caller]
fn assert_openai(answer: &Answer, status: u16, kind: &str, word: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let error = &body["error"];
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(4), "{body}");
    assert_eq!(error["type"], kind, "{body}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(word), "{word} is missing in: {message}");
    assert_eq!(answer.header("content-type"), Some(JSON));
}

fn post(path: &str, content_type: &str, body: &str) -> Request {
    Request::new("POST", path).header("content-type", content_type).body(body)
}

#[test]
fn tei_callers_are_told_what_is_wrong_in_their_dialect() {
    let node = node();
    for (body, status, error_type, word) in [
        (r#"{"inputs":""}"#, 400, "Empty", "text 0"),
        (r#"{"inputs":[]}"#, 400, "Empty", "inputs"),
        (r#"{"inputs":["a",""]}"#, 400, "Empty", "text 1"),
        (r#"{"inputs":5}"#, 422, "Validation", "inputs"),
        (r#"{"inputs":["a",true]}"#, 422, "Validation", "inputs[1]"),
        (r#"{"inputs":[1,2]}"#, 422, "Validation", "token ids"),
        (r#"{"input":"a"}"#, 422, "Validation", "missing field `inputs`"),
        (r#"{"inputs":"a","dimensions":0}"#, 422, "Validation", "dimensions"),
        (r#"{"inputs":"a","dimensions":385}"#, 422, "Validation", "384"),
        (r#"{"inputs":"a","truncate":"yes"}"#, 422, "Validation", "truncate"),
        (r#"{"inputs":"a","prompt_name":"query"}"#, 422, "Validation", "prompt_name"),
        ("", 400, "Validation", "empty"),
        ("{\"inputs\":\"a\",\n}", 400, "Validation", "line 2 column 1"),
        (r#"{"inputs":"a"} x"#, 400, "Validation", "column 16"),
        (r#"{"inputs":"\ud800"}"#, 400, "Validation", "column"),
    ] {
        assert_tei(&node.ask(&post("/embed", JSON, body)), status, error_type, word);
    }
    assert_tei(&node.ask(&post("/embed", "text/plain", "a")), 415, "Validation", "application/json");
    assert_tei(&node.ask(&Request::new("POST", "/embed").body("{}")), 415, "Validation", "content-type");
    assert_tei(&node.get("/nothing"), 404, "Validation", "/embed");
    let wrong_method = node.get("/embed");
    assert_tei(&wrong_method, 405, "Validation", "POST");
    assert_eq!(wrong_method.header("allow"), Some("POST"));
    assert_eq!(node.metric("shoal_jobs_total", &[("outcome", "ok")]), 0.0);
}

#[test]
fn openai_callers_are_told_what_is_wrong_in_their_dialect() {
    let node = node();
    let mistake = "invalid_request_error";
    for (body, status, word) in [
        (r#"{"input":""}"#, 400, "input"),
        (r#"{"input":[]}"#, 400, "input"),
        (r#"{"input":{"a":1}}"#, 400, "input"),
        (r#"{"input":[[1,2]]}"#, 400, "check_embedding_ctx_length"),
        (r#"{"model":"minilm"}"#, 400, "missing field `input`"),
        (r#"{"input":"a","encoding_format":"hex"}"#, 400, "encoding_format"),
        (r#"{"input":"a","dimensions":0}"#, 400, "dimensions"),
        (r#"{"input":"a","dimensions":385}"#, 400, "384"),
        (r#"{"input":"a","model":"gpt"}"#, 404, "minilm"),
        ("{", 400, "line 1 column 1"),
    ] {
        assert_openai(&node.ask(&post("/v1/embeddings", JSON, body)), status, mistake, word);
    }
    let unknown = node.post("/v1/embeddings", &json!({ "input": "a", "model": "gpt" })).json();
    assert_eq!((&unknown["error"]["code"], &unknown["error"]["param"]), (&json!("model_not_found"), &json!("model")));
    assert_openai(&node.get("/v1/models/gpt"), 404, mistake, "gpt");
    assert_openai(&node.ask(&post("/v1/embeddings", "text/plain", "a")), 415, mistake, "application/json");
    assert_openai(&node.get("/v1/chat/completions"), 404, mistake, "/v1/embeddings");
    assert_openai(&node.get("/v1/embeddings"), 405, mistake, "POST");
}

#[test]
fn a_hostile_message_is_not_echoed_whole() {
    let node = node();
    let body = json!({ "input": "a", "model": "m".repeat(100_000) });
    let answer = node.post("/v1/embeddings", &body);
    assert_openai(&answer, 404, "invalid_request_error", "minilm");
    assert!(answer.body.len() < 2000, "{} bytes", answer.body.len());
}
