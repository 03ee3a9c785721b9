//! Files that are no configuration: huge, no text, nested, missing, mutilated.

use super::*;

fn file<'a>(name: &'a str, content: &'a [u8]) -> Given<'a> {
    Given { file: Some((name, content)), ..Given::default() }
}

#[test]
fn a_file_that_is_no_configuration_gives_one_line() {
    let too_long = "#".repeat(256 * 1024 + 1);
    let deep_list = format!("node = {}", "[".repeat(100_000));
    let deep_table = format!("{}x = 1", "a.".repeat(10_000));
    let wide_nesting = format!("[node]\nid = {}1{}", "[".repeat(40), "]".repeat(40));
    let deep_flow = "[".repeat(100_000);
    let deep_block = "- ".repeat(100_000);
    let deep_indent: String = (0..400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "x.toml",
            too_long.as_bytes(),
            "x.toml: the file is longer than 262144 bytes; check that it is a configuration",
        ),
        (
            "x.yaml",
            too_long.as_bytes(),
            "x.yaml: the file is longer than 262144 bytes; check that it is a configuration",
        ),
        ("x.toml", b"[node]\nid = \"\xff\"", "x.toml:2: this is not UTF-8 text; save the file as UTF-8"),
        ("x.yaml", b"\xfe\xff", "x.yaml:1: this is not UTF-8 text; save the file as UTF-8"),
        (
            "x.toml",
            deep_list.as_bytes(),
            "x.toml:1: this is not TOML: cannot recurse further; max recursion depth met; mend the file",
        ),
        ("x.toml", deep_table.as_bytes(), "x.toml: this is not TOML: recursion limit; mend the file"),
        ("x.toml", wide_nesting.as_bytes(), "x.toml:2: values are nested deeper than 16; mend the file"),
        ("x.yaml", deep_flow.as_bytes(), "x.yaml:1: this is not YAML: recursion limit exceeded; mend the file"),
        ("x.yaml", deep_block.as_bytes(), "x.yaml:1: values are nested deeper than 16; mend the file"),
        ("x.yaml", deep_indent.as_bytes(), "x.yaml:18: values are nested deeper than 16; mend the file"),
        ("x.yaml", laughs.as_bytes(), "x.yaml:2: aliases (*name) are not allowed here; mend the file"),
        ("x.yaml", b"node:\n  id: a\nnode:\n  id: b\n", "x.yaml:3: \"node\" stands here and on line 1; mend the file"),
        ("x.yaml", b"a: b\n---\nc: d\n", "x.yaml:2: a second document begins here; mend the file"),
        ("x.yaml", b"- a\n", "x.yaml:1: the file holds no sections, such as `node:`; mend the file"),
        ("x.yaml", b"? [a]\n: b\n", "x.yaml:1: a name has to be text; mend the file"),
        ("x.toml", b"[node]\nid = \"a\"\nid = \"b\"\n", "x.toml:3: this is not TOML: duplicate key; mend the file"),
        ("x.toml", b"[node\n", "x.toml:1: "),
        ("x.yaml", b"node: [\n", "x.yaml:"),
        (
            "x.json",
            b"{}",
            "x.json: the name has neither .toml nor .yaml nor .yml at its end; rename the file to say what it is",
        ),
        ("x", b"", "x: the name has neither .toml nor .yaml nor .yml at its end; rename the file to say what it is"),
    ];
    for (name, content, line) in cases {
        let lines = file(name, content).load().unwrap_err();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let is_whole = line.contains(';');
        assert!(if is_whole { lines[0] == *line } else { lines[0].starts_with(line) }, "{lines:?} instead of {line:?}");
    }
}

#[test]
fn a_path_that_is_no_file_gives_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("shoal.toml");
    std::fs::create_dir(&inner).unwrap();
    let error = load(Some(&inner), std::iter::empty(), &[]).unwrap_err().to_string();
    assert_eq!(error, format!("{}: this is a directory; name the file in it", inner.display()));

    let missing = directory.path().join("missing.yml");
    let error = load(Some(&missing), std::iter::empty(), &[]).unwrap_err().to_string();
    let expected =
        "the file cannot be read: No such file or directory (os error 2); check the path and who may read it";
    assert_eq!(error, format!("{}: {expected}", missing.display()));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_trouble() {
    let config = file("x.toml", b"\xef\xbb\xbf[node]\r\nid = \"a\"\r\n").loaded().config;
    assert_eq!(config.node.id.as_deref(), Some("a"));
    let config = file("x.yml", b"\xef\xbb\xbfnode:\r\n  id: a\r\n").loaded().config;
    assert_eq!(config.node.id.as_deref(), Some("a"));
}

#[test]
fn thousands_of_mistakes_are_counted_not_printed() {
    let text: String = (0..10_000).map(|index| format!("unknown{index} = 1\n")).collect();
    let lines = toml(&text).load().unwrap_err();
    assert_eq!(lines.len(), 51);
    assert_eq!(
        lines[0],
        "unknown0 (from shoal.toml:1): unknown key; remove it, or see `shoal config sample` for every key"
    );
    assert_eq!(lines[50], "9950 more errors are not shown");
}

#[test]
fn long_names_and_values_are_cut() {
    let long = "x".repeat(100_000);
    let cases = [
        toml(&format!("{long} = 1\n")).load(),
        toml(&format!("[{long}]\n")).load(),
        toml(&format!("[node]\n{long} = 1\n")).load(),
        toml(&format!("[node]\nid = {long:?}\n")).load(),
        toml(&format!("[engine]\nthreads = {}\n", "9".repeat(100_000))).load(),
        variable(&format!("SHOAL__{long}"), "1").load(),
        variable("SHOAL__LOG__LEVEL", &long).load(),
        variable("SHOAL__GOSSIP__SEEDS", &long).load(),
    ];
    for lines in cases {
        let lines = lines.unwrap_err();
        assert!(lines.iter().all(|line| line.len() < 400), "{lines:?}");
    }
}

/// Every mutilation is an error or a configuration, never a panic and never a loop.
#[test]
fn mutilated_files_are_read_to_an_end() {
    let samples: [(&str, &[u8]); 2] = [
        (
            "x.toml",
            b"# c\n[node]\nid = \"a\\n\" # d\n[gossip]\nseeds = [\"a:1\", 'b:2']\nphi_threshold = 1e1\n\
              [a.b]\nc = 1979-05-27\n",
        ),
        (
            "x.yaml",
            b"node: {id: \"a\", zone: 'b'}\ngossip:\n  seeds:\n    - a:1\n    - &x b:2\n  interval_ms: !!int 5\n\
              log: |\n  text\n? k\n: v\n",
        ),
    ];
    const SIGNS: &[u8] = b"[]{}\"'#:-?!&*|>%@`,=.\n\t 0a\\~";
    let mut state = 1_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let directory = tempfile::tempdir().unwrap();
    for (name, sample) in samples {
        let path = directory.path().join(name);
        for _ in 0..500 {
            let mut bytes = sample.to_vec();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = SIGNS[below(SIGNS.len())],
                    1 => bytes.insert(at, SIGNS[below(SIGNS.len())]),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Err(errors) = load(Some(&path), std::iter::empty(), &[]) {
                assert!(errors.lines().all(|line| !line.contains(char::is_control)), "{errors}");
            }
        }
    }
}
