//! candle-transformers' BERT, written by others, as the oracle: the same tensors, the same ids, the same vectors.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rand_core::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use shoal_engine::Truncation;

use crate::support::{assert_near, fixture, load, run};

/// Pieces from which random texts are made.
const PIECES: &[&str] = &[
    "hello",
    "the",
    "BATTERY",
    "2022",
    "年",
    "北京",
    "的",
    "质量",
    "😀",
    "👩‍👩‍👧",
    "Ａ",
    "１２",
    "½",
    "naïve",
    "é",
    "生僻字𠮷",
    "\u{200d}",
    "\t",
    "\n",
    " ",
    "[SEP]",
    "[MASK]",
    "##s",
    "x",
    "!!",
    "。",
    "\u{0}",
    "ß",
    "مرحبا",
    "-",
    "_",
    "\u{3000}",
    "Ω",
];

fn random_text(rng: &mut Pcg64Mcg) -> String {
    let pieces = match rng.next_u32() % 4 {
        0 => 1,
        1 => 400,
        _ => rng.next_u32() % 40,
    };
    (0..pieces).map(|_| PIECES[rng.next_u32() as usize % PIECES.len()]).collect()
}

#[test]
fn random_texts_get_the_vectors_of_candle_transformers() {
    let directory = fixture("st-mean");
    let config: Config = serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
    let weights = std::fs::read(directory.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    let oracle = BertModel::load(weights, &config).unwrap();

    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let texts: Vec<String> = (0..60).map(|_| random_text(&mut rng)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut model = load(&directory);
    let vectors = run(&mut model, &texts);
    for (text, vector) in texts.iter().zip(vectors) {
        let ids = model.token_ids(text, Truncation::Right).unwrap();
        let ids = Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let hidden = oracle.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
        let expected: Vec<f32> = hidden.mean(1).unwrap().get(0).unwrap().to_vec1().unwrap();
        assert_near(&vector, &expected, 1e-4, text);
    }
}
