//! The peer leg: a job sent to a peer, and what comes back.
//!
//! Part of `world`. What is said on one stream arrives in its order; a stream ends with the answer, with the refusal,
//! when its origin gives it up, or when its connection breaks.
//! Not here: how connections are made and break (`connections`); windows, congestion, and the order between different
//! streams of one connection.

use shoal_core::id::{Attempt, JobId};
use shoal_core::load::Report;
use shoal_core::node::{Arrival, Input, Refusal, Source};
use shoal_core::peers::Word;
use shoal_core::time::Micros;

use super::super::seen::What;
use super::super::slab::Key;
use super::World;
use super::records::{Answer, Event, Letter, Says, Stream};

/// The acknowledgement waits so long for the answer.
const ACKNOWLEDGE_AFTER: Micros = Micros::from_ms(3);
const BYTES: u64 = 4096;

/// What a machine says of a placement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) bound: Option<Micros>,
    pub(super) remaining: Micros,
    pub(super) hedge: bool,
}

impl World {
    pub(super) fn forward(
        &mut self,
        node: usize,
        (id, attempt): (JobId, Attempt),
        to: usize,
        Terms { bound, remaining, hedge }: Terms,
    ) {
        let Some((key, job)) = self.job(id) else { return };
        let (request, came_by) = (job.request, job.stream);
        let to = self.saboteur.target(to, self.requests.get(request), &self.seats);
        let stream = self.streams.insert(Stream {
            request,
            origin: node,
            job: id,
            attempt,
            target: to,
            connection: 0,
            sent: self.now,
            bound,
            remaining,
            peers_job: Key::NONE,
            offered_at: self.now,
            last: self.now,
            acknowledged: false,
            acknowledgement: None,
        });
        if let Some(job) = self.jobs.get_mut(key) {
            let place = usize::from(job.flights[0] != Key::NONE);
            job.flights[place] = stream;
        }
        // A hop beyond the first is told apart by who sends: a node that is not the door of the request.
        let hop = u64::from(came_by != Key::NONE);
        if let Some(asked) = self.requests.get_mut(request) {
            if let Some(place) = asked.path.get_mut(asked.path_len) {
                *place = u32::try_from(to).expect("less than 2^32 nodes");
                asked.path_len += 1;
            }
            // It says that it is one, and no news of the placement before made it necessary. A job that leaves its
            // queue says no such thing: if it then runs at home too, that is one node too many.
            asked.hedged |= hedge && !asked.unplaced;
            asked.unplaced = false;
        }
        self.see(What::Forwarded, node, to, request, u64::from(attempt.0) | (hop << 32));
        self.send_offer(stream, node, to);
    }

    pub(super) fn on_flushed(&mut self, stream: Key) {
        let Some(Stream { origin, job, attempt, .. }) = self.streams.get(stream).cloned() else { return };
        if self.seats[origin].frozen.is_some() {
            return self.seats[origin].inbox.push(Event::Flushed { stream });
        }
        self.feed(origin, Input::Flushed { job, attempt });
    }

    /// A forwarded job arrives where it was sent.
    pub(super) fn on_offer(&mut self, stream: Key) {
        let Some(sent) = self.streams.get(stream).cloned() else { return };
        let Stream { request, origin, target, bound, .. } = sent;
        if self.seats[target].process.is_none() {
            if !self.seats[target].dark {
                let way = self.net.way(target, origin);
                self.after(way, Event::Broken { stream, to: origin });
            }
            return;
        }
        if self.requests.get(request).is_none() {
            return;
        }
        let job = self.hold(target, request, stream);
        if let Some(stream) = self.streams.get_mut(stream) {
            (stream.peers_job, stream.offered_at) = (job, self.now);
        }
        self.see(What::Offered, target, origin, request, 0);
        // A job is a word of its sender, without a load.
        let peer = self.seats[origin].id.clone();
        self.feed(target, Input::Called { peer, word: Word::default() });
        let Some(asked) = self.requests.get(request) else { return };
        let shape = asked.shape;
        let deadline = self.local(target) + sent.remaining;
        let source = if self.saboteur.forgets_source() { Source::Caller } else { Source::Peer { bound } };
        let units = self.plan.arrivals.shapes[shape].units.clone();
        let job = JobId(job.number());
        let arrival = Arrival { job, source, units, bytes: BYTES, deadline, client: 0, session: None, explain: false };
        self.feed(target, Input::Arrived(arrival));
    }

    /// The target holds the job and says so, with this load: together with the answer if that comes at once.
    pub(super) fn acknowledge(&mut self, node: usize, id: JobId, report: Report) {
        let Some((_, job)) = self.job(id) else { return };
        let key = job.stream;
        let Some(stream) = self.streams.get_mut(key) else { return };
        (stream.acknowledged, stream.acknowledgement) = (true, Some(report));
        self.after(ACKNOWLEDGE_AFTER, Event::Acknowledge { node, stream: key });
    }

    pub(super) fn on_acknowledge(&mut self, node: usize, key: Key) {
        let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.target == node) else { return };
        if let Some(report) = stream.acknowledgement.take()
            && self.seats[node].process.is_some()
        {
            self.send_letter(node, key, report, Says::Accepted);
        }
    }

    /// Sends what `node` says at the end of a stream of another one, with its load.
    pub(super) fn reply(&mut self, node: usize, key: Key, says: Says) {
        self.on_acknowledge(node, key);
        let now = self.local(node);
        let Some(process) = &mut self.seats[node].process else { return };
        let report = process.node.report(now);
        let given_back = self.streams.get(key).is_some_and(|stream| stream.acknowledged);
        let says = match says {
            // Whoever took a job and cannot keep it gives it back.
            Says::Refused(_) if given_back => Says::Refused(Refusal::Draining),
            says => says,
        };
        self.send_letter(node, key, report, says);
    }

    fn send_letter(&mut self, node: usize, key: Key, report: Report, says: Says) {
        let report = self.told(node, report);
        let Some(sent) = self.streams.get(key) else { return };
        let (origin, kept, last) = (sent.origin, self.now.since(sent.offered_at), sent.last);
        let late = match says {
            Says::Answered { .. } => self.seats[node].fault.late,
            Says::Accepted | Says::Refused(_) => Micros::ZERO,
        };
        let letter = self.letters.insert(Letter { report, kept, says });
        let event = Event::Reply { stream: key, letter, to: origin };
        match self.net.bytes(node, origin) {
            Some(way) => {
                let at = (self.now + way + late).max(last + Micros::new(1));
                if let Some(sent) = self.streams.get_mut(key) {
                    sent.last = at;
                }
                self.queue.push(at, event);
            }
            None => self.parked.push((node, origin, event)),
        }
    }

    pub(super) fn on_reply(&mut self, stream: Key, letter: Key) {
        let Some(letter) = self.letters.remove(letter) else { return };
        let Some(sent) = self.streams.get(stream).cloned() else { return };
        let Stream { request, origin, job, attempt, target, .. } = sent;
        let peer = self.seats[target].id.clone();
        // The acknowledgement, or whatever comes instead of it, measures the way.
        let rtt = match letter.says {
            Says::Answered { .. } => None,
            Says::Accepted | Says::Refused(_) => Some(self.now.since(sent.sent) - letter.kept),
        };
        let word = Word { report: Some(letter.report), rtt };
        match letter.says {
            Says::Accepted => {
                self.see(What::Accepted, origin, target, request, u64::from(attempt.0));
                self.feed(origin, Input::Accepted { job, attempt, peer, word });
            }
            Says::Refused(refusal) => {
                self.close(stream);
                self.see(What::Refused, origin, target, request, refusal as u64);
                self.set_unplaced(request, true);
                self.feed(origin, Input::Refused { job, attempt, peer, word, refusal });
                self.set_unplaced(request, false);
            }
            Says::Answered { verdict, computed_for } => {
                if self.saboteur.breaks_answer() {
                    self.close(stream);
                    return self.feed(origin, Input::Broke { job, attempt, peer });
                }
                let computed_for = self.saboteur.computed_for(computed_for);
                self.close(stream);
                if let Some(asked) = self.requests.get_mut(request) {
                    asked.answer = Some(Answer { at: self.now, node: target, attempt, computed_for });
                }
                self.see(What::Answered, origin, target, request, verdict as u64 | (u64::from(attempt.0) << 8));
                self.set_unplaced(request, true);
                self.feed(origin, Input::Answered { job, attempt, peer, word, verdict });
                self.set_unplaced(request, false);
            }
        }
    }

    /// The origin is done with a stream. Returns it.
    pub(super) fn close(&mut self, key: Key) -> Option<Stream> {
        let stream = self.streams.remove(key)?;
        let job = Key::from_number(stream.job.0);
        if let Some(job) = self.jobs.get_mut(job) {
            for flight in &mut job.flights {
                if *flight == key {
                    *flight = Key::NONE;
                }
            }
            if job.flights[0] == Key::NONE {
                job.flights.swap(0, 1);
            }
        }
        Some(stream)
    }

    /// The machine gives up a placement: its peer is told to stop.
    pub(super) fn abandon(&mut self, node: usize, id: JobId, attempt: Attempt) {
        let Some((_, job)) = self.job(id) else { return };
        let (request, flights) = (job.request, job.flights);
        let is_it = |key: &Key| self.streams.get(*key).is_some_and(|stream| stream.attempt == attempt);
        let Some(key) = flights.into_iter().find(is_it) else { return };
        let Some(stream) = self.close(key) else { return };
        if let Some(asked) = self.requests.get_mut(request) {
            (asked.troubled, asked.unplaced) = (true, true);
        }
        self.see(What::Abandoned, node, stream.target, request, u64::from(attempt.0));
        self.tell_to_stop(&stream);
    }

    pub(super) fn tell_to_stop(&mut self, stream: &Stream) {
        let &Stream { origin, target, peers_job, .. } = stream;
        if self.jobs.get(peers_job).is_none() {
            return;
        }
        let event = Event::Cancel { node: target, job: peers_job };
        match self.net.bytes(origin, target) {
            Some(way) => self.after(way, event),
            None => self.parked.push((origin, target, event)),
        }
    }

    /// A stream broke: its origin is told, and the target stops.
    pub(super) fn on_broken(&mut self, key: Key) {
        let Some(stream) = self.close(key) else { return };
        let Stream { request, origin, job, attempt, target, .. } = stream;
        self.tell_to_stop(&stream);
        if let Some(asked) = self.requests.get_mut(request) {
            asked.troubled = true;
        }
        if self.saboteur.ignores_breaks() {
            return;
        }
        self.see(What::Broke, origin, target, request, u64::from(attempt.0));
        let peer = self.seats[target].id.clone();
        self.set_unplaced(request, true);
        self.feed(origin, Input::Broke { job, attempt, peer });
        self.set_unplaced(request, false);
    }

    /// While a machine hears that a placement came to nothing, another one is no second one beside it.
    pub(super) fn set_unplaced(&mut self, request: Key, unplaced: bool) {
        if let Some(asked) = self.requests.get_mut(request) {
            asked.unplaced = unplaced;
        }
    }
}
