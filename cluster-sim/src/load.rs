//! The load generator: requests at the times that a Poisson process says, whatever the shoal does about them.
//!
//! For the drills and benchmarks. Open loop: a slow answer does not delay the next request, and latency counts from the
//! intended moment, so a stall is seen by every request that would have come during it (no coordinated omission).
//! Invariants: rate, time, requests in flight and the time of one request are all limited; a request that cannot be
//! sent because too many are in flight is recorded as failed, never left out.

mod arrivals;
mod ledger;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub(crate) use arrivals::{Arrival, Arrivals, hot_share, skewed};
#[cfg(test)]
pub(crate) use ledger::{Answered, Loss};
pub(crate) use ledger::{Ledger, Outcome, Record, Sample};
pub(crate) use request::Doors;

use crate::stats::micros;

/// Longest life of one request; the nodes' own default deadline is as long.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Requests that wait for an answer at the same time; one more is recorded as failed.
const IN_FLIGHT_MAX: u32 = 4096;
/// Answers that are kept to be asked again elsewhere.
const SAMPLES_MAX: usize = 256;
/// Every so many-th answer is kept, beside all that were placed more than once.
const SAMPLE_EVERY: u64 = 37;
/// How often the pacing thread looks whether it should stop.
const STOP_CHECK_EVERY: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    /// Over all doors.
    pub(crate) rate_per_s: f64,
    /// One a door.
    pub(crate) weights: Vec<f64>,
    /// Same seed, same times and doors.
    pub(crate) seed: u64,
    /// The load stops by itself after this.
    pub(crate) duration_max: Duration,
    /// How long clients tell the shoal that they wait; `None` = they do not say.
    pub(crate) deadline_ms: Option<u32>,
    /// The word that a part of the texts is made to carry by [`Load::set_poison`].
    pub(crate) poison: Option<&'static str>,
}

impl LoadPlan {
    /// Clients that say nothing of how long they wait.
    pub(crate) fn new(rate_per_s: f64, weights: Vec<f64>, seed: u64, duration_max: Duration) -> Self {
        Self { rate_per_s, weights, seed, duration_max, deadline_ms: None, poison: None }
    }
}

/// A load that runs. Dropped, it stops sending; requests in flight go on to their own end.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    pacer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    doors: Arc<Doors>,
    ledger: Ledger,
    seed: u64,
    deadline_ms: Option<u32>,
    poison: Option<&'static str>,
    /// So many of a thousand texts carry it.
    poisoned_permille: AtomicU32,
    epoch: Instant,
    /// The same moment on the clock of logs.
    epoch_unix: SystemTime,
    stop: AtomicBool,
    /// How many times the first rate is sent now, as the bits of an `f64`.
    times: AtomicU64,
    in_flight: Arc<Semaphore>,
}

impl Load {
    /// Starts sending, from a thread of its own: a timer of the runtime would be up to a millisecond late.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(doors: Arc<Doors>, plan: &LoadPlan) -> Result<Self> {
        let ledger = Ledger::new(doors.count());
        let shared = Arc::new(Shared {
            doors,
            ledger,
            seed: plan.seed,
            deadline_ms: plan.deadline_ms,
            poison: plan.poison,
            poisoned_permille: AtomicU32::new(0),
            epoch: Instant::now(),
            epoch_unix: SystemTime::now(),
            stop: AtomicBool::new(false),
            times: AtomicU64::new(1f64.to_bits()),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX as usize)),
        });
        let arrivals = Arrivals::new(plan.seed, plan.rate_per_s, plan.weights.clone());
        let (runtime, for_pacer, duration_max) = (Handle::current(), Arc::clone(&shared), plan.duration_max);
        let pacer = std::thread::Builder::new()
            .name("pacer".to_owned())
            .spawn(move || pace(&for_pacer, arrivals, duration_max, &runtime))
            .context("starting the pacing thread")?;
        Ok(Self { shared, pacer: Some(pacer) })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Time since the load started, in the unit of the records.
    pub(crate) fn now_us(&self) -> u64 {
        micros(self.shared.epoch.elapsed())
    }

    /// Microseconds since 1970 at the start of the load, for what is written in logs.
    pub(crate) fn epoch_unix_us(&self) -> u64 {
        micros(self.shared.epoch_unix.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// From the next request on so many times the rate of the plan.
    pub(crate) fn set_rate(&self, times: f64) {
        self.shared.times.store(times.to_bits(), Ordering::Relaxed);
    }

    /// From the next request on so many of a thousand texts carry the plan's word.
    pub(crate) fn set_poison(&self, permille: u32) {
        self.shared.poisoned_permille.store(permille, Ordering::Relaxed);
    }

    /// Stops sending and waits for what is in flight.
    ///
    /// # Errors
    /// A request did not end within its own limit, which would be a fault of this tool.
    pub(crate) async fn finish(mut self) -> Result<(Vec<Record>, Vec<Sample>)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer.take() {
            let joined = tokio::task::spawn_blocking(move || pacer.join()).await?;
            joined.map_err(|_| anyhow!("the pacing thread panicked"))?;
        }
        // A request may try every address, each with the whole limit.
        let addresses = u32::try_from(self.shared.doors.count())?;
        let all_done = self.shared.in_flight.acquire_many(IN_FLIGHT_MAX);
        let waited = tokio::time::timeout(REQUEST_LIMIT * addresses + Duration::from_secs(1), all_done).await;
        let _all = waited.map_err(|_| anyhow!("a request outlived its limit"))??;
        Ok(self.shared.ledger.take())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts each request at its moment, until told to stop or `duration_max` is over.
fn pace(shared: &Arc<Shared>, mut arrivals: Arrivals, duration_max: Duration, runtime: &Handle) {
    loop {
        let arrival = arrivals.next_at(f64::from_bits(shared.times.load(Ordering::Relaxed)));
        if duration_max <= arrival.at {
            return;
        }
        loop {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let left = arrival.at.saturating_sub(shared.epoch.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(STOP_CHECK_EVERY));
        }
        let sent_us = micros(shared.epoch.elapsed());
        match Arc::clone(&shared.in_flight).try_acquire_owned() {
            Ok(permit) => {
                let shared = Arc::clone(shared);
                runtime.spawn(async move {
                    one_request(&shared, arrival, sent_us).await;
                    drop(permit);
                });
            }
            Err(_) => shared.ledger.add(Record {
                intended_us: micros(arrival.at),
                sent_us,
                done_us: sent_us,
                poisoned: false,
                losses: Vec::new(),
                outcome: Outcome::Failed {
                    door: arrival.door,
                    answered: false,
                    what: format!("not sent: {IN_FLIGHT_MAX} requests wait for an answer"),
                },
            }),
        }
    }
}

async fn one_request(shared: &Shared, arrival: Arrival, sent_us: u64) {
    let mut text = text_of(shared.seed, arrival.number);
    let permille = shared.poisoned_permille.load(Ordering::Relaxed);
    let poison = shared.poison.filter(|_| is_chosen(arrival.number, permille));
    if let Some(word) = poison {
        text.push(' ');
        text.push_str(word);
    }
    let embedded = shared.doors.embed(arrival.door, &text, shared.epoch, shared.deadline_ms, REQUEST_LIMIT).await;
    let (outcome, losses, vector) = embedded;
    if let (Outcome::Answered(answered), Some(vector), None) = (&outcome, vector, poison) {
        let eventful = 1 < answered.placements || !losses.is_empty();
        if eventful || arrival.number.is_multiple_of(SAMPLE_EVERY) {
            let sample = Sample { number: arrival.number, served_by: answered.served_by, vector };
            shared.ledger.add_sample(sample, SAMPLES_MAX);
        }
    }
    let done_us = micros(shared.epoch.elapsed());
    let (intended_us, poisoned) = (micros(arrival.at), poison.is_some());
    shared.ledger.add(Record { intended_us, sent_us, done_us, poisoned, losses, outcome });
}

/// Whether the text of this number is one of so many of a thousand.
fn is_chosen(number: u64, permille: u32) -> bool {
    // A multiplicative hash, so that they come at irregular distances.
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 1000 < u64::from(permille)
}

/// The text of a request: short, and different from every other one of this run and of other seeds.
fn text_of(seed: u64, number: u64) -> String {
    format!("request {number} of run {seed}: many fish move as one and have no leader")
}

/// Largest difference between two vectors that are still the same answer; nodes may add up in another order.
const VECTOR_DIFFERENCE_MAX: f32 = 1e-4;

/// What asking again showed.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) answers: u64,
    /// What differed or could not be asked; empty when all is well.
    pub(crate) wrong: Vec<String>,
}

/// Asks for each sample's text again, at the door after the node that computed it, and compares.
///
/// To be used when the shoal is quiet: then a door computes itself, so the second answer is another node's.
pub(crate) async fn check_samples(doors: &Doors, seed: u64, samples: &[Sample]) -> Checked {
    let mut checked = Checked::default();
    for sample in samples {
        let door = (sample.served_by + 1) % doors.count();
        let text = text_of(seed, sample.number);
        let (outcome, _, vector) = doors.embed(door, &text, Instant::now(), None, REQUEST_LIMIT).await;
        checked.answers += 1;
        let complaint = match (outcome, vector) {
            (Outcome::Answered(_), Some(vector)) => difference(&sample.vector, &vector),
            (outcome, _) => Some(format!("asked again: {outcome:?}")),
        };
        if let Some(complaint) = complaint {
            checked.wrong.push(format!("request {}: {complaint}", sample.number));
        }
    }
    checked
}

fn difference(first: &[f32], second: &[f32]) -> Option<String> {
    if first.len() != second.len() {
        return Some(format!("{} values under load, {} when asked again", first.len(), second.len()));
    }
    let largest = first.iter().zip(second).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    (VECTOR_DIFFERENCE_MAX < largest).then(|| format!("differs by {largest} when asked again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;
    use crate::scripted::{Line, Scripted};

    fn answer(vector: &str) -> Line {
        let headers = [("x-served-by", "a"), ("x-shoal-hops", "0"), ("x-shoal-placements", "1"), ("x-request-id", "r")];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
        Line::Answer { status: 200, headers, body: vector.to_owned() }
    }

    async fn doors(scripts: Vec<Vec<Line>>) -> (Scripted, Arc<Doors>) {
        let server = Scripted::start(scripts).await;
        let doors = Doors::new(vec![Client::new(server.address())], vec!["a".to_owned()]);
        (server, Arc::new(doors))
    }

    fn plan(rate_per_s: f64, duration_max: Duration) -> LoadPlan {
        LoadPlan::new(rate_per_s, vec![1.0], 5, duration_max)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_arrival_within_the_time_is_recorded_once() {
        let (_server, doors) = doors(vec![vec![answer("[[1.0]]"); 100]; 100]).await;
        let plan = plan(400.0, Duration::from_millis(100));
        let expected = Arrivals::new(5, 400.0, vec![1.0]).take_while(|arrival| arrival.at < plan.duration_max).count();
        let mut load = Load::start(doors, &plan).unwrap();
        let pacer = load.pacer.take().unwrap();
        tokio::task::spawn_blocking(move || pacer.join()).await.unwrap().unwrap();
        let (records, samples) = load.finish().await.unwrap();
        assert_eq!(records.len(), expected);
        assert!(records.iter().all(|record| record.answered().is_some()), "{records:?}");
        assert!(!samples.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_are_sent_although_no_earlier_one_has_an_answer() {
        let (_server, doors) = doors(vec![vec![Line::Silence]; 100]).await;
        let load = Load::start(Arc::clone(&doors), &plan(200.0, Duration::from_millis(60))).unwrap();
        let sent = Arrivals::new(5, 200.0, vec![1.0]).take_while(|arrival| arrival.at.as_millis() < 60).count();
        let waiting = async {
            while load.shared.in_flight.available_permits() + sent != IN_FLIGHT_MAX as usize {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_differs_when_asked_again_is_wrong() {
        let (_server, doors) = doors(vec![vec![answer("[[1.0]]"), answer("[[1.5]]"), answer("[[1.0,2.0]]")]]).await;
        let sample = |number| Sample { number, served_by: 0, vector: vec![1.0] };
        let checked = check_samples(&doors, 5, &[sample(0), sample(1), sample(2)]).await;
        assert_eq!(checked.answers, 3);
        assert_eq!(
            checked.wrong,
            ["request 1: differs by 0.5 when asked again", "request 2: 1 values under load, 2 when asked again"]
        );
    }

    #[test]
    fn texts_differ_by_number_and_by_seed() {
        assert_ne!(text_of(1, 2), text_of(1, 3));
        assert_ne!(text_of(1, 2), text_of(2, 2));
    }
}
