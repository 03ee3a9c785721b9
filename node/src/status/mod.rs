//! `shoal status`: every node of the shoal in one table, asked for at any one of them.
//!
//! For `main`. `survey` asks, `said` reads without trust, `merge` puts the answers together, `findings` judges them,
//! `table` and JSON show them; everything but `survey` and this file is pure.
//! Invariants: one node that hangs costs one second, whatever the shoal's size; nothing that a node says steers the
//! terminal; the exit code says whether all is well.
//! Not here: the answer of a node (`listen`, from the view of `shell`).

mod changes;
mod findings;
mod merge;
mod said;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use self::changes::{Change, changes};
use self::merge::{Report, merge};
use self::survey::survey;
use self::table::table;
use crate::clock::unix_ms;

/// Exit code when the first node could not be asked.
const NOT_ASKED: u8 = 1;
/// Exit code when something is not well.
const UNWELL: u8 = 3;
/// Changes that stay on the screen.
const CHANGES_SHOWN: usize = 10;
/// Moves to the first line; ends a line, and what stood behind it; and all that stood below.
const SCREEN_TOP: &str = "\x1b[H";
const LINE_END: &str = "\x1b[K\n";
const SCREEN_END: &str = "\x1b[J";

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The public door of any node.
    pub api: SocketAddr,
    /// JSON, one object a line, instead of a table.
    pub json: bool,
    /// Ask again after this time, without end.
    pub watch: Option<Duration>,
}

/// One look, as `--json` writes it.
#[derive(Serialize)]
struct Look<'a> {
    at_unix_ms: u64,
    #[serde(flatten)]
    report: &'a Report,
    /// Since the look before; none on the first.
    changes: &'a [Change],
}

/// Asks and shows. Returns the exit code: 0 = all is well, 1 = the first node could not be asked, 3 = something is not
/// well. With [`Options::watch`] it ends when nobody reads any more, with the code of the last look.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(looks(options))),
        Err(fault) => {
            complain(&format!("no runtime: {fault}"));
            ExitCode::from(NOT_ASKED)
        }
    }
}

async fn looks(options: &Options) -> u8 {
    let mut screen = Screen::new(options);
    let mut before: Option<Report> = None;
    loop {
        let code = match survey(options.api).await {
            Ok(gathered) => {
                let report = merge(&gathered);
                let changed = before.as_ref().map_or_else(Vec::new, |before| changes(before, &report));
                let code = if report.well { 0 } else { UNWELL };
                if !screen.show(&report, &changed) {
                    return code;
                }
                before = Some(report);
                code
            }
            Err(why) => {
                screen.clear();
                complain(&format!("{}: {why}", options.api));
                NOT_ASKED
            }
        };
        let Some(pause) = options.watch else { return code };
        tokio::time::sleep(pause).await;
    }
}

/// Where looks are shown, one after another.
struct Screen {
    json: bool,
    watches: bool,
    /// The same lines are written again and again, instead of new ones below.
    redraws: bool,
    pages: u64,
    /// The last changes, each with its time, newest last.
    changes: VecDeque<String>,
}

impl Screen {
    fn new(options: &Options) -> Self {
        let watches = options.watch.is_some();
        let redraws = watches && !options.json && io::stdout().is_terminal();
        Self { json: options.json, watches, redraws, pages: 0, changes: VecDeque::new() }
    }

    /// Returns whether somebody still reads.
    fn show(&mut self, report: &Report, changed: &[Change]) -> bool {
        let now = unix_ms();
        let text = if self.json {
            let look = Look { at_unix_ms: now, report, changes: changed };
            let line = serde_json::to_string(&look).expect("texts, numbers and lists always have a JSON form");
            format!("{line}\n")
        } else {
            self.page(report, changed, now)
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// What stands there is not so any more. A writer that is gone is noticed by the next look.
    fn clear(&self) {
        if self.redraws {
            let _ = io::stdout().write_all(format!("{SCREEN_TOP}{SCREEN_END}").as_bytes());
        }
    }

    fn page(&mut self, report: &Report, changed: &[Change], now: u64) -> String {
        let mut page = String::new();
        if !self.redraws && 0 < self.pages {
            page.push('\n');
        }
        self.pages += 1;
        let time = text::time_of_day(now);
        if self.watches {
            page.push_str(&format!("{time}\n"));
        }
        page.push_str(&table(report));
        self.changes.extend(changed.iter().map(|change| format!("{time}  {}\n", change.line())));
        let older = self.changes.len().saturating_sub(CHANGES_SHOWN);
        self.changes.drain(..older);
        if !self.changes.is_empty() {
            page.push_str("\nChanges:\n");
            page.extend(self.changes.iter().map(String::as_str));
        }
        if self.redraws {
            return format!("{SCREEN_TOP}{}{SCREEN_END}", page.replace('\n', LINE_END));
        }
        // Whoever reads a log of looks has the older changes above.
        self.changes.clear();
        page
    }
}

fn complain(text: &str) {
    // With no standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "shoal: {text}");
}
