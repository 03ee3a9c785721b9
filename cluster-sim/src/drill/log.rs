//! What the nodes wrote into their logs while a drill ran: jobs that were cut short, and deaths that were announced.
//!
//! For `stage`. The nodes run with [`LOG_LEVEL`]. Only whole lines count, and only two kinds of them.
//! Invariants: a line that does not parse is skipped, because a log may hold anything; a file of more than
//! [`LOG_BYTES_MAX`] is an error, not a memory full of text.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::evidence::Told;

/// With this the nodes say when a job that was handed on is cut short.
pub(crate) const LOG_LEVEL: &str = "info,shoal::shell::effects=debug";
/// Longest log that is read.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// Reads what all nodes wrote; times become those of the load, which began at `epoch_unix_us`.
///
/// # Errors
/// A log cannot be read, or is too long.
pub(crate) fn read_logs(logs: &[PathBuf], epoch_unix_us: u64) -> Result<Told> {
    let mut told = Told::default();
    for log in logs.iter().filter(|log| log.exists()) {
        read_log(log, epoch_unix_us, &mut told).with_context(|| format!("reading {}", log.display()))?;
    }
    Ok(told)
}

fn read_log(log: &Path, epoch_unix_us: u64, told: &mut Told) -> Result<()> {
    let file = std::fs::File::open(log)?;
    let bytes = file.metadata()?.len();
    ensure!(bytes <= LOG_BYTES_MAX, "it has {bytes} bytes, more than {LOG_BYTES_MAX}");
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Ok(line) = std::str::from_utf8(&line) else { continue };
        let Some((unix_us, rest)) = stamp(line) else { continue };
        let Some(peer) = field(rest, "peer") else { continue };
        let alive = field(rest, "alive").filter(|_| rest.contains(": peer peer="));
        told.of_peers += u64::from(alive.is_some());
        // What was written before the load began is of the start.
        let Some(at_us) = unix_us.checked_sub(epoch_unix_us) else { continue };
        // What could not even be sent was at no node.
        if rest.contains(": a forward broke ") && rest.contains("fault=the connection broke") {
            told.broke.push((at_us, peer.to_owned()));
        } else if alive == Some("false") {
            told.called_dead.push((at_us, peer.to_owned()));
        }
    }
    Ok(())
}

/// The value of `name=value` up to the next space.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Microseconds since 1970 of `2026-01-31T23:59:59.123456Z`, and the rest of the line.
fn stamp(line: &str) -> Option<(u64, &str)> {
    let (stamp, rest) = line.split_once(' ')?;
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.')?;
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = ((days_since_1970(year, month, day)? * 24 + hour) * 60 + minute) * 60 + second;
    Some((seconds * 1_000_000 + micros, rest))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let years: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let months = before[usize::try_from(month - 1).ok()?] + u64::from(2 < month && leap(year));
    Some(years + months + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_microseconds_since_1970() {
        for (text, expected) in [
            ("1970-01-01T00:00:00.000001Z x", Some(1)),
            ("2000-03-01T00:00:00.5Z x", Some(951_868_800_500_000)),
            ("2026-11-21T07:07:23.123456Z x", Some(1_795_244_843_123_456)),
            ("2026-11-21 07:07:23 x", None),
            ("2026-13-21T07:07:23.1Z x", None),
            ("", None),
        ] {
            assert_eq!(stamp(text).map(|(at, _)| at), expected, "{text}");
        }
    }

    #[test]
    fn deaths_and_broken_forwards_are_read_and_all_else_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("node.log");
        let text = "\
1970-01-01T00:00:10.000000Z  INFO shoal::shell: peer peer=node-2 alive=true engine=ready peer_addr=127.0.0.1:1
1970-01-01T00:00:11.000000Z  INFO shoal::shell: peer peer=node-2 alive=false engine=ready peer_addr=127.0.0.1:1
nonsense
1970-01-01T00:00:12.000000Z DEBUG shoal::shell::effects: a forward broke peer=node-3 fault=the connection broke: reset
1970-01-01T00:00:12.500000Z DEBUG shoal::shell::effects: a forward broke peer=node-3 fault=no connection: refused
1970-01-01T00:00:13.000000Z DEBUG shoal::shell::effects: something else peer=node-3
";
        std::fs::write(&log, text.replace("00:00:10.000000Z", "00:00:08.999999Z").replace("alive=true", "alive=false"))
            .unwrap();
        let told = read_logs(&[log, directory.path().join("none.log")], 9_000_000).unwrap();
        assert_eq!(told.called_dead, [(2_000_000, "node-2".to_owned())]);
        assert_eq!(told.broke, [(3_000_000, "node-3".to_owned())]);
        assert_eq!(told.of_peers, 2, "that of the start too");
    }
}
