//! How much of this node's own device is in use, as far as the machine itself can tell.
//!
//! Part of the machine in `node`. Stands in for a probe where there is none.
//! Invariants: between nothing and all; a look changes nothing but the moment of the last one.

use serde::{Deserialize, Serialize};

use super::Node;
use crate::share::Share;
use crate::time::{Micros, MonoTime};

/// Use of the device is smoothed over this time where nobody looks at the heat.
const OCCUPANCY_WINDOW: Micros = Micros::from_ms(1000);

/// How much of the device was in use, smoothed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Occupancy {
    /// Millionths.
    millionths: u64,
    at: MonoTime,
}

impl Occupancy {
    const WHOLE: u64 = 1_000_000;

    /// Until `now` so much was in use: `used` of `slots`. A longer span moves it further, `window` all the way.
    pub(super) fn on_use(&mut self, now: MonoTime, window: Micros, used: usize, slots: u32) {
        let span = now.since(self.at).get();
        let target = (used as u64 * Self::WHOLE).checked_div(slots.into()).unwrap_or(0).min(Self::WHOLE);
        let part = |whole: u64| (whole.saturating_mul(span) / window.get().max(1)).min(whole);
        if window <= Micros::new(span) {
            self.millionths = target;
        } else if self.millionths < target {
            self.millionths += part(target - self.millionths);
        } else {
            self.millionths -= part(self.millionths - target);
        }
        self.at = now;
    }

    pub(super) fn share(self) -> Share {
        Share::of(self.millionths, Self::WHOLE)
    }
}

impl Node {
    /// So much of the device was in use until now. Comes before each change of what runs.
    pub(super) fn note_use(&mut self, now: MonoTime) {
        let window = self.rules.heat.map_or(OCCUPANCY_WINDOW, |rules| rules.window);
        self.occupancy.on_use(now, window, self.running.len(), self.rules.batch.slots);
    }
}
