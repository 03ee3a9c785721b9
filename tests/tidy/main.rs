//! Checks of the repository itself: promises about structure that no compiler keeps.
//!
//! For everyone who changes the tree: each check reads the files as they are and fails with a finding that names the
//! place, the fault and the way to mend it.
//! Invariants: every check is a function of a [`repo::Repo`], and every check has a test that feeds it a bad tree, so a
//! check that can no longer fail is itself a failing test.
//! Not here: what the compiler, rustfmt and clippy already refuse; the behaviour of running nodes (`suite`).

mod core_lints;
mod documents;
mod levels;
mod metrics;
mod packages;
mod repo;
mod settings;
mod source;
mod text;
mod waiting;
