//! The machine of one node as a black box: scripts, a random walk, and a few machines that talk to each other.
//!
//! For whoever changes `shoal_core::node`: each test name is a sentence about a node that these files hold true.
//! Scripts are data (moment, input, effects); in them a node needs 10 ms a unit, see `support`.

mod blame;
mod canary;
mod chance;
mod doubt;
mod ending;
mod failure;
mod hedge;
mod load;
mod placement;
mod rebalance;
mod rules;
mod split;
mod support;
