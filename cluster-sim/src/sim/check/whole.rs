//! What only a whole run shows.
//!
//! Part of `check`: the ends of I1, I7, I10, I11, the gossip of I12, and progress after the faults.

use std::sync::Arc;

use shoal_core::time::{Micros, MonoTime};

use super::super::gossip::Known;
use super::super::models::Device;
use super::super::plan::{Fault, Membership, Plan};
use super::super::slab::Key;
use super::super::world::World;
use super::Broken;
use super::history::{History, SLICE, slice};

/// Gossip is whole again after so many rounds.
const CONVERGED_AFTER_ROUNDS: u64 = 20;
/// Fewer jobs say nothing about shares.
const JOBS_MIN: u64 = 100;
/// Part of the requests that may move among equals.
const MOVES_MAX: f64 = 0.4;
/// The same however loaded they are: who finds its node busy then finds most others busy too.
const MOVES_BUSY_MAX: f64 = 0.6;
/// Deviations that are taken for chance.
const CHANCE_SIGMAS: f64 = 2.0;
/// Fewer waits say nothing about a percentile.
const WAITS_MIN: usize = 300;

/// When gossip must be whole again after all faults ended. Processes start up to a tenth of a second after that.
pub(super) fn converges_at(plan: &Plan) -> MonoTime {
    match plan.membership {
        Membership::Gossip { rules, .. } => {
            plan.heal_at + Micros::from_ms(100) + rules.interval.times(CONVERGED_AFTER_ROUNDS)
        }
        Membership::Direct { .. } => MonoTime::from_micros(u64::MAX),
    }
}

/// I12: two seconds after the faults ended every process knows every other one as alive, and which one it is.
///
/// Left out: processes that are leaving or that started less than that ago.
pub(super) fn i12_gossip_converges(world: &World) -> Result<(), Broken> {
    let began = world.plan().heal_at + Micros::from_ms(100);
    let counts = |node: &usize| world.leaving_since(*node).is_none() && world.started(*node) <= began;
    let nodes: Vec<usize> = world.running().filter(counts).collect();
    let mut known: Vec<Known> = Vec::new();
    for &observer in &nodes {
        world.gossip_of(observer, &mut known);
        for &node in nodes.iter().filter(|&&node| node != observer) {
            let sees = known.iter().find(|known| known.node == node);
            if !sees.is_some_and(|known| known.alive && known.announced.boot == world.boot(node)) {
                let since = world.now().since(world.plan().heal_at);
                let what = format!("{since:?} after the faults ended it knows of node {node}: {sees:?}");
                return Err(Broken::of_node("I12", world, observer, what));
            }
        }
    }
    Ok(())
}

/// I1: every request ended.
pub(super) fn i1_everything_ended(world: &World) -> Result<(), Broken> {
    let Some((key, request)) = world.requests().find(|(_, request)| request.waits) else { return Ok(()) };
    let (node, what) = (request.door, format!("it never ended; its caller gave {:?}", request.limit));
    Err(Broken { invariant: "I1", what, at: world.now(), node, request: key })
}

/// I10: nothing is counted that is not there.
pub(super) fn i10_counts_are_zero(world: &World) -> Result<(), Broken> {
    for node in world.running().collect::<Vec<_>>() {
        let Some((machine, now)) = world.machine(node) else { continue };
        let gauges = machine.gauges(now);
        let flights: u32 = machine.peers(now).map(|peer| peer.flights).sum();
        let held = (gauges.jobs, gauges.bytes, gauges.queue_rows, gauges.forwards, gauges.unacknowledged, flights);
        if held != (0, 0, 0, 0, 0, 0) {
            return Err(Broken::of_node("I10", world, node, format!("at rest its machine says {gauges:?}")));
        }
    }
    if world.at_rest() {
        return Ok(());
    }
    let what = "the world still holds jobs or streams of which no machine knows".to_owned();
    Err(Broken { invariant: "I10", what, at: world.now(), node: 0, request: Key::NONE })
}

/// I7: a node that joins a shoal of equals gets half of its share after two seconds and 80 % after twelve, over all who
/// joined in the run.
pub(super) fn i7_joined_nodes_get_their_share(world: &World, history: &History) -> Result<(), Broken> {
    let plan = world.plan();
    if !plan.terms.even {
        return Ok(());
    }
    for (from_ms, to_ms, percent) in [(2000, 6000, 50), (12_000, 20_000, 80)] {
        let (mut own, mut fair) = (0, 0);
        for &(node, ready) in &history.joined {
            let (from, to) = (ready + Micros::from_ms(from_ms), ready + Micros::from_ms(to_ms));
            if plan.arrivals.until < to || disturbed(plan, from, to) || world.gone_since(node).is_some() {
                continue;
            }
            own += history.ran(node, from, to);
            fair += (0..plan.nodes).map(|node| history.ran(node, from, to)).sum::<u64>() / plan.nodes as u64;
        }
        if JOBS_MIN <= fair && own * 100 < fair * percent {
            let what = format!("nodes that joined ran {own} of a fair {fair} from {from_ms} to {to_ms} ms after");
            return Err(Broken::of_node("I7", world, history.joined[0].0, what));
        }
    }
    Ok(())
}

/// I11: over ten seconds without a fault, among equals, no node has more than 1.3 times the mean, and at most 40 % of
/// the requests move, or as many as find their node with no room, up to 60 %. Chance has three deviations.
pub(super) fn i11_loads_are_even(world: &World, history: &History) -> Result<(), Broken> {
    let plan = world.plan();
    if !plan.terms.even {
        return Ok(());
    }
    let length = Micros::from_ms(10_000);
    let mut from = plan.measure_from;
    while from + length <= plan.arrivals.until {
        let to = from + length;
        if disturbed(plan, from, to)
            || history.joined.iter().any(|&(_, at)| from < at + Micros::from_ms(12_000) && at < to)
        {
            from = from + SLICE;
            continue;
        }
        let ran: Vec<u64> = (0..plan.nodes).map(|node| history.ran(node, from, to)).collect();
        let (sum, most) = (ran.iter().sum::<u64>(), ran.iter().copied().max().unwrap_or(0));
        let mean = sum as f64 / ran.len() as f64;
        // What chance alone does to so many jobs comes on top: three deviations.
        let bound = 1.3 * mean + 3.0 * mean.sqrt();
        if JOBS_MIN as f64 <= mean && bound < most as f64 {
            let node = ran.iter().position(|&count| count == most).unwrap_or(0);
            let what =
                format!("within ten seconds from {from:?} it ran {most} jobs, a node {mean:.0} on average: {ran:?}");
            return Err(Broken::of_node("I11", world, node, what));
        }
        let sum_of = |counts: &[u32]| -> u64 {
            (slice(from + SLICE)..slice(to)).map(|at| u64::from(counts.get(at).copied().unwrap_or(0))).sum()
        };
        let (done, forwards) = (sum_of(&history.done), sum_of(&history.forwards));
        let part = moves_max(plan);
        let most = part * done as f64 + 3.0 * (part * (1.0 - part) * done as f64).sqrt();
        if JOBS_MIN <= done && most < forwards as f64 {
            let what = format!("within ten seconds from {from:?} there were {forwards} forwards for {done} requests");
            return Err(Broken::of_node("I11", world, 0, what));
        }
        from = to;
    }
    Ok(())
}

/// The part of the requests that may move.
///
/// To move who finds its own node with no room is right as long as anybody has some, and more is not.
fn moves_max(plan: &Plan) -> f64 {
    let alone_us = plan.service.unloaded(plan.arrivals.mean_size().0);
    let offered = plan.arrivals.rate_per_s * alone_us / 1e6 / plan.nodes as f64;
    let devices = match plan.service.device {
        Device::Batch { .. } => 1,
        Device::Slots { slots, .. } => slots,
    };
    waits(devices, offered).clamp(MOVES_MAX, MOVES_BUSY_MAX)
}

/// The part of requests that come at random and find all `devices` busy, which are offered work for so many of them.
/// Source: Erlang's formula for those who wait, 1917.
fn waits(devices: u32, offered: f64) -> f64 {
    let devices = f64::from(devices.max(1));
    if devices <= offered {
        return 1.0;
    }
    let (mut lost, mut count) = (1.0, 1.0);
    while count <= devices {
        lost = offered * lost / (count + offered * lost);
        count += 1.0;
    }
    lost / (1.0 - offered / devices * (1.0 - lost))
}

/// L: five seconds after the faults ended, waits are what they were before the first one, with room for chance.
///
/// Only where there was capacity all the time: who was overloaded has a backlog to work off. Requests of which one in a
/// hundred is twenty times as long give any percentile by chance: where they seem to have waited long, the same
/// requests come once more to the same shoal, and nothing fails there.
pub(super) fn l_waits_are_short_again(world: &World, history: &History) -> Result<(), Broken> {
    let plan = world.plan();
    let too_few = history.waits_before.len() < WAITS_MIN || history.waits_after.len() < WAITS_MIN;
    if !plan.terms.ample || too_few {
        return Ok(());
    }
    let own = plan.service.unloaded(plan.arrivals.mean_size().0);
    let after = &history.waits_after;
    let is_long = |than: &[u64]| 3.0 * p99(than, 0.0) as f64 + 10.0 * own < p99(after, -CHANCE_SIGMAS) as f64;
    if !is_long(&history.waits_before) {
        return Ok(());
    }
    let without = without_faults(plan).waits_after;
    if !is_long(&without) {
        return Ok(());
    }
    let [before, after, without] = [&history.waits_before, after, &without].map(|waits| p99(waits, 0.0));
    let what = format!(
        "the 99th percentile of the wait was {before} us before the faults and is {after} us after; without faults it \
         is {without} us"
    );
    Err(Broken::of_node("L", world, 0, what))
}

/// The 99th percentile, or what it would be if chance had moved so many waits more (or fewer, below zero) above it as
/// are `sigmas` deviations: of a few hundred waits only a few decide.
fn p99(waits: &[u64], sigmas: f64) -> u64 {
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    let count = sorted.len() as f64;
    let rank = 0.99 * count + sigmas * (0.99 * 0.01 * count).sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let rank = (rank as usize).min(sorted.len().saturating_sub(1));
    sorted.get(rank).copied().unwrap_or(0)
}

/// What the run is like in which nothing fails.
fn without_faults(plan: &Plan) -> History {
    let plan = Arc::new(Plan { faults: Vec::new(), sabotage: None, ..plan.clone() });
    let (mut world, mut history) = (World::new(&plan), History::new(&plan));
    while world.advance() && world.now() < plan.arrivals.until {
        world.seen().iter().for_each(|seen| history.observe(&world, seen));
    }
    history
}

/// Whether a fault lasts, or ended within the last five seconds, at some time of the span. That a node joins is none.
fn disturbed(plan: &Plan, from: MonoTime, to: MonoTime) -> bool {
    let rest = Micros::from_ms(5000);
    plan.faults.iter().any(|planned| {
        let ends = (planned.at + planned.lasts).min(plan.heal_at.max(planned.at));
        !matches!(planned.fault, Fault::Join(_)) && planned.at < to && from < ends + rest
    })
}

#[cfg(test)]
mod tests {
    use super::waits;

    #[test]
    fn who_waits_is_what_erlang_says() {
        for (devices, offered, expected) in
            [(1, 0.0, 0.0), (1, 0.7, 0.7), (2, 1.0, 1.0 / 3.0), (8, 6.8, 0.5726), (3, 3.0, 1.0), (8, 99.0, 1.0)]
        {
            let told = waits(devices, offered);
            assert!((told - expected).abs() < 0.002, "{devices} {offered}: {told}");
        }
    }
}
