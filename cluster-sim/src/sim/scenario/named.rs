//! The named scenarios, each a function of seed and number of nodes.
//!
//! Part of `scenario`. To add one: a function, and a line in [`NAMED`].

use shoal_core::node::OwnRules;
use shoal_core::time::Micros;

use super::super::models::{Device, Spread, Step};
use super::super::net::Traffic;
use super::super::plan::{Cold, DeviceFault, Fault, Plan, Terms};
use super::{base, gossip, planned, second, with_device, with_requests};

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// Its plan for a seed and a number of nodes.
    pub plan: fn(u64, usize) -> Plan,
}

macro_rules! scenarios {
    ($( $name:ident = $about:literal; )+) => {
        /// All named scenarios.
        pub const NAMED: &[Named] = &[$(Named { name: stringify!($name), about: $about, plan: $name },)+];
    };
}

scenarios! {
    calm = "nothing goes wrong";
    herd = "short work and old information: who chases the least loaded node?";
    device_shared = "one device a node, one request at a time";
    skew = "one door gets four times as much as another one";
    slow_node = "one node becomes ten times slower and says so";
    turn_slow = "one node of one device becomes five times slower at 80 % of what is then left, as in `bench tail`";
    slow_path = "the way to one node becomes 60 ms longer";
    slow_answers = "what one node answers to its peers leaves it 200 ms later than it is done, and it does not know";
    kill = "one process after the other is killed and comes back";
    power_cut = "a host vanishes: no connection is refused or reset";
    drain = "one process after the other is told to leave and is followed by another one";
    join = "a node joins that no caller knows";
    cold_join = "a node comes back and is five times slower for some seconds";
    scale_out = "two nodes join one after the other, and are slower for some seconds than their warm-up promised";
    stall = "processes stand still for 0.2, 1 and 5 seconds";
    partition = "two groups do not hear each other";
    one_way = "one node hears everybody, and nobody hears it";
    gossip_loss = "a third of all datagrams is lost, and a node dies";
    udp_block = "gossip is blocked between two halves, connections work";
    firewall = "the datagrams of one node are blocked, and its door gets three times as much as another one";
    tcp_block = "connections are blocked between two nodes, gossip works";
    sinkhole = "one device fails everything at once, in no time";
    flaky = "one device fails a third of its batches";
    two_bad = "two devices fail most of their batches: who is asked second must not be the other one";
    bad_deploy = "every device fails nine of ten batches: a second try costs as much as the first and helps nobody";
    poison = "some requests break the model wherever they run";
    hang = "batches of one device do not end for some seconds";
    wedge = "batches of one device do not end, and its canary says so";
    stutter = "one batch in a hundred takes forty times as long";
    liar = "one node always says that it is idle and quick";
    babble = "one node says of its load what cannot be true";
    bimodal = "one request in a hundred is forty times as large, and nobody can tell";
    heavy_tail = "the work of a request has no usual size";
    overload = "twice as much comes as all can do";
    step = "the load rises from a third to nearly all at once";
    impatient = "many callers leave, many give half a second";
    restart_all = "all processes are killed at once";
    storm = "nearly everything of the above, one after the other";
    sessions = "half of the requests belong to a few sessions";
    backup = "one node serves only when the others cannot";
    weights = "one node is twice as slow and has half the weight";
    mixed_speed = "a third of the nodes is three times slower";
    scale = "a thousand nodes and millions of requests; for the speed of the simulator";
}

/// Slots for work of about 50 ms.
fn slots(plan: Plan, spread: Spread, load: f64) -> Plan {
    with_device(plan, Device::Slots { slots: 8, per_unit_ns: 50_000_000 }, spread, load)
}

fn uneven(plan: Plan) -> Plan {
    Plan { terms: Terms { even: false, ..plan.terms }, ..plan }
}

fn harsh(plan: Plan) -> Plan {
    Plan { terms: Terms { even: false, ample: false }, ..plan }
}

fn with_faults(plan: Plan, faults: &[(f64, f64, Fault)]) -> Plan {
    Plan { faults: faults.iter().map(|&(at, lasts, fault)| planned(at, lasts, fault)).collect(), ..plan }
}

/// The last node, which is no seed where there are more than two.
fn last(nodes: usize) -> usize {
    nodes - 1
}

fn calm(seed: u64, nodes: usize) -> Plan {
    base(seed, nodes, 0.6)
}

fn herd(seed: u64, nodes: usize) -> Plan {
    slots(base(seed, nodes.max(10), 0.85), Spread::HyperExponential(4.0), 0.85)
}

fn device_shared(seed: u64, nodes: usize) -> Plan {
    let device = Device::Batch { fixed: Micros::ZERO, per_unit_ns: 10_000_000, rows_max: 1 };
    with_device(base(seed, nodes, 0.7), device, Spread::Exponential, 0.7)
}

fn skew(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.arrivals.door_weights = vec![4.0];
    uneven(plan)
}

fn slow_node(seed: u64, nodes: usize) -> Plan {
    let plan = slots(base(seed, nodes, 0.6), Spread::HyperExponential(4.0), 0.6);
    uneven(with_faults(plan, &[(10.0, 14.0, Fault::SlowDevice(last(nodes), 10.0))]))
}

fn turn_slow(seed: u64, nodes: usize) -> Plan {
    const SLOW: f64 = 5.0;
    let left = (nodes as f64 - 1.0 + 1.0 / SLOW) / nodes as f64;
    let device = Device::Batch { fixed: Micros::ZERO, per_unit_ns: 10_000_000, rows_max: 256 };
    let plan = with_device(base(seed, nodes, 0.8 * left), device, Spread::Exponential, 0.8 * left);
    let mut plan = harsh(with_faults(plan, &[(7.0, 17.0, Fault::SlowDevice(last(nodes), SLOW))]));
    (plan.measure_from, plan.arrivals.until) = (second(7.0), plan.heal_at);
    plan
}

fn slow_path(seed: u64, nodes: usize) -> Plan {
    uneven(with_faults(base(seed, nodes, 0.7), &[(8.0, 14.0, Fault::SlowPath(last(nodes), Micros::from_ms(60)))]))
}

fn slow_answers(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.arrivals.door_weights = vec![3.0];
    let fault = Fault::SlowAnswers(last(nodes), Micros::from_ms(200));
    uneven(with_faults(plan, &[(8.0, 14.0, fault)]))
}

fn kill(seed: u64, nodes: usize) -> Plan {
    let (first, second) = (last(nodes), 0);
    with_faults(base(seed, nodes, 0.5), &[(6.0, 2.0, Fault::Kill(first)), (12.0, 3.0, Fault::Kill(second))])
}

fn power_cut(seed: u64, nodes: usize) -> Plan {
    with_faults(base(seed, nodes, 0.5), &[(8.0, 5.0, Fault::PowerCut(last(nodes)))])
}

fn drain(seed: u64, nodes: usize) -> Plan {
    let faults = [(6.0, 2.0, Fault::Terminate(last(nodes))), (12.0, 2.0, Fault::Terminate(0))];
    with_faults(base(seed, nodes, 0.5), &faults)
}

fn join(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.75), Spread::Exponential, 0.75);
    plan.absent = 1;
    // Callers know the old doors only, and bring more than those can do well.
    plan.arrivals.door_weights = (0..nodes).map(|door| if door == last(nodes) { 0.0 } else { 1.0 }).collect();
    (plan.heal_at, plan.terms.ample) = (second(12.0), false);
    with_faults(plan, &[(8.0, 1.0, Fault::Join(last(nodes)))])
}

fn cold_join(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.cold = Some(Cold { factor: 5.0, lasts: Micros::from_ms(4000), shows: true });
    // The first processes are cold too: callers come when these are warm.
    (plan.arrivals.from, plan.measure_from) = (second(5.0), second(6.0));
    uneven(with_faults(plan, &[(8.0, 2.0, Fault::Kill(last(nodes))), (16.0, 2.0, Fault::Kill(0))]))
}

fn scale_out(seed: u64, nodes: usize) -> Plan {
    let nodes = nodes.max(4);
    let mut plan = slots(base(seed, nodes, 0.5), Spread::Exponential, 0.5);
    plan.cold = Some(Cold { factor: 5.0, lasts: Micros::from_ms(3000), shows: false });
    (plan.arrivals.from, plan.measure_from) = (second(4.5), second(6.0));
    plan.absent = 2;
    // Callers know the old doors only, and nearly bring what those can do.
    plan.arrivals.door_weights = (0..nodes).map(|door| if door < nodes - plan.absent { 1.0 } else { 0.0 }).collect();
    uneven(with_faults(plan, &[(8.0, 1.0, Fault::Join(nodes - 2)), (12.0, 1.0, Fault::Join(nodes - 1))]))
}

fn stall(seed: u64, nodes: usize) -> Plan {
    let node = last(nodes);
    let faults = [(6.0, 0.2, Fault::Freeze(node)), (9.0, 1.0, Fault::Freeze(node)), (14.0, 5.0, Fault::Freeze(node))];
    with_faults(base(seed, nodes, 0.7), &faults)
}

fn partition(seed: u64, nodes: usize) -> Plan {
    with_faults(base(seed, nodes, 0.5), &[(8.0, 6.0, Fault::Partition(nodes / 2, Traffic::Both))])
}

fn one_way(seed: u64, nodes: usize) -> Plan {
    with_faults(base(seed, nodes, 0.5), &[(8.0, 8.0, Fault::Mute(last(nodes), Traffic::Both))])
}

fn gossip_loss(seed: u64, nodes: usize) -> Plan {
    let faults = [(4.0, 18.0, Fault::Loss(330)), (10.0, 4.0, Fault::Kill(last(nodes)))];
    with_faults(base(seed, nodes, 0.5), &faults)
}

fn udp_block(seed: u64, nodes: usize) -> Plan {
    with_faults(base(seed, nodes, 0.6), &[(6.0, 12.0, Fault::Partition(nodes / 2, Traffic::Datagrams))])
}

fn firewall(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.arrivals.door_weights = vec![3.0];
    let faults: Vec<_> = (1..nodes).map(|other| (6.0, 12.0, Fault::Sever(0, other, Traffic::Datagrams))).collect();
    uneven(with_faults(plan, &faults))
}

fn tcp_block(seed: u64, nodes: usize) -> Plan {
    with_faults(base(seed, nodes, 0.6), &[(6.0, 10.0, Fault::Sever(0, last(nodes), Traffic::Streams))])
}

fn sinkhole(seed: u64, nodes: usize) -> Plan {
    let fault = Fault::Device(last(nodes), DeviceFault::Sinkhole);
    uneven(with_faults(base(seed, nodes, 0.5), &[(8.0, 12.0, fault)]))
}

fn flaky(seed: u64, nodes: usize) -> Plan {
    let fault = Fault::Device(last(nodes), DeviceFault::Fails(330));
    uneven(with_faults(base(seed, nodes, 0.5), &[(8.0, 12.0, fault)]))
}

fn two_bad(seed: u64, nodes: usize) -> Plan {
    // Of fewer too few are sound.
    let nodes = nodes.max(5);
    let fault = |node| (8.0, 12.0, Fault::Device(node, DeviceFault::Fails(700)));
    uneven(with_faults(base(seed, nodes, 0.5), &[fault(last(nodes)), fault(nodes / 2)]))
}

fn bad_deploy(seed: u64, nodes: usize) -> Plan {
    let plan = slots(base(seed, nodes, 0.5), Spread::Exponential, 0.5);
    let faults: Vec<_> = (0..nodes).map(|node| (8.0, 12.0, Fault::Device(node, DeviceFault::Fails(900)))).collect();
    uneven(with_faults(plan, &faults))
}

fn poison(seed: u64, nodes: usize) -> Plan {
    let mut plan = base(seed, nodes, 0.5);
    plan.arrivals.poison_permille = 10;
    plan
}

fn hang(seed: u64, nodes: usize) -> Plan {
    let fault = Fault::Device(last(nodes), DeviceFault::Hangs);
    uneven(with_faults(base(seed, nodes, 0.5), &[(8.0, 6.0, fault)]))
}

fn wedge(seed: u64, nodes: usize) -> Plan {
    let fault = Fault::Device(last(nodes), DeviceFault::Wedged);
    uneven(with_faults(base(seed, nodes, 0.5), &[(8.0, 8.0, fault)]))
}

fn stutter(seed: u64, nodes: usize) -> Plan {
    let fault = Fault::Device(last(nodes), DeviceFault::Stalls(10));
    uneven(with_faults(base(seed, nodes, 0.5), &[(6.0, 16.0, fault)]))
}

fn liar(seed: u64, nodes: usize) -> Plan {
    uneven(with_faults(base(seed, nodes, 0.7), &[(8.0, 12.0, Fault::Lie(last(nodes)))]))
}

fn babble(seed: u64, nodes: usize) -> Plan {
    uneven(with_faults(base(seed, nodes, 0.7), &[(8.0, 12.0, Fault::Babble(last(nodes)))]))
}

fn bimodal(seed: u64, nodes: usize) -> Plan {
    // Who has a long one gets fewer of the others: loads are even, numbers of jobs are not.
    uneven(slots(base(seed, nodes, 0.7), Spread::Bimodal { permille: 10, factor: 40.0 }, 0.7))
}

fn heavy_tail(seed: u64, nodes: usize) -> Plan {
    uneven(slots(base(seed, nodes, 0.7), Spread::Pareto(1.8), 0.7))
}

fn overload(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.arrivals.deadline = Micros::from_ms(3000);
    plan.arrivals.steps = vec![Step { at: second(8.0), factor: 2.0 / 0.6 }, Step { at: second(18.0), factor: 1.0 }];
    harsh(plan)
}

fn step(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.3), Spread::Exponential, 0.3);
    plan.arrivals.steps = vec![Step { at: second(10.0), factor: 3.0 }, Step { at: second(22.0), factor: 1.0 }];
    uneven(plan)
}

fn impatient(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.8), Spread::HyperExponential(4.0), 0.8);
    (plan.arrivals.leave_permille, plan.arrivals.short_permille) = (200, 300);
    uneven(plan)
}

fn restart_all(seed: u64, nodes: usize) -> Plan {
    let faults: Vec<_> = (0..nodes).map(|node| (8.0, 1.0, Fault::Kill(node))).collect();
    harsh(with_faults(base(seed, nodes, 0.5), &faults))
}

fn storm(seed: u64, nodes: usize) -> Plan {
    let (one, other) = (last(nodes), nodes / 2);
    let mut plan = base(seed, nodes, 0.45);
    (plan.arrivals.poison_permille, plan.arrivals.leave_permille) = (2, 20);
    let faults = [
        (4.0, 18.0, Fault::Loss(100)),
        (5.0, 2.0, Fault::Kill(one)),
        (9.0, 1.0, Fault::Freeze(other)),
        (12.0, 2.0, Fault::Sever(0, one, Traffic::Both)),
        (15.0, 3.0, Fault::SlowDevice(other, 6.0)),
        (19.0, 2.0, Fault::Terminate(one)),
    ];
    harsh(with_faults(plan, &faults))
}

fn sessions(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    (plan.arrivals.session_permille, plan.arrivals.sessions) = (500, 40);
    let plan = with_faults(plan, &[(10.0, 3.0, Fault::Kill(last(nodes)))]);
    uneven(plan)
}

fn backup(seed: u64, nodes: usize) -> Plan {
    let mut plan = base(seed, nodes, 0.4);
    plan.roles = vec![OwnRules::default(); nodes];
    plan.roles[last(nodes)].backup = true;
    let faults: Vec<_> = (0..last(nodes)).map(|node| (10.0, 3.0, Fault::Kill(node))).collect();
    harsh(with_faults(plan, &faults))
}

fn weights(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.6), Spread::Exponential, 0.6);
    plan.roles = vec![OwnRules::default(); nodes];
    plan.roles[last(nodes)].weight = 50;
    plan.slowness = (0..nodes).map(|node| if node == last(nodes) { 2.0 } else { 1.0 }).collect();
    uneven(plan)
}

fn mixed_speed(seed: u64, nodes: usize) -> Plan {
    let mut plan = slots(base(seed, nodes, 0.5), Spread::Exponential, 0.5);
    plan.slowness = (0..nodes).map(|node| if node % 3 == 2 { 3.0 } else { 1.0 }).collect();
    uneven(plan)
}

fn scale(seed: u64, nodes: usize) -> Plan {
    let device = Device::Slots { slots: 8, per_unit_ns: 5_000_000 };
    let mut plan = with_device(base(seed, nodes, 0.7), device, Spread::Exponential, 0.7);
    // A node gossips at most so often that its share of the traffic does not grow with the shoal: 1 ms a node.
    let interval_ms = 100.max(nodes as u64);
    plan.membership = gossip(interval_ms);
    // Callers come when everybody knows everybody.
    let from_s = 8.0 * interval_ms as f64 / 1000.0;
    let faults = [(from_s + 1.0, 2.0, Fault::Kill(last(nodes))), (from_s + 2.0, 1.0, Fault::Kill(nodes / 2))];
    plan.arrivals.from = second(from_s);
    plan.measure_from = second(from_s + 0.5);
    plan.heal_at = second(from_s + 3.5);
    harsh(with_requests(with_faults(plan, &faults), 5_000_000))
}
