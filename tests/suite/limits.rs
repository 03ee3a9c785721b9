//! Saying no: deadlines, hopeless ones, and a node that holds as much as it may.

use cluster_tests::http::{Answer, Request};
use cluster_tests::node::{Plan, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::json;

fn openai(text: &str) -> Request {
    Request::post("/v1/embeddings", &json!({ "input": text }))
}

/// Says when to come back, in whole seconds and in milliseconds.
#[track_caller]
fn assert_says_when(answer: &Answer) {
    let (seconds, exact) = (answer.number("retry-after"), answer.number("retry-after-ms"));
    assert!((1..=60).contains(&seconds) && exact <= seconds * 1000, "{answer:?}");
}

#[test]
fn a_deadline_that_passes_is_told_in_the_callers_dialect_and_frees_the_slot() {
    let (tei, openai) = (embed("a"), openai("a"));
    for (request, path, expected) in [(tei, "/error_type", "Overloaded"), (openai, "/error/code", "timeout")] {
        let mut node = Plan::new("late", "synthetic:0").start();
        node.wait_ready();
        node.misbehave("hang");
        let answer = node.ask(&request.header("x-deadline-ms", "300"));
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(answer.json().pointer(path), Some(&json!(expected)), "{}", answer.text());
        node.wait_rest();
        assert_eq!(node.metric("shoal_jobs_total", &[("source", "caller"), ("outcome", "expired")]), 1.0);
        // By now the device is known to be late: whoever has no more time is told at once.
        let answer = node.ask(&embed("b").header("x-deadline-ms", "100"));
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_says_when(&answer);
        node.behave();
        assert_eq!(node.embed("c").status, 200);
    }
}

#[test]
fn a_deadline_holds_also_for_a_job_at_a_peer() {
    let shoal = Shoal::with_an_unable_door();
    shoal[1].misbehave("hang");
    let answer = shoal[0].ask(&embed("a").header("x-deadline-ms", "500"));
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(shoal.metric("shoal_offers_total", &[]), 1.0, "the job was at the peer");
    shoal.wait_rest();
}

#[test]
fn a_peer_gives_up_at_the_callers_deadline_by_itself() {
    let mut shoal = Shoal::with_an_unable_door();
    shoal[1].misbehave("hang");
    let mut caller = shoal[0].connect();
    caller.send(&embed("a").header("x-deadline-ms", "5000").bytes()).expect("a new connection takes a short request");
    wait::until("the peer has the job", LIMIT, || shoal[1].metric("shoal_jobs_held", &[]) == 1.0);
    // From now on nobody can tell the peer to stop: it knows the deadline, or it works for ever.
    shoal[0].freeze();
    let ended = |outcome| shoal[1].metric("shoal_jobs_total", &[("source", "peer"), ("outcome", outcome)]);
    wait::until("the peer gives up", LIMIT, || ended("expired") == 1.0);
    assert_eq!(ended("left"), 0.0, "nobody told it");
    shoal[0].thaw();
    assert_eq!(caller.answer().expect("an answer").status, 504);
    shoal.wait_rest();
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_before_anything_is_placed() {
    let mut node = Plan::new("slow", "synthetic:400ms").start();
    node.wait_ready();
    let answer = node.ask(&embed("a").header("x-deadline-ms", "100"));
    assert_eq!((answer.status, &answer.json()["error_type"]), (429, &json!("Overloaded")));
    assert_says_when(&answer);
    let metrics = node.metrics();
    assert_eq!(metrics.sum("shoal_placements_total", &[]), 0.0);
    assert_eq!(metrics.sum("shoal_rows_total", &[]), 0.0);
    assert_eq!(node.ask(&embed("a").header("x-deadline-ms", "60000")).status, 200);
}

#[test]
fn a_deadline_that_is_none_is_a_mistake_of_the_caller() {
    let mut node = Plan::new("n", "synthetic:0").start();
    node.wait_ready();
    for deadline in ["0", "-1", "soon", "300001", "1.5"] {
        let answer = node.ask(&embed("a").header("x-deadline-ms", deadline));
        assert_eq!(answer.status, 400, "{deadline}: {}", answer.text());
        assert!(answer.text().contains("x-deadline-ms"), "{}", answer.text());
    }
}

#[test]
fn a_node_that_holds_all_it_may_says_so_in_both_dialects() {
    let mut node = Plan::new("full", "synthetic:0").config("[admission]\njobs_max = 2").start();
    node.wait_ready();
    node.misbehave("hang");
    let mut held = [node.begin("a"), node.begin("b")];
    wait::until("two jobs are held", LIMIT, || node.metric("shoal_jobs_held", &[]) == 2.0);

    let answer = node.embed("one too many");
    assert_eq!((answer.status, &answer.json()["error_type"]), (429, &json!("Overloaded")));
    assert_says_when(&answer);
    let answer = node.ask(&openai("one too many"));
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    assert_says_when(&answer);
    assert_eq!(node.metric("shoal_jobs_total", &[("outcome", "overloaded")]), 2.0);
    assert_eq!(node.get("/livez").status, 200, "a full node is alive");

    node.behave();
    for connection in &mut held {
        assert_eq!(connection.answer().expect("what was held is answered").status, 200);
    }
    node.wait_rest();
}

#[test]
fn a_full_peer_is_no_end_for_a_job() {
    // node-2 holds one job at most and that one hangs; node-3 has room.
    let plans = plans(3, "synthetic:0").into_iter().map(|plan| match plan.id() {
        "node-1" => plan.misbehaving("nan"),
        "node-2" => plan.config("[admission]\njobs_max = 1"),
        _ => plan,
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal[0].wait_engine("failed");
    shoal[0].wait_sees("node-2", "ready");
    shoal[0].wait_sees("node-3", "ready");
    shoal[1].misbehave("hang");
    let _held = shoal[1].begin("holds the only place");
    wait::until("node-2 is full", LIMIT, || shoal[1].metric("shoal_jobs_held", &[]) == 1.0);
    for number in 0..20 {
        let answer = shoal[0].embed(&format!("text {number}"));
        assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-3")), "{}", answer.text());
        assert!(answer.number("x-shoal-placements") <= 3);
    }
    assert_eq!(shoal[0].peer("node-2")["gate"], "passing", "being full is no fault");
}
