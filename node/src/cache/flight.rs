//! Single flight: of many who want the same result at the same time, one obtains it and the others wait.
//!
//! Part of `cache`. A flight is one result that is being obtained: those who do are its leaders, the others follow.
//! Invariants: a leader that goes, however it goes, is noticed at once, and a follower takes its place; each time that
//! the last of the leaders fails twice as many may try at once, so that followers of a result that cannot be had hear
//! so soon; a follower whose own patience is over becomes a leader beside the others, whenever those began, and where
//! many lose it at once, their number doubles from one [`ROUNDS`]th of it to the next; a flight is in the table only
//! while somebody leads or follows it.
//! Not here: how a result is obtained; how long anybody can wait (`shell`).

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use shoal_engine::Embedding;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::CacheKey;

/// Parts of a patience in which those who lost theirs are let go, twice as many in each as in all before: one leader
/// that is a little late must not make a hundred more, and nobody waits as long again as it has waited.
const ROUNDS: u32 = 8;

const TAKEN_BY_THE_DROP: &str = "the receiver is taken by the drop alone";

/// All flights of one node.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<CacheKey, Arc<watch::Sender<Flight>>>>);

/// Changed only while the table is locked.
#[derive(Clone, Debug)]
struct Flight {
    leaders: u32,
    /// So many may lead at the same time without anybody having lost patience; at least 1.
    leaders_max: u32,
    /// When those who lost patience were last let go, and how many more may go now.
    round: Option<Instant>,
    round_left: u32,
    row: Option<Arc<Embedding>>,
}

/// What somebody who wants a result does.
#[derive(Debug)]
pub enum Seat {
    /// Obtains it.
    Lead(Lead),
    /// Waits for it.
    Follow(Follow),
}

/// What a follower sees.
#[derive(Debug)]
pub enum Look {
    /// The result is there.
    Row(Arc<Embedding>),
    /// Nobody obtains it any more, or not fast enough: it is now this one's turn.
    Lead(Lead),
    /// Somebody is at it.
    Wait,
}

/// The duty to obtain a result. Dropped, somebody else has it.
#[derive(Debug)]
pub struct Lead {
    place: Place,
    failed: bool,
}

/// The right to a result that somebody else obtains.
#[derive(Debug)]
pub struct Follow {
    place: Place,
    begun: Instant,
    /// `None` only while it is dropped.
    flight: Option<watch::Receiver<Flight>>,
}

#[derive(Clone, Debug)]
struct Place {
    flights: Arc<Flights>,
    key: CacheKey,
    flight: Arc<watch::Sender<Flight>>,
}

impl Flights {
    pub(super) fn join(self: &Arc<Self>, key: CacheKey) -> Seat {
        let mut table = self.lock();
        let new = || {
            let flight = Flight { leaders: 0, leaders_max: 1, round: None, round_left: 0, row: None };
            Arc::new(watch::Sender::new(flight))
        };
        let flight = Arc::clone(table.entry(key).or_insert_with(new));
        let place = Place { flights: Arc::clone(self), key, flight };
        let is_free = {
            let flight = place.flight.borrow();
            flight.leaders < flight.leaders_max
        };
        if is_free {
            return Seat::Lead(place.lead(&table));
        }
        Seat::Follow(place.follow())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Arc<watch::Sender<Flight>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// One more leader. The guard shows that the table is locked.
    fn lead(self, _table: &MutexGuard<'_, HashMap<CacheKey, Arc<watch::Sender<Flight>>>>) -> Lead {
        self.flight.send_modify(|flight| flight.leaders += 1);
        Lead { place: self, failed: false }
    }

    fn follow(self) -> Follow {
        let flight = Some(self.flight.subscribe());
        Follow { place: self, begun: Instant::now(), flight }
    }

    /// Whether one who lost patience may go now. Called while the table is locked.
    fn lets_go(&self, now: Instant, patience: Duration) -> bool {
        let mut lets_go = false;
        // Nobody has to hear of it: who waits for the next round knows when that is.
        self.flight.send_if_modified(|flight| {
            if flight.round.is_none_or(|begun| begun + patience / ROUNDS <= now) {
                (flight.round, flight.round_left) = (Some(now), flight.leaders);
            }
            lets_go = flight.round_left != 0;
            flight.round_left = flight.round_left.saturating_sub(1);
            false
        });
        lets_go
    }

    fn leave_table(&self, table: &mut HashMap<CacheKey, Arc<watch::Sender<Flight>>>) {
        // After a result the same key may be in flight anew.
        if table.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            table.remove(&self.key);
        }
    }

    /// Nobody leads, nobody follows: nobody will.
    fn sweep(&self, table: &mut HashMap<CacheKey, Arc<watch::Sender<Flight>>>) {
        if self.flight.borrow().leaders == 0 && self.flight.receiver_count() == 0 {
            self.leave_table(table);
        }
    }
}

impl Lead {
    /// What is to be obtained.
    #[must_use]
    pub fn key(&self) -> CacheKey {
        self.place.key
    }

    /// The result is there: all who wait get it.
    pub fn done(self, row: Arc<Embedding>) {
        let mut table = self.place.flights.lock();
        self.place.flight.send_modify(|flight| flight.row = Some(row));
        self.place.leave_table(&mut table);
    }

    /// The result cannot be had. If nobody else is at it, more of those who wait may try at the same time.
    pub fn fail(mut self) {
        self.failed = true;
    }

    /// Somebody else is at it too.
    #[must_use]
    pub fn has_company(&self) -> bool {
        1 < self.place.flight.borrow().leaders
    }

    /// Leaves it to the others, and waits for them: nobody tries beside them before it has lost patience once more.
    #[must_use]
    pub fn follow(self) -> Follow {
        let place = self.place.clone();
        let table = place.flights.lock();
        place.flight.send_modify(|flight| flight.leaders_max = 1);
        // This leader goes at the end, and takes the lock for it.
        drop(table);
        place.follow()
    }

    /// Waits until another leader of the same flight has the result.
    pub async fn given(&self) -> Arc<Embedding> {
        let mut flight = self.place.flight.subscribe();
        let landed = flight.wait_for(|flight| flight.row.is_some()).await;
        let row = landed.expect("this leader holds the sender").row.clone();
        row.expect("it was waited for")
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // `done` holds the lock no more: its guard was dropped before the value that it consumed.
        let mut table = self.place.flights.lock();
        self.place.flight.send_modify(|flight| {
            flight.leaders -= 1;
            if self.failed && flight.leaders == 0 {
                flight.leaders_max = flight.leaders_max.saturating_mul(2);
            }
        });
        self.place.sweep(&mut table);
    }
}

impl Follow {
    /// Looks once. `patience` is how long this one waits for others before it tries beside them.
    pub fn look(&mut self, patience: Duration) -> Look {
        self.look_at(Instant::now(), patience)
    }

    fn look_at(&mut self, now: Instant, patience: Duration) -> Look {
        let table = self.place.flights.lock();
        let receiver = self.flight.as_mut().expect(TAKEN_BY_THE_DROP);
        let seen = receiver.borrow_and_update().clone();
        if let Some(row) = seen.row {
            return Look::Row(row);
        }
        let is_free = seen.leaders < seen.leaders_max;
        if is_free || (self.begun + patience <= now && self.place.lets_go(now, patience)) {
            return Look::Lead(self.place.clone().lead(&table));
        }
        Look::Wait
    }

    /// Waits until another look at any of `follows` may show something else, but not beyond `deadline`.
    ///
    /// Cost: each time that one of them changes the others are polled too, which takes 0.1 ms where there are 2,048.
    pub async fn any_changed<'a>(follows: impl Iterator<Item = &'a mut Self>, patience: Duration, deadline: Instant) {
        let mut until = deadline;
        let mut changes = Vec::new();
        for Self { begun, flight, .. } in follows {
            let receiver = flight.as_mut().expect(TAKEN_BY_THE_DROP);
            let round = receiver.borrow().round;
            until = until.min((*begun + patience).max(round.map_or(*begun, |begun| begun + patience / ROUNDS)));
            changes.push(Box::pin(receiver.changed()));
        }
        // The senders live as long as their followers: a change is all that can come.
        let any = poll_fn(|cx| match changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        // Only the end of the wait counts.
        let _ = timeout_at(until, any).await;
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut table = self.place.flights.lock();
        // Under the lock: of two that go at the same time the second has to see that the first is gone.
        self.flight = None;
        self.place.sweep(&mut table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::tests::key;

    /// How long a test waits for what must happen.
    const LIMIT: Duration = Duration::from_secs(20);
    /// Longer than any test runs.
    const LONG: Duration = Duration::from_secs(600);

    fn row() -> Arc<Embedding> {
        Arc::new(Embedding { values: vec![1.0], tokens: 1 })
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.join(key("a")) {
            Seat::Lead(lead) => lead,
            Seat::Follow(_) => panic!("somebody leads already"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follow {
        match flights.join(key("a")) {
            Seat::Follow(follow) => follow,
            Seat::Lead(_) => panic!("nobody leads"),
        }
    }

    #[track_caller]
    fn takes_over(follow: &mut Follow, patience: Duration) -> Lead {
        match follow.look(patience) {
            Look::Lead(lead) => lead,
            other => panic!("{other:?}"),
        }
    }

    async fn changed(follow: &mut Follow, patience: Duration, deadline: Instant) {
        Follow::any_changed(std::iter::once(follow), patience, deadline).await;
    }

    fn waits(follow: &mut Follow) -> bool {
        matches!(follow.look(LONG), Look::Wait)
    }

    #[test]
    fn one_leads_and_all_others_get_its_result() {
        let flights = Arc::<Flights>::default();
        let first = lead(&flights);
        let mut others: Vec<_> = (0..100).map(|_| follow(&flights)).collect();
        assert!(others.iter_mut().all(waits));
        first.done(row());
        for other in &mut others {
            assert!(matches!(other.look(LONG), Look::Row(given) if given == row()));
        }
        assert!(flights.lock().is_empty(), "whoever comes now looks into the cache, or begins anew");
    }

    #[test]
    fn when_the_leader_goes_the_next_one_leads_and_only_one() {
        let flights = Arc::<Flights>::default();
        let first = lead(&flights);
        let (mut second, mut third) = (follow(&flights), follow(&flights));
        drop(first);
        let taken = takes_over(&mut second, LONG);
        assert!(waits(&mut third));
        taken.done(row());
        assert!(matches!(third.look(LONG), Look::Row(_)));
    }

    #[test]
    fn each_round_of_failures_lets_twice_as_many_try_at_once() {
        let flights = Arc::<Flights>::default();
        let mut leaders = vec![lead(&flights)];
        let mut others: Vec<_> = (0..20).map(|_| follow(&flights)).collect();
        let mut rounds = Vec::new();
        while !others.is_empty() {
            leaders.drain(..).for_each(Lead::fail);
            let (mut next, mut waiting) = (Vec::new(), Vec::new());
            for mut other in others {
                match other.look(LONG) {
                    Look::Lead(lead) => next.push(lead),
                    Look::Wait => waiting.push(other),
                    Look::Row(_) => panic!("there is no result"),
                }
            }
            rounds.push(next.len());
            (leaders, others) = (next, waiting);
        }
        assert_eq!(rounds, [2, 4, 8, 6]);
    }

    #[test]
    fn a_leader_that_is_slow_gets_one_beside_it_and_whoever_is_first_answers_all() {
        for slow_one_wins in [false, true] {
            let flights = Arc::<Flights>::default();
            let slow = lead(&flights);
            let (mut second, mut third) = (follow(&flights), follow(&flights));
            assert!(waits(&mut second));
            let beside = takes_over(&mut second, Duration::ZERO);
            assert!(waits(&mut third), "it has patience left");
            let (winner, loser) = if slow_one_wins { (slow, beside) } else { (beside, slow) };
            winner.done(row());
            assert!(matches!(third.look(LONG), Look::Row(_)));
            // Whoever came after the result is not disturbed by the leader that is still at it.
            let anew = lead(&flights);
            drop(loser);
            assert!(waits(&mut follow(&flights)));
            drop(anew);
            assert!(flights.lock().is_empty());
        }
    }

    #[test]
    fn whose_patience_is_over_leads_although_another_has_just_taken_over() {
        let flights = Arc::<Flights>::default();
        let first = lead(&flights);
        let (mut second, mut third) = (follow(&flights), follow(&flights));
        let now = Instant::now();
        drop(first);
        let _taken = takes_over(&mut second, LONG);
        assert!(matches!(third.look_at(now + LONG / 2, LONG), Look::Wait), "it has patience left");
        assert!(matches!(third.look_at(now + LONG, LONG), Look::Lead(_)));
    }

    #[test]
    fn of_many_who_lose_patience_at_once_twice_as_many_try_in_each_round() {
        let flights = Arc::<Flights>::default();
        let mut leaders = vec![lead(&flights)];
        let mut others: Vec<_> = (0..20).map(|_| follow(&flights)).collect();
        let start = Instant::now();
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let now = start + LONG + LONG / ROUNDS * round;
            let before = leaders.len();
            others.retain_mut(|other| match other.look_at(now, LONG) {
                Look::Lead(lead) => {
                    leaders.push(lead);
                    false
                }
                Look::Wait => true,
                Look::Row(_) => panic!("there is no result"),
            });
            rounds.push(leaders.len() - before);
        }
        assert_eq!(rounds, [1, 2, 4, 8, 5, 0, 0, 0]);
    }

    #[test]
    fn a_leader_that_gives_up_beside_another_waits_for_that_one() {
        let flights = Arc::<Flights>::default();
        let first = lead(&flights);
        assert!(!first.has_company());
        let (mut second, mut third) = (follow(&flights), follow(&flights));
        let beside = takes_over(&mut second, Duration::ZERO);
        assert!(beside.has_company() && first.has_company());
        let mut again = beside.follow();
        assert!(waits(&mut again) && waits(&mut third), "nobody has to try in its place");
        first.fail();
        let one = takes_over(&mut again, LONG);
        let other = takes_over(&mut third, LONG);
        // Two may try after a failure; a place that was given up is not taken at once, or one would try without end.
        let mut given_up = one.follow();
        assert!(waits(&mut given_up));
        drop(other);
        takes_over(&mut given_up, LONG).done(row());
    }

    #[tokio::test]
    async fn a_leader_hears_of_the_result_of_another() {
        let flights = Arc::<Flights>::default();
        let slow = lead(&flights);
        let mut second = follow(&flights);
        takes_over(&mut second, Duration::ZERO).done(row());
        assert_eq!(slow.given().await, row());
    }

    #[tokio::test]
    async fn a_follower_wakes_when_the_leader_goes_and_when_a_limit_is_over() {
        let flights = Arc::<Flights>::default();
        let first = lead(&flights);
        let mut other = follow(&flights);
        assert!(waits(&mut other));
        // Both limits are over at once; without them this would last for ever.
        changed(&mut other, Duration::ZERO, Instant::now() + LONG).await;
        changed(&mut other, LONG, Instant::now()).await;
        assert!(waits(&mut other));
        let woken = async {
            changed(&mut other, LONG, Instant::now() + LONG).await;
            takes_over(&mut other, LONG)
        };
        let ((), _lead) = tokio::join!(async { drop(first) }, woken);
    }

    #[tokio::test]
    async fn who_follows_several_wakes_for_any_of_them() {
        let flights = Arc::<Flights>::default();
        let joined = |name| match flights.join(key(name)) {
            Seat::Lead(lead) => lead,
            Seat::Follow(_) => panic!("somebody leads already"),
        };
        let _slow = joined("slow");
        let quick = joined("quick");
        let mut follows = ["slow", "quick"].map(|name| match flights.join(key(name)) {
            Seat::Follow(follow) => follow,
            Seat::Lead(_) => panic!("nobody leads"),
        });
        let woken = async {
            let any = Follow::any_changed(follows.iter_mut(), LONG, Instant::now() + LONG);
            timeout_at(Instant::now() + LIMIT, any).await.expect("it sleeps on");
        };
        tokio::join!(async { drop(quick) }, woken);
        assert!(waits(&mut follows[0]));
        takes_over(&mut follows[1], LONG);
    }

    #[test]
    fn nothing_is_left_of_a_flight_that_nobody_wants_any_more() {
        let flights = Arc::<Flights>::default();
        for leader_goes_first in [false, true] {
            let first = lead(&flights);
            let (second, third) = (follow(&flights), follow(&flights));
            if leader_goes_first {
                drop(first);
                drop((second, third));
            } else {
                drop((second, third));
                drop(first);
            }
            assert!(flights.lock().is_empty(), "{leader_goes_first}");
        }
        lead(&flights).fail();
        assert!(flights.lock().is_empty(), "a failure is remembered by nobody");
    }
}
