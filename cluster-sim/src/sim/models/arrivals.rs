//! When callers come to which door, and with what.
//!
//! Part of `models`. Open loop: what the shoal answers changes nothing about who comes next.
//! Invariants: rates change by thinning one Poisson process per door, so that a step does not shift later arrivals.

use std::sync::Arc;

use shoal_core::time::{Micros, MonoTime};

use super::super::chance::Chance;

/// Size of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What each text costs, in units.
    pub units: Arc<[u32]>,
    /// How many of all requests look so, as a weight.
    pub weight: u32,
}

/// A change of the whole load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// From when on.
    pub at: MonoTime,
    /// Times the rate of the plan.
    pub factor: f64,
}

/// Who comes when.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrivalModel {
    /// Requests a second over all doors.
    pub rate_per_s: f64,
    /// How much of that each door gets, relative to the others. Doors beyond the list weigh 1.
    pub door_weights: Vec<f64>,
    /// Changes, in the order of time.
    pub steps: Vec<Step>,
    /// Sizes; at least one.
    pub shapes: Vec<Shape>,
    /// Time that a caller gives, and the part in thousandths of those who give `deadline_short` instead.
    pub deadline: Micros,
    /// See `deadline`.
    pub deadline_short: Micros,
    /// See `deadline`.
    pub short_permille: u32,
    /// Callers in a thousand who leave before they have an answer, at a time within `leave_within`.
    pub leave_permille: u32,
    /// See `leave_permille`.
    pub leave_within: Micros,
    /// Requests in a thousand that break the model wherever they run.
    pub poison_permille: u32,
    /// Requests in a thousand that belong to one of `sessions` sessions.
    pub session_permille: u32,
    /// See `session_permille`.
    pub sessions: u32,
    /// The first arrival comes after this.
    pub from: MonoTime,
    /// The last arrival comes before this.
    pub until: MonoTime,
    /// No more than so many requests in all; 0 = no such limit.
    pub requests_max: u64,
}

impl ArrivalModel {
    /// Time until the next candidate at a door of a shoal of `doors`, at the largest rate of the plan.
    pub fn gap(&self, door: usize, doors: usize, chance: &mut Chance) -> Micros {
        let rate = self.rate_at_door(door, doors) * self.factor_max();
        if rate <= 0.0 {
            return Micros::from_ms(3_600_000);
        }
        Micros::new(rounded(chance.exponential() * 1e6 / rate))
    }

    /// Whether a candidate at `now` is a caller, at the rate that holds then.
    pub fn comes(&self, now: MonoTime, chance: &mut Chance) -> bool {
        self.steps.is_empty() || chance.unit() * self.factor_max() < self.factor(now)
    }

    /// Index of the shape of the next request.
    pub fn shape(&self, chance: &mut Chance) -> usize {
        if self.shapes.len() == 1 {
            return 0;
        }
        let sum: u64 = self.shapes.iter().map(|shape| u64::from(shape.weight)).sum();
        let mut left = chance.between(0, sum.saturating_sub(1));
        for (index, shape) in self.shapes.iter().enumerate() {
            if left < u64::from(shape.weight) {
                return index;
            }
            left -= u64::from(shape.weight);
        }
        self.shapes.len() - 1
    }

    /// Mean units and mean rows of a request.
    #[must_use]
    pub fn mean_size(&self) -> (f64, f64) {
        let sum: f64 = self.shapes.iter().map(|shape| f64::from(shape.weight)).sum();
        let mean = |of: fn(&Shape) -> f64| {
            self.shapes.iter().map(|shape| of(shape) * f64::from(shape.weight)).sum::<f64>() / sum
        };
        (mean(|shape| shape.units.iter().map(|&units| f64::from(units)).sum()), mean(|shape| shape.units.len() as f64))
    }

    /// Whether so few requests belong to sessions that these do not decide who computes.
    #[must_use]
    pub fn sessions_are_few(&self) -> bool {
        self.session_permille < 100
    }

    /// Requests a second at one door, without steps.
    #[must_use]
    pub fn rate_at_door(&self, door: usize, doors: usize) -> f64 {
        let weight = |door: usize| self.door_weights.get(door).copied().unwrap_or(1.0);
        // All doors beyond the list weigh 1, so the sum needs no walk over them.
        let listed: f64 = (0..doors.min(self.door_weights.len())).map(weight).sum();
        let sum = listed + doors.saturating_sub(self.door_weights.len()) as f64;
        self.rate_per_s * weight(door) / sum
    }

    /// Times the rate of the plan at `now`.
    #[must_use]
    pub fn factor(&self, now: MonoTime) -> f64 {
        self.steps.iter().take_while(|step| step.at <= now).last().map_or(1.0, |step| step.factor)
    }

    fn factor_max(&self) -> f64 {
        self.steps.iter().map(|step| step.factor).fold(1.0, f64::max)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
fn rounded(micros: f64) -> u64 {
    micros.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ArrivalModel {
        ArrivalModel {
            rate_per_s: 300.0,
            door_weights: vec![4.0],
            steps: Vec::new(),
            shapes: vec![Shape { units: Arc::from([1]), weight: 3 }, Shape { units: Arc::from([2, 4]), weight: 1 }],
            deadline: Micros::from_ms(30_000),
            deadline_short: Micros::from_ms(200),
            short_permille: 0,
            leave_permille: 0,
            leave_within: Micros::ZERO,
            poison_permille: 0,
            session_permille: 0,
            sessions: 0,
            from: MonoTime::START,
            until: MonoTime::from_micros(u64::MAX),
            requests_max: 0,
        }
    }

    fn arrivals(model: &ArrivalModel, door: usize, from_s: u64, to_s: u64) -> usize {
        let (mut chance, mut now, mut count) = (Chance::new(1, "test", door as u64), MonoTime::START, 0);
        let second = |s: u64| MonoTime::START + Micros::from_ms(1000 * s);
        while now < second(to_s) {
            now = now + model.gap(door, 3, &mut chance);
            count += usize::from(second(from_s) <= now && model.comes(now, &mut chance));
        }
        count
    }

    #[test]
    fn doors_get_their_weight_and_a_step_changes_all_of_them() {
        let mut model = model();
        assert!((model.rate_at_door(0, 3) - 200.0).abs() < 1e-9 && (model.rate_at_door(2, 3) - 50.0).abs() < 1e-9);
        assert!(arrivals(&model, 0, 0, 100).abs_diff(20_000) < 600);
        model.steps = vec![Step { at: MonoTime::START + Micros::from_ms(100_000), factor: 2.0 }];
        let (before, after) = (arrivals(&model, 2, 0, 100), arrivals(&model, 2, 100, 200));
        assert!(before.abs_diff(5_000) < 300 && after.abs_diff(10_000) < 400, "{before} {after}");
    }

    #[test]
    fn shapes_come_by_weight() {
        let model = model();
        let mut chance = Chance::new(2, "test", 0);
        let large = (0..8000).filter(|_| model.shape(&mut chance) == 1).count();
        assert!(large.abs_diff(2000) < 150, "{large}");
        assert_eq!(model.mean_size(), (0.75 + 1.5, 1.25));
    }
}
