//! One request as a client with several addresses makes it, and whether its answer is right.
//!
//! For `load`. The client is what DNS with several addresses gives: it tries one address, and goes on to the next when
//! the connection is refused or ends before the first byte of an answer. Every such step is kept as a loss.
//! Not here: whether the shoal may be blamed for it (`drill::judge` knows which node was dead).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;

use super::ledger::{Answered, Loss, Outcome};
use crate::http::{Answer, Client};
use crate::stats::micros;

/// The public addresses of a shoal, one a node.
#[derive(Debug)]
pub(crate) struct Doors {
    clients: Vec<Client>,
    node_ids: Vec<String>,
    /// Something else than a node listens there and hands requests to nodes, which compute them themselves.
    balanced: bool,
}

/// Whether the answer says that there is no room now.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// An answer that was read and understood.
#[derive(Debug)]
pub(crate) struct Understood {
    pub(crate) answered: Answered,
    pub(crate) vector: Vec<f32>,
}

impl Doors {
    /// `clients` and `node_ids` in the same order.
    pub(crate) fn new(clients: Vec<Client>, node_ids: Vec<String>) -> Self {
        assert_eq!(clients.len(), node_ids.len(), "one client a node");
        Self { clients, node_ids, balanced: false }
    }

    /// One address before all nodes, each of which computes what it gets. As many doors as nodes, all the same.
    pub(crate) fn behind_balancer(balancer: SocketAddr, node_ids: Vec<String>) -> Self {
        let clients = node_ids.iter().map(|_| Client::new(balancer)).collect();
        Self { clients, node_ids, balanced: true }
    }

    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn node_id(&self, index: usize) -> &str {
        &self.node_ids[index]
    }

    /// Asks for the vector of `text`, at `first` and, where that gives no answer, at the addresses after it.
    ///
    /// Returns the outcome, the losses on the way, with times since `epoch`, and the vector of a right answer.
    pub(crate) async fn embed(
        &self,
        first: usize,
        text: &str,
        epoch: Instant,
        deadline_ms: Option<u32>,
        limit: Duration,
    ) -> (Outcome, Vec<Loss>, Option<Vec<f32>>) {
        let body = Bytes::from(serde_json::json!({ "inputs": text }).to_string());
        let mut losses = Vec::new();
        let mut last = (first, "no address".to_owned());
        for step in 0..self.count() {
            let door = (first + step) % self.count();
            match self.clients[door].post_json_within("/embed", body.clone(), deadline_ms, limit).await {
                Ok(answer) if is_refusal(answer.status) => {
                    return (Outcome::Refused { door, status: answer.status.as_u16() }, losses, None);
                }
                Ok(answer) => match self.understand(door, &answer) {
                    Ok(Understood { answered, vector }) => return (Outcome::Answered(answered), losses, Some(vector)),
                    Err(what) => return (Outcome::Failed { door, answered: true, what }, losses, None),
                },
                Err(error) if error.may_go_elsewhere() => {
                    let (at_us, what, own) = (micros(epoch.elapsed()), error.to_string(), error.is_own());
                    last = (door, what.clone());
                    losses.push(Loss { door, at_us, what, own });
                }
                Err(error) => {
                    let (answered, what) = (error.is_answer(), error.to_string());
                    return (Outcome::Failed { door, answered, what }, losses, None);
                }
            }
        }
        let (door, what) = last;
        let what = format!("every address failed, the last with: {what}");
        (Outcome::Failed { door, answered: false, what }, losses, None)
    }

    /// What a right answer says; otherwise what is wrong with it.
    fn understand(&self, door: usize, answer: &Answer) -> Result<Understood, String> {
        if answer.status != StatusCode::OK {
            return Err(format!("status {}: {}", answer.status.as_u16(), answer.excerpt()));
        }
        let served_by = answer.header("x-served-by").ok_or("no x-served-by")?;
        let served_by = self
            .node_ids
            .iter()
            .position(|node_id| node_id == served_by)
            .ok_or_else(|| format!("x-served-by names a stranger: {served_by}"))?;
        let number = |name: &str| -> Result<u32, String> {
            let text = answer.header(name).ok_or_else(|| format!("no {name}"))?;
            text.parse().map_err(|_| format!("{name} is not a number: {text}"))
        };
        let (hops, placements) = (number("x-shoal-hops")?, number("x-shoal-placements")?);
        if hops != u32::from(!self.balanced && served_by != door) {
            return Err(format!(
                "x-shoal-hops is {hops}, asked {}, served by {}",
                self.node_id(door),
                self.node_id(served_by)
            ));
        }
        if answer.header("x-request-id").is_none_or(str::is_empty) {
            return Err("no x-request-id".to_owned());
        }
        // JSON has no NaN and no infinity, but a number may be too large for f32, and `null` must not pass.
        let mut rows: Vec<Vec<f32>> =
            serde_json::from_slice(&answer.body).map_err(|error| format!("not a list of vectors: {error}"))?;
        let vector = rows.pop().filter(|_| rows.is_empty()).ok_or("not exactly one vector")?;
        if vector.is_empty() || !vector.iter().all(|value| value.is_finite()) {
            return Err(format!("a vector of {} values that are not all finite numbers", vector.len()));
        }
        Ok(Understood { answered: Answered { door, served_by, hops, placements }, vector })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Line, Scripted};

    const LIMIT: Duration = Duration::from_secs(5);

    fn answer(served_by: &str, hops: &str, body: &str) -> Line {
        let headers = [("x-served-by", served_by), ("x-shoal-hops", hops), ("x-shoal-placements", "1")];
        let mut headers: Vec<_> = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
        headers.push(("x-request-id", "r-1".to_owned()));
        Line::Answer { status: 200, headers, body: body.to_owned() }
    }

    async fn ask(scripts: [Line; 2]) -> (Outcome, Vec<Loss>, Option<Vec<f32>>) {
        let mut servers = Vec::new();
        for line in scripts {
            servers.push(Scripted::start(vec![vec![line]]).await);
        }
        let clients = servers.iter().map(|server| Client::new(server.address())).collect();
        let doors = Doors::new(clients, vec!["a".to_owned(), "b".to_owned()]);
        doors.embed(0, "text", Instant::now(), None, LIMIT).await
    }

    #[tokio::test]
    async fn a_right_answer_says_who_computed_and_how() {
        let (outcome, losses, vector) = ask([answer("b", "1", "[[0.5,-1.0]]"), Line::Silence]).await;
        assert_eq!(outcome, Outcome::Answered(Answered { door: 0, served_by: 1, hops: 1, placements: 1 }));
        assert_eq!((losses, vector), (Vec::new(), Some(vec![0.5, -1.0])));
    }

    #[tokio::test]
    async fn a_door_that_dies_under_the_request_is_a_loss_and_the_next_one_answers() {
        let (outcome, losses, _) = ask([Line::Close, answer("b", "0", "[[1.0]]")]).await;
        assert_eq!(outcome, Outcome::Answered(Answered { door: 1, served_by: 1, hops: 0, placements: 1 }));
        assert_eq!(losses.iter().map(|loss| loss.door).collect::<Vec<_>>(), [0]);
    }

    #[tokio::test]
    async fn when_no_address_answers_every_one_is_a_loss() {
        let (outcome, losses, _) = ask([Line::Close, Line::Close]).await;
        assert!(matches!(outcome, Outcome::Failed { door: 1, answered: false, .. }), "{outcome:?}");
        assert_eq!(losses.len(), 2);
    }

    #[tokio::test]
    async fn an_error_status_is_a_failure_of_the_door_that_sent_it_and_nobody_else_is_asked() {
        let of = |status| Line::Answer { status, headers: Vec::new(), body: "busy".to_owned() };
        let (outcome, losses, _) = ask([of(500), answer("b", "0", "[[1.0]]")]).await;
        assert_eq!(outcome, Outcome::Failed { door: 0, answered: true, what: "status 500: busy".to_owned() });
        assert!(losses.is_empty());
        for status in [429, 503] {
            let (outcome, losses, _) = ask([of(status), answer("b", "0", "[[1.0]]")]).await;
            assert_eq!((outcome, losses.len()), (Outcome::Refused { door: 0, status }, 0));
        }
    }

    #[tokio::test]
    async fn half_an_answer_is_none_and_what_is_not_http_is_one() {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[[";
        for (text, expected) in [(half, false), ("nonsense\r\n\r\n", true)] {
            let server = Scripted::start(vec![vec![Line::Raw(text), Line::Close]]).await;
            let doors = Doors::new(vec![Client::new(server.address())], vec!["a".to_owned()]);
            let (outcome, _, _) = doors.embed(0, "text", Instant::now(), None, LIMIT).await;
            let Outcome::Failed { answered, .. } = &outcome else { panic!("{text} passed: {outcome:?}") };
            assert_eq!(*answered, expected, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn behind_a_balancer_any_node_may_answer_but_none_may_hand_on() {
        for (hops, right) in [("0", true), ("1", false)] {
            let server = Scripted::start(vec![vec![answer("b", hops, "[[1.0]]")]]).await;
            let doors = Doors::behind_balancer(server.address(), vec!["a".to_owned(), "b".to_owned()]);
            let (outcome, losses, _) = doors.embed(0, "text", Instant::now(), None, LIMIT).await;
            assert_eq!(matches!(outcome, Outcome::Answered(Answered { served_by: 1, .. })), right, "{outcome:?}");
            assert!(losses.is_empty());
        }
    }

    #[tokio::test]
    async fn wrong_answers_are_failures() {
        let cases = [
            ("a", "0", "[[1.0],[2.0]]", "exactly one vector"),
            ("a", "0", "[]", "exactly one vector"),
            ("a", "0", "[[]]", "a vector of 0 values"),
            ("a", "0", "[[null]]", "not a list of vectors"),
            ("a", "0", "[[1e39]]", "not"),
            ("a", "1", "[[1.0]]", "x-shoal-hops is 1"),
            ("b", "0", "[[1.0]]", "x-shoal-hops is 0"),
            ("b", "2", "[[1.0]]", "x-shoal-hops is 2"),
            ("z", "1", "[[1.0]]", "a stranger: z"),
        ];
        for (served_by, hops, body, expected) in cases {
            let (outcome, _, _) = ask([answer(served_by, hops, body), Line::Silence]).await;
            let Outcome::Failed { door: 0, answered: true, what } = &outcome else {
                panic!("{body} {hops} passed: {outcome:?}")
            };
            assert!(what.contains(expected), "{what}");
        }
    }
}
