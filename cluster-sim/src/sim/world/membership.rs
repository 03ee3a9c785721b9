//! What nodes hear of each other, apart from jobs: gossip, or a look once a period.
//!
//! Part of `world`. What a node announces and tells passes through [`World::told`], where liars lie.

use shoal_core::affinity::{OWNERS, OwnerTable};
use shoal_core::cost::Cost;
use shoal_core::id::BootId;
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::node::Input;
use shoal_core::peers::PeerFacts;
use shoal_core::time::Micros;

use super::super::digest::Digest;
use super::super::gossip::{Announced, Known};
use super::super::plan::Membership;
use super::super::seen::What;
use super::super::slab::Key;
use super::World;
use super::records::Event;

/// Parts of the table of owners.
const PARTS: usize = 256;

/// What a node says of its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claims {
    /// What is so.
    True,
    /// That it is idle and quick.
    Idle,
    /// What cannot be.
    Absurd,
}

impl World {
    /// What reaches the others of a report of `node`.
    pub(super) fn told(&self, node: usize, report: Report) -> Report {
        let claims = if self.saboteur.lies(node) { Claims::Idle } else { self.seats[node].claims };
        let mut told = match claims {
            Claims::True => report,
            Claims::Idle => {
                let cost = Cost { fixed: Micros::ZERO, per_unit_ns: report.cost.per_unit_ns / 100 };
                Report { wait: Micros::ZERO, cost, held: 0, ..report }
            }
            Claims::Absurd => match report.seq % 3 {
                0 => Report { wait: Micros::MAX, ..report },
                1 => Report { slots: 0, ..report },
                _ => Report { seq: 0, wait: Micros::ZERO, ..report },
            },
        };
        if self.saboteur.hides_draining() && told.standing == Standing::Draining {
            told.standing = Standing::Ready;
        }
        told
    }

    pub(super) fn publish(&mut self, node: usize, report: Report) {
        let report = self.told(node, report);
        let boot = self.seats[node].boot;
        self.see(What::Published, node, node, Key::NONE, report.wait.get());
        self.gossip.announce(node, Announced { boot, standing: report.standing, load: Some(report) });
    }

    pub(super) fn on_round(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        self.extra_round(node, boot);
        self.after(self.gossip.interval(), Event::Round { node, boot });
    }

    /// One round that makes no later one.
    pub(super) fn extra_round(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        let mut targets = std::mem::take(&mut self.targets);
        self.gossip.round(node, &mut targets);
        self.see(What::Round, node, node, Key::NONE, targets.len() as u64);
        for &to in &targets {
            self.send_datagram(node, to, 0);
        }
        self.targets = targets;
        self.gossip.judge(node, self.now);
    }

    fn send_datagram(&mut self, from: usize, to: usize, part: u8) {
        for way in self.net.datagram(from, to).into_iter().flatten() {
            self.after(way, Event::Gossip { from, to, part });
        }
    }

    pub(super) fn on_gossip(&mut self, from: usize, to: usize, part: u8) {
        if self.seats[to].process.is_none() {
            return;
        }
        self.see(What::Gossiped, to, from, Key::NONE, part.into());
        match part {
            0 => self.gossip.on_syn(from, to, self.now),
            1 => self.gossip.on_syn_ack(from, to, self.now),
            _ => self.gossip.on_ack(from, to),
        }
        if part < 2 {
            self.send_datagram(to, from, part + 1);
        }
    }

    pub(super) fn on_read(&mut self, node: usize, boot: u64) {
        if !self.runs(node, boot) {
            return;
        }
        let mut members = std::mem::take(&mut self.members);
        if self.gossip.members(node, &mut members) {
            self.tell_members(node, &members);
        }
        self.members = members;
        if let Membership::Gossip { read_every, .. } = self.plan.membership {
            self.after(read_every, Event::Read { node, boot });
        }
    }

    pub(super) fn on_look(&mut self, observer: usize, node: usize) {
        let Membership::Direct { period } = self.plan.membership else { return };
        let jitter = Micros::new(self.way_chance.between(0, period.get() / 5));
        self.after(period.permille(900) + jitter, Event::Look { observer, node });
        if self.seats[observer].process.is_none() {
            return;
        }
        let (now, boot) = (self.local(node), self.seats[node].boot);
        let there = self.net.connects(observer, node) && self.seats[node].frozen.is_none();
        let report = match &mut self.seats[node].process {
            Some(process) if there => Some(process.node.report(now)),
            Some(_) | None => None,
        };
        let before = self.seats[observer].direct[node];
        self.seats[observer].direct[node] = match (report.map(|report| self.told(node, report)), before) {
            (Some(report), _) => {
                let announced = Announced { boot, standing: report.standing, load: Some(report) };
                Some(Known { node, alive: true, announced })
            }
            (None, Some(known)) => Some(Known { alive: false, ..known }),
            (None, None) => None,
        };
        let mut members = std::mem::take(&mut self.members);
        members.clear();
        members.extend(self.seats[observer].direct.iter().flatten());
        self.tell_members(observer, &members);
        self.members = members;
    }

    fn tell_members(&mut self, node: usize, members: &[Known]) {
        self.see(What::Members, node, node, Key::NONE, members.len() as u64);
        let fact = |known: &Known| PeerFacts {
            id: self.seats[known.node].id.clone(),
            boot: BootId(known.announced.boot),
            alive: known.alive || self.saboteur.hides_dead(),
            standing: known.announced.standing,
            serves: true,
            weight: self.plan.role(known.node).weight,
            backup: self.plan.role(known.node).backup,
            load: known.announced.load,
        };
        let hidden = self.saboteur.hides_joined();
        let absent = self.plan.nodes - self.plan.absent;
        let shown = members.iter().filter(|known| !hidden || known.node < absent);
        let facts = shown.map(fact).collect();
        self.feed(node, Input::Membership(facts));
        if 0 < self.plan.arrivals.session_permille {
            self.tell_owners(node, members);
        }
    }

    /// Gives `node` the owners of all sessions when those who are ready changed.
    fn tell_owners(&mut self, node: usize, members: &[Known]) {
        let is_ready = |known: &&Known| known.alive && known.announced.standing == Standing::Ready;
        let mut ready: Vec<usize> = members.iter().filter(is_ready).map(|known| known.node).collect();
        let own = |process: &super::Process| process.node.standing() == Standing::Ready;
        if self.seats[node].process.as_ref().is_some_and(own) {
            ready.push(node);
        }
        ready.sort_unstable();
        if ready == self.seats[node].ready_told {
            return;
        }
        let parts = (0..PARTS).map(|part| owners(&ready, part)).collect();
        let ids = ready.iter().map(|&node| self.seats[node].id.clone()).collect();
        let table = OwnerTable::new(ids, parts).expect("different positions of the list");
        self.seats[node].ready_told = ready;
        self.feed(node, Input::Owners(table));
    }
}

/// Positions of the first owners of a part, by the largest mix of part and node: a node that leaves moves only its own.
fn owners(ready: &[usize], part: usize) -> Vec<u16> {
    let mix = |node: usize| {
        let mut digest = Digest::default();
        digest.word(part as u64);
        digest.word(node as u64);
        digest.value()
    };
    let mut ranked: Vec<usize> = (0..ready.len()).collect();
    ranked.sort_unstable_by_key(|&position| std::cmp::Reverse(mix(ready[position])));
    ranked.truncate(OWNERS);
    ranked.into_iter().filter_map(|position| u16::try_from(position).ok()).collect()
}
