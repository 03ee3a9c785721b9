//! What is counted of the result cache.
//!
//! Part of `telemetry`. Counted by `cache` and `shell`, and shown, as zeros, where the cache is off.
//! Invariants: labels are words of this list; what the cache holds are gauges of what is kept, not of work in hand.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Labels of `shoal_cache_texts_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CachePlace {
    /// `local`, `shared`, `owner` or `miss`.
    pub place: &'static str,
}

/// Labels of `shoal_cache_evictions_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    /// `room` or `age`.
    cause: &'static str,
}

/// Labels of what is counted of messages and of waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheOutcome {
    pub outcome: &'static str,
}

/// Labels of `shoal_cache_served_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheServed {
    /// `get` or `put`.
    pub message: &'static str,
    /// `ok`, `other_model`, `off` or `absurd`.
    pub outcome: &'static str,
}

/// What the cache counts. Clones count together.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    /// Texts by where their result was found.
    pub texts: Family<CachePlace, Counter>,
    /// Results thrown out because there was no room.
    pub evicted_for_room: Counter,
    /// Results thrown out because they were too old.
    pub evicted_for_age: Counter,
    /// Waits for the result of another call: `shared took_over expired`.
    pub waits: Family<CacheOutcome, Counter>,
    /// `CacheGet`s to owners: `ok silent broken unknown`; `cheap unready resting full` were not sent.
    pub gets: Family<CacheOutcome, Counter>,
    /// `CachePut`s to owners: `ok silent broken unknown`; `full` were not sent.
    pub puts: Family<CacheOutcome, Counter>,
    /// Messages of peers.
    pub served: Family<CacheServed, Counter>,
    /// Calls that were placed as if there was no cache, because answers out of it took up all room.
    pub bypassed: Counter,
    entries: Gauge,
    bytes: Gauge,
}

impl CacheMetrics {
    /// All at zero.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let evictions = Family::<Cause, Counter>::default();
        let evicted = |cause| evictions.get_or_create(&Cause { cause }).clone();
        let told = Self {
            texts: Family::default(),
            evicted_for_room: evicted("room"),
            evicted_for_age: evicted("age"),
            waits: Family::default(),
            gets: Family::default(),
            puts: Family::default(),
            served: Family::default(),
            bypassed: Counter::default(),
            entries: Gauge::default(),
            bytes: Gauge::default(),
        };
        registry.register("cache_texts", "Texts by where their result was found", told.texts.clone());
        registry.register("cache_evictions", "Results thrown out of the cache", evictions);
        registry.register("cache_waits", "Waits for the result of another call", told.waits.clone());
        registry.register("cache_gets", "Owners asked for results", told.gets.clone());
        registry.register("cache_puts", "Results given to owners", told.puts.clone());
        registry.register("cache_served", "Cache messages of peers", told.served.clone());
        registry.register("cache_bypassed", "Calls placed without the cache for want of room", told.bypassed.clone());
        registry.register("cache_entries", "Results kept", told.entries.clone());
        registry.register_with_unit("cache", "What the kept results weigh", Unit::Bytes, told.bytes.clone());
        told
    }

    /// Shows what is kept.
    pub fn show(&self, entries: u64, bytes: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
