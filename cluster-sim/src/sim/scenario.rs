//! Plans: named ones, each for one question, and one for every seed.
//!
//! For `explore`. A named scenario is a function; a random one draws load, devices, network and faults from its seed.
//! Invariants: a random plan lasts at least 30 seconds, has at least 2,000 requests and at least three faults; the plan
//! depends on nothing but its arguments.

mod named;
mod random;

use std::sync::Arc;

use shoal_core::node::Rules;
use shoal_core::time::{Micros, MonoTime};

use super::gossip::GossipRules;
use super::models::{ArrivalModel, Device, ServiceModel, Shape, Spread};
use super::net::NetRules;
use super::plan::{Fault, Membership, Plan, Planned, Terms};
pub use named::{NAMED, Named};
pub use random::random;

/// Plan of the named scenario `name` for `seed` and, where the scenario does not fix them, `nodes`.
#[must_use]
pub fn named(name: &str, seed: u64, nodes: usize) -> Option<Plan> {
    let scenario = NAMED.iter().find(|scenario| scenario.name == name)?;
    Some(Plan { name: scenario.name, ..(scenario.plan)(seed, nodes) })
}

/// The moment `s` seconds after the start.
#[must_use]
pub fn second(s: f64) -> MonoTime {
    MonoTime::START + seconds(s)
}

/// `s` seconds.
#[must_use]
pub fn seconds(s: f64) -> Micros {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let micros = (s * 1e6) as u64;
    Micros::new(micros)
}

/// A shoal without faults: `nodes` equal nodes, each with one device that batches, on a good network, `load` (a part of
/// what they can do) spread evenly over their doors. 40 seconds, the load ends after 36.
#[must_use]
pub fn base(seed: u64, nodes: usize, load: f64) -> Plan {
    let service = ServiceModel { device: batch_device(), spread: Spread::None, noise_percent: 10 };
    let plan = Plan {
        name: "base",
        seed,
        nodes,
        absent: 0,
        rules: Rules::default(),
        roles: Vec::new(),
        net: NetRules::default(),
        membership: gossip(100),
        service,
        slowness: Vec::new(),
        cold: None,
        loading: Micros::from_ms(300),
        probed: false,
        arrivals: ArrivalModel {
            rate_per_s: 0.0,
            door_weights: Vec::new(),
            steps: Vec::new(),
            shapes: shapes(),
            deadline: Micros::from_ms(30_000),
            deadline_short: Micros::from_ms(500),
            short_permille: 0,
            leave_permille: 0,
            leave_within: Micros::from_ms(200),
            poison_permille: 0,
            session_permille: 0,
            sessions: 64,
            from: second(1.0),
            until: second(36.0),
            requests_max: 0,
        },
        faults: Vec::new(),
        heal_at: second(24.0),
        end: second(80.0),
        measure_from: second(3.0),
        terms: Terms { even: true, ample: load < 0.9 },
        sabotage: None,
    };
    loaded(plan, load)
}

/// The plan with `load`, a part of what its nodes can do together.
#[must_use]
pub fn loaded(mut plan: Plan, load: f64) -> Plan {
    let (units, rows) = plan.arrivals.mean_size();
    plan.arrivals.rate_per_s = load * plan.nodes as f64 * plan.service.capacity_per_s(units, rows);
    plan
}

/// The plan with so many requests at its rate, however long that takes.
#[must_use]
pub fn with_requests(mut plan: Plan, requests: u64) -> Plan {
    let lasts = seconds(requests as f64 / plan.arrivals.rate_per_s);
    let shift = plan.end.since(plan.arrivals.until);
    // A little longer, so that chance does not leave some of them out.
    plan.arrivals.until = plan.arrivals.from + lasts.percent(105) + Micros::from_ms(100);
    plan.arrivals.requests_max = requests;
    plan.end = plan.arrivals.until.max(plan.heal_at) + shift;
    plan
}

/// The plan with other devices and the same load as a part of what they can do.
#[must_use]
pub fn with_device(plan: Plan, device: Device, spread: Spread, load: f64) -> Plan {
    let service = ServiceModel { device, spread, noise_percent: 0 };
    let shape = Shape { units: Arc::from([1]), weight: 1 };
    let arrivals = ArrivalModel { shapes: vec![shape], ..plan.arrivals };
    loaded(Plan { service, arrivals, ..plan }, load)
}

/// Gossip with `interval_ms` between rounds; what is known is read twice as often, as in the node.
#[must_use]
pub fn gossip(interval_ms: u64) -> Membership {
    let rules = GossipRules { interval: Micros::from_ms(interval_ms), ..GossipRules::default() };
    Membership::Gossip { rules, read_every: Micros::from_ms(interval_ms / 2) }
}

/// A fault from `at_s` on for `lasts_s` seconds.
#[must_use]
pub fn planned(at_s: f64, lasts_s: f64, fault: Fault) -> Planned {
    Planned { at: second(at_s), lasts: seconds(lasts_s), fault }
}

/// A small model on one device: 4 ms a batch and 50 us a token.
fn batch_device() -> Device {
    Device::Batch { fixed: Micros::from_ms(4), per_unit_ns: 50_000, rows_max: 256 }
}

/// Short and long texts, now and then a few in one call.
fn shapes() -> Vec<Shape> {
    let shape = |units: &[u32], weight| Shape { units: Arc::from(units), weight };
    vec![shape(&[24], 4), shape(&[80], 3), shape(&[300], 1), shape(&[40, 60, 90], 1)]
}
