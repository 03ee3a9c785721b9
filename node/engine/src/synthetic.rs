//! A stand-in for a model: it takes time like one device and answers with a vector made from a hash of the text.
//!
//! For drills, benchmarks of the cluster itself, and a first try without a model. It says of itself that it is a
//! stand-in. Its misbehaviour is switched at run time by a control file: see [`Synthetic::new`].
//! Invariants: the same text gives the same vector on every node; a batch takes `per_batch` plus the time of each item.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rand_core::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sha2::{Digest as _, Sha256};

use crate::contract::{Card, CostGuess, Embedding, Engine, EngineError, InputText, Pooling, RowError};
use crate::finish::finish_embedding;

/// Width of the stand-in's vectors: that of the default model, so that answers are as large.
pub const DIMENSIONS: u32 = 384;
/// How often a hanging stand-in looks whether it may go on.
const HANG_POLL: Duration = Duration::from_millis(10);
/// Longest time that a specification may ask for.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// `synthetic:DUR[,exp|,burn][,per_batch=DUR]`, for example `synthetic:20ms,exp,per_batch=2ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyntheticSpec {
    /// Time of one item.
    pub per_item: Duration,
    /// Time of a batch, whatever its size.
    pub per_batch: Duration,
    /// Item times are exponentially distributed with mean `per_item`.
    pub exponential: bool,
    /// The time is spent computing instead of sleeping.
    pub burn: bool,
}

impl FromStr for SyntheticSpec {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let fault = |what: &str| EngineError::Spec {
            spec: text.to_owned(),
            what: format!(
                "{what}; expected synthetic:DURATION[,exp][,burn][,per_batch=DURATION], such as synthetic:20ms"
            ),
        };
        let mut parts = text.strip_prefix("synthetic:").ok_or_else(|| fault("unknown engine"))?.split(',');
        let first = parts.next().unwrap_or_default();
        let mut spec = Self { per_item: duration(first).map_err(|what| fault(&what))?, ..Self::default() };
        for part in parts {
            match part.split_once('=') {
                None if part == "exp" => spec.exponential = true,
                None if part == "burn" => spec.burn = true,
                Some(("per_batch", value)) => spec.per_batch = duration(value).map_err(|what| fault(&what))?,
                _ => return Err(fault(&format!("unknown part `{part}`"))),
            }
        }
        Ok(spec)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let nanos_per_unit: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err(format!("`{text}` is no duration (a whole number and us, ms or s)")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no duration"))?;
    let duration = Duration::from_nanos(number.saturating_mul(nanos_per_unit));
    if DURATION_MAX < duration { Err(format!("`{text}` is longer than an hour")) } else { Ok(duration) }
}

/// How the stand-in misbehaves now.
#[derive(Clone, Debug, PartialEq)]
struct Control {
    slow: f64,
    hang: bool,
    nan: bool,
    wrong: bool,
    fail: bool,
    /// A batch with this in one of its texts fails as a whole.
    poison: Option<String>,
}

impl Control {
    const HEALTHY: Self = Self { slow: 1.0, hang: false, nan: false, wrong: false, fail: false, poison: None };

    fn parse(text: &str) -> Self {
        let mut control = Self::HEALTHY;
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("slow", factor)) => {
                    let factor = factor.parse().ok().filter(|factor: &f64| factor.is_finite());
                    control.slow = factor.unwrap_or(1.0).clamp(1.0, 1000.0);
                }
                // In no word would be in every text.
                Some(("poison", word)) if !word.is_empty() => control.poison = Some(word.to_owned()),
                None if word == "hang" => control.hang = true,
                None if word == "nan" => control.nan = true,
                None if word == "wrong" => control.wrong = true,
                None if word == "fail" => control.fail = true,
                _ => {}
            }
        }
        control
    }
}

/// One serial device that imitates a model.
#[derive(Debug)]
pub struct Synthetic {
    spec: SyntheticSpec,
    card: Card,
    control_file: Option<PathBuf>,
    chance: Pcg64Mcg,
}

impl Synthetic {
    /// A stand-in that calls itself `name`; `seed` fixes the exponential times.
    ///
    /// `control_file` is read before each batch. Absent or empty, the stand-in is healthy; its words are `slow=FACTOR`
    /// (1 to 1000), `hang` (until the word is gone), `nan`, `wrong` (finite values of another text), `fail`, and
    /// `poison=WORD` (a batch fails as a whole if one of its texts holds WORD, which has no spaces). Others are
    /// ignored.
    #[must_use]
    pub fn new(spec: SyntheticSpec, name: &str, control_file: Option<PathBuf>, seed: u64) -> Self {
        let card = Card {
            name: name.to_owned(),
            revision: "stand-in".to_owned(),
            precision: "f32",
            dimensions: DIMENSIONS,
            tokens_max: 512,
            pooling: Pooling::Mean,
            normalize: true,
            stand_in: true,
            cost: CostGuess::PerItem,
        };
        Self { spec, card, control_file, chance: Pcg64Mcg::seed_from_u64(seed) }
    }

    fn control(&self) -> Control {
        let text = self.control_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.map_or(Control::HEALTHY, |text| Control::parse(&text))
    }

    fn item_time(&mut self) -> Duration {
        if !self.spec.exponential {
            return self.spec.per_item;
        }
        // 53 random bits in (0, 1], so that the logarithm is finite: at most 37 times the mean.
        let uniform = ((self.chance.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.spec.per_item.mul_f64(-uniform.ln())
    }

    fn spend(&self, time: Duration) {
        let end = Instant::now() + time;
        if self.spec.burn {
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        } else if !time.is_zero() {
            std::thread::sleep(time);
        }
    }
}

impl Engine for Synthetic {
    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, batch: &[InputText<'_>]) -> Result<Vec<Result<Embedding, RowError>>, EngineError> {
        let mut control = self.control();
        let items: Duration = (0..batch.len()).map(|_| self.item_time()).sum();
        self.spend((self.spec.per_batch + items).mul_f64(control.slow));
        while control.hang {
            std::thread::sleep(HANG_POLL);
            control = self.control();
        }
        if control.fail {
            return Err(EngineError::Compute("the control file says `fail`".to_owned()));
        }
        let poisoned = |word: &&String| batch.iter().any(|input| input.text.contains(word.as_str()));
        if let Some(word) = control.poison.as_ref().filter(poisoned) {
            return Err(EngineError::Compute(format!("the control file says `poison={word}`, and a text holds it")));
        }
        let vector = |input: &InputText<'_>| {
            if control.nan {
                return Err(RowError::NonFinite);
            }
            let values =
                if control.wrong { hashed_vector(&format!("not {}", input.text)) } else { hashed_vector(input.text) };
            let tokens = u32::try_from(input.text.split_whitespace().count()).unwrap_or(u32::MAX).max(1);
            Ok(Embedding { values: finish_embedding(values, &self.card, input.options)?, tokens })
        };
        Ok(batch.iter().map(vector).collect())
    }
}

/// [`DIMENSIONS`] values in -1 to 1, decided by the text alone.
fn hashed_vector(text: &str) -> Vec<f32> {
    let digest = Sha256::digest(text.as_bytes());
    let seed = u64::from_le_bytes(digest[..8].try_into().expect("a SHA-256 digest has 32 bytes"));
    let mut chance = Pcg64Mcg::seed_from_u64(seed);
    // 24 random bits are exact in an f32.
    (0..DIMENSIONS).map(|_| (chance.next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EmbedOptions;

    fn input(text: &str) -> InputText<'_> {
        InputText { text, options: EmbedOptions::default() }
    }

    fn engine(spec: &str, control_file: Option<PathBuf>) -> Synthetic {
        Synthetic::new(spec.parse().expect("a sound specification"), "test", control_file, 1)
    }

    #[test]
    fn specifications_parse_or_say_what_is_wrong() {
        let ms = Duration::from_millis;
        let plain = SyntheticSpec { per_item: ms(20), ..SyntheticSpec::default() };
        for (text, expected) in [
            ("synthetic:20ms", Some(plain)),
            ("synthetic:0", Some(SyntheticSpec::default())),
            ("synthetic:20ms,exp", Some(SyntheticSpec { exponential: true, ..plain })),
            ("synthetic:20ms,burn,per_batch=2ms", Some(SyntheticSpec { burn: true, per_batch: ms(2), ..plain })),
            ("synthetic:20000us", Some(plain)),
            ("synthetic:20", None),
            ("synthetic:-1ms", None),
            ("synthetic:2h", None),
            ("synthetic:99999999999999999999s", None),
            ("synthetic:3601s", None),
            ("synthetic:20ms,fast", None),
            ("synthetic:", None),
            ("candle2", None),
        ] {
            let parsed = text.parse::<SyntheticSpec>();
            assert_eq!(parsed.as_ref().ok(), expected.as_ref(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn the_same_text_gives_the_same_unit_vector_on_every_node_and_in_every_batch() {
        let alone = engine("synthetic:0", None).run(&[input("a")]).unwrap();
        let batch = Synthetic::new(SyntheticSpec::default(), "other", None, 99).run(&[input("b"), input("a")]).unwrap();
        assert_eq!(alone[0], batch[1]);
        assert_ne!(batch[0], batch[1]);
        let values = &alone[0].as_ref().unwrap().values;
        assert!((values.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_control_file_switches_misbehaviour_on_and_off() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("control");
        let mut engine = engine("synthetic:0", Some(file.clone()));
        assert!(engine.run(&[input("a")]).unwrap()[0].is_ok());
        std::fs::write(&file, "nan\n").unwrap();
        assert_eq!(engine.run(&[input("a")]).unwrap()[0], Err(RowError::NonFinite));
        std::fs::write(&file, "fail").unwrap();
        assert!(engine.run(&[input("a")]).is_err());
        std::fs::write(&file, "poison=bad").unwrap();
        assert!(engine.run(&[input("good"), input("a bad one")]).is_err());
        assert!(engine.run(&[input("good")]).unwrap()[0].is_ok());
        std::fs::write(&file, "poison=").unwrap();
        assert!(engine.run(&[input("good")]).unwrap()[0].is_ok());
        std::fs::write(&file, "wrong").unwrap();
        let wrong = engine.run(&[input("a")]).unwrap();
        assert_eq!(wrong, engine.run(&[input("a")]).unwrap(), "wrong, and steady in that");
        std::fs::remove_file(&file).unwrap();
        let right = engine.run(&[input("a")]).unwrap();
        assert!(right[0].is_ok() && wrong[0].is_ok() && right != wrong);
        for (text, slow) in [("slow=5", 5.0), ("slow=nan", 1.0), ("slow=0.1", 1.0), ("slow=1e9", 1000.0), ("slow", 1.0)]
        {
            assert_eq!(Control::parse(text), Control { slow, ..Control::HEALTHY }, "{text}");
        }
    }

    #[test]
    fn exponential_times_have_the_mean_that_was_asked_for() {
        let mut engine = engine("synthetic:20ms,exp", None);
        let total: Duration = (0..20_000).map(|_| engine.item_time()).sum();
        let mean_ms = total.as_secs_f64() * 1000.0 / 20_000.0;
        assert!((19.0..21.0).contains(&mean_ms), "{mean_ms}");
    }
}
