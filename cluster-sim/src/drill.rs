//! `cluster-sim drill`: a fault in a real shoal under load, and a verdict on what its clients saw.
//!
//! For `main`. `kill` runs the fault and measures, `judge` turns records into a `judgement`, `watch` reads what the
//! nodes say meanwhile.

mod judge;
mod judgement;
mod kill;
mod watch;

use std::process::ExitCode;

use anyhow::Result;

/// Which fault.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Drill {
    /// kill -9 a node under load, start it again, and judge
    Kill(kill::Options),
    /// SIGTERM a node under load, start it again, and judge: it must drain and exit with 0
    Term(kill::Options),
}

/// # Errors
/// The shoal did not form, or the drill could not be carried out to its end.
pub(crate) async fn run(drill: Drill) -> Result<ExitCode> {
    match drill {
        Drill::Kill(options) => kill::run(options, judge::Fault::Kill).await,
        Drill::Term(options) => kill::run(options, judge::Fault::Terminate).await,
    }
}
