//! nginx and HAProxy as children of a benchmark, to be compared with.
//!
//! For `bench`. The programs are those of the system; what is not installed is told, with the way to install it.
//! Invariants: a balancer listens on loopback, writes into its own directory only, and ends with this value, also when
//! that is dropped half-way; signals go to the process group that was started here and to nobody else.
//! Not here: what is measured (`bench::hop`, `bench::tail`).

mod haproxy;
mod nginx;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::TcpStream;

use crate::cluster::{describe_end, make_private_directory};

/// How long a balancer may take to listen, and to end.
const LIMIT: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// Where Debian has programs for administrators, which are often not in the `PATH` of others.
const ALSO_IN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// A program that balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx,
    HaProxy,
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    InTurn,
    LeastConnections,
    Random,
}

/// One of the servers behind a balancer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// From 1 on.
    pub(crate) weight: u32,
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct BalancerPlan {
    pub(crate) listen: SocketAddr,
    pub(crate) method: Method,
    pub(crate) servers: Vec<Server>,
    /// Processes of nginx, threads of HAProxy.
    pub(crate) workers: u16,
}

/// A program that was found.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) program: Program,
    pub(crate) file: PathBuf,
    /// The first line of what it says of its version.
    pub(crate) version: String,
}

/// A running balancer.
#[derive(Debug)]
pub(crate) struct Balancer {
    program: Program,
    child: Child,
    listen: SocketAddr,
    configuration: String,
    log: PathBuf,
}

/// The programs that are on this machine, and for each other one a line that says how to install it.
pub(crate) fn installed() -> (Vec<Installed>, Vec<String>) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(ALSO_IN.map(PathBuf::from)).collect();
    installed_in(&directories)
}

fn installed_in(directories: &[PathBuf]) -> (Vec<Installed>, Vec<String>) {
    let (mut installed, mut missing) = (Vec::new(), Vec::new());
    for program in [Program::Nginx, Program::HaProxy] {
        match program.find_in(directories) {
            Ok(found) => installed.push(found),
            Err(absent) => missing.push(format!("{absent:#}")),
        }
    }
    (installed, missing)
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
        }
    }

    /// The word for a method in this program's configuration.
    pub(crate) fn method_name(self, method: Method) -> &'static str {
        match (self, method) {
            (Self::Nginx, Method::InTurn) => "in turn",
            (Self::Nginx, Method::LeastConnections) => "least_conn",
            (Self::Nginx, Method::Random) => "random two least_conn",
            (Self::HaProxy, Method::InTurn) => "roundrobin",
            (Self::HaProxy, Method::LeastConnections) => "leastconn",
            (Self::HaProxy, Method::Random) => "random",
        }
    }

    /// The package of Debian that holds it.
    fn package(self) -> &'static str {
        match self {
            Self::Nginx => "nginx-light",
            Self::HaProxy => "haproxy",
        }
    }

    fn find_in(self, directories: &[PathBuf]) -> Result<Installed> {
        let name = self.name();
        let mut files = directories.iter().filter(|it| it.is_absolute()).map(|directory| directory.join(name));
        let file = files.find(|file| file.is_file()).ok_or_else(|| {
            let also = ALSO_IN.join(", ");
            anyhow!("{name} is neither in PATH nor in {also}; on Debian: apt-get install {}", self.package())
        })?;
        let asked = Command::new(&file).arg("-v").stdin(Stdio::null()).output();
        let asked = asked.with_context(|| format!("asking {} for its version", file.display()))?;
        // nginx answers on standard error.
        let said = [asked.stdout, asked.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let version = said.lines().next().unwrap_or("a version that it does not tell").to_owned();
        Ok(Installed { program: self, file, version })
    }

    fn configuration(self, plan: &BalancerPlan) -> String {
        match self {
            Self::Nginx => nginx::configuration(plan, rustix::process::geteuid().is_root()),
            Self::HaProxy => haproxy::configuration(plan),
        }
    }
}

impl Balancer {
    /// Starts the program with a configuration that it writes into `directory`, and waits until it listens.
    ///
    /// # Errors
    /// The directory or the files cannot be made, or the program does not listen; the text ends with its log.
    pub(crate) async fn start(installed: &Installed, plan: &BalancerPlan, directory: &Path) -> Result<Self> {
        let program = installed.program;
        let name = program.name();
        make_private_directory(directory)?;
        let configuration = program.configuration(plan);
        let file = directory.join(format!("{name}.conf"));
        std::fs::write(&file, &configuration).with_context(|| format!("writing {}", file.display()))?;
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("making the log {}", log.display()))?;
        let output_too = output.try_clone().context("sharing the log between both outputs")?;
        let mut command = Command::new(&installed.file);
        match program {
            // `-e`: what it says before it has read where to say it; the default may be out of reach.
            Program::Nginx => command.arg("-p").arg(directory).args(["-c", "nginx.conf", "-e", "error.log"]),
            Program::HaProxy => command.args(["-db", "-f"]).arg(&file),
        };
        use std::os::unix::process::CommandExt as _;
        // A group of its own: workers are ended with their parent, and Ctrl-C on the terminal reaches only this tool.
        command.stdin(Stdio::null()).stdout(output).stderr(output_too).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", installed.file.display()))?;
        let mut balancer = Self { program, child, listen: plan.listen, configuration, log };
        balancer.wait_until_listening(directory).await?;
        Ok(balancer)
    }

    async fn wait_until_listening(&mut self, directory: &Path) -> Result<()> {
        let name = self.program.name();
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("waiting for {name}"))? {
                let logs = [self.log.clone(), directory.join("error.log")];
                let said: String = logs.iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect();
                bail!("{name} ended with {} before it listened; it said:\n{}", describe_end(status), said.trim_end());
            }
            if TcpStream::connect(self.listen).await.is_ok() {
                return Ok(());
            }
            if deadline <= Instant::now() {
                bail!("{name} does not listen on {} after {} s", self.listen, LIMIT.as_secs());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// What it was started with.
    pub(crate) fn configuration(&self) -> &str {
        &self.configuration
    }

    /// The process id of the parent of its workers.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn id(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Balancer {
    /// Blocks for the milliseconds that the program takes to end; a benchmark has nothing else to do then.
    fn drop(&mut self) {
        // The id is the child's own until it was waited for, and the group lives as long as any of its members.
        let Some(id) = self.id() else { return };
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(id, Signal::TERM);
            let deadline = Instant::now() + LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) {
                if deadline <= Instant::now() {
                    // Workers too, which would outlive a parent that is killed.
                    let _ = kill_process_group(id, Signal::KILL);
                    let _ = self.child.wait();
                    return;
                }
                std::thread::sleep(POLL_EVERY);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(super) fn plan(method: Method) -> BalancerPlan {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let servers = vec![Server { address: address(1), weight: 1 }, Server { address: address(2), weight: 5 }];
        BalancerPlan { listen: address(9), method, servers, workers: 2 }
    }

    #[test]
    fn a_program_that_is_not_there_is_told_with_the_way_to_install_it_and_the_other_one_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let look = || installed_in(&[directory.path().to_owned()]);
        let (installed, missing) = look();
        assert!(installed.is_empty());
        assert!(missing[0].starts_with("nginx is") && missing[0].ends_with("install nginx-light"), "{missing:?}");
        assert!(missing[1].starts_with("haproxy is") && missing[1].ends_with("install haproxy"), "{missing:?}");
        std::os::unix::fs::symlink("/bin/true", directory.path().join("haproxy")).unwrap();
        let (installed, missing) = look();
        assert_eq!(installed.iter().map(|it| it.program).collect::<Vec<_>>(), [Program::HaProxy]);
        assert_eq!(missing.len(), 1);
    }

    #[tokio::test]
    async fn each_program_that_is_installed_takes_every_configuration_and_ends_with_its_value() {
        // What is not installed cannot be checked here; that it is told is another test's.
        for installed in installed().0 {
            let program = installed.program;
            for method in [Method::InTurn, Method::LeastConnections, Method::Random] {
                let directory = tempfile::tempdir().unwrap();
                let listen = crate::cluster::free_addresses(1).unwrap()[0];
                let plan = BalancerPlan { listen, ..plan(method) };
                let balancer = Balancer::start(&installed, &plan, directory.path()).await.unwrap();
                assert!(crate::process_time::with_children(balancer.process()).is_ok());
                drop(balancer);
                let refused = TcpStream::connect(listen).await.unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{program:?} {method:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_balancer_that_ends_at_once_is_told_with_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let installed = Installed { program: Program::HaProxy, file: "/bin/false".into(), version: String::new() };
        let run = directory.path().join("run");
        let text = Balancer::start(&installed, &plan(Method::InTurn), &run).await.unwrap_err().to_string();
        assert!(text.contains("haproxy ended with exit code 1 before it listened"), "{text}");
        assert!(std::fs::read_to_string(run.join("haproxy.conf")).unwrap().contains("balance roundrobin"));
    }
}
