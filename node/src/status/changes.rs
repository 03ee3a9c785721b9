//! What changed between two looks at the shoal, for `shoal status --watch`.
//!
//! Part of `status`. Pure. Invariants: only what an operator would act on counts: a load that moves is no change.

use serde::Serialize;

use super::merge::{Node, Report};
use super::text::Text;

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) node: Text,
    /// `node` (it came or went), `state`, `door`, `gate` or `model`.
    pub(super) what: &'static str,
    pub(super) from: Text,
    pub(super) to: Text,
}

impl Change {
    /// For people.
    pub(super) fn line(&self) -> String {
        let Self { node, what, from, to } = self;
        let word = |text: &Text| if text.is_empty() { "unknown".to_owned() } else { text.to_string() };
        match (*what, from.is_empty()) {
            ("node", true) => format!("{node} came, {to}"),
            ("node", false) => format!("{node} is forgotten, was {from}"),
            ("state", _) => format!("{node} was {}, is {}", word(from), word(to)),
            (what, _) => format!("{what} of {node} was {}, is {}", word(from), word(to)),
        }
    }
}

/// All changes, by name of the node.
pub(super) fn changes(before: &Report, after: &Report) -> Vec<Change> {
    let mut found = Vec::new();
    let of = |report: &Report, name: &Text| -> Option<usize> {
        report.nodes.binary_search_by(|node| node.node_id.cmp(name)).ok()
    };
    for node in &before.nodes {
        if of(after, &node.node_id).is_none() {
            found.push(change(node, "node", standing(node), Text::default()));
        }
    }
    for node in &after.nodes {
        let Some(old) = of(before, &node.node_id).map(|at| &before.nodes[at]) else {
            found.push(change(node, "node", Text::default(), standing(node)));
            continue;
        };
        let (was, is) = (words(old), words(node));
        for ((what, from), (_, to)) in was.into_iter().zip(is) {
            if from != to {
                found.push(change(node, what, from, to));
            }
        }
    }
    found.sort_by(|one, other| one.node.cmp(&other.node));
    found
}

/// What is compared of a node.
fn words(node: &Node) -> [(&'static str, Text); 4] {
    [
        ("state", node.state.clone()),
        ("door", Text::from(node.door.word())),
        ("gate", Text::from(if node.paused { "paused" } else { gate_word(node) })),
        ("model", node.model.clone()),
    ]
}

fn change(node: &Node, what: &'static str, from: Text, to: Text) -> Change {
    Change { node: node.node_id.clone(), what, from, to }
}

/// Never empty, so that who came is told from who went.
fn standing(node: &Node) -> Text {
    if node.state.is_empty() { Text::from("unknown") } else { node.state.clone() }
}

/// A gate that asks again and again whether a dead peer is back does not change by that.
fn gate_word(node: &Node) -> &str {
    match node.gate.as_deref().unwrap_or_default() {
        "probing" => "blocking",
        word => word,
    }
}
