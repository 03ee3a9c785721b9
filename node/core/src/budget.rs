//! How much extra work a node may cause: a share of the requests, and a little beside.
//!
//! For retries and for hedges, each with a [`Budget`] of its own. A retry that was caused by a peer's death is not
//! charged: there are as many of them as that peer held, and they end by themselves.
//! Invariants: the balance is between 0 and the cap, whatever is asked; without requests there is only the trickle.
//! Source: Finagle's retry budget (20 % and 10 a second).

use serde::{Deserialize, Serialize};

use crate::time::MonoTime;

/// One unit of extra work, in thousandths.
const ONE: u64 = 1000;
/// The balance never exceeds this many units.
const CAP: u64 = 100;

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRules {
    /// Each request adds so many hundredths.
    pub percent: u32,
    /// Each second adds so many.
    pub per_second: u32,
}

/// What is left to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    thousandths: u64,
    trickled: MonoTime,
}

impl Budget {
    /// A node that starts has one second of the trickle.
    #[must_use]
    pub fn new(rules: &BudgetRules) -> Self {
        Self { thousandths: (u64::from(rules.per_second) * ONE).min(CAP * ONE), trickled: MonoTime::START }
    }

    /// A request came.
    pub fn on_request(&mut self, rules: &BudgetRules) {
        self.add(u64::from(rules.percent) * ONE / 100);
    }

    /// Whether there is a unit to take.
    pub fn has(&mut self, now: MonoTime, rules: &BudgetRules) -> bool {
        let trickle = now.since(self.trickled).get().saturating_mul(rules.per_second.into()) / 1000;
        if 0 < trickle {
            self.trickled = now;
            self.add(trickle);
        }
        ONE <= self.thousandths
    }

    /// Takes one unit if there is one. Returns whether there was.
    pub fn take(&mut self, now: MonoTime, rules: &BudgetRules) -> bool {
        let enough = self.has(now, rules);
        if enough {
            self.thousandths -= ONE;
        }
        enough
    }

    fn add(&mut self, thousandths: u64) {
        self.thousandths = self.thousandths.saturating_add(thousandths).min(CAP * ONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Micros;

    fn at(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    #[test]
    fn a_fifth_of_the_requests_and_ten_a_second_may_be_spent() {
        let rules = BudgetRules { percent: 20, per_second: 10 };
        let mut budget = Budget::new(&rules);
        let spent = |budget: &mut Budget, ms| (0..1000).filter(|_| budget.take(at(ms), &rules)).count();
        assert_eq!(spent(&mut budget, 0), 10, "the first second's trickle");
        (0..100).for_each(|_| budget.on_request(&rules));
        assert_eq!(spent(&mut budget, 0), 20);
        assert_eq!(spent(&mut budget, 500), 5);
        assert_eq!(spent(&mut budget, 3_600_000), 100, "an hour of rest is worth no more than the cap");
    }

    #[test]
    fn many_small_looks_at_the_trickle_add_up_to_the_same() {
        let rules = BudgetRules { percent: 0, per_second: 10 };
        let mut budget = Budget::new(&rules);
        let spent = (0..=10_000).filter(|&ms| budget.take(at(ms), &rules)).count();
        assert_eq!(spent, 110, "ten seconds and the first one");
    }

    #[test]
    fn an_empty_rule_gives_nothing() {
        let rules = BudgetRules { percent: 0, per_second: 0 };
        let mut budget = Budget::new(&rules);
        budget.on_request(&rules);
        assert!(!budget.take(at(u64::MAX / 2000), &rules));
    }
}
