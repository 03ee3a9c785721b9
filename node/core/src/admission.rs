//! How much one node holds, and when a request has no hope.
//!
//! For `node`, on every arrival. Being full is a reason to refuse; being busy is a reason to forward, which is
//! `route`'s.
//! Invariants: what is held never exceeds the limits, whoever sent it.

use serde::{Deserialize, Serialize};

use crate::prng::Prng;
use crate::time::{Micros, MonoTime};

/// Most that a node holds at once, queued, running and forwarded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRules {
    /// Jobs.
    pub jobs_max: u32,
    /// Bytes of texts and of the vectors that they will become.
    pub bytes_max: u64,
    /// Shortest `Retry-After` that is told.
    pub retry_after_min: Micros,
    /// Longest `Retry-After` that is told.
    pub retry_after_max: Micros,
}

impl Default for AdmissionRules {
    fn default() -> Self {
        Self {
            jobs_max: 512,
            bytes_max: 256 << 20,
            retry_after_min: Micros::from_ms(500),
            retry_after_max: Micros::from_ms(30_000),
        }
    }
}

/// What a node holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Jobs.
    pub jobs: u32,
    /// Bytes of texts and of the vectors that they will become.
    pub bytes: u64,
}

/// Whether a job of `bytes` bytes may be held on top of `held`.
#[must_use]
pub fn fits(rules: &AdmissionRules, held: Held, bytes: u64) -> bool {
    held.jobs < rules.jobs_max && held.bytes.saturating_add(bytes) <= rules.bytes_max
}

/// An estimate may be short by one part in so many.
const COMPLETION_MARGIN_ONE_IN: u64 = 10;

/// Whether a job that would be done at `now + completion` may miss `deadline`.
///
/// With a margin: while more comes than can be served all jobs are taken in at the bound, and without it half of them
/// would be late. A refusal at once is worth more than an answer that comes too late.
#[must_use]
pub fn hopeless(now: MonoTime, completion: Micros, deadline: MonoTime) -> bool {
    deadline < now + completion + Micros::new(completion.get() / COMPLETION_MARGIN_ONE_IN)
}

/// When a refused caller should come back: after `wait`, within the limits, up to half as much again by chance, so that
/// callers refused together do not come back together.
pub fn retry_after(rules: &AdmissionRules, wait: Micros, prng: &mut Prng) -> Micros {
    let base = wait.clamp(rules.retry_after_min, rules.retry_after_max);
    let jitter = prng.below(usize::try_from(base.get() / 2).unwrap_or(usize::MAX));
    base + Micros::new(jitter as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_limit_is_ever_passed() {
        let rules = AdmissionRules { jobs_max: 2, bytes_max: 100, ..AdmissionRules::default() };
        for (jobs, held_bytes, bytes, expected) in [
            (0, 0, 100, true),
            (0, 0, 101, false),
            (1, 40, 60, true),
            (1, 40, 61, false),
            (2, 0, 1, false),
            (0, 1, u64::MAX, false),
        ] {
            assert_eq!(fits(&rules, Held { jobs, bytes: held_bytes }, bytes), expected, "{jobs} {held_bytes} {bytes}");
        }
    }

    #[test]
    fn a_job_has_hope_when_it_ends_by_its_deadline_with_a_tenth_to_spare() {
        let deadline = MonoTime::from_micros(100);
        assert!(!hopeless(MonoTime::from_micros(34), Micros::new(60), deadline));
        assert!(hopeless(MonoTime::from_micros(35), Micros::new(60), deadline));
    }

    #[test]
    fn callers_refused_together_come_back_apart_and_within_limits() {
        let rules = AdmissionRules::default();
        let mut prng = Prng::new(3);
        let told: Vec<u64> = (0..20).map(|_| retry_after(&rules, Micros::ZERO, &mut prng).get()).collect();
        assert!(told.iter().all(|&micros| (500_000..750_000).contains(&micros)), "{told:?}");
        assert!(told.windows(2).any(|pair| pair[0] != pair[1]));
        assert!(retry_after(&rules, Micros::MAX, &mut prng) < Micros::from_ms(45_000));
    }
}
