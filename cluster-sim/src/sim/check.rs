//! What must hold, judged after every event and at the end.
//!
//! For `run`. Each invariant is a function with its name (I1 to I12) in `safety` (what one event
//! can break) or `whole` (what only the whole run shows). A planted bug for each is in `cluster-sim/tests`.
//! Invariants: a check reads the world and changes nothing; each says which fault excuses what, and why.

mod history;
mod safety;
mod whole;

use shoal_core::time::MonoTime;

use super::plan::{Fault, Plan};
use super::slab::Key;
use super::world::World;
use history::History;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which invariant: `I1` to `I12`, or `L` for progress after the faults.
    pub invariant: &'static str,
    /// What is wrong.
    pub what: String,
    /// When.
    pub at: MonoTime,
    /// The node that it is about.
    pub node: usize,
    /// The request that it is about; [`Key::NONE`] when it is about none.
    pub request: Key,
}

impl Broken {
    fn of_request(invariant: &'static str, world: &World, node: u32, request: Key, what: String) -> Self {
        Self { invariant, what, at: world.now(), node: node as usize, request }
    }

    fn of_node(invariant: &'static str, world: &World, node: usize, what: String) -> Self {
        Self { invariant, what, at: world.now(), node, request: Key::NONE }
    }
}

/// The checks of one run.
#[derive(Debug)]
pub struct Checks {
    history: History,
    converged: bool,
}

impl Checks {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { history: History::new(plan), converged: false }
    }

    /// Judges what happened in one event.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn observe(&mut self, world: &World) -> Result<(), Broken> {
        for seen in world.seen() {
            self.history.observe(world, seen);
            safety::judge(world, &self.history, seen)?;
        }
        if !self.converged && whole::converges_at(world.plan()) <= world.now() {
            self.converged = true;
            whole::i12_gossip_converges(world)?;
        }
        Ok(())
    }

    /// Judges the whole run, once all is at rest or the plan is over.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn at_end(&self, world: &World) -> Result<(), Broken> {
        whole::i1_everything_ended(world)?;
        whole::i10_counts_are_zero(world)?;
        whole::i7_joined_nodes_get_their_share(world, &self.history)?;
        whole::i11_loads_are_even(world, &self.history)?;
        whole::l_waits_are_short_again(world, &self.history)
    }
}

impl Fault {
    /// Whether it can make gossip late or wrong.
    fn hurts_gossip(self) -> bool {
        match self {
            Self::Partition(_, traffic) | Self::Mute(_, traffic) | Self::Sever(_, _, traffic) => {
                traffic != super::net::Traffic::Streams
            }
            Self::Loss(permille) => 100 < permille,
            Self::SlowPath(_, extra) => shoal_core::time::Micros::from_ms(20) < extra,
            _ => false,
        }
    }
}
