//! Nodes that cannot reach each other: cut apart, in one direction only, by gossip only.
//!
//! The nodes talk through the fault proxy of `cluster-sim`; what it can do is tested beside it. How soon things are
//! noticed is for drills.

use cluster_sim::proxy::{FaultProxy, Faults, Party, Rule};
use cluster_tests::load::{self, Call};
use cluster_tests::shoal::{Shoal, ready_behind_a_proxy};
use cluster_tests::wait::{self, LIMIT};

const NODES: usize = 3;

/// Node-1 has more to do than it can until both peers work for it.
#[track_caller]
fn work_moves(shoal: &Shoal) {
    let served = |calls: &[Call], id| calls.iter().any(|call| call.answer.header("x-served-by") == Some(id));
    let both = |calls: &[Call]| served(calls, "node-2") && served(calls, "node-3");
    let calls = load::until("both peers work for node-1", &shoal[0], 12, |request| request, both);
    assert!(calls.iter().all(|call| call.answer.status == 200), "{calls:?}");
    shoal.wait_rest();
}

#[track_caller]
fn all_alive(shoal: &Shoal, proxy: &FaultProxy) {
    for (node, other) in pairs().filter(|(node, other)| node != other) {
        let peer = shoal[node].peer(shoal[other].id());
        assert_eq!(peer["alive"], true, "node {node} of {peer}; {:?}", proxy.traffic(other, node));
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)))
}

#[test]
fn all_that_nodes_say_to_each_other_goes_through_the_proxy_under_their_names() {
    let (shoal, proxy) = ready_behind_a_proxy(NODES, "synthetic:20ms");
    work_moves(&shoal);
    for (from, to) in pairs() {
        let traffic = proxy.traffic(from, to);
        assert_eq!(from == to, traffic.datagrams == 0, "gossip {from} -> {to}: {traffic:?}");
    }
    for to in 0..NODES {
        let strange = proxy.traffic(Party::Stranger, to);
        assert_eq!((strange.connections, strange.datagrams), (0, 0), "somebody is not recognised: {strange:?}");
    }
    for peer in 1..NODES {
        assert!(0 < proxy.traffic(0, peer).connections, "node-1 worked with node {peer} past the proxy");
        assert!(0 < proxy.traffic(peer, 0).bytes, "answers came past the proxy");
    }
}

#[test]
fn gossip_that_passes_one_way_only_kills_nobody() {
    let (shoal, proxy) = ready_behind_a_proxy(NODES, "synthetic:20ms");
    proxy.set(0, 1, Rule::udp(Faults::CUT)).expect("the rule is in range");
    // Both of its own rounds and of answers to the other's: about three seconds, and a silent node is dead after one.
    let lost = || proxy.traffic(0, 1).datagrams_lost;
    wait::until("sixty datagrams are lost", LIMIT, || 60 <= lost());
    all_alive(&shoal, &proxy);
    work_moves(&shoal);
    all_alive(&shoal, &proxy);
}

#[test]
fn a_node_that_is_cut_off_serves_alone_and_comes_back() {
    let (mut shoal, proxy) = ready_behind_a_proxy(NODES, "synthetic:20ms");
    work_moves(&shoal);
    proxy.set_around(2, Rule::CUT).expect("there is such a node");
    let dead = |node: usize, other: usize| shoal[node].peer(shoal[other].id())["alive"] == false;
    wait::until("both sides call each other dead", LIMIT, || dead(0, 2) && dead(1, 2) && dead(2, 0) && dead(2, 1));
    for node in shoal.iter() {
        let answer = node.embed(&format!("asked of {} alone", node.id()));
        assert_eq!(answer.status, 200, "{}: {}", node.id(), answer.text());
    }
    proxy.heal();
    shoal.wait_formed();
    work_moves(&shoal);
}
