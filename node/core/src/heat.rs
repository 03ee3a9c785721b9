//! Whether a node counts as hot: the 75 % rule, made safe.
//!
//! For `node`. A hot node gives up the inertia that keeps work here; it never sends work to a peer that is worse.
//! Invariants: hot above one bound and cool below a lower one, so that a load between the two changes nothing; each
//! state holds for a while, differently long by chance, so that nodes that became hot together do not act together; an
//! unknown share changes nothing.

use serde::{Deserialize, Serialize};

use crate::share::Share;
use crate::time::{Micros, MonoTime};

/// When a node is hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatRules {
    /// Above this share a node becomes hot.
    pub enter: Share,
    /// Below this share it is cool again. Less than `enter`.
    pub leave: Share,
    /// A state holds at least so long, and up to half as long again by chance.
    pub dwell: Micros,
    /// Use of the device is smoothed over about so long, where no probe says it; 0 = the present moment counts.
    pub window: Micros,
}

impl Default for HeatRules {
    fn default() -> Self {
        Self {
            enter: Share::percent(75),
            leave: Share::percent(65),
            dwell: Micros::from_ms(500),
            window: Micros::from_ms(1000),
        }
    }
}

/// Whether a node is hot, and until when that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heat {
    hot: bool,
    until: MonoTime,
}

impl Heat {
    /// Whether the node is hot.
    #[must_use]
    pub fn is_hot(self) -> bool {
        self.hot
    }
}

/// The heat of a node of which `share` is in use. `chance` is any random number.
#[must_use]
pub fn step(now: MonoTime, rules: &HeatRules, heat: Heat, share: Option<Share>, chance: u64) -> Heat {
    let Some(share) = share else { return heat };
    let turns = if heat.hot { share < rules.leave } else { rules.enter < share };
    if !turns || now < heat.until {
        return heat;
    }
    let jitter = Micros::new(chance.checked_rem(rules.dwell.get() / 2).unwrap_or(0));
    Heat { hot: !heat.hot, until: now + rules.dwell + jitter }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[(u64, Option<u8>)]) -> bool {
        let rules = HeatRules::default();
        let heat = steps.iter().fold(Heat::default(), |heat, &(ms, percent)| {
            let now = MonoTime::START + Micros::from_ms(ms);
            step(now, &rules, heat, percent.map(Share::percent), 0)
        });
        heat.is_hot()
    }

    #[test]
    fn a_node_is_hot_above_the_upper_bound_and_stays_so_down_to_the_lower() {
        assert!(!run(&[(0, Some(75))]));
        assert!(run(&[(0, Some(76))]));
        assert!(run(&[(0, Some(76)), (1000, Some(65))]));
        assert!(!run(&[(0, Some(76)), (1000, Some(64))]));
        assert!(!run(&[(0, Some(76)), (1000, Some(64)), (2000, Some(75))]));
    }

    #[test]
    fn a_state_holds_for_the_dwell() {
        assert!(run(&[(0, Some(100)), (499, Some(0))]));
        assert!(!run(&[(0, Some(100)), (500, Some(0))]));
        assert!(!run(&[(0, Some(100)), (500, Some(0)), (999, Some(100))]));
    }

    #[test]
    fn what_is_not_known_changes_nothing() {
        assert!(!run(&[(0, None)]));
        assert!(run(&[(0, Some(100)), (5000, None)]));
    }

    #[test]
    fn chance_lengthens_the_dwell_by_up_to_a_half() {
        let rules = HeatRules::default();
        let untils = [0, 1, 249_999, 250_000, u64::MAX]
            .map(|chance| step(MonoTime::START, &rules, Heat::default(), Some(Share::FULL), chance).until.as_micros());
        assert!(untils.iter().all(|until| (500_000..750_000).contains(until)), "{untils:?}");
        assert_ne!(untils[0], untils[2]);
    }
}
