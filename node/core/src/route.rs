//! Where a job goes: here, or to which peer. One file a policy.
//!
//! For `node`, which offers [`Seat`]s (nodes that may get the job) and gets one back. [`Policy::Adaptive`] is the one
//! to use; the others are what people know from load balancers, for comparison and for taste.
//! Invariants: a policy picks one of the seats it was offered, whatever their numbers are; it sees values only.
//! To add a policy: a file in `route/` with `pick` and its tests, and one line in the list below.

mod adaptive;
mod dynamic_weight;
mod ip_hash;
mod least_conn;
mod least_load;
mod local;
mod round_robin;
mod threshold;
mod weighted;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::prng::Prng;
use crate::share::Share;
use crate::time::Micros;

/// The weight of a node that nobody gave one.
pub const WEIGHT_DEFAULT: u32 = 100;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 10_000;

macro_rules! policies {
    ($( $(#[doc = $about:literal])+ $policy:ident = $module:ident, $sees:expr; )+) => {
        /// How a node is chosen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Policy {
            $( $(#[doc = $about])+ $policy, )+
        }

        impl Policy {
            /// All policies.
            pub const ALL: &'static [Self] = &[$(Self::$policy),+];

            /// Its name in the configuration.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$policy => stringify!($module),)+
                }
            }

            /// Which peers it is offered.
            #[must_use]
            pub fn sees(self) -> Sees {
                match self {
                    $(Self::$policy => $sees,)+
                }
            }

            /// Picks one of `scene.seats`, of which there is at least one.
            fn pick(self, scene: &mut Scene<'_>) -> usize {
                match self {
                    $(Self::$policy => $module::pick(scene),)+
                }
            }
        }
    };
}

policies! {
    /// Whoever is done first, of this node and two random peers; a peer must be sooner by a margin.
    Adaptive = adaptive, Sees::TwoPeers;
    /// This node.
    Local = local, Sees::AllPeers;
    /// One after the other.
    RoundRobin = round_robin, Sees::AllPeers;
    /// One after the other, as often as the weights say.
    Weighted = weighted, Sees::AllPeers;
    /// By chance, with a weight that falls as the load rises.
    DynamicWeight = dynamic_weight, Sees::AllPeers;
    /// Whoever has the fewest jobs of this node.
    LeastConn = least_conn, Sees::AllPeers;
    /// Whoever is said to have the least load.
    LeastLoad = least_load, Sees::AllPeers;
    /// Always the same node for the same caller.
    IpHash = ip_hash, Sees::AllPeers;
    /// This node until it is more than 75 % loaded, then the least loaded peer.
    Threshold = threshold, Sees::AllPeers;
}

/// Which peers a policy is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Two random ones.
    TwoPeers,
    /// All of them.
    AllPeers,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.iter().copied().find(|policy| policy.name() == text).ok_or(UnknownPolicy)
    }
}

/// A name that no policy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no policy has this name")]
pub struct UnknownPolicy;

/// How a node is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRules {
    /// By what.
    pub policy: Policy,
    /// Least advantage that moves a job under `adaptive`.
    pub margin_min: Micros,
    /// Least advantage in percent of the completion here, unless this node is hot.
    pub margin_percent: u32,
    /// Peers that `adaptive` draws: 2 is the power of two choices.
    pub candidates: u32,
    /// Whether a peer checks with its exact load that it would be sooner, and refuses otherwise.
    pub verify: bool,
}

impl Default for RouteRules {
    fn default() -> Self {
        Self {
            policy: Policy::Adaptive,
            margin_min: Micros::from_ms(2),
            margin_percent: 10,
            candidates: 2,
            verify: true,
        }
    }
}

/// A node that may get the job, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its name.
    pub id: NodeId,
    /// It is this node.
    pub here: bool,
    /// When the job would be done there, the way included, from now.
    pub completion: Micros,
    /// The same as the node's own word has it, its record left out: what an answer is measured against.
    pub promised: Micros,
    /// Time until it would start there, as far as that is known.
    pub wait: Micros,
    /// Round trip to it; zero for this node.
    pub rtt: Micros,
    /// Age of what is known of its load; `None` = nothing is.
    pub age: Option<Micros>,
    /// How much work it should get: 100 is normal.
    pub weight: u32,
    /// Jobs of this node's callers that are there.
    pub mine: u32,
    /// Jobs there, by its own word.
    pub held: u32,
    /// Batches that run there at one time.
    pub slots: u32,
    /// Part of its device that is in use; the mean of the others where it is unknown.
    pub load: Share,
}

/// What a policy decides from.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Its settings.
    pub rules: &'a RouteRules,
    /// Nodes that may get the job, by name. At least one.
    pub seats: &'a [Seat],
    /// This node is above the bound of the 75 % rule.
    pub hot: bool,
    /// A number that stands for the caller's address.
    pub client: u64,
    /// Counts the choices of this node.
    pub turn: u64,
    /// Chance.
    pub prng: &'a mut Prng,
}

impl Scene<'_> {
    /// The seat with the least `key`; of several equal ones a random one.
    fn least<K: Ord>(&mut self, mut key: impl FnMut(&Seat) -> K) -> usize {
        let (mut best, mut ties) = (0, 1);
        for index in 1..self.seats.len() {
            match key(&self.seats[index]).cmp(&key(&self.seats[best])) {
                std::cmp::Ordering::Less => (best, ties) = (index, 1),
                std::cmp::Ordering::Equal => {
                    // Each of `ties` equal ones stays with the same probability (reservoir sampling).
                    ties += 1;
                    if self.prng.below(ties) == 0 {
                        best = index;
                    }
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        best
    }

    /// The seat of this node, if it is one.
    fn own(&self) -> Option<usize> {
        self.seats.iter().position(|seat| seat.here)
    }
}

/// By how much a peer has to be sooner to get the job: what the way costs, and what estimates are not worth. `hot`
/// leaves out the part that grows with the completion `here`.
#[must_use]
pub fn margin(rules: &RouteRules, here: Micros, rtt: Micros, hot: bool) -> Micros {
    let inertia = if hot { Micros::ZERO } else { here.percent(rules.margin_percent.into()) };
    rules.margin_min.max(rtt.times(2)).max(inertia)
}

/// One of `scene.seats`, by the policy of its rules.
///
/// # Panics
/// Without a seat: there is nothing to pick.
#[must_use]
pub fn pick(scene: &mut Scene<'_>) -> usize {
    assert!(!scene.seats.is_empty(), "somebody may get the job");
    let picked = scene.rules.policy.pick(scene);
    assert!(picked < scene.seats.len(), "a policy picks one of the seats");
    picked
}

/// Where `point` (a part of the whole, 0 = the start) falls when the whole is divided by `weights`. The last one that
/// has a weight when rounding leaves nothing; the first when no weight is above zero. The weights add up to less than
/// 2^64.
fn by_weight(weights: impl Iterator<Item = u64> + Clone, point: u64) -> usize {
    let sum: u128 = weights.clone().map(u128::from).sum();
    let mut left = (sum * u128::from(point)) >> 64;
    let mut last = 0;
    for (index, weight) in weights.enumerate().filter(|&(_, weight)| 0 < weight) {
        if left < u128::from(weight) {
            return index;
        }
        left -= u128::from(weight);
        last = index;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn seat(name: &str, completion_ms: u64) -> Seat {
        Seat {
            id: NodeId::new(name).expect("a sound id"),
            here: name == "here",
            completion: Micros::from_ms(completion_ms),
            promised: Micros::from_ms(completion_ms),
            wait: Micros::ZERO,
            rtt: Micros::ZERO,
            age: Some(Micros::ZERO),
            weight: WEIGHT_DEFAULT,
            mine: 0,
            held: 0,
            slots: 1,
            load: Share::default(),
        }
    }

    /// How often `policy` picks each seat in `turns` turns.
    pub(super) fn picks(policy: Policy, seats: &[Seat], hot: bool, turns: u64) -> Vec<u64> {
        let rules = RouteRules { policy, ..RouteRules::default() };
        let (mut prng, mut counts) = (Prng::new(3), vec![0; seats.len()]);
        for turn in 0..turns {
            let client = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut scene = Scene { rules: &rules, seats, hot, client, turn, prng: &mut prng };
            counts[pick(&mut scene)] += 1;
        }
        counts
    }

    #[test]
    fn every_policy_is_found_by_its_name_and_picks_the_only_seat() {
        for &policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            for name in ["here", "peer"] {
                let strange = Seat { weight: 0, slots: 0, load: Share::FULL, ..seat(name, u64::MAX / 1000) };
                assert_eq!(picks(policy, &[strange], true, 3), [3], "{policy:?} {name}");
            }
        }
        assert_eq!("least-load".parse::<Policy>(), Err(UnknownPolicy));
    }

    #[test]
    fn a_point_falls_where_the_weights_say() {
        let quarter = u64::MAX / 4;
        for (weights, point, expected) in [
            (vec![1, 1, 2], 0, 0),
            (vec![1, 1, 2], quarter + 9, 1),
            (vec![1, 1, 2], quarter * 2 + 9, 2),
            (vec![1, 1, 2], u64::MAX, 2),
            (vec![0, 5, 0], 0, 1),
            (vec![0, 5, 0], u64::MAX, 1),
            (vec![0, 0], 7, 0),
            (vec![u64::from(u32::MAX) * 4; 512], u64::MAX, 511),
        ] {
            assert_eq!(by_weight(weights.iter().copied(), point), expected, "{weights:?} {point}");
        }
    }

    #[test]
    fn equal_ones_are_picked_equally_often() {
        let seats: Vec<Seat> = ["a", "b", "c", "here"].map(|name| seat(name, 5)).into();
        let counts = picks(Policy::LeastLoad, &seats, false, 4000);
        assert!(counts.iter().all(|&count| 850 < count), "{counts:?}");
    }
}
