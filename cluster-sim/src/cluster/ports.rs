//! Which addresses the nodes of a local shoal listen on.
//!
//! For `cluster`. A fixed scheme that a person can remember, or any free ports for runs side by side, or the same ports
//! on machines of their own.
//! Invariants: no two addresses are equal; those on loopback were free a moment before they are handed out.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, bail, ensure};
use cluster_sim::netns::Namespaces;
use rand_core::Rng;

/// A node's port for peers = its API port + this.
const PEER_PORT_OFFSET: u16 = 10_000;
/// Free ports are searched here: below the range from which Linux takes the ports of outgoing connections. A dead
/// node's port inside that range could be taken by a client's connection before the node comes back, and a client
/// that dials such a port can even be connected to itself.
const FREE_PORTS: std::ops::Range<u16> = 10_240..32_768;
/// Candidates that are tried for each port before the search gives up.
const TRIES_PER_PORT_MAX: usize = 200;

/// Where one node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodePorts {
    pub(crate) api: SocketAddr,
    /// TCP for jobs, UDP for gossip.
    pub(crate) peer: SocketAddr,
    /// Where others reach `peer`: the same, or the node's door of a proxy.
    pub(crate) advertise: SocketAddr,
}

impl NodePorts {
    fn new(api: SocketAddr, peer: SocketAddr) -> Self {
        Self { api, peer, advertise: peer }
    }
}

/// API ports `base`, `base + 1`, ... and peer ports 10,000 above them.
///
/// # Errors
/// A port is in use or there is none so high; the text says whose and what to do.
pub(crate) fn fixed(base: u16, nodes: u16) -> Result<Vec<NodePorts>> {
    let highest = u32::from(base) + u32::from(nodes) - 1 + u32::from(PEER_PORT_OFFSET);
    ensure!(
        highest <= u32::from(u16::MAX),
        "--base-port {base}: {nodes} nodes would need ports up to {highest}; the highest base for them is {}",
        u32::from(u16::MAX) - u32::from(PEER_PORT_OFFSET) - u32::from(nodes) + 1,
    );
    let ports: Vec<NodePorts> =
        (base..base + nodes).map(|api| NodePorts::new(loopback(api), loopback(api + PEER_PORT_OFFSET))).collect();
    for (index, node) in ports.iter().enumerate() {
        for (address, purpose) in [(node.api, "API"), (node.peer, "peer")] {
            if let Err(cause) = claim(address) {
                bail!(
                    "{address} ({purpose} port of node-{}) cannot be used: {cause}; \
                     choose others with --base-port PORT, or any free ones with --base-port 0",
                    index + 1
                );
            }
        }
    }
    Ok(ports)
}

/// Any free ports.
///
/// # Errors
/// Too many candidates in a row are in use.
pub(crate) fn free(nodes: u16, rng: &mut impl Rng) -> Result<Vec<NodePorts>> {
    let mut taken = HashSet::new();
    (0..nodes).map(|_| Ok(NodePorts::new(one_free(&mut taken, rng)?, one_free(&mut taken, rng)?))).collect()
}

/// The same ports in every namespace: nobody else is there.
pub(crate) fn inside(namespaces: &Namespaces, nodes: u16) -> Vec<NodePorts> {
    let address = |index, port| SocketAddr::from((namespaces.address(index), port));
    let api = 8080;
    let ports = |index| NodePorts::new(address(index, api), address(index, api + PEER_PORT_OFFSET));
    (0..usize::from(nodes)).map(ports).collect()
}

/// Has every node advertise a free port of its own, where a proxy is to listen.
///
/// # Errors
/// Too many candidates in a row are in use.
pub(crate) fn advertise_doors(nodes: &mut [NodePorts], rng: &mut impl Rng) -> Result<()> {
    let mut taken = nodes.iter().flat_map(|node| [node.api.port(), node.peer.port()]).collect();
    for node in nodes {
        node.advertise = one_free(&mut taken, rng)?;
    }
    Ok(())
}

fn one_free(taken: &mut HashSet<u16>, rng: &mut impl Rng) -> Result<SocketAddr> {
    for _ in 0..TRIES_PER_PORT_MAX {
        let span = u64::from(FREE_PORTS.end - FREE_PORTS.start);
        let port = u16::try_from(u64::from(FREE_PORTS.start) + rng.next_u64() % span)?;
        if !taken.contains(&port) && claim(loopback(port)).is_ok() {
            taken.insert(port);
            return Ok(loopback(port));
        }
    }
    bail!("no free port among {TRIES_PER_PORT_MAX} tried between {} and {}", FREE_PORTS.start, FREE_PORTS.end);
}

/// Takes the port for TCP and UDP and gives it back at once.
fn claim(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address)?;
    UdpSocket::bind(address)?;
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    #[test]
    fn a_port_in_use_is_named_with_its_owner_and_the_way_out() {
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let base = free(1, &mut rng).unwrap()[0].api.port();
        // Where it fails, somebody else occupies it, which is as good.
        let _occupied = TcpListener::bind(loopback(base + PEER_PORT_OFFSET));
        let text = fixed(base, 1).unwrap_err().to_string();
        for part in [(base + PEER_PORT_OFFSET).to_string().as_str(), "peer port of node-1", "--base-port 0"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_base_too_high_is_refused_with_the_highest_that_works() {
        let text = fixed(55_535, 2).unwrap_err().to_string();
        assert!(text.contains("the highest base for them is 55534"), "{text}");
    }

    #[test]
    fn free_ports_are_all_different_and_below_the_range_of_outgoing_connections() {
        let ports = free(16, &mut Pcg64Mcg::seed_from_u64(1)).unwrap();
        let all: HashSet<u16> = ports.iter().flat_map(|node| [node.api.port(), node.peer.port()]).collect();
        assert_eq!(all.len(), 32);
        assert!(all.iter().all(|port| FREE_PORTS.contains(port)), "{all:?}");
    }

    #[test]
    fn doors_are_ports_that_no_node_listens_on_itself() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut ports = free(16, &mut rng).unwrap();
        assert!(ports.iter().all(|node| node.advertise == node.peer));
        advertise_doors(&mut ports, &mut rng).unwrap();
        let all = ports.iter().flat_map(|node| [node.api, node.peer, node.advertise]);
        assert_eq!(all.collect::<HashSet<_>>().len(), 48);
    }
}
