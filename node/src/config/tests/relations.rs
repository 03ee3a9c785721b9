//! What must hold between keys.

use super::*;

const NO_TLS: &str = "is neither loopback nor private, and the traffic between peers is not encrypted yet (no TLS); \
     write an address of a private range, such as 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8";

fn set<'a>(pairs: &[(&'static str, &'a str)]) -> Given<'a> {
    typed(&pairs.iter().map(|(key, value)| (*key, "--flag", *value)).collect::<Vec<_>>())
}

#[test]
fn a_number_above_its_bound_names_the_key_that_somebody_set() {
    let cases: [(&[(&'static str, &str)], &str); 15] = [
        (
            &[("admission.deadline_ms_max", "29999")],
            "admission.deadline_ms_max (from --flag): 29999 is below admission.deadline_ms_default = 30000 (default); \
             raise it, or lower admission.deadline_ms_default",
        ),
        (
            &[("admission.deadline_ms_default", "300001")],
            "admission.deadline_ms_default (from --flag): 300001 is above admission.deadline_ms_max = 300000 \
             (default); lower it, or raise admission.deadline_ms_max",
        ),
        (
            &[("admission.deadline_ms_default", "402"), ("admission.deadline_ms_max", "401")],
            "admission.deadline_ms_default (from --flag): 402 is above admission.deadline_ms_max = 401 (--flag); \
             lower it, or raise admission.deadline_ms_max",
        ),
        (
            &[("admission.deadline_ms_default", "399")],
            "admission.deadline_ms_default (from --flag): 399 is below peer.ping_timeout_ms = 400 (default); \
             raise it, or lower peer.ping_timeout_ms",
        ),
        (
            &[("peer.accept_timeout_ms", "30001")],
            "peer.accept_timeout_ms (from --flag): 30001 is above admission.deadline_ms_default = 30000 (default); \
             lower it, or raise admission.deadline_ms_default",
        ),
        (
            &[("breaker.sleep_window_ms", "30001")],
            "breaker.sleep_window_ms (from --flag): 30001 is above breaker.sleep_window_ms_max = 30000 (default); \
             lower it, or raise breaker.sleep_window_ms_max",
        ),
        (
            &[("breaker.sleep_window_ms_max", "4999")],
            "breaker.sleep_window_ms_max (from --flag): 4999 is below breaker.sleep_window_ms = 5000 (default); \
             raise it, or lower breaker.sleep_window_ms",
        ),
        (
            &[("routing.hot_leave_percent", "75")],
            "routing.hot_leave_percent (from --flag): 75 is not below routing.hot_enter_percent = 75 (default); \
             lower it, or raise routing.hot_enter_percent",
        ),
        (
            &[("routing.hot_enter_percent", "65")],
            "routing.hot_enter_percent (from --flag): 65 is not above routing.hot_leave_percent = 65 (default); \
             raise it, or lower routing.hot_leave_percent",
        ),
        (
            &[("routing.hot_enter_percent", "40"), ("routing.hot_leave_percent", "60")],
            "routing.hot_leave_percent (from --flag): 60 is not below routing.hot_enter_percent = 40 (--flag); \
             lower it, or raise routing.hot_enter_percent",
        ),
        (
            &[("drain.settle_ms", "30001")],
            "drain.settle_ms (from --flag): 30001 is above drain.limit_ms = 30000 (default); \
             lower it, or raise drain.limit_ms",
        ),
        (
            &[("drain.limit_ms", "0")],
            "drain.limit_ms (from --flag): 0 is below drain.settle_ms = 500 (default); \
             raise it, or lower drain.settle_ms",
        ),
        (
            &[("admission.bytes_max", "1999999")],
            "admission.bytes_max (from --flag): 1999999 is below api.body_bytes_max = 2000000 (default); \
             raise it, or lower api.body_bytes_max",
        ),
        (
            &[("peer.message_bytes_max", "2065535")],
            "peer.message_bytes_max (from --flag): 2065535 is below api.body_bytes_max = 2000000 plus 65536 (default); \
             raise it, or lower api.body_bytes_max",
        ),
        (
            &[("api.body_bytes_max", "16711681")],
            "api.body_bytes_max (from --flag): 16711681 plus 65536 is above peer.message_bytes_max = \
             16777216 (default); lower it, or raise peer.message_bytes_max",
        ),
    ];
    for (pairs, line) in cases {
        set(pairs).fails_with(&[line]);
    }
}

#[test]
fn numbers_at_their_bound_are_fine() {
    set(&[("admission.deadline_ms_max", "30000")]).loaded();
    set(&[("drain.limit_ms", "500")]).loaded();
    set(&[("admission.bytes_max", "2000000"), ("peer.message_bytes_max", "2065536")]).loaded();
    set(&[("api.body_bytes_max", "16711680")]).loaded();
    set(&[("admission.deadline_ms_default", "400")]).loaded();
    set(&[("breaker.sleep_window_ms", "30000")]).loaded();
    set(&[("routing.hot_leave_percent", "74")]).loaded();
}

#[test]
fn a_node_that_computes_nothing_needs_others_who_do() {
    let seed = ("gossip.seeds", "127.0.0.1:9998");
    set(&[("node.weight", "0"), seed]).loaded();
    set(&[("node.backup", "true"), ("node.weight", "1")]).loaded();
    set(&[("node.weight", "0")])
        .fails_with(&["node.weight (from --flag): 0 leaves all work to peers, and gossip.seeds \
         (default) names none; name a peer in gossip.seeds (--seed), or raise it"]);
    set(&[("node.weight", "0"), ("node.backup", "true"), seed])
        .fails_with(&["node.backup (from --flag): a node that never \
         computes (node.weight = 0, --flag) is nobody's backup; set it to false, or raise node.weight"]);
    set(&[("node.weight", "0"), ("routing.policy", "local"), seed]).fails_with(&[
        "routing.policy (from --flag): local \
         keeps all calls on a node that computes none (node.weight = 0, --flag); choose another policy, or raise \
         node.weight",
    ]);
}

#[test]
fn peers_meet_on_loopback_and_private_addresses_only() {
    let private = [
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.1.1",
        "[::1]",
        "[fd12::1]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
    ];
    let public = [
        "9.255.255.255",
        "11.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "100.64.0.1",
        "8.8.8.8",
        "224.0.0.1",
        "255.255.255.255",
        "[2001:db8::1]",
        "[ff02::1]",
        "[::ffff:8.8.8.8]",
    ];
    for ip in private {
        set(&[("peer.listen", &format!("{ip}:90"))]).loaded();
        set(&[("peer.listen", "0.0.0.0:90"), ("peer.advertise", &format!("{ip}:90"))]).loaded();
    }
    for ip in public {
        let address = format!("{ip}:90");
        set(&[("peer.listen", &address)]).fails_with(&[&format!("peer.listen (from --flag): {address} {NO_TLS}")]);
        set(&[("peer.advertise", &address)])
            .fails_with(&[&format!("peer.advertise (from --flag): {address} {NO_TLS}")]);
    }
}

#[test]
fn addresses_that_nobody_can_reach_are_refused() {
    for every in ["0.0.0.0:90", "[::]:90"] {
        set(&[("peer.listen", every)]).fails_with(&[&format!(
            "peer.listen (from --flag): {every} is every address of this machine, which tells peers nothing; \
             set peer.advertise (--advertise) to the IP:PORT at which peers reach this node"
        )]);
        set(&[("peer.advertise", every)]).fails_with(&[&format!(
            "peer.advertise (from --flag): {every} is no address that a peer can reach; \
             write the IP:PORT at which peers reach this node"
        )]);
        set(&[("api.advertise", every)]).fails_with(&[&format!(
            "api.advertise (from --flag): {every} is no address that anybody can reach; \
             write the IP:PORT at which callers reach this node"
        )]);
    }
}

#[test]
fn the_two_doors_need_two_ports() {
    set(&[("peer.listen", "127.0.0.1:8080")]).fails_with(&[
        "peer.listen (from --flag): port 8080 is also that of api.listen (default); give the two different ports",
    ]);
    set(&[("api.listen", "0.0.0.0:8090")]).fails_with(&[
        "api.listen (from --flag): port 8090 is also that of peer.listen (default); give the two different ports",
    ]);
    set(&[("api.listen", "192.0.2.1:8090")]).loaded();
}

#[test]
fn a_loopback_node_cannot_join_another_machine() {
    set(&[("gossip.seeds", "127.0.0.1:1,10.0.0.2:8090")]).fails_with(&[
        "gossip.seeds (from --flag): 10.0.0.2:8090 is on another machine, which cannot reach this node at \
         127.0.0.1:8090 (peer.advertise, default, follows peer.listen); \
         set peer.listen (--peer-listen) to this machine's own IP:PORT",
    ]);
    set(&[("gossip.seeds", "127.0.0.2:1,[::1]:2,localhost:3")]).loaded();
    set(&[("gossip.seeds", "10.0.0.2:8090"), ("peer.listen", "10.0.0.1:8090")]).loaded();
}

#[test]
fn nothing_is_said_about_a_key_that_is_wrong_in_itself() {
    set(&[("admission.deadline_ms_default", "soon"), ("admission.deadline_ms_max", "1")])
        .fails_with(&["admission.deadline_ms_default (from --flag): \"soon\" is not a whole number; \
         write a whole number of milliseconds from 1 to 3600000, such as 30000"]);
    set(&[("peer.listen", "0.0.0.0:90"), ("peer.advertise", "me")])
        .fails_with(&["peer.advertise (from --flag): \"me\" is not IP:PORT; \
         write IP:PORT (host names are not looked up here), such as 10.0.0.5:8080"]);
}
