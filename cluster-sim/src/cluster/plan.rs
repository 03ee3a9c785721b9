//! What a local shoal is to be, and the command line of each node that follows from it.
//!
//! For `cluster` and, through it, for the commands that make plans.
//! Invariants: every node is seeded with all others, by the addresses that they advertise, so the order of starting
//! does not matter; what is set for one node wins over what is set for all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::make_private_directory;
use super::ports::NodePorts;
use super::process::NodeCommand;

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
    /// Puts a fault proxy between the nodes, with this seed of its chance; see [`super::Cluster::proxy`].
    pub(crate) proxy_seed: Option<u64>,
    /// The nodes keep results. Drills and benchmarks measure what is computed, and where.
    pub(crate) cache: bool,
    /// Every node records its decisions, and tells whoever asks why a job went where it went.
    pub(crate) record: bool,
    /// Gives every node a network namespace of its own, instead of a proxy and of `base_port`; see
    /// [`super::Cluster::namespaces`].
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

    /// Whether the key is one of that section, however it is spelled.
    pub(crate) fn is_of(&self, section: &str) -> bool {
        self.variable().starts_with(&format!("SHOAL__{}__", section.to_uppercase()))
    }

    /// The environment variable that carries it: `node.weight` is `SHOAL__NODE__WEIGHT`.
    fn variable(&self) -> String {
        format!("SHOAL__{}", self.key.replace('.', "__").to_uppercase())
    }
}

/// The command line of node `index`: every other node is a seed, so the order of starting does not matter.
pub(super) fn node_command(
    plan: &ClusterPlan,
    ports: &[NodePorts],
    index: usize,
    directory: &Path,
) -> Result<NodeCommand> {
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

/// Where a node records its decisions, in its data directory.
pub(super) fn recording(data: &Path) -> PathBuf {
    data.join("decisions.jsonl")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rand_core::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::super::{ports, start_proxy};
    use super::*;

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
