//! The files that hold a tokenizer: `tokenizer.json`, or a BERT WordPiece tokenizer put together from `vocab.txt`.
//!
//! For `tokens`. What decides ids goes into the model's fingerprint here, file by file.
//! Invariants: the truncation and padding that `tokenizer.json` asks for are neither used nor hashed.
//! Not here: limits, special tokens around a text, windows (`tokens`).

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::EngineError;
use crate::directory::{Directory, TOKENIZER_BYTES_MAX, broken, unparsable};
use crate::revision::Fingerprint;

const TOKENIZER_FILE: &str = "tokenizer.json";
const VOCABULARY_FILE: &str = "vocab.txt";
const SETTINGS_FILE: &str = "tokenizer_config.json";

/// The settings of `tokenizer_config.json` that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TokenizerSettings {
    pub(crate) do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    /// A float in some files: 1e30 means "no limit".
    pub(crate) model_max_length: Option<f64>,
    unk_token: Option<SpecialToken>,
    cls_token: Option<SpecialToken>,
    sep_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    mask_token: Option<SpecialToken>,
}

/// A special token, written plainly or with its flags.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Plain(String),
    WithFlags { content: String },
}

impl SpecialToken {
    fn or<'a>(token: Option<&'a Self>, default: &'a str) -> &'a str {
        match token {
            Some(Self::Plain(content) | Self::WithFlags { content }) => content,
            None => default,
        }
    }
}

/// Reads `tokenizer_config.json`; a model without one gets BERT's settings.
///
/// # Errors
/// [`EngineError::Model`] if it does not parse.
pub(crate) fn read_settings(directory: &Directory) -> Result<TokenizerSettings, EngineError> {
    Ok(directory.json(SETTINGS_FILE)?.unwrap_or_default())
}

/// Opens the tokenizer of a model; `tokenizer.json` goes before `vocab.txt`. Also returns the file that it came from.
///
/// # Errors
/// [`EngineError::Model`] if there is none, it does not parse or lacks a token that it needs.
pub(crate) fn open(
    directory: &Directory,
    settings: &TokenizerSettings,
    fingerprint: &mut Fingerprint,
) -> Result<(PathBuf, Tokenizer), EngineError> {
    let (place, mut tokenizer) = if let Some(bytes) = directory.bytes(TOKENIZER_FILE, TOKENIZER_BYTES_MAX)? {
        (directory.place(TOKENIZER_FILE), from_json(directory, &bytes, fingerprint)?)
    } else if let Some(bytes) = directory.bytes(VOCABULARY_FILE, TOKENIZER_BYTES_MAX)? {
        (directory.place(VOCABULARY_FILE), from_vocabulary(directory, bytes, settings, fingerprint)?)
    } else {
        let what = format!("is missing and so is {VOCABULARY_FILE}; fetch one of them with the model");
        return Err(broken(&directory.place(TOKENIZER_FILE), what));
    };
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|cause| broken(&place, cause.to_string()))?;
    Ok((place, tokenizer))
}

/// Reads `tokenizer.json`.
fn from_json(directory: &Directory, bytes: &[u8], fingerprint: &mut Fingerprint) -> Result<Tokenizer, EngineError> {
    let place = directory.place(TOKENIZER_FILE);
    let mut settings: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|cause| broken(&place, unparsable(&cause)))?;
    if let Some(fields) = settings.as_object_mut() {
        // Neither is ever used, so neither may make two nodes differ.
        fields.remove("truncation");
        fields.remove("padding");
    }
    fingerprint.json("tokenizer", &settings);
    // The parser is not ours, and a panic in it must not take the node along.
    match catch_unwind(AssertUnwindSafe(|| Tokenizer::from_bytes(bytes))) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(cause)) => Err(broken(&place, format!("is no tokenizer: {cause}; fetch the file again"))),
        Err(_) => Err(broken(&place, "makes the tokenizer's parser fail; fetch the file again")),
    }
}

/// Puts a BERT WordPiece tokenizer together: one token a line, the line's number is its id.
fn from_vocabulary(
    directory: &Directory,
    bytes: Vec<u8>,
    settings: &TokenizerSettings,
    fingerprint: &mut Fingerprint,
) -> Result<Tokenizer, EngineError> {
    let place = directory.place(VOCABULARY_FILE);
    let text = String::from_utf8(bytes).map_err(|cause| broken(&place, format!("is not UTF-8: {cause}")))?;
    let mut vocabulary = HashMap::new();
    for (id, line) in text.lines().enumerate() {
        let id = u32::try_from(id).map_err(|_| broken(&place, "has more lines than there are ids"))?;
        vocabulary.insert(line.to_owned(), id);
    }
    let id_of = |token: &str| match vocabulary.get(token) {
        Some(id) => Ok(*id),
        None => Err(broken(&place, format!("has no line `{token}`; it must hold the special tokens"))),
    };
    let unknown = SpecialToken::or(settings.unk_token.as_ref(), "[UNK]");
    let start = SpecialToken::or(settings.cls_token.as_ref(), "[CLS]");
    let end = SpecialToken::or(settings.sep_token.as_ref(), "[SEP]");
    let padding = SpecialToken::or(settings.pad_token.as_ref(), "[PAD]");
    let mask = SpecialToken::or(settings.mask_token.as_ref(), "[MASK]");
    id_of(unknown)?;
    let processing = BertProcessing::new((end.to_owned(), id_of(end)?), (start.to_owned(), id_of(start)?));
    let lower = settings.do_lower_case.unwrap_or(true);
    let normalizer =
        BertNormalizer::new(true, settings.tokenize_chinese_chars.unwrap_or(true), settings.strip_accents, lower);

    fingerprint.vocabulary(&vocabulary.iter().map(|(token, id)| (*id, token.as_str())).collect::<BTreeMap<_, _>>());
    for special in [unknown, start, end, padding, mask] {
        fingerprint.text("special", special);
    }
    fingerprint.flag("do_lower_case", lower);
    fingerprint.flag("tokenize_chinese_chars", normalizer.handle_chinese_chars);
    fingerprint.flag("strip_accents", normalizer.strip_accents.unwrap_or(lower));

    // A special token that the vocabulary lacks would get an id beyond the word table.
    let specials: Vec<AddedToken> = [unknown, start, end, padding, mask]
        .into_iter()
        .filter(|token| vocabulary.contains_key(*token))
        .map(|token| AddedToken::from(token.to_owned(), true))
        .collect();
    // The map's type belongs to a crate behind `tokenizers`; an empty vocabulary is how to get one without naming it.
    let mut vocab = WordPiece::read_bytes(b"").map_err(|cause| broken(&place, cause.to_string()))?;
    vocab.extend(vocabulary);
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unknown.to_owned())
        .build()
        .map_err(|cause| broken(&place, cause.to_string()))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(|cause| broken(&place, cause.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer)).with_post_processor(Some(processing));
    tokenizer.add_special_tokens(specials).map_err(|cause| broken(&place, cause.to_string()))?;
    Ok(tokenizer)
}
