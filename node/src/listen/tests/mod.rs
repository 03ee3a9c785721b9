//! Socket tests of the public face: a scripted [`Door`] behind the real server, real TCP in front.
//!
//! Invariants of the tests: every wait is for a condition and has a limit ([`within`]); nothing sleeps.
//! Here is the rig; the cases are in the modules below.

mod connections;
mod dialects;
mod http2;
mod limits;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_engine::Embedding;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::{Limits, serve};
use crate::job::{Answer, Door, Ending, Failure, FoundIn, Job, ModelView, NodeView, PeerView};
use crate::lanes::Lanes;

/// Limit on every wait of these tests; only a failing test waits so long.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the condition did not come true in 20 s")
}

/// What the door does with a job.
#[derive(Clone, Debug)]
enum Plan {
    /// Two dimensions a text: its length and -0.5.
    Answer,
    /// Answers after [`Rig::release`].
    Hold,
    /// Answers with so many dimensions a text.
    Wide(usize),
    Fail(Failure),
    Panic,
    /// One row too few.
    Short,
}

#[derive(Debug)]
struct Script {
    plan: Mutex<Plan>,
    gate: Semaphore,
    jobs: Mutex<Vec<Job>>,
    observed: watch::Sender<Vec<(&'static str, u16)>>,
    /// Jobs placed so far, and futures of `place` dropped before their end.
    placed: watch::Sender<usize>,
    abandoned: watch::Sender<usize>,
    draining: AtomicBool,
    can_answer: AtomicBool,
}

#[derive(Clone, Debug)]
struct ScriptedDoor(Arc<Script>);

/// Counts itself as abandoned unless defused.
struct Abandoned<'a>(Option<&'a watch::Sender<usize>>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.send_modify(|count| *count += 1);
        }
    }
}

impl Door for ScriptedDoor {
    async fn place(&self, job: Job) -> Ending {
        let script = &*self.0;
        let explanation = job.explain.then(|| r#"{"why":"because"}"#.into());
        let plan = script.plan.lock().unwrap().clone();
        script.jobs.lock().unwrap().push(job.clone());
        let mut abandoned = Abandoned(Some(&script.abandoned));
        script.placed.send_modify(|count| *count += 1);
        let values = |text: &str| match plan {
            Plan::Wide(dimensions) => vec![0.123_456_79; dimensions],
            _ => vec![f32::from(u16::try_from(text.len()).unwrap_or(u16::MAX)), -0.5],
        };
        let mut rows: Vec<Embedding> =
            job.texts.iter().map(|text| Embedding { values: values(text), tokens: 3 }).collect();
        match plan {
            Plan::Answer | Plan::Wide(_) => {}
            Plan::Hold => script.gate.acquire().await.unwrap().forget(),
            Plan::Fail(failure) => {
                abandoned.0 = None;
                return Ending { answer: Err(failure), explanation, room: None };
            }
            Plan::Panic => panic!("planned"),
            Plan::Short => drop(rows.pop()),
        }
        abandoned.0 = None;
        let answer = Answer {
            rows,
            served_by: "node-b".into(),
            hops: 1,
            placements: 2,
            queue_us: 4_999,
            compute_us: 7_000,
            model: "minilm".into(),
            revision: "00ff".into(),
            cache: Some(FoundIn::Owner),
        };
        Ending { answer: Ok(answer), explanation, room: None }
    }

    fn view(&self) -> NodeView {
        let can_answer = self.0.can_answer.load(Ordering::SeqCst);
        NodeView {
            node_id: "node-a".into(),
            cluster: "test".into(),
            api_addr: "127.0.0.1:1".into(),
            engine: if can_answer { "ready" } else { "starting" },
            engine_message: String::new(),
            door: "open",
            can_answer,
            gossip_runs: true,
            doubts_gossip: false,
            seeds: 0,
            uptime_s: 1,
            changed_ms: None,
            weight: 100,
            backup: false,
            wait_us: 0,
            load_percent: 0,
            model: can_answer.then(|| ModelView {
                name: "minilm".into(),
                revision: "00ff".into(),
                precision: "f32".into(),
                dimensions: 2,
                tokens_max: 256,
                pooling: "mean",
                stand_in: true,
                loaded_at_s: 5,
            }),
            peers: Vec::<PeerView>::new(),
            jobs_held: 0,
            jobs_forwarded: 0,
        }
    }

    fn metrics(&self) -> String {
        "shoal_up 1\n".into()
    }

    fn observe(&self, route: &'static str, status: u16, seconds: f64) {
        assert!((0.0..60.0).contains(&seconds), "{seconds}");
        self.0.observed.send_modify(|observed| observed.push((route, status)));
    }

    fn draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }
}

/// A running server.
struct Rig {
    addr: SocketAddr,
    script: Arc<Script>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<usize>,
}

impl Rig {
    async fn start(plan: Plan, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, plan, limits, watch::Sender::new(false))
    }

    fn start_on(listener: TcpListener, plan: Plan, limits: Limits, stop: watch::Sender<bool>) -> Self {
        let script = Arc::new(Script {
            plan: Mutex::new(plan),
            gate: Semaphore::new(0),
            jobs: Mutex::default(),
            observed: watch::Sender::default(),
            placed: watch::Sender::default(),
            abandoned: watch::Sender::default(),
            draining: AtomicBool::new(false),
            can_answer: AtomicBool::new(true),
        });
        let addr = listener.local_addr().unwrap();
        let serving =
            tokio::spawn(serve(listener, limits, ScriptedDoor(Arc::clone(&script)), Lanes::here(), stop.subscribe()));
        Self { addr, script, stop, serving }
    }

    fn plan(&self, plan: Plan) {
        *self.script.plan.lock().unwrap() = plan;
    }

    fn release(&self, jobs: usize) {
        self.script.gate.add_permits(jobs);
    }

    async fn placed(&self, jobs: usize) {
        within(self.script.placed.subscribe().wait_for(|&placed| placed == jobs)).await.unwrap();
    }

    async fn abandoned(&self, jobs: usize) {
        within(self.script.abandoned.subscribe().wait_for(|&abandoned| abandoned == jobs)).await.unwrap();
    }

    /// Waits until exactly these requests were observed.
    async fn observed(&self, expected: &[(&'static str, u16)]) {
        let mut observed = self.script.observed.subscribe();
        within(observed.wait_for(|observed| expected.len() <= observed.len())).await.unwrap();
        assert_eq!(*self.script.observed.borrow(), expected);
    }

    async fn connect(&self) -> Client {
        Client::new(within(TcpStream::connect(self.addr)).await.unwrap())
    }

    /// Stops the server and returns how many connections were cut off.
    async fn stopped(self) -> usize {
        self.stop.send_replace(true);
        within(self.serving).await.unwrap()
    }
}

/// An HTTP/1 client that sends exactly what it is told.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    /// Value of a header, by its name in lower case.
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends a request with a JSON body; `headers` are whole lines with their line ends.
    async fn post(&mut self, path: &str, headers: &str, body: &str) -> Reply {
        self.send(post(path, headers, body)).await;
        self.reply().await
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        self.reply().await
    }

    /// Reads one answer with a `content-length`.
    async fn reply(&mut self) -> Reply {
        let (head, length) = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                break (head, length.unwrap_or(0));
            }
            self.fill().await;
        };
        while self.buffer.len() < length {
            self.fill().await;
        }
        let body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        Reply { status, head, body }
    }

    async fn fill(&mut self) {
        let got = within(self.stream.read_buf(&mut self.buffer)).await.unwrap();
        assert_ne!(got, 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// Waits for the end of the connection; nothing but the end may come.
    async fn closed(mut self) {
        let mut rest = std::mem::take(&mut self.buffer);
        // A reset is an end too.
        let _ = within(self.stream.read_to_end(&mut rest)).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}
