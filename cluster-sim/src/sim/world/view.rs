//! What others may know of the world.
//!
//! Part of `world`, for `run`, `check` and `report`. Nothing here changes anything.

use shoal_core::id::NodeId;
use shoal_core::node::Node;
use shoal_core::time::MonoTime;

use super::super::gossip::Known;
use super::super::plan::Plan;
use super::super::seen::Seen;
use super::super::slab::Key;
use super::World;
use super::records::Request;

impl World {
    /// What happened in the last event.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.now
    }

    /// The plan that is carried out.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Steps of machines so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A request that is still somewhere.
    #[must_use]
    pub fn request(&self, key: Key) -> Option<&Request> {
        self.requests.get(key)
    }

    /// All requests that are still somewhere.
    pub fn requests(&self) -> impl Iterator<Item = (Key, &Request)> {
        self.requests.iter()
    }

    /// The machine at `node`, with the present by its own clock.
    #[must_use]
    pub fn machine(&self, node: usize) -> Option<(&Node, MonoTime)> {
        let now = self.local(node);
        self.seats[node].process.as_ref().map(|process| (&process.node, now))
    }

    /// Whether `id` is the name of `node`.
    #[must_use]
    pub fn is_named(&self, node: usize, id: &NodeId) -> bool {
        self.seats[node].id == *id
    }

    /// Since when `node` has had no process; `None` when it has one or never had one.
    #[must_use]
    pub fn gone_since(&self, node: usize) -> Option<MonoTime> {
        self.seats[node].gone
    }

    /// Since when the process at `node` has been told to leave.
    #[must_use]
    pub fn leaving_since(&self, node: usize) -> Option<MonoTime> {
        self.seats[node].leaving
    }

    /// Since when the process at `node` has its model.
    #[must_use]
    pub fn ready_since(&self, node: usize) -> Option<MonoTime> {
        self.seats[node].ready
    }

    /// When the process at `node` started.
    #[must_use]
    pub fn started(&self, node: usize) -> MonoTime {
        self.seats[node].started
    }

    /// Whether the process at `node` is stopped.
    #[must_use]
    pub fn is_frozen(&self, node: usize) -> bool {
        self.seats[node].frozen.is_some()
    }

    /// What the gossip of `node` knows of the others, into `known`.
    pub fn gossip_of(&self, node: usize, known: &mut Vec<Known>) {
        self.gossip.known(node, known);
    }

    /// The number of the process that runs at `node`, or ran there last.
    #[must_use]
    pub fn boot(&self, node: usize) -> u64 {
        self.seats[node].boot
    }

    /// How often each rule decided something, over all processes that ever ran.
    #[must_use]
    pub fn exercised(&self) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for seat in &self.seats {
            let now = seat.process.iter().flat_map(|process| process.node.exercised());
            for (name, count) in seat.exercised.iter().copied().chain(now) {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += count,
                    None => sums.push((name, count)),
                }
            }
        }
        sums
    }

    /// All processes are at rest as their machines see it.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.streams.is_empty() && self.jobs.is_empty() && self.requests.iter().all(|(_, asked)| !asked.waits)
    }

    /// Nodes that have a process.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.seats.len()).filter(|&node| self.seats[node].process.is_some())
    }
}
