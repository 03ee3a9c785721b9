//! All settings of the machine, as one value.
//!
//! Part of `node`. What belongs to one part of the decisions is defined there; what belongs to the machine as a whole
//! is here. The defaults are what a node does that was not told otherwise; `None`, or a switch that is off, leaves a
//! mechanism out, so that simulations can tell what it is worth.

use serde::{Deserialize, Serialize};

use crate::admission::AdmissionRules;
use crate::affinity::AffinityRules;
use crate::batch::BatchRules;
use crate::budget::BudgetRules;
use crate::heat::HeatRules;
use crate::lifecycle::DrainRules;
use crate::peers::PeerRules;
use crate::retry::RetryRules;
use crate::route::{RouteRules, WEIGHT_DEFAULT};
use crate::share::Share;
use crate::split::SplitRules;
use crate::time::Micros;

/// All settings of the decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What this node is among the others.
    pub own: OwnRules,
    /// What is held.
    pub admission: AdmissionRules,
    /// What runs together.
    pub batch: BatchRules,
    /// When a job moves.
    pub route: RouteRules,
    /// When a call is cut into chunks that are placed on their own; `None` = never.
    pub split: Option<SplitRules>,
    /// How often a job is placed.
    pub retry: RetryRules,
    /// Extra work that placing again may cause; `None` = any.
    pub retry_budget: Option<RetryBudget>,
    /// When a peer is left alone, and how much it is believed.
    pub peers: PeerRules,
    /// When this node is hot; `None` = never.
    pub heat: Option<HeatRules>,
    /// How far the owner of a session may be above the mean.
    pub affinity: AffinityRules,
    /// When peers are asked how they are for the sake of what waits here, which then may move; `None` = never.
    pub rebalance: Option<RebalanceRules>,
    /// When a late job is placed a second time; `None` = never.
    pub hedge: Option<HedgeRules>,
    /// When this node suspects itself; `None` = never.
    pub pulse: Option<PulseRules>,
    /// How a node leaves.
    pub drain: DrainRules,
    /// When load is gossiped.
    pub publish: PublishRules,
    /// How long a peer may take to acknowledge a job.
    pub accept_limit: AcceptLimit,
    /// When an idle node looks how fast it is.
    pub measure: MeasureRules,
    /// When the model is asked what is known; `None` = never.
    pub canary: Option<CanaryRules>,
    /// What was learned of the own speed is averaged with what peers say of theirs that seem as fast. Off: for
    /// comparison.
    pub pool_costs: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            own: OwnRules::default(),
            admission: AdmissionRules::default(),
            batch: BatchRules::default(),
            route: RouteRules::default(),
            split: Some(SplitRules::default()),
            retry: RetryRules::default(),
            retry_budget: Some(RetryBudget::default()),
            peers: PeerRules::default(),
            heat: Some(HeatRules::default()),
            affinity: AffinityRules::default(),
            rebalance: Some(RebalanceRules::default()),
            hedge: Some(HedgeRules::default()),
            pulse: Some(PulseRules::default()),
            drain: DrainRules::default(),
            publish: PublishRules::default(),
            accept_limit: AcceptLimit::default(),
            measure: MeasureRules::default(),
            canary: Some(CanaryRules::default()),
            pool_costs: true,
        }
    }
}

/// What this node is among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRules {
    /// How much work it should get: 100 is normal; 0 is none, not even that of its own callers.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
}

impl Default for OwnRules {
    fn default() -> Self {
        Self { weight: WEIGHT_DEFAULT, backup: false }
    }
}

/// Extra work that placing again may cause. What a peer's death causes is not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget(pub BudgetRules);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(BudgetRules { percent: 20, per_second: 10 })
    }
}

/// When a peer is asked how it is because a caller's job has to wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceRules {
    /// Not while what it said of its load is younger than this, or than the margin that it has to beat.
    pub claim_age_max: Micros,
    /// What waits moves only where it is sooner by this part of its own time too, in percent: it could start here any
    /// moment, and what runs before it is known on average only.
    pub gain_percent: u32,
}

impl Default for RebalanceRules {
    fn default() -> Self {
        Self { claim_age_max: Micros::from_ms(5), gain_percent: 100 }
    }
}

/// When a late job of a caller is placed a second time, while the first placement stands; the first answer wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HedgeRules {
    /// What may be spent on it.
    pub budget: BudgetRules,
    /// A job is late when it takes longer than this quantile of the jobs before, measured against their estimates;
    /// thousandths.
    pub quantile_permille: u32,
    /// Never before so long.
    pub after_min: Micros,
    /// Not while more than this part of the other nodes' devices is in use; of this one's, where it would run here.
    pub load_max: Share,
}

impl Default for HedgeRules {
    fn default() -> Self {
        Self {
            budget: BudgetRules { percent: 2, per_second: 0 },
            quantile_permille: 950,
            after_min: Micros::from_ms(10),
            load_max: Share::percent(70),
        }
    }
}

/// When this node suspects that not the others are silent but it did not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseRules {
    /// It stood still when its own ticks are later than this.
    pub late_max: Micros,
    /// So long it calls nobody dead or silent after that; then it believes its ears for at least as long.
    pub doubt: Micros,
}

impl Default for PulseRules {
    fn default() -> Self {
        Self { late_max: Micros::from_ms(200), doubt: Micros::from_ms(500) }
    }
}

/// When load is gossiped: on a change, but not too often, and at least now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRules {
    /// Never more often.
    pub interval_min: Micros,
    /// Never less often.
    pub interval_max: Micros,
    /// Least change that is worth a word.
    pub change_min: Micros,
    /// Least change in percent.
    pub change_percent: u64,
}

impl Default for PublishRules {
    fn default() -> Self {
        Self {
            interval_min: Micros::from_ms(200),
            interval_max: Micros::from_ms(1000),
            change_min: Micros::from_ms(5),
            change_percent: 10,
        }
    }
}

/// When an idle node looks how fast it is.
///
/// A node that seems slow hands all work on, and without work it would never learn that it is not slow, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasureRules {
    /// Time since the last batch or measurement.
    pub interval: Micros,
    /// The same after a measurement that found the device quicker than believed.
    pub interval_again: Micros,
    /// It looks only while a batch here seems to take more than so many percent of one at the fastest peer.
    pub slower_percent: u64,
}

impl Default for MeasureRules {
    fn default() -> Self {
        Self { interval: Micros::from_ms(1000), interval_again: Micros::from_ms(200), slower_percent: 120 }
    }
}

/// When the model is asked a question whose answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRules {
    /// Time from one verdict to the next question while nothing seems wrong.
    pub interval: Micros,
    /// Least time from a verdict to the next question, however much seems wrong.
    pub interval_min: Micros,
    /// Time from a verdict to the next question while the engine is wedged.
    pub interval_wedged: Micros,
    /// A canary is never late before so long, counted from when it should come to its turn.
    pub limit_min: Micros,
}

impl Default for CanaryRules {
    fn default() -> Self {
        Self {
            interval: Micros::from_ms(10_000),
            interval_min: Micros::from_ms(100),
            interval_wedged: Micros::from_ms(1000),
            limit_min: Micros::from_ms(1000),
        }
    }
}

/// How long a peer may take to acknowledge a job before it counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptLimit(pub Micros);

impl Default for AcceptLimit {
    fn default() -> Self {
        Self(Micros::from_ms(300))
    }
}
