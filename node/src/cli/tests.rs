//! Tests of the command line: parsing only, nothing runs.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[track_caller]
fn serve(line: &str) -> ServeArgs {
    match parse(line).unwrap().command {
        Command::Serve(args)
        | Command::Config(ConfigCommand::Check(args) | ConfigCommand::Print { serve: args, .. }) => *args,
        other => panic!("{line} is {other:?}"),
    }
}

const EVERY_FLAG: &str = "--cluster c --node-id i --data-dir d --api-listen a --peer-listen p --advertise v --seed s \
     --seed t --model m --engine e --threads 4 --policy y --cache-bytes-max b --record r --record-bytes-max n \
     --log-level l --log-format f";

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

/// Guards the `expect` in `config::help`, and that no flag is parsed and then forgotten.
#[test]
fn every_flag_sets_a_key() {
    let flags = serve(&format!("shoal serve --config x.toml {EVERY_FLAG}")).flags();
    assert!(flags.iter().all(|flag| config::key(flag.key).is_some()), "{flags:?}");
    let found: BTreeSet<_> = flags.iter().map(|flag| flag.name.to_owned()).collect();
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let defined = serve.get_arguments().filter_map(|argument| argument.get_long());
    let defined: BTreeSet<_> =
        defined.filter(|name| !["config", "exit-with-stdin"].contains(name)).map(|name| format!("--{name}")).collect();
    assert_eq!(found, defined);
    let keys: BTreeSet<_> = flags.iter().map(|flag| flag.key).collect();
    assert_eq!(keys.len(), found.len(), "two flags set one key");
}

#[test]
fn values_reach_their_keys() {
    let flags = serve(&format!("shoal serve {EVERY_FLAG}")).flags();
    let values: Vec<_> = flags.iter().map(|flag| format!("{}={}", flag.key, flag.value)).collect();
    let expected = "node.cluster=c node.id=i node.data_dir=d api.listen=a peer.listen=p peer.advertise=v model.name=m \
         engine.spec=e engine.threads=4 routing.policy=y cache.bytes_max=b record.file=r record.bytes_max=n log.level=l log.format=f gossip.seeds=s gossip.seeds=t";
    assert_eq!(values.join(" "), expected);
    let silent = serve("shoal serve --config x.toml --exit-with-stdin");
    assert_eq!(silent.flags(), []);
    assert!(silent.exit_with_stdin && !serve("shoal serve").exit_with_stdin);
}

#[test]
fn the_help_names_key_variable_and_default_of_every_flag() {
    let mut command = Cli::command();
    let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for flag in serve(&format!("shoal serve {EVERY_FLAG}")).flags() {
        let key = config::key(flag.key).unwrap();
        for part in [format!("{} <", flag.name), format!("[key {}, env {}", key.path, key.variable())] {
            assert!(help.contains(&part), "{part} is not in {help}");
        }
        if let Some(default) = key.default_value().as_str() {
            let part = format!("{}, default {default}]", key.variable());
            assert!(help.contains(&part), "{part} is not in {help}");
        }
    }
}

#[test]
fn config_commands_take_the_flags_of_serve() {
    for command in ["config check", "config print", "config print --json"] {
        let args = serve(&format!("shoal {command} --config x.yaml --seed a:1"));
        assert_eq!(args.config, Some("x.yaml".into()));
        assert_eq!(args.flags(), [Flag { key: "gossip.seeds", name: "--seed", value: "a:1".to_owned() }]);
    }
    assert!(matches!(parse("shoal config sample").unwrap().command, Command::Config(ConfigCommand::Sample)));
}

#[test]
fn model_commands_set_name_and_directory() {
    let Command::Model(ModelCommand::Fetch(args)) = parse("shoal model fetch minilm --cache-dir /c").unwrap().command
    else {
        panic!("this is `model fetch`");
    };
    let values: Vec<_> = args.flags().into_iter().map(|flag| (flag.key, flag.value)).collect();
    assert_eq!(values, [("model.name", "minilm".to_owned()), ("model.cache_dir", "/c".to_owned())]);
    for line in
        ["shoal model inspect --json", "shoal model inspect /a/directory", "shoal model list --json --cache-dir /c"]
    {
        assert!(matches!(parse(line).unwrap().command, Command::Model(_)), "{line}");
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    let wrong = [
        "shoal",
        "shoal fly",
        "shoal serve --fly",
        "shoal serve --seed",
        "shoal serve --cluster a --cluster b",
        "shoal serve now",
        "shoal config",
        "shoal config check --json",
        "shoal model",
        "shoal model list minilm",
        "shoal healthcheck --api localhost",
        "shoal status --api localhost",
        "shoal status --watch 0",
        "shoal status --watch 3601",
        "shoal status --watch --json now",
    ];
    for line in wrong {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    for line in ["shoal --version", "shoal --help", "shoal serve --help", "shoal help model fetch"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
    }
    assert_eq!(parse("shoal --version").unwrap_err().to_string(), format!("shoal {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn healthcheck_and_status_ask_the_default_door() {
    let Command::Healthcheck(args) = parse("shoal healthcheck").unwrap().command else {
        panic!("this is `healthcheck`");
    };
    let listen = config::key("api.listen").unwrap().default_value();
    assert_eq!(Some(args.api.to_string().as_str()), listen.as_str());
    assert_eq!(status("shoal status").api, args.api);
}

#[track_caller]
fn status(line: &str) -> StatusArgs {
    match parse(line).unwrap().command {
        Command::Status(args) => args,
        other => panic!("{line} is {other:?}"),
    }
}

#[test]
fn status_is_one_look_unless_it_watches() {
    for (line, pause_s, json) in [
        ("shoal status", None, false),
        ("shoal status --json", None, true),
        ("shoal status --watch", Some(2), false),
        ("shoal status --watch --json", Some(2), true),
        ("shoal status --watch 7 --api 10.0.0.1:8080", Some(7), false),
    ] {
        let args = status(line);
        assert_eq!((args.pause(), args.json), (pause_s.map(Duration::from_secs), json), "{line}");
    }
}
