//! What the canary says of this node's engine, told to people.
//!
//! Part of `shell`. Whether the engine is wedged, the machine decides; here that gets its words, whole in the log, in
//! `/readyz?verbose` and in `/status`, short in the answers to callers whom nobody can serve.
//! Invariants: each change is told once; what is said of an engine that works again is nothing; what a model that
//! answered wrong has computed is not given out of the own cache.

use std::sync::Arc;

use shoal_core::lifecycle::EngineState;
use shoal_core::node::{CanaryVerdict, Input, Wedge};

use super::{Shell, State};
use crate::telemetry::VerdictLabel;

/// What helps when the engine does not come back by itself.
const MEND: &str = "callers are served by peers until it is right again; if it stays so, restart the node and look at \
                    the device and its driver";

/// Why the engine cannot compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EngineMessage {
    /// For whoever sends a text: nothing about files, devices and programs of this machine. Empty when it can.
    pub(super) for_callers: &'static str,
    /// For whoever runs the node, with how to mend it.
    pub(super) whole: String,
}

impl EngineMessage {
    /// The same for both.
    pub(super) fn plain(message: &'static str) -> Self {
        Self { for_callers: message, whole: message.to_owned() }
    }
}

impl Shell {
    /// The canary ran; `fault` is what was wrong with its answer.
    pub(super) fn on_canary(&self, fault: Option<String>) {
        let verdict = if fault.is_none() { CanaryVerdict::Passed } else { CanaryVerdict::Failed };
        let label = if fault.is_none() { VerdictLabel::PASSED } else { VerdictLabel::FAILED };
        self.0.telemetry.canary_runs.get_or_create(&label).inc();
        if let Some(fault) = fault {
            self.0.canary_fault.store(Arc::new(fault));
        }
        let state = &mut *self.lock();
        self.drive_locked(state, Input::Canary(verdict));
        self.mind_wedge(state);
    }

    /// Tells people when the engine became wedged, is so for another reason, or is not any more.
    pub(super) fn mind_wedge(&self, state: &mut State) {
        let wedge = state.node.wedge();
        if std::mem::replace(&mut state.wedge, wedge) == wedge {
            return;
        }
        let (for_callers, whole) = match wedge {
            Some(Wedge::Wrong) => {
                // Nobody knows since when it is wrong.
                if let Some(results) = &self.0.results {
                    results.cache.forget();
                }
                let whole = format!("the canary failed: {}; {MEND}", self.0.canary_fault.load());
                ("the model of this node gives wrong answers", whole)
            }
            Some(Wedge::Silent) => {
                ("the device of this node hangs", format!("the canary has no answer, the device hangs; {MEND}"))
            }
            None if state.node.engine() == EngineState::Ready => {
                tracing::info!("the canary is right again: this node computes");
                return self.0.engine_message.store(Arc::default());
            }
            // Its message is already there.
            None => return,
        };
        tracing::error!("wedged: {whole}");
        self.0.engine_message.store(Arc::new(EngineMessage { for_callers, whole }));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use shoal_core::time::Micros;
    use shoal_engine::Embedding;

    use crate::cache::CacheKey;
    use crate::compute::Compute;
    use crate::shell::peer_door::tests::shell;
    use crate::wire::KEY_BYTES;

    #[tokio::test]
    async fn a_node_whose_model_was_wrong_gives_nothing_that_it_kept_before() {
        let shell = shell();
        shell.attach_compute(Compute::new().0);
        shell.drive(Input::EngineReady { units: 1, took: Micros::from_ms(1) });
        let cache = &shell.0.results.as_ref().unwrap().cache;
        let key = CacheKey::new([1; KEY_BYTES]);
        let keep =
            || cache.keep(cache.era(), key, Arc::new(Embedding { values: vec![1.0], tokens: 1 }), Duration::ZERO);
        assert!(keep());
        shell.on_canary(None);
        assert!(cache.get(&key).is_some(), "a canary that is right changes nothing");
        shell.on_canary(Some("wrong".to_owned()));
        assert_eq!((shell.lock().node.wedge(), cache.get(&key)), (Some(Wedge::Wrong), None));
        assert!(keep(), "what peers compute for it meanwhile");
        shell.on_canary(Some("still wrong".to_owned()));
        shell.on_canary(None);
        assert!(shell.lock().node.wedge().is_none() && cache.get(&key).is_some(), "it is forgotten once");
    }
}
