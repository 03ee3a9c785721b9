//! The rules beside placement: what keeps one bad peer, or a bad moment of this node, from doing harm.
//!
//! Part of the tests of the machine. What each rule is worth is measured by the simulator, not here.

use shoal_core::affinity::OwnerTable;
use shoal_core::budget::BudgetRules;
use shoal_core::lifecycle::Standing;
use shoal_core::load::{DeviceLoad, Report};
use shoal_core::node::RowVerdict::{Done, Failed};
use shoal_core::node::{
    Arrival, CanaryVerdict, Effect, Input, Outcome, OwnRules, Reason, Refusal, RetryBudget, Rules, Verdict,
};
use shoal_core::peers::PeerFacts;
use shoal_core::route::Policy;
use shoal_core::share::Share;
use shoal_core::time::Micros;

use super::support::*;

/// A caller's job of one unit that belongs to a session.
fn of_session(job: u64, session: u64) -> Input {
    let Input::Arrived(arrival) = caller(job) else { unreachable!("a caller arrives") };
    Input::Arrived(Arrival { session: Some(session), ..arrival })
}

fn explained(job: u64) -> Input {
    let Input::Arrived(arrival) = caller(job) else { unreachable!("a caller arrives") };
    Input::Arrived(Arrival { explain: true, ..arrival })
}

#[test]
fn a_node_of_weight_zero_hands_everything_on_and_computes_nothing() {
    let own = OwnRules { weight: 0, backup: false };
    let stage = ready_with(Rules { own, ..plain_rules() }, &[peer("a", 5000)]);
    stage.play(&[
        (1, caller(1), &["forward 1#1 to a"]),
        (2, answered(1, 1, "a", Verdict::Done), &["finish 1: done on a after 1"]),
    ]);
    let alone = ready_with(Rules { own, ..plain_rules() }, &[]);
    assert!(!alone.node.can_answer(ms(1)));
    alone.play(&[(1, caller(1), &["finish 1: unavailable after 0"])]);
}

#[test]
fn a_backup_serves_only_when_the_others_cannot() {
    let own = OwnRules { weight: 100, backup: true };
    let backup = || ready_with(Rules { own, ..plain_rules() }, &[peer("a", 5000)]);
    backup().play(&[(1, caller(1), &["forward 1#1 to a"])]);
    let gone = Input::Membership(vec![PeerFacts { alive: false, ..peer("a", 0) }]);
    backup().play(&[(1, gone, &[]), (2, caller(1), &["run 1: 1.0"])]);
}

#[test]
fn a_session_goes_to_its_owner_until_that_holds_too_much() {
    let owners = OwnerTable::new(["b", "here", "a"].map(id).into(), vec![vec![0, 1], vec![1, 2]]).expect("sound");
    let holds = |held, name: &str| {
        let load = Some(Report { held, ..report(1, 0) });
        PeerFacts { load, ..peer(name, 0) }
    };
    let stage =
        |held| Stage::ready(&[holds(0, "a"), holds(held, "b")]).play(&[(1, Input::Owners(owners.clone()), &[])]);
    stage(0).play(&[(1, of_session(1, 0), &["forward 1#1 to b"]), (1, of_session(2, 1), &["run 1: 2.0"])]);
    // Six jobs on three nodes: an owner may hold ceil(1.25 * 7 / 3) = 3 with the new one.
    let full = stage(6).play(&[(1, of_session(1, 0), &["run 1: 1.0"])]);
    assert_eq!((count(&full, "owner_full"), count(&full, "owner_served")), (1, 1));
    let gone = Input::Membership(vec![holds(0, "a")]);
    stage(0).play(&[(1, gone, &[]), (2, of_session(1, 0), &["run 1: 1.0"])]);
}

#[test]
fn a_node_that_cannot_compute_sends_a_session_to_its_owner() {
    let owners = OwnerTable::new(["a", "b", "c"].map(id).into(), vec![vec![1, 0, 2]]).expect("sound");
    let peers = ["a", "b", "c"].map(|name| peer(name, 0));
    let own = OwnRules { weight: 0, backup: false };
    for mut stage in [ready_with(Rules { own, ..plain_rules() }, &peers), Stage::starting(&peers)] {
        stage.feed(1, Input::Owners(owners.clone()));
        for job in 1..=9 {
            let (_, attempt, peer) = forwarded(&stage.feed(2, of_session(job, 0))).expect("its owner is there");
            assert_eq!(peer, "b");
            stage.feed(2, answered(job, attempt, "b", Verdict::Done));
        }
    }
}

#[test]
fn whoever_asks_is_told_who_could_have_served_and_why_it_was_whom() {
    let mut stage = hot(&[peer("a", 5)]);
    stage.feed(1, explained(1));
    let effects = stage.feed(20, answered(1, 1, "a", Verdict::Done));
    let [Effect::Finish { explanation: Some(told), .. }] = &effects[..] else { panic!("{effects:?}") };
    let [decision] = &told.decisions[..] else { panic!("{told:?}") };
    assert_eq!((decision.chosen.as_str(), decision.reason), ("a", Reason::PeerIsSooner));
    let options: Vec<(&str, u64)> =
        decision.options.iter().map(|option| (option.node.as_str(), option.completion.get() / 1000)).collect();
    assert_eq!(options, [("here", 410), ("a", 16)]);
    assert_eq!(decision.options[1].age, Some(Micros::from_ms(1)));
}

#[test]
fn nobody_pays_for_an_explanation_that_was_not_asked_for() {
    let mut stage = Stage::ready(&[]);
    stage.feed(1, caller(1));
    let effects = stage.feed(11, batch_done(1, &[Done]));
    assert!(matches!(effects[..], [Effect::Finish { explanation: None, .. }]), "{effects:?}");
}

#[test]
fn a_failing_canary_moves_the_work_elsewhere_and_a_passing_one_brings_the_node_back() {
    let wedge = Input::Canary(CanaryVerdict::Failed);
    let mut stage = Stage::ready(&[peer("a", 5000)]).play(&[
        (1, caller(1), &["run 1: 1.0"]),
        (1, handed(2, None), &["acknowledge 2, wait 20 ms"]),
        (2, wedge.clone(), &["forward 1#2 to a", "finish 2: refused unable after 1"]),
        (3, wedge, &[]),
        (3, handed(3, None), &["finish 3: refused unable after 0"]),
        (4, caller(4), &["forward 4#1 to a"]),
    ]);
    assert_eq!(stage.node.report(ms(4)).standing, Standing::Wedged);
    // The batch that hung may still end; its job is elsewhere by now.
    stage = stage.play(&[(5, batch_done(1, &[Done]), &[]), (6, Input::Canary(CanaryVerdict::Passed), &[])]);
    stage.play(&[(7, caller(5), &["run 2: 5.0"])]);
}

#[test]
fn a_device_with_slots_runs_as_many_batches_at_a_time() {
    let mut rules = plain_rules();
    (rules.batch.slots, rules.batch.rows_max) = (2, 1);
    let mut stage = ready_with(rules, &[]).play(&[
        (0, callers(1, &[1, 1, 1], DEADLINE_MS), &["run 1: 1.0", "run 2: 1.1"]),
        (10, batch_done(2, &[Done]), &["run 3: 1.2"]),
    ]);
    // Both slots are busy, for 10 ms each as far as anybody knows: the first of them is free after 5 ms in the mean.
    assert_eq!(stage.node.report(ms(10)).wait.to_ms_ceil(), 5);
    stage = stage
        .play(&[(20, batch_done(1, &[Done]), &[]), (20, batch_done(3, &[Done]), &["finish 1: done here after 1"])]);
    stage.assert_at_rest();
}

#[test]
fn the_retry_budget_stops_retries_of_failures_but_not_those_that_a_death_causes() {
    let budget = Some(RetryBudget(BudgetRules { percent: 0, per_second: 1 }));
    let node = || {
        let mut rules = Rules { retry_budget: budget, ..plain_rules() };
        // This node would else hand on its callers after the first failure.
        rules.peers.count_errors = false;
        ready_with(rules, &[peer("a", 0)]).play(&[
            (1, caller(1), &["run 1: 1.0"]),
            (2, batch_done(1, &[Failed]), &["forward 1#2 to a"]),
            (2, answered(1, 2, "a", Verdict::Done), &["finish 1: done on a after 2"]),
        ])
    };
    let spent = node().play(&[
        (3, caller(2), &["run 2: 2.0"]),
        (4, batch_done(2, &[Failed]), &["finish 2: failed on one node after 1"]),
    ]);
    assert_eq!(count(&spent, "retry_denied"), 1);
    let mut dead = node().play(&[(2, Input::Membership(vec![peer("a", 0), peer("b", 0)]), &[])]);
    for job in 2..6 {
        dead.feed(3, callers(job, &[1; 9], DEADLINE_MS));
    }
    let forwarded = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Forward { job, attempt, peer, .. } => Some((*job, *attempt, peer.clone())),
            _ => None,
        })
    };
    let first = forwarded(&dead.feed(4, caller(7))).expect("a peer is sooner");
    let again = dead.feed(5, Input::Broke { job: first.0, attempt: first.1, peer: first.2.clone() });
    assert!(forwarded(&again).is_some(), "{again:?}");
}

#[test]
fn a_hot_node_gives_work_away_sooner_but_never_to_a_worse_peer() {
    let probed = |percent| Input::Probed(DeviceLoad { busy: Some(Share::percent(percent)), memory: None });
    for (percent, wait_ms, expected) in
        [(75, 88, &[][..]), (76, 88, &["forward 2#1 to a if within 100 ms"][..]), (76, 98, &[][..])]
    {
        Stage::ready(&[peer("a", wait_ms - 2)]).play(&[
            (1, callers(1, &[1; 9], DEADLINE_MS), &["run 1: 1.0 1.1 1.2 1.3 1.4"]),
            (1, probed(percent), &[]),
            (1, caller(2), expected),
        ]);
    }
}

#[test]
fn a_device_that_is_not_known_any_more_is_as_hot_as_what_runs_on_it() {
    let mut stage = Stage::ready(&[]);
    stage.feed(1, Input::Probed(DeviceLoad { busy: Some(Share::FULL), memory: None }));
    stage.feed(2, Input::Tick);
    assert!(stage.gauges().hot);
    let told = stage.node.report(ms(2));
    assert_eq!((told.busy, told.memory), (Some(Share::FULL), None));
    stage.feed(3, Input::Probed(DeviceLoad::default()));
    assert_eq!((stage.node.report(ms(3)).busy, stage.gauges().load), (None, Share::default()));
    // The state holds for a while.
    stage.feed(4, Input::Tick);
    assert!(stage.gauges().hot);
    stage.feed(1000, Input::Tick);
    assert!(!stage.gauges().hot);
}

#[test]
fn every_policy_ends_every_job_and_hands_none_of_a_peer_on() {
    for &policy in Policy::ALL {
        let mut rules = plain_rules();
        rules.route.policy = policy;
        let mut stage = ready_with(rules, &[peer("a", 0), peer("b", 0)]);
        let mut effects: Vec<Effect> = (1..=20).flat_map(|job| stage.feed(1, caller(job))).collect();
        effects.extend(stage.feed(1, handed(21, None)));
        let (mut ended, mut at_ms) = (0, 1);
        while !effects.is_empty() {
            at_ms += 10;
            let mut next = Vec::new();
            for effect in effects {
                let input = match effect {
                    // The first placement is refused, the second one answered.
                    Effect::Forward { job, attempt, peer, bound, .. } => {
                        assert!(job.0 != 21 && (bound.is_none() || policy == Policy::Adaptive), "{policy:?}");
                        match attempt.0 {
                            1 => refused(job.0, 1, peer.as_str(), Refusal::Full),
                            second => answered(job.0, second, peer.as_str(), Verdict::Done),
                        }
                    }
                    Effect::Run { batch, rows } => batch_done(batch.0, &vec![Done; rows.len()]),
                    Effect::Finish { outcome, .. } => {
                        assert!(matches!(outcome, Outcome::Done { .. }), "{policy:?}: {outcome:?}");
                        ended += 1;
                        continue;
                    }
                    _ => continue,
                };
                next.extend(stage.feed(at_ms, input));
            }
            effects = next;
        }
        assert_eq!(ended, 21, "{policy:?}");
        stage.assert_at_rest();
    }
}

#[test]
fn a_machine_that_was_written_down_goes_on_as_if_nothing_had_been() {
    let mut stage = hot(&[peer("a", 0), peer("b", 50)]).play(&[(1, caller(1), &["forward 1#1 to a if within 410 ms"])]);
    let written = serde_json::to_string(&stage.node).expect("a machine can be written");
    let mut read: shoal_core::node::Node = serde_json::from_str(&written).expect("and read");
    for (at, input) in [
        (2, caller(2)),
        (3, refused(1, 1, "a", Refusal::Busy)),
        (4, batch_done(1, &[Done; 5])),
        (90, Input::Tick),
        (91, callers(3, &[3, 1], 200)),
        (190, Input::Tick),
        (290, Input::Tick),
    ] {
        let mut effects = Vec::new();
        read.step(ms(at), input.clone(), &mut effects);
        assert_eq!(stage.feed(at, input), effects, "at {at} ms");
    }
}
