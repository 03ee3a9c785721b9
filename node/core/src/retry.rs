//! Whether a job that came back without an answer may be placed again, and where.
//!
//! For `node`. The rule of placements: at most three, on different nodes; the last one is the node itself if it can
//! compute; a model that failed on two nodes failed because of the request.
//! Not here: which peer (`route`); whether the peer is to blame (`gate`).

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::time::Micros;

/// How often a job is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRules {
    /// Most placements of one job, this node included. At least 1.
    pub placements_max: u8,
    /// So many nodes must fail to compute a job before it counts as the request's own fault. At least 1.
    pub engine_failures_max: u8,
    /// How long a job that nobody can take may wait: for a node that starts, or a peer to answer whether it is back.
    pub start_hold: Micros,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self { placements_max: 3, engine_failures_max: 2, start_hold: Micros::from_ms(2000) }
    }
}

/// Where a job has been.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// Placements so far, refused ones included and hedges not.
    pub placements: u8,
    /// Number of the last placement, hedges included.
    pub attempts: u8,
    /// A peer refused it as busy; the next peer may not.
    pub busy_refused: bool,
    /// Nodes whose model failed on it.
    pub engine_failures: u8,
    /// It was placed on this node.
    pub tried_here: bool,
    /// The peers that it was placed on.
    pub tried: Vec<NodeId>,
}

/// Why a job is placed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is new, or was held until somebody could take it.
    New,
    /// The node that had it died, fell silent, is leaving, or lost its device. There are as many such jobs as that node
    /// held, so they end by themselves: no budget is charged.
    Death,
    /// The peer would be later than this node. Once a job: no budget is charged.
    Busy,
    /// The peer does not take it: it is full, or has another model.
    Refused,
    /// The model failed on it.
    Failed,
    /// It is a chunk that waited until another one of its call ended; `only_here`, because it may go nowhere else.
    Room {
        /// See above.
        only_here: bool,
    },
}

impl Cause {
    /// Whether the retry budget pays for it.
    #[must_use]
    pub fn is_charged(self) -> bool {
        match self {
            Self::New | Self::Death | Self::Busy | Self::Room { .. } => false,
            Self::Refused | Self::Failed => true,
        }
    }
}

/// Where a job may go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This node or a peer that did not have it yet.
    Anywhere,
    /// A peer that did not have it yet; this node cannot, or had it.
    OnlyAway,
    /// This node.
    OnlyHere,
    /// Nowhere: it has been placed too often.
    Nowhere,
    /// Nowhere: its model fails wherever it goes.
    RequestsFault,
}

/// Where a job with this `history` may go, on a node that can compute it or not.
#[must_use]
pub fn next(rules: &RetryRules, history: &History, can_here: bool) -> Next {
    if rules.engine_failures_max <= history.engine_failures {
        return Next::RequestsFault;
    }
    let here = can_here && !history.tried_here;
    match rules.placements_max.saturating_sub(history.placements) {
        0 => Next::Nowhere,
        1 if here => Next::OnlyHere,
        _ if here => Next::Anywhere,
        _ => Next::OnlyAway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_end_at_three_and_the_last_is_here() {
        for (placements, tried_here, can_here, expected) in [
            (0, false, true, Next::Anywhere),
            (1, false, true, Next::Anywhere),
            (2, false, true, Next::OnlyHere),
            (3, false, true, Next::Nowhere),
            (0, false, false, Next::OnlyAway),
            (2, false, false, Next::OnlyAway),
            (1, true, true, Next::OnlyAway),
            (2, true, true, Next::OnlyAway),
            (9, true, true, Next::Nowhere),
        ] {
            let history = History { placements, tried_here, ..History::default() };
            let told = next(&RetryRules::default(), &history, can_here);
            assert_eq!(told, expected, "{placements} placements, tried here {tried_here}, can here {can_here}");
        }
    }

    #[test]
    fn a_model_that_failed_twice_is_not_asked_a_third_time() {
        let history = History { placements: 2, engine_failures: 2, ..History::default() };
        assert_eq!(next(&RetryRules::default(), &history, true), Next::RequestsFault);
        let history = History { placements: 1, engine_failures: 1, ..History::default() };
        assert_eq!(next(&RetryRules::default(), &history, true), Next::Anywhere);
    }
}
