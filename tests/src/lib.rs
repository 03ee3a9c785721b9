//! Harness of the black-box suite: it starts real `shoal` processes, talks to them as anybody would, and ends them.
//!
//! For `tests/suite`. A test owns its nodes: they have ports, directories and a cluster name of their own, so that
//! tests run side by side, and they are gone when the test ends, however it ends.
//! Invariants: the processes are built from the sources that are tested, at most once a test process; every wait has a
//! limit and says what it waited for; a test that fails shows the end of its nodes' logs.
//! Not here: what is right (`tests/suite`); checks of the repository itself (`tests/tidy`).

pub mod binaries;
pub mod command;
pub mod gossip;
pub mod http;
pub mod load;
pub mod metrics;
pub mod node;
mod plan;
mod ports;
pub mod shoal;
pub mod wait;
