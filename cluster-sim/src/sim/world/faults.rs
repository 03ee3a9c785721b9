//! Faults begin, end, and heal.
//!
//! Part of `world`.
//! Invariants: after [`World::on_heal`] nothing of any fault is left but what it did: every process that was ever there
//! runs, every link is whole, every device is well.

use shoal_core::time::Micros;

use super::super::chance::Chance;
use super::super::net::Traffic;
use super::super::plan::Fault;
use super::super::seen::What;
use super::super::slab::Key;
use super::membership::Claims;
use super::records::Event;
use super::{Seat, World};

impl Seat {
    /// Keeps an event until the device is well.
    pub(super) fn fault_holds(&mut self, event: Event) {
        self.held.push(event);
    }
}

impl World {
    pub(super) fn on_fault_begins(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[index].fault;
        self.see(What::FaultBegan, fault.node().unwrap_or(0), 0, Key::NONE, index as u64);
        match fault {
            Fault::Kill(node) => self.kill(node),
            Fault::PowerCut(node) => {
                self.seats[node].dark = true;
                self.kill(node);
            }
            Fault::Terminate(node) => self.leave(node),
            Fault::Freeze(node) => self.freeze(node),
            Fault::Join(node) => self.start(node),
            Fault::Loss(permille) => self.net.set_loss(permille),
            Fault::SlowPath(node, extra) => self.net.set_slow(node, extra),
            Fault::SlowDevice(node, factor) => self.seats[node].fault.slow = Some(factor),
            Fault::SlowAnswers(node, late) => self.seats[node].fault.late = late,
            Fault::Device(node, wrong) => self.seats[node].fault.wrong = Some(wrong),
            Fault::Lie(node) => self.seats[node].claims = Claims::Idle,
            Fault::Babble(node) => self.seats[node].claims = Claims::Absurd,
            Fault::Partition(..) | Fault::Mute(..) | Fault::Sever(..) => self.set_cuts(fault, true),
        }
        self.suspect_connections();
    }

    pub(super) fn on_fault_ends(&mut self, index: usize) {
        if self.healed {
            return;
        }
        match self.plan.faults[index].fault {
            Fault::Kill(node) | Fault::PowerCut(node) => self.start(node),
            Fault::Terminate(node) => self.restart(node),
            Fault::Freeze(node) => self.thaw(node),
            Fault::Join(_) => {}
            Fault::Loss(_) => self.net.set_loss(0),
            Fault::SlowPath(node, _) => self.net.set_slow(node, Micros::ZERO),
            Fault::SlowDevice(node, _) => self.seats[node].fault.slow = None,
            Fault::SlowAnswers(node, _) => self.seats[node].fault.late = Micros::ZERO,
            Fault::Device(node, _) => self.mend_device(node),
            Fault::Lie(node) | Fault::Babble(node) => self.seats[node].claims = Claims::True,
            fault @ (Fault::Partition(..) | Fault::Mute(..) | Fault::Sever(..)) => {
                self.set_cuts(fault, false);
                // Of two cuts that overlap the one that lasts is made again.
                for other in (0..self.plan.faults.len()).filter(|&other| other != index) {
                    let planned = self.plan.faults[other];
                    if planned.at <= self.now && self.now < planned.at + planned.lasts {
                        self.set_cuts(planned.fault, true);
                    }
                }
                self.unpark();
            }
        }
    }

    pub(super) fn on_heal(&mut self) {
        self.healed = true;
        self.see(What::Healed, 0, 0, Key::NONE, 0);
        if !self.saboteur.keeps_cut() {
            self.net.heal();
        }
        self.unpark();
        let mut phases = Chance::new(self.plan.seed, "heal", 0);
        for node in 0..self.seats.len() {
            if !self.saboteur.keeps_slow() {
                self.seats[node].fault.slow = None;
            }
            self.seats[node].fault.late = Micros::ZERO;
            self.seats[node].claims = Claims::True;
            self.mend_device(node);
            self.thaw(node);
            if self.seats[node].leaving.is_some() {
                self.restart(node);
            } else if self.seats[node].process.is_none() {
                self.after(Micros::new(phases.between(0, 100_000)), Event::Start { node });
            }
        }
    }

    /// A process that leaves is followed by another one as soon as it is gone.
    fn restart(&mut self, node: usize) {
        if self.seats[node].process.is_none() {
            return self.start(node);
        }
        self.seats[node].starts_again = true;
    }

    fn mend_device(&mut self, node: usize) {
        self.seats[node].fault.wrong = None;
        for event in std::mem::take(&mut self.seats[node].held) {
            self.queue.push(self.now, event);
        }
    }

    fn set_cuts(&mut self, fault: Fault, cut: bool) {
        let nodes = self.seats.len();
        let mut set = |from: usize, to: usize, traffic: Traffic| {
            if from != to {
                self.net.set_cut(from, to, traffic, cut);
            }
        };
        match fault {
            Fault::Partition(first, traffic) => {
                for (one, other) in (0..first.min(nodes)).flat_map(|one| (first..nodes).map(move |other| (one, other)))
                {
                    set(one, other, traffic);
                    set(other, one, traffic);
                }
            }
            Fault::Mute(node, traffic) => (0..nodes).for_each(|other| set(node, other, traffic)),
            Fault::Sever(one, other, traffic) => {
                set(one, other, traffic);
                set(other, one, traffic);
            }
            _ => {}
        }
    }
}

impl Fault {
    /// The node that it is about, if it is about one.
    #[must_use]
    pub fn node(self) -> Option<usize> {
        match self {
            Self::Kill(node)
            | Self::PowerCut(node)
            | Self::Terminate(node)
            | Self::Freeze(node)
            | Self::Join(node)
            | Self::Mute(node, _)
            | Self::SlowPath(node, _)
            | Self::SlowDevice(node, _)
            | Self::SlowAnswers(node, _)
            | Self::Device(node, _)
            | Self::Lie(node)
            | Self::Babble(node) => Some(node),
            Self::Partition(..) | Self::Sever(..) | Self::Loss(_) => None,
        }
    }
}
