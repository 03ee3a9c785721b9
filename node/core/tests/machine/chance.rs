//! Random walks against a hostile world, and a few machines that talk to each other.
//!
//! Part of the tests of the machine.

use super::support::*;

#[test]
fn whatever_happens_every_job_ends_once_and_nothing_is_left() {
    let mut seen = walk::Seen::default();
    for seed in 0..400 {
        seen.add(&walk::walk(seed).seen);
    }
    seen.assert_all_happened();
}

#[test]
fn the_same_seed_gives_the_same_effects() {
    for seed in [3, 4, 5] {
        assert_eq!(walk::walk(seed).digest, walk::walk(seed).digest, "seed {seed}");
    }
    assert_ne!(walk::walk(3).digest, walk::walk(4).digest);
}

#[test]
fn no_caller_of_a_node_that_stays_up_is_lost_when_others_are_killed_and_come_back() {
    let mut seen = shoal::Seen::default();
    for seed in 0..20 {
        seen.add(shoal::run(seed));
    }
    seen.assert_all_happened();
}
