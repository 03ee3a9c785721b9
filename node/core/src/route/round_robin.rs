//! `round_robin`: one node after the other, this one in its turn.

use super::Scene;

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    let seats = scene.seats.len() as u64;
    usize::try_from(scene.turn % seats).expect("below a number of seats")
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::tests::{picks, seat};

    #[test]
    fn everybody_gets_the_same_number() {
        let seats = [seat("a", 1), seat("here", 5), seat("z", 9)];
        assert_eq!(picks(Policy::RoundRobin, &seats, false, 9), [3, 3, 3]);
    }
}
