//! Tests of `replay`: what a sound file gives, and what is said of every other.

use std::io;

use shoal_core::id::{BatchId, BootId, JobId, NodeId};
use shoal_core::node::{Arrival, Effect, Input, Node, RowVerdict, Rules, Source};
use shoal_core::time::{Micros, MonoTime};

use super::*;

const JOBS: u64 = 40;

/// The lines of a lone node's run: it gets ready, serves [`JOBS`] callers, and leaves.
fn recording() -> Vec<String> {
    let (node_id, boot, rules, seed) = (NodeId::new("here").unwrap(), BootId(1), Rules::default(), 7);
    let mut node = Node::new(node_id.clone(), boot, rules.clone(), seed);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (build, state) = ("test".to_owned(), Box::new(node.clone()));
    let header = Header { format: FORMAT, version, build, node_id, boot, seed, rules, wall_clock_unix_ms: 0, state };
    let mut entries = vec![Entry::Header(Box::new(header))];
    let mut now = MonoTime::START;
    let mut step = |input: Input| {
        now = now + Micros::from_ms(1);
        let mut effects = Vec::new();
        node.step(now, input.clone(), &mut effects);
        entries.push(Entry::Step { at: now, input, effects: effects.clone() });
        effects
    };
    step(Input::EngineReady { units: 16, took: Micros::from_ms(5) });
    for job in 1..=JOBS {
        let deadline = MonoTime::from_micros(60_000_000);
        let (job, source, units) = (JobId(job), Source::Caller, [5].into());
        let (client, session, explain) = (0, None, false);
        let arrival = Arrival { job, source, units, bytes: 9, deadline, client, session, explain };
        let effects = step(Input::Arrived(arrival));
        let Some(Effect::Run { batch, .. }) = effects.first() else { panic!("an idle device: {effects:?}") };
        step(Input::BatchDone { batch: *batch, took: Micros::new(3001), rows: vec![RowVerdict::Done] });
    }
    entries.push(Entry::End { reason: EndReason::Left });
    entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect()
}

fn judge(lines: &[String]) -> Result<Judgement> {
    replay(Path::new("f"), lines.concat().as_bytes())
}

#[test]
fn a_sound_recording_is_equal_and_counted() {
    let judgement = judge(&recording()).unwrap();
    assert_eq!((judgement.verdict, judgement.end, judgement.torn), (Verdict::Equal, Some(EndReason::Left), false));
    let json = serde_json::to_value(&judgement).unwrap();
    assert_eq!((&json["verdict"], &json["steps"], &json["node_id"]), (&"equal".into(), &81.into(), &"here".into()));
    let text = judgement.to_text();
    for words in ["node here, run 1", "81 steps", "ends with the node's leaving", "equal: the core"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn what_a_killed_process_leaves_is_replayed_up_to_its_last_whole_line() {
    let mut lines = recording();
    lines.truncate(50);
    let last = lines.last_mut().unwrap();
    last.truncate(last.len() / 2);
    let judgement = judge(&lines).unwrap();
    assert_eq!((judgement.verdict, judgement.end, judgement.torn), (Verdict::Equal, None, true));
    assert_eq!((judgement.totals.entries, judgement.totals.steps), (49, 48));
    assert!(
        judgement.to_text().contains("killed, or failed, or still runs; half a last line"),
        "{}",
        judgement.to_text()
    );
}

#[test]
fn a_recording_without_a_decision_proves_nothing() {
    let judgement = judge(&recording()[..1]).unwrap();
    assert_eq!(judgement.verdict, Verdict::Empty);
    assert!(judgement.to_text().contains("proves nothing"), "{}", judgement.to_text());
}

#[test]
fn one_number_that_was_changed_is_found_and_shown_with_what_came_before() {
    let mut lines = recording();
    // The answer to job 20 is entry 42: header, readiness, two entries a job.
    lines[41] = lines[41].replacen("\"placements\":1", "\"placements\":2", 1);
    let judgement = judge(&lines).unwrap();
    assert_eq!(judgement.verdict, Verdict::Diverged);
    let json = serde_json::to_value(&judgement).unwrap();
    let told = &json["divergence"]["other"];
    assert_eq!((&told["entry"], &told["at"]), (&42.into(), &41_000.into()));
    let placements = |side: &str| told["difference"]["effects"][side][0]["Finish"]["placements"].clone();
    assert_eq!((placements("recorded"), placements("replayed")), (2.into(), 1.into()));
    let text = judgement.to_text();
    for words in
        ["diverged at entry 42, 0.041000 s", "\n  41        {\"step\"", "effect 1 on", "recorded  [", "core      ["]
    {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn a_recording_that_no_machine_could_make_is_a_divergence_and_no_crash() {
    let mut lines = recording();
    let impossible = Input::BatchDone { batch: BatchId(999), took: Micros::ZERO, rows: Vec::new() };
    let step = Entry::Step { at: MonoTime::from_micros(1500), input: impossible, effects: Vec::new() };
    lines.insert(2, serde_json::to_string(&step).unwrap() + "\n");
    let judgement = judge(&lines).unwrap();
    assert_eq!(judgement.verdict, Verdict::Diverged);
    let text = judgement.to_text();
    assert!(text.contains("entry 3: the core refuses {\"step\"") && text.contains("it says"), "{text}");
}

#[test]
fn what_is_no_recording_is_told_with_its_line() {
    let sound = recording();
    let with = |at: usize, line: &str| {
        let mut lines = sound.clone();
        lines[at] = line.to_owned();
        lines.concat()
    };
    let of_format = |format: u32| format!("{{\"header\":{{\"format\":{format},\"all\":\"new\"}}}}\n");
    let newer = format!("format {}, and this program reads format {FORMAT}", FORMAT + 1);
    let cases = [
        (String::new(), "f is empty"),
        ("{\"header\"".to_owned(), "f breaks off in its first line"),
        ("hello\n".to_owned(), "f, line 1: this is no header"),
        ("\u{0}\u{1}\n".to_owned(), "f, line 1: this is no header"),
        (of_format(FORMAT + 1), &newer),
        (of_format(FORMAT), "f, line 1: this is no header of a recording: missing field"),
        (with(0, ""), "f, line 1: this is no header"),
        (with(2, "{\"step\":5}\n"), "f, line 3: this is no entry"),
        (with(2, "\n"), "f, line 3: this is no entry"),
        (with(2, &sound[0]), "f, line 3: an entry of kind `header`"),
        (with(2, &sound[2].replacen("\"at\":2000", "\"at\":999", 1)), "f, line 3: time goes back from 1000 to 999"),
        (sound.concat() + &sound[81], "f, line 84: an entry of kind `step` where nothing more"),
    ];
    for (text, expected) in cases {
        let fault = format!("{:#}", replay(Path::new("f"), text.as_bytes()).unwrap_err());
        assert!(fault.contains(expected), "{expected} is not in: {fault}");
    }
}

#[test]
fn a_line_without_an_end_does_not_fill_the_memory() {
    let endless = BufReader::new(io::repeat(b'x'));
    let fault = replay(Path::new("f"), endless).unwrap_err().to_string();
    assert!(fault.contains("longer than 67108864 bytes"), "{fault}");
}

#[test]
fn a_file_that_is_none_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for (path, expected) in [(directory.path().join("gone"), "cannot be read"), (directory.path().into(), "is no file")]
    {
        let fault = format!("{:#}", run(&Options { file: path.clone(), json: false }).unwrap_err());
        assert!(fault.contains(expected) && fault.contains(&path.display().to_string()), "{fault}");
    }
}
