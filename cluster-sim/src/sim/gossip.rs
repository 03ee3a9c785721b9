//! A model of chitchat 0.11: who hears of whom how late, and when it calls somebody dead.
//!
//! For `world`, which moves the three datagrams of an exchange and says when a node's turn comes.
//! Modelled: rounds with a phase of their own, three random live peers a round, now and then a dead one or a seed,
//! digests in both directions, heartbeats that count rounds and datagrams, phi as elapsed time over the smoothed mean
//! interval, liveness judged once a round, values by version, the newest run of a process beside the one before.
//! Invariants: what a node knows only gets newer; it never knows more than some node it exchanged datagrams with.
//! Not here: fragmentation, the size limit of a datagram, processor time, keys that end. A datagram carries what its
//! sender knows when it arrives, which is a way of a millisecond later than in truth. The mean forgets geometrically
//! where chitchat has a window of 1000 intervals.

use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::time::{Micros, MonoTime};

use super::chance::Chance;

/// Live peers that a round asks.
const FAN_OUT: usize = 3;
/// Bits of a stamp that count heartbeats; the run of the process is above them.
const HEARTBEAT_BITS: u32 = 40;
/// Intervals that the mean remembers.
const WINDOW: f64 = 1000.0;
/// Weight of the expected interval in the mean, in intervals.
const PRIOR_WEIGHT: f64 = 5.0;

/// Settings, as the node configures chitchat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GossipRules {
    /// Time between two rounds of a node.
    pub interval: Micros,
    /// Phi above which a node counts as dead.
    pub phi_threshold: f64,
    /// Longest interval that counts.
    pub interval_max: Micros,
    /// The first so many nodes are everybody's seeds.
    pub seeds: usize,
}

impl Default for GossipRules {
    fn default() -> Self {
        Self { interval: Micros::from_ms(100), phi_threshold: 12.0, interval_max: Micros::from_ms(2000), seeds: 2 }
    }
}

/// What a node announces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Announced {
    /// The run of its process.
    pub boot: u64,
    /// Its own word.
    pub standing: Standing,
    /// Its load, once it told one.
    pub load: Option<Report>,
}

/// One other node, as an observer knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Which.
    pub node: usize,
    /// Its heartbeats come.
    pub alive: bool,
    /// The newest of its announcements that got here.
    pub announced: Announced,
}

/// What all nodes know of each other.
#[derive(Debug)]
pub struct Gossip {
    rules: GossipRules,
    views: Vec<View>,
    /// All that each node ever announced, the newest last. A version is a position here, plus one.
    announced: Vec<Vec<Announced>>,
    chance: Chance,
}

/// What one node knows of all.
#[derive(Debug, Default)]
struct View {
    /// For each node the run of its process and its heartbeat, the newest heard of; 0 = never heard of.
    stamps: Vec<u64>,
    /// For each node the newest version heard of; 0 = none.
    versions: Vec<u32>,
    windows: Vec<Window>,
    changed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// When the last heartbeat came that was newer than another one; none at the start.
    last: Option<MonoTime>,
    count: f64,
    sum_us: f64,
    alive: bool,
    /// The run before, while it still seems alive: until when, and its newest version.
    before: Option<(MonoTime, u32)>,
}

impl Window {
    fn on_heartbeat(&mut self, now: MonoTime, rules: &GossipRules) {
        if let Some(interval) = self.last.map(|last| now.since(last)).filter(|&interval| interval <= rules.interval_max)
        {
            let keep = if self.count < WINDOW { 1.0 } else { 1.0 - 1.0 / WINDOW };
            self.sum_us = self.sum_us * keep + interval.get() as f64;
            self.count = self.count * keep + 1.0;
        }
        self.last = Some(now);
    }

    /// When it will count as dead if nothing more comes; `None` when it does not count as alive.
    fn alive_until(&self, rules: &GossipRules) -> Option<MonoTime> {
        let last = self.last.filter(|_| 0.0 < self.count)?;
        let mean = (self.sum_us + PRIOR_WEIGHT * rules.interval.get() as f64) / (self.count + PRIOR_WEIGHT);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
        let limit = (rules.phi_threshold * mean) as u64;
        Some(last + Micros::new(limit))
    }
}

fn stamp(boot: u64, heartbeat: u64) -> u64 {
    (boot << HEARTBEAT_BITS) | heartbeat
}

fn boot_of(stamp: u64) -> u64 {
    stamp >> HEARTBEAT_BITS
}

impl Gossip {
    /// Nobody runs yet.
    #[must_use]
    pub fn new(rules: GossipRules, nodes: usize, seed: u64) -> Self {
        Self {
            rules,
            views: (0..nodes).map(|_| View::default()).collect(),
            announced: vec![Vec::new(); nodes],
            chance: Chance::new(seed, "gossip", 0),
        }
    }

    /// Time between two rounds.
    #[must_use]
    pub fn interval(&self) -> Micros {
        self.rules.interval
    }

    /// A process of `node` starts and knows nobody. `boot` is larger than that of every earlier one.
    pub fn start(&mut self, node: usize, boot: u64) {
        let nodes = self.views.len();
        self.views[node] = View {
            stamps: vec![0; nodes],
            versions: vec![0; nodes],
            windows: vec![Window::default(); nodes],
            changed: false,
        };
        self.views[node].stamps[node] = stamp(boot, 1);
        self.announce(node, Announced { boot, standing: Standing::Starting, load: None });
    }

    /// `node` announces something new of itself.
    pub fn announce(&mut self, node: usize, announced: Announced) {
        self.announced[node].push(announced);
        self.views[node].versions[node] = version_of(self.announced[node].len());
    }

    /// A node's round: whom it sends a digest. Liveness is judged after that, by [`Gossip::judge`].
    pub fn round(&mut self, node: usize, targets: &mut Vec<usize>) {
        targets.clear();
        let view = &mut self.views[node];
        view.stamps[node] += 1;
        let others = (0..view.stamps.len()).filter(|&other| other != node && view.stamps[other] != 0);
        let (mut live, mut dead) = (Vec::with_capacity(view.stamps.len()), Vec::new());
        for other in others {
            if view.windows[other].alive { live.push(other) } else { dead.push(other) }
        }
        let live_count = live.len();
        // Who knows nobody alive asks whomever it has heard of.
        let mut from = if live.is_empty() { dead.clone() } else { live };
        for _ in 0..FAN_OUT.min(from.len()) {
            targets.push(from.swap_remove(self.chance.below(from.len())));
        }
        let asked_seed = targets.iter().any(|&target| target < self.rules.seeds);
        let dead_share = dead.len() as f64 / (live_count + 1) as f64;
        if !dead.is_empty() && self.chance.unit() < dead_share {
            targets.push(dead[self.chance.below(dead.len())]);
        }
        let seeds = self.rules.seeds - usize::from(node < self.rules.seeds);
        if 0 < seeds && (!asked_seed || live_count < seeds) {
            let share = seeds as f64 / (live_count + dead.len()).max(1) as f64;
            if live_count == 0 || self.chance.unit() <= share {
                let drawn = self.chance.below(seeds);
                targets.push(if node <= drawn { drawn + 1 } else { drawn });
            }
        }
    }

    /// Judges who is alive, as a round ends.
    pub fn judge(&mut self, node: usize, now: MonoTime) {
        let (rules, view) = (self.rules, &mut self.views[node]);
        for other in (0..view.stamps.len()).filter(|&other| other != node) {
            if view.stamps[other] == 0 {
                continue;
            }
            let window = &mut view.windows[other];
            let alive = window.alive_until(&rules).is_some_and(|until| now <= until);
            if !alive {
                (window.count, window.sum_us) = (0.0, 0.0);
            }
            let before = window.before.filter(|&(until, _)| now <= until && !alive);
            view.changed |= alive != window.alive || before.is_some() != window.before.is_some();
            (window.alive, window.before) = (alive, before);
        }
    }

    /// The first datagram of an exchange reached `to`: it carries the digest of `from`. An answer goes back.
    pub fn on_syn(&mut self, from: usize, to: usize, now: MonoTime) {
        self.views[to].stamps[to] += 1;
        self.take_digest(from, to, now);
    }

    /// The answer of `from` reached `to`: a digest and news. A last datagram goes back.
    pub fn on_syn_ack(&mut self, from: usize, to: usize, now: MonoTime) {
        self.views[to].stamps[to] += 1;
        self.take_digest(from, to, now);
        self.take_news(from, to);
    }

    /// The last datagram, with news of `from`, reached `to`.
    pub fn on_ack(&mut self, from: usize, to: usize) {
        self.views[to].stamps[to] += 1;
        self.take_news(from, to);
    }

    /// All others that `node` knows, when that changed since it was last asked.
    pub fn members(&mut self, node: usize, members: &mut Vec<Known>) -> bool {
        let changed = std::mem::take(&mut self.views[node].changed);
        if changed {
            self.known(node, members);
        }
        changed
    }

    /// All others that `node` knows.
    pub fn known(&self, node: usize, members: &mut Vec<Known>) {
        members.clear();
        let view = &self.views[node];
        for other in (0..view.stamps.len()).filter(|&other| other != node) {
            let window = view.windows[other];
            // A live run before the dead, then the newest.
            let (alive, version) = match window.before {
                Some((_, version)) if !window.alive => (true, version),
                Some(_) | None => (window.alive, view.versions[other]),
            };
            if let Some(announced) = self.version(other, version) {
                members.push(Known { node: other, alive, announced });
            }
        }
    }

    fn version(&self, node: usize, version: u32) -> Option<Announced> {
        let index = (version as usize).checked_sub(1)?;
        self.announced[node].get(index).copied()
    }

    fn two(&mut self, from: usize, to: usize) -> (&View, &mut View) {
        assert_ne!(from, to, "nobody gossips with itself");
        let (low, high) = self.views.split_at_mut(from.max(to));
        if from < to { (&low[from], &mut high[0]) } else { (&high[0], &mut low[to]) }
    }

    fn take_digest(&mut self, from: usize, to: usize, now: MonoTime) {
        let rules = self.rules;
        let (theirs, view) = self.two(from, to);
        for (node, &heard) in theirs.stamps.iter().enumerate() {
            let known = view.stamps[node];
            if heard <= known || node == to {
                continue;
            }
            view.stamps[node] = heard;
            let window = &mut view.windows[node];
            if boot_of(heard) == boot_of(known) {
                window.on_heartbeat(now, &rules);
                continue;
            }
            // Another process: what is known of the one before stands beside it until that seems dead.
            let version = std::mem::take(&mut view.versions[node]);
            let before = window.alive_until(&rules).filter(|_| window.alive && 0 < version);
            *window = Window { before: before.map(|until| (until, version)), ..Window::default() };
            view.changed = true;
        }
    }

    fn take_news(&mut self, from: usize, to: usize) {
        let (views, announced) = (&mut self.views, &self.announced);
        let (low, high) = views.split_at_mut(from.max(to));
        let (theirs, view) = if from < to { (&low[from], &mut high[0]) } else { (&high[0], &mut low[to]) };
        for (node, &heard) in theirs.versions.iter().enumerate() {
            if heard <= view.versions[node] || node == to {
                continue;
            }
            let boot = announced[node][heard as usize - 1].boot;
            // News of a run that is over here changes nothing; of a run that no digest named yet it waits for one.
            if boot == boot_of(view.stamps[node]) {
                view.versions[node] = heard;
                view.changed = true;
            }
        }
    }
}

fn version_of(count: usize) -> u32 {
    u32::try_from(count).expect("a node announces less than 2^32 times")
}
