//! One real node: a `shoal serve` process with ports and directories of its own.
//!
//! For the suite. A [`Plan`] says how a node is started, the same at every start of it; a [`Node`] is one that was.
//! Invariants: a node ends with its test: it is killed by its id when the value is dropped, and should the test process
//! die, it reads the end of a pipe and leaves by itself; a test that fails prints the end of its nodes' logs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binaries::binaries;
use crate::command;
use crate::http::{Answer, Connection, Request};
use crate::metrics::Metrics;
pub use crate::plan::Plan;
use crate::wait::{self, LIMIT};

/// Lines of a log that a failing test prints.
const LOG_TAIL_LINES: usize = 40;

/// A node that was started.
#[derive(Debug)]
pub struct Node {
    plan: Plan,
    directory: TempDir,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Node {
    pub(crate) fn start(plan: Plan) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join("data")).expect("a directory in a new one can be made");
        fs::write(directory.path().join("shoal.toml"), plan.settings.join("\n")).expect("the directory is new");
        let child = spawn(&plan, directory.path());
        Self { plan, directory, child, ended: None }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.plan.id
    }

    /// How it was started.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.plan.data.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// Everything that it wrote, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    // Talking to it.

    /// Sends a request on a new connection.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn ask(&self, request: &Request) -> Answer {
        request.send(self.plan.api).unwrap_or_else(|fault| panic!("{} does not answer: {fault}", self.id()))
    }

    /// `GET path`.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&Request::get(path))
    }

    /// `POST path` with a JSON body.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(&Request::post(path, body))
    }

    /// Asks `/embed` for the vector of one text.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    pub fn embed(&self, text: &str) -> Answer {
        self.ask(&embed(text))
    }

    /// A connection on which nothing was sent yet.
    ///
    /// # Panics
    /// The node does not listen.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.plan.api).unwrap_or_else(|fault| panic!("{} does not listen: {fault}", self.id()))
    }

    /// A connection on which one text was sent to `/embed`; the answer is not waited for.
    ///
    /// # Panics
    /// The node does not listen.
    #[must_use]
    #[track_caller]
    pub fn begin(&self, text: &str) -> Connection {
        let mut connection = self.connect();
        connection.send(&embed(text).bytes()).expect("a new connection takes a short request");
        connection
    }

    /// What `/readyz?verbose` shows; `null` while the node does not listen.
    #[must_use]
    pub fn view(&self) -> Value {
        Request::get("/readyz?verbose").send(self.plan.api).map_or(Value::Null, |answer| answer.json())
    }

    /// The peer `id` as this node shows it; `null` when it does not.
    #[must_use]
    pub fn peer(&self, id: &str) -> Value {
        let view = self.view();
        let peers = view["peers"].as_array().into_iter().flatten();
        peers.into_iter().find(|peer| peer["node_id"] == id).cloned().unwrap_or_default()
    }

    /// The ids of all peers that this node shows, dead ones too, in order.
    #[must_use]
    pub fn peer_ids(&self) -> Vec<String> {
        let view = self.view();
        let ids = view["peers"].as_array().into_iter().flatten().filter_map(|peer| peer["node_id"].as_str());
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Its metrics now.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200);
        Metrics::parse(&answer.text())
    }

    /// One sum of its metrics now: see [`Metrics::sum`].
    ///
    /// # Panics
    /// There is no answer, or no such metric.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// How often a rule of placement or failure decided something: see `shoal_decisions_total`.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    #[track_caller]
    pub fn decided(&self, rule: &str) -> f64 {
        self.metric("shoal_decisions_total", &[("rule", rule)])
    }

    // Waiting for it.

    /// Waits until its own engine is ready.
    ///
    /// # Panics
    /// It ends before, or does not get ready.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_engine("ready");
    }

    /// Waits until its engine is in a state: `starting`, `ready`, `failed` or `draining`.
    ///
    /// # Panics
    /// The node ends before, or its engine does not get there.
    #[track_caller]
    pub fn wait_engine(&mut self, state: &str) {
        wait::until(&format!("engine of {} is {state}", self.id()), LIMIT, || {
            if let Some(status) = self.poll_end() {
                panic!("{} ended with {status}", self.id());
            }
            self.view()["engine"] == state
        });
    }

    /// Waits until it shows `other` alive with its engine in a state.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn wait_sees(&self, other: &str, state: &str) {
        wait::until(&format!("{} sees {other} {state}", self.id()), LIMIT, || {
            let peer = self.peer(other);
            peer["alive"] == true && peer["engine"] == state
        });
    }

    /// Waits until it holds no work.
    ///
    /// # Panics
    /// It keeps some.
    #[track_caller]
    pub fn wait_rest(&self) {
        wait::until(&format!("{} holds nothing", self.id()), LIMIT, || self.metrics().at_rest());
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.id());
        wait::until_some(&what, LIMIT, || self.poll_end())
    }

    fn poll_end(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("the child is ours to wait for");
        }
        self.ended
    }

    // Doing things to it.

    /// SIGKILL, and waits for the end.
    ///
    /// # Panics
    /// It has ended already.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// SIGTERM.
    ///
    /// # Panics
    /// It has ended already.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it stands still until [`Node::thaw`].
    ///
    /// # Panics
    /// It has ended already.
    #[track_caller]
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// It has ended already.
    #[track_caller]
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    #[track_caller]
    fn signal(&mut self, signal: Signal) {
        // A process that was waited for has given its id back, and it may be somebody else's by now.
        assert!(self.poll_end().is_none(), "{} has ended already", self.id());
        let id = i32::try_from(self.child.id()).expect("Linux has no larger process ids");
        let id = Pid::from_raw(id).expect("a child's process id is not zero");
        kill_process(id, signal).expect("the child is ours to signal");
    }

    /// Starts it again, as it was started.
    ///
    /// # Panics
    /// It still runs.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.poll_end().is_some(), "{} still runs", self.id());
        self.child = spawn(&self.plan, self.directory.path());
        self.ended = None;
    }

    /// Makes its stand-in engine misbehave from the next batch on: `slow=FACTOR`, `hang`, `nan`, `wrong`,
    /// `fail`, `poison=WORD`, or several.
    ///
    /// # Panics
    /// The control file cannot be written.
    #[track_caller]
    pub fn misbehave(&self, words: &str) {
        misbehave(&self.data(), words);
    }

    /// Makes its stand-in engine behave again; a batch that hangs goes on.
    ///
    /// # Panics
    /// The control file cannot be written.
    #[track_caller]
    pub fn behave(&self) {
        self.misbehave("");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.poll_end().is_none() {
            // Both fail only when it has ended in between.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- the end of the log of {}:\n{}\n---", self.id(), tail.join("\n"));
        }
    }
}

/// The request for the vector of one text, in the dialect of text-embeddings-inference.
#[must_use]
pub fn embed(text: &str) -> Request {
    Request::post("/embed", &json!({ "inputs": text }))
}

fn spawn(plan: &Plan, directory: &Path) -> Child {
    let data = plan.data.clone().unwrap_or_else(|| directory.join("data"));
    if let Some(words) = &plan.control {
        misbehave(&data, words);
    }
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log"));
    let log = log.expect("a file in a new directory can be opened");
    let also = |log: &File| Stdio::from(log.try_clone().expect("a file can be had twice"));
    let mut command = command::clean(&binaries().shoal);
    command.arg("serve").arg("--exit-with-stdin").arg("--config").arg(directory.join("shoal.toml"));
    if plan.tells_id {
        command.args(["--node-id", &plan.id]);
    }
    command.args(["--cluster", &plan.cluster, "--engine", &plan.engine, "--threads", "1"]);
    command.args(["--api-listen", &plan.api.to_string(), "--peer-listen", &plan.peer.to_string()]);
    command.args(plan.seeds.iter().flat_map(|seed| ["--seed", seed]));
    command.arg("--data-dir").arg(data).args(&plan.arguments).env("NO_COLOR", "1");
    let spawned = command.stdin(Stdio::piped()).stdout(also(&log)).stderr(also(&log)).spawn();
    spawned.unwrap_or_else(|fault| panic!("{} cannot be started: {fault}", plan.id))
}

fn misbehave(data: &Path, words: &str) {
    // Renamed into place: a file that is half written would be obeyed by half.
    let beside = data.join("synthetic-control.new");
    let written: io::Result<()> =
        fs::write(&beside, words).and_then(|()| fs::rename(&beside, data.join("synthetic-control")));
    written.expect("the data directory can be written");
}
