//! The rules of failure and of sessions, each once where a caller or an operator notices it.
//!
//! That a rule decided is read from `shoal_decisions_total`; what it is good for is seen in the answers.

use cluster_tests::http::Answer;
use cluster_tests::load;
use cluster_tests::node::{Node, embed};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::{Value, json};

const EXPLAIN: &str = "[api]\nexplain = true";

/// The call of a session.
fn session(door: &Node, session: &str) -> Answer {
    let answer = door.ask(&embed("text").header("x-session-id", session));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

/// Why a call went where it went.
#[track_caller]
fn why(answer: &Answer) -> Value {
    let text = answer.header("x-shoal-explain").unwrap_or_else(|| panic!("no explanation in {answer:?}"));
    serde_json::from_str(text).unwrap_or_else(|fault| panic!("no JSON ({fault}): {text}"))
}

#[test]
fn a_session_is_served_by_one_node_from_every_door() {
    let shoal = Shoal::ready(3, "synthetic:0");
    let mut owners = Vec::new();
    for number in 0..12 {
        let name = format!("user {number}");
        // The doors learn of each other one after the other, and a node that is busy for a moment is passed over.
        owners.push(wait::until_some(&format!("all doors agree on {name}"), LIMIT, || {
            let served = [0, 1, 2].map(|door| session(&shoal[door], &name).header("x-served-by").map(str::to_owned));
            served[0].clone().filter(|first| served.iter().all(|node| node.as_deref() == Some(first)))
        }));
    }
    owners.sort();
    owners.dedup();
    assert_eq!(owners, ["node-1", "node-2", "node-3"], "sessions spread over the nodes");
    assert!(12.0 <= shoal[0].decided("owner_served"));
}

#[test]
fn a_session_that_is_none_is_the_callers_mistake() {
    let mut node = cluster_tests::node::Plan::new("n", "synthetic:0").start();
    node.wait_ready();
    for sent in ["", &"x".repeat(129)] {
        let answer = node.ask(&embed("a").header("x-session-id", sent));
        assert_eq!((answer.status, &answer.json()["error_type"]), (400, &json!("Validation")), "{}", answer.text());
        assert!(answer.text().contains("x-session-id"), "{}", answer.text());
    }
}

#[test]
fn a_call_that_asks_why_is_told_where_the_configuration_allows_it() {
    let plans = plans(2, "synthetic:100ms").into_iter();
    let plans = plans.map(|plan| if plan.id() == "node-1" { plan.config(EXPLAIN) } else { plan });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();
    let asks = || embed("text").header("x-shoal-explain", "1");

    let answer = shoal[0].ask(&asks());
    let told = why(&answer);
    assert_eq!((&told["node"], &told["policy"]), (&json!("node-1"), &json!("adaptive")));
    let decision = &told["decisions"][0];
    assert_eq!(decision["chosen"].as_str(), answer.header("x-served-by"));
    let options = decision["options"].as_array().expect("a list of nodes");
    let names: Vec<_> = options.iter().filter_map(|option| option["node"].as_str()).collect();
    assert_eq!(names, ["node-1", "node-2"]);
    for option in options {
        let number = |name: &str| option[name].as_f64().unwrap_or_else(|| panic!("no {name} in {option}"));
        assert!(0.0 < number("completion_ms") && 0.0 <= number("wait_ms") && 0.0 <= number("rtt_ms"), "{option}");
        assert!(option["age_ms"].is_number() || option["age_ms"].is_null(), "{option}");
    }
    wait::until("a session is placed by its owner", LIMIT, || {
        why(&shoal[0].ask(&asks().header("x-session-id", "s")))["decisions"][0]["reason"] == "owns_session"
    });

    // An error is explained as well: here nobody could be in time.
    let late = shoal[0].ask(&asks().header("x-deadline-ms", "20"));
    assert_eq!((late.status, &why(&late)["decisions"]), (429, &json!([])), "{late:?}");

    for (door, request) in [(0, embed("text")), (0, embed("text").header("x-shoal-explain", "yes")), (1, asks())] {
        let answer = shoal[door].ask(&request);
        assert_eq!((answer.status, answer.header("x-shoal-explain")), (200, None), "{request:?}");
    }
}

#[test]
fn a_peer_whose_model_fails_is_paused_and_costs_callers_nothing() {
    // In turn, so that every node gets its share; the door may place all of its calls again.
    let breaker = "[breaker]\nrequest_volume = 5\nsleep_window_ms = 30000";
    let plans = plans(3, "synthetic:0").into_iter().map(|plan| plan.flag("--policy", "round_robin").config(breaker));
    let plans = plans.map(|plan| match plan.id() {
        "node-1" => plan.config("[retry]\nbudget_percent = 100"),
        _ => plan.config("[retry]\nbudget_percent = 0\nbudget_per_second = 0"),
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();
    shoal[1].misbehave("fail");
    let ask = |number: usize| {
        let answer = shoal[0].embed(&format!("text {number}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_ne!(answer.header("x-served-by"), Some("node-2"));
    };
    let mut asked = 0;
    wait::until("node-2 is paused", LIMIT, || {
        asked += 1;
        ask(asked);
        shoal[0].metric("shoal_peer_paused", &[("peer", "node-2")]) == 1.0
    });
    assert_eq!(shoal[0].peer("node-2")["paused"], true);
    assert_eq!(shoal[0].decided("breaker_paused"), 1.0);
    assert!(5.0 <= shoal[0].decided("blamed"));
    let offers = || shoal[0].metric("shoal_offers_total", &[("peer", "node-2")]);
    let before = offers();
    (0..20).for_each(ask);
    assert_eq!(offers(), before, "a paused peer gets nothing");

    // A door that may place nothing again shows its callers what the others hide.
    wait::until("node-3 may not place a failed call again", LIMIT, || {
        let status = shoal[2].embed("text").status;
        assert!([200, 424].contains(&status), "{status}");
        status == 424
    });
    assert!(1.0 <= shoal[2].decided("retry_denied"));
}

#[test]
fn what_waits_at_a_node_that_hangs_is_given_to_a_second_one() {
    // How busy this machine is with other tests is not to decide.
    let hedge = "[hedge]\npercent = 10\nload_percent_max = 100";
    let plans = plans(3, "synthetic:20ms").into_iter();
    let plans = plans.map(|plan| match plan.id() {
        "node-1" => plan.config(hedge).config("[node]\nweight = 0"),
        _ => plan,
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();
    let hung = std::sync::atomic::AtomicBool::new(false);
    // So many at one time that some wait at node-2 when it hangs; a tenth of a second placement is saved with each.
    load::until(
        "a second placement answers first",
        &shoal[0],
        12,
        |request| request,
        |calls| {
            if 60 <= calls.len() && !hung.swap(true, std::sync::atomic::Ordering::Relaxed) {
                shoal[1].misbehave("hang");
            }
            let won = 1.0 <= shoal[0].decided("hedge_won");
            if won {
                shoal[1].behave();
            }
            assert!(calls.iter().all(|call| call.answer.status == 200), "{calls:?}");
            won
        },
    );
    shoal.wait_rest();
}

#[test]
fn a_node_that_stood_still_suspects_itself_and_not_its_peers() {
    let mut shoal = Shoal::ready(2, "synthetic:0");
    shoal[0].freeze();
    wait::until("node-2 calls node-1 dead", LIMIT, || shoal[1].peer("node-1")["alive"] == false);
    shoal[0].thaw();
    wait::until("node-1 noticed", LIMIT, || 1.0 <= shoal[0].decided("self_suspected"));
    let peer = shoal[0].peer("node-2");
    assert_eq!((&peer["alive"], &peer["gate"]), (&json!(true), &json!("passing")), "{peer}");
    shoal[1].wait_sees("node-1", "ready");
    assert_eq!(shoal[1].decided("self_suspected"), 0.0, "who did not stand still has no doubt");
}

#[test]
fn a_node_that_has_just_started_is_passed_over_now_and_then() {
    let ramp = "[routing]\nmargin_ms_min = 50\nslow_start_ms = 1500";
    let mut plans: Vec<_> = plans(3, "synthetic:20ms").into_iter().map(|plan| plan.config(ramp)).collect();
    let late = plans.pop().expect("three plans");
    let mut shoal = Shoal::start(plans);
    shoal.wait_formed();
    let third = std::cell::OnceCell::new();
    load::until(
        "node-3 is passed over, and then works",
        &shoal[0],
        12,
        |request| request,
        |calls| {
            // By then the first two know each other for longer than the ramp: who comes now has just started.
            if 200 <= calls.len() {
                third.get_or_init(|| late.clone().start());
            }
            let works = calls.iter().any(|call| call.answer.header("x-served-by") == Some("node-3"));
            works && 1.0 <= shoal[0].decided("slow_started")
        },
    );
}

#[test]
fn a_node_above_its_bound_is_hot() {
    // Whatever it is used for, a machine that runs this uses more than one percent of its memory.
    let rule = "[routing]\nhot_enter_percent = 1\nhot_leave_percent = 0\nhot_dwell_ms = 0";
    let mut node = cluster_tests::node::Plan::new("n", "synthetic:0").config(rule).start();
    node.wait_ready();
    wait::until("the node is hot", LIMIT, || {
        assert_eq!(node.embed("text").status, 200);
        node.metric("shoal_hot", &[]) == 1.0
    });
    assert!(0.01 < node.metric("shoal_load_ratio", &[]));
    assert_eq!(node.decided("became_hot"), 1.0);
}
