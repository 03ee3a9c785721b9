//! One node as a child process: its command line, its log, its end.
//!
//! For `cluster`. Signals go to this child only, by its id, and only while it has not been waited for, so an id that
//! the system has given to somebody else is never hit.
//! Invariants: a child ends with this process however that dies: it reads from a pipe that ends then
//! (`--exit-with-stdin`), and dropping the value kills it. It is in a process group of its own, or Ctrl-C on the
//! terminal would reach it beside our own SIGTERM and count as the second, impatient signal.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cluster_sim::proxy::FaultProxy;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

/// How much of a log's end is looked at for its last lines.
const LOG_TAIL_BYTES_MAX: u64 = 16 * 1024;

/// How one node is started; the same at every start of it.
#[derive(Clone, Debug)]
pub(crate) struct NodeCommand {
    pub(crate) node_id: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Beside what this process has itself.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) api: SocketAddr,
    pub(crate) log: PathBuf,
}

impl NodeCommand {
    /// The same, run by another program that takes it as its last arguments and becomes it.
    pub(crate) fn behind(mut self, (runner, mut arguments): (PathBuf, Vec<OsString>)) -> Self {
        arguments.push(std::mem::replace(&mut self.program, runner).into());
        arguments.append(&mut self.arguments);
        self.arguments = arguments;
        self
    }
}

/// One node, running or ended.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) command: NodeCommand,
    /// `None` until it is started for the first time.
    child: Option<Child>,
    /// Our end of the pipe whose end tells the node to leave. Kept apart from the child: waiting for a child closes
    /// what it still has of its own, and a node that drains would take that for the death of its parent.
    stdin: Option<ChildStdin>,
    ended: Option<ExitStatus>,
    /// Who has to know the process at every start, and which node it is there.
    proxy: Option<(Arc<FaultProxy>, usize)>,
}

impl NodeProcess {
    /// A node that does not run yet.
    pub(crate) fn prepare(command: NodeCommand) -> Self {
        Self { command, child: None, stdin: None, ended: None, proxy: None }
    }

    /// Starts a node that does not run; again under the same id and with the same addresses and data directory.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started; the text names the file. It runs already.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "{} runs already", self.command.node_id);
        let mut child = spawn(&self.command)?;
        self.stdin = child.stdin.take();
        self.child = Some(child);
        self.ended = None;
        self.tell_pid();
        Ok(())
    }

    /// It was started, and its end has not been seen.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some() && self.ended.is_none()
    }

    /// It runs, or has ended.
    pub(crate) fn was_started(&self) -> bool {
        self.child.is_some()
    }

    /// From now on the proxy knows the connections of this node, its `index`-th, whenever it is started. Called right
    /// before or after the first start, before the node has read its configuration.
    pub(crate) fn introduce(&mut self, proxy: Arc<FaultProxy>, index: usize) {
        self.proxy = Some((proxy, index));
        self.tell_pid();
    }

    fn tell_pid(&self) {
        if let Some((proxy, index)) = &self.proxy {
            proxy.learn_pid(*index, self.pid());
        }
    }

    pub(crate) fn node_id(&self) -> &str {
        &self.command.node_id
    }

    /// The process id; `None` once the process has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if let (None, Some(child)) = (self.ended, &mut self.child) {
            self.ended = child.try_wait().with_context(|| format!("waiting for {}", self.command.node_id))?;
        }
        Ok(self.ended)
    }

    /// SIGKILL; the process has no time to do anything.
    ///
    /// # Errors
    /// The process has ended already.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGTERM, which drains; a second one drains fast.
    ///
    /// # Errors
    /// The process has ended already.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: the process stands still, and its kernel goes on taking connections.
    ///
    /// # Errors
    /// The process has ended already.
    pub(crate) fn suspend(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The process has ended already.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let node_id = &self.command.node_id;
        let id = self.pid().ok_or_else(|| anyhow!("{node_id} has ended already"))?;
        let pid = Pid::from_raw(i32::try_from(id)?).ok_or_else(|| anyhow!("{node_id} has no process id"))?;
        kill_process(pid, signal).with_context(|| format!("sending {signal:?} to {node_id}, process {id}"))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The process still runs after `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let child = self.child.as_mut().ok_or_else(|| anyhow!("{} was not started", self.command.node_id))?;
        let waited = tokio::time::timeout(limit, child.wait()).await;
        let status = waited
            .map_err(|_| anyhow!("{} still runs after {} s", self.command.node_id, limit.as_secs()))?
            .with_context(|| format!("waiting for {}", self.command.node_id))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// The last lines of the log, or why there are none.
    pub(crate) fn log_tail(&self, lines_max: usize) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.command.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES_MAX)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) if text.trim().is_empty() => "(the log is empty)".to_owned(),
            Ok(text) => last_lines(&text, lines_max),
            Err(cause) => format!("(the log {} cannot be read: {cause})", self.command.log.display()),
        }
    }
}

fn spawn(command: &NodeCommand) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&command.log)
        .with_context(|| format!("opening the log {}", command.log.display()))?;
    let log_too = log.try_clone().context("sharing the log between both outputs")?;
    Command::new(&command.program)
        .args(&command.arguments)
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(log_too))
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {} for {}", command.program.display(), command.node_id))
}

fn last_lines(text: &str, lines_max: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// `exit code 78`, `signal 9`.
pub(crate) fn describe_end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(directory: &tempfile::TempDir, script: &str) -> NodeProcess {
        let mut node = NodeProcess::prepare(NodeCommand {
            node_id: "node-1".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            api: SocketAddr::from(([127, 0, 0, 1], 1)),
            log: directory.path().join("node-1.log"),
        });
        node.start().unwrap();
        node
    }

    #[tokio::test]
    async fn behind_a_runner_a_node_is_the_same_process() {
        let directory = tempfile::tempdir().unwrap();
        let command = shell(&directory, "echo $0 $$; exit 7").command.clone();
        let runner = ("/bin/sh".into(), ["-c", "exec \"$@\"", "runner"].map(OsString::from).to_vec());
        let command = NodeCommand { log: directory.path().join("behind.log"), ..command.behind(runner) };
        let mut node = NodeProcess::prepare(command);
        node.start().unwrap();
        let pid = node.pid().unwrap();
        assert_eq!(describe_end(node.wait(LIMIT).await.unwrap()), "exit code 7");
        assert_eq!(node.log_tail(1), format!("/bin/sh {pid}"));
    }

    #[tokio::test]
    async fn a_child_whose_standard_input_ends_with_its_owner_ends_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = shell(&directory, "cat; exit 7");
        assert_eq!(node.ended().unwrap(), None);
        // What the system does to the pipe when this process dies.
        drop(node.stdin.take());
        assert_eq!(describe_end(node.wait(LIMIT).await.unwrap()), "exit code 7");
    }

    #[tokio::test]
    async fn waiting_for_a_child_does_not_tell_it_that_its_owner_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = shell(&directory, "echo up; cat; echo told");
        let up = async {
            while node.log_tail(1) != "up" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, up).await.unwrap();
        let text = node.wait(Duration::from_millis(100)).await.unwrap_err().to_string();
        assert!(text.contains("node-1 still runs"), "{text}");
        assert_eq!(node.log_tail(1), "up");
    }

    #[tokio::test]
    async fn a_killed_child_is_told_apart_from_one_that_exits_and_can_start() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = shell(&directory, "cat");
        let first = node.pid().unwrap();
        node.kill().unwrap();
        assert_eq!(describe_end(node.wait(LIMIT).await.unwrap()), "signal 9");
        assert!(node.kill().is_err(), "an id that may belong to somebody else must not get a signal");
        node.start().unwrap();
        assert_ne!(node.pid(), Some(first));
        node.terminate().unwrap();
        assert_eq!(describe_end(node.wait(LIMIT).await.unwrap()), "signal 15");
    }

    #[tokio::test]
    async fn both_outputs_are_in_the_log_and_its_end_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = shell(&directory, "echo one; echo two >&2; echo three");
        node.wait(LIMIT).await.unwrap();
        assert_eq!(node.log_tail(2), "two\nthree");
        assert_eq!(node.log_tail(9), "one\ntwo\nthree");
    }
}
