//! Refusals: one reason per different reaction of a client, and how each dialect words it.
//!
//! For everything in `listen` that can say no. Invariants: every error body is JSON in the dialect of its path;
//! a message never carries more than [`MESSAGE_CHARS_MAX`] characters, so a hostile body is not echoed back whole.
//! Not here: what the kernel of HTTP itself refuses (bad framing, too many headers); those answers have no body.

use hyper::StatusCode;
use serde::Serialize;

use crate::job::Failure;

/// Longest message sent to a caller, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// Whose error shapes a path uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{"error":…,"error_type":…}`: text-embeddings-inference, and every path that is nobody's.
    Tei,
    /// `{"error":{"message":…,"type":…,"param":…,"code":…}}`.
    OpenAi,
}

/// Why a request is refused. One variant per different status or type in some dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Not HTTP or JSON as it should be: syntax, a bad header, a body that ended early.
    Malformed,
    /// Good JSON of the wrong shape or with a value that is not allowed.
    Invalid,
    /// There is no text to work on.
    Empty,
    /// More texts than one call may have.
    TooManyInputs,
    NoSuchPath,
    MethodNotAllowed,
    NoSuchModel,
    /// The body did not come in time.
    BodyTimeout,
    BodyTooLarge,
    ContentType,
    Overloaded,
    Unavailable,
    Expired,
    /// The model failed on this very request.
    Engine,
    /// A fault of this program.
    Internal,
}

/// One refusal, not yet in any dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    /// For the caller: what is wrong, where, and how to mend it.
    pub(super) message: String,
    /// The field of the body that is to blame, if one is.
    pub(super) param: Option<String>,
    pub(super) retry_after_ms: Option<u32>,
    /// For [`Reason::MethodNotAllowed`].
    pub(super) allow: Option<&'static str>,
    /// Why the call went where it went, if that was asked for.
    pub(super) explanation: Option<Box<str>>,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: shortened(message.into()),
            param: None,
            retry_after_ms: None,
            allow: None,
            explanation: None,
        }
    }

    /// The same, blaming a field of the body.
    pub(super) fn of(mut self, param: impl Into<String>) -> Self {
        self.param = Some(shortened(param.into()));
        self
    }

    /// The same, saying why the call went where it went.
    pub(super) fn explained(mut self, explanation: Option<Box<str>>) -> Self {
        self.explanation = explanation;
        self
    }

    pub(super) fn retry_after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// Words a failure of the job; `param` is the name of the dialect's field that holds the texts.
    pub(super) fn from_failure(failure: Failure, param: &str) -> Self {
        match failure {
            Failure::Input { index, message } => {
                Self::new(Reason::Invalid, format!("`{param}`, text {index}: {message}")).of(param)
            }
            Failure::Overloaded { retry_after_ms } => {
                let message = format!("every node is busy; try again in {retry_after_ms} ms");
                Self::new(Reason::Overloaded, message).retry_after_ms(retry_after_ms)
            }
            Failure::Unavailable { message, retry_after_ms } => {
                let message = format!("no node can answer now: {message}; try again in {retry_after_ms} ms");
                Self::new(Reason::Unavailable, message).retry_after_ms(retry_after_ms)
            }
            Failure::Expired => Self::new(Reason::Expired, "the deadline passed before the answer was ready"),
            Failure::Engine { .. } => Self::new(Reason::Engine, failure.to_string()),
        }
    }

    pub(super) fn status(&self, dialect: Dialect) -> StatusCode {
        match (self.reason, dialect) {
            (Reason::Malformed | Reason::Empty, _) => StatusCode::BAD_REQUEST,
            (Reason::Invalid | Reason::TooManyInputs, Dialect::OpenAi) => StatusCode::BAD_REQUEST,
            (Reason::Invalid | Reason::TooManyInputs, Dialect::Tei) => StatusCode::UNPROCESSABLE_ENTITY,
            (Reason::NoSuchPath | Reason::NoSuchModel, _) => StatusCode::NOT_FOUND,
            (Reason::MethodNotAllowed, _) => StatusCode::METHOD_NOT_ALLOWED,
            (Reason::BodyTimeout, _) => StatusCode::REQUEST_TIMEOUT,
            (Reason::BodyTooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (Reason::ContentType, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            (Reason::Overloaded, _) => StatusCode::TOO_MANY_REQUESTS,
            (Reason::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
            (Reason::Expired, _) => StatusCode::GATEWAY_TIMEOUT,
            // What text-embeddings-inference answers when its backend fails.
            (Reason::Engine, Dialect::Tei) => StatusCode::FAILED_DEPENDENCY,
            (Reason::Engine, Dialect::OpenAi) | (Reason::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body in `dialect`, without a newline at the end.
    pub(super) fn body(&self, dialect: Dialect) -> Vec<u8> {
        let written = match dialect {
            Dialect::Tei => serde_json::to_vec(&TeiError { error: &self.message, error_type: self.tei_type() }),
            Dialect::OpenAi => {
                let (kind, code) = self.openai_type_and_code();
                let error = OpenAiError { message: &self.message, kind, param: self.param.as_deref(), code };
                serde_json::to_vec(&OpenAiEnvelope { error })
            }
        };
        written.expect("strings and options always have a JSON form")
    }

    /// Whether the OpenAI client libraries should be told not to repeat the request on their own.
    ///
    /// They repeat every answer from 500 on; this one would fail again, the model having refused it wherever it ran.
    pub(super) fn is_final(&self) -> bool {
        self.reason == Reason::Engine
    }

    /// text-embeddings-inference has six types; a passed deadline is nearest to its "come again later".
    fn tei_type(&self) -> &'static str {
        match self.reason {
            Reason::Empty => "Empty",
            Reason::Overloaded | Reason::Expired => "Overloaded",
            Reason::Unavailable => "Unhealthy",
            Reason::Engine | Reason::Internal => "Backend",
            Reason::Malformed
            | Reason::Invalid
            | Reason::TooManyInputs
            | Reason::NoSuchPath
            | Reason::MethodNotAllowed
            | Reason::NoSuchModel
            | Reason::BodyTimeout
            | Reason::BodyTooLarge
            | Reason::ContentType => "Validation",
        }
    }

    fn openai_type_and_code(&self) -> (&'static str, Option<&'static str>) {
        match self.reason {
            Reason::NoSuchModel => ("invalid_request_error", Some("model_not_found")),
            Reason::Overloaded => ("rate_limit_error", Some("rate_limit_exceeded")),
            Reason::Unavailable => ("server_error", Some("overloaded")),
            Reason::Expired => ("server_error", Some("timeout")),
            Reason::Engine | Reason::Internal => ("server_error", None),
            Reason::Malformed
            | Reason::Invalid
            | Reason::Empty
            | Reason::TooManyInputs
            | Reason::NoSuchPath
            | Reason::MethodNotAllowed
            | Reason::BodyTimeout
            | Reason::BodyTooLarge
            | Reason::ContentType => ("invalid_request_error", None),
        }
    }
}

#[derive(Serialize)]
struct TeiError<'a> {
    error: &'a str,
    error_type: &'static str,
}

#[derive(Serialize)]
struct OpenAiEnvelope<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

/// At most [`MESSAGE_CHARS_MAX`] characters of `text`, its middle left out: both ends say where and what.
fn shortened(text: String) -> String {
    // Fewer bytes than that are fewer characters, and no scan of a long text is needed to know it.
    if text.len() <= MESSAGE_CHARS_MAX || text.chars().count() <= MESSAGE_CHARS_MAX {
        return text;
    }
    let half = MESSAGE_CHARS_MAX / 2 - 1;
    let head: String = text.chars().take(half).collect();
    let mut tail: Vec<char> = text.chars().rev().take(half).collect();
    tail.reverse();
    format!("{head}…{}", tail.into_iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_status_and_body_in_both_dialects() {
        let busy = Failure::Overloaded { retry_after_ms: 40 };
        let away = Failure::Unavailable { message: "loading".into(), retry_after_ms: 2500 };
        let cases: [(Failure, u16, &str, u16, &str); 5] = [
            (
                Failure::Input { index: 3, message: "too long".into() },
                422,
                r#"{"error":"`in`, text 3: too long","error_type":"Validation"}"#,
                400,
                r#"{"error":{"message":"`in`, text 3: too long","type":"invalid_request_error","param":"in","code":null}}"#,
            ),
            (
                busy,
                429,
                r#"{"error":"every node is busy; try again in 40 ms","error_type":"Overloaded"}"#,
                429,
                r#"{"error":{"message":"every node is busy; try again in 40 ms","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#,
            ),
            (
                away,
                503,
                r#"{"error":"no node can answer now: loading; try again in 2500 ms","error_type":"Unhealthy"}"#,
                503,
                r#"{"error":{"message":"no node can answer now: loading; try again in 2500 ms","type":"server_error","param":null,"code":"overloaded"}}"#,
            ),
            (
                Failure::Expired,
                504,
                r#"{"error":"the deadline passed before the answer was ready","error_type":"Overloaded"}"#,
                504,
                r#"{"error":{"message":"the deadline passed before the answer was ready","type":"server_error","param":null,"code":"timeout"}}"#,
            ),
            (
                Failure::Engine { index: 3, message: "NaN".into() },
                424,
                r#"{"error":"the model failed on input 3: NaN","error_type":"Backend"}"#,
                500,
                r#"{"error":{"message":"the model failed on input 3: NaN","type":"server_error","param":null,"code":null}}"#,
            ),
        ];
        for (failure, tei_status, tei, openai_status, openai) in cases {
            let refusal = Refusal::from_failure(failure, "in");
            assert_eq!(refusal.status(Dialect::Tei).as_u16(), tei_status);
            assert_eq!(String::from_utf8(refusal.body(Dialect::Tei)).unwrap(), tei);
            assert_eq!(refusal.status(Dialect::OpenAi).as_u16(), openai_status);
            assert_eq!(String::from_utf8(refusal.body(Dialect::OpenAi)).unwrap(), openai);
        }
    }

    #[test]
    fn long_messages_keep_both_ends() {
        let refusal = Refusal::new(Reason::Invalid, format!("start {} end", "é".repeat(1_000_000)));
        assert!(refusal.message.chars().count() <= MESSAGE_CHARS_MAX);
        assert!(refusal.message.starts_with("start é") && refusal.message.ends_with("é end"));
    }
}
