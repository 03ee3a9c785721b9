//! The seeded simulation of a shoal, as a library.
//!
//! For the command `cluster-sim explore` and for this package's tests.
//! Invariants: nothing here reads a clock or draws ambient chance; a plan and a seed decide everything that happens.
//! Not here: real processes and the commands, which belong to the program.

pub mod sim;
