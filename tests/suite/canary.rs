//! Devices that hang or lie, and texts that no model takes: the canary finds the first and acquits of the second.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster_tests::http::{Answer, Request};
use cluster_tests::load::{self, Call};
use cluster_tests::node::{Node, Plan, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::{Value, json};

use crate::vector;

/// Asked only where there is a reason; a device that hangs is found soon.
const ON_SUSPICION: &str = "[canary]\ninterval_ms = 3600000\nlimit_ms_min = 500";
/// Asked all the time.
const OFTEN: &str = "[canary]\ninterval_ms = 200";

fn shoal(count: usize, engine: &str, canary: &str) -> Shoal {
    let mut shoal = Shoal::start(plans(count, engine).into_iter().map(|plan| plan.config(canary)).collect());
    shoal.wait_formed();
    shoal
}

/// `engine` and `engine_message` as `/status` and `/readyz?verbose` have them, which must be the same.
#[track_caller]
fn told(node: &Node) -> (String, String) {
    let of = |view: Value| [&view["engine"], &view["engine_message"]].map(|it| it.as_str().expect("a text").to_owned());
    let told = wait::until_some("both views say the same", LIMIT, || {
        let (status, ready) = (of(node.get("/status").json()), of(node.view()));
        (status == ready).then_some(status)
    });
    told.into()
}

#[track_caller]
fn assert_served_by(answer: &Answer, id: &str) {
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some(id)), "{}", answer.text());
}

/// Well again, it says nothing more of what was, and computes for its own callers and for others.
#[track_caller]
fn assert_comes_back(shoal: &mut Shoal) {
    shoal[0].behave();
    shoal[0].wait_engine("ready");
    wait::until("node-1 computes", LIMIT, || shoal[0].embed("again").header("x-served-by") == Some("node-1"));
    assert_eq!(told(&shoal[0]), ("ready".to_owned(), String::new()));
    shoal[1].wait_sees("node-1", "ready");
    shoal.wait_rest();
    assert_eq!((shoal[0].decided("wedged"), shoal[0].decided("recovered")), (1.0, 1.0));
    assert!(1.0 <= shoal[0].metric("shoal_canary_runs_total", &[("verdict", "passed")]));
}

#[test]
fn a_device_that_hangs_makes_its_node_wedged_and_nobody_loses_a_call() {
    let mut shoal = shoal(3, "synthetic:5ms", ON_SUSPICION);
    let hung = AtomicBool::new(false);
    let is_wedged = || shoal[0].view()["engine"] == "wedged";
    let both_doors = |door: usize| {
        let what = format!("callers of node-{} are served while node-1 is wedged", door + 1);
        let calls = load::until(
            &what,
            &shoal[door],
            6,
            |request| request,
            |calls| {
                if 20 < calls.len() && !hung.swap(true, Ordering::Relaxed) {
                    shoal[0].misbehave("hang");
                }
                100 < calls.len() && is_wedged()
            },
        );
        for Call { text, answer } in &calls {
            assert_eq!(answer.status, 200, "{text}: {}", answer.text());
            assert!((1..=3).contains(&answer.number("x-shoal-placements")), "{text}: {answer:?}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| both_doors(1));
        both_doors(0);
    });
    let (engine, message) = told(&shoal[0]);
    assert!(engine == "wedged" && message.contains("hangs"), "{engine}: {message}");
    assert_eq!(shoal[0].get("/readyz").status, 200, "its callers are answered through peers");
    for other in [1, 2] {
        shoal[other].wait_sees("node-1", "wedged");
    }
    let offers = shoal.metric("shoal_offers_total", &[("peer", "node-1")]);
    for number in 0..10 {
        let answer = shoal[0].embed(&format!("own caller {number}"));
        assert!(answer.status == 200 && answer.header("x-served-by") != Some("node-1"), "{answer:?}");
        assert_eq!(shoal[1].embed(&format!("other {number}")).status, 200);
    }
    assert_eq!(shoal.metric("shoal_offers_total", &[("peer", "node-1")]), offers, "nobody offers it work");
    assert_eq!((shoal[0].decided("canary_late"), shoal.metric("shoal_peers", &[("state", "dead")])), (1.0, 0.0));
    assert_comes_back(&mut shoal);
}

#[test]
fn a_device_that_hangs_where_nobody_else_is_says_so_at_once_to_whoever_waits() {
    let mut node = Plan::new("alone", "synthetic:0").config(ON_SUSPICION).start();
    node.wait_ready();
    node.misbehave("hang");
    let mut waits = node.begin("a text");
    node.wait_engine("wedged");
    for answer in [waits.answer().expect("an answer"), node.embed("another")] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("hangs") && 1 <= answer.number("retry-after"), "{answer:?}");
    }
    assert_eq!(node.get("/readyz").status, 503);
    node.behave();
    node.wait_engine("ready");
    assert_served_by(&node.embed("and again"), "alone");
    node.wait_rest();
}

#[test]
fn a_device_that_computes_wrong_is_found_and_its_callers_get_right_vectors() {
    let mut shoal = shoal(2, "synthetic:0", OFTEN);
    let right = vector(&shoal[1].embed("a text"));
    shoal[0].misbehave("wrong");
    shoal[0].wait_engine("wedged");
    let (_, message) = told(&shoal[0]);
    assert!(message.contains("canary failed") && message.contains("stand-in.f32.json"), "{message}");
    let answer = shoal[0].embed("a text");
    assert_served_by(&answer, "node-2");
    assert_eq!(vector(&answer), right);
    assert!(shoal[0].log().contains("wedged: the canary failed"), "{}", shoal[0].log());
    assert_comes_back(&mut shoal);
    assert_eq!(vector(&shoal[0].embed("a text")), right);
}

#[test]
fn a_model_that_fails_on_a_text_is_asked_at_once() {
    for words in ["nan", "fail"] {
        let mut shoal = shoal(2, "synthetic:0", ON_SUSPICION);
        shoal[0].misbehave(words);
        // The one that finds it is served all the same.
        assert_served_by(&shoal[0].embed("the first"), "node-2");
        shoal[0].wait_engine("wedged");
        assert!(1.0 <= shoal[0].metric("shoal_canary_runs_total", &[("verdict", "failed")]));
        for number in 0..10 {
            assert_served_by(&shoal[0].embed(&format!("text {number}")), "node-2");
        }
        assert_comes_back(&mut shoal);
    }
}

#[test]
fn a_model_that_answers_otherwise_than_before_the_restart_does_not_serve() {
    let mut node = Plan::new("n", "synthetic:0").start();
    node.wait_ready();
    let kept = node.data().join("canary").join("stand-in.f32.json");
    assert!(kept.is_file(), "{}", kept.display());
    let again = |node: &mut Node, words: &str, state: &str| {
        node.kill();
        node.misbehave(words);
        node.start_again();
        node.wait_engine(state);
    };
    again(&mut node, "wrong", "failed");
    let (_, message) = told(&node);
    assert!(message.contains(&kept.display().to_string()) && message.contains("remove the file"), "{message}");
    let refused = node.embed("a text");
    let told = refused.text();
    assert!(refused.status == 503 && told.contains("did not load"), "{told}");
    assert!(!told.contains("stand-in.f32.json"), "files of the machine are nothing to callers: {told}");
    again(&mut node, "", "ready");
    // The change is meant.
    std::fs::remove_file(&kept).expect("it is there");
    again(&mut node, "wrong", "ready");
    again(&mut node, "", "failed");
}

#[test]
fn a_text_that_no_model_takes_fails_alone_however_often_it_comes() {
    // Long enough that callers meet in batches.
    let shoal = shoal(3, "synthetic:1ms,per_batch=2ms", ON_SUSPICION);
    shoal.iter().for_each(|node| node.misbehave("poison=venom"));
    let stop = AtomicBool::new(false);
    let poisoner = |dialect: usize| {
        let mut statuses = BTreeMap::new();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let text = format!("venom {number}");
            let request = [embed(&text), Request::post("/v1/embeddings", &json!({ "input": ["good", text] }))];
            let answer = shoal[0].ask(&request[dialect]);
            assert!(answer.text().contains("poison=venom"), "{}", answer.text());
            if dialect == 1 {
                assert!(answer.text().contains("input 1") || answer.text().contains("[1]"), "{}", answer.text());
            }
            *statuses.entry(answer.status).or_insert(0) += 1;
        }
        statuses
    };
    std::thread::scope(|scope| {
        let poisoners = [0, 1].map(|dialect| scope.spawn(move || poisoner(dialect)));
        let doors = [0, 1, 2].map(|door| {
            let shoal = &shoal;
            scope.spawn(move || {
                load::until("each door answers 150 calls", &shoal[door], 4, |it| it, |calls| 150 <= calls.len())
            })
        });
        for calls in doors.map(|door| door.join().expect("each good call is answered")) {
            assert!(
                calls.iter().all(|call| call.answer.status == 200),
                "{:?}",
                calls.iter().find(|it| it.answer.status != 200)
            );
        }
        stop.store(true, Ordering::Relaxed);
        for (poisoner, status) in poisoners.into_iter().zip([424, 500]) {
            let statuses = poisoner.join().expect("each poisoned call is told why");
            println!("poisoned calls by status: {statuses:?}");
            assert!(statuses.keys().eq([&status]) && 10 <= statuses[&status], "{statuses:?}");
        }
    });
    shoal.wait_rest();
    for node in shoal.iter() {
        assert_eq!(told(node), ("ready".to_owned(), String::new()), "{}", node.id());
        for rule in ["wedged", "blamed", "breaker_paused", "gate_blocked"] {
            assert_eq!(node.decided(rule), 0.0, "{} of {}", rule, node.id());
        }
        let status = node.get("/status").json();
        for peer in status["peers"].as_array().expect("a list") {
            assert_eq!(
                (&peer["engine"], &peer["paused"], &peer["gate"]),
                (&json!("ready"), &json!(false), &json!("passing"))
            );
        }
    }
    assert!(1.0 <= shoal[0].decided("canary_asked") && 1.0 <= shoal[0].decided("requests_fault"));
    assert_eq!(shoal.metric("shoal_canary_runs_total", &[("verdict", "failed")]), 0.0);
    assert_served_by(&shoal[0].embed("a good text"), "node-1");
}

#[test]
fn a_peer_that_is_killed_while_it_holds_nothing_is_missed_at_once() {
    let mut shoal = Shoal::with_an_unable_door();
    assert_served_by(&shoal[0].embed("makes the connection"), "node-2");
    shoal[0].wait_rest();
    assert_eq!(shoal[0].decided("pinged_after_end"), 0.0);
    shoal[1].kill();
    wait::until("node-1 knows", LIMIT, || shoal[0].peer("node-2")["gate"] == "blocking");
    let door = shoal[0].metrics();
    let decided = |rule| door.sum("shoal_decisions_total", &[("rule", rule)]);
    assert_eq!((decided("pinged_after_end"), decided("broke"), decided("silent")), (1.0, 0.0, 0.0));
}
