//! `threshold`: this node until it is hot (75 %), then the least loaded peer.
//!
//! The rule that most people write first. It herds as `least_load` does, with the nodes that are hot.

use super::{Scene, least_load};

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    match scene.own() {
        Some(own) if !scene.hot => own,
        Some(_) | None => scene.least(|seat| (seat.here, least_load::load(seat))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, seat};
    use super::super::{Policy, Seat};

    #[test]
    fn only_a_hot_node_sends_and_then_to_the_least_loaded_peer() {
        let with = |name, held| Seat { held, ..seat(name, 1) };
        let seats = [with("a", 3), with("here", 1), with("z", 2)];
        assert_eq!(picks(Policy::Threshold, &seats, false, 5), [0, 5, 0]);
        assert_eq!(picks(Policy::Threshold, &seats, true, 5), [0, 0, 5]);
        assert_eq!(picks(Policy::Threshold, &seats[1..2], true, 5), [5], "alone it serves");
    }
}
