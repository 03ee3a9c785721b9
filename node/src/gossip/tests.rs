//! What a gossip thread makes of what others announce, and what becomes of it when it is held up or its loop ends.
//!
//! Part of `gossip`. Nodes are on free ports of this machine, and wait for what they are told.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chitchat::ChitchatMessage;
use chitchat::transport::{Socket, UdpTransport};
use tokio::sync::watch;

use super::*;

/// What a sound node announces, with `value` under `name` in place of what it said there.
fn heard(name: &'static str, value: &str) -> Option<Member> {
    let sound = [
        (key::BOOT, "7"),
        (key::PEER_ADDR, "10.0.0.1:8090"),
        (key::ENGINE, "ready"),
        (key::WEIGHT, "50"),
        (key::BACKUP, "1"),
        (key::LOAD, "v1.7.1.2.3.4.1.0.1.255.255"),
    ];
    let mut said = BTreeMap::from(sound);
    said.insert(name, value);
    member("node", true, |key| said.get(key).copied())
}

#[test]
fn what_a_node_announces_is_read() {
    let member = heard(key::ZONE, "").expect("a sound member");
    assert_eq!((member.boot, member.weight, member.backup), (BootId(7), 50, true));
    assert_eq!(member.load.and_then(Result::ok).map(|report| report.seq), Some(1));
}

#[test]
fn what_makes_no_member_is_none() {
    for (name, value) in [
        (key::BOOT, ""),
        (key::BOOT, "-1"),
        (key::BOOT, "soon"),
        (key::PEER_ADDR, "10.0.0.1"),
        (key::PEER_ADDR, "8.8.8.8:8090"),
    ] {
        assert_eq!(heard(name, value), None, "{name} {value:?}");
    }
}

#[test]
fn a_load_that_cannot_be_is_told_apart_from_none() {
    let load = |value: &str| heard(key::LOAD, value).expect("a member all the same").load;
    let long = format!("v1.7.1.2.3.4.1.0.1.255.255{}", ".1".repeat(VALUE_BYTES_MAX));
    for (value, fault) in [
        ("v1.6.1.2.3.4.1.0.1.255.255", ReportFault::Backwards),
        ("v1.8.1.2.3.4.1.0.1.255.255", ReportFault::Backwards),
        ("v1.7.1.2.3.4.1.0.0.255.255", ReportFault::Absurd),
        ("v9.7.1.2.3.4.1.0.1.255.255", ReportFault::Form),
        ("v1.7.1", ReportFault::Garbled),
        (&long, ReportFault::Garbled),
    ] {
        assert_eq!(load(value), Some(Err(fault)), "{value:.60}");
    }
    let silent = member("node", true, |name| match name {
        key::BOOT => Some("7"),
        key::PEER_ADDR => Some("10.0.0.1:1"),
        _ => None,
    });
    let silent = silent.expect("a member that says little");
    assert_eq!((silent.load, silent.weight, silent.backup), (None, WEIGHT_DEFAULT, false));
}

/// A node on a free port of this machine.
fn settings(id: &str, seeds: &[SocketAddr]) -> (GossipSettings, BTreeMap<&'static str, String>) {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = GossipSettings {
        cluster: format!("pulse-{}", std::process::id()),
        node_id: NodeId::new(id).unwrap(),
        generation: 1,
        listen: free,
        advertise: free,
        seeds: seeds.iter().map(SocketAddr::to_string).collect(),
        interval: Duration::from_millis(50),
        phi_threshold: 12.0,
        dead_grace: Duration::from_secs(60),
    };
    (settings, BTreeMap::from([(key::BOOT, "1".to_owned()), (key::PEER_ADDR, free.to_string())]))
}

#[test]
fn a_thread_that_was_held_up_says_by_how_much() {
    let held_up = Duration::from_millis(300);
    let (first, announced) = settings("first", &[]);
    let (told, events) = std_mpsc::channel();
    let seed = first.listen;
    let _first = Gossip::start(first, announced, GossipMetrics::default(), move |event| {
        if matches!(event, GossipEvent::Members(_)) {
            // Whoever hears the thread holds it up: nobody ever sends here.
            let (_nobody, never) = std_mpsc::channel::<()>();
            let _ = never.recv_timeout(held_up);
        }
        let _ = told.send(event);
    });
    let (second, announced) = settings("second", &[seed]);
    let _second = Gossip::start(second, announced, GossipMetrics::default(), |_| {});
    let limit = Duration::from_secs(20);
    let late = std::iter::from_fn(|| events.recv_timeout(limit).ok()).find_map(|event| match event {
        GossipEvent::Late(late) => Some(late),
        _ => None,
    });
    let late = late.expect("the thread was held up, and told nobody");
    assert!(held_up - 2 * PULSE_INTERVAL <= late, "{late:?}");
}

#[test]
fn a_weight_that_no_node_may_have_is_not_believed() {
    for (text, expected) in [
        ("0", Some(0)),
        ("100", Some(100)),
        ("10000", Some(10_000)),
        ("10001", None),
        ("4294967296", None),
        ("-1", None),
        ("+5", None),
        ("1e3", None),
        ("", None),
        (" 1", None),
    ] {
        assert_eq!(weight_of(text), expected, "{text:?}");
    }
}

/// What a trait of asynchronous functions returns.
type Answer<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// UDP whose sockets can be broken, and then cannot be opened for a while.
#[derive(Clone)]
struct Breakable {
    breaks: watch::Sender<u32>,
    shut: Arc<AtomicBool>,
}

struct BreakableSocket {
    socket: Box<dyn Socket>,
    breaks: watch::Receiver<u32>,
}

impl Transport for Breakable {
    fn open<'a, 'b>(&'a self, listen: SocketAddr) -> Answer<'b, Box<dyn Socket>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            anyhow::ensure!(!self.shut.load(Ordering::Relaxed), "the test keeps it shut");
            let (socket, breaks) = (UdpTransport.open(listen).await?, self.breaks.subscribe());
            let socket: Box<dyn Socket> = Box::new(BreakableSocket { socket, breaks });
            Ok(socket)
        })
    }
}

impl Socket for BreakableSocket {
    fn send<'a, 'b>(&'a mut self, to: SocketAddr, message: ChitchatMessage) -> Answer<'b, ()>
    where
        'a: 'b,
        Self: 'b,
    {
        self.socket.send(to, message)
    }

    fn recv<'a, 'b>(&'a mut self) -> Answer<'b, (SocketAddr, ChitchatMessage)>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            tokio::select! {
                received = self.socket.recv() => received,
                _ = self.breaks.changed() => anyhow::bail!("the test broke it"),
            }
        })
    }
}

/// The first event that `is_it`, waited for.
#[track_caller]
fn wait_for(events: &std_mpsc::Receiver<GossipEvent>, what: &str, is_it: impl Fn(&GossipEvent) -> bool) {
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    let left = || limit.saturating_duration_since(std::time::Instant::now());
    let found = std::iter::from_fn(|| events.recv_timeout(left()).ok()).any(|event| is_it(&event));
    assert!(found, "{what}: not within 20 s");
}

fn says(engine: &'static str) -> impl Fn(&GossipEvent) -> bool {
    move |event| match event {
        GossipEvent::Members(members) => members.iter().any(|one| one.alive && one.engine == engine),
        _ => false,
    }
}

#[test]
fn a_loop_that_ends_starts_again_and_the_others_believe_what_it_says_then() {
    let transport = Breakable { breaks: watch::channel(0).0, shut: Arc::default() };
    let ((first, announced), (told, own)) = (settings("first", &[]), std_mpsc::channel());
    let seed = first.listen;
    let first = Gossip::start_over(transport.clone(), first, announced, move |event| drop(told.send(event)));
    let first = first.expect("a free port");
    let ((second, announced), (told, seen)) = (settings("second", &[seed]), std_mpsc::channel());
    let _second = Gossip::start(second, announced, GossipMetrics::default(), move |event| drop(told.send(event)));
    // So many versions that what the new loop says would be old news, were it not of a later generation.
    (0..50).for_each(|number| first.announce(key::API_ADDR, number.to_string()));
    first.announce(key::ENGINE, "before".to_owned());
    wait_for(&seen, "the second hears the first", says("before"));

    transport.shut.store(true, Ordering::Relaxed);
    transport.breaks.send_modify(|count| *count += 1);
    for _ in 0..2 {
        wait_for(&own, "the first says that its loop does not run", |event| {
            matches!(event, GossipEvent::Running(false))
        });
    }
    transport.shut.store(false, Ordering::Relaxed);
    wait_for(&own, "the first says that its loop runs", |event| matches!(event, GossipEvent::Running(true)));
    first.announce(key::ENGINE, "after".to_owned());
    wait_for(&seen, "the second hears what the first says since", says("after"));
    wait_for(
        &own,
        "the first hears the second",
        |event| matches!(event, GossipEvent::Members(known) if known[0].alive),
    );
}
