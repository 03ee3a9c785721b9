//! The files in `config/`, and what is printed.

use std::path::Path;

use serde_json::json;

use super::*;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

#[track_caller]
fn load_sample(name: &str) -> Loaded {
    let home = (HOME.0.to_owned(), HOME.1.to_owned());
    load(Some(&samples().join(name)), std::iter::once(home), &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_sample_file_is_the_reference() {
    let file = std::fs::read_to_string(samples().join("shoal.toml")).unwrap();
    assert_eq!(file, sample(), "run `shoal config sample > config/shoal.toml`");
    assert_eq!(load_sample("shoal.toml").config, Given::default().loaded().config);
}

#[test]
fn the_reference_holds_every_key_and_its_examples_load() {
    let set: String = sample()
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").filter(|rest| rest.contains(" = \"")).unwrap_or(line)))
        .collect();
    let loaded = toml(&set).loaded();
    for key in keys() {
        assert!(loaded.effective.place(key.path).is_set(), "{} is not in the reference", key.path);
    }
}

#[test]
fn the_small_yaml_sample_loads() {
    let config = load_sample("shoal.yaml").config;
    assert_eq!(config.gossip.seeds, ["10.0.0.12:8090", "10.0.0.13:8090"]);
    assert_eq!(config.api.advertise.to_string(), "10.0.0.11:8080");
}

#[test]
fn the_three_nodes_sample_is_one_shoal_without_clashes() {
    let nodes: Vec<_> = ["a", "b", "c"].map(|id| load_sample(&format!("three-nodes/{id}.toml")).config).into();
    assert!(nodes.iter().all(|node| node.node.cluster == "three-nodes"));
    let ids: BTreeSet<_> = nodes.iter().map(|node| node.node.id.clone().unwrap()).collect();
    let directories: BTreeSet<_> = nodes.iter().map(|node| node.node.data_dir.clone()).collect();
    let doors: BTreeSet<_> = nodes.iter().flat_map(|node| [node.api.listen, node.peer.listen]).collect();
    assert_eq!((ids.len(), directories.len(), doors.len()), (3, 3, 6));
    for node in &nodes {
        let others = nodes.iter().filter(|other| other.node.id != node.node.id);
        assert_eq!(node.gossip.seeds, others.map(|other| other.peer.listen.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn effective_text_loads_to_the_same_values() {
    let flags = [
        ("node.id", "--node-id", "b"),
        ("node.data_dir", "--data-dir", "a \"quoted\" \\ path"),
        ("gossip.seeds", "--seed", "a:1,b:2"),
        ("gossip.phi_threshold", "--phi", "8"),
        ("log.format", "--log-format", "json"),
    ];
    for given in [Given::default(), typed(&flags), variable("SHOAL__NODE__CLUSTER", "other")] {
        let first = given.loaded();
        let second = toml(&first.effective.to_toml()).loaded();
        assert_eq!(first.config, second.config, "{}", first.effective.to_toml());
    }
}

#[test]
fn effective_values_are_printed_with_their_places() {
    let given = Given {
        environment: vec![("SHOAL__GOSSIP__INTERVAL_MS", "50")],
        ..typed(&[("gossip.seeds", "--seed", "a:1,b:2")])
    };
    let effective = given.loaded().effective;
    let text = effective.to_toml();
    for line in [
        "# id is not set",
        "seeds = [\"a:1\", \"b:2\"] # --seed",
        "interval_ms = 50 # SHOAL__GOSSIP__INTERVAL_MS",
        "phi_threshold = 12.0 # default",
        "data_dir = \"/home/ann/.local/state/shoal\" # default, follows HOME",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let printed = effective.to_json();
    assert_eq!(printed["gossip"]["seeds"], json!({ "value": ["a:1", "b:2"], "from": "--seed" }));
    assert_eq!(printed["node"]["id"], json!({ "value": null, "from": "default" }));
    let count: usize = printed.as_object().unwrap().values().map(|section| section.as_object().unwrap().len()).sum();
    assert_eq!(count, keys().count());
}

#[test]
fn a_line_break_in_a_file_name_cannot_forge_lines() {
    let name = "a\nlisten = 1 #.toml";
    let given = Given { file: Some((name, b"[node]\ncluster = \"x\"\n")), ..Given::default() };
    assert_eq!(toml(&given.loaded().effective.to_toml()).loaded().config, given.loaded().config);
    let given = Given { file: Some((name, b"[node]\ncluster = 1\n")), ..Given::default() };
    given.fails_with(&["node.cluster (from a listen = 1 #.toml:2): 1 is not text; put it in quotes"]);
}
