//! Tests wait for conditions, never for time, and none of them is parked.
//!
//! For whoever writes a test that must wait: use the polling helper of the harness, which has a limit and names what it
//! waited for.
//! Invariants: one file may sleep, once: the polling helper. Everything in `tests/` and below `#[cfg(test)]` counts as
//! test code.
//! Not here: sleeping in the node itself, in the stand-in engine or in drills, which is their behaviour.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::repo::{Finding, Repo, assert_found, assert_none};
use crate::source::{Kind, Token, attributes, code, end_of_item, reads, tokens};

/// The one file of test code that may call a sleep, and only once.
const POLLING_HELPER: &str = "tests/src/wait.rs";

/// Calls that wait for time to pass.
const SLEEPS: &[&str] = &["sleep", "sleep_until", "sleep_ms", "park_timeout"];

fn sleeps(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    let files = repo.texts(".rs");
    let for_tests: BTreeSet<String> = files.iter().flat_map(|(path, text)| test_modules(path, &code(text))).collect();
    for (path, text) in files {
        let code = code(&text);
        let parts = test_parts(&code);
        let whole = path.starts_with("tests/") || path.contains("/tests/") || for_tests.contains(&path);
        let in_tests = |at: &usize| whole || parts.iter().any(|part| part.contains(at));
        let calls = |at: &usize| SLEEPS.contains(&code[*at].text) && code.get(at + 1).is_some_and(|it| it.text == "(");
        let called = (0..code.len()).filter(in_tests).filter(calls);
        let spared = usize::from(path == POLLING_HELPER);
        findings.extend(called.skip(spared).map(|at| {
            let fault = format!("a test calls `{}`", code[at].text);
            let fix = format!("wait for the condition with the polling helper in {POLLING_HELPER}");
            Finding::at(&path, code[at].line, fault, fix)
        }));
    }
    findings
}

fn parked(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts(".rs") {
        let code = code(&text);
        let mut lines: Vec<usize> = Vec::new();
        for inside in attributes(&code) {
            lines.extend(code[inside].iter().filter(|token| token.text == "ignore").map(|token| token.line));
        }
        let fences = tokens(&text).into_iter().filter(|token| token.kind == Kind::Comment);
        lines.extend(fences.filter(|token| token.text.contains("```ignore")).map(|token| token.line));
        let fix = "make it pass or delete it; an example that must not run is `text`";
        findings.extend(lines.into_iter().map(|line| Finding::at(&path, line, "a test is parked", fix)));
    }
    findings
}

/// The files that a file declares as modules for tests only, as in `#[cfg(test)] mod tests;`.
fn test_modules(path: &str, code: &[Token<'_>]) -> Vec<String> {
    let root = ["lib.rs", "main.rs", "mod.rs"].iter().find_map(|root| path.strip_suffix(root));
    let folder = root.map_or_else(|| format!("{}/", path.trim_end_matches(".rs")), str::to_owned);
    let mut files = Vec::new();
    for part in test_parts(code) {
        for at in part.filter(|at| reads(code, *at, &["mod"]) && reads(code, at + 2, &[";"])) {
            let name = code[at + 1].text;
            files.extend([format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]);
        }
    }
    files
}

/// The items of a file that exist in tests only: those under `#[test]` or a `cfg` that asks for `test`.
fn test_parts(code: &[Token<'_>]) -> Vec<Range<usize>> {
    let for_tests = attributes(code).into_iter().filter(|inside| {
        let words: Vec<&str> = code[inside.clone()].iter().map(|token| token.text).collect();
        let names_test = words.contains(&"test") && !words.windows(3).any(|run| run == ["not", "(", "test"]);
        // `#[cfg(… test …)]`, `#[test]`, `#[tokio::test(…)]`.
        let path = words.split(|word| *word == "(").next().unwrap_or_default();
        names_test && matches!(path.last(), Some(&"cfg" | &"test"))
    });
    for_tests.map(|inside| inside.start..end_of_item(code, inside.end + 1)).collect()
}

#[test]
fn no_test_sleeps() {
    assert_none(&sleeps(&Repo::here()));
}

#[test]
fn no_test_is_parked() {
    assert_none(&parked(&Repo::here()));
}

#[test]
fn a_sleep_is_found_in_tests_and_spared_elsewhere() {
    let node = "fn backoff() { thread::sleep(a); }\n#[cfg(test)]\nmod tests {\n    fn a() { sleep(b); }\n}\n\
                #[cfg(not(test))]\nfn real() { sleep(c); }\n#[tokio::test]\n#[must_use]\nfn b() { sleep_until(d) }\n";
    let twice = "fn poll() { std::thread::sleep(a); }\nfn again() { std::thread::sleep(a); }\n";
    let repo = Repo::example(&[
        ("node/src/lib.rs", node),
        ("node/src/pool.rs", "#[cfg(test)]\nmod pool_tests;\nmod real;\n"),
        ("node/src/pool/pool_tests.rs", "fn a() {\n    park_timeout(x); sleeper(); let sleep = 1;\n}\n"),
        ("node/src/pool/real.rs", "fn a() { sleep(x); }\n"),
        (POLLING_HELPER, twice),
    ]);
    let expected = [
        "node/src/lib.rs:4: a test calls `sleep`",
        "node/src/lib.rs:10: a test calls `sleep_until`",
        "node/src/pool/pool_tests.rs:2: a test calls `park_timeout`",
        "tests/src/wait.rs:2: a test calls `sleep`",
    ];
    assert_found(&sleeps(&repo), &expected);
}

#[test]
fn a_parked_test_is_found_in_every_form() {
    let bad = "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n#[cfg_attr(windows, ignore)]\nfn b() {}\n\
               /// ```ignore\n/// x()\n/// ```\nfn ignore() { let ignore = 1; }\n";
    let repo = Repo::example(&[("node/src/lib.rs", bad)]);
    let expected = ["node/src/lib.rs:2: a test is parked", "node/src/lib.rs:4", "node/src/lib.rs:6"];
    assert_found(&parked(&repo), &expected);
}
