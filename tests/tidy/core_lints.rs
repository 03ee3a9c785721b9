//! The core stays pure, and the lints that keep it so really bite.
//!
//! For whoever edits `node/core/clippy.toml`: each entry there needs a line of [`REFUSED`], which clippy must refuse.
//! Invariants: the file of the core repeats every entry of the root file, because clippy merges nothing; no module of
//! `std` that does IO, starts threads or asks the system is named in the core at all, listed function or not.
//! Not here: running clippy on the core itself (`make lint`); what its dependencies may be (`packages`).

use std::collections::BTreeSet;
use std::process::Command;

use crate::repo::{Finding, Repo, assert_found, assert_none};
use crate::source::{code, first_names, reads};

const CORE: &str = "node/core/";
const CORE_LINTS: &str = "node/core/clippy.toml";
const ROOT_LINTS: &str = "clippy.toml";

/// Modules of `std` that the core never names. `std::net` has plain values (`IpAddr`) and is left to the lints.
const IMPURE: &[&str] = &["env", "fs", "io", "os", "process", "thread"];

/// Each entry of the core's lints with an expression that breaks it.
const REFUSED: &[(&str, &str)] = &[
    ("std::time::Instant::now", "std::time::Instant::now()"),
    ("std::time::Instant::elapsed", "|at: &std::time::Instant| at.elapsed()"),
    ("std::time::SystemTime::now", "std::time::SystemTime::now()"),
    ("std::time::SystemTime::elapsed", "|at: &std::time::SystemTime| at.elapsed()"),
    ("std::hash::RandomState::new", "std::hash::RandomState::new()"),
    ("std::thread::spawn", "std::thread::spawn(|| ())"),
    ("std::thread::scope", "std::thread::scope(|_| ())"),
    ("std::thread::sleep", "std::thread::sleep(std::time::Duration::ZERO)"),
    ("std::thread::park", "std::thread::park()"),
    ("std::thread::park_timeout", "std::thread::park_timeout(std::time::Duration::ZERO)"),
    ("std::thread::yield_now", "std::thread::yield_now()"),
    ("std::thread::current", "std::thread::current()"),
    ("std::thread::available_parallelism", "std::thread::available_parallelism()"),
    ("std::process::exit", "|| std::process::exit(1)"),
    ("std::process::id", "std::process::id()"),
    ("std::env::var", "std::env::var(\"A\")"),
    ("std::env::var_os", "std::env::var_os(\"A\")"),
    ("std::env::vars", "std::env::vars()"),
    ("std::env::args", "std::env::args()"),
    ("std::env::current_dir", "std::env::current_dir()"),
    ("std::fs::read", "std::fs::read(\"a\")"),
    ("std::fs::read_to_string", "std::fs::read_to_string(\"a\")"),
    ("std::fs::read_dir", "std::fs::read_dir(\"a\")"),
    ("std::fs::write", "std::fs::write(\"a\", \"b\")"),
    ("std::io::stdin", "std::io::stdin()"),
    ("std::io::stdout", "std::io::stdout()"),
    ("std::io::stderr", "std::io::stderr()"),
    ("std::collections::HashMap", "std::collections::HashMap::<u8, u8>::new()"),
    ("std::collections::HashSet", "std::collections::HashSet::<u8>::new()"),
    ("std::hash::DefaultHasher", "std::hash::DefaultHasher::new()"),
    ("std::time::Instant", "None::<std::time::Instant>"),
    ("std::time::SystemTime", "None::<std::time::SystemTime>"),
    ("std::thread::Builder", "std::thread::Builder::new()"),
    ("std::thread::JoinHandle", "None::<std::thread::JoinHandle<()>>"),
    ("std::process::Command", "std::process::Command::new(\"a\")"),
    ("std::fs::File", "std::fs::File::open(\"a\")"),
    ("std::fs::OpenOptions", "std::fs::OpenOptions::new()"),
    ("std::net::TcpListener", "std::net::TcpListener::bind(\"a\")"),
    ("std::net::TcpStream", "std::net::TcpStream::connect(\"a\")"),
    ("std::net::UdpSocket", "std::net::UdpSocket::bind(\"a\")"),
    ("std::sync::Mutex", "std::sync::Mutex::new(1_u8)"),
    ("std::sync::RwLock", "std::sync::RwLock::new(1_u8)"),
    ("std::sync::Condvar", "std::sync::Condvar::new()"),
    ("std::print", "print!(\"a\")"),
    ("std::println", "println!(\"a\")"),
    ("std::eprint", "eprint!(\"a\")"),
    ("std::eprintln", "eprintln!(\"a\")"),
    ("std::thread_local", "{ thread_local!(static A: u8 = const { 1 }); }"),
];

/// What the core is written with, as clippy must let it pass.
const ALLOWED: &[&str] = &[
    "std::collections::BTreeMap::<u8, u8>::new()",
    "std::time::Duration::from_millis(1)",
    "std::net::Ipv4Addr::LOCALHOST",
    "std::sync::Arc::new(1_u8)",
];

/// The lines of a `clippy.toml` that set a plain value.
fn plain_entries(lints: &str) -> Vec<&str> {
    lints
        .lines()
        .filter(|line| !line.starts_with([' ', '#', ']']) && line.contains('=') && !line.ends_with('['))
        .collect()
}

/// The paths that a `clippy.toml` refuses.
fn refused_paths(lints: &str) -> BTreeSet<&str> {
    let entries = lints.lines().filter_map(|line| line.trim_start().strip_prefix("{ path = \""));
    entries.filter_map(|rest| rest.split('"').next()).collect()
}

fn repeated(repo: &Repo) -> Vec<Finding> {
    let root = repo.text(ROOT_LINTS).unwrap_or_default();
    let core = repo.text(CORE_LINTS).unwrap_or_default();
    let core: BTreeSet<&str> = plain_entries(&core).into_iter().collect();
    let missing = plain_entries(&root).into_iter().filter(|entry| !core.contains(entry));
    let findings = missing.map(|entry| {
        let fault = format!("`{entry}` of the root's {ROOT_LINTS} does not hold in the core");
        Finding::new(CORE_LINTS, fault, "repeat the line: clippy reads the nearest file only")
    });
    findings.collect()
}

fn proven(repo: &Repo, proofs: &[(&str, &str)]) -> Vec<Finding> {
    let lints = repo.text(CORE_LINTS).unwrap_or_default();
    let written = refused_paths(&lints);
    let proven: BTreeSet<&str> = proofs.iter().map(|(path, _)| *path).collect();
    let unproven = written.difference(&proven).map(|path| {
        let fix = "add a line to REFUSED in tests/tidy/core_lints.rs";
        Finding::new(CORE_LINTS, format!("nothing proves that `{path}` is refused"), fix)
    });
    let unwritten = proven.difference(&written).map(|path| {
        Finding::new(CORE_LINTS, format!("`{path}` is no longer refused"), "put the entry back, or take its proof out")
    });
    unproven.chain(unwritten).collect()
}

fn impure(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts(".rs").into_iter().filter(|(path, _)| path.starts_with(CORE)) {
        let code = code(&text);
        for at in (0..code.len()).filter(|at| reads(&code, *at, &["std", "::"])) {
            for name in first_names(&code, at + 2).into_iter().filter(|name| IMPURE.contains(&name.text)) {
                let fault = format!("the core names `std::{}`", name.text);
                let fix = "take a value, or return an effect and let the shell carry it out";
                findings.push(Finding::at(&path, name.line, fault, fix));
            }
        }
    }
    findings
}

/// Runs clippy, warnings denied, on a package of one function that holds these expressions under these lints.
///
/// Returns whether it passed, and what it wrote.
fn run_clippy(lints: &str, expressions: &[&str]) -> (bool, String) {
    let statements: Vec<String> = expressions.iter().map(|line| format!("    let _ = {line};\n")).collect();
    // Some of the expressions are odd code; only the lints of the file are asked about.
    let lead = "//! Proof.\n#![allow(clippy::all)]\n#![warn(clippy::disallowed_methods, clippy::disallowed_types, \
                clippy::disallowed_macros)]\n";
    let source = format!("{lead}/// Proof.\npub fn proof() {{\n{}}}\n", statements.concat());
    let manifest = "[package]\nname = \"proof\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
    let repo = Repo::example(&[("Cargo.toml", manifest), ("src/lib.rs", &source), ("clippy.toml", lints)]);
    let output = Command::new("cargo")
        .args(["clippy", "--offline", "--quiet", "--message-format=short", "--", "-D", "warnings"])
        .current_dir(repo.root())
        .env("CARGO_TARGET_DIR", repo.root().join("target"))
        .env_remove("CLIPPY_CONF_DIR")
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo started this test, so it can be started again");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The entries among `paths` about which clippy wrote nothing.
fn unreported<'a>(paths: impl IntoIterator<Item = &'a str>, written: &str) -> Vec<&'a str> {
    let kinds = ["method", "type", "macro"];
    let reported = |path: &str| kinds.iter().any(|kind| written.contains(&format!("disallowed {kind} `{path}`")));
    paths.into_iter().filter(|path| !reported(path)).collect()
}

#[test]
fn the_core_repeats_the_lints_of_the_root() {
    assert_none(&repeated(&Repo::here()));
}

#[test]
fn each_lint_of_the_core_has_a_proof() {
    assert_none(&proven(&Repo::here(), REFUSED));
}

#[test]
fn the_core_names_nothing_impure() {
    assert_none(&impure(&Repo::here()));
}

#[test]
fn clippy_refuses_each_entry_and_nothing_that_the_core_is_made_of() {
    let lints = Repo::here().text(CORE_LINTS).expect("the core has its own clippy.toml");
    let (passed, written) = run_clippy(&lints, ALLOWED);
    assert!(passed, "clippy refuses what the core needs:\n{written}\n    fix: narrow the entry in {CORE_LINTS}");

    let expressions: Vec<&str> = REFUSED.iter().map(|(_, expression)| *expression).collect();
    let (passed, written) = run_clippy(&lints, &expressions);
    let silent = unreported(REFUSED.iter().map(|(path, _)| *path), &written);
    assert!(
        !passed && silent.is_empty(),
        "clippy is silent about {silent:?}; it wrote:\n{written}\n    fix: correct the paths in {CORE_LINTS}",
    );
}

#[test]
fn an_entry_that_does_not_bite_is_noticed() {
    let lints = "disallowed-methods = [\n    { path = \"std::time::Instant::now\" },\n]\n";
    let (passed, written) = run_clippy(lints, &["std::time::Instant::now()", "std::time::SystemTime::now()"]);
    assert!(!passed, "the first expression is refused");
    let paths = ["std::time::Instant::now", "std::time::SystemTime::now"];
    assert_eq!(unreported(paths, &written), ["std::time::SystemTime::now"]);
}

#[test]
fn an_entry_of_the_root_that_is_not_repeated_is_found() {
    let root = "# Words.\nallow-unwrap-in-tests = true\ntoo-many-arguments-threshold = 6\n";
    let core = "too-many-arguments-threshold = 7\ndisallowed-types = [\n    { path = \"a::B\" },\n]\n";
    let repo = Repo::example(&[(ROOT_LINTS, root), (CORE_LINTS, core)]);
    assert_found(&repeated(&repo), &["`allow-unwrap-in-tests = true`", "`too-many-arguments-threshold = 6`"]);
}

#[test]
fn lints_and_proofs_that_differ_are_found() {
    let repo = Repo::example(&[(CORE_LINTS, "disallowed-types = [\n    { path = \"a::B\", reason = \"c\" },\n]\n")]);
    assert_none(&proven(&repo, &[("a::B", "B")]));
    let findings = proven(&repo, &[("a::C", "C")]);
    assert_found(&findings, &["nothing proves that `a::B` is refused", "`a::C` is no longer refused"]);
}

#[test]
fn an_impure_name_is_found_also_in_a_group() {
    let bad =
        "use std::{fmt, fs::File};\n// std::env::var in a comment is a word.\nfn a() { std::thread::yield_now() }\n";
    let repo = Repo::example(&[("node/core/src/bad.rs", bad), ("node/src/free.rs", "use std::fs;\n")]);
    let expected = ["bad.rs:1: the core names `std::fs`", "bad.rs:3: the core names `std::thread`"];
    assert_found(&impure(&repo), &expected);
}
