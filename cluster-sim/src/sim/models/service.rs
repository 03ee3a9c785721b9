//! How long a device works for a batch.
//!
//! Part of `models`.
//! Invariants: the time is above zero; `ServiceModel::mean_of` is the mean over all chance.

use shoal_core::time::Micros;

use super::super::chance::Chance;

/// What runs batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Device {
    /// One device that takes `fixed` for a batch and `per_unit_ns` for each of its units.
    Batch {
        /// Microseconds a batch.
        fixed: Micros,
        /// Nanoseconds a unit.
        per_unit_ns: u64,
        /// Most rows of a batch.
        rows_max: u32,
    },
    /// So many independent slots; each runs one row and takes `per_unit_ns` for each unit.
    Slots {
        /// Slots.
        slots: u32,
        /// Nanoseconds a unit.
        per_unit_ns: u64,
    },
}

/// How much the work of one request differs from what its size says. All have mean 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Not at all.
    None,
    /// Exponential.
    Exponential,
    /// One of two exponentials, so that variance / mean² is this. At least 1.
    HyperExponential(f64),
    /// Log-normal with this deviation of the logarithm.
    LogNormal(f64),
    /// Pareto with this exponent, above 1; cut at 1000 times the mean.
    Pareto(f64),
    /// So many in a thousand take so many times as long as the others.
    Bimodal {
        /// Thousandths.
        permille: u32,
        /// Times.
        factor: f64,
    },
}

impl Spread {
    /// One request's factor.
    pub fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Exponential => chance.exponential(),
            Self::HyperExponential(variance) => {
                // Two exponentials with balanced means: each contributes half of the work.
                let rare = 0.5 * (1.0 - ((variance - 1.0) / (variance + 1.0)).sqrt());
                let share = if chance.unit() < rare { rare } else { 1.0 - rare };
                chance.exponential() / (2.0 * share)
            }
            Self::LogNormal(deviation) => (deviation * chance.normal() - deviation * deviation / 2.0).exp(),
            Self::Pareto(exponent) => {
                let least = (exponent - 1.0) / exponent;
                (least * (1.0 - chance.unit()).powf(-1.0 / exponent)).min(1000.0)
            }
            Self::Bimodal { permille, factor } => {
                let usual = 1.0 / (1.0 + f64::from(permille) / 1000.0 * (factor - 1.0));
                if chance.happens(permille) { usual * factor } else { usual }
            }
        }
    }
}

/// How long a device works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceModel {
    /// What runs.
    pub device: Device,
    /// How far the work of requests of one size differs.
    pub spread: Spread,
    /// Each batch takes up to so many percent more or less by chance.
    pub noise_percent: u32,
}

impl ServiceModel {
    /// Time of a batch of `work` units, each counted with its request's factor.
    pub fn took(&self, work: f64, chance: &mut Chance) -> f64 {
        let noise = f64::from(self.noise_percent) / 100.0;
        let around = if noise == 0.0 { 1.0 } else { chance.range(1.0 - noise, 1.0 + noise) };
        (self.unloaded(work) * around).max(1.0)
    }

    /// Microseconds of `work` units alone on an idle device, without noise.
    #[must_use]
    pub fn unloaded(&self, work: f64) -> f64 {
        let (fixed, per_unit_ns) = match self.device {
            Device::Batch { fixed, per_unit_ns, .. } => (fixed, per_unit_ns),
            Device::Slots { per_unit_ns, .. } => (Micros::ZERO, per_unit_ns),
        };
        fixed.get() as f64 + work * per_unit_ns as f64 / 1000.0
    }

    /// Requests of `units` units in `rows` rows that one node can serve in a second, at most.
    #[must_use]
    pub fn capacity_per_s(&self, units: f64, rows: f64) -> f64 {
        match self.device {
            Device::Slots { slots, .. } => f64::from(slots) * 1e6 / self.unloaded(units),
            // A full batch lasts 50 ms or has `rows_max` rows, whichever comes first (the core's default).
            Device::Batch { fixed, per_unit_ns, rows_max } => {
                let per_request = units * per_unit_ns as f64 / 1000.0;
                let by_time = (50_000f64.max(2.0 * fixed.get() as f64) - fixed.get() as f64) / per_request;
                let in_batch = by_time.min(f64::from(rows_max) / rows).max(1.0);
                in_batch * 1e6 / (fixed.get() as f64 + in_batch * per_request)
            }
        }
    }

    /// Batches that run at one time.
    #[must_use]
    pub fn slots(&self) -> u32 {
        match self.device {
            Device::Batch { .. } => 1,
            Device::Slots { slots, .. } => slots,
        }
    }

    /// Most rows of a batch.
    #[must_use]
    pub fn rows_max(&self) -> u32 {
        match self.device {
            Device::Batch { rows_max, .. } => rows_max,
            Device::Slots { .. } => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(spread: Spread) -> (f64, f64) {
        let mut chance = Chance::new(5, "test", 0);
        let drawn: Vec<f64> = (0..400_000).map(|_| spread.draw(&mut chance)).collect();
        assert!(drawn.iter().all(|&factor| factor.is_finite() && 0.0 <= factor));
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|factor| (factor - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        (mean, variance)
    }

    #[test]
    fn every_spread_has_mean_one_and_its_own_variance() {
        for (spread, variance, tolerance) in [
            (Spread::None, 0.0, 1e-9),
            (Spread::Exponential, 1.0, 0.03),
            (Spread::HyperExponential(4.0), 4.0, 0.15),
            (Spread::LogNormal(1.0), std::f64::consts::E - 1.0, 0.15),
            (Spread::Bimodal { permille: 10, factor: 40.0 }, 7.78, 0.6),
            (Spread::Pareto(3.0), 1.0 / 3.0, 0.1),
        ] {
            let (mean, found) = moments(spread);
            assert!((mean - 1.0).abs() < 0.02, "{spread:?}: mean {mean}");
            assert!((found - variance).abs() < tolerance, "{spread:?}: variance {found}, not {variance}");
        }
    }

    #[test]
    fn a_batch_costs_its_fixed_part_once_and_slots_have_none() {
        let device = Device::Batch { fixed: Micros::from_ms(4), per_unit_ns: 2_000_000, rows_max: 32 };
        let model = ServiceModel { device, spread: Spread::None, noise_percent: 0 };
        let mut chance = Chance::new(1, "test", 0);
        assert!((model.took(3.0, &mut chance) - 10_000.0).abs() < 1e-6);
        assert!((model.capacity_per_s(1.0, 1.0) - 23e6 / 50_000.0).abs() < 1.0);
        let slots = ServiceModel { device: Device::Slots { slots: 8, per_unit_ns: 50_000_000 }, ..model };
        assert!((slots.capacity_per_s(1.0, 1.0) - 160.0).abs() < 1e-6);
        let noisy = ServiceModel { noise_percent: 20, ..model };
        assert!((0..100).all(|_| (8_000.0..=12_000.0).contains(&noisy.took(3.0, &mut chance))));
    }
}
