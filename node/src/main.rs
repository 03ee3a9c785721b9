//! The `shoal` binary: reads the command line and calls the library.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shoal::cli::{Cli, Command, ConfigCommand, ServeArgs};
use shoal::config::{self, EXIT_CODE, Flag, Loaded};
use shoal::serve::{self, RunOptions};

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
        _ => ExitCode::FAILURE,
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

fn say(text: &str) -> ExitCode {
    // A reader that closed the pipe has seen enough.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    ExitCode::SUCCESS
}
