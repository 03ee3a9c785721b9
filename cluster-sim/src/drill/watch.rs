//! What the nodes' own counters say about the node that was hit.
//!
//! For `stage`. Read over HTTP while the load runs, every [`LOOK_EVERY`]; that is the error of the times found here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::load::Load;
use crate::probe::{Counters, counters, readiness};

/// How often the other nodes are asked.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long no job may be offered to the dead node before it is believed that none will be.
const QUIET: Duration = Duration::from_millis(300);
/// Jobs that their peer neither answered nor refused, by the outcome that the survivors' counters give them.
///
/// An outcome that is not known here is left out, so that the number on which the claim rests is never too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Harmed {
    /// No connection could be made.
    pub(crate) unreachable: u64,
    /// The connection broke.
    pub(crate) lost: u64,
    /// The answer made no sense.
    pub(crate) garbled: u64,
    /// The peer was silent, and the job moved on.
    pub(crate) abandoned: u64,
}

impl Harmed {
    pub(crate) fn total(self) -> u64 {
        self.unreachable + self.lost + self.garbled + self.abandoned
    }

    fn of(page: &Counters, node_id: &str) -> Self {
        let count = |outcome| page.events("shoal_forwards_total", &[("peer", node_id), ("outcome", outcome)]);
        Self {
            unreachable: count("unreachable"),
            lost: count("lost"),
            garbled: count("garbled"),
            abandoned: count("abandoned"),
        }
    }

    /// Both, outcome by outcome.
    pub(crate) fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What came since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    fn zip(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            unreachable: with(self.unreachable, other.unreachable),
            lost: with(self.lost, other.lost),
            garbled: with(self.garbled, other.garbled),
            abandoned: with(self.abandoned, other.abandoned),
        }
    }
}

/// Jobs that the survivors handed to one node since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwards {
    pub(crate) offered: u64,
    /// With any outcome.
    pub(crate) ended: u64,
    pub(crate) harmed: Harmed,
}

impl Forwards {
    /// Offered and not ended: waiting for the node at this moment.
    pub(crate) fn open(self) -> u64 {
        self.offered.saturating_sub(self.ended)
    }

    fn of(page: &Counters, node_id: &str) -> Self {
        let peer = ("peer", node_id);
        Self {
            offered: page.events("shoal_offers_total", &[peer]),
            ended: page.events("shoal_forwards_total", &[peer]),
            harmed: Harmed::of(page, node_id),
        }
    }
}

/// What each of `observers` handed to `node_id`, in their order.
///
/// # Errors
/// An observer does not answer.
pub(crate) async fn forwards_to(cluster: &Cluster, node_id: &str, observers: &[usize]) -> Result<Vec<Forwards>> {
    let mut each = Vec::with_capacity(observers.len());
    for &observer in observers {
        let page = counters(cluster.client(observer)).await.context("a node does not show its counters")?;
        each.push(Forwards::of(&page, node_id));
    }
    Ok(each)
}

/// All of them together.
pub(crate) fn total(each: &[Forwards]) -> Forwards {
    each.iter().fold(Forwards::default(), |sum, one| Forwards {
        offered: sum.offered + one.offered,
        ended: sum.ended + one.ended,
        harmed: sum.harmed.plus(one.harmed),
    })
}

/// How the others stopped relying on a node.
#[derive(Clone, Debug)]
pub(crate) struct Aftermath {
    /// The last time at which the number of jobs offered to it was seen to rise; `None` = it never rose.
    pub(crate) last_offer_us: Option<u64>,
    /// When the last of them called it dead, if that was waited for.
    pub(crate) called_dead_us: Option<u64>,
    /// When the end of its process was seen.
    pub(crate) ended_us: Option<u64>,
    pub(crate) forwards: Vec<Forwards>,
}

/// Waits until the observers offer `node` nothing any more and hold nothing there, and until they call it dead if
/// `dead` is asked for.
///
/// # Errors
/// That has not come within `limit`, or an observer does not answer.
pub(crate) async fn until_left(
    cluster: &mut Cluster,
    (node, observers): (usize, &[usize]),
    load: &Load,
    before: &[Forwards],
    dead: bool,
    limit: Duration,
) -> Result<Aftermath> {
    let deadline = Instant::now() + limit;
    let node_id = cluster.nodes()[node].node_id().to_owned();
    let (mut last, mut last_offer_us, mut called_dead_us, mut ended_us) = (total(before), None, None, None);
    let mut quiet_since = Instant::now();
    loop {
        if ended_us.is_none() && cluster.node_mut(node).ended()?.is_some() {
            ended_us = Some(load.now_us());
        }
        let forwards = forwards_to(cluster, &node_id, observers).await?;
        let now = total(&forwards);
        if last.offered < now.offered {
            last_offer_us = Some(load.now_us());
            quiet_since = Instant::now();
        }
        last = now;
        if dead && called_dead_us.is_none() && all_call_dead(cluster, &node_id, observers).await? {
            called_dead_us = Some(load.now_us());
        }
        if dead == called_dead_us.is_some() && QUIET <= quiet_since.elapsed() && last.open() == 0 {
            return Ok(Aftermath { last_offer_us, called_dead_us, ended_us, forwards });
        }
        if deadline <= Instant::now() {
            bail!(
                "{} s after its fault {node_id} is {}, the last job was offered to it {} ms ago, and {} wait for it",
                limit.as_secs(),
                if called_dead_us.is_some() { "called dead by all" } else { "not called dead by all" },
                quiet_since.elapsed().as_millis(),
                last.open()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn all_call_dead(cluster: &Cluster, node_id: &str, observers: &[usize]) -> Result<bool> {
    for &observer in observers {
        if readiness(cluster.client(observer)).await?.sees_alive(node_id) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until the counters of work in hand are zero on every node that runs; returns those that are not, with their
/// node.
pub(crate) async fn not_at_rest(cluster: &Cluster, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    loop {
        let mut complaints = Vec::new();
        for (index, node) in cluster.nodes().iter().enumerate().filter(|(_, node)| node.is_running()) {
            let node_id = node.node_id();
            let found = match counters(cluster.client(index)).await {
                Ok(page) => page.not_at_rest(),
                Err(error) => vec![format!("{error:#}")],
            };
            complaints.extend(found.into_iter().map(|what| format!("{node_id}: {what}")));
        }
        if complaints.is_empty() || deadline <= Instant::now() {
            return complaints;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_forwards_that_were_cut_short_are_harmed() {
        let page = Counters::parse(concat!(
            "shoal_offers_total{peer=\"b\"} 12\nshoal_offers_total{peer=\"c\"} 99\n",
            "shoal_forwards_total{peer=\"b\",outcome=\"ok\"} 6\nshoal_forwards_total{peer=\"b\",outcome=\"busy\"} 1\n",
            "shoal_forwards_total{peer=\"b\",outcome=\"lost\"} 2\n",
            "shoal_forwards_total{peer=\"b\",outcome=\"unreachable\"} 1\n",
            "shoal_forwards_total{peer=\"c\",outcome=\"lost\"} 9\n",
        ));
        let forwards = Forwards::of(&page, "b");
        let harmed = Harmed { lost: 2, unreachable: 1, ..Harmed::default() };
        assert_eq!(forwards, Forwards { offered: 12, ended: 10, harmed });
        assert_eq!(harmed.total(), 3);
        assert_eq!(forwards.open(), 2);
    }
}
