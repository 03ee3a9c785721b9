//! `cluster-sim bench`: what a real shoal does with a load, and what a decision costs, measured.
//!
//! For `main`. One module a benchmark; each says its method and its goal.

mod closed;
mod estimate;
mod hop;
mod scale;
mod skew;
mod split;
mod step;
mod tail;

use std::process::ExitCode;

use anyhow::Result;

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Bench {
    Estimate(estimate::Options),
    Hop(hop::Options),
    Scale(scale::Options),
    Skew(skew::Options),
    Split(split::Options),
    Step(step::Options),
    Tail(tail::Options),
}

/// # Errors
/// The shoal did not form or a benchmark could not be made.
pub(crate) async fn run(bench: Bench) -> Result<ExitCode> {
    match bench {
        Bench::Estimate(options) => estimate::run(options).await,
        Bench::Hop(options) => hop::run(options).await,
        Bench::Scale(options) => scale::run(options).await,
        Bench::Skew(options) => skew::run(options).await,
        Bench::Split(options) => split::run(options).await,
        Bench::Step(options) => step::run(&options),
        Bench::Tail(options) => tail::run(options).await,
    }
}
