//! The UDP side of a door: datagrams to one node, and its answers to where they came from.
//!
//! For `proxy`. A gossiping node sends from its own bound address, which names it, and answers the address that it
//! sees; so everybody who sends through a door gets a socket of his own there (a *flow*), and what the node answers on
//! it goes back from the door as if the node had sent it there.
//! Invariants: at most [`FLOWS_MAX`] flows a door and [`WAITING_MAX`] delayed datagrams; one more sender takes the
//! place of the one that has been silent longest, one more datagram is lost.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::rules::{Party, Passage};
use super::traffic::one;
use super::{NODES_MAX, Pair, Shared};

/// Senders of one door at a time: every node, and as many strangers.
const FLOWS_MAX: usize = 2 * NODES_MAX;
/// Delayed datagrams of one door, both directions together.
const WAITING_MAX: usize = 1024;
/// Largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Pause after a socket failed, so that one that keeps failing takes no processor.
const FAULT_PAUSE: Duration = Duration::from_millis(10);

/// One sender's way to the node.
struct Flow {
    socket: Arc<UdpSocket>,
    answers: JoinHandle<()>,
    heard: Instant,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// What both directions of a door share.
struct Door {
    shared: Arc<Shared>,
    node: usize,
    socket: UdpSocket,
    waiting: Arc<Semaphore>,
}

/// Where a datagram goes.
#[derive(Clone)]
enum Way {
    /// Through the sender's flow to the node.
    In(Arc<UdpSocket>),
    /// From the door to whoever had sent to it.
    Out(SocketAddr),
}

/// Serves the door of node `to` until the runtime ends.
pub(super) async fn open(shared: Arc<Shared>, to: usize, socket: std::net::UdpSocket) {
    let socket = UdpSocket::from_std(socket).expect("the socket was made non-blocking");
    let door = Arc::new(Door { shared, node: to, socket, waiting: Arc::new(Semaphore::new(WAITING_MAX)) });
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, source)) = door.socket.recv_from(&mut buffer).await else {
            sleep(FAULT_PAUSE).await;
            continue;
        };
        let pair = Pair { from: door.party(source), to: Party::Node(to) };
        if !flows.contains_key(&source) {
            match flow(&door, source, pair.reversed()).await {
                Ok(flow) => make_room(&mut flows).insert(source, flow),
                Err(_) => {
                    one(&door.shared.lane(pair).counts.datagrams_lost);
                    continue;
                }
            };
        }
        if let Some(flow) = flows.get_mut(&source) {
            flow.heard = Instant::now();
            door.pass(pair, &buffer[..length], &Way::In(Arc::clone(&flow.socket))).await;
        }
    }
}

fn make_room(flows: &mut HashMap<SocketAddr, Flow>) -> &mut HashMap<SocketAddr, Flow> {
    if FLOWS_MAX <= flows.len()
        && let Some(silent) = flows.iter().min_by_key(|(_, flow)| flow.heard).map(|(source, _)| *source)
    {
        flows.remove(&silent);
    }
    flows
}

async fn flow(door: &Arc<Door>, source: SocketAddr, back: Pair) -> io::Result<Flow> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Connected, it hears nobody but the node.
    socket.connect(door.shared.nodes[door.node]).await?;
    let socket = Arc::new(socket);
    let (door, from_node) = (Arc::clone(door), Arc::clone(&socket));
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            match from_node.recv(&mut buffer).await {
                Ok(length) => door.pass(back, &buffer[..length], &Way::Out(source)).await,
                // A node that is down refuses what was sent to it, and that is told here once.
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => sleep(FAULT_PAUSE).await,
            }
        }
    });
    Ok(Flow { socket, answers, heard: Instant::now() })
}

impl Door {
    fn party(&self, source: SocketAddr) -> Party {
        let place = self.shared.nodes.iter().position(|&node| SocketAddr::V4(node) == source);
        place.map_or(Party::Stranger, Party::Node)
    }

    /// Decides what becomes of a datagram.
    async fn pass(self: &Arc<Self>, pair: Pair, datagram: &[u8], way: &Way) {
        let lane = self.shared.lane(pair);
        let delays = lane.datagram_delays(&self.shared.rule(pair).udp);
        if delays == [None, None] {
            one(&lane.counts.datagrams_lost);
        }
        for delay in delays.into_iter().flatten() {
            if delay.is_zero() {
                self.deliver(pair, datagram, way).await;
                continue;
            }
            let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
                one(&lane.counts.datagrams_lost);
                continue;
            };
            let (door, datagram, way) = (Arc::clone(self), datagram.to_vec(), way.clone());
            tokio::spawn(async move {
                sleep(delay).await;
                // Who pulls a cable loses what is in it.
                if door.shared.rule(pair).udp.passage == Passage::Open {
                    door.deliver(pair, &datagram, &way).await;
                } else {
                    one(&door.shared.lane(pair).counts.datagrams_lost);
                }
                drop(permit);
            });
        }
    }

    async fn deliver(&self, pair: Pair, datagram: &[u8], way: &Way) {
        let sent = match way {
            Way::Out(source) => self.socket.send_to(datagram, *source).await,
            Way::In(socket) => match socket.send(datagram).await {
                // Told of an earlier datagram, which the node was not there to take; this one was not sent.
                Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => socket.send(datagram).await,
                sent => sent,
            },
        };
        let counts = &self.shared.lane(pair).counts;
        one(if sent.is_ok() { &counts.datagrams } else { &counts.datagrams_lost });
    }
}
