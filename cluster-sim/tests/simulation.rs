//! The simulator proves what it says it proves.
//!
//! Same plan, same digest; another plan, another digest; sound rules break nothing; and for each invariant a planted
//! bug that its check must find: a check that never fires is worth nothing.
//! Invariants: every run here is short, because these tests run without optimisation; `cluster-sim explore` is for the
//! many seeds.

use std::sync::Arc;

use cluster_sim::sim::models::{Device, Spread};
use cluster_sim::sim::net::Traffic;
use cluster_sim::sim::plan::{Fault, Plan, Sabotage};
use cluster_sim::sim::run::{Outcome, Until, run};
use cluster_sim::sim::scenario::{base, named, planned, random, second, seconds, with_device};
use shoal_core::node::Rules;
use shoal_core::route::Policy;
use shoal_core::time::Micros;

/// Four nodes that take 10 ms for each request, and 15 seconds.
fn short(seed: u64, load: f64) -> Plan {
    let device = Device::Batch { fixed: Micros::ZERO, per_unit_ns: 10_000_000, rows_max: 1 };
    let mut plan = with_device(base(seed, 4, load), device, Spread::Exponential, load);
    (plan.heal_at, plan.arrivals.until, plan.end) = (second(8.0), second(15.0), second(30.0));
    plan.arrivals.deadline = Micros::from_ms(6000);
    plan.measure_from = second(2.0);
    plan.terms.even = false;
    plan
}

fn with_fault(mut plan: Plan, at_s: f64, lasts_s: f64, fault: Fault) -> Plan {
    plan.faults.push(planned(at_s, lasts_s, fault));
    plan
}

fn outcome(plan: Plan) -> Outcome {
    run(&Arc::new(plan), Until::Broken)
}

fn assert_sound(plan: Plan) {
    let (name, seed) = (plan.name, plan.seed);
    if let Some(failure) = outcome(plan).broken {
        let trail = failure.trail.join("\n");
        panic!("{name}, seed {seed}: {:?}\n{trail}", failure.broken);
    }
}

/// The plan is sound, and with the bug its run breaks `invariant`.
fn assert_found(plan: Plan, bug: Sabotage, invariant: &str) {
    assert_sound(plan.clone());
    let broken = outcome(Plan { sabotage: Some(bug), ..plan }).broken.map(|failure| failure.broken);
    let found = broken.as_ref().map(|broken| broken.invariant);
    assert_eq!(found, Some(invariant), "{bug:?} was found as {broken:?}");
}

/// The same of a bug that shows only where chance gives it an occasion: in some of the plans, and in none without it.
fn assert_found_in_some(plan: impl Fn(u64) -> Plan, bug: Sabotage, invariant: &str) {
    let is_found = |seed: &u64| {
        assert_sound(plan(*seed));
        let broken = outcome(Plan { sabotage: Some(bug), ..plan(*seed) }).broken;
        broken.is_some_and(|failure| failure.broken.invariant == invariant)
    };
    assert!((1..=40).any(|seed| is_found(&seed)), "{bug:?} was not found");
}

#[test]
fn the_same_plan_gives_the_same_digest_and_any_other_another_one() {
    let plan = || with_fault(short(1, 0.6), 5.0, 2.0, Fault::Kill(3));
    let digest = outcome(plan()).digest;
    assert_eq!(digest, outcome(plan()).digest);
    let mut rules = Rules::default();
    rules.route.margin_percent += 5;
    let mut policy = Rules::default();
    policy.route.policy = Policy::LeastLoad;
    let others = [
        with_fault(short(2, 0.6), 5.0, 2.0, Fault::Kill(3)),
        with_fault(short(1, 0.6), 5.0, 2.1, Fault::Kill(3)),
        with_fault(short(1, 0.61), 5.0, 2.0, Fault::Kill(3)),
        Plan { rules, ..plan() },
        Plan { rules: policy, ..plan() },
        Plan { loading: Micros::from_ms(301), ..plan() },
    ];
    let mut digests: Vec<u64> = others.into_iter().map(|plan| outcome(plan).digest).chain([digest]).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 7);
}

#[test]
fn a_random_plan_is_long_large_and_faulty_enough_whatever_its_seed() {
    for seed in 0..300 {
        let plan = random(seed, None, &Rules::default());
        assert!(seconds(30.0) <= plan.arrivals.until.since(shoal_core::time::MonoTime::START), "seed {seed}");
        let lasts_s = plan.arrivals.until.since(plan.arrivals.from).get() as f64 / 1e6;
        assert!(2_100.0 <= plan.arrivals.rate_per_s * lasts_s, "seed {seed}: {}/s", plan.arrivals.rate_per_s);
        assert!(3 <= plan.faults.len(), "seed {seed}: {:?}", plan.faults);
        assert!(plan.faults.iter().all(|planned| planned.at < plan.heal_at), "seed {seed}");
    }
}

#[test]
fn random_plans_break_nothing() {
    for seed in 1000..1004 {
        let plan = random(seed, Some(4), &Rules::default());
        let outcome = outcome(plan);
        assert!(outcome.broken.is_none(), "seed {seed}: {:?}", outcome.broken);
        assert!(2_000 < outcome.report.counts.requests, "seed {seed}: {:?}", outcome.report.counts);
    }
}

#[test]
fn every_named_scenario_has_a_plan_of_its_own() {
    let mut plans = Vec::new();
    for scenario in cluster_sim::sim::scenario::NAMED {
        let plan = named(scenario.name, 1, 6).expect("it is in the list");
        assert!(2_000.0 < plan.arrivals.rate_per_s * 30.0, "{}", scenario.name);
        let told = format!("{:?}", Plan { name: "", ..plan });
        assert!(!plans.contains(&told), "{} is another one's plan", scenario.name);
        plans.push(told);
    }
    assert!(named("no such scenario", 1, 6).is_none());
}

#[test]
fn i1_an_end_that_is_lost_is_found() {
    assert_found(short(1, 0.6), Sabotage::LoseFinish, "I1");
}

#[test]
fn i1_an_end_that_comes_twice_is_found() {
    assert_found(short(1, 0.6), Sabotage::RepeatFinish, "I1");
}

#[test]
fn i2_work_that_is_done_twice_without_need_is_found() {
    assert_found(short(1, 0.6), Sabotage::BreakAnswers, "I2");
}

#[test]
fn i3_a_node_that_gets_a_request_twice_is_found() {
    // A busy refusal keeps the job; only one that breaks is sent a second time.
    assert_found_in_some(|seed| with_fault(short(seed, 0.9), 4.0, 4.0, Fault::Kill(3)), Sabotage::SameNodeTwice, "I3");
}

#[test]
fn i4_an_answer_to_another_placement_is_found() {
    assert_found(short(1, 0.6), Sabotage::MixAttempts, "I4");
}

#[test]
fn i5_an_answer_to_another_request_is_found() {
    assert_found(short(1, 0.6), Sabotage::SwapAnswers, "I5");
}

#[test]
fn i6_a_request_that_fails_because_a_peer_died_is_found() {
    let mut plan = short(1, 0.7);
    // A hedge, or the missing acknowledgement, would save a request of which nobody hears that its peer died.
    plan.rules.hedge = None;
    plan.rules.accept_limit.0 = seconds(3600.0);
    let plan = (0..3).fold(plan, |plan, kill| with_fault(plan, 3.0 + 2.0 * f64::from(kill), 0.5, Fault::Kill(3)));
    assert_found(plan, Sabotage::IgnoreBreaks, "I6");
}

#[test]
fn i7_a_node_that_joins_and_gets_nothing_is_found() {
    let mut plan = short(1, 0.7);
    (plan.absent, plan.terms.even, plan.terms.ample) = (1, true, false);
    plan.arrivals.door_weights = vec![1.0, 1.0, 1.0, 0.0];
    let plan = with_fault(plan, 5.0, 1.0, Fault::Join(3));
    assert_found(plan, Sabotage::HideJoined, "I7");
}

#[test]
fn i8_a_dead_node_that_is_offered_work_is_found() {
    assert_found(with_fault(short(2, 0.3), 4.0, 4.0, Fault::Kill(3)), Sabotage::PreferDead, "I8");
}

#[test]
fn i8_a_dead_node_that_gossip_never_calls_dead_is_found() {
    // So little to do that somebody may offer it work for the first time when gossip should have said so for long. Who
    // does that, and whether, is chance. Who asks for its load finds out before, so nobody does.
    let plan = |seed| {
        let mut plan = with_fault(short(seed, 0.3), 4.0, 4.0, Fault::Kill(3));
        plan.rules.rebalance = None;
        plan
    };
    assert_found_in_some(plan, Sabotage::HideDead, "I8");
}

#[test]
fn i9_a_draining_node_that_is_offered_work_is_found() {
    // Between half a second after the signal and its end it has to be offered something: nine of ten plans do that.
    let plan = |seed| with_fault(short(seed, 0.7), 4.0, 2.0, Fault::Terminate(3));
    assert_found_in_some(plan, Sabotage::HideDraining, "I9");
}

#[test]
fn i10_a_job_that_leaks_is_found() {
    // Late enough that there is time between the last answer and the end.
    assert_found(Plan { heal_at: second(14.0), ..short(1, 0.6) }, Sabotage::LeakJob, "I10");
}

#[test]
fn i11_work_that_all_goes_to_one_node_is_found() {
    let mut plan = short(1, 0.6);
    plan.terms.even = true;
    // What would stop the herd is off.
    (plan.rules.route.verify, plan.rules.peers.count_stretch) = (false, false);
    assert_found(plan, Sabotage::OneIdle, "I11");
}

#[test]
fn i12_a_job_that_is_handed_on_twice_is_found() {
    assert_found(short(1, 0.8), Sabotage::ForgetSource, "I12");
}

#[test]
fn i12_gossip_that_does_not_heal_is_found() {
    let plan = with_fault(short(1, 0.5), 5.0, 4.0, Fault::Partition(2, Traffic::Both));
    assert_found(plan, Sabotage::KeepCut, "I12");
}

#[test]
fn l_waits_that_stay_long_are_found() {
    let mut plan = short(1, 0.3);
    plan.arrivals.until = second(24.0);
    let plan = (0..4).fold(plan, |plan, node| with_fault(plan, 7.0, 4.0, Fault::SlowDevice(node, 3.2)));
    let plan =
        Plan { arrivals: cluster_sim::sim::models::ArrivalModel { deadline: seconds(60.0), ..plan.arrivals }, ..plan };
    assert_found(Plan { end: second(120.0), ..plan }, Sabotage::KeepSlow, "L");
}
