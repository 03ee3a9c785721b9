//! Distributions over the seeded generator of the core.
//!
//! For the models and for scenarios. Every purpose has a [`Chance`] of its own, named by a label, so that another
//! policy or one more fault does not shift the arrivals: compared runs see the same requests.
//! Invariants: equal seed and label, equal numbers on one platform (logarithms are the platform's).

use shoal_core::prng::Prng;

use super::digest::Digest;

/// One stream of chance.
#[derive(Clone, Debug)]
pub struct Chance(Prng);

impl Chance {
    /// The stream for `purpose` (and its `index`, for example a node) of `seed`.
    #[must_use]
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut label = Digest::default();
        label.bytes(purpose.as_bytes());
        label.word(index);
        label.word(seed);
        Self(Prng::new(label.value()))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to `bound - 1`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = usize::try_from(high.saturating_sub(low).saturating_add(1)).unwrap_or(usize::MAX);
        low + self.0.below(span) as u64
    }

    /// From 0 up to, but not including, 1.
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what a float between 0 and 1 can hold.
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` up to `high`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True in `permille` of 1000 cases. Draws nothing when it is never or always true.
    pub fn happens(&mut self, permille: u32) -> bool {
        match permille {
            0 => false,
            1000.. => true,
            _ => self.0.below(1000) < permille as usize,
        }
    }

    /// One of `choices`, which are not none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.below(choices.len())]
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        // 1 - unit is above 0, so the logarithm is finite.
        -(1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(chance: &mut Chance, draw: impl Fn(&mut Chance) -> f64) -> f64 {
        (0..200_000).map(|_| draw(chance)).sum::<f64>() / 200_000.0
    }

    #[test]
    fn streams_differ_by_purpose_index_and_seed_and_repeat() {
        let first = |seed, purpose, index| Chance::new(seed, purpose, index).bits();
        assert_eq!(first(1, "arrivals", 0), first(1, "arrivals", 0));
        let others = [first(2, "arrivals", 0), first(1, "service", 0), first(1, "arrivals", 1)];
        assert!(others.iter().all(|&other| other != first(1, "arrivals", 0)));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut chance = Chance::new(1, "test", 0);
        for (found, expected) in [
            (mean(&mut chance, Chance::unit), 0.5),
            (mean(&mut chance, Chance::exponential), 1.0),
            (mean(&mut chance, |chance| chance.normal().powi(2)), 1.0),
            (mean(&mut chance, |chance| chance.normal() + 1.0), 1.0),
            (mean(&mut chance, |chance| f64::from(u8::from(chance.happens(250)))), 0.25),
            (mean(&mut chance, |chance| chance.between(3, 5) as f64), 4.0),
        ] {
            assert!((found - expected).abs() < 0.02, "{found}, not {expected}");
        }
    }
}
