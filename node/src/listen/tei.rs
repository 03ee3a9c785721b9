//! The dialect of text-embeddings-inference: `POST /embed` and `GET /info`.
//!
//! For `request`. Pure: bytes to a call, rows to bytes. Source of the shapes: that server's `router` crate, whose
//! clients (LlamaIndex, Haystack, Spring AI) read only the status and the list of vectors.
//! Not here: its error bodies (`error`).

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use shoal_engine::{EmbedOptions, Truncation};

use super::Limits;
use super::error::{Reason, Refusal};
use super::json::{self, Inputs};
use crate::job::NodeView;

/// Name of the field that holds the texts.
pub(super) const INPUTS_FIELD: &str = "inputs";

#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct EmbedRequest {
    inputs: Inputs,
    truncate: Option<bool>,
    truncation_direction: Option<Direction>,
    prompt_name: Option<IgnoredAny>,
    normalize: Option<bool>,
    dimensions: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
enum Direction {
    #[serde(alias = "right")]
    Right,
    #[serde(alias = "left")]
    Left,
}

/// Decodes the body of `POST /embed`.
///
/// # Errors
/// As [`json::decode`] and [`Inputs::into_texts`]; [`Reason::Invalid`] for `prompt_name` and for 0 dimensions.
pub(super) fn decode(body: &[u8], inputs_max: usize) -> Result<(Vec<Box<str>>, EmbedOptions), Refusal> {
    let request: EmbedRequest = json::decode(body)?;
    if request.prompt_name.is_some() {
        let message = "`prompt_name` is not supported; put the prompt in front of the text and leave the field out";
        return Err(Refusal::new(Reason::Invalid, message).of("prompt_name"));
    }
    if request.dimensions == Some(0) {
        return Err(Refusal::new(Reason::Invalid, "`dimensions` has to be at least 1").of("dimensions"));
    }
    let texts = request.inputs.into_texts(INPUTS_FIELD, inputs_max, "send the texts")?;
    let truncation = match (request.truncate.unwrap_or(true), request.truncation_direction) {
        (false, _) => Truncation::Refuse,
        (true, None | Some(Direction::Right)) => Truncation::Right,
        (true, Some(Direction::Left)) => Truncation::Left,
    };
    let normalize = Some(request.normalize.unwrap_or(true));
    Ok((texts, EmbedOptions { truncation, normalize, dimensions: request.dimensions }))
}

/// The body of `GET /info`: that server's fields, then our own.
#[derive(Serialize)]
struct Info<'a> {
    model_id: Option<&'a str>,
    model_sha: Option<&'a str>,
    model_dtype: Option<&'static str>,
    served_model_name: Option<&'a str>,
    model_type: Option<ModelType>,
    max_concurrent_requests: u32,
    max_input_length: Option<u32>,
    max_batch_tokens: u32,
    max_client_batch_size: usize,
    auto_truncate: bool,
    /// Texts become tokens on the thread that owns the model.
    tokenization_workers: u32,
    version: &'static str,
    // From here on shoal's own.
    stand_in: Option<bool>,
    dimensions: Option<u32>,
    revision: Option<&'a str>,
    precision: Option<&'a str>,
    node_id: &'a str,
    cluster: &'a str,
}

#[derive(Serialize)]
struct ModelType {
    embedding: PoolingName,
}

#[derive(Serialize)]
struct PoolingName {
    pooling: &'static str,
}

/// Writes `GET /info`; what is unknown until the model is loaded is `null`.
pub(super) fn info(view: &NodeView, limits: &Limits) -> Vec<u8> {
    let model = view.model.as_ref();
    let info = Info {
        model_id: model.map(|model| &*model.name),
        model_sha: model.map(|model| &*model.revision),
        model_dtype: model.map(|model| dtype(&model.precision)),
        served_model_name: model.map(|model| &*model.name),
        model_type: model.map(|model| ModelType { embedding: PoolingName { pooling: model.pooling } }),
        max_concurrent_requests: limits.jobs_max,
        max_input_length: model.map(|model| model.tokens_max),
        max_batch_tokens: limits.batch_tokens_max,
        max_client_batch_size: limits.inputs_max,
        auto_truncate: true,
        tokenization_workers: 1,
        version: env!("CARGO_PKG_VERSION"),
        stand_in: model.map(|model| model.stand_in),
        dimensions: model.map(|model| model.dimensions),
        revision: model.map(|model| &*model.revision),
        precision: model.map(|model| &*model.precision),
        node_id: &view.node_id,
        cluster: &view.cluster,
    };
    serde_json::to_vec(&info).expect("strings and numbers always have a JSON form")
}

/// That server's name of a precision.
fn dtype(precision: &str) -> &'static str {
    match precision {
        "f16" => "float16",
        "bf16" => "bfloat16",
        _ => "float32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_bodies_become_the_options_they_name() {
        let plain = EmbedOptions { truncation: Truncation::Right, normalize: Some(true), dimensions: None };
        let left = EmbedOptions { truncation: Truncation::Left, ..plain };
        let cases: &[(&str, &[&str], EmbedOptions)] = &[
            (r#"{"inputs":"a"}"#, &["a"], plain),
            (r#" {"inputs":["a","b"]} "#, &["a", "b"], plain),
            (r#"{"inputs":"\ud83d\ude00 汉"}"#, &["😀 汉"], plain),
            (r#"{"inputs":"a","unknown":{"deep":[1,{"x":null}]}}"#, &["a"], plain),
            (r#"{"inputs":"a","truncate":null,"normalize":null,"dimensions":null,"prompt_name":null}"#, &["a"], plain),
            (r#"{"inputs":"a","truncate":true,"truncation_direction":"Right"}"#, &["a"], plain),
            (r#"{"inputs":"a","truncation_direction":"right"}"#, &["a"], plain),
            (r#"{"inputs":"a","truncation_direction":"Left"}"#, &["a"], left),
            (r#"{"inputs":"a","truncation_direction":"left"}"#, &["a"], left),
            (r#"{"inputs":"a","truncate":false}"#, &["a"], EmbedOptions { truncation: Truncation::Refuse, ..plain }),
            (r#"{"inputs":"a","normalize":false}"#, &["a"], EmbedOptions { normalize: Some(false), ..plain }),
            (r#"{"inputs":"a","dimensions":8}"#, &["a"], EmbedOptions { dimensions: Some(8), ..plain }),
        ];
        for (body, texts, options) in cases {
            let (got, got_options) = decode(body.as_bytes(), 2048).unwrap();
            assert_eq!(got.iter().map(|text| &**text).collect::<Vec<_>>(), *texts, "{body}");
            assert_eq!(got_options, *options, "{body}");
        }
    }

    #[test]
    fn the_number_of_texts_is_limited_exactly() {
        let body = |texts: usize| serde_json::json!({ "inputs": vec!["a"; texts] }).to_string();
        assert_eq!(decode(body(2048).as_bytes(), 2048).unwrap().0.len(), 2048);
        assert_eq!(decode(body(2049).as_bytes(), 2048).unwrap_err().reason, Reason::TooManyInputs);
        // A limit above what is kept would answer fewer texts than were sent.
        let beyond = json::INPUTS_KEPT_MAX + 1;
        assert_eq!(decode(body(beyond).as_bytes(), usize::MAX).unwrap_err().reason, Reason::TooManyInputs);
    }

    #[test]
    fn bad_bodies_are_refused_with_the_reason_and_the_place() {
        use Reason::{Empty, Invalid, Malformed, TooManyInputs};
        let cases: &[(&str, Reason, &str)] = &[
            ("", Malformed, "the body is empty; send a JSON object"),
            ("  ", Malformed, "the body is empty; send a JSON object"),
            ("{", Malformed, "the body is not valid JSON: EOF while parsing an object at line 1 column 1"),
            ("{\"inputs\":\"a\",\n}", Malformed, "the body is not valid JSON: trailing comma at line 2 column 1"),
            (r#"{"inputs":"a"} x"#, Malformed, "the body is not valid JSON: trailing characters at line 1 column 16"),
            (
                r#"{"inputs":"\ud800"}"#,
                Malformed,
                "the body is not valid JSON: unexpected end of hex escape at line 1 column 18",
            ),
            (r#"{"inputs":1e999}"#, Malformed, "the body is not valid JSON: number out of range at line 1 column 15"),
            (r#"["a"]"#, Invalid, "the body has to be a JSON object"),
            (r#""a""#, Invalid, "the body has to be a JSON object"),
            ("5", Invalid, "invalid type: integer `5`, expected a JSON object at line 1 column 1"),
            ("{}", Invalid, "missing field `inputs` at line 1 column 2"),
            (r#"{"input":"a"}"#, Invalid, "missing field `inputs` at line 1 column 13"),
            (r#"{"inputs":"a","inputs":"b"}"#, Invalid, "duplicate field `inputs` at line 1 column 22"),
            (
                r#"{"inputs":null}"#,
                Invalid,
                "`inputs`: invalid type: null, expected a string or a list of strings at line 1 column 14",
            ),
            (
                r#"{"inputs":{"a":1}}"#,
                Invalid,
                "`inputs`: invalid type: map, expected a string or a list of strings at line 1 column 11",
            ),
            (
                r#"{"inputs":["a",true]}"#,
                Invalid,
                "`inputs[1]`: invalid type: boolean `true`, expected a string at line 1 column 19",
            ),
            (
                r#"{"inputs":["a",5]}"#,
                Invalid,
                "`inputs`: element 1 is of another kind than the ones before; expected a list of strings at line 1 column 17",
            ),
            (
                r#"{"inputs":[["a"]]}"#,
                Invalid,
                "`inputs[0][0]`: invalid type: string \"a\", expected a string in place of this inner list at line 1 column 15",
            ),
            (
                r#"{"inputs":[1,2]}"#,
                Invalid,
                "`inputs` holds token ids, and the same ids are other words to another model; send the texts",
            ),
            (
                r#"{"inputs":[[1,2]]}"#,
                Invalid,
                "`inputs` holds token ids, and the same ids are other words to another model; send the texts",
            ),
            (
                r#"{"inputs":"a","truncate":"yes"}"#,
                Invalid,
                "`truncate`: invalid type: string \"yes\", expected a boolean at line 1 column 30",
            ),
            (
                r#"{"inputs":"a","truncation_direction":"up"}"#,
                Invalid,
                "`truncation_direction`: unknown variant `up`, expected one of `Right`, `right`, `Left`, `left` at line 1 column 41",
            ),
            (
                r#"{"inputs":"a","dimensions":-1}"#,
                Invalid,
                "`dimensions`: invalid value: integer `-1`, expected u32 at line 1 column 29",
            ),
            (
                r#"{"inputs":"a","dimensions":99999999999}"#,
                Invalid,
                "`dimensions`: invalid value: integer `99999999999`, expected u32 at line 1 column 38",
            ),
            (r#"{"inputs":"a","dimensions":0}"#, Invalid, "`dimensions` has to be at least 1"),
            (
                r#"{"inputs":"a","prompt_name":"query"}"#,
                Invalid,
                "`prompt_name` is not supported; put the prompt in front of the text and leave the field out",
            ),
            (r#"{"inputs":""}"#, Empty, "`inputs` cannot be empty: text 0 is"),
            (r#"{"inputs":["a",""]}"#, Empty, "`inputs` cannot be empty: text 1 is"),
            (r#"{"inputs":[]}"#, Empty, "`inputs` cannot be empty: there is no text in it"),
            (
                r#"{"inputs":["a","b","c","d"]}"#,
                TooManyInputs,
                "`inputs` has 4 texts, at most 3 are taken; split the call",
            ),
        ];
        for (body, reason, message) in cases {
            let refusal = decode(body.as_bytes(), 3).unwrap_err();
            assert_eq!((refusal.reason, refusal.message.as_str()), (*reason, *message), "{body}");
        }
    }
}
