//! What goes into the table of peers and what it shows: settings, gossip, words, questions, views.
//!
//! Part of `peers`. Plain values.

use serde::{Deserialize, Serialize};

use crate::breaker::BreakerRules;
use crate::cost::{Alike, Cost};
use crate::gate::{Gate, GateRules};
use crate::id::{BootId, NodeId};
use crate::lifecycle::Standing;
use crate::load::{LoadRules, Report};
use crate::time::Micros;

/// When a peer is left alone, and how much it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRules {
    /// Broken connections and silence.
    pub gate: GateRules,
    /// What a peer's load is made of.
    pub load: LoadRules,
    /// Errors that pause a peer; `None` = none do.
    pub breaker: Option<BreakerRules>,
    /// Errors make a peer less attractive at once, so that one that fails fast does not attract work.
    pub count_errors: bool,
    /// Answers that come later than promised make a peer's promises count for less.
    pub count_stretch: bool,
    /// So long a node that has just started gets less than its share; `None` = not at all.
    pub slow_start: Option<Micros>,
    /// When gossip calls more than so many percent of the peers dead, whether they answer pings counts instead; 0 =
    /// gossip is always believed.
    pub panic_percent: u32,
}

impl Default for PeerRules {
    fn default() -> Self {
        Self {
            gate: GateRules::default(),
            load: LoadRules::default(),
            breaker: Some(BreakerRules::default()),
            count_errors: true,
            count_stretch: true,
            slow_start: Some(Micros::from_ms(3000)),
            panic_percent: 50,
        }
    }
}

/// What gossip says of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Its name.
    pub id: NodeId,
    /// The run of its process.
    pub boot: BootId,
    /// Its heartbeats come.
    pub alive: bool,
    /// Its own word.
    pub standing: Standing,
    /// It holds the model of this node: same name, revision and precision.
    pub serves: bool,
    /// How much work it should get: 100 is normal, 0 is none.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// Its load, if it was gossiped.
    pub load: Option<Report>,
}

/// What came with a direct word of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Its load.
    pub report: Option<Report>,
    /// A measured round trip, the peer's own time taken off.
    pub rtt: Option<Micros>,
}

/// What is asked about a peer's completion.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Units of the job.
    pub units: u64,
    /// Wait of this node.
    pub wait_here: Micros,
    /// The job's completion here, if it may run here.
    pub here: Option<Micros>,
    /// Cost to assume where it is unknown: this node's own.
    pub cost_unknown: Cost,
    /// Who is as fast as this node, as far as it can tell.
    pub alike: Alike,
    /// How far the answers of this node itself stretch, in thousandths.
    pub stretch_here: u64,
}

/// A peer as people and metrics see it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView<'a> {
    /// What gossip says.
    pub facts: &'a PeerFacts,
    /// Whether its transport works.
    pub gate: Gate,
    /// Its errors pause it.
    pub paused: bool,
    /// Its newest word on its load.
    pub report: Option<Report>,
    /// How old that is.
    pub age: Option<Micros>,
    /// How far its answers stretch, in thousandths.
    pub stretch_permille: u64,
    /// Part of its answers that were errors, in thousandths.
    pub error_permille: u64,
    /// Round trip.
    pub rtt: Micros,
    /// Jobs of this node that are there.
    pub flights: u32,
    /// It answers, although gossip calls it dead.
    pub answers_unheard: bool,
}
