//! What the checks remember of a run.
//!
//! Part of `check`.
//! Invariants: counts by half seconds, so that it stays small whatever the run's length.

use shoal_core::time::{Micros, MonoTime};

use super::super::plan::Plan;
use super::super::seen::{Ended, Seen, What};
use super::super::world::World;

/// Length of a slice of time.
pub(super) const SLICE: Micros = Micros::from_ms(500);

/// What a node found out about another one for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A connection with a job on it broke.
    Broke(MonoTime),
    /// A word of the other one came.
    Heard(MonoTime),
}

/// Counts over time.
#[derive(Debug)]
pub(super) struct History {
    nodes: usize,
    /// Jobs that began on a node in a slice: `slice * nodes + node`.
    ran: Vec<u32>,
    /// Callers that were answered, and placements on peers, in each slice.
    pub(super) done: Vec<u32>,
    pub(super) forwards: Vec<u32>,
    /// Waits before the first fault, and from five seconds after the last one on, in microseconds.
    pub(super) waits_before: Vec<u64>,
    pub(super) waits_after: Vec<u64>,
    first_fault: MonoTime,
    /// For each node since when nothing was wrong with what it knows: it started, or stood still.
    pub(super) deaf_until: Vec<MonoTime>,
    /// For each node, and each other one, the last direct sign of it: `node * nodes + other`.
    signs: Vec<Option<Sign>>,
    /// For each node the times at which it got ready although others had been there before.
    pub(super) joined: Vec<(usize, MonoTime)>,
    /// When gossip was hurt last, and whether it is now.
    pub(super) gossip_hurt: Option<MonoTime>,
    hurting: usize,
}

impl History {
    pub(super) fn new(plan: &Plan) -> Self {
        let first_fault = plan.faults.iter().map(|planned| planned.at).min().unwrap_or(plan.heal_at);
        Self {
            nodes: plan.nodes,
            ran: Vec::new(),
            done: Vec::new(),
            forwards: Vec::new(),
            waits_before: Vec::new(),
            waits_after: Vec::new(),
            first_fault,
            deaf_until: vec![MonoTime::START; plan.nodes],
            signs: vec![None; plan.nodes * plan.nodes],
            joined: Vec::new(),
            gossip_hurt: None,
            hurting: 0,
        }
    }

    pub(super) fn observe(&mut self, world: &World, seen: &Seen) {
        let (now, node) = (world.now(), seen.node as usize);
        match seen.what {
            What::Ran => *slot(&mut self.ran, slice(now) * self.nodes + node) += 1,
            What::Forwarded => *slot(&mut self.forwards, slice(now)) += 1,
            What::Finished => self.on_finished(world, seen),
            What::Started | What::Thawed => {
                self.deaf_until[node] = now;
                if seen.what == What::Started {
                    self.signs[node * self.nodes..][..self.nodes].fill(None);
                }
            }
            What::Broke => self.signs[node * self.nodes + seen.other as usize] = Some(Sign::Broke(now)),
            What::Accepted | What::Refused | What::Answered | What::PingEnded if !is_lost_ping(seen) => {
                self.signs[node * self.nodes + seen.other as usize] = Some(Sign::Heard(now));
            }
            What::Ready if self.first_fault <= now => self.joined.push((node, now)),
            What::FaultBegan => {
                let planned = usize::try_from(seen.value).ok().and_then(|index| world.plan().faults.get(index));
                if planned.is_some_and(|planned| planned.fault.hurts_gossip()) {
                    self.gossip_hurt = Some(now);
                    self.hurting += 1;
                }
            }
            What::Healed => {
                if 0 < self.hurting {
                    self.gossip_hurt = Some(now);
                }
                self.hurting = 0;
            }
            _ => {}
        }
    }

    fn sign(&self, seen: &Seen) -> Option<Sign> {
        self.signs[seen.node as usize * self.nodes + seen.other as usize]
    }

    /// When the node found out for itself that the other one is gone, which ended at `gone`; `None` when it did not.
    pub(super) fn found_out(&self, seen: &Seen, gone: MonoTime) -> Option<MonoTime> {
        match self.sign(seen) {
            Some(Sign::Broke(broke)) if gone <= broke => Some(broke),
            Some(Sign::Broke(_) | Sign::Heard(_)) | None => None,
        }
    }

    /// When the last word of the other one came, which ended at `gone`: it may have been under way for long.
    pub(super) fn last_word(&self, seen: &Seen, gone: MonoTime) -> MonoTime {
        match self.sign(seen) {
            Some(Sign::Heard(heard)) => heard.max(gone),
            Some(Sign::Broke(_)) | None => gone,
        }
    }

    fn on_finished(&mut self, world: &World, seen: &Seen) {
        if !Ended::of(seen.value).is_some_and(Ended::is_done) {
            return;
        }
        let now = world.now();
        *slot(&mut self.done, slice(now)) += 1;
        let Some(request) = world.request(seen.request) else { return };
        let wait = now.since(request.arrived).get().saturating_sub(request.unloaded_us);
        if world.plan().measure_from <= request.arrived && now < self.first_fault {
            self.waits_before.push(wait);
        }
        if world.plan().heal_at + Micros::from_ms(5000) <= request.arrived {
            self.waits_after.push(wait);
        }
    }

    /// Jobs that began on `node` from one moment to another, in whole slices.
    pub(super) fn ran(&self, node: usize, from: MonoTime, to: MonoTime) -> u64 {
        let slices = slice(from + SLICE)..slice(to);
        slices.map(|at| u64::from(self.ran.get(at * self.nodes + node).copied().unwrap_or(0))).sum()
    }

    /// Whether what nodes hear of each other may be late: gossip is hurt, or was so lately.
    pub(super) fn gossip_is_hurt(&self, now: MonoTime, plan: &Plan) -> bool {
        let lasts = |at: MonoTime| {
            plan.faults.iter().any(|planned| {
                planned.fault.hurts_gossip()
                    && planned.at <= at
                    && at < planned.at + planned.lasts + Micros::from_ms(2000)
            })
        };
        self.gossip_hurt.is_some_and(|hurt| now < hurt + Micros::from_ms(2000)) || (now < plan.heal_at && lasts(now))
    }
}

fn is_lost_ping(seen: &Seen) -> bool {
    seen.what == What::PingEnded && seen.value == 0
}

/// Number of the slice of `at`.
pub(super) fn slice(at: MonoTime) -> usize {
    usize::try_from(at.as_micros() / SLICE.get()).unwrap_or(usize::MAX)
}

fn slot(counts: &mut Vec<u32>, at: usize) -> &mut u32 {
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    &mut counts[at]
}
