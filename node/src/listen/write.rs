//! Vectors as JSON, straight into the bytes of the answer.
//!
//! For `request`. Invariants: numbers are the shortest text that reads back as the same f32; a value that is not
//! finite is an error, never `null`; a long answer gives other requests of the same thread their turn in between.
//! Not here: reading requests (`tei`, `openai`).

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{Reason, Refusal};
use super::openai::EncodingFormat;
use crate::job::Answer;

/// Values written before other tasks of the thread get a turn: about one millisecond of work.
const VALUES_PER_TURN_MAX: usize = 16_384;

/// Numbers that are put together before they go into the answer.
const NUMBERS_AT_ONCE: usize = 32;
/// Longest text of an f32 with what follows it, and some more: `-1.1754944e-38,` has 15 bytes.
const NUMBER_BYTES_MAX: usize = 32;

/// Which body to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[[…],…]`
    Tei,
    /// `{"object":"list","data":[…],"model":…,"usage":…}`
    OpenAi(EncodingFormat),
}

/// Writes the rows of `answer`, which has to have one for each of the `texts` texts.
///
/// # Errors
/// [`Reason::Internal`] when rows are missing, [`Reason::Engine`] for a value that is not finite.
pub(super) async fn rows(shape: Shape, answer: &Answer, texts: usize) -> Result<Vec<u8>, Refusal> {
    if answer.rows.len() != texts {
        let message = format!("node {} gave {} vectors for {texts} texts", answer.served_by, answer.rows.len());
        return Err(Refusal::new(Reason::Internal, message));
    }
    let mut out = Vec::with_capacity(bytes(shape, answer));
    let mut turn = 0;
    out.extend_from_slice(match shape {
        Shape::Tei => b"[",
        Shape::OpenAi(_) => br#"{"object":"list","data":["#,
    });
    for (index, row) in answer.rows.iter().enumerate() {
        if index != 0 {
            out.push(b',');
        }
        if !row.values.iter().all(|value| value.is_finite()) {
            let message = format!("text {index}: the vector holds a value that is not a finite number");
            return Err(Refusal::new(Reason::Engine, message));
        }
        match shape {
            Shape::Tei => numbers(&mut out, &row.values),
            Shape::OpenAi(format) => {
                put(&mut out, format_args!(r#"{{"object":"embedding","index":{index},"embedding":"#));
                match format {
                    EncodingFormat::Float => numbers(&mut out, &row.values),
                    EncodingFormat::Base64 => base64(&mut out, &row.values),
                }
                out.push(b'}');
            }
        }
        turn += row.values.len();
        if VALUES_PER_TURN_MAX <= turn {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    match shape {
        Shape::Tei => out.push(b']'),
        Shape::OpenAi(_) => {
            let tokens = tokens(answer);
            out.extend_from_slice(br#"],"model":"#);
            serde_json::to_writer(&mut out, &*answer.model).expect("a string always has a JSON form");
            put(&mut out, format_args!(r#","usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#));
        }
    }
    Ok(out)
}

/// About how many bytes [`rows`] takes for `answer`, and rather too many.
pub(super) fn bytes(shape: Shape, answer: &Answer) -> usize {
    let values: usize = answer.rows.iter().map(|row| row.values.len()).sum();
    let value_bytes = match shape {
        Shape::OpenAi(EncodingFormat::Base64) => 6,
        Shape::Tei | Shape::OpenAi(EncodingFormat::Float) => 12,
    };
    // What stands around each row takes about 64 bytes, around them all about 128.
    values * value_bytes + answer.rows.len() * 64 + 128
}

/// Tokens of all rows.
pub(super) fn tokens(answer: &Answer) -> u64 {
    answer.rows.iter().map(|row| u64::from(row.tokens)).sum()
}

/// As `serde_json` writes a list of finite numbers, in about two thirds of the time: this is the dearest thing that a
/// node does for an answer in its own code, and what takes most of it there is the copying of a few bytes at a time.
fn numbers(out: &mut Vec<u8>, values: &[f32]) {
    let mut one = zmij::Buffer::new();
    let mut some = [0; NUMBERS_AT_ONCE * NUMBER_BYTES_MAX];
    out.push(b'[');
    for values in values.chunks(NUMBERS_AT_ONCE) {
        let mut end = 0;
        for &value in values {
            let text = one.format_finite(value).as_bytes();
            copy_short(&mut some[end..], text);
            end += text.len();
            some[end] = b',';
            end += 1;
        }
        out.extend_from_slice(&some[..end]);
    }
    if !values.is_empty() {
        // The comma after the last one.
        out.pop();
    }
    out.push(b']');
}

/// Copies a number's text as two words that may overlap; a copy of any length is a call into the C library.
fn copy_short(to: &mut [u8], text: &[u8]) {
    let length = text.len();
    match length {
        8..=16 => {
            to[..8].copy_from_slice(&text[..8]);
            to[length - 8..length].copy_from_slice(&text[length - 8..]);
        }
        _ => to[..length].copy_from_slice(text),
    }
}

fn base64(out: &mut Vec<u8>, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let start = out.len() + 1;
    let end = start + bytes.len().div_ceil(3) * 4;
    out.push(b'"');
    out.resize(end, 0);
    STANDARD.encode_slice(&bytes, &mut out[start..]).expect("the slice has the length of the padded encoding");
    out.push(b'"');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing into memory does not fail");
}

#[cfg(test)]
mod tests {
    use shoal_engine::Embedding;

    use super::*;

    fn answer(rows: &[&[f32]]) -> Answer {
        Answer {
            rows: rows.iter().map(|values| Embedding { values: values.to_vec(), tokens: 3 }).collect(),
            served_by: "node-b".into(),
            hops: 1,
            placements: 1,
            queue_us: 0,
            compute_us: 0,
            model: "a \"quoted\" name".into(),
            revision: "r".into(),
            cache: None,
        }
    }

    async fn written(shape: Shape, rows_of: &[&[f32]]) -> String {
        String::from_utf8(rows(shape, &answer(rows_of), rows_of.len()).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn bodies_are_exact_in_every_shape() {
        let vectors: &[&[f32]] = &[&[1.0, -0.1, 1e-7], &[0.333_333_34, 3.402_823_5e38, 0.0]];
        assert_eq!(written(Shape::Tei, vectors).await, "[[1.0,-0.1,1e-7],[0.33333334,3.4028235e+38,0.0]]");
        assert_eq!(
            written(Shape::OpenAi(EncodingFormat::Float), vectors).await,
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0,-0.1,1e-7]},{"object":"embedding","index":1,"embedding":[0.33333334,3.4028235e+38,0.0]}],"model":"a \"quoted\" name","usage":{"prompt_tokens":6,"total_tokens":6}}"#
        );
        assert_eq!(
            written(Shape::OpenAi(EncodingFormat::Base64), &[&[1.0, -2.0]]).await,
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAMA="}],"model":"a \"quoted\" name","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
    }

    #[test]
    fn lists_of_any_length_are_what_serde_json_writes() {
        // Texts of 3 to 15 bytes, so that short, middle and long copies are among them.
        let values = [0.0, -1.5, 0.125, -1.175_494_4e-38, 3.402_823_5e38, 0.062_473_1, -0.000_123_456_78, 16_777_216.0];
        for length in [0, 1, 2, NUMBERS_AT_ONCE - 1, NUMBERS_AT_ONCE, NUMBERS_AT_ONCE + 1, 1000] {
            let list: Vec<f32> = values.into_iter().cycle().take(length).collect();
            let mut out = b"before".to_vec();
            numbers(&mut out, &list);
            assert_eq!(String::from_utf8(out).unwrap(), format!("before{}", serde_json::to_string(&list).unwrap()));
        }
    }

    #[tokio::test]
    async fn every_f32_reads_back_as_itself() {
        // A walk through all exponents and both signs; the step is odd so that mantissas vary.
        let values: Vec<f32> =
            (0..=u32::MAX).step_by(1_000_003).map(f32::from_bits).filter(|value| value.is_finite()).collect();
        let json = written(Shape::Tei, &[&values]).await;
        let back: Vec<Vec<f32>> = serde_json::from_str(&json).unwrap();
        assert_eq!(back[0].len(), values.len());
        for (read, value) in back[0].iter().zip(&values) {
            assert_eq!(read.to_bits(), value.to_bits(), "{value}");
        }
        let json = written(Shape::OpenAi(EncodingFormat::Base64), &[&values]).await;
        let body: serde_json::Value = serde_json::from_str(&json).unwrap();
        let bytes = STANDARD.decode(body["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(bytes, expected);
    }

    #[tokio::test]
    async fn a_value_that_is_not_finite_is_an_error() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refusal = rows(Shape::Tei, &answer(&[&[0.0], &[1.0, value]]), 2).await.unwrap_err();
            assert_eq!(refusal.reason, Reason::Engine);
            assert!(refusal.message.starts_with("text 1:"), "{}", refusal.message);
        }
    }

    #[tokio::test]
    async fn missing_rows_are_an_error() {
        assert_eq!(rows(Shape::Tei, &answer(&[&[0.0]]), 2).await.unwrap_err().reason, Reason::Internal);
    }
}
