//! What a process uses of the machine, as the kernel counts it.
//!
//! For the drills and benchmarks. Read from `/proc`, so nothing has to be built into the process, and looking costs
//! it nothing.
//! Invariants: a process that has ended is an error, never a zero.

use std::fs;

use anyhow::{Context, Result};

use crate::process_time;

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
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let (rss_mb, rss_anon_mb) = memory(&status).with_context(|| format!("{path} is not as expected"))?;
        Ok(Self { cpu_s: process_time::of(pid)?.as_secs_f64(), rss_mb, rss_anon_mb })
    }
}

/// The resident set and the part of it that is the process's own, in units of 10^6 bytes.
fn memory(status: &str) -> Option<(f64, f64)> {
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024.0 / 1e6)
    };
    Some((megabytes("VmRSS")?, megabytes("RssAnon")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_by_its_name_and_what_is_not_understood_is_no_zero() {
        let status = "Name:\tshoal\nVmRSS:\t   10000 kB\nRssAnon:\t    2000 kB\n";
        assert_eq!(memory(status), Some((10.24, 2.048)));
        for broken in ["", "VmRSS:\t 10000 kB\n", "VmRSS:\t 10000\nRssAnon:\t 2000 kB\n"] {
            assert_eq!(memory(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_none_is_an_error() {
        let own = Usage::of(std::process::id()).unwrap();
        assert!(0.1 < own.rss_mb && own.rss_anon_mb <= own.rss_mb, "{own:?}");
        // Larger than any id that Linux gives.
        let fault = format!("{:#}", Usage::of(u32::MAX).unwrap_err());
        assert!(fault.contains("/proc/4294967295/status"), "{fault}");
    }
}
