//! What can be expected of a drill, by the names that a scenario file gives it.
//!
//! For `scenario`, which reads the names, and `judge`, which asks `numbers` for the values.
//! Invariants: each measure says of what it can be asked, and whether it depends on the speed of the machine, which a
//! busy one changes without anybody's fault.

use serde::{Deserialize, Serialize};

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Requests without a right answer, for which a node that lived is to blame.
    Failed,
    /// Requests that were answered with 429 or 503. Where the drill does not allow that, they count as failed too.
    Refused,
    /// Requests whose text the engines were told to fail on.
    Poisoned,
    /// Jobs of other doors that were at a node that was hit, or sent to it, and were cut short.
    Exposed,
    /// Requests whose client went on to another address.
    Redialled,
    /// Requests that the doors of nodes that were hit lost.
    FailedOwnDoor,
    /// Answers that came after the job had moved on.
    LateAnswers,
    /// Datagrams between nodes that did not come out of the fault proxy while the load ran, by a rule or because nobody
    /// was there.
    LostDatagrams,
    /// How often a node called another one dead that lived.
    FalseDeaths,
    /// The most jobs that one other node offered to a node after it was hit.
    OfferedAfterMax,
    /// How often a request was placed, the largest.
    PlacementsMax,
    /// Part of the answers that another node computed than the one that was asked.
    ForwardedShare,
    /// Part of the answers that the node computed, times the number of nodes: 1 is its fair share.
    ShareOfFair,
    /// The largest part of the answers that a node computed, times the number of nodes: 1 is even.
    Unevenness,
    /// Right answers a second, as a part of what all nodes can do.
    GoodputShare,
    /// Latency of answers.
    P50Ms,
    /// Latency of answers.
    P99Ms,
    /// Latency of answers.
    P999Ms,
    /// Latency of answers.
    MaxMs,
    /// Latency of refusals.
    RefusalP99Ms,
    /// From a fault until the last time a job was offered to the node.
    DetectionMs,
    /// From a fault until all others called the node dead.
    CalledDeadMs,
    /// From a fault until the process had ended.
    EndedMs,
    /// From a kill until its jobs had been placed again: the 99th percentile over all of them.
    ReplacedP99Ms,
    /// From the return of a node until all others saw it ready.
    SeenMs,
    /// From the return of a node until it computed for others again.
    RecoveryMs,
    /// Resident memory of the largest node at the end of the phase.
    RssMb,
}

/// Of what a measure can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Run,
    /// The whole run, or one phase.
    Phase,
    /// One node, in the whole run or in one phase.
    Node,
}

/// What makes a number what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What happened, however long it took.
    Event,
    /// A busy machine makes it larger, or smaller, without a fault of the shoal.
    Timed,
}

impl Measure {
    /// What is fixed about each: the name in a scenario file, of what it can be asked, and its kind.
    fn row(self) -> (&'static str, Scope, Kind) {
        use {Kind::*, Scope::*};
        match self {
            Self::Failed => ("failed", Phase, Event),
            Self::Refused => ("refused", Phase, Event),
            Self::Poisoned => ("poisoned", Run, Event),
            Self::Exposed => ("exposed", Run, Event),
            Self::Redialled => ("redialled", Run, Event),
            Self::FailedOwnDoor => ("failed_own_door", Run, Event),
            Self::LateAnswers => ("late_answers", Run, Event),
            Self::LostDatagrams => ("lost_datagrams", Run, Event),
            // A process that gets no time to run is called dead, and one that does little gets less work.
            Self::FalseDeaths => ("false_deaths", Phase, Timed),
            Self::OfferedAfterMax => ("offered_after_max", Run, Timed),
            Self::PlacementsMax => ("placements_max", Run, Event),
            Self::ForwardedShare => ("forwarded_share", Phase, Event),
            Self::ShareOfFair => ("share_of_fair", Node, Timed),
            Self::Unevenness => ("unevenness", Phase, Timed),
            Self::GoodputShare => ("goodput_share", Phase, Timed),
            Self::P50Ms => ("p50_ms", Phase, Timed),
            Self::P99Ms => ("p99_ms", Phase, Timed),
            Self::P999Ms => ("p999_ms", Phase, Timed),
            Self::MaxMs => ("max_ms", Phase, Timed),
            Self::RefusalP99Ms => ("refusal_p99_ms", Phase, Timed),
            Self::DetectionMs => ("detection_ms", Run, Timed),
            Self::CalledDeadMs => ("called_dead_ms", Run, Timed),
            Self::EndedMs => ("ended_ms", Run, Timed),
            Self::ReplacedP99Ms => ("replaced_p99_ms", Run, Timed),
            Self::SeenMs => ("seen_ms", Run, Timed),
            Self::RecoveryMs => ("recovery_ms", Run, Timed),
            Self::RssMb => ("rss_mb", Phase, Timed),
        }
    }

    /// The name in a scenario file.
    pub(crate) fn name(self) -> &'static str {
        self.row().0
    }

    /// It can be asked of one phase.
    pub(crate) fn has_phases(self) -> bool {
        self.row().1 != Scope::Run
    }

    /// It is of one node.
    pub(crate) fn is_of_a_node(self) -> bool {
        self.row().1 == Scope::Node
    }

    /// It depends on the speed of the machine.
    pub(crate) fn is_timed(self) -> bool {
        self.row().2 == Kind::Timed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_file_is_the_name_that_is_shown() {
        // Whoever writes a name that there is none of is told all that there are.
        let told = serde_json::from_str::<Measure>(r#""nonsense""#).unwrap_err().to_string();
        let names: Vec<&str> = told.split('`').skip(3).step_by(2).collect();
        assert!(20 < names.len(), "{told}");
        for name in names {
            let measure: Measure = serde_json::from_value(name.into()).unwrap();
            assert_eq!(measure.name(), name);
        }
    }
}
