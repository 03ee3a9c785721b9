//! Recordings of real nodes: what the processes decided, the core decides again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::binaries::binaries;
use cluster_tests::command;
use cluster_tests::load::{self, Call};
use cluster_tests::shoal::{Shoal, plans};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Far above what a replay of such a file takes.
const LIMIT: Duration = Duration::from_secs(60);
/// A recording with so many steps means something.
const STEPS_MIN: u64 = 400;
/// It has them when it has so many entries: most are steps, some are reports.
const ENTRIES_MIN: f64 = 800.0;

/// Exit code and judgement of `cluster-sim replay`.
fn replay(file: &Path) -> (Option<i32>, Value) {
    let ended =
        command::run(&binaries().cluster_sim, &["replay".as_ref(), file.as_os_str(), "--json".as_ref()], &[], LIMIT);
    let judgement = serde_json::from_str(&ended.output).unwrap_or_else(|fault| panic!("{fault}: {ended:?}"));
    (ended.code, judgement)
}

/// Has node-1 busy until `enough`.
fn load(what: &str, shoal: &Shoal, enough: impl Fn(&[Call]) -> bool) {
    load::until(what, &shoal[0], 16, |request| request, enough);
}

fn computed_by(calls: &[Call], id: &str) -> usize {
    calls.iter().filter(|call| call.answer.header("x-served-by") == Some(id)).count()
}

/// A copy of `file` with one line changed; returns the copy and the number of the line.
fn tampered(file: &Path, change: impl Fn(&str) -> Option<String>) -> (PathBuf, usize) {
    let text = fs::read_to_string(file).expect("the file was replayed");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (at, line) = lines
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, line)| Some((at, change(line)?)))
        .unwrap_or_else(|| panic!("nothing to change in {}", file.display()));
    lines[at] = line;
    let copy = file.with_extension("tampered");
    fs::write(&copy, lines.join("\n") + "\n").expect("the directory is ours");
    (copy, at + 1)
}

#[test]
fn three_nodes_under_load_and_a_kill_decided_as_the_core_decides_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| directory.path().join(name);
    let plans = plans(3, "synthetic:10ms").into_iter();
    let plans = plans.map(|plan| {
        let file = file(plan.id()).display().to_string();
        plan.flag("--record", &file)
    });
    let mut shoal = Shoal::start(plans.collect());
    shoal.wait_formed();

    let written = |shoal: &Shoal| shoal[2].metric("shoal_record_entries_total", &[("fate", "written")]);
    load("node-3 has recorded much", &shoal, |_| ENTRIES_MIN <= written(&shoal));
    // kill -9 while node-3 computes for node-1.
    let victim = i32::try_from(shoal[2].pid()).ok().and_then(Pid::from_raw).expect("the id of a child");
    load("node-3 works for node-1, and is killed", &shoal, |calls| {
        let enough = 5 < computed_by(calls, "node-3");
        if enough {
            kill_process(victim, Signal::KILL).expect("nobody has waited for it, so the id is still its own");
        }
        enough
    });
    shoal[2].wait_end();

    // Its file stays as it is: nothing is overwritten, and the node says so.
    let killed = fs::read(file("node-3")).expect("the node recorded");
    shoal[2].start_again();
    assert_eq!(shoal[2].wait_end().code(), Some(78), "{}", shoal[2].log());
    let log = shoal[2].log();
    let complaint = log.lines().find(|line| line.starts_with("shoal: ")).expect("a refusal is explained");
    for word in ["record.file", "--record", "node-3", "is there already", "move it away"] {
        assert!(complaint.contains(word), "{word} is missing in: {complaint}");
    }
    assert_eq!(fs::read(file("node-3")).expect("it is still there"), killed);
    fs::rename(file("node-3"), file("killed")).expect("the directory is ours");
    shoal[2].start_again();
    shoal.wait_formed();
    load("node-3 works for node-1 again, and records it", &shoal, |calls| {
        0 < computed_by(calls, "node-3") && ENTRIES_MIN <= written(&shoal)
    });
    shoal.wait_rest();
    for node in shoal.iter() {
        assert_eq!(node.metric("shoal_recording", &[]), 1.0);
        assert!(0.0 < node.metric("shoal_record_bytes_total", &[]));
    }
    for index in 0..3 {
        shoal[index].terminate();
    }
    for index in 0..3 {
        assert_eq!(shoal[index].wait_end().code(), Some(0), "{}", shoal[index].log());
    }

    for (name, id, end) in [
        ("node-1", "node-1", Value::from("left")),
        ("node-2", "node-2", Value::from("left")),
        ("node-3", "node-3", Value::from("left")),
        ("killed", "node-3", Value::Null),
    ] {
        let (code, judgement) = replay(&file(name));
        println!("{name}: {judgement}");
        assert_eq!((code, &judgement["verdict"]), (Some(0), &Value::from("equal")), "{name}: {judgement}");
        assert_eq!((&judgement["node_id"], &judgement["end"]), (&Value::from(id), &end), "{name}");
        assert!(Some(STEPS_MIN) <= judgement["steps"].as_u64(), "{name}: {judgement}");
        let text = fs::read_to_string(file(name)).expect("it was replayed");
        assert!(!text.contains("for node-1"), "{name} holds a caller's text");
        assert!(text.contains("\"Acknowledge\"") || name == "node-1", "{name} computed for nobody");
    }

    // One number of one effect.
    let (copy, line) = tampered(&file("node-1"), |line| {
        let (before, effects) = line.split_once("\"effects\":")?;
        let changed =
            effects.contains("\"Forward\"").then(|| effects.replacen("\"remaining\":", "\"remaining\":1", 1))?;
        Some(format!("{before}\"effects\":{changed}"))
    });
    let (code, judgement) = replay(&copy);
    assert_eq!((code, &judgement["verdict"]), (Some(1), &Value::from("diverged")), "{judgement}");
    let told = &judgement["divergence"]["other"];
    assert_eq!(told["entry"].as_u64(), u64::try_from(line).ok());
    assert!(told["difference"]["effects"]["input"].is_object() || told["difference"]["effects"]["input"].is_string());

    // One number of one event, which shows in what the node then says of its load.
    let (copy, line) = tampered(&file("killed"), |line| {
        line.contains("\"EngineReady\"").then(|| line.replacen("\"took\":", "\"took\":9", 1))
    });
    let (code, judgement) = replay(&copy);
    assert_eq!((code, &judgement["verdict"]), (Some(1), &Value::from("diverged")), "{judgement}");
    assert_eq!(judgement["divergence"]["other"]["entry"].as_u64(), u64::try_from(line).ok());
}
