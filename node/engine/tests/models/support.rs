//! What the tests of this package share: where the fixtures are, copies of them that may be spoilt, comparisons.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_engine::{EmbedOptions, Embedder, Embedding, Engine as _, InputText, LoadOptions, RowError};
use tempfile::TempDir;

/// What a model must give, as `golden.json` of a fixture has it.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) tolerance_abs: f32,
    pub(crate) rows: Vec<GoldenRow>,
}

#[derive(Deserialize)]
pub(crate) struct GoldenRow {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) input_ids: Vec<u32>,
    pub(crate) embedding: Vec<f32>,
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    fixtures().join(name)
}

pub(crate) fn golden(name: &str) -> Golden {
    let bytes = fs::read(fixture(name).join("golden.json")).expect("every fixture has its expected values");
    serde_json::from_slice(&bytes).expect("the expected values parse")
}

pub(crate) fn load(directory: &Path) -> Embedder {
    Embedder::load(directory, &LoadOptions::default()).unwrap_or_else(|cause| panic!("{cause}"))
}

/// A copy of a fixture that a test may change.
pub(crate) fn copy_of(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&fixture(name), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Changes one JSON file of a model.
pub(crate) fn edit_json(
    directory: &Path,
    file: &str,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) {
    let place = directory.join(file);
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&place).unwrap()).unwrap();
    edit(value.as_object_mut().unwrap());
    fs::write(&place, value.to_string()).unwrap();
}

pub(crate) fn run_with(
    model: &mut Embedder,
    texts: &[&str],
    options: EmbedOptions,
) -> Vec<Result<Embedding, RowError>> {
    let batch: Vec<_> = texts.iter().map(|text| InputText { text, options }).collect();
    model.run(&batch).unwrap()
}

pub(crate) fn run(model: &mut Embedder, texts: &[&str]) -> Vec<Vec<f32>> {
    let rows = run_with(model, texts, EmbedOptions::default());
    rows.into_iter().map(|row| row.unwrap().values).collect()
}

/// Asserts that two vectors differ by at most `tolerance` in every dimension.
#[track_caller]
pub(crate) fn assert_near(left: &[f32], right: &[f32], tolerance: f32, what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: other number of dimensions");
    let worst = left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: differs by {worst}, allowed are {tolerance}");
}
