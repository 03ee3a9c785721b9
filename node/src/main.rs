//! The `shoal` binary: reads the command line and calls the library.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shoal::cli::{Cli, Command, ConfigCommand, ModelCommand, ServeArgs};
use shoal::config::{self, Config, EXIT_CODE, Flag, Loaded};
use shoal::healthcheck;
use shoal::models::{self, ModelError, Progress};
use shoal::serve::{self, RunOptions};
use shoal::status;

/// Every request makes and frees some hundred small values, often on another thread than the one that made them: with
/// the system's allocator a forward costs a fifth more CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a node that cannot answer.
const UNHEALTHY: u8 = 3;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => {
            let options = RunOptions { exit_with_stdin: args.exit_with_stdin };
            with_config(&args, |loaded| serve::run(loaded, options))
        }
        Command::Config(ConfigCommand::Check(args)) => with_config(&args, |_| say("the configuration is sound")),
        Command::Config(ConfigCommand::Print { serve, json }) => with_config(&serve, |loaded| {
            say(&if json { format!("{:#}", loaded.effective.to_json()) } else { loaded.effective.to_toml() })
        }),
        Command::Config(ConfigCommand::Sample) => say(&config::sample()),
        Command::Model(command) => model(command),
        Command::Status(args) => status::run(&status::Options { api: args.api, json: args.json, watch: args.pause() }),
        Command::Healthcheck(args) => match healthcheck::ask(args.api) {
            Ok(()) => say(&format!("{} can answer", args.api)),
            Err(reason) => complain(&format!("{}: {reason}", args.api), UNHEALTHY),
        },
    }
}

fn with_config(args: &ServeArgs, then: impl FnOnce(&Loaded) -> ExitCode) -> ExitCode {
    load(args.config.as_deref(), &args.flags()).map_or_else(|code| code, |loaded| then(&loaded))
}

fn load(file: Option<&std::path::Path>, flags: &[Flag]) -> Result<Loaded, ExitCode> {
    config::load(file, config::environment(), flags).map_err(|faults| {
        for line in faults.lines() {
            // With no standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "shoal: {line}");
        }
        ExitCode::from(EXIT_CODE)
    })
}

fn model(command: ModelCommand) -> ExitCode {
    match command {
        ModelCommand::Fetch(args) => with_model(&args.flags(), |config| {
            let directory = models::fetch(&config.model.name, &config.model.cache_dir, &Progress::for_stderr())?;
            let told = serde_json::json!({"name": config.model.name, "directory": directory});
            Ok(if args.common.json { told.to_string() } else { directory.display().to_string() })
        }),
        ModelCommand::List(args) => with_model(&args.flags(), |config| {
            let stored = models::list(&config.model.cache_dir)?;
            if args.json {
                return Ok(serde_json::json!(stored).to_string());
            }
            let line = |model: &models::StoredModel| format!("{:<40} {}", model.name, model.directory.display());
            Ok(stored.iter().map(line).collect::<Vec<_>>().join("\n"))
        }),
        ModelCommand::Inspect(args) => with_model(&args.flags(), |config| {
            let inspection = models::inspect(&config.model.name, &config.model.cache_dir, None)?;
            Ok(if args.common.json { serde_json::json!(inspection).to_string() } else { models::describe(&inspection) })
        }),
    }
}

fn with_model(flags: &[Flag], then: impl FnOnce(&Config) -> Result<String, ModelError>) -> ExitCode {
    match load(None, flags) {
        Ok(loaded) => match then(&loaded.config) {
            Ok(text) => say(&text),
            Err(fault) => complain(&fault.to_string(), 1),
        },
        Err(code) => code,
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    // With no standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "shoal: {text}");
    ExitCode::from(code)
}

fn say(text: &str) -> ExitCode {
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}
