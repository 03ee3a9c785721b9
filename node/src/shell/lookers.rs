//! Calls that look for their results, which the machine does not see, and the end of the process.
//!
//! Part of `shell`. A call that asks owners, or waits for another call's result, is no job of the machine: a node that
//! leaves and holds no job would end while its callers wait.
//! Invariants: the process ends at once when nobody looks for anything; else when the last one has its answer, but not
//! after the limit of the drain, nor of the fast one after a second word to leave.
//! Not here: when the machine is done (`shoal-core`); getting answers out (`serve`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shoal_core::lifecycle::DrainRules;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::{Phase, Shell, duration};

/// Who looks, and how long the process may wait for them.
#[derive(Debug)]
pub(super) struct Lookers {
    count: AtomicUsize,
    /// The last one is gone.
    gone: Notify,
    /// The process ends then, whoever still looks; `None` before the door closed.
    until: watch::Sender<Option<Instant>>,
    limit: Duration,
    limit_fast: Duration,
}

impl Lookers {
    pub(super) fn new(rules: &DrainRules) -> Self {
        let (count, gone, until) = (AtomicUsize::new(0), Notify::new(), watch::Sender::new(None));
        Self { count, gone, until, limit: duration(rules.limit), limit_fast: duration(rules.limit_fast) }
    }

    /// The door closed.
    pub(super) fn on_closing(&self) {
        self.end_within(self.limit);
    }

    /// The node was told to leave although it was leaving.
    pub(super) fn on_haste(&self) {
        self.end_within(self.limit_fast);
    }

    fn end_within(&self, limit: Duration) {
        let end = Instant::now() + limit;
        self.until.send_modify(|until| *until = Some(until.map_or(end, |until| until.min(end))));
    }

    fn nobody_looks(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Waits until nobody looks for anything, or their time is over.
    async fn rest(&self) {
        let mut until = self.until.subscribe();
        loop {
            // Before the look: whoever goes after it is heard.
            let gone = self.gone.notified();
            let end = until.borrow_and_update().unwrap_or_else(Instant::now);
            if self.nobody_looks() || end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = gone => {}
                () = sleep_until(end) => {}
                _ = until.changed() => {}
            }
        }
    }
}

/// A call that looks for its results, until it is dropped.
#[derive(Debug)]
pub(super) struct Looking<'a>(&'a Lookers);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.gone.notify_waiters();
        }
    }
}

impl Shell {
    /// Says that a call looks for its results, as long as the value lives.
    pub(super) fn look(&self) -> Looking<'_> {
        self.0.lookers.count.fetch_add(1, Ordering::SeqCst);
        Looking(&self.0.lookers)
    }

    /// The machine is done: the process ends as soon as those have their answers whom the machine does not see.
    pub(super) fn end(&self) {
        if self.0.lookers.nobody_looks() {
            self.0.phase.send_replace(Phase::Done);
            return;
        }
        let shell = self.clone();
        self.0.runtime.spawn(async move {
            shell.0.lookers.rest().await;
            shell.0.phase.send_replace(Phase::Done);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::node::Effect;

    use crate::shell::peer_door::tests::shell;

    /// How long a test waits for what must happen.
    const LIMIT: Duration = Duration::from_secs(20);

    fn exit(shell: &Shell) {
        let state = &mut *shell.lock();
        shell.perform(state, &Effect::StopAccepting);
        shell.perform(state, &Effect::Exit);
    }

    async fn ended(shell: &Shell) {
        let mut phase = shell.phase();
        tokio::time::timeout(LIMIT, phase.wait_for(|phase| *phase == Phase::Done)).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn a_node_that_leaves_ends_when_the_last_call_has_found_what_it_looks_for() {
        let shell = shell();
        let (one, other) = (shell.look(), shell.look());
        exit(&shell);
        drop(one);
        // Whatever is ready to run does so before this goes on.
        tokio::task::yield_now().await;
        assert_eq!(*shell.phase().borrow(), Phase::Closing);
        drop(other);
        ended(&shell).await;
    }

    #[tokio::test]
    async fn a_node_that_leaves_ends_at_once_when_nobody_looks_for_anything() {
        let shell = shell();
        drop(shell.look());
        exit(&shell);
        assert_eq!(*shell.phase().borrow(), Phase::Done);
    }

    #[tokio::test]
    async fn a_second_word_to_leave_ends_the_wait_for_those_who_look() {
        let shell = shell();
        let looking = shell.look();
        shell.leave();
        exit(&shell);
        let start = Instant::now();
        shell.leave();
        ended(&shell).await;
        let limit = duration(DrainRules::default().limit_fast);
        assert!(limit <= start.elapsed() && start.elapsed() < limit + LIMIT, "{:?}", start.elapsed());
        drop(looking);
    }
}
