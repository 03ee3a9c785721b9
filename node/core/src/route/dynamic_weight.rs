//! `dynamic_weight`: by chance, with a weight that falls as the load rises.
//!
//! The bands are the customary ones: below 30 % of load a node counts four times, below 60 % three times, below 80 %
//! twice, else once. The node's own weight multiplies that.

use super::{Scene, Seat, by_weight};

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    let point = scene.prng.next_u64();
    by_weight(scene.seats.iter().map(|seat| u64::from(seat.weight) * band(seat)), point)
}

fn band(seat: &Seat) -> u64 {
    match seat.load.get() {
        0..30 => 4,
        30..60 => 3,
        60..80 => 2,
        80.. => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::tests::{picks, seat};
    use super::*;
    use crate::share::Share;

    #[test]
    fn the_bands_begin_where_they_say() {
        for (percent, expected) in [(0, 4), (29, 4), (30, 3), (59, 3), (60, 2), (79, 2), (80, 1), (100, 1)] {
            let seat = Seat { load: Share::percent(percent), ..seat("a", 1) };
            assert_eq!(band(&seat), expected, "{percent} %");
        }
    }

    #[test]
    fn an_idle_node_gets_four_times_as_much_as_a_full_one() {
        let loaded = |name, percent| Seat { load: Share::percent(percent), ..seat(name, 1) };
        let counts = picks(Policy::DynamicWeight, &[loaded("a", 10), loaded("here", 95)], false, 5000);
        assert!(counts[0].abs_diff(4000) < 150, "{counts:?}");
    }
}
