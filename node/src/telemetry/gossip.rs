//! What is counted of the datagrams of gossip.
//!
//! Part of `telemetry`. Counted by the socket of `gossip`, junk included: whoever can reach the port costs time.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

/// Labels of `shoal_gossip_bytes_total` and `shoal_gossip_datagrams_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    /// `sent` or `received`.
    direction: &'static str,
}

/// What the socket of gossip counts. Clones count together; the default counts for nobody.
#[derive(Clone, Debug, Default)]
pub struct GossipMetrics {
    /// What this node sent.
    pub sent: Traffic,
    /// What came, from whomever.
    pub received: Traffic,
    /// Datagrams that came and are no message of gossip.
    pub garbled: Counter,
}

/// Datagrams in one direction.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    bytes: Counter,
    datagrams: Counter,
}

impl Traffic {
    /// One datagram with a payload of so many bytes.
    pub fn count(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        self.datagrams.inc();
    }
}

impl GossipMetrics {
    /// All at zero.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (bytes, datagrams) = (Family::<Direction, Counter>::default(), Family::<Direction, Counter>::default());
        let of = |direction| {
            let label = Direction { direction };
            Traffic { bytes: bytes.get_or_create(&label).clone(), datagrams: datagrams.get_or_create(&label).clone() }
        };
        let told = Self { sent: of("sent"), received: of("received"), garbled: Counter::default() };
        registry.register_with_unit("gossip", "Payloads of the datagrams of gossip", Unit::Bytes, bytes);
        registry.register("gossip_datagrams", "Datagrams of gossip", datagrams);
        let garbled = told.garbled.clone();
        registry.register("gossip_garbled", "Datagrams at the port of gossip that are none of it", garbled);
        told
    }
}
