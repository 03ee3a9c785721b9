//! A peer-to-peer, active-active inference cluster node.
//!
//! The library behind the `shoal` binary, for the binary and for tests. `serve` composes the node; the adaptors
//! (`listen`, `forward`, `gossip`, `compute`, `cache`) know neither each other nor the `shell` that joins them; every
//! decision is in `shoal-core`, every model in `shoal-engine`. The map is in ARCHITECTURE.md.

pub mod cache;
pub mod cli;
pub mod clock;
pub mod compute;
pub mod config;
pub mod forward;
pub mod gossip;
pub mod healthcheck;
pub mod identity;
pub mod job;
pub mod lanes;
pub mod listen;
pub mod models;
pub mod probe;
pub mod record;
pub mod ring;
pub mod sample;
pub mod serve;
pub mod shell;
pub mod status;
pub mod telemetry;
pub mod wire;
