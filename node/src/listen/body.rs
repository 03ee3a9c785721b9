//! Reading a request's body within its limits of bytes, of silence and of time.
//!
//! For `request`. Invariants: a body that declares too many bytes is refused before any is read; memory follows what
//! has arrived, never what was declared; all bodies together, and the answers to them, stay within one budget.
//! Not here: closing a connection whose body was not read to its end (`request`, `socket`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::Limits;
use super::error::{Reason, Refusal};

/// What a caller is told to wait when the bodies in work fill the budget: they leave within about one answer's time.
const BUDGET_RETRY_AFTER_MS: u32 = 1000;

/// Bytes of request bodies, and of answers, that this process may hold, one permit a byte.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    all: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let all = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all }
    }

    /// Takes the `bytes` of an answer, beside the body that is in `held`, or refuses. While half of all is free, one
    /// that is larger than what is left takes that: else one that is larger than all could never be given.
    pub(super) fn grow_by_answer(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
        let free = self.free.available_permits();
        self.grow(held, if self.all / 2 <= free { bytes.min(free) } else { bytes })
    }

    /// Takes `bytes` more into `held`, or refuses at once: waiting would hold what is there already.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Refusal> {
        let full = || {
            let message = "this node holds as many bytes of requests and answers as it may; try again soon";
            Refusal::new(Reason::Overloaded, message).retry_after_ms(BUDGET_RETRY_AFTER_MS)
        };
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        let more = Arc::clone(&self.free).try_acquire_many_owned(bytes).map_err(|_| full())?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

/// A body that has arrived whole.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Bytes,
    /// Its share of the budget, to be kept as long as anything made of it lives.
    pub(super) held: Option<OwnedSemaphorePermit>,
}

/// The body of one request, and whether its end was seen.
pub(super) struct RequestBody {
    incoming: Incoming,
    ended: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> Self {
        let ended = incoming.is_end_stream();
        Self { incoming, ended }
    }

    /// Whether bytes of this body may still be on their way.
    pub(super) fn is_unread(&self) -> bool {
        !self.ended
    }

    /// Reads to the end, at most until `deadline`.
    ///
    /// # Errors
    /// [`Reason::BodyTooLarge`], [`Reason::BodyTimeout`], [`Reason::Overloaded`] when the budget is used up,
    /// [`Reason::Malformed`] when the body breaks off.
    pub(super) async fn read(
        &mut self,
        limits: &Limits,
        budget: &Budget,
        deadline: Instant,
    ) -> Result<Received, Refusal> {
        let bytes_max = limits.body_bytes_max;
        let too_large = || {
            let message = format!("the body is larger than {bytes_max} bytes; split the call");
            Refusal::new(Reason::BodyTooLarge, message)
        };
        if u64::try_from(bytes_max).is_ok_and(|bytes_max| bytes_max < self.incoming.size_hint().lower()) {
            return Err(too_large());
        }
        let (mut held, mut whole) = (None, Gathered::default());
        while let Some(frame) = self.next_frame(limits.body_idle_timeout, deadline).await? {
            if bytes_max - whole.len() < frame.len() {
                return Err(too_large());
            }
            budget.grow(&mut held, frame.len())?;
            whole.push(frame);
        }
        Ok(Received { bytes: whole.into_bytes(), held })
    }

    /// The next data, `None` at the end. Trailers are skipped.
    async fn next_frame(&mut self, idle: Duration, deadline: Instant) -> Result<Option<Bytes>, Refusal> {
        loop {
            let next = timeout_at(deadline, timeout(idle, self.incoming.frame()));
            let frame = match next.await {
                Err(_) => {
                    return Err(Refusal::new(Reason::BodyTimeout, "the deadline passed before the body was complete"));
                }
                Ok(Err(_)) => {
                    let message = format!("nothing of the body came for {} ms", idle.as_millis());
                    return Err(Refusal::new(Reason::BodyTimeout, message));
                }
                Ok(Ok(frame)) => frame,
            };
            match frame {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Err(error)) => {
                    return Err(Refusal::new(Reason::Malformed, format!("the body broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Pieces put together; a single piece, the common case, is not copied.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.first.len() + piece.len());
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Checks that the body claims to be JSON as it is.
///
/// # Errors
/// [`Reason::ContentType`] for another type, for none, and for a compressed body.
pub(super) fn check_is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |what: String| {
        Err(Refusal::new(
            Reason::ContentType,
            format!("{what}; send JSON with the header `content-type: application/json`"),
        ))
    };
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|value| *value != "identity") {
        return refuse(format!("the content-encoding {encoding:?} is not supported"));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return refuse("there is no content-type".into()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { refuse(format!("the content-type {value:?} is not supported")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_in_order() {
        let cases: [&[&'static str]; 5] = [&[], &["ab"], &["ab", "c", "def"], &["", "ab"], &["ab", "", "c"]];
        for pieces in cases {
            let mut whole = Gathered::default();
            for piece in pieces {
                whole.push(Bytes::from_static(piece.as_bytes()));
            }
            assert_eq!(whole.len(), pieces.concat().len());
            assert_eq!(whole.into_bytes(), pieces.concat().as_bytes());
        }
    }

    #[test]
    fn the_budget_is_given_back_when_the_body_is_dropped() {
        let budget = Budget::new(10);
        let mut held = None;
        budget.grow(&mut held, 6).unwrap();
        budget.grow(&mut held, 4).unwrap();
        assert_eq!(budget.grow(&mut None, 1).unwrap_err().reason, Reason::Overloaded);
        drop(held);
        assert!(budget.grow(&mut None, 10).is_ok());
    }

    #[test]
    fn an_answer_takes_more_than_is_left_only_while_half_is_free() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (None, None);
        budget.grow(&mut one, 3).unwrap();
        budget.grow_by_answer(&mut one, 3).unwrap();
        assert!(budget.grow_by_answer(&mut other, 5).is_err(), "4 are left, which is less than half");
        budget.grow_by_answer(&mut other, 4).unwrap();
        drop(one);
        budget.grow_by_answer(&mut other, 1000).unwrap();
        assert!(budget.grow_by_answer(&mut None, 1).is_err());
        drop(other);
        assert!(budget.grow(&mut None, 10).is_ok());
    }

    #[test]
    fn only_json_as_it_is_passes() {
        let check = |headers: &[(&'static str, &'static str)]| {
            let map = headers.iter().map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            check_is_json(&map.collect())
        };
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(check(&[("content-type", good)]), Ok(()), "{good}");
        }
        let advice = "; send JSON with the header `content-type: application/json`";
        for (headers, what) in [
            (&[][..], "there is no content-type"),
            (&[("content-type", "text/plain")], r#"the content-type "text/plain" is not supported"#),
            (&[("content-type", "")], r#"the content-type "" is not supported"#),
            (
                &[("content-type", "application/json"), ("content-encoding", "gzip")],
                r#"the content-encoding "gzip" is not supported"#,
            ),
        ] {
            let refusal = check(headers).unwrap_err();
            assert_eq!((refusal.reason, refusal.message), (Reason::ContentType, format!("{what}{advice}")));
        }
    }
}
