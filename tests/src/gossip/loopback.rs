//! The real gossip: `shoal::gossip` on loopback, several nodes in this process.
//!
//! For the suite, as one of two forms of `Shoal`.
//! Invariants: every node has a thread, a port and a store of its own, as in a node; times are taken where the gossip
//! thread tells of a change, so a slow reader does not lengthen them; a stopped node has let go of its port.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cluster_sim::sim::gossip::GossipRules;
use shoal::gossip::{Gossip, GossipEvent, GossipSettings, Member, key};
use shoal::telemetry::GossipMetrics;
use shoal::wire::encode_report;
use shoal_core::id::NodeId;
use shoal_core::lifecycle::Standing;

use super::{Seen, Shoal, Views};
use crate::ports;
use crate::wait::LIMIT;

/// Longer than any test: a dead node is not forgotten.
const DEAD_GRACE: Duration = Duration::from_secs(600);

/// Real nodes.
#[derive(Debug)]
pub struct Loopback {
    nodes: Vec<Node>,
    told: Receiver<Told>,
    tell: Sender<Told>,
    /// Told while a node was stopping.
    waiting: VecDeque<Told>,
    views: Views,
    disturbed: bool,
}

#[derive(Debug)]
struct Node {
    addr: SocketAddr,
    cluster: String,
    run: u64,
    gossip: Option<Gossip>,
}

/// What the gossip thread of one run of a node tells.
#[derive(Debug)]
struct Told {
    node: usize,
    run: u64,
    at: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Members(Vec<Member>),
    HeldUp,
    Over,
}

/// Tells when its run is over: it goes when the thread does.
#[derive(Debug)]
struct Teller {
    to: Sender<Told>,
    node: usize,
    run: u64,
}

impl Teller {
    fn tell(&self, what: What) {
        // Nobody listens once the test is over.
        let _ = self.to.send(Told { node: self.node, run: self.run, at: Instant::now(), what });
    }

    fn on_event(&self, event: GossipEvent) {
        match event {
            GossipEvent::Members(members) => self.tell(What::Members(members)),
            GossipEvent::Late(_) => self.tell(What::HeldUp),
            GossipEvent::Running(_) => {}
            GossipEvent::Duplicate { addr, .. } => panic!("node {}: its id is also at {addr}", self.node),
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(What::Over);
    }
}

impl Loopback {
    /// `nodes` nodes of one cluster, none of which runs.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self::in_clusters(nodes, 1)
    }

    /// The same of several clusters in turn: node 0 is in the first, node 1 in the second, and so on.
    #[must_use]
    pub fn in_clusters(nodes: usize, clusters: usize) -> Self {
        // A cluster of its own for each shoal, so that a port which another one had brings no old news.
        static SHOALS: AtomicU64 = AtomicU64::new(0);
        let shoal = SHOALS.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let cluster = |node: usize| format!("conformance-{process}-{shoal}-{}", node % clusters);
        let node = |node| Node { addr: ports::free(), cluster: cluster(node), run: 0, gossip: None };
        let (tell, told) = channel();
        let nodes = (0..nodes).map(node).collect();
        Self { nodes, told, tell, waiting: VecDeque::new(), views: Views::default(), disturbed: false }
    }

    /// Takes note of what was told. Returns when that was, if it changed a view.
    fn take(&mut self, told: Told) -> Option<Instant> {
        let node = &self.nodes[told.node];
        if node.gossip.is_none() || node.run != told.run {
            return None;
        }
        match told.what {
            What::Members(members) => {
                let seen = members.iter().map(|member| (index(&member.id), seen(member))).collect();
                self.views.set(told.node, seen);
                Some(told.at)
            }
            What::HeldUp => {
                self.disturbed = true;
                None
            }
            What::Over => panic!("the gossip of node {} ended by itself", told.node),
        }
    }
}

impl Shoal for Loopback {
    fn start(&mut self, node: usize) {
        let seeds = self.nodes.iter().take(GossipRules::default().seeds).map(|seed| seed.addr.to_string()).collect();
        let started = &mut self.nodes[node];
        assert!(started.gossip.is_none(), "node {node} runs already");
        started.run += 1;
        let settings = GossipSettings {
            cluster: started.cluster.clone(),
            node_id: NodeId::new(&node.to_string()).expect("a number is a node id"),
            generation: started.run,
            listen: started.addr,
            advertise: started.addr,
            seeds,
            interval: interval(),
            phi_threshold: GossipRules::default().phi_threshold,
            dead_grace: DEAD_GRACE,
        };
        let announced = BTreeMap::from([
            (key::BOOT, started.run.to_string()),
            (key::PEER_ADDR, started.addr.to_string()),
            (key::ENGINE, Standing::Ready.name().to_owned()),
        ]);
        let teller = Teller { to: self.tell.clone(), node, run: started.run };
        let gossip = Gossip::start(settings, announced, GossipMetrics::default(), move |event| teller.on_event(event));
        started.gossip = Some(gossip.unwrap_or_else(|fault| panic!("node {node} does not start: {fault}")));
        self.views.begin(node);
    }

    fn stop(&mut self, node: usize) {
        let (gossip, run) = (self.nodes[node].gossip.take(), self.nodes[node].run);
        drop(gossip.unwrap_or_else(|| panic!("node {node} does not run")));
        self.views.end(node);
        loop {
            let told = self.told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("node {node} does not end"));
            if (told.node, told.run) == (node, run) && matches!(told.what, What::Over) {
                return;
            }
            self.waiting.push_back(told);
        }
    }

    fn announce(&mut self, node: usize, standing: Standing, report: u64) {
        let Node { run, gossip, .. } = &self.nodes[node];
        let gossip = gossip.as_ref().unwrap_or_else(|| panic!("node {node} does not run"));
        gossip.announce(key::ENGINE, standing.name().to_owned());
        if let Some(report) = super::report(*run, standing, report) {
            gossip.announce(key::LOAD, encode_report(&report));
        }
    }

    fn views(&self) -> &Views {
        &self.views
    }

    fn until(&mut self, limit: f64, done: &mut dyn FnMut(&Views) -> bool) -> Option<f64> {
        let began = Instant::now();
        let deadline = began + interval().mul_f64(limit);
        if done(&self.views) {
            return Some(0.0);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = self.waiting.pop_front().or_else(|| self.told.recv_timeout(left).ok())?;
            let changed = self.take(next);
            if let Some(at) = changed.filter(|_| done(&self.views)) {
                let took = at.saturating_duration_since(began);
                return Some(took.as_secs_f64() / interval().as_secs_f64());
            }
        }
    }

    fn was_disturbed(&self) -> bool {
        self.disturbed
    }
}

fn interval() -> Duration {
    Duration::from_micros(GossipRules::default().interval.get())
}

fn index(id: &NodeId) -> usize {
    id.as_str().parse().unwrap_or_else(|_| panic!("{id} is no node of this shoal"))
}

fn seen(member: &Member) -> Seen {
    let standing = Standing::ALL.into_iter().find(|standing| standing.name() == member.engine);
    let report = match member.load {
        Some(Ok(report)) => report.seq,
        Some(Err(fault)) => panic!("a report of {} is not believed: {fault}", member.id),
        None => 0,
    };
    Seen {
        alive: member.alive,
        run: member.boot.0,
        standing: standing.unwrap_or_else(|| panic!("{} is {:?}", member.id, member.engine)),
        report,
    }
}
