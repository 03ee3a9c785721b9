//! The dialect of OpenAI: `POST /v1/embeddings` and `GET /v1/models`.
//!
//! For `request`. Pure: bytes to a call, rows to bytes. Their client libraries ask for base64 when their user asks for
//! nothing, so that is the common path. Vectors have length 1, as callers of this interface rely on.
//! Not here: its error bodies (`error`).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use shoal_engine::{EmbedOptions, Truncation};

use super::error::{Reason, Refusal};
use super::json::{self, Inputs};
use crate::job::ModelView;

/// Name of the field that holds the texts.
pub(super) const INPUT_FIELD: &str = "input";

#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct EmbeddingsRequest {
    input: Inputs,
    model: Option<Box<str>>,
    encoding_format: Option<EncodingFormat>,
    dimensions: Option<u32>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32, standard alphabet, padded.
    Base64,
}

/// Decodes the body of `POST /v1/embeddings`; `served` is the model that can be asked for, `None` while unknown.
///
/// # Errors
/// As [`json::decode`] and [`Inputs::into_texts`]; [`Reason::NoSuchModel`] for a `model` that is not `served`;
/// [`Reason::Invalid`] for 0 dimensions.
pub(super) fn decode(
    body: &[u8],
    inputs_max: usize,
    served: impl FnOnce() -> Option<ModelView>,
) -> Result<(Vec<Box<str>>, EmbedOptions, EncodingFormat), Refusal> {
    let request: EmbeddingsRequest = json::decode(body)?;
    if let Some(asked) = &request.model {
        match served() {
            Some(model) if *model.name != **asked => return Err(no_such_model(asked, Some(&model))),
            Some(_) | None => {}
        }
    }
    if request.dimensions == Some(0) {
        return Err(Refusal::new(Reason::Invalid, "`dimensions` has to be at least 1").of("dimensions"));
    }
    let hint = "send the texts (in LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)";
    let texts = request.input.into_texts(INPUT_FIELD, inputs_max, hint)?;
    let options = EmbedOptions { truncation: Truncation::Right, normalize: Some(true), dimensions: request.dimensions };
    Ok((texts, options, request.encoding_format.unwrap_or_default()))
}

/// Refuses a model, listing what there is.
pub(super) fn no_such_model(asked: &str, served: Option<&ModelView>) -> Refusal {
    // A name can be as long as the body; its head is enough to recognise it, and the list has to stay readable.
    let shown: String = asked.chars().take(100).collect();
    let message = match served {
        Some(model) => format!("the model `{shown}` does not exist here; there is `{}`", model.name),
        None => format!("the model `{shown}` does not exist here; no model is loaded yet"),
    };
    Refusal::new(Reason::NoSuchModel, message).of("model")
}

#[derive(Serialize)]
struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> ModelObject<'a> {
    fn new(model: &'a ModelView) -> Self {
        Self { id: &model.name, object: "model", created: model.loaded_at_s, owned_by: "shoal" }
    }
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelObject<'a>>,
}

/// Writes `GET /v1/models`: one model, or none while it is not loaded.
pub(super) fn models(served: Option<&ModelView>) -> Vec<u8> {
    let list = ModelList { object: "list", data: served.map(ModelObject::new).into_iter().collect() };
    serde_json::to_vec(&list).expect("strings and numbers always have a JSON form")
}

/// Writes `GET /v1/models/{id}`; `id` as it stands in the path, percent-encoded or not.
///
/// # Errors
/// [`Reason::NoSuchModel`] when `id` is not the served model.
pub(super) fn model(id: &str, served: Option<&ModelView>) -> Result<Vec<u8>, Refusal> {
    let id = percent_decoded(id);
    match served {
        Some(model) if *model.name == *id => {
            Ok(serde_json::to_vec(&ModelObject::new(model)).expect("strings and numbers always have a JSON form"))
        }
        served => Err(no_such_model(&id, served)),
    }
}

/// Undoes `%2F` and the like. What is not two hex digits stays as it is; bytes that are not UTF-8 become U+FFFD.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Option<ModelView> {
        Some(ModelView {
            name: "org/minilm".into(),
            revision: "0123456789abcdef".into(),
            precision: "f32".into(),
            dimensions: 384,
            tokens_max: 256,
            pooling: "mean",
            stand_in: false,
            loaded_at_s: 1_700_000_000,
        })
    }

    #[test]
    fn good_bodies_become_the_options_they_name() {
        use EncodingFormat::{Base64, Float};
        let cases: &[(&str, &[&str], EncodingFormat, Option<u32>)] = &[
            (r#"{"input":"a"}"#, &["a"], Float, None),
            (r#"{"input":["a","b"],"model":"org/minilm","encoding_format":"base64"}"#, &["a", "b"], Base64, None),
            (r#"{"input":"a","model":"org\/minilm","encoding_format":"float","dimensions":8}"#, &["a"], Float, Some(8)),
            (r#"{"input":"a","model":null,"encoding_format":null,"dimensions":null}"#, &["a"], Float, None),
            (r#"{"input":"a","user":"me","whatever":[1,{"x":2}]}"#, &["a"], Float, None),
        ];
        for (body, texts, format, dimensions) in cases {
            let (got, options, got_format) = decode(body.as_bytes(), 2048, served).unwrap();
            assert_eq!(got.iter().map(|text| &**text).collect::<Vec<_>>(), *texts, "{body}");
            assert_eq!(got_format, *format, "{body}");
            let expected =
                EmbedOptions { truncation: Truncation::Right, normalize: Some(true), dimensions: *dimensions };
            assert_eq!(options, expected, "{body}");
        }
    }

    #[test]
    fn any_model_is_taken_while_none_is_known() {
        assert!(decode(br#"{"input":"a","model":"whatever"}"#, 2048, || None).is_ok());
    }

    #[test]
    fn bad_bodies_are_refused_with_the_reason_the_field_and_the_place() {
        use Reason::{Empty, Invalid, Malformed, NoSuchModel, TooManyInputs};
        let tokens = "`input` holds token ids, and the same ids are other words to another model; send the texts \
                      (in LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)";
        let cases: &[(&str, Reason, Option<&str>, &str)] = &[
            (
                r#"{"input":"a"#,
                Malformed,
                None,
                "the body is not valid JSON: EOF while parsing a string at line 1 column 11",
            ),
            ("{}", Invalid, None, "missing field `input` at line 1 column 2"),
            (
                r#"{"input":7}"#,
                Invalid,
                Some("input"),
                "`input`: invalid type: integer `7`, expected a string or a list of strings at line 1 column 10",
            ),
            (r#"{"input":[1,2]}"#, Invalid, Some("input"), tokens),
            (r#"{"input":[[1],[2]]}"#, Invalid, Some("input"), tokens),
            (
                r#"{"input":"a","encoding_format":"hex"}"#,
                Invalid,
                Some("encoding_format"),
                "`encoding_format`: unknown variant `hex`, expected `float` or `base64` at line 1 column 36",
            ),
            (
                r#"{"input":"a","model":5}"#,
                Invalid,
                Some("model"),
                "`model`: invalid type: integer `5`, expected a string at line 1 column 22",
            ),
            (
                r#"{"input":"a","model":"x"}"#,
                NoSuchModel,
                Some("model"),
                "the model `x` does not exist here; there is `org/minilm`",
            ),
            (r#"{"input":"a","dimensions":0}"#, Invalid, Some("dimensions"), "`dimensions` has to be at least 1"),
            (
                r#"{"input":"a","dimensions":1.5}"#,
                Invalid,
                Some("dimensions"),
                "`dimensions`: invalid type: floating point `1.5`, expected u32 at line 1 column 29",
            ),
            (r#"{"input":""}"#, Empty, Some("input"), "`input` cannot be empty: text 0 is"),
            (r#"{"input":[]}"#, Empty, Some("input"), "`input` cannot be empty: there is no text in it"),
            (
                r#"{"input":["a","b","c"]}"#,
                TooManyInputs,
                Some("input"),
                "`input` has 3 texts, at most 2 are taken; split the call",
            ),
        ];
        for (body, reason, param, message) in cases {
            let refusal = decode(body.as_bytes(), 2, served).unwrap_err();
            assert_eq!((refusal.reason, refusal.message.as_str()), (*reason, *message), "{body}");
            assert_eq!(refusal.param.as_deref(), *param, "{body}");
        }
    }

    #[test]
    fn models_are_listed_and_found_by_names_with_slashes() {
        let object = r#"{"id":"org/minilm","object":"model","created":1700000000,"owned_by":"shoal"}"#;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(models(served().as_ref())), format!(r#"{{"object":"list","data":[{object}]}}"#));
        assert_eq!(text(models(None)), r#"{"object":"list","data":[]}"#);
        for id in ["org/minilm", "org%2Fminilm", "org%2fminilm"] {
            assert_eq!(text(model(id, served().as_ref()).unwrap()), object, "{id}");
        }
        for id in ["minilm", "org/minilm/", "%", "%2", "%zz", "%ff"] {
            assert_eq!(model(id, served().as_ref()).unwrap_err().reason, Reason::NoSuchModel, "{id}");
        }
    }
}
