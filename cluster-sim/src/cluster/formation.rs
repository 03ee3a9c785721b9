//! Waiting until every node is ready and sees every other one ready.
//!
//! For `cluster`. The time that is reported starts when the last node is first seen ready, so loading a model is not
//! part of it; all nodes are asked every [`POLL_EVERY`], which is also the error of the figure.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Cluster;
use crate::probe::{Readiness, readiness};
use crate::report::Progress;

const POLL_EVERY: Duration = Duration::from_millis(10);

/// A shoal in which all see all.
#[derive(Debug)]
pub(crate) struct Formed {
    /// From the first start of a process until the last node was ready.
    pub(crate) ready_ms: u64,
    /// From then until every node saw every other one ready.
    pub(crate) formed_ms: u64,
    /// What each node said at the end, in the order of the nodes.
    pub(crate) views: Vec<Readiness>,
}

impl Cluster {
    /// Waits until all that run see all that run.
    ///
    /// # Errors
    /// A node ended (with the end of its log), or `limit` passed (with what each node lacks).
    pub(crate) async fn wait_until_formed(&mut self, limit: Duration, progress: &mut Progress) -> Result<Formed> {
        let deadline = Instant::now() + limit;
        let mut ready_since: Vec<Option<Instant>> = vec![None; self.nodes.len()];
        loop {
            self.ensure_all_run()?;
            let views = self.ask_all().await;
            let now = Instant::now();
            for (since, view) in ready_since.iter_mut().zip(&views) {
                let ready = view.as_ref().is_some_and(Readiness::is_ready);
                *since = if ready { since.or(Some(now)) } else { None };
            }
            let lacks = self.what_is_missing(&views);
            if lacks.is_empty() {
                let last_ready = ready_since.iter().flatten().max().copied().unwrap_or(now);
                progress.clear();
                return Ok(Formed {
                    ready_ms: whole_ms(last_ready.saturating_duration_since(self.started)),
                    formed_ms: whole_ms(now.saturating_duration_since(last_ready)),
                    views: views.into_iter().flatten().collect(),
                });
            }
            if deadline <= now {
                progress.clear();
                bail!(
                    "the shoal did not form within {} s ({}); logs are in {}",
                    limit.as_secs(),
                    lacks.join(", "),
                    self.directory.display()
                );
            }
            progress.show(format!("waiting: {}", lacks.join(", ")));
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Waits until every other node sees node `index` ready.
    ///
    /// # Errors
    /// As [`Cluster::wait_until_formed`].
    pub(crate) async fn wait_until_seen(&mut self, index: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let node_id = self.nodes[index].node_id().to_owned();
        loop {
            self.ensure_all_run()?;
            let views = self.ask_all().await;
            let sees = |view: &Option<Readiness>| view.as_ref().is_some_and(|view| view.sees_ready(&node_id));
            let runs = |other: usize| self.nodes[other].is_running();
            if views.iter().enumerate().all(|(other, view)| other == index || !runs(other) || sees(view)) {
                return Ok(());
            }
            if deadline <= Instant::now() {
                bail!("{node_id} was not seen ready by all others within {} s", limit.as_secs());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// What each node says, all asked at the same time; `None` for one that does not answer.
    async fn ask_all(&self) -> Vec<Option<Readiness>> {
        let mut views = Vec::new();
        // A node that listens answers within microseconds and one that does not refuses at once: no need for tasks.
        for (client, node) in self.clients.iter().zip(&self.nodes) {
            views.push(if node.is_running() { readiness(client).await.ok() } else { None });
        }
        views
    }

    /// One phrase for each node that is not ready or does not see all; empty when the shoal has formed.
    fn what_is_missing(&self, views: &[Option<Readiness>]) -> Vec<String> {
        let running: Vec<&str> =
            self.nodes.iter().filter(|node| node.is_running()).map(super::NodeProcess::node_id).collect();
        let phrase = |(node_id, view): (&str, &Option<Readiness>)| match view {
            _ if !running.contains(&node_id) => None,
            None => Some(format!("{node_id} starts")),
            Some(view) if !view.is_ready() => Some(format!("{node_id} is {}", view.engine)),
            Some(view) if !view.sees_all_ready(running.iter().copied()) => {
                let seen = running.iter().filter(|other| view.sees_ready(other)).count();
                Some(format!("{node_id} sees {seen} of {} peers", running.len() - 1))
            }
            Some(_) => None,
        };
        self.node_ids().zip(views).filter_map(phrase).collect()
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn form(scripts: &[&str], limit: Duration) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::of_scripts(directory.path(), scripts);
        format!("{:#}", cluster.wait_until_formed(limit, &mut Progress::new()).await.unwrap_err())
    }

    #[tokio::test]
    async fn a_node_that_ends_early_is_named_with_its_own_words() {
        let text = form(&["cat", "echo 'model minilm is not here' >&2; exit 78"], LIMIT).await;
        for part in ["node-2 ended with exit code 78", "model minilm is not here", "node-2.log"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[tokio::test]
    async fn nodes_that_never_answer_end_the_wait_at_its_limit_and_are_all_named() {
        let text = form(&["cat", "cat"], Duration::from_millis(100)).await;
        assert!(text.contains("node-1 starts, node-2 starts"), "{text}");
    }

    #[tokio::test]
    async fn stopping_reports_how_each_one_ended_and_keeps_a_directory_that_was_given() {
        let directory = tempfile::tempdir().unwrap();
        // Says that its handler is set before it waits, or the signal could come first.
        let script = "trap 'exit 0' TERM; echo set; while :; do sleep 0.01; done";
        let mut cluster = Cluster::of_scripts(directory.path(), &[script, script]);
        let deadline = Instant::now() + LIMIT;
        while !cluster.nodes().iter().all(|node| node.log_tail(1) == "set") {
            assert!(Instant::now() < deadline, "the scripts did not start");
            tokio::task::yield_now().await;
        }
        cluster.node_mut(1).kill().unwrap();
        cluster.node_mut(1).wait(LIMIT).await.unwrap();
        let stopped = cluster.stop(std::future::pending()).await.unwrap();
        assert!(!stopped.is_clean());
        let told: Vec<_> = stopped.ends.iter().map(|end| (end.node.as_str(), end.end.as_str(), end.clean)).collect();
        assert_eq!(told, [("node-1", "exit code 0", true), ("node-2", "signal 9", false)]);
        stopped.remove_directory().unwrap();
        assert!(directory.path().join("node-1.log").exists());
    }

    #[tokio::test]
    async fn impatience_sends_a_second_signal_to_those_that_still_run() {
        let directory = tempfile::tempdir().unwrap();
        // Each signal raises a count; the second one ends it.
        let script = "n=0; trap 'n=$((n+1)); echo $n' TERM; echo set; while [ $n -lt 2 ]; do sleep 0.01; done";
        let cluster = Cluster::of_scripts(directory.path(), &[script]);
        let log = directory.path().join("node-1.log");
        let says = async |word: &str| {
            let deadline = Instant::now() + LIMIT;
            while !std::fs::read_to_string(&log).is_ok_and(|text| text.lines().any(|line| line == word)) {
                assert!(Instant::now() < deadline, "the script did not say {word}");
                tokio::task::yield_now().await;
            }
        };
        says("set").await;
        let stopped = cluster.stop(says("1")).await.unwrap();
        assert_eq!(stopped.ends[0].end, "exit code 0");
    }
}
