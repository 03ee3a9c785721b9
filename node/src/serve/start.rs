//! What a start checks and takes before the node runs: the engine, the seeds, the doors.
//!
//! Part of `serve`.
//! Invariants: nothing here is left behind when a later step fails; every fault names key, place and fix.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;

use shoal_engine::synthetic::{Synthetic, SyntheticSpec};
use shoal_engine::{Engine, EngineError, LoadOptions, LoadProgress, OnProgress};

use super::Failed;
use super::settings::served_name;
use crate::config::{Config, Effective};
use crate::models;
use crate::record;

/// The file in the data directory by which a drill makes the stand-in engine misbehave.
const CONTROL_FILE: &str = "synthetic-control";
/// What the C library says when no name server answered, as opposed to "there is no such name". The standard library
/// gives both the same kind.
const LATER: &str = "Temporary failure";

/// The engine that was asked for, checked as far as it can be before it is loaded.
pub(super) enum EngineChoice {
    Synthetic(SyntheticSpec),
    /// The model in this directory.
    Candle(PathBuf),
}

impl EngineChoice {
    pub(super) fn of(config: &Config, effective: &Effective) -> Result<Self, Failed> {
        if config.engine.spec == "candle" {
            let directory = models::resolve(&config.model.name, &config.model.cache_dir).map_err(|fault| {
                effective.error("model.name", fault.to_string(), "or choose another model with --model")
            })?;
            return Ok(Self::Candle(directory));
        }
        let spec = config
            .engine
            .spec
            .parse()
            .map_err(|fault: EngineError| effective.error("engine.spec", fault.to_string(), "or use candle"))?;
        Ok(Self::Synthetic(spec))
    }

    pub(super) fn load(self, config: &Config, seed: u64) -> Result<Box<dyn Engine>, EngineError> {
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

/// A seed that is down is tried again for ever; one whose name does not exist is most likely a slip of the pen. A name
/// that cannot be looked up just now, as at the boot of a machine, is neither: gossip looks again every minute.
pub(super) fn check_seeds(config: &Config, effective: &Effective) -> Result<(), Failed> {
    for seed in &config.gossip.seeds {
        let Err(fault) = seed.to_socket_addrs() else { continue };
        let text = fault.to_string();
        if text.contains(LATER) {
            tracing::warn!(%seed, "a seed cannot be resolved just now; it is tried again");
            continue;
        }
        let problem = format!("{seed:?} does not resolve ({text})");
        return Err(effective.error("gossip.seeds", problem, "check the name or remove it").into());
    }
    Ok(())
}

/// The file that decisions are recorded into, if that was asked for.
pub(super) fn recording(config: &Config, effective: &Effective) -> Result<Option<File>, Failed> {
    let Some(path) = &config.record.file else { return Ok(None) };
    let (shown, bytes_max) = (path.display(), config.record.bytes_max);
    match record::create(path) {
        Ok(file) => {
            tracing::info!(file = %shown, bytes_max, "decisions are recorded, for `cluster-sim replay`");
            Ok(Some(file))
        }
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
            let problem = format!("{shown} is there already, and a recording overwrites nothing");
            Err(effective.error("record.file", problem, "move it away, or choose another name with --record").into())
        }
        Err(fault) => {
            let problem = format!("{shown} cannot be made ({fault})");
            Err(effective.error("record.file", problem, "choose another place with --record").into())
        }
    }
}

/// The bound listeners.
pub(super) struct Doors {
    pub(super) api: StdListener,
    pub(super) peer: StdListener,
}

impl Doors {
    pub(super) fn bind(config: &Config, effective: &Effective) -> Result<Self, Failed> {
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

pub(super) fn address_error(effective: &Effective, key: &str, flag: &str, addr: SocketAddr, fault: &str) -> Failed {
    let problem = format!("{addr} cannot be listened on ({fault})");
    effective.error(key, problem, format!("stop what uses it, or choose another address with {flag}")).into()
}
