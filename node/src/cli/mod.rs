//! The command line: what can be typed, and the help that a stranger reads.
//!
//! For `main`, which runs the commands. Definitions only.
//!
//! Invariants: every flag of `serve` that sets a key is checked by `config`, with the same words as the file; what clap
//! itself refuses (an unknown flag, a missing value) ends with exit code 2.
//! Not here: values, defaults and ranges (`config`), what the commands do.

mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Flag};
pub use serve::ServeArgs;

/// One node of a shoal: serves a model over HTTP, finds its peers by itself, and hands work to whoever is done sooner.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until SIGTERM or Ctrl-C, which drains it
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Check or show a configuration without running a node
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Fetch, list or look into models
    #[command(subcommand)]
    Model(ModelCommand),
    /// Show every node of the shoal, asked for at any one; exit code 0 = all is well, 3 = something is not
    #[command(after_help = STATUS_WORDS)]
    Status(StatusArgs),
    /// Ask a running node whether it can answer; exit code 0 = yes, 3 = no
    Healthcheck(HealthcheckArgs),
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check file, environment and flags; exit code 78 and a line for each mistake, or 0
    Check(Box<ServeArgs>),
    /// Print every value that would hold, and where it comes from
    Print {
        #[command(flatten)]
        serve: Box<ServeArgs>,
        /// As JSON: {section: {name: {"value": ..., "from": ...}}}
        #[arg(long)]
        json: bool,
    },
    /// Print a commented file with every key and its default, to begin with
    Sample,
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Download a model, check its digest and keep it; what is there already is not loaded again
    Fetch(ModelArgs),
    /// List the models that are kept on this machine
    List(ModelListArgs),
    /// Show what a model is: dimensions, limits, pooling, revision
    Inspect(ModelArgs),
}

#[derive(Debug, Args)]
pub struct ModelArgs {
    #[arg(value_name = "NAME_OR_DIR", help = config::help("model.name"))]
    pub name: Option<String>,
    #[command(flatten)]
    pub common: ModelListArgs,
}

#[derive(Debug, Args)]
pub struct ModelListArgs {
    #[arg(long, value_name = "DIR", help = config::help("model.cache_dir"))]
    pub cache_dir: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Public address of any node, as in its `api.listen`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,
    /// As JSON, for programs: one object a line
    #[arg(long)]
    pub json: bool,
    /// Ask again after so many seconds, 2 unless told, and show what changed
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub watch: Option<u16>,
}

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Public address of the node, as in its `api.listen`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,
}

impl StatusArgs {
    /// Between two looks; `None` = one look.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.watch.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl ModelArgs {
    /// For [`config::load`].
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let name = self.name.iter().map(|value| flag("model.name", "NAME_OR_DIR", value));
        name.chain(self.common.flags()).collect()
    }
}

impl ModelListArgs {
    /// For [`config::load`].
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        self.cache_dir.iter().map(|value| flag("model.cache_dir", "--cache-dir", value)).collect()
    }
}

fn flag(key: &'static str, name: &'static str, value: &str) -> Flag {
    Flag { key, name, value: value.to_owned() }
}

const SERVE_EXAMPLES: &str = "\
A key is set by the file, by its environment variable, or by its flag: the flag
wins over the variable, and the variable over the file. Many keys have no flag:
`shoal config sample` prints a file with all of them.

One node on this machine, for callers at 127.0.0.1:8080:
  shoal serve

A second node that joins it:
  shoal serve --api-listen 127.0.0.1:8081 --peer-listen 127.0.0.1:8091 \\
              --data-dir ./second --seed 127.0.0.1:8090

As a file says:
  shoal serve --config /etc/shoal/shoal.toml

Exit codes: 0 after a drain, 2 wrong usage, 78 wrong configuration, 1 other failures.";

const STATUS_WORDS: &str = "\
Asks that node and then, for at most a second each, every peer that it names.
  *  the asked node       !  something about this node is not well
  STATE    starting, ready, draining, wedged, failed; dead, or left if it had
           announced that
  DOOR     what its callers meet: open; shut (503); leaving; refused; silent (no
           answer in time); stranger (another answers there); old (a version
           that cannot tell)
  WAIT     until a new job would start there
  BUSY     how much of it is in use
  HELD     jobs queued, running or forwarded there
  SENT     those jobs of the asked node that are there
  GATE     whether the asked node gives it work: passing; blocking; probing (a
           ping is out); paused (its model failed too often)
  CHANGED  since when it is so, as the asked node saw it
  WEIGHT   100 is normal, 0 gets no work; backup serves when nobody else can

Exit codes: 0 all is well, 1 the asked node does not answer, 2 wrong usage, 3 a
node is dead, wedged, failed or unreachable, or the nodes disagree.";
