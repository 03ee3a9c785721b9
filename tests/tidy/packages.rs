//! Which package may depend on which, and what may never be below the core.
//!
//! For whoever edits a manifest.
//! Invariants: the edges between our packages equal a written list, whatever kind of dependency they are; what cargo
//! builds below `shoal-core` holds no clock, no ambient randomness and no runtime; versions stand at the root only.
//! Not here: arrows between modules (`levels`); licences and advisories (`deny.toml`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Command;

use serde_json::Value;

use crate::repo::{Finding, Repo, assert_found, assert_none};
use crate::source::code;

/// Every arrow between our packages.
const EDGES: &[(&str, &str)] = &[
    ("shoal", "shoal-core"),
    ("shoal", "shoal-engine"),
    ("cluster-sim", "shoal-core"),
    ("cluster-tests", "shoal"),
    // The model of gossip and what it is made of (one suite of facts runs on it and on the real adaptor), and the fault
    // proxy.
    ("cluster-tests", "cluster-sim"),
    ("cluster-tests", "shoal-core"),
];

/// A package and what may not be anywhere below it.
struct Ban {
    package: &'static str,
    banned: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        package: "shoal-core",
        banned: &[
            "async-std",
            "candle-core",
            "chitchat",
            "chrono",
            "fastrand",
            "getrandom",
            "hyper",
            "jiff",
            "libc",
            "mio",
            "rand",
            "rustix",
            "smol",
            "socket2",
            "time",
            "tokio",
        ],
        why: "the core takes time, chance and events as values, so that the simulator drives what runs",
    },
    Ban {
        package: "shoal-engine",
        banned: &["chitchat", "hyper", "hyper-util", "prost", "tokio"],
        why: "the engine knows nothing of a cluster",
    },
];

/// Attributes that the root of the core must carry.
const CORE_ROOT: &str = "node/core/src/lib.rs";
const CORE_ATTRIBUTES: &[&str] = &["#![forbid(unsafe_code)]", "#![deny(missing_docs)]"];

/// The manifests as cargo reads them. Nothing is resolved, so nothing is fetched.
fn metadata(repo: &Repo) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repo.root())
        .output()
        .expect("cargo started this test, so it can be started again");
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn edges(metadata: &Value, written: &[(&str, &str)]) -> Vec<Finding> {
    let mut found = BTreeSet::new();
    for package in list(metadata, "packages") {
        let ours = list(package, "dependencies").iter().filter(|dependency| dependency["path"].is_string());
        found.extend(ours.map(|dependency| (text(package, "name"), text(dependency, "name"))));
    }
    let written: BTreeSet<(&str, &str)> = written.iter().copied().collect();
    let added = found.difference(&written).map(|(from, to)| {
        let fix = "take the dependency out; a new arrow is a change of the architecture and goes to EDGES in \
                   tests/tidy/packages.rs and to ARCHITECTURE.md first";
        Finding::new(format!("{from} -> {to}"), "the arrow is not on the list", fix)
    });
    let gone = written.difference(&found).map(|(from, to)| {
        let fix = "take it out of EDGES in tests/tidy/packages.rs and out of ARCHITECTURE.md";
        Finding::new(format!("{from} -> {to}"), "the list names an arrow that is not there", fix)
    });
    added.chain(gone).collect()
}

/// What is below `package` as cargo would build it alone, one package a line, its depth in front of its name.
///
/// Not read from `Cargo.lock`: that names every optional dependency that anybody in the workspace turned on.
fn tree(repo: &Repo, package: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "depth", "--package", package])
        .current_dir(repo.root())
        .output()
        .expect("cargo started this test, so it can be started again");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is banned below a package, each with a way that leads to it.
///
/// `tree` is as [`tree`] gives it. Development dependencies do not count: they are in no build of the node.
fn bans(tree: &str, ban: &Ban) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut way: Vec<&str> = Vec::new();
    for line in tree.lines() {
        let digits = line.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(line.len());
        let (Ok(depth), Some(name)) = (line[..digits].parse::<usize>(), line[digits..].split(' ').next()) else {
            continue;
        };
        way.truncate(depth);
        way.push(name);
        if 0 < depth && ban.banned.contains(&name) {
            let fault = format!("{} may not have `{name}` below it: {}", ban.package, ban.why);
            let fix = format!("drop `{}`, or turn off the feature that pulls it in", way[1]);
            findings.push(Finding::new(way.join(" -> "), fault, fix));
        }
    }
    findings
}

fn manifests(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, manifest) in repo.texts("Cargo.toml").into_iter().filter(|(path, _)| path != "Cargo.toml") {
        if !manifest.contains("[lints]\nworkspace = true") {
            let fix = "add `[lints]` with `workspace = true`";
            findings.push(Finding::new(&path, "the package is outside the lints of the workspace", fix));
        }
        let mut in_dependencies = false;
        for (index, line) in manifest.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                let fix = "put the version into [workspace.dependencies] of the root and write `NAME.workspace = true`";
                findings.push(Finding::at(&path, index + 1, "a version outside the root", fix));
            }
        }
    }
    findings
}

fn attributes(repo: &Repo) -> Vec<Finding> {
    let root = repo.text(CORE_ROOT).unwrap_or_default();
    let words: String = code(&root).iter().map(|token| token.text).collect();
    let missing = CORE_ATTRIBUTES.iter().filter(|attribute| !words.contains(*attribute));
    let findings = missing.map(|attribute| {
        Finding::new(CORE_ROOT, format!("`{attribute}` is missing"), "put it below the header of the file")
    });
    findings.collect()
}

#[test]
fn the_arrows_between_packages_are_the_written_ones() {
    assert_none(&edges(&metadata(&Repo::here()), EDGES));
}

#[test]
fn nothing_banned_is_below_a_package() {
    for ban in BANS {
        let tree = tree(&Repo::here(), ban.package);
        assert!(tree.starts_with(&format!("0{} ", ban.package)), "cargo tree wrote something else:\n{tree}");
        assert_none(&bans(&tree, ban));
    }
}

#[test]
fn manifests_follow_the_root() {
    assert_none(&manifests(&Repo::here()));
}

#[test]
fn the_core_forbids_unsafe_code_and_missing_documentation() {
    assert_none(&attributes(&Repo::here()));
}

/// Two packages; `a` depends on what `dependencies` says.
fn two_packages(dependencies: &str, lock: &str) -> Repo {
    let manifest = |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n");
    let depending = format!("{}{dependencies}", manifest("a"));
    Repo::example(&[
        ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\"]\n"),
        ("Cargo.lock", lock),
        ("a/Cargo.toml", &depending),
        ("a/src/lib.rs", ""),
        ("b/Cargo.toml", &manifest("b")),
        ("b/src/lib.rs", ""),
    ])
}

#[test]
fn an_arrow_too_many_is_found_whatever_its_kind() {
    for kind in ["dependencies", "dev-dependencies", "target.'cfg(windows)'.build-dependencies"] {
        let repo = two_packages(&format!("[{kind}]\nb = {{ path = \"../b\" }}\n"), "");
        assert_found(&edges(&metadata(&repo), &[]), &["a -> b: the arrow is not on the list"]);
        assert_none(&edges(&metadata(&repo), &[("a", "b")]));
    }
}

#[test]
fn a_written_arrow_that_is_gone_is_found() {
    let repo = two_packages("", "");
    assert_found(&edges(&metadata(&repo), &[("a", "b")]), &["a -> b: the list names an arrow that is not there"]);
}

#[test]
fn a_banned_package_is_found_however_deep_it_lies() {
    let tree =
        "0a v0.1.0 (/somewhere)\n1dice v1.0.0\n2bits v0.2.0\n3getrandom v0.3.0\n1safe v1.0.0\n1getrandom v0.4.0\n";
    let ban = Ban { package: "a", banned: &["getrandom", "a"], why: "of a test" };
    let expected = ["a -> dice -> bits -> getrandom: a may not have `getrandom` below it", "a -> getrandom: a may not"];
    assert_found(&bans(tree, &ban), &expected);
}

#[test]
fn only_what_is_built_counts_as_below() {
    for (kind, below) in [("dependencies", true), ("dev-dependencies", false)] {
        let repo = two_packages(&format!("[{kind}]\nb = {{ path = \"../b\" }}\n"), "");
        let ban = Ban { package: "a", banned: &["b"], why: "of a test" };
        assert_eq!(!bans(&tree(&repo, "a"), &ban).is_empty(), below, "{kind}");
    }
}

#[test]
fn a_manifest_that_goes_its_own_way_is_found() {
    let bad = "[package]\nname = \"a\"\n\n[dependencies]\nserde.workspace = true\ntokio = \"1\"\n\
               bytes = { workspace = true, features = [\n  \"serde\",\n] }\n";
    let repo = Repo::example(&[("Cargo.toml", "[workspace]\n"), ("a/Cargo.toml", bad)]);
    let expected = ["a/Cargo.toml: the package is outside the lints", "a/Cargo.toml:6: a version outside the root"];
    assert_found(&manifests(&repo), &expected);
}

#[test]
fn a_core_without_its_attributes_is_found() {
    let repo = Repo::example(&[(CORE_ROOT, "//! `#![deny(missing_docs)]` in a comment is a word.\n")]);
    assert_found(&attributes(&repo), &["`#![forbid(unsafe_code)]` is missing", "`#![deny(missing_docs)]` is missing"]);
}
