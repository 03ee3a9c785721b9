//! Callers who ask one node again and again.
//!
//! For tests that need a node with more to do than it can. Closed loop: each caller waits for its answer before it asks
//! again. How long answers take is measured by drills, not here.
//! Invariants: the callers stop when the wait ends, also when it ends in a panic; no text is sent twice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::http::{Answer, Request};
use crate::node::{Node, embed};
use crate::wait::{self, LIMIT};

/// One text and what became of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// The text.
    pub text: String,
    /// Its answer.
    pub answer: Answer,
}

impl Call {
    /// Whether another node than the one that was asked computed it.
    #[must_use]
    pub fn was_forwarded(&self) -> bool {
        self.answer.header("x-shoal-hops") == Some("1")
    }
}

/// Lets `callers` callers ask `node` for vectors until `enough` of the answers have come. Returns all of them.
///
/// `dress` may add headers to a request.
///
/// # Panics
/// There are not `enough` within the usual limit; or the node left a caller without an answer.
#[track_caller]
pub fn until(
    what: &str,
    node: &Node,
    callers: usize,
    dress: impl Fn(Request) -> Request + Sync,
    enough: impl Fn(&[Call]) -> bool,
) -> Vec<Call> {
    let (stop, sent, calls) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let ask = || {
        while !stop.load(Ordering::Relaxed) {
            let text = format!("text {} for {}", sent.fetch_add(1, Ordering::Relaxed), node.id());
            let answer = node.ask(&dress(embed(&text)));
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call { text, answer });
        }
    };
    std::thread::scope(|scope| {
        let _stop_at_the_end = Stop(&stop);
        for _ in 0..callers {
            scope.spawn(ask);
        }
        wait::until(what, LIMIT, || enough(&calls.lock().unwrap_or_else(PoisonError::into_inner)));
    });
    calls.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
