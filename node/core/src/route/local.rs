//! `local`: this node, as long as it can.

use super::Scene;

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    match scene.own() {
        Some(own) => own,
        None => scene.prng.below(scene.seats.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::tests::{picks, seat};

    #[test]
    fn work_leaves_only_a_node_that_cannot_do_it() {
        assert_eq!(picks(Policy::Local, &[seat("a", 1), seat("here", 9000), seat("z", 1)], true, 9), [0, 9, 0]);
        let counts = picks(Policy::Local, &[seat("a", 1), seat("b", 9000)], false, 1000);
        assert!(counts.iter().all(|&count| 400 < count), "{counts:?}");
    }
}
