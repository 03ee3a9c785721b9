//! `shoal serve`: puts a node together, runs it until it is told to leave, and drains it.
//!
//! For `main`. Order of the start: who am I, are the doors free, then model and gossip at the same time; callers are
//! answered through peers while the model loads.
//! Invariants: everything that the user can mend ends with exit code 78 and one line that names key, place and fix; a
//! node that was told to leave ends by itself.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shoal_core::admission::AdmissionRules;
use shoal_core::batch::BatchRules;
use shoal_core::gate::GateRules;
use shoal_core::id::BootId;
use shoal_core::lifecycle::DrainRules;
use shoal_core::node::{AcceptLimit, Rules};
use shoal_core::retry::RetryRules;
use shoal_core::route::RouteRules;
use shoal_engine::synthetic::{Synthetic, SyntheticSpec};
use shoal_engine::{Engine, EngineError, LoadOptions, LoadProgress, OnProgress};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::{micros, unix_ms};
use crate::compute::{Compute, ComputeEvent};
use crate::config::{Config, ConfigError, EXIT_CODE, Effective, Loaded, LogFormat};
use crate::forward::{ForwardLimits, PeerClient, serve as peer_leg};
use crate::gossip::{Gossip, GossipSettings, key};
use crate::identity::Identity;
use crate::listen;
use crate::models;
use crate::shell::{Facts, Phase, Shell};
use crate::telemetry;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long answers may take to get out once nothing is held any more.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// A connection of a peer that brings no request for so long is closed.
const PEER_FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A public connection that carries nothing at all may stay so long.
const CONNECTION_IDLE: Duration = Duration::from_secs(60);
/// The file in the data directory by which a drill makes the stand-in engine misbehave.
const CONTROL_FILE: &str = "synthetic-control";

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
    check_seeds(config, effective)?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(available_cores().clamp(2, 16))
        .thread_name("shoal-io")
        .enable_all()
        .build()
        .map_err(|fault| Failed::System(format!("no runtime: {fault}")))?;
    let served = runtime.block_on(serve(config, effective, &identity, doors, engine, options));
    // Whatever still runs is of no use to anybody: every held call has ended or was cut off.
    runtime.shutdown_background();
    served
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The engine that was asked for, checked as far as it can be before it is loaded.
enum EngineChoice {
    Synthetic(SyntheticSpec),
    /// The model in this directory.
    Candle(PathBuf),
}

impl EngineChoice {
    fn of(config: &Config, effective: &Effective) -> Result<Self, Failed> {
        if config.engine.spec == "candle" {
            let directory = models::resolve(&config.model.name, &config.model.cache_dir).map_err(|fault| {
                effective.error("model.name", fault.to_string(), "or choose another model with --model")
            })?;
            return Ok(Self::Candle(directory));
        }
        let spec = config.engine.spec.parse().map_err(|fault: EngineError| {
            effective.error("engine.spec", fault.to_string(), "use candle, or a stand-in such as synthetic:20ms")
        })?;
        Ok(Self::Synthetic(spec))
    }

    fn load(self, config: &Config, seed: u64) -> Result<Box<dyn Engine>, EngineError> {
        let name = served_name(&config.model.name);
        match self {
            Self::Synthetic(spec) => {
                let control = config.node.data_dir.join(CONTROL_FILE);
                Ok(Box::new(Synthetic::new(spec, &name, Some(control), seed)))
            }
            Self::Candle(directory) => {
                // It must exist to be used; without it the revision is computed at each start, which takes a moment.
                let revisions = config.node.data_dir.join("revisions");
                let revision_cache = std::fs::create_dir_all(&revisions).is_ok().then_some(revisions);
                let options = LoadOptions { name: Some(name), revision_cache, on_progress: load_progress() };
                shoal_engine::load(&directory, &options)
            }
        }
    }
}

/// A bar on a terminal while the weights are read; a log needs none, it has the lines before and after.
fn load_progress() -> Option<OnProgress> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let bar = indicatif::ProgressBar::new(0).with_message("weights").with_style(
        indicatif::ProgressStyle::with_template("  {msg} {wide_bar} {bytes} of {total_bytes}")
            .expect("the template is a constant"),
    );
    Some(Arc::new(move |progress: LoadProgress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_read);
        if progress.bytes_read == progress.bytes_total {
            bar.finish_and_clear();
        }
    }))
}

/// A seed that is down is tried again for ever; one whose name does not resolve is most likely a slip of the pen.
fn check_seeds(config: &Config, effective: &Effective) -> Result<(), Failed> {
    for seed in &config.gossip.seeds {
        if let Err(fault) = seed.to_socket_addrs() {
            let problem = format!("{seed:?} does not resolve ({fault})");
            return Err(effective.error("gossip.seeds", problem, "check the name or remove it").into());
        }
    }
    Ok(())
}

/// The bound listeners.
struct Doors {
    api: StdListener,
    peer: StdListener,
}

impl Doors {
    fn bind(config: &Config, effective: &Effective) -> Result<Self, Failed> {
        let bind = |key, flag, addr: SocketAddr| {
            let listener = StdListener::bind(addr)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|fault| address_error(effective, key, flag, addr, &fault.to_string()))?;
            Ok::<_, Failed>(listener)
        };
        Ok(Self {
            api: bind("api.listen", "--api-listen", config.api.listen)?,
            peer: bind("peer.listen", "--peer-listen", config.peer.listen)?,
        })
    }
}

fn address_error(effective: &Effective, key: &str, flag: &str, addr: SocketAddr, fault: &str) -> Failed {
    let problem = format!("{addr} cannot be listened on ({fault})");
    effective.error(key, problem, format!("stop what uses it, or choose another address with {flag}")).into()
}

async fn serve(
    config: &Config,
    effective: &Effective,
    identity: &Identity,
    doors: Doors,
    engine: EngineChoice,
    options: RunOptions,
) -> Result<(), Failed> {
    let system = |fault: io::Error| Failed::System(fault.to_string());
    let seed = unix_ms() ^ (u64::from(std::process::id()) << 32);
    let client = PeerClient::new(ForwardLimits {
        connect: config.peer.connect_timeout,
        ping_interval: config.peer.ping_interval,
        ping_timeout: config.peer.ping_timeout,
        message_bytes_max: usize::try_from(config.peer.message_bytes_max).unwrap_or(usize::MAX),
    });
    let shell = Shell::new(facts(config, identity), rules(config), seed, client);
    let (stop, stopped) = watch::channel(false);
    let (flush, flushed) = watch::channel(false);

    // The doors first: whoever hears of this node by gossip finds it listening.
    let peer_door = peer_leg::accept(
        TcpListener::from_std(doors.peer).map_err(system)?,
        peer_leg::ServeLimits {
            message_bytes_max: usize::try_from(config.peer.message_bytes_max).unwrap_or(usize::MAX),
            streams_max: config.admission.jobs_max.saturating_mul(4).max(1024),
            first_request_limit: PEER_FIRST_REQUEST,
            stop_limit: FLUSH_LIMIT,
        },
        shell.clone(),
        flushed,
    );
    let peer_door = tokio::spawn(peer_door);
    let api = TcpListener::from_std(doors.api).map_err(system)?;
    let api = tokio::spawn(listen::serve(api, api_limits(config), shell.clone(), stopped));
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
    device.start(load, tell).map_err(system)?;

    banner(config, identity);
    spawn_leavers(&shell, options).map_err(system)?;

    let mut phase = shell.phase();
    loop {
        let now = phase.borrow_and_update().clone();
        match now {
            Phase::Serving => {}
            Phase::Closing => drop(stop.send_replace(true)),
            Phase::Done => break,
            Phase::Duplicate { addr } => {
                let problem = format!("`{}` is the id of a live node at {addr}", identity.node_id);
                return Err(effective.error("node.id", problem, "give every node an id of its own").into());
            }
        }
        phase.changed().await.map_err(|_| Failed::System("the node is gone".to_owned()))?;
    }
    stop.send_replace(true);
    flush.send_replace(true);
    let out = async { (api.await, peer_door.await) };
    if tokio::time::timeout(FLUSH_LIMIT, out).await.is_err() {
        tracing::warn!("some answers did not get out in time");
    }
    tracing::info!("left");
    Ok(())
}

fn facts(config: &Config, identity: &Identity) -> Facts {
    Facts {
        node_id: identity.node_id.clone(),
        boot: BootId(identity.generation),
        cluster: Arc::from(config.node.cluster.as_str()),
        model_name: Arc::from(served_name(&config.model.name)),
        api_addr: Arc::from(config.api.advertise.to_string()),
        version: VERSION,
        inputs_max: usize::try_from(config.api.inputs_max).unwrap_or(usize::MAX),
        deadline_ms_max: ms(config.admission.deadline_max),
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        admission: AdmissionRules {
            jobs_max: config.admission.jobs_max,
            bytes_max: config.admission.bytes_max,
            ..AdmissionRules::default()
        },
        batch: BatchRules {
            rows_max: config.engine.batch_rows_max,
            units_max: config.engine.batch_tokens_max.into(),
            time_max: micros(config.engine.batch_max),
        },
        route: RouteRules {
            margin_min: micros(config.routing.margin_min),
            margin_percent: config.routing.margin_percent.into(),
        },
        retry: RetryRules {
            placements_max: u8::try_from(config.routing.placements_max).unwrap_or(u8::MAX),
            ..RetryRules::default()
        },
        gate: GateRules { ping_limit: micros(config.peer.ping_timeout), ..GateRules::default() },
        drain: DrainRules {
            settle: micros(config.drain.settle),
            limit: micros(config.drain.limit),
            ..DrainRules::default()
        },
        accept_limit: AcceptLimit(micros(config.peer.accept_timeout)),
        ..Rules::default()
    }
}

fn api_limits(config: &Config) -> listen::Limits {
    listen::Limits {
        connections_max: usize::try_from(config.api.connections_max).unwrap_or(usize::MAX),
        header_timeout: config.api.header_timeout,
        body_idle_timeout: config.api.body_idle_timeout,
        idle_timeout: CONNECTION_IDLE,
        body_bytes_max: usize::try_from(config.api.body_bytes_max).unwrap_or(usize::MAX),
        bodies_bytes_max: usize::try_from(config.admission.bytes_max).unwrap_or(usize::MAX),
        inputs_max: usize::try_from(config.api.inputs_max).unwrap_or(usize::MAX),
        deadline_ms_default: ms(config.admission.deadline_default),
        deadline_ms_max: ms(config.admission.deadline_max),
        stop_timeout: config.drain.limit,
    }
}

/// What callers call the model: its name, or the last component of its directory.
fn served_name(name: &str) -> String {
    let last = std::path::Path::new(name).file_name().and_then(|last| last.to_str());
    last.unwrap_or(name).to_owned()
}

fn ms(duration: Duration) -> u32 {
    micros(duration).to_ms_ceil()
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
    ]);
    let hears = shell.clone();
    Gossip::start(settings, announced, move |event| hears.on_gossip(event))
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

/// One screen that says what runs where; one line in a log.
fn banner(config: &Config, identity: &Identity) {
    let Config { node, api, peer, gossip, model, engine, .. } = config;
    let id = &identity.node_id;
    if !io::stderr().is_terminal() {
        let (cluster, api, peer) = (&node.cluster, api.listen, peer.listen);
        tracing::info!(node = %id, %cluster, %api, %peer, model = %model.name, engine = %engine.spec, "shoal {VERSION}");
        return;
    }
    let seeds = match gossip.seeds.as_slice() {
        [] => "none: others join through this node".to_owned(),
        seeds => seeds.join(", "),
    };
    let engine = match engine.spec.as_str() {
        "candle" => "candle".to_owned(),
        spec => format!("{spec}  (a stand-in: it imitates a model)"),
    };
    let lines = [
        format!("shoal {VERSION}"),
        format!("  node    {id} in cluster {}", node.cluster),
        format!("  API     http://{}", api.listen),
        format!("  peers   {} TCP and UDP, not encrypted: keep it on a private network", peer.listen),
        format!("  seeds   {seeds}"),
        format!("  model   {}", model.name),
        format!("  engine  {engine}"),
        format!("  data    {}", node.data_dir.display()),
    ];
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}
