//! The answer of the canary that is known to be right, kept across restarts, and how far another one may be from it.
//!
//! Part of `compute`. The canary is one fixed text. The first load of a model on a node learns its vector and keeps it
//! in the data directory, in one file for each revision and precision; every later load, and every canary while the
//! node runs, is held against that.
//! Invariants: a file is written whole or not at all; one that cannot be read, or was written for another text, is a
//! warning and learned anew; one that can be read and says something else than the model is an error, never
//! overwritten: either the model, the device or this program is wrong, and only a person can tell.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_engine::Card;

/// The text that is asked: about the length of a short question.
pub(super) const CANARY_TEXT: &str = "The first inference loads every weight once and shows how fast this device is.";

/// The form of the file. Another one is learned anew.
const VERSION: u32 = 1;
/// A vector of 4096 numbers takes about 50 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why an answer is not the right one.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoldenError {
    /// Engines promise finite values; this is the check of that promise.
    #[error("the canary's vector holds a value that is not a finite number, or nothing but zeros")]
    Unsound,
    /// Two inferences of one text, one after the other.
    #[error(
        "the canary's vector is not the same twice: they are {distance:.4} apart, and {precision} allows \
         {distance_max}; the device, or its driver, computes wrong"
    )]
    Unsteady { distance: f64, distance_max: f64, precision: &'static str },
    /// Against what was kept.
    #[error(
        "the canary's vector is not the one in `{}`: they are {distance:.4} apart, and {precision} allows \
         {distance_max}; the model, its device or this program computes something else than before. If that is meant, \
         remove the file and start the node again",
        .file.display()
    )]
    Changed { file: PathBuf, distance: f64, distance_max: f64, precision: &'static str },
    /// Against what this process learned itself, where nothing could be kept.
    #[error(
        "the canary's vector is not the one that this process began with: they are {distance:.4} apart, and \
         {precision} allows {distance_max}"
    )]
    Drifted { distance: f64, distance_max: f64, precision: &'static str },
}

/// The right answer.
#[derive(Debug)]
pub(super) struct Golden {
    values: Vec<f32>,
    precision: &'static str,
    /// Where it is kept; `None` where it could not be.
    file: Option<PathBuf>,
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// For people.
    model: String,
    revision: String,
    precision: String,
    text: String,
    values: Vec<f32>,
}

impl Golden {
    /// The right answer of the model of `card`: what is kept in `directory`, else `learned`, which is kept from now on.
    ///
    /// # Errors
    /// [`GoldenError`]: `learned` is not finite, or not what is kept.
    pub(super) fn settle(directory: Option<&Path>, card: &Card, learned: Vec<f32>) -> Result<Self, GoldenError> {
        if !is_sound(&learned) {
            return Err(GoldenError::Unsound);
        }
        let precision = card.precision;
        let Some(directory) = directory else { return Ok(Self { values: learned, precision, file: None }) };
        let file = directory.join(file_name(card));
        match read(&file, card) {
            Ok(values) => {
                let kept = Self { values, precision, file: Some(file) };
                kept.check(&learned)?;
                return Ok(kept);
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => {
                tracing::warn!(file = %file.display(), %fault, "the canary's vector is not of use; it is learned anew");
            }
        }
        let file = match write(directory, &file, card, &learned) {
            Ok(()) => Some(file),
            Err(fault) => {
                tracing::warn!(
                    file = %file.display(), %fault,
                    "the canary's vector cannot be kept: after a restart nobody can tell whether the model still \
                     answers the same"
                );
                None
            }
        };
        Ok(Self { values: learned, precision, file })
    }

    /// Whether `values` is the same answer.
    ///
    /// # Errors
    /// [`GoldenError`] says how far it is off.
    pub(super) fn check(&self, values: &[f32]) -> Result<(), GoldenError> {
        let (distance, distance_max, precision) =
            (distance(&self.values, values), distance_max(self.precision), self.precision);
        if !is_sound(values) {
            return Err(GoldenError::Unsound);
        }
        if distance <= distance_max {
            return Ok(());
        }
        Err(match &self.file {
            Some(file) => GoldenError::Changed { file: file.clone(), distance, distance_max, precision },
            None => GoldenError::Drifted { distance, distance_max, precision },
        })
    }
}

/// Whether two inferences of one load agree.
///
/// # Errors
/// [`GoldenError::Unsteady`], or [`GoldenError::Unsound`] where one of them is no answer at all.
pub(super) fn agree(precision: &'static str, first: &[f32], second: &[f32]) -> Result<(), GoldenError> {
    if !is_sound(first) || !is_sound(second) {
        return Err(GoldenError::Unsound);
    }
    let (distance, distance_max) = (distance(first, second), distance_max(precision));
    if distance <= distance_max { Ok(()) } else { Err(GoldenError::Unsteady { distance, distance_max, precision }) }
}

/// How far two answers of one model may be apart, as part of the length of the right one.
///
/// Sums in another order (another number of threads, another instruction set) move a vector of f32 by about 1e-5 over
/// all layers; a device that computes wrong, or other weights, by 0.1 and far more. 0.01 is between the two with room
/// on both sides; for vectors of length 1 it is a cosine of 0.99995. A bf16 keeps 8 bits of a number where an f32 keeps
/// 24, and int8 rounds coarser still. Only answers of one precision are compared: what a precision costs is not asked
/// here.
fn distance_max(precision: &str) -> f64 {
    match precision {
        "f32" => 0.01,
        "f16" | "bf16" => 0.05,
        _ => 0.1,
    }
}

/// Euclidean distance as part of the length of `right`; infinite where they have no common shape.
fn distance(right: &[f32], other: &[f32]) -> f64 {
    if right.len() != other.len() {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let off = squares(&mut right.iter().zip(other).map(|(one, other)| f64::from(*one) - f64::from(*other)));
    off / squares(&mut right.iter().map(|value| f64::from(*value)))
}

/// A vector of which one can be a part away.
fn is_sound(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite()) && values.iter().any(|value| *value != 0.0)
}

/// One for each revision and precision; a model that was loaded once and comes back finds its own.
fn file_name(card: &Card) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|char| if char.is_ascii_alphanumeric() || char == '-' { char } else { '_' }).take(64).collect()
    };
    format!("{}.{}.json", plain(&card.revision), plain(card.precision))
}

fn read(file: &Path, card: &Card) -> io::Result<Vec<f32>> {
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let kept: Kept = serde_json::from_str(&text)?;
    if kept.version != VERSION || kept.text != CANARY_TEXT {
        return Err(io::Error::other("it was written by another version of shoal, which asked something else"));
    }
    if (kept.revision.as_str(), kept.precision.as_str()) != (card.revision.as_str(), card.precision) {
        return Err(io::Error::other("it is of another model"));
    }
    if !is_sound(&kept.values) {
        return Err(io::Error::other("it holds no vector"));
    }
    Ok(kept.values)
}

/// Writes beside the file and renames, so that a full disk or a crash leaves no half of it.
fn write(directory: &Path, file: &Path, card: &Card, values: &[f32]) -> io::Result<()> {
    let kept = Kept {
        version: VERSION,
        model: card.name.clone(),
        revision: card.revision.clone(),
        precision: card.precision.to_owned(),
        text: CANARY_TEXT.to_owned(),
        values: values.to_vec(),
    };
    let text = serde_json::to_vec(&kept)?;
    fs::create_dir_all(directory)?;
    let beside = file.with_extension("new");
    let mut written = File::create(&beside)?;
    written.write_all(&text)?;
    written.sync_all()?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_engine::Engine as _;
    use shoal_engine::synthetic::{Synthetic, SyntheticSpec};

    fn card() -> Card {
        Synthetic::new(SyntheticSpec::default(), "test", None, 1).card().clone()
    }

    /// A unit vector that is `off` away from the one of `off` 0.
    fn vector(off: f32) -> Vec<f32> {
        vec![off, 1.0, 0.0, 0.0]
    }

    fn file(directory: &Path) -> PathBuf {
        directory.join("stand-in.f32.json")
    }

    #[test]
    fn what_the_first_load_learned_holds_for_the_next_ones() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("canary");
        Golden::settle(Some(&place), &card(), vector(0.0)).unwrap();
        for off in [0.0, 0.009, -0.009] {
            Golden::settle(Some(&place), &card(), vector(off)).unwrap();
        }
        // Each is held against the first and not against the one before: nothing drifts away step by step.
        let fault = Golden::settle(Some(&place), &card(), vector(0.011)).unwrap_err();
        assert!(matches!(fault, GoldenError::Changed { .. }), "{fault:?}");
        let told = fault.to_string();
        assert!(told.contains(&file(&place).display().to_string()) && told.contains("remove the file"), "{told}");
        let other = Card { revision: "other".to_owned(), ..card() };
        Golden::settle(Some(&place), &other, vector(5.0)).unwrap();
        fs::remove_file(file(&place)).unwrap();
        Golden::settle(Some(&place), &card(), vector(0.011)).unwrap();
    }

    #[test]
    fn a_file_that_is_of_no_use_is_learned_anew() {
        let directory = tempfile::tempdir().unwrap();
        let kept = |values: &str, version: u32, text: &str| {
            let model = r#""model":"m","revision":"stand-in","precision":"f32""#;
            format!(r#"{{"version":{version},{model},"text":"{text}","values":{values}}}"#)
        };
        let long = " ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        for text in [
            "",
            "{",
            "nonsense",
            &kept("[]", VERSION, CANARY_TEXT),
            &kept("[0,0,0,0]", VERSION, CANARY_TEXT),
            &kept("[1e300,0,0,0]", VERSION, CANARY_TEXT),
            &kept("[7,7,7,7]", VERSION + 1, CANARY_TEXT),
            &kept("[7,7,7,7]", VERSION, "something else"),
            &kept("[7,7,7,7]", VERSION, CANARY_TEXT).replace("stand-in", "another"),
            &(long + &kept("[7,7,7,7]", VERSION, CANARY_TEXT)),
        ] {
            fs::write(file(directory.path()), text).unwrap();
            Golden::settle(Some(directory.path()), &card(), vector(0.0)).unwrap_or_else(|fault| panic!("{fault}"));
            let fault = Golden::settle(Some(directory.path()), &card(), vector(1.0)).unwrap_err();
            assert!(matches!(fault, GoldenError::Changed { .. }), "after {text:.80}: {fault}");
        }
        // The same file, sound, is believed: what is refused above is refused for what is wrong with it.
        fs::write(file(directory.path()), kept("[7,7,7,7]", VERSION, CANARY_TEXT)).unwrap();
        assert!(Golden::settle(Some(directory.path()), &card(), vector(0.0)).is_err());
        Golden::settle(Some(directory.path()), &card(), vec![7.0; 4]).unwrap();
    }

    #[test]
    fn where_nothing_can_be_kept_the_process_holds_the_model_against_itself() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("a file");
        fs::write(&taken, "").unwrap();
        for place in [None, Some(taken.as_path())] {
            let golden = Golden::settle(place, &card(), vector(0.0)).unwrap();
            golden.check(&vector(0.005)).unwrap();
            assert!(matches!(golden.check(&vector(0.1)), Err(GoldenError::Drifted { .. })));
        }
    }

    #[test]
    fn length_counts_as_direction_does_and_nothing_odd_passes() {
        let golden = Golden::settle(None, &card(), vector(0.0)).unwrap();
        let twice: Vec<f32> = vector(0.0).iter().map(|value| value * 2.0).collect();
        let odd = [vec![], vec![0.0; 4], vec![1.0; 3], twice, vec![f32::NAN, 1.0, 0.0, 0.0], vec![f32::INFINITY; 4]];
        for values in &odd {
            assert!(golden.check(values).is_err(), "{values:?}");
        }
        for values in [&odd[0], &odd[1], &odd[4], &odd[5]] {
            assert!(matches!(Golden::settle(None, &card(), values.clone()), Err(GoldenError::Unsound)), "{values:?}");
        }
        assert!(agree("f32", &vector(0.0), &vector(0.02)).is_err());
        for values in [&odd[0], &odd[1], &odd[4], &odd[5]] {
            for (first, second) in [(values, values), (values, &vector(0.0)), (&vector(0.0), values)] {
                assert!(matches!(agree("f32", first, second), Err(GoldenError::Unsound)), "{first:?} {second:?}");
            }
        }
        agree("bf16", &vector(0.0), &vector(0.02)).unwrap();
        assert!(agree("int8", &vector(0.0), &vector(0.2)).is_err());
    }
}
