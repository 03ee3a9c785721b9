//! Results that were computed before: the local part of the shoal's result cache, and single flight.
//!
//! For `shell`, which asks it before a job is placed, and keeps there what came back. A result is one text's vector;
//! its key is a hash of everything that it depends on (`key`), so no other request can be answered with it.
//! Invariants: what is kept never weighs more than [`Limits::bytes_max`] once whoever keeps has called
//! [`Cache::settle`], after [`KEPT_AT_ONCE_MAX`] results at most; nothing is given that was computed longer than
//! [`Limits::ttl`] ago, here or on a peer that says so; an error is never kept; what was obtained before
//! [`Cache::forget`] is never given after it; nobody waits for the work of others for longer than the patience that it
//! names, and an eighth of that for each doubling of those who lost it.
//! Not here: which peer owns a key, and asking it (`shell`).

mod flight;
mod key;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_engine::Embedding;

use crate::telemetry::CacheMetrics;
pub use flight::{Follow, Lead, Look, Seat};
pub use key::{CacheKey, KeyMaker, Options};
use store::Store;

/// Most results that are kept one after the other before [`Cache::settle`].
pub const KEPT_AT_ONCE_MAX: usize = 64;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Everything that is kept together, keys and bookkeeping included; at least 1.
    pub bytes_max: u64,
    /// A result that was computed longer ago than this is not given any more.
    pub ttl: Duration,
}

/// The cache of one node.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    flights: Arc<flight::Flights>,
    era: AtomicU64,
}

/// The time between two calls of [`Cache::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(u64);

impl Cache {
    /// Nothing is kept yet. What is thrown out, and what waits, is counted in `metrics`.
    #[must_use]
    pub fn new(limits: Limits, metrics: &CacheMetrics) -> Self {
        Self { store: Store::new(limits, metrics.clone()), flights: Arc::default(), era: AtomicU64::new(0) }
    }

    /// The result of `key`, if it is kept and young enough.
    #[must_use]
    pub fn get(&self, key: &CacheKey) -> Option<Arc<Embedding>> {
        self.store.get(key).map(|(row, _)| row)
    }

    /// The same, with the time since it was computed.
    #[must_use]
    pub fn get_with_age(&self, key: &CacheKey) -> Option<(Arc<Embedding>, Duration)> {
        self.store.get(key)
    }

    /// The time that results belong to that are obtained from now on.
    #[must_use]
    pub fn era(&self) -> Era {
        Era(self.era.load(Ordering::SeqCst))
    }

    /// Keeps a result of `era` that was computed `age` ago. Another one of the same key is replaced. Returns whether
    /// the era still lasts: where it does not, the result is not to be trusted and is not kept.
    pub fn keep(&self, era: Era, key: CacheKey, row: Arc<Embedding>, age: Duration) -> bool {
        if era != self.era() {
            return false;
        }
        self.store.keep(key, row, age);
        let lasts = era == self.era();
        if !lasts {
            // It ended in this moment, and what came into the table after the end is not forgotten by that.
            self.store.take_out(&key);
        }
        lasts
    }

    /// Throws out what is too much after results were kept.
    pub fn settle(&self) {
        self.store.settle();
    }

    /// Forgets all results, and those that are being obtained: they may be wrong. Whoever waits for one still gets it.
    pub fn forget(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
        self.store.forget();
    }

    /// Who obtains the result of `key`: the caller of this, or somebody who does already.
    #[must_use]
    pub fn join(&self, key: CacheKey) -> Seat {
        self.flights.join(key)
    }

    /// How many results are kept, and what they weigh, bytes. For metrics: it settles what is still to be thrown out.
    #[must_use]
    pub fn size(&self) -> Size {
        self.store.size()
    }
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub entries: u64,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::cache::key::tests::key;

    #[test]
    fn what_was_obtained_before_everything_was_forgotten_is_never_given_again() {
        let limits = Limits { bytes_max: 1 << 20, ttl: Duration::from_secs(3600) };
        let cache = Cache::new(limits, &CacheMetrics::new(&mut Registry::default()));
        let row = || Arc::new(Embedding { values: vec![1.0], tokens: 1 });
        let keep = |era, name| cache.keep(era, key(name), row(), Duration::ZERO);
        let before = cache.era();
        assert!(keep(before, "kept"));
        assert!(cache.get(&key("kept")).is_some());
        cache.forget();
        assert_eq!(cache.get(&key("kept")), None);
        assert!(!keep(before, "in work"), "it was begun before");
        assert_eq!(cache.get(&key("in work")), None);
        assert!(keep(cache.era(), "kept"));
        assert!(cache.get(&key("kept")).is_some());
        assert_eq!(cache.size().entries, 1);
    }
}
