//! Batches, truncation, dimensions, and values that are no numbers.

use std::fs;

use candle_core::{Device, Tensor, safetensors};
use shoal_engine::{EmbedOptions, Engine as _, InputText, RowError, Truncation};

use crate::support::{assert_near, copy_of, edit_json, fixture, load, run, run_with};

fn texts() -> Vec<String> {
    let mut texts: Vec<String> = (0..40).map(|index| "北京 hello the battery 2022 ".repeat(index % 9 + 1)).collect();
    texts.extend(["", "a", " ", "😀", "[SEP] [MASK]"].map(str::to_owned));
    texts.push("长文本 word ".repeat(500));
    texts
}

#[test]
fn a_row_in_a_batch_equals_the_row_alone() {
    for name in ["gte-zh", "st-mean"] {
        let mut model = load(&fixture(name));
        let texts = texts();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let together = run(&mut model, &texts);
        for (text, in_batch) in texts.iter().zip(&together) {
            assert_near(in_batch, &run(&mut model, &[text])[0], 1e-5, &format!("{name}: {text:.30}"));
        }
    }
}

#[test]
fn an_empty_batch_and_an_empty_text_have_answers() {
    let mut model = load(&fixture("st-mean"));
    assert!(model.run(&[]).unwrap().is_empty());
    assert_eq!(run_with(&mut model, &[""], EmbedOptions::default())[0].as_ref().unwrap().tokens, 2);
}

#[test]
fn truncation_keeps_the_side_that_was_asked_for() {
    let model = load(&fixture("st-mean"));
    let text: String = (0..3000).map(|index| if index % 7 == 0 { "2022 " } else { "hello the 北京" }).collect();
    let wide = {
        // The same tokenizer for a model that takes all of the text.
        let copy = copy_of("st-mean");
        edit_json(copy.path(), "sentence_bert_config.json", |fields| {
            drop(fields.insert("max_seq_length".into(), 512.into()))
        });
        load(copy.path())
    };
    let ids = |model: &shoal_engine::Embedder, text: &str, side| model.token_ids(text, side).unwrap();
    let right = ids(&model, &text, Truncation::Right);
    assert_eq!(right.len(), 128);
    assert_eq!(right[..127], ids(&wide, &text, Truncation::Right)[..127]);
    let left = ids(&model, &text, Truncation::Left);
    assert_eq!(left.len(), 128);
    assert_eq!((left[0], left[127]), (right[0], right[127]), "the special tokens stay");
    assert_eq!(left[1..], ids(&wide, &text, Truncation::Left)[512 - 127..]);
    assert_ne!(left, right);
    let short = "hello 北京";
    let all = ids(&model, short, Truncation::Refuse);
    assert_eq!(all, ids(&model, short, Truncation::Left));
    assert_eq!(all, ids(&model, short, Truncation::Right));
}

#[test]
fn a_text_at_the_limit_is_taken_and_one_more_token_is_refused_where_truncation_is() {
    let mut model = load(&fixture("st-mean"));
    let refuse = EmbedOptions { truncation: Truncation::Refuse, ..EmbedOptions::default() };
    let fits = "hello ".repeat(126);
    let too_long = "hello ".repeat(127);
    let huge = "hello 北京".repeat(20_000);
    let results = run_with(&mut model, &[&fits, &too_long, "a", &huge], refuse);
    assert_eq!(results[0].as_ref().unwrap().tokens, 128);
    assert_eq!(results[1], Err(RowError::TooLong { tokens: 129, tokens_max: 128 }));
    assert_eq!(results[2].as_ref().unwrap().tokens, 3);
    assert_eq!(results[3], Err(RowError::TooLong { tokens: 60_002, tokens_max: 128 }));
}

#[test]
fn dimensions_cut_and_normalise_and_too_many_are_the_callers_fault() {
    let mut model = load(&fixture("st-mean"));
    let whole = run(&mut model, &["hello world"]).remove(0);
    let cut = EmbedOptions { dimensions: Some(16), normalize: Some(true), ..EmbedOptions::default() };
    let vector = run_with(&mut model, &["hello world"], cut).remove(0).unwrap().values;
    let length = whole[..16].iter().map(|value| value * value).sum::<f32>().sqrt();
    let expected: Vec<f32> = whole[..16].iter().map(|value| value / length).collect();
    assert_near(&vector, &expected, 1e-6, "cut to 16");
    for dimensions in [0, 65] {
        let options = EmbedOptions { dimensions: Some(dimensions), ..EmbedOptions::default() };
        let batch = [InputText { text: "a", options }, InputText { text: "a", options: EmbedOptions::default() }];
        let results = model.run(&batch).unwrap();
        assert!(results[0].as_ref().unwrap_err().is_callers_fault());
        assert!(results[1].is_ok(), "the other row is not touched");
    }
}

#[test]
fn a_row_with_a_value_that_is_no_number_fails_alone() {
    let copy = copy_of("st-mean");
    let weights = copy.path().join("model.safetensors");
    let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
    let words = tensors["embeddings.word_embeddings.weight"].to_vec2::<f32>().unwrap();
    let vocabulary = fs::read_to_string(copy.path().join("vocab.txt")).unwrap();
    let bad = vocabulary.lines().position(|line| line == "battery").unwrap();
    let mut words = words;
    words[bad][3] = f32::NAN;
    tensors.insert("embeddings.word_embeddings.weight".to_owned(), Tensor::new(words, &Device::Cpu).unwrap());
    safetensors::save(&tensors, &weights).unwrap();

    let mut model = load(copy.path());
    let results = run_with(&mut model, &["hello", "the battery", "world"], EmbedOptions::default());
    assert_eq!(results[1], Err(RowError::NonFinite));
    let mut sound = load(&fixture("st-mean"));
    for (index, text) in [(0, "hello"), (2, "world")] {
        assert_near(&results[index].as_ref().unwrap().values, &run(&mut sound, &[text])[0], 1e-5, text);
    }
}
