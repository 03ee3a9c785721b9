//! The mechanisms of the decisions, each with what switches it off.
//!
//! For `explore --ablate`: a mechanism stays only while its removal makes a named scenario worse.
//! Invariants: to add a mechanism is one line here.

use shoal_core::node::Rules;
use shoal_core::time::Micros;

/// One mechanism.
#[derive(Clone, Copy, Debug)]
pub struct Mechanism {
    /// Its name.
    pub name: &'static str,
    /// Switches it off.
    pub off: fn(&mut Rules),
}

/// All mechanisms that can be switched off.
pub const MECHANISMS: &[Mechanism] = &[
    Mechanism { name: "in_band_reports", off: |rules| rules.peers.load.in_band = false },
    Mechanism { name: "sent_since_report", off: |rules| rules.peers.load.count_sent = false },
    Mechanism { name: "verify_at_target", off: |rules| rules.route.verify = false },
    Mechanism { name: "two_choices", off: |rules| rules.route.candidates = 1 },
    Mechanism { name: "margin", off: |rules| (rules.route.margin_min, rules.route.margin_percent) = (Micros::ZERO, 0) },
    Mechanism { name: "heat", off: |rules| rules.heat = None },
    Mechanism { name: "breaker", off: |rules| rules.peers.breaker = None },
    Mechanism { name: "error_penalty", off: |rules| rules.peers.count_errors = false },
    Mechanism { name: "stretch", off: |rules| rules.peers.count_stretch = false },
    Mechanism { name: "slow_start", off: |rules| rules.peers.slow_start = None },
    Mechanism { name: "panic", off: |rules| rules.peers.panic_percent = 0 },
    Mechanism { name: "retry_budget", off: |rules| rules.retry_budget = None },
    Mechanism { name: "rebalance", off: |rules| rules.rebalance = None },
    Mechanism { name: "hedge", off: |rules| rules.hedge = None },
    Mechanism { name: "self_suspicion", off: |rules| rules.pulse = None },
    Mechanism { name: "pooled_costs", off: |rules| rules.pool_costs = false },
    Mechanism { name: "measure", off: |rules| rules.measure.interval = Micros::MAX },
    Mechanism { name: "start_hold", off: |rules| rules.retry.start_hold = Micros::ZERO },
    Mechanism { name: "accept_limit", off: |rules| rules.accept_limit.0 = Micros::from_ms(3_600_000) },
];
