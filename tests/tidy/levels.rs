//! Which module may name which: arrows point to lower levels only.
//!
//! For whoever adds a module to `shoal-core` or to `shoal`: the two maps below are the architecture, in the order in
//! which ARCHITECTURE.md draws it, and a module that is in neither place is an error.
//! Invariants: both `crate::` and `super::` are followed, in tests of a module too; a module is named by its own path,
//! never through the root of its crate.
//! Not here: arrows between packages (`packages`).

use std::collections::BTreeSet;

use crate::repo::{Finding, Repo, assert_found, assert_none};
use crate::source::{Token, code, end_of_item, first_names, reads};

/// Whether the modules of one level may name each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Siblings {
    /// They know nothing of each other: a higher level joins them.
    Apart,
    /// They are small common ground, and ordered by use.
    Free,
}

struct Level {
    siblings: Siblings,
    modules: &'static [&'static str],
}

/// The modules of one crate, lowest level first.
struct Map {
    /// The folder of the crate's sources.
    sources: &'static str,
    levels: &'static [Level],
}

const CORE: Map = Map {
    sources: "node/core/src",
    levels: &[
        Level { siblings: Siblings::Apart, modules: &["time", "id", "prng", "share", "tally"] },
        Level {
            siblings: Siblings::Apart,
            modules: &[
                "cost",
                "gate",
                "breaker",
                "stretch",
                "budget",
                "heat",
                "admission",
                "affinity",
                "route",
                "retry",
                "lifecycle",
            ],
        },
        // They reckon with what a batch will take.
        Level { siblings: Siblings::Apart, modules: &["load", "batch"] },
        Level { siblings: Siblings::Apart, modules: &["peers", "queue", "split"] },
        Level { siblings: Siblings::Apart, modules: &["node"] },
        Level { siblings: Siblings::Apart, modules: &["record"] },
    ],
};

const NODE: Map = Map {
    sources: "node/src",
    levels: &[
        Level {
            siblings: Siblings::Free,
            modules: &["clock", "config", "identity", "job", "lanes", "ring", "sample", "telemetry", "wire"],
        },
        Level {
            siblings: Siblings::Apart,
            modules: &["listen", "forward", "gossip", "compute", "cache", "models", "probe", "record"],
        },
        Level { siblings: Siblings::Apart, modules: &["shell"] },
        Level { siblings: Siblings::Apart, modules: &["serve", "healthcheck", "status"] },
        Level { siblings: Siblings::Apart, modules: &["cli"] },
    ],
};

impl Map {
    fn level_of(&self, module: &str) -> Option<usize> {
        self.levels.iter().position(|level| level.modules.contains(&module))
    }

    fn check(&self, repo: &Repo) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut present = BTreeSet::new();
        let prefix = format!("{}/", self.sources);
        for (path, text) in repo.texts(".rs") {
            let Some(inner) = path.strip_prefix(&prefix) else { continue };
            let home = module_path(inner);
            // The roots of the crates (`lib.rs`, `main.rs`) only declare modules.
            let Some(module) = home.first() else { continue };
            present.insert((*module).to_owned());
            if let Some(level) = self.level_of(module) {
                self.check_file(&path, &text, &home, level, &mut findings);
            }
        }
        findings.extend(present.iter().filter(|module| self.level_of(module).is_none()).map(|module| {
            let fix =
                format!("add `{module}` to the map of {} in tests/tidy/levels.rs and to ARCHITECTURE.md", self.sources);
            Finding::new(format!("{prefix}{module}"), "the module has no level", fix)
        }));
        let written = self.levels.iter().flat_map(|level| level.modules);
        findings.extend(written.filter(|module| !present.contains(**module)).map(|module| {
            let fix = "take it out of the map in tests/tidy/levels.rs and out of ARCHITECTURE.md";
            Finding::new(format!("{prefix}{module}"), "the map names a module that is not there", fix)
        }));
        findings
    }

    fn check_file(&self, path: &str, text: &str, home: &[&str], level: usize, findings: &mut Vec<Finding>) {
        for named in modules_named(&code(text), home) {
            let place = |fault: String, fix: &str| Finding::at(path, named.line, fault, fix);
            match self.level_of(named.text) {
                _ if named.text == home[0] => {}
                None => findings.push(place(
                    format!("`crate::{}` is not a module of the map", named.text),
                    "name the module that defines it, not the root of the crate",
                )),
                Some(other) if other < level => {}
                Some(other) if other == level && self.levels[level].siblings == Siblings::Free => {}
                Some(other) => findings.push(place(
                    format!("`{}` (level {level}) names `{}` (level {other})", home[0], named.text),
                    "take a value or a small trait instead, and let a higher level join the two",
                )),
            }
        }
    }
}

/// The module of a file given below its crate's sources: `["peers", "view"]` for `peers/view.rs`, none for a root.
fn module_path(inner: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    if matches!(parts[..], ["lib" | "main"]) || parts.first() == Some(&"bin") {
        parts.clear();
    }
    parts
}

/// The modules at the root of the crate that a file in module `home` names, by `crate::` or by `super::`.
fn modules_named<'a>(code: &[Token<'a>], home: &[&str]) -> Vec<Token<'a>> {
    let mut named = Vec::new();
    // The ends of the inline modules that are open, innermost last.
    let mut inline: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < code.len() {
        inline.retain(|end| at < *end);
        if code[at].text == "mod" && code.get(at + 2).is_some_and(|next| next.text == "{") {
            inline.push(end_of_item(code, at));
        }
        if reads(code, at, &["crate", "::"]) {
            named.extend(first_names(code, at + 2));
            at += 2;
        } else if reads(code, at, &["super", "::"]) {
            let start = at;
            while reads(code, at, &["super", "::"]) {
                at += 2;
            }
            let climbed = (at - start) / 2;
            if climbed == home.len() + inline.len() {
                named.extend(first_names(code, at));
            }
        } else {
            at += 1;
        }
    }
    named.retain(|token| token.text != "self");
    named
}

#[test]
fn modules_of_the_core_name_only_lower_levels() {
    assert_none(&CORE.check(&Repo::here()));
}

#[test]
fn modules_of_the_node_name_only_lower_levels() {
    assert_none(&NODE.check(&Repo::here()));
}

const SMALL: Map = Map {
    sources: "src",
    levels: &[
        Level { siblings: Siblings::Free, modules: &["time", "id"] },
        Level { siblings: Siblings::Apart, modules: &["gate", "route"] },
    ],
};

/// A tree that keeps the rules of [`SMALL`], with the file at `path` replaced or added.
fn small(path: &str, text: &str) -> Repo {
    let mut files = vec![
        ("src/lib.rs", "mod time; mod id; mod gate; mod route; pub use gate::Gate;"),
        ("src/time.rs", "use crate::id::Id;"),
        ("src/id.rs", "// crate::gate and \"crate::route\" in a comment are words.\n"),
        ("src/gate/mod.rs", "mod rules; use crate::time::Now; mod tests { use super::*; }"),
        ("src/gate/rules.rs", "use super::Gate; use crate::gate::Miss;"),
        ("src/route.rs", "use crate::{time::Now, id::{self, Id}};"),
    ];
    files.retain(|(other, _)| *other != path);
    files.push((path, text));
    Repo::example(&files)
}

#[test]
fn a_tree_that_keeps_its_levels_passes() {
    assert_none(&SMALL.check(&small("README.md", "")));
}

#[test]
fn an_arrow_upwards_is_found() {
    let findings = SMALL.check(&small("src/time.rs", "\nfn a() -> crate::gate::Gate {}"));
    assert_found(&findings, &["src/time.rs:2: `time` (level 0) names `gate` (level 1)"]);
}

#[test]
fn an_arrow_to_a_sibling_is_found_also_in_a_group() {
    let findings = SMALL.check(&small("src/route.rs", "use crate::{id, gate::{Gate, Miss}};"));
    assert_found(&findings, &["src/route.rs:1: `route` (level 1) names `gate` (level 1)"]);
}

#[test]
fn an_arrow_hidden_behind_super_is_found() {
    let from_a_file = SMALL.check(&small("src/route.rs", "use super::gate::Gate;"));
    assert_found(&from_a_file, &["`route` (level 1) names `gate` (level 1)"]);
    let from_a_folder = SMALL.check(&small("src/gate/rules.rs", "use super::super::route::pick;"));
    assert_found(&from_a_folder, &["`gate` (level 1) names `route` (level 1)"]);
    let from_inline_tests = SMALL.check(&small("src/route.rs", "mod tests { use super::super::gate::Gate; }"));
    assert_found(&from_inline_tests, &["`route` (level 1) names `gate` (level 1)"]);
}

#[test]
fn a_way_around_through_the_root_of_the_crate_is_found() {
    assert_found(&SMALL.check(&small("src/route.rs", "use crate::Gate;")), &["`crate::Gate` is not a module"]);
    assert_found(&SMALL.check(&small("src/route.rs", "use crate::*;")), &["`crate::*` is not a module"]);
}

#[test]
fn a_module_outside_the_map_is_found() {
    assert_found(&SMALL.check(&small("src/extra/deep.rs", "")), &["src/extra: the module has no level"]);
}

#[test]
fn a_map_that_names_too_much_is_found() {
    let without_route = [("src/time.rs", ""), ("src/id.rs", ""), ("src/gate.rs", "")];
    assert_found(
        &SMALL.check(&Repo::example(&without_route)),
        &["src/route: the map names a module that is not there"],
    );
}
