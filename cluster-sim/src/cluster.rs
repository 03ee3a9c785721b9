//! A real shoal on loopback: it starts the node processes, waits until they see each other, and ends them.
//!
//! For `up`, the drills and the benchmarks. A node is the `shoal` binary, started with flags, and with
//! environment variables for the keys that a plan sets.
//! Invariants: everything that was started is ended, also when this value is dropped half-way; the directory made
//! for a run is removed only when the caller says that all went well, so the logs of another run are still there.
//! Not here: load (`load`), faults and verdicts (`drill`).

mod formation;
mod ports;
mod process;

use std::ffi::OsString;
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
pub(crate) use process::{NodeProcess, describe_end};

use crate::http::Client;
use ports::NodePorts;
use process::NodeCommand;

/// How long a node may take to drain before it is killed: a little above the node's own limit.
const DRAIN_LIMIT: Duration = Duration::from_secs(40);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) shoal: PathBuf,
    pub(crate) cluster: String,
    pub(crate) nodes: u16,
    /// First API port; 0 = any free ports.
    pub(crate) base_port: u16,
    /// Name or directory of a model; `None` = the node's own default.
    pub(crate) model: Option<String>,
    /// Engine of every node, as `shoal serve --engine` takes it; `None` = the node's own default.
    pub(crate) engine: Option<String>,
    pub(crate) threads_per_node: usize,
    /// Keys of the nodes' configuration that differ from their defaults, beside what the flags say.
    pub(crate) settings: Vec<Setting>,
    /// What the nodes write into their logs, as a filter; see `log.level`.
    pub(crate) log_level: String,
    /// Nodes, counted from 0, that are to be started later.
    pub(crate) late: Vec<usize>,
    /// Data and logs; `None` = a new directory under the system's place for temporary files.
    pub(crate) directory: Option<PathBuf>,
    /// Puts a fault proxy between the nodes, with this seed of its chance; see [`Cluster::proxy`].
    pub(crate) proxy_seed: Option<u64>,
    /// The nodes keep results. Drills and benchmarks measure what is computed, and where.
    pub(crate) cache: bool,
    /// Every node records its decisions, and tells whoever asks why a job went where it went.
    pub(crate) record: bool,
    /// Gives every node a network namespace of its own, instead of a proxy and of `base_port`; see
    /// [`Cluster::namespaces`].
    pub(crate) in_namespaces: bool,
}

/// One key of the configuration of all nodes, or of one.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Index of the node; `None` = all.
    pub(crate) node: Option<usize>,
    /// As in a file: `section.name`.
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Setting {
    pub(crate) fn of_all(key: &str, value: impl ToString) -> Self {
        Self { node: None, key: key.to_owned(), value: value.to_string() }
    }

    pub(crate) fn of_node(index: usize, key: &str, value: impl ToString) -> Self {
        Self { node: Some(index), key: key.to_owned(), value: value.to_string() }
    }

    /// The environment variable that carries it: `node.weight` is `SHOAL__NODE__WEIGHT`.
    fn variable(&self) -> String {
        format!("SHOAL__{}", self.key.replace('.', "__").to_uppercase())
    }
}

impl ClusterPlan {
    /// Whether the binary has a key of that name, by its own word: one of another version may not.
    ///
    /// # Errors
    /// The binary cannot be asked, or says something else than its configuration.
    pub(crate) fn knows(&self, key: &str) -> Result<bool> {
        let asked = std::process::Command::new(&self.shoal).args(["config", "print", "--json"]).output();
        let asked = asked.with_context(|| format!("asking {} for its configuration", self.shoal.display()))?;
        let printed: serde_json::Value = serde_json::from_slice(&asked.stdout)
            .with_context(|| format!("`{} config print --json` printed no JSON", self.shoal.display()))?;
        Ok(printed.pointer(&format!("/{}", key.replace('.', "/"))).is_some())
    }
}

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

/// The command line of node `index`: every other node is a seed, so the order of starting does not matter.
fn node_command(plan: &ClusterPlan, ports: &[NodePorts], index: usize, directory: &Path) -> Result<NodeCommand> {
    let node_id = format!("node-{}", index + 1);
    let data = directory.join(&node_id);
    make_private_directory(&data)?;
    let own = ports[index];
    let mut arguments: Vec<OsString> = vec!["serve".into(), "--exit-with-stdin".into()];
    let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    flag("--cluster", plan.cluster.clone().into());
    flag("--node-id", node_id.clone().into());
    flag("--api-listen", own.api.to_string().into());
    flag("--peer-listen", own.peer.to_string().into());
    if own.advertise != own.peer {
        flag("--advertise", own.advertise.to_string().into());
    }
    for (other, seed) in ports.iter().enumerate() {
        if other != index {
            flag("--seed", seed.advertise.to_string().into());
        }
    }
    if plan.record {
        flag("--record", recording(&data).into());
    }
    flag("--data-dir", data.into());
    flag("--threads", plan.threads_per_node.to_string().into());
    if !plan.cache {
        flag("--cache-bytes-max", "0".into());
    }
    if let Some(model) = &plan.model {
        flag("--model", model.into());
    }
    if let Some(engine) = &plan.engine {
        flag("--engine", engine.into());
    }
    let mut environment = vec![("SHOAL__LOG__LEVEL".to_owned(), plan.log_level.clone())];
    // Those of one node after those of all, because the later one of two holds.
    for of_one in [false, true] {
        let meant = |setting: &&Setting| setting.node == of_one.then_some(index);
        environment.extend(plan.settings.iter().filter(meant).map(|it| (it.variable(), it.value.clone())));
    }
    let log = directory.join(format!("{node_id}.log"));
    if plan.record {
        environment.push(("SHOAL__API__EXPLAIN".to_owned(), "true".to_owned()));
    }
    Ok(NodeCommand { node_id, program: plan.shoal.clone(), arguments, environment, api: own.api, log })
}

fn recording(data: &Path) -> PathBuf {
    data.join("decisions.jsonl")
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

    fn plan() -> ClusterPlan {
        ClusterPlan {
            shoal: "/bin/true".into(),
            cluster: "c".to_owned(),
            nodes: 3,
            base_port: 0,
            model: None,
            engine: Some("synthetic:1ms".to_owned()),
            threads_per_node: 1,
            settings: vec![
                Setting::of_node(1, "node.weight", 0),
                Setting::of_node(2, "node.weight", 50),
                Setting::of_all("node.weight", 200),
            ],
            log_level: "info".to_owned(),
            late: Vec::new(),
            directory: None,
            proxy_seed: None,
            record: false,
            cache: false,
            in_namespaces: false,
        }
    }

    /// The words behind a flag on the command line of node-2.
    fn values(ports: &[NodePorts], flag: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let command = node_command(&plan(), ports, 1, directory.path()).unwrap();
        let words: Vec<String> = command.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn settings_of_one_node_come_after_those_of_all() {
        let ports = ports::free(3, &mut Pcg64Mcg::seed_from_u64(5)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let command = node_command(&plan(), &ports, 1, directory.path()).unwrap();
        let variables: Vec<_> =
            command.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let weights = [("SHOAL__NODE__WEIGHT", "200"), ("SHOAL__NODE__WEIGHT", "0")];
        assert_eq!(variables[1..], weights, "of all first, the node's own last, nothing of others");
    }

    #[test]
    fn every_node_is_seeded_with_all_others_and_not_with_itself() {
        let ports = ports::free(3, &mut Pcg64Mcg::seed_from_u64(3)).unwrap();
        assert_eq!(values(&ports, "--seed"), [ports[0].peer.to_string(), ports[2].peer.to_string()]);
        assert_eq!(values(&ports, "--peer-listen"), [ports[1].peer.to_string()]);
        for defaulted in ["--model", "--advertise"] {
            assert!(values(&ports, defaulted).is_empty(), "the node's own default of {defaulted} must hold");
        }
    }

    #[test]
    fn behind_a_proxy_nodes_advertise_their_doors_and_are_seeded_with_those_of_the_others() {
        let mut chance = Pcg64Mcg::seed_from_u64(4);
        let mut ports = ports::free(3, &mut chance).unwrap();
        let doors: Vec<SocketAddr> = start_proxy(&mut ports, 1, &mut chance).unwrap().doors().collect();
        assert_eq!(values(&ports, "--seed"), [doors[0].to_string(), doors[2].to_string()]);
        assert_eq!(values(&ports, "--advertise"), [doors[1].to_string()]);
        assert_eq!(values(&ports, "--peer-listen"), [ports[1].peer.to_string()]);
    }
}
