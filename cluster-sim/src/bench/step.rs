//! `cluster-sim bench step`: what one decision costs.
//!
//! Drives one real machine with the events of a busy node: callers that come, batches that end, forwards that are
//! acknowledged and answered, reports of load, membership, ticks. Time is virtual, so nothing but the machine runs
//! between the two looks at the clock. The goal: 1 µs an event with 3 peers, 2 µs with 100, in the mean.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use shoal_core::cost::Cost;
use shoal_core::id::{Attempt, BatchId, BootId, JobId, NodeId};
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::{Arrival, Effect, Input, Node, RowVerdict, Rules, Source, Verdict};
use shoal_core::peers::{PeerFacts, Word};
use shoal_core::prng::Prng;
use shoal_core::time::{Micros, MonoTime};

use crate::report::{Report as Output, table};

/// Most events of one run, so that it ends.
const EVENTS_MAX: u64 = 1_000_000_000;

/// Measure what one decision of the machine costs: mean time of `Node::step` with 3 and with 100 peers
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Peers of the node; may be given several times
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [3, 100], value_parser = clap::value_parser!(u16).range(1..=1000))]
    peers: Vec<u16>,
    /// Events of each measurement
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..=EVENTS_MAX))]
    events: u64,
    /// Seed of all chance
    #[arg(long, value_name = "X", default_value_t = 1)]
    seed: u64,
    /// One JSON object a line on standard output instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Measured {
    peers: u16,
    events: u64,
    ns_per_event: f64,
    ns_goal: f64,
    forwarded_percent: f64,
    held_max: u32,
}

/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let output = Output::new(options.json);
    let mut rows = Vec::new();
    let mut reached = true;
    for &peers in &options.peers {
        let measured = measure(peers, options.events, options.seed);
        reached &= measured.ns_per_event <= measured.ns_goal;
        output.json(&measured)?;
        rows.push(vec![
            peers.to_string(),
            measured.events.to_string(),
            format!("{:.0}", measured.ns_per_event),
            format!("{:.0}", measured.ns_goal),
            format!("{:.0}", measured.forwarded_percent),
        ]);
    }
    output.line(table(&["peers", "events", "ns/event", "goal", "forwarded %"], &rows))?;
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(peers: u16, events: u64, seed: u64) -> Measured {
    let mut bench = Bench::new(peers, seed);
    // Once to fill tables and caches.
    bench.drive(events / 10);
    (bench.jobs_made, bench.forwarded, bench.held_max) = (bench.jobs_made, 0, 0);
    let jobs_before = bench.jobs_made;
    let started = Instant::now();
    bench.drive(events);
    let took = started.elapsed();
    Measured {
        peers,
        events,
        ns_per_event: took.as_secs_f64() * 1e9 / events as f64,
        ns_goal: if peers <= 3 { 1000.0 } else { 2000.0 },
        forwarded_percent: bench.forwarded as f64 * 100.0 / (bench.jobs_made - jobs_before).max(1) as f64,
        held_max: bench.held_max,
    }
}

/// One machine and as much of a world as keeps it busy.
struct Bench {
    node: Node,
    chance: Prng,
    now: MonoTime,
    effects: Vec<Effect>,
    running: Option<(BatchId, usize)>,
    away: Vec<(JobId, Attempt, NodeId, bool)>,
    names: Vec<NodeId>,
    reports: u64,
    jobs_made: u64,
    forwarded: u64,
    held_max: u32,
    turn: u64,
}

impl Bench {
    fn new(peers: u16, seed: u64) -> Self {
        let name = |number: u16| NodeId::new(&format!("node-{number:04}")).expect("a sound name");
        let names: Vec<NodeId> = (1..=peers).map(name).collect();
        let node = Node::new(name(0), BootId(1), Rules::default(), seed);
        let mut bench = Self {
            node,
            chance: Prng::new(seed),
            now: MonoTime::START,
            effects: Vec::new(),
            running: None,
            away: Vec::new(),
            names,
            reports: 0,
            jobs_made: 0,
            forwarded: 0,
            held_max: 0,
            turn: 0,
        };
        bench.feed(Input::EngineReady { units: 10, took: Micros::from_ms(10) });
        let members = bench.members();
        bench.feed(members);
        bench
    }

    fn report(&mut self) -> Report {
        self.reports += 1;
        Report {
            boot: BootId(1),
            seq: self.reports,
            wait: Micros::new(self.chance.below(40_000) as u64),
            cost: Cost { fixed: Micros::new(500), per_unit_ns: 950_000 },
            standing: Standing::Ready,
            held: 2,
            slots: 1,
            busy: None,
            memory: None,
        }
    }

    fn members(&mut self) -> Input {
        let names = self.names.clone();
        let facts = names.into_iter().map(|id| PeerFacts {
            id,
            boot: BootId(1),
            alive: true,
            standing: Standing::Ready,
            serves: true,
            weight: 100,
            backup: false,
            load: Some(self.report()),
        });
        Input::Membership(facts.collect())
    }

    fn drive(&mut self, events: u64) {
        for _ in 0..events {
            self.turn += 1;
            self.now = self.now + Micros::new(400);
            let input = self.next();
            self.feed(input);
        }
    }

    /// The mix of a node at about 85 % of its load: of 100 events 20 are callers, and every tenth of a second's worth
    /// of them brings ticks and news of the peers.
    fn next(&mut self) -> Input {
        if self.turn.is_multiple_of(60) {
            return Input::Tick;
        }
        if self.turn.is_multiple_of(500) {
            return self.members();
        }
        let drawn = self.chance.below(5);
        if drawn == 0 {
            return self.arrival();
        }
        if drawn < 3
            && let Some((batch, rows)) = self.running.take()
        {
            let took = Micros::new(500 + 9_500 * rows as u64);
            return Input::BatchDone { batch, took, rows: vec![RowVerdict::Done; rows] };
        }
        let word = Word { report: Some(self.report()), rtt: Some(Micros::new(800)) };
        if self.away.is_empty() {
            let peer = self.names[self.chance.below(self.names.len())].clone();
            return Input::Heard { peer, word };
        }
        let at = self.chance.below(self.away.len());
        let (job, attempt, peer, accepted) = self.away[at].clone();
        if accepted {
            self.away.swap_remove(at);
            return Input::Answered { job, attempt, peer, word, verdict: Verdict::Done };
        }
        self.away[at].3 = true;
        Input::Accepted { job, attempt, peer, word }
    }

    fn arrival(&mut self) -> Input {
        self.jobs_made += 1;
        Input::Arrived(Arrival {
            job: JobId(self.jobs_made),
            source: Source::Caller,
            units: std::sync::Arc::from([10]),
            bytes: 400,
            deadline: self.now + Micros::from_ms(30_000),
            client: self.jobs_made,
            session: None,
            explain: false,
        })
    }

    fn feed(&mut self, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        self.node.step(self.now, black_box(input), &mut effects);
        for effect in effects.drain(..) {
            match black_box(effect) {
                Effect::Run { batch, rows } => self.running = Some((batch, rows.len())),
                Effect::Forward { job, attempt, peer, .. } => {
                    self.forwarded += 1;
                    self.away.push((job, attempt, peer, false));
                }
                Effect::Abandon { job, attempt } => {
                    self.away.retain(|(other, number, ..)| (*other, *number) != (job, attempt));
                }
                Effect::Finish { .. } => {
                    self.held_max = self.held_max.max(self.away.len().try_into().unwrap_or(u32::MAX))
                }
                _ => {}
            }
        }
        self.effects = effects;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_that_is_measured_does_what_a_busy_node_does() {
        let measured = measure(3, 50_000, 1);
        assert!((5.0..90.0).contains(&measured.forwarded_percent), "{measured:?}");
        assert!(measured.held_max < 100, "{measured:?}");
    }
}
