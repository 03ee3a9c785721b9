//! `shoal serve`: puts a node together, runs it until it is told to leave, and drains it.
//!
//! For `main`. Order of the start: who am I, are the doors free, then model and gossip at the same time; callers are
//! answered through peers while the model loads.
//! Invariants: everything that the user can mend ends with exit code 78 and one line that names key, place and fix; a
//! node that was told to leave ends by itself.

mod banner;
mod settings;
mod start;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::unix_ms;
use crate::compute::{Compute, ComputeEvent};
use crate::config::{Config, ConfigError, EXIT_CODE, Effective, Loaded, LogFormat};
use crate::forward::{ForwardLimits, PeerClient, serve as peer_leg};
use crate::gossip::{Gossip, GossipSettings, key};
use crate::identity::Identity;
use crate::lanes::Lanes;
use crate::listen;
use crate::probe::{Probe, ProbeSettings};
use crate::shell::{Phase, Shell};
use crate::telemetry;
use start::{Doors, EngineChoice, address_error};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long answers may take to get out once nothing is held any more.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// A connection of a peer that brings no request for so long is closed.
const PEER_FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Threads that carry connections, where there are as many cores: each carries tens of thousands of small requests a
/// second, and each has a connection of its own to every peer.
const LANES_MAX: usize = 4;

/// How a node is run, beside its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Leave when standard input ends: a parent that dies, however it dies, takes its nodes along.
    pub exit_with_stdin: bool,
}

/// Runs a node until it has left. Returns the exit code of the process.
#[must_use]
pub fn run(loaded: &Loaded, options: RunOptions) -> ExitCode {
    match run_checked(loaded, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Configuration(fault)) => {
            complain(&fault.to_string());
            ExitCode::from(EXIT_CODE)
        }
        Err(Failed::System(message)) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// Why a node does not run.
enum Failed {
    /// The user can mend it.
    Configuration(ConfigError),
    System(String),
}

impl From<ConfigError> for Failed {
    fn from(fault: ConfigError) -> Self {
        Self::Configuration(fault)
    }
}

fn complain(message: &str) {
    // With no standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "shoal: {message}");
}

fn run_checked(loaded: &Loaded, options: RunOptions) -> Result<(), Failed> {
    let Loaded { config, effective } = loaded;
    telemetry::init_logs(&config.log.level, config.log.format == LogFormat::Json).map_err(|fault| {
        effective.error("log.level", fault, "give a level such as info, or a filter such as info,shoal=debug")
    })?;
    let engine = EngineChoice::of(config, effective)?;
    start::check_seeds(config, effective)?;
    let identity = Identity::open(&config.node.data_dir, config.node.id.as_deref())
        .map_err(|fault| effective.error("node.data_dir", fault.to_string(), "or choose another with --data-dir"))?;
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
    }
    let doors = Doors::bind(config, effective)?;
    if let EngineChoice::Candle(_) = engine {
        let threads = usize::try_from(config.engine.threads).unwrap_or(0);
        let threads = if threads == 0 { available_cores() } else { threads };
        shoal_engine::init_threads(threads).map_err(|fault| Failed::System(fault.to_string()))?;
    }
    let no_runtime = |fault: io::Error| Failed::System(format!("no runtime: {fault}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    let lanes = Lanes::start(available_cores().min(LANES_MAX)).map_err(no_runtime)?;
    let served = runtime.block_on(serve(config, effective, &identity, (doors, lanes), (engine, options)));
    // Whatever still runs is of no use to anybody: every held call has ended or was cut off.
    runtime.shutdown_background();
    served
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

async fn serve(
    config: &Config,
    effective: &Effective,
    identity: &Identity,
    (doors, lanes): (Doors, Lanes),
    (engine, options): (EngineChoice, RunOptions),
) -> Result<(), Failed> {
    let system = |fault: io::Error| Failed::System(fault.to_string());
    let seed = unix_ms() ^ (u64::from(std::process::id()) << 32);
    let client = PeerClient::new(ForwardLimits {
        connect: config.peer.connect_timeout,
        ping_interval: config.peer.ping_interval,
        ping_timeout: config.peer.ping_timeout,
        message_bytes_max: usize::try_from(config.peer.message_bytes_max).unwrap_or(usize::MAX),
    });
    let rules = settings::rules(config);
    let shell = Shell::new(settings::facts(config, identity), rules.clone(), seed, client);
    if let Some(file) = start::recording(config, effective)? {
        shell.record(file, config.record.bytes_max, rules, seed).map_err(system)?;
    }
    let (stop, stopped) = watch::channel(false);
    let (flush, flushed) = watch::channel(false);

    // The doors first: whoever hears of this node by gossip finds it listening.
    let peer_door = peer_leg::accept(
        TcpListener::from_std(doors.peer).map_err(system)?,
        peer_leg::ServeLimits {
            message_bytes_max: usize::try_from(config.peer.message_bytes_max).unwrap_or(usize::MAX),
            messages_bytes_max: usize::try_from(config.admission.bytes_max.max(config.peer.message_bytes_max))
                .unwrap_or(usize::MAX),
            streams_max: config.admission.jobs_max.saturating_mul(4).max(1024),
            first_request_limit: PEER_FIRST_REQUEST,
            stop_limit: FLUSH_LIMIT,
        },
        shell.clone(),
        lanes.clone(),
        flushed,
    );
    let mut peer_door = tokio::spawn(peer_door);
    let api = TcpListener::from_std(doors.api).map_err(system)?;
    let mut api = tokio::spawn(listen::serve(api, settings::api_limits(config), shell.clone(), lanes, stopped));
    tokio::spawn({
        let shell = shell.clone();
        async move { shell.tick().await }
    });

    let gossip = start_gossip(config, identity, &shell);
    let udp = |fault: String| address_error(effective, "peer.listen", "--peer-listen", config.peer.listen, &fault);
    shell.attach_gossip(gossip.map_err(udp)?);
    let load = {
        let config = config.clone();
        move || engine.load(&config, seed)
    };
    let (compute, device) = Compute::new();
    shell.attach_compute(compute);
    let hears = shell.clone();
    let tell = move |event| {
        let loading_ended = matches!(event, ComputeEvent::Ready { .. } | ComputeEvent::LoadFailed { .. });
        hears.on_compute(event);
        if loading_ended {
            // Also after a failure: the door is open, peers may have the model, and a restart would not mend it.
            // Without a supervisor that listens there is nobody to tell.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        }
    };
    device.start(load, Some(config.node.data_dir.join("canary")), tell).map_err(system)?;

    // Kept to the end: dropped, it stops looking.
    let _probe = start_probe(config, &shell).map_err(system)?;

    banner::show(config, identity);
    spawn_leavers(&shell, options).map_err(system)?;

    let mut phase = shell.phase();
    loop {
        let now = phase.borrow_and_update().clone();
        let now_open = now == Phase::Serving;
        match now {
            Phase::Serving => {}
            Phase::Closing => drop(stop.send_replace(true)),
            Phase::Done => break,
            Phase::Duplicate { addr } => {
                let problem = format!("`{}` is the id of a live node at {addr}", identity.node_id);
                return Err(effective.error("node.id", problem, "give every node an id of its own").into());
            }
        }
        tokio::select! {
            changed = phase.changed() => changed.map_err(|_| Failed::System("the node is gone".to_owned()))?,
            // Half a node is worse than none: the supervisor starts a whole one, the peers take over meanwhile.
            _ = &mut api, if now_open => return Err(Failed::System("the public door ended by itself".to_owned())),
            _ = &mut peer_door => return Err(Failed::System("the door for peers ended by itself".to_owned())),
        }
    }
    stop.send_replace(true);
    flush.send_replace(true);
    let out = async { (api.await, peer_door.await) };
    if tokio::time::timeout(FLUSH_LIMIT, out).await.is_err() {
        tracing::warn!("some answers did not get out in time");
    }
    shell.end_recording().await;
    tracing::info!("left");
    Ok(())
}

fn start_gossip(config: &Config, identity: &Identity, shell: &Shell) -> Result<Gossip, String> {
    let settings = GossipSettings {
        cluster: config.node.cluster.clone(),
        node_id: identity.node_id.clone(),
        generation: identity.generation,
        listen: config.peer.listen,
        advertise: config.peer.advertise,
        seeds: config.gossip.seeds.clone(),
        interval: config.gossip.interval,
        phi_threshold: config.gossip.phi_threshold,
        dead_grace: config.gossip.dead_grace,
    };
    let announced = BTreeMap::from([
        (key::BOOT, identity.generation.to_string()),
        (key::PEER_ADDR, config.peer.advertise.to_string()),
        (key::API_ADDR, config.api.advertise.to_string()),
        (key::ENGINE, "starting".to_owned()),
        (key::VERSION, VERSION.to_owned()),
        (key::ZONE, config.node.zone.clone()),
        (key::WEIGHT, config.node.weight.to_string()),
        (key::BACKUP, u8::from(config.node.backup).to_string()),
    ]);
    let hears = shell.clone();
    Gossip::start(settings, announced, shell.gossip_metrics(), move |event| hears.on_gossip(event))
}

fn start_probe(config: &Config, shell: &Shell) -> io::Result<Probe> {
    let hears = shell.clone();
    Probe::start(ProbeSettings::new(&config.probe), move |sample| hears.on_sample(&sample))
}

/// Everything that makes the node leave: SIGTERM, Ctrl-C, and the end of standard input if that was asked for.
fn spawn_leavers(shell: &Shell, options: RunOptions) -> io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let shell = shell.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                tracing::info!("told to leave");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                shell.leave();
            }
        });
    }
    if options.exit_with_stdin {
        let shell = shell.clone();
        // A thread, because a read of standard input cannot be cancelled and must not hold up the end of the runtime.
        std::thread::Builder::new().name("shoal-stdin".to_owned()).spawn(move || {
            let mut sink = [0u8; 256];
            while matches!(io::stdin().read(&mut sink), Ok(count) if 0 < count) {}
            tracing::info!("standard input ended: told to leave, fast");
            shell.leave();
            shell.leave();
        })?;
    }
    Ok(())
}
