//! The shell around the machine: turns real events into [`Input`]s, and performs the [`Effect`]s.
//!
//! For `serve`, which starts it. The only module that knows all adaptors; none of them knows another or the shell.
//! Invariants: the machine and the table of calls are behind one mutex that is never held across an await; effects are
//! performed under it because none of them blocks; a poisoned mutex ends the process, the peers take over.
//! Not here: any decision (`shoal-core`).

mod cache_leg;
mod cache_owner;
mod cached;
mod call;
mod changes;
mod door;
mod doubt;
mod effects;
mod engine;
mod explain;
mod lookers;
mod machine;
mod owners;
mod parts;
mod peer_door;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use shoal_core::id::{BatchId, BootId, JobId, NodeId, RowRef};
use shoal_core::lifecycle::Standing;
use shoal_core::load::DeviceLoad;
use shoal_core::node::{Effect, Input, Node, RowVerdict, Rules, Wedge};
use shoal_core::peers::PeerFacts;
use shoal_core::share::Share;
use shoal_core::time::Micros;
use shoal_engine::{Card, CostGuess};
use tokio::sync::watch;

use crate::cache;
use crate::clock::{Clock, micros, unix_ms};
use crate::compute::{Compute, ComputeEvent};
use crate::forward::PeerClient;
use crate::gossip::{Gossip, GossipEvent, Member};
use crate::sample::{GpuState, Sample};
use crate::telemetry::{GossipMetrics, PeerState, Telemetry};
use cached::Results;
use call::Call;
use changes::Changes;
use doubt::Doubts;
use engine::EngineMessage;
use lookers::Lookers;
use machine::Machine;
use owners::Owners;

/// How often the machine hears that time went by. The shortest limit that it watches is ten times as long.
const TICK: Duration = Duration::from_millis(25);

/// What this node is and never changes while it runs.
#[derive(Clone, Debug)]
pub struct Facts {
    pub node_id: NodeId,
    pub boot: BootId,
    pub cluster: Arc<str>,
    /// The model that was configured; the loaded one carries the same name.
    pub model_name: Arc<str>,
    /// Address of the public door, as others reach it.
    pub api_addr: Arc<str>,
    pub version: &'static str,
    /// How much work this node gets; 0 = none.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// By what it chooses nodes, by name.
    pub policy: &'static str,
    /// How many other addresses it was told to find the others by.
    pub seeds: usize,
    /// Most texts of a job of a peer.
    pub inputs_max: usize,
    /// Longest deadline.
    pub deadline_ms_max: u32,
    /// Results that are kept; `None` = none are.
    pub cache: Option<cache::Limits>,
    /// Answers out of the cache that are being written, together.
    pub cached_answers_bytes_max: u64,
}

/// What the process is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Serve.
    Serving,
    /// Take no new connection.
    Closing,
    /// End.
    Done,
    /// End with an error: another live node has this node's id.
    Duplicate { addr: SocketAddr },
}

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone, Debug)]
pub struct Shell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    facts: Facts,
    clock: Clock,
    state: Mutex<State>,
    client: PeerClient,
    compute: OnceLock<Compute>,
    gossip: OnceLock<Gossip>,
    members: ArcSwap<Vec<Member>>,
    doubts: Doubts,
    owners: Owners,
    results: Option<Results>,
    lookers: Lookers,
    loaded: ArcSwapOption<Loaded>,
    engine_message: ArcSwap<EngineMessage>,
    /// What was wrong with the last canary that failed.
    canary_fault: ArcSwap<String>,
    gossip_runs: std::sync::atomic::AtomicBool,
    telemetry: Telemetry,
    phase: watch::Sender<Phase>,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
struct State {
    node: Machine,
    calls: HashMap<JobId, Call>,
    jobs: u64,
    /// The rows of each batch that the device has.
    running: BTreeMap<BatchId, Vec<RowRef>>,
    changes: Changes,
    /// Why the engine is wedged, as far as people were told.
    wedge: Option<Wedge>,
}

/// The model of this node.
#[derive(Debug)]
struct Loaded {
    card: Card,
    /// `name@revision/precision`: two nodes with the same key give the same vectors.
    key: Arc<str>,
    name: Arc<str>,
    revision: Arc<str>,
    at_s: u64,
}

impl Shell {
    /// A node that knows nobody and computes nothing yet. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(facts: Facts, rules: Rules, seed: u64, client: PeerClient) -> Self {
        let telemetry = Telemetry::new(facts.version, facts.node_id.as_str());
        let lookers = Lookers::new(&rules.drain);
        let node = Machine::new(Node::new(facts.node_id.clone(), facts.boot, rules, seed));
        let changes = Changes::default();
        let results = |limits| Results::new(limits, facts.cached_answers_bytes_max, &telemetry.cache);
        let results = facts.cache.map(results);
        let state = State { node, calls: HashMap::new(), jobs: 0, running: BTreeMap::new(), changes, wedge: None };
        let shell = Self(Arc::new(Inner {
            facts,
            clock: Clock::start(),
            state: Mutex::new(state),
            client,
            compute: OnceLock::new(),
            gossip: OnceLock::new(),
            members: ArcSwap::default(),
            doubts: Doubts::default(),
            owners: Owners::default(),
            results,
            lookers,
            loaded: ArcSwapOption::empty(),
            engine_message: ArcSwap::from_pointee(EngineMessage::plain("the model is loading")),
            canary_fault: ArcSwap::default(),
            gossip_runs: std::sync::atomic::AtomicBool::new(false),
            telemetry,
            phase: watch::channel(Phase::Serving).0,
            runtime: tokio::runtime::Handle::current(),
        }));
        // Weak, because the node owns the client that calls this.
        let hears = Arc::downgrade(&shell.0);
        shell.0.client.on_end(move |addr| {
            if let Some(inner) = hears.upgrade() {
                Self(inner).on_parted(addr);
            }
        });
        shell
    }

    /// Gives the node its device. Called once.
    pub fn attach_compute(&self, compute: Compute) {
        self.0.compute.set(compute).expect("the device is attached once");
    }

    /// Gives the node its gossip. Called once.
    pub fn attach_gossip(&self, gossip: Gossip) {
        self.0.gossip.set(gossip).expect("gossip is attached once");
        self.drive(Input::Tick);
    }

    /// Where the datagrams of gossip are counted.
    #[must_use]
    pub fn gossip_metrics(&self) -> GossipMetrics {
        self.0.telemetry.gossip.clone()
    }

    /// Tells the machine the time until the future is dropped.
    pub async fn tick(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.on_tick();
        }
    }

    fn on_tick(&self) {
        let state = &mut *self.lock();
        self.drive_locked(state, Input::Tick);
        state.changes.look(self.0.clock.now(), &state.node);
    }

    /// The node is to leave; called twice, fast.
    pub fn leave(&self) {
        let state = &mut *self.lock();
        if state.node.door().draining() {
            self.0.lookers.on_haste();
        }
        self.drive_locked(state, Input::Leave);
    }

    /// What the process is told to do, now and later.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Hears the device's thread.
    pub fn on_compute(&self, event: ComputeEvent) {
        match event {
            ComputeEvent::Ready { card, units, took, several } => {
                tracing::info!(model = %card.name, revision = %card.revision, stand_in = card.stand_in, ?took, "ready");
                self.on_loaded(card);
                self.drive(Input::EngineReady { units, took: micros(took) });
                if let Some((units, took)) = several {
                    self.drive(Input::WarmedUp { units, took: micros(took) });
                }
            }
            ComputeEvent::Measured { units, took } => self.drive(Input::Measured { units, took: micros(took) }),
            ComputeEvent::Canary { fault } => self.on_canary(fault),
            ComputeEvent::LoadFailed { message } => {
                tracing::error!(%message, "the model did not load; callers are served through peers that have it");
                let message = EngineMessage { for_callers: "the model of this node did not load", whole: message };
                self.0.engine_message.store(Arc::new(message));
                self.drive(Input::EngineFailed);
            }
            ComputeEvent::Ran { batch, took, rows } => {
                let telemetry = &self.0.telemetry;
                telemetry.batches.inc();
                telemetry.rows.inc_by(rows.len() as u64);
                telemetry.batch_rows.observe(rows.len() as f64);
                telemetry.batch_seconds.observe(took.as_secs_f64());
                let state = &mut *self.lock();
                let refs = state.running.remove(&batch).expect("a batch ends only after it began");
                let mut verdicts = Vec::with_capacity(rows.len());
                for (row, result) in refs.iter().zip(rows) {
                    verdicts.push(verdict(&result));
                    if let Some(call) = state.calls.get_mut(&row.job) {
                        call.on_row(row.row as usize, result);
                    }
                }
                let mut jobs: Vec<JobId> = refs.iter().map(|row| row.job).collect();
                jobs.dedup();
                for job in jobs {
                    if let Some(call) = state.calls.get_mut(&job) {
                        call.compute_us += micros(took).get();
                    }
                }
                self.drive_locked(state, Input::BatchDone { batch, took: micros(took), rows: verdicts });
            }
            ComputeEvent::Failed { batch, message } => {
                tracing::error!(%message, "a forward pass failed; its rows run one by one");
                let state = &mut *self.lock();
                let refs = state.running.remove(&batch).expect("a batch ends only after it began");
                for row in refs {
                    if let Some(call) = state.calls.get_mut(&row.job) {
                        call.fault = Some((row.row as usize, message.clone()));
                    }
                }
                self.drive_locked(state, Input::BatchFailed { batch });
            }
        }
    }

    fn on_loaded(&self, card: Card) {
        let key: Arc<str> = format!("{}@{}/{}", card.name, card.revision, card.precision).into();
        let (name, revision) = (Arc::from(card.name.as_str()), Arc::from(card.revision.as_str()));
        self.0.loaded.store(Some(Arc::new(Loaded { card, key: key.clone(), name, revision, at_s: unix_ms() / 1000 })));
        self.0.engine_message.store(Arc::default());
        if let Some(gossip) = self.0.gossip.get() {
            gossip.announce(crate::gossip::key::MODEL, key.to_string());
        }
        // Which peers have the same model is known only now.
        self.tell_membership();
    }

    /// Hears the gossip thread.
    pub fn on_gossip(&self, event: GossipEvent) {
        match event {
            GossipEvent::Members(members) => self.on_members(members),
            GossipEvent::Running(runs) => self.0.gossip_runs.store(runs, std::sync::atomic::Ordering::Relaxed),
            GossipEvent::Late(late) => {
                tracing::debug!(?late, "the gossip thread was held up");
                self.drive(Input::Pulse { late: micros(late) });
            }
            GossipEvent::Duplicate { addr, younger_is_this: true } => {
                self.0.phase.send_replace(Phase::Duplicate { addr });
            }
            GossipEvent::Duplicate { addr, younger_is_this: false } => {
                tracing::error!(%addr, "another node announces this node's id; the younger one should go");
            }
        }
    }

    /// Hears the probe.
    pub fn on_sample(&self, sample: &Sample) {
        self.0.telemetry.show_sample(sample);
        self.drive(Input::Probed(device_load(sample)));
    }

    fn on_members(&self, mut members: Vec<Member>) {
        let before = self.0.members.load_full();
        self.mind_reports(&before, &mut members);
        let gone = before.iter().filter(|old| members.iter().all(|new| new.id != old.id));
        self.0.telemetry.keep_peers(gone.map(|member| member.id.to_string()));
        for member in &members {
            let old = before.iter().find(|old| old.id == member.id);
            if old.is_some_and(|old| old.alive) && !member.alive {
                self.0.telemetry.peers_lost.inc();
            }
            if old.is_none_or(|old| (old.alive, &old.engine) != (member.alive, &member.engine)) {
                let Member { id, alive, engine, peer_addr, model, .. } = member;
                tracing::info!(peer = %id, alive, %engine, %peer_addr, %model, "peer");
            }
        }
        let alive = members.iter().filter(|member| member.alive).count();
        for (state, count) in [("alive", alive), ("dead", members.len() - alive)] {
            self.0.telemetry.peers.get_or_create(&PeerState { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.0.client.keep_only(&members.iter().map(|member| member.peer_addr).collect::<Vec<_>>());
        if let Some(results) = &self.0.results {
            results.leg.keep_only(&members);
        }
        self.0.members.store(Arc::new(members));
        self.tell_membership();
    }

    /// The connection to a peer ended. One to a node that is no member any more was closed by this node.
    fn on_parted(&self, addr: SocketAddr) {
        let members = self.0.members.load();
        if let Some(member) = members.iter().find(|member| member.peer_addr == addr) {
            self.drive(Input::Parted { peer: member.id.clone() });
        }
    }

    /// Where a peer takes jobs; `None` when it is no member any more.
    fn peer_addr(&self, peer: &NodeId) -> Option<SocketAddr> {
        self.0.members.load().iter().find(|member| member.id == *peer).map(|member| member.peer_addr)
    }

    fn tell_membership(&self) {
        // Read under the lock: two threads call this, and the one that read last has to be heard last.
        let state = &mut *self.lock();
        let loaded = self.0.loaded.load_full();
        let fact = |member: &Member| PeerFacts {
            id: member.id.clone(),
            boot: member.boot,
            alive: member.alive,
            // What a later version calls itself takes no work, as far as this one can know.
            standing: Standing::named(&member.engine).unwrap_or(Standing::Starting),
            serves: self.serves(loaded.as_ref(), member),
            weight: member.weight,
            backup: member.backup,
            load: member.load.and_then(Result::ok),
        };
        let members = self.0.members.load();
        self.drive_locked(state, Input::Membership(members.iter().map(fact).collect()));
        self.mind_owners(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|_| {
            tracing::error!("the machine broke one of its invariants; the process ends and the peers take over");
            std::process::abort()
        })
    }

    fn drive(&self, input: Input) {
        self.drive_locked(&mut self.lock(), input);
    }

    fn drive_locked(&self, state: &mut State, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        state.node.step(self.0.clock.now(), input, &mut effects);
        for effect in &effects {
            self.perform(state, effect);
        }
        effects
    }

    fn cost_guess(&self) -> CostGuess {
        // Until the model is known its limit is not; the peers that will compute have the same one.
        self.0.loaded.load().as_ref().map_or(CostGuess::PerToken { tokens_max: 512 }, |loaded| loaded.card.cost)
    }
}

/// The device that computes: the GPUs, or on a node without any its share of the machine. GPUs that cannot be read are
/// unknown, and nothing stands in for them.
fn device_load(sample: &Sample) -> DeviceLoad {
    let (busy, memory) = match sample.gpu.state {
        GpuState::Absent => (sample.cpu_percent, sample.memory_percent),
        GpuState::Unread | GpuState::Present | GpuState::Broken | GpuState::Hung => {
            (sample.gpu.busy_percent, sample.gpu.memory_percent)
        }
    };
    DeviceLoad { busy: busy.map(Share::percent), memory: memory.map(Share::percent) }
}

fn duration(time: Micros) -> Duration {
    Duration::from_micros(time.get())
}

fn verdict(result: &Result<shoal_engine::Embedding, shoal_engine::RowError>) -> RowVerdict {
    match result {
        Ok(_) => RowVerdict::Done,
        Err(fault) if fault.is_callers_fault() => RowVerdict::Rejected,
        Err(_) => RowVerdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::GpuReading;

    #[test]
    fn a_gpu_that_cannot_be_read_is_unknown_and_the_cpu_does_not_stand_in_for_it() {
        let loads =
            [GpuState::Unread, GpuState::Present, GpuState::Absent, GpuState::Broken, GpuState::Hung].map(|state| {
                let known = (state == GpuState::Present).then_some(60);
                let gpu = GpuReading { state, busy_percent: known, memory_percent: known };
                let sample = Sample { gpu, gpus: Vec::new(), cpu_percent: Some(7), memory_percent: Some(9) };
                let DeviceLoad { busy, memory } = device_load(&sample);
                (busy.map(Share::get), memory.map(Share::get))
            });
        assert_eq!(loads, [(None, None), (Some(60), Some(60)), (Some(7), Some(9)), (None, None), (None, None)]);
    }
}
