//! When to stop sending one peer work, and when to try it again.
//!
//! Pure: time and outcomes come in as values. Driven by `peers`, in the node and in the simulator.
//!
//! Invariants: a `Blocking` gate knows its end; at most one probe is out per peer, and a probe is a ping, never a
//! user's request; a lost probe cannot block for ever.
//! Not here: choosing among peers (`route`); what gossip says of a peer (`peers`).

use serde::{Deserialize, Serialize};

use crate::time::{Micros, MonoTime};

/// Whether one peer gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// It gets requests.
    Passing {
        /// Silences since its last word.
        misses: u8,
    },
    /// It gets none.
    Blocking {
        /// When it is pinged.
        until: MonoTime,
        /// Pauses in a row.
        trips: u8,
    },
    /// One ping is out. Without an answer by `until` it counts as failed: a lost outcome cannot block for ever.
    Probing {
        /// When the ping counts as failed.
        until: MonoTime,
        /// Pauses in a row.
        trips: u8,
    },
}

/// What happened to a peer's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A direct word from the peer in answer to this node: an acceptance, an answer, a refusal, a ping's answer.
    Heard,
    /// The peer sent a job of its own. It lives; whether it can be reached has to be asked.
    Called,
    /// Gossip calls it alive again, whom it called dead, and no word of its own says so: that has to be asked.
    Returned,
    /// A connection could not be made, or broke: nothing gets there now.
    Broke,
    /// Something that should have come did not: an acknowledgement, the answer to a ping. It may only be slow.
    Silent,
    /// Time went by.
    Tick,
}

/// How long a peer is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRules {
    /// So many silences in a row block; a broken connection does so at once. At least 1.
    pub misses_max: u8,
    /// First pause; each further one in a row is twice as long.
    pub pause_first: Micros,
    /// Longest pause.
    pub pause_max: Micros,
    /// A pause is by chance up to so many percent longer, so that the nodes around one dead peer do not all ask at once
    /// whether it is back.
    pub jitter_percent: u32,
    /// How long a ping may take.
    pub ping_limit: Micros,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            misses_max: 2,
            pause_first: Micros::from_ms(1000),
            pause_max: Micros::from_ms(30_000),
            jitter_percent: 20,
            ping_limit: Micros::from_ms(400),
        }
    }
}

impl GateRules {
    fn pause(&self, now: MonoTime, trips: u8, chance: u64) -> Gate {
        let doubled = self.pause_first.times(1u64 << u32::from(trips.saturating_sub(1)).min(32));
        let pause = doubled.min(self.pause_max);
        let jitter = Micros::new(chance.checked_rem(pause.percent(self.jitter_percent.into()).get()).unwrap_or(0));
        Gate::Blocking { until: now + pause + jitter, trips }
    }
}

impl Gate {
    /// The gate of a peer that was never tried.
    pub const NEW: Self = Self::Passing { misses: 0 };

    /// Whether the peer gets requests.
    #[must_use]
    pub fn passes(self) -> bool {
        match self {
            Self::Passing { .. } => true,
            Self::Blocking { .. } | Self::Probing { .. } => false,
        }
    }

    /// The state's name, for people and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passing { .. } => "passing",
            Self::Blocking { .. } => "blocking",
            Self::Probing { .. } => "probing",
        }
    }
}

/// The gate after `signal`. A ping is to be sent exactly when the result is `Probing` and `gate` was not.
///
/// `chance` is any random number. Caller's promise: `Tick` comes again and again; any answer of the peer is `Heard`.
#[must_use]
pub fn step(now: MonoTime, rules: &GateRules, gate: Gate, signal: Signal, chance: u64) -> Gate {
    match (gate, signal) {
        (_, Signal::Heard) => Gate::NEW,
        (Gate::Passing { misses }, Signal::Silent) if misses.saturating_add(1) < rules.misses_max => {
            Gate::Passing { misses: misses + 1 }
        }
        (Gate::Passing { .. }, Signal::Broke | Signal::Silent) => rules.pause(now, 1, chance),
        (Gate::Passing { .. }, Signal::Returned) => Gate::Blocking { until: now, trips: 0 },
        // What was learned of the peer while it was gone says nothing any more: it would be left alone for another
        // pause after it is back. One ping for each return is all that this costs, and one that is out is that ping.
        (Gate::Blocking { until, .. }, Signal::Returned) => Gate::Blocking { until: until.min(now), trips: 0 },
        (Gate::Probing { until, .. }, Signal::Returned) => Gate::Probing { until, trips: 0 },
        (Gate::Blocking { until, trips }, Signal::Tick) if until <= now => {
            Gate::Probing { until: now + rules.ping_limit, trips }
        }
        // The first pause ends now. A later one may last as long as a ping: whoever calls and cannot be reached is not
        // pinged for each of its calls.
        (Gate::Blocking { until, trips }, Signal::Called) => {
            let soon = if trips <= 1 { now } else { now + rules.ping_limit };
            Gate::Blocking { until: until.min(soon), trips }
        }
        (Gate::Probing { until, trips }, Signal::Tick) if until <= now => {
            rules.pause(now, trips.saturating_add(1), chance)
        }
        (Gate::Probing { trips, .. }, Signal::Broke | Signal::Silent) => {
            rules.pause(now, trips.saturating_add(1), chance)
        }
        (
            Gate::Passing { .. } | Gate::Blocking { .. } | Gate::Probing { .. },
            Signal::Broke | Signal::Silent | Signal::Called | Signal::Tick,
        ) => gate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime::START + Micros::from_ms(ms)
    }

    fn run(steps: &[(u64, Signal)], expected: Gate) {
        let rules = GateRules::default();
        let end = steps.iter().fold(Gate::NEW, |gate, &(at, signal)| step(ms(at), &rules, gate, signal, 0));
        assert_eq!(end, expected, "{steps:?}");
    }

    use Signal::{Broke, Called, Heard, Returned, Silent, Tick};

    #[test]
    fn one_silence_between_words_does_not_block() {
        run(&[(0, Silent), (1, Heard), (2, Silent)], Gate::Passing { misses: 1 });
    }

    #[test]
    fn two_silences_in_a_row_block_for_a_second() {
        run(&[(0, Silent), (5, Silent)], Gate::Blocking { until: ms(1005), trips: 1 });
    }

    #[test]
    fn a_broken_connection_blocks_at_once() {
        run(&[(7, Broke)], Gate::Blocking { until: ms(1007), trips: 1 });
        run(&[(0, Broke), (10, Broke), (20, Silent)], Gate::Blocking { until: ms(1000), trips: 1 });
        run(&[(0, Broke), (1000, Tick), (1001, Broke)], Gate::Blocking { until: ms(3001), trips: 2 });
    }

    #[test]
    fn a_late_signal_does_not_lengthen_the_pause() {
        run(&[(0, Silent), (0, Silent), (10, Silent)], Gate::Blocking { until: ms(1000), trips: 1 });
    }

    #[test]
    fn the_end_of_a_pause_is_a_ping_and_not_a_request() {
        run(&[(0, Silent), (0, Silent), (999, Tick)], Gate::Blocking { until: ms(1000), trips: 1 });
        run(&[(0, Silent), (0, Silent), (1000, Tick)], Gate::Probing { until: ms(1400), trips: 1 });
    }

    #[test]
    fn a_ping_that_is_never_answered_becomes_a_longer_pause() {
        let lost = [(0, Silent), (0, Silent), (1000, Tick), (1399, Tick), (1400, Tick)];
        run(&lost, Gate::Blocking { until: ms(3400), trips: 2 });
        run(&[(0, Silent), (0, Silent), (1000, Tick), (1100, Silent)], Gate::Blocking { until: ms(3100), trips: 2 });
    }

    #[test]
    fn chance_makes_a_pause_longer_by_up_to_a_fifth() {
        let rules = GateRules::default();
        let untils =
            [0, 1000, 199_999, 200_000, u64::MAX].map(|chance| match step(ms(0), &rules, Gate::NEW, Broke, chance) {
                Gate::Blocking { until, .. } => until.as_micros(),
                other @ (Gate::Passing { .. } | Gate::Probing { .. }) => panic!("{other:?}"),
            });
        assert!(untils.iter().all(|until| (1_000_000..1_200_000).contains(until)), "{untils:?}");
        assert_ne!(untils[1], untils[2]);
    }

    #[test]
    fn a_request_of_the_peer_ends_the_pause_with_a_ping_and_opens_nothing() {
        run(&[(0, Silent), (1, Called), (2, Silent)], Gate::Blocking { until: ms(1002), trips: 1 });
        run(&[(0, Broke), (300, Called)], Gate::Blocking { until: ms(300), trips: 1 });
        run(&[(0, Broke), (300, Called), (310, Tick), (311, Called)], Gate::Probing { until: ms(710), trips: 1 });
        let calls = [(0, Broke), (300, Called), (310, Tick), (311, Broke), (320, Called), (700, Called)];
        run(&calls, Gate::Blocking { until: ms(720), trips: 2 });
    }

    #[test]
    fn whoever_is_said_to_be_back_is_pinged_at_once_and_gets_nothing_before_it_answers() {
        run(&[(5, Returned)], Gate::Blocking { until: ms(5), trips: 0 });
        run(&[(5, Returned), (6, Tick)], Gate::Probing { until: ms(406), trips: 0 });
        run(&[(5, Returned), (6, Tick), (7, Heard)], Gate::NEW);
        run(&[(5, Returned), (6, Tick), (7, Silent)], Gate::Blocking { until: ms(1007), trips: 1 });
    }

    #[test]
    fn whoever_is_said_to_be_back_does_not_wait_for_the_end_of_a_pause() {
        run(&[(0, Broke), (5, Returned)], Gate::Blocking { until: ms(5), trips: 0 });
        run(&[(0, Broke), (1000, Returned)], Gate::Blocking { until: ms(1000), trips: 0 });
        // The ping that is out will do; if it fails, the pauses begin anew.
        let asked = [(0, Broke), (1000, Tick), (1001, Broke), (3001, Tick), (3100, Returned)];
        run(&asked, Gate::Probing { until: ms(3401), trips: 0 });
        run(&[&asked[..], &[(3200, Returned), (3401, Tick)]].concat(), Gate::Blocking { until: ms(4401), trips: 1 });
    }

    #[test]
    fn any_answer_opens_from_every_state() {
        run(&[(0, Silent), (0, Silent), (3, Heard)], Gate::NEW);
        run(&[(0, Silent), (0, Silent), (1000, Tick), (1001, Heard)], Gate::NEW);
    }

    /// From every state reachable within eight signals, silence followed by ticks leads to a ping, and a word to
    /// `Passing`.
    #[test]
    fn no_sequence_of_signals_ends_in_a_state_without_a_way_out() {
        let rules = GateRules::default();
        let mut states = vec![(Gate::NEW, 0u64)];
        for _ in 0..8 {
            states = states
                .iter()
                .flat_map(|&(gate, at)| {
                    [Heard, Called, Returned, Silent, Broke, Tick]
                        .map(|signal| (step(ms(at + 700), &rules, gate, signal, at * 7919), at + 700))
                })
                .collect();
            for &(gate, at) in &states {
                let (until, far) = match gate {
                    Gate::Passing { misses } => {
                        assert!(misses < rules.misses_max);
                        continue;
                    }
                    Gate::Blocking { until, .. } | Gate::Probing { until, .. } => {
                        (until, ms(at) + rules.pause_max.percent(120))
                    }
                };
                assert!(until <= far, "{gate:?} at {at} ms waits beyond the longest pause");
                let next = step(until, &rules, gate, Tick, 0);
                assert_ne!(next, gate, "{gate:?} is stuck");
                assert!(step(until, &rules, next, Heard, 0).passes());
            }
        }
    }
}
