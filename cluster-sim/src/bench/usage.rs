//! What a process uses of the machine, as the kernel counts it.
//!
//! For the benchmarks. Read from `/proc`, so nothing has to be built into the process and looking costs it nothing.
//! Invariants: a process that has ended is an error, never a zero.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of a second in `/proc/PID/stat`. Fixed for user programs on every Linux platform that is supported here.
const TICKS_PER_S: f64 = 100.0;

/// What one process holds, and what it used since its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Time on any core, user and system.
    pub(crate) cpu_s: f64,
    /// Resident set: its own memory, and the pages of files that it mapped and touched.
    pub(crate) rss_mb: f64,
    /// The part of it that is its own alone.
    pub(crate) rss_anon_mb: f64,
}

impl Usage {
    /// # Errors
    /// The process has ended, or the kernel's text is not as expected.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let parsed = Self::parse(&stat, &status);
        parsed.with_context(|| format!("/proc/{pid} of this kernel is not understood"))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The name is in parentheses and may hold anything, more of them included.
        let after_name = &stat[stat.rfind(')')? + 1..];
        let mut fields = after_name.split_ascii_whitespace().skip(11).map(str::parse::<f64>);
        let ticks = fields.next()?.ok()? + fields.next()?.ok()?;
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024.0 / 1e6)
        };
        let (rss_mb, rss_anon_mb) = (megabytes("VmRSS")?, megabytes("RssAnon")?);
        Some(Self { cpu_s: ticks / TICKS_PER_S, rss_mb, rss_anon_mb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tshoal\nVmRSS:\t   10000 kB\nRssAnon:\t    2000 kB\n";

    #[test]
    fn the_times_are_found_behind_any_name() {
        for name in ["shoal", "a b", "x) 1 2 (y"] {
            let stat = format!("77 ({name}) S 1 77 77 0 -1 4194560 600 0 3 0 150 50 7 9 20 0 3 0 100 1 2 3");
            let expected = Usage { cpu_s: 2.0, rss_mb: 10.24, rss_anon_mb: 2.048 };
            assert_eq!(Usage::parse(&stat, STATUS), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_zero() {
        let stat = "77 (shoal) S 1 77 77 0 -1 4194560 600 0 3 0 150 50 7 9";
        for (stat, status) in [(stat, ""), ("77 shoal S", STATUS), ("77 (shoal) S 1 77", STATUS), ("", STATUS)] {
            assert_eq!(Usage::parse(stat, status), None, "{stat:?} {status:?}");
        }
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_none_is_an_error() {
        let own = Usage::of(std::process::id()).unwrap();
        assert!(0.1 < own.rss_mb && own.rss_anon_mb <= own.rss_mb, "{own:?}");
        // Larger than any id that Linux gives.
        let fault = format!("{:#}", Usage::of(u32::MAX).unwrap_err());
        assert!(fault.contains("/proc/4294967295/stat"), "{fault}");
    }
}
