//! Why a job went where it went, for who asks.
//!
//! Part of the machine in `node`.
//! Invariants: only a job that asked carries one; it has as many decisions as the job had placements, hedges included,
//! and one more where it waited here and moved before it ran; each lists at most [`OPTIONS_MAX`] nodes.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::route::Seat;
use crate::time::Micros;

/// Most nodes that one decision lists.
pub const OPTIONS_MAX: usize = 16;

/// All decisions about one job, the first one first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One for each time that it was placed.
    pub decisions: Vec<Decision>,
    /// Chunks that the call was cut into; the decisions are those about the first one. 0 = it was placed whole.
    pub chunks: u32,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Since the job came.
    pub at: Micros,
    /// The nodes that could have got it, this one included.
    pub options: Vec<NodeOption>,
    /// Who got it.
    pub chosen: NodeId,
    /// Why.
    pub reason: Reason,
}

/// A node that could have got the job, as this node saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOption {
    /// Its name.
    pub node: NodeId,
    /// When the job would have been done there.
    pub completion: Micros,
    /// Time until it would have started.
    pub wait: Micros,
    /// Round trip.
    pub rtt: Micros,
    /// Age of what was known of its load; `None` = nothing was.
    pub age: Option<Micros>,
}

/// Why a node got a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody else could get it.
    OnlyChoice,
    /// No peer was sooner by the margin.
    HereIsSoonEnough,
    /// It was sooner by the margin.
    PeerIsSooner,
    /// The policy said so.
    Policy,
    /// It owns the session.
    OwnsSession,
    /// It was the last placement that the job had left.
    LastPlacement,
    /// The first placement was late.
    Hedge,
    /// The job waited here, and a peer that was asked turned out to be sooner by the margin.
    BecameSooner,
}

impl Reason {
    /// Its name, in lower case with underscores.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnlyChoice => "only_choice",
            Self::HereIsSoonEnough => "here_is_soon_enough",
            Self::PeerIsSooner => "peer_is_sooner",
            Self::Policy => "policy",
            Self::OwnsSession => "owns_session",
            Self::LastPlacement => "last_placement",
            Self::Hedge => "hedge",
            Self::BecameSooner => "became_sooner",
        }
    }
}

impl Explanation {
    /// Adds a decision.
    pub(super) fn add(&mut self, at: Micros, seats: &[Seat], chosen: &NodeId, reason: Reason) {
        let option = |seat: &Seat| NodeOption {
            node: seat.id.clone(),
            completion: seat.completion,
            wait: seat.wait,
            rtt: seat.rtt,
            age: seat.age,
        };
        let options = seats.iter().take(OPTIONS_MAX).map(option).collect();
        self.decisions.push(Decision { at, options, chosen: chosen.clone(), reason });
    }
}
