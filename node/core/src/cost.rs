//! How long a batch takes on one node, learned from the batches that ran.
//!
//! For the estimate of completion, and for the size of a batch. Time is affine in units: `fixed + per_unit × units`
//! (a unit is about a token; see the engine's cost guess). Old batches are forgotten geometrically.
//! Invariants: both terms are finite and not negative, whatever was observed.

use serde::{Deserialize, Serialize};

use crate::time::Micros;

/// Weight of the newest batch while the model fits: the last 400 or so decide.
///
/// With fewer, the chance of unlike requests (a squared coefficient of variation of 4 is common) makes one of two equal
/// nodes look half as fast as the other, and work then moves for nothing: with a tenth here, the p99 of the wait in the
/// simulator's table was three times as long.
const WEIGHT_STEADY: f64 = 0.005;
/// Weight of the newest batch while the model does not fit any more: the last 20 or so decide.
const WEIGHT_DRIFTING: f64 = 0.1;
/// What is older than this time in microseconds is mostly forgotten, however few batches there were since: a batch
/// counts for the part that the time since the last one is of it. A node that believes itself slow gets little work, so
/// it has to learn from little that it is not.
const FORGOTTEN_AFTER: f64 = 4e6;
/// Weight of one batch after however long a pause.
const WEIGHT_MAX: f64 = 0.25;
/// Weight of the newest error in what says whether the model still fits.
const WEIGHT_ERROR: f64 = 0.05;
/// The model does not fit when the mean of the last errors is so many standard errors above zero, or below it.
///
/// Times are skewed: a few long batches by chance are common, a few short ones are not. With 4 in both directions a
/// node of exponential times believed itself slow once in 25,000 batches, and handed on all its work for a second or
/// two; with 5 once in a million. Downwards it never happened in a hundred million.
const DRIFT_SIGMAS_ABOVE: f64 = 5.0;
const DRIFT_SIGMAS_BELOW: f64 = 4.0;
/// Pull of the slope towards what is known of it, relative to the squared mean size. It decides while all batches have
/// one size, when slope and fixed part cannot be told apart: then what unlike batches told before still holds, and "no
/// fixed part" where there were none.
const RIDGE: f64 = 0.01;
/// A batch counts as at most so many times what it should have taken (or the mean batch takes), once some are known. A
/// process that was stopped for ten seconds measures ten seconds: believed in full, the node would hand on all work
/// for ever, because without batches it never learns better. A node that really turned slow is believed step by step.
const SURPRISE_MAX: f64 = 4.0;
/// A batch is a surprise when it takes more than so many times what it should have, and its error is so many times what
/// errors usually are. One may be chance; from the second in a row on, and if the model does not fit any more by the
/// rule above, they are believed by half, because a device that is ten times slower than its node believes draws work
/// all the time until it is known.
const SURPRISE_MIN_TIMES: f64 = 2.0;
const SURPRISE_SIGMAS: f64 = 4.0;
const WEIGHT_SURPRISED: f64 = 0.5;
/// After so many batches some are known.
const KNOWN_AFTER: u64 = 10;
/// Others whose cost is no further off than so many standard errors of one's own are taken for alike; from the second
/// number on they are not, and between the two in part.
const ALIKE_SIGMAS: f64 = 4.0;
const UNLIKE_SIGMAS: f64 = 6.0;
/// Least time that is not taken for a surprise, in microseconds.
const SURPRISE_MIN: f64 = 1000.0;
/// Longest time that is believed, in microseconds: one batch of a day.
const TIME_MAX: f64 = 86_400e6;

/// What a batch costs: `fixed + per_unit × units`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Microseconds a batch, whatever its size.
    pub fixed: Micros,
    /// Nanoseconds a unit. A small model on a large machine needs less than a microsecond.
    pub per_unit_ns: u64,
}

impl Cost {
    /// Microseconds of one batch of `units`.
    fn micros(self, units: f64) -> f64 {
        self.fixed.get() as f64 + self.per_unit_ns as f64 * units / 1000.0
    }

    fn scaled(self, factor: f64) -> Self {
        let (fixed, per_unit_ns) = (self.fixed.get() as f64 * factor, self.per_unit_ns as f64 * factor);
        Self { fixed: Micros::new(to_u64(fixed)), per_unit_ns: to_u64(per_unit_ns) }
    }

    /// Time of `units` units that run in `batches` batches.
    #[must_use]
    pub fn of(self, units: u64, batches: u64) -> Micros {
        self.fixed.times(batches) + Micros::new(self.per_unit_ns.saturating_mul(units) / 1000)
    }

    /// Most units that one batch may have to end within `limit`; at least 1.
    #[must_use]
    pub fn units_within(self, limit: Micros) -> u64 {
        let left_ns = (limit - self.fixed).get().saturating_mul(1000);
        left_ns.checked_div(self.per_unit_ns).unwrap_or(u64::MAX).max(1)
    }
}

/// Learns a [`Cost`] by exponentially weighted least squares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CostModel {
    batches: u64,
    units_mean: f64,
    micros_mean: f64,
    units_variance: f64,
    covariance: f64,
    /// Fixed part of the mean batch's time, as batches of unlike size told it.
    fixed_share: f64,
    /// Mean of the last errors, in microseconds.
    error_mean: f64,
    /// Mean of all squared errors.
    error_variance: f64,
    /// Sum of the squared weights that the batches have in the means.
    weights_squared: f64,
    /// Surprising batches in a row.
    surprises: u32,
}

/// What a mean batch takes on the nodes whose cost cannot be told from this one's.
///
/// A cost that is learned from unlike requests is off by some percent, on each node by others: work would move for
/// nothing to whom chance made look fast. Among equals the mean over all of them is nearer to the truth of each. What a
/// node tells of itself is what it learned and not this mean: else a single one that does not average would weigh as
/// much as all that do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alike {
    /// Units of the mean batch here, what it takes here in microseconds, and the standard error of that.
    units: f64,
    own: f64,
    error: f64,
    /// Its mean over this node and all that are alike, in microseconds.
    mean: f64,
}

impl Alike {
    /// How far a node whose mean batch takes `other` microseconds is alike, from 0 to 1.
    fn part(&self, other: f64) -> f64 {
        if self.own <= 0.0 {
            return 0.0;
        }
        // Measured against the quicker of the two: a node that turned slow is unsure, but not in that.
        let error = self.error * (other / self.own).min(1.0);
        let sigmas = (self.own - other).abs() / error.max(f64::MIN_POSITIVE);
        ((UNLIKE_SIGMAS - sigmas) / (UNLIKE_SIGMAS - ALIKE_SIGMAS)).clamp(0.0, 1.0)
    }

    /// The cost to reckon with of a node that says `told` of itself: the mean, as far as it is alike.
    #[must_use]
    pub fn cost_of(&self, told: Cost) -> Cost {
        let other = told.micros(self.units);
        let part = self.part(other);
        if part <= 0.0 || other <= 0.0 { told } else { told.scaled(1.0 + part * (self.mean / other - 1.0)) }
    }
}

impl CostModel {
    /// One batch of `units` units took `took`; the one before it was learned `since` ago.
    pub fn observe(&mut self, units: u64, took: Micros, since: Micros) {
        // Both are far below 2^53 once bounded, so the conversions are exact.
        let units = units.clamp(1, 1 << 40) as f64;
        let micros = (took.get().min(1 << 50) as f64).min(TIME_MAX);
        let micros = micros.min(self.surprising(units));
        self.surprises = if self.is_surprise(units, micros) { self.surprises.saturating_add(1) } else { 0 };
        let drifting = if 1 < self.surprises { WEIGHT_SURPRISED } else { WEIGHT_DRIFTING };
        let steady = if self.drifts(units, micros) { drifting } else { WEIGHT_STEADY };
        self.batches = self.batches.saturating_add(1);
        let aged = (since.get() as f64 / FORGOTTEN_AFTER).min(WEIGHT_MAX);
        // The first batches are averaged evenly, so that one odd first batch is soon forgotten.
        let weight = steady.max(aged).max(1.0 / self.batches as f64);
        let (units_off, micros_off) = (units - self.units_mean, micros - self.micros_mean);
        self.units_mean += weight * units_off;
        self.micros_mean += weight * micros_off;
        self.units_variance = (1.0 - weight) * (self.units_variance + weight * units_off * units_off);
        self.covariance = (1.0 - weight) * (self.covariance + weight * units_off * micros_off);
        self.weights_squared = (1.0 - weight).powi(2) * self.weights_squared + weight * weight;
        if let Some((_, fixed)) = self.line().filter(|_| 0.0 < self.micros_mean) {
            // Batches of one size tell nothing about the shape.
            let told = self.units_variance / (self.units_variance + self.ridge());
            self.fixed_share += weight * told * (fixed / self.micros_mean - self.fixed_share);
        }
    }

    fn ridge(&self) -> f64 {
        RIDGE * self.units_mean * self.units_mean
    }

    /// The idle device took `took` for `units`, asked because this node seemed slow.
    ///
    /// What differs then is the device's speed, so both terms change in one ratio; nothing about it is chance, so it
    /// counts like a batch after a long pause. Only a quicker one counts: a small batch says nothing about the shape;
    /// where all batches were large it seems to take too long, and each look would make the node believe itself slower.
    pub fn on_measured(&mut self, units: u64, took: Micros) {
        let believed = self.line().map_or(0.0, |(slope, fixed)| fixed + slope * units.clamp(1, 1 << 40) as f64);
        if believed <= 0.0 {
            return self.observe(units, took, Micros::ZERO);
        }
        let ratio = (took.get() as f64 / believed).min(1.0);
        let factor = 1.0 + WEIGHT_MAX * (ratio - 1.0);
        self.micros_mean *= factor;
        self.covariance *= factor;
        self.error_mean *= factor;
        self.error_variance *= factor * factor;
    }

    /// Whether the last batches, this one included, say that the device is no longer as fast or as slow as the model.
    fn drifts(&mut self, units: f64, micros: f64) -> bool {
        let Some((slope, fixed)) = self.line() else { return false };
        let error = micros - (fixed + slope * units);
        self.error_mean += WEIGHT_ERROR * (error - self.error_mean);
        let weight = WEIGHT_STEADY.max(1.0 / self.batches as f64);
        self.error_variance += weight * (error * error - self.error_variance);
        // Variance of an exponentially weighted mean of independent errors.
        let standard = self.error_variance * WEIGHT_ERROR / (2.0 - WEIGHT_ERROR);
        let sigmas = if self.error_mean < 0.0 { DRIFT_SIGMAS_BELOW } else { DRIFT_SIGMAS_ABOVE };
        sigmas * sigmas * standard < self.error_mean * self.error_mean
    }

    /// Whether a batch of `units` took far longer than it should have, and than chance explains.
    fn is_surprise(&self, units: f64, micros: f64) -> bool {
        let Some((slope, fixed)) = self.line() else { return false };
        let believed = fixed + slope * units;
        SURPRISE_MIN_TIMES * believed < micros && SURPRISE_SIGMAS * self.error_variance.sqrt() < micros - believed
    }

    /// How many units a batch may have for the sake of learning, although that may take too long.
    ///
    /// While all batches had one size nobody knows what a larger one would cost. A device whose batches take long
    /// whatever their size, as GPUs do with a small model, would run single rows for ever, because two seem to take
    /// twice as long as one.
    #[must_use]
    pub fn units_to_learn(&self) -> u64 {
        let one_size = self.units_variance < self.ridge();
        if one_size { to_u64(2.0 * self.units_mean) } else { 0 }
    }

    /// The longest time that is believed of a batch of `units`.
    fn surprising(&self, units: f64) -> f64 {
        let (slope, fixed) = match self.line() {
            Some(line) if KNOWN_AFTER <= self.batches => line,
            Some(_) | None => return TIME_MAX,
        };
        SURPRISE_MAX * (fixed + slope * units).max(self.micros_mean).max(SURPRISE_MIN)
    }

    /// The cost as known now; `None` before the first batch.
    #[must_use]
    pub fn cost(&self) -> Option<Cost> {
        let (slope, fixed) = self.line()?;
        Some(Cost { fixed: Micros::new(to_u64(fixed)), per_unit_ns: to_u64(slope * 1000.0) })
    }

    /// Which of `others`, by what they say of themselves, cannot be told from this node. Nobody, where too little is
    /// known.
    pub fn alike(&self, others: impl Iterator<Item = Cost>) -> Alike {
        if self.batches < KNOWN_AFTER {
            return Alike::default();
        }
        let (units, own) = (self.units_mean, self.micros_mean);
        let mut alike = Alike { units, own, error: self.noise() * own, mean: own };
        let (mut nodes, mut sum) = (1.0, own);
        for other in others.map(|cost| cost.micros(units)) {
            let part = alike.part(other);
            nodes += part;
            sum += part * other;
        }
        alike.mean = sum / nodes;
        alike
    }

    /// Standard error of the mean batch's time, as a part of it.
    fn noise(&self) -> f64 {
        if self.micros_mean <= 0.0 {
            return 0.0;
        }
        (self.weights_squared * self.error_variance).sqrt() / self.micros_mean
    }

    /// Microseconds a unit and a batch.
    fn line(&self) -> Option<(f64, f64)> {
        if self.batches == 0 {
            return None;
        }
        let ridge = self.ridge();
        let proportional = self.micros_mean / self.units_mean;
        let known = proportional * (1.0 - self.fixed_share);
        let slope = (self.covariance + ridge * known) / (self.units_variance + ridge);
        // A negative fixed part (or slope) is noise: then all of the time belongs to the other term.
        let slope = slope.clamp(0.0, proportional);
        let fixed = (self.micros_mean - slope * self.units_mean).max(0.0);
        Some((slope, fixed))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before the cast")]
fn to_u64(value: f64) -> u64 {
    value.clamp(0.0, TIME_MAX * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    fn learned(batches: &[(u64, u64)]) -> Cost {
        let mut model = CostModel::default();
        for &(units, micros) in batches {
            model.observe(units, Micros::new(micros), Micros::ZERO);
        }
        model.cost().expect("at least one batch")
    }

    #[test]
    fn one_size_of_batch_is_taken_as_proportional() {
        let cost = learned(&[(1, 20_000); 30]);
        assert_eq!(cost, Cost { fixed: Micros::ZERO, per_unit_ns: 20_000_000 });
        assert_eq!(cost.of(3, 1), Micros::from_ms(60));
    }

    #[test]
    fn what_unlike_batches_told_holds_while_all_have_one_size() {
        let mut model = CostModel::default();
        let took = |units| Micros::new(400_000 + 50 * units);
        (0..100).map(|i| 1 + (i * 7) % 200).for_each(|n| model.observe(n, took(n), Micros::from_ms(400)));
        (0..500).for_each(|_| model.observe(256, took(256), Micros::from_ms(400)));
        let cost = model.cost().expect("observed");
        assert!(Micros::from_ms(350) < cost.fixed, "a node that is always full else seems to have none: {cost:?}");
        // It turns twice as fast, and is still full.
        (0..100).for_each(|_| model.observe(256, Micros::new(took(256).get() / 2), Micros::from_ms(200)));
        let cost = model.cost().expect("observed");
        let around = |ms: u64| Micros::from_ms(ms - 30)..Micros::from_ms(ms + 30);
        assert!(around(200).contains(&cost.fixed) && around(206).contains(&cost.of(256, 1)), "{cost:?}");
    }

    #[test]
    fn fixed_part_and_slope_are_told_apart_when_sizes_differ() {
        let batches: Vec<(u64, u64)> = (0..200).map(|i| 1 + (i * 7) % 32).map(|n| (n, 5_000 + 300 * n)).collect();
        let cost = learned(&batches);
        assert!((4_300..=5_300).contains(&cost.fixed.get()), "{cost:?}");
        assert!((290_000..=340_000).contains(&cost.per_unit_ns), "{cost:?}");
    }

    #[test]
    fn a_node_that_turns_slow_is_believed_after_twenty_batches() {
        let mut batches = vec![(4, 4_000); 100];
        batches.extend([(4, 40_000); 20]);
        let told = learned(&batches).of(4, 1).get();
        assert!(30_000 < told, "{told}");
    }

    #[test]
    fn a_node_that_turns_very_slow_is_known_after_four_batches_and_one_slow_batch_is_not_believed() {
        let slow = |slow: usize| {
            let mut batches = vec![(1, 20_000); 200];
            batches.extend(vec![(1, 200_000); slow]);
            learned(&batches).of(1, 1).get()
        };
        assert!(slow(1) < 30_000, "{}", slow(1));
        assert!(120_000 < slow(4), "{}", slow(4));
    }

    #[test]
    fn long_requests_among_very_unlike_ones_are_no_surprise() {
        // One of fifty takes thirty times as long as the others, and now and then two come in a row.
        let batches: Vec<(u64, u64)> =
            (0..4000).map(|i| (1, if i % 50 < 1 + i / 500 % 2 { 60_000 } else { 2_000 })).collect();
        let usual: u64 = batches[..1500].iter().map(|(_, micros)| micros).sum::<u64>() / 1500;
        for length in 1500..2500 {
            let told = learned(&batches[..length]).of(1, 1).get();
            assert!(told < 3 * usual, "{told} after {length}");
        }
    }

    #[test]
    fn while_all_batches_have_one_size_a_larger_one_is_to_be_tried() {
        let mut model = CostModel::default();
        assert_eq!(model.units_to_learn(), 0);
        let mut largest = 1;
        // 400 ms a batch, whatever its size: within 50 ms no second row has room.
        for _ in 0..12 {
            model.observe(largest, Micros::from_ms(400), Micros::from_ms(400));
            let cost = model.cost().expect("observed");
            let room = cost.units_within(Micros::from_ms(50).max(cost.fixed.times(2))).max(model.units_to_learn());
            largest = room.min(64);
        }
        assert_eq!(largest, 64, "{model:?}");
    }

    #[test]
    fn chance_alone_does_not_make_a_node_believe_that_it_turned_slow() {
        let mut prng = Prng::new(3);
        let mut model = CostModel::default();
        let mut slowest = 0;
        for batch in 0..100_000 {
            // Exponential with a mean of 10 ms: 53 random bits in (0, 1], so that the logarithm is finite.
            let uniform = ((prng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            model.observe(1, Micros::new(to_u64(-10_000.0 * uniform.ln())), Micros::ZERO);
            if 1000 < batch {
                slowest = slowest.max(model.cost().expect("observed").of(1, 1).get());
            }
        }
        assert!(slowest < 13_000, "{slowest}");
    }

    #[test]
    fn a_node_with_little_work_learns_within_some_looks_that_it_is_not_slow_any_more() {
        let mut model = CostModel::default();
        // Unlike batches, ten times as slow as they will be: an error of the model does not stand out.
        (0..1000).for_each(|i| model.observe(4, Micros::new([1_000, 4_000, 200_000][i % 3]), Micros::from_ms(50)));
        let slow = model.cost().expect("observed").of(4, 1).get();
        (0..30).for_each(|_| model.observe(4, Micros::new(7_000), Micros::from_ms(1000)));
        let told = model.cost().expect("observed").of(4, 1).get();
        assert!(60_000 < slow && told < 11_000, "{slow} {told}");
    }

    #[test]
    fn measurements_change_the_speed_and_leave_the_shape() {
        let mut model = CostModel::default();
        (0..200).for_each(|i| {
            let units = 1 + (i * 7) % 32;
            model.observe(units, Micros::new(10 * (5_000 + 300 * units)), Micros::ZERO);
        });
        (0..15).for_each(|_| model.on_measured(1, Micros::new(5_300)));
        let cost = model.cost().expect("observed");
        let (small, large) = (cost.of(1, 1).get(), cost.of(30, 1).get());
        assert!((5_000..6_500).contains(&small) && (13_000..17_000).contains(&large), "{small} {large}");
        (0..60).for_each(|_| model.on_measured(1, Micros::MAX));
        assert_eq!(model.cost(), Some(cost), "a slow one teaches nothing");
    }

    #[test]
    fn a_node_whose_batches_were_all_large_does_not_seem_slower_with_every_look_at_a_small_one() {
        let mut model = CostModel::default();
        (0..1500).for_each(|_| model.observe(500, Micros::new(20_000 + 60 * 500), Micros::from_ms(60)));
        (0..60).for_each(|_| model.on_measured(4, Micros::new(20_240)));
        let told = model.cost().expect("observed").of(500, 1).get();
        assert!((49_000..=51_000).contains(&told), "{told}");
    }

    #[test]
    fn the_first_measurement_is_the_cost() {
        let mut model = CostModel::default();
        model.on_measured(4, Micros::new(8_000));
        assert_eq!(model.cost().map(|cost| cost.of(4, 1)), Some(Micros::new(8_000)));
    }

    #[test]
    fn one_batch_that_hung_does_not_make_a_node_look_slow() {
        let mut batches = vec![(4, 4_000); 100];
        batches.push((4, 10_000_000));
        let told = learned(&batches).of(4, 1).get();
        assert!(told < 6_000, "{told}");
    }

    #[test]
    fn batches_that_cost_nothing_until_now_do_not_hide_that_they_became_slow() {
        let mut batches = vec![(4, 0); 100];
        batches.extend([(4, 40_000); 40]);
        let told = learned(&batches).of(4, 1).get();
        assert!(30_000 < told, "{told}");
    }

    #[test]
    fn larger_batches_that_were_faster_give_no_negative_term() {
        let cost = learned(&[(10, 9_000), (20, 5_000), (10, 9_000), (20, 5_000)]);
        assert_eq!(cost.per_unit_ns, 0);
        assert!(0 < cost.fixed.get());
    }

    /// A node whose batches of one unit take 6 ms on average, and are unlike.
    fn unsure() -> CostModel {
        let mut model = CostModel::default();
        (0..900).for_each(|i| model.observe(1, Micros::new([1_000, 3_000, 14_000][i % 3]), Micros::from_ms(5)));
        model
    }

    fn micros_among(model: &CostModel, others_micros: &[u64]) -> u64 {
        let others = others_micros.iter().map(|micros| Cost { fixed: Micros::ZERO, per_unit_ns: micros * 1000 });
        model.alike(others).cost_of(model.cost().expect("observed")).of(1, 1).get()
    }

    #[test]
    fn costs_that_cannot_be_told_apart_are_averaged() {
        let model = unsure();
        let alone = micros_among(&model, &[]);
        assert!((5_500..6_500).contains(&alone), "{alone}");
        let among = micros_among(&model, &[alone - 500, alone - 600, alone - 400]);
        assert!(among.abs_diff(alone - 375) <= 3, "{alone} {among}");
    }

    #[test]
    fn who_is_slower_or_quicker_or_lies_is_not_taken_for_alike() {
        let model = unsure();
        let alone = micros_among(&model, &[]);
        assert_eq!(micros_among(&model, &[alone / 2, alone * 2, alone * 10, 0, 1, u64::MAX / 1000]), alone);
    }

    #[test]
    fn who_is_alike_is_reckoned_with_the_same_mean_and_who_is_not_by_its_own_word() {
        let model = unsure();
        let own = model.cost().expect("observed");
        let told = [own.scaled(0.9), own.scaled(1.05), own.scaled(4.0)];
        let alike = model.alike(told.into_iter());
        let micros = [own, told[0], told[1], told[2]].map(|cost| alike.cost_of(cost).of(1, 1).get());
        let mean = own.of(1, 1).get() * 295 / 300;
        assert!(micros[..3].iter().all(|micros| micros.abs_diff(mean) < 20), "{micros:?}, not {mean}");
        assert_eq!(micros[3], told[2].of(1, 1).get());
    }

    #[test]
    fn a_node_that_turned_slow_knows_that_it_is_unlike_however_unsure_it_is_how_slow() {
        let mut model = unsure();
        (0..20).for_each(|i| model.observe(1, Micros::new([10_000, 30_000, 140_000][i % 3]), Micros::from_ms(5)));
        let alone = micros_among(&model, &[]);
        assert!(20_000 < alone, "{alone}");
        assert_eq!(micros_among(&model, &[6_000; 9]), alone);
    }

    #[test]
    fn a_node_whose_batches_are_all_alike_believes_itself() {
        let mut model = CostModel::default();
        (0..900).for_each(|i| model.observe(1, Micros::new(6_000 + i % 3), Micros::from_ms(5)));
        assert_eq!(micros_among(&model, &[6_100; 9]), micros_among(&model, &[]));
    }

    #[test]
    fn what_is_known_after_a_few_batches_is_no_reason_to_call_anybody_alike() {
        let mut model = CostModel::default();
        (0..9).for_each(|i| model.observe(1, Micros::new(1_000 + 4_000 * (i % 3)), Micros::from_ms(5)));
        assert_eq!(micros_among(&model, &[5_100; 9]), micros_among(&model, &[]));
    }

    #[test]
    fn hostile_observations_stay_finite() {
        let cost = learned(&[(0, 0), (u64::MAX, u64::MAX), (u64::MAX, 0), (0, u64::MAX)]);
        assert!(cost.of(u64::MAX, u64::MAX) <= Micros::MAX);
        assert_eq!(Cost::default().units_within(Micros::ZERO), u64::MAX);
        assert_eq!(Cost { fixed: Micros::from_ms(100), per_unit_ns: 5 }.units_within(Micros::from_ms(50)), 1);
    }
}
