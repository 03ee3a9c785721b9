//! The samples in `config/` load, and the unit in `deploy/` agrees with the configuration.
//!
//! For the stranger whose first step is to copy a sample: it is read here by the very code that a node starts with.
//! Invariants: `config/` holds at least one TOML and one YAML sample, and nothing that is neither sample nor document;
//! each drill in `config/drills` is one that `cluster-sim` has built in, where a test reads it.
//! Not here: what the keys mean, and that bad values are refused (the tests of `shoal::config`).

use shoal::config;

use crate::repo::{Finding, Repo, assert_found, assert_none};

const SAMPLES: &str = "config/";
const DRILLS: &str = "config/drills/";
/// The list of the drills that are built in.
const BUILT_IN: &str = "cluster-sim/src/drill/scenario.rs";
const UNIT: &str = "deploy/systemd/shoal.service";

fn samples(repo: &Repo) -> Vec<Finding> {
    let all = repo.files().into_iter().filter(|path| path.starts_with(SAMPLES));
    let (drills, files): (Vec<String>, Vec<String>) = all.partition(|path| path.starts_with(DRILLS));
    let mut findings = Vec::new();
    let built_in = repo.text(BUILT_IN).unwrap_or_default();
    for path in drills {
        if !built_in.contains(&format!("{path}\"")) {
            findings.push(Finding::new(path, "no drill is made of it", format!("add it to the list in {BUILT_IN}")));
        }
    }
    for format in [".toml", ".yaml"] {
        if !files.iter().any(|path| path.ends_with(format)) {
            let fault = format!("there is no {format} sample");
            findings.push(Finding::new(SAMPLES, fault, "add one: people copy it"));
        }
    }
    for path in files {
        if path.ends_with(".toml") || path.ends_with(".yaml") {
            // What `load` asks of the environment is where a user's directories are.
            let environment = [("HOME".to_owned(), "/home/user".to_owned())];
            if let Err(errors) = config::load(Some(&repo.root().join(&path)), environment.into_iter(), &[]) {
                let fault = errors.lines().collect::<Vec<String>>().join("; ");
                findings.push(Finding::new(path, fault, "correct the sample: a node would not start with it"));
            }
        } else if !path.ends_with(".md") {
            findings.push(Finding::new(path, "this is no sample", "name it .toml or .yaml, or move it out of config/"));
        }
    }
    findings
}

/// The value of a setting of the unit.
fn unit_setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn unit(repo: &Repo) -> Vec<Finding> {
    let unit = repo.text(UNIT).unwrap_or_default();
    let mut findings = Vec::new();
    let no_restart = unit_setting(&unit, "RestartPreventExitStatus");
    if no_restart != Some(&config::EXIT_CODE.to_string()) {
        let fault = "a node with a wrong configuration is started over and over";
        let fix = format!("RestartPreventExitStatus={}", config::EXIT_CODE);
        findings.push(Finding::new(UNIT, fault, fix));
    }
    let drain_ms = config::key("drain.limit_ms").and_then(|key| key.default_value().as_u64());
    let drain_ms = drain_ms.expect("the configuration has the key drain.limit_ms, a whole number");
    let stop_s = unit_setting(&unit, "TimeoutStopSec").and_then(|seconds| seconds.parse::<u64>().ok());
    if stop_s.is_none_or(|seconds| seconds * 1000 <= drain_ms) {
        let fault = format!("systemd ends a node before its drain may end, {drain_ms} ms");
        findings.push(Finding::new(UNIT, fault, "set TimeoutStopSec to more seconds than drain.limit_ms"));
    }
    findings
}

#[test]
fn every_sample_is_one_that_a_node_starts_with() {
    assert_none(&samples(&Repo::here()));
}

#[test]
fn the_unit_agrees_with_the_configuration() {
    assert_none(&unit(&Repo::here()));
}

#[test]
fn a_sample_that_does_not_load_is_found() {
    let repo = Repo::example(&[
        ("config/README.md", "Samples.\n"),
        ("config/bad.toml", "[node]\nclustr = \"a\"\n"),
        ("config/good.yaml", "node:\n  cluster: a\n"),
        ("config/notes.ini", "a=b\n"),
    ]);
    assert_found(&samples(&repo), &["config/bad.toml: node.clustr", "config/notes.ini: this is no sample"]);
}

#[test]
fn a_drill_that_is_not_built_in_is_found() {
    let repo = Repo::example(&[
        ("config/a.toml", "[node]\ncluster = \"a\"\n"),
        ("config/b.yaml", "node:\n  cluster: a\n"),
        ("config/drills/kill.toml", "about = \"kill\"\n"),
        ("config/drills/forgotten.toml", "about = \"forgotten\"\n"),
        (BUILT_IN, "(\"kill\", include_str!(\"../../../config/drills/kill.toml\")),\n"),
    ]);
    assert_found(&samples(&repo), &["config/drills/forgotten.toml: no drill is made of it"]);
}

#[test]
fn a_format_without_a_sample_is_found() {
    let repo = Repo::example(&[("config/a.toml", "[node]\ncluster = \"a\"\n")]);
    assert_found(&samples(&repo), &["there is no .yaml sample"]);
}

#[test]
fn a_unit_that_disagrees_is_found() {
    let short = "[Service]\nRestartPreventExitStatus=78\nTimeoutStopSec=30\n";
    assert_found(&unit(&Repo::example(&[(UNIT, short)])), &["before its drain may end"]);
    let stubborn = "[Service]\n# RestartPreventExitStatus=78\nTimeoutStopSec=45\n";
    assert_found(&unit(&Repo::example(&[(UNIT, stubborn)])), &["is started over and over"]);
}
