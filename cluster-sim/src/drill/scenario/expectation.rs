//! What a scenario expects of its measures.
//!
//! For `scenario`, which reads expectations and sees that they make sense, and `judge`, which holds the numbers against
//! them.
//! Invariants: an expectation that was checked has a bound, and asks its measure of something that it can be asked of.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::super::measures::Measure;

/// What one measure has to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expectation {
    pub(crate) measure: Measure,
    /// Of this phase alone.
    pub(crate) phase: Option<String>,
    /// Of this node alone, counted from 1.
    pub(crate) node: Option<u16>,
    pub(crate) max: Option<f64>,
    pub(crate) min: Option<f64>,
    /// At most so many times what it is in the phase `of_phase`.
    pub(crate) times_max: Option<f64>,
    pub(crate) of_phase: Option<String>,
    /// Only in a long run.
    #[serde(default)]
    pub(crate) long_only: bool,
    /// Missed, the drill has not failed but proved nothing.
    #[serde(default)]
    pub(crate) proof: bool,
}

impl Expectation {
    pub(super) fn check(&self, phases: &BTreeSet<&str>) -> Result<()> {
        let name = self.measure.name();
        for phase in self.phase.iter().chain(&self.of_phase) {
            ensure!(phases.contains(phase.as_str()), "expect {name}: no step begins a phase `{phase}`");
        }
        ensure!(
            self.max.is_some() || self.min.is_some() || self.times_max.is_some(),
            "expect {name}: give max, min or times_max"
        );
        ensure!(
            self.times_max.is_some() == self.of_phase.is_some(),
            "expect {name}: times_max and of_phase belong together"
        );
        ensure!(
            self.phase.is_none() || self.measure.has_phases(),
            "expect {name}: it is of the whole run, not of a phase"
        );
        ensure!(
            self.node.is_some() == self.measure.is_of_a_node(),
            "expect {name}: {}",
            if self.node.is_some() { "it is of all nodes" } else { "say of which node" }
        );
        Ok(())
    }
}
