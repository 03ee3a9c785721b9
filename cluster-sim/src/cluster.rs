//! A real shoal on loopback: it starts the node processes, waits until they see each other, and ends them.
//!
//! For `up`, the drills and the benchmarks. A node is the `shoal` binary, started as its `plan` says.
//! Invariants: everything that was started is ended, also when this value is dropped half-way; the directory made
//! for a run is removed only when the caller says that all went well, so the logs of another run are still there.
//! Not here: load (`load`), faults and verdicts (`drill`).

mod formation;
mod plan;
mod ports;
mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster_sim::netns::Namespaces;
use cluster_sim::proxy::{FaultProxy, Target};
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;

pub(crate) use formation::Formed;
pub(crate) use plan::{ClusterPlan, Setting};
pub(crate) use process::{NodeProcess, describe_end};

use crate::http::Client;
use plan::{node_command, recording};
use ports::NodePorts;

/// How long a node may take to drain before it is killed: a little above the node's own limit.
const DRAIN_LIMIT: Duration = Duration::from_secs(40);
/// File in a node's data directory by which a stand-in engine is told to misbehave.
const CONTROL_FILE: &str = "synthetic-control";

/// The running shoal.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<NodeProcess>,
    clients: Vec<Client>,
    proxy: Option<Arc<FaultProxy>>,
    /// Behind the nodes, so that they go first.
    namespaces: Option<Namespaces>,
    directory: PathBuf,
    directory_is_ours: bool,
    started: Instant,
}

/// How one node ended.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct End {
    pub(crate) node: String,
    /// `exit code 0`, `signal 9`, `killed after 40 s`.
    pub(crate) end: String,
    /// Whether it ended with exit code 0.
    pub(crate) clean: bool,
}

/// A shoal whose processes have all ended.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) ends: Vec<End>,
    /// Data and logs.
    pub(crate) directory: PathBuf,
    directory_is_ours: bool,
}

impl Stopped {
    /// Whether every node ended with exit code 0.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_clean_but(&[])
    }

    /// Whether every node ended with exit code 0, those in `except` left out.
    pub(crate) fn is_clean_but(&self, except: &[String]) -> bool {
        self.ends.iter().all(|end| end.clean || except.contains(&end.node))
    }

    /// Removes data and logs, unless the user named the directory. To be called when nobody will want to read them.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub(crate) fn remove_directory(&self) -> Result<()> {
        if self.directory_is_ours {
            let directory = &self.directory;
            std::fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Starts every node. They are not ready yet: see [`Cluster::wait_until_formed`].
    ///
    /// # Errors
    /// A port is in use, a directory cannot be made, or the binary cannot be started; the text says what to do.
    pub(crate) fn start(plan: &ClusterPlan) -> Result<Self> {
        if !plan.shoal.is_file() {
            bail!(
                "there is no {}: build it with `cargo build -p shoal`, or name it with --shoal",
                plan.shoal.display()
            );
        }
        let mut chance = Pcg64Mcg::seed_from_u64(entropy());
        ensure!(
            plan.proxy_seed.is_none() || !plan.in_namespaces,
            "either a proxy or namespaces: nodes in namespaces are out of the reach of a proxy on loopback"
        );
        let namespaces = if plan.in_namespaces { Some(Namespaces::create(plan.nodes.into())?) } else { None };
        let mut ports = match (&namespaces, plan.base_port) {
            (Some(namespaces), _) => ports::inside(namespaces, plan.nodes),
            (None, 0) => ports::free(plan.nodes, &mut chance)?,
            (None, base) => ports::fixed(base, plan.nodes)?,
        };
        let proxy = match plan.proxy_seed {
            Some(seed) => Some(start_proxy(&mut ports, seed, &mut chance)?),
            None => None,
        };
        let (directory, directory_is_ours) = match &plan.directory {
            Some(directory) => (directory.clone(), false),
            None => (std::env::temp_dir().join(format!("cluster-sim-{}-{:x}", std::process::id(), entropy())), true),
        };
        let started = Instant::now();
        let mut nodes = Vec::new();
        for index in 0..ports.len() {
            let mut command = node_command(plan, &ports, index, &directory)?;
            if let Some(namespaces) = &namespaces {
                command = command.behind(namespaces.inside(index));
            }
            let mut node = NodeProcess::prepare(command);
            if let Some(proxy) = &proxy {
                node.introduce(Arc::clone(proxy), index);
            }
            if !plan.late.contains(&index) {
                node.start()?;
            }
            nodes.push(node);
        }
        let clients = ports.iter().map(|node| Client::new(node.api)).collect();
        Ok(Self { nodes, clients, proxy, namespaces, directory, directory_is_ours, started })
    }

    pub(crate) fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    pub(crate) fn node_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.nodes[index]
    }

    pub(crate) fn node_ids(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(NodeProcess::node_id)
    }

    /// What is between the nodes when the plan says so. It knows them by their index, whenever they are started.
    pub(crate) fn proxy(&self) -> Option<&FaultProxy> {
        self.proxy.as_deref()
    }

    /// Whose cables can be pulled, by the index of the node, when the plan says so.
    pub(crate) fn namespaces(&self) -> Option<&Namespaces> {
        self.namespaces.as_ref()
    }

    /// A client for probes of node `index`; the load has its own.
    pub(crate) fn client(&self, index: usize) -> &Client {
        &self.clients[index]
    }

    pub(crate) fn api_addresses(&self) -> Vec<SocketAddr> {
        self.clients.iter().map(Client::address).collect()
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where node `index` records its decisions, if the plan says so.
    pub(crate) fn recording(&self, index: usize) -> PathBuf {
        recording(&self.directory.join(self.nodes[index].node_id()))
    }

    /// Has the stand-in engine of node `index` misbehave as `words` say, from its next batch on; without a word it is
    /// well again.
    ///
    /// # Errors
    /// The control file cannot be written; or it cannot be removed, for example because the engine was told nothing.
    pub(crate) fn tell_engine(&self, index: usize, words: &str) -> Result<()> {
        let file = self.directory.join(self.nodes[index].node_id()).join(CONTROL_FILE);
        if words.is_empty() {
            return std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()));
        }
        // Written beside and moved: the engine must not read half a word.
        let beside = file.with_extension("new");
        std::fs::write(&beside, words).with_context(|| format!("writing {}", beside.display()))?;
        std::fs::rename(&beside, &file).with_context(|| format!("writing {}", file.display()))
    }

    /// Complains about the first node that has ended unnoticed, with the end of its log.
    ///
    /// # Errors
    /// A node has ended.
    pub(crate) fn ensure_all_run(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            if let Some(status) = node.ended()? {
                bail!(
                    "{} ended with {}; the end of its log {}:\n{}",
                    node.node_id(),
                    describe_end(status),
                    node.command.log.display(),
                    node.log_tail(12)
                );
            }
        }
        Ok(())
    }

    /// SIGTERM to all, then waits. When `impatience` resolves, a second SIGTERM goes to those that still run.
    ///
    /// Nodes that had ended before are part of the result as they ended.
    pub(crate) async fn stop(mut self, impatience: impl Future<Output = ()>) -> Result<Stopped> {
        self.terminate_running();
        let all_ended = async {
            // One after the other: all drain at the same time, and the limit is for the slowest.
            let deadline = Instant::now() + DRAIN_LIMIT;
            for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
                let left = deadline.saturating_duration_since(Instant::now());
                // Who is too slow is dealt with below.
                let _ = node.wait(left).await;
            }
        };
        let limit = tokio::select! {
            () = all_ended => Duration::ZERO,
            () = impatience => DRAIN_LIMIT,
        };
        if !limit.is_zero() {
            self.terminate_running();
        }
        let mut ends = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| node.was_started()) {
            ends.push(end_of(node, limit).await?);
        }
        Ok(Stopped { ends, directory: self.directory, directory_is_ours: self.directory_is_ours })
    }

    fn terminate_running(&mut self) {
        for node in &mut self.nodes {
            // A node that ended in between needs no signal.
            let _ = node.terminate();
        }
    }
}

async fn end_of(node: &mut NodeProcess, limit: Duration) -> Result<End> {
    let name = node.node_id().to_owned();
    match node.wait(limit).await {
        Ok(status) => Ok(End { node: name, end: describe_end(status), clean: status.success() }),
        Err(_) => {
            node.kill()?;
            node.wait(DRAIN_LIMIT).await?;
            Ok(End { node: name, end: format!("killed after {} s", DRAIN_LIMIT.as_secs()), clean: false })
        }
    }
}

/// A proxy with a door for every node, which the node is to advertise from now on.
fn start_proxy(ports: &mut [NodePorts], seed: u64, chance: &mut Pcg64Mcg) -> Result<Arc<FaultProxy>> {
    ports::advertise_doors(ports, chance)?;
    let targets: Vec<Target> = ports.iter().map(|own| Target { node: own.peer, door: own.advertise }).collect();
    Ok(Arc::new(FaultProxy::start(&targets, seed)?))
}

/// Addresses on loopback that were free a moment ago, for what listens beside the nodes.
///
/// # Errors
/// Too many candidates in a row are in use.
pub(crate) fn free_addresses(count: u16) -> Result<Vec<SocketAddr>> {
    let ports = ports::free(count, &mut Pcg64Mcg::seed_from_u64(entropy()))?;
    Ok(ports.into_iter().map(|free| free.api).collect())
}

/// Makes a directory that only this user can look into, and what is above it.
///
/// # Errors
/// The directory cannot be made; the text names it.
pub(crate) fn make_private_directory(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("making the directory {}", directory.display()))
}

/// Differs between runs; for names and ports, never for the load.
fn entropy() -> u64 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are the ones that differ")]
    let low = nanos as u64;
    low ^ u64::from(std::process::id()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::process::NodeCommand;
    use super::*;

    impl Cluster {
        /// "Nodes" that are shell scripts and listen nowhere. Run by the shell's `-c`, not written to a file: executing
        /// a file just written fails now and then, because another test's fork still holds it open for writing.
        pub(super) fn of_scripts(directory: &Path, scripts: &[&str]) -> Self {
            let ports = ports::free(u16::try_from(scripts.len()).unwrap(), &mut Pcg64Mcg::seed_from_u64(entropy()));
            let ports = ports.unwrap();
            let start = |(index, (script, own)): (usize, (&&str, &NodePorts))| {
                let node_id = format!("node-{}", index + 1);
                let log = directory.join(format!("{node_id}.log"));
                let arguments = vec!["-c".into(), script.into()];
                let (program, environment, api) = ("/bin/sh".into(), Vec::new(), own.api);
                let mut node = NodeProcess::prepare(NodeCommand { node_id, program, arguments, environment, api, log });
                node.start().unwrap();
                node
            };
            Self {
                nodes: scripts.iter().zip(&ports).enumerate().map(start).collect(),
                clients: ports.iter().map(|own| Client::new(own.api)).collect(),
                proxy: None,
                namespaces: None,
                directory: directory.to_owned(),
                directory_is_ours: false,
                started: Instant::now(),
            }
        }
    }

    #[tokio::test]
    async fn an_engine_is_told_by_a_file_of_its_node_and_healed_by_no_words() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::of_scripts(directory.path(), &["cat", "cat"]);
        let data = directory.path().join("node-2");
        make_private_directory(&data).unwrap();
        for words in ["slow=5", "hang"] {
            cluster.tell_engine(1, words).unwrap();
            assert_eq!(std::fs::read_to_string(data.join(CONTROL_FILE)).unwrap(), words);
        }
        cluster.tell_engine(1, "").unwrap();
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
        let text = format!("{:#}", cluster.tell_engine(1, "").unwrap_err());
        assert!(text.contains("node-2/synthetic-control"), "{text}");
    }
}
