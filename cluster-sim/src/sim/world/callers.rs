//! Callers: who comes, who leaves, and how their requests end.
//!
//! Part of `world`. A caller whose door does not answer goes to the next address, as DNS with several addresses makes
//! clients do; one whose door dies while it waits is lost, because no server can save it.

use shoal_core::id::JobId;
use shoal_core::node::{Arrival, EngineFault, Input, Outcome, Placed, Source, Verdict};
use shoal_core::time::Micros;

use super::super::seen::{Ended, What};
use super::super::slab::Key;
use super::World;
use super::records::{Event, Job, Request, Says};

/// Bytes of a request, whatever its size: memory is not what is studied here.
const BYTES: u64 = 4096;

impl World {
    pub(super) fn next_arrival(&mut self, door: usize) {
        let doors = self.plan.nodes;
        let gap = self.plan.arrivals.gap(door, doors, &mut self.seats[door].arrivals);
        let at = self.now.max(self.plan.arrivals.from) + gap;
        if at < self.plan.arrivals.until {
            self.queue.push(at, Event::Arrive { door });
        }
    }

    pub(super) fn on_arrive(&mut self, door: usize) {
        self.next_arrival(door);
        let arrivals = &self.plan.arrivals;
        let chance = &mut self.seats[door].arrivals;
        // All is drawn whether it is needed or not, so that the next caller is the same under every policy.
        let comes = arrivals.comes(self.now, chance);
        let shape = arrivals.shape(chance);
        let stretch = self.plan.service.spread.draw(chance);
        let limit = if chance.happens(arrivals.short_permille) { arrivals.deadline_short } else { arrivals.deadline };
        let poison = chance.happens(arrivals.poison_permille);
        let leaves = chance.happens(arrivals.leave_permille);
        let leaves_after = Micros::new(chance.between(0, arrivals.leave_within.get()));
        let in_session = chance.happens(arrivals.session_permille);
        let session = in_session.then(|| chance.below(arrivals.sessions as usize) as u64);
        let redial = chance.bits();
        if !comes || self.arrivals_left == 0 {
            return;
        }
        self.arrivals_left -= 1;
        let units: u64 = arrivals.shapes[shape].units.iter().map(|&units| u64::from(units)).sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let unloaded_us = self.plan.service.unloaded(units as f64 * stretch).max(1.0) as u64;
        let Some(node) = self.open_door(door, redial) else {
            return self.see(What::DoorGone, door, door, Key::NONE, 0);
        };
        let request = self.requests.insert(Request {
            door: node,
            arrived: self.now,
            limit,
            unloaded_us,
            poison,
            waits: true,
            executions: 0,
            path: [0; 4],
            path_len: 0,
            hedged: false,
            troubled: self.seats[node].frozen.is_some(),
            stood_still: self.seats[node].frozen.is_some(),
            unplaced: true,
            answer: None,
            rows: arrivals.shapes[shape].units.len(),
            rows_done_here: 0,
            ends: 0,
            stretch,
            shape,
            session,
            uses: 1,
            job: Key::NONE,
        });
        self.see(What::Arrived, node, door, request, units);
        if leaves {
            self.after(leaves_after, Event::CallerLeaves { request });
        }
        if self.seats[node].frozen.is_some() {
            self.seats[node].inbox.push(Event::Call { node, request });
        } else {
            self.on_call(node, request);
        }
    }

    /// The door itself, or the next address that takes callers.
    fn open_door(&self, door: usize, redial: u64) -> Option<usize> {
        let takes = |node: usize| self.seats[node].process.as_ref().is_some_and(|process| process.takes_callers);
        if takes(door) {
            return Some(door);
        }
        let open: Vec<usize> = (0..self.seats.len()).filter(|&node| takes(node)).collect();
        let index = redial.checked_rem(open.len() as u64)?;
        open.get(usize::try_from(index).ok()?).copied()
    }

    /// The process reads the request.
    pub(super) fn on_call(&mut self, node: usize, request: Key) {
        let Some(asked) = self.requests.get(request).filter(|asked| asked.waits) else { return };
        let (shape, session, waited) = (asked.shape, asked.session, self.now.since(asked.arrived));
        let deadline = self.local(node) + (asked.limit - waited);
        let job = self.hold(node, request, Key::NONE);
        if let Some(asked) = self.requests.get_mut(request) {
            asked.job = job;
        }
        let units = self.plan.arrivals.shapes[shape].units.clone();
        let client = request.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let (job, source) = (JobId(job.number()), Source::Caller);
        let arrival = Arrival { job, source, units, bytes: BYTES, deadline, client, session, explain: false };
        self.feed(node, Input::Arrived(arrival));
        self.set_unplaced(request, false);
    }

    /// A new job of a process, for `request`.
    pub(super) fn hold(&mut self, node: usize, request: Key, stream: Key) -> Key {
        let asked = self.requests.get_mut(request).expect("a request is there while a job for it comes");
        asked.uses += 1;
        let (stretch, shape, poison) = (asked.stretch, asked.shape, asked.poison);
        let flights = [Key::NONE; 2];
        self.jobs.insert(Job { node, request, stream, stretch, shape, poison, ran: false, rows_done: 0, flights })
    }

    /// A planted bug: a job for which nobody waits.
    pub(super) fn leak_job(&mut self, node: usize) {
        let held = Job {
            node,
            request: Key::NONE,
            stream: Key::NONE,
            stretch: 1.0,
            shape: 0,
            poison: false,
            ran: false,
            rows_done: 0,
            flights: [Key::NONE; 2],
        };
        let job = self.jobs.insert(held);
        self.jobs.remove(job);
        self.saboteur.leaked(job);
        let units = self.plan.arrivals.shapes[0].units.clone();
        let deadline = self.local(node) + Micros::from_ms(3_600_000);
        let (job, source) = (JobId(job.number()), Source::Peer { bound: None });
        let arrival = Arrival { job, source, units, bytes: BYTES, deadline, client: 0, session: None, explain: false };
        self.feed(node, Input::Arrived(arrival));
    }

    /// The process is done with a job.
    pub(super) fn drop_job(&mut self, key: Key) -> Option<Job> {
        let job = self.jobs.remove(key)?;
        self.drop_use(job.request);
        Some(job)
    }

    pub(super) fn drop_use(&mut self, request: Key) {
        let Some(asked) = self.requests.get_mut(request) else { return };
        asked.uses -= 1;
        if asked.uses == 0 {
            self.over.push(request);
        }
    }

    /// The caller does not wait any more. Returns whether it did.
    pub(super) fn end_wait(&mut self, request: Key) -> bool {
        let Some(asked) = self.requests.get_mut(request).filter(|asked| asked.waits) else { return false };
        asked.waits = false;
        true
    }

    pub(super) fn on_caller_leaves(&mut self, request: Key) {
        let Some(asked) = self.requests.get(request).filter(|asked| asked.waits) else { return };
        let (door, job) = (asked.door, asked.job);
        self.end_wait(request);
        self.see(What::CallerLeft, door, door, request, 0);
        self.drop_use(request);
        if job != Key::NONE {
            if self.seats[door].frozen.is_some() {
                self.seats[door].inbox.push(Event::Cancel { node: door, job });
            } else {
                self.on_cancel(door, job);
            }
        }
    }

    /// Whoever wanted the job of `node` is gone.
    pub(super) fn on_cancel(&mut self, node: usize, job: Key) {
        if self.jobs.get(job).is_none() {
            return;
        }
        self.feed(node, Input::Left { job: JobId(job.number()) });
        self.drop_job(job);
    }

    /// A machine says that a job ended.
    pub(super) fn finish(&mut self, node: usize, id: JobId, outcome: &Outcome) {
        let Some((key, job)) = self.job(id) else { return };
        let (request, stream, rows_done) = (job.request, job.stream, job.rows_done);
        if stream != Key::NONE {
            return self.finish_peers_job(node, key, outcome);
        }
        if self.saboteur.loses_finish() {
            return;
        }
        let times = if self.saboteur.repeats_finish() { 2 } else { 1 };
        let placed = match outcome {
            Outcome::Done { placed: Placed::Away(peer, _) } | Outcome::Rejected { placed: Placed::Away(peer, _) } => {
                self.seat_of(peer)
            }
            _ => node,
        };
        let attempt = match outcome {
            Outcome::Done { placed: Placed::Away(_, attempt) } => u64::from(self.saboteur.attempt(*attempt).0),
            _ => 0,
        };
        if let Some(asked) = self.requests.get_mut(request) {
            asked.rows_done_here = rows_done;
            asked.ends += times;
        }
        for _ in 0..times {
            self.see(What::Finished, node, placed, request, ended(outcome) as u64 | (attempt << 8));
        }
        self.drop_job(key);
        if self.end_wait(request) {
            self.drop_use(request);
        }
    }

    fn finish_peers_job(&mut self, node: usize, key: Key, outcome: &Outcome) {
        let Some(job) = self.jobs.get(key) else { return };
        let (request, stream) = (job.request, job.stream);
        self.see(What::PeersJobEnded, node, node, request, ended(outcome) as u64);
        let verdict = match outcome {
            Outcome::Done { .. } => Verdict::Done,
            Outcome::Rejected { .. } => Verdict::Rejected,
            Outcome::Expired => Verdict::Expired,
            Outcome::EngineFailed(_)
            | Outcome::Overloaded { .. }
            | Outcome::Unavailable { .. }
            | Outcome::Refused(_) => Verdict::Failed,
        };
        let says = match outcome {
            Outcome::Refused(refusal) => Says::Refused(*refusal),
            _ => Says::Answered { verdict, computed_for: request },
        };
        self.drop_job(key);
        self.reply(node, stream, says);
    }
}

/// How a job ended, as the observer writes it down.
fn ended(outcome: &Outcome) -> Ended {
    match outcome {
        // Nothing is cut in this world.
        Outcome::Done { placed: Placed::Here | Placed::InChunks } => Ended::DoneHere,
        Outcome::Done { placed: Placed::Away(..) } => Ended::DoneAway,
        Outcome::Rejected { .. } => Ended::Rejected,
        Outcome::EngineFailed(EngineFault::Everywhere) => Ended::RequestsFault,
        Outcome::EngineFailed(EngineFault::OnOneNode) => Ended::EngineFailed,
        Outcome::Overloaded { .. } => Ended::Overloaded,
        Outcome::Unavailable { .. } => Ended::Unavailable,
        Outcome::Expired => Ended::Expired,
        Outcome::Refused(_) => Ended::Refused,
    }
}
