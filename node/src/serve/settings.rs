//! From the checked configuration to the settings of each part.
//!
//! Part of `serve`. Units and ranges were checked by `config`; here they only change their shape.

use std::sync::Arc;
use std::time::Duration;

use shoal_core::admission::AdmissionRules;
use shoal_core::batch::BatchRules;
use shoal_core::gate::GateRules;
use shoal_core::id::BootId;
use shoal_core::lifecycle::DrainRules;
use shoal_core::node::{AcceptLimit, Rules};
use shoal_core::peers::PeerRules;
use shoal_core::retry::RetryRules;
use shoal_core::route::RouteRules;

use super::VERSION;
use crate::clock::micros;
use crate::config::Config;
use crate::identity::Identity;
use crate::listen;
use crate::shell::Facts;

/// A public connection that carries nothing at all may stay so long.
const CONNECTION_IDLE: Duration = Duration::from_secs(60);

pub(super) fn facts(config: &Config, identity: &Identity) -> Facts {
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

pub(super) fn rules(config: &Config) -> Rules {
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
            ..BatchRules::default()
        },
        route: RouteRules {
            margin_min: micros(config.routing.margin_min),
            margin_percent: config.routing.margin_percent,
            ..RouteRules::default()
        },
        retry: RetryRules {
            placements_max: u8::try_from(config.routing.placements_max).unwrap_or(u8::MAX),
            ..RetryRules::default()
        },
        peers: PeerRules {
            gate: GateRules { ping_limit: micros(config.peer.ping_timeout), ..GateRules::default() },
            ..PeerRules::default()
        },
        drain: DrainRules {
            settle: micros(config.drain.settle),
            limit: micros(config.drain.limit),
            ..DrainRules::default()
        },
        accept_limit: AcceptLimit(micros(config.peer.accept_timeout)),
        ..Rules::default()
    }
}

pub(super) fn api_limits(config: &Config) -> listen::Limits {
    listen::Limits {
        connections_max: usize::try_from(config.api.connections_max).unwrap_or(usize::MAX),
        header_timeout: config.api.header_timeout,
        body_idle_timeout: config.api.body_idle_timeout,
        idle_timeout: CONNECTION_IDLE,
        body_bytes_max: usize::try_from(config.api.body_bytes_max).unwrap_or(usize::MAX),
        bodies_bytes_max: usize::try_from(config.admission.bytes_max).unwrap_or(usize::MAX),
        inputs_max: usize::try_from(config.api.inputs_max).unwrap_or(usize::MAX),
        jobs_max: config.admission.jobs_max,
        batch_tokens_max: config.engine.batch_tokens_max,
        deadline_ms_default: ms(config.admission.deadline_default),
        deadline_ms_max: ms(config.admission.deadline_max),
        stop_timeout: config.drain.limit,
    }
}

/// What callers call the model: its name, or the last component of its directory.
pub(super) fn served_name(name: &str) -> String {
    let last = std::path::Path::new(name).file_name().and_then(|last| last.to_str());
    last.unwrap_or(name).to_owned()
}

fn ms(duration: Duration) -> u32 {
    micros(duration).to_ms_ceil()
}
