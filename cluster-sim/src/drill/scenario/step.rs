//! What a scenario does and waits for, one step at a time.
//!
//! For `scenario`, which reads steps and sees that they make sense, and `stage`, which carries them out.
//! Invariants: a step that was checked ends, and asks for nothing that cannot be done: shares are shares, delays and
//! rates are bounded. Whether the nodes that it names are there is for `scenario`, which knows how many there are.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;

/// The word that a stand-in engine can be told to fail on.
pub(crate) const POISON: &str = "venom";

/// One thing to do or to wait for. Every wait has a limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    /// From now on requests belong to this phase. With `fault`, those that are in flight do too.
    Phase {
        name: String,
        #[serde(default)]
        fault: bool,
    },
    /// Lets the load go on for so long.
    Wait { seconds: f64, seconds_long: Option<f64> },
    /// SIGKILL.
    Kill { node: Nodes },
    /// SIGTERM: the node drains.
    Term { node: Nodes },
    /// SIGSTOP: the process hangs, its connections stay.
    Stop { node: Nodes },
    /// SIGCONT.
    Continue { node: Nodes },
    /// Starts a node that has ended, or was to come late.
    Start { node: Nodes },
    /// Writes the control file of a stand-in engine; empty words heal it.
    Control { node: Nodes, words: String },
    /// From now on so many times the rate of the beginning.
    Rate { times: f64 },
    /// What nodes send each other is cut, lost or delayed, in one direction or in both; said again, it replaces what
    /// was said of the same nodes.
    Link {
        from: Nodes,
        to: Nodes,
        #[serde(default)]
        both_ways: bool,
        /// Of these alone.
        only: Option<Protocol>,
        #[serde(default)]
        passage: Way,
        #[serde(default)]
        delay_ms: u64,
        #[serde(default)]
        jitter_ms: u64,
        #[serde(default)]
        loss: f64,
    },
    /// Everything passes again.
    Heal,
    /// The network cable of a node is pulled, or put back; for `network = "namespaces"`.
    Cable { node: Nodes, pulled: bool },
    /// From now on so many of a thousand texts carry the word [`POISON`].
    Poison { permille: u32 },
    /// Until the node has computed so much of what was answered since this step began.
    UntilWorks {
        node: u16,
        #[serde(default = "ten")]
        percent: f64,
    },
    /// Until the node holds so many jobs of other doors, so that a fault hits something; at most 2 s, in a long run 10.
    UntilHoldsWork {
        node: u16,
        #[serde(default = "one_job")]
        jobs: u64,
        jobs_long: Option<u64>,
    },
    /// Until the process has ended.
    UntilEnded { node: Nodes },
    /// Until all others call the node dead and offer it nothing.
    UntilGivenUp { node: u16 },
    /// Until no other node offers it work any more, whatever they call it.
    UntilLeftAlone { node: u16 },
    /// Until all others see it ready.
    UntilSeen { node: Nodes },
    /// Until it computes for others again.
    UntilWorksAgain { node: u16 },
    /// Until all that run see all that run.
    UntilFormed,
}

/// What a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// Jobs and pings.
    Tcp,
    /// Gossip.
    Udp,
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    #[default]
    Open,
    /// As if the cable were pulled.
    Cut,
    /// As by a firewall that rejects.
    Reset,
}

/// One node or several, counted from 1.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Nodes {
    One(u16),
    Many(Vec<u16>),
}

impl Nodes {
    pub(crate) fn all(&self) -> &[u16] {
        match self {
            Self::One(node) => std::slice::from_ref(node),
            Self::Many(nodes) => nodes,
        }
    }
}

fn one_job() -> u64 {
    1
}

fn ten() -> f64 {
    10.0
}

impl Step {
    pub(super) fn nodes(&self) -> Vec<u16> {
        let nodes = match self {
            Self::Link { from, to, .. } => return [from.all(), to.all()].concat(),
            Self::Kill { node }
            | Self::Term { node }
            | Self::Stop { node }
            | Self::Continue { node }
            | Self::Start { node }
            | Self::Control { node, .. }
            | Self::Cable { node, .. }
            | Self::UntilEnded { node }
            | Self::UntilSeen { node } => node.all(),
            Self::UntilWorks { node, .. }
            | Self::UntilHoldsWork { node, .. }
            | Self::UntilGivenUp { node }
            | Self::UntilLeftAlone { node }
            | Self::UntilWorksAgain { node } => std::slice::from_ref(node),
            Self::Phase { .. }
            | Self::Wait { .. }
            | Self::Rate { .. }
            | Self::Poison { .. }
            | Self::Heal
            | Self::UntilFormed => &[],
        };
        nodes.to_vec()
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Wait { seconds, seconds_long } => {
                for seconds in [Some(*seconds), *seconds_long].into_iter().flatten() {
                    ensure!((0.0..=3600.0).contains(&seconds), "wait: {seconds} s is not between 0 and 3600");
                }
            }
            Self::Link { from, to, loss, delay_ms, jitter_ms, .. } => {
                ensure!((0.0..=1.0).contains(loss), "link: a loss of {loss} is no share from 0 to 1");
                ensure!(delay_ms.saturating_add(*jitter_ms) <= 60_000, "link: a delay is at most 60000 ms");
                let to_itself = from.all().iter().find(|node| to.all().contains(node));
                ensure!(to_itself.is_none(), "link: node {} has none to itself", to_itself.unwrap_or(&0));
            }
            Self::Rate { times } => ensure!((0.01..=1000.0).contains(times), "rate: {times} is not 0.01 to 1000"),
            Self::Poison { permille } => ensure!(*permille <= 1000, "poison: {permille} is not 0 to 1000"),
            Self::UntilWorks { percent, .. } => {
                ensure!((0.1..=100.0).contains(percent), "until_works: {percent} is no share in percent");
            }
            _ => {}
        }
        Ok(())
    }

    /// How long a `wait` takes.
    pub(crate) fn longest(&self, long: bool, wait_limit: Duration) -> Duration {
        match self {
            Self::Wait { seconds, seconds_long } => {
                Duration::from_secs_f64(seconds_long.filter(|_| long).unwrap_or(*seconds))
            }
            Self::UntilWorks { .. }
            | Self::UntilHoldsWork { .. }
            | Self::UntilEnded { .. }
            | Self::UntilGivenUp { .. }
            | Self::UntilLeftAlone { .. }
            | Self::UntilSeen { .. }
            | Self::UntilWorksAgain { .. }
            | Self::UntilFormed => wait_limit,
            _ => Duration::ZERO,
        }
    }
}
