//! Callers who leave: their slot is free at once, here and where their job was sent.

use cluster_tests::node::Plan;
use cluster_tests::shoal::Shoal;
use cluster_tests::wait::{self, LIMIT};

#[test]
fn a_caller_who_leaves_frees_the_slot_while_others_are_served() {
    let mut node = Plan::new("here", "synthetic:0").start();
    node.wait_ready();
    let held = |count: f64| {
        wait::until(&format!("{count} jobs are held"), LIMIT, || node.metric("shoal_jobs_held", &[]) == count);
    };
    node.misbehave("hang");
    let on_the_device = node.begin("runs until the end of time");
    held(1.0);
    let waiting = node.begin("waits behind it");
    let mut patient = node.begin("waits, too, and stays");
    held(3.0);
    drop(waiting);
    held(2.0);
    drop(on_the_device);
    held(1.0);
    assert_eq!(node.metric("shoal_jobs_total", &[("source", "caller"), ("outcome", "left")]), 2.0);
    assert_eq!(node.metric("shoal_http_requests_total", &[("code", "499")]), 2.0);
    node.behave();
    assert_eq!(patient.answer().expect("who stays is answered").status, 200);
    node.wait_rest();
    assert_eq!(node.embed("and the next").status, 200);
}

#[test]
fn a_caller_who_leaves_frees_the_slot_on_the_peer_too() {
    let shoal = Shoal::with_an_unable_door();
    let held = |index: usize, name: &str, count: f64| {
        let what = format!("{name} of {} is {count}", shoal[index].id());
        wait::until(&what, LIMIT, || shoal[index].metric(name, &[]) == count);
    };
    shoal[1].misbehave("hang");
    let on_the_device = shoal[0].begin("runs over there");
    held(1, "shoal_jobs_held", 1.0);
    let waiting = shoal[0].begin("waits over there");
    let mut patient = shoal[0].begin("waits there, too, and stays");
    held(1, "shoal_jobs_held", 3.0);
    held(0, "shoal_forwards_in_flight", 3.0);
    drop(waiting);
    held(1, "shoal_jobs_held", 2.0);
    drop(on_the_device);
    held(1, "shoal_jobs_held", 1.0);
    held(0, "shoal_jobs_held", 1.0);
    held(0, "shoal_forwards_in_flight", 1.0);
    assert_eq!(shoal[1].metric("shoal_jobs_total", &[("source", "peer"), ("outcome", "left")]), 2.0);
    assert_eq!(shoal[0].metric("shoal_forwards_total", &[("outcome", "abandoned")]), 2.0);
    shoal[1].behave();
    let answer = patient.answer().expect("who stays is answered");
    assert_eq!((answer.status, answer.header("x-served-by")), (200, Some("node-2")));
    shoal.wait_rest();
}
