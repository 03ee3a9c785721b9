//! This process's share of CPU and memory, and how much of it is used.
//!
//! For the probe's own thread. Each limit around the process is a box: a control group with a quota, the cores that the
//! process is pinned to. The fullest box counts, because that is where work waits first. Without any limit the box is
//! the machine, and then everybody's use of it counts.
//! Invariants: one limit whose use cannot be read makes the share unknown, because it may be the fullest; a rate is
//! over about the last second and never over a time in which nothing was counted.
//! Not here: which groups there are (`cgroup`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use shoal_core::time::{Micros, MonoTime};

use super::cgroup::Groups;
use super::files::{core_ranges, cores_in_both, existing_text, number_of, strange};
use crate::sample::percent_of;

/// A rate is over at least this time, once the probe runs so long.
const WINDOW: Micros = Micros::from_ms(1000);
/// Over less than this a rate is noise: the kernel counts in ticks of 10 ms.
const WINDOW_MIN: Micros = Micros::from_ms(100);
/// Most looks that are kept, whatever the pace.
const LOOKS_MAX: usize = 64;
/// Ticks a second in the files of the kernel: part of its interface, whatever its own clock does.
const TICK_US: u64 = 10_000;

/// What is used of what this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MachineReading {
    pub(super) cpu: Result<u8, Unknown>,
    pub(super) memory: Result<u8, Unknown>,
}

/// Why a share is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A rate takes two looks.
    NotYet,
    /// For people.
    Because(String),
}

/// Reads the files of the kernel.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
    groups: Groups,
    /// Oldest first.
    looks: VecDeque<(MonoTime, Counters)>,
}

/// What each box had counted at one moment.
type Counters = BTreeMap<Limit, Counter>;

/// What limits CPU time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Group(PathBuf),
    PinnedCores,
    Machine,
}

/// CPU time used so far, in any unit, and what there is to use.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counter {
    used: u64,
    room: Room,
}

/// How much time there is to use.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    /// So many cores' worth; `used` is in microseconds.
    Cores(f64),
    /// The kernel counts that too, in the unit of `used`.
    Counted(u64),
}

impl Machine {
    /// `root` is the root of the file system.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { groups: Groups::new(root.clone()), root, looks: VecDeque::new() }
    }

    /// Reads everything once.
    pub(super) fn look(&mut self, now: MonoTime) -> MachineReading {
        let memory = self.memory().map_err(Unknown::Because);
        let cpu = match self.counters() {
            Ok(counters) => self.cpu(now, counters),
            Err(reason) => {
                self.looks.clear();
                Err(Unknown::Because(reason))
            }
        };
        MachineReading { cpu, memory }
    }

    fn cpu(&mut self, now: MonoTime, counters: Counters) -> Result<u8, Unknown> {
        // The oldest look that stays is the youngest one that is older than the window.
        while LOOKS_MAX <= self.looks.len() || self.looks.get(1).is_some_and(|(at, _)| WINDOW <= now.since(*at)) {
            self.looks.pop_front();
        }
        let share = match self.looks.front() {
            Some((at, before)) if WINDOW_MIN <= now.since(*at) => {
                let share = |(limit, counter): (&Limit, &Counter)| counter.share(before.get(limit), now.since(*at));
                let shares = counters.iter().map(share).collect::<Result<Vec<u8>, Unknown>>();
                // There is at least one box.
                shares.and_then(|shares| shares.into_iter().max().ok_or(Unknown::NotYet))
            }
            _ => Err(Unknown::NotYet),
        };
        if let Err(Unknown::Because(_)) = share {
            // What was counted before is of no use any more.
            self.looks.clear();
        }
        self.looks.push_back((now, counters));
        share
    }

    /// Every box around this process.
    fn counters(&mut self) -> Result<Counters, String> {
        let (pinned, online) = self.cores()?;
        let mut counters = Counters::new();
        for group in self.groups.cpu()? {
            // A quota for more cores than there are is no limit.
            if group.cores < cores_f64(online) {
                let counter = Counter { used: group.used_us, room: Room::Cores(group.cores) };
                counters.insert(Limit::Group(group.path), counter);
            }
        }
        if pinned < online {
            let used = used_by_this_process(&self.root.join("proc/self/stat"))?;
            counters.insert(Limit::PinnedCores, Counter { used, room: Room::Cores(cores_f64(pinned)) });
        }
        if counters.is_empty() {
            counters.insert(Limit::Machine, used_by_all(&self.root.join("proc/stat"))?);
        }
        Ok(counters)
    }

    /// How many cores this process may run on, and how many there are.
    fn cores(&self) -> Result<(u64, u64), String> {
        let status = self.root.join("proc/self/status");
        let text = existing_text(&status)?;
        let allowed = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = allowed.ok_or_else(|| format!("{} has no line `Cpus_allowed_list`", status.display()))?;
        let allowed = core_ranges(&status, allowed)?;
        let list = self.root.join("sys/devices/system/cpu/online");
        let online = core_ranges(&list, &existing_text(&list)?)?;
        // What is allowed includes cores that may be plugged in some day.
        match (cores_in_both(&allowed, &online), cores_in_both(&online, &online)) {
            (0, _) => Err(format!("{} allows no core that {} has", status.display(), list.display())),
            cores => Ok(cores),
        }
    }

    fn memory(&mut self) -> Result<u8, String> {
        let limited = self.groups.memory()?;
        let meminfo = self.root.join("proc/meminfo");
        let total = number_of(&meminfo, "MemTotal:");
        // A limit above what there is is none. Where it is not known what there is, the limit is all that is known.
        let bites = |limit_bytes: u64| total.as_ref().map_or(true, |total| limit_bytes / 1024 < *total);
        let shares = limited.iter().filter(|group| bites(group.limit_bytes));
        let fullest = shares.filter_map(|group| percent_of(group.used_bytes, group.limit_bytes)).max();
        if let Some(fullest) = fullest {
            return Ok(fullest);
        }
        let total = total?;
        let available = number_of(&meminfo, "MemAvailable:")?;
        let used = total.checked_sub(available);
        used.and_then(|used| percent_of(used, total))
            .ok_or_else(|| strange(&meminfo, &format!("{available} of {total}")))
    }
}

impl Counter {
    /// The share used since `before`, `elapsed` ago. A box that was not there before has none yet.
    fn share(self, before: Option<&Self>, elapsed: Micros) -> Result<u8, Unknown> {
        let before = before.ok_or(Unknown::NotYet)?;
        let room = match (self.room, before.room) {
            (Room::Counted(room), Room::Counted(room_before)) => room.checked_sub(room_before),
            (Room::Cores(cores), _) => Some(room_us(elapsed, cores)),
            (Room::Counted(_), Room::Cores(_)) => None,
        };
        let share = self.used.checked_sub(before.used).and_then(|used| percent_of(used, room?));
        share.ok_or_else(|| Unknown::Because("the kernel's count of CPU time stands still or went back".to_owned()))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float saturates as an integer, and the window times the cores of a machine is far below 2^53"
)]
fn room_us(elapsed: Micros, cores: f64) -> u64 {
    (elapsed.get() as f64 * cores) as u64
}

#[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 cores")]
fn cores_f64(cores: u64) -> f64 {
    cores as f64
}

/// CPU time of this process in microseconds.
fn used_by_this_process(path: &Path) -> Result<u64, String> {
    let text = existing_text(path)?;
    // The second field is the name of the program in brackets, which may hold anything, brackets too.
    let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let mut ticks = fields.into_iter().flatten().skip(11).map(str::parse::<u64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(user.saturating_add(system).saturating_mul(TICK_US)),
        _ => Err(strange(path, &text)),
    }
}

/// CPU time of the whole machine in ticks: that in which a core worked, of all.
fn used_by_all(path: &Path) -> Result<Counter, String> {
    let text = existing_text(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what guests used is in `user` already. What another machine stole
    // counts as used: it is not there for us.
    let ticks = line.split_whitespace().take(8).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>();
    match ticks.as_deref() {
        Ok(ticks @ [_, _, _, idle, iowait, ..]) => {
            let all: u64 = ticks.iter().fold(0, |sum, part| sum.saturating_add(*part));
            Ok(Counter { used: all.saturating_sub(idle.saturating_add(*iowait)), room: Room::Counted(all) })
        }
        _ => Err(strange(path, line)),
    }
}
