//! Every decision of a shoal node, and nothing else.
//!
//! For the node, which feeds it real events, and for the simulator, which feeds it invented ones: both drive the same
//! [`node::Node::step`], so what is proved in simulation is what runs.
//!
//! Invariants: no IO, no clock, no thread, no ambient randomness (time and seeds come in as values); the same inputs
//! give the same effects. Modules import only modules of a lower level: 0 `time id prng
//! share tally` · 1 `cost gate breaker stretch budget heat admission affinity route retry lifecycle` · 2 `load batch` ·
//! 3 `peers queue split` · 4 `node` · 5 `record`. Guards: `node/core/clippy.toml`, `tests/tidy`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod admission;
pub mod affinity;
pub mod batch;
pub mod breaker;
pub mod budget;
pub mod cost;
pub mod gate;
pub mod heat;
pub mod id;
pub mod lifecycle;
pub mod load;
pub mod node;
pub mod peers;
pub mod prng;
pub mod queue;
pub mod record;
pub mod retry;
pub mod route;
pub mod share;
pub mod split;
pub mod stretch;
pub mod tally;
pub mod time;
