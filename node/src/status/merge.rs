//! From the answers of several nodes to one line for each node of the shoal.
//!
//! Part of `status`. Pure: `survey` asks, this puts together, `findings` judges, `table` and JSON show.
//! Invariants: a node's own word on itself counts before what others say of it, and the asked node's before that of the
//! rest; who claims a name at another's address is not believed; as many lines as [`NODES_MAX`] at most.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::findings::{self, Finding};
use super::said::{PeerSaid, Said};
use super::text::Text;

/// Most nodes that are shown: more than a shoal can have, so that a liar cannot fill the memory.
const NODES_MAX: usize = 1024;

/// What asking brought.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    /// Where the first node was asked.
    pub(super) asked_at: SocketAddr,
    /// Its answer.
    pub(super) asked: Said,
    /// Each peer that it named, by that name.
    pub(super) others: BTreeMap<Text, Reached>,
}

/// How asking one peer ended.
#[derive(Clone, Debug)]
pub(super) enum Reached {
    /// With an answer, of whomever.
    Answered(Box<Said>),
    /// Without.
    Failed(Fault),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection; why, says the system.
    Refused(Text),
    /// Nothing came within the limit.
    Silent,
    /// Something came that is no such answer.
    Garbled(Text),
    /// A node of a version that has no `/status`.
    Old,
    /// It names no address at which it could be asked.
    NoAddress,
    /// There are too many to ask.
    Crowd,
}

/// Every node that answered for itself, by name.
#[derive(Debug)]
pub(super) struct Speakers<'a>(BTreeMap<&'a Text, Speaker<'a>>);

/// One that answered, and what it says of the others.
#[derive(Debug)]
pub(super) struct Speaker<'a> {
    pub(super) said: &'a Said,
    pub(super) peers: BTreeMap<&'a Text, &'a PeerSaid>,
}

/// All that is known of the shoal at one moment. Its JSON form is the output of `shoal status --json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// No finding is a fault.
    pub(super) well: bool,
    pub(super) cluster: Text,
    /// The node that was asked first: gates, jobs in flight and last changes are as it sees them.
    pub(super) asked: Text,
    pub(super) asked_at: SocketAddr,
    /// How many answered for themselves.
    pub(super) answered: usize,
    /// By name.
    pub(super) nodes: Vec<Node>,
    pub(super) findings: Vec<Finding>,
}

/// One node of the shoal.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Node {
    pub(super) node_id: Text,
    pub(super) asked: bool,
    /// It answered for itself.
    pub(super) answered: bool,
    /// No finding about it is a fault.
    pub(super) well: bool,
    /// `starting`, `ready`, `draining`, `wedged` or `failed`; `dead`, or `left` when it had said that it would leave; a
    /// word of a later version; empty while unknown.
    pub(super) state: Text,
    /// Why it cannot compute.
    pub(super) message: Text,
    pub(super) door: Door,
    /// More about the door, where there is more to say.
    pub(super) door_message: Text,
    pub(super) wait_us: Option<u64>,
    pub(super) busy_percent: Option<u8>,
    pub(super) held: Option<u32>,
    /// Jobs of the asked node that are there.
    pub(super) in_flight: Option<u32>,
    /// `passing`, `blocking` or `probing`.
    pub(super) gate: Option<Text>,
    pub(super) paused: bool,
    pub(super) changed_ms: Option<u64>,
    pub(super) weight: Option<u32>,
    pub(super) backup: bool,
    pub(super) version: Text,
    /// name@revision/precision; empty until it is known.
    pub(super) model: Text,
    pub(super) api_addr: Text,
    pub(super) peer_addr: Text,
    /// Who sees it how, of those that answered.
    pub(super) alive_at: Vec<Text>,
    pub(super) dead_at: Vec<Text>,
    pub(super) unknown_to: Vec<Text>,
}

/// What a node's callers meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Door {
    /// Answers, given there or through a peer.
    Open,
    /// Answers still, or a connection refused: it drains.
    Leaving,
    /// 503.
    Shut,
    /// No connection.
    Refused,
    /// A connection maybe, and no answer.
    Silent,
    /// Something that is no shoal node, or another node than it should be.
    Stranger,
    /// A node that cannot tell its state.
    Old,
    /// It was not asked.
    NotAsked,
}

impl Door {
    /// For a table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Leaving => "leaving",
            Self::Shut => "shut",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Stranger => "stranger",
            Self::Old => "old",
            Self::NotAsked => "not asked",
        }
    }
}

impl Node {
    /// Something that knows this node's name answered at its address.
    pub(super) fn door_answers(&self) -> bool {
        self.answered || self.door == Door::Old
    }
}

impl<'a> Speakers<'a> {
    fn of(gathered: &'a Gathered) -> Self {
        let others = gathered.others.iter().filter_map(|(name, reached)| match reached {
            Reached::Answered(said) if said.node_id == *name => Some(&**said),
            Reached::Answered(_) | Reached::Failed(_) => None,
        });
        let speakers = std::iter::once(&gathered.asked).chain(others);
        Self(speakers.map(|said| (&said.node_id, Speaker::new(said))).collect())
    }

    /// The node of that name, if it answered.
    pub(super) fn get(&self, name: &Text) -> Option<&Speaker<'a>> {
        self.0.get(name)
    }

    /// Each node that answered, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Speaker<'a>> {
        self.0.values()
    }

    /// Everybody who answered or was named, the asked node and its peers before those that only others name.
    fn names(&self, asked: &'a Said) -> Vec<&'a Text> {
        let mut names: BTreeMap<&Text, ()> = BTreeMap::from([(&asked.node_id, ())]);
        let hearsay = self.iter().flat_map(|speaker| speaker.peers.keys().copied());
        for name in asked.peers.iter().map(|peer| &peer.node_id).chain(hearsay) {
            if names.len() < NODES_MAX {
                names.insert(name, ());
            }
        }
        names.into_keys().collect()
    }
}

impl<'a> Speaker<'a> {
    fn new(said: &'a Said) -> Self {
        let others = said.peers.iter().filter(|peer| peer.node_id != said.node_id);
        Self { said, peers: others.map(|peer| (&peer.node_id, peer)).collect() }
    }
}

/// Puts the answers together.
pub(super) fn merge(gathered: &Gathered) -> Report {
    let speakers = Speakers::of(gathered);
    let names = speakers.names(&gathered.asked);
    let mut nodes: Vec<Node> = names.into_iter().map(|name| node(gathered, &speakers, name)).collect();
    let findings = findings::judge(&speakers, &nodes);
    for node in &mut nodes {
        node.well = !findings.iter().any(|finding| finding.fault && finding.node.as_ref() == Some(&node.node_id));
    }
    Report {
        well: !findings.iter().any(|finding| finding.fault),
        cluster: gathered.asked.cluster.clone(),
        asked: gathered.asked.node_id.clone(),
        asked_at: gathered.asked_at,
        answered: speakers.0.len(),
        nodes,
        findings,
    }
}

fn node(gathered: &Gathered, speakers: &Speakers<'_>, name: &Text) -> Node {
    let own = speakers.get(name).map(|speaker| speaker.said);
    let seen_by = |speaker: &Speaker<'_>, alive| speaker.peers.get(name).is_some_and(|peer| peer.alive == Some(alive));
    let who = |is: &dyn Fn(&Speaker<'_>) -> bool| -> Vec<Text> {
        let others = speakers.iter().filter(|speaker| speaker.said.node_id != *name);
        others.filter(|speaker| is(speaker)).map(|speaker| speaker.said.node_id.clone()).collect()
    };
    let (alive_at, dead_at) = (who(&|speaker| seen_by(speaker, true)), who(&|speaker| seen_by(speaker, false)));
    let unknown_to = who(&|speaker| !speaker.peers.contains_key(name));
    let asked = &gathered.asked;
    let at_asked = speakers.get(&asked.node_id).and_then(|speaker| speaker.peers.get(name).copied());
    // Of a node that the asked one does not know, what somebody says who hears it.
    let elsewhere = || {
        let named = speakers.iter().filter_map(|speaker| speaker.peers.get(name).copied());
        named.max_by_key(|peer| peer.alive)
    };
    let heard = at_asked.or_else(elsewhere);
    let (door, door_message) = match own {
        Some(said) => (own_door(said), Text::default()),
        None => door(gathered.others.get(name), heard),
    };
    let of = |own_word: fn(&Said) -> &Text, word: fn(&PeerSaid) -> &Text| {
        let word = own.map(own_word).or_else(|| heard.map(word));
        word.cloned().unwrap_or_default()
    };
    Node {
        node_id: name.clone(),
        asked: *name == asked.node_id,
        answered: own.is_some(),
        well: true,
        state: own.map_or_else(|| heard.map_or_else(Text::default, heard_state), |said| said.engine.clone()),
        message: own.map_or_else(Text::default, |said| said.engine_message.clone()),
        door,
        door_message,
        wait_us: own.map_or_else(|| heard.and_then(|peer| peer.wait_us), |said| said.wait_us),
        busy_percent: own.map_or_else(|| heard.and_then(|peer| peer.busy_percent), |said| said.load_percent),
        held: own.map_or_else(|| heard.and_then(|peer| peer.held), |said| said.held),
        in_flight: at_asked.and_then(|peer| peer.in_flight),
        gate: at_asked.map(|peer| peer.gate.clone()).filter(|gate| !gate.is_empty()),
        paused: at_asked.is_some_and(|peer| peer.paused),
        changed_ms: if *name == asked.node_id { asked.changed_ms } else { at_asked.and_then(|peer| peer.changed_ms) },
        weight: own.map_or_else(|| heard.and_then(|peer| peer.weight), |said| said.weight),
        backup: own.map_or_else(|| heard.is_some_and(|peer| peer.backup), |said| said.backup),
        version: of(|said| &said.version, |peer| &peer.version),
        model: of(|said| &said.model, |peer| &peer.model),
        api_addr: of(|said| &said.api_addr, |peer| &peer.api_addr),
        peer_addr: heard.map_or_else(Text::default, |peer| peer.peer_addr.clone()),
        alive_at,
        dead_at,
        unknown_to,
    }
}

fn heard_state(peer: &PeerSaid) -> Text {
    match (peer.alive, &*peer.engine) {
        (Some(false), "draining") => Text::from("left"),
        (Some(false), _) => Text::from("dead"),
        (Some(true) | None, _) => peer.engine.clone(),
    }
}

fn own_door(said: &Said) -> Door {
    match said.can_answer {
        _ if said.leaves() => Door::Leaving,
        Some(false) => Door::Shut,
        Some(true) | None => Door::Open,
    }
}

/// The door of a node that did not answer for itself.
fn door(reached: Option<&Reached>, heard: Option<&PeerSaid>) -> (Door, Text) {
    let leaves = heard.is_some_and(|peer| peer.alive == Some(true) && &*peer.engine == "draining");
    match reached {
        None | Some(Reached::Failed(Fault::Crowd)) => (Door::NotAsked, Text::default()),
        Some(Reached::Failed(Fault::NoAddress)) => (Door::NotAsked, Text::from("it names no address")),
        Some(Reached::Failed(Fault::Refused(_) | Fault::Silent)) if leaves => (Door::Leaving, Text::default()),
        Some(Reached::Failed(Fault::Refused(why))) => (Door::Refused, why.clone()),
        Some(Reached::Failed(Fault::Silent)) => (Door::Silent, Text::from("nothing came within the limit")),
        Some(Reached::Failed(Fault::Garbled(why))) => (Door::Stranger, why.clone()),
        Some(Reached::Failed(Fault::Old)) => (Door::Old, Text::default()),
        Some(Reached::Answered(said)) => {
            let who = format!("{} of cluster {} answers there", said.node_id, said.cluster);
            (Door::Stranger, Text::from(who))
        }
    }
}
