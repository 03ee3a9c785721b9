//! What a node can do: its engine and its door are two facts.
//!
//! For `node`. A node whose engine is not ready still answers its callers through peers; a node that drains still
//! answers until it closes.
//! Invariants: a drain always ends: every state after `Open` knows its end.

use serde::{Deserialize, Serialize};

use crate::time::{Micros, MonoTime};

/// Whether the node's model can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineState {
    /// The model is loading, or its first inference runs.
    Starting,
    /// It computes.
    Ready,
    /// It is loaded, but its canary fails: what it computes cannot be trusted, or does not come.
    Wedged,
    /// It did not load. The door stays open: peers may have the model.
    Failed,
}

/// What a node says of itself to its peers. Busy is none of these: that is its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// Its model loads.
    Starting,
    /// It takes work.
    Ready,
    /// It is leaving.
    Draining,
    /// Its canary fails.
    Wedged,
    /// Its model did not load.
    Failed,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Ready, Self::Draining, Self::Wedged, Self::Failed];

    /// What a node with this `engine` and `door` says.
    #[must_use]
    pub fn of(engine: EngineState, door: DoorState) -> Self {
        match (door.draining(), engine) {
            (true, _) => Self::Draining,
            (false, EngineState::Starting) => Self::Starting,
            (false, EngineState::Ready) => Self::Ready,
            (false, EngineState::Wedged) => Self::Wedged,
            (false, EngineState::Failed) => Self::Failed,
        }
    }

    /// Whether it gets new work of others.
    #[must_use]
    pub fn accepts(self) -> bool {
        self == Self::Ready
    }

    /// `starting`, `ready`, `draining`, `wedged` or `failed`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Wedged => "wedged",
            Self::Failed => "failed",
        }
    }

    /// The standing with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.name() == name)
    }
}

/// Whether the node takes callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DoorState {
    /// It does.
    Open,
    /// It does still, and asks them to go elsewhere, until peers and resolvers have heard that it leaves.
    Settling {
        /// When it closes.
        until: MonoTime,
    },
    /// It takes no new caller and finishes what it holds.
    Closing {
        /// When it leaves whatever it still holds.
        until: MonoTime,
    },
    /// It is done; the process ends.
    Closed,
}

/// How long a drain may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRules {
    /// How long callers are still taken after the word to leave.
    pub settle: Micros,
    /// How long held work may take after that.
    pub limit: Micros,
    /// The same after a second word to leave.
    pub limit_fast: Micros,
}

impl Default for DrainRules {
    fn default() -> Self {
        Self { settle: Micros::from_ms(500), limit: Micros::from_ms(30_000), limit_fast: Micros::from_ms(1000) }
    }
}

/// A word to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorSignal {
    /// The node is to leave; said twice, it is to leave fast.
    Leave,
    /// Time went by, and the node holds work or not.
    Tick {
        /// Nothing is queued, running or forwarded.
        idle: bool,
    },
}

impl DoorState {
    /// Whether the node is leaving.
    #[must_use]
    pub fn draining(self) -> bool {
        match self {
            Self::Open => false,
            Self::Settling { .. } | Self::Closing { .. } | Self::Closed => true,
        }
    }
}

/// The door after `signal`.
#[must_use]
pub fn step(now: MonoTime, rules: &DrainRules, door: DoorState, signal: DoorSignal) -> DoorState {
    match (door, signal) {
        (DoorState::Open, DoorSignal::Leave) => DoorState::Settling { until: now + rules.settle },
        (DoorState::Settling { .. }, DoorSignal::Leave) => DoorState::Closing { until: now + rules.limit_fast },
        (DoorState::Closing { until }, DoorSignal::Leave) => {
            DoorState::Closing { until: until.min(now + rules.limit_fast) }
        }
        (DoorState::Settling { until }, DoorSignal::Tick { .. }) if until <= now => {
            DoorState::Closing { until: now + rules.limit }
        }
        (DoorState::Closing { until }, DoorSignal::Tick { idle }) if idle || until <= now => DoorState::Closed,
        (
            DoorState::Open | DoorState::Settling { .. } | DoorState::Closing { .. } | DoorState::Closed,
            DoorSignal::Leave | DoorSignal::Tick { .. },
        ) => door,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn run(steps: &[(u64, DoorSignal)], expected: DoorState) {
        let rules = DrainRules::default();
        let end = steps.iter().fold(DoorState::Open, |door, &(at, signal)| step(ms(at), &rules, door, signal));
        assert_eq!(end, expected, "{steps:?}");
    }

    const LEAVE: DoorSignal = DoorSignal::Leave;
    const IDLE: DoorSignal = DoorSignal::Tick { idle: true };
    const BUSY: DoorSignal = DoorSignal::Tick { idle: false };

    #[test]
    fn an_idle_node_still_takes_callers_while_the_word_spreads() {
        run(&[(0, LEAVE), (499, IDLE)], DoorState::Settling { until: ms(500) });
        run(&[(0, LEAVE), (500, IDLE)], DoorState::Closing { until: ms(30_500) });
        run(&[(0, LEAVE), (500, IDLE), (550, IDLE)], DoorState::Closed);
    }

    #[test]
    fn held_work_is_finished_but_not_for_ever() {
        run(&[(0, LEAVE), (500, BUSY), (30_499, BUSY)], DoorState::Closing { until: ms(30_500) });
        run(&[(0, LEAVE), (500, BUSY), (30_500, BUSY)], DoorState::Closed);
    }

    #[test]
    fn a_second_word_is_fast_and_a_third_never_slower() {
        run(&[(0, LEAVE), (10, LEAVE)], DoorState::Closing { until: ms(1010) });
        run(&[(0, LEAVE), (500, BUSY), (600, LEAVE)], DoorState::Closing { until: ms(1600) });
        run(&[(0, LEAVE), (10, LEAVE), (900, LEAVE)], DoorState::Closing { until: ms(1010) });
        run(&[(0, LEAVE), (10, LEAVE), (1010, BUSY), (1020, LEAVE)], DoorState::Closed);
    }

    #[test]
    fn a_standing_is_found_by_its_name_and_only_ready_takes_work() {
        for standing in Standing::ALL {
            assert_eq!(Standing::named(standing.name()), Some(standing));
            assert_eq!(standing.accepts(), standing == Standing::Ready);
        }
        assert_eq!(Standing::named("dead"), None);
        let leaving = DoorState::Closing { until: ms(1) };
        assert_eq!(Standing::of(EngineState::Ready, leaving), Standing::Draining);
        assert_eq!(Standing::of(EngineState::Wedged, DoorState::Open), Standing::Wedged);
    }

    #[test]
    fn an_open_door_is_not_closed_by_time() {
        run(&[(0, IDLE), (1_000_000, BUSY)], DoorState::Open);
    }
}
