//! `cluster-sim`: real local shoals, drills that end with a verdict, benchmarks, and a seeded simulation.
//!
//! For people and for CI. Exit code 0 = all is well; 1 = a drill or a goal failed, or the run could not be made (the
//! reason is on standard error); 2 = wrong usage; 3 = a drill proved nothing; 130 = interrupted.

mod balancer;
mod bench;
mod cluster;
mod drill;
mod explore;
mod http;
mod load;
mod options;
mod probe;
mod process_time;
mod replay;
mod report;
#[cfg(test)]
mod scripted;
mod stats;
mod up;
mod usage;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Exit code after Ctrl-C, as shells count it.
const INTERRUPTED: u8 = 130;

/// Real local shoals, drills with a verdict, benchmarks, and a seeded simulation
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Options),
    Drill(drill::Options),
    /// Measure a real shoal
    #[command(subcommand)]
    Bench(bench::Bench),
    Explore(explore::Options),
    Replay(replay::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(options) => up::run(options).await,
        Command::Drill(options) => unless_interrupted(drill::run(options)).await,
        Command::Bench(bench) => unless_interrupted(bench::run(bench)).await,
        Command::Replay(options) => replay::run(&options),
        Command::Explore(options) => unless_interrupted(explore::run(options)).await,
    };
    done.unwrap_or_else(|error| {
        report::remark(format_args!("cluster-sim: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Gives up `run` on Ctrl-C or SIGTERM; what it started ends with it.
async fn unless_interrupted(run: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut signals = up::Signals::listen()?;
    tokio::select! {
        done = run => done,
        () = signals.next() => {
            report::remark("cluster-sim: interrupted; what it started ends with it");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}
