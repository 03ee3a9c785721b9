//! What keeps a node from starting, and what does not.
//!
//! Each refusal is exit code 78 and one line that names the key, where it was set, what is wrong and how to mend it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use cluster_tests::binaries::binaries;
use cluster_tests::command;
use cluster_tests::node::Plan;
use cluster_tests::wait::LIMIT;

/// A configuration file, flags, variables, and what the complaint has to say.
type Mistake<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// Runs `shoal serve` on free ports with these flags and variables, and expects one line with all of `words`.
#[track_caller]
fn assert_refused(directory: &Path, flags: &[&str], variables: &[(&str, &str)], words: &[&str]) {
    let plan = Plan::new("n", "");
    let (api, peer) = (plan.api().to_string(), plan.peer().to_string());
    let data = directory.join("data").display().to_string();
    let mut arguments = vec!["serve", "--engine", "synthetic:0", "--node-id", "n"];
    for (flag, value) in [("--api-listen", &api), ("--peer-listen", &peer), ("--data-dir", &data)] {
        if !flags.contains(&flag) {
            arguments.extend([flag, value.as_str()]);
        }
    }
    arguments.extend(flags);
    let ended = command::run(&binaries().shoal, &arguments, variables, LIMIT);
    assert_eq!(ended.code, Some(78), "{flags:?} {variables:?}: {ended:?}");
    let complaints = ended.complaints();
    let [complaint] = complaints[..] else { panic!("not one line: {ended:?}") };
    for word in words {
        assert!(complaint.contains(word), "{word} is missing in: {complaint}");
    }
    assert!(ended.output.is_empty(), "standard output is for results: {ended:?}");
}

#[test]
fn a_configuration_that_is_wrong_ends_with_one_line_and_code_78() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("shoal.toml");
    let path = file.display().to_string();
    let cases: &[Mistake<'_>] = &[
        ("[api]\nlisten_on = \"127.0.0.1:1\"\n", &[], &[], &["api.listen_on", "shoal.toml:2", "unknown key"]),
        ("[api]\nbody_byte_max = 5\n", &[], &[], &["api.body_byte_max", "body_bytes_max"]),
        ("[gossip]\ninterval_ms = \"100ms\"\n", &[], &[], &["gossip.interval_ms", "shoal.toml:2"]),
        ("[drain]\nlimit_ms = -1\n", &[], &[], &["drain.limit_ms", "shoal.toml:2"]),
        ("[api\n", &[], &[], &["shoal.toml"]),
        ("", &[], &[("SHOAL__API__LISTEM", "127.0.0.1:1")], &["SHOAL__API__LISTEM", "SHOAL__API__LISTEN"]),
        ("", &[], &[("SHOAL__ADMISSION__JOBS_MAX", "many")], &["admission.jobs_max", "SHOAL__ADMISSION__JOBS_MAX"]),
        ("", &["--threads", "many"], &[], &["engine.threads", "--threads"]),
        ("", &["--api-listen", "localhost"], &[], &["api.listen", "--api-listen"]),
        ("", &["--seed", "nowhere.invalid:8090"], &[], &["gossip.seeds", "--seed", "nowhere.invalid:8090", "resolve"]),
        ("", &["--peer-listen", "8.8.8.8:8090"], &[], &["peer.listen", "--peer-listen"]),
        ("", &["--policy", "roundrobin"], &[], &["routing.policy", "--policy", "did you mean `round_robin`"]),
        ("[node]\nweight = 0\n", &[], &[], &["node.weight", "shoal.toml:2", "gossip.seeds", "--seed"]),
        (
            "[node]\nweight = 0\nbackup = true\n",
            &["--seed", "127.0.0.1:1"],
            &[],
            &["node.backup", "shoal.toml:3", "node.weight"],
        ),
        ("[node]\nweight = -1\n", &[], &[], &["node.weight", "shoal.toml:2", "out of range"]),
        (
            "[routing]\nhot_enter_percent = 60\nhot_leave_percent = 70\n",
            &[],
            &[],
            &["routing.hot_leave_percent", "shoal.toml:3", "routing.hot_enter_percent = 60"],
        ),
        (
            "[admission]\ndeadline_ms_default = 200\n",
            &[],
            &[],
            &["admission.deadline_ms_default", "shoal.toml:2", "peer.ping_timeout_ms"],
        ),
        (
            "[breaker]\nsleep_window_ms_max = 200\n",
            &[],
            &[],
            &["breaker.sleep_window_ms_max", "shoal.toml:2", "breaker.sleep_window_ms = 5000"],
        ),
    ];
    for (text, flags, variables, words) in cases {
        fs::write(&file, text).expect("the directory is new");
        let flags: Vec<&str> = ["--config", &path].into_iter().chain(flags.iter().copied()).collect();
        assert_refused(directory.path(), &flags, variables, words);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert_refused(directory.path(), &["--config", "/nowhere/shoal.toml"], &[], &["/nowhere/shoal.toml"]);
}

#[test]
fn a_port_in_use_is_told_with_its_key_and_the_way_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plan = Plan::new("taken", "");
    let (api, peer) = (plan.api().to_string(), plan.peer().to_string());
    let taken = TcpListener::bind(plan.api()).expect("the port is free");
    assert_refused(directory.path(), &["--api-listen", &api], &[], &["api.listen", "--api-listen", &api, "stop what"]);
    drop(taken);
    let words = ["peer.listen", "--peer-listen", &peer, "stop what"];
    let taken = TcpListener::bind(plan.peer()).expect("the port is free");
    assert_refused(directory.path(), &["--peer-listen", &peer], &[], &words);
    drop(taken);
    // Gossip is UDP on the same port.
    let _taken = UdpSocket::bind(plan.peer()).expect("the port is free");
    assert_refused(directory.path(), &["--peer-listen", &peer], &[], &words);
}

#[test]
fn a_data_directory_in_use_is_told() {
    let mut node = Plan::new("first", "synthetic:0").start();
    node.wait_ready();
    let data = node.data().display().to_string();
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert_refused(directory.path(), &["--data-dir", &data], &[], &["node.data_dir", "--data-dir", &data, "in use"]);
    assert_eq!(node.embed("undisturbed").status, 200);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_only_a_warning() {
    // Below a file there can be no directory, for root neither.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("the directory is new");
    let mut node = Plan::new("unkept", "synthetic:0").data(&file.join("data")).start();
    node.wait_ready();
    assert_eq!(node.embed("works").status, 200);
    let log = node.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("cannot be written")), "{log}");
}

#[test]
fn a_node_that_was_told_no_id_keeps_the_one_that_it_made() {
    let id_at_start = |node: &mut cluster_tests::node::Node| {
        node.wait_ready();
        node.view()["node_id"].as_str().expect("a node has an id").to_owned()
    };
    let mut node = Plan::new("maker", "synthetic:0").without_id().start();
    let made = id_at_start(&mut node);
    node.kill();
    node.start_again();
    assert_eq!(id_at_start(&mut node), made);
}

#[test]
fn a_node_leaves_when_its_standard_input_ends() {
    // `--exit-with-stdin` is what keeps drills and these tests from leaving nodes behind.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plan = Plan::new("orphan", "");
    let (api, peer) = (plan.api().to_string(), plan.peer().to_string());
    let data = directory.path().display().to_string();
    let mut arguments = vec!["serve", "--exit-with-stdin", "--engine", "synthetic:0", "--data-dir", &data];
    arguments.extend(["--api-listen", &api, "--peer-listen", &peer]);
    let ended = command::run(&binaries().shoal, &arguments, &[], LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn the_health_check_asks_whether_an_answer_can_be_given() {
    let check = |plan: &Plan| {
        let api = plan.api().to_string();
        command::run(&binaries().shoal, &["healthcheck", "--api", &api], &[], LIMIT).code
    };
    let mut good = Plan::new("good", "synthetic:0").start();
    good.wait_ready();
    let mut bad = Plan::new("bad", "synthetic:0").misbehaving("nan").start();
    bad.wait_engine("failed");
    assert_eq!([good.plan(), bad.plan(), &Plan::new("absent", "")].map(check), [Some(0), Some(3), Some(3)]);
}
