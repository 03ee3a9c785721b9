//! `least_load`: whoever is said to have the least load.
//!
//! Load is what waits and runs there for each of its slots, by its own last word; the part of the device in use decides
//! among equals. The plain rule of many servers: it herds when that word is old.

use super::{Scene, Seat};

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    scene.least(load)
}

/// Jobs for each slot in thousandths, then percent of the device.
pub(super) fn load(seat: &Seat) -> (u64, u8) {
    (u64::from(seat.held) * 1000 / u64::from(seat.slots.max(1)), seat.load.get())
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::tests::{picks, seat};
    use super::*;
    use crate::share::Share;

    #[test]
    fn the_least_loaded_gets_all_of_it_whatever_the_others_just_sent_there() {
        let with = |name, held, slots, percent| Seat { held, slots, load: Share::percent(percent), ..seat(name, 1) };
        for (seats, expected) in [
            ([with("a", 3, 1, 0), with("here", 4, 1, 0), with("z", 2, 1, 99)], [0, 0, 5]),
            ([with("a", 3, 8, 0), with("here", 1, 1, 0), with("z", 2, 1, 0)], [5, 0, 0]),
            ([with("a", 1, 1, 50), with("here", 1, 1, 40), with("z", 1, 1, 60)], [0, 5, 0]),
        ] {
            assert_eq!(picks(Policy::LeastLoad, &seats, false, 5), expected, "{seats:?}");
        }
    }
}
