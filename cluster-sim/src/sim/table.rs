//! The reference table: settings in which the plain rules herd, as plans.
//!
//! For `explore --table`. Waits are told in units of the mean service time.

use shoal_core::heat::HeatRules;
use shoal_core::node::Rules;
use shoal_core::route::Policy;
use shoal_core::share::Share;
use shoal_core::time::{Micros, MonoTime};

use super::models::{Device, Spread};
use super::net::NetRules;
use super::plan::{Fault, Membership, Plan, Planned, Terms};
use super::scenario::{base, with_device};

/// Mean service time.
pub const MEAN_SERVICE: Micros = Micros::from_ms(50);
/// Requests of a cell, the first tenth of which is not counted.
const REQUESTS: u64 = 200_000;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it is called there.
    pub name: &'static str,
    /// Nodes.
    pub nodes: usize,
    /// Load.
    pub load: f64,
    /// Age of the information in mean service times.
    pub age: f64,
    /// Slots of a node.
    pub slots: u32,
    /// The first door gets so many times what another one gets.
    pub skew: f64,
    /// The last node is ten times slower from the middle on.
    pub slow: bool,
}

const fn case(name: &'static str, nodes: usize, load: f64, age: f64) -> Case {
    Case { name, nodes, load, age, slots: 8, skew: 1.0, slow: false }
}

/// The lines of the table.
pub const CASES: &[Case] = &[
    case("N=3 load .85 T=1", 3, 0.85, 1.0),
    case("N=3 load .85 T=20", 3, 0.85, 20.0),
    case("N=10 load .85 T=1", 10, 0.85, 1.0),
    case("N=10 load .85 T=5", 10, 0.85, 5.0),
    Case { skew: 3.0, ..case("N=30 load .85 T=5, one door 3x", 30, 0.85, 5.0) },
    Case { slow: true, skew: 3.0, ..case("N=10 load .70 T=5, one node 10x slower, skew", 10, 0.70, 5.0) },
    Case { slow: true, ..case("N=3 load .60 T=1, one node 10x slower", 3, 0.60, 1.0) },
    case("N=10 load .95 T=1", 10, 0.95, 1.0),
    Case { slots: 1, ..case("N=3 one slot, load .70 T=1", 3, 0.70, 1.0) },
];

/// A column: a policy and what it knows.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The policy.
    pub policy: Policy,
    /// Only what is refreshed once a period counts: no reports on answers, no counting of what was sent.
    pub periodic_only: bool,
}

/// The columns of the table.
pub const COLUMNS: &[Column] = &[
    Column { name: "local", policy: Policy::Local, periodic_only: true },
    Column { name: "least_load", policy: Policy::LeastLoad, periodic_only: true },
    Column { name: "threshold", policy: Policy::Threshold, periodic_only: true },
    Column { name: "adaptive", policy: Policy::Adaptive, periodic_only: false },
];

/// The plan of a cell. `requests` is the number of requests, by default `REQUESTS`.
#[must_use]
pub fn plan(case: &Case, column: &Column, seed: u64, requests: Option<u64>, rules: &Rules) -> Plan {
    let per_unit_ns = MEAN_SERVICE.get() * 1000;
    let device = Device::Slots { slots: case.slots, per_unit_ns };
    let mut plan = with_device(base(seed, case.nodes, case.load), device, Spread::HyperExponential(4.0), case.load);
    plan.name = case.name;
    plan.rules = rules.clone();
    plan.rules.route.policy = column.policy;
    // Queues have no end here, and nobody is turned away.
    (plan.rules.admission.jobs_max, plan.rules.admission.bytes_max) = (u32::MAX, u64::MAX);
    if column.periodic_only {
        (plan.rules.peers.load.in_band, plan.rules.peers.load.count_sent) = (false, false);
    }
    // No device hangs here, and a request of thirty services on a device that does one at a time would be taken for it.
    plan.rules.canary = None;
    // The literal rule looks at the slots in use at this moment, once a request.
    let (enter, leave) = (Share::percent(75), Share::percent(76));
    if column.policy == Policy::Threshold {
        plan.rules.heat = Some(HeatRules { enter, leave, dwell: Micros::ZERO, window: Micros::ZERO });
    }
    plan.arrivals.deadline = Micros::from_ms(3_600_000);
    // A hop is 0.02 of a service.
    plan.net = NetRules { way_min: MEAN_SERVICE.permille(20), way_jitter: Micros::ZERO, ..NetRules::default() };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let period = Micros::new((MEAN_SERVICE.get() as f64 * case.age) as u64);
    plan.membership = Membership::Direct { period };
    plan.arrivals.door_weights = vec![case.skew];
    let requests = requests.unwrap_or(REQUESTS);
    let length_s = requests as f64 / plan.arrivals.rate_per_s;
    let at = |part: f64| plan.arrivals.from + super::scenario::seconds(part * length_s);
    plan.measure_from = at(0.1);
    plan.arrivals.until = at(1.0);
    plan.heal_at = at(1.0);
    plan.end = at(1.0) + Micros::from_ms(3_600_000);
    if case.slow {
        let lasts = MonoTime::from_micros(u64::MAX).since(at(0.5));
        plan.faults = vec![Planned { at: at(0.5), lasts, fault: Fault::SlowDevice(case.nodes - 1, 10.0) }];
    }
    plan.terms = Terms { even: false, ample: false };
    plan
}
