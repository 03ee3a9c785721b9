//! Many real [`shoal_core::node::Node`]s in one thread and in virtual time, while things break.
//!
//! For `explore`. A [`scenario`] says what is to happen, a [`world`] makes it happen to the machines of the product,
//! [`check`] judges every event and [`report`] counts.
//! Invariants: the same plan gives the same [`digest`]; modules name lower ones only: 0 `queue slab digest chance
//! seen` · 1 `net gossip models` · 2 `plan ring` · 3 `world` · 4 `check report` · 5 `run` · 6 `scenario ablation` ·
//! 7 `table`.
//! Not here: the shell, chitchat, hyper and candle, of which there are models or nothing at all.

pub mod ablation;
pub mod chance;
pub mod check;
pub mod digest;
pub mod gossip;
pub mod models;
pub mod net;
pub mod plan;
pub mod queue;
pub mod report;
pub mod ring;
pub mod run;
pub mod scenario;
pub mod seen;
pub mod slab;
pub mod table;
pub mod world;
