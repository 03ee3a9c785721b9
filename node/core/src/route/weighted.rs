//! `weighted`: one node after the other, as often as the weights say.
//!
//! The turns walk through the weights in steps of the golden ratio, which spreads any number of turns evenly (a Weyl
//! sequence) and needs no memory but the turn.

use super::{Scene, by_weight};

/// 2^64 divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    by_weight(scene.seats.iter().map(|seat| seat.weight.into()), scene.turn.wrapping_mul(STEP))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, seat};
    use super::super::{Policy, Seat};

    #[test]
    fn turns_are_shared_as_the_weights_say_and_without_bursts() {
        let weighted = |name, weight| Seat { weight, ..seat(name, 1) };
        let seats = [weighted("a", 100), weighted("b", 0), weighted("here", 300)];
        for turns in [40u64, 400] {
            let counts = picks(Policy::Weighted, &seats, false, turns);
            assert_eq!(counts[1], 0, "a weight of 0 gets nothing");
            assert!(counts[0].abs_diff(turns / 4) <= 2, "{turns} turns: {counts:?}");
        }
    }
}
