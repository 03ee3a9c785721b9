//! How a node is started: its flags, its configuration file, its ports.
//!
//! For `node` and the suite. A plan is a value: what is not said has a default that disturbs no other test.
//! Invariants: two plans never share a port or, unless told so, a cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::node::Node;
use crate::ports;

/// A test that sends the same text twice wants it computed twice, unless it says otherwise.
const NO_CACHE: &str = "[cache]\nbytes_max = 0";
/// Many tests hold a job by a stand-in that hangs, and the canary would take it away from them. Tests of the canary
/// turn it on by [`Plan::config`]; drills run with it.
const NO_CANARY: &str = "[canary]\ninterval_ms = 0";

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) id: String,
    pub(crate) api: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) engine: String,
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<String>,
    pub(crate) settings: Vec<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) control: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) tells_id: bool,
}

impl Plan {
    /// A node named `id` with that engine, in a cluster of its own, on free ports, with no seeds.
    #[must_use]
    pub fn new(id: &str, engine: &str) -> Self {
        let (api, peer) = (ports::free(), ports::free());
        Self {
            id: id.to_owned(),
            api,
            peer,
            engine: engine.to_owned(),
            cluster: format!("test-{}", peer.port()),
            seeds: Vec::new(),
            settings: vec![NO_CACHE.to_owned(), NO_CANARY.to_owned()],
            arguments: Vec::new(),
            control: None,
            data: None,
            tells_id: true,
        }
    }

    /// The same in another cluster.
    #[must_use]
    pub fn cluster(mut self, cluster: &str) -> Self {
        cluster.clone_into(&mut self.cluster);
        self
    }

    /// The same with one more seed.
    #[must_use]
    pub fn seed(mut self, seed: impl ToString) -> Self {
        self.seeds.push(seed.to_string());
        self
    }

    /// The same with one more `[section]` of keys in its configuration file, as TOML, in place of an earlier one.
    #[must_use]
    pub fn config(mut self, section: &str) -> Self {
        self.settings.retain(|own| own.lines().next() != section.lines().next());
        self.settings.push(section.to_owned());
        self
    }

    /// The same with one more flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// The same with a stand-in engine that misbehaves from the start: see [`Node::misbehave`].
    #[must_use]
    pub fn misbehaving(mut self, words: &str) -> Self {
        self.control = Some(words.to_owned());
        self
    }

    /// The same with this data directory instead of one that the test makes.
    #[must_use]
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// The same, but the node is not told its id and makes one itself.
    #[must_use]
    pub fn without_id(mut self) -> Self {
        self.tells_id = false;
        self
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where callers go.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where peers go, and what others name as a seed.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(self) -> Node {
        Node::start(self)
    }
}
