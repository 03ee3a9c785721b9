//! The drills that anybody can run, short: `cluster-sim drill`.
//!
//! Each puts a fault into a real shoal under load and has to pass; times are not judged here, because a machine that
//! builds and tests at the same moment has none to give. How small the probability of a failure is, only a long run
//! can say.

use std::time::Duration;

use cluster_tests::binaries::binaries;
use cluster_tests::command;
use serde_json::{Value, json};

/// Far above what a drill of these sizes takes.
const LIMIT: Duration = Duration::from_secs(200);

/// Runs a drill that has to pass, and returns its judgement.
fn drill(name: &str) -> Value {
    let shoal = binaries().shoal.display().to_string();
    let arguments = ["drill", name, "--untimed", "--json", "--shoal", &shoal];
    let ended = command::run(&binaries().cluster_sim, &arguments, &[], LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line = ended.output.lines().last().expect("a drill prints its judgement");
    let judgement: Value = serde_json::from_str(line).expect("a judgement is JSON");
    assert_nothing_lost(&judgement);
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
    assert!(0.0 < number("answers_checked"), "no answer was compared");
    assert!(judgement["placements_per_request"]["max"].as_u64() <= Some(3));
    let ends = judgement["ends"].as_array().expect("every node has an end");
    assert!(!ends.is_empty() && ends.iter().all(|end| end["clean"] == true), "{ends:?}");
}

fn count(judgement: &Value, name: &str) -> u64 {
    judgement[name].as_u64().unwrap_or_else(|| panic!("no count {name}"))
}

#[test]
fn killing_a_node_under_load_costs_callers_of_the_others_nothing() {
    let judgement = drill("kill");
    assert!(0 < count(&judgement, "exposed"), "no kill hit a job of another door");
    assert_eq!(judgement["fault_ends"], json!(["signal 9", "signal 9"]));
}

#[test]
fn killing_the_door_that_most_clients_use_costs_a_redial_and_nothing_else() {
    let judgement = drill("door");
    assert!(0 < count(&judgement, "redialled"));
    assert_eq!(judgement["failed_own_door"], 0);
}

#[test]
fn a_process_that_stands_still_costs_nothing_and_comes_back() {
    drill("stop");
}

#[test]
fn sigterm_under_load_costs_nobody_anything() {
    let judgement = drill("term");
    assert_eq!(judgement["failed_own_door"], 0, "the callers of the drained node itself");
    assert_eq!(judgement["fault_ends"], json!(["exit code 0", "exit code 0"]));
}

#[test]
fn restarting_one_node_after_the_other_costs_nobody_anything() {
    let judgement = drill("rolling");
    assert_eq!(judgement["fault_ends"], json!(["exit code 0", "exit code 0", "exit code 0"]));
}

#[test]
fn a_node_that_turns_slow_loses_nothing() {
    drill("slow");
}

#[test]
fn a_node_that_joins_costs_nobody_anything() {
    drill("join");
}

#[test]
fn after_the_death_of_all_nodes_the_shoal_comes_back_by_itself() {
    let judgement = drill("restart-all");
    assert!(0 < count(&judgement, "failed_own_door"), "nobody noticed that all nodes were dead");
}

#[test]
fn a_network_in_two_parts_serves_in_both() {
    drill("partition");
}

#[test]
fn what_one_node_sends_to_another_may_be_lost() {
    drill("one-way");
}

#[test]
fn a_fifth_of_all_gossip_may_be_lost() {
    drill("gossip-loss");
}

#[test]
fn a_pulled_cable_costs_callers_of_the_others_nothing() {
    if let Err(why) = cluster_sim::netns::available() {
        let shoal = binaries().shoal.display().to_string();
        let ended = command::run(&binaries().cluster_sim, &["drill", "cable", "--shoal", &shoal], &[], LIMIT);
        assert!(ended.code == Some(1) && ended.output.contains("network namespaces"), "{why}: {ended:?}");
        return;
    }
    drill("cable");
}

#[test]
fn a_device_that_hangs_costs_nobody_an_answer() {
    drill("wedge");
}

#[test]
fn texts_that_make_engines_fail_harm_nobody_else() {
    let judgement = drill("poison");
    assert!(0 < count(&judgement, "poisoned"));
}

#[test]
fn more_than_can_be_done_is_refused_and_the_rest_is_served() {
    let judgement = drill("herd");
    assert!(0 < count(&judgement, "refused"));
}
