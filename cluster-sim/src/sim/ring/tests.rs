//! The model against the numbers that an earlier simulation, written from chitchat's source, gave.

use super::super::net::Traffic;
use super::*;

const READY: Standing = Standing::Ready;

/// Mean and longest time until a killed node is dead for another one, in gossip intervals, over some shoals.
fn detection(nodes: usize, loss_permille: u32, repetitions: u64) -> (f64, f64) {
    let mut times: Vec<f64> = Vec::new();
    for seed in 0..repetitions {
        let mut ring = Ring::new(nodes, loss_permille, seed);
        ring.rest(Micros::from_ms(20_000) + Micros::new(seed * 7919));
        for node in 0..nodes {
            assert!(ring.all_see(node, (true, 1, READY)), "seed {seed}: somebody is called dead who lives");
        }
        ring.kill(nodes - 1);
        let observer = ring.others(nodes - 1).next().expect("somebody lives");
        let is_dead = |ring: &Ring| ring.sees(observer, nodes - 1) == Some((false, 1, READY));
        let dead = ring.run_until(is_dead, Micros::from_ms(5000)).expect("a dead node is noticed");
        times.push(dead.get() as f64 / ring.interval().get() as f64);
    }
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    (mean, times.into_iter().fold(0.0, f64::max))
}

/// Phi 12: 5.9 g at three nodes, 7.4 g with 20 % loss, 7.9 g at ten, 9.0 g at thirty.
#[test]
fn a_dead_node_is_noticed_as_late_as_chitchats_source_says() {
    for (nodes, loss_permille, repetitions, expected) in
        [(3, 0, 40, 5.9), (3, 200, 40, 7.4), (10, 0, 30, 7.9), (30, 0, 6, 9.0)]
    {
        let (mean, longest) = detection(nodes, loss_permille, repetitions);
        assert!((mean / expected - 1.0).abs() < 0.15, "{nodes} nodes, loss {loss_permille}: {mean} g, not {expected}");
        assert!(longest < expected * 1.6, "{nodes} nodes, loss {loss_permille}: {longest} g");
    }
}

/// Join in 3 to 5 g, p99 6 g.
#[test]
fn a_node_that_joins_is_seen_within_a_few_intervals() {
    for seed in 0..20 {
        let mut ring = Ring::new(5, 0, seed);
        ring.kill(4);
        ring.rest(Micros::from_ms(5000));
        ring.start(4, Micros::new(1000 * seed));
        let seen = ring.run_until(|ring| ring.all_see(4, (true, 2, READY)), Micros::from_ms(5000));
        let intervals = seen.expect("it is seen").get() / ring.interval().get();
        assert!((1..=8).contains(&intervals), "seed {seed}: {intervals} g");
    }
}

#[test]
fn a_quick_restart_shows_the_run_before_until_it_seems_dead_or_the_new_one_lives() {
    let mut ring = Ring::new(3, 0, 4);
    ring.rest(Micros::from_ms(10_000));
    ring.kill(2);
    ring.rest(Micros::from_ms(50));
    ring.start(2, Micros::ZERO);
    let mut states = Vec::new();
    let is_back = |ring: &Ring| {
        states.push(ring.sees(0, 2));
        ring.sees(0, 2) == Some((true, 2, READY))
    };
    ring.run_until(is_back, Micros::from_ms(3000)).expect("it comes back");
    states.dedup();
    assert_eq!(states.first(), Some(&Some((true, 1, READY))));
    assert!(states.iter().flatten().is_sorted_by_key(|(_, boot, _)| *boot), "{states:?}");
}

#[test]
fn news_spread_to_all_within_a_few_rounds_and_are_told_once() {
    let mut ring = Ring::new(10, 0, 2);
    ring.rest(Micros::from_ms(3000));
    let mut known = Vec::new();
    for node in 0..10 {
        ring.gossip.members(node, &mut known);
        assert!(!ring.gossip.members(node, &mut known), "nothing changed since");
    }
    ring.announce(3, Standing::Draining);
    let took = ring.run_until(|ring| ring.all_see(3, (true, 1, Standing::Draining)), Micros::from_ms(2000));
    assert!(took.expect("news spread") <= ring.interval().times(5), "{took:?}");
    assert!(ring.gossip.members(0, &mut known) && known.len() == 9);
}

#[test]
fn both_sides_of_a_partition_call_the_other_dead_and_find_it_again() {
    let mut ring = Ring::new(5, 0, 7);
    ring.rest(Micros::from_ms(5000));
    for (one, other) in (0..2).flat_map(|one| (2..5).map(move |other| (one, other))) {
        ring.net.set_cut(one, other, Traffic::Datagrams, true);
        ring.net.set_cut(other, one, Traffic::Datagrams, true);
    }
    ring.rest(Micros::from_ms(2000));
    let (alive, dead) = (Some((true, 1, READY)), Some((false, 1, READY)));
    assert_eq!((ring.sees(0, 4), ring.sees(4, 0)), (dead, dead));
    assert_eq!((ring.sees(0, 1), ring.sees(2, 4)), (alive, alive));
    ring.net.heal();
    let whole = |ring: &Ring| (0..5).all(|node| ring.all_see(node, (true, 1, READY)));
    let healed = ring.run_until(whole, Micros::from_ms(3000)).expect("it heals");
    assert!(healed <= ring.interval().times(15), "{healed:?}");
}

#[test]
fn a_node_that_starts_after_a_rest_has_its_first_round_then() {
    let mut ring = Ring::silent(2, 0, 1);
    ring.start(0, Micros::ZERO);
    // The next event is a round of node 0, 63 ms later.
    ring.rest(Micros::from_ms(37));
    ring.start(1, Micros::ZERO);
    let heard = ring.run_until(|ring| ring.sees(0, 1).is_some(), Micros::from_ms(1000));
    assert!(heard.is_some_and(|heard| heard < Micros::from_ms(5)), "{heard:?}");
}
