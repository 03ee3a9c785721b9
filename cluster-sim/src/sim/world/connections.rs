//! Connections between nodes: made on demand, broken by ends, by silence, and by pings that are not answered.
//!
//! Part of `world`. One connection carries all jobs between two nodes in one direction. It breaks when its process ends
//! (at once), when it cannot be made in time, and when a ping of the connection is not answered. Bytes into a cut wait
//! there; whoever gives up first closes the stream. The pings of a sound connection make no events: only what may be
//! dead is looked at.

use std::collections::BTreeMap;

use shoal_core::node::Input;
use shoal_core::peers::Word;
use shoal_core::time::{Micros, MonoTime};

use super::super::seen::What;
use super::super::slab::Key;
use super::World;
use super::records::{Event, Stream};

/// Longest time until a connection stands, as the node configures it.
const CONNECT_LIMIT: Micros = Micros::from_ms(150);
/// A connection with jobs on it is pinged so often, and broken when the answer takes longer than the limit.
const PING_EVERY: Micros = Micros::from_ms(200);
const PING_LIMIT: Micros = Micros::from_ms(400);

impl World {
    fn pair(&self, from: usize, to: usize) -> usize {
        from * self.seats.len() + to
    }

    fn connected(&self, from: usize, to: usize) -> bool {
        self.connections[self.pair(from, to)] % 2 == 1
    }

    /// Whether `to` would answer `from` now: the question of every ping.
    pub(super) fn answers(&self, from: usize, to: usize) -> bool {
        let seat = &self.seats[to];
        seat.process.is_some() && seat.frozen.is_none() && !seat.dark && self.net.connects(from, to)
    }

    pub(super) fn send_offer(&mut self, stream: Key, from: usize, to: usize) {
        let event = Event::Offer { stream, to };
        if self.connected(from, to) {
            self.set_connection(stream, from, to);
            self.after(Micros::ZERO, Event::Flushed { stream });
            match self.net.bytes(from, to) {
                Some(way) => self.after(way, event),
                None => self.parked.push((from, to, event)),
            }
            if !self.answers(from, to) {
                self.expect_silence(from, to, PING_EVERY);
            }
            return;
        }
        let seat = &self.seats[to];
        if seat.dark || !self.net.connects(from, to) {
            return self.after(CONNECT_LIMIT, Event::Broken { stream, to: from });
        }
        let round_trip = self.net.way(from, to) + self.net.way(to, from);
        if self.seats[to].process.is_none() {
            return self.after(round_trip, Event::Broken { stream, to: from });
        }
        // The kernel of a stopped process still takes connections.
        let pair = self.pair(from, to);
        self.connections[pair] += 1;
        self.set_connection(stream, from, to);
        self.after(round_trip, Event::Flushed { stream });
        let way = self.net.way(from, to);
        self.after(round_trip + way, event);
        if !self.answers(from, to) {
            self.expect_silence(from, to, PING_EVERY);
        }
    }

    fn set_connection(&mut self, stream: Key, from: usize, to: usize) {
        let connection = self.connections[self.pair(from, to)];
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.connection = connection;
        }
    }

    /// Finds out after a while that a connection is dead, if it still is then.
    fn expect_silence(&mut self, from: usize, to: usize, until_ping: Micros) {
        let connection = self.connections[self.pair(from, to)];
        if connection % 2 == 1 {
            self.after(until_ping + PING_LIMIT, Event::Keepalive { from, to, connection });
        }
    }

    pub(super) fn on_keepalive(&mut self, from: usize, to: usize, connection: u32) {
        let pair = self.pair(from, to);
        if self.connections[pair] == connection && !self.answers(from, to) {
            self.disconnect(from, to);
        }
    }

    /// Ends the connection between two nodes: all jobs on it break for their origin now.
    fn disconnect(&mut self, from: usize, to: usize) {
        let pair = self.pair(from, to);
        if self.connections[pair].is_multiple_of(2) {
            return;
        }
        let connection = self.connections[pair];
        self.connections[pair] += 1;
        let on_it = |stream: &Stream| stream.origin == from && stream.target == to && stream.connection == connection;
        let broken: Vec<Key> = self.streams.iter().filter(|(_, stream)| on_it(stream)).map(|(key, _)| key).collect();
        for stream in broken {
            self.after(Micros::ZERO, Event::Broken { stream, to: from });
        }
        self.after(Micros::ZERO, Event::Parted { from, to, boot: self.seats[from].boot });
    }

    /// Something happened to `node` or to links: dead connections are found out by their pings.
    pub(super) fn suspect_connections(&mut self) {
        let mut pairs: Vec<(usize, usize)> =
            self.streams.iter().map(|(_, stream)| (stream.origin, stream.target)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        for (from, to) in pairs {
            if !self.answers(from, to) {
                let until_ping = Micros::new(self.way_chance.between(0, PING_EVERY.get()));
                self.expect_silence(from, to, until_ping);
            }
        }
    }

    /// The process of `node` ended: its connections end with it. Nobody hears that when its host is gone.
    pub(super) fn end_connections(&mut self, node: usize) {
        let all: Vec<(Key, Stream)> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.origin == node || stream.target == node)
            .map(|(key, stream)| (key, stream.clone()))
            .collect();
        let dark = self.seats[node].dark;
        let ends = self.ends_of(node, &all);
        for (key, stream) in all {
            if stream.origin == node {
                self.close(key);
                if !dark {
                    self.tell_to_stop(&stream);
                }
            } else if !dark {
                let event = Event::Broken { stream: key, to: stream.origin };
                match ends[stream.origin] {
                    Some(at) => self.queue.push(at, event),
                    None => self.parked.push((node, stream.origin, event)),
                }
            }
        }
        for (other, end) in ends.into_iter().enumerate() {
            let (out, back) = (self.pair(node, other), self.pair(other, node));
            self.connections[out] += self.connections[out] % 2;
            if dark || !self.connected(other, node) {
                continue;
            }
            self.connections[back] += 1;
            // Behind the jobs that were on it: they break first.
            let event = Event::Parted { from: other, to: node, boot: self.seats[other].boot };
            match end {
                Some(at) => self.queue.push(at, event),
                None => self.parked.push((node, other, event)),
            }
        }
    }

    /// When each node hears that its connection to the process of `node` ended; `None` where a cut is in between. A
    /// reset comes after all that was sent before it, and ends all `streams` of the connection at one moment.
    fn ends_of(&mut self, node: usize, streams: &[(Key, Stream)]) -> Vec<Option<MonoTime>> {
        let mut ends: Vec<Option<MonoTime>> =
            (0..self.seats.len()).map(|origin| self.net.bytes(node, origin).map(|way| self.now + way)).collect();
        for (_, stream) in streams.iter().filter(|(_, stream)| stream.target == node) {
            if let Some(end) = &mut ends[stream.origin] {
                *end = (*end).max(stream.last + Micros::new(1));
            }
        }
        ends
    }

    /// A process starts where the host of the one before was gone without a word: it answers whatever still comes on
    /// the old connections with a reset. That is at the next ping; here, at once.
    pub(super) fn reset_connections(&mut self, node: usize) {
        for other in 0..self.seats.len() {
            if self.net.connects(other, node) {
                self.disconnect(other, node);
            }
        }
    }

    /// What waited in cuts that healed goes on, in the order in which it was sent.
    pub(super) fn unpark(&mut self) {
        let mut last: BTreeMap<(usize, usize), MonoTime> = BTreeMap::new();
        for (from, to, event) in std::mem::take(&mut self.parked) {
            let Some(way) = self.net.bytes(from, to) else {
                self.parked.push((from, to, event));
                continue;
            };
            let last = last.entry((from, to)).or_insert(self.now);
            *last = (self.now + way + self.net.resend()).max(*last + Micros::new(1));
            self.queue.push(*last, event);
        }
    }

    pub(super) fn ping(&mut self, from: usize, to: usize) {
        self.see(What::Pinged, from, to, Key::NONE, 0);
        let (boot, sent) = (self.seats[from].boot, self.now);
        let (way, back) = (self.net.way(from, to), self.net.way(to, from));
        let refused = !self.seats[to].dark && self.seats[to].process.is_none() && self.net.connects(from, to);
        if self.answers(from, to) {
            self.after(way + back, Event::Pong { from, to, boot, sent });
        } else if refused {
            self.after(way + back, Event::PingLost { from, to, boot, refused });
        } else {
            self.after(PING_LIMIT, Event::PingLost { from, to, boot, refused });
        }
    }

    pub(super) fn on_pong(&mut self, from: usize, to: usize, boot: u64, sent: MonoTime) {
        if !self.runs(from, boot) {
            return;
        }
        if !self.answers(from, to) {
            return self.on_ping_lost(from, to, boot, self.seats[to].process.is_none());
        }
        self.see(What::PingEnded, from, to, Key::NONE, 1);
        let now = self.local(to);
        let Some(process) = &mut self.seats[to].process else { return };
        let report = process.node.report(now);
        let report = Some(self.told(to, report));
        let word = Word { report, rtt: Some(self.now.since(sent)) };
        let peer = self.seats[to].id.clone();
        self.feed(from, Input::Heard { peer, word });
    }

    pub(super) fn on_parted(&mut self, from: usize, to: usize, boot: u64) {
        if self.runs(from, boot) && !self.saboteur.ignores_ends() {
            let peer = self.seats[to].id.clone();
            self.feed(from, Input::Parted { peer });
        }
    }

    pub(super) fn on_ping_lost(&mut self, from: usize, to: usize, boot: u64, refused: bool) {
        if self.runs(from, boot) {
            self.see(What::PingEnded, from, to, Key::NONE, 0);
            let peer = self.seats[to].id.clone();
            self.feed(from, Input::PingFailed { peer, broke: refused });
        }
    }
}
