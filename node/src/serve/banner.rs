//! What a node says of itself when it starts.
//!
//! Part of `serve`.

use std::io::{self, IsTerminal as _, Write as _};

use super::VERSION;
use crate::config::Config;
use crate::identity::Identity;

/// One screen that says what runs where; one line in a log.
pub(super) fn show(config: &Config, identity: &Identity) {
    let Config { node, api, peer, gossip, model, engine, routing, .. } = config;
    let id = &identity.node_id;
    if !io::stderr().is_terminal() {
        let (cluster, api, peer) = (&node.cluster, api.listen, peer.listen);
        tracing::info!(
            node = %id, %cluster, %api, %peer, model = %model.name, engine = %engine.spec,
            policy = routing.policy.name(), weight = node.weight, backup = node.backup, "shoal {VERSION}"
        );
        tracing::warn!(%peer, "gossip and jobs between nodes are not encrypted: keep this address on a private network");
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
        format!(
            "  routing {}, weight {}{}",
            routing.policy.name(),
            node.weight,
            if node.backup { ", backup" } else { "" }
        ),
        format!("  data    {}", node.data_dir.display()),
    ];
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}
