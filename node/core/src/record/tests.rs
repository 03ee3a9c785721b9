//! Tests of `record`: what is written down, driven again, is the same, and what is not is told.

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
    for (from, to, entry) in [("\"took\":4068", "\"took\":94068", 4), ("\"job\":2,\"outcome", "\"job\":3,\"outcome", 6)]
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
    let Some(Divergence { entry: 4, difference: Difference::Effects { first, replayed, .. }, .. }) = divergence else {
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
    let Some(Divergence { entry: 2, difference: Difference::Report { recorded, replayed }, .. }) = divergence else {
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
    let newer = Entry::Header(Box::new(Header { format: FORMAT + 1, ..*header }));
    assert_eq!(Replayer::default().feed(newer.clone()).unwrap_err(), ReplayError::Format(FORMAT + 1));
    let preface: Preface = serde_json::from_str(&written(&[newer])[0]).unwrap();
    assert_eq!(preface, Preface::Header { format: FORMAT + 1 });
    let mut pen = Pen::new();
    pen.step(Input::Tick);
    pen.now = MonoTime::from_micros(776);
    pen.report();
    let mut replayer = Replayer::default();
    let fault = pen.entries.into_iter().find_map(|entry| replayer.feed(entry).err()).unwrap();
    assert_eq!(fault.to_string(), "time goes back from 777 to 776 µs");
}
