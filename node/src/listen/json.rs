//! Decoding a caller's JSON: into a type, with the place of every fault, and the texts that all dialects carry.
//!
//! For `tei` and `openai`. Pure. Invariants: what decoding allocates is bounded by a small multiple of the body;
//! nesting costs no stack, because nothing but the fields that are asked for is looked into.
//! Not here: what the fields mean.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::error::{Reason, Refusal};

/// Texts that decoding a call keeps; further ones are counted, not kept: `"a",` is 4 bytes in a body and 48 in memory.
pub const INPUTS_KEPT_MAX: usize = 65_536;

/// Decodes a body that has to be one JSON object.
///
/// # Errors
/// [`Reason::Malformed`] with line and column when it is not JSON, [`Reason::Invalid`] with the field's path when it is
/// JSON of another shape.
pub(super) fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Refusal> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(Refusal::new(Reason::Malformed, "the body is empty; send a JSON object")),
        // Without this a list of the fields' values in order would pass as the object.
        Some(b'[' | b'"') => return Err(Refusal::new(Reason::Invalid, "the body has to be a JSON object")),
        Some(_) => {}
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(error) => Err(explain::<T>(body, &error)),
    }
}

/// Decodes once more, keeping track of the path. Only failures pay for it.
fn explain<'de, T: Deserialize<'de>>(body: &'de [u8], error: &serde_json::Error) -> Refusal {
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            Refusal::new(Reason::Malformed, format!("the body is not valid JSON: {error}"))
        }
        Category::Data => {
            let mut deserializer = serde_json::Deserializer::from_slice(body);
            let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
                Ok(_) => String::new(),
                Err(error) => error.path().to_string(),
            };
            match path.as_str() {
                "" | "." | "?" => Refusal::new(Reason::Invalid, error.to_string()),
                path => Refusal::new(Reason::Invalid, format!("`{path}`: {error}")).of(path),
            }
        }
    }
}

/// The texts of a call as they came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    One(Box<str>),
    /// `total` is more than `texts` has when there were more than [`INPUTS_KEPT_MAX`].
    Many {
        texts: Vec<Box<str>>,
        total: usize,
    },
    /// Token ids: `[1, 2]` or `[[1, 2]]`.
    Tokens,
}

impl Inputs {
    /// Checks count and emptiness; `field` is their name in the dialect.
    ///
    /// # Errors
    /// [`Reason::Invalid`] for token ids with `tokens_hint`, [`Reason::Empty`], [`Reason::TooManyInputs`].
    pub(super) fn into_texts(
        self,
        field: &str,
        inputs_max: usize,
        tokens_hint: &str,
    ) -> Result<Vec<Box<str>>, Refusal> {
        let (texts, total) = match self {
            Self::One(text) => (vec![text], 1),
            Self::Many { texts, total } => (texts, total),
            Self::Tokens => {
                let message = format!(
                    "`{field}` holds token ids, and the same ids are other words to another model; {tokens_hint}"
                );
                return Err(Refusal::new(Reason::Invalid, message).of(field));
            }
        };
        let inputs_max = inputs_max.min(INPUTS_KEPT_MAX);
        if inputs_max < total {
            let message = format!("`{field}` has {total} texts, at most {inputs_max} are taken; split the call");
            return Err(Refusal::new(Reason::TooManyInputs, message).of(field));
        }
        if texts.is_empty() {
            return Err(
                Refusal::new(Reason::Empty, format!("`{field}` cannot be empty: there is no text in it")).of(field)
            );
        }
        if let Some(index) = texts.iter().position(|text| text.is_empty()) {
            return Err(Refusal::new(Reason::Empty, format!("`{field}` cannot be empty: text {index} is")).of(field));
        }
        Ok(texts)
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string or a list of strings")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Inputs, E> {
        Ok(Inputs::One(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
        let (mut texts, mut total, mut tokens) = (Vec::new(), 0usize, false);
        while let Some(element) = list.next_element::<Element>()? {
            match element {
                Element::Text(text) if !tokens => {
                    if texts.len() < INPUTS_KEPT_MAX {
                        texts.push(text);
                    }
                }
                Element::Tokens if total == 0 || tokens => tokens = true,
                Element::Text(_) | Element::Tokens => {
                    return Err(A::Error::custom(format_args!(
                        "element {total} is of another kind than the ones before; expected a list of strings"
                    )));
                }
            }
            total += 1;
        }
        Ok(if tokens { Inputs::Tokens } else { Inputs::Many { texts, total } })
    }
}

/// One element of the list.
enum Element {
    Text(Box<str>),
    /// A number, or a list that is empty or begins with a number.
    Tokens,
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(text.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Element, E> {
        Ok(Element::Tokens)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Element, E> {
        Ok(Element::Tokens)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Element, E> {
        Ok(Element::Tokens)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        list.next_element::<TokenId>()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element::Tokens)
    }
}

/// Proof that the first element of an inner list is a number.
struct TokenId;

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenIdVisitor)
    }
}

struct TokenIdVisitor;

impl Visitor<'_> for TokenIdVisitor {
    type Value = TokenId;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string in place of this inner list")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<TokenId, E> {
        Ok(TokenId)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<TokenId, E> {
        Ok(TokenId)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<TokenId, E> {
        Ok(TokenId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Body {
        inputs: Inputs,
    }

    fn inputs_of(body: &str) -> Result<Inputs, Refusal> {
        decode::<Body>(body.as_bytes()).map(|body| body.inputs)
    }

    #[test]
    fn lists_of_texts_and_of_tokens_are_told_apart() {
        let many = |texts: &[&str]| Inputs::Many {
            texts: texts.iter().map(|&text| text.into()).collect(),
            total: texts.len(),
        };
        let cases = [
            (r#"{"inputs":"a"}"#, Inputs::One("a".into())),
            (r#"{"inputs":["a","b\u00e9"]}"#, many(&["a", "bé"])),
            (r#"{"inputs":[]}"#, many(&[])),
            (r#"{"inputs":[1,2]}"#, Inputs::Tokens),
            (r#"{"inputs":[-1]}"#, Inputs::Tokens),
            (r#"{"inputs":[[1,2],[3]]}"#, Inputs::Tokens),
            (r#"{"inputs":[[]]}"#, Inputs::Tokens),
        ];
        for (body, expected) in cases {
            assert_eq!(inputs_of(body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn texts_beyond_what_is_kept_are_only_counted() {
        let body = format!(r#"{{"inputs":[{}"a"]}}"#, r#""a","#.repeat(INPUTS_KEPT_MAX + 5));
        match inputs_of(&body).unwrap() {
            Inputs::Many { texts, total } => {
                assert_eq!((texts.len(), total), (INPUTS_KEPT_MAX, INPUTS_KEPT_MAX + 6));
            }
            other => panic!("expected a list, got {other:?}"),
        }
    }

    #[test]
    fn nesting_of_any_depth_is_an_error_and_not_a_crash() {
        for open in ["[", "{\"a\":"] {
            let deep = open.repeat(1_000_000);
            for body in [format!(r#"{{"inputs":{deep}"#), format!(r#"{{"other":{deep}"#), deep.clone()] {
                let refusal = inputs_of(&body).unwrap_err();
                assert!(matches!(refusal.reason, Reason::Malformed | Reason::Invalid), "{refusal:?}");
            }
        }
    }

    #[test]
    fn invalid_utf8_is_malformed() {
        let refusal = decode::<Body>(b"{\"inputs\":\"a\xff\xfe\"}").map(|body| body.inputs).unwrap_err();
        assert_eq!(refusal.reason, Reason::Malformed);
        assert!(refusal.message.contains("line 1 column"), "{}", refusal.message);
    }
}
