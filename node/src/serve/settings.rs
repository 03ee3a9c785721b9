//! From the checked configuration to the settings of each part.
//!
//! Part of `serve`. Units and ranges were checked by `config`; here they only change their shape.

use std::sync::Arc;
use std::time::Duration;

use shoal_core::admission::AdmissionRules;
use shoal_core::affinity::AffinityRules;
use shoal_core::batch::BatchRules;
use shoal_core::breaker::BreakerRules;
use shoal_core::budget::BudgetRules;
use shoal_core::gate::GateRules;
use shoal_core::heat::HeatRules;
use shoal_core::id::BootId;
use shoal_core::lifecycle::DrainRules;
use shoal_core::node::{
    AcceptLimit, CanaryRules, HedgeRules, OwnRules, PulseRules, RebalanceRules, RetryBudget, Rules,
};
use shoal_core::peers::PeerRules;
use shoal_core::retry::RetryRules;
use shoal_core::route::RouteRules;
use shoal_core::share::Share;
use shoal_core::split::SplitRules;
use shoal_core::time::Micros;

use super::VERSION;
use crate::cache;
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
        weight: config.node.weight,
        backup: config.node.backup,
        policy: config.routing.policy.name(),
        seeds: other_seeds(config),
        inputs_max: usize::try_from(config.api.inputs_max).unwrap_or(usize::MAX),
        deadline_ms_max: ms(config.admission.deadline_max),
        cache: (0 < config.cache.bytes_max)
            .then_some(cache::Limits { bytes_max: config.cache.bytes_max, ttl: config.cache.ttl }),
        cached_answers_bytes_max: config.admission.bytes_max,
    }
}

/// A file that is the same on every machine names this one too.
fn other_seeds(config: &Config) -> usize {
    let own = config.peer.advertise.to_string();
    config.gossip.seeds.iter().filter(|seed| **seed != own).count()
}

pub(super) fn rules(config: &Config) -> Rules {
    Rules {
        own: OwnRules { weight: config.node.weight, backup: config.node.backup },
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
            policy: config.routing.policy,
            ..RouteRules::default()
        },
        split: Some(SplitRules { chunk_time: micros(config.routing.chunk), ..SplitRules::default() })
            .filter(|rules| Micros::ZERO < rules.chunk_time),
        rebalance: Some(RebalanceRules {
            claim_age_max: micros(config.routing.ask_after),
            ..RebalanceRules::default()
        })
        .filter(|rules| Micros::ZERO < rules.claim_age_max),
        retry: RetryRules {
            placements_max: u8::try_from(config.routing.placements_max).unwrap_or(u8::MAX),
            ..RetryRules::default()
        },
        retry_budget: Some(RetryBudget(BudgetRules {
            percent: config.retry.budget_percent,
            per_second: config.retry.budget_per_second,
        })),
        peers: peer_rules(config),
        heat: Some(HeatRules {
            enter: share(config.routing.hot_enter_percent),
            leave: share(config.routing.hot_leave_percent),
            dwell: micros(config.routing.hot_dwell),
            ..HeatRules::default()
        }),
        affinity: AffinityRules { bound_percent: config.routing.session_bound_percent },
        hedge: (0 < config.hedge.percent).then(|| HedgeRules {
            budget: BudgetRules { percent: config.hedge.percent, per_second: 0 },
            after_min: micros(config.hedge.after_min),
            load_max: share(config.hedge.load_percent_max),
            ..HedgeRules::default()
        }),
        pulse: Some(PulseRules { late_max: micros(config.pulse.late_max), doubt: micros(config.pulse.doubt) }),
        drain: DrainRules {
            settle: micros(config.drain.settle),
            limit: micros(config.drain.limit),
            ..DrainRules::default()
        },
        accept_limit: AcceptLimit(micros(config.peer.accept_timeout)),
        canary: (!config.canary.interval.is_zero()).then(|| CanaryRules {
            interval: micros(config.canary.interval),
            limit_min: micros(config.canary.limit_min),
            ..CanaryRules::default()
        }),
        ..Rules::default()
    }
}

/// Zero means "not at all" in the configuration, and is no rule here.
fn peer_rules(config: &Config) -> PeerRules {
    let breaker = BreakerRules {
        request_volume: config.breaker.request_volume,
        error_percent: config.breaker.error_percent,
        sleep_window: micros(config.breaker.sleep_window),
        sleep_window_max: micros(config.breaker.sleep_window_max),
    };
    PeerRules {
        gate: GateRules { ping_limit: micros(config.peer.ping_timeout), ..GateRules::default() },
        breaker: (0 < breaker.error_percent).then_some(breaker),
        slow_start: Some(micros(config.routing.slow_start)).filter(|&ramp| Micros::ZERO < ramp),
        panic_percent: config.routing.panic_percent,
        ..PeerRules::default()
    }
}

fn share(percent: u32) -> Share {
    Share::of(percent.into(), 100)
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
        explain: config.api.explain,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(set: &[(&'static str, &str)]) -> Rules {
        let flag =
            |&(key, value): &(&'static str, &str)| crate::config::Flag { key, name: "--flag", value: value.to_owned() };
        let flags: Vec<_> = set.iter().map(flag).collect();
        rules(&crate::config::load(None, std::iter::empty(), &flags).unwrap().config)
    }

    #[test]
    fn a_configuration_that_says_nothing_gives_the_rules_that_were_proved() {
        assert_eq!(rules_of(&[]), Rules::default());
    }

    #[test]
    fn what_is_switched_off_is_no_rule() {
        let keys = ["breaker.error_percent", "hedge.percent", "routing.slow_start_ms", "canary.interval_ms"];
        let off = rules_of(&keys.map(|key| (key, "0")));
        assert_eq!((off.peers.breaker, off.hedge, off.peers.slow_start, off.canary), (None, None, None, None));
        assert_eq!(rules_of(&[("routing.chunk_ms", "0")]).split, None);
        assert_eq!(rules_of(&[("routing.ask_after_ms", "0")]).rebalance, None);
    }
}
