//! Leaving on purpose: SIGTERM.

use cluster_tests::http::Connection;
use cluster_tests::node::Plan;
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};

/// Long enough for a test to look at a node that is about to leave.
const SETTLE: &str = "[drain]\nsettle_ms = 3000";

#[test]
fn a_draining_node_still_answers_new_callers_and_asks_them_to_go() {
    let mut node = Plan::new("leaver", "synthetic:0").config(SETTLE).start();
    node.wait_ready();
    assert_eq!(node.embed("before").header("connection"), None);
    node.terminate();
    wait::until("the node drains", LIMIT, || node.view()["engine"] == "draining");
    let answer = node.embed("a new caller");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
    assert_eq!(node.get("/readyz").status, 503, "who watches is told to send nobody");
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.wait_end().code(), Some(0));
}

#[test]
fn a_draining_node_hands_its_callers_on_and_gets_no_work_of_others() {
    let plans = plans(2, "synthetic:0").into_iter();
    let mut shoal = Shoal::start(plans.map(|plan| plan.config(SETTLE)).collect());
    shoal.wait_formed();
    shoal[0].terminate();
    shoal[1].wait_sees("node-1", "draining");
    let answer = shoal[0].embed("a new caller");
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-2")), "{}", answer.text());
    for number in 0..10 {
        assert_eq!(shoal[1].embed(&format!("text {number}")).header("x-served-by"), Some("node-2"));
    }
    assert_eq!(shoal[0].metric("shoal_jobs_total", &[("source", "peer")]), 0.0);
    assert_eq!(shoal[0].wait_end().code(), Some(0));
    assert_eq!(shoal[1].embed("after").status, 200);
}

#[test]
fn work_in_flight_is_finished_before_the_end() {
    let mut node = Plan::new("leaver", "synthetic:0").config("[drain]\nsettle_ms = 100").start();
    node.wait_ready();
    node.misbehave("hang");
    let mut held = [node.begin("on the device"), node.begin("behind it")];
    wait::until("two jobs are held", LIMIT, || node.metric("shoal_jobs_held", &[]) == 2.0);
    node.terminate();
    // Past the settling the door closes, and the work is still there.
    wait::until("the node takes no new connection", LIMIT, || Connection::open(node.plan().api()).is_err());
    node.behave();
    for connection in &mut held {
        let answer = connection.answer().expect("what was held is answered");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(node.wait_end().code(), Some(0));
}

#[test]
fn a_second_word_to_leave_is_obeyed_although_work_is_unfinished() {
    // Without the second word this would take ten minutes.
    let config = "[drain]\nsettle_ms = 100\nlimit_ms = 600000";
    let mut node = Plan::new("leaver", "synthetic:0").config(config).start();
    node.wait_ready();
    node.misbehave("hang");
    let mut held = node.begin("never done");
    wait::until("a job is held", LIMIT, || node.metric("shoal_jobs_held", &[]) == 1.0);
    node.terminate();
    wait::until("the node takes no new connection", LIMIT, || Connection::open(node.plan().api()).is_err());
    let asked = std::time::Instant::now();
    node.terminate();
    assert_eq!(node.wait_end().code(), Some(0));
    println!("the second SIGTERM ended the node after {} ms", asked.elapsed().as_millis());
    let given_up = held.answer().expect("who is given up is told so");
    assert_eq!(given_up.status, 503, "{given_up:?}");
    assert!(1 <= given_up.number("retry-after"), "{given_up:?}");
}
