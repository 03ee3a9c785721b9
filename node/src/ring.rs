//! Who owns which session: a consistent hash over the nodes that take work, as a table.
//!
//! For `shell`, which builds the table off the path of requests and gives it to the core, and for `listen`, which makes
//! keys of what callers say.
//! Invariants: the same nodes give the same table, on every node and in every version; a node that leaves moves only
//! the parts that named it; the ring is built whole from a sorted set and never changed, because a node that is added
//! twice to a `hash_ring` and taken out once makes it panic.
//! Not here: whether an owner may be used, and how much it may hold (`shoal-core`).

use std::collections::BTreeSet;
use std::fmt;

use hash_ring::HashRing;
use sha2::{Digest as _, Sha256};
use shoal_core::affinity::{OWNERS, OwnerTable};
use shoal_core::id::NodeId;

/// Parts of the key space. Two hundred nodes own about five each; the largest share is then twice the mean, which the
/// bound on an owner's load makes good.
pub const PARTS: usize = 1024;
/// Points of each node on the ring: of ten nodes the one with the largest share is an eighth above the mean.
const POINTS: isize = 100;
/// Looks for a further owner of one part. With two nodes each look finds the other one about every second time.
const PROBES_MAX: usize = 64;

/// A number that stands for `bytes`, the same on every node and in every version.
#[must_use]
pub fn key(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// A node on the ring.
#[derive(Clone)]
struct Point {
    /// Position in the list of nodes.
    at: u16,
    id: NodeId,
}

/// What `hash_ring` hashes.
impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(out)
    }
}

/// The owners of each part among the `ready` nodes: as many different ones as there are, at most [`OWNERS`].
///
/// Cost: `hash_ring` sorts anew for each node and looks through all points for each part. In a release build 1 ms with
/// ten nodes, 40 ms with 100, 0.1 s with 200: not for the path of a request.
#[must_use]
pub fn owners(ready: &BTreeSet<NodeId>) -> OwnerTable {
    let nodes: Vec<NodeId> = ready.iter().take(usize::from(u16::MAX)).cloned().collect();
    let points = (0u16..).zip(&nodes).map(|(at, id)| Point { at, id: id.clone() }).collect();
    let ring = HashRing::new(points, POINTS);
    let parts = (0..PARTS).map(|part| owners_of(&ring, part, nodes.len())).collect();
    OwnerTable::new(nodes, parts).expect("each part names different nodes of the list, and not too many")
}

/// A ring has no next but one, so further owners are found under further names of the part.
fn owners_of(ring: &HashRing<Point>, part: usize, nodes: usize) -> Vec<u16> {
    let wanted = OWNERS.min(nodes);
    let mut owners = Vec::with_capacity(wanted);
    for probe in 0..PROBES_MAX {
        if owners.len() == wanted {
            return owners;
        }
        let found = ring.get_node(format!("{part}#{probe}")).map(|point| point.at);
        owners.extend(found.filter(|at| !owners.contains(at)));
    }
    // Hardly ever: then in the order of the names, from a place that differs from part to part.
    let rest = (0..nodes).map(|step| u16::try_from((part + step) % nodes).expect("there are fewer nodes than u16 has"));
    for at in rest {
        if owners.len() < wanted && !owners.contains(&at) {
            owners.push(at);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::prng::Prng;

    fn nodes(count: usize) -> BTreeSet<NodeId> {
        (0..count).map(|number| NodeId::new(&format!("node-{number}")).unwrap()).collect()
    }

    /// The owners of every part.
    fn table(ready: &BTreeSet<NodeId>) -> Vec<Vec<NodeId>> {
        let table = owners(ready);
        (0..PARTS).map(|part| table.owners(part as u64).cloned().collect()).collect()
    }

    #[test]
    fn every_part_has_as_many_different_owners_as_there_are() {
        for count in 0..=12 {
            for (part, owners) in table(&nodes(count)).iter().enumerate() {
                let different: BTreeSet<_> = owners.iter().collect();
                assert_eq!((owners.len(), different.len()), (count.min(OWNERS), count.min(OWNERS)), "{count} {part}");
            }
        }
    }

    #[test]
    fn the_first_owner_is_the_one_on_the_ring() {
        let ready = nodes(7);
        let ring = HashRing::new(ready.iter().map(NodeId::to_string).collect(), POINTS);
        for (part, owners) in table(&ready).iter().enumerate() {
            assert_eq!(Some(&owners[0].to_string()), ring.get_node(format!("{part}#0")), "{part}");
        }
    }

    #[test]
    fn nodes_that_heard_of_each_other_in_any_order_agree() {
        let ready: Vec<NodeId> = nodes(9).into_iter().collect();
        let mut prng = Prng::new(4);
        let expected = owners(&nodes(9));
        for _ in 0..5 {
            let mut left = ready.clone();
            let mut heard = BTreeSet::new();
            while !left.is_empty() {
                let id = left.swap_remove(prng.below(left.len()));
                heard.insert(id.clone());
                heard.insert(id);
            }
            assert_eq!(owners(&heard), expected);
        }
    }

    /// Two versions that run side by side would else send one session to two nodes.
    #[test]
    fn tables_and_keys_are_those_of_every_version() {
        let text = format!("{:?}", table(&nodes(5)));
        assert_eq!(key(text.as_bytes()), 2_273_997_894_490_757_727, "the table of five nodes is another");
        assert_eq!(key(b"a session"), 2_173_359_230_253_698_998);
    }

    #[test]
    fn a_node_that_leaves_moves_only_the_parts_that_named_it() {
        for count in [2, 3, 5, 10] {
            let before = table(&nodes(count));
            for gone in nodes(count) {
                let mut rest = nodes(count);
                rest.remove(&gone);
                for (part, (old, new)) in before.iter().zip(table(&rest)).enumerate() {
                    assert!(!new.contains(&gone), "{part}");
                    if !old.contains(&gone) {
                        assert_eq!(*old, new, "part {part} moved although {gone} did not own it");
                    }
                    if old[0] != gone {
                        assert_eq!(old[0], new[0], "the first owner of part {part} moved");
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_owns_far_more_than_its_share() {
        for count in [3, 8, 20] {
            let table = table(&nodes(count));
            for node in nodes(count) {
                let owned = table.iter().filter(|owners| owners[0] == node).count();
                let mean = PARTS / count;
                assert!((mean / 2..=mean * 2).contains(&owned), "{node} of {count} owns {owned} parts");
            }
        }
    }

    #[test]
    fn sessions_spread_over_the_parts() {
        let mut prng = Prng::new(1);
        let mut hits = vec![0u32; PARTS];
        for _ in 0..PARTS * 50 {
            let session = format!("user-{}", prng.next_u64());
            hits[usize::try_from(key(session.as_bytes()) % PARTS as u64).unwrap()] += 1;
        }
        assert!(hits.iter().all(|&count| (10..120).contains(&count)), "{hits:?}");
    }
}
