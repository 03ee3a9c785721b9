//! Who should serve a session, so that what belongs together is computed in one place.
//!
//! For `node`. The shell makes the table from a consistent hash whenever the ready nodes change; here it is a value.
//! Invariants: the table names at most [`OWNERS`] different nodes a part, all of them in its own list; an owner that
//! holds far more than its share is passed over (consistent hashing with bounded loads, Mirrokni, Thorup and
//! Zadimoghaddam 2018).

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Owners of a key, in the order in which they are asked.
pub const OWNERS: usize = 3;
/// Most parts of a table.
pub const PARTS_MAX: usize = 1 << 16;

/// How far an owner may be above the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityRules {
    /// Most that an owner holds, in percent of the mean over all nodes.
    pub bound_percent: u32,
}

impl Default for AffinityRules {
    fn default() -> Self {
        Self { bound_percent: 125 }
    }
}

/// Owners of every part of the key space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawOwnerTable", into = "RawOwnerTable")]
pub struct OwnerTable {
    nodes: Vec<NodeId>,
    parts: Vec<Vec<u16>>,
}

/// As it is written down, not checked yet.
#[derive(Clone, Serialize, Deserialize)]
struct RawOwnerTable {
    nodes: Vec<NodeId>,
    parts: Vec<Vec<u16>>,
}

/// Why lists are no owner table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerTableError {
    /// More parts than [`PARTS_MAX`].
    #[error("an owner table has at most {PARTS_MAX} parts")]
    TooManyParts,
    /// A part with more owners than [`OWNERS`], one twice, or one that is not in the list of nodes.
    #[error("part {0} of the owner table does not name up to {OWNERS} different nodes of its list")]
    Owners(usize),
}

impl OwnerTable {
    /// A table in which `parts[p]` lists positions in `nodes`, the first owner of part `p` first.
    ///
    /// # Errors
    /// [`OwnerTableError`] when the two do not fit each other.
    pub fn new(nodes: Vec<NodeId>, parts: Vec<Vec<u16>>) -> Result<Self, OwnerTableError> {
        if PARTS_MAX < parts.len() {
            return Err(OwnerTableError::TooManyParts);
        }
        for (part, owners) in parts.iter().enumerate() {
            let known = owners.iter().all(|&owner| usize::from(owner) < nodes.len());
            let twice = owners.iter().enumerate().any(|(index, owner)| owners[..index].contains(owner));
            if OWNERS < owners.len() || !known || twice {
                return Err(OwnerTableError::Owners(part));
            }
        }
        Ok(Self { nodes, parts })
    }

    /// The owners of `key`, the first one first; none when the table is empty.
    pub fn owners(&self, key: u64) -> impl Iterator<Item = &NodeId> {
        let part = key.checked_rem(self.parts.len() as u64).and_then(|part| usize::try_from(part).ok());
        let owners = part.map_or(&[][..], |part| &self.parts[part]);
        owners.iter().map(|&owner| &self.nodes[usize::from(owner)])
    }
}

impl TryFrom<RawOwnerTable> for OwnerTable {
    type Error = OwnerTableError;

    fn try_from(raw: RawOwnerTable) -> Result<Self, OwnerTableError> {
        Self::new(raw.nodes, raw.parts)
    }
}

impl From<OwnerTable> for RawOwnerTable {
    fn from(table: OwnerTable) -> Self {
        Self { nodes: table.nodes, parts: table.parts }
    }
}

/// Jobs that an owner may hold beside what runs there at one time, however little the others hold: with a handful of
/// jobs in the whole shoal the mean says nothing, and sessions would be passed on for nothing.
const HELD_FLOOR: u64 = 3;

/// What an owner, and all nodes together, hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Jobs of the owner.
    pub held: u64,
    /// Batches that run there at one time.
    pub slots: u64,
    /// Jobs of all nodes together.
    pub held_sum: u64,
    /// How many nodes that are.
    pub nodes: u64,
}

/// Whether the owner may get one more job.
#[must_use]
pub fn within_bound(rules: &AffinityRules, holding: Holding) -> bool {
    let Holding { held, slots, held_sum, nodes } = holding;
    let share = (held_sum.saturating_add(1)).saturating_mul(rules.bound_percent.into());
    held < slots.saturating_add(HELD_FLOOR) || held < share.div_ceil(nodes.max(1).saturating_mul(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("a sound id")
    }

    #[test]
    fn a_key_leads_to_the_owners_of_its_part() {
        let table = OwnerTable::new(vec![id("a"), id("b"), id("c")], vec![vec![0, 1], vec![2], vec![]]).unwrap();
        for (key, expected) in [(0, "ab"), (3, "ab"), (1, "c"), (2, ""), (u64::MAX, "ab")] {
            let owners: String = table.owners(key).map(NodeId::as_str).collect();
            assert_eq!(owners, expected, "{key}");
        }
        assert_eq!(OwnerTable::default().owners(7).count(), 0);
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused() {
        let nodes = || vec![id("a"), id("b"), id("c"), id("d")];
        for parts in [vec![vec![4]], vec![vec![0], vec![1, 1]], vec![vec![0, 1, 2, 3]]] {
            let part = parts.len() - 1;
            assert_eq!(OwnerTable::new(nodes(), parts), Err(OwnerTableError::Owners(part)));
        }
        let many = OwnerTable::new(nodes(), vec![vec![]; PARTS_MAX + 1]);
        assert_eq!(many, Err(OwnerTableError::TooManyParts));
    }

    #[test]
    fn an_owner_may_be_a_quarter_above_the_mean_and_always_hold_a_few() {
        let rules = AffinityRules::default();
        for (held, slots, held_sum, nodes, expected) in [
            (0, 1, 0, 3, true),
            (3, 1, 3, 3, true),
            (4, 1, 4, 3, false),
            (10, 8, 10, 3, true),
            (11, 8, 11, 3, false),
            (12, 1, 29, 3, true),
            (13, 1, 29, 3, false),
            (u64::MAX, u64::MAX, u64::MAX, 1, false),
        ] {
            let holding = Holding { held, slots, held_sum, nodes };
            assert_eq!(within_bound(&rules, holding), expected, "{holding:?}");
        }
    }
}
