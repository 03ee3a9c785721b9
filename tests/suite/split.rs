//! Calls with many texts: the whole shoal works on one, and its caller sees one call.
//!
//! How much faster that is, `cluster-sim bench split` measures; here is what must be true at any speed.

use cluster_tests::binaries::workspace;
use cluster_tests::http::{Answer, Connection, Request};
use cluster_tests::node::{Node, Plan, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::{Value, json};

/// The shipped margin. The usual one of the suite is as long as a chunk.
const ROUTING: &str = "[routing]\nmargin_ms_min = 2";

fn shoal(engine: &str) -> Shoal {
    let mut shoal = Shoal::start(plans(3, engine).into_iter().map(|plan| plan.config(ROUTING)).collect());
    shoal.wait_formed();
    shoal
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

fn large(count: usize) -> Request {
    Request::post("/embed", &json!({ "inputs": texts(count) }))
}

/// Sends a call with so many texts and waits until all of `nodes` work on it.
#[track_caller]
fn begin(shoal: &Shoal, count: usize) -> Connection {
    let mut connection = shoal[0].connect();
    connection.send(&large(count).bytes()).expect("a new connection takes the call");
    wait::until("every node works on the call", LIMIT, || {
        shoal.iter().all(|node| 0.0 < node.metric("shoal_placements_total", &[("target", "here")]))
    });
    connection
}

fn nodes(answer: &Answer) -> Vec<&str> {
    let mut nodes: Vec<&str> = answer.header("x-served-by").expect("a name").split(", ").collect();
    nodes.sort_unstable();
    nodes
}

/// Every vector is that of its text, as `node` computes it in calls too short to be cut.
#[track_caller]
fn assert_each_is_its_texts(answer: &Answer, node: &Node) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let rows = answer.json();
    let rows = rows.as_array().expect("a list of vectors");
    let texts = texts(rows.len());
    for (rows, texts) in rows.chunks(32).zip(texts.chunks(32)) {
        let alone = node.post("/embed", &json!({ "inputs": texts })).json();
        let alone = alone.as_array().expect("a list of vectors");
        assert_eq!(rows.len(), alone.len());
        for ((row, alone), text) in rows.iter().zip(alone).zip(texts) {
            assert!(row == alone, "the vector of {text:?} is that of another text");
        }
    }
}

fn callers(node: &Node, outcome: &str) -> f64 {
    node.metric("shoal_jobs_total", &[("source", "caller"), ("outcome", outcome)])
}

#[test]
fn one_call_is_computed_by_all_nodes_and_every_vector_is_that_of_its_text() {
    let shoal = shoal("synthetic:1ms");
    let answer = shoal[0].ask(&large(2048));
    assert_eq!(nodes(&answer), ["node-1", "node-2", "node-3"]);
    assert_eq!(answer.number("x-shoal-hops"), 1);
    assert!((1..=3).contains(&answer.number("x-shoal-placements")), "{answer:?}");
    assert_eq!(answer.number("x-compute-tokens"), 2 * 2048, "two words each");
    shoal.wait_rest();
    // One call, as far as its caller and its node are concerned; peers see jobs and cut nothing.
    assert_eq!((callers(&shoal[0], "ok"), shoal[0].decided("split")), (1.0, 1.0));
    assert!(6.0 < shoal[0].decided("chunk_cut"));
    for peer in [&shoal[1], &shoal[2]] {
        assert_eq!((peer.decided("split"), peer.decided("forwarded")), (0.0, 0.0), "{}", peer.id());
    }
    assert!(2048.0 <= shoal.metric("shoal_rows_total", &[]));
    assert_each_is_its_texts(&answer, &shoal[1]);
}

#[test]
fn the_other_dialect_numbers_the_vectors_and_adds_up_their_tokens() {
    let shoal = shoal("synthetic:1ms");
    let call = json!({ "input": texts(2048), "dimensions": 8, "encoding_format": "base64" });
    let answer = shoal[0].post("/v1/embeddings", &call);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(shoal[0].decided("split"), 1.0);
    let body = answer.json();
    assert_eq!(body["usage"], json!({ "prompt_tokens": 4096, "total_tokens": 4096 }));
    let rows = body["data"].as_array().expect("a list of vectors");
    assert!(rows.iter().zip(0..).all(|(row, index)| row["index"] == index), "they are numbered in order");
    for index in [0, 1, 700, 1400, 2047] {
        let alone = json!({ "input": format!("text {index}"), "dimensions": 8, "encoding_format": "base64" });
        let alone = shoal[2].post("/v1/embeddings", &alone).json();
        assert_eq!(rows[index]["embedding"], alone["data"][0]["embedding"], "text {index}");
    }
}

#[test]
fn a_caller_who_hangs_up_leaves_nothing_on_any_node() {
    // Seven seconds of work for three nodes, so that it is far from done.
    let shoal = shoal("synthetic:10ms");
    let connection = begin(&shoal, 2048);
    assert_eq!(shoal[0].metric("shoal_jobs_held", &[]), 1.0, "it is one call, whatever it is cut into");
    drop(connection);
    shoal.wait_rest();
    assert_eq!((callers(&shoal[0], "left"), callers(&shoal[0], "ok")), (1.0, 0.0));
    let rows = shoal.metric("shoal_rows_total", &[]);
    assert!(rows < 2048.0, "{rows} rows were computed for nobody");
}

#[test]
fn a_node_that_is_killed_in_the_middle_costs_the_call_nothing() {
    let mut shoal = shoal("synthetic:5ms");
    let mut connection = begin(&shoal, 2048);
    wait::until("node-3 has work of the call", LIMIT, || 0.0 < shoal[2].metric("shoal_jobs_held", &[]));
    shoal[2].kill();
    let answer = connection.answer().expect("an answer");
    assert!(nodes(&answer).starts_with(&["node-1", "node-2"]), "{answer:?}");
    assert_each_is_its_texts(&answer, &shoal[1]);
    shoal[0].wait_rest();
    shoal[1].wait_rest();
}

#[test]
fn single_texts_are_answered_while_a_large_call_runs() {
    // A call of ten seconds on one device, and nobody to share it with.
    let mut node = Plan::new("n", "synthetic:5ms").start();
    node.wait_ready();
    let mut connection = node.connect();
    connection.send(&large(2048).bytes()).expect("a new connection takes the call");
    wait::until("the call is begun", LIMIT, || node.decided("split") == 1.0);
    for number in 0..5 {
        assert_eq!(node.embed(&format!("single {number}")).status, 200);
    }
    assert_eq!((callers(&node, "ok"), node.metric("shoal_jobs_held", &[])), (5.0, 1.0), "the call is not done yet");
    drop(connection);
    node.wait_rest();
}

#[test]
fn a_text_that_is_refused_is_named_by_its_place_in_the_whole_call() {
    let model = workspace().join("tests/fixtures/st-mean").display().to_string();
    let plans = plans(2, "candle").into_iter().map(|plan| {
        // So small a model that a call is cut only where chunks are short.
        plan.flag("--model", &model).config("[routing]\nmargin_ms_min = 0\nchunk_ms = 1")
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();
    let mut texts = texts(1000);
    texts[777] = "long ".repeat(2000);
    let call = json!({ "inputs": texts, "truncate": false });
    let answer = shoal[0].post("/embed", &call);
    assert!(0.0 < shoal[0].decided("split"), "it was cut");
    assert_eq!((answer.status, &answer.json()["error_type"]), (422, &json!("Validation")), "{answer:?}");
    assert!(answer.text().contains("text 777"), "{}", answer.text());
    shoal.wait_rest();
    assert_eq!(callers(&shoal[0], "rejected"), 1.0);
}

#[test]
fn a_call_that_fails_everywhere_fails_once() {
    let shoal = shoal("synthetic:5ms");
    let mut connection = begin(&shoal, 2048);
    shoal.iter().for_each(|node| node.misbehave("fail"));
    let answer = connection.answer().expect("an answer");
    assert_eq!((answer.status, &answer.json()["error_type"]), (424, &json!("Backend")), "{answer:?}");
    shoal.iter().for_each(Node::behave);
    shoal.wait_rest();
    assert_eq!((callers(&shoal[0], "failed"), callers(&shoal[0], "ok")), (1.0, 0.0));
}

#[test]
fn a_call_is_refused_at_once_for_its_bytes_and_for_the_place_that_it_needs() {
    // 512 vectors of 384 numbers are 786 kB, so one such call fits and a second one does not.
    let limits = "[admission]\nbytes_max = 1048576\njobs_max = 2";
    let mut node = Plan::new("n", "synthetic:1ms").config(limits).config("[api]\nbody_bytes_max = 100000").start();
    node.wait_ready();
    let refused = node.ask(&large(2048));
    assert_eq!((refused.status, &refused.json()["error_type"]), (429, &json!("Overloaded")), "{refused:?}");
    assert_eq!((node.decided("shed_full"), node.metric("shoal_placements_total", &[])), (1.0, 0.0), "nothing ran");

    node.misbehave("hang");
    let mut first = node.connect();
    first.send(&large(512).bytes()).expect("a new connection takes the call");
    wait::until("the call is begun", LIMIT, || node.decided("split") == 1.0);
    let held = node.metric("shoal_bytes_in_flight", &[]);
    assert!((786_432.0..1_048_576.0).contains(&held), "its bytes count once: {held}");
    assert_eq!(node.ask(&large(512)).status, 429);
    // It is one of the two jobs that are held.
    let mut second = node.begin("a single text");
    wait::until("the node is full", LIMIT, || node.metric("shoal_jobs_held", &[]) == 2.0);
    assert_eq!(node.embed("one too many").status, 429);
    node.behave();
    assert_eq!(second.answer().expect("an answer").status, 200);
    assert_eq!(first.answer().expect("an answer").json().as_array().map(Vec::len), Some(512));
    node.wait_rest();
}

#[test]
fn a_deadline_that_all_nodes_together_cannot_meet_is_told_at_once_and_a_missed_one_when_it_is_over() {
    let shoal = shoal("synthetic:5ms");
    // 10 s of work.
    let hopeless = shoal[0].ask(&large(2048).header("x-deadline-ms", "700"));
    assert_eq!(hopeless.status, 429, "{hopeless:?}");
    assert_eq!(shoal.metric("shoal_placements_total", &[]), 0.0, "nothing ran");

    let mut connection = shoal[0].connect();
    let call = large(2048).header("x-deadline-ms", "8000");
    connection.send(&call.bytes()).expect("a new connection takes the call");
    wait::until("the call is begun", LIMIT, || shoal[0].decided("split") == 1.0);
    shoal.iter().for_each(|node| node.misbehave("hang"));
    let late = connection.answer().expect("an answer");
    assert_eq!(late.status, 504, "{late:?}");
    shoal.iter().for_each(Node::behave);
    shoal.wait_rest();
}

#[test]
fn an_explanation_says_how_many_chunks_there_were() {
    let mut node = Plan::new("n", "synthetic:2ms").config("[api]\nexplain = true").start();
    node.wait_ready();
    let explained = |request: Request| -> Value {
        let answer = node.ask(&request.header("x-shoal-explain", "1"));
        let told = answer.header("x-shoal-explain").unwrap_or_else(|| panic!("not told: {answer:?}"));
        serde_json::from_str(told).expect("JSON")
    };
    let told = explained(large(200));
    assert!(8 <= told["chunks"].as_u64().expect("a number"), "{told}");
    assert_eq!(told["decisions"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(explained(embed("a")).get("chunks"), None);
}

#[test]
fn where_the_configuration_says_so_a_call_stays_whole() {
    let mut node = Plan::new("n", "synthetic:1ms").config("[routing]\nchunk_ms = 0").start();
    node.wait_ready();
    let answer = node.ask(&large(300));
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("n")));
    assert_eq!((node.decided("split"), node.metric("shoal_placements_total", &[])), (0.0, 1.0));
}
