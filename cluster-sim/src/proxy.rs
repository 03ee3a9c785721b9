//! A proxy between real nodes that loses, delays and cuts what they send each other, TCP and UDP.
//!
//! For drills and the black-box suite. Every node has a *door*: an address of the proxy that it advertises instead of
//! its own and that others name as a seed, so everything on its way to the node comes through its door. Rules are for
//! ordered pairs of parties, so the proxy has to know who sends: gossip comes from a node's own bound address, and the
//! owner of a TCP connection is found through the kernel's `sock_diag` and `/proc` (Linux only).
//! Invariants: the order of bytes in a connection never changes and none is lost or made up; every table, queue and
//! buffer has a limit; it runs on one thread of its own, which ends with the value.
//! Not here: which fault when (`drill`); faults inside a process, which signals and the stand-in engine make.

mod owner;
mod rules;
mod tcp;
#[cfg(test)]
mod tests;
mod traffic;
mod udp;

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::{Notify, oneshot, watch};

pub use rules::{DELAY_MAX, Faults, Party, Passage, Rule};
pub use traffic::Traffic;

use rules::Rules;
use traffic::Lane;

/// Most nodes behind one proxy: the rules are a table of pairs.
pub const NODES_MAX: usize = 256;

/// Whoever looked for a free port had it open a moment ago, and a child that was started meanwhile has a copy of that
/// socket until it becomes its program: a port in use is tried again for 0.1 s.
const BIND_TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// One node and its door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the node really listens, TCP and UDP, and from where it sends its gossip: an IPv4 address, not `0.0.0.0`.
    pub node: SocketAddr,
    /// Where the proxy listens for it, TCP and UDP. A port that the system takes for outgoing connections is a bad
    /// choice: while the node is down nobody listens on it, and a stranger's connection could take it.
    pub door: SocketAddr,
}

/// The running proxy. Dropping it closes every door and every connection.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the doors and those who set the rules have in common.
#[derive(Debug)]
struct Shared {
    nodes: Vec<SocketAddrV4>,
    doors: Vec<SocketAddrV4>,
    pids: Mutex<Vec<Option<u32>>>,
    rules: watch::Sender<Rules>,
    /// One for each ordered pair of parties, as the rules are laid out.
    lanes: Vec<Lane>,
    /// One for each node: a connection to it ended or was refused, so it may be gone.
    doubts: Vec<Notify>,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    from: Party,
    to: Party,
}

impl Pair {
    fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

impl FaultProxy {
    /// Opens the doors; at first everything passes. `seed` decides the fate of the n-th datagram and of the n-th chunk
    /// between any two parties, whatever the others send.
    ///
    /// # Errors
    /// A door's port is in use, an address is not one of IPv4 or names no host, there are more than [`NODES_MAX`]
    /// nodes, the kernel does not tell who owns a connection, or the system gives no thread.
    pub fn start(targets: &[Target], seed: u64) -> Result<Self> {
        ensure!(targets.len() <= NODES_MAX, "{} nodes behind one proxy; at most {NODES_MAX} can be", targets.len());
        let nodes = targets.iter().map(|target| host(target.node)).collect::<Result<Vec<_>>>()?;
        let doors = targets.iter().map(|target| host(target.door)).collect::<Result<Vec<_>>>()?;
        let mut sockets = Vec::new();
        for (index, &door) in doors.iter().enumerate() {
            sockets.push(bind(door).with_context(|| format!("opening {door}, the proxy's door of node {index}"))?);
        }
        if let Some(&door) = doors.first() {
            let is_told =
                owner::listens(door).context("asking the kernel for a socket (sock_diag; modprobe tcp_diag)")?;
            ensure!(is_told, "the kernel does not know the socket that listens on {door}: no owner could be found");
        }
        let rules = Rules::none(targets.len());
        let shared = Arc::new(Shared {
            lanes: (0..rules.pairs()).map(|pair| Lane::new(seed, pair)).collect(),
            pids: Mutex::new(vec![None; nodes.len()]),
            doubts: nodes.iter().map(|_| Notify::new()).collect(),
            rules: watch::Sender::new(rules),
            nodes,
            doors,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("making the fault proxy's runtime")?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&shared);
        let work = move || {
            runtime.block_on(async move {
                for (to, (tcp, udp)) in sockets.into_iter().enumerate() {
                    tokio::spawn(tcp::open(Arc::clone(&served), to, tcp));
                    tokio::spawn(udp::open(Arc::clone(&served), to, udp));
                }
                // Ends when the value is dropped, and the doors end with the runtime.
                let _ = stopped.await;
            });
        };
        let thread = std::thread::Builder::new().name("fault-proxy".to_owned()).spawn(work);
        let thread = thread.context("starting the fault proxy's thread")?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What each node has to advertise, in the order of the targets.
    pub fn doors(&self) -> impl Iterator<Item = SocketAddr> {
        self.shared.doors.iter().map(|&door| SocketAddr::V4(door))
    }

    /// Says which process a node is, so that connections that it opens are its own; `None` once it has ended. To be
    /// said before the process opens one: who opened a connection is looked up once.
    ///
    /// # Panics
    /// There is no such node.
    pub fn learn_pid(&self, node: usize, pid: Option<u32>) {
        self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner)[node] = pid;
    }

    /// From now on `rule` holds for what `from` sends to `to`, and for nothing that `to` sends to `from`.
    ///
    /// # Errors
    /// A share is not between 0 and 1, a delay is above [`DELAY_MAX`], or there is no such node; nothing changes then.
    pub fn set(&self, from: impl Into<Party>, to: impl Into<Party>, rule: Rule) -> Result<()> {
        let pair = Pair { from: from.into(), to: to.into() };
        self.change(|rules| rules.set(pair, rule))
    }

    /// The same in both directions.
    ///
    /// # Errors
    /// As [`FaultProxy::set`].
    pub fn set_both_ways(&self, one: impl Into<Party>, other: impl Into<Party>, rule: Rule) -> Result<()> {
        let pair = Pair { from: one.into(), to: other.into() };
        self.change(|rules| rules.set(pair, rule)?.set(pair.reversed(), rule))
    }

    /// The same between one node and all others, in both directions; strangers are left out.
    ///
    /// # Errors
    /// As [`FaultProxy::set`].
    pub fn set_around(&self, node: usize, rule: Rule) -> Result<()> {
        let others = (0..self.shared.nodes.len()).filter(|&other| other != node);
        let pairs = others.map(|other| Pair { from: node.into(), to: other.into() });
        self.change(|mut rules| {
            for pair in pairs {
                rules = rules.set(pair, rule)?.set(pair.reversed(), rule)?;
            }
            Ok(rules)
        })
    }

    /// From now on everything passes. Bytes that a cut has held back are passed on; lost datagrams stay lost.
    pub fn heal(&self) {
        self.shared.rules.send_modify(|rules| *rules = Rules::none(self.shared.nodes.len()));
    }

    /// What went from one party to another until now.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn traffic(&self, from: impl Into<Party>, to: impl Into<Party>) -> Traffic {
        self.shared.lane(Pair { from: from.into(), to: to.into() }).traffic()
    }

    /// Swaps the rules at once, so that nothing ever meets half of a change.
    fn change(&self, change: impl FnOnce(Rules) -> Result<Rules>) -> Result<()> {
        let mut done = Ok(());
        self.shared.rules.send_if_modified(|rules| match change(rules.clone()) {
            Ok(changed) => {
                *rules = changed;
                true
            }
            Err(fault) => {
                done = Err(fault);
                false
            }
        });
        done
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lane(&self, pair: Pair) -> &Lane {
        let index = self.rules.borrow().index(pair).expect("parties are nodes of this proxy or strangers");
        &self.lanes[index]
    }

    fn rule(&self, pair: Pair) -> Rule {
        self.rules.borrow().between(pair)
    }

    fn pids(&self) -> Vec<Option<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Both sockets of a door.
fn bind(door: SocketAddrV4) -> io::Result<(TcpListener, UdpSocket)> {
    let bind = || -> io::Result<_> {
        let (tcp, udp) = (TcpListener::bind(door)?, UdpSocket::bind(door)?);
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok((tcp, udp))
    };
    for _ in 0..BIND_TRIES {
        match bind() {
            Err(fault) if fault.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(BIND_PAUSE),
            bound => return bound,
        }
    }
    bind()
}

fn host(address: SocketAddr) -> Result<SocketAddrV4> {
    let SocketAddr::V4(v4) = address else {
        anyhow::bail!("{address} is not an IPv4 address; the fault proxy knows no others");
    };
    ensure!(
        !v4.ip().is_unspecified() && v4.port() != 0,
        "{v4} names no single host and port; the fault proxy needs one"
    );
    Ok(v4)
}
