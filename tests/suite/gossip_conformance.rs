//! The gossip that the simulator believes in, against the gossip that runs: the same facts hold of both.
//!
//! For whoever changes `node/src/gossip.rs`, the version of chitchat, or the model in `cluster-sim/src/sim/gossip.rs`.
//! Times are in rounds (100 ms). The limits of a fact are the same for both; the mean would leave its own if either
//! were off by a factor of two.
//! Invariants: a script does not know what it runs on; times that were taken while the machine stood still are taken
//! again.
//! Not here: lost datagrams and partitions, which loopback does not have (the model's own tests); what the machine
//! makes of its views (`membership`, `failover`).

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cluster_tests::gossip::{Loopback, Modelled, Seen, Shoal, Views};
use shoal_core::lifecycle::Standing;
use shoal_core::prng::Prng;

/// Far beyond all that is expected; what is not there by then never comes.
const ROUNDS_MAX: f64 = 100.0;
/// How many real shoals run side by side for one fact.
const REAL_SHOALS: u64 = 6;
/// How many shoals of the model do.
const MODEL_SHOALS: u64 = 100;
/// The largest shoal of a fact.
const NODES_MAX: usize = 10;
/// How often a script is run again on real nodes because the machine stood still.
const ATTEMPTS_MAX: usize = 5;

/// One thing that is true of gossip.
struct Fact {
    name: &'static str,
    nodes: usize,
    script: Script,
    /// Limits, in rounds.
    mean: RangeInclusive<f64>,
    each: RangeInclusive<f64>,
}

/// Checks what is true at any time, and returns the rounds that things took. `chance` decides how the rounds of the
/// nodes lie to each other, and to what is done: how often a node hears of another one depends on that.
type Script = fn(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64>;

const JOIN: Fact = Fact {
    name: "all see all, after the last start",
    nodes: 5,
    script: |shoal, nodes, chance| vec![form(shoal, nodes, chance)],
    mean: 2.0..=4.5,
    each: 1.0..=9.0,
};
const REPORT: Fact = Fact {
    name: "the newest of some reports is everywhere",
    nodes: 5,
    script: publish,
    mean: 0.45..=1.35,
    each: 0.0..=4.0,
};
const STANDING: Fact = Fact {
    name: "a change of standing is everywhere",
    nodes: 5,
    script: change_standing,
    mean: 0.45..=1.35,
    each: 0.0..=4.0,
};
const DEATH_AMONG_THREE: Fact = Fact {
    name: "one of 3 stops silently and is called dead",
    nodes: 3,
    script: stop_silently,
    mean: 4.6..=9.2,
    each: 3.0..=15.0,
};
const DEATH_AMONG_TEN: Fact = Fact {
    name: "one of 10 stops silently and is called dead",
    nodes: 10,
    script: stop_silently,
    mean: 5.6..=11.6,
    each: 3.5..=17.0,
};
const RETURN: Fact = Fact {
    name: "a dead node is back everywhere, after its start",
    nodes: 5,
    script: come_back,
    mean: 1.8..=4.4,
    each: 1.0..=9.0,
};
const QUICK_RESTART: Fact = Fact {
    name: "the new run is everywhere, after a quick restart",
    nodes: 5,
    script: restart_at_once,
    mean: 1.8..=4.4,
    each: 1.0..=9.0,
};
/// Its times are those that were watched.
const WELL: Fact = Fact {
    name: "nobody who is well is called dead",
    nodes: 5,
    script: stay_well,
    mean: 60.0..=60.0,
    each: 60.0..=60.0,
};

fn publish(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    let mut newest = vec![0; nodes];
    let mut goes_on = |views: &Views, last: u64| {
        for (observer, seen) in views.all_of(2) {
            let report = seen.map_or(0, |seen| seen.report);
            assert!(newest[observer] <= report, "node {observer} knew {}, then {report}", newest[observer]);
            newest[observer] = report;
        }
        views.all_see(2, |seen| seen.report == last)
    };
    let mut times = Vec::new();
    for last in [4, 8, 12, 16, 20, 24] {
        pass(shoal, 3.0 + part(chance));
        // Faster than they spread: each overtakes the one before.
        for report in last - 3..last {
            shoal.announce(2, Standing::Ready, report);
            shoal.until(0.3, &mut |views| goes_on(views, u64::MAX));
        }
        shoal.announce(2, Standing::Ready, last);
        times.push(rounds(shoal, "all know the newest report", |views| goes_on(views, last)));
    }
    // What is old now does not come back.
    assert_eq!(shoal.until(10.0, &mut |views| !goes_on(views, 24)), None, "{:?}", shoal.views());
    times
}

fn change_standing(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    let changes = [(3, Standing::Draining), (0, Standing::Wedged), (3, Standing::Ready), (4, Standing::Draining)];
    let change = |(node, standing)| {
        pass(shoal, 3.0 + part(chance));
        shoal.announce(node, standing, 0);
        rounds(shoal, "all know the new standing", |views| views.all_see(node, |seen| seen.standing == standing))
    };
    changes.map(change).to_vec()
}

/// Returns the time of every observer.
fn stop_silently(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    // Until the mean interval of the failure detector is no longer that which it began with.
    pass(shoal, 40.0 + part(chance));
    let gone = nodes - 1;
    let known = Seen { alive: true, run: 1, standing: Standing::Ready, report: 0 };
    assert!(shoal.views().all_see(gone, |seen| seen == known), "{:?}", shoal.views());
    shoal.stop(gone);
    let (mut times, mut spent) = (Vec::new(), 0.0);
    while times.len() < nodes - 1 {
        let is_next = |views: &Views| times.len() < dead(views).len();
        spent += rounds(shoal, "all know that it is dead", is_next);
        times.resize(dead(shoal.views()).len(), spent);
    }
    assert_eq!(dead(shoal.views()), (0..nodes - 1).map(|observer| (observer, gone)).collect::<Vec<_>>());
    times
}

fn stay_well(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    let somebody_dead = shoal.until(60.0, &mut |views| !dead(views).is_empty());
    assert_eq!(somebody_dead, None, "{:?}", shoal.views());
    vec![60.0]
}

fn come_back(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    shoal.announce(4, Standing::Draining, 7);
    rounds(shoal, "all know what it says", |views| views.all_see(4, |seen| (seen.report, seen.run) == (7, 1)));
    pass(shoal, 10.0 + part(chance));
    shoal.stop(4);
    rounds(shoal, "all know that it is dead", |views| views.all_see(4, |seen| !seen.alive));
    shoal.start(4);
    let mut is_new = watch_runs(nodes);
    let took = rounds(shoal, "all know that it is back", |views| is_new(views));
    assert_eq!(shoal.until(15.0, &mut |views| !is_new(views)), None, "{:?}", shoal.views());
    vec![took]
}

fn restart_at_once(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> Vec<f64> {
    form(shoal, nodes, chance);
    shoal.announce(4, Standing::Draining, 7);
    rounds(shoal, "all know what it says", |views| views.all_see(4, |seen| (seen.report, seen.run) == (7, 1)));
    pass(shoal, 30.0 + part(chance));
    shoal.stop(4);
    shoal.start(4);
    let mut is_new = watch_runs(nodes);
    let took = rounds(shoal, "all know the new run", |views| is_new(views));
    // Also beyond the moment in which the old run is found dead.
    assert_eq!(shoal.until(15.0, &mut |views| !is_new(views)), None, "{:?}", shoal.views());
    vec![took]
}

/// Watches that nobody goes back to the first run of node 4, or takes its words for those of the second. Tells whether
/// all know that the second is alive.
fn watch_runs(nodes: usize) -> impl FnMut(&Views) -> bool {
    let mut run_alive = vec![0; nodes];
    move |views| {
        for (observer, seen) in views.all_of(4) {
            let Some(seen) = seen else { continue };
            let words = if seen.run == 1 { (Standing::Draining, 7) } else { (Standing::Ready, 0) };
            assert_eq!((seen.standing, seen.report), words, "node {observer} mixes two runs: {seen:?}");
            assert!(run_alive[observer] <= seen.run, "node {observer} goes back to {seen:?}");
            if seen.alive {
                run_alive[observer] = seen.run;
            }
        }
        views.all_see(4, |seen| seen.alive && seen.run == 2)
    }
}

/// Who calls whom dead.
fn dead(views: &Views) -> Vec<(usize, usize)> {
    let by = |node| views.running().filter(move |&other| views.seen(other, node).is_some_and(|seen| !seen.alive));
    let mut dead: Vec<_> = (0..NODES_MAX).flat_map(|node| by(node).map(move |observer| (observer, node))).collect();
    dead.sort_unstable();
    dead
}

/// All start, less than a round apart, and find each other. Returns the rounds from the last start on.
fn form(shoal: &mut dyn Shoal, nodes: usize, chance: &mut Prng) -> f64 {
    for node in 0..nodes {
        shoal.start(node);
        if node + 1 < nodes {
            pass(shoal, part(chance));
        }
    }
    let formed = |views: &Views| (0..nodes).all(|node| views.all_see(node, |seen| seen.alive));
    rounds(shoal, "all see all", formed)
}

/// A part of a round.
fn part(chance: &mut Prng) -> f64 {
    chance.below(1000) as f64 / 1000.0
}

/// Lets time go by where the time itself is what a fact is about.
fn pass(shoal: &mut dyn Shoal, rounds: f64) {
    shoal.until(rounds, &mut |_| false);
}

/// The rounds until `done`.
#[track_caller]
fn rounds(shoal: &mut dyn Shoal, what: &str, mut done: impl FnMut(&Views) -> bool) -> f64 {
    let took = shoal.until(ROUNDS_MAX, &mut done);
    took.unwrap_or_else(|| panic!("not within {ROUNDS_MAX} rounds: {what}; {:?}", shoal.views()))
}

fn on_real_nodes(fact: &Fact) -> String {
    let times = std::thread::scope(|scope| {
        let shoals: Vec<_> = (0..REAL_SHOALS).map(|seed| scope.spawn(move || undisturbed(fact, seed))).collect();
        shoals
            .into_iter()
            .flat_map(|shoal| shoal.join().expect("the fact holds; what broke is above"))
            .collect::<Vec<_>>()
    });
    judge(fact, "real", &times)
}

/// What the script found on a machine that ran all the time: one that stood still makes anybody seem dead.
fn undisturbed(fact: &Fact, seed: u64) -> Vec<f64> {
    let mut attempt = 1;
    loop {
        let mut shoal = Loopback::new(fact.nodes);
        let found = catch_unwind(AssertUnwindSafe(|| (fact.script)(&mut shoal, fact.nodes, &mut Prng::new(seed))));
        // A thread that was held up may not have had time to tell.
        pass(&mut shoal, 2.0);
        if !shoal.was_disturbed() || attempt == ATTEMPTS_MAX {
            return found.unwrap_or_else(|panic| resume_unwind(panic));
        }
        attempt += 1;
    }
}

fn on_the_model(fact: &Fact) -> String {
    let times_of = |seed| {
        let mut shoal = Modelled::new(fact.nodes, seed);
        (fact.script)(&mut shoal, fact.nodes, &mut Prng::new(seed))
    };
    judge(fact, "model", &(0..MODEL_SHOALS).flat_map(times_of).collect::<Vec<_>>())
}

#[track_caller]
fn judge(fact: &Fact, form: &str, times: &[f64]) -> String {
    let Fact { name, mean: mean_limits, each: limits, .. } = fact;
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let (least, most) =
        times.iter().fold((f64::MAX, 0.0_f64), |(least, most), &time| (least.min(time), most.max(time)));
    let found = format!("{name}, {form}: {mean:.2} rounds ({least:.2} to {most:.2}, {} times)", times.len());
    assert!(limits.contains(&least) && limits.contains(&most), "{found}, and not each within {limits:?}");
    assert!(mean_limits.contains(&mean), "{found}, and not {mean_limits:?} in the mean");
    found
}

/// Two tests a fact, one on each form.
macro_rules! facts {
    ($($fact:ident: $real:ident, $model:ident;)*) => {
        $(
            #[test]
            fn $real() {
                println!("{}", on_real_nodes(&$fact));
            }

            #[test]
            fn $model() {
                println!("{}", on_the_model(&$fact));
            }
        )*
    };
}

facts! {
    JOIN: real_nodes_find_each_other, model_nodes_find_each_other;
    REPORT: real_reports_spread_and_never_go_back, model_reports_spread_and_never_go_back;
    STANDING: a_real_change_of_standing_spreads, a_change_of_standing_spreads_in_the_model;
    DEATH_AMONG_THREE: a_silent_one_of_three_real_nodes_is_dead, a_silent_one_of_three_is_dead_in_the_model;
    DEATH_AMONG_TEN: a_silent_one_of_ten_real_nodes_is_dead, a_silent_one_of_ten_is_dead_in_the_model;
    RETURN: a_dead_real_node_comes_back_as_its_new_run, a_dead_node_in_the_model_comes_back_as_its_new_run;
    QUICK_RESTART: a_quick_restart_of_a_real_node_is_seen, a_quick_restart_in_the_model_is_seen;
    WELL: no_real_node_that_is_well_is_called_dead, no_node_of_the_model_that_is_well_is_called_dead;
}

/// Of real nodes only: the model has one cluster.
#[test]
fn a_real_node_of_another_cluster_is_never_seen() {
    let nodes = 6;
    let mut shoal = Loopback::in_clusters(nodes, 2);
    (0..nodes).for_each(|node| shoal.start(node));
    let meet = |views: &Views| {
        let of_one = |node: usize| views.all_of(node).filter(move |(other, _)| other % 2 == node % 2);
        (0..nodes).all(|node| of_one(node).all(|(_, seen)| seen.is_some_and(|seen| seen.alive)))
    };
    let stranger = |views: &Views| {
        let of_other =
            |node: usize| views.all_of(node).find(move |(other, seen)| other % 2 != node % 2 && seen.is_some());
        (0..nodes).find_map(of_other)
    };
    let mut watch = |views: &Views| {
        assert_eq!(stranger(views), None, "{views:?}");
        meet(views)
    };
    rounds(&mut shoal, "the nodes of each cluster see each other", &mut watch);
    assert_eq!(shoal.until(20.0, &mut |views| !watch(views)), None, "they lost each other: {:?}", shoal.views());
}
