//! How much CPU time a process has used, read from `/proc`.
//!
//! For the benchmarks, which take differences. All threads of a process count, and with [`with_children`] its children
//! too: a balancer is a parent that waits and workers that work.
//! Invariants: the resolution is one tick of the kernel's clock (10 ms on most systems), so a difference is worth
//! something only over seconds; a process that is gone is an error, never 0.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// What one process has used.
///
/// # Errors
/// There is no such process, or `/proc` cannot be read.
pub(crate) fn of(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let stat = parse(&text).ok_or_else(|| anyhow!("{path} is not as expected: {}", text.trim_end()))?;
    Ok(in_seconds(stat.ticks))
}

/// What a process and its children have used; not the children of those.
///
/// # Errors
/// As [`of`]. A child that ends meanwhile is left out.
pub(crate) fn with_children(process: u32) -> Result<Duration> {
    let mut used = of(process)?;
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(other) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(format!("/proc/{other}/stat")) else { continue };
        if let Some(stat) = parse(&text).filter(|stat| stat.parent == process) {
            used += in_seconds(stat.ticks);
        }
    }
    Ok(used)
}

fn in_seconds(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// In user mode and in the kernel together.
    ticks: u64,
}

/// One line of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold anything, spaces
/// and parentheses too, so fields are counted from the last `)` on: parent is field 4, times are fields 14 and 15.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(4)?).ok()?, ticks: number(14)?.checked_add(number(15)?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        for name in ["nginx", "a b", "a) S 9 9 (b", ""] {
            let line = format!("12 ({name}) S 7 12 12 0 -1 4194560 100 0 0 0 250 17 3 4 20 0 1 0 99 1000 10\n");
            assert_eq!(parse(&line), Some(Stat { parent: 7, ticks: 267 }), "{name}");
        }
    }

    #[test]
    fn a_line_that_breaks_off_is_no_line() {
        for line in ["", "12 (nginx", "12 (nginx) S 7 12", "12 (nginx) S 7 12 12 0 -1 4194560 100 0 0 0 250"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn this_process_uses_time_and_a_process_that_is_not_there_is_an_error() {
        let own = std::process::id();
        let before = of(own).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while of(own).unwrap() == before {
            assert!(std::time::Instant::now() < deadline, "no time was counted");
        }
        // Above the largest process id that Linux can be told to use.
        assert!(of(1 << 23).is_err());
    }

    #[test]
    fn the_time_of_a_child_counts_for_its_parent() {
        let spin = "while :; do :; done";
        let mut child = std::process::Command::new("/bin/sh").args(["-c", spin]).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let tenth = Duration::from_millis(100);
        let own = std::process::id();
        while of(child.id()).unwrap() < tenth {
            assert!(std::time::Instant::now() < deadline, "the child did not run");
        }
        // The own time is read first: it can only grow until both are read together.
        let alone = of(own).unwrap();
        let together = with_children(own).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alone + tenth <= together, "{alone:?} alone, {together:?} together");
    }
}
