//! A program run to its end, within a limit.
//!
//! For tests of the command line: refusals of `shoal serve`, `shoal model`, drills of `cluster-sim`.
//! Invariants: the child is ended by its id when the limit passes; no variable of this process that configures a node
//! reaches it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait;

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Finished {
    /// The lines on standard error that the program itself addressed to its user, without the log.
    #[must_use]
    pub fn complaints(&self) -> Vec<&str> {
        self.errors.lines().filter(|line| line.starts_with("shoal: ")).collect()
    }
}

/// A command without the variables that would configure a node.
pub(crate) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL__")) {
        command.env_remove(name);
    }
    command
}

/// Runs `program` to its end.
///
/// # Panics
/// It cannot be started, or still runs after `limit`; then it is killed, and the message has what it wrote.
pub fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A], variables: &[(&str, &str)], limit: Duration) -> Finished {
    // Files and not pipes: nobody reads while the child writes.
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let (output, errors) = (directory.path().join("output"), directory.path().join("errors"));
    let file = |path| Stdio::from(File::create(path).expect("a file in a new directory can be made"));
    let child = clean(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(file(&output))
        .stderr(file(&errors))
        .spawn();
    let mut child = Guard(child.unwrap_or_else(|fault| panic!("{} cannot be started: {fault}", program.display())));
    let read = |path| String::from_utf8_lossy(&fs::read(path).expect("the file was made above")).into_owned();
    let deadline = std::time::Instant::now() + limit;
    let status = wait::until_some("the child's end, or the limit", limit + wait::LIMIT, || {
        let ended = child.0.try_wait().expect("the child is ours to wait for");
        assert!(
            ended.is_some() || std::time::Instant::now() < deadline,
            "{} still ran after {limit:?}; it wrote\n{}\n{}",
            program.display(),
            read(&output),
            read(&errors)
        );
        ended
    });
    Finished { code: status.code(), output: read(&output), errors: read(&errors) }
}

/// Kills a child that nobody waits for any more.
struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
