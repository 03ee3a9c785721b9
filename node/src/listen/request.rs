//! The life of one request: from its headers to an answer with every header that an answer carries.
//!
//! For `accept`. Invariants: a request is observed exactly once, also when its caller leaves (status 499) or its
//! handler panics (500); nothing is spawned, so dropping the future drops the job; a body that was not read to its end
//! closes an HTTP/1 connection, because what follows on it cannot be told from the rest of the body; an answer counts
//! against the budget of bytes until its caller's socket took the last of them.
//! Not here: shapes of bodies (`tei`, `openai`, `health`, `status`), wording of refusals (`error`).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, error, info_span};

use super::body::{Budget, Received, RequestBody, check_is_json};
use super::caller::{self, RequestIds};
use super::error::{Dialect, Reason, Refusal};
use super::route::{self, Call};
use super::socket::Activity;
use super::write::{self, Shape};
use super::{Limits, health, openai, status, tei};
use crate::clock;
use crate::job::{Answer, Door, Ending, Failure, Job};

/// What nginx writes to its log when a caller left before its answer; nobody receives it.
const CALLER_LEFT: u16 = 499;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const HOPS: HeaderName = HeaderName::from_static("x-shoal-hops");
const PLACEMENTS: HeaderName = HeaderName::from_static("x-shoal-placements");
const CACHE: HeaderName = HeaderName::from_static("x-shoal-cache");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const OPENAI_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time");
const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time");
const COMPUTE_TOKENS: HeaderName = HeaderName::from_static("x-compute-tokens");
const COMPUTE_CHARACTERS: HeaderName = HeaderName::from_static("x-compute-characters");

type Reply = Response<Full<Bytes>>;

/// What all connections share.
pub(super) struct Face<D> {
    door: D,
    limits: Limits,
    budget: Budget,
    ids: RequestIds,
    node_id: Arc<str>,
    port: u16,
    /// Holds `true` once the listener is stopping.
    stop: watch::Receiver<bool>,
}

/// What is known of a request before its body.
struct Arrival {
    head: Parts,
    request_id: Arc<str>,
    /// Stands for the caller's address.
    client: u64,
    at: Instant,
}

impl<D: Door> Face<D> {
    /// `port` is where callers reach this node, for `/health`.
    pub(super) fn new(door: D, limits: Limits, port: u16, stop: watch::Receiver<bool>) -> Self {
        let node_id = door.view().node_id;
        Self {
            door,
            limits,
            budget: Budget::new(limits.bodies_bytes_max),
            ids: RequestIds::default(),
            node_id,
            port,
            stop,
        }
    }

    /// Answers one request; every fault becomes an answer.
    pub(super) async fn answer(&self, request: Request<Incoming>, client: u64, activity: &Arc<Activity>) -> Reply {
        let in_work = activity.begin_request();
        let (head, incoming) = request.into_parts();
        let arrival = Arrival { request_id: self.ids.choose(&head.headers), head, client, at: Instant::now() };
        let mut body = RequestBody::new(incoming);
        let found = route::find(&arrival.head.method, arrival.head.uri.path());
        let (dialect, name) = (found.dialect, found.name);
        let observation = Observation { door: &self.door, name, at: arrival.at, status: CALLER_LEFT };
        let span = info_span!("request", request = %arrival.request_id, route = name);

        let work = async {
            match found.call {
                Ok(call) => self.perform(call, &arrival, &mut body).await,
                Err(refusal) => Err(refusal),
            }
        };
        let outcome = catch_panic(work).instrument(span.clone()).await.unwrap_or_else(|| {
            error!(parent: &span, "the handler panicked; its caller gets status 500");
            Err(Refusal::new(
                Reason::Internal,
                "a fault in this program; the log of the node has it under this request's id",
            ))
        });
        let mut reply = outcome.unwrap_or_else(|refusal| {
            debug!(parent: &span, reason = ?refusal.reason, "refused");
            refused(&refusal, dialect)
        });
        self.add_headers(&mut reply, &arrival, &body, activity);
        if arrival.head.method == Method::HEAD {
            reply = without_body(reply);
        }
        observation.finish(reply.status());
        drop(in_work);
        reply
    }

    async fn perform(&self, call: Call<'_>, arrival: &Arrival, body: &mut RequestBody) -> Result<Reply, Refusal> {
        match call {
            Call::TeiEmbed | Call::OpenAiEmbeddings => self.embed(call, arrival, body).await,
            Call::TeiInfo => Ok(reply(StatusCode::OK, JSON, tei::info(&self.door.view(), &self.limits))),
            Call::OpenAiModels => Ok(reply(StatusCode::OK, JSON, openai::models(self.door.view().model.as_ref()))),
            Call::OpenAiModel(id) => {
                Ok(reply(StatusCode::OK, JSON, openai::model(id, self.door.view().model.as_ref())?))
            }
            Call::Livez => Ok(reply(StatusCode::OK, TEXT, b"alive\n".to_vec())),
            Call::Readyz => {
                let view = self.door.view();
                Ok(if is_verbose(arrival.head.uri.query()) {
                    reply(probe(view.can_answer), JSON, health::ready_verbose(&view))
                } else {
                    reply(probe(view.can_answer), TEXT, health::ready_line(&view))
                })
            }
            Call::Health => {
                let view = self.door.view();
                let now_s = clock::unix_ms() / 1000;
                Ok(reply(probe(view.can_answer), JSON, health::health(&view, now_s, self.port)))
            }
            Call::Status => Ok(reply(StatusCode::OK, JSON, status::status(&self.door.view()))),
            Call::Metrics => Ok(reply(StatusCode::OK, METRICS, self.door.metrics().into_bytes())),
            Call::Index => Ok(reply(StatusCode::OK, JSON, health::index(&self.node_id))),
        }
    }

    /// Both dialects' call for embeddings.
    async fn embed(&self, call: Call<'_>, arrival: &Arrival, body: &mut RequestBody) -> Result<Reply, Refusal> {
        let headers = &arrival.head.headers;
        let deadline_ms = caller::deadline_ms(headers, &self.limits)?;
        let session = caller::session(headers)?;
        let deadline = arrival.at + Duration::from_millis(deadline_ms.into());
        check_is_json(headers)?;
        // What was received counts against the budget until the answer is written: the texts live nearly as long.
        let Received { bytes, mut held } = body.read(&self.limits, &self.budget, deadline).await?;

        let inputs_max = self.limits.inputs_max;
        let (texts, options, shape, field) = if call == Call::TeiEmbed {
            let (texts, options) = tei::decode(&bytes, inputs_max)?;
            (texts, options, Shape::Tei, tei::INPUTS_FIELD)
        } else {
            let (texts, options, format) = openai::decode(&bytes, inputs_max, || self.door.model())?;
            (texts, options, Shape::OpenAi(format), openai::INPUT_FIELD)
        };
        drop(bytes);

        let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis();
        let Some(deadline_ms) = u32::try_from(left_ms).ok().filter(|&left_ms| left_ms != 0) else {
            return Err(Refusal::from_failure(Failure::Expired, field));
        };
        let asked = Asked {
            texts: texts.len(),
            characters: if shape == Shape::Tei { texts.iter().map(|text| text.chars().count()).sum() } else { 0 },
        };
        let job = Job {
            request_id: Arc::clone(&arrival.request_id),
            traceparent: caller::traceparent(headers),
            texts: texts.into(),
            options,
            deadline_ms,
            client: arrival.client,
            session,
            explain: caller::explain(headers, &self.limits),
        };
        let Ending { answer, explanation, room } = self.door.place(job).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return Err(Refusal::from_failure(failure, field).explained(explanation)),
        };
        if let Err(refusal) = self.budget.grow_by_answer(&mut held, write::bytes(shape, &answer)) {
            return Err(refusal.explained(explanation));
        }
        let mut reply = match write::rows(shape, &answer, asked.texts).await {
            Ok(json) => {
                let body = Bytes::from_owner(Written { json, _held: held, _room: room });
                computed(shape, &answer, &asked, arrival.at, body)
            }
            Err(refusal) => return Err(refusal.explained(explanation)),
        };
        if let Some(explanation) = explanation {
            insert_text(reply.headers_mut(), caller::EXPLAIN, &explanation);
        }
        Ok(reply)
    }

    /// Headers that every answer has, and those that end an HTTP/1 connection.
    fn add_headers(&self, reply: &mut Reply, arrival: &Arrival, body: &RequestBody, activity: &Activity) {
        let headers = reply.headers_mut();
        insert_text(headers, caller::REQUEST_ID, &arrival.request_id);
        if !headers.contains_key(SERVED_BY) {
            insert_text(headers, SERVED_BY, &self.node_id);
        }
        let is_last = self.door.draining() || *self.stop.borrow();
        if arrival.head.version == Version::HTTP_2 {
            if is_last {
                activity.finish_soon();
            }
            return;
        }
        if body.is_unread() {
            activity.leave_body_unread();
        }
        if is_last || body.is_unread() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// An answer, and what it takes of the budgets until the last reference to its bytes is gone: whoever does not read
/// it keeps its bytes in memory.
struct Written {
    json: Vec<u8>,
    _held: Option<OwnedSemaphorePermit>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// What an answer's headers repeat of the request.
struct Asked {
    texts: usize,
    characters: usize,
}

/// A computed answer with the headers that say where and how it was computed.
fn computed(shape: Shape, answer: &Answer, asked: &Asked, at: Instant, body: Bytes) -> Reply {
    let mut reply = reply(StatusCode::OK, JSON, body);
    let headers = reply.headers_mut();
    insert_text(headers, SERVED_BY, &answer.served_by);
    headers.insert(HOPS, u16::from(answer.hops).into());
    headers.insert(PLACEMENTS, u16::from(answer.placements).into());
    if let Some(found_in) = answer.cache {
        headers.insert(CACHE, HeaderValue::from_static(found_in.name()));
    }
    let total_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
    match shape {
        Shape::Tei => {
            headers.insert(TOTAL_TIME, total_ms.into());
            headers.insert(QUEUE_TIME, (answer.queue_us / 1000).into());
            headers.insert(INFERENCE_TIME, (answer.compute_us / 1000).into());
            headers.insert(COMPUTE_TOKENS, write::tokens(answer).into());
            headers.insert(COMPUTE_CHARACTERS, asked.characters.into());
        }
        Shape::OpenAi(_) => {
            headers.insert(OPENAI_PROCESSING_MS, total_ms.into());
        }
    }
    reply
}

/// A refusal in the words of `dialect`.
fn refused(refusal: &Refusal, dialect: Dialect) -> Reply {
    let mut reply = reply(refusal.status(dialect), JSON, refusal.body(dialect));
    let headers = reply.headers_mut();
    if let Some(retry_after_ms) = refusal.retry_after_ms {
        headers.insert(RETRY_AFTER, retry_after_ms.div_ceil(1000).max(1).into());
        headers.insert(RETRY_AFTER_MS, retry_after_ms.max(1).into());
    }
    if let Some(explanation) = &refusal.explanation {
        insert_text(headers, caller::EXPLAIN, explanation);
    }
    if let Some(allow) = refusal.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if dialect == Dialect::OpenAi && refusal.is_final() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    reply
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The answer to `HEAD`: the length of the body that `GET` would have sent, and no body.
fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    let length = hyper::body::Body::size_hint(&body).lower();
    head.headers.insert(CONTENT_LENGTH, length.into());
    Response::from_parts(head, Full::default())
}

/// Inserts text that a header can carry; other text (a node id that is not ASCII) is left out.
fn insert_text(headers: &mut hyper::HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn probe(healthy: bool) -> StatusCode {
    if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Whether `verbose` is among the parameters of a query, with any value.
fn is_verbose(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some("verbose"))
}

/// Polls `future` to its end; `None` when it panics.
async fn catch_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // After a panic the future is only dropped, so what it left half-done is never seen.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Tells the metrics of one request when it ends, however it ends.
struct Observation<'a, D: Door> {
    door: &'a D,
    name: &'static str,
    at: Instant,
    status: u16,
}

impl<D: Door> Observation<'_, D> {
    fn finish(mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl<D: Door> Drop for Observation<'_, D> {
    fn drop(&mut self) {
        self.door.observe(self.name, self.status, self.at.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_whole_seconds_of_at_least_one() {
        for (retry_after_ms, seconds, exact) in [(0, "1", "1"), (1, "1", "1"), (1000, "1", "1000"), (1001, "2", "1001")]
        {
            let refusal = Refusal::new(Reason::Overloaded, "busy").retry_after_ms(retry_after_ms);
            let reply = refused(&refusal, Dialect::Tei);
            assert_eq!(reply.headers()[RETRY_AFTER], seconds);
            assert_eq!(reply.headers()[RETRY_AFTER_MS], exact);
        }
    }

    #[test]
    fn verbose_is_a_parameter_and_not_a_part_of_one() {
        for (query, expected) in [
            (None, false),
            (Some(""), false),
            (Some("verbose"), true),
            (Some("a=1&verbose=1"), true),
            (Some("nonverbose"), false),
            (Some("a=verbose"), false),
        ] {
            assert_eq!(is_verbose(query), expected, "{query:?}");
        }
    }
}
