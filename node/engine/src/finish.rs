//! The last step of every engine: cut to the dimensions asked for, scale to length 1, refuse what is not finite.
//!
//! For the engines of this package, so that a vector means the same whoever made it.
//! Invariants: nothing that is not finite leaves an engine.

use crate::contract::{Card, EmbedOptions, RowError};

/// Whether the model has as many dimensions as the caller asked for.
///
/// # Errors
/// [`RowError::Unsupported`] for more than the model has, or none.
pub(crate) fn check_dimensions(card: &Card, options: EmbedOptions) -> Result<(), RowError> {
    match options.dimensions {
        Some(dimensions) if dimensions == 0 || card.dimensions < dimensions => {
            let (name, most) = (&card.name, card.dimensions);
            let what = format!("{dimensions} dimensions were asked for; {name} gives 1 to {most}");
            Err(RowError::Unsupported(what))
        }
        _ => Ok(()),
    }
}

/// Finishes one pooled vector of `card.dimensions` values.
///
/// # Errors
/// Those of [`check_dimensions`]; [`RowError::NonFinite`] for a bad value in any dimension, one that is cut off
/// included: a model that fails there is not to be trusted elsewhere.
pub(crate) fn finish_embedding(mut values: Vec<f32>, card: &Card, options: EmbedOptions) -> Result<Vec<f32>, RowError> {
    check_dimensions(card, options)?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(RowError::NonFinite);
    }
    if let Some(dimensions) = options.dimensions {
        values.truncate(dimensions as usize);
    }
    if options.normalize.unwrap_or(card.normalize) {
        // In f64: a long vector of small values must not lose its length to rounding, nor a huge one overflow.
        let length = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if 0.0 < length {
            #[expect(clippy::cast_possible_truncation, reason = "a component is not larger than the length")]
            values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{CostGuess, Pooling};

    fn finish(values: &[f32], options: EmbedOptions) -> Result<Vec<f32>, RowError> {
        let card = Card {
            name: "test".to_owned(),
            revision: String::new(),
            precision: "f32",
            dimensions: 3,
            tokens_max: 8,
            pooling: Pooling::Mean,
            normalize: true,
            stand_in: true,
            cost: CostGuess::PerItem,
        };
        finish_embedding(values.to_vec(), &card, options)
    }

    #[test]
    fn the_cut_comes_before_the_scaling() {
        let cut = EmbedOptions { dimensions: Some(2), ..EmbedOptions::default() };
        assert_eq!(finish(&[3.0, 4.0, 100.0], cut).unwrap(), [0.6, 0.8]);
        let raw = EmbedOptions { normalize: Some(false), ..cut };
        assert_eq!(finish(&[3.0, 4.0, 100.0], raw).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn more_dimensions_than_the_model_has_are_the_callers_fault() {
        for dimensions in [0, 4] {
            let options = EmbedOptions { dimensions: Some(dimensions), ..EmbedOptions::default() };
            assert!(finish(&[1.0; 3], options).unwrap_err().is_callers_fault());
        }
    }

    #[test]
    fn nothing_that_is_not_finite_gets_out_and_a_zero_vector_stays_zero() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(finish(&[1.0, bad, 0.0], EmbedOptions::default()), Err(RowError::NonFinite));
            let cut = EmbedOptions { dimensions: Some(1), ..EmbedOptions::default() };
            assert_eq!(finish(&[1.0, bad, 0.0], cut), Err(RowError::NonFinite));
        }
        assert_eq!(finish(&[0.0; 3], EmbedOptions::default()).unwrap(), [0.0; 3]);
        assert_eq!(finish(&[3e30, 0.0, 0.0], EmbedOptions::default()).unwrap(), [1.0, 0.0, 0.0]);
    }
}
