//! How files look: headers, line ends, columns, and no notes left for later.
//!
//! For everyone who writes a file here.
//! Not here: layout of code (`rustfmt`); the data in `tests/fixtures`, which stays as the tool that made it wrote it.

use crate::repo::{Finding, Repo, assert_found, assert_none};

/// The same number as `max_width` in `rustfmt.toml`, which does not break long literals and comments.
const COLUMNS_MAX: usize = 120;

/// Written in halves, so that this file does not find itself.
const NOTES: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

const FIXTURES: &str = "tests/fixtures/";

fn headers(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts(".rs") {
        if !text.starts_with("//!") {
            findings.push(Finding::at(
                &path,
                1,
                "the file does not say what it is",
                "open it with `//!`: what it does, for whom, what always holds, what is not here",
            ));
        }
    }
    findings
}

fn line_ends(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts("") {
        if path.starts_with(FIXTURES) {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            findings.push(Finding::new(&path, "the last line has no end", "add a newline at the end of the file"));
        }
        if let Some(line) = text.lines().position(|line| line.ends_with([' ', '\t', '\r'])) {
            findings.push(Finding::at(&path, line + 1, "white space at the end of the line", "delete it"));
        }
    }
    findings
}

/// A line with a text in quotes may be longer: expected bodies and messages are read, and searched for, in one piece.
fn columns(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts(".rs") {
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !line.contains('"') {
                let fault = format!("{columns} columns, more than {COLUMNS_MAX}");
                findings.push(Finding::at(&path, index + 1, fault, "break the line"));
            }
            if line.contains('\t') {
                findings.push(Finding::at(&path, index + 1, "a tab", "indent with spaces; in a string write `\\t`"));
            }
        }
    }
    findings
}

fn notes(repo: &Repo) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in repo.texts("") {
        if path.starts_with(FIXTURES) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric());
            if let Some(note) = words.find(|word| NOTES.contains(word)) {
                let fix = "do it now, or open an issue and say in the text what holds today";
                findings.push(Finding::at(&path, index + 1, format!("a note for later: {note}"), fix));
            }
        }
    }
    findings
}

#[test]
fn every_rust_file_says_what_it_is() {
    assert_none(&headers(&Repo::here()));
}

#[test]
fn every_line_ends_cleanly() {
    assert_none(&line_ends(&Repo::here()));
}

#[test]
fn no_line_is_too_long() {
    assert_none(&columns(&Repo::here()));
}

#[test]
fn nothing_is_left_for_later() {
    assert_none(&notes(&Repo::here()));
}

#[test]
fn a_file_without_a_header_is_found() {
    let repo = Repo::example(&[("a/bad.rs", "use std::fmt;\n"), ("a/good.rs", "//! Good.\n")]);
    assert_found(&headers(&repo), &["a/bad.rs:1"]);
}

#[test]
fn a_ragged_line_end_is_found() {
    let repo = Repo::example(&[
        ("cut.md", "no end"),
        ("empty", ""),
        ("good.md", "end\n"),
        ("space.md", "one\ntwo \n"),
        ("tests/fixtures/as-it-came.json", "{}"),
    ]);
    assert_found(&line_ends(&repo), &["cut.md: ", "space.md:2"]);
}

#[test]
fn a_long_line_and_a_tab_are_found_and_columns_are_not_bytes() {
    let long = format!("//! {}\n", "x".repeat(COLUMNS_MAX - 3));
    let fits = format!("//! {}\n", "é".repeat(COLUMNS_MAX - 4));
    let text = format!("let body = \"{}\";\n", "x".repeat(COLUMNS_MAX));
    let repo = Repo::example(&[
        ("fits.rs", &fits),
        ("text.rs", &text),
        ("long.rs", &long),
        ("tab.rs", "//! Tab.\n\tfn a() {}\n"),
    ]);
    assert_found(&columns(&repo), &["long.rs:1: 121 columns", "tab.rs:2: a tab"]);
}

#[test]
fn a_note_for_later_is_found_as_a_word_only() {
    let bad = format!("//! Bad.\n// {}: later\n", NOTES[0]);
    let good = format!("//! Good: {}S is another word.\n", NOTES[0]);
    let repo = Repo::example(&[("bad.rs", &bad), ("good.rs", &good)]);
    assert_found(&notes(&repo), &["bad.rs:2: a note for later"]);
}
