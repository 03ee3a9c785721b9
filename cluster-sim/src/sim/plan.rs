//! Everything that a run depends on, as one value.
//!
//! For `scenario`, which makes plans, and `world`, which carries them out.
//! Invariants: a plan holds no state; the same plan gives the same run.

use shoal_core::node::{OwnRules, Rules};
use shoal_core::time::{Micros, MonoTime};

use super::gossip::GossipRules;
use super::models::{ArrivalModel, ServiceModel};
use super::net::{NetRules, Traffic};

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario's name.
    pub name: &'static str,
    /// Fixes all chance.
    pub seed: u64,
    /// Nodes, those that join later included.
    pub nodes: usize,
    /// The nodes with the largest numbers, so many, are not there at the start: faults start them.
    pub absent: usize,
    /// Settings of the machines. Slots and rows of a batch are set from `service`.
    pub rules: Rules,
    /// What each node is among the others; nodes beyond the list are as others are.
    pub roles: Vec<OwnRules>,
    /// The healthy network.
    pub net: NetRules,
    /// How nodes hear of each other.
    pub membership: Membership,
    /// What work costs.
    pub service: ServiceModel,
    /// How many times as long each node works for it; nodes beyond the list 1.
    pub slowness: Vec<f64>,
    /// What is slower in a process that has just started; `None` = nothing.
    pub cold: Option<Cold>,
    /// Time that a model loads.
    pub loading: Micros,
    /// The device's busy share is probed and told.
    pub probed: bool,
    /// Who comes when.
    pub arrivals: ArrivalModel,
    /// What goes wrong, and for how long.
    pub faults: Vec<Planned>,
    /// All faults end here.
    pub heal_at: MonoTime,
    /// All is at rest before this.
    pub end: MonoTime,
    /// Waits are counted from here on.
    pub measure_from: MonoTime,
    /// What the checks may take for granted.
    pub terms: Terms,
    /// A planted bug, for the tests of the checks.
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    /// What `node` is among the others.
    #[must_use]
    pub fn role(&self, node: usize) -> OwnRules {
        self.roles.get(node).copied().unwrap_or_default()
    }
}

/// What is slower in a process that has just started: caches, pages of weights that were not touched yet, kernels that
/// are compiled when a shape first comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cold {
    /// Its batches take so many times as long,
    pub factor: f64,
    /// for so long after it is ready.
    pub lasts: Micros,
    /// Its warm-up and its measurements, which are always of one short text, are as slow. Otherwise they are as quick
    /// as those of a warm process, and promise what real requests do not get.
    pub shows: bool,
}

/// How nodes hear of each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Membership {
    /// By the model of chitchat; each node reads what it knows this often.
    Gossip {
        /// Settings.
        rules: GossipRules,
        /// Time between two looks.
        read_every: Micros,
    },
    /// Each node sees each other one's true load once a period, 10 % more or less: for the reference table.
    Direct {
        /// The period.
        period: Micros,
    },
}

/// What the checks may take for granted about a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Nodes are alike and doors get the same: loads are to be even, and few jobs move.
    pub even: bool,
    /// There is capacity for everybody even while faults last, and deadlines are long: nobody's request may fail.
    pub ample: bool,
}

/// A fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// When it begins.
    pub at: MonoTime,
    /// How long it lasts.
    pub lasts: Micros,
    /// What it is.
    pub fault: Fault,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A process is killed; its host refuses connections. At the end another one starts.
    Kill(usize),
    /// The host is gone: nothing answers at all. At the end a process starts.
    PowerCut(usize),
    /// SIGTERM. At the end another process starts.
    Terminate(usize),
    /// SIGSTOP, and SIGCONT at the end.
    Freeze(usize),
    /// A node that is not there yet starts. It stays.
    Join(usize),
    /// The first so many nodes and the others do not hear each other.
    Partition(usize, Traffic),
    /// One node hears everybody, and nobody hears it.
    Mute(usize, Traffic),
    /// Two nodes do not hear each other.
    Sever(usize, usize, Traffic),
    /// So many datagrams in a thousand are lost.
    Loss(u32),
    /// The ways to and from a node take so much longer.
    SlowPath(usize, Micros),
    /// A device takes so many times as long.
    SlowDevice(usize, f64),
    /// What a node answers to its peers leaves it so much later than it is done: its process gets no time to write it.
    SlowAnswers(usize, Micros),
    /// A device does wrong.
    Device(usize, DeviceFault),
    /// A node says that it is idle and quick.
    Lie(usize),
    /// A node says of its load what cannot be true.
    Babble(usize),
}

/// How a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// So many batches in a thousand fail. The canary works.
    Fails(u32),
    /// All batches fail, at once and in no time. The canary works.
    Sinkhole,
    /// Batches do not end, and the canary neither.
    Hangs,
    /// Batches do not end, and the canary fails.
    Wedged,
    /// So many batches in a thousand take 40 times as long.
    Stalls(u32),
}

/// A bug that a test plants between the machines and the world, so that a check has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// An end of a caller's job is lost.
    LoseFinish,
    /// An end of a caller's job comes twice.
    RepeatFinish,
    /// An answer of a peer is turned into a broken connection: the job runs again although nothing is wrong.
    BreakAnswers,
    /// The second placement goes where the first one went.
    SameNodeTwice,
    /// A peer's job is taken for a caller's, so it may be handed on.
    ForgetSource,
    /// The answer to an earlier placement is taken for one to the current.
    MixAttempts,
    /// Two answers are swapped.
    SwapAnswers,
    /// Nobody hears that a connection broke, nor that an acknowledgement is missing.
    IgnoreBreaks,
    /// A node that joins is never offered anything, by peers or by callers.
    HideJoined,
    /// Work goes to a dead node as long as there is one.
    PreferDead,
    /// Gossip calls everybody alive whom it ever called so, and nobody hears that a connection ended.
    HideDead,
    /// A draining node is said to be ready, also by itself.
    HideDraining,
    /// A job whose batch never ends, for whom nobody waits.
    LeakJob,
    /// One node always seems idle.
    OneIdle,
    /// A cut that does not heal.
    KeepCut,
    /// One device stays slow.
    KeepSlow,
}
