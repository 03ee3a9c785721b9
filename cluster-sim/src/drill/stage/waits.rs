//! The steps of a drill that wait for something to come true, and write down when it did.
//!
//! For `stage`.
//! Invariants: each ends after [`WAIT_LIMIT`] with an error that says what did not come. The one exception is the
//! moment at which a victim holds work: after a shorter limit the drill goes on without it, and what was exposed says
//! whether that mattered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::super::watch::{LOOK_EVERY, forwards_to, total, until_left};
use super::{Stage, WAIT_LIMIT};
use crate::cluster::describe_end;
use crate::stats::share;

/// Answers that a share is taken of, at least.
const ANSWERS_MIN: u64 = 30;
/// How long a moment is looked for at which the victim holds work of others, before it is hit without.
const LOADED_LIMIT: Duration = Duration::from_secs(2);
const LOADED_LIMIT_LONG: Duration = Duration::from_secs(10);
/// Less than a job of the quickest engine takes, or a moment with work would be missed.
const LOADED_LOOK_EVERY: Duration = Duration::from_millis(2);

impl Stage<'_> {
    pub(super) async fn until_ended(&mut self, node: usize) -> Result<()> {
        let end = self.cluster.node_mut(node).wait(WAIT_LIMIT).await?;
        let now_us = self.load.now_us();
        if let Some((fault, _)) = self.last_fault(node) {
            fault.ended_us.get_or_insert(now_us);
            fault.end = Some((describe_end(end), end.success()));
        }
        Ok(())
    }

    pub(super) async fn until_left(&mut self, node: usize, dead: bool) -> Result<()> {
        let node_id = self.node_id(node);
        let Some((_, before)) = self.last_fault(node) else { bail!("nothing was done to {node_id} yet") };
        let before = before.clone();
        let whom = (node, before.observers.as_slice());
        let aftermath = until_left(&mut self.cluster, whom, &self.load, &before.forwards, dead, WAIT_LIMIT).await?;
        // Whoever ended meanwhile may be started again at once, and then nobody else asks how.
        let end = self.cluster.node_mut(node).ended()?.map(|end| (describe_end(end), end.success()));
        let (fault, _) = self.last_fault(node).expect("it was there a moment ago");
        fault.left = true;
        fault.end = fault.end.take().or(end);
        fault.last_offer_us = aftermath.last_offer_us;
        fault.called_dead_us = aftermath.called_dead_us;
        fault.ended_us = fault.ended_us.or(aftermath.ended_us);
        let each = before.forwards.iter().zip(&aftermath.forwards);
        let offered = each.map(|(before, after)| after.offered.saturating_sub(before.offered));
        (fault.offered_after, fault.offered_after_max) =
            offered.fold((0, 0), |(sum, most), offered| (sum + offered, most.max(offered)));
        fault.harmed = total(&aftermath.forwards).harmed.since(total(&before.forwards).harmed);
        Ok(())
    }

    /// Waits until the node has computed its share of the answers since now.
    pub(super) async fn until_works(&mut self, node: usize, part: f64) -> Result<()> {
        let at_first = self.load.ledger().served();
        let deadline = Instant::now() + WAIT_LIMIT;
        loop {
            let served = self.load.ledger().served();
            let done: Vec<u64> = served.iter().zip(&at_first).map(|(now, before)| now - before).collect();
            let (all, own) = (done.iter().sum(), done[node]);
            if ANSWERS_MIN <= all && part <= share(own, all) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} computed {own} of {all} answers in {} s, less than {:.0} %",
                self.node_id(node),
                WAIT_LIMIT.as_secs(),
                100.0 * part
            );
            self.cluster.ensure_all_run()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn until_holds_work(&mut self, node: usize, jobs: u64) -> Result<()> {
        let deadline = Instant::now() + if self.run.long { LOADED_LIMIT_LONG } else { LOADED_LIMIT };
        let (node_id, observers) = (self.node_id(node), self.observers(node));
        loop {
            let forwards = forwards_to(&self.cluster, &node_id, &observers).await?;
            if jobs <= total(&forwards).open() || deadline <= Instant::now() {
                return Ok(());
            }
            tokio::time::sleep(LOADED_LOOK_EVERY).await;
        }
    }

    /// Answers by which a node shows that it is at work: those for other doors, which nobody asked it for directly.
    pub(super) fn works_done(&self, node: usize) -> u64 {
        self.load.ledger().served_for_others(node)
    }

    pub(super) async fn until_works_again(&mut self, node: usize) -> Result<()> {
        let node_id = self.node_id(node);
        let Some((_, before)) = self.last_fault(node) else { bail!("nothing was done to {node_id} yet") };
        let worked_before = before.worked;
        let deadline = Instant::now() + WAIT_LIMIT;
        while self.works_done(node) <= worked_before {
            self.cluster.ensure_all_run()?;
            ensure!(Instant::now() < deadline, "{node_id} is back for {} s and got no work", WAIT_LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let now_us = self.load.now_us();
        let (fault, _) = self.last_fault(node).expect("it was there a moment ago");
        fault.works_us = Some(now_us);
        Ok(())
    }
}
