//! Who is in the shoal: finding each other, staying apart, dying and coming back.

use cluster_tests::load;
use cluster_tests::node::Plan;
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::json;

#[test]
fn three_nodes_see_each_other() {
    let mut shoal = Shoal::start(plans(3, "synthetic:0"));
    let took = shoal.wait_formed();
    println!("three nodes saw each other {} ms after the last was ready", took.as_millis());
    for (node, others) in shoal.iter().zip([["node-2", "node-3"], ["node-1", "node-3"], ["node-1", "node-2"]]) {
        assert_eq!(node.peer_ids(), others);
        let metrics = node.metrics();
        assert_eq!(metrics.sum("shoal_peers", &[("state", "alive")]), 2.0);
        assert_eq!(metrics.sum("shoal_peers", &[("state", "dead")]), 0.0);
        let health = node.get("/health").json();
        let instances = health["instances"].as_array().expect("a list of instances");
        assert_eq!((instances.len(), &health["status"]), (3, &json!("healthy")));
        let peer = node.peer(others[0]);
        let expected = shoal.iter().find(|other| other.id() == others[0]).expect("one of the three").plan();
        assert_eq!(peer["api_addr"], expected.api().to_string());
        assert_eq!(peer["peer_addr"], expected.peer().to_string());
    }
}

#[test]
fn the_seed_may_start_last() {
    let seed = Plan::new("seed", "synthetic:0").cluster("late-seed");
    let join = |id| Plan::new(id, "synthetic:0").cluster("late-seed").seed(seed.peer());
    let (mut a, mut b) = (join("a").start(), join("b").start());
    a.wait_ready();
    b.wait_ready();
    assert!(a.peer_ids().is_empty() && b.peer_ids().is_empty(), "nobody has told them of each other");
    let mut seed = seed.start();
    seed.wait_ready();
    for (node, others) in [(&a, ["b", "seed"]), (&b, ["a", "seed"]), (&seed, ["a", "b"])] {
        others.iter().for_each(|other| node.wait_sees(other, "ready"));
    }
}

#[test]
fn a_node_whose_seeds_are_down_serves_alone() {
    let (gone, also_gone) = (Plan::new("x", ""), Plan::new("y", ""));
    let mut node = Plan::new("alone", "synthetic:0").seed(gone.peer()).seed(also_gone.peer()).start();
    node.wait_ready();
    assert_eq!(node.get("/readyz").status, 200);
    let answer = node.embed("anybody there?");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((answer.header("x-served-by"), answer.number("x-shoal-hops")), (Some("alone"), 0));
    assert!(node.peer_ids().is_empty());
}

#[test]
fn nodes_of_another_cluster_are_refused() {
    // Everyone is a seed of everyone, so each hears the foreign ones from the first round on.
    let mut shoal = plans(4, "synthetic:0");
    shoal = shoal.into_iter().zip(["red", "red", "blue", "blue"]).map(|(plan, color)| plan.cluster(color)).collect();
    let mut shoal = Shoal::start(shoal);
    for index in 0..4 {
        shoal[index].wait_ready();
    }
    let mates = ["node-2", "node-1", "node-4", "node-3"];
    shoal.iter().zip(mates).for_each(|(node, mate)| node.wait_sees(mate, "ready"));
    // A death is told after many rounds of silence: by then the foreign nodes were heard as often.
    shoal[3].kill();
    wait::until("node-3 calls node-4 dead", LIMIT, || {
        for (node, mate) in shoal.iter().take(3).zip(mates) {
            assert_eq!(node.peer_ids(), [mate], "{} lists a node of another cluster", node.id());
        }
        shoal[2].peer("node-4")["alive"] == false
    });
    shoal[3].start_again();
    shoal[2].wait_sees("node-4", "ready");
    for (node, mate) in shoal.iter().zip(mates) {
        assert_eq!(node.peer_ids(), [mate], "{} lists a node of another cluster", node.id());
    }
}

#[test]
fn a_killed_node_is_called_dead_and_comes_back_to_work_under_its_id() {
    let mut shoal = Shoal::ready(3, "synthetic:20ms");
    let generation = |shoal: &Shoal| -> u64 {
        let text = std::fs::read_to_string(shoal[2].data().join("generation")).expect("the node keeps its generation");
        text.trim().parse().expect("a generation is a number")
    };
    let first = generation(&shoal);
    shoal[2].kill();
    for survivor in [&shoal[0], &shoal[1]] {
        wait::until("a survivor calls node-3 dead", LIMIT, || survivor.peer("node-3")["alive"] == false);
        assert_eq!(survivor.metric("shoal_peers", &[("state", "dead")]), 1.0);
        assert_eq!(survivor.get("/readyz").status, 200);
    }
    shoal[2].start_again();
    shoal.wait_formed();
    assert!(first < generation(&shoal), "a start has a larger generation than the one before");
    for survivor in [&shoal[0], &shoal[1]] {
        assert_eq!(survivor.peer_ids().iter().filter(|id| *id == "node-3").count(), 1, "one entry for one id");
    }
    load::until(
        "node-3 works for node-1",
        &shoal[0],
        16,
        |request| request,
        |calls| {
            assert!(calls.iter().all(|call| call.answer.status == 200), "{calls:?}");
            calls.iter().any(|call| call.answer.header("x-served-by") == Some("node-3"))
        },
    );
    assert!(0.0 < shoal[2].metric("shoal_jobs_total", &[("source", "peer"), ("outcome", "ok")]));
    shoal.wait_rest();
}

#[test]
fn a_live_nodes_id_is_not_given_twice() {
    let plan = |id| Plan::new(id, "synthetic:0").cluster("twice");
    let mut first = plan("a").start();
    first.wait_ready();
    let mut second = plan("a").seed(first.plan().peer()).start();
    let status = second.wait_end();
    assert_eq!(status.code(), Some(78), "{}", second.log());
    let log = second.log();
    let complaints: Vec<&str> = log.lines().filter(|line| line.starts_with("shoal: ")).collect();
    let [complaint] = complaints[..] else { panic!("not one line: {complaints:?}") };
    let address = first.plan().peer().to_string();
    for word in ["node.id", "--node-id", "`a`", &address] {
        assert!(complaint.contains(word), "{word} is missing in: {complaint}");
    }
    assert_eq!(first.get("/readyz").status, 200, "the older one stays");
    assert_eq!(first.embed("still here").status, 200);
}
