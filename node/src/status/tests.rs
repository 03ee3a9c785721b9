//! What several answers mean together: cases as data, from what the nodes say to what is found and shown.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::changes::changes;
use super::findings::Kind;
use super::merge::{Door, Fault, Gathered, Reached, Report, merge};
use super::said::tests::said;
use super::table::table;
use super::text::{Text, width};
use super::{CHANGES_SHOWN, Screen};

/// `base` with the fields of `other` in place of its own.
fn with(mut base: Value, other: &Value) -> Value {
    for (name, value) in other.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}

/// What a sound node named `id` says of itself, and of `peers`.
fn node(id: &str, peers: &[Value]) -> Value {
    json!({
        "node_id": id, "cluster": "c", "version": "0.1.0", "api_addr": format!("10.0.0.1:{}", port(id)),
        "engine": "ready", "door": "open", "can_answer": true, "gossip_runs": true, "changed_ms": 300_000,
        "model": "m@00/f32", "weight": 100, "wait_us": 0, "load_percent": 0, "held": 0, "peers": peers
    })
}

/// What is said of a sound peer named `id`.
fn peer(id: &str) -> Value {
    json!({
        "node_id": id, "api_addr": format!("10.0.0.1:{}", port(id)), "peer_addr": format!("10.0.0.1:9{}", port(id)),
        "version": "0.1.0", "alive": true, "engine": "ready", "model": "m@00/f32", "weight": 100, "gate": "passing",
        "changed_ms": 200_000, "in_flight": 0, "wait_us": 1_500, "busy_percent": 7, "held": 2
    })
}

fn dead(id: &str) -> Value {
    with(peer(id), &json!({ "alive": false, "gate": "blocking", "changed_ms": 12_345 }))
}

/// Where the node that is named by one letter has its door.
fn port(id: &str) -> u32 {
    8000 + u32::from(id.as_bytes()[0])
}

fn gathered(asked: &Value, others: Vec<(&str, Reached)>) -> Gathered {
    let others: BTreeMap<Text, Reached> = others.into_iter().map(|(id, reached)| (Text::from(id), reached)).collect();
    Gathered { asked_at: "127.0.0.1:8080".parse().unwrap(), asked: said(asked), others }
}

fn answered(body: &Value) -> Reached {
    Reached::Answered(Box::new(said(body)))
}

fn failed(fault: Fault) -> Reached {
    Reached::Failed(fault)
}

fn refused() -> Reached {
    failed(Fault::Refused(Text::from("Connection refused")))
}

/// Three nodes, of which `a` is asked; `b` and `c` answer as they would if all were well.
fn three(asked: &Value, b: Reached, c: Reached) -> Report {
    merge(&gathered(asked, vec![("b", b), ("c", c)]))
}

fn a() -> Value {
    node("a", &[peer("b"), peer("c")])
}

fn b() -> Value {
    node("b", &[peer("a"), peer("c")])
}

fn c() -> Value {
    node("c", &[peer("a"), peer("b")])
}

fn row<'a>(report: &'a Report, id: &str) -> &'a super::merge::Node {
    report.nodes.iter().find(|node| &*node.node_id == id).unwrap()
}

/// A case: its name, the report, and each finding: what, about whom, whether it is a fault.
type Case = (&'static str, Report, Vec<(Kind, &'static str, bool)>);

fn check(cases: Vec<Case>) {
    for (name, report, expected) in cases {
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|finding| (finding.kind, finding.node.as_deref().unwrap_or_default(), finding.fault))
            .collect();
        assert_eq!(found, expected, "{name}: {:#?}", report.findings);
        assert_eq!(report.well, !expected.iter().any(|(.., fault)| *fault), "{name}");
        for node in &report.nodes {
            let faulty = expected.iter().any(|(_, about, fault)| *fault && *about == &*node.node_id);
            assert_eq!(node.well, !faulty, "{name}: {}", node.node_id);
        }
        let text = table(&report);
        for finding in &report.findings {
            let told = finding.text.split(' ').next().unwrap();
            assert!(text.contains(told), "{name}: {told} is not in\n{text}");
        }
        assert!(text.lines().all(|line| width(line) <= 120), "{name}:\n{text}");
    }
}

#[test]
fn a_shoal_that_is_well_has_no_findings() {
    let starting = json!({ "engine": "starting", "model": "" });
    let leaving = json!({ "engine": "draining", "door": "settling", "can_answer": false });
    let gone = with(dead("c"), &json!({ "engine": "draining" }));
    let says_starting = with(peer("c"), &json!({ "engine": "starting", "model": "" }));
    let says_leaving = with(peer("c"), &json!({ "engine": "draining" }));
    check(vec![
        ("three", three(&a(), answered(&b()), answered(&c())), vec![]),
        ("one, which is told of no other", merge(&gathered(&node("a", &[]), vec![])), vec![]),
        (
            "three that name each other",
            three(&with(a(), &json!({ "seeds": 2 })), answered(&b()), answered(&c())),
            vec![],
        ),
        (
            "one of them starts",
            three(&node("a", &[peer("b"), says_starting]), answered(&b()), answered(&with(c(), &starting))),
            vec![],
        ),
        ("one of them leaves", three(&a(), answered(&b()), answered(&with(c(), &leaving))), vec![]),
        (
            "one of them leaves, and its door is closed",
            three(&node("a", &[peer("b"), says_leaving]), answered(&b()), refused()),
            vec![],
        ),
        (
            "one of them has left",
            three(&node("a", &[peer("b"), gone.clone()]), answered(&node("b", &[peer("a"), gone])), refused()),
            vec![(Kind::Left, "c", false)],
        ),
        (
            "a rolling update",
            three(&a(), answered(&b()), answered(&with(c(), &json!({ "version": "0.2.0" })))),
            vec![(Kind::VersionsDiffer, "", false)],
        ),
        (
            "a version that has no status",
            three(&a(), answered(&b()), failed(Fault::Old)),
            vec![(Kind::Old, "c", false)],
        ),
        (
            "another model under another name",
            three(&a(), answered(&b()), answered(&with(c(), &json!({ "model": "other@00/f32" })))),
            vec![],
        ),
    ]);
}

#[test]
fn what_is_not_well_is_found_once() {
    let starts_alone = with(node("a", &[]), &json!({ "engine": "starting", "can_answer": false }));
    let broken = json!({ "engine": "failed", "engine_message": "no weights" });
    let wedged = with(peer("c"), &json!({ "engine": "wedged" }));
    let blocked = with(peer("c"), &json!({ "gate": "probing" }));
    let paused = with(peer("c"), &json!({ "paused": true }));
    let two = |b_sees: Value| node("b", &[peer("a"), b_sees]);
    let a_sees = |c: Value| node("a", &[peer("b"), c]);
    check(vec![
        (
            "a node was killed",
            three(&a_sees(dead("c")), answered(&two(dead("c"))), refused()),
            vec![(Kind::Dead, "c", true)],
        ),
        ("nobody can answer", merge(&gathered(&starts_alone, vec![])), vec![(Kind::Shut, "a", true)]),
        (
            "an engine failed",
            three(&a(), answered(&b()), answered(&with(c(), &broken))),
            vec![(Kind::Failed, "c", true)],
        ),
        (
            "an engine is wedged, and its node does not answer",
            three(&a_sees(wedged), answered(&b()), failed(Fault::Silent)),
            vec![(Kind::Wedged, "c", true), (Kind::DoorSilent, "c", true)],
        ),
        (
            "a node is stopped, and gossip has not noticed yet",
            three(&a(), answered(&b()), failed(Fault::Silent)),
            vec![(Kind::DoorSilent, "c", true)],
        ),
        (
            "the same, and work for it got stuck",
            three(&a_sees(blocked.clone()), answered(&b()), failed(Fault::Silent)),
            vec![(Kind::DoorSilent, "c", true)],
        ),
        (
            "TCP between peers is blocked",
            three(&a_sees(blocked), answered(&b()), answered(&c())),
            vec![(Kind::Blocked, "c", true)],
        ),
        (
            "a model fails again and again",
            three(&a_sees(paused), answered(&b()), answered(&c())),
            vec![(Kind::Paused, "c", true)],
        ),
        (
            "gossip ended, and is doubted",
            three(&with(a(), &json!({ "gossip_runs": false, "doubts_gossip": true })), answered(&b()), answered(&c())),
            vec![(Kind::GossipStopped, "a", true), (Kind::GossipDoubted, "a", true)],
        ),
        (
            "nobody was found from the start",
            merge(&gathered(&with(node("a", &[]), &json!({ "seeds": 2 })), vec![])),
            vec![(Kind::Alone, "a", true)],
        ),
        (
            "another revision",
            three(&a(), answered(&b()), answered(&with(c(), &json!({ "model": "m@01/f32" })))),
            vec![(Kind::ModelsDiffer, "", true)],
        ),
        (
            "something else answers at its address",
            three(&a(), answered(&b()), failed(Fault::Garbled(Text::from("status 502")))),
            vec![(Kind::Stranger, "c", true)],
        ),
        (
            "another node answers at its address",
            three(&a(), answered(&b()), answered(&a())),
            vec![(Kind::Stranger, "c", true)],
        ),
    ]);
}

#[test]
fn disagreements_are_found_and_laid_to_whoever_does_not_hear() {
    let lost = |id| with(dead(id), &json!({ "answers_unheard": true }));
    check(vec![
        (
            "one calls it dead, one alive, and it does not answer",
            three(&node("a", &[peer("b"), dead("c")]), answered(&b()), failed(Fault::Silent)),
            vec![(Kind::ViewsDiffer, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "one does not know it",
            three(&a(), answered(&node("b", &[peer("a")])), answered(&c())),
            vec![(Kind::ViewsDiffer, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "the asked node does not know it",
            merge(&gathered(&node("a", &[peer("b")]), vec![("b", answered(&b()))])),
            vec![(Kind::ViewsDiffer, "c", true), (Kind::SizesDiffer, "", true), (Kind::NotAsked, "", false)],
        ),
        (
            "UDP from one node is blocked",
            three(&node("a", &[peer("b"), dead("c")]), answered(&node("b", &[peer("a"), dead("c")])), answered(&c())),
            vec![(Kind::Unheard, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "UDP to one node is blocked",
            three(&a(), answered(&b()), answered(&node("c", &[dead("a"), dead("b")]))),
            vec![(Kind::Isolated, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "one was found by the others and found nobody",
            three(&a(), answered(&b()), answered(&with(node("c", &[]), &json!({ "seeds": 2 })))),
            vec![(Kind::Isolated, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "UDP to and from one node is blocked",
            three(
                &node("a", &[peer("b"), dead("c")]),
                answered(&node("b", &[peer("a"), dead("c")])),
                answered(&node("c", &[dead("a"), dead("b")])),
            ),
            vec![(Kind::Isolated, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "the same, asked at that node",
            merge(&gathered(
                &node("c", &[dead("a"), dead("b")]),
                vec![
                    ("a", answered(&node("a", &[peer("b"), dead("c")]))),
                    ("b", answered(&node("b", &[peer("a"), dead("c")]))),
                ],
            )),
            vec![(Kind::Isolated, "c", true), (Kind::SizesDiffer, "", true)],
        ),
        (
            "UDP between two nodes is blocked",
            merge(&gathered(&node("a", &[dead("b")]), vec![("b", answered(&node("b", &[dead("a")])))])),
            vec![(Kind::Isolated, "a", true), (Kind::Isolated, "b", true)],
        ),
        (
            "pings are answered, gossip is silent",
            three(&node("a", &[peer("b"), lost("c")]), answered(&node("b", &[peer("a"), lost("c")])), refused()),
            vec![(Kind::Unheard, "c", true)],
        ),
        (
            "who hears nobody does not make others dead",
            three(&a(), failed(Fault::Silent), answered(&node("c", &[dead("a"), dead("b")]))),
            vec![(Kind::DoorSilent, "b", true), (Kind::Isolated, "c", true), (Kind::SizesDiffer, "", true)],
        ),
    ]);
}

#[test]
fn the_commonest_fault_is_named_with_what_to_do() {
    let report =
        three(&node("a", &[peer("b"), dead("c")]), answered(&node("b", &[peer("a"), dead("c")])), answered(&c()));
    let finding = &report.findings[0];
    assert_eq!(
        finding.text,
        "c answers at its door, but is dead for the gossip of a and b: TCP answers, gossip silent."
    );
    assert_eq!(
        finding.advice,
        "UDP is most often blocked: let it pass to and from 10.0.0.1:98099, in both directions."
    );
    assert_eq!((&*row(&report, "c").state, row(&report, "c").door), ("ready", Door::Open), "its own word counts");
}

#[test]
fn a_door_that_only_its_own_machine_reaches_is_no_fault() {
    let local = |id| with(peer(id), &json!({ "api_addr": "127.0.0.1:8080" }));
    let asked = node("a", &[local("b"), local("c")]);
    check(vec![(
        "each listens on loopback, and the asked one answers for all",
        three(&asked, answered(&a()), refused()),
        vec![(Kind::LocalDoor, "b", false), (Kind::LocalDoor, "c", false)],
    )]);
}

#[test]
fn an_older_version_that_says_little_is_shown_as_little_known() {
    let bare = json!({ "node_id": "a", "peers": [{ "node_id": "b", "api_addr": "10.0.0.1:1" }] });
    let report = merge(&gathered(&bare, vec![("b", failed(Fault::Old))]));
    assert!(report.well, "{:?}", report.findings);
    let b = row(&report, "b");
    assert_eq!((&*b.state, b.wait_us, b.weight, &b.gate, b.changed_ms), ("", None, None, &None, None));
    let text = table(&report);
    let line = text.lines().find(|line| line.trim_start().starts_with("b ")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words, ["b", "-", "old", "-", "-", "-", "-", "-", "-", "-", "-", "-"]);
}

#[test]
fn the_table_is_as_documented() {
    let busy = json!({
        "wait_us": 12_300, "load_percent": 85, "held": 31, "backup": true, "model": "minilm@0123456789abcdef/f32"
    });
    let asked = node("a", &[with(peer("b"), &json!({ "in_flight": 4 })), dead("c")]);
    let asked = with(asked, &json!({ "model": "minilm@0123456789abcdef/f32" }));
    let gone = with(dead("c"), &json!({ "model": "minilm@0123456789abcdef/f32" }));
    let asked = with(asked, &json!({ "peers": [with(peer("b"), &json!({ "in_flight": 4 })), gone] }));
    let report = three(&asked, answered(&with(node("b", &[peer("a"), dead("c")]), &busy)), refused());
    let expected = "\
c: 3 nodes, 2 ready and 1 dead; as a at 127.0.0.1:8080 sees it

   NODE  STATE  DOOR        WAIT  BUSY  HELD  SENT  GATE      CHANGED  WEIGHT  VERSION  MODEL
*  a     ready  open        0 ms    0%     0     -  -           5 min  100     0.1.0    minilm@0123456789abcdef/f32
   b     ready  open       12 ms   85%    31     4  passing     3 min  backup  0.1.0    minilm@0123456789abcdef/f32
!  c     dead   refused        -     -     -     0  blocking     12 s  100     0.1.0    minilm@0123456789abcdef/f32

! c is dead for 12 s: no node that answered hears it. The others serve without it; look at its machine and at the end of
  its log.
  The nodes that answered agree on who is alive.
";
    let told = table(&report);
    assert_eq!(told.lines().map(squeeze).collect::<Vec<_>>(), expected.lines().map(squeeze).collect::<Vec<_>>());
    let columns: Vec<usize> = told.lines().skip(2).take(4).map(|line| line.find("minilm").unwrap_or(0)).collect();
    assert_eq!(columns[1..].iter().max(), columns[1..].iter().min(), "the columns stand below each other:\n{told}");
}

/// The words of a line, whatever stands between them.
fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn nothing_that_a_node_says_steers_the_terminal_or_breaks_the_table() {
    let nasty = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}".repeat(40);
    let long = "x".repeat(100_000);
    let hostile = |id: &str| {
        json!({
            "node_id": id, "api_addr": nasty, "peer_addr": nasty, "version": nasty, "alive": false, "engine": nasty,
            "model": long, "weight": u32::MAX, "backup": true, "gate": nasty, "changed_ms": u64::MAX,
            "in_flight": u32::MAX, "wait_us": u64::MAX, "busy_percent": 255, "held": u32::MAX
        })
    };
    let peers =
        [hostile("b"), hostile(&nasty), hostile(&long), hostile("模型"), with(hostile("d"), &json!({"alive": true}))];
    let own = json!({ "cluster": nasty, "engine": nasty, "engine_message": nasty, "model": nasty, "version": long });
    let liar = with(node("b", &[hostile("a"), hostile("d"), hostile("b")]), &own);
    let report = merge(&gathered(
        &with(node("a", &peers), &own),
        vec![("b", answered(&liar)), ("d", failed(Fault::Garbled(Text::from(nasty.as_str()))))],
    ));
    let json = serde_json::to_string(&report).unwrap();
    for text in [table(&report), json] {
        let bad = text.chars().find(|&letter| letter != '\n' && (letter.is_control() || "\u{202e}".contains(letter)));
        assert_eq!(bad, None, "{text}");
    }
    let text = table(&report);
    assert!(text.lines().all(|line| width(line) <= 120), "{text}");
    let rows = text.lines().skip_while(|line| !line.contains("NODE")).skip(1).take_while(|line| !line.is_empty());
    assert_eq!(rows.count(), report.nodes.len(), "one line a node:\n{text}");
}

#[test]
fn as_many_lines_and_findings_are_shown_as_fit() {
    let crowd: Vec<Value> = (0..512).map(|number| dead(&format!("n{number}"))).collect();
    let others: Vec<String> = (0..4).map(|number| format!("n{number}")).collect();
    let liar = |id: &str| {
        let crowd: Vec<Value> = (0..512).map(|number| dead(&format!("{id}-{number}"))).collect();
        answered(&node(id, &crowd))
    };
    let report = merge(&gathered(&node("a", &crowd), others.iter().map(|id| (id.as_str(), liar(id))).collect()));
    assert_eq!(report.nodes.len(), 1024, "512 of five liars");
    assert!(report.nodes.iter().any(|node| node.asked), "the asked node is always among them");
    let text = table(&report);
    assert!(text.contains(" more; --json tells all"), "{text}");
}

#[test]
fn the_json_form_has_one_object_a_node_and_who_sees_it_how() {
    let report = three(&node("a", &[peer("b"), dead("c")]), answered(&b()), refused());
    let told = serde_json::to_value(&report).unwrap();
    assert_eq!((&told["well"], &told["asked"], &told["answered"]), (&json!(false), &json!("a"), &json!(2)));
    let c = &told["nodes"][2];
    assert_eq!(
        *c,
        json!({
            "node_id": "c", "asked": false, "answered": false, "well": false, "state": "dead", "message": "",
            "door": "refused", "door_message": "Connection refused", "wait_us": 1_500, "busy_percent": 7, "held": 2,
            "in_flight": 0, "gate": "blocking", "paused": false, "changed_ms": 12_345, "weight": 100, "backup": false,
            "version": "0.1.0", "model": "m@00/f32", "api_addr": "10.0.0.1:8099", "peer_addr": "10.0.0.1:98099",
            "alive_at": ["b"], "dead_at": ["a"], "unknown_to": []
        })
    );
    assert_eq!((&told["findings"][0]["kind"], &told["findings"][0]["node"]), (&json!("views_differ"), &json!("c")));
}

#[test]
fn changes_are_what_an_operator_would_act_on() {
    let well = three(&a(), answered(&b()), answered(&c()));
    let probing = with(dead("c"), &json!({ "gate": "probing" }));
    let killed = |c| three(&node("a", &[peer("b"), c]), answered(&node("b", &[peer("a"), dead("c")])), refused());
    let alone = merge(&gathered(&node("a", &[peer("b")]), vec![("b", answered(&node("b", &[peer("a")])))]));
    let busy =
        three(&with(a(), &json!({ "wait_us": 9, "held": 9, "load_percent": 9 })), answered(&b()), answered(&c()));
    let lines = |before: &Report, after: &Report| -> Vec<String> {
        changes(before, after).iter().map(super::changes::Change::line).collect()
    };
    assert_eq!(lines(&well, &busy), [""; 0]);
    assert_eq!(
        lines(&well, &killed(dead("c"))),
        ["c was ready, is dead", "door of c was open, is refused", "gate of c was passing, is blocking"]
    );
    assert_eq!(lines(&killed(dead("c")), &killed(probing)), [""; 0], "it asks whether it is back");
    assert_eq!(lines(&well, &alone), ["c is forgotten, was ready"]);
    assert_eq!(lines(&alone, &well), ["c came, ready"]);
    let moved = three(&a(), answered(&b()), answered(&with(c(), &json!({ "model": "m@01/f32", "engine": "" }))));
    assert_eq!(lines(&well, &moved), ["c was ready, is unknown", "model of c was m@00/f32, is m@01/f32"]);
}

#[test]
fn a_file_gets_every_change_once_and_a_terminal_keeps_the_last_ones() {
    let well = three(&a(), answered(&b()), answered(&c()));
    let killed = three(&node("a", &[peer("b"), dead("c")]), answered(&node("b", &[peer("a"), dead("c")])), refused());
    let pages = |redraws| -> Vec<String> {
        let mut screen = Screen { json: false, watches: true, redraws, pages: 0, changes: VecDeque::new() };
        let looks = [(&well, vec![]), (&killed, changes(&well, &killed)), (&killed, vec![])];
        looks.iter().map(|(report, changed)| screen.page(report, changed, 1_700_000_000_000)).collect()
    };
    let change = "22:13:20 UTC  c was ready, is dead";
    let in_a_file = pages(false);
    assert_eq!(in_a_file.iter().map(|page| page.contains(change)).collect::<Vec<_>>(), [false, true, false]);
    assert!(in_a_file.iter().all(|page| !page.contains('\x1b')), "{in_a_file:?}");
    assert!(in_a_file[0].starts_with("22:13:20 UTC\nc: 3 nodes") && in_a_file[1].starts_with("\n22:13:20 UTC\n"));
    let on_a_terminal = pages(true);
    assert_eq!(on_a_terminal.iter().map(|page| page.contains(change)).collect::<Vec<_>>(), [false, true, true]);
    // Drawn over what stood there, to the end of each line and of the screen.
    for page in on_a_terminal {
        assert!(page.starts_with("\x1b[H") && page.ends_with("\x1b[K\n\x1b[J"), "{page:?}");
        assert!(page.lines().all(|line| line.ends_with("\x1b[K") || line == "\x1b[J"), "{page:?}");
    }
    let mut screen = Screen { json: false, watches: true, redraws: true, pages: 0, changes: VecDeque::new() };
    for _ in 0..100 {
        screen.page(&killed, &changes(&well, &killed), 0);
    }
    assert_eq!(screen.changes.len(), CHANGES_SHOWN);
}
