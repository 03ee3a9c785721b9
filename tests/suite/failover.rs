//! kill -9 and SIGTERM under load, by the drill that anybody can run: `cluster-sim drill`.
//!
//! The numbers are small here; how small the probability of a failure is, only a long run can say.

use std::time::Duration;

use cluster_tests::binaries::binaries;
use cluster_tests::command;
use serde_json::{Value, json};

/// Far above what a drill of these sizes takes.
const LIMIT: Duration = Duration::from_secs(200);

/// Runs a drill that has to pass, and returns its judgement.
fn drill(arguments: &[&str]) -> Value {
    let shoal = binaries().shoal.display().to_string();
    let arguments: Vec<&str> =
        ["drill"].iter().chain(arguments).copied().chain(["--json", "--shoal", &shoal]).collect();
    let ended = command::run(&binaries().cluster_sim, &arguments, &[], LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line = ended.output.lines().last().expect("a drill prints its judgement");
    let judgement: Value = serde_json::from_str(line).expect("a judgement is JSON");
    judgement
}

/// What holds after any drill.
fn assert_nothing_lost(judgement: &Value) {
    assert_eq!(judgement["verdict"], "passed");
    for zero in ["failed", "lost_elsewhere", "answers_wrong"] {
        assert_eq!(judgement[zero], 0, "{zero}");
    }
    assert_eq!(judgement["counters_at_rest"], true);
    let number = |name: &str| judgement[name].as_f64().unwrap_or_else(|| panic!("no number {name}"));
    assert!(0.0 < number("forwarded_share"), "nothing was forwarded");
    assert!(0.1 <= number("victim_share_before_min"), "the victim did no real share of the work");
    assert!(0.0 < number("answers_checked"), "no answer was compared");
    assert!(judgement["placements_per_request"]["max"].as_u64() <= Some(3));
    let ends = judgement["ends"].as_array().expect("every node has an end");
    assert!(ends.len() == 3 && ends.iter().all(|end| end["clean"] == true), "{ends:?}");
}

/// For people: what it was like. Never asserted.
fn times_of(judgement: &Value) -> String {
    let phase =
        |name: &str| format!("{name}: p50 {} ms, p99 {} ms", judgement[name]["p50_ms"], judgement[name]["p99_ms"]);
    format!(
        "{} requests, {} exposed; {}; {}; last offer to the dead after {} ms, back at work after {} ms",
        judgement["requests"],
        judgement["exposed"],
        phase("before"),
        phase("after"),
        judgement["detection_ms"],
        judgement["recovery_ms"]
    )
}

#[test]
fn killing_a_node_under_load_costs_callers_of_the_others_nothing() {
    let judgement = drill(&["kill", "--nodes", "3", "--kills", "3", "--seconds", "9"]);
    println!("{}", times_of(&judgement));
    assert_nothing_lost(&judgement);
    assert_eq!(judgement["kills"], 3);
    assert!(0 < judgement["exposed"].as_u64().expect("a count"), "no kill hit a job of another door");
    assert_eq!(judgement["victim_ends"], json!(["signal 9", "signal 9", "signal 9"]));
}

#[test]
fn sigterm_under_load_costs_nobody_anything() {
    let judgement = drill(&["term", "--nodes", "3", "--kills", "2", "--seconds", "6", "--seed", "3"]);
    println!("{}", times_of(&judgement));
    assert_nothing_lost(&judgement);
    assert_eq!(judgement["failed_own_door"], 0, "the callers of the drained node itself");
    assert_eq!(judgement["victim_ends"], json!(["exit code 0", "exit code 0"]));
}
