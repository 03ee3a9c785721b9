//! The simulated world behaves as the real one does where decisions depend on it.
//!
//! Each test follows what an observer sees of one fault: when callers and peers hear of it, and how.
//! Invariants: runs are short and quiet, so that what is seen is the fault's doing.

use std::sync::Arc;

use cluster_sim::sim::models::{Device, Spread};
use cluster_sim::sim::net::Traffic;
use cluster_sim::sim::plan::{DeviceFault, Fault, Plan};
use cluster_sim::sim::scenario::{base, planned, second, with_device};
use cluster_sim::sim::seen::{Ended, Seen, What};
use cluster_sim::sim::world::World;
use shoal_core::route::Policy;
use shoal_core::time::{Micros, MonoTime};

const VICTIM: usize = 2;

/// Three nodes that take 100 ms for each request and take turns, so that about ten requests are at the victim.
fn plan(fault: Fault, lasts_s: f64) -> Arc<Plan> {
    let device = Device::Slots { slots: 16, per_unit_ns: 100_000_000 };
    let mut plan = with_device(base(1, 3, 0.6), device, Spread::None, 0.6);
    (plan.rules.route.policy, plan.rules.hedge) = (Policy::RoundRobin, None);
    plan.faults = vec![planned(4.0, lasts_s, fault)];
    (plan.heal_at, plan.arrivals.until, plan.end) = (second(9.0), second(10.0), second(60.0));
    Arc::new(plan)
}

/// All that was seen from one second before the fault on, with its time in milliseconds after the fault began.
fn seen(plan: &Arc<Plan>) -> Vec<(f64, Seen)> {
    let mut world = World::new(plan);
    let mut all = Vec::new();
    let began = plan.faults[0].at.as_micros() as f64;
    while world.advance() {
        if world.now() < second(3.0) {
            continue;
        }
        let at = (world.now().as_micros() as f64 - began) / 1000.0;
        all.extend(world.seen().iter().map(|&seen| (at, seen)));
    }
    all
}

fn times(all: &[(f64, Seen)], what: What, of: impl Fn(&Seen) -> bool) -> Vec<f64> {
    all.iter().filter(|(_, seen)| seen.what == what && of(seen)).map(|&(at, _)| at).collect()
}

fn at_victim(seen: &Seen) -> bool {
    seen.other as usize == VICTIM && seen.node as usize != VICTIM
}

/// Placements on the victim that broke: when.
fn breaks(all: &[(f64, Seen)]) -> Vec<f64> {
    times(all, What::Broke, at_victim)
}

#[test]
fn a_killed_process_is_noticed_within_a_way_by_who_had_work_there() {
    let all = seen(&plan(Fault::Kill(VICTIM), 2.0));
    let breaks = breaks(&all);
    let at_once = breaks.iter().filter(|&&at| 0.0 < at && at < 2.0).count();
    assert!(2 < at_once, "what was there breaks at once, what is offered later when it gets there: {breaks:?}");
    let own = times(&all, What::DoorGone, |seen| seen.node as usize == VICTIM && seen.request.ordinal() != u32::MAX);
    assert!(own.iter().all(|&at| at == 0.0), "its own callers lose their connections at once: {own:?}");
}

#[test]
fn a_killed_process_is_noticed_as_soon_by_who_had_only_a_connection_there() {
    let mut quiet = Arc::unwrap_or_clone(plan(Fault::Kill(VICTIM), 2.0));
    quiet.arrivals.rate_per_s /= 20.0;
    let all = seen(&Arc::new(quiet));
    assert_eq!(breaks(&all), [0.0; 0], "nobody had work there");
    let pings = times(&all, What::Pinged, at_victim);
    let at_once = pings.iter().filter(|&&at| 0.0 < at && at < 2.0).count();
    assert_eq!(at_once, 2, "each of the others asks once: {pings:?}");
    // The refused connection is the answer: no offer until it is back.
    let offers = times(&all, What::Forwarded, at_victim);
    assert!(!offers.iter().any(|&at| 2.0 < at && at < 2000.0), "{offers:?}");
}

#[test]
fn a_host_that_vanishes_is_noticed_only_when_a_ping_is_not_answered() {
    let all = seen(&plan(Fault::PowerCut(VICTIM), 2.0));
    let breaks = breaks(&all);
    assert!(!breaks.is_empty());
    // A ping every 200 ms, answered within 400; who dials anew gives up after 150.
    assert!(breaks.iter().all(|&at| (149.0..=760.0).contains(&at)), "{breaks:?}");
    assert!(breaks.iter().any(|&at| 400.0 <= at), "what was on the connection breaks with the ping: {breaks:?}");
}

#[test]
fn a_host_that_is_back_at_once_resets_the_connections_of_the_process_that_was_there() {
    let all = seen(&plan(Fault::PowerCut(VICTIM), 0.1));
    let breaks = breaks(&all);
    assert!(4 < breaks.len() && breaks.iter().all(|at| (100.0..250.0).contains(at)), "{breaks:?}");
}

#[test]
fn a_stopped_process_answers_what_waits_when_it_goes_on() {
    let short = seen(&plan(Fault::Freeze(VICTIM), 0.2));
    assert!(breaks(&short).is_empty(), "a stop of 0.2 s breaks no connection");
    let during = |at: f64| 1.0 < at && at < 200.0;
    let answers = times(&short, What::Answered, at_victim);
    assert!(!answers.iter().any(|&at| during(at)) && answers.iter().any(|&at| 200.0 <= at), "{answers:?}");
    let batches = times(&short, What::BatchEnded, |seen| seen.node as usize == VICTIM);
    assert!(!batches.iter().any(|&at| during(at)), "its device stands still too: {batches:?}");
    let long = seen(&plan(Fault::Freeze(VICTIM), 2.0));
    let breaks = breaks(&long);
    assert!(
        breaks.iter().any(|at| (400.0..=620.0).contains(at)),
        "two seconds break what was on the connection: {breaks:?}"
    );
}

#[test]
fn bytes_wait_in_a_short_cut_and_come_when_it_heals() {
    let all = seen(&plan(Fault::Sever(0, VICTIM, Traffic::Streams), 0.25));
    assert!(breaks(&all).is_empty(), "a cut of 0.25 s breaks no connection");
    let offers = times(&all, What::Offered, |seen| seen.node as usize == VICTIM && seen.other == 0);
    assert!(!offers.iter().any(|&at| 1.0 < at && at < 250.0), "{offers:?}");
    assert!(offers.iter().any(|at| (250.0..460.0).contains(at)), "TCP sends again within its time: {offers:?}");
}

#[test]
fn a_node_that_nobody_hears_still_hears() {
    let all = seen(&plan(Fault::Mute(VICTIM, Traffic::Both), 3.0));
    let gossip_to = |node: usize, other: usize| {
        let times = times(&all, What::Gossiped, |seen| seen.node as usize == node && seen.other as usize == other);
        times.iter().filter(|&&at| 5.0 < at && at < 3000.0).count()
    };
    assert_eq!((gossip_to(0, VICTIM), gossip_to(1, VICTIM)), (0, 0));
    assert!(5 < gossip_to(VICTIM, 0), "{}", gossip_to(VICTIM, 0));
}

#[test]
fn a_hanging_device_ends_its_batches_with_its_fault() {
    let all = seen(&plan(Fault::Device(VICTIM, DeviceFault::Hangs), 1.5));
    let batches = times(&all, What::BatchEnded, |seen| seen.node as usize == VICTIM);
    assert!(!batches.iter().any(|&at| 1.0 < at && at < 1499.0), "{batches:?}");
    assert!(batches.iter().any(|&at| (1499.0..1510.0).contains(&at)), "{batches:?}");
}

#[test]
fn a_wedged_node_says_so_and_a_process_that_leaves_ends_and_is_followed() {
    let wedged = seen(&plan(Fault::Device(VICTIM, DeviceFault::Wedged), 2.5));
    let offers = times(&wedged, What::Offered, |seen| seen.node as usize == VICTIM);
    // A batch takes 100 ms: at 400 ms it is overdue, and the canary fails after its own time. Then the word spreads.
    assert!(!offers.iter().any(|&at| 1200.0 < at && at < 2500.0), "its canary failed: {offers:?}");
    assert!(offers.iter().any(|&at| 2500.0 < at && at < 4500.0), "its canary passed again: {offers:?}");
    let fell = |all: &[(f64, Seen)]| times(all, What::Wedged, |seen| seen.node as usize == VICTIM);
    let verdicts = times(&wedged, What::CanaryEnded, |seen| seen.node as usize == VICTIM && seen.value == 0);
    assert!(matches!(fell(&wedged)[..], [at] if verdicts[0] == at && at < 1000.0), "{:?} {verdicts:?}", fell(&wedged));
    let hung = seen(&plan(Fault::Device(VICTIM, DeviceFault::Hangs), 2.5));
    let verdicts = times(&hung, What::CanaryEnded, |seen| seen.node as usize == VICTIM);
    assert!(matches!(fell(&hung)[..], [at] if 1000.0 < at && at < 2000.0), "silence takes longer: {:?}", fell(&hung));
    assert!(!verdicts.iter().any(|&at| 1.0 < at && at < 2499.0), "{verdicts:?}");
    let left = seen(&plan(Fault::Terminate(VICTIM), 1.0));
    let of_victim = |what| times(&left, what, |seen| seen.node as usize == VICTIM);
    let (exits, starts) = (of_victim(What::Exited), of_victim(What::Started));
    assert!(exits.len() == 1 && 500.0 <= exits[0] && exits[0] < 1500.0, "{exits:?}");
    assert!(starts.len() == 1 && exits[0] < starts[0], "{starts:?}");
}

#[test]
fn the_clock_of_a_process_begins_with_it() {
    let plan = plan(Fault::Kill(VICTIM), 2.0);
    let mut world = World::new(&plan);
    while world.advance() && world.now() < second(8.0) {}
    let (_, own) = world.machine(VICTIM).expect("it runs again");
    let (_, other) = world.machine(0).expect("it runs");
    assert!(own < MonoTime::START + Micros::from_ms(2_100) && second(7.8) < other, "{own:?} {other:?}");
}

#[test]
fn a_refused_caller_goes_to_the_next_address() {
    let all = seen(&plan(Fault::Kill(VICTIM), 2.0));
    let down = |at: f64| 0.0 < at && at < 2000.0;
    let elsewhere = all.iter().filter(|(at, seen)| down(*at) && seen.what == What::Arrived && at_victim(seen)).count();
    let at_home = |seen: &Seen| seen.node as usize == VICTIM;
    let there = all.iter().filter(|(at, seen)| down(*at) && seen.what == What::Arrived && at_home(seen)).count();
    assert!(5 < elsewhere && there == 0, "{elsewhere} {there}");
    let failed =
        all.iter().filter(|(_, seen)| seen.what == What::Finished).filter_map(|(_, seen)| Ended::of(seen.value));
    assert!(failed.into_iter().all(Ended::is_done), "everybody got an answer");
}
