//! What each estimate was worth: against what happened, and against what would have happened at the node itself.
//!
//! Part of `estimate`. Works on the timelines of all nodes.
//! The second question needs a past that was not: when would the job have been done had it stayed? The node's own
//! timeline answers it nearly exactly, because the job would have been the last in the queue: nothing that ran before
//! it changes. It would have started with the batch that took the last of the jobs before it, if there was room, else
//! with the next one. What chance makes of one batch is taken out of both sides: the job's own batch counts with the
//! mean time of a batch of its size, there and here.

use std::collections::{BTreeMap, HashMap, HashSet};

use shoal_core::cost::Cost;
use shoal_core::id::{JobId, NodeId};
use shoal_core::node::Reason;
use shoal_core::time::{Micros, MonoTime};

use super::timeline::{Answered, Batch, Timeline};

/// Two moments of one device are the same one when they are not further apart: a machine takes so long to notice.
const AT_ONCE: Micros = Micros::from_ms(1);
/// A job is on its way to a peer for at most so long; beyond it, another job with the same bound is meant.
const UNDER_WAY_MAX_US: i64 = 20_000;

/// What a batch takes on average, measured over the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    per_batch_us: f64,
    per_row_us: f64,
}

impl Pace {
    /// Of all nodes, whose engines are the same, with a fixed part of `per_batch_us` that is known.
    pub(super) fn of(timelines: &[Timeline], per_batch_us: f64) -> Self {
        let batches = timelines.iter().flat_map(|timeline| &timeline.batches).filter(|batch| !batch.jobs.is_empty());
        let (mut rows, mut us) = (0.0, 0.0);
        for batch in batches {
            rows += batch.jobs.len() as f64;
            us += (batch.to.since(batch.from).get() as f64 - per_batch_us).max(0.0);
        }
        Self { per_batch_us, per_row_us: us / f64::max(rows, 1.0) }
    }

    fn of_rows(self, rows: usize) -> f64 {
        self.per_batch_us + self.per_row_us * rows as f64
    }

    /// Most rows that the rules of batches take together at this pace.
    fn rows_max(self, timeline: &Timeline) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let cost =
            Cost { fixed: Micros::new(self.per_batch_us as u64), per_unit_ns: (self.per_row_us * 1000.0) as u64 };
        let rows_max = u64::from(timeline.rules.rows_max.max(1));
        usize::try_from(timeline.rules.units_max_at(cost).clamp(1, rows_max)).unwrap_or(usize::MAX)
    }
}

/// What was said of one job, and what came of it. All in microseconds since the decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judged {
    pub(super) forwarded: bool,
    pub(super) promised: f64,
    pub(super) real: f64,
    /// What it would have been, had the job's own batch taken the mean time of its size.
    pub(super) without_luck: f64,
    /// What it would have been at the node itself, likewise. Only for jobs that moved because a peer was sooner.
    pub(super) here_instead: Option<f64>,
}

/// Jobs that are not judged, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Skipped {
    /// They came before the nodes knew their speed.
    pub(super) early: u64,
    /// They were placed more than once: refused as busy, or hedged. One that moved before it ran is judged.
    pub(super) placed_again: u64,
    /// Their batch was not found: they could not be told from another job at the peer.
    pub(super) unlinked: u64,
}

/// Judges every job that came `from_us` or more after the first one of its node.
pub(super) fn judge(timelines: &[Timeline], pace: Pace, from_us: u64) -> (Vec<Judged>, Skipped) {
    let batches: Vec<HashMap<JobId, &Batch>> = timelines.iter().map(batch_of_job).collect();
    let (mut judged, mut skipped) = (Vec::new(), Skipped::default());
    for (origin, timeline) in timelines.iter().enumerate() {
        let links = Links::of(origin, timelines);
        let Some(first) = timeline.answered.iter().map(|job| job.arrived).min() else { continue };
        for job in &timeline.answered {
            // Where a job waited at home and moved before it ran, the second decision is the one that counted.
            let (decision, queued_at) = match (&job.decisions[..], job.forwards.len() < 2) {
                ([decision], true) => (decision, decision.at),
                ([first, moved], true) if moved.reason == Reason::BecameSooner => (moved, first.at),
                _ => {
                    skipped.placed_again += 1;
                    continue;
                }
            };
            if job.arrived.since(first).get() < from_us {
                skipped.early += 1;
                continue;
            }
            let (at, queued_at) = (job.arrived + decision.at, job.arrived + queued_at);
            let Some(chosen) = decision.options.iter().find(|option| option.node == decision.chosen) else { continue };
            let batch = if job.here { batches[origin].get(&job.job) } else { links.batch(job, &batches) };
            let Some(batch) = batch else {
                skipped.unlinked += 1;
                continue;
            };
            let real = job.ended.since(at).get() as f64;
            let luck = batch.to.since(batch.from).get() as f64 - pace.of_rows(batch.jobs.len());
            let moved = !job.here && matches!(decision.reason, Reason::PeerIsSooner | Reason::BecameSooner);
            judged.push(Judged {
                forwarded: !job.here,
                promised: chosen.completion.get() as f64,
                real,
                without_luck: real - luck,
                here_instead: moved.then(|| here_instead(timeline, pace, (at, queued_at))),
            });
        }
    }
    (judged, skipped)
}

fn batch_of_job(timeline: &Timeline) -> HashMap<JobId, &Batch> {
    timeline.batches.iter().flat_map(|batch| batch.jobs.iter().map(move |&job| (job, batch))).collect()
}

/// Time from `at` until a job that joined the queue of this node at `queued_at`, and did not run before `at`, would
/// have been done, in microseconds.
pub(super) fn here_instead(timeline: &Timeline, pace: Pace, (at, queued_at): (MonoTime, MonoTime)) -> f64 {
    let rows_max = pace.rows_max(timeline);
    let first = timeline.batches.partition_point(|batch| batch.to <= at);
    let mut later = timeline.batches[first..].iter().peekable();
    let mut free = at;
    // What runs at that moment.
    if let Some(running) = later.next_if(|batch| batch.from <= at) {
        free = running.to;
    }
    let queued = |job: &&JobId| timeline.queued.get(job).is_some_and(|&since| since <= queued_at);
    let before: HashSet<JobId> = later.clone().flat_map(|batch| &batch.jobs).filter(queued).copied().collect();
    let mut left = before.len();
    while 0 < left {
        let Some(batch) = later.next() else { break };
        let of_them = batch.jobs.iter().filter(|job| before.contains(job)).count();
        left -= of_them;
        if left == 0 && of_them < rows_max {
            let rows = (batch.jobs.len() + 1).min(rows_max);
            return batch.from.since(at).get() as f64 + pace.of_rows(rows);
        }
        free = batch.to;
    }
    // With a free device it starts at once, and whoever really came at that moment runs with it.
    let beside = later.peek().filter(|batch| batch.from <= free + AT_ONCE && free != at);
    let rows = (beside.map_or(0, |batch| batch.jobs.len()) + 1).min(rows_max);
    free.since(at).get() as f64 + pace.of_rows(rows)
}

/// Which job at a peer is which job of the origin. Ids differ on the two nodes and so do their clocks; but the bound
/// that the peer is told is a number of microseconds that few jobs share, and both see it.
struct Links<'a> {
    /// For each peer its number, how much its clock is ahead in microseconds, and its jobs by their bound.
    peers: BTreeMap<&'a NodeId, (usize, i64, ByBound)>,
}

type ByBound = BTreeMap<Micros, Vec<(JobId, i64)>>;

impl<'a> Links<'a> {
    fn of(origin: usize, timelines: &'a [Timeline]) -> Self {
        let mut peers = BTreeMap::new();
        for (number, peer) in timelines.iter().enumerate().filter(|&(number, _)| number != origin) {
            let mut by_bound = ByBound::new();
            for taken in &peer.taken {
                let Some(bound) = taken.bound else { continue };
                by_bound.entry(bound).or_default().push((taken.job, signed(taken.arrived)));
            }
            let sent = timelines[origin].answered.iter().flat_map(|job| &job.forwards);
            let sent = sent.filter(|forward| forward.peer == peer.node);
            let mut ahead: Vec<i64> = sent
                .filter_map(|forward| match &by_bound.get(&forward.bound?)?[..] {
                    [(_, arrived)] => Some(arrived - signed(forward.at)),
                    _ => None,
                })
                .collect();
            ahead.sort_unstable();
            if let Some(&median) = ahead.get(ahead.len() / 2) {
                peers.insert(&peer.node, (number, median, by_bound));
            }
        }
        Self { peers }
    }

    /// The batch in which a forwarded job ran at its peer.
    fn batch<'b>(&self, job: &Answered, batches: &'b [HashMap<JobId, &'b Batch>]) -> Option<&'b &'b Batch> {
        let [forward] = &job.forwards[..] else { return None };
        let (number, ahead, by_bound) = self.peers.get(&forward.peer)?;
        let expected = signed(forward.at) + ahead;
        let off = |&&(_, arrived): &&(JobId, i64)| (arrived - expected).abs();
        let (there, _) =
            by_bound.get(&forward.bound?)?.iter().min_by_key(off).filter(|it| off(it) < UNDER_WAY_MAX_US)?;
        batches[*number].get(there)
    }
}

fn signed(at: MonoTime) -> i64 {
    i64::try_from(at.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::batch::BatchRules;
    use shoal_core::node::{Decision, NodeOption};

    use super::super::timeline::{Forward, Taken};

    const PACE: Pace = Pace { per_batch_us: 0.0, per_row_us: 20_000.0 };

    fn at(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn timeline(name: &str, batches: &[(u64, u64, &[u64])], queued: &[(u64, u64)]) -> Timeline {
        let batch = |&(from, to, jobs): &(u64, u64, &[u64])| Batch {
            from: at(from),
            to: at(to),
            jobs: jobs.iter().map(|&job| JobId(job)).collect(),
        };
        Timeline {
            node: NodeId::new(name).unwrap(),
            // Two rows share a batch, although they have nothing else to share.
            rules: BatchRules { time_short: BatchRules::default().time_max, ..BatchRules::default() },
            batches: batches.iter().map(batch).collect(),
            queued: queued.iter().map(|&(job, ms)| (JobId(job), at(ms))).collect(),
            answered: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn instead(batches: &[(u64, u64, &[u64])], queued: &[(u64, u64)], at_ms: u64) -> u64 {
        instead_waiting(batches, queued, (at_ms, at_ms))
    }

    fn instead_waiting(batches: &[(u64, u64, &[u64])], queued: &[(u64, u64)], (at_ms, since): (u64, u64)) -> u64 {
        let us = here_instead(&timeline("a", batches, queued), PACE, (at(at_ms), at(since)));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let ms = (us / 1000.0).round() as u64;
        ms
    }

    #[test]
    fn on_an_idle_device_it_starts_at_once_and_alone() {
        assert_eq!(instead(&[], &[], 5), 20);
        // Somebody else came a moment later: it would have waited for this job, not the other way round.
        assert_eq!(instead(&[(5, 25, &[1])], &[(1, 5)], 4), 20);
        assert_eq!(instead(&[(0, 4, &[1]), (9, 29, &[2])], &[(1, 0), (2, 9)], 5), 20);
    }

    #[test]
    fn it_waits_for_what_runs_and_shares_the_next_batch_with_who_came_meanwhile() {
        assert_eq!(instead(&[(0, 20, &[1])], &[(1, 0)], 5), 15 + 20);
        assert_eq!(instead(&[(0, 20, &[1]), (20, 40, &[2])], &[(1, 0), (2, 12)], 5), 15 + 40);
        // A look at the own speed takes the device too.
        assert_eq!(instead(&[(0, 20, &[])], &[], 5), 15 + 20);
    }

    #[test]
    fn it_joins_the_last_batch_of_those_before_it_or_the_one_after_when_that_is_full() {
        let queued = [(1, 0), (2, 1), (3, 2)];
        assert_eq!(instead(&[(0, 20, &[1]), (20, 40, &[2])], &queued, 5), 15 + 40);
        assert_eq!(instead(&[(0, 20, &[1]), (20, 60, &[2, 3])], &queued, 5), 55 + 20);
        // The row that really shared the batch came later, and would have had to wait.
        assert_eq!(instead(&[(0, 20, &[1]), (20, 60, &[2, 4])], &[(1, 0), (2, 1), (4, 9)], 5), 15 + 40);
        let longer: [(u64, u64, &[u64]); 3] = [(0, 20, &[1]), (20, 60, &[2, 3]), (60, 80, &[4])];
        assert_eq!(instead(&longer, &[(1, 0), (2, 1), (3, 2), (4, 50)], 5), 55 + 40);
    }

    #[test]
    fn who_waited_before_it_moved_would_have_run_before_those_that_came_meanwhile() {
        let batches: [(u64, u64, &[u64]); 3] = [(0, 20, &[1]), (20, 60, &[2, 3]), (60, 100, &[4, 5])];
        let queued = [(1, 0), (2, 1), (3, 2), (4, 9), (5, 9)];
        assert_eq!(instead_waiting(&batches, &queued, (10, 5)), 50 + 40);
        assert_eq!(instead_waiting(&batches, &queued, (10, 10)), 90 + 20);
    }

    fn option(node: &str, completion_ms: u64) -> NodeOption {
        let node = NodeId::new(node).unwrap();
        NodeOption {
            node,
            completion: Micros::from_ms(completion_ms),
            wait: Micros::ZERO,
            rtt: Micros::ZERO,
            age: None,
        }
    }

    /// Job 7 of `a` goes to `b`, whose clock is a second ahead, runs there in a batch of 30 ms, and takes 32 ms.
    fn moved() -> [Timeline; 2] {
        let mut origin = timeline("a", &[(90, 130, &[1])], &[(1, 90)]);
        let chosen = NodeId::new("b").unwrap();
        let bound = Some(Micros::new(40_123));
        let options = vec![option("a", 50), option("b", 24)];
        origin.answered.push(Answered {
            job: JobId(7),
            arrived: at(100),
            ended: at(132),
            here: false,
            decisions: vec![Decision {
                at: Micros::ZERO,
                options,
                chosen: chosen.clone(),
                reason: Reason::PeerIsSooner,
            }],
            forwards: vec![Forward { at: at(100), peer: chosen, bound }],
        });
        let mut peer = timeline("b", &[(1101, 1131, &[3])], &[(3, 1101)]);
        peer.taken.push(Taken { job: JobId(3), arrived: at(1101), bound });
        [origin, peer]
    }

    #[test]
    fn a_job_is_found_at_its_peer_and_its_own_luck_is_taken_out() {
        let (judged, skipped) = judge(&moved(), PACE, 0);
        assert_eq!(skipped, Skipped::default());
        let expected = Judged {
            forwarded: true,
            promised: 24_000.0,
            real: 32_000.0,
            without_luck: 22_000.0,
            here_instead: Some(50_000.0),
        };
        assert_eq!(judged, [expected]);
    }

    #[test]
    fn what_cannot_be_judged_is_counted() {
        assert_eq!(judge(&moved(), PACE, 1).1, Skipped { early: 1, ..Skipped::default() });
        let mut lost = moved();
        lost[1].taken.clear();
        assert_eq!(judge(&lost, PACE, 0).1, Skipped { unlinked: 1, ..Skipped::default() });
        let mut again = moved();
        let decision = again[0].answered[0].decisions[0].clone();
        again[0].answered[0].decisions.push(decision);
        assert_eq!(judge(&again, PACE, 0).1, Skipped { placed_again: 1, ..Skipped::default() });
    }

    #[test]
    fn the_pace_is_the_mean_over_all_rows_and_looks_do_not_count() {
        let all = [timeline("a", &[(0, 30, &[1]), (30, 70, &[2, 3]), (70, 170, &[])], &[])];
        let pace = Pace::of(&all, 10_000.0);
        assert!((pace.of_rows(1) - 10_000.0 - 50_000.0 / 3.0).abs() < 1e-6, "{pace:?}");
    }
}
