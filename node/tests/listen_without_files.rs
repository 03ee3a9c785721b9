//! The public face while the process has no file descriptor left: it waits, and serves again when there is one.
//!
//! A process of its own, because the limit on open files counts for all of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal::job::{Door, Ending, Failure, Job, NodeView};
use shoal::lanes::Lanes;
use shoal::listen::{Limits, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Nobody;

impl Door for Nobody {
    async fn place(&self, _: Job) -> Ending {
        Ending { answer: Err(Failure::Expired), explanation: None, room: None }
    }

    fn view(&self) -> NodeView {
        NodeView {
            node_id: "node-a".into(),
            cluster: "test".into(),
            api_addr: "127.0.0.1:1".into(),
            engine: "ready",
            engine_message: String::new(),
            door: "open",
            can_answer: true,
            gossip_runs: true,
            doubts_gossip: false,
            seeds: 0,
            uptime_s: 0,
            changed_ms: None,
            weight: 100,
            backup: false,
            wait_us: 0,
            load_percent: 0,
            model: None,
            peers: Vec::new(),
            jobs_held: 0,
            jobs_forwarded: 0,
        }
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn observe(&self, _: &'static str, _: u16, _: f64) {}

    fn draining(&self) -> bool {
        false
    }
}

/// Hands every line of the log to the test.
struct Lines(mpsc::UnboundedSender<String>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn ask(addr: SocketAddr) -> TcpStream {
    let mut client = timeout(LIMIT, TcpStream::connect(addr)).await.unwrap().unwrap();
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    client
}

async fn answered(mut client: TcpStream) {
    let mut reply = String::new();
    timeout(LIMIT, client.read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
}

#[tokio::test]
async fn the_listener_outlives_a_lack_of_file_descriptors() {
    let (lines, mut log) = mpsc::unbounded_channel();
    tracing_subscriber::fmt().with_writer(move || Lines(lines.clone())).init();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = watch::Sender::new(false);
    let serving = tokio::spawn(serve(listener, Limits::default(), Nobody, Lanes::here(), stop.subscribe()));

    // Every descriptor is taken but one, which becomes the client's.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum }).unwrap();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    drop(taken.pop());
    let waiting = ask(addr).await;
    while !timeout(LIMIT, log.recv()).await.unwrap().unwrap().contains("cannot accept connections") {}

    drop(taken);
    // The caller that had to wait, and one that comes later.
    answered(waiting).await;
    answered(ask(addr).await).await;

    stop.send_replace(true);
    assert_eq!(timeout(LIMIT, serving).await.unwrap().unwrap(), 0);
}
