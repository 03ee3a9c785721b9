//! A plan for every seed.
//!
//! Part of `scenario`. Most plans are ample: whatever fails together leaves enough capacity, so that no request may
//! fail (I6). The others may break everything at once; then only safety and recovery are judged.

use shoal_core::node::{OwnRules, Rules};
use shoal_core::time::Micros;

use super::super::chance::Chance;
use super::super::models::{Device, Spread, Step};
use super::super::net::{NetRules, Traffic};
use super::super::plan::{Cold, DeviceFault, Fault, Plan, Planned, Terms};
use super::{base, gossip, loaded, planned, second, with_device};

/// Faults begin after this and end before `heal_at`.
const FAULTS_FROM_S: f64 = 6.0;
const FAULTS_TO_S: f64 = 21.0;
/// A node that was away is back at full use after this.
const RECOVERY_S: f64 = 3.0;
/// Fewer requests prove little.
const REQUESTS_MIN: f64 = 2_200.0;

/// The plan of `seed`, with `nodes` nodes or as many as it draws.
#[must_use]
pub fn random(seed: u64, nodes: Option<usize>, rules: &Rules) -> Plan {
    let mut chance = Chance::new(seed, "scenario", 0);
    let drawn = chance.pick(&[3, 3, 4, 5, 5, 6, 8]);
    let nodes = nodes.unwrap_or(drawn);
    let ample = !chance.happens(250) && 2 < nodes;
    let load = if ample { chance.range(0.3, 0.55) } else { chance.range(0.4, 0.95) };
    let mut plan = base(seed, nodes, load);
    plan.name = "random";
    plan.rules = rules.clone();
    plan = draw_devices(&mut chance, plan, load);
    plan.net = draw_net(&mut chance);
    plan.membership = gossip(chance.pick(&[100, 100, 100, 200]));
    // So long after the faults that ten quiet seconds are left to be judged.
    plan.arrivals.until = second(41.0);
    plan.loading = Micros::from_ms(chance.between(50, 1500));
    plan.probed = chance.happens(500);
    plan.cold = chance.happens(200).then_some(Cold { factor: 3.0, lasts: Micros::from_ms(2000), shows: true });
    // Callers come when all nodes are warm: a shoal that starts as a whole has no capacity to spare.
    let cold_for = plan.cold.map_or(Micros::ZERO, |cold| cold.lasts);
    plan.arrivals.from = second(0.5) + plan.loading + cold_for;
    plan.measure_from = plan.arrivals.from + Micros::from_ms(1000);
    draw_callers(&mut chance, &mut plan, ample);
    if !ample {
        plan.roles = (0..nodes).map(|_| draw_role(&mut chance)).collect();
        // Somebody has to be there for all.
        plan.roles[0] = OwnRules::default();
    }
    plan.faults = draw_faults(&mut chance, nodes, ample);
    // Numbers of jobs say how even loads are only where one job is about as much work as another one.
    let alike = matches!(plan.service.spread, Spread::None | Spread::Exponential) && plan.arrivals.sessions_are_few();
    plan.terms = Terms { even: ample && alike, ample };
    enough(plan, load)
}

fn draw_devices(chance: &mut Chance, plan: Plan, load: f64) -> Plan {
    let spread = match chance.below(5) {
        0 => Spread::HyperExponential(4.0),
        1 => Spread::LogNormal(1.0),
        2 => Spread::Bimodal { permille: 10, factor: 20.0 },
        _ => Spread::Exponential,
    };
    let per_unit_ns = chance.between(3, 30) * 1_000_000;
    match chance.below(4) {
        0 => with_device(plan, Device::Slots { slots: 8, per_unit_ns: 2 * per_unit_ns }, spread, load),
        1 => {
            let device = Device::Batch { fixed: Micros::ZERO, per_unit_ns, rows_max: 1 };
            with_device(plan, device, spread, load)
        }
        _ => plan,
    }
}

fn draw_net(chance: &mut Chance) -> NetRules {
    let far = chance.happens(150);
    NetRules {
        way_min: if far { Micros::from_ms(2) } else { Micros::new(chance.between(50, 400)) },
        way_jitter: Micros::new(chance.between(50, 600)),
        loss_permille: chance.pick(&[0, 0, 5, 20]),
        duplicate_permille: chance.pick(&[0, 10]),
        resend_permille: chance.pick(&[0, 0, 2]),
    }
}

fn draw_callers(chance: &mut Chance, plan: &mut Plan, ample: bool) {
    let arrivals = &mut plan.arrivals;
    arrivals.leave_permille = chance.pick(&[0, 0, 20, 100]);
    arrivals.short_permille = chance.pick(&[0, 0, 50]);
    arrivals.poison_permille = chance.pick(&[0, 0, 0, 2]);
    arrivals.session_permille = chance.pick(&[0, 0, 300]);
    if chance.happens(300) && !ample {
        arrivals.door_weights = vec![chance.range(2.0, 5.0)];
    }
    if chance.happens(300) && !ample {
        arrivals.steps =
            vec![Step { at: second(9.0), factor: chance.range(1.2, 3.0) }, Step { at: second(16.0), factor: 1.0 }];
    }
}

fn draw_role(chance: &mut Chance) -> OwnRules {
    let weight = chance.pick(&[100, 100, 100, 100, 50, 300, 0]);
    OwnRules { weight, backup: chance.happens(100) }
}

/// Three to six faults. In an ample plan at most one node is away at one time, and no cut leaves a door alone that
/// could not serve its own callers.
fn draw_faults(chance: &mut Chance, nodes: usize, ample: bool) -> Vec<Planned> {
    let wanted = 3 + chance.below(4);
    let mut faults: Vec<Planned> = Vec::new();
    let mut tries = 0;
    while faults.len() < wanted && tries < 400 {
        tries += 1;
        let at = chance.range(FAULTS_FROM_S, FAULTS_TO_S - 1.0);
        let lasts = chance.range(0.2, (FAULTS_TO_S - at).min(7.0));
        let drawn = planned(at, lasts, draw_fault(chance, nodes, ample));
        // What is beyond the calm part of the draw may fall on anything that is already broken.
        let free = !ample || !takes_away(drawn.fault) || faults.iter().all(|other| apart(&drawn, other));
        if free {
            faults.push(drawn);
        }
    }
    faults.sort_unstable_by_key(|planned| planned.at);
    faults
}

fn draw_fault(chance: &mut Chance, nodes: usize, ample: bool) -> Fault {
    let node = chance.below(nodes);
    let other = (node + 1 + chance.below(nodes - 1)) % nodes;
    let traffic = chance.pick(&[Traffic::Both, Traffic::Both, Traffic::Streams, Traffic::Datagrams]);
    match chance.below(16) {
        0..=2 => Fault::Kill(node),
        3 => Fault::PowerCut(node),
        4 | 5 => Fault::Terminate(node),
        6 | 7 => Fault::Freeze(node),
        8 => Fault::Partition(1 + chance.below(nodes - 1), traffic),
        9 => Fault::Mute(node, traffic),
        10 => Fault::Sever(node, other, traffic),
        11 => Fault::Loss(chance.pick(&[50, 200, 500])),
        12 => Fault::SlowPath(node, Micros::from_ms(chance.between(10, 100))),
        13 => Fault::SlowDevice(node, chance.range(2.0, 20.0)),
        14 if ample => Fault::Device(node, chance.pick(&[DeviceFault::Fails(300), DeviceFault::Sinkhole])),
        14 => {
            let wrongs = [DeviceFault::Hangs, DeviceFault::Wedged, DeviceFault::Stalls(50), DeviceFault::Fails(500)];
            Fault::Device(node, chance.pick(&wrongs))
        }
        _ if chance.happens(500) => Fault::Babble(node),
        _ => Fault::Lie(node),
    }
}

/// Whether a fault takes capacity away, or the way to it.
fn takes_away(fault: Fault) -> bool {
    !matches!(fault, Fault::Loss(_) | Fault::Lie(_) | Fault::Babble(_) | Fault::Join(_))
}

fn apart(one: &Planned, other: &Planned) -> bool {
    let rest = super::seconds(RECOVERY_S);
    !takes_away(other.fault) || one.at + one.lasts + rest <= other.at || other.at + other.lasts + rest <= one.at
}

/// The plan with as many requests as prove something: quicker devices as far as that helps, so that it stays as loaded
/// as it was drawn.
fn enough(plan: Plan, load: f64) -> Plan {
    let least = REQUESTS_MIN * 1e6 / plan.arrivals.until.since(plan.arrivals.from).get() as f64;
    if least <= plan.arrivals.rate_per_s {
        return plan;
    }
    let factor = least / plan.arrivals.rate_per_s;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let quicker = |time: u64| (time as f64 / factor) as u64;
    let device = match plan.service.device {
        Device::Slots { slots, per_unit_ns } => Device::Slots { slots, per_unit_ns: quicker(per_unit_ns).max(1000) },
        Device::Batch { fixed, per_unit_ns, rows_max } => {
            let fixed = Micros::new(quicker(fixed.get()));
            Device::Batch { fixed, per_unit_ns: quicker(per_unit_ns).max(1000), rows_max }
        }
    };
    let service = super::ServiceModel { device, ..plan.service };
    let mut plan = loaded(Plan { service, ..plan }, load);
    plan.arrivals.rate_per_s = plan.arrivals.rate_per_s.max(least);
    plan
}
