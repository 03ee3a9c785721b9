//! `cluster-sim bench`: what a real shoal does with a load, and what a decision costs, measured.
//!
//! For `main`. One module a benchmark; each says its method and its goal.

mod closed;
mod hop;
mod skew;
mod step;
mod tail;

use std::process::ExitCode;

use anyhow::Result;

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Bench {
    Hop(hop::Options),
    Skew(skew::Options),
    Step(step::Options),
    Tail(tail::Options),
}

/// # Errors
/// The shoal did not form or a benchmark could not be made.
pub(crate) async fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Hop(options) => hop::run(options).await,
        Bench::Skew(options) => skew::run(options).await,
        Bench::Step(options) => step::run(&options),
        Bench::Tail(options) => tail::run(options).await,
    }
}
