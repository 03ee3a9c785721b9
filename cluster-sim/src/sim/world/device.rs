//! The devices: batches, their times and their faults, measurements, canaries and probes.
//!
//! Part of `world`. A batch that must not end now is kept and ends when its fault does, as after a driver's recovery.

use std::sync::Arc;

use shoal_core::id::{BatchId, RowRef};
use shoal_core::load::DeviceLoad;
use shoal_core::node::{CanaryVerdict, Input, RowVerdict};
use shoal_core::share::Share;
use shoal_core::time::{Micros, MonoTime};

use super::super::plan::{Cold, DeviceFault};
use super::super::seen::What;
use super::super::slab::Key;
use super::records::{Batch, Event};
use super::{FIRST_UNITS, World};

/// A batch that stalls takes so many times as long.
const STALL_FACTOR: f64 = 40.0;
/// A failing batch takes this part of its time; one of a sinkhole takes next to nothing.
const SINKHOLE_TAKES: Micros = Micros::new(200);
/// Time between two looks at the device.
pub(super) const PROBE_EVERY: Micros = Micros::from_ms(1000);

/// What is wrong with a device now, and with what its node makes of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fault {
    pub(super) slow: Option<f64>,
    pub(super) wrong: Option<DeviceFault>,
    /// Answers to peers leave so much later.
    pub(super) late: Micros,
}

/// How much a device worked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    running: u32,
    /// Slot-microseconds since the last probe.
    worked: u64,
    since: MonoTime,
}

impl Busy {
    pub(super) fn change(&mut self, now: MonoTime, running: u32) {
        self.worked += u64::from(self.running) * now.since(self.since).get();
        (self.running, self.since) = (running, now);
    }
}

impl World {
    /// A batch takes so many times as long as on a healthy, warm device of the plan.
    fn slowness(&self, node: usize) -> f64 {
        self.slowness_warm(node) * self.coldness(node).map_or(1.0, |cold| cold.factor)
    }

    /// The same of the warm-up and of measurements.
    pub(super) fn slowness_measured(&self, node: usize) -> f64 {
        self.slowness_warm(node) * self.coldness(node).filter(|cold| cold.shows).map_or(1.0, |cold| cold.factor)
    }

    fn slowness_warm(&self, node: usize) -> f64 {
        self.plan.slowness.get(node).copied().unwrap_or(1.0) * self.seats[node].fault.slow.unwrap_or(1.0)
    }

    /// What is slower now because the process has just started.
    fn coldness(&self, node: usize) -> Option<Cold> {
        let (cold, ready) = (self.plan.cold?, self.seats[node].ready?);
        (self.now < ready + cold.lasts).then_some(cold)
    }

    /// Units of a first inference: a short text, or one unit where a request is one unit.
    pub(super) fn first_units(&self) -> u32 {
        let smallest = self.plan.arrivals.shapes.iter().filter_map(|shape| shape.units.first()).min();
        smallest.copied().unwrap_or(FIRST_UNITS).min(FIRST_UNITS)
    }

    pub(super) fn run(&mut self, node: usize, batch: BatchId, rows: Vec<RowRef>) {
        let plan = Arc::clone(&self.plan);
        let (mut work, mut poison, mut last) = (0.0, false, None);
        for row in &rows {
            let key = Key::from_number(row.job.0);
            let Some(job) = self.jobs.get_mut(key) else { continue };
            work += f64::from(plan.arrivals.shapes[job.shape].units[row.row as usize]) * job.stretch;
            poison |= job.poison;
            if last == Some(row.job) || std::mem::replace(&mut job.ran, true) {
                continue;
            }
            last = Some(row.job);
            // At home beside a placement that stands.
            let (request, hedges) = (job.request, job.flights[0] != Key::NONE);
            if let Some(asked) = self.requests.get_mut(request) {
                asked.executions += 1;
                asked.hedged |= hedges;
            }
            self.see(What::Ran, node, node, request, batch.0);
        }
        let slowness = self.slowness(node);
        let seat = &mut self.seats[node];
        let mut took = plan.service.took(work, &mut seat.service) * slowness;
        // Drawn whether a fault lasts or not, so that the times of later batches are the same without it.
        let drawn = u32::try_from(seat.service.below(1000)).expect("below 1000");
        let mut fails = poison;
        match seat.fault.wrong {
            Some(DeviceFault::Fails(permille)) => fails |= drawn < permille,
            Some(DeviceFault::Sinkhole) => (fails, took) = (true, SINKHOLE_TAKES.get() as f64),
            Some(DeviceFault::Stalls(permille)) if drawn < permille => took *= STALL_FACTOR,
            Some(DeviceFault::Stalls(_) | DeviceFault::Hangs | DeviceFault::Wedged) | None => {}
        }
        let boot = seat.boot;
        if let Some(process) = &mut seat.process {
            let running = process.busy.running + 1;
            process.busy.change(self.now, running);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let took = Micros::new(took as u64);
        let ends = self.now + took;
        let batch = self.batches.insert(Batch { batch, rows, started: self.now, ends, fails, node });
        self.after(took, Event::BatchEnds { node, boot, batch });
    }

    pub(super) fn on_batch_ends(&mut self, node: usize, boot: u64, key: Key) {
        if !self.runs(node, boot) {
            self.batches.remove(key);
            return;
        }
        let hangs = matches!(self.seats[node].fault.wrong, Some(DeviceFault::Hangs | DeviceFault::Wedged));
        if hangs {
            // It stays on the device; the end of the fault lets it go.
            return self.seats[node].fault_holds(Event::BatchEnds { node, boot, batch: key });
        }
        if self.saboteur.keeps_batch(self.batches.get(key)) {
            return;
        }
        let Some(Batch { batch, rows, started, fails, .. }) = self.batches.remove(key) else { return };
        let now = self.now;
        if let Some(process) = &mut self.seats[node].process {
            let running = process.busy.running.saturating_sub(1);
            process.busy.change(now, running);
        }
        let rows_count = rows.len() as u64;
        if fails {
            self.see(What::BatchFailed, node, node, Key::NONE, rows_count);
            self.trouble(&rows);
            self.feed(node, Input::BatchFailed { batch });
            return self.untrouble(&rows);
        }
        self.see(What::BatchEnded, node, node, Key::NONE, rows_count);
        for row in &rows {
            if let Some(job) = self.jobs.get_mut(Key::from_number(row.job.0)) {
                job.rows_done += 1;
            }
        }
        let verdicts = vec![RowVerdict::Done; rows.len()];
        self.feed(node, Input::BatchDone { batch, took: now.since(started), rows: verdicts });
    }

    /// The jobs of these rows may be placed again now, and it was no fault of the decisions.
    fn trouble(&mut self, rows: &[RowRef]) {
        for row in rows {
            let Some(job) = self.jobs.get(Key::from_number(row.job.0)) else { continue };
            if let Some(asked) = self.requests.get_mut(job.request) {
                (asked.troubled, asked.unplaced) = (true, true);
            }
        }
    }

    fn untrouble(&mut self, rows: &[RowRef]) {
        for row in rows {
            let Some(job) = self.jobs.get(Key::from_number(row.job.0)) else { continue };
            let request = job.request;
            self.set_unplaced(request, false);
        }
    }

    pub(super) fn measure(&mut self, node: usize) {
        self.see(What::Measured, node, node, Key::NONE, 0);
        let (slowness, units) = (self.slowness_measured(node), self.first_units());
        let seat = &mut self.seats[node];
        let took = self.plan.service.took(f64::from(units), &mut seat.service) * slowness;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let took = Micros::new(took as u64);
        let boot = seat.boot;
        self.after(took, Event::Measured { node, boot, took });
    }

    pub(super) fn on_measured(&mut self, node: usize, boot: u64, took: Micros) {
        if self.runs(node, boot) {
            self.feed(node, Input::Measured { units: self.first_units().into(), took });
        }
    }

    /// A canary takes its turn after the batch that one device runs, and a slot of its own where there are several.
    pub(super) fn canary(&mut self, node: usize) {
        self.see(What::CanaryAsked, node, node, Key::NONE, 0);
        let unloaded = self.plan.service.unloaded(f64::from(self.first_units()));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let took = Micros::new((unloaded * self.slowness_measured(node)) as u64);
        let own = self.batches.iter().filter(|(_, batch)| batch.node == node && self.plan.service.slots() == 1);
        let begins = own.map(|(_, batch)| batch.ends).fold(self.now, MonoTime::max);
        self.queue.push(begins + took, Event::Canary { node, boot: self.seats[node].boot });
    }

    pub(super) fn on_canary(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        let verdict = match self.seats[node].fault.wrong {
            // It is on the device, as batches are; the end of the fault lets it go.
            Some(DeviceFault::Hangs) => return self.seats[node].fault_holds(Event::Canary { node, boot }),
            Some(DeviceFault::Wedged) => CanaryVerdict::Failed,
            Some(DeviceFault::Fails(_) | DeviceFault::Sinkhole | DeviceFault::Stalls(_)) | None => {
                CanaryVerdict::Passed
            }
        };
        self.see(What::CanaryEnded, node, node, Key::NONE, u64::from(verdict == CanaryVerdict::Passed));
        self.feed(node, Input::Canary(verdict));
    }

    /// The machine of `node` just gave up its device: all that waits or runs there moves, which is not the decisions'
    /// fault. Returns the requests.
    pub(super) fn trouble_all(&mut self, node: usize) -> Vec<Key> {
        self.see(What::Wedged, node, node, Key::NONE, 0);
        let here = self.jobs.iter().filter(|(_, job)| job.node == node);
        let requests: Vec<Key> = here.map(|(_, job)| job.request).collect();
        for &request in &requests {
            if let Some(asked) = self.requests.get_mut(request) {
                (asked.troubled, asked.unplaced) = (true, true);
            }
        }
        requests
    }

    pub(super) fn on_probe(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        let (now, slots) = (self.now, u64::from(self.plan.service.slots()));
        let Some(process) = &mut self.seats[node].process else { return };
        process.busy.change(now, process.busy.running);
        let worked = std::mem::take(&mut process.busy.worked);
        let busy = Some(Share::of(worked, slots * PROBE_EVERY.get()));
        self.feed(node, Input::Probed(DeviceLoad { busy, memory: None }));
        self.after(PROBE_EVERY, Event::Probe { node, boot });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::Plan;
    use super::super::super::scenario::{base, second};
    use super::*;

    /// How many times as long batches and measurements take half a second after the start, and two seconds after it.
    fn slowness(shows: bool) -> [(f64, f64); 2] {
        let cold = Cold { factor: 5.0, lasts: Micros::from_ms(1000), shows };
        let mut plan = Plan { cold: Some(cold), slowness: vec![2.0], ..base(1, 2, 0.1) };
        // Loaded after 0.3 s, and started up to 0.1 s late.
        plan.arrivals.from = second(3.0);
        let mut world = World::new(&Arc::new(plan));
        [0.5, 2.0].map(|at_s| {
            while world.now < second(at_s) && world.advance() {}
            (world.slowness(0), world.slowness_measured(0))
        })
    }

    #[test]
    fn a_cold_process_is_slow_for_its_time_and_its_measurements_only_where_it_shows() {
        assert_eq!(slowness(true), [(10.0, 10.0), (2.0, 2.0)]);
        assert_eq!(slowness(false), [(10.0, 2.0), (2.0, 2.0)]);
    }
}
