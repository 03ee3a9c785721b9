//! What one event can break.
//!
//! Part of `check`: invariants I1 to I6, I8, I9 and the forwards of I12.

use shoal_core::time::Micros;

use super::super::gossip::GossipRules;
use super::super::plan::{DeviceFault, Fault, Membership};
use super::super::seen::{Ended, Seen, What};
use super::super::world::{Request, World};
use super::Broken;
use super::history::History;

/// A dead node gets nothing after so many rounds of gossip: a second at the usual pace.
const DEAD_AFTER_ROUNDS: u64 = 10;
/// A draining node gets nothing after so many rounds: half a second at the usual pace.
const DRAINING_AFTER_ROUNDS: u64 = 5;
/// Who just started or stood still may know as little for so long.
const DEAF: Micros = Micros::from_ms(1500);
/// A caller who gives less may be refused for want of time.
const AMPLE_LIMIT: Micros = Micros::from_ms(5000);

pub(super) fn judge(world: &World, history: &History, seen: &Seen) -> Result<(), Broken> {
    match seen.what {
        What::Ran => i2_executions_are_few(world, seen),
        What::Forwarded => {
            i12_no_second_hop(world, seen)?;
            i3_no_node_twice(world, seen)?;
            i8_the_dead_get_nothing(world, history, seen)?;
            i9_the_draining_get_nothing(world, history, seen)
        }
        What::Finished => {
            i1_one_end(world, seen)?;
            i4_the_answer_is_of_the_placement(world, seen)?;
            i5_the_answer_is_of_the_request(world, seen)?;
            i6_nobody_fails_because_another_died(world, seen)
        }
        _ => Ok(()),
    }
}

fn record<'a>(world: &'a World, seen: &Seen, invariant: &'static str) -> Result<&'a Request, Broken> {
    let gone = || "its request is over already".to_owned();
    world.request(seen.request).ok_or_else(|| Broken::of_request(invariant, world, seen.node, seen.request, gone()))
}

/// I1: a request that was accepted ends exactly once. (That it ends at all is judged at the end.)
fn i1_one_end(world: &World, seen: &Seen) -> Result<(), Broken> {
    let ends = record(world, seen, "I1")?.ends;
    if ends == 1 {
        return Ok(());
    }
    Err(Broken::of_request("I1", world, seen.node, seen.request, format!("the request ended {ends} times")))
}

/// I2: at most three nodes run a request, and at most one when nothing went wrong with it. A hedge may add one.
fn i2_executions_are_few(world: &World, seen: &Seen) -> Result<(), Broken> {
    let request = record(world, seen, "I2")?;
    let most = if request.troubled { 3 } else { 1 } + u32::from(request.hedged);
    if request.executions <= most {
        return Ok(());
    }
    let what = format!("{} nodes ran it; at most {most} may (troubled: {})", request.executions, request.troubled);
    Err(Broken::of_request("I2", world, seen.node, seen.request, what))
}

/// I3: no node has a request twice, its own door included.
fn i3_no_node_twice(world: &World, seen: &Seen) -> Result<(), Broken> {
    let request = record(world, seen, "I3")?;
    let path = &request.path[..request.path_len];
    let twice = path.iter().enumerate().any(|(index, node)| path[..index].contains(node));
    if !twice && seen.other != seen.node && path.len() <= 3 + usize::from(request.hedged) {
        return Ok(());
    }
    let what = format!("node {} sent it to {path:?}", seen.node);
    Err(Broken::of_request("I3", world, seen.node, seen.request, what))
}

/// I4: an answer counts for the placement that it belongs to, at the moment at which it comes.
fn i4_the_answer_is_of_the_placement(world: &World, seen: &Seen) -> Result<(), Broken> {
    if Ended::of(seen.value) != Some(Ended::DoneAway) {
        return Ok(());
    }
    let answer = record(world, seen, "I4")?.answer;
    let attempt = seen.value >> 8;
    let fits = answer.is_some_and(|answer| {
        answer.at == world.now() && answer.node == seen.other as usize && u64::from(answer.attempt.0) == attempt
    });
    if fits {
        return Ok(());
    }
    let what = format!("it ended by placement {attempt} on node {}, but what came is {answer:?}", seen.other);
    Err(Broken::of_request("I4", world, seen.node, seen.request, what))
}

/// I5: an answer was computed for the request that gets it, all of it.
fn i5_the_answer_is_of_the_request(world: &World, seen: &Seen) -> Result<(), Broken> {
    let request = record(world, seen, "I5")?;
    let wrong = match Ended::of(seen.value) {
        Some(Ended::DoneAway) => request.answer.is_none_or(|answer| answer.computed_for != seen.request),
        Some(Ended::DoneHere) => request.rows_done_here < request.rows,
        _ => false,
    };
    if !wrong {
        return Ok(());
    }
    let (done, rows, answer) = (request.rows_done_here, request.rows, request.answer);
    let what = format!("it got what was not computed for it: {done} of {rows} texts here, {answer:?}");
    Err(Broken::of_request("I5", world, seen.node, seen.request, what))
}

/// I6: a request of a node that lives never fails because something else broke, given time and capacity.
///
/// Excused: its own work breaks the model; its caller gave little time; its own process stood still or starts; devices
/// that do wrong on two nodes or more, because a request is tried on two.
fn i6_nobody_fails_because_another_died(world: &World, seen: &Seen) -> Result<(), Broken> {
    let Some(ended) = Ended::of(seen.value).filter(|ended| !ended.is_done()) else { return Ok(()) };
    let plan = world.plan();
    let request = record(world, seen, "I6")?;
    let own_fault = request.poison && matches!(ended, Ended::RequestsFault | Ended::EngineFailed | Ended::Rejected);
    let door = request.door;
    let wrong_devices =
        plan.faults.iter().filter(|planned| matches!(planned.fault, Fault::Device(..))).filter(|planned| {
            let until = planned.at + planned.lasts + DEAF;
            request.arrived < until && planned.at <= world.now()
        });
    let is_wedge = |fault| matches!(fault, Fault::Device(_, DeviceFault::Wedged | DeviceFault::Stalls(_)));
    let wrong_devices = wrong_devices.filter(|planned| !is_wedge(planned.fault)).count();
    let slow_start = world.ready_since(door).is_none_or(|ready| request.arrived < ready);
    let excused = !plan.terms.ample
        || own_fault
        || request.limit < AMPLE_LIMIT
        || world.started(door) + DEAF > request.arrived
        || slow_start
        || (1 < wrong_devices && matches!(ended, Ended::RequestsFault | Ended::EngineFailed))
        || stood_still(world, request);
    if excused {
        return Ok(());
    }
    let what = format!("it ended as \"{}\" after {:?}", ended.word(), world.now().since(request.arrived));
    Err(Broken::of_request("I6", world, seen.node, seen.request, what))
}

/// Whether the plan stopped the request's own process while it waited, or so shortly before that all who came meanwhile
/// are read at once.
fn stood_still(world: &World, request: &Request) -> bool {
    world.plan().faults.iter().any(|planned| {
        planned.fault == Fault::Freeze(request.door)
            && request.arrived <= planned.at + planned.lasts + DEAF
            && planned.at <= world.now()
    })
}

/// I8: one second after a process ended, at the usual pace of gossip, or after the last word of its own that was still
/// under way, nobody offers it work; and nobody does again whose own connection with it broke.
///
/// Excused from the second: who just started or stood still itself, and everybody while gossip is hurt. Nothing excuses
/// who found out for itself.
///
/// A node whose gossip did not call the dead one dead yet has a few rounds more: see [`detector_limit`].
fn i8_the_dead_get_nothing(world: &World, history: &History, seen: &Seen) -> Result<(), Broken> {
    let Some(gone) = world.gone_since(seen.other as usize) else { return Ok(()) };
    let since = world.now().since(gone);
    if let Some(broke) = history.found_out(seen, gone) {
        let what =
            format!("node {} was offered work, {:?} after the connection broke", seen.other, since - broke.since(gone));
        return Err(Broken::of_request("I8", world, seen.node, seen.request, what));
    }
    let Membership::Gossip { rules, .. } = world.plan().membership else { return Ok(()) };
    let told = history.last_word(seen, gone) + rules.interval.times(DEAD_AFTER_ROUNDS);
    let may_know_at = if is_called_alive(world, seen) {
        // Who stood still found in its sockets what the dead one had sent, and begins to count from there.
        told.max(gone.max(history.deaf_until[seen.node as usize]) + detector_limit(&rules))
    } else {
        told
    };
    if world.now() <= may_know_at || is_deaf(world, history, seen) {
        return Ok(());
    }
    let what = format!("node {} was offered work {since:?} after it ended", seen.other);
    Err(Broken::of_request("I8", world, seen.node, seen.request, what))
}

/// When chitchat calls a process dead at the latest, from its end on, while gossip itself is well.
///
/// It waits phi times the mean interval between heartbeats. That is about half a round among a few nodes that know each
/// other for long, but a whole round where its window is young (it begins with the interval of the setting), or still
/// holds what a fault that is over made long, or chance and a few lost datagrams did. Beside that a last heartbeat goes
/// from node to node for a round, or comes out of the sockets of a process that stood still; the end of a round judges;
/// the node looks a moment later. No decision of a node that had nothing to do with the dead one can be sooner.
fn detector_limit(rules: &GossipRules) -> Micros {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let waits = (rules.interval.get() as f64 * rules.phi_threshold) as u64;
    Micros::new(waits) + rules.interval.times(3)
}

/// Whether what the node was told last by its own gossip is that the other one lives.
fn is_called_alive(world: &World, seen: &Seen) -> bool {
    let (observer, other) = (seen.node as usize, seen.other as usize);
    world.machine(observer).is_some_and(|(machine, now)| {
        machine.peers(now).any(|peer| world.is_named(other, &peer.facts.id) && peer.facts.alive)
    })
}

/// I9: half a second after a process was told to leave, at the usual pace of gossip, nobody offers it work.
///
/// Excused as in I8.
fn i9_the_draining_get_nothing(world: &World, history: &History, seen: &Seen) -> Result<(), Broken> {
    let Some(leaving) = world.leaving_since(seen.other as usize) else { return Ok(()) };
    let since = world.now().since(leaving);
    let Membership::Gossip { rules, .. } = world.plan().membership else { return Ok(()) };
    if since <= rules.interval.times(DRAINING_AFTER_ROUNDS)
        || is_deaf(world, history, seen)
        || is_frozen_lately(world, seen)
    {
        return Ok(());
    }
    let what = format!("node {} was offered work {since:?} after it was told to leave", seen.other);
    Err(Broken::of_request("I9", world, seen.node, seen.request, what))
}

fn is_deaf(world: &World, history: &History, seen: &Seen) -> bool {
    world.now() < history.deaf_until[seen.node as usize] + DEAF || history.gossip_is_hurt(world.now(), world.plan())
}

/// A stopped process cannot say that it leaves.
fn is_frozen_lately(world: &World, seen: &Seen) -> bool {
    world.plan().faults.iter().any(|planned| {
        let until = planned.at + planned.lasts + DEAF;
        planned.fault == Fault::Freeze(seen.other as usize) && planned.at <= world.now() && world.now() < until
    })
}

/// I12: what came from a peer is never handed on.
fn i12_no_second_hop(world: &World, seen: &Seen) -> Result<(), Broken> {
    if seen.value >> 32 == 0 {
        return Ok(());
    }
    let what = format!("node {} handed on to node {} what came from a peer", seen.node, seen.other);
    Err(Broken::of_request("I12", world, seen.node, seen.request, what))
}
