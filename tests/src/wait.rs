//! Waiting for conditions: the only place of all tests that sleeps.
//!
//! For every test. A test says what it waits for and how long at most; how long it took is nobody's business.
//! Invariants: the condition is looked at once more after the limit has passed, so a machine that stood still for a
//! while does not fail a test whose condition holds.

use std::time::{Duration, Instant};

/// The usual limit. Far above what is ever needed: a test that fails may be slow, one that passes never waits for it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// It does not hold within `limit`; the message begins with `what`.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, limit, || condition().then_some(()));
}

/// Waits until `look` sees something, and returns that.
///
/// # Panics
/// It sees nothing within `limit`; the message begins with `what`.
#[track_caller]
pub fn until_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let is_last = deadline <= Instant::now();
        if let Some(seen) = look() {
            return seen;
        }
        assert!(!is_last, "{what}: not within {limit:?}");
        std::thread::sleep(PAUSE);
    }
}
