//! Seeded chance that gives the same numbers on every platform.
//!
//! For the choice of two random peers and for jitter. Only `main` (or a simulation) makes the seed.
//! Invariants: equal seed and label, equal numbers; one more draw in one stream does not shift another.

use rand_core::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// One stream of pseudo-random numbers (PCG XSL 128/64, O'Neill 2014). Not for secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prng(Pcg64Mcg);

impl Prng {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from 0 to `bound - 1`; 0 when `bound` is 0.
    ///
    /// Multiply-shift (Lemire 2019) without the rejection step: the bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * (bound as u128);
        usize::try_from(wide >> 64).expect("a value below a usize fits a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_for_ever() {
        let mut prng = Prng::new(7);
        let drawn: Vec<usize> = (0..8).map(|_| prng.below(100)).collect();
        let mut again = Prng::new(7);
        assert_eq!(drawn, (0..8).map(|_| again.below(100)).collect::<Vec<_>>());
        assert_ne!(drawn, { (0..8).map(|_| Prng::new(8).below(100)).collect::<Vec<_>>() });
    }

    #[test]
    fn every_number_below_the_bound_comes_and_none_beyond() {
        let mut prng = Prng::new(1);
        let mut seen = [0u32; 3];
        for _ in 0..3000 {
            seen[prng.below(3)] += 1;
        }
        assert!(seen.iter().all(|&count| 900 < count), "{seen:?}");
        assert_eq!(prng.below(0), 0);
        assert_eq!(prng.below(1), 0);
    }
}
