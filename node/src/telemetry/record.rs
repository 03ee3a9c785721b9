//! What is counted of a recording of decisions.
//!
//! Part of `telemetry`. Counted by `record`, and shown, as zeros, when nothing is recorded.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Labels of `shoal_record_entries_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fate {
    /// `written` or `dropped`.
    fate: &'static str,
}

/// What `record` counts. Clones count together.
#[derive(Clone, Debug)]
pub struct RecordMetrics {
    /// Entries in the file.
    pub written: Counter,
    /// Entries that are missing there, because they came faster than they could be written.
    pub dropped: Counter,
    /// Length of the file.
    pub bytes: Counter,
    /// 1 while the recording goes on.
    pub running: Gauge,
}

impl RecordMetrics {
    /// All at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let entries = Family::<Fate, Counter>::default();
        let of = |fate| entries.get_or_create(&Fate { fate }).clone();
        let (written, dropped, bytes, running) = (of("written"), of("dropped"), Counter::default(), Gauge::default());
        registry.register("record_entries", "Entries of the recording, in its file or missing there", entries);
        registry.register_with_unit("record", "Written to the recording", Unit::Bytes, bytes.clone());
        registry.register("recording", "1 while decisions are recorded", running.clone());
        Self { written, dropped, bytes, running }
    }
}
