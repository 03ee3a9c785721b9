//! `cluster-sim replay`: the decisions of a recorded node, taken again by the same core.
//!
//! For whoever asks whether a process really decided as `shoal_core` does, or why it decided so. A recording is made by
//! `shoal serve --record FILE`; its form and the comparison are `shoal_core::record`.
//! Invariants: the file is read a line at a time, and a line has a bound; a line without its end is what a killed
//! process leaves, and is left out; whatever else is wrong in a file is told with its line.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use shoal_core::record::{
    Difference, Divergence, ENTRY_BYTES_MAX, EndReason, Entry, FORMAT, Header, Preface, Replayed, Replayer, Totals,
};

use crate::report::{PROVED_NOTHING, Report, remark};

/// Most characters of one value that are shown to people; JSON has all of them.
const SHOWN_CHARS_MAX: usize = 2000;

/// Take the decisions of a recorded node again, and see whether they are the same
///
/// Exit code 0: every decision is the same; 1: one is not (the first is shown), or the file cannot be replayed (the
/// reason is on standard error); 3: the file holds no decision.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Recording of one run of a node, made by `shoal serve --record FILE`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    json: bool,
}

/// # Errors
/// The file cannot be read, or is no recording of a format that is known here.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Options { file: path, json } = options;
    let reading = || format!("{} cannot be read", path.display());
    let file = File::open(path).with_context(reading)?;
    ensure!(file.metadata().with_context(reading)?.is_file(), "{} is no file", path.display());
    let judgement = replay(path, BufReader::with_capacity(1 << 20, file))?;
    let output = Report::new(*json);
    output.json(&judgement)?;
    output.line(judgement.to_text())?;
    Ok(match judgement.verdict {
        Verdict::Equal => ExitCode::SUCCESS,
        Verdict::Diverged => ExitCode::FAILURE,
        Verdict::Empty => ExitCode::from(PROVED_NOTHING),
    })
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The core does everything that was recorded.
    Equal,
    /// It does something else.
    Diverged,
    /// There was nothing to do.
    Empty,
}

/// One replay, as it is printed.
#[derive(Debug, Serialize)]
struct Judgement {
    verdict: Verdict,
    file: PathBuf,
    #[serde(flatten)]
    origin: Origin,
    #[serde(flatten)]
    totals: Totals,
    /// Time that the replayed entries span, in microseconds.
    span_us: u64,
    /// `None`: the file ends without a word.
    end: Option<EndReason>,
    /// The last line had no end and was left out.
    torn: bool,
    divergence: Option<Mismatch>,
}

/// Who was recorded.
#[derive(Debug, Serialize)]
struct Origin {
    format: u32,
    version: String,
    build: String,
    node_id: String,
    boot: u64,
    seed: u64,
    wall_clock_unix_ms: u64,
}

impl Origin {
    fn of(header: &Header) -> Self {
        Self {
            format: header.format,
            version: header.version.clone(),
            build: header.build.clone(),
            node_id: header.node_id.to_string(),
            boot: header.boot.0,
            seed: header.seed,
            wall_clock_unix_ms: header.wall_clock_unix_ms,
        }
    }
}

/// Where the core does not do what was recorded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mismatch {
    /// It does something else.
    Other(Box<Divergence>),
    /// It breaks one of its invariants, and stops.
    Panic { entry: u64, input: Box<Entry>, message: String },
}

/// Replays what `lines` hold; `path` is for messages.
fn replay(path: &Path, mut lines: impl BufRead) -> Result<Judgement> {
    let name = path.display();
    let mut line = Vec::new();
    ensure!(
        next_line(&mut lines, &mut line)?,
        "{name} is empty: the process ended, or the disk was full, before anything was written"
    );
    ensure!(
        line.ends_with(b"\n"),
        "{name} breaks off in its first line: the process was killed there, or this is no recording"
    );
    let header = header(&line).with_context(|| format!("{name}, line 1"))?;
    let origin = Origin::of(&header);
    let own = env!("CARGO_PKG_VERSION");
    if header.version != own {
        let theirs = &header.version;
        remark(format_args!("recorded by {theirs}, replayed by {own}: a difference may be a rule that changed"));
    }

    let mut replayer = Replayer::default();
    let mut entry = Entry::Header(header);
    let mut torn = false;
    let divergence = loop {
        let number = replayer.totals().entries + 1;
        let at_line = || format!("{name}, line {number}");
        if let Some(mismatch) = feed(&mut replayer, entry).with_context(at_line)? {
            break Some(mismatch);
        }
        let at_line = || format!("{name}, line {}", number + 1);
        if !next_line(&mut lines, &mut line).with_context(at_line)? {
            break None;
        }
        if !line.ends_with(b"\n") {
            torn = true;
            break None;
        }
        entry = serde_json::from_slice(&line).context("this is no entry of a recording").with_context(at_line)?;
    };
    let totals = replayer.totals();
    let verdict = match divergence {
        Some(_) => Verdict::Diverged,
        None if totals.steps == 0 => Verdict::Empty,
        None => Verdict::Equal,
    };
    let span_us = replayer.now().as_micros();
    Ok(Judgement { verdict, file: path.to_owned(), origin, totals, span_us, end: replayer.end(), torn, divergence })
}

/// Reads the next line, its end included, into `line`. Returns whether there was any.
pub(crate) fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool> {
    line.clear();
    // A whole machine is rare, and its room is not kept.
    line.shrink_to(1 << 20);
    let bytes_max = ENTRY_BYTES_MAX as u64 + 1;
    let read = lines.take(bytes_max).read_until(b'\n', line)?;
    ensure!((read as u64) < bytes_max, "it is longer than {ENTRY_BYTES_MAX} bytes: this is no recording");
    Ok(0 < read)
}

fn header(line: &[u8]) -> Result<Box<Header>> {
    let preface = serde_json::from_slice(line).context("this is no header of a recording")?;
    let Preface::Header { format } = preface;
    ensure!(
        format == FORMAT,
        "the recording has format {format}, and this program reads format {FORMAT}: use the `cluster-sim` of the \
         version that recorded it"
    );
    match serde_json::from_slice(line).context("this is no header of a recording")? {
        Entry::Header(header) => Ok(header),
        entry => bail!("this is a {}, no header", entry.name()),
    }
}

/// Gives one entry to the machine. A machine that is told what cannot be panics, and then the recording was not made by
/// one like it.
fn feed(replayer: &mut Replayer, entry: Entry) -> Result<Option<Mismatch>> {
    let number = replayer.totals().entries + 1;
    let kept = entry.clone();
    match catch_unwind(AssertUnwindSafe(|| replayer.feed(entry))) {
        Ok(Ok(Replayed::Equal)) => Ok(None),
        Ok(Ok(Replayed::Diverged(divergence))) => Ok(Some(Mismatch::Other(divergence))),
        Ok(Err(fault)) => Err(fault.into()),
        Err(panic) => {
            Ok(Some(Mismatch::Panic { entry: number, input: Box::new(kept), message: words_of(panic.as_ref()) }))
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

impl Judgement {
    fn to_text(&self) -> String {
        let Self { origin, totals, .. } = self;
        let Totals { entries, steps, effects, reports, gaps, dropped, states } = totals;
        let mut text = format!(
            "node {}, run {}, shoal {} ({}), seed {}\n{entries} entries over {:.3} s: {steps} steps with {effects} \
             effects, {reports} reports, {gaps} gaps ({dropped} entries missing), {states} states\n",
            origin.node_id,
            origin.boot,
            origin.version,
            origin.build,
            origin.seed,
            self.span_us as f64 / 1e6,
        );
        if self.divergence.is_none() {
            text.push_str(match self.end {
                Some(EndReason::Left) => "ends with the node's leaving",
                Some(EndReason::Full) => "ends because the file was as long as it may become (record.bytes_max)",
                Some(EndReason::WriteFailed) => "ends because the file could not be written any more",
                None => "ends without a word: the process was killed, or failed, or still runs",
            });
            text.push_str(if self.torn { "; half a last line was left out\n" } else { "\n" });
        }
        text.push_str(&match (&self.divergence, self.verdict) {
            (Some(mismatch), _) => mismatch.to_text(),
            (None, Verdict::Empty) => "nothing was decided in it: this proves nothing".to_owned(),
            (None, Verdict::Equal | Verdict::Diverged) => "equal: the core takes every decision again".to_owned(),
        });
        text
    }
}

impl Mismatch {
    fn to_text(&self) -> String {
        match self {
            Self::Panic { entry, input, message } => {
                format!("diverged at entry {entry}: the core refuses {}\n  it says   {message}", shown(input))
            }
            Self::Other(divergence) => {
                let Divergence { entry, at, difference, before } = &**divergence;
                let mut text =
                    format!("diverged at entry {entry}, {:.6} s after the start\n", at.as_micros() as f64 / 1e6);
                for (number, entry) in before {
                    text.push_str(&format!("  {number:<9} {}\n", shown(entry)));
                }
                text.push_str(&match difference {
                    Difference::Effects { input, recorded, replayed, first } => format!(
                        "  input     {}\n  recorded  {}\n  core      {}\n  they differ from effect {first} on",
                        shown(input),
                        shown(recorded),
                        shown(replayed)
                    ),
                    Difference::Report { recorded, replayed } => {
                        format!("  a report of load\n  recorded  {}\n  core      {}", shown(recorded), shown(replayed))
                    }
                });
                text
            }
        }
    }
}

/// A value as in the file, cut where it is very long.
fn shown(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("what was read from JSON can be written as JSON");
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}
