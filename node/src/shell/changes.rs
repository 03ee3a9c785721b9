//! When this node and each of its peers last changed, as this node saw it.
//!
//! Part of `shell`, for people: "dead for 12 s" says more than "dead".
//! Invariants: looked at on every tick and before every view, so a moment is exact to that; at most one line for each
//! peer that the machine knows; the gate of a dead peer is no change: it asks for ever whether the peer is back.
//! Not here: any decision (`shoal-core`).

use std::collections::BTreeMap;

use shoal_core::id::{BootId, NodeId};
use shoal_core::lifecycle::{DoorState, EngineState, Standing};
use shoal_core::node::Node;
use shoal_core::time::{Micros, MonoTime};

/// The moments.
#[derive(Debug, Default)]
pub(super) struct Changes {
    own: Option<Noted<(EngineState, bool)>>,
    peers: BTreeMap<NodeId, Noted<PeerState>>,
    looks: u64,
}

/// What counts as a change of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PeerState {
    boot: BootId,
    alive: bool,
    standing: Standing,
    /// It is alive and its gate passes.
    passes: bool,
}

#[derive(Debug)]
struct Noted<T> {
    state: T,
    since: MonoTime,
    /// The last look that saw it.
    look: u64,
}

impl<T: PartialEq> Noted<T> {
    fn see(&mut self, now: MonoTime, look: u64, state: T) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
        self.look = look;
    }
}

impl Changes {
    /// Looks at the node and its peers, and forgets peers that it does not know any more.
    ///
    /// Cost: one look-up a peer; memory only for a peer that is new.
    pub(super) fn look(&mut self, now: MonoTime, node: &Node) {
        self.looks += 1;
        let look = self.looks;
        let state = (node.engine(), node.door() == DoorState::Open);
        self.own.get_or_insert(Noted { state, since: now, look }).see(now, look, state);
        let mut known = 0;
        for peer in node.peers(now) {
            let facts = peer.facts;
            let state = PeerState {
                boot: facts.boot,
                alive: facts.alive,
                standing: facts.standing,
                passes: facts.alive && peer.gate.passes(),
            };
            match self.peers.get_mut(&facts.id) {
                Some(noted) => noted.see(now, look, state),
                None => drop(self.peers.insert(facts.id.clone(), Noted { state, since: now, look })),
            }
            known += 1;
        }
        if known < self.peers.len() {
            self.peers.retain(|_, noted| noted.look == look);
        }
    }

    /// Since this node itself changed, if it was looked at.
    pub(super) fn own_age(&self, now: MonoTime) -> Option<Micros> {
        self.own.as_ref().map(|noted| now.since(noted.since))
    }

    /// Since `peer` changed, if it was looked at.
    pub(super) fn age(&self, now: MonoTime, peer: &NodeId) -> Option<Micros> {
        self.peers.get(peer).map(|noted| now.since(noted.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::node::{Input, Rules};
    use shoal_core::peers::PeerFacts;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn peer(id: &str) -> PeerFacts {
        PeerFacts {
            id: NodeId::new(id).unwrap(),
            boot: BootId(1),
            alive: true,
            standing: Standing::Ready,
            serves: true,
            weight: 100,
            backup: false,
            load: None,
        }
    }

    /// Steps a node with each input at its millisecond, looks after each, and returns the ages at `end` of the node
    /// itself and of peer `a`, in milliseconds.
    fn ages(steps: Vec<(u64, Input)>, end: u64) -> (Option<u64>, Option<u64>) {
        // Steps so far apart would make the node suspect itself.
        let rules = Rules { pulse: None, ..Rules::default() };
        let mut node = Node::new(NodeId::new("here").unwrap(), BootId(1), rules, 1);
        let mut changes = Changes::default();
        for (at, input) in steps {
            node.step(ms(at), input, &mut Vec::new());
            changes.look(ms(at), &node);
        }
        let whole = |age: Option<Micros>| age.map(|age| age.get() / 1000);
        let peers = node.peers(ms(end)).count();
        assert_eq!(changes.peers.len(), peers, "as many lines as peers");
        (whole(changes.own_age(ms(end))), whole(changes.age(ms(end), &NodeId::new("a").unwrap())))
    }

    #[test]
    fn each_change_of_a_peer_counts_from_its_own_moment_and_nothing_else_does() {
        let members = |peers: &[PeerFacts]| Input::Membership(peers.to_vec());
        let a = || peer("a");
        let cases = [
            (vec![(10, members(&[a()]))], Some(990)),
            (vec![(10, members(&[a()])), (500, Input::Tick), (600, members(&[a(), peer("b")]))], Some(990)),
            (vec![(10, members(&[a()])), (500, members(&[PeerFacts { weight: 7, ..a() }]))], Some(990)),
            (vec![(10, members(&[a()])), (500, members(&[PeerFacts { alive: false, ..a() }]))], Some(500)),
            (vec![(10, members(&[a()])), (500, members(&[PeerFacts { boot: BootId(2), ..a() }]))], Some(500)),
            (
                vec![(10, members(&[a()])), (500, members(&[PeerFacts { standing: Standing::Draining, ..a() }]))],
                Some(500),
            ),
            // The second silence blocks its gate.
            (
                vec![
                    (10, members(&[a()])),
                    (400, Input::PingFailed { peer: a().id, broke: false }),
                    (500, Input::PingFailed { peer: a().id, broke: false }),
                ],
                Some(500),
            ),
            (vec![(10, members(&[a()])), (500, members(&[peer("b")]))], None),
            // Dead since it was called so, whatever its gate does then.
            (
                vec![
                    (10, members(&[a()])),
                    (300, members(&[PeerFacts { alive: false, ..a() }])),
                    (400, Input::PingFailed { peer: a().id, broke: false }),
                    (500, Input::PingFailed { peer: a().id, broke: false }),
                ],
                Some(700),
            ),
            (vec![], None),
        ];
        for (steps, expected) in cases {
            let told = format!("{steps:?}");
            assert_eq!(ages(steps, 1000).1, expected, "{told}");
        }
    }

    #[test]
    fn asking_again_and_again_whether_a_peer_is_back_is_no_change() {
        let failed = || Input::PingFailed { peer: peer("a").id, broke: false };
        let mut steps = vec![(10, Input::Membership(vec![peer("a")])), (20, failed()), (30, failed())];
        // Each pause ends in a ping, and each ping fails.
        steps.extend((1..400).map(|tick| (30 + tick * 25, Input::Tick)));
        assert_eq!(ages(steps, 10_030).1, Some(10_000));
    }

    #[test]
    fn the_node_itself_changes_with_its_engine_and_its_door() {
        let ready = Input::EngineReady { units: 1, took: Micros::from_ms(1) };
        assert_eq!(ages(vec![], 1000).0, None);
        assert_eq!(ages(vec![(5, Input::Tick), (25, Input::Tick)], 1000).0, Some(995));
        assert_eq!(ages(vec![(5, Input::Tick), (400, ready.clone())], 1000).0, Some(600));
        // From settling to closing is no change any more.
        let leaves = vec![(5, Input::Tick), (10, ready), (400, Input::Leave), (910, Input::Tick)];
        assert_eq!(ages(leaves, 1000).0, Some(600));
    }
}
