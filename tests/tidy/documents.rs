//! Paths named in documents lead somewhere.
//!
//! For the reader of a `.md`, who follows a path and must find a file there.
//! Invariants: code in backticks counts as a path when it is written like one of this repository; fenced blocks are
//! commands and output, and are not looked at; links to other sites are not followed.
//! Not here: whether what is said about the file is true.

use crate::repo::{Finding, Repo, assert_found, assert_none};

/// Made by cargo: named in documents, absent in a fresh clone.
const BUILT: &str = "target/";

fn paths(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (index, line) in unfenced(&text) {
            for claim in in_backticks(line).filter(|claim| is_path(repo, claim)) {
                if !exists_from(repo, "", claim) && !exists_from(repo, folder, claim) {
                    let fix = "correct the path, counted from the root of the repository or from this document";
                    findings.push(Finding::at(&path, index + 1, format!("`{claim}` is not there"), fix));
                }
            }
            for target in link_targets(line).filter(|target| !exists_from(repo, folder, target)) {
                let fix = "correct the link, counted from the folder of this document";
                findings.push(Finding::at(&path, index + 1, format!("the link to {target} leads nowhere"), fix));
            }
        }
    }
    findings
}

/// The lines outside fenced blocks, with their index.
fn unfenced(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What stands between backticks: every second part of the line.
fn in_backticks(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a word in backticks claims to be a path of this repository.
///
/// It does when its first part is a folder of the root, when it starts with `./` or `../`, or when it ends like a
/// source file. `application/json` and `/etc/shoal` are not paths of this repository.
fn is_path(repo: &Repo, word: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/');
    if !word.chars().all(plain) || word.starts_with('/') || word.starts_with(BUILT) {
        return false;
    }
    match word.split_once('/') {
        Some(("." | "..", _)) => true,
        Some((first, _)) => word.ends_with(".rs") || (!first.is_empty() && repo.exists(first)),
        None => word.ends_with(".rs") || word.ends_with(".md"),
    }
}

/// The targets of `[text](target)` that lie in the repository, without their anchors.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.filter_map(|target| {
        let outside = target.contains(':') || target.starts_with('#') || target.starts_with(BUILT);
        (!outside).then(|| target.split('#').next().unwrap_or_default())
    })
}

/// Whether a path, counted from `folder`, exists and stays inside the repository.
fn exists_from(repo: &Repo, folder: &str, path: &str) -> bool {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return false;
                }
            }
            _ => parts.push(part),
        }
    }
    repo.exists(&parts.join("/"))
}

#[test]
fn every_path_in_a_document_exists() {
    assert_none(&paths(&Repo::here()));
}

#[test]
fn a_path_that_leads_nowhere_is_found() {
    let document = "See `node/src/gone.rs`, `node/src/real.rs:3` and `lost.rs`.\n\
                    Also `node/old/`, `application/json`, `target/debug/shoal`, `/etc/shoal`, `a b/c`.\n\
                    ```\n`node/src/fenced.rs`\n```\n\
                    Here: [a](gone.md), [b](../README.md#top), [c](#here), [d](mailto:x), [e](../../out.md)\n";
    let repo =
        Repo::example(&[("README.md", "`node/src`, `./docs`\n"), ("docs/page.md", document), ("node/src/real.rs", "")]);
    let expected = [
        "docs/page.md:1: `node/src/gone.rs`",
        "docs/page.md:1: `lost.rs`",
        "docs/page.md:2: `node/old/`",
        "docs/page.md:6: the link to gone.md",
        "docs/page.md:6: the link to ../../out.md",
    ];
    assert_found(&paths(&repo), &expected);
}

#[test]
fn a_path_may_count_from_the_root_or_from_its_document() {
    let document = "`systemd/shoal.service` is not checked, `./systemd` and `deploy/systemd/shoal.service` are.\n";
    let repo = Repo::example(&[("deploy/README.md", document), ("deploy/systemd/shoal.service", "")]);
    assert_none(&paths(&repo));
}
