//! What a result is found by: a hash of everything that it depends on.
//!
//! Part of `cache`. Pure.
//! Invariants: two requests that could have different results have different keys: each field is hashed with its length
//! before it, so no two lists of fields are the same bytes; requests that must have the same result (a default written
//! out and left out) have the same key. The form of the key never changes without [`FORM`]: nodes of two versions would
//! else answer for each other wrongly.

use sha2::{Digest as _, Sha256};
use shoal_engine::{Card, EmbedOptions, Truncation};

/// Says which fields follow, in which order.
const FORM: &str = "shoal result 1";
/// What is done with the text.
const EMBED: &str = "embed";

/// Names one result. Two that are equal stand for the same request, as surely as SHA-256 does not collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; Self::BYTES]);

impl CacheKey {
    /// Length of a key.
    pub const BYTES: usize = 32;

    /// A key as a peer wrote it.
    #[must_use]
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// As it is sent to a peer.
    #[must_use]
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A number that stands for it in a table of owners, the same on every node.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("a key is longer than eight bytes"))
    }
}

/// What a caller wants done, with the defaults of the model written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub truncation: Truncation,
    pub normalize: bool,
    pub dimensions: u32,
}

impl Options {
    /// `asked` of the model of `card`.
    #[must_use]
    pub fn of(asked: EmbedOptions, card: &Card) -> Self {
        Self {
            truncation: asked.truncation,
            normalize: asked.normalize.unwrap_or(card.normalize),
            dimensions: asked.dimensions.unwrap_or(card.dimensions),
        }
    }
}

/// Makes the keys of one call: all but the text is hashed once.
#[derive(Clone, Debug)]
pub struct KeyMaker(Sha256);

impl KeyMaker {
    /// For texts that are embedded by the model of `card`.
    #[must_use]
    pub fn embed(card: &Card, options: Options) -> Self {
        Self::new(EMBED, card, options)
    }

    fn new(task: &str, card: &Card, options: Options) -> Self {
        let Options { truncation, normalize, dimensions } = options;
        let truncation = match truncation {
            Truncation::Right => "right",
            Truncation::Left => "left",
            Truncation::Refuse => "refuse",
        };
        let mut hash = Sha256::new();
        for field in [FORM, task, &card.name, &card.revision, card.precision, truncation] {
            add(&mut hash, field.as_bytes());
        }
        add(&mut hash, &[u8::from(normalize)]);
        add(&mut hash, &dimensions.to_be_bytes());
        Self(hash)
    }

    /// The key of one text.
    #[must_use]
    pub fn key(&self, text: &str) -> CacheKey {
        let mut hash = self.0.clone();
        add(&mut hash, text.as_bytes());
        CacheKey(hash.finalize().into())
    }
}

/// The length first, in a fixed width: what follows can then be told from the next field, whatever it holds.
fn add(hash: &mut Sha256, field: &[u8]) {
    hash.update((field.len() as u64).to_be_bytes());
    hash.update(field);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use shoal_engine::{CostGuess, Pooling};
    use std::collections::HashMap;

    fn card(name: &str, revision: &str, precision: &'static str) -> Card {
        Card {
            name: name.to_owned(),
            revision: revision.to_owned(),
            precision,
            dimensions: 8,
            tokens_max: 16,
            pooling: Pooling::Mean,
            normalize: true,
            stand_in: true,
            cost: CostGuess::PerItem,
        }
    }

    /// The key of a text under default options.
    pub(in crate::cache) fn key(text: &str) -> CacheKey {
        let card = card("m", "r", "f32");
        KeyMaker::embed(&card, Options::of(EmbedOptions::default(), &card)).key(text)
    }

    #[test]
    fn requests_that_differ_in_anything_have_different_keys() {
        let plain = Options { truncation: Truncation::Right, normalize: true, dimensions: 8 };
        let with = |task, name, revision, precision, options, text| {
            KeyMaker::new(task, &card(name, revision, precision), options).key(text)
        };
        let cases = [
            with("embed", "m", "r", "f32", plain, "text"),
            with("classify", "m", "r", "f32", plain, "text"),
            with("embed", "n", "r", "f32", plain, "text"),
            with("embed", "m", "s", "f32", plain, "text"),
            with("embed", "m", "r", "f16", plain, "text"),
            with("embed", "m", "r", "f32", Options { truncation: Truncation::Left, ..plain }, "text"),
            with("embed", "m", "r", "f32", Options { truncation: Truncation::Refuse, ..plain }, "text"),
            with("embed", "m", "r", "f32", Options { normalize: false, ..plain }, "text"),
            with("embed", "m", "r", "f32", Options { dimensions: 7, ..plain }, "text"),
            with("embed", "m", "r", "f32", plain, "text "),
            with("embed", "m", "r", "f32", plain, ""),
            // The same letters, cut elsewhere.
            with("embed", "mr", "", "f32", plain, "text"),
            with("embed", "", "mr", "f32", plain, "text"),
            with("embed", "m@r", "r", "f32", plain, "text"),
            with("embed", "m", "r@r", "f32", plain, "text"),
            with("embe", "dm", "r", "f32", plain, "text"),
            with("embed", "m", "r", "f32", plain, "\u{0}text"),
        ];
        let mut seen = HashMap::new();
        for (number, key) in cases.into_iter().enumerate() {
            assert_eq!(seen.insert(key, number), None, "case {number} has the key of another");
        }
    }

    /// A text may hold the very bytes that fields and lengths are written with.
    #[test]
    fn no_text_can_stand_for_another_model_and_another_text() {
        let plain = Options { truncation: Truncation::Right, normalize: true, dimensions: 8 };
        let mut tail = Vec::new();
        for field in ["f32", "right"] {
            tail.extend((field.len() as u64).to_be_bytes());
            tail.extend(field.as_bytes());
        }
        let forged = format!("r{}", String::from_utf8(tail).expect("small lengths are ASCII"));
        let (forger, honest) = (card("m", &forged, "f32"), card("m", "r", "f32"));
        assert_ne!(KeyMaker::embed(&forger, plain).key("a"), KeyMaker::embed(&honest, plain).key("a"));
    }

    #[test]
    fn a_default_that_is_written_out_is_the_default() {
        let card = card("m", "r", "f32");
        let told = EmbedOptions { normalize: Some(true), dimensions: Some(8), ..EmbedOptions::default() };
        assert_eq!(Options::of(told, &card), Options::of(EmbedOptions::default(), &card));
    }

    /// Two versions that run side by side share a cache.
    #[test]
    fn keys_are_those_of_every_version() {
        let hex: String = key("a text").bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ff06ef43b61c3269f66c0f89e52d8d4063c6e8ab4e80f8f612f2f3cad462c0ac");
        assert_eq!(key("a text").number().to_be_bytes(), key("a text").bytes()[..8]);
    }
}
