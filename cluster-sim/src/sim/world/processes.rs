//! Processes: start, tick, leave, die, stand still.
//!
//! Part of `world`. Each start is a new machine with a new number and a clock that begins with it.

use shoal_core::id::BootId;
use shoal_core::node::{Input, Node};
use shoal_core::time::Micros;

use super::super::chance::Chance;
use super::super::plan::Membership;
use super::super::seen::What;
use super::super::slab::Key;
use super::device::{Busy, PROBE_EVERY};
use super::records::Event;
use super::{Process, TICK, World};

impl World {
    pub(super) fn start(&mut self, node: usize) {
        if self.seats[node].process.is_some() {
            return;
        }
        let mut rules = self.plan.rules.clone();
        rules.own = self.plan.role(node);
        rules.batch.slots = self.plan.service.slots();
        rules.batch.rows_max = self.plan.service.rows_max();
        // A request is one job in this world; calls that are cut are walked in the tests of the core.
        rules.split = None;
        let seat = &mut self.seats[node];
        seat.boot += 1;
        let boot = seat.boot;
        let seed = Chance::new(self.plan.seed ^ boot, "machine", node as u64).bits();
        seat.started = self.now;
        (seat.gone, seat.leaving, seat.ready, seat.dark) = (None, None, None, false);
        seat.process = Some(Process {
            node: Node::new(seat.id.clone(), BootId(boot), rules, seed),
            takes_callers: true,
            busy: Busy::default(),
        });
        seat.direct.fill(None);
        seat.ready_told.clear();
        self.reset_connections(node);
        self.see(What::Started, node, node, Key::NONE, boot);
        self.gossip.start(node, boot);
        self.after(self.plan.loading, Event::Loaded { node, boot });
        // The next moments of its ticks, rounds and looks are as they happen to fall.
        let mut phases = Chance::new(self.plan.seed ^ boot, "start", node as u64);
        self.after(Micros::new(phases.between(1, TICK.get())), Event::Tick { node, boot });
        if let Membership::Gossip { rules, read_every } = self.plan.membership {
            self.after(Micros::new(phases.between(1, rules.interval.get())), Event::Round { node, boot });
            self.after(Micros::new(phases.between(1, read_every.get())), Event::Read { node, boot });
        }
        if self.plan.probed {
            self.after(PROBE_EVERY, Event::Probe { node, boot });
        }
    }

    pub(super) fn on_loaded(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        self.seats[node].ready = Some(self.now);
        self.see(What::Ready, node, node, Key::NONE, boot);
        let unloaded = self.plan.service.unloaded(f64::from(self.first_units()));
        let took = Micros::new(micros(unloaded * self.slowness_measured(node)));
        self.feed(node, Input::EngineReady { units: self.first_units().into(), took });
    }

    pub(super) fn on_tick(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        self.see(What::Ticked, node, node, Key::NONE, 0);
        self.feed(node, Input::Tick);
        let over = self.plan.arrivals.until <= self.now && self.jobs.is_empty();
        if over && self.saboteur.leaks_job() {
            self.leak_job(node);
        }
        self.after(TICK, Event::Tick { node, boot });
    }

    pub(super) fn on_exit(&mut self, node: usize, boot: u64) {
        if self.runs(node, boot) {
            self.see(What::Exited, node, node, Key::NONE, boot);
            self.end_process(node);
        }
    }

    pub(super) fn leave(&mut self, node: usize) {
        if self.seats[node].process.is_some() && self.seats[node].leaving.is_none() {
            self.seats[node].leaving = Some(self.now);
            self.see(What::Draining, node, node, Key::NONE, 0);
            self.feed(node, Input::Leave);
        }
    }

    pub(super) fn kill(&mut self, node: usize) {
        if self.seats[node].process.is_some() {
            self.seats[node].starts_again = false;
            self.see(What::Killed, node, node, Key::NONE, self.seats[node].boot);
            self.end_process(node);
        }
    }

    /// The process is over: its callers lose their connections, its peers theirs, and all that it held is gone.
    fn end_process(&mut self, node: usize) {
        let seat = &mut self.seats[node];
        let Some(process) = seat.process.take() else { return };
        for (name, count) in process.node.exercised() {
            match seat.exercised.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => seat.exercised.push((name, count)),
            }
        }
        (seat.frozen, seat.gone, seat.leaving, seat.ready) = (None, Some(self.now), None, None);
        seat.inbox.clear();
        self.end_connections(node);
        let held: Vec<Key> = self.jobs.iter().filter(|(_, job)| job.node == node).map(|(key, _)| key).collect();
        for key in held {
            if let Some(job) = self.drop_job(key)
                && let Some(asked) = self.requests.get_mut(job.request)
            {
                asked.troubled = true;
            }
        }
        let waiting = self.requests.iter().filter(|(_, asked)| asked.waits && asked.door == node);
        for request in waiting.map(|(key, _)| key).collect::<Vec<_>>() {
            self.end_wait(request);
            self.see(What::DoorGone, node, node, request, 0);
            self.drop_use(request);
        }
        let batches: Vec<Key> =
            self.batches.iter().filter(|(_, batch)| batch.node == node).map(|(key, _)| key).collect();
        for key in batches {
            self.batches.remove(key);
        }
        if std::mem::take(&mut self.seats[node].starts_again) {
            self.after(Micros::from_ms(50), Event::Start { node });
        }
    }

    pub(super) fn freeze(&mut self, node: usize) {
        let seat = &mut self.seats[node];
        if seat.process.is_some() && seat.frozen.is_none() {
            seat.frozen = Some(self.now);
            self.see(What::Frozen, node, node, Key::NONE, 0);
            for (_, asked) in self.requests.iter_mut().filter(|(_, asked)| asked.door == node) {
                (asked.troubled, asked.stood_still) = (true, true);
            }
            self.suspect_connections();
        }
    }

    /// The process goes on: it finds that time went by, and all that came meanwhile.
    pub(super) fn thaw(&mut self, node: usize) {
        let Some(since) = self.seats[node].frozen.take() else { return };
        let stood = self.now.since(since);
        self.see(What::Thawed, node, node, Key::NONE, stood.get());
        // A timer that fires again and again has one turn, however many it missed; chitchat's has all of them.
        let inbox = std::mem::take(&mut self.seats[node].inbox);
        let (mut rounds, mut late) = (Vec::new(), Vec::new());
        for event in inbox {
            if matches!(event, Event::Round { .. }) { rounds.push(event) } else { late.push(event) }
        }
        let missed = stood.get().checked_div(self.gossip.interval().get()).unwrap_or(0);
        for &event in &rounds {
            if let Event::Round { boot, .. } = event {
                (1..missed).for_each(|_| self.extra_round(node, boot));
            }
        }
        self.feed(node, Input::Pulse { late: stood });
        for event in rounds.into_iter().chain(late) {
            self.queue.push(self.now, event);
        }
    }
}

fn micros(time: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let micros = time as u64;
    micros
}
