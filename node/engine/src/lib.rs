//! The models of a node behind one trait.
//!
//! For the node's compute threads: one thread owns one [`Engine`] and gives it batches.
//! Invariants: a row in a batch equals the row alone within 1e-5; a non-finite value is an error, never a result.
//! Not here: queues, deadlines, peers, HTTP; which rows form a batch is decided in `shoal-core`.

mod config;
mod contract;
mod directory;
mod embedder;
mod encoder;
mod finish;
mod inspect;
mod load;
mod pickle_guard;
mod pool;
mod recipe;
mod revision;
pub mod synthetic;
mod threads;
mod tokenizer_file;
mod tokens;
mod weights;

pub use contract::{
    Card, CostGuess, EmbedOptions, Embedding, Engine, EngineError, InputText, Pooling, RowError, Truncation,
};
pub use embedder::Embedder;
pub use inspect::{InspectedFile, Inspection, inspect};
pub use load::{LoadOptions, LoadProgress, OnProgress, SUPPORTED, load};
pub use threads::{ThreadsError, init_threads};
