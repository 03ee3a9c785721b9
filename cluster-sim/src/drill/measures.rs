//! What can be expected of a drill, by the names that a scenario file gives it.
//!
//! For `scenario`, which reads the names, and `expect`, which asks `numbers` for the values.
//! Invariants: each measure says whether it can be asked of a phase, whether it is of one node, and whether it is a
//! time, which a busy machine makes longer without anybody's fault.

use serde::{Deserialize, Serialize};

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Requests without a right answer, for which a node that lived is to blame.
    Failed,
    /// Requests that were answered with 429 or 503, where the drill allows it.
    Refused,
    /// Jobs of other doors that were at a node that was hit, or sent to it, and were cut short.
    Exposed,
    /// Requests whose client went on to another address.
    Redialled,
    /// Requests that the doors of nodes that were hit lost.
    FailedOwnDoor,
    /// Answers that came after the job had moved on.
    LateAnswers,
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

impl Measure {
    /// The name in a scenario file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Exposed => "exposed",
            Self::Redialled => "redialled",
            Self::FailedOwnDoor => "failed_own_door",
            Self::LateAnswers => "late_answers",
            Self::FalseDeaths => "false_deaths",
            Self::OfferedAfterMax => "offered_after_max",
            Self::PlacementsMax => "placements_max",
            Self::ForwardedShare => "forwarded_share",
            Self::ShareOfFair => "share_of_fair",
            Self::Unevenness => "unevenness",
            Self::GoodputShare => "goodput_share",
            Self::P50Ms => "p50_ms",
            Self::P99Ms => "p99_ms",
            Self::P999Ms => "p999_ms",
            Self::MaxMs => "max_ms",
            Self::RefusalP99Ms => "refusal_p99_ms",
            Self::DetectionMs => "detection_ms",
            Self::CalledDeadMs => "called_dead_ms",
            Self::EndedMs => "ended_ms",
            Self::ReplacedP99Ms => "replaced_p99_ms",
            Self::SeenMs => "seen_ms",
            Self::RecoveryMs => "recovery_ms",
            Self::RssMb => "rss_mb",
        }
    }

    /// It can be asked of one phase.
    pub(crate) fn has_phases(self) -> bool {
        match self {
            Self::Failed
            | Self::Refused
            | Self::FalseDeaths
            | Self::ForwardedShare
            | Self::ShareOfFair
            | Self::Unevenness
            | Self::GoodputShare
            | Self::P50Ms
            | Self::P99Ms
            | Self::P999Ms
            | Self::MaxMs
            | Self::RefusalP99Ms
            | Self::RssMb => true,
            Self::Exposed
            | Self::Redialled
            | Self::FailedOwnDoor
            | Self::LateAnswers
            | Self::OfferedAfterMax
            | Self::PlacementsMax
            | Self::DetectionMs
            | Self::CalledDeadMs
            | Self::EndedMs
            | Self::ReplacedP99Ms
            | Self::SeenMs
            | Self::RecoveryMs => false,
        }
    }

    /// It is of one node.
    pub(crate) fn is_of_a_node(self) -> bool {
        self == Self::ShareOfFair
    }

    /// A busy machine makes it larger, or smaller, without a fault of the shoal.
    pub(crate) fn is_timed(self) -> bool {
        match self {
            Self::Failed
            | Self::Refused
            | Self::Exposed
            | Self::Redialled
            | Self::FailedOwnDoor
            | Self::LateAnswers
            | Self::PlacementsMax
            | Self::ForwardedShare => false,
            // A process that gets no time to run is called dead, and one that does little gets less work.
            Self::FalseDeaths
            | Self::OfferedAfterMax
            | Self::ShareOfFair
            | Self::Unevenness
            | Self::GoodputShare
            | Self::P50Ms
            | Self::P99Ms
            | Self::P999Ms
            | Self::MaxMs
            | Self::RefusalP99Ms
            | Self::DetectionMs
            | Self::CalledDeadMs
            | Self::EndedMs
            | Self::ReplacedP99Ms
            | Self::SeenMs
            | Self::RecoveryMs
            | Self::RssMb => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_file_is_the_name_that_is_shown() {
        for measure in [Measure::Failed, Measure::P999Ms, Measure::ShareOfFair, Measure::ReplacedP99Ms, Measure::RssMb]
        {
            assert_eq!(serde_json::to_value(measure).unwrap(), measure.name());
        }
    }
}
