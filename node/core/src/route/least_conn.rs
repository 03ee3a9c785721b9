//! `least_conn`: whoever has the fewest jobs of this node's callers, for its weight.
//!
//! What a load balancer calls connections: each node counts its own only, and knows nothing of those of others.

use super::{Scene, WEIGHT_MAX};

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    scene.least(|seat| {
        // Jobs for the weight, rounded up; a node of weight 0 is the last choice.
        let scaled = (u64::from(seat.mine) + 1) * u64::from(WEIGHT_MAX);
        scaled.checked_div(seat.weight.into()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::Seat;
    use super::super::tests::{picks, seat};

    #[test]
    fn the_fewest_for_its_weight_gets_the_next() {
        let with = |name, mine, weight| Seat { mine, weight, ..seat(name, 1) };
        for (seats, expected) in [
            ([with("a", 2, 100), with("here", 1, 100), with("z", 3, 100)], [0, 5, 0]),
            ([with("a", 2, 300), with("here", 1, 100), with("z", 3, 100)], [5, 0, 0]),
            ([with("a", 0, 0), with("here", 7, 100), with("z", 8, 100)], [0, 5, 0]),
        ] {
            assert_eq!(picks(Policy::LeastConn, &seats, false, 5), expected, "{seats:?}");
        }
    }
}
