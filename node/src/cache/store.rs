//! What is kept: a table of results, bounded in bytes and in age.
//!
//! Part of `cache`. `moka` does the work: which results are worth their place (TinyLFU: one look at many texts does not
//! throw out what is asked for often), expiry, and a table without one lock.
//! Invariants: after each change what is too much is thrown out before the change returns, so the bound holds but for
//! what other threads add in the same moment; the weight of a result is at least what it takes in memory.

use std::sync::Arc;

use moka::notification::RemovalCause;
use moka::sync::Cache as Table;
use shoal_engine::Embedding;

use super::{CacheKey, Limits, Size};
use crate::telemetry::CacheMetrics;

/// What a result takes beside its numbers: the key, the vector's own head and counts, and moka's entry, its two lists
/// and its share of the table. Measured: 520 bytes in a cache of 200,000 results of one number. 64 MiB of results of
/// 384 numbers, thirty thousand kept of three hundred thousand, made a process 61 MiB larger.
const OVERHEAD_BYTES: usize = 640;

#[derive(Debug)]
pub(super) struct Store(Table<CacheKey, Arc<Embedding>>);

impl Store {
    pub(super) fn new(limits: Limits, metrics: CacheMetrics) -> Self {
        let thrown_out = move |_: Arc<CacheKey>, _: Arc<Embedding>, cause| match cause {
            RemovalCause::Size => drop(metrics.evicted_for_room.inc()),
            RemovalCause::Expired => drop(metrics.evicted_for_age.inc()),
            // Somebody computed it again, or took it out: nothing was lost.
            RemovalCause::Replaced | RemovalCause::Explicit => {}
        };
        let table = Table::builder()
            .max_capacity(limits.bytes_max)
            .weigher(|_, row: &Arc<Embedding>| weight(row))
            .time_to_live(limits.ttl)
            .eviction_listener(thrown_out)
            .build();
        Self(table)
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<Embedding>> {
        self.0.get(key)
    }

    pub(super) fn keep(&self, key: CacheKey, row: Arc<Embedding>) {
        self.0.insert(key, row);
        // Left to itself, moka lets some hundred changes gather before it looks at the bound.
        self.0.run_pending_tasks();
    }

    pub(super) fn size(&self) -> Size {
        self.0.run_pending_tasks();
        Size { entries: self.0.entry_count(), bytes: self.0.weighted_size() }
    }
}

/// Bytes that a result takes, its key and all bookkeeping included.
fn weight(row: &Embedding) -> u32 {
    let values = row.values.capacity().saturating_mul(size_of::<f32>());
    u32::try_from(values.saturating_add(OVERHEAD_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::key::tests::key;

    const TTL: Duration = Duration::from_secs(3600);

    fn row(dimensions: usize) -> Arc<Embedding> {
        Arc::new(Embedding { values: vec![0.5; dimensions], tokens: 3 })
    }

    fn store(bytes_max: u64, ttl: Duration) -> (Store, CacheMetrics) {
        let metrics = CacheMetrics::new(&mut prometheus_client::registry::Registry::default());
        (Store::new(Limits { bytes_max, ttl }, metrics.clone()), metrics)
    }

    #[test]
    fn what_is_kept_never_weighs_more_than_it_may() {
        let bytes_max = 64 << 10;
        let (store, metrics) = store(bytes_max, TTL);
        for number in 0..2000 {
            store.keep(key(&format!("text {number}")), row(number % 500));
            let Size { bytes, .. } = store.size();
            assert!(bytes <= bytes_max, "{bytes} bytes after {number} results");
        }
        let Size { entries, bytes } = store.size();
        assert!(bytes_max / 2 < bytes && 20 < entries, "{entries} results of {bytes} bytes");
        assert_eq!(metrics.evicted_for_room.get() + entries, 2000, "each was kept or thrown out");
    }

    #[test]
    fn a_result_weighs_what_was_allocated_for_it_and_the_rest() {
        let mut values = Vec::with_capacity(1000);
        values.push(1.0);
        let roomy = Embedding { values, tokens: 1 };
        assert!(4000 + OVERHEAD_BYTES <= weight(&roomy) as usize, "{}", weight(&roomy));
        assert_eq!(weight(&row(384)) as usize, 384 * 4 + OVERHEAD_BYTES);
    }

    #[test]
    fn a_result_that_is_larger_than_the_cache_is_not_kept() {
        let (store, _) = store(1000, TTL);
        store.keep(key("large"), row(384));
        assert_eq!((store.get(&key("large")), store.size()), (None, Size { entries: 0, bytes: 0 }));
    }

    #[test]
    fn nothing_is_given_once_it_is_too_old() {
        let (store, metrics) = store(1 << 20, Duration::from_nanos(1));
        store.keep(key("old"), row(8));
        assert_eq!((store.get(&key("old")), store.size().entries), (None, 0));
        assert_eq!(metrics.evicted_for_age.get(), 1);
    }

    #[test]
    fn a_newer_result_takes_the_place_of_the_older_one() {
        let (store, _) = store(1 << 20, TTL);
        store.keep(key("a"), row(8));
        store.keep(key("a"), row(4));
        assert_eq!((store.get(&key("a")), store.size().entries), (Some(row(4)), 1));
        assert_eq!(store.size().bytes, u64::from(weight(&row(4))));
    }
}
