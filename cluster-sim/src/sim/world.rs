//! N machines of the product, and everything around them that can be thought of as a value.
//!
//! For `run`, which calls [`World::advance`] until nothing is left and reads what was [`World::seen`] in each event.
//! Invariants: nobody but `World::feed` steps a machine; what a machine asks for is done by events, so no step happens
//! within a step; each process has a clock of its own that begins with it.
//! Not here: judging (`check`), counting (`report`).

mod callers;
mod connections;
mod device;
mod faults;
mod membership;
mod processes;
mod records;
mod sabotage;
mod streams;
mod view;

use std::sync::Arc;

use shoal_core::id::{JobId, NodeId};
use shoal_core::lifecycle::EngineState;
use shoal_core::node::{Effect, Input, Node};
use shoal_core::time::{Micros, MonoTime};

use super::chance::Chance;
use super::gossip::{Gossip, GossipRules, Known};
use super::net::Net;
use super::plan::{Membership, Plan};
use super::queue::Queue;
use super::seen::{Seen, What};
use super::slab::{Key, Slab};
pub use records::{Answer, Request};
use records::{Batch, Event, Job, Letter, Stream};
use sabotage::Saboteur;
use streams::Terms;

/// How often a machine hears that time went by, as in the node's shell.
const TICK: Micros = Micros::from_ms(25);

/// Units of a node's first inference, and of the measurements that repeat it.
const FIRST_UNITS: u32 = 16;

/// The whole shoal.
#[derive(Debug)]
pub struct World {
    plan: Arc<Plan>,
    now: MonoTime,
    queue: Queue<Event>,
    net: Net,
    gossip: Gossip,
    seats: Vec<Seat>,
    requests: Slab<Request>,
    jobs: Slab<Job>,
    streams: Slab<Stream>,
    batches: Slab<Batch>,
    letters: Slab<Letter>,
    /// For each ordered pair of nodes the connection between them: odd = it stands. Each change counts one up.
    connections: Vec<u32>,
    /// What waits in a cut: from, to, and what arrives.
    parked: Vec<(usize, usize, Event)>,
    arrivals_left: u64,
    healed: bool,
    way_chance: Chance,
    saboteur: Saboteur,
    /// Requests that nobody works on any more; forgotten with the next event, so that this one can still be judged.
    over: Vec<Key>,
    seen: Vec<Seen>,
    /// Kept between events, so that the usual ones allocate nothing.
    effects: Vec<Effect>,
    members: Vec<Known>,
    targets: Vec<usize>,
    events: u64,
    steps: u64,
}

/// A place for one process after the other.
#[derive(Debug)]
struct Seat {
    id: NodeId,
    boot: u64,
    started: MonoTime,
    process: Option<Process>,
    /// Since when it is stopped, and what it will find in its sockets.
    frozen: Option<MonoTime>,
    inbox: Vec<Event>,
    /// Its host is gone.
    dark: bool,
    /// Since when it has no process, if it ever had one.
    gone: Option<MonoTime>,
    /// Since when it leaves.
    leaving: Option<MonoTime>,
    /// Since when its engine was ready, in this process.
    ready: Option<MonoTime>,
    fault: device::Fault,
    /// What its device holds on to until it is well.
    held: Vec<Event>,
    /// A process that leaves is followed by another one.
    starts_again: bool,
    claims: membership::Claims,
    arrivals: Chance,
    service: Chance,
    /// How often each rule decided something in processes that are over.
    exercised: Vec<(&'static str, u64)>,
    /// What it is told of its peers in the mode without gossip.
    direct: Vec<Option<Known>>,
    ready_told: Vec<usize>,
}

#[derive(Debug)]
struct Process {
    node: Node,
    takes_callers: bool,
    busy: device::Busy,
}

impl World {
    /// Everything stands still; the first events are the starts of the processes.
    #[must_use]
    pub fn new(plan: &Arc<Plan>) -> Self {
        let (nodes, seed) = (plan.nodes, plan.seed);
        let gossip_rules = match plan.membership {
            Membership::Gossip { rules, .. } => rules,
            Membership::Direct { .. } => GossipRules::default(),
        };
        let seat = |node: usize| Seat {
            id: NodeId::new(&format!("node-{node}")).expect("a short plain name"),
            boot: 0,
            started: MonoTime::START,
            process: None,
            frozen: None,
            inbox: Vec::new(),
            dark: false,
            gone: None,
            leaving: None,
            ready: None,
            fault: device::Fault::default(),
            held: Vec::new(),
            starts_again: false,
            claims: membership::Claims::True,
            arrivals: Chance::new(seed, "arrivals", node as u64),
            service: Chance::new(seed, "service", node as u64),
            exercised: Vec::new(),
            direct: vec![None; if matches!(plan.membership, Membership::Direct { .. }) { nodes } else { 0 }],
            ready_told: Vec::new(),
        };
        let mut world = Self {
            now: MonoTime::START,
            queue: Queue::default(),
            net: Net::new(plan.net, nodes, seed),
            gossip: Gossip::new(gossip_rules, nodes, seed),
            seats: (0..nodes).map(seat).collect(),
            requests: Slab::default(),
            jobs: Slab::default(),
            streams: Slab::default(),
            batches: Slab::default(),
            letters: Slab::default(),
            connections: vec![0; nodes * nodes],
            parked: Vec::new(),
            arrivals_left: if plan.arrivals.requests_max == 0 { u64::MAX } else { plan.arrivals.requests_max },
            healed: false,
            way_chance: Chance::new(seed, "ways", 0),
            saboteur: Saboteur::new(plan.sabotage),
            over: Vec::new(),
            seen: Vec::new(),
            effects: Vec::new(),
            members: Vec::new(),
            targets: Vec::new(),
            events: 0,
            steps: 0,
            plan: Arc::clone(plan),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let plan = Arc::clone(&self.plan);
        let mut phases = Chance::new(plan.seed, "phases", 0);
        for node in 0..plan.nodes {
            if node < plan.nodes - plan.absent {
                // Processes that start together do not tick together.
                self.after(Micros::new(phases.between(0, 100_000)), Event::Start { node });
            }
            self.next_arrival(node);
        }
        if let Membership::Direct { period } = plan.membership {
            for (observer, node) in (0..plan.nodes).flat_map(|one| (0..plan.nodes).map(move |other| (one, other))) {
                if observer != node {
                    let phase = Micros::new(200_000 + phases.between(0, period.get()));
                    self.after(phase, Event::Look { observer, node });
                }
            }
        }
        for (index, planned) in plan.faults.iter().enumerate() {
            self.queue.push(planned.at, Event::FaultBegins { index });
            self.queue.push(planned.at + planned.lasts, Event::FaultEnds { index });
        }
        self.queue.push(plan.heal_at, Event::Heal);
    }

    /// Makes the next event happen. Returns whether there was one before the end of the plan.
    pub fn advance(&mut self) -> bool {
        self.seen.clear();
        while let Some(request) = self.over.pop() {
            self.requests.remove(request);
        }
        let Some((at, event)) = self.queue.pop() else { return false };
        if self.plan.end < at {
            return false;
        }
        self.now = at;
        self.events += 1;
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        if let Some(node) = event.addressee().filter(|&node| self.seats[node].frozen.is_some()) {
            return self.seats[node].inbox.push(event);
        }
        match event {
            Event::Start { node } => self.start(node),
            Event::Loaded { node, boot } => self.on_loaded(node, boot),
            Event::Tick { node, boot } => self.on_tick(node, boot),
            Event::Exit { node, boot } => self.on_exit(node, boot),
            Event::Arrive { door } => self.on_arrive(door),
            Event::Call { node, request } => self.on_call(node, request),
            Event::CallerLeaves { request } => self.on_caller_leaves(request),
            Event::BatchEnds { node, boot, batch } => self.on_batch_ends(node, boot, batch),
            Event::Measured { node, boot, took } => self.on_measured(node, boot, took),
            Event::Canary { node, boot } => self.on_canary(node, boot),
            Event::Probe { node, boot } => self.on_probe(node, boot),
            Event::Flushed { stream } => self.on_flushed(stream),
            Event::Offer { stream, .. } => self.on_offer(stream),
            Event::Acknowledge { node, stream } => self.on_acknowledge(node, stream),
            Event::Reply { stream, letter, .. } => self.on_reply(stream, letter),
            Event::Cancel { node, job } => self.on_cancel(node, job),
            Event::Broken { stream, .. } => self.on_broken(stream),
            Event::Keepalive { from, to, connection } => self.on_keepalive(from, to, connection),
            Event::Pong { from, to, boot, sent } => self.on_pong(from, to, boot, sent),
            Event::PingLost { from, to, boot, refused } => self.on_ping_lost(from, to, boot, refused),
            Event::Parted { from, to, boot } => self.on_parted(from, to, boot),
            Event::Round { node, boot } => self.on_round(node, boot),
            Event::Gossip { from, to, part } => self.on_gossip(from, to, part),
            Event::Read { node, boot } => self.on_read(node, boot),
            Event::Look { observer, node } => self.on_look(observer, node),
            Event::FaultBegins { index } => self.on_fault_begins(index),
            Event::FaultEnds { index } => self.on_fault_ends(index),
            Event::Heal => self.on_heal(),
        }
    }

    /// Steps the machine of `node`, if there is a process, and does what it wants.
    fn feed(&mut self, node: usize, input: Input) {
        let now = self.local(node);
        let Some(process) = &mut self.seats[node].process else { return };
        self.steps += 1;
        let mut effects = std::mem::take(&mut self.effects);
        let was_ready = process.node.engine() == EngineState::Ready;
        process.node.step(now, input, &mut effects);
        let gave_up = was_ready && process.node.engine() == EngineState::Wedged;
        let troubled = if gave_up { self.trouble_all(node) } else { Vec::new() };
        for effect in effects.drain(..) {
            self.perform(node, effect);
        }
        self.effects = effects;
        for request in troubled {
            self.set_unplaced(request, false);
        }
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Run { batch, rows } => self.run(node, batch, rows),
            Effect::Cut { call, .. } => unreachable!("{call:?} was cut, which the rules of this world forbid"),
            Effect::Forward { job, attempt, peer, bound, remaining, hedge } => {
                let to = self.seat_of(&peer);
                self.forward(node, (job, attempt), to, Terms { bound, remaining, hedge });
            }
            Effect::Abandon { job, attempt } => self.abandon(node, job, attempt),
            Effect::Acknowledge { job, report } => self.acknowledge(node, job, report),
            Effect::Finish { job, outcome, .. } => self.finish(node, job, &outcome),
            Effect::Measure => self.measure(node),
            Effect::Canary => self.canary(node),
            Effect::Ping { peer } => {
                let to = self.seat_of(&peer);
                self.ping(node, to);
            }
            Effect::Publish { report } => self.publish(node, report),
            Effect::StopAccepting => {
                if let Some(process) = &mut self.seats[node].process {
                    process.takes_callers = false;
                }
            }
            Effect::Exit => self.after(Micros::ZERO, Event::Exit { node, boot: self.seats[node].boot }),
        }
    }

    fn after(&mut self, span: Micros, event: Event) {
        self.queue.push(self.now + span, event);
    }

    fn see(&mut self, what: What, node: usize, other: usize, request: Key, value: u64) {
        let small = |number: usize| u32::try_from(number).expect("less than 2^32 nodes");
        self.seen.push(Seen { what, node: small(node), other: small(other), request, value });
    }

    /// Now by the clock of the process at `node`.
    fn local(&self, node: usize) -> MonoTime {
        MonoTime::START + self.now.since(self.seats[node].started)
    }

    /// Whether the process of that number runs at `node`.
    fn runs(&self, node: usize, boot: u64) -> bool {
        self.seats[node].boot == boot && self.seats[node].process.is_some()
    }

    fn seat_of(&self, id: &NodeId) -> usize {
        let digits = &id.as_str().as_bytes()["node-".len()..];
        digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    }

    fn job(&self, id: JobId) -> Option<(Key, &Job)> {
        let key = Key::from_number(id.0);
        self.jobs.get(key).map(|job| (key, job))
    }
}
