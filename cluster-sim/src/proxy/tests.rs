//! The fault proxy between two ends that a test holds itself.
//!
//! Node 0 is this process: its datagrams come from a socket of its own and its connections are found by the process's
//! id. Node 1 is a listener and a socket of this process too. Nothing here waits for time to pass: that something does
//! not arrive is seen from the proxy's counts, or from what arrives after it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{FaultProxy, Faults, Party, Rule, Target, Traffic};

/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_secs(30);
/// Enough for a process that is busy with other tests to be late, short enough to be waited for by a test.
const DELAY: Duration = Duration::from_millis(40);

/// Two nodes behind a proxy.
struct Two {
    proxy: FaultProxy,
    doors: [SocketAddr; 2],
    /// Where each node gossips, real address.
    gossip: [UdpSocket; 2],
    /// Where node 1 takes connections.
    listener: TcpListener,
}

/// A port that is free for TCP and UDP, held in both. Below those that the system takes for outgoing connections: a
/// connection to a door that is closed could else be connected to itself.
fn port() -> (TcpListener, UdpSocket) {
    const FIRST: u32 = 10_240;
    const COUNT: u32 = 22_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time begin far apart.
    let start = std::process::id().wrapping_mul(2_654_435_761) % COUNT;
    for _ in 0..COUNT {
        let number = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(number).unwrap()));
        if let (Ok(listener), Ok(socket)) = (TcpListener::bind(address), UdpSocket::bind(address)) {
            return (listener, socket);
        }
    }
    panic!("no port is free for both protocols");
}

impl Two {
    fn start() -> Self {
        let two = Self::with_strangers();
        two.proxy.learn_pid(0, Some(std::process::id()));
        two
    }

    /// The same, but the proxy does not know whose process this is.
    fn with_strangers() -> Self {
        let ((zero, zero_gossip), (listener, gossip)) = (port(), port());
        let nodes = [zero.local_addr().unwrap(), listener.local_addr().unwrap()];
        for socket in [&zero_gossip, &gossip] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let doors = [(); 2].map(|()| port().0.local_addr().unwrap());
        let targets = [0, 1].map(|index| Target { node: nodes[index], door: doors[index] });
        let proxy = FaultProxy::start(&targets, 7).unwrap();
        Self { proxy, doors, gossip: [zero_gossip, gossip], listener }
    }

    fn set(&self, from: impl Into<Party>, to: impl Into<Party>, rule: Rule) {
        self.proxy.set(from, to, rule).unwrap();
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.doors[1]).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn accept(&self) -> TcpStream {
        let stream = self.listener.accept().unwrap().0;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// A connection through the door of node 1: the opener's end and the node's.
    fn connection(&self) -> (TcpStream, TcpStream) {
        (self.dial(), self.accept())
    }

    /// Node `from` gossips to node `to`, through its door.
    fn send(&self, from: usize, to: usize, text: &str) {
        self.gossip[from].send_to(text.as_bytes(), self.doors[to]).unwrap();
    }

    /// What node `node` hears next, and from where.
    fn hear(&self, node: usize) -> (String, SocketAddr) {
        let mut buffer = [0; 100];
        let (length, source) = self.gossip[node].recv_from(&mut buffer).unwrap();
        (String::from_utf8_lossy(&buffer[..length]).into_owned(), source)
    }

    #[track_caller]
    fn wait(&self, from: impl Into<Party>, to: impl Into<Party>, what: &str, holds: impl Fn(&Traffic) -> bool) {
        let (from, to) = (from.into(), to.into());
        until(what, || holds(&self.proxy.traffic(from, to)));
    }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn read(stream: &mut TcpStream, expected: &str) {
    let mut buffer = vec![0; expected.len()];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(String::from_utf8_lossy(&buffer), expected);
}

/// Nothing lies in a socket now.
#[track_caller]
fn assert_silent(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    assert!(read.as_ref().is_err_and(|fault| fault.kind() == ErrorKind::WouldBlock), "{read:?}");
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let read = stream.read(&mut [0]);
    assert!(read.as_ref().is_err_and(|fault| fault.kind() == ErrorKind::ConnectionReset), "{read:?}");
}

#[test]
fn without_rules_everything_passes_and_is_counted_for_its_pair() {
    let two = Two::start();
    let (mut opener, mut node) = two.connection();
    opener.write_all(b"question").unwrap();
    read(&mut node, "question");
    node.write_all(b"an answer").unwrap();
    read(&mut opener, "an answer");
    two.send(0, 1, "syn");
    let (text, flow) = two.hear(1);
    assert_eq!(text, "syn");
    two.gossip[1].send_to(b"syn-ack", flow).unwrap();
    assert_eq!(two.hear(0), ("syn-ack".to_owned(), two.doors[1]), "an answer comes from where the question went");
    let there = Traffic { connections: 1, bytes: 8, datagrams: 1, ..Traffic::default() };
    let back = Traffic { bytes: 9, datagrams: 1, ..Traffic::default() };
    two.wait(0, 1, "all is counted there", |traffic| *traffic == there);
    two.wait(1, 0, "all is counted back", |traffic| *traffic == back);
    for (from, to) in [(Party::Stranger, Party::Node(1)), (Party::Node(1), Party::Stranger)] {
        assert_eq!(two.proxy.traffic(from, to), Traffic::default(), "{from:?} -> {to:?}");
    }
}

#[test]
fn a_side_that_ends_leaves_the_other_one_open_and_a_reset_reaches_the_other_side() {
    let two = Two::start();
    let (mut opener, mut node) = two.connection();
    opener.write_all(b"all").unwrap();
    opener.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    node.read_to_string(&mut text).unwrap();
    assert_eq!(text, "all");
    node.write_all(b"thanks").unwrap();
    drop(node);
    opener.read_to_string(&mut text).unwrap();
    assert_eq!(text, "allthanks");

    let (mut opener, mut node) = two.connection();
    opener.write_all(b"twice").unwrap();
    read(&mut node, "t");
    // Closed with bytes that nobody read, a socket is reset.
    drop(node);
    assert_reset(&mut opener);
}

#[test]
fn delays_add_up_over_both_directions_and_the_handshake() {
    let two = Two::start();
    let slow = Rule::both(Faults::delayed(DELAY));
    two.proxy.set_both_ways(0, 1, slow).unwrap();
    let started = Instant::now();
    let (mut opener, mut node) = two.connection();
    opener.write_all(b"ping").unwrap();
    read(&mut node, "ping");
    assert!(DELAY * 3 <= started.elapsed(), "{:?} for a handshake and one way", started.elapsed());
    let answered = Instant::now();
    node.write_all(b"pong").unwrap();
    read(&mut opener, "pong");
    assert!(DELAY <= answered.elapsed(), "{:?} for one way", answered.elapsed());
    let started = Instant::now();
    two.send(0, 1, "syn");
    let flow = two.hear(1).1;
    assert!(DELAY <= started.elapsed(), "{:?} for one datagram", started.elapsed());
    two.gossip[1].send_to(b"syn-ack", flow).unwrap();
    two.hear(0);
    assert!(DELAY * 2 <= started.elapsed(), "{:?} for two datagrams", started.elapsed());
}

#[test]
fn the_share_of_lost_and_doubled_datagrams_is_the_rules() {
    let two = Two::start();
    two.set(0, 1, Rule::udp(Faults { duplicate: 0.5, ..Faults::lossy(0.2) }));
    let mut heard = 0;
    for sent in 1..=1000 {
        two.send(0, 1, "x");
        two.wait(0, 1, "the datagram has met its fate", |traffic| {
            traffic.datagrams + traffic.datagrams_lost == sent + traffic.datagrams_doubled
        });
        // One after the other, so that no socket's buffer overflows.
        while heard < two.proxy.traffic(0, 1).datagrams {
            assert_eq!(two.hear(1).0, "x");
            heard += 1;
        }
    }
    let Traffic { datagrams_doubled, datagrams_lost, .. } = two.proxy.traffic(0, 1);
    assert!((150..250).contains(&datagrams_lost), "{datagrams_lost} of 1000 at 20 %");
    assert!((330..470).contains(&datagrams_doubled), "{datagrams_doubled} doubled, at half of the other 800");
    assert_eq!(heard, 1000 - datagrams_lost + datagrams_doubled);
    assert_eq!(two.proxy.traffic(1, 0), Traffic::default(), "the rule is for one direction");
}

#[test]
fn lost_chunks_come_late_and_in_order() {
    let two = Two::start();
    two.set(0, 1, Rule::tcp(Faults { jitter: DELAY / 4, ..Faults::lossy(0.3) }));
    let (mut opener, mut node) = two.connection();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || opener.write_all(&sent));
    let mut got = Vec::new();
    node.read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(got == expected, "{} bytes came, and not those that were sent", got.len());
    let traffic = two.proxy.traffic(0, 1);
    assert_eq!((traffic.bytes, traffic.bytes_waiting), (1_000_000, 0));
    assert!(0 < traffic.chunks_late, "with 60 chunks or more at 30 %, none late is one chance in a thousand million");
}

#[test]
fn a_cut_of_datagrams_is_one_way() {
    let two = Two::start();
    for (deaf, other) in [(0, 1), (1, 0)] {
        two.set(other, deaf, Rule::udp(Faults::CUT));
        let lost = two.proxy.traffic(other, deaf).datagrams_lost;
        two.send(other, deaf, "lost");
        two.wait(other, deaf, "it is lost", |traffic| traffic.datagrams_lost == lost + 1);
        two.send(deaf, other, "heard");
        let (text, flow) = two.hear(other);
        assert_eq!(text, "heard");
        two.gossip[other].send_to(b"an answer goes the cut way", flow).unwrap();
        two.wait(other, deaf, "the answer is lost too", |traffic| traffic.datagrams_lost == lost + 2);
        two.proxy.heal();
        two.send(other, deaf, "healed");
        assert_eq!(two.hear(deaf).0, "healed", "what was lost stays lost");
    }
}

#[test]
fn a_cut_of_a_connection_is_one_way_and_what_it_held_arrives_when_it_is_healed() {
    let two = Two::start();
    let (mut opener, mut node) = two.connection();
    two.set(0, 1, Rule::tcp(Faults::CUT));
    opener.write_all(b"held, ").unwrap();
    node.write_all(b"passes").unwrap();
    read(&mut opener, "passes");
    assert_silent(&mut node);
    two.proxy.heal();
    opener.write_all(b"then free").unwrap();
    read(&mut node, "held, then free");

    two.set(1, 0, Rule::tcp(Faults::CUT));
    node.write_all(b"held back").unwrap();
    // Not even its end is told: the cable is out.
    drop(node);
    opener.write_all(b"nobody reads this").unwrap();
    two.wait(0, 1, "bytes of the open direction pass", |traffic| traffic.bytes == 32);
    assert_silent(&mut opener);
    two.proxy.heal();
    read(&mut opener, "held back");
}

#[test]
fn what_was_delayed_when_a_cut_began_waits_for_its_end() {
    let two = Two::start();
    let (mut opener, mut node) = two.connection();
    two.set(0, 1, Rule::tcp(Faults::delayed(LIMIT)));
    opener.write_all(b"under way").unwrap();
    two.wait(0, 1, "the proxy has it", |traffic| traffic.bytes_waiting == 9);
    two.set(0, 1, Rule::tcp(Faults::CUT));
    assert_silent(&mut node);
    drop((opener, node));
    two.proxy.set(0, 1, Rule::tcp(Faults::RESET)).unwrap();
    two.wait(0, 1, "a connection that ends gives back what it held", |traffic| traffic.bytes_waiting == 0);
}

#[test]
fn a_new_connection_waits_at_a_cut_of_either_direction() {
    for (from, to) in [(0, 1), (1, 0)] {
        let two = Two::start();
        two.set(from, to, Rule::tcp(Faults::CUT));
        let mut opener = two.dial();
        opener.write_all(b"hello").unwrap();
        let given_up = two.dial();
        two.wait(0, 1, "both are held", |traffic| traffic.connections_held == 2);
        drop(given_up);
        two.listener.set_nonblocking(true).unwrap();
        assert!(two.listener.accept().is_err_and(|fault| fault.kind() == ErrorKind::WouldBlock));
        two.listener.set_nonblocking(false).unwrap();
        two.proxy.heal();
        read(&mut two.accept(), "hello");
        let (mut opener, mut node) = two.connection();
        opener.write_all(b"next").unwrap();
        read(&mut node, "next");
        assert_eq!(two.proxy.traffic(0, 1).connections, 2, "the one that was given up is never opened");
    }
}

#[test]
fn a_firewall_that_rejects_resets_old_and_new_connections() {
    for (from, to) in [(0, 1), (1, 0)] {
        let two = Two::start();
        let (mut opener, mut node) = two.connection();
        two.set(from, to, Rule::both(Faults::RESET));
        assert_reset(&mut opener);
        assert_reset(&mut node);
        assert_reset(&mut two.dial());
        two.wait(0, 1, "both are counted", |traffic| traffic.connections_reset == 2);
        two.send(from, to, "rejected");
        two.wait(from, to, "datagrams are lost", |traffic| traffic.datagrams_lost == 1);
        two.proxy.heal();
        let (mut opener, mut node) = two.connection();
        opener.write_all(b"again").unwrap();
        read(&mut node, "again");
    }
}

#[test]
fn rules_of_a_node_are_not_for_strangers_and_the_reverse() {
    let two = Two::with_strangers();
    two.set(0, 1, Rule::CUT);
    let (mut opener, mut node) = two.connection();
    opener.write_all(b"who is it").unwrap();
    read(&mut node, "who is it");
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"somebody", two.doors[1]).unwrap();
    assert_eq!(two.hear(1).0, "somebody");
    two.set(Party::Stranger, 1, Rule::CUT);
    opener.write_all(b"more").unwrap();
    stranger.send_to(b"more", two.doors[1]).unwrap();
    two.wait(Party::Stranger, 1, "the datagram is lost", |traffic| traffic.datagrams_lost == 1);
    assert_silent(&mut node);
    // A process that is learnt is a node from its next connection on.
    two.proxy.learn_pid(0, Some(std::process::id()));
    two.set(0, 1, Rule::NONE);
    let (mut opener, mut node) = two.connection();
    opener.write_all(b"known").unwrap();
    read(&mut node, "known");
    let connections = |from: Party| two.proxy.traffic(from, 1).connections;
    assert_eq!((connections(Party::Stranger), connections(Party::Node(0))), (1, 1));
}

#[test]
fn a_full_buffer_is_not_read_into() {
    const BUFFER_AND_ONE_CHUNK: u64 = (256 + 16) * 1024;
    let two = Two::start();
    let (mut opener, _node) = two.connection();
    two.set(0, 1, Rule::tcp(Faults::delayed(LIMIT)));
    opener.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let chunk = vec![0; 64 * 1024];
    // The sockets' own buffers are the system's business, but they are no 64 MB.
    let blocked = (0..1000).find_map(|_| opener.write_all(&chunk).err());
    assert_eq!(blocked.map(|fault| fault.kind()), Some(ErrorKind::WouldBlock));
    let waiting = two.proxy.traffic(0, 1).bytes_waiting;
    assert!((256 * 1024..=BUFFER_AND_ONE_CHUNK).contains(&waiting), "{waiting} bytes wait");
}

#[test]
fn the_door_of_a_node_that_is_down_refuses_until_it_is_back() {
    let two = Two::start();
    let (mut opener, node) = two.connection();
    let Two { proxy, doors, listener, .. } = two;
    let address = listener.local_addr().unwrap();
    drop((listener, node));
    assert_eq!(opener.read(&mut [0]).unwrap(), 0);
    drop(opener);
    until("the door refuses", || {
        TcpStream::connect(doors[1]).is_err_and(|fault| fault.kind() == ErrorKind::ConnectionRefused)
    });
    // A cut hides that the node is down.
    proxy.set_around(1, Rule::CUT).unwrap();
    let mut silent = None;
    until("the door is silent", || {
        silent = TcpStream::connect(doors[1]).ok();
        silent.is_some()
    });
    let mut opener = silent.unwrap();
    opener.write_all(b"welcome").unwrap();
    let listener = TcpListener::bind(address).unwrap();
    proxy.heal();
    until("the one that waited is served", || {
        // One that came while the door was about to close, and left, may come first.
        let mut text = [0; 7];
        listener.accept().unwrap().0.read_exact(&mut text).is_ok_and(|()| text == *b"welcome")
    });
    // Down and back once more, without a cut to open the door.
    drop((listener, opener));
    until("the door refuses again", || TcpStream::connect(doors[1]).is_err());
    let _listener = TcpListener::bind(address).unwrap();
    until("the door is open again", || TcpStream::connect(doors[1]).is_ok());
}

#[test]
fn a_dropped_proxy_closes_its_doors_and_connections() {
    let two = Two::start();
    let (mut opener, _node) = two.connection();
    let Two { proxy, doors, .. } = two;
    drop(proxy);
    assert!(matches!(opener.read(&mut [0]), Ok(0) | Err(_)));
    for door in doors {
        assert!(TcpStream::connect(door).is_err_and(|fault| fault.kind() == ErrorKind::ConnectionRefused));
        UdpSocket::bind(door).expect("the port is free again");
    }
}

#[test]
fn addresses_that_cannot_be_are_refused_before_any_door_is_open() {
    let (listener, _socket) = port();
    let good = listener.local_addr().unwrap();
    let target = |node: &str, door: &str| Target { node: node.parse().unwrap(), door: door.parse().unwrap() };
    let taken = Target { node: good, door: good };
    for (targets, part) in [
        (vec![target("[::1]:1", "127.0.0.1:1")], "[::1]:1 is not an IPv4 address"),
        (vec![target("127.0.0.1:1", "0.0.0.0:2")], "0.0.0.0:2 names no single host and port"),
        (vec![taken], "the proxy's door of node 0"),
        (vec![taken; 257], "257 nodes behind one proxy; at most 256"),
    ] {
        let text = format!("{:#}", FaultProxy::start(&targets, 1).unwrap_err());
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}
