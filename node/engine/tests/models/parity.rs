//! The same vectors as PyTorch, from the same files, for the same texts.

use std::path::PathBuf;
use std::{env, fs};

use shoal_engine::{EmbedOptions, Engine as _, Pooling, Truncation};

use crate::support::{GoldenRow, assert_near, fixture, fixtures, golden, load, run};

/// Names the directory of the real `minilm`; `make test` sets it.
const MINILM_DIR: &str = "SHOAL_TEST_MINILM_DIR";

#[test]
fn fixtures_give_the_token_ids_and_vectors_of_pytorch() {
    for name in ["gte-zh", "st-mean"] {
        let golden = golden(name);
        let mut model = load(&fixture(name));
        for row in &golden.rows {
            let ids = model.token_ids(&row.text, Truncation::Right).unwrap();
            assert_eq!(ids, row.input_ids, "{name}: {:.20}", row.text);
            let vector = run(&mut model, &[&row.text]).remove(0);
            assert_near(&vector, &row.embedding, golden.tolerance_abs, &format!("{name}: {:.20}", row.text));
        }
        let texts: Vec<&str> = golden.rows.iter().map(|row| row.text.as_str()).collect();
        for (row, vector) in golden.rows.iter().zip(run(&mut model, &texts)) {
            assert_near(
                &vector,
                &row.embedding,
                golden.tolerance_abs,
                &format!("{name}, in a batch: {:.20}", row.text),
            );
        }
    }
}

#[test]
fn cards_say_what_the_models_own_files_say() {
    let gte = load(&fixture("gte-zh")).card().clone();
    assert_eq!((gte.pooling, gte.normalize, gte.tokens_max, gte.dimensions), (Pooling::Cls, true, 512, 64));
    assert_eq!((gte.name.as_str(), gte.precision, gte.stand_in), ("gte-zh", "f32", false));
    let mean = load(&fixture("st-mean")).card().clone();
    assert_eq!((mean.pooling, mean.normalize, mean.tokens_max, mean.dimensions), (Pooling::Mean, false, 128, 64));
}

#[test]
fn the_tokens_of_an_answer_are_those_that_went_through_the_model() {
    let golden = golden("st-mean");
    let mut model = load(&fixture("st-mean"));
    for row in &golden.rows {
        let answer = crate::support::run_with(&mut model, &[&row.text], EmbedOptions::default()).remove(0).unwrap();
        assert_eq!(answer.tokens as usize, row.input_ids.len());
    }
}

#[test]
fn minilm_equals_sentence_transformers() {
    #[derive(serde::Deserialize)]
    struct Expected {
        rows: Vec<GoldenRow>,
    }
    let directory = env::var_os(MINILM_DIR).map(PathBuf::from).unwrap_or_else(|| {
        panic!("run `make test`, or set {MINILM_DIR} to the directory that `shoal model fetch minilm` prints")
    });
    let bytes = fs::read(fixtures().join("minilm-expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&bytes).unwrap();
    assert!(20 <= expected.rows.len());
    let mut model = load(&directory);
    assert_eq!((model.card().tokens_max, model.card().dimensions), (256, 384));
    let texts: Vec<&str> = expected.rows.iter().map(|row| row.text.as_str()).collect();
    let mut worst = (0.0f32, 1.0f64);
    for (row, vector) in expected.rows.iter().zip(run(&mut model, &texts)) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let lengths = (dot(&vector, &vector) * dot(&row.embedding, &row.embedding)).sqrt();
        let cosine = dot(&vector, &row.embedding) / lengths;
        let difference = vector.iter().zip(&row.embedding).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(0.99999 <= cosine, "{:.40}: cosine {cosine}", row.text);
        worst = (worst.0.max(difference), worst.1.min(cosine));
    }
    println!("largest difference {:e}, smallest cosine {}", worst.0, worst.1);
}
