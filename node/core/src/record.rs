//! What one machine was told and what it answered, written down, and the same driven again.
//!
//! For the shell, which records a real process; for `cluster-sim replay` and the tests, which hold the recording
//! against the core. What is recorded are [`Input`] and [`Effect`], which name jobs by number: texts and vectors never
//! reach the machine, so they cannot reach a recording.
//! Invariants: entries in one order only, [`Header`] first; driven again, they give the recorded effects, or the first
//! difference is told; whatever is fed, the [`Replayer`] holds one machine and the last [`CONTEXT_MAX`] entries.
//! Not here: files, lines, queues (`node/src/record.rs`, `cluster-sim/src/replay.rs`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, NodeId};
use crate::load::Report;
use crate::node::{Effect, Input, Node, Rules};
use crate::time::MonoTime;

/// The version of the entries' form. A change that an older reader would misread raises it.
pub const FORMAT: u32 = 4;
/// Longest entry in its written form. A state with all the jobs that a node holds by default needs a few MiB.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;
/// Most entries before a difference that are told with it.
pub const CONTEXT_MAX: usize = 4;

/// One line of a recording.
// Tagged from outside: any other tagging makes serde hold numbers in between, and its holder has no 128 bits for the
// state of the chance in a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// What was recorded, and from where it started. The first entry, and only that.
    Header(Box<Header>),
    /// The machine took one event.
    Step {
        /// When.
        at: MonoTime,
        /// What happened.
        input: Input,
        /// What the machine made of it.
        effects: Vec<Effect>,
    },
    /// The machine was asked for its load outside an event, which counts as one more report.
    Report {
        /// When.
        at: MonoTime,
        /// What it said.
        report: Report,
    },
    /// Entries are missing: they came faster than they could be written.
    Gap {
        /// How many.
        dropped: u64,
    },
    /// The whole machine after a gap, from which a replay goes on.
    State {
        /// When.
        at: MonoTime,
        /// The machine.
        node: Box<Node>,
    },
    /// The recording ended by intention. Without this entry the process was killed, or failed.
    End {
        /// Why.
        reason: EndReason,
    },
}

impl Entry {
    /// What an entry is called where it is out of place.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::Step { .. } => "step",
            Self::Report { .. } => "report",
            Self::Gap { .. } => "gap",
            Self::State { .. } => "state",
            Self::End { .. } => "end",
        }
    }
}

/// What was recorded, and from where it started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// Version of the program.
    pub version: String,
    /// How the program was built: profile and platform, for people.
    pub build: String,
    /// The node.
    pub node_id: NodeId,
    /// The run of its process.
    pub boot: BootId,
    /// The seed of all chance in the machine.
    pub seed: u64,
    /// The settings of the decisions.
    pub rules: Rules,
    /// The wall clock at the first entry, in milliseconds since 1970. For people; all other times are of the process.
    pub wall_clock_unix_ms: u64,
    /// The machine before its first event.
    pub state: Box<Node>,
}

/// The part of a header that every format has, so that a reader can say that a recording is too new for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preface {
    /// As in [`Entry::Header`], the rest left out.
    Header {
        /// As in [`Header::format`].
        format: u32,
    },
}

/// Why a recording ended by intention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The node left.
    Left,
    /// The file was as large as it may become.
    Full,
    /// The file could not be written any more. Told only if that could still be written.
    WriteFailed,
}

/// How much was replayed, as far as it was equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Entries of every kind.
    pub entries: u64,
    /// Events.
    pub steps: u64,
    /// Effects of those events.
    pub effects: u64,
    /// Reports outside events.
    pub reports: u64,
    /// Gaps.
    pub gaps: u64,
    /// Entries that the gaps count as missing.
    pub dropped: u64,
    /// States after gaps.
    pub states: u64,
}

/// The first place at which the core decided otherwise than the recorded process.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// Number of the entry, counted from 1: in a file, its line.
    pub entry: u64,
    /// When, by the clock of the recorded process.
    pub at: MonoTime,
    /// What differs.
    pub difference: Difference,
    /// The steps and reports before it, oldest first, with their numbers: at most [`CONTEXT_MAX`].
    pub before: Vec<(u64, Entry)>,
}

/// What differs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The effects of an event.
    Effects {
        /// The event.
        input: Input,
        /// What the process did.
        recorded: Vec<Effect>,
        /// What the core does.
        replayed: Vec<Effect>,
        /// Position of the first effect that differs, or is missing on one side, counted from 1.
        first: usize,
    },
    /// What the machine says of its load.
    Report {
        /// What the process said.
        recorded: Report,
        /// What the core says.
        replayed: Report,
    },
}

/// What became of one entry.
#[derive(Clone, Debug)]
#[must_use = "a divergence that nobody looks at was not found"]
pub enum Replayed {
    /// The core does what was recorded.
    Equal,
    /// It does not.
    Diverged(Box<Divergence>),
}

/// Why entries are no recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was written by a program with another form of entries.
    #[error("format {0} is not known here, only format {FORMAT}: replay it with the version that recorded it")]
    Format(u32),
    /// An entry is where none of its kind can be.
    #[error("an entry of kind `{found}` where {expected} has to be")]
    Misplaced {
        /// Its kind.
        found: &'static str,
        /// What may be there.
        expected: &'static str,
    },
    /// A later entry is of an earlier moment, which no process writes.
    #[error("time goes back from {} to {} µs", .from.as_micros(), .to.as_micros())]
    TimeGoesBack {
        /// Of the entry before.
        from: MonoTime,
        /// Of the entry.
        to: MonoTime,
    },
}

/// Drives a machine by a recording and holds what it does against what was recorded.
#[derive(Debug)]
pub struct Replayer {
    machine: Machine,
    now: MonoTime,
    totals: Totals,
    before: VecDeque<(u64, Entry)>,
    effects: Vec<Effect>,
}

/// Where a replay is.
#[derive(Debug)]
enum Machine {
    /// No entry came yet.
    Unborn,
    Running(Box<Node>),
    /// What it did since is not known.
    Lost,
    /// No entry may come any more.
    Over(Option<EndReason>),
}

impl Default for Replayer {
    fn default() -> Self {
        Self {
            machine: Machine::Unborn,
            now: MonoTime::START,
            totals: Totals::default(),
            before: VecDeque::new(),
            effects: Vec::new(),
        }
    }
}

impl Replayer {
    /// Takes the next entry.
    ///
    /// After a divergence or an error the replay is over, and every further entry is an error. A recording that was
    /// tampered with may break the promises that callers of [`Node::step`] give; then that panics, as it does for them.
    ///
    /// # Errors
    /// [`ReplayError`]: the entry cannot follow those before it.
    pub fn feed(&mut self, entry: Entry) -> Result<Replayed, ReplayError> {
        // Over, unless the entry turns out to be sound and equal.
        let machine = std::mem::replace(&mut self.machine, Machine::Over(None));
        let number = self.totals.entries + 1;
        self.machine = match (machine, entry) {
            (Machine::Unborn, Entry::Header(header)) if header.format == FORMAT => Machine::Running(header.state),
            (Machine::Unborn, Entry::Header(header)) => return Err(ReplayError::Format(header.format)),
            (Machine::Running(mut node), Entry::Step { at, input, effects }) => {
                self.move_to(at)?;
                self.effects.clear();
                node.step(at, input.clone(), &mut self.effects);
                if self.effects != effects {
                    let replayed = std::mem::take(&mut self.effects);
                    let alike = effects.iter().zip(&replayed).take_while(|(recorded, replayed)| recorded == replayed);
                    let first = alike.count() + 1;
                    return Ok(self.diverged(Difference::Effects { input, recorded: effects, replayed, first }));
                }
                self.totals.steps += 1;
                self.totals.effects += effects.len() as u64;
                self.remember(number, Entry::Step { at, input, effects });
                Machine::Running(node)
            }
            (Machine::Running(mut node), Entry::Report { at, report: recorded }) => {
                self.move_to(at)?;
                let replayed = node.report(at);
                if replayed != recorded {
                    return Ok(self.diverged(Difference::Report { recorded, replayed }));
                }
                self.totals.reports += 1;
                self.remember(number, Entry::Report { at, report: recorded });
                Machine::Running(node)
            }
            (Machine::Running(_), Entry::Gap { dropped }) => {
                self.totals.gaps += 1;
                self.totals.dropped = self.totals.dropped.saturating_add(dropped);
                self.before.clear();
                Machine::Lost
            }
            (Machine::Lost, Entry::State { at, node }) => {
                self.move_to(at)?;
                self.totals.states += 1;
                Machine::Running(node)
            }
            (Machine::Running(_) | Machine::Lost, Entry::End { reason }) => Machine::Over(Some(reason)),
            (machine, entry) => {
                return Err(ReplayError::Misplaced { found: entry.name(), expected: machine.expects() });
            }
        };
        self.totals.entries = number;
        Ok(Replayed::Equal)
    }

    /// What was replayed and found equal.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The moment of the last entry, by the clock of the recorded process.
    #[must_use]
    pub fn now(&self) -> MonoTime {
        self.now
    }

    /// Why the recording ended; `None` while it did not say so.
    #[must_use]
    pub fn end(&self) -> Option<EndReason> {
        match self.machine {
            Machine::Over(reason) => reason,
            Machine::Unborn | Machine::Running(_) | Machine::Lost => None,
        }
    }

    fn move_to(&mut self, at: MonoTime) -> Result<(), ReplayError> {
        if at < self.now {
            return Err(ReplayError::TimeGoesBack { from: self.now, to: at });
        }
        self.now = at;
        Ok(())
    }

    fn remember(&mut self, number: u64, entry: Entry) {
        if self.before.len() == CONTEXT_MAX {
            self.before.pop_front();
        }
        self.before.push_back((number, entry));
    }

    fn diverged(&mut self, difference: Difference) -> Replayed {
        let before = std::mem::take(&mut self.before).into();
        Replayed::Diverged(Box::new(Divergence { entry: self.totals.entries + 1, at: self.now, difference, before }))
    }
}

impl Machine {
    fn expects(&self) -> &'static str {
        match self {
            Self::Unborn => "the header",
            Self::Running(_) => "a step, report, gap or end",
            Self::Lost => "a state or end",
            Self::Over(_) => "nothing more",
        }
    }
}

#[cfg(test)]
mod tests;
