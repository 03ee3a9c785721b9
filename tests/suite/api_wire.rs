//! Callers who break the rules of HTTP, or take their time: limits that really hold, and a node that goes on.

use cluster_tests::http::{Connection, Request};
use cluster_tests::node::{Node, Plan, embed};
use cluster_tests::wait::{self, LIMIT};
use serde_json::json;

/// Default of `api.body_bytes_max`.
const BODY_BYTES_MAX: usize = 2_000_000;

fn node(config: &str) -> Node {
    let mut node = Plan::new("api", "synthetic:0").config(config).start();
    node.wait_ready();
    node
}

/// Sends bytes on a new connection.
#[track_caller]
fn begin(node: &Node, bytes: &[u8]) -> Connection {
    let mut connection = node.connect();
    connection.send(bytes).expect("a new connection takes a short text");
    connection
}

fn head(path: &str, headers: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n{headers}\r\n").into_bytes()
}

#[test]
fn a_body_that_declares_too_much_is_refused_before_it_is_sent() {
    let node = node("");
    let length = format!("content-length: {}\r\n", BODY_BYTES_MAX + 1);
    for (path, error) in [("/embed", "error_type"), ("/v1/embeddings", "error")] {
        // Nothing of the body is ever sent.
        let mut connection = begin(&node, &head(path, &length));
        let answer = connection.answer().expect("the answer comes first");
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(answer.json()[error].is_object() || answer.json()[error] == "Validation", "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(connection.rest().is_ok(), "and the connection is closed");
    }
}

#[test]
fn a_chunked_body_is_refused_while_it_is_read() {
    let node = node("[api]\nbody_bytes_max = 4096");
    let mut connection = begin(&node, &head("/embed", "transfer-encoding: chunked\r\n"));
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    for _ in 0..5 {
        connection.send(chunk.as_bytes()).expect("nothing is closed before the limit");
    }
    // The last chunk was never sent.
    let answer = connection.answer().expect("the answer comes in the middle of the body");
    assert_eq!((answer.status, &answer.json()["error_type"]), (413, &json!("Validation")), "{}", answer.text());
    assert!(answer.text().contains("4096"), "{}", answer.text());
}

#[test]
fn a_body_as_large_as_allowed_is_taken_in_both_framings() {
    let node = node("[api]\nbody_bytes_max = 4096");
    let frame = json!({ "inputs": "" }).to_string().len();
    let body = |bytes: usize| json!({ "inputs": "x".repeat(bytes - frame) }).to_string();
    assert_eq!(node.ask(&Request::post("/embed", &json!({ "inputs": "x".repeat(4096 - frame) }))).status, 200);
    assert_eq!(node.ask(&Request::post("/embed", &json!({ "inputs": "x".repeat(4097 - frame) }))).status, 413);
    let text = body(4096);
    let chunks: String = text.as_bytes().chunks(1000).fold(String::new(), |chunks, chunk| {
        format!("{chunks}{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk))
    });
    let mut connection = begin(&node, &head("/embed", "transfer-encoding: chunked\r\n"));
    connection.send(format!("{chunks}0\r\n\r\n").as_bytes()).expect("the body is taken");
    assert_eq!(connection.answer().expect("an answer").status, 200);
}

#[test]
fn a_silent_connection_is_closed() {
    let node = node("[api]\nheader_timeout_ms = 300");
    for (said, name) in [
        (&b""[..], "nothing"),
        (&b"GET /livez HT"[..], "half a line"),
        (&b"GET /livez HTTP/1.1\r\nhost: te"[..], "half a head"),
    ] {
        let mut connection = begin(&node, said);
        let left = connection.rest().unwrap_or_else(|fault| panic!("{name}: not closed ({fault})"));
        let left = String::from_utf8_lossy(&left);
        assert!(left.is_empty() || left.starts_with("HTTP/1.1 408"), "{name}: {left}");
    }
    let mut kept = begin(&node, &Request::get("/livez").bytes());
    assert_eq!(kept.answer().expect("an answer").status, 200);
    assert_eq!(kept.rest().expect("an idle connection is closed, too"), b"");
    assert_eq!(node.get("/livez").status, 200);
}

#[test]
fn a_body_that_stops_coming_is_answered_408() {
    let node = node("[api]\nbody_idle_timeout_ms = 300");
    let mut connection = begin(&node, &head("/embed", "content-length: 100\r\n"));
    connection.send(b"{\"inputs\":").expect("the connection is open");
    let answer = connection.answer().expect("an answer");
    assert_eq!((answer.status, &answer.json()["error_type"]), (408, &json!("Validation")), "{}", answer.text());
    assert_eq!(answer.header("connection"), Some("close"));
    node.wait_rest();
}

#[test]
fn connections_are_capped_and_the_next_caller_only_waits() {
    let node = node("[api]\nconnections_max = 4");
    wait::until("the connections of the start are gone", LIMIT, || node.metrics().at_rest());
    let held: Vec<Connection> = (0..4)
        .map(|_| {
            let mut connection = begin(&node, &Request::get("/livez").bytes());
            assert_eq!(connection.answer().expect("an answer").status, 200);
            connection
        })
        .collect();
    let mut waiting = begin(&node, &embed("patience").bytes());
    drop(held);
    assert_eq!(waiting.answer().expect("a place became free").status, 200);
}

#[test]
fn a_kept_connection_serves_one_request_after_another() {
    let node = node("");
    let mut connection = node.connect();
    for number in 0..20 {
        connection.send(&embed(&format!("text {number}")).bytes()).expect("the connection is kept");
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
    // Two at once, answered in order.
    let pair = [embed("first").header("x-request-id", "1"), embed("second").header("x-request-id", "2")];
    connection.send(&pair.map(|request| request.bytes()).concat()).expect("the connection is kept");
    for id in ["1", "2"] {
        assert_eq!(connection.answer().expect("an answer").header("x-request-id"), Some(id));
    }
}

#[test]
fn what_is_no_http_is_turned_away_and_the_node_goes_on() {
    let node = node("");
    let many_headers: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    let long_header = format!("x-long: {}\r\n", "y".repeat(300_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("noise", (0..=255).cycle().take(2000).collect()),
        ("zeros", vec![0; 1000]),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("no version", b"GET /livez\r\n\r\n".to_vec()),
        ("two lengths", head("/embed", "content-length: 5\r\ncontent-length: 6\r\n")),
        ("a negative length", head("/embed", "content-length: -1\r\n")),
        ("a length and chunks", head("/embed", "content-length: 5\r\ntransfer-encoding: chunked\r\n")),
        ("a folded header", head("/embed", "x-a: b\r\n c\r\n")),
        ("many headers", head("/embed", &many_headers)),
        ("a long header", head("/embed", &long_header)),
        ("a long path", head(&format!("/{}", "p".repeat(100_000)), "content-length: 0\r\n")),
        ("a bad chunk", [head("/embed", "transfer-encoding: chunked\r\n"), b"zz\r\n".to_vec()].concat()),
        ("a broken preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnoise noise noise noise".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut connection = node.connect();
        // The node may close before everything was sent.
        let sent = connection.send(&bytes);
        if sent.is_ok()
            && let Ok(answer) = connection.answer()
        {
            assert!((400..500).contains(&answer.status), "{name}: {answer:?}");
        }
        drop(connection);
        assert_eq!(node.embed("a good text").status, 200, "after {name}");
    }
    node.wait_rest();
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
