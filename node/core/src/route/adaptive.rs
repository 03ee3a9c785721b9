//! `adaptive`: whoever is done first, of this node and two random peers.
//!
//! Compares estimated completion (wait + own cost + way), never the load alone and never all peers: choosing the least
//! loaded of everybody herds as soon as the load that one knows is older than a few service times (Mitzenmacher 2000,
//! "How useful is old information?").
//! Invariants: a job stays here unless a peer is sooner by more than the margin; a hot node gives up the part of the
//! margin that grows with its own completion, never the rest.

use super::{Scene, margin};

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    let own = scene.own();
    // A seat that is not this node's comes first for `least` where there is one.
    let best = scene.least(|seat| (seat.here, seat.completion));
    let Some(own) = own.filter(|&own| own != best) else { return best };
    let (here, there) = (scene.seats[own].completion, &scene.seats[best]);
    let margin = margin(scene.rules, here, there.rtt, scene.hot);
    if there.completion + margin < here { best } else { own }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, seat};
    use super::super::{Policy, Seat};
    use crate::time::Micros;

    fn away(name: &str, completion_ms: u64, rtt_ms: u64) -> Seat {
        Seat { rtt: Micros::from_ms(rtt_ms), ..seat(name, completion_ms) }
    }

    fn picked(here_ms: Option<u64>, peers: &[Seat], hot: bool) -> String {
        let seats: Vec<Seat> = here_ms.map(|ms| seat("here", ms)).into_iter().chain(peers.iter().cloned()).collect();
        let counts = picks(Policy::Adaptive, &seats, hot, 1);
        let index = counts.iter().position(|&count| 0 < count).expect("one was picked");
        seats[index].id.to_string()
    }

    #[test]
    fn a_job_moves_only_for_more_than_the_margin() {
        for (here_ms, peers, expected) in [
            (Some(20), vec![away("a", 18, 0)], "here"),
            (Some(20), vec![away("a", 17, 0)], "a"),
            (Some(200), vec![away("a", 181, 0)], "here"),
            (Some(200), vec![away("a", 179, 0)], "a"),
            (Some(20), vec![away("a", 11, 5)], "here"),
            (Some(20), vec![away("a", 9, 5)], "a"),
            (Some(20), vec![away("a", 15, 0), away("b", 12, 0)], "b"),
            (Some(20), vec![], "here"),
            (None, vec![away("a", 9_000, 0)], "a"),
            (None, vec![away("a", 9_000, 0), away("b", 8_000, 0)], "b"),
        ] {
            assert_eq!(picked(here_ms, &peers, false), expected, "{here_ms:?} {peers:?}");
        }
    }

    #[test]
    fn a_hot_node_gives_up_its_inertia_but_never_sends_to_a_worse_peer() {
        for (peer_ms, rtt_ms, expected) in [(189, 0, "a"), (198, 0, "here"), (201, 0, "here"), (189, 6, "here")] {
            assert_eq!(picked(Some(200), &[away("a", peer_ms, rtt_ms)], true), expected, "{peer_ms} {rtt_ms}");
        }
    }
}
