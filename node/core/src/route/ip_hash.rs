//! `ip_hash`: always the same node for the same caller.
//!
//! The node whose name, mixed with the caller's number, gives the largest value (rendezvous hashing, Thaler and
//! Ravishankar 1998): when a node leaves, only its own callers move. Weights do not count.

use super::Scene;

pub(super) fn pick(scene: &mut Scene<'_>) -> usize {
    let client = scene.client;
    scene.least(|seat| u64::MAX - mix(client, seat.id.as_str()))
}

/// FNV-1a over the name, started from the caller, and a finish that spreads the last bytes (MurmurHash3).
fn mix(client: u64, name: &str) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325 ^ client;
    let hash = name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, seat};
    use super::super::{Policy, RouteRules, Seat, pick as pick_by_policy};
    use super::*;
    use crate::prng::Prng;

    fn owner(client: u64, seats: &[Seat], turn: u64) -> String {
        let rules = RouteRules { policy: Policy::IpHash, ..RouteRules::default() };
        let mut prng = Prng::new(turn);
        let mut scene = Scene { rules: &rules, seats, hot: false, client, turn, prng: &mut prng };
        seats[pick_by_policy(&mut scene)].id.to_string()
    }

    #[test]
    fn a_caller_stays_and_only_the_callers_of_a_node_that_leaves_move() {
        let seats = ["a", "b", "c", "here"].map(|name| seat(name, 1));
        for client in 0..500 {
            let before = owner(client, &seats, 0);
            assert_eq!(before, owner(client, &seats, 99));
            let after = owner(client, &seats[1..], 0);
            assert!(before == "a" || before == after, "{client}: {before} {after}");
        }
    }

    #[test]
    fn callers_spread() {
        let seats = ["a", "b", "c", "here"].map(|name| seat(name, 1));
        let counts = picks(Policy::IpHash, &seats, false, 4000);
        assert!(counts.iter().all(|&count| 850 < count), "{counts:?}");
    }
}
