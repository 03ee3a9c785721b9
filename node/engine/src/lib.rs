//! The models of a node behind one trait.
//!
//! For the node's compute threads: one thread owns one [`Engine`] and gives it batches.
//! Invariants: a row in a batch equals the row alone within 1e-5; a non-finite value is an error, never a result.
//! Not here: queues, deadlines, peers, HTTP; which rows form a batch is decided in `shoal-core`.

mod contract;
mod finish;
pub mod synthetic;

pub use contract::{
    Card, CostGuess, EmbedOptions, Embedding, Engine, EngineError, InputText, Pooling, RowError, Truncation,
};
