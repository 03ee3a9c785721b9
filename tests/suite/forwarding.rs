//! Handing on: when it happens, when it never happens, and what a caller can see of it.

use cluster_tests::load::{self, Call};
use cluster_tests::shoal::Shoal;
use serde_json::json;

use crate::vector;

/// Every answer is a vector of the node that it names, after at most one hop and three placements.
#[track_caller]
fn assert_sound(calls: &[Call], door: &str) {
    for Call { text, answer } in calls {
        assert_eq!(answer.status, 200, "{text}: {}", answer.text());
        let (hops, placements) = (answer.number("x-shoal-hops"), answer.number("x-shoal-placements"));
        assert!(hops <= 1 && (1..=3).contains(&placements), "{text}: {hops} hops, {placements} placements");
        let is_local = answer.header("x-served-by") == Some(door);
        assert_eq!(is_local, hops == 0, "{text}: {answer:?}");
    }
}

#[test]
fn a_door_with_too_much_to_do_hands_on_and_the_vectors_are_the_same() {
    let shoal = Shoal::ready(3, "synthetic:20ms");
    let calls = load::until(
        "both peers work for node-1",
        &shoal[0],
        12,
        |request| request,
        |calls| {
            let served = |id| calls.iter().any(|call: &Call| call.answer.header("x-served-by") == Some(id));
            served("node-1") && served("node-2") && served("node-3")
        },
    );
    assert_sound(&calls, "node-1");
    shoal.wait_rest();

    // A forwarded job was served or refused where it landed.
    for peer in [&shoal[1], &shoal[2]] {
        let metrics = peer.metrics();
        assert_eq!(metrics.sum("shoal_placements_total", &[("target", "peer")]), 0.0, "{}", peer.id());
        assert!(0.0 < metrics.sum("shoal_placements_total", &[("target", "here")]), "{}", peer.id());
        assert_eq!(metrics.sum("shoal_jobs_total", &[("source", "caller")]), 0.0, "{}", peer.id());
    }
    let door = shoal[0].metrics();
    let busy = door.sum("shoal_forwards_total", &[("outcome", "busy")]);
    let forwarded = calls.iter().filter(|call| call.was_forwarded()).count();
    assert!(busy <= calls.len() as f64, "at most one busy refusal a job");
    assert!(forwarded as f64 <= door.sum("shoal_forwards_total", &[("outcome", "ok")]));
    println!("{forwarded} of {} calls were forwarded, {busy} offers were refused as busy", calls.len());

    // The same texts, asked of a node that computes them itself.
    for call in calls.iter().filter(|call| call.was_forwarded()).take(5) {
        let again = shoal[1].embed(&call.text);
        assert_eq!((again.header("x-served-by"), again.number("x-shoal-hops")), (Some("node-2"), 0));
        assert_eq!(vector(&again), vector(&call.answer), "{}", call.text);
    }
}

#[test]
fn a_forwarded_job_is_never_forwarded_again_however_busy_its_node_is() {
    let shoal = Shoal::ready(3, "synthetic:20ms");
    let calls = load::until(
        "peers that became slow work for node-1",
        &shoal[0],
        24,
        |request| request,
        |calls| {
            // From the first forwarded answers on, each peer has every reason to be rid of what it got.
            if calls.iter().any(Call::was_forwarded) {
                shoal[1].misbehave("slow=8");
                shoal[2].misbehave("slow=8");
            }
            150 <= calls.len()
        },
    );
    assert_sound(&calls, "node-1");
    for peer in [&shoal[1], &shoal[2]] {
        let metrics = peer.metrics();
        assert_eq!(metrics.sum("shoal_placements_total", &[("target", "peer")]), 0.0, "{}", peer.id());
        assert_eq!(metrics.sum("shoal_offers_total", &[]), 0.0, "{}", peer.id());
        assert!(0.0 < metrics.sum("shoal_jobs_total", &[("source", "peer"), ("outcome", "ok")]), "{}", peer.id());
    }
    shoal.wait_rest();
}

#[test]
fn what_a_caller_writes_in_shoals_own_headers_changes_nothing() {
    let shoal = Shoal::ready(2, "synthetic:20ms");
    let forge = |request: cluster_tests::http::Request| {
        [
            ("x-shoal-hops", "1"),
            ("x-shoal-placements", "3"),
            ("x-shoal-origin", "node-2"),
            ("x-shoal-bound-us", "1"),
            ("x-shoal-explain", "1"),
            ("x-shoal-load", "1.1.1.1.1.1"),
            ("x-served-by", "somebody"),
        ]
        .iter()
        .fold(request, |request, (name, value)| request.header(name, value))
    };
    let quiet = shoal[0].ask(&forge(cluster_tests::node::embed("quiet")));
    assert_eq!(quiet.header("x-served-by"), Some("node-1"));
    assert_eq!((quiet.number("x-shoal-hops"), quiet.number("x-shoal-placements")), (0, 1));
    // One hop is claimed already, and yet the job gets its own.
    let calls =
        load::until("a forged call is forwarded", &shoal[0], 12, forge, |calls| calls.iter().any(Call::was_forwarded));
    assert_sound(&calls, "node-1");
    shoal.wait_rest();
}

#[test]
fn a_call_with_many_texts_is_forwarded_whole_and_in_order() {
    // The door cannot compute, so the call has to go.
    let shoal = Shoal::with_an_unable_door();
    let texts: Vec<String> = (0..2048).map(|number| format!("text {number}")).collect();
    let answer = shoal[0].post("/embed", &json!({ "inputs": texts }));
    assert_eq!(answer.status, 200, "{:.300}", answer.text());
    assert_eq!((answer.header("x-served-by"), answer.number("x-shoal-hops")), (Some("node-2"), 1));
    let rows = answer.json();
    assert_eq!(rows.as_array().map(Vec::len), Some(2048));
    for index in [0, 1, 255, 256, 1023, 2047] {
        assert_eq!(crate::numbers(&rows[index]), vector(&shoal[1].embed(&texts[index])), "text {index}");
    }
}
