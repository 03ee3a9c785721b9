//! The exact line for every mistake in one key.

use super::*;

#[test]
fn numbers_say_type_unit_and_range() {
    let ms = "write a whole number of milliseconds from 20 to 10000, such as 100";
    let cases = [
        ("\"1s\"", "\"1s\" is text, not a number"),
        ("\"100\"", "\"100\" is text, not a number"),
        ("19", "19 is out of range"),
        ("10001", "10001 is out of range"),
        ("-100", "-100 is out of range"),
        ("100.0", "\"100.0\" is not a whole number"),
        ("true", "\"true\" is not a whole number"),
        ("1979-05-27", "\"1979-05-27\" is not a whole number"),
        ("0x64", "\"0x64\" is not a whole number"),
        ("[100]", "a list is not a number"),
        ("99999999999999999999999", "99999999999999999999999 is out of range"),
    ];
    for (value, problem) in cases {
        let line = format!("gossip.interval_ms (from shoal.toml:3): {problem}; {ms}");
        toml(&format!("[gossip]\n\ninterval_ms = {value}\n")).fails_with(&[&line]);
    }
    let cases =
        [("1s", "\"1s\" is not a whole number"), ("", "\"\" is not a whole number"), ("7", "7 is out of range")];
    for (value, problem) in cases {
        let line = format!("gossip.interval_ms (from SHOAL__GOSSIP__INTERVAL_MS): {problem}; {ms}");
        variable("SHOAL__GOSSIP__INTERVAL_MS", value).fails_with(&[&line]);
        let line = format!("gossip.interval_ms (from --interval): {problem}; {ms}");
        typed(&[("gossip.interval_ms", "--interval", value)]).fails_with(&[&line]);
    }
    let line = format!("gossip.interval_ms (from shoal.yaml:2): \"1s\" is not a whole number; {ms}");
    yaml("gossip:\n  interval_ms: 1s\n").fails_with(&[&line]);
}

#[test]
fn a_switch_in_a_file_is_a_word_without_quotes() {
    for (value, problem) in [
        ("\"true\"", "\"true\" is text, not true or false"),
        ("1", "\"1\" is neither true nor false"),
        ("[true]", "a list is not a single value"),
    ] {
        let line = format!("api.explain (from shoal.toml:2): {problem}; write true or false");
        toml(&format!("[api]\nexplain = {value}\n")).fails_with(&[&line]);
    }
}

/// Key, text in a variable, and what the line says behind the key and the place.
#[test]
fn every_kind_of_value_says_what_is_wrong_and_what_to_write() {
    let label = "write 1 to 64 of the characters A-Z a-z 0-9 . _ -";
    let path = "write 1 to 4096 bytes of text";
    let address = "write IP:PORT (host names are not looked up here), such as 127.0.0.1:8080";
    let seeds = "write HOST:PORT, up to 256 of them, such as 10.0.0.5:8090";
    let phi = "write a number from 1 to 100, such as 12.0";
    let engine = "write candle, or synthetic:DURATION such as synthetic:5ms";
    let level = "write off, error, warn, info, debug or trace, or a filter such as info,shoal::forward=debug";
    let long = "x".repeat(65);
    let long_start = "x".repeat(60);
    let many = vec!["a:1"; 257].join(",");
    let cases: &[(&str, &str, String)] = &[
        ("node.cluster", "", format!("the text is empty; {label}")),
        ("node.cluster", "a b", format!("\"a b\" holds ' '; {label}")),
        ("node.cluster", "é", format!("\"é\" holds 'é'; {label}")),
        ("node.cluster", "a\nb", format!("\"a\\nb\" holds control characters or broken UTF-8; {label}")),
        ("node.cluster", "a\u{fffd}", format!("\"a\u{fffd}\" holds control characters or broken UTF-8; {label}")),
        ("node.id", &long, format!("\"{long_start}\"… (65 bytes) is longer than 64 bytes; {label}")),
        ("node.zone", "a/b", "\"a/b\" holds '/'; write up to 64 of the characters A-Z a-z 0-9 . _ -".to_owned()),
        ("node.data_dir", "", format!("the text is empty; {path}, such as /var/lib/shoal")),
        ("node.data_dir", "~/x", "\"~/x\" begins with ~, which only a shell expands; write the whole path".to_owned()),
        ("model.name", "", format!("the text is empty; {path}, such as minilm")),
        ("api.listen", "localhost:8080", format!("\"localhost:8080\" is not IP:PORT; {address}")),
        ("api.listen", "8080", format!("\"8080\" is not IP:PORT; {address}")),
        (
            "api.listen",
            "127.0.0.1:0",
            format!("\"127.0.0.1:0\" has port 0, which no peer or caller can know; {address}"),
        ),
        ("api.listen", "127.0.0.1:65536", format!("\"127.0.0.1:65536\" is not IP:PORT; {address}")),
        ("gossip.seeds", "a", format!("\"a\" has no port; {seeds}")),
        ("gossip.seeds", "a:1,,b:1", format!("\"\" has no port; {seeds}")),
        ("gossip.seeds", "a:1,b:0", format!("\"b:0\" has no port from 1 to 65535; {seeds}")),
        ("gossip.seeds", "a:+1", format!("\"a:+1\" has no port from 1 to 65535; {seeds}")),
        ("gossip.seeds", ":1", format!("\":1\" is not HOST:PORT; {seeds}")),
        (
            "gossip.seeds",
            "http://a:1",
            "\"http://a:1\" is not HOST:PORT; put an IPv6 address in brackets, such as [fd00::5]:8090".to_owned(),
        ),
        (
            "gossip.seeds",
            "fd00::5:1",
            "\"fd00::5:1\" is not HOST:PORT; put an IPv6 address in brackets, such as [fd00::5]:8090".to_owned(),
        ),
        ("gossip.seeds", "[a]:1", format!("\"[a]:1\" has no IPv6 address in its brackets; {seeds}")),
        ("gossip.seeds", "a b:1", format!("\"a b:1\" is not HOST:PORT; {seeds}")),
        ("gossip.seeds", &many, format!("257 seeds are too many; {seeds}")),
        ("gossip.phi_threshold", "high", format!("\"high\" is not a number; {phi}")),
        ("gossip.phi_threshold", "0.99", format!("0.99 is out of range; {phi}")),
        ("gossip.phi_threshold", "NaN", format!("NaN is out of range; {phi}")),
        ("gossip.phi_threshold", "inf", format!("inf is out of range; {phi}")),
        ("log.format", "xml", "\"xml\" is none of the words; write text or json".to_owned()),
        ("routing.policy", "adaptiv", "\"adaptiv\" is none of the words; did you mean `adaptive`?".to_owned()),
        (
            "routing.policy",
            "best",
            "\"best\" is none of the words; write adaptive, local, round_robin, weighted, dynamic_weight, least_conn, \
             least_load or ip_hash"
                .to_owned(),
        ),
        ("api.explain", "yes", "\"yes\" is neither true nor false; write true or false".to_owned()),
        ("node.backup", "1", "\"1\" is neither true nor false; write true or false".to_owned()),
        ("node.backup", "", "\"\" is neither true nor false; write true or false".to_owned()),
        ("node.weight", "10001", "10001 is out of range; write a whole number from 0 to 10000, such as 100".to_owned()),
        ("engine.spec", "candel", format!("\"candel\" is no engine; {engine}")),
        ("engine.spec", "candle:gpu", format!("\"candle:gpu\" is no engine; {engine}")),
        ("engine.spec", "synthetic", format!("\"synthetic\" has no duration; {engine}")),
        ("engine.spec", "synthetic:", format!("\"synthetic:\" has no duration; {engine}")),
        ("log.level", "", format!("the text is empty; {level}")),
        ("log.level", "inof", "\"inof\" is not a level; did you mean `info`?".to_owned()),
        ("log.level", "warn,tokio", format!("\"tokio\" is not a level; {level}")),
        (
            "log.level",
            "shoal=loud",
            format!(
                "\"shoal=loud\" is not a filter (error parsing level filter: expected one of \
                 \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5); {level}"
            ),
        ),
        ("engine.threads", "1025", "1025 is out of range; write a whole number from 0 to 1024, such as 0".to_owned()),
        (
            "gossip.dead_grace_s",
            "10m",
            "\"10m\" is not a whole number; write a whole number of seconds from 10 to 604800, such as 600".to_owned(),
        ),
        (
            "api.body_bytes_max",
            "2MB",
            "\"2MB\" is not a whole number; write a whole number of bytes from 1024 to 268435456, such as 2000000"
                .to_owned(),
        ),
        (
            "routing.margin_percent",
            "10%",
            "\"10%\" is not a whole number; write a whole number of percent from 0 to 1000, such as 10".to_owned(),
        ),
    ];
    for (path, text, says) in cases {
        let name = key(path).unwrap().variable();
        variable(&name, text).fails_with(&[&format!("{path} (from {name}): {says}")]);
    }
}

#[test]
fn values_of_the_wrong_shape_say_so() {
    let cases = [
        ("[node]\ncluster = 5\n", "node.cluster (from shoal.toml:2): 5 is not text; put it in quotes"),
        ("[node]\nzone = true\n", "node.zone (from shoal.toml:2): true is not text; put it in quotes"),
        (
            "[node]\nzone = ['a']\n",
            "node.zone (from shoal.toml:2): a list is not a single value; \
             write up to 64 of the characters A-Z a-z 0-9 . _ -",
        ),
        ("[node.zone]\na = 1\n", "node.zone (from shoal.toml:1): a table is not a value; remove the keys below it"),
        ("[engine.threads]\n", "engine.threads (from shoal.toml:1): a table is not a value; remove the keys below it"),
        ("[gossip.seeds]\n", "gossip.seeds (from shoal.toml:1): a table is not a value; remove the keys below it"),
        (
            "[gossip]\nseeds = 'a:1'\n",
            "gossip.seeds (from shoal.toml:2): \"a:1\" is not a list; write [\"HOST:PORT\"], in brackets",
        ),
        ("[gossip]\nseeds = [1]\n", "gossip.seeds (from shoal.toml:2): 1 is not text; put it in quotes"),
        (
            "gossip = 1\n",
            "gossip (from shoal.toml:1): this is a section, not a value; write gossip as a section with keys",
        ),
        (
            "[[gossip]]\n",
            "gossip (from shoal.toml:1): this is a section, not a value; write gossip as a section with keys",
        ),
    ];
    for (text, line) in cases {
        toml(text).fails_with(&[line]);
    }
    let missing = "the value is missing; give one, or remove the key";
    for (text, key) in [
        ("node:\n  cluster:\n", "node.cluster"),
        ("gossip:\n  seeds: ~\n", "gossip.seeds"),
        ("log:\n  level: null", "log.level"),
    ] {
        yaml(text).fails_with(&[&format!("{key} (from shoal.yaml:2): {missing}")]);
    }
}

#[test]
fn unknown_names_get_a_suggestion() {
    let key_list = "remove it, or see `shoal config sample` for every key";
    let section_list = "remove it, or see `shoal config sample` for every section";
    let cases = [
        (
            "[gossip]\ninterval = 5\n",
            "gossip.interval (from shoal.toml:2): unknown key; did you mean `gossip.interval_ms`?".to_owned(),
        ),
        (
            "[gossip]\nseed = []\n",
            "gossip.seed (from shoal.toml:2): unknown key; did you mean `gossip.seeds`?".to_owned(),
        ),
        (
            "[api]\nmax_body_bytes = 5\n",
            "api.max_body_bytes (from shoal.toml:2): unknown key; did you mean `api.body_bytes_max`?".to_owned(),
        ),
        (
            "interval_ms = 5\n",
            "interval_ms (from shoal.toml:1): unknown key; did you mean `gossip.interval_ms`?".to_owned(),
        ),
        (
            "[node]\njobs_max = 5\n",
            "node.jobs_max (from shoal.toml:2): unknown key; did you mean `admission.jobs_max`?".to_owned(),
        ),
        ("[Node]\nid = 'a'\n", "Node (from shoal.toml:1): unknown section; did you mean `node`?".to_owned()),
        ("[gosip]\nseeds = []\n", "gosip (from shoal.toml:1): unknown section; did you mean `gossip`?".to_owned()),
        ("[telemetry]\na = 1\nb = 2\n", format!("telemetry (from shoal.toml:1): unknown section; {section_list}")),
        (
            "[node]\nfavourite_colour = 'b'\n",
            format!("node.favourite_colour (from shoal.toml:2): unknown key; {key_list}"),
        ),
        ("\"node.id\" = 'a'\n", "\"node.id\" (from shoal.toml:1): unknown key; did you mean `node.id`?".to_owned()),
        ("\"a\\nb\" = 1\n", format!("\"a\\nb\" (from shoal.toml:1): unknown key; {key_list}")),
    ];
    for (text, line) in cases {
        toml(text).fails_with(&[&line]);
    }
    let cases = [
        ("SHOAL__GOSSIP__SEED", "did you mean `SHOAL__GOSSIP__SEEDS`?"),
        ("SHOAL__gossip__seeds", "did you mean `SHOAL__GOSSIP__SEEDS`?"),
        ("SHOAL__NODE_ID", "did you mean `SHOAL__NODE__ID`?"),
        ("SHOAL__MAX_JOBS_HELD", "remove it: variables with the prefix SHOAL__ set keys only"),
        ("SHOAL__", "remove it: variables with the prefix SHOAL__ set keys only"),
    ];
    for (name, fix) in cases {
        variable(name, "a:1").fails_with(&[&format!("{name}: unknown environment variable; {fix}")]);
    }
    typed(&[("gossip.sed", "--sed", "a")])
        .fails_with(&["gossip.sed (from --sed): unknown key; did you mean `gossip.seeds`?"]);
}

#[test]
fn all_mistakes_of_all_layers_are_told_at_once_also_overridden_ones() {
    let given = Given {
        file: Some(("shoal.toml", b"[engine]\nthreads = -1\n[node]\nid = \"a b\"\n")),
        environment: vec![("SHOAL__ENGINE__THREADS", "many"), ("SHOAL__NODE__ID", "fine")],
        flags: vec![("engine.threads", "--threads", "2"), ("api.listen", "--api-listen", "x")],
    };
    let threads = "write a whole number from 0 to 1024, such as 0";
    given.fails_with(&[
        &format!("engine.threads (from shoal.toml:2): -1 is out of range; {threads}"),
        "node.id (from shoal.toml:4): \"a b\" holds ' '; write 1 to 64 of the characters A-Z a-z 0-9 . _ -",
        &format!("engine.threads (from SHOAL__ENGINE__THREADS): \"many\" is not a whole number; {threads}"),
        "api.listen (from --api-listen): \"x\" is not IP:PORT; \
         write IP:PORT (host names are not looked up here), such as 127.0.0.1:8080",
    ]);
}
