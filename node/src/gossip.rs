//! Membership by gossip: chitchat on a thread and runtime of its own, so that neither inference nor a flood at the
//! public door can starve it.
//!
//! For `shell`, which hears [`GossipEvent`]s and says what this node announces. Nobody else touches chitchat's lock.
//! Its own ticks show whether it was held up: a node that did not listen should not call the others silent. Pings and
//! acknowledgements of the peer leg are not on this thread yet; they run beside the callers' connections.
//! Invariants: the gossip loop is supervised: when it ends it starts again with a larger generation; of several
//! incarnations of one node id only one is a member: a live one before a dead one, then the newest; what does not parse
//! is no member.
//! Not here: what to make of members (`shoal-core`); the socket (`udp`). Datagrams are not sealed yet: chitchat has no
//! authentication, so the port belongs on a private network; a sealed transport will take the place of the plain one.

mod udp;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use chitchat::transport::Transport;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat};
use shoal_core::id::{BootId, NodeId};
use shoal_core::load::Report;
use shoal_core::route::{WEIGHT_DEFAULT, WEIGHT_MAX};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::telemetry::GossipMetrics;
use crate::wire::{self, ReportFault};
use udp::CountedUdp;

/// How often the members are read. Half a gossip interval by default: what gossip knows is soon known here.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// How often this thread looks whether it comes to its turn in time.
const PULSE_INTERVAL: Duration = Duration::from_millis(20);
/// Later than this it is told: a busy machine is a few milliseconds late all the time.
const PULSE_LATE: Duration = Duration::from_millis(100);
/// A gossip loop that ended starts again after this time.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Another process with this node's id must be seen alive for at least so long without a break, and for twice the time
/// that a dead node seems alive: a node that moved to another address leaves heartbeats behind that still spread.
const DUPLICATE_PROOF_MIN: Duration = Duration::from_secs(2);
/// Number of heartbeat intervals that the failure detector averages.
const SAMPLES: usize = 1000;
/// Longest interval between heartbeats that still counts as one.
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Most members that are read: beyond this a datagram cannot carry the digest.
const MEMBERS_MAX: usize = 512;
/// Longest text that a member may announce under one key.
const VALUE_BYTES_MAX: usize = 512;

/// Settings of the gossip.
#[derive(Clone, Debug)]
pub struct GossipSettings {
    pub cluster: String,
    pub node_id: NodeId,
    /// Larger than that of every earlier run.
    pub generation: u64,
    pub listen: SocketAddr,
    pub advertise: SocketAddr,
    /// `HOST:PORT` each; names are resolved again every minute.
    pub seeds: Vec<String>,
    pub interval: Duration,
    pub phi_threshold: f64,
    /// How long a dead node is remembered.
    pub dead_grace: Duration,
}

/// One other node.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub id: NodeId,
    pub boot: BootId,
    /// Its heartbeats come.
    pub alive: bool,
    pub peer_addr: SocketAddr,
    pub api_addr: String,
    /// The name of a `Standing`, or a word of a later version.
    pub engine: String,
    /// `name@revision/precision`; empty while its model loads.
    pub model: String,
    pub version: String,
    /// How much work it should get; normal unless it says so.
    pub weight: u32,
    /// It serves only when the others cannot.
    pub backup: bool,
    /// What it said of its load, if it did.
    pub load: Option<Result<Report, ReportFault>>,
}

/// What the gossip thread says.
#[derive(Clone, Debug)]
pub enum GossipEvent {
    /// All other nodes, told again whenever one changed.
    Members(Vec<Member>),
    /// Another live process announces this node's id. The younger of the two has to go.
    Duplicate { addr: SocketAddr, younger_is_this: bool },
    /// The gossip loop runs, or ended and will start again.
    Running(bool),
    /// This thread came to its turn so much later than it should have. Told only when it is much.
    Late(Duration),
}

/// Keys that nodes announce.
pub mod key {
    /// [`super::Member::engine`].
    pub const ENGINE: &str = "engine";
    /// [`super::Member::peer_addr`].
    pub const PEER_ADDR: &str = "peer_addr";
    /// [`super::Member::api_addr`].
    pub const API_ADDR: &str = "api_addr";
    /// [`super::Member::model`].
    pub const MODEL: &str = "model";
    /// [`super::Member::load`].
    pub const LOAD: &str = "load";
    /// [`super::Member::version`].
    pub const VERSION: &str = "version";
    /// [`super::Member::boot`].
    pub const BOOT: &str = "boot";
    /// Free text of the operator.
    pub const ZONE: &str = "zone";
    /// [`super::Member::weight`].
    pub const WEIGHT: &str = "weight";
    /// [`super::Member::backup`]: `1` or `0`.
    pub const BACKUP: &str = "backup";
}

/// The way to the gossip thread. When the last one is dropped the node stops gossiping.
#[derive(Clone, Debug)]
pub struct Gossip {
    announcements: mpsc::UnboundedSender<(&'static str, String)>,
}

impl Gossip {
    /// Starts the thread. `announced` is what this node says of itself from the start; datagrams are counted in
    /// `metrics`.
    ///
    /// # Errors
    /// The port cannot be bound, or the system gives no thread.
    pub fn start(
        settings: GossipSettings,
        announced: BTreeMap<&'static str, String>,
        metrics: GossipMetrics,
        tell: impl Fn(GossipEvent) + Send + 'static,
    ) -> Result<Self, String> {
        Self::start_over(CountedUdp { metrics }, settings, announced, tell)
    }

    /// The same, over any transport.
    fn start_over(
        transport: impl Transport,
        settings: GossipSettings,
        announced: BTreeMap<&'static str, String>,
        tell: impl Fn(GossipEvent) + Send + 'static,
    ) -> Result<Self, String> {
        // Bounded by its writers: the machine publishes at most five times a second.
        let (announcements, inbox) = mpsc::unbounded_channel();
        let (bound, is_bound) = std_mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("shoal-gossip".to_owned());
        let work = move || own_gossip(&transport, settings, announced, inbox, &bound, &tell);
        thread.spawn(work).map_err(|fault| format!("no thread for gossip: {fault}"))?;
        is_bound.recv().map_err(|_| "the gossip thread ended at once".to_owned())??;
        Ok(Self { announcements })
    }

    /// Announces `value` under `key` to all nodes.
    pub fn announce(&self, key: &'static str, value: String) {
        // The thread outlives every handle.
        let _ = self.announcements.send((key, value));
    }
}

fn own_gossip(
    transport: &dyn Transport,
    mut settings: GossipSettings,
    mut announced: BTreeMap<&'static str, String>,
    mut inbox: mpsc::UnboundedReceiver<(&'static str, String)>,
    bound: &std_mpsc::SyncSender<Result<(), String>>,
    tell: &impl Fn(GossipEvent),
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return drop(bound.send(Err(format!("no runtime for gossip: {fault}")))),
    };
    runtime.block_on(async {
        let mut first = true;
        loop {
            let started = spawn(transport, &settings, &announced).await;
            match started {
                Ok(handle) => {
                    if first {
                        let _ = bound.send(Ok(()));
                    }
                    tell(GossipEvent::Running(true));
                    if run_once(&settings, handle, &mut announced, &mut inbox, tell).await.is_break() {
                        return;
                    }
                }
                Err(fault) if first => return drop(bound.send(Err(fault))),
                Err(fault) => tracing::error!(%fault, "gossip could not start again"),
            }
            first = false;
            tell(GossipEvent::Running(false));
            sleep(RESTART_PAUSE).await;
            settings.generation += 1;
        }
    });
}

async fn spawn(
    transport: &dyn Transport,
    settings: &GossipSettings,
    announced: &BTreeMap<&'static str, String>,
) -> Result<ChitchatHandle, String> {
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(settings.node_id.as_str(), settings.generation, settings.advertise),
        cluster_id: settings.cluster.clone(),
        gossip_interval: settings.interval,
        listen_addr: settings.listen,
        seed_nodes: settings.seeds.clone(),
        failure_detector_config: FailureDetectorConfig::new(
            settings.phi_threshold,
            SAMPLES,
            INTERVAL_MAX,
            settings.interval,
            settings.dead_grace,
        ),
        marked_for_deletion_grace_period: settings.dead_grace,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let initial = announced.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    spawn_chitchat(config, initial, transport).await.map_err(|fault| format!("{fault:#}"))
}

/// Runs one gossip loop until it ends. Breaks when the node itself stops.
async fn run_once(
    settings: &GossipSettings,
    handle: ChitchatHandle,
    announced: &mut BTreeMap<&'static str, String>,
    inbox: &mut mpsc::UnboundedReceiver<(&'static str, String)>,
    tell: &impl Fn(GossipEvent),
) -> std::ops::ControlFlow<()> {
    let mut ended = std::pin::pin!(handle.termination_watcher());
    let mut read = interval(READ_INTERVAL);
    // After a stop of the whole process the missed reads are worth nothing.
    read.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each tick is late by itself: what a stop of the process held up is told once, not for every tick that it ate.
    let mut pulse = interval(PULSE_INTERVAL);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Vec<Member> = Vec::new();
    let mut duplicate_since: Option<Instant> = None;
    let proof = DUPLICATE_PROOF_MIN.max(settings.interval.mul_f64(2.0 * settings.phi_threshold));
    loop {
        tokio::select! {
            result = &mut ended => {
                tracing::error!(?result, "the gossip loop ended; it starts again");
                return std::ops::ControlFlow::Continue(());
            }
            announcement = inbox.recv() => {
                let Some((key, value)) = announcement else {
                    let _ = handle.shutdown().await;
                    return std::ops::ControlFlow::Break(());
                };
                let text = value.clone();
                handle.with_chitchat(|chitchat| chitchat.self_node_state().set(key, &text)).await;
                announced.insert(key, value);
            }
            due = pulse.tick() => {
                let late = due.elapsed();
                if PULSE_LATE < late {
                    tell(GossipEvent::Late(late));
                }
            }
            _ = read.tick() => {
                let (members, duplicate) =
                    handle.with_chitchat(|chitchat| (members(settings, chitchat), duplicate(settings, chitchat))).await;
                if members != known {
                    known.clone_from(&members);
                    tell(GossipEvent::Members(members));
                }
                let Some((addr, generation)) = duplicate else {
                    duplicate_since = None;
                    continue;
                };
                if proof <= duplicate_since.get_or_insert_with(Instant::now).elapsed() {
                    duplicate_since = None;
                    tell(GossipEvent::Duplicate { addr, younger_is_this: generation < settings.generation });
                }
            }
        }
    }
}

fn members(settings: &GossipSettings, chitchat: &Chitchat) -> Vec<Member> {
    let live: std::collections::BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
    let mut best: BTreeMap<NodeId, (bool, u64, Member)> = BTreeMap::new();
    for (id, state) in chitchat.node_states() {
        if *id.node_id == *settings.node_id.as_str() {
            continue;
        }
        let alive = live.contains(id);
        let Some(member) = member(&id.node_id, alive, |key| state.get(key)) else { continue };
        let rank = (alive, id.generation_id);
        let better = best.get(&member.id).is_none_or(|(alive, generation, _)| (*alive, *generation) < rank);
        if better && (best.len() < MEMBERS_MAX || best.contains_key(&member.id)) {
            best.insert(member.id.clone(), (rank.0, rank.1, member));
        }
    }
    best.into_values().map(|(_, _, member)| member).collect()
}

/// Reads what a node announces under its keys. `None` while those that make a member are not there, or do not parse.
fn member<'a>(id: &str, alive: bool, said: impl Fn(&str) -> Option<&'a str>) -> Option<Member> {
    let text = |key| said(key).filter(|value| value.len() <= VALUE_BYTES_MAX);
    let printable = |key| text(key).filter(|value| value.bytes().all(|byte| (0x20..0x7F).contains(&byte)));
    let boot = BootId(text(key::BOOT)?.parse().ok()?);
    let load = said(key::LOAD).map(|load| match load.len() {
        ..=VALUE_BYTES_MAX => wire::decode_report(load),
        _ => Err(ReportFault::Garbled),
    });
    let own_run = |report: Report| if report.boot == boot { Ok(report) } else { Err(ReportFault::Backwards) };
    Some(Member {
        id: NodeId::new(id).ok()?,
        boot,
        alive,
        peer_addr: text(key::PEER_ADDR)?.parse().ok().filter(|addr: &SocketAddr| is_private(addr.ip()))?,
        api_addr: printable(key::API_ADDR).unwrap_or_default().to_owned(),
        engine: printable(key::ENGINE).unwrap_or_default().to_owned(),
        model: printable(key::MODEL).unwrap_or_default().to_owned(),
        version: printable(key::VERSION).unwrap_or_default().to_owned(),
        weight: text(key::WEIGHT).and_then(weight_of).unwrap_or(WEIGHT_DEFAULT),
        backup: text(key::BACKUP) == Some("1"),
        load: load.map(|load| load.and_then(own_run)),
    })
}

/// A weight as a node may have it; anything else is not believed, because a weight draws work.
fn weight_of(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|weight| digits && *weight <= WEIGHT_MAX)
}

/// Another incarnation of this node's id that is alive: its address and generation.
fn duplicate(settings: &GossipSettings, chitchat: &Chitchat) -> Option<(SocketAddr, u64)> {
    let own = chitchat.self_chitchat_id();
    let mut others = chitchat.live_nodes().filter(|id| *id.node_id == *settings.node_id.as_str() && *id != own);
    // The same address is this node's own last run, not yet forgotten.
    others
        .find(|id| id.gossip_advertise_addr != settings.advertise)
        .map(|id| (id.gossip_advertise_addr, id.generation_id))
}

/// Whether plain traffic may go to `ip`: loopback, private, link-local and unique-local addresses.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
