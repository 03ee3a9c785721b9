//! What a caller says beside the body: its request id, trace context, deadline and session, and whether it asks why.
//!
//! For `request`. Pure but for the secret that ids are made with, drawn from the operating system once a start.
//! Invariants: nothing unchecked of a caller's header reaches a peer or an answer. Other `x-shoal-` headers than
//! `x-shoal-explain` are not read.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::HeaderMap;
use hyper::header::HeaderName;

use super::Limits;
use super::error::{Reason, Refusal};
use crate::ring;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const DEADLINE_MS: HeaderName = HeaderName::from_static("x-deadline-ms");

const SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
/// Asked with the value `1`; the answer's header of the same name says why.
pub(super) const EXPLAIN: HeaderName = HeaderName::from_static("x-shoal-explain");

/// Longest session id taken from a caller, bytes.
const SESSION_ID_BYTES_MAX: usize = 128;
/// Longest request id taken from a caller, bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Makes request ids: a keyed hash of a counter, so that ids neither repeat across starts nor tell how many there were.
#[derive(Debug, Default)]
pub(super) struct RequestIds {
    made: AtomicU64,
    high: RandomState,
    low: RandomState,
}

impl RequestIds {
    /// The caller's id if it is one line of 1 to 64 printable ASCII characters, else a new one of 32 hex digits.
    pub(super) fn choose(&self, headers: &HeaderMap) -> Arc<str> {
        let sent = headers.get(REQUEST_ID).map(|value| value.as_bytes());
        match sent.map(std::str::from_utf8) {
            Some(Ok(id)) if is_printable(id) => id.into(),
            Some(_) | None => self.make(),
        }
    }

    fn make(&self) -> Arc<str> {
        let count = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{:016x}", self.high.hash_one(count), self.low.hash_one(count)).into()
    }
}

fn is_printable(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

/// The W3C trace context, if there is exactly one and it is well-formed: `00-<32 hex>-<16 hex>-<2 hex>`, ids not zero.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (sent.next(), sent.next()) else { return None };
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, digits: usize| is_hex(part, digits) && part.bytes().any(|byte| byte != b'0');
    let sound = is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(span, 16)
        && is_hex(flags, 2)
        && parts.next().is_none();
    sound.then(|| text.into())
}

/// Milliseconds that the caller gives from the arrival of its headers on.
///
/// # Errors
/// [`Reason::Malformed`] when `x-deadline-ms` is there and is not one number from 1 to the limit.
pub(super) fn deadline_ms(headers: &HeaderMap, limits: &Limits) -> Result<u32, Refusal> {
    let mut sent = headers.get_all(DEADLINE_MS).iter();
    let Some(value) = sent.next() else { return Ok(limits.deadline_ms_default) };
    let asked = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (asked.and_then(|text| text.parse().ok()), sent.next()) {
        (Some(asked_ms), None) if (1..=limits.deadline_ms_max).contains(&asked_ms) => Ok(asked_ms),
        _ => {
            let message =
                format!("header `x-deadline-ms` has to be one whole number from 1 to {}", limits.deadline_ms_max);
            Err(Refusal::new(Reason::Malformed, message))
        }
    }
}

/// A number for the session that the caller names, so that its calls are computed on one node.
///
/// # Errors
/// [`Reason::Malformed`] when `x-session-id` is there and is not one line of 1 to 128 printable ASCII characters.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut sent = headers.get_all(SESSION_ID).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let printable = bytes.iter().all(|byte| (0x20..=0x7E).contains(byte));
    if printable && (1..=SESSION_ID_BYTES_MAX).contains(&bytes.len()) && sent.next().is_none() {
        return Ok(Some(ring::key(bytes)));
    }
    let message =
        format!("header `x-session-id` has to be one text of 1 to {SESSION_ID_BYTES_MAX} printable ASCII characters");
    Err(Refusal::new(Reason::Malformed, message))
}

/// Whether the caller asks why, and may.
pub(super) fn explain(headers: &HeaderMap, limits: &Limits) -> bool {
    limits.explain && headers.get(EXPLAIN).is_some_and(|value| value.as_bytes() == b"1")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hyper::header::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_sound_request_id_is_kept_and_another_replaced() {
        let ids = RequestIds::default();
        let longest = "x".repeat(64);
        for kept in ["a", "req 1~!", &longest] {
            assert_eq!(&*ids.choose(&headers(REQUEST_ID, &[kept])), kept);
        }
        let too_long = "x".repeat(65);
        for replaced in ["", "a\tb", "é", &too_long] {
            let id = ids.choose(&headers(REQUEST_ID, &[replaced]));
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{replaced:?} gave {id}");
        }
    }

    #[test]
    fn made_ids_do_not_repeat_here_or_after_a_start() {
        let (first, second) = (RequestIds::default(), RequestIds::default());
        let none = HeaderMap::new();
        let made: HashSet<_> = (0..10_000).flat_map(|_| [first.choose(&none), second.choose(&none)]).collect();
        assert_eq!(made.len(), 20_000);
    }

    #[test]
    fn only_a_well_formed_trace_context_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&headers(TRACEPARENT, &[good])).as_deref(), Some(good));
        let bad: &[&[&str]] = &[
            &[],
            &[""],
            &[good, good],
            &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g"],
        ];
        for values in bad {
            assert_eq!(traceparent(&headers(TRACEPARENT, values)), None, "{values:?}");
        }
    }

    #[test]
    fn a_session_is_one_short_printable_text_and_any_two_differ() {
        let longest = "x".repeat(128);
        let sound = ["a", "A", "user 1~!", &longest].map(|id| session(&headers(SESSION_ID, &[id])).unwrap());
        let different: HashSet<_> = sound.iter().flatten().collect();
        assert_eq!(different.len(), 4);
        assert_eq!(session(&HeaderMap::new()).unwrap(), None);
        let too_long = "x".repeat(129);
        for values in [&[""][..], &["a", "a"], &["a\tb"], &["é"], &[&too_long]] {
            let refusal = session(&headers(SESSION_ID, values)).unwrap_err();
            assert!(refusal.message.contains("x-session-id"), "{values:?}: {}", refusal.message);
            assert_eq!(refusal.reason, Reason::Malformed);
        }
    }

    #[test]
    fn why_is_told_only_where_it_is_allowed_and_asked_for() {
        for (allowed, values, expected) in
            [(true, &["1"][..], true), (false, &["1"], false), (true, &[], false), (true, &["true"], false)]
        {
            let limits = Limits { explain: allowed, ..Limits::default() };
            assert_eq!(explain(&headers(EXPLAIN, values), &limits), expected, "{allowed} {values:?}");
        }
    }

    #[test]
    fn deadlines_are_whole_numbers_within_the_limit() {
        let limits = Limits { deadline_ms_default: 30, deadline_ms_max: 500, ..Limits::default() };
        for (values, expected) in [(&[][..], 30), (&["1"], 1), (&["500"], 500), (&["0042"], 42)] {
            assert_eq!(deadline_ms(&headers(DEADLINE_MS, values), &limits).unwrap(), expected, "{values:?}");
        }
        for values in [&["0"][..], &["501"], &["-1"], &["+5"], &["1.5"], &[""], &["9999999999999"], &["5", "5"]] {
            let refusal = deadline_ms(&headers(DEADLINE_MS, values), &limits).unwrap_err();
            assert_eq!(
                refusal.message, "header `x-deadline-ms` has to be one whole number from 1 to 500",
                "{values:?}"
            );
        }
    }
}
