//! Node.
pub mod job;
