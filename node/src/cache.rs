//! Results that were computed before: the local part of the shoal's result cache, and single flight.
//!
//! For `shell`, which asks it before a job is placed, and keeps there what came back. A result is one text's vector;
//! its key is a hash of everything that it depends on (`key`), so no other request can be answered with it.
//! Invariants: what is kept never weighs more than [`Limits::bytes_max`]; nothing is given after [`Limits::ttl`]; an
//! error is never kept; nobody waits for the work of others for longer than the patience that it names.
//! Not here: which peer owns a key, and asking it (`shell`).

mod flight;
mod key;
mod store;

use std::sync::Arc;
use std::time::Duration;

use shoal_engine::Embedding;

use crate::telemetry::CacheMetrics;
pub use flight::{Follow, Lead, Look, Seat};
pub use key::{CacheKey, KeyMaker, Options};
use store::Store;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Everything that is kept together, keys and bookkeeping included; at least 1.
    pub bytes_max: u64,
    /// A result older than this is not given any more.
    pub ttl: Duration,
}

/// The cache of one node.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    flights: Arc<flight::Flights>,
}

impl Cache {
    /// Nothing is kept yet. What is thrown out, and what waits, is counted in `metrics`.
    #[must_use]
    pub fn new(limits: Limits, metrics: &CacheMetrics) -> Self {
        Self { store: Store::new(limits, metrics.clone()), flights: Arc::default() }
    }

    /// The result of `key`, if it is kept and young enough.
    #[must_use]
    pub fn get(&self, key: &CacheKey) -> Option<Arc<Embedding>> {
        self.store.get(key)
    }

    /// Keeps a result. Another one of the same key is replaced; something else may be thrown out for it.
    pub fn keep(&self, key: CacheKey, row: Arc<Embedding>) {
        self.store.keep(key, row);
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
