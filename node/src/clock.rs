//! The only reader of time in this package.
//!
//! For `shell` and `gossip`: everything that decides gets a [`MonoTime`] as a value.
//! Invariants: one [`Clock`] a process, so that all its moments count from the same start.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shoal_core::time::{Micros, MonoTime};

/// The process's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that counts from now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(self) -> MonoTime {
        MonoTime::from_micros(micros(self.start.elapsed()).get())
    }
}

/// Milliseconds since 1970 by the wall clock; 0 when that clock is before 1970. Never compared with a [`MonoTime`].
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `duration` in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> Micros {
    Micros::new(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
