//! Engines that are not there, fail, lie, hang or crawl: the callers of their node are answered by another one.

use cluster_tests::http::{Connection, Request};
use cluster_tests::node::{Plan, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::json;

use crate::vector;

/// Two nodes, of which the first has a stand-in that misbehaves from the start, so that it never gets ready.
fn unready_door(words: &str, state: &str) -> Shoal {
    let plans = plans(2, "synthetic:0").into_iter();
    let mut shoal =
        Shoal::start(plans.map(|plan| if plan.id() == "node-1" { plan.misbehaving(words) } else { plan }).collect());
    shoal[1].wait_ready();
    shoal[0].wait_engine(state);
    shoal
}

#[test]
fn a_node_that_cannot_compute_answers_its_callers_through_peers() {
    for (words, state) in [("nan", "failed"), ("hang", "starting")] {
        let shoal = unready_door(words, state);
        shoal[0].wait_sees("node-2", "ready");
        shoal[1].wait_sees("node-1", state);
        assert_eq!(shoal[0].get("/livez").status, 200, "{state}");
        let ready = shoal[0].get("/readyz?verbose");
        assert_eq!(ready.status, 200, "{state}: {}", ready.text());
        let view = ready.json();
        assert_eq!((&view["ready"], &view["engine"]), (&json!(true), &json!(state)));
        let tei = shoal[0].embed("a text");
        assert_eq!((tei.header("x-served-by"), tei.number("x-shoal-hops")), (Some("node-2"), 1), "{state}");
        assert_eq!(vector(&tei), vector(&shoal[1].embed("a text")), "{state}");
        let openai = shoal[0].post("/v1/embeddings", &json!({ "input": "a text", "model": "minilm" }));
        assert_eq!((openai.status, openai.header("x-served-by")), (200, Some("node-2")), "{}", openai.text());
        // Nobody sends it work.
        for number in 0..10 {
            assert_eq!(shoal[1].embed(&format!("text {number}")).header("x-served-by"), Some("node-2"));
        }
        assert_eq!(shoal[1].metric("shoal_offers_total", &[]), 0.0, "{state}");
    }
}

#[test]
fn a_node_that_comes_back_answers_its_very_first_caller() {
    // Its model never loads, so all depends on the peers, of which it has not heard yet.
    let mut shoal = unready_door("hang", "starting");
    shoal[1].wait_sees("node-1", "starting");
    for round in 0..3 {
        shoal[0].kill();
        shoal[0].start_again();
        let api = shoal[0].plan().api();
        let mut first = wait::until_some("node-1 listens", LIMIT, || Connection::open(api).ok());
        first.send(&embed(&format!("text {round}")).bytes()).expect("a new connection takes a short request");
        let answer = first.answer().expect("an answer");
        assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-2")), "{answer:?}");
    }
}

#[test]
fn a_node_that_cannot_compute_and_knows_nobody_says_so_and_lives() {
    let mut node = Plan::new("lonely", "synthetic:0").misbehaving("nan").start();
    node.wait_engine("failed");
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.get("/readyz").status, 503);
    assert_eq!(node.get("/health").status, 503);
    let view = node.view();
    assert_eq!(view["ready"], false);
    let message = view["engine_message"].as_str().expect("a message");
    assert!(message.contains("first inference failed"), "{message}");
    let tei = node.embed("a");
    assert_eq!((tei.status, &tei.json()["error_type"]), (503, &json!("Unhealthy")));
    assert!(1 <= tei.number("retry-after"));
    let openai = node.post("/v1/embeddings", &json!({ "input": "a" }));
    assert_eq!((openai.status, &openai.json()["error"]["type"]), (503, &json!("server_error")));
    assert_eq!(node.get("/v1/models").json()["data"], json!([]));
}

#[test]
fn an_engine_that_fails_costs_its_callers_nothing() {
    let shoal = Shoal::ready(2, "synthetic:0");
    for words in ["fail", "nan"] {
        shoal[0].misbehave(words);
        for number in 0..5 {
            let answer = shoal[0].embed(&format!("{words} {number}"));
            assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-2")), "{}", answer.text());
            assert!((1..=2).contains(&answer.number("x-shoal-placements")), "{answer:?}");
        }
        shoal[0].behave();
        wait::until("node-1 computes again", LIMIT, || shoal[0].embed("again").header("x-served-by") == Some("node-1"));
    }
    shoal.wait_rest();
}

#[test]
fn a_text_that_no_engine_takes_is_tried_twice_and_takes_no_node_out() {
    let shoal = Shoal::ready(3, "synthetic:0");
    for (words, request, status) in
        [("fail", embed("poison"), 424), ("nan", Request::post("/v1/embeddings", &json!({ "input": "poison" })), 500)]
    {
        let tried = |index: usize| shoal[index].metric("shoal_placements_total", &[("target", "here")]);
        let before = [tried(0), tried(1) + tried(2)];
        shoal.iter().for_each(|node| node.misbehave(words));
        let answer = shoal[0].ask(&request);
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 424 {
            assert_eq!(answer.json()["error_type"], "Backend");
        } else {
            assert_eq!(answer.json()["error"]["type"], "server_error");
            assert_eq!(answer.header("x-should-retry"), Some("false"), "it would fail again");
        }
        let after = [tried(0), tried(1) + tried(2)];
        assert_eq!([after[0] - before[0], after[1] - before[1]], [1.0, 1.0], "here, and on one other node");
        shoal.iter().for_each(cluster_tests::node::Node::behave);
    }
    shoal.wait_rest();
    for (node, others) in shoal.iter().zip([["node-2", "node-3"], ["node-1", "node-3"], ["node-1", "node-2"]]) {
        assert_eq!(node.view()["engine"], "ready", "{}", node.id());
        for other in others {
            let peer = node.peer(other);
            assert_eq!((&peer["engine"], &peer["gate"]), (&json!("ready"), &json!("passing")), "{peer}");
        }
        assert_eq!(node.embed("a good text").status, 200);
    }
}

#[test]
fn one_bad_text_in_a_batch_hurts_only_its_own_call() {
    // Refused texts: the limit of the stand-in is not reached by words, so the bad call asks for too many dimensions.
    let mut node = Plan::new("n", "synthetic:0").start();
    node.wait_ready();
    node.misbehave("hang");
    let mut first = node.begin("holds the device, so that the others share a batch");
    wait::until("the device is busy", LIMIT, || node.metric("shoal_jobs_held", &[]) == 1.0);
    let mut good = node.begin("good");
    let mut bad = node.connect();
    let too_wide = Request::post("/embed", &json!({ "inputs": ["x", "y"], "dimensions": 385 }));
    bad.send(&too_wide.bytes()).expect("a new connection takes a short request");
    wait::until("three jobs are held", LIMIT, || node.metric("shoal_jobs_held", &[]) == 3.0);
    node.behave();
    assert_eq!(first.answer().expect("an answer").status, 200);
    assert_eq!(good.answer().expect("an answer").status, 200);
    let refused = bad.answer().expect("an answer");
    assert_eq!((refused.status, &refused.json()["error_type"]), (422, &json!("Validation")), "{}", refused.text());
    assert!(refused.text().contains("dimensions"), "{}", refused.text());
    node.wait_rest();
}

#[test]
fn an_engine_that_crawls_loses_its_work_to_a_peer() {
    let shoal = Shoal::ready(2, "synthetic:10ms");
    assert_eq!(shoal[0].embed("quick").header("x-served-by"), Some("node-1"));
    shoal[0].misbehave("slow=20");
    wait::until("a peer answers for the slow node", LIMIT, || {
        let answer = shoal[0].embed("slow");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-served-by") == Some("node-2")
    });
}

#[test]
fn an_engine_that_hangs_keeps_what_it_has_and_gets_no_more() {
    let shoal = Shoal::ready(2, "synthetic:10ms");
    shoal[0].misbehave("hang");
    let mut stuck = shoal[0].begin("stuck");
    wait::until("the device is busy", LIMIT, || shoal[0].metric("shoal_jobs_held", &[]) == 1.0);
    // A device that hangs must not look idle: it is expected to be late by as much again.
    wait::until("the hang shows", LIMIT, || 0.5 < shoal[0].metric("shoal_wait_seconds", &[]));
    for number in 0..10 {
        let answer = shoal[0].embed(&format!("text {number}"));
        assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-2")), "{}", answer.text());
    }
    shoal[0].behave();
    assert_eq!(stuck.answer().expect("the hang is over").status, 200);
    shoal.wait_rest();
}
