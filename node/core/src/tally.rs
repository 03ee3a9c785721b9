//! How often each rule of the machine decided something.
//!
//! For the metrics of a node, and for the simulator, which has to show that its runs exercised what they claim to
//! prove.
//! Invariants: counting changes no decision; names are stable, they are labels of a metric.

use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($( $(#[doc = $about:literal])+ $rule:ident = $name:literal; )+) => {
        /// One rule of the machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule {
            $( $(#[doc = $about])+ $rule, )+
        }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Self] = &[$(Self::$rule),+];

            /// Its name, in lower case with underscores.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)+
                }
            }
        }
    };
}

rules! {
    /// A job went to a peer.
    Forwarded = "forwarded";
    /// A peer was sooner, but not by the margin.
    KeptWithinMargin = "kept_within_margin";
    /// This node was hot, and a job left that would have stayed.
    LeftHot = "left_hot";
    /// A peer's job was refused because it would be done later here.
    RefusedBusy = "refused_busy";
    /// A job had to wait here, and a peer was asked how it is now.
    LoadAsked = "load_asked";
    /// A job that waited here moved to a peer that turned out to be sooner.
    Rebalanced = "rebalanced";
    /// A job was refused at once because it could not meet its deadline.
    ShedHopeless = "shed_hopeless";
    /// A job was refused because too much is held.
    ShedFull = "shed_full";
    /// A job passed its deadline, or came to the device too late to meet it while others waited.
    Expired = "expired";
    /// A job was held for a node that starts, or for a peer that is asked whether it is back.
    HeldForStart = "held_for_start";
    /// A job was placed again after a placement that came to nothing.
    PlacedAgain = "placed_again";
    /// The retry budget refused another placement.
    RetryDenied = "retry_denied";
    /// A placement was not acknowledged in time.
    Silent = "silent";
    /// A connection with a placement on it broke.
    Broke = "broke";
    /// A gate shut.
    GateBlocked = "gate_blocked";
    /// A peer behind a shut gate was pinged.
    GateProbed = "gate_probed";
    /// A word opened a shut gate.
    GateOpened = "gate_opened";
    /// A peer's errors paused it.
    BreakerPaused = "breaker_paused";
    /// A model failed here or on a peer and worked elsewhere: the node that failed is blamed.
    Blamed = "blamed";
    /// A model failed wherever a job went: nobody is blamed.
    RequestsFault = "requests_fault";
    /// A node that has just started was passed over.
    SlowStarted = "slow_started";
    /// Gossip called most peers dead and was not believed.
    Panicked = "panicked";
    /// This node noticed that it had stood still.
    SelfSuspected = "self_suspected";
    /// A load report that cannot be true was dropped.
    AbsurdReport = "absurd_report";
    /// A session went to its owner.
    OwnerServed = "owner_served";
    /// An owner of a session held too much; the next one was asked.
    OwnerFull = "owner_full";
    /// A backup node was used.
    BackupUsed = "backup_used";
    /// A second placement went out while the first was late.
    Hedged = "hedged";
    /// The second placement answered first.
    HedgeWon = "hedge_won";
    /// A call was cut into chunks.
    Split = "split";
    /// A chunk was cut.
    ChunkCut = "chunk_cut";
    /// This node became hot.
    BecameHot = "became_hot";
    /// The canary was asked for.
    CanaryAsked = "canary_asked";
    /// The canary had no answer in time.
    CanaryLate = "canary_late";
    /// The canary failed or was late: this node computes nothing any more.
    Wedged = "wedged";
    /// The canary passed again.
    Recovered = "recovered";
    /// The connection to a peer ended, and the peer was pinged at once.
    PingedAfterEnd = "pinged_after_end";
    /// An idle node looked how fast it is.
    Measured = "measured";
}

/// A count for each [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally(Vec<u64>);

impl Default for Tally {
    fn default() -> Self {
        Self(vec![0; Rule::ALL.len()])
    }
}

impl Tally {
    /// `rule` decided something.
    pub fn count(&mut self, rule: Rule) {
        if let Some(count) = self.0.get_mut(rule as usize) {
            *count += 1;
        }
    }

    /// How often `rule` decided something.
    #[must_use]
    pub fn of(&self, rule: Rule) -> u64 {
        self.0.get(rule as usize).copied().unwrap_or(0)
    }

    /// All names and counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Rule::ALL.iter().map(|&rule| (rule.name(), self.of(rule)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_and_a_count_of_its_own() {
        let mut tally = Tally::default();
        for (number, &rule) in Rule::ALL.iter().enumerate() {
            (0..=number).for_each(|_| tally.count(rule));
        }
        let counts: Vec<u64> = tally.iter().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=Rule::ALL.len() as u64).collect::<Vec<_>>());
        let names: std::collections::BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
