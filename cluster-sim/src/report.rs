//! What the tool says: text or JSON on standard output, progress on standard error.
//!
//! For every command. In JSON mode standard output carries one JSON object a line and nothing else, so that a script
//! can read it while the tool runs; progress and complaints go to standard error in both modes.
//! Not here: what the numbers mean (`drill::judge`, `bench::skew`).

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Exit code of a run that proved nothing.
pub(crate) const PROVED_NOTHING: u8 = 3;
/// The verdict of a benchmark that met its goal.
pub(crate) const GOAL_MET: &str = "goal met";
/// The verdict of a benchmark beside balancers that are not there.
pub(crate) const NOT_JUDGED: &str = "not judged: there was nothing to compare with";

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    json: bool,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// A line for people; nothing in JSON mode.
    ///
    /// # Errors
    /// Standard output cannot be written, for example because the reader of a pipe has left.
    pub(crate) fn line(self, text: impl Display) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// One JSON object on a line of its own; nothing in text mode.
    ///
    /// # Errors
    /// As [`Report::line`].
    pub(crate) fn json(self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        writeln!(out)?;
        out.flush()
    }
}

/// One line on standard error that says how far a wait has come.
///
/// On a terminal the line is rewritten in place; elsewhere it is a new line, at most one a second.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    silent: bool,
    shown: String,
    shown_at: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), silent: false, shown: String::new(), shown_at: None }
    }

    /// Shows nothing, for a wait within something that shows its own.
    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::new() }
    }

    /// Shows `text` if it is not what is shown already. A progress line that cannot be written is no reason to stop.
    pub(crate) fn show(&mut self, text: String) {
        let too_soon = self.shown_at.is_some_and(|at| at.elapsed() < Duration::from_secs(1));
        if self.silent || text == self.shown || (too_soon && !self.terminal) {
            return;
        }
        let mut err = io::stderr().lock();
        let _ = if self.terminal { write!(err, "\r\x1b[2K{text}") } else { writeln!(err, "{text}") };
        let _ = err.flush();
        self.shown = text;
        self.shown_at = Some(Instant::now());
    }

    /// Takes the line away, so that what comes next starts on an empty one.
    pub(crate) fn clear(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K");
            let _ = err.flush();
        }
        self.shown.clear();
    }
}

/// A remark on standard error, in both modes.
pub(crate) fn remark(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns as wide as their widest cell, two spaces apart, no space at the end of a line.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let gap = width.saturating_sub(cell.chars().count()) + 2;
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', gap));
        }
        text.truncate(text.trim_end().len());
        text
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["node-1".to_owned(), "2".to_owned()], vec!["n".to_owned(), "15".to_owned()]];
        assert_eq!(table(&["node", "peers"], &rows), "node    peers\nnode-1  2\nn       15");
    }
}
