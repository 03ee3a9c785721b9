//! What shoal promises, asked of real processes on loopback.
//!
//! For everyone who changes the node: each test starts nodes of its own, so any of them can be run alone and all of
//! them side by side.
//! Invariants: what is asserted is what a caller or an operator sees (answers, metrics, views, exit codes); times are
//! printed, never asserted, but for those of `gossip_conformance`, which asks the gossip alone; nothing waits for time
//! to pass.
//! Not here: the pieces themselves (beside their code); numbers (`cluster-sim`); the repository itself (`tidy`).

mod api;
mod api_refusals;
mod api_wire;
mod cache;
mod canary;
mod drain;
mod engine_faults;
mod failover;
mod forwarding;
mod gossip_conformance;
mod leaving;
mod limits;
mod membership;
mod model;
mod partitions;
mod policies;
mod recording;
mod rules;
mod split;
mod start;
mod status;

use serde_json::Value;

/// The vector in an answer of `/embed` to one text.
#[track_caller]
fn vector(answer: &cluster_tests::http::Answer) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    numbers(&answer.json()[0])
}

/// A JSON list of numbers.
#[track_caller]
fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|number| number.as_f64().unwrap_or_else(|| panic!("no number: {number}"))).collect()
}
