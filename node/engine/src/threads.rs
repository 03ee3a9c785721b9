//! The threads that compute: how many, and below whom.
//!
//! For `main`, which calls [`init_threads`] before any engine is loaded.
//! Invariants: all that an engine computes runs on rayon's global pool, so no more cores are used than were given.
//!
//! candle cuts a matrix product into as many pieces as the machine has physical cores (or as `RAYON_NUM_THREADS`
//! says), whatever the pool's size; the pieces still run on the pool only, so the pool is what bounds the cores.

use rayon::ThreadPoolBuilder;

/// Steps by which computing threads stand behind the threads that answer callers and peers.
const NICE_STEPS: i32 = 5;

/// The pool of computing threads could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot set up {threads} engine threads: {cause}; call this once, before any engine is loaded")]
pub struct ThreadsError {
    pub threads: usize,
    pub cause: String,
}

/// Builds the pool that every engine of this process computes on; `threads` = 0 counts as 1.
///
/// # Errors
/// [`ThreadsError`] if the pool exists already or the system gives no more threads.
pub fn init_threads(threads: usize) -> Result<(), ThreadsError> {
    let threads = threads.max(1);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("engine-{index}"))
        .start_handler(|_| lower_priority())
        .build_global()
        .map_err(|cause| ThreadsError { threads, cause: cause.to_string() })
}

/// Puts the calling thread behind the threads that answer callers and peers.
///
/// A system that refuses is no reason not to serve: the node is then only less prompt under full load.
fn lower_priority() {
    let _ = rustix::process::nice(NICE_STEPS);
}
