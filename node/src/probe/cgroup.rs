//! The control groups that this process is in, and what they limit: version 1, version 2, and both side by side.
//!
//! For `machine`. A container, a systemd unit or a pod gives its processes less than the machine has; a limit may be on
//! any group from the process's own up to the outermost one that can be seen from here.
//! Invariants: where the files contradict each other or do not parse there is an error with the file's name, never a
//! guess; a group without a limit is told apart from one whose limit cannot be read.
//! Not here: rates (`machine`).
//! Source: the kernel's documents `cgroup-v1` and `cgroup-v2`, and proc(5) on `mountinfo` and `cgroup`.

use std::path::{Component, Path, PathBuf};

use super::files::{existing_text, number, number_of, strange, text};

/// Deepest nesting that is followed.
const LEVELS_MAX: usize = 64;
/// A memory limit from here on is version 1's way to say that there is none.
const UNLIMITED_FROM: u64 = 1 << 60;

/// A group with a limit on CPU time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CpuGroup {
    pub(super) path: PathBuf,
    /// How many cores' worth of time the group may use; above 0.
    pub(super) cores: f64,
    /// CPU time used so far by the group and those below it, in microseconds.
    pub(super) used_us: u64,
}

/// A group with a limit on memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryGroup {
    /// Above 0.
    pub(super) limit_bytes: u64,
    /// In use by the group and those below it, without file cache that nobody used lately: the kernel drops that before
    /// it refuses memory, and mapped weights would else make every node look full.
    pub(super) used_bytes: u64,
}

/// Finds the groups of this process.
#[derive(Debug)]
pub(super) struct Groups {
    root: PathBuf,
    /// Read once: the list is long on a host of many containers, and cgroups are not mounted anew.
    mounts: Option<Vec<Mount>>,
}

/// A mounted hierarchy of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Which group of the hierarchy is at `point`.
    group: PathBuf,
    point: PathBuf,
    /// Of version 1; `None` = version 2.
    controllers: Option<Vec<String>>,
}

/// A hierarchy, and this process's place in it.
struct Hierarchy {
    is_v2: bool,
    /// The process's own group first, the outermost one that can be seen last.
    groups: Vec<PathBuf>,
}

impl Groups {
    /// `root` is the root of the file system.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, mounts: None }
    }

    /// Every group above this process that limits CPU time.
    pub(super) fn cpu(&mut self) -> Result<Vec<CpuGroup>, String> {
        let Some(cpu) = self.hierarchy("cpu")? else { return Ok(Vec::new()) };
        // Version 1 counts time in a hierarchy that may be another one, with groups of the same names.
        let counting = if cpu.is_v2 { None } else { self.hierarchy("cpuacct")? };
        let mut limited = Vec::new();
        for (depth, group) in cpu.groups.iter().enumerate() {
            let Some(cores) = (if cpu.is_v2 { cores_v2(group)? } else { cores_v1(group)? }) else { continue };
            let used_us = match &counting {
                None if cpu.is_v2 => number_of(&group.join("cpu.stat"), "usage_usec")?,
                None => return Err("time is limited by cgroup v1, but cpuacct, which counts it, is not mounted".into()),
                Some(counting) => {
                    let same = counting.groups.get(depth).filter(|_| counting.groups.len() == cpu.groups.len());
                    let group = same.ok_or("the cgroup v1 hierarchies cpu and cpuacct do not match")?;
                    let file = group.join("cpuacct.usage");
                    number(&file, &existing_text(&file)?)? / 1000
                }
            };
            limited.push(CpuGroup { path: group.clone(), cores, used_us });
        }
        Ok(limited)
    }

    /// Every group above this process that limits memory.
    pub(super) fn memory(&mut self) -> Result<Vec<MemoryGroup>, String> {
        let Some(memory) = self.hierarchy("memory")? else { return Ok(Vec::new()) };
        let [limit, used, cache] = if memory.is_v2 {
            ["memory.max", "memory.current", "inactive_file"]
        } else {
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        };
        let mut limited = Vec::new();
        for group in &memory.groups {
            let file = group.join(limit);
            // The outermost group has no such file.
            let Some(text) = text(&file)?.filter(|text| text.trim() != "max") else { continue };
            let limit_bytes = number(&file, &text)?;
            if limit_bytes == 0 {
                return Err(strange(&file, &text));
            }
            if limit_bytes < UNLIMITED_FROM {
                let file = group.join(used);
                let held_bytes = number(&file, &existing_text(&file)?)?;
                let cached_bytes = number_of(&group.join("memory.stat"), cache)?;
                limited.push(MemoryGroup { limit_bytes, used_bytes: held_bytes.saturating_sub(cached_bytes) });
            }
        }
        Ok(limited)
    }

    /// The hierarchy that limits `controller`, if one does.
    fn hierarchy(&mut self, controller: &str) -> Result<Option<Hierarchy>, String> {
        let memberships = self.root.join("proc/self/cgroup");
        let Some(memberships) = text(&memberships)? else { return Ok(None) };
        let mounts = match self.mounts.take() {
            Some(mounts) => mounts,
            None => read_mounts(&self.root)?,
        };
        let found = find(controller, &memberships, &mounts, &self.root);
        if found.is_ok() {
            self.mounts = Some(mounts);
        }
        found
    }
}

/// Where in which hierarchy the process is. A controller of version 1 is used there and nowhere else.
fn find(controller: &str, memberships: &str, mounts: &[Mount], root: &Path) -> Result<Option<Hierarchy>, String> {
    let place = |wanted: &dyn Fn(&str) -> bool| {
        memberships.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            (wanted(controllers) && path.starts_with('/')).then_some(path)
        })
    };
    let is_mounted = |wanted: &dyn Fn(&Mount) -> bool| mounts.iter().any(wanted);
    let serves = |mount: &Mount| mount.controllers.iter().flatten().any(|name| name == controller);
    let v1 = place(&|names| names.split(',').any(|name| name == controller)).filter(|_| is_mounted(&serves));
    let v2 = place(&str::is_empty).filter(|_| is_mounted(&|mount| mount.controllers.is_none()));
    let (is_v2, path) = match (v1, v2) {
        (Some(path), _) => (false, path),
        (None, Some(path)) => (true, path),
        (None, None) => return Ok(None),
    };
    let fitting = mounts.iter().filter(|mount| if is_v2 { mount.controllers.is_none() } else { serves(mount) });
    // One hierarchy may be mounted twice, in part or whole; any mount that shows the own group will do.
    let groups = fitting.filter_map(|mount| groups_below(mount, Path::new(path), root)).find(|it| it[0].is_dir());
    let groups = groups.ok_or_else(|| format!("the cgroup {path} of this process cannot be seen from here"))?;
    Ok(Some(Hierarchy { is_v2, groups }))
}

/// The directories from the group `path` up to the point of the mount; at least one.
fn groups_below(mount: &Mount, path: &Path, root: &Path) -> Option<Vec<PathBuf>> {
    let below = path.strip_prefix(&mount.group).ok()?;
    // `..` leads out of what this process may see.
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    let levels = below.components().count() + 1;
    if !is_plain || LEVELS_MAX < levels {
        return None;
    }
    let own = root.join(mount.point.strip_prefix("/").ok()?).join(below);
    Some(own.ancestors().take(levels).map(Path::to_owned).collect())
}

fn read_mounts(root: &Path) -> Result<Vec<Mount>, String> {
    let list = existing_text(&root.join("proc/self/mountinfo"))?;
    Ok(list.lines().filter_map(mount).collect())
}

/// A line of `mountinfo`, if it is one of a hierarchy of groups.
fn mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (group, point) = (unescaped(place.next()?)?, unescaped(place.next()?)?);
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => Some(kind.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(Mount { group: PathBuf::from(group), point: PathBuf::from(point), controllers })
}

/// The kernel writes white space and backslashes as a backslash and three octal digits.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('\\');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        plain.push(char::from(u8::from_str_radix(digits, 8).ok()?));
        plain.push_str(rest);
    }
    Some(plain)
}

/// How many cores' worth of time `quota` in each `period` is.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a quota are far below 2^53")]
fn cores(quota: u64, period: u64) -> Option<f64> {
    (0 < quota && 0 < period).then(|| quota as f64 / period as f64)
}

fn cores_v2(group: &Path) -> Result<Option<f64>, String> {
    let file = group.join("cpu.max");
    // The outermost group has no such file, nor has one whose parent does not share out CPU time.
    let Some(text) = text(&file)? else { return Ok(None) };
    let mut words = text.split_whitespace();
    let (quota, period) = (words.next(), words.next().and_then(|period| period.parse().ok()));
    match (quota, period) {
        (Some("max"), _) => Ok(None),
        (Some(quota), Some(period)) => {
            let cores = quota.parse().ok().and_then(|quota| cores(quota, period));
            cores.map(Some).ok_or_else(|| strange(&file, &text))
        }
        _ => Err(strange(&file, &text)),
    }
}

fn cores_v1(group: &Path) -> Result<Option<f64>, String> {
    let file = group.join("cpu.cfs_quota_us");
    let Some(quota) = text(&file)?.filter(|text| text.trim() != "-1") else { return Ok(None) };
    let period_file = group.join("cpu.cfs_period_us");
    let period = number(&period_file, &existing_text(&period_file)?)?;
    cores(number(&file, &quota)?, period).map(Some).ok_or_else(|| strange(&file, &quota))
}
