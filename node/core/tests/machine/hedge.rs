//! A second placement for a late job: when, where to, and when not.
//!
//! Part of the tests of the machine.

use shoal_core::budget::BudgetRules;
use shoal_core::load::Report;
use shoal_core::node::RowVerdict::Done;
use shoal_core::node::{HedgeRules, Input, Rules, Verdict};
use shoal_core::route::Policy;
use shoal_core::share::Share;

use super::support::*;

#[test]
fn a_late_job_is_placed_a_second_time_and_the_first_answer_wins() {
    let late = |answers: &[Line<'_>]| {
        ready_with(generous(), &[peer("a", 5), peer("b", 5000)])
            .play(&[
                (0, callers(9, &[1; 5], DEADLINE_MS), &["run 1: 9.0 9.1 9.2 9.3 9.4"]),
                (1, caller(1), &["forward 1#1 to a if within 59 ms"]),
                (2, accepted(1, 1, "a"), &[]),
                (40, Input::Tick, &[]),
                // Promised within 16 ms; three times that is late while nothing better is known. Here it takes 11 ms,
                // less than the 48 ms after which the peer has not answered.
                (49, Input::Tick, &[]),
                (50, batch_done(1, &[Done; 5]), &["finish 9: done here after 1", "run 2: 1.0"]),
            ])
            .play(answers)
    };
    late(&[(60, batch_done(2, &[Done]), &["abandon 1#1", "finish 1: done here after 1"])]).assert_at_rest();
    let lost = late(&[(55, answered(1, 1, "a", Verdict::Done), &["finish 1: done on a after 1"])]);
    assert_eq!((count(&lost, "hedged"), count(&lost, "hedge_won")), (1, 0));
    let broken = late(&[(55, broke(1, 1, "a"), &[]), (60, batch_done(2, &[Done]), &["finish 1: done here after 1"])]);
    broken.assert_at_rest();
}

#[test]
fn nothing_is_hedged_without_budget_or_while_the_others_are_busy() {
    let hedge = |percent, load_max| HedgeRules {
        budget: BudgetRules { percent, per_second: 0 },
        load_max: Share::percent(load_max),
        ..HedgeRules::default()
    };
    let half = |seq| Report { busy: Some(Share::percent(50)), ..report(seq, 30) };
    for (rules, hedged) in [(hedge(100, 50), 1), (hedge(2, 100), 0), (hedge(100, 49), 0)] {
        let mut stage = ready_with(Rules { hedge: Some(rules), ..plain_rules() }, &[peer("a", 30)]);
        stage.feed(0, callers(9, &[1; 3], DEADLINE_MS));
        stage.feed(1, caller(1));
        for tick in 1..20 {
            stage.feed(tick * 100, heard("a", half(10 + tick)));
            stage.feed(tick * 100, Input::Tick);
        }
        assert_eq!(count(&stage, "hedged"), hedged, "{rules:?}");
    }
}

#[test]
fn what_runs_on_a_peer_that_lives_is_not_hedged_and_what_is_on_a_silent_one_is() {
    let stage = || {
        ready_with(generous(), &[peer("a", 0)]).play(&[
            (0, callers(9, &[1; 9], DEADLINE_MS), &["run 1: 9.0 9.1 9.2 9.3 9.4"]),
            (1, caller(1), &["forward 1#1 to a if within 99 ms"]),
            (2, accepted(1, 1, "a"), &[]),
            (50, batch_done(1, &[Done; 5]), &["run 2: 9.5 9.6 9.7 9.8"]),
            (90, batch_done(2, &[Done; 4]), &["finish 9: done here after 1"]),
        ])
    };
    let mut lives = stage();
    for tick in 1..60 {
        // It started at once, or all that waited there has started.
        lives.feed(tick * 100, heard("a", report(10 + tick, if tick % 2 == 0 { 0 } else { 700 })));
        lives.feed(tick * 100, Input::Tick);
    }
    // It is blamed all the same, so that a peer which says that it is idle and never answers does not get everything.
    let stretch = lives.node.peers(ms(100)).next().map_or(0, |peer| peer.stretch_permille);
    assert!(count(&lives, "hedged") == 0 && 1000 < stretch, "{stretch}");
    let mut silent = stage();
    (1..15).for_each(|tick| drop(silent.feed(tick * 100, Input::Tick)));
    assert_eq!(count(&silent, "hedged"), 0);
    silent.play(&[(1500, Input::Tick, &["run 3: 1.0"])]);
}

#[test]
fn a_node_whose_own_device_is_late_hedges_however_busy_that_looks() {
    let rules = Rules { hedge: Some(HedgeRules { load_max: Share::percent(60), ..hedges() }), ..plain_rules() };
    let mut stage = ready_with(rules, &[peer("a", 30)]);
    stage.feed(0, callers(9, &[1; 3], DEADLINE_MS));
    stage.feed(1, caller(1));
    // Its batch hangs; by now the device was busy all the time.
    let hedged = (1..20).find_map(|tick| {
        stage.feed(tick * 100, heard("a", report(10 + tick, 30)));
        forwarded(&stage.feed(tick * 100, Input::Tick))
    });
    assert_eq!(hedged.map(|(job, _, peer)| (job, peer)), Some((1, "a".to_owned())));
}

fn hedges() -> HedgeRules {
    let budget = BudgetRules { percent: 100, per_second: 0 };
    HedgeRules { budget, load_max: Share::FULL, ..HedgeRules::default() }
}

fn generous() -> Rules {
    Rules { hedge: Some(hedges()), ..plain_rules() }
}

#[test]
fn a_hedge_goes_only_where_the_job_would_be_done_sooner_than_it_has_been_waited_for() {
    let mut stage = hot_with(generous(), &[peer("a", 20_000)]);
    stage.feed(2, caller(1));
    for tick in 1..30 {
        stage.feed(tick * 100, heard("a", report(10 + tick, 20_000)));
        assert_eq!(forwarded(&stage.feed(tick * 100, Input::Tick)), None, "one waits 20 s there");
    }
}

#[test]
fn a_policy_that_does_not_go_by_completion_is_not_overruled_by_a_hedge() {
    let mut rules = generous();
    rules.route.policy = Policy::Local;
    let mut stage = hot_with(rules, &[peer("a", 0)]);
    stage.feed(2, caller(1));
    for tick in 1..30 {
        stage.feed(tick * 100, heard("a", report(10 + tick, 0)));
        assert_eq!(forwarded(&stage.feed(tick * 100, Input::Tick)), None);
    }
}
