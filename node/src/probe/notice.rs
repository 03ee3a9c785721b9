//! The log lines of the probe: one for each change, with what it means for the one who runs the node.
//!
//! For the probe's own thread.
//! Invariants: what stays the same is said once; what flaps is said at most once in [`PAUSE`], the newest word wins.

use shoal_core::time::{Micros, MonoTime};
use tracing::{info, warn};

use super::machine::Unknown;
use super::watch::ANSWER_LIMIT;
use crate::sample::GpuState;

/// Shortest time between two lines on one subject.
const PAUSE: Micros = Micros::from_ms(5000);

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Notices {
    gpu: Said<(GpuState, String)>,
    cpu: Said<Option<String>>,
    memory: Said<Option<String>>,
}

impl Notices {
    /// `reason` is that of the last answer, which a call that hangs did not give.
    pub(super) fn gpu(&mut self, now: MonoTime, state: GpuState, reason: String) {
        let reason = if state == GpuState::Hung { String::new() } else { reason };
        if state == GpuState::Unread || !self.gpu.is_news(now, &(state, reason.clone())) {
            return;
        }
        match state {
            GpuState::Unread => {}
            GpuState::Present => info!(devices = reason, "GPUs are read: the load of this node is that of the busiest"),
            GpuState::Absent => {
                info!(reason, "no GPU: the load of this node is its share of the CPU and memory of this machine");
            }
            GpuState::Broken => warn!(
                reason,
                "a GPU cannot be read: the load of this node counts as unknown, neither idle nor busy, until it can"
            ),
            GpuState::Hung => warn!(
                waited_ms = ANSWER_LIMIT.to_ms_ceil(),
                "the NVIDIA driver does not answer: the load of this node counts as unknown until it does; at a start, \
                 while GPUs wake up, this is harmless, and nvidia-persistenced prevents it"
            ),
        }
    }

    pub(super) fn cpu(&mut self, now: MonoTime, share: &Result<u8, Unknown>) {
        self.cpu.share(now, "CPU", share);
    }

    pub(super) fn memory(&mut self, now: MonoTime, share: &Result<u8, Unknown>) {
        self.memory.share(now, "memory", share);
    }
}

/// What was said last on one subject.
#[derive(Debug)]
struct Said<T> {
    last: Option<(MonoTime, T)>,
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<T: Clone + PartialEq> Said<T> {
    /// Whether `word` is to be said now.
    fn is_news(&mut self, now: MonoTime, word: &T) -> bool {
        if self.last.as_ref().is_some_and(|(at, last)| last == word || now.since(*at) < PAUSE) {
            return false;
        }
        self.last = Some((now, word.clone()));
        true
    }
}

impl Said<Option<String>> {
    /// Says why a share is unknown, and when it is known again; not that all is well from the start.
    fn share(&mut self, now: MonoTime, what: &str, share: &Result<u8, Unknown>) {
        let reason = match share {
            Ok(_) => None,
            Err(Unknown::Because(reason)) => Some(reason.clone()),
            Err(Unknown::NotYet) => return,
        };
        if (self.last.is_none() && reason.is_none()) || !self.is_news(now, &reason) {
            return;
        }
        match reason {
            None => info!("the {what} share of this process is known again"),
            Some(reason) => warn!(reason, "the {what} share of this process is unknown, and counts as such"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `says` logs.
    fn lines(says: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, says);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_micros(seconds * 1_000_000)
    }

    #[track_caller]
    fn assert_lines(lines: &[String], expected: &[&[&str]]) {
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, words) in lines.iter().zip(expected) {
            assert!(words.iter().all(|word| line.contains(word)), "{words:?} not in {line}");
        }
    }

    #[test]
    fn each_state_is_said_once_with_its_reason() {
        let lines = lines(|| {
            let mut notices = Notices::default();
            let states = [
                (GpuState::Unread, ""),
                (GpuState::Present, "GPU-a"),
                (GpuState::Broken, "GPU-a: lost"),
                (GpuState::Hung, "GPU-a: lost"),
                (GpuState::Absent, "no library"),
            ];
            for (turn, (state, reason)) in (0..).zip(states) {
                for second in 0..9 {
                    notices.gpu(at(turn * 10 + second), state, reason.to_owned());
                }
            }
        });
        let expected: [&[&str]; 4] = [
            &["INFO", "GPUs are read", "GPU-a"],
            &["WARN", "cannot be read", "counts as unknown", "GPU-a: lost"],
            &["WARN", "does not answer", "counts as unknown", "waited_ms=1000"],
            &["INFO", "no GPU", "no library", "share of the CPU"],
        ];
        assert_lines(&lines, &expected);
        assert!(!lines[2].contains("lost"), "a hung driver gave no reason: {}", lines[2]);
    }

    #[test]
    fn what_flaps_is_said_once_in_five_seconds_and_the_newest_word_wins() {
        let lines = lines(|| {
            let mut notices = Notices::default();
            for tenth in 0..=50 {
                let state = if tenth % 2 == 0 { GpuState::Present } else { GpuState::Broken };
                notices.gpu(MonoTime::from_micros(tenth * 100_000), state, "a".to_owned());
            }
            notices.gpu(at(6), GpuState::Broken, "a".to_owned());
        });
        assert_lines(&lines, &[&["GPUs are read"], &["cannot be read"]]);
    }

    #[test]
    fn an_unknown_share_is_said_with_its_reason_and_its_return_too() {
        let lines = lines(|| {
            let mut notices = Notices::default();
            let missing = || Unknown::Because("cpu.stat is not there".to_owned());
            notices.cpu(at(0), &Err(Unknown::NotYet));
            notices.cpu(at(1), &Ok(5));
            notices.cpu(at(2), &Err(missing()));
            notices.cpu(at(9), &Err(missing()));
            notices.memory(at(9), &Ok(5));
            notices.cpu(at(10), &Ok(5));
            notices.cpu(at(20), &Ok(6));
        });
        assert_lines(&lines, &[&["WARN", "CPU share", "cpu.stat is not there"], &["INFO", "CPU share", "known again"]]);
    }
}
