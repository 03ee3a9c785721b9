//! What a person sees while a model is fetched: bars on a terminal, plain lines elsewhere.
//!
//! For `models`. Everything goes to standard error; standard output belongs to the result.
//! Invariants: a log file gets a line per step, never a bar.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bars that move; for a terminal.
    Bars,
    /// A line per step; for logs.
    Lines,
    /// Nothing; for tests.
    Silent,
}

impl Progress {
    /// Bars if standard error is a terminal, else lines.
    #[must_use]
    pub fn for_stderr() -> Self {
        if io::stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }

    /// Says one thing.
    pub(super) fn line(self, text: &str) {
        if self != Self::Silent {
            // With no standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Shows the way of one file; `bytes_total` = 0 if it is not known.
    pub(super) fn file(self, name: &str, bytes_total: u64, bytes_done: u64) -> Bar {
        let from = if bytes_done == 0 { String::new() } else { format!(", going on at {bytes_done}") };
        if self == Self::Lines {
            self.line(&format!("fetching {name} ({bytes_total} bytes{from})"));
        }
        let bar = if self == Self::Bars { ProgressBar::new(bytes_total) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{msg:<28!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.set_position(bytes_done);
        Bar { bar }
    }
}

/// The way of one file.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(super) fn set(&self, bytes_done: u64) {
        self.bar.set_position(bytes_done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish();
    }
}
