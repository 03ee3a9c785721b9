//! Keeps the table of owners, of sessions and of results, up with who takes work.
//!
//! Part of `shell`.
//! Invariants: the table is built on a thread for work that blocks, one at a time; of several changes meanwhile only
//! the last one counts; what the machine has in the end is the table of the nodes that are ready in the end.
//! Not here: the table itself (`ring`); what an owner may still take (`shoal-core`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use shoal_core::affinity::OwnerTable;
use shoal_core::id::NodeId;
use shoal_core::lifecycle::Standing;
use shoal_core::node::Input;

use super::{Loaded, Shell, State};
use crate::gossip::Member;
use crate::ring;

/// The newest table, and the nodes of the one that is to come.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// For the result cache; the machine has its own copy.
    table: ArcSwap<OwnerTable>,
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    nodes: BTreeSet<NodeId>,
    is_building: bool,
}

impl Owners {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who owns what, as far as it is known.
    pub(super) fn table(&self) -> Guard<Arc<OwnerTable>> {
        self.table.load()
    }
}

impl Shell {
    /// Who takes work may have changed: has the table made anew if it did.
    pub(super) fn mind_owners(&self, state: &State) {
        let nodes = self.who_takes_work(state);
        let wanted = &mut *self.0.owners.lock();
        if wanted.nodes == nodes {
            return;
        }
        wanted.nodes = nodes;
        if !std::mem::replace(&mut wanted.is_building, true) {
            let shell = self.clone();
            self.0.runtime.spawn_blocking(move || shell.build_owners());
        }
    }

    fn build_owners(&self) {
        loop {
            let nodes = self.0.owners.lock().nodes.clone();
            let table = ring::owners(&nodes);
            self.0.owners.table.store(Arc::new(table.clone()));
            self.drive(Input::Owners(table));
            let wanted = &mut *self.0.owners.lock();
            if wanted.nodes == nodes {
                wanted.is_building = false;
                return;
            }
        }
    }

    /// The nodes that sessions may belong to, as far as gossip knows, this one too. Backups only while there is no
    /// other.
    fn who_takes_work(&self, state: &State) -> BTreeSet<NodeId> {
        let facts = &self.0.facts;
        let members = self.0.members.load();
        let loaded = self.0.loaded.load_full();
        let takes = |member: &&Member| {
            let ready = member.engine == Standing::Ready.name();
            member.alive && ready && 0 < member.weight && self.serves(loaded.as_ref(), member)
        };
        let own =
            (state.node.standing() == Standing::Ready && 0 < facts.weight).then_some((&facts.node_id, facts.backup));
        let others = members.iter().filter(takes).map(|member| (&member.id, member.backup));
        let (backups, first): (Vec<_>, Vec<_>) = others.chain(own).partition(|(_, backup)| *backup);
        let chosen = if first.is_empty() { backups } else { first };
        chosen.into_iter().map(|(id, _)| id.clone()).collect()
    }

    /// Whether `member` gives the vectors that this node would.
    pub(super) fn serves(&self, loaded: Option<&Arc<Loaded>>, member: &Member) -> bool {
        match loaded {
            Some(loaded) => *member.model == *loaded.key,
            // Until this node has the model, the name has to do: it cannot give another vector itself.
            None => member.model.split_once('@').is_some_and(|(name, _)| *name == *self.0.facts.model_name),
        }
    }
}
