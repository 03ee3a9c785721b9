//! What is not well, in a sentence each, and what to do about it.
//!
//! Part of `status`. Pure: from the lines of all nodes and the views of those that answered.
//! Invariants: one cause makes one finding as far as it can be told; a finding that is no fault (a planned leave, a
//! rolling update) does not make the shoal unwell.

use std::collections::BTreeMap;

use serde::Serialize;

use super::merge::{Door, Node, Speaker, Speakers};
use super::said::PeerSaid;
use super::text::{Text, list, span};

/// Something that people should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// Something is not well; without, it is only worth knowing.
    pub(super) fault: bool,
    /// The node that it is about, where it is about one.
    pub(super) node: Option<Text>,
    pub(super) text: String,
    /// What to do; empty where there is nothing to do.
    pub(super) advice: String,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Nobody hears it.
    Dead,
    /// Nobody hears it, as it had announced.
    Left,
    /// Its engine gives wrong answers or none.
    Wedged,
    /// Its engine cannot compute.
    Failed,
    /// Its callers get 503.
    Shut,
    /// Its TCP answers, and gossip does not hear it.
    Unheard,
    /// It answers, and hears nobody by gossip.
    Isolated,
    /// Gossip hears it, and its door does not answer.
    DoorSilent,
    /// Gossip hears it, and the connections of peers to it fail.
    Blocked,
    /// Peers leave it alone because its model fails.
    Paused,
    /// Some call it alive, others dead, or do not know it.
    ViewsDiffer,
    /// Nodes count different numbers of nodes.
    SizesDiffer,
    /// One name, and different models.
    ModelsDiffer,
    /// Different versions of this program.
    VersionsDiffer,
    /// It was told whom to look for, and found nobody.
    Alone,
    /// Its gossip stands still.
    GossipStopped,
    /// It hears so few that it believes pings instead.
    GossipDoubted,
    /// Somebody else answers at its address.
    Stranger,
    /// Its door can only be reached on its own machine.
    LocalDoor,
    /// It cannot tell its state.
    Old,
    /// It was not asked.
    NotAsked,
}

/// Looks at everything. Faults of nodes first, by name, then what is about several.
pub(super) fn judge(speakers: &Speakers<'_>, nodes: &[Node]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let deaf: Vec<&Text> = speakers.iter().filter(|one| is_deaf(one, speakers)).map(|one| &one.said.node_id).collect();
    for node in nodes {
        let heard = Heard::of(node, &deaf);
        let is_deaf = deaf.contains(&&node.node_id);
        findings.extend(hearing(node, &heard, speakers, is_deaf));
        findings.extend(engine(node));
        findings.extend(door(node, &heard));
        findings.extend(transport(node, speakers));
        findings.extend(speakers.get(&node.node_id).into_iter().flat_map(|speaker| gossip(speaker, is_deaf)));
    }
    findings.extend(sizes(speakers));
    findings.extend(models(nodes));
    findings.extend(versions(nodes));
    findings.extend(not_asked(nodes));
    findings
}

/// It answered, and calls everybody dead or knows nobody, although another node answered too.
fn is_deaf(one: &Speaker<'_>, speakers: &Speakers<'_>) -> bool {
    let others = speakers.iter().any(|other| other.said.node_id != one.said.node_id);
    others && one.peers.values().all(|peer| peer.alive == Some(false))
}

fn fault(kind: Kind, node: &Node, text: String, advice: impl Into<String>) -> Finding {
    Finding { kind, fault: true, node: Some(node.node_id.clone()), text, advice: advice.into() }
}

fn notice(kind: Kind, node: &Node, text: String, advice: impl Into<String>) -> Finding {
    Finding { fault: false, ..fault(kind, node, text, advice) }
}

/// Who hears a node by gossip. What a deaf node says of others is left out: that is told of the deaf one.
struct Heard {
    alive_at: Vec<Text>,
    dead_at: Vec<Text>,
    unknown_to: Vec<Text>,
}

impl Heard {
    fn of(node: &Node, deaf: &[&Text]) -> Self {
        let hears = |names: &[Text]| names.iter().filter(|name| !deaf.contains(name)).cloned().collect();
        Self { alive_at: hears(&node.alive_at), dead_at: hears(&node.dead_at), unknown_to: hears(&node.unknown_to) }
    }
}

/// Who hears the node by gossip, against whether it answers.
fn hearing(node: &Node, heard: &Heard, speakers: &Speakers<'_>, is_deaf: bool) -> Option<Finding> {
    let id = &node.node_id;
    let Heard { alive_at, dead_at, unknown_to } = heard;
    let port = if node.peer_addr.is_empty() { "its peer port".to_owned() } else { node.peer_addr.to_string() };
    let let_udp_pass = format!("UDP is most often blocked: let it pass to and from {port}, in both directions.");
    if is_deaf {
        let others = match node.dead_at.is_empty() {
            true => "though others hear it".to_owned(),
            false => format!("and is dead for {}", list(&node.dead_at)),
        };
        let text = format!("{id} hears no other node, {others}; yet its door answers: TCP answers, gossip silent.");
        return Some(fault(Kind::Isolated, node, text, format!("If it has not just started: {let_udp_pass}")));
    }
    let trusted = |speaker: &&Speaker<'_>| speaker.peers.get(id).is_some_and(|peer| peer.answers_unheard);
    let pinged: Vec<Text> = speakers.iter().filter(trusted).map(|speaker| speaker.said.node_id.clone()).collect();
    if (node.door_answers() && !dead_at.is_empty()) || !pinged.is_empty() {
        let answers = match node.door_answers() {
            true => "answers at its door".to_owned(),
            false => format!("answers the pings of {}", list(&pinged)),
        };
        let heard = match alive_at.is_empty() {
            true => String::new(),
            false => format!(" ({} heard it)", list(alive_at)),
        };
        let deaf_to = list(if dead_at.is_empty() { &pinged } else { dead_at });
        let text =
            format!("{id} {answers}, but is dead for the gossip of {deaf_to}{heard}: TCP answers, gossip silent.");
        return Some(fault(Kind::Unheard, node, text, let_udp_pass));
    }
    if !alive_at.is_empty() && (!dead_at.is_empty() || !unknown_to.is_empty()) {
        let others = [("dead for", dead_at), ("unknown to", unknown_to)];
        let others =
            others.iter().filter(|(_, who)| !who.is_empty()).map(|(word, who)| format!("{word} {}", list(who)));
        let text = format!("{id} is alive for {}, and {}.", list(alive_at), others.collect::<Vec<_>>().join(", "));
        let advice =
            format!("Ask again in some seconds; should it stay so, look whether UDP passes between them ({port}).");
        return Some(fault(Kind::ViewsDiffer, node, text, advice));
    }
    let since = node.changed_ms.map_or_else(String::new, |ms| format!(" for {}", span(ms)));
    match &*node.state {
        "left" => Some(notice(Kind::Left, node, format!("{id} has left{since}, as it had announced."), "")),
        "dead" => {
            let text = format!("{id} is dead{since}: no node that answered hears it.");
            let advice = "The others serve without it; look at its machine and at the end of its log.";
            Some(fault(Kind::Dead, node, text, advice))
        }
        _ => None,
    }
}

fn engine(node: &Node) -> Option<Finding> {
    let (id, state) = (&node.node_id, &*node.state);
    let why = if node.message.is_empty() { String::new() } else { format!(" ({})", node.message) };
    match state {
        "wedged" => {
            let text = format!("{id} is wedged: its model gives wrong answers or none{why}.");
            Some(fault(Kind::Wedged, node, text, "Its peers serve its callers; look at its device, then restart it."))
        }
        "failed" => {
            let text = format!("{id} cannot compute{why}.");
            Some(fault(
                Kind::Failed,
                node,
                text,
                "Its peers serve its callers; mend what its log names, then restart it.",
            ))
        }
        _ => None,
    }
}

fn door(node: &Node, heard: &Heard) -> Option<Finding> {
    let (id, at, why) = (&node.node_id, &node.api_addr, &node.door_message);
    let heard = heard.dead_at.is_empty() && !heard.alive_at.is_empty();
    match node.door {
        Door::Shut => {
            let text = format!("Callers of {id} get 503: it cannot compute, and reaches no peer that can.");
            Some(fault(Kind::Shut, node, text, "If it is not starting: see its state and its gates above."))
        }
        Door::Refused | Door::Silent | Door::Stranger if heard && is_loopback(at) && !is_loopback(&node.peer_addr) => {
            let text = format!("The door of {id}, {at}, can be reached on its own machine only.");
            Some(notice(Kind::LocalDoor, node, text, "Run `shoal status` there to ask it; or set its api.listen."))
        }
        Door::Refused | Door::Silent if heard => {
            let text = format!("Gossip hears {id}, but its door at {at} does not answer ({why}).");
            let advice = "Is its process stopped or overloaded, or TCP to that port blocked from here? If its address \
                          is another one, set its api.advertise.";
            Some(fault(Kind::DoorSilent, node, text, advice))
        }
        Door::Stranger => {
            let text = format!("What answers at {at} is not {id} ({why}).");
            Some(fault(Kind::Stranger, node, text, "Set api.advertise of that node to where its callers reach it."))
        }
        Door::Old => {
            let text = format!("{id} runs a version that cannot tell its state; shown is what others say of it.");
            Some(notice(Kind::Old, node, text, ""))
        }
        Door::Open | Door::Leaving | Door::Refused | Door::Silent | Door::NotAsked => None,
    }
}

fn is_loopback(addr: &Text) -> bool {
    addr.parse::<std::net::SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback())
}

/// Peers that hear the node and give it no work. A dead node has no work anyway, and a silent door says as much.
fn transport(node: &Node, speakers: &Speakers<'_>) -> Vec<Finding> {
    let id = &node.node_id;
    let who = |is: &dyn Fn(&PeerSaid) -> bool| -> Vec<Text> {
        let alive = |peer: &&&PeerSaid| peer.alive == Some(true);
        let of = |speaker: &&Speaker<'_>| speaker.peers.get(id).filter(alive).is_some_and(|peer| is(peer));
        speakers.iter().filter(of).map(|speaker| speaker.said.node_id.clone()).collect()
    };
    let blocked = who(&|peer| matches!(&*peer.gate, "blocking" | "probing"));
    let paused = who(&|peer| peer.paused);
    let mut findings = Vec::new();
    if !blocked.is_empty() && node.door_answers() {
        let at = &node.peer_addr;
        let text = format!("The jobs of {} do not reach {id} at {at}, though gossip hears it.", list(&blocked));
        let advice = format!("Let TCP pass to {at}; what was lost on the way ran elsewhere.");
        findings.push(fault(Kind::Blocked, node, text, advice));
    }
    if !paused.is_empty() {
        let text = format!("{id} gets no work of {} for a while: its model failed too often.", list(&paused));
        findings.push(fault(Kind::Paused, node, text, "Look for errors of its engine in its log."));
    }
    findings
}

/// What a node says of its own ears; that a deaf one hears nobody is told already.
fn gossip(speaker: &Speaker<'_>, is_deaf: bool) -> Vec<Finding> {
    let id = &speaker.said.node_id;
    let about = |kind, text, advice: &str| Finding {
        kind,
        fault: true,
        node: Some(id.clone()),
        text,
        advice: advice.to_owned(),
    };
    let mut findings = Vec::new();
    if speaker.said.gossip_runs == Some(false) {
        let text = format!("The gossip of {id} stands still, and what it says of others grows old.");
        findings.push(about(Kind::GossipStopped, text, "It starts again by itself; its log says why it ended."));
    }
    if 0 < speaker.said.seeds && speaker.peers.is_empty() && !is_deaf {
        let text = format!("{id} has heard of no other node, not even of its seeds.");
        let advice = "Are they up, and of the same cluster? If so, UDP is most often blocked: let it pass between the \
                      peer ports of all nodes, in both directions.";
        findings.push(about(Kind::Alone, text, advice));
    }
    if speaker.said.doubts_gossip {
        let text = format!("{id} hears so few peers that it believes their answers to pings instead of gossip.");
        findings.push(about(Kind::GossipDoubted, text, "If they are up, UDP is most often blocked."));
    }
    findings
}

/// `a (node-1), b (node-2 and node-3)`.
fn groups<K: std::fmt::Display>(groups: &BTreeMap<K, Vec<Text>>) -> String {
    let groups: Vec<String> = groups.iter().map(|(key, names)| format!("{key} ({})", list(names))).collect();
    list(&groups)
}

fn about_all(kind: Kind, fault: bool, text: String, advice: &str) -> Finding {
    Finding { kind, fault, node: None, text, advice: advice.to_owned() }
}

fn sizes(speakers: &Speakers<'_>) -> Option<Finding> {
    let mut sizes: BTreeMap<usize, Vec<Text>> = BTreeMap::new();
    for speaker in speakers.iter().filter(|speaker| speaker.peers.values().all(|peer| peer.alive.is_some())) {
        let alive = speaker.peers.values().filter(|peer| peer.alive == Some(true)).count();
        sizes.entry(1 + alive).or_default().push(speaker.said.node_id.clone());
    }
    let text = || format!("Nodes count different numbers of live nodes: {}.", groups(&sizes));
    (1 < sizes.len()).then(|| about_all(Kind::SizesDiffer, true, text(), "See who does not hear whom above."))
}

fn models(nodes: &[Node]) -> Vec<Finding> {
    let mut names: BTreeMap<&str, BTreeMap<&Text, Vec<Text>>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.model.is_empty() && !matches!(&*node.state, "dead" | "left")) {
        let name = node.model.split('@').next().unwrap_or_default();
        names.entry(name).or_default().entry(&node.model).or_default().push(node.node_id.clone());
    }
    let differ = names.into_iter().filter(|(_, models)| 1 < models.len());
    let finding = |(name, models): (&str, BTreeMap<&Text, Vec<Text>>)| {
        let text = format!("Nodes serve different models as {name}: {}.", groups(&models));
        let advice = "They answer the same text with different vectors, and hand jobs only to their like; give all the \
                      same files.";
        about_all(Kind::ModelsDiffer, true, text, advice)
    };
    differ.map(finding).collect()
}

fn versions(nodes: &[Node]) -> Option<Finding> {
    let mut versions: BTreeMap<&Text, Vec<Text>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.version.is_empty() && !matches!(&*node.state, "dead" | "left")) {
        versions.entry(&node.version).or_default().push(node.node_id.clone());
    }
    let text = || format!("Nodes run different versions: {}.", groups(&versions));
    (1 < versions.len()).then(|| about_all(Kind::VersionsDiffer, false, text(), ""))
}

fn not_asked(nodes: &[Node]) -> Option<Finding> {
    let asked_not = nodes.iter().filter(|node| node.door == Door::NotAsked && !matches!(&*node.state, "dead" | "left"));
    let names: Vec<Text> = asked_not.map(|node| node.node_id.clone()).collect();
    let text = || format!("Not asked, so only known from others: {}.", list(&names));
    (!names.is_empty()).then(|| about_all(Kind::NotAsked, false, text(), ""))
}
