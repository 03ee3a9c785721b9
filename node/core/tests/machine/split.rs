//! Calls with many texts: cut into chunks, two on a node at most, joined and ended as one.
//!
//! Part of the tests of the machine. A chunk is 50 ms of work, here five units. What random walks say of chunks is in
//! `support::walk`.

use std::collections::BTreeMap;

use shoal_core::id::JobId;
use shoal_core::lifecycle::DoorState;
use shoal_core::node::RowVerdict::{Done, Failed};
use shoal_core::node::{
    Arrival, Effect, EngineFault, Input, Outcome, OwnRules, Placed, Reason, Refusal, RowVerdict, Rules, Verdict,
};
use shoal_core::peers::PeerFacts;
use shoal_core::split::SplitRules;
use shoal_core::time::Micros;

use super::support::*;

fn rules() -> Rules {
    Rules { split: Some(SplitRules::default()), ..plain_rules() }
}

/// A call of `units` texts of a unit each.
fn call(job: u64, units: usize) -> Input {
    callers(job, &vec![1; units], DEADLINE_MS)
}

/// A shoal of one real machine and peers that do as they are told, and the call 1 of `units` texts in it.
struct Play {
    stage: Stage,
    at_ms: u64,
    /// Rows of each chunk that was cut, by its number.
    cut: BTreeMap<u64, std::ops::Range<u32>>,
    /// Placements on peers that stand.
    away: Vec<(u64, u8, String)>,
    running: Option<(u64, Vec<JobId>)>,
    /// How jobs ended, calls and chunks.
    ended: BTreeMap<u64, Outcome>,
}

impl Play {
    fn new(rules: Rules, peers: &[PeerFacts]) -> Self {
        Self::of(ready_with(rules, peers))
    }

    fn of(stage: Stage) -> Self {
        let (cut, ended) = (BTreeMap::new(), BTreeMap::new());
        Self { stage, at_ms: 1, cut, away: Vec::new(), running: None, ended }
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.stage.feed(self.at_ms, input);
        for effect in &effects {
            match effect {
                Effect::Cut { chunk, rows, .. } => drop(self.cut.insert(chunk.0, rows.clone())),
                Effect::Forward { job, attempt, peer, .. } => self.away.push((job.0, attempt.0, peer.to_string())),
                Effect::Abandon { job, attempt } => self.take_back(job.0, attempt.0),
                Effect::Run { batch, rows } => {
                    self.running = Some((batch.0, rows.iter().map(|row| row.job).collect()));
                }
                Effect::Finish { job, outcome, .. } => {
                    assert!(self.ended.insert(job.0, outcome.clone()).is_none(), "{job:?} ends twice");
                }
                _ => {}
            }
        }
        self.check_shares();
        effects
    }

    fn take_back(&mut self, job: u64, attempt: u8) {
        self.away.retain(|(other, number, _)| (*other, *number) != (job, attempt));
    }

    /// Nobody has more than two chunks of a call.
    fn check_shares(&self) {
        for peer in ["a", "b"] {
            assert!(self.on(peer).len() <= 2, "{:?}", self.away);
        }
    }

    fn on(&self, peer: &str) -> Vec<(u64, u8)> {
        let there = self.away.iter().filter(|(_, _, on)| on == peer);
        there.map(|(job, attempt, _)| (*job, *attempt)).collect()
    }

    fn answer(&mut self, (job, attempt): (u64, u8), peer: &str, verdict: Verdict) -> Vec<Effect> {
        self.take_back(job, attempt);
        self.feed(answered(job, attempt, peer, verdict))
    }

    /// The batch on the device ends; each of its rows with `verdict`.
    fn end_batch(&mut self, verdict: RowVerdict) -> Vec<Effect> {
        let (batch, rows) = self.running.take().expect("a batch runs");
        self.at_ms += UNIT_MS * rows.len() as u64;
        self.feed(batch_done(batch, &vec![verdict; rows.len()]))
    }

    /// Everybody does what they have, until nothing is left to do.
    fn finish(&mut self) {
        for _ in 0..1000 {
            if let Some((job, attempt, peer)) = self.away.first().cloned() {
                self.answer((job, attempt), &peer, Verdict::Done);
            } else if self.running.is_some() {
                self.end_batch(Done);
            } else {
                return self.stage.assert_at_rest();
            }
        }
        panic!("it does not end: {:?}", self.away);
    }

    fn outcome(&self, job: u64) -> Option<&Outcome> {
        self.ended.get(&job)
    }

    fn jobs_held(&self) -> u32 {
        self.stage.gauges().jobs
    }
}

#[test]
fn a_large_call_uses_all_nodes_with_two_chunks_on_each() {
    let mut play = Play::new(rules(), &[peer("a", 0), peer("b", 0)]);
    let effects = play.feed(call(1, 100));
    assert_eq!((play.on("a").len(), play.on("b").len()), (2, 2), "{effects:?}");
    // Two here, of which one runs, two on each peer, and one that waits for room.
    assert_eq!(play.cut.len(), 7, "{:?}", play.cut);
    assert_eq!(play.running.as_ref().map(|(_, rows)| rows.len()), Some(5));
    assert_eq!((play.jobs_held(), play.stage.gauges().bytes), (1, 100), "a call is held once, whatever it is cut into");
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
    // Every row in one chunk, in order.
    let ends: Vec<(u32, u32)> = play.cut.values().map(|rows| (rows.start, rows.end)).collect();
    assert_eq!((ends[0].0, ends[ends.len() - 1].1), (0, 100), "{ends:?}");
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
    assert_eq!(count(&play.stage, "chunk_cut"), ends.len() as u64);
}

#[test]
fn a_short_call_a_job_of_a_peer_and_a_node_that_may_not_cut_nothing() {
    let peers = [peer("a", 0), peer("b", 0)];
    let of_peer = |units: usize| {
        let (Input::Arrived(handed), Input::Arrived(large)) = (handed(1, None), call(1, units)) else { unreachable!() };
        Input::Arrived(Arrival { units: large.units, ..handed })
    };
    for (rules, input) in [(rules(), call(1, 7)), (rules(), of_peer(100)), (plain_rules(), call(1, 100))] {
        let mut play = Play::new(rules, &peers);
        play.feed(input);
        assert!(play.cut.is_empty(), "{:?}", play.cut);
        play.finish();
    }
}

#[test]
fn a_caller_who_leaves_takes_all_chunks_along() {
    let mut play = Play::new(rules(), &[peer("a", 0), peer("b", 0)]);
    play.feed(call(1, 100));
    let effects = play.feed(left(1));
    let abandoned = effects.iter().filter(|effect| matches!(effect, Effect::Abandon { .. })).count();
    assert_eq!((abandoned, play.away.len(), play.ended.len()), (4, 0, 0), "{effects:?}");
    play.stage.assert_at_rest();
    // The batch that runs ends for nobody.
    play.end_batch(Done);
    assert!(play.ended.is_empty() && play.running.is_none());
    play.stage.assert_at_rest();
}

#[test]
fn a_chunk_that_fails_on_two_nodes_fails_the_call_and_ends_the_others() {
    let mut play = Play::new(rules(), &[peer("a", 0), peer("b", 0)]);
    play.feed(call(1, 100));
    let poisoned = play.on("a")[0];
    play.answer(poisoned, "a", Verdict::Failed);
    assert!(play.outcome(1).is_none(), "one node is no proof");
    // It waits for room here or on b, and fails there too.
    for _ in 0..9 {
        let again =
            play.away.iter().find(|(job, attempt, _)| (*job, poisoned.1) == (poisoned.0, *attempt - 1)).cloned();
        match (again, &play.running) {
            (Some((job, attempt, peer)), _) => drop(play.answer((job, attempt), &peer, Verdict::Failed)),
            (None, Some((_, rows))) if rows.iter().any(|job| job.0 == poisoned.0) => drop(play.end_batch(Failed)),
            (None, Some(_)) => drop(play.end_batch(Done)),
            (None, None) => break,
        }
        if play.outcome(1).is_some() {
            break;
        }
    }
    assert_eq!(play.outcome(1), Some(&Outcome::EngineFailed(EngineFault::Everywhere)));
    assert_eq!(play.outcome(poisoned.0), play.outcome(1), "the chunk says first why");
    assert!(play.away.is_empty(), "{:?}", play.away);
    play.stage.assert_at_rest();
}

#[test]
fn a_call_is_refused_at_once_or_never() {
    // Full: the call counts as one job, and one is all that is held.
    let mut full = rules();
    full.admission.jobs_max = 1;
    let mut play = Play::new(full, &[peer("a", 0)]);
    play.feed(call(1, 100));
    play.feed(call(2, 100));
    assert!(matches!(play.outcome(2), Some(Outcome::Overloaded { .. })), "{:?}", play.ended);
    assert_eq!(play.jobs_held(), 1);
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));

    // Hopeless: a second of work for two nodes, and 400 ms for it.
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(callers(1, &[1; 100], 401));
    assert!(matches!(play.outcome(1), Some(Outcome::Overloaded { .. })) && play.cut.is_empty(), "{:?}", play.ended);
    play.stage.assert_at_rest();

    // Begun: however late it will be, only the deadline itself ends it.
    let mut play = Play::new(rules(), &[]);
    play.feed(callers(1, &[1; 100], 1201));
    for _ in 0..20 {
        let (batch, rows) = play.running.take().expect("it goes on");
        play.at_ms += 3 * UNIT_MS * rows.len() as u64;
        play.feed(batch_done(batch, &vec![Done; rows.len()]));
        play.feed(Input::Tick);
        match play.outcome(1) {
            None => assert!(play.at_ms < 1201, "{} ms", play.at_ms),
            Some(outcome) => {
                assert_eq!((outcome, 1201 <= play.at_ms), (&Outcome::Expired, true));
                return;
            }
        }
    }
    panic!("it never ends");
}

#[test]
fn a_single_text_waits_for_the_chunks_that_are_there_and_not_for_the_call() {
    let mut play = Play::new(rules(), &[]);
    play.feed(call(1, 200));
    play.at_ms += 1;
    // It has the same time as the call, and came later.
    play.feed(callers(2, &[1], DEADLINE_MS + 2));
    let batches = (0..40).take_while(|_| {
        play.end_batch(Done);
        play.outcome(2).is_none()
    });
    assert!(batches.count() <= 2, "it starved");
    assert!(play.outcome(1).is_none() && play.cut.len() < 8, "{:?}", play.cut);
    play.finish();
}

#[test]
fn a_peer_is_given_as_long_as_the_call_had_when_it_came() {
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(call(1, 200));
    play.at_ms = 5001;
    let (job, attempt) = play.on("a")[0];
    let effects = play.answer((job, attempt), "a", Verdict::Done);
    let remaining = effects.iter().find_map(|effect| match effect {
        Effect::Forward { remaining, .. } => Some(remaining.to_ms_ceil()),
        _ => None,
    });
    assert_eq!(remaining, Some(u32::try_from(DEADLINE_MS).expect("small") - 1), "{effects:?}");
}

#[test]
fn chunks_of_a_peer_that_dies_wait_for_room_elsewhere() {
    let mut play = Play::new(rules(), &[peer("a", 0), peer("b", 0)]);
    play.feed(call(1, 100));
    for (job, attempt) in play.on("a") {
        play.take_back(job, attempt);
        play.feed(broke(job, attempt, "a"));
    }
    play.feed(Input::Membership(vec![peer("b", 0), PeerFacts { alive: false, ..peer("a", 0) }]));
    assert!(play.on("a").is_empty(), "{:?}", play.away);
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
}

#[test]
fn a_chunk_that_a_peer_was_too_busy_for_waits_for_its_own_node() {
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(call(1, 100));
    let (job, attempt) = play.on("a")[1];
    play.take_back(job, attempt);
    let effects = play.feed(refused(job, attempt, "a", Refusal::Busy));
    assert!(!play.away.iter().any(|(away, ..)| *away == job), "{effects:?}");
    // Others do not wait for that: they go where it may not.
    assert_eq!(play.on("a").len(), 2, "{effects:?}");
    // The first chunk here ends: the refused one takes its place, before any that was not cut yet.
    play.end_batch(Done);
    play.end_batch(Done);
    let runs_here = play.running.as_ref().is_some_and(|(_, rows)| rows.iter().any(|running| running.0 == job));
    assert!(runs_here, "{:?}", play.running);
    play.finish();
    assert_eq!(play.outcome(job), Some(&Outcome::Done { placed: Placed::Here }));
}

#[test]
fn a_chunk_that_waits_to_be_tried_again_does_not_keep_the_others_from_its_first_node() {
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(call(1, 100));
    let failed = play.on("a")[0];
    play.answer(failed, "a", Verdict::Failed);
    // It waits for room here, and its place on the peer is another's.
    assert!(play.on("a").len() == 2 && !play.away.iter().any(|(job, ..)| *job == failed.0), "{:?}", play.away);
    play.end_batch(Done);
    let runs_here = play.running.as_ref().is_some_and(|(_, rows)| rows.iter().any(|running| running.0 == failed.0));
    assert!(runs_here, "before any that was not cut yet: {:?}", play.running);
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
}

#[test]
fn a_chunk_does_not_wait_for_room_on_a_node_that_it_was_on() {
    // On a door: it was on a, and b is gone, for which it waited.
    let own = OwnRules { weight: 0, backup: false };
    let mut play = Play::new(Rules { own, ..rules() }, &[peer("a", 0), peer("b", 0)]);
    play.feed(call(1, 100));
    let failed = play.on("a")[0];
    play.answer(failed, "a", Verdict::Failed);
    assert_eq!((play.on("a").len(), play.on("b").len(), play.outcome(1)), (2, 2, None));
    play.feed(Input::Membership(vec![peer("a", 0)]));
    let (job, attempt) = play.on("b")[0];
    play.take_back(job, attempt);
    play.feed(broke(job, attempt, "b"));
    assert_eq!(play.outcome(1), Some(&Outcome::EngineFailed(EngineFault::OnOneNode)), "{:?}", play.away);
    assert!(play.away.is_empty());
    play.stage.assert_at_rest();

    // It was here, and the only peer does not take it.
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(call(1, 100));
    let first = JobId::of_chunk(1).0;
    play.end_batch(Failed);
    play.end_batch(Failed);
    let there = play.on("a")[0];
    play.answer(there, "a", Verdict::Done);
    assert_eq!(play.on("a").iter().filter(|(job, _)| *job == first).count(), 1, "{:?}", play.away);
    play.take_back(first, 2);
    play.feed(refused(first, 2, "a", Refusal::Full));
    let told = (play.outcome(1), count(&play.stage, "retry_denied"));
    assert_eq!(told, (Some(&Outcome::EngineFailed(EngineFault::OnOneNode)), 0), "{:?}", play.away);
}

#[test]
fn a_call_of_which_more_was_cut_is_not_refused_because_its_first_chunk_has_to_go_elsewhere() {
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    play.feed(callers(1, &[1; 100], 1201));
    let first = JobId::of_chunk(1).0;
    // The only other node has come to have more to do than there is time.
    for (job, attempt) in play.on("a") {
        play.answer((job, attempt), "a", Verdict::Done);
    }
    play.feed(heard("a", report(2, 5000)));
    for (job, attempt) in play.on("a") {
        play.answer((job, attempt), "a", Verdict::Done);
    }
    play.end_batch(Failed);
    play.end_batch(Failed);
    assert_eq!(play.outcome(1), None, "{:?}", play.ended);
    assert!(play.away.iter().any(|(job, ..)| *job == first), "{:?}", play.away);
}

#[test]
fn a_backup_is_not_used_because_the_others_have_their_share() {
    let own = OwnRules { weight: 0, backup: false };
    let backup = PeerFacts { backup: true, ..peer("b", 0) };
    let mut play = Play::new(Rules { own, ..rules() }, &[peer("a", 0), backup.clone()]);
    play.feed(call(1, 100));
    assert_eq!((play.on("a").len(), play.on("b").len()), (2, 0));
    // Nor is this node, if it is one.
    let own = OwnRules { weight: 100, backup: true };
    let mut itself = Play::new(Rules { own, ..rules() }, &[peer("a", 0)]);
    itself.feed(call(1, 100));
    assert_eq!((itself.on("a").len(), itself.running.is_some()), (2, false));
    itself.finish();
    // With nobody else left the backup has to.
    play.feed(Input::Membership(vec![PeerFacts { alive: false, ..peer("a", 0) }, backup]));
    for (job, attempt) in play.on("a") {
        play.take_back(job, attempt);
        play.feed(broke(job, attempt, "a"));
    }
    assert_eq!(play.on("b").len(), 2, "{:?}", play.away);
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
}

#[test]
fn a_door_that_cannot_compute_cuts_by_what_its_peers_say() {
    let mut play = Play::of(Stage::with_rules(rules(), &[peer("a", 0), peer("b", 0)]));
    play.feed(call(1, 100));
    assert_eq!((play.on("a").len(), play.on("b").len(), play.cut[&JobId::of_chunk(1).0].len()), (2, 2, 5));
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
}

#[test]
fn a_call_that_was_held_until_a_peer_is_back_uses_all_of_it_at_once() {
    let own = OwnRules { weight: 0, backup: false };
    let mut play = Play::new(Rules { own, ..rules() }, &[peer("a", 0)]);
    play.feed(caller(99));
    play.take_back(99, 1);
    play.feed(broke(99, 1, "a"));
    // The only peer cannot be reached, as far as is known; it is asked.
    play.feed(call(1, 100));
    for _ in 0..6 {
        play.at_ms += 50;
        play.feed(Input::Tick);
        assert!(play.away.is_empty() && play.outcome(1).is_none(), "{:?}", play.ended);
        assert_eq!(play.cut.len(), 1, "where one cannot go, no other is cut");
    }
    play.feed(heard("a", report(2, 0)));
    assert_eq!(play.on("a").iter().filter(|(job, _)| JobId(*job).is_chunk()).count(), 2, "{:?}", play.away);
    play.finish();
    assert_eq!(play.outcome(1), Some(&Outcome::Done { placed: Placed::InChunks }));
}

#[test]
fn an_explanation_is_that_of_the_first_chunk_and_says_how_many_there_were() {
    let mut play = Play::new(rules(), &[peer("a", 0)]);
    let Input::Arrived(arrival) = call(1, 20) else { unreachable!("a caller arrives") };
    play.feed(Input::Arrived(Arrival { explain: true, ..arrival }));
    let mut told = None;
    while told.is_none() {
        let effects = match play.away.first().cloned() {
            Some((job, attempt, peer)) => play.answer((job, attempt), &peer, Verdict::Done),
            None => play.end_batch(Done),
        };
        told = effects.into_iter().find_map(|effect| match effect {
            Effect::Finish { job: JobId(1), explanation, .. } => explanation,
            Effect::Finish { explanation: Some(told), job, .. } => panic!("{job:?} tells {told:?}"),
            _ => None,
        });
    }
    let told = told.expect("asked for");
    assert_eq!((told.chunks as usize, told.decisions.len()), (play.cut.len(), 1), "{told:?}");
    assert_eq!(told.decisions[0].reason, Reason::HereIsSoonEnough);
}

#[test]
fn a_node_that_leaves_finishes_a_call_or_ends_it_before_it_goes() {
    let mut rules = rules();
    rules.drain.limit = Micros::from_ms(1000);
    let mut play = Play::new(rules, &[peer("a", 0)]);
    play.feed(call(1, 400));
    play.feed(Input::Leave);
    let mut order = Vec::new();
    for _ in 0..40 {
        play.at_ms += 100;
        order.extend(play.feed(Input::Tick));
        if play.stage.node.door() == DoorState::Closed {
            break;
        }
    }
    let ends = order.iter().position(|effect| matches!(effect, Effect::Finish { job: JobId(1), .. }));
    let exits = order.iter().position(|effect| matches!(effect, Effect::Exit));
    assert!(ends.is_some() && ends < exits, "its caller is told before the process ends: {order:?}");
    assert!(play.away.is_empty());
    play.stage.assert_at_rest();
}
