//! Which layer wins, and that every layer sets every key.

use serde_json::json;

use super::*;
use crate::config::layers::Layers;

/// One key of each kind, with its text in the file, the environment and a flag, and the values that these mean.
#[test]
fn the_strongest_layer_that_sets_a_key_wins() {
    let cases = [
        (
            "node.cluster",
            "--cluster",
            ["\"file\"", "environment", "flag"],
            [json!("file"), json!("environment"), json!("flag")],
        ),
        ("engine.threads", "--threads", ["1", "2", "3"], [json!(1), json!(2), json!(3)]),
        ("gossip.phi_threshold", "--phi", ["1.5", "2", "3e1"], [json!(1.5), json!(2.0), json!(30.0)]),
        (
            "gossip.seeds",
            "--seed",
            ["[\"a:1\", \"b:1\"]", "c:1,d:1", "e:1"],
            [json!(["a:1", "b:1"]), json!(["c:1", "d:1"]), json!(["e:1"])],
        ),
        ("node.id", "--node-id", ["\"one\"", "two", "three"], [json!("one"), json!("two"), json!("three")]),
        ("log.format", "--log-format", ["\"json\"", "text", "json"], [json!("json"), json!("text"), json!("json")]),
    ];
    for (path, flag, texts, values) in cases {
        let key = key(path).unwrap();
        let (section, name) = path.split_once('.').unwrap();
        let file = format!("[{section}]\n{name} = {}\n", texts[0]);
        let variable = key.variable();
        let places = ["shoal.toml:2", &variable, flag];
        for layers in 0..8 {
            let sets = |layer: usize| layers & (1 << layer) != 0;
            let given = Given {
                file: sets(0).then_some(("shoal.toml", file.as_bytes())),
                environment: if sets(1) { vec![(&variable, texts[1])] } else { Vec::new() },
                flags: if sets(2) { vec![(key.path, flag, texts[2])] } else { Vec::new() },
            };
            let (value, place) = given.loaded().told(path);
            match (0..3).rev().find(|layer| sets(*layer)) {
                None => assert_eq!((&value, place.as_str()), (key.default_value(), "default")),
                Some(layer) => {
                    assert_eq!(value, values[layer], "{given:?}");
                    assert!(place.ends_with(places[layer]), "{place}");
                }
            }
        }
    }
}

#[test]
fn every_layer_sets_every_key() {
    for key in keys() {
        for text in edges(key).into_iter().filter(|text| !text.is_empty()) {
            let is_bare = matches!(key.rule, Rule::Whole { .. } | Rule::Real { .. } | Rule::Switch);
            let in_toml = if is_bare { text.clone() } else { format!("{text:?}") };
            let in_toml = if key.rule == Rule::Seeds { format!("[{in_toml}]") } else { in_toml };
            let in_yaml = if key.rule == Rule::Seeds { format!("\n    - {text:?}") } else { in_toml.clone() };
            let (section, name) = key.path.split_once('.').unwrap();
            let expected = key.rule.read(&rule::Written::Loose(text.clone())).unwrap();
            for given in [
                toml(&format!("[{section}]\n{name} = {in_toml}\n")),
                yaml(&format!("{section}:\n  {name}: {in_yaml}\n")),
                variable(&key.variable(), &text),
                typed(&[(key.path, "--flag", &text)]),
            ] {
                assert_eq!(settings(&given), [(key.path, expected.clone())], "{given:?}");
            }
        }
    }
}

/// What the layers take from `given`, before relations between keys are looked at.
#[track_caller]
fn settings(given: &Given<'_>) -> Vec<(&'static str, Value)> {
    let directory = tempfile::tempdir().unwrap();
    let mut layers = Layers::default();
    if let Some((name, content)) = given.file {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        layers.file(&path);
    }
    let variables: BTreeMap<_, _> =
        given.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    layers.environment(variables.iter());
    let flags: Vec<_> =
        given.flags.iter().map(|(key, name, value)| Flag { key, name, value: (*value).to_owned() }).collect();
    layers.flags(&flags);
    assert_eq!(layers.errors, [], "{given:?}");
    layers.settings.into_iter().map(|(path, (value, _))| (path, value)).collect()
}

#[test]
fn a_list_replaces_the_weaker_list_and_repeated_flags_make_one() {
    let cases: [(Given<'_>, Value); 6] = [
        (variable("SHOAL__GOSSIP__SEEDS", ""), json!([])),
        (variable("SHOAL__GOSSIP__SEEDS", " a:1 , b:2 "), json!(["a:1", "b:2"])),
        (typed(&[("gossip.seeds", "--seed", "a:1"), ("gossip.seeds", "--seed", "b:2")]), json!(["a:1", "b:2"])),
        (
            typed(&[("gossip.seeds", "--seed", "a:1,b:2"), ("gossip.seeds", "--seed", "c:3")]),
            json!(["a:1", "b:2", "c:3"]),
        ),
        (yaml("gossip:\n  seeds: a:1,b:2"), json!(["a:1", "b:2"])),
        (
            Given { flags: vec![("gossip.seeds", "--seed", "z:9")], ..variable("SHOAL__GOSSIP__SEEDS", "a:1") },
            json!(["z:9"]),
        ),
    ];
    for (given, seeds) in cases {
        assert_eq!(given.loaded().told("gossip.seeds").0, seeds, "{given:?}");
    }
}

#[test]
fn yaml_scalars_have_the_type_of_their_key() {
    let given = yaml("node:\n  zone: no\n  id: 0x10\n  cluster: 007\nengine:\n  threads: '4'\n");
    let node = given.loaded().config.node;
    assert_eq!((node.zone.as_str(), node.id.as_deref(), node.cluster.as_str()), ("no", Some("0x10"), "007"));
    assert_eq!(given.loaded().config.engine.threads, 4);
}

#[test]
fn what_is_left_empty_in_yaml_is_not_set() {
    for text in
        ["", "---\n", "# only a comment\n", "node:\n", "node: ~\n", "node:\n  id:\n", "node:\n  id: null\n", "{}"]
    {
        assert_eq!(yaml(text).loaded().config, Given::default().loaded().config, "{text:?}");
    }
}

#[test]
fn the_environment_of_others_is_not_looked_at() {
    let services = [("SHOAL_PORT", "tcp://10.0.0.1:80"), ("SHOAL_SERVICE_HOST", "10.0.0.1"), ("shoal__node__id", "x")];
    let given = Given { environment: services.to_vec(), ..Given::default() };
    assert_eq!(given.loaded().config, Given::default().loaded().config);
}

/// Variables, then the data directory and the directory of models, each with its place.
#[test]
fn default_directories_follow_the_environment() {
    type Case = (&'static [(&'static str, &'static str)], (&'static str, &'static str), (&'static str, &'static str));
    let cases: [Case; 6] = [
        (&[("HOME", "/h")], ("/h/.local/state/shoal", "HOME"), ("/h/.cache/shoal/models", "HOME")),
        (
            &[("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "/c")],
            ("/s/shoal", "XDG_STATE_HOME"),
            ("/c/shoal/models", "XDG_CACHE_HOME"),
        ),
        (
            &[("HOME", "/h"), ("XDG_STATE_HOME", "s")],
            ("/h/.local/state/shoal", "HOME"),
            ("/h/.cache/shoal/models", "HOME"),
        ),
        (&[], ("./shoal-data", "the working directory"), ("./shoal-data/models", "node.data_dir")),
        (&[("HOME", "/")], ("./shoal-data", "the working directory"), ("./shoal-data/models", "node.data_dir")),
        (&[("HOME", "")], ("./shoal-data", "the working directory"), ("./shoal-data/models", "node.data_dir")),
    ];
    for (variables, data, cache) in cases {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = load(None, variables.clone(), &[]).unwrap();
        for (key, (path, source)) in [("node.data_dir", data), ("model.cache_dir", cache)] {
            assert_eq!(loaded.told(key), (json!(path), format!("default, follows {source}")), "{variables:?}");
        }
    }
}

/// Flags, then what is told to peers and to callers, each with its place.
#[test]
fn advertised_addresses_follow_the_listeners() {
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);
    let cases: [Case; 4] = [
        (&[], "127.0.0.1:8090 default, follows peer.listen", "127.0.0.1:8080 default, follows api.listen"),
        (
            &[("peer.listen", "10.0.0.1:90"), ("api.listen", "0.0.0.0:80")],
            "10.0.0.1:90 default, follows peer.listen",
            "10.0.0.1:80 default, follows peer.advertise",
        ),
        (
            &[("peer.listen", "[::]:90"), ("peer.advertise", "10.0.0.1:91"), ("api.listen", "[::]:80")],
            "10.0.0.1:91 --flag",
            "10.0.0.1:80 default, follows peer.advertise",
        ),
        (
            &[("api.listen", "0.0.0.0:80"), ("api.advertise", "192.0.2.1:443")],
            "127.0.0.1:8090 default, follows peer.listen",
            "192.0.2.1:443 --flag",
        ),
    ];
    for (flags, peer, api) in cases {
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, "--flag", *value)).collect();
        let loaded = typed(&flags).loaded();
        let told = |key: &str| {
            let (value, place) = loaded.told(key);
            format!("{} {place}", value.as_str().unwrap())
        };
        assert_eq!((told("peer.advertise").as_str(), told("api.advertise").as_str()), (peer, api), "{flags:?}");
        assert_eq!(json!(loaded.config.peer.advertise), loaded.told("peer.advertise").0);
        assert_eq!(json!(loaded.config.api.advertise), loaded.told("api.advertise").0);
    }
}
