//! What a run was like, in numbers.
//!
//! For `run` and whoever compares runs.
//! Invariants: counting changes nothing; waits and latencies count from [`super::plan::Plan::measure_from`] on, by the
//! moment at which a caller came. Latencies are those of all callers; waits leave out callers whose own node stood
//! still, because what it stood still nobody can shorten, and it would hide all other waits.

use hdrhistogram::Histogram;
use serde::Serialize;
use shoal_core::time::MonoTime;

use super::seen::{Ended, Seen, What};
use super::world::World;

/// Longest time that is told apart, in microseconds.
const TIME_MAX_US: u64 = 3_600_000_000;
/// Loads are compared over windows of so many microseconds.
const WINDOW_US: u64 = 10_000_000;

/// Counts of one run, or of several.
#[derive(Clone, Debug)]
pub struct Report {
    /// Time above what the work takes alone on an idle device, in microseconds, of requests that were done. Callers
    /// whose own node stood still are left out.
    pub wait: Histogram<u64>,
    /// Time from coming to the answer, in microseconds, of all requests that were done.
    pub latency: Histogram<u64>,
    /// The rest.
    pub counts: Counts,
    /// Jobs begun by each node in the present window, and which one it is.
    window: (u64, Vec<u64>),
    /// Sum over windows of the largest load of a node in thousandths of the mean, and how many windows.
    ratios: (u64, u64),
}

/// Plain counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Callers who came to a door that took them.
    pub requests: u64,
    /// Those who got what they came for.
    pub done: u64,
    /// Those of them whom a peer of their door served.
    pub done_by_peer: u64,
    /// Refused because all were busy, or the deadline was hopeless.
    pub overloaded: u64,
    /// Refused because nobody could compute.
    pub unavailable: u64,
    /// Whose deadline passed.
    pub expired: u64,
    /// Whose request failed on one node, and nobody else was there.
    pub engine_failed: u64,
    /// Whose request failed on two nodes.
    pub requests_fault: u64,
    /// Who left.
    pub left: u64,
    /// Who found no door, or lost it.
    pub door_gone: u64,
    /// Placements on peers.
    pub forwards: u64,
    /// Placements that a peer refused.
    pub refused: u64,
    /// Placements whose connection broke.
    pub broke: u64,
    /// Nodes that began with a request, summed over requests.
    pub executions: u64,
    /// Batches.
    pub batches: u64,
    /// Faults that began.
    pub faults: u64,
    /// Events of the simulation.
    pub events: u64,
    /// Steps of machines.
    pub steps: u64,
}

/// Percentiles and shares of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Percentiles of the wait in milliseconds.
    pub wait_p50_ms: f64,
    /// See above.
    pub wait_p99_ms: f64,
    /// See above.
    pub wait_p999_ms: f64,
    /// Its mean.
    pub wait_mean_ms: f64,
    /// Percentile of the latency in milliseconds, callers whose own node stood still included.
    pub latency_p99_ms: f64,
    /// Part of all done requests that a peer served.
    pub by_peer_share: f64,
    /// Part of all requests whose caller did not get an answer, those who left or lost their door excepted.
    pub failed_share: f64,
    /// Nodes that began with a request, for each request.
    pub executions_per_request: f64,
    /// Mean over windows of ten seconds of the largest load of a node divided by the mean load.
    pub load_max_to_mean: f64,
}

impl Default for Report {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, TIME_MAX_US, 3).expect("sound bounds");
        Self {
            wait: histogram(),
            latency: histogram(),
            counts: Counts::default(),
            window: (0, Vec::new()),
            ratios: (0, 0),
        }
    }
}

impl Report {
    /// Counts what happened in one event.
    pub fn observe(&mut self, world: &World) {
        for seen in world.seen() {
            self.count(world, seen);
        }
    }

    fn count(&mut self, world: &World, seen: &Seen) {
        let counts = &mut self.counts;
        match seen.what {
            What::Arrived => counts.requests += 1,
            What::CallerLeft => counts.left += 1,
            What::DoorGone => counts.door_gone += 1,
            What::Forwarded => counts.forwards += 1,
            What::Refused => counts.refused += 1,
            What::Broke => counts.broke += 1,
            What::BatchEnded | What::BatchFailed => counts.batches += 1,
            What::FaultBegan => counts.faults += 1,
            What::Ran => {
                counts.executions += 1;
                self.on_ran(world, seen.node as usize);
            }
            What::Finished => self.on_finished(world, seen),
            _ => {}
        }
    }

    fn on_finished(&mut self, world: &World, seen: &Seen) {
        let counts = &mut self.counts;
        let Some(request) = world.request(seen.request) else { return };
        match Ended::of(seen.value) {
            Some(Ended::DoneHere) => counts.done += 1,
            Some(Ended::DoneAway) => (counts.done, counts.done_by_peer) = (counts.done + 1, counts.done_by_peer + 1),
            Some(Ended::Overloaded) => counts.overloaded += 1,
            Some(Ended::Unavailable) => counts.unavailable += 1,
            Some(Ended::Expired) => counts.expired += 1,
            Some(Ended::EngineFailed) => counts.engine_failed += 1,
            Some(Ended::RequestsFault | Ended::Rejected | Ended::Refused) | None => counts.requests_fault += 1,
        }
        let done = Ended::of(seen.value).is_some_and(Ended::is_done);
        if done && world.plan().measure_from <= request.arrived {
            let latency = world.now().since(request.arrived).get();
            self.latency.saturating_record(latency.max(1));
            if !request.stood_still {
                self.wait.saturating_record(latency.saturating_sub(request.unloaded_us).max(1));
            }
        }
    }

    fn on_ran(&mut self, world: &World, node: usize) {
        let number = world.now().since(MonoTime::START).get() / WINDOW_US;
        if number != self.window.0 {
            self.close_window();
            self.window.0 = number;
        }
        if self.window.1.is_empty() {
            self.window.1 = vec![0; world.plan().nodes];
        }
        self.window.1[node] += 1;
    }

    fn close_window(&mut self) {
        let (sum, most) = self.window.1.iter().fold((0, 0), |(sum, most), &count| (sum + count, count.max(most)));
        if let Some(ratio) = (most * self.window.1.len() as u64 * 1000).checked_div(sum) {
            self.ratios = (self.ratios.0 + ratio, self.ratios.1 + 1);
        }
        self.window.1.fill(0);
    }

    /// The run is over.
    pub fn end(&mut self, world: &World) {
        self.close_window();
        (self.counts.events, self.counts.steps) = (world.events(), world.steps());
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        // Same bounds: the values of one fit the other.
        self.wait.add(&other.wait).expect("same bounds");
        self.latency.add(&other.latency).expect("same bounds");
        self.ratios = (self.ratios.0 + other.ratios.0, self.ratios.1 + other.ratios.1);
        self.counts.add(&other.counts);
    }

    /// Percentiles and shares.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let counts = &self.counts;
        let ms = |micros: u64| micros as f64 / 1000.0;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        Summary {
            wait_p50_ms: ms(self.wait.value_at_quantile(0.5)),
            wait_p99_ms: ms(self.wait.value_at_quantile(0.99)),
            wait_p999_ms: ms(self.wait.value_at_quantile(0.999)),
            wait_mean_ms: self.wait.mean() / 1000.0,
            latency_p99_ms: ms(self.latency.value_at_quantile(0.99)),
            by_peer_share: share(counts.done_by_peer, counts.done),
            failed_share: share(counts.failed(), counts.requests),
            executions_per_request: share(counts.executions, counts.requests),
            load_max_to_mean: share(self.ratios.0, self.ratios.1) / 1000.0,
        }
    }
}

impl Counts {
    /// Callers whose node lived and who got no answer.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.overloaded + self.unavailable + self.expired + self.engine_failed + self.requests_fault
    }

    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.done, other.done),
            (&mut self.done_by_peer, other.done_by_peer),
            (&mut self.overloaded, other.overloaded),
            (&mut self.unavailable, other.unavailable),
            (&mut self.expired, other.expired),
            (&mut self.engine_failed, other.engine_failed),
            (&mut self.requests_fault, other.requests_fault),
            (&mut self.left, other.left),
            (&mut self.door_gone, other.door_gone),
            (&mut self.forwards, other.forwards),
            (&mut self.refused, other.refused),
            (&mut self.broke, other.broke),
            (&mut self.executions, other.executions),
            (&mut self.batches, other.batches),
            (&mut self.faults, other.faults),
            (&mut self.events, other.events),
            (&mut self.steps, other.steps),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}
