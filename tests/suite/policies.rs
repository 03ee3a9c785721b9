//! `--policy` and `node.weight`: who serves whom, as a caller sees it in `x-served-by`.

use std::collections::BTreeMap;

use cluster_tests::load;
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};

/// Three nodes that choose by `policy`, with these weights.
fn shoal(policy: &str, engine: &str, weights: [u32; 3]) -> Shoal {
    let plans = plans(3, engine).into_iter().zip(weights);
    let plan = |(plan, weight): (cluster_tests::node::Plan, u32)| {
        plan.flag("--policy", policy).config(&format!("[node]\nweight = {weight}"))
    };
    let mut shoal = Shoal::start(plans.map(plan).collect());
    shoal.wait_formed();
    shoal
}

/// Asks a node one call after the other. Returns how many each node served.
#[track_caller]
fn served(door: &cluster_tests::node::Node, calls: usize) -> BTreeMap<String, usize> {
    let mut served = BTreeMap::new();
    for number in 0..calls {
        let answer = door.embed(&format!("text {number}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let node = answer.header("x-served-by").expect("every answer names its node").to_owned();
        *served.entry(node).or_default() += 1;
    }
    served
}

#[test]
fn round_robin_takes_every_node_in_its_turn() {
    let shoal = shoal("round_robin", "synthetic:0", [100; 3]);
    let served = served(&shoal[0], 30);
    assert!(served.len() == 3 && served.values().all(|count| (9..=11).contains(count)), "{served:?}");
}

#[test]
fn local_never_hands_on_however_much_there_is_to_do() {
    let shoal = shoal("local", "synthetic:5ms", [100; 3]);
    let enough = |calls: &[load::Call]| 100 <= calls.len();
    let calls = load::until("100 calls at node-1", &shoal[0], 16, |request| request, enough);
    assert!(calls.iter().all(|call| call.answer.header("x-served-by") == Some("node-1")), "{calls:?}");
    assert_eq!(shoal.metric("shoal_offers_total", &[]), 0.0);
}

#[test]
fn weighted_serves_as_the_weights_say() {
    let shoal = shoal("weighted", "synthetic:0", [100, 100, 300]);
    let served = served(&shoal[0], 50);
    for (node, expected) in [("node-1", 10), ("node-2", 10), ("node-3", 30)] {
        let count = served.get(node).copied().unwrap_or(0);
        assert!((expected - 2..=expected + 2).contains(&count), "{node} served {count} of 50: {served:?}");
    }
}

#[test]
fn dynamic_weight_serves_by_chance_as_weights_and_loads_say() {
    // The bands of load change a weight by four at most, and here they are a hundred apart.
    let shoal = shoal("dynamic_weight", "synthetic:0", [10, 10, 1000]);
    let served = served(&shoal[0], 60);
    assert!(40 <= served.get("node-3").copied().unwrap_or(0), "{served:?}");
}

#[test]
fn ip_hash_sends_one_caller_to_one_node_from_every_door() {
    let mut shoal = shoal("ip_hash", "synthetic:0", [100; 3]);
    let of_all_doors = |shoal: &Shoal, doors: &[usize]| {
        let mut served = BTreeMap::new();
        doors.iter().for_each(|door| served.extend(self::served(&shoal[*door], 5)));
        served.into_keys().collect::<Vec<_>>()
    };
    let served = of_all_doors(&shoal, &[0, 1, 2]);
    let [owner] = &served[..] else { panic!("one caller was served by {served:?}") };
    // When that node is gone, the others agree on another one.
    let gone = (0..3).find(|node| shoal[*node].id() == owner).expect("one of the three");
    shoal[gone].kill();
    let left: Vec<usize> = (0..3).filter(|node| *node != gone).collect();
    wait::until("the doors that are left agree", LIMIT, || {
        let served = of_all_doors(&shoal, &left);
        served.len() == 1 && served[0] != *owner
    });
}

#[test]
fn the_policies_of_least_work_share_evenly_what_hangs() {
    for policy in ["least_conn", "least_load"] {
        let plans = plans(2, "synthetic:0").into_iter().map(|plan| plan.flag("--policy", policy));
        let mut shoal = Shoal::start(plans.collect());
        shoal.wait_formed();
        shoal.iter().for_each(|node| node.misbehave("hang"));
        let held = |node: usize| shoal[node].metric("shoal_jobs_held", &[]);
        let mut waiting = Vec::new();
        for number in 1..=6 {
            waiting.push(shoal[0].begin(&format!("text {number}")));
            // Each one is where it goes, and node-1 knows that it is there, before the next one is placed.
            wait::until(&format!("{number} jobs are held, {policy}"), LIMIT, || {
                let heard = shoal[0].get("/status").json()["peers"][0]["held"].as_f64();
                held(0) == f64::from(number)
                    && shoal[0].metric("shoal_forwards_in_flight", &[]) == held(1)
                    && heard == Some(held(1))
            });
        }
        assert_eq!(held(1), 3.0, "{policy}: half of them are at node-2");
        shoal.iter().for_each(cluster_tests::node::Node::behave);
        for connection in &mut waiting {
            assert_eq!(connection.answer().expect("the hang is over").status, 200, "{policy}");
        }
        shoal.wait_rest();
    }
}

#[test]
fn a_node_of_weight_zero_computes_nothing_and_hands_everything_on() {
    let mut shoal = shoal("adaptive", "synthetic:5ms", [0, 100, 100]);
    assert_eq!(shoal[0].view()["engine"], "ready");
    let own = served(&shoal[0], 20);
    assert!(!own.contains_key("node-1"), "{own:?}");
    // Nobody gives it work either, however much there is.
    let enough = |calls: &[load::Call]| 150 <= calls.len() && calls.iter().any(load::Call::was_forwarded);
    let calls = load::until("node-2 hands on", &shoal[1], 12, |request| request, enough);
    assert!(calls.iter().all(|call| call.answer.header("x-served-by") != Some("node-1")), "{calls:?}");
    assert_eq!(shoal[0].metric("shoal_rows_total", &[]), 0.0);
    assert_eq!(shoal[1].metric("shoal_offers_total", &[("peer", "node-1")]), 0.0);
    shoal.wait_rest();
    // Alone it cannot answer, and says so.
    shoal[1].kill();
    shoal[2].kill();
    wait::until("node-1 knows that nobody is left", LIMIT, || shoal[0].get("/readyz").status == 503);
    assert_eq!(shoal[0].embed("a").status, 503);
}

#[test]
fn a_backup_serves_only_when_the_others_are_gone() {
    let plans = plans(3, "synthetic:0").into_iter().map(|plan| match plan.id() {
        "node-1" => plan.misbehaving("nan"),
        "node-3" => plan.config("[node]\nbackup = true"),
        _ => plan,
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal[0].wait_engine("failed");
    for node in [0, 2] {
        shoal[node].wait_sees("node-2", "ready");
    }
    shoal[0].wait_sees("node-3", "ready");
    for door in [0, 2] {
        let served = served(&shoal[door], 10);
        assert_eq!(served.keys().collect::<Vec<_>>(), ["node-2"], "at {}", shoal[door].id());
    }
    shoal[1].kill();
    for door in [0, 2] {
        wait::until("the backup serves", LIMIT, || {
            let answer = shoal[door].embed("a");
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.header("x-served-by") == Some("node-3")
        });
    }
    assert!(1.0 <= shoal[0].decided("backup_used"));
}
