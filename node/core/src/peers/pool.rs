//! Who may get a job, and the draw among them.
//!
//! Part of `peers`. The lists are made again whenever something changed; a draw costs the same however long its list
//! is, unless most of the list weighs far less than the heaviest: then it looks at everybody.
//! Invariants: a draw never gives the same peer twice, nor one that is barred; the heaviest of those that it may give
//! is never passed over for its weight.

use serde::{Deserialize, Serialize};

use super::{Peers, Question};
use crate::id::NodeId;
use crate::prng::Prng;
use crate::route::Seat;
use crate::tally::{Rule, Tally};
use crate::time::MonoTime;

/// A draw by weight looks at so many random peers before it looks at all of them.
const TRIES_MAX: usize = 16;

/// Those that may get a job, in the order in which they are asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pool {
    pub(super) first: List,
    pub(super) backups: List,
    /// They did not take a job a moment ago, or their errors pause them.
    pub(super) resting: List,
}

/// Positions in the table, in its order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct List {
    pub(super) at: Vec<u32>,
    /// Weights differ, or somebody has just started: a draw has to look at each.
    uneven: bool,
    weight_max: u32,
}

/// Whom [`Peers::seats`] may offer.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Not these.
    pub except: &'a [NodeId],
    /// Nor these, which are only not free now: no reason to ask a backup, or one that rests.
    pub full: &'a [NodeId],
    /// How many.
    pub take: Take,
    /// This node can do the job itself, and in time: backups and peers that rest are not asked, and nobody is a fine
    /// answer where all have just started.
    pub optional: bool,
}

/// How many peers are offered, and how they are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// All of them.
    All,
    /// So many random ones, a peer as often as its weight says.
    ByWeight(usize),
    /// So many random ones.
    Evenly(usize),
}

impl List {
    pub(super) fn clear(&mut self) {
        *self = Self { at: std::mem::take(&mut self.at), ..Self::default() };
        self.at.clear();
    }

    pub(super) fn push(&mut self, at: u32, weight: u32, rises: bool) {
        self.uneven |= rises || (weight != self.weight_max && !self.at.is_empty());
        self.weight_max = self.weight_max.max(weight);
        self.at.push(at);
    }

    pub(super) fn has(&self, at: u32) -> bool {
        self.at.binary_search(&at).is_ok()
    }

    /// Whether chance offers one of this weight, measured against the heaviest, that gets `risen` percent of it.
    pub(super) fn takes_part(&self, weight: u32, risen: u64, prng: &mut Prng) -> bool {
        let mut by_chance = |part: u64, whole: u64| whole <= part || prng.next_u64() % whole < part;
        by_chance(weight.into(), self.weight_max.into()) && by_chance(risen, 100)
    }

    /// How many there are beside `barred`.
    fn left(&self, barred: &[u32]) -> usize {
        self.at.len() - barred.iter().filter(|at| self.at.binary_search(at).is_ok()).count()
    }

    fn beside<'a>(&'a self, barred: &'a [u32]) -> impl Iterator<Item = u32> + Clone + 'a {
        self.at.iter().copied().filter(|at| barred.binary_search(at).is_err())
    }

    /// Up to `count` of those that `takes` takes, out of up to `tries` random ones, each as likely.
    fn draw(
        &self,
        barred: &[u32],
        (count, tries): (usize, usize),
        prng: &mut Prng,
        mut takes: impl FnMut(u32, &mut Prng) -> bool,
    ) -> Vec<u32> {
        // Positions in the list that were looked at, in order: the draw skips them.
        let mut taken: Vec<usize> = barred.iter().filter_map(|at| self.at.binary_search(at).ok()).collect();
        let mut chosen = Vec::with_capacity(count.min(self.at.len() - taken.len()));
        for _ in 0..tries.min(self.at.len() - taken.len()) {
            let mut drawn = prng.below(self.at.len() - taken.len());
            let at = taken.iter().position(|&skip| {
                let here = drawn < skip;
                drawn += usize::from(!here);
                here
            });
            taken.insert(at.unwrap_or(taken.len()), drawn);
            if takes(self.at[drawn], prng) {
                chosen.push(self.at[drawn]);
            }
            if chosen.len() == count {
                break;
            }
        }
        chosen
    }
}

impl Pool {
    /// The list to draw from, and whether it is that of the backups.
    fn list(&self, barred: &[u32], optional: bool) -> (&List, bool) {
        let has = |list: &List| 0 < list.left(barred);
        if optional || has(&self.first) {
            (&self.first, false)
        } else if has(&self.backups) {
            (&self.backups, true)
        } else {
            (&self.resting, false)
        }
    }
}

impl Peers {
    /// Appends seats for a job.
    pub fn seats(
        &mut self,
        now: MonoTime,
        question: &Question,
        draw: Draw<'_>,
        seats: &mut Vec<Seat>,
        (prng, tally): (&mut Prng, &mut Tally),
    ) {
        self.renew_if_stale(now);
        let positions = |of: &[NodeId]| -> Vec<u32> {
            of.iter().filter_map(|id| self.position(id)).filter_map(|at| u32::try_from(at).ok()).collect()
        };
        let mut barred = positions(draw.except);
        barred.sort_unstable();
        let (list, backup) = self.pool.list(&barred, draw.optional);
        if !draw.full.is_empty() {
            barred.extend(positions(draw.full));
            barred.sort_unstable();
            barred.dedup();
        }
        let chosen = match draw.take {
            Take::All => list.beside(&barred).collect(),
            Take::ByWeight(count) if list.uneven => {
                self.draw_by_weight(now, (list, &barred), count, draw.optional, (prng, tally))
            }
            Take::ByWeight(count) | Take::Evenly(count) => list.draw(&barred, (count, count), prng, |_, _| true),
        };
        if backup && !chosen.is_empty() {
            tally.count(Rule::BackupUsed);
        }
        let seat = |at: u32| self.table[at as usize].seat(now, &self.rules, &self.sums, question);
        seats.extend(chosen.into_iter().map(seat));
    }

    /// Each peer takes part as often as its weight says, measured against the heaviest; a random `count` of those who
    /// do are chosen. With two peers of weights 4 and 1 the light one is seen every fourth time.
    fn draw_by_weight(
        &self,
        now: MonoTime,
        (list, barred): (&List, &[u32]),
        count: usize,
        optional: bool,
        (prng, tally): (&mut Prng, &mut Tally),
    ) -> Vec<u32> {
        let mut passed_over = None;
        let mut takes_part = |at: u32, weight_max: u64, prng: &mut Prng| {
            let peer = &self.table[at as usize];
            if u64::from(peer.facts.weight) <= prng.next_u64() % weight_max.max(1) {
                return false;
            }
            let risen = peer.risen(now, self.rules.slow_start);
            let takes = 100 <= risen || prng.next_u64() % 100 < risen;
            if !takes {
                tally.count(Rule::SlowStarted);
                passed_over = Some(at);
            }
            takes
        };
        if TRIES_MAX < list.at.len() {
            let weight_max = u64::from(list.weight_max);
            let chosen = list.draw(barred, (count, TRIES_MAX), prng, |at, prng| takes_part(at, weight_max, prng));
            if chosen.len() == count {
                return chosen;
            }
        }
        // A short list, or most are light: everybody is looked at, and chosen by reservoir sampling.
        let weights = list.beside(barred).map(|at| u64::from(self.table[at as usize].facts.weight));
        let weight_max = weights.max().unwrap_or(0);
        let (mut chosen, mut seen) = (Vec::with_capacity(count), 0);
        for at in list.beside(barred) {
            if !takes_part(at, weight_max, prng) {
                continue;
            }
            seen += 1;
            if chosen.len() < count {
                chosen.push(at);
            } else if let Some(place) = chosen.get_mut(prng.below(seen)) {
                *place = at;
            }
        }
        if chosen.is_empty() && !optional {
            chosen.extend(passed_over);
        }
        chosen
    }
}
