//! What work costs and when it comes, as distributions.
//!
//! For `world`. What a request costs is drawn when it arrives and belongs to it: whichever node serves it, and under
//! whichever policy, it is the same work.
//! Invariants: every spread has mean 1; a stream of chance for each purpose, so that plans stay comparable.
//! Not here: faults of a device, which are the world's.

mod arrivals;
mod service;

pub use arrivals::{ArrivalModel, Shape, Step};
pub use service::{Device, ServiceModel, Spread};
