//! The result cache: what is computed once, who gives it, and what it never does.
//!
//! Part of the suite. Other tests run without a cache; each node here is told how large its own is.
//! The stand-in engine gives a text the same vector on every node, so a wrong answer would be seen.

use cluster_tests::http::{Answer, Connection, Request};
use cluster_tests::node::{Node, Plan, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::json;

use crate::{numbers, vector};

/// Room for hundreds of results.
const CACHE: &str = "[cache]\nbytes_max = 1000000";

/// A ready node with a cache.
fn node(engine: &str) -> Node {
    ready(Plan::new("node-1", engine).config(CACHE))
}

fn ready(plan: Plan) -> Node {
    let mut node = plan.start();
    node.wait_ready();
    node
}

/// Nodes that have formed, each with a cache.
fn shoal(count: usize, engine: &str) -> Shoal {
    let mut shoal = Shoal::start(plans(count, engine).into_iter().map(|plan| plan.config(CACHE)).collect());
    shoal.wait_formed();
    shoal
}

fn rows(node: &Node) -> f64 {
    node.metric("shoal_rows_total", &[])
}

fn held(node: &Node, jobs: f64) {
    wait::until("jobs are held", LIMIT, || node.metric("shoal_jobs_held", &[]) == jobs);
}

#[track_caller]
fn found_in(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-shoal-cache").expect("a node with a cache says where it looked")
}

/// A text of which node `door` says that its owner is another node, which has it: `computer` has computed it before.
fn owned_elsewhere(shoal: &Shoal, computer: usize, door: usize) -> (String, Answer, Answer) {
    let mut number = 0;
    wait::until_some("an owner gives a result", LIMIT, || {
        number += 1;
        let text = format!("text {number}");
        let computed = shoal[computer].embed(&text);
        assert_eq!(found_in(&computed), "miss");
        // The gift is on its way, and the question has a limit of milliseconds: one text or another is in time.
        let given = shoal[door].embed(&text);
        (found_in(&given) == "owner").then_some((text, computed, given))
    })
}

#[test]
fn a_text_is_computed_once_and_its_second_answer_is_the_first() {
    let node = node("synthetic:0");
    let before = rows(&node);
    let (first, again) = (node.embed("two words"), node.embed("two words"));
    assert_eq!((found_in(&first), found_in(&again)), ("miss", "local"));
    assert_eq!(vector(&first), vector(&again));
    assert_eq!((first.number("x-shoal-placements"), again.number("x-shoal-placements")), (1, 0));
    assert_eq!((again.header("x-served-by"), again.number("x-shoal-hops")), (Some("node-1"), 0));
    assert_eq!((first.number("x-compute-tokens"), again.number("x-compute-tokens")), (2, 2));

    // The other dialect asks for the same thing.
    let openai = node.post("/v1/embeddings", &json!({ "input": "two words", "model": "minilm" }));
    assert_eq!(found_in(&openai), "local");
    let body = openai.json();
    assert_eq!(numbers(&body["data"][0]["embedding"]), vector(&first));
    assert_eq!(body["usage"], json!({ "prompt_tokens": 2, "total_tokens": 2 }));
    assert_eq!(rows(&node) - before, 1.0);
    assert_eq!(node.metric("shoal_cache_texts_total", &[("place", "local")]), 2.0);
    assert_eq!(node.metric("shoal_cache_entries", &[]), 1.0);
}

#[test]
fn only_what_is_missing_is_computed_and_the_order_is_the_callers() {
    let node = node("synthetic:0");
    let alone: Vec<_> = ["known", "other"].map(|text| vector(&node.embed(text))).into();
    let before = rows(&node);
    let texts = ["new", "known", "new", "newer", "other", "known"];
    let answer = node.post("/embed", &json!({ "inputs": texts }));
    assert_eq!(found_in(&answer), "miss");
    assert_eq!(answer.number("x-compute-tokens"), 6, "each text counts, however often it was computed");
    assert_eq!(rows(&node) - before, 2.0, "`new` and `newer`, once each");
    let together: Vec<_> = answer.json().as_array().expect("a list").iter().map(numbers).collect();
    assert_eq!((&together[1], &together[4], &together[5]), (&alone[0], &alone[1], &alone[0]));
    assert_eq!((&together[0], &together[0]), (&together[2], &vector(&node.embed("new"))));
    assert_eq!(together[3], vector(&node.embed("newer")));
    assert_eq!(found_in(&node.post("/embed", &json!({ "inputs": texts }))), "local");
}

#[test]
fn a_request_that_differs_in_anything_is_another_one() {
    let node = node("synthetic:0");
    assert_eq!(found_in(&node.embed("a text")), "miss");
    for (name, value) in [
        ("normalize", json!(false)),
        ("dimensions", json!(5)),
        ("truncation_direction", json!("Left")),
        ("truncate", json!(false)),
    ] {
        let body = json!({ "inputs": "a text", name: value });
        let first = node.post("/embed", &body);
        assert_eq!(found_in(&first), "miss", "{body}");
        assert_eq!(found_in(&node.post("/embed", &body)), "local", "{body}");
        assert_eq!(vector(&first).len(), if name == "dimensions" { 5 } else { 384 });
    }
    // The default written out.
    assert_eq!(found_in(&node.post("/embed", &json!({ "inputs": "a text", "dimensions": 384 }))), "local");
}

#[test]
fn without_a_cache_each_call_is_computed() {
    let node = ready(Plan::new("node-1", "synthetic:0").config("[cache]\nbytes_max = 0"));
    let before = rows(&node);
    for _ in 0..2 {
        let answer = node.embed("a text");
        assert_eq!((answer.status, answer.header("x-shoal-cache")), (200, None));
    }
    assert_eq!(rows(&node) - before, 2.0);
    assert_eq!(node.metric("shoal_cache_texts_total", &[]), 0.0);
}

#[test]
fn a_result_that_is_too_old_is_computed_again() {
    let node = ready(Plan::new("node-1", "synthetic:0").config("[cache]\nbytes_max = 1000000\nttl_s = 1"));
    assert_eq!(found_in(&node.embed("a text")), "miss");
    // Being asked for does not keep it young.
    wait::until("the text is computed again", LIMIT, || found_in(&node.embed("a text")) == "miss");
}

#[test]
fn a_cache_never_holds_more_than_it_may() {
    let node = ready(Plan::new("node-1", "synthetic:0").config("[cache]\nbytes_max = 100000"));
    for call in 0..10 {
        let texts: Vec<String> = (0..100).map(|number| format!("text {call} {number}")).collect();
        assert_eq!(node.post("/embed", &json!({ "inputs": texts })).status, 200);
        let metrics = node.metrics();
        let bytes = metrics.sum("shoal_cache_bytes", &[]);
        assert!((50_000.0..=100_000.0).contains(&bytes), "{bytes}");
    }
    let metrics = node.metrics();
    let kept = metrics.sum("shoal_cache_entries", &[]);
    assert_eq!(kept + metrics.sum("shoal_cache_evictions_total", &[("cause", "room")]), 1000.0);
    assert!(metrics.at_rest());
}

#[test]
fn a_hundred_callers_of_one_text_run_the_device_once() {
    // What it would take a caller itself is how long it waits for another: here long enough for all of them to come.
    let node = node("synthetic:500ms");
    let before = rows(&node);
    node.misbehave("hang");
    let callers: Vec<Connection> = (0..100).map(|_| node.begin("the same text")).collect();
    held(&node, 1.0);
    node.behave();
    let answers: Vec<Answer> = callers.into_iter().map(|mut caller| caller.answer().expect("an answer")).collect();
    assert!(answers.iter().all(|answer| vector(answer) == vector(&answers[0])));
    // Who waited for twice that, as on a machine that stood still, does not wait for the first one alone.
    let took_over = node.metric("shoal_cache_waits_total", &[("outcome", "took_over")]);
    let computed = rows(&node) - before;
    assert!(1.0 <= computed && computed <= 1.0 + took_over && took_over < 5.0, "{computed} {took_over}");
    let computed_for = answers.iter().filter(|answer| found_in(answer) == "miss").count();
    assert!(computed_for as f64 <= 1.0 + took_over, "{computed_for}");
    node.wait_rest();
}

#[test]
fn a_text_of_a_large_call_is_not_waited_for_until_all_of_that_call_is_done() {
    let node = node("synthetic:2ms");
    let texts: Vec<String> = (0..400).map(|number| format!("text {number}")).collect();
    let mut large = node.connect();
    large.send(&Request::post("/embed", &json!({ "inputs": texts })).bytes()).expect("a new connection takes the call");
    wait::until("the call is begun", LIMIT, || node.decided("split") == 1.0);
    // All 0.8 s that the large call takes are within the patience that a caller had who waited for a second at least.
    let single = node.embed("text 399");
    assert_eq!((found_in(&single), node.metric("shoal_cache_waits_total", &[("outcome", "took_over")])), ("miss", 1.0));
    let all = large.answer().expect("an answer").json();
    assert_eq!(numbers(&all[399]), vector(&single));
    node.wait_rest();
}

#[test]
fn when_the_caller_for_whom_it_is_computed_leaves_the_others_go_on() {
    let node = node("synthetic:0");
    node.misbehave("hang");
    let first = node.begin("the same text");
    held(&node, 1.0);
    let others: Vec<Connection> = (0..5).map(|_| node.begin("the same text")).collect();
    drop(first);
    wait::until("the first caller is missed", LIMIT, || {
        1.0 <= node.metric("shoal_jobs_total", &[("source", "caller"), ("outcome", "left")])
    });
    node.behave();
    for mut other in others {
        assert_eq!(other.answer().expect("an answer").status, 200);
    }
    node.wait_rest();
}

#[test]
fn nobody_waits_beyond_its_own_deadline_for_the_work_of_another() {
    let node = node("synthetic:0");
    node.misbehave("hang");
    let mut patient = node.begin("the same text");
    held(&node, 1.0);
    let hasty = node.ask(&embed("the same text").header("x-deadline-ms", "50"));
    assert_eq!(hasty.status, 504, "{}", hasty.text());
    node.behave();
    assert_eq!(patient.answer().expect("an answer").status, 200);
    node.wait_rest();
}

#[test]
fn who_loses_patience_and_is_refused_still_gets_what_it_waited_for() {
    let node = ready(Plan::new("node-1", "synthetic:0").config(CACHE).config("[admission]\njobs_max = 1"));
    node.misbehave("hang");
    let mut slow = node.begin("the same text");
    held(&node, 1.0);
    let mut other = node.begin("the same text");
    wait::until("the other one tries itself", LIMIT, || {
        1.0 <= node.metric("shoal_jobs_total", &[("source", "caller"), ("outcome", "overloaded")])
    });
    node.behave();
    assert_eq!(slow.answer().expect("an answer").status, 200);
    assert_eq!(found_in(&other.answer().expect("an answer")), "local");
    node.wait_rest();
}

#[test]
fn a_leader_that_is_stuck_does_not_keep_the_others_from_going_elsewhere() {
    let shoal = shoal(2, "synthetic:10ms");
    shoal[0].misbehave("hang");
    let mut stuck = shoal[0].begin("holds the device");
    held(&shoal[0], 1.0);
    // The device of node-1 is late by so much by now that its callers are handed on, the followers of a text too.
    let mut callers: Vec<Connection> = (0..5).map(|_| shoal[0].begin("the same text")).collect();
    for caller in &mut callers {
        assert_eq!(caller.answer().expect("an answer").status, 200);
    }
    shoal[0].behave();
    assert_eq!(stuck.answer().expect("an answer").status, 200);
    shoal.wait_rest();
}

#[test]
fn an_error_is_never_kept() {
    let node = node("synthetic:0");
    let known = vector(&node.embed("known"));
    let too_wide = Request::post("/embed", &json!({ "inputs": "known", "dimensions": 385 }));
    assert_eq!([node.ask(&too_wide).status, node.ask(&too_wide).status], [422, 422]);
    let both = Request::post("/embed", &json!({ "inputs": ["known", "new"] }));
    node.misbehave("nan");
    let failed = node.ask(&both);
    assert_eq!(failed.status, 424, "{}", failed.text());
    assert!(failed.text().contains("input 1"), "the caller's own count: {}", failed.text());
    node.behave();
    let answer = node.ask(&both);
    assert_eq!(found_in(&answer), "miss");
    assert_eq!(numbers(&answer.json()[0]), known);
}

#[test]
fn what_is_known_is_given_although_the_node_is_full_and_its_engine_hangs() {
    let node = ready(Plan::new("node-1", "synthetic:0").config(CACHE).config("[admission]\njobs_max = 1"));
    let known = vector(&node.embed("known"));
    node.misbehave("hang");
    let mut stuck = node.begin("holds the device");
    held(&node, 1.0);
    assert_eq!(node.embed("new").status, 429);
    let answer = node.embed("known");
    assert_eq!((found_in(&answer), vector(&answer)), ("local", known));
    node.behave();
    assert_eq!(stuck.answer().expect("an answer").status, 200);
    node.wait_rest();
}

#[test]
fn a_node_that_leaves_gives_what_it_knows_and_asks_its_callers_to_go() {
    let plan = Plan::new("node-1", "synthetic:0").config(CACHE).config("[drain]\nsettle_ms = 30000");
    let mut node = ready(plan);
    node.embed("known");
    node.terminate();
    node.wait_engine("draining");
    let answer = node.embed("known");
    assert_eq!((found_in(&answer), answer.header("connection")), ("local", Some("close")));
    node.terminate();
    assert!(node.wait_end().success());
}

#[test]
fn a_call_that_asks_why_is_placed_for_real() {
    let node = ready(Plan::new("node-1", "synthetic:0").config(CACHE).config("[api]\nexplain = true"));
    node.embed("a text");
    let before = rows(&node);
    let answer = node.ask(&embed("a text").header("x-shoal-explain", "1"));
    assert_eq!((answer.status, answer.header("x-shoal-cache")), (200, None));
    assert!(answer.header("x-shoal-explain").is_some_and(|why| why.contains("node-1")), "{answer:?}");
    assert_eq!((rows(&node) - before, answer.number("x-shoal-placements")), (1.0, 1));
}

#[test]
fn an_owner_gives_what_another_node_computed() {
    let shoal = shoal(3, "synthetic:20ms");
    let before = shoal.metric("shoal_rows_total", &[]);
    let (text, computed, given) = owned_elsewhere(&shoal, 0, 1);
    assert_eq!(vector(&given), vector(&computed));
    assert_eq!((given.number("x-shoal-hops"), given.number("x-shoal-placements")), (1, 0));
    assert_ne!(given.header("x-served-by"), Some("node-2"));
    assert_eq!(given.number("x-compute-tokens"), computed.number("x-compute-tokens"));
    // It has its own now.
    assert_eq!(found_in(&shoal[1].embed(&text)), "local");
    assert!(before < shoal.metric("shoal_rows_total", &[]));
    assert!(1.0 <= shoal[1].metric("shoal_cache_gets_total", &[("outcome", "ok")]));
    assert!(1.0 <= shoal.metric("shoal_cache_served_total", &[("message", "get"), ("outcome", "ok")]));
    shoal.wait_rest();
}

#[test]
fn each_text_of_a_call_gets_its_own_vector_whoever_owns_it_and_whoever_computes_it() {
    let shoal = shoal(3, "synthetic:2ms");
    let reference = ready(Plan::new("reference", "synthetic:0"));
    for number in 0..4 {
        let texts: Vec<String> = (0..60).map(|text| format!("text {number} {text}")).collect();
        let call = Request::post("/embed", &json!({ "inputs": texts }));
        let expected = reference.ask(&call).json();
        for node in shoal.iter() {
            assert_eq!(node.ask(&call).json(), expected, "call {number} at {}", node.id());
        }
    }
}

#[test]
fn the_texts_of_one_call_are_asked_for_with_one_message_an_owner() {
    let shoal = shoal(3, "synthetic:2ms");
    let mut number = 0;
    wait::until("owners give most of a call", LIMIT, || {
        number += 1;
        let texts: Vec<String> = (0..60).map(|text| format!("text {number} {text}")).collect();
        let call = Request::post("/embed", &json!({ "inputs": texts }));
        let computed = shoal[0].ask(&call);
        let gets = || shoal[1].metric("shoal_cache_gets_total", &[]);
        let (asked, owner) = (gets(), shoal[1].metric("shoal_cache_texts_total", &[("place", "owner")]));
        let given = shoal[1].ask(&call);
        assert_eq!(given.json(), computed.json());
        assert!(gets() - asked <= 2.0, "two other nodes, one question each");
        20.0 <= shoal[1].metric("shoal_cache_texts_total", &[("place", "owner")]) - owner
    });
}

#[test]
fn nodes_of_different_models_never_ask_each_other() {
    let plans = plans(2, "synthetic:20ms").into_iter().map(|plan| plan.config(CACHE));
    let plans = plans.map(|plan| if plan.id() == "node-2" { plan.flag("--model", "another") } else { plan });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();
    for number in 0..10 {
        let text = format!("text {number}");
        assert_eq!(found_in(&shoal[0].embed(&text)), "miss");
        assert_eq!(found_in(&shoal[1].embed(&text)), "miss", "the other model's vector is another one");
    }
    for node in shoal.iter() {
        let metrics = node.metrics();
        for counter in ["shoal_cache_gets_total", "shoal_cache_puts_total", "shoal_cache_served_total"] {
            assert_eq!(metrics.sum(counter, &[]), 0.0, "{counter}");
        }
    }
}

#[test]
fn an_owner_without_a_cache_is_asked_once_and_then_left_in_peace() {
    let plans = plans(2, "synthetic:20ms").into_iter();
    let mut shoal =
        Shoal::start(plans.map(|plan| if plan.id() == "node-1" { plan.config(CACHE) } else { plan }).collect());
    shoal.wait_formed();
    let gets = |outcome| shoal[0].metric("shoal_cache_gets_total", &[("outcome", outcome)]);
    let mut number = 0;
    wait::until("node-2 is left in peace", LIMIT, || {
        number += 1;
        assert_eq!(found_in(&shoal[0].embed(&format!("text {number}"))), "miss");
        1.0 <= gets("resting") && 1.0 <= gets("unknown")
    });
    assert_eq!(shoal[0].metric("shoal_cache_puts_total", &[("outcome", "ok")]), 0.0);
    assert_eq!(shoal[1].metric("shoal_cache_served_total", &[("outcome", "off")]), gets("unknown"));
}

#[test]
fn an_owner_that_is_silent_or_dead_costs_nobody_an_answer() {
    let mut shoal = shoal(2, "synthetic:20ms");
    let ask = |shoal: &Shoal, text: &str| assert_eq!(found_in(&shoal[0].embed(text)), "miss");
    let mut number = 0;
    shoal[1].freeze();
    wait::until("the owner is silent", LIMIT, || {
        number += 1;
        ask(&shoal, &format!("text {number}"));
        let metrics = shoal[0].metrics();
        // Silent, or by the time that it owns a text known to be.
        1.0 <= metrics.sum("shoal_cache_gets_total", &[("outcome", "silent")])
            + metrics.sum("shoal_cache_gets_total", &[("outcome", "unready")])
    });
    shoal[1].kill();
    for number in 0..20 {
        ask(&shoal, &format!("after its death {number}"));
    }
    shoal[0].wait_rest();
}
