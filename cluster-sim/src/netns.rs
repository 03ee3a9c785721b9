//! Machines that are none: network namespaces joined by a bridge, one for each node.
//!
//! For drills that want the kernel's own behaviour when a cable is out (retransmissions, silence, no reset), which the
//! fault proxy can only play. Needs Linux, root and `ip` of iproute2; [`available`] says what is missing.
//! Invariants: everything that is made has a name with this process's id in it and goes with the value; what a killed
//! process has left is removed by the next one. Nothing that has another name is ever touched.
//! Not here: faults of one direction or one protocol (`proxy`).

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

/// Most namespaces of one bridge: a third of what its /24 could address.
pub const NAMESPACES_MAX: usize = 80;

/// How often another network is tried because the machine has a route to the one that was drawn.
const NETWORK_TRIES: u32 = 32;
/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
const INTERFACES: &str = "/sys/class/net";
/// Names are one of these, the process's id, `-` and a number: 15 bytes at most for an interface.
const NAMESPACE: &str = "shoal-sim-";
const BRIDGE: &str = "shb";
const CABLE: &str = "shv";

/// Namespaces on one bridge, which also this process reaches.
#[derive(Debug)]
pub struct Namespaces {
    bridge: String,
    /// First three bytes of all addresses.
    network: [u8; 3],
    machines: Vec<Machine>,
}

#[derive(Debug)]
struct Machine {
    namespace: String,
    /// The end of its cable that is at the bridge.
    cable: String,
}

/// Whether namespaces can be made here.
///
/// # Errors
/// What is missing, for people.
pub fn available() -> Result<(), String> {
    Namespaces::create(1).map(drop).map_err(|fault| format!("{fault:#}"))
}

impl Namespaces {
    /// Makes `count` namespaces. Each has one cable to the bridge and an address of its own.
    ///
    /// # Errors
    /// There are more than [`NAMESPACES_MAX`], this process is not root, `ip` is not installed, the kernel refuses, or
    /// every network that was tried is in use; what was made until then is removed.
    pub fn create(count: usize) -> Result<Self> {
        ensure!(count <= NAMESPACES_MAX, "{count} network namespaces; at most {NAMESPACES_MAX} can be joined");
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        remove_leftovers()?;
        // From here on dropping the value removes what was made so far.
        let mut made = Self { bridge: own_name(BRIDGE), network: free_network()?, machines: Vec::new() };
        ip(&["link", "add", "name", &made.bridge, "type", "bridge", "forward_delay", "0", "stp_state", "0"])?;
        ip(&["address", "add", &format!("{}/24", made.gateway()), "dev", &made.bridge])?;
        ip(&["link", "set", &made.bridge, "up"])?;
        for index in 0..count {
            made.machines.push(Machine { namespace: own_name(NAMESPACE), cable: own_name(CABLE) });
            made.connect(index)?;
        }
        Ok(made)
    }

    fn connect(&self, index: usize) -> Result<()> {
        let Machine { namespace, cable } = &self.machines[index];
        let address = format!("{}/24", self.address(index));
        ip(&["netns", "add", namespace])?;
        ip(&["link", "add", "name", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
        ip(&["link", "set", cable, "master", &self.bridge, "up"])?;
        ip(&["-n", namespace, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])
    }

    /// The address of a namespace.
    ///
    /// # Panics
    /// There is no such namespace.
    #[must_use]
    pub fn address(&self, index: usize) -> Ipv4Addr {
        assert!(index < self.machines.len(), "there are {} namespaces, and no number {index}", self.machines.len());
        let last = u8::try_from(index + 2).expect("there are fewer than 254 namespaces");
        self.host(last)
    }

    fn gateway(&self) -> Ipv4Addr {
        self.host(1)
    }

    fn host(&self, last: u8) -> Ipv4Addr {
        let [first, second, third] = self.network;
        Ipv4Addr::new(first, second, third, last)
    }

    /// What comes before a command line to run it in a namespace. The process keeps its id: `ip` becomes the program.
    ///
    /// # Panics
    /// There is no such namespace.
    #[must_use]
    pub fn inside(&self, index: usize) -> (PathBuf, Vec<OsString>) {
        ("ip".into(), ["netns", "exec", &self.machines[index].namespace].map(OsString::from).to_vec())
    }

    /// Pulls the cable of a namespace: nothing leaves or reaches it, and nobody is told.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Panics
    /// There is no such namespace.
    pub fn cut(&self, index: usize) -> Result<()> {
        ip(&["link", "set", &self.machines[index].cable, "down"])
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Panics
    /// There is no such namespace.
    pub fn heal(&self, index: usize) -> Result<()> {
        ip(&["link", "set", &self.machines[index].cable, "up"])
    }

    /// The file that names a namespace, for `setns`.
    ///
    /// # Panics
    /// There is no such namespace.
    #[must_use]
    pub fn file(&self, index: usize) -> PathBuf {
        Path::new(NAMES).join(&self.machines[index].namespace)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for Machine { namespace, cable } in &self.machines {
            // The cable would go with the namespace, but that can take the kernel a while, or until its last process
            // has ended. Each fails when it was never made.
            let _ = ip(&["link", "delete", cable]);
            let _ = ip(&["netns", "delete", namespace]);
        }
        let _ = ip(&["link", "delete", &self.bridge]);
    }
}

/// A name that no other value of this or another process has.
fn own_name(kind: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("{kind}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

/// Whose name it is, if it is one of ours.
fn maker(name: &str, kind: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(kind)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Removes what processes that are gone have left.
fn remove_leftovers() -> Result<()> {
    for (folder, kind) in [(INTERFACES, CABLE), (INTERFACES, BRIDGE), (NAMES, NAMESPACE)] {
        // Before the first namespace there is no folder of names.
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let name = entry.with_context(|| format!("reading {folder}"))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if maker(name, kind).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let object = if folder == NAMES { "netns" } else { "link" };
                // Somebody else may have begun to remove it, too.
                let _ = ip(&[object, "delete", name]);
            }
        }
    }
    Ok(())
}

/// A /24 of `10.64.0.0/10` to which this machine has no route.
fn free_network() -> Result<[u8; 3]> {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..NETWORK_TRIES {
        // Processes that run at the same time begin far apart.
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(2_654_435_761));
        let [second, third, ..] = drawn.to_be_bytes();
        let network = [10, 64 + second % 64, third];
        let prefix = format!("10.{}.{}.0/24", network[1], network[2]);
        let is_default = |line: &str| line.starts_with("default ") || line.is_empty();
        let mut is_free = true;
        for relation in ["root", "match"] {
            is_free &= ip_output(&["-4", "route", "show", "to", relation, &prefix])?.lines().all(is_default);
        }
        if is_free {
            return Ok(network);
        }
    }
    bail!("{NETWORK_TRIES} networks in 10.64.0.0/10 were tried, and this machine has a route to each of them")
}

fn ip(arguments: &[&str]) -> Result<()> {
    ip_output(arguments).map(drop)
}

fn ip_output(arguments: &[&str]) -> Result<String> {
    let told = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = told.context("running `ip`: install iproute2")?;
    if !output.status.success() {
        bail!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_nobodys() {
        assert_eq!(maker("shb12-3", BRIDGE), Some(12));
        for name in ["shb12", "shb-3", "shbx-3", "shb12-", "eth0", "shv12-3", "xshb12-3"] {
            assert_eq!(maker(name, BRIDGE), None, "{name}");
        }
        let longest = format!("{BRIDGE}4194304-9999");
        assert!(longest.len() <= 15, "{longest} is too long for an interface");
    }
}
