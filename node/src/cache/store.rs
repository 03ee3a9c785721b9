//! What is kept: a table of results, bounded in bytes and in age.
//!
//! Part of `cache`. `moka` does the work: which results are worth their place (TinyLFU: one look at many texts does not
//! throw out what is asked for often), expiry, and a table without one lock.
//! Invariants: nothing is given that was computed longer ago than the limit of age, on whichever node that was; what is
//! too much is thrown out when [`Store::settle`] is called, and `cache` says how soon; the weight of a result is at
//! least what it takes in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
pub(super) struct Store {
    table: Table<CacheKey, Kept>,
    ttl: Duration,
}

#[derive(Clone, Debug)]
struct Kept {
    row: Arc<Embedding>,
    /// When it was computed. `moka` counts from when it came here, which is later where a peer gave it.
    computed: Instant,
}

impl Store {
    pub(super) fn new(limits: Limits, metrics: CacheMetrics) -> Self {
        let thrown_out = move |_: Arc<CacheKey>, _: Kept, cause| match cause {
            RemovalCause::Size => drop(metrics.evicted_for_room.inc()),
            RemovalCause::Expired => drop(metrics.evicted_for_age.inc()),
            // Somebody computed it again, or took it out: nothing was lost.
            RemovalCause::Replaced | RemovalCause::Explicit => {}
        };
        let table = Table::builder()
            .max_capacity(limits.bytes_max)
            .weigher(|_, kept: &Kept| weight(&kept.row))
            .time_to_live(limits.ttl)
            .eviction_listener(thrown_out)
            .build();
        Self { table, ttl: limits.ttl }
    }

    /// A result, and how long ago it was computed.
    pub(super) fn get(&self, key: &CacheKey) -> Option<(Arc<Embedding>, Duration)> {
        let Kept { row, computed } = self.table.get(key)?;
        let age = computed.elapsed();
        (age < self.ttl).then_some((row, age))
    }

    /// Keeps a result that was computed `age` ago for as long as is left.
    pub(super) fn keep(&self, key: CacheKey, row: Arc<Embedding>, age: Duration) {
        // The clock of a machine that has just started may not go back so far.
        let Some(computed) = Instant::now().checked_sub(age).filter(|_| age < self.ttl) else { return };
        self.table.insert(key, Kept { row, computed });
    }

    /// Throws out what is too much. Left to itself, moka lets some hundred changes gather before it looks at the bound.
    pub(super) fn settle(&self) {
        self.table.run_pending_tasks();
    }

    pub(super) fn take_out(&self, key: &CacheKey) {
        self.table.invalidate(key);
    }

    /// From now on nothing is given that was kept before.
    pub(super) fn forget(&self) {
        self.table.invalidate_all();
    }

    pub(super) fn size(&self) -> Size {
        self.settle();
        Size { entries: self.table.entry_count(), bytes: self.table.weighted_size() }
    }
}

/// Bytes that a result takes, its key and all bookkeeping included.
fn weight(row: &Embedding) -> u32 {
    let values = row.values.capacity().saturating_mul(size_of::<f32>());
    u32::try_from(values.saturating_add(OVERHEAD_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
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
            store.keep(key(&format!("text {number}")), row(number % 500), Duration::ZERO);
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
        store.keep(key("large"), row(384), Duration::ZERO);
        store.settle();
        assert_eq!((store.get(&key("large")), store.size()), (None, Size { entries: 0, bytes: 0 }));
    }

    #[test]
    fn nothing_is_given_once_it_is_too_old() {
        let (store, metrics) = store(1 << 20, Duration::from_nanos(1));
        store.keep(key("old"), row(8), Duration::ZERO);
        assert_eq!((store.get(&key("old")), store.size().entries), (None, 0));
        assert_eq!(metrics.evicted_for_age.get(), 1);
    }

    #[test]
    fn a_result_of_a_peer_is_as_old_as_it_was_there() {
        let (store, _) = store(1 << 20, TTL);
        let old = Duration::from_secs(600);
        store.keep(key("old"), row(8), old);
        let (given, age) = store.get(&key("old")).unwrap();
        assert!(given == row(8) && old <= age && age < TTL, "{age:?}");
        store.keep(key("too old"), row(8), TTL);
        assert_eq!(store.get(&key("too old")), None);
        // Nothing else throws it out so soon: its own age does.
        let (short, _) = self::store(1 << 20, old + Duration::from_millis(1));
        short.keep(key("nearly"), row(8), old);
        let begun = Instant::now();
        while short.get(&key("nearly")).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is given for ever");
            std::thread::yield_now();
        }
        assert_eq!(short.size().entries, 1, "moka would give it for ten minutes more");
    }

    #[test]
    fn a_newer_result_takes_the_place_of_the_older_one() {
        let (store, _) = store(1 << 20, TTL);
        store.keep(key("a"), row(8), Duration::ZERO);
        store.keep(key("a"), row(4), Duration::ZERO);
        let given = store.get(&key("a")).map(|(given, _)| given);
        assert_eq!((given, store.size().entries), (Some(row(4)), 1));
        assert_eq!(store.size().bytes, u64::from(weight(&row(4))));
    }
}
