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
pub const FORMAT: u32 = 1;
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
mod tests {
    use super::*;

    use std::sync::Arc;

    use crate::id::JobId;
    use crate::node::{Arrival, RowVerdict, Source};
    use crate::time::Micros;

    /// Writes what a machine does, as a process would.
    struct Pen {
        node: Node,
        now: MonoTime,
        entries: Vec<Entry>,
    }

    impl Pen {
        fn new() -> Self {
            let (node_id, boot, rules, seed) = (NodeId::new("here").unwrap(), BootId(1), Rules::default(), 7);
            let node = Node::new(node_id.clone(), boot, rules.clone(), seed);
            let header = Header {
                format: FORMAT,
                version: "0.0.0".to_owned(),
                build: "test".to_owned(),
                node_id,
                boot,
                seed,
                rules,
                wall_clock_unix_ms: 0,
                state: Box::new(node.clone()),
            };
            Self { node, now: MonoTime::START, entries: vec![Entry::Header(Box::new(header))] }
        }

        fn step(&mut self, input: Input) -> Vec<Effect> {
            self.now = self.now + Micros::new(777);
            let mut effects = Vec::new();
            self.node.step(self.now, input.clone(), &mut effects);
            self.entries.push(Entry::Step { at: self.now, input, effects: effects.clone() });
            effects
        }

        fn report(&mut self) {
            let report = self.node.report(self.now);
            self.entries.push(Entry::Report { at: self.now, report });
        }

        /// One job of `units`, run at once in a time that no whole number of milliseconds divides.
        fn job(&mut self, job: u64, units: u32) {
            let effects = self.step(Input::Arrived(Arrival {
                job: JobId(job),
                source: Source::Caller,
                units: Arc::from([units]),
                bytes: 100,
                deadline: self.now + Micros::from_ms(1000),
                client: 0,
                session: None,
                explain: false,
            }));
            let Some(Effect::Run { batch, .. }) = effects.first() else { panic!("an idle device: {effects:?}") };
            let (batch, took, rows) = (*batch, Micros::new(3001 + u64::from(units) * 97), vec![RowVerdict::Done]);
            self.step(Input::BatchDone { batch, took, rows });
        }

        /// Some entries that nobody wrote, and the state after them.
        fn gap(&mut self, steps: usize) {
            let kept = self.entries.len();
            (0..steps).for_each(|_| drop(self.step(Input::Tick)));
            let dropped = (self.entries.len() - kept) as u64;
            self.entries.truncate(kept);
            self.entries.push(Entry::Gap { dropped });
            self.entries.push(Entry::State { at: self.now, node: Box::new(self.node.clone()) });
        }

        fn end(mut self) -> Vec<Entry> {
            self.entries.push(Entry::End { reason: EndReason::Left });
            self.entries
        }
    }

    /// 3 jobs, a report, a gap, 50 jobs, the end.
    fn recording() -> Vec<Entry> {
        let mut pen = Pen::new();
        pen.step(Input::EngineReady { units: 16, took: Micros::from_ms(5) });
        (1..=3).for_each(|job| pen.job(job, 11));
        pen.report();
        pen.gap(3);
        (4..=53).for_each(|job| pen.job(job, 1 + u32::try_from(job).unwrap() % 9));
        pen.end()
    }

    /// Where the entries stop being equal, and the replay up to there.
    fn replay(entries: impl IntoIterator<Item = Entry>) -> (Replayer, Option<Divergence>) {
        let mut replayer = Replayer::default();
        for entry in entries {
            match replayer.feed(entry).unwrap() {
                Replayed::Equal => {}
                Replayed::Diverged(divergence) => return (replayer, Some(*divergence)),
            }
        }
        (replayer, None)
    }

    /// As a file has them.
    fn written(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect()
    }

    fn read(lines: &[String]) -> Vec<Entry> {
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_recording_that_was_written_and_read_is_equal_to_its_last_bit() {
        let lines = written(&recording());
        let (replayer, divergence) = replay(read(&lines));
        assert!(divergence.is_none(), "{divergence:?}");
        let totals = replayer.totals();
        let effects = totals.effects;
        // Header, readiness, two steps a job, report, gap, state, end.
        let expected = Totals { entries: 112, steps: 107, effects, reports: 1, gaps: 1, dropped: 3, states: 1 };
        assert_eq!((totals, replayer.end()), (expected, Some(EndReason::Left)));
        assert!(106 <= effects, "every job runs and finishes: {effects}");
    }

    #[test]
    fn a_state_keeps_every_bit_of_what_was_learned() {
        let mut pen = Pen::new();
        pen.step(Input::EngineReady { units: 16, took: Micros::from_ms(5) });
        for job in 1..=200 {
            pen.job(job, 1 + u32::try_from(job).unwrap() % 9);
            pen.gap(0);
        }
        let lines = written(&pen.entries);
        for (number, (again, line)) in written(&read(&lines)).iter().zip(&lines).enumerate() {
            assert_eq!(again, line, "entry {number}");
        }
    }

    #[test]
    fn every_number_of_an_event_that_matters_is_noticed_where_it_first_shows() {
        // What a batch took decides the next load that is told; which job finishes is in the effects themselves.
        for (from, to, entry) in
            [("\"took\":4068", "\"took\":94068", 4), ("\"job\":2,\"outcome", "\"job\":3,\"outcome", 6)]
        {
            let mut lines = written(&recording());
            let touched = lines.iter().position(|line| line.contains(from)).unwrap();
            lines[touched] = lines[touched].replacen(from, to, 1);
            let (replayer, divergence) = replay(read(&lines));
            let divergence = divergence.unwrap_or_else(|| panic!("{from} was not noticed"));
            assert!(entry <= divergence.entry && divergence.entry < 10, "{from}: {divergence:?}");
            assert_eq!(divergence.entry, replayer.totals().entries + 1);
            let numbers: Vec<u64> = divergence.before.iter().map(|(number, _)| *number).collect();
            assert!(!numbers.is_empty() && numbers.len() <= CONTEXT_MAX, "{numbers:?}");
            assert_eq!(numbers.last(), Some(&(divergence.entry - 1)));
        }
    }

    #[test]
    fn the_first_effect_that_differs_is_named_also_when_one_is_missing() {
        let mut entries = recording();
        let Entry::Step { effects, .. } = &mut entries[3] else { panic!("a step") };
        let recorded = effects.len();
        effects.pop();
        let (_, divergence) = replay(entries);
        let Some(Divergence { entry: 4, difference: Difference::Effects { first, replayed, .. }, .. }) = divergence
        else {
            panic!("{divergence:?}")
        };
        assert_eq!((first, replayed.len()), (recorded, recorded));
    }

    #[test]
    fn a_report_that_was_not_recorded_is_missed_by_the_next_one() {
        let mut pen = Pen::new();
        pen.report();
        pen.report();
        pen.entries.remove(1);
        let (_, divergence) = replay(pen.entries);
        let Some(Divergence { entry: 2, difference: Difference::Report { recorded, replayed }, .. }) = divergence
        else {
            panic!("{divergence:?}")
        };
        assert_eq!((recorded.seq, replayed.seq), (2, 1));
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let entries = recording();
        let at = |name: &str| entries.iter().find(|entry| entry.name() == name).unwrap().clone();
        let header = at("header");
        let cases: &[(&[&str], &str)] = &[
            (&["step"], "kind `step` where the header"),
            (&["header", "header"], "kind `header` where a step, report, gap or end"),
            (&["header", "state"], "kind `state` where a step"),
            (&["header", "gap", "step"], "kind `step` where a state or end"),
            (&["header", "gap", "gap"], "kind `gap` where a state or end"),
            (&["header", "end", "step"], "kind `step` where nothing more"),
            (&["header", "state", "end"], "kind `state`"),
        ];
        for (names, expected) in cases {
            let mut replayer = Replayer::default();
            let fault = names.iter().find_map(|name| replayer.feed(at(name)).err()).unwrap().to_string();
            assert!(fault.contains(expected), "{names:?}: {fault}");
            // And it stays over.
            assert!(replayer.feed(header.clone()).is_err());
        }
    }

    #[test]
    fn another_format_and_time_that_goes_back_are_refused() {
        let Entry::Header(header) = recording().swap_remove(0) else { panic!("the header") };
        let newer = Entry::Header(Box::new(Header { format: 2, ..*header }));
        assert_eq!(Replayer::default().feed(newer.clone()).unwrap_err(), ReplayError::Format(2));
        let preface: Preface = serde_json::from_str(&written(&[newer])[0]).unwrap();
        assert_eq!(preface, Preface::Header { format: 2 });
        let mut pen = Pen::new();
        pen.step(Input::Tick);
        pen.now = MonoTime::from_micros(776);
        pen.report();
        let mut replayer = Replayer::default();
        let fault = pen.entries.into_iter().find_map(|entry| replayer.feed(entry).err()).unwrap();
        assert_eq!(fault.to_string(), "time goes back from 777 to 776 µs");
    }
}
