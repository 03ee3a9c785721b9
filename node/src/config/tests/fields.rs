//! Every key reaches its own field of the checked configuration, in the right unit, and no other field.

use std::time::Duration;

use serde_json::json;

use super::*;

/// The checked configuration as values of the keys that made it.
fn fields(config: &Config) -> BTreeMap<&'static str, Value> {
    let Config {
        node,
        api,
        peer,
        gossip,
        model,
        engine,
        admission,
        cache,
        routing,
        breaker,
        retry,
        hedge,
        pulse,
        canary,
        probe,
        drain,
        record,
        log,
    } = config;
    let ms = |duration: Duration| json!(u64::try_from(duration.as_millis()).unwrap());
    BTreeMap::from([
        ("node.cluster", json!(node.cluster)),
        ("node.id", json!(node.id)),
        ("node.data_dir", json!(node.data_dir)),
        ("node.zone", json!(node.zone)),
        ("node.weight", json!(node.weight)),
        ("node.backup", json!(node.backup)),
        ("api.listen", json!(api.listen)),
        ("api.advertise", json!(api.advertise)),
        ("api.body_bytes_max", json!(api.body_bytes_max)),
        ("api.inputs_max", json!(api.inputs_max)),
        ("api.connections_max", json!(api.connections_max)),
        ("api.header_timeout_ms", ms(api.header_timeout)),
        ("api.body_idle_timeout_ms", ms(api.body_idle_timeout)),
        ("api.explain", json!(api.explain)),
        ("peer.listen", json!(peer.listen)),
        ("peer.advertise", json!(peer.advertise)),
        ("peer.connect_timeout_ms", ms(peer.connect_timeout)),
        ("peer.accept_timeout_ms", ms(peer.accept_timeout)),
        ("peer.ping_interval_ms", ms(peer.ping_interval)),
        ("peer.ping_timeout_ms", ms(peer.ping_timeout)),
        ("peer.message_bytes_max", json!(peer.message_bytes_max)),
        ("gossip.seeds", json!(gossip.seeds)),
        ("gossip.interval_ms", ms(gossip.interval)),
        ("gossip.phi_threshold", json!(gossip.phi_threshold)),
        ("gossip.dead_grace_s", json!(gossip.dead_grace.as_secs())),
        ("model.name", json!(model.name)),
        ("model.cache_dir", json!(model.cache_dir)),
        ("engine.spec", json!(engine.spec)),
        ("engine.threads", json!(engine.threads)),
        ("engine.batch_tokens_max", json!(engine.batch_tokens_max)),
        ("engine.batch_rows_max", json!(engine.batch_rows_max)),
        ("engine.batch_ms_max", ms(engine.batch_max)),
        ("admission.jobs_max", json!(admission.jobs_max)),
        ("admission.bytes_max", json!(admission.bytes_max)),
        ("admission.deadline_ms_default", ms(admission.deadline_default)),
        ("admission.deadline_ms_max", ms(admission.deadline_max)),
        ("cache.bytes_max", json!(cache.bytes_max)),
        ("cache.ttl_s", json!(cache.ttl.as_secs())),
        ("routing.policy", json!(routing.policy)),
        ("routing.margin_ms_min", ms(routing.margin_min)),
        ("routing.margin_percent", json!(routing.margin_percent)),
        ("routing.placements_max", json!(routing.placements_max)),
        ("routing.hot_enter_percent", json!(routing.hot_enter_percent)),
        ("routing.hot_leave_percent", json!(routing.hot_leave_percent)),
        ("routing.hot_dwell_ms", ms(routing.hot_dwell)),
        ("routing.session_bound_percent", json!(routing.session_bound_percent)),
        ("routing.chunk_ms", ms(routing.chunk)),
        ("routing.ask_after_ms", ms(routing.ask_after)),
        ("routing.slow_start_ms", ms(routing.slow_start)),
        ("routing.panic_percent", json!(routing.panic_percent)),
        ("breaker.request_volume", json!(breaker.request_volume)),
        ("breaker.error_percent", json!(breaker.error_percent)),
        ("breaker.sleep_window_ms", ms(breaker.sleep_window)),
        ("breaker.sleep_window_ms_max", ms(breaker.sleep_window_max)),
        ("retry.budget_percent", json!(retry.budget_percent)),
        ("retry.budget_per_second", json!(retry.budget_per_second)),
        ("hedge.percent", json!(hedge.percent)),
        ("hedge.after_ms_min", ms(hedge.after_min)),
        ("hedge.load_percent_max", json!(hedge.load_percent_max)),
        ("pulse.late_ms_max", ms(pulse.late_max)),
        ("pulse.doubt_ms", ms(pulse.doubt)),
        ("canary.interval_ms", ms(canary.interval)),
        ("canary.limit_ms_min", ms(canary.limit_min)),
        ("probe.gpu", json!(probe.gpu)),
        ("probe.nvml_library", json!(probe.nvml_library)),
        ("drain.settle_ms", ms(drain.settle)),
        ("drain.limit_ms", ms(drain.limit)),
        ("record.file", json!(record.file)),
        ("record.bytes_max", json!(record.bytes_max)),
        ("log.level", json!(log.level)),
        ("log.format", json!(log.format)),
    ])
}

/// A sound value that is not the default.
fn other(key: &Key) -> String {
    match (key.rule, key.default_value()) {
        (Rule::Whole { .. }, value) => (value.as_u64().unwrap() + 1).to_string(),
        (Rule::Real { .. }, value) => (value.as_f64().unwrap() + 1.0).to_string(),
        (Rule::Address, _) => "127.0.0.1:9999".to_owned(),
        (Rule::Seeds, _) => "127.0.0.1:9998".to_owned(),
        (Rule::OneOf(words), value) => (*words.iter().find(|word| value != *word).unwrap()).to_owned(),
        (Rule::Switch, value) => (!value.as_bool().unwrap()).to_string(),
        (Rule::Engine, _) => "synthetic:1ms".to_owned(),
        (Rule::LogFilter, _) => "debug".to_owned(),
        (Rule::Label { .. } | Rule::Path { .. }, _) => "another".to_owned(),
    }
}

#[test]
fn every_key_sets_its_own_field_and_no_other() {
    let before = fields(&Given::default().loaded().config);
    assert!(before.keys().copied().eq(keys().map(|key| key.path).collect::<BTreeSet<_>>()));
    for key in keys() {
        let text = other(key);
        let after = fields(&typed(&[(key.path, "--flag", &text)]).loaded().config);
        let value = key.rule.read(&rule::Written::Loose(text)).unwrap();
        // An advertised address follows its listener.
        let follower = key.path.replace(".listen", ".advertise");
        for (path, field) in &after {
            let expected = if *path == key.path || *path == follower { &value } else { &before[path] };
            assert_eq!(field, expected, "{path} after setting {}", key.path);
        }
    }
}
