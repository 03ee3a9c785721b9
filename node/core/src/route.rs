//! Here, or on which of two random peers.
//!
//! For `node`. Compares estimated completion (wait + own cost + way), never the load alone and never all peers:
//! choosing the least loaded of everybody herds as soon as the load that one knows is older than a few service times
//! (Mitzenmacher 2000, "How useful is old information?").
//! Invariants: a job stays here unless a peer is sooner by more than the margin.

use crate::id::NodeId;
use crate::prng::Prng;
use crate::time::Micros;

/// How much sooner a peer must be.
#[derive(Clone, Copy, Debug)]
pub struct RouteRules {
    /// Least advantage that moves a job.
    pub margin_min: Micros,
    /// Least advantage in percent of the completion here.
    pub margin_percent: u64,
}

impl Default for RouteRules {
    fn default() -> Self {
        Self { margin_min: Micros::from_ms(2), margin_percent: 10 }
    }
}

/// A peer that may get the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The peer.
    pub id: NodeId,
    /// When it would be done there, the way included, from now.
    pub completion: Micros,
    /// Round trip to it.
    pub rtt: Micros,
}

/// How this node compares with its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// It can compute; done after so long.
    Can(Micros),
    /// It can compute but wants to be rid of work (it is draining): any peer is better.
    LastResort,
    /// It cannot.
    Cannot,
}

/// Where a job goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// On this node.
    Here,
    /// On that peer.
    There(Candidate),
    /// Nowhere: this node cannot and there is no candidate.
    Nowhere,
}

/// Positions of two different entries of a list of `len`, by chance; one if there is only one.
pub fn two_of(prng: &mut Prng, len: usize) -> impl Iterator<Item = usize> + use<> {
    let first = prng.below(len);
    // Drawn from the others: every pair is equally likely.
    let second = prng.below(len.saturating_sub(1));
    let second = if first <= second { second + 1 } else { second };
    [first, second].into_iter().take(len.min(2))
}

/// Compares this node with the `candidates`.
#[must_use]
pub fn choose(rules: &RouteRules, here: Here, candidates: Vec<Candidate>) -> Choice {
    let best = candidates.into_iter().min_by_key(|candidate| candidate.completion);
    match (here, best) {
        (Here::Can(_) | Here::LastResort, None) => Choice::Here,
        (Here::Cannot, None) => Choice::Nowhere,
        (Here::LastResort | Here::Cannot, Some(best)) => Choice::There(best),
        (Here::Can(completion), Some(best)) => {
            let margin = rules.margin_min.max(best.rtt.times(2)).max(completion.percent(rules.margin_percent));
            if best.completion + margin < completion { Choice::There(best) } else { Choice::Here }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, completion_ms: u64, rtt_ms: u64) -> Candidate {
        let id = NodeId::new(id).expect("a sound id");
        Candidate { id, completion: Micros::from_ms(completion_ms), rtt: Micros::from_ms(rtt_ms) }
    }

    #[test]
    fn a_job_moves_only_for_more_than_the_margin() {
        let can = |ms| Here::Can(Micros::from_ms(ms));
        for (here, peers, expected) in [
            (can(20), vec![candidate("a", 18, 0)], None),
            (can(20), vec![candidate("a", 17, 0)], Some("a")),
            (can(200), vec![candidate("a", 181, 0)], None),
            (can(200), vec![candidate("a", 179, 0)], Some("a")),
            (can(20), vec![candidate("a", 11, 5)], None),
            (can(20), vec![candidate("a", 9, 5)], Some("a")),
            (can(20), vec![candidate("a", 15, 0), candidate("b", 12, 0)], Some("b")),
            (can(20), vec![], None),
            (Here::LastResort, vec![candidate("a", 9_000, 0)], Some("a")),
            (Here::LastResort, vec![], None),
            (Here::Cannot, vec![candidate("a", 9_000, 0)], Some("a")),
        ] {
            let told = match choose(&RouteRules::default(), here, peers.clone()) {
                Choice::Here => None,
                Choice::There(candidate) => Some(candidate.id.to_string()),
                Choice::Nowhere => panic!("{here:?} {peers:?} went nowhere"),
            };
            assert_eq!(told.as_deref(), expected, "{here:?} {peers:?}");
        }
        assert_eq!(choose(&RouteRules::default(), Here::Cannot, vec![]), Choice::Nowhere);
    }

    #[test]
    fn the_two_are_different_and_every_pair_comes_equally_often() {
        let mut prng = Prng::new(11);
        let mut pairs = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut pair: Vec<usize> = two_of(&mut prng, 4).collect();
            pair.sort_unstable();
            *pairs.entry(pair).or_insert(0u32) += 1;
        }
        assert_eq!(pairs.len(), 6, "{pairs:?}");
        assert!(pairs.values().all(|&count| 850 < count), "{pairs:?}");
        assert_eq!(two_of(&mut prng, 1).collect::<Vec<_>>(), [0]);
        assert_eq!(two_of(&mut prng, 0).count(), 0);
    }
}
