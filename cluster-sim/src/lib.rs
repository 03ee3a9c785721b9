//! What other packages may use of this one: the seeded simulation of a shoal, and faults between processes.
//!
//! For the command `cluster-sim`, for this package's tests, and for the black-box suite.
//! Invariants: nothing in `sim` reads a clock or draws ambient chance: a plan and a seed decide everything that happens
//! there; `proxy` talks to the addresses that it was given and `netns` to what it made, and to nobody else.
//! Not here: real processes and the commands, which belong to the program.

pub mod netns;
pub mod proxy;
pub mod sim;
