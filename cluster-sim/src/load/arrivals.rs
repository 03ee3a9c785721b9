//! When requests are meant to be sent, and to which door.
//!
//! For `load`. A Poisson process from a seed: the same seed gives the same times, doors and texts.
//! Invariants: times never go back; what the shoal answers has no influence on what is sent (open loop).

use std::time::Duration;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// One request to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// 0, 1, 2, ...; the text is made from it.
    pub(crate) number: u64,
    /// Since the start of the load.
    pub(crate) at: Duration,
    /// Index of the address that the client tries first.
    pub(crate) door: usize,
}

/// The endless sequence of [`Arrival`]s.
#[derive(Debug)]
pub(crate) struct Arrivals {
    chance: Pcg64Mcg,
    rate_per_s: f64,
    weights: Vec<f64>,
    next_number: u64,
    at_s: f64,
}

impl Arrivals {
    /// `rate_per_s` over all doors, spread in proportion to `weights`, one weight a door.
    pub(crate) fn new(seed: u64, rate_per_s: f64, weights: Vec<f64>) -> Self {
        assert!(0.0 < rate_per_s && rate_per_s.is_finite(), "rate {rate_per_s}");
        assert!(weights.iter().all(|&weight| 0.0 <= weight) && 0.0 < weights.iter().sum(), "weights {weights:?}");
        Self { chance: Pcg64Mcg::seed_from_u64(seed), rate_per_s, weights, next_number: 0, at_s: 0.0 }
    }

    /// In [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Arrivals {
    /// The next one, at so many times the rate that was said at first.
    pub(crate) fn next_at(&mut self, times: f64) -> Arrival {
        // 1 - u is in (0, 1], so the logarithm is finite.
        self.at_s += -(1.0 - self.uniform()).ln() / (self.rate_per_s * times);
        let mut left = self.uniform() * self.weights.iter().sum::<f64>();
        let passed = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        // Rounding can leave nothing below zero: then it was the last door.
        let door = self.weights.iter().position(passed).unwrap_or(self.weights.len() - 1);
        let arrival = Arrival { number: self.next_number, at: Duration::from_secs_f64(self.at_s), door };
        self.next_number += 1;
        arrival
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        Some(self.next_at(1.0))
    }
}

/// Weights that give door `hot` `skew` times the load of every other one.
pub(crate) fn skewed(doors: usize, hot: usize, skew: f64) -> Vec<f64> {
    (0..doors).map(|door| if door == hot { skew } else { 1.0 }).collect()
}

/// The share of the whole load that the hot door gets.
pub(crate) fn hot_share(doors: usize, skew: f64) -> f64 {
    skew / (skew + doors as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence_and_another_seed_another() {
        let take = |seed| Arrivals::new(seed, 50.0, vec![8.0, 1.0, 1.0]).take(100).collect::<Vec<_>>();
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn gaps_are_exponential_and_doors_follow_their_weights() {
        let count = 100_000;
        let all: Vec<Arrival> = Arrivals::new(9, 200.0, skewed(3, 0, 8.0)).take(count).collect();
        let gaps: Vec<f64> = all.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean * 200.0 - 1.0).abs() < 0.02, "mean gap {mean}");
        // The mark of an exponential distribution: its deviation equals its mean. Even gaps would have none.
        assert!((deviation / mean - 1.0).abs() < 0.03, "deviation {deviation}, mean {mean}");
        let hot = all.iter().filter(|arrival| arrival.door == 0).count() as f64 / count as f64;
        assert!((hot - hot_share(3, 8.0)).abs() < 0.01, "hot door's share {hot}");
    }

    #[test]
    fn a_door_without_weight_gets_nothing() {
        assert!(Arrivals::new(4, 10.0, vec![1.0, 0.0]).take(1000).all(|arrival| arrival.door == 0));
    }
}
