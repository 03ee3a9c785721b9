//! The engine on whole model directories: parity with PyTorch, candle-transformers as an oracle, hostile directories.
//!
//! One binary, so that the models' dependencies are linked once.
//! The small models are in `tests/fixtures` of the repository; what made them is described there.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a panic is the report; clippy spares only the test functions themselves"
)]

mod hostile;
mod limits;
mod oracle;
mod parity;
mod revision;
mod support;
