//! `shoal status` and `GET /status`: what an operator sees of a shoal, from any of its nodes.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster_tests::binaries::binaries;
use cluster_tests::command::{self, Finished};
use cluster_tests::node::{Node, Plan};
use cluster_tests::shoal::{Shoal, plans};
use cluster_tests::wait::{self, LIMIT};
use serde_json::{Value, json};

/// A look takes three seconds at the longest, whoever hangs; a machine that is busy with other tests takes more.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// Runs `shoal status` against a node.
fn status(plan: &Plan, flags: &[&str]) -> Finished {
    let api = plan.api().to_string();
    let arguments: Vec<&str> = ["status", "--api", &api].into_iter().chain(flags.iter().copied()).collect();
    command::run(&binaries().shoal, &arguments, &[], LOOK_LIMIT)
}

/// One look as JSON, with the exit code.
fn look(plan: &Plan) -> (Option<i32>, Value) {
    let ended = status(plan, &["--json"]);
    let report = serde_json::from_str(&ended.output).unwrap_or_else(|fault| panic!("{fault}: {ended:?}"));
    (ended.code, report)
}

/// Looks until what is seen is as expected; returns that. A test that fails shows what was seen before.
#[track_caller]
fn look_until(what: &str, node: &Node, expected: impl Fn(Option<i32>, &Value) -> bool) -> Value {
    let mut findings = Value::Null;
    wait::until_some(&format!("{what}, as {} sees it", node.id()), LIMIT, || {
        let (code, report) = look(node.plan());
        if findings != report["findings"] {
            eprintln!("{code:?} {report}");
            findings = report["findings"].clone();
        }
        expected(code, &report).then_some(report)
    })
}

#[track_caller]
fn row<'a>(report: &'a Value, id: &str) -> &'a Value {
    let nodes = report["nodes"].as_array().expect("a list of nodes");
    nodes.iter().find(|node| node["node_id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

fn kinds(report: &Value) -> Vec<(&str, &str)> {
    let findings = report["findings"].as_array().expect("a list of findings");
    fn word<'a>(finding: &'a Value, name: &str) -> &'a str {
        finding[name].as_str().unwrap_or_default()
    }
    findings.iter().map(|finding| (word(finding, "kind"), word(finding, "node"))).collect()
}

#[test]
fn every_node_of_a_shoal_that_is_well_shows_the_same() {
    let shoal = Shoal::ready(3, "synthetic:0");
    let others = [["node-2", "node-3"], ["node-1", "node-3"], ["node-1", "node-2"]];
    for (node, seen) in shoal.iter().zip(others) {
        let report = look_until("all is well", node, |code, _| code == Some(0));
        assert_eq!((&report["well"], &report["answered"], &report["findings"]), (&json!(true), &json!(3), &json!([])));
        assert_eq!((&report["asked"], &report["cluster"]), (&json!(node.id()), &node.view()["cluster"]));
        assert_eq!(report["nodes"].as_array().map(Vec::len), Some(3));
        for other in shoal.iter() {
            let row = row(&report, other.id());
            assert_eq!(
                (&row["state"], &row["door"], &row["answered"]),
                (&json!("ready"), &json!("open"), &json!(true))
            );
            assert_eq!(row["asked"], other.id() == node.id());
            assert_eq!((&row["weight"], &row["backup"], &row["held"]), (&json!(100), &json!(false), &json!(0)));
            assert_eq!(
                (&row["api_addr"], &row["version"]),
                (&json!(other.plan().api().to_string()), &node.view()["version"])
            );
            assert!(row["model"].as_str().is_some_and(|model| model.starts_with("minilm@")), "{row}");
            for number in ["wait_us", "busy_percent", "changed_ms"] {
                assert!(row[number].is_u64(), "{number} in {row}");
            }
            let gate = if other.id() == node.id() { Value::Null } else { json!("passing") };
            assert_eq!(row["gate"], gate, "{row}");
        }
        assert_eq!(row(&report, node.id())["alive_at"], json!(seen), "who sees the asked node");
        let told = status(node.plan(), &[]);
        assert_eq!(told.code, Some(0), "{told:?}");
        let lines: Vec<&str> = told.output.lines().collect();
        for id in ["node-1", "node-2", "node-3"] {
            let own =
                lines.iter().filter(|line| line.split_whitespace().any(|word| word == id) && line.contains("minilm"));
            assert_eq!(own.count(), 1, "{}", told.output);
        }
        assert!(told.output.contains("agree on who is alive"), "{}", told.output);
        assert!(lines.iter().all(|line| line.chars().count() <= 120), "{}", told.output);
    }
}

#[test]
fn a_killed_node_is_shown_dead_with_the_time_and_exit_code_3() {
    let mut shoal = Shoal::ready(3, "synthetic:0");
    let before = Instant::now();
    shoal[2].kill();
    for survivor in [&shoal[0], &shoal[1]] {
        let report = look_until("node-3 is dead and no other fault is left", survivor, |code, report| {
            code == Some(3) && kinds(report) == [("dead", "node-3")]
        });
        let dead = row(&report, "node-3");
        assert_eq!((&dead["state"], &dead["door"]), (&json!("dead"), &json!("refused")));
        assert_eq!((&dead["dead_at"], &dead["alive_at"]), (&json!(["node-1", "node-2"]), &json!([])));
        let since = dead["changed_ms"].as_u64().map(Duration::from_millis).expect("since when it is dead");
        assert!(since <= before.elapsed(), "{since:?} is before it was killed");
        let told = status(survivor.plan(), &[]);
        assert_eq!(told.code, Some(3), "{told:?}");
        assert!(told.output.contains("! node-3 is dead for "), "{}", told.output);
    }
    let grown = |report: &Value| 1500 <= row(report, "node-3")["changed_ms"].as_u64().unwrap_or(0);
    look_until("asking whether it is back is no change", &shoal[0], |_, report| grown(report));
    shoal[2].start_again();
    look_until("node-3 is back", &shoal[0], |code, report| {
        code == Some(0) && row(report, "node-3")["state"] == "ready"
    });
}

#[test]
fn nodes_that_start_or_leave_are_shown_and_are_no_fault() {
    let plans = plans(3, "synthetic:0").into_iter().map(|plan| match plan.id() {
        "node-2" => plan.misbehaving("hang"),
        // A second word to leave ends it.
        "node-3" => plan.config("[drain]\nsettle_ms = 30000"),
        _ => plan,
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal[0].wait_ready();
    shoal[2].wait_ready();
    shoal[2].terminate();
    let report = look_until("one starts, one leaves", &shoal[0], |code, report| {
        code == Some(0)
            && report["nodes"].as_array().map(Vec::len) == Some(3)
            && row(report, "node-2")["state"] == "starting"
            && row(report, "node-3")["state"] == "draining"
    });
    assert_eq!(row(&report, "node-2")["door"], "open", "its callers are answered through peers");
    assert_eq!(row(&report, "node-3")["door"], "leaving");
    shoal[2].terminate();
    shoal[2].wait_end();
    let report = look_until("it has left", &shoal[0], |code, report| {
        code == Some(0) && row(report, "node-3")["state"] == "left"
    });
    assert_eq!(kinds(&report), [("left", "node-3")]);
}

#[test]
fn a_node_that_stands_still_costs_a_second_and_is_marked() {
    let mut shoal = Shoal::ready(3, "synthetic:0");
    shoal[2].freeze();
    let at = Instant::now();
    // Its kernel still takes connections, so whoever has no limit of its own would wait for ever.
    let (code, report) = look(shoal[0].plan());
    println!("with one node that stands still a look takes {} ms", at.elapsed().as_millis());
    assert_eq!((code, &row(&report, "node-3")["door"]), (Some(3), &json!("silent")), "{report}");
    assert_eq!((&row(&report, "node-1")["door"], &row(&report, "node-2")["door"]), (&json!("open"), &json!("open")));
    let found = kinds(&report);
    let marked = |kind| found.contains(&(kind, "node-3"));
    assert!(marked("door_silent") || marked("views_differ") || marked("dead"), "{found:?}");
    shoal[2].thaw();
    look_until("it goes on", &shoal[0], |code, _| code == Some(0));
}

#[test]
fn a_node_whose_gossip_does_not_get_through_is_marked_as_such() {
    // Two shoals of one node each under one name: each would be alone, if one did not answer at the other's address.
    let mut shoal = Shoal::ready(2, "synthetic:0");
    let plan = shoal[1].plan().clone();
    shoal[1].kill();
    wait::until("node-2 is dead for node-1", LIMIT, || shoal[0].peer("node-2")["alive"] == false);
    // What the door says is node-2's word; its gossip is heard by nobody.
    let listener = TcpListener::bind(plan.api()).expect("the port is free again");
    let body = json!({ "node_id": "node-2", "engine": "ready", "door": "open", "can_answer": true, "peers": [
        { "node_id": "node-1", "alive": false }
    ] });
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("status asks");
        let mut head = Vec::new();
        let mut byte = [0u8];
        while !head.ends_with(b"\r\n\r\n") && matches!(std::io::Read::read(&mut stream, &mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        let body = body.to_string();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("it reads the answer");
    });
    let told = status(shoal[0].plan(), &[]);
    answers.join().expect("the door answered");
    assert_eq!(told.code, Some(3), "{told:?}");
    let words = told.output.split_whitespace().collect::<Vec<_>>().join(" ");
    let peer = plan.peer();
    for part in ["TCP answers, gossip silent", &format!("UDP is most often blocked: let it pass to and from {peer}")] {
        assert!(words.contains(part), "{part} is missing in\n{}", told.output);
    }
}

#[test]
fn a_node_that_cannot_be_asked_is_exit_code_1_and_one_line() {
    let absent = Plan::new("absent", "");
    for flags in [&["--json"][..], &[]] {
        let ended = status(&absent, flags);
        assert_eq!((ended.code, ended.output.as_str()), (Some(1), ""), "{ended:?}");
        let complaints = ended.complaints();
        let [complaint] = complaints[..] else { panic!("not one line: {ended:?}") };
        assert!(complaint.contains(&absent.api().to_string()) && complaint.contains("refused"), "{complaint}");
    }
}

/// A `shoal status --watch` that ends with its test.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(plan: &Plan, flags: &[&str], output: impl Into<Stdio>) -> Watch {
    let mut command = Command::new(&binaries().shoal);
    command.args(["status", "--watch", "1", "--api", &plan.api().to_string()]).args(flags);
    Watch(command.stdin(Stdio::null()).stdout(output).spawn().expect("it can be started"))
}

#[test]
fn watching_tells_what_changes_one_object_a_line() {
    let mut shoal = Shoal::ready(2, "synthetic:0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = |name| directory.path().join(name);
    let file = |name| File::create(output(name)).expect("the directory is new");
    let read = |name| fs::read_to_string(output(name)).expect("the file was made above");
    let _watches = [watch(shoal[0].plan(), &["--json"], file("json")), watch(shoal[0].plan(), &[], file("table"))];
    let looks = || -> Vec<Value> {
        let text = read("json");
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"))).collect()
    };
    wait::until("the first looks", LIMIT, || !looks().is_empty() && read("table").contains("agree"));
    assert_eq!(looks()[0]["changes"], json!([]));
    shoal[1].kill();
    let change = json!({ "node": "node-2", "what": "state", "from": "ready", "to": "dead" });
    wait::until("the change is told", LIMIT, || {
        looks().iter().any(|look| look["changes"].as_array().is_some_and(|changes| changes.contains(&change)))
    });
    wait::until("the table tells it too", LIMIT, || read("table").contains("node-2 was ready, is dead"));
    assert!(!read("table").contains('\u{1b}'), "a file is no terminal: {}", read("table"));
}

#[test]
fn watching_ends_when_nobody_reads_any_more() {
    let mut node = Plan::new("alone", "synthetic:0").start();
    node.wait_ready();
    let mut watch = watch(node.plan(), &[], Stdio::piped());
    drop(watch.0.stdout.take());
    let ended = wait::until_some("it ends", LIMIT, || watch.0.try_wait().expect("the child is ours to wait for"));
    assert_eq!(ended.code(), Some(0), "all was well");
}
