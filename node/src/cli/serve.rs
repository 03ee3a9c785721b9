//! The flags of `shoal serve`, and of `shoal config check|print`, which look at the same configuration.
//!
//! Invariant: every flag but `--config` and `--exit-with-stdin` sets exactly one key, whose help text it shows.

use std::path::PathBuf;

use clap::Args;

use super::flag;
use crate::config::{Flag, help};

/// Texts, all of them: `config` reads and checks the values, so that a mistake reads the same in every layer.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Configuration file, TOML or YAML by its ending. Without it, defaults, environment and flags hold
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[arg(long, value_name = "NAME", help = help("node.cluster"), help_heading = "Node")]
    pub cluster: Option<String>,
    #[arg(long, value_name = "ID", help = help("node.id"), help_heading = "Node")]
    pub node_id: Option<String>,
    #[arg(long, value_name = "DIR", help = help("node.data_dir"), help_heading = "Node")]
    pub data_dir: Option<String>,

    #[arg(long, value_name = "IP:PORT", help = help("api.listen"), help_heading = "Network")]
    pub api_listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = help("peer.listen"), help_heading = "Network")]
    pub peer_listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = help("peer.advertise"), help_heading = "Network")]
    pub advertise: Option<String>,
    #[arg(long = "seed", value_name = "HOST:PORT", help = seed_help(), help_heading = "Network")]
    pub seeds: Vec<String>,

    #[arg(long, value_name = "NAME_OR_DIR", help = help("model.name"), help_heading = "Model")]
    pub model: Option<String>,
    #[arg(long, value_name = "SPEC", help = help("engine.spec"), help_heading = "Model")]
    pub engine: Option<String>,
    #[arg(long, value_name = "N", help = help("engine.threads"), help_heading = "Model")]
    pub threads: Option<String>,

    #[arg(long, value_name = "POLICY", help = help("routing.policy"), help_heading = "Routing")]
    pub policy: Option<String>,

    #[arg(long, value_name = "BYTES", help = help("cache.bytes_max"), help_heading = "Cache")]
    pub cache_bytes_max: Option<String>,

    #[arg(long, value_name = "FILE", help = help("record.file"), help_heading = "Recording")]
    pub record: Option<String>,
    #[arg(long, value_name = "BYTES", help = help("record.bytes_max"), help_heading = "Recording")]
    pub record_bytes_max: Option<String>,

    #[arg(long, value_name = "LEVEL", help = help("log.level"), help_heading = "Log")]
    pub log_level: Option<String>,
    #[arg(long, value_name = "FORMAT", help = help("log.format"), help_heading = "Log")]
    pub log_format: Option<String>,

    /// Leave, fast, when standard input ends: a parent that dies, however it dies, takes its nodes along
    #[arg(long, help_heading = "Node")]
    pub exit_with_stdin: bool,
}

impl ServeArgs {
    /// The flags that were typed, for [`crate::config::load`].
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let single = [
            ("node.cluster", "--cluster", &self.cluster),
            ("node.id", "--node-id", &self.node_id),
            ("node.data_dir", "--data-dir", &self.data_dir),
            ("api.listen", "--api-listen", &self.api_listen),
            ("peer.listen", "--peer-listen", &self.peer_listen),
            ("peer.advertise", "--advertise", &self.advertise),
            ("model.name", "--model", &self.model),
            ("engine.spec", "--engine", &self.engine),
            ("engine.threads", "--threads", &self.threads),
            ("routing.policy", "--policy", &self.policy),
            ("cache.bytes_max", "--cache-bytes-max", &self.cache_bytes_max),
            ("record.file", "--record", &self.record),
            ("record.bytes_max", "--record-bytes-max", &self.record_bytes_max),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        let seeds = self.seeds.iter().map(|seed| flag("gossip.seeds", "--seed", seed));
        let single = single.into_iter().filter_map(|(key, name, value)| Some(flag(key, name, value.as_deref()?)));
        single.chain(seeds).collect()
    }
}

fn seed_help() -> String {
    format!("May be given more than once. {}", help("gossip.seeds"))
}
