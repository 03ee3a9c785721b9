//! Free ports on loopback.
//!
//! For `node`. Ports are handed out from a range of their own: below the one from which Linux takes ports of outgoing
//! connections, and apart from the one in which `cluster-sim` looks, so that nothing takes a port between its choice
//! and the start of the node, or while a killed node is away.
//! Invariants: no port is handed out twice by one process; each was free a moment before.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 3_000;
const COUNT: u32 = 7_000;

/// An address on loopback whose port is free for TCP and UDP.
///
/// # Panics
/// There is none.
pub(crate) fn free() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time begin far apart.
    let start = std::process::id().wrapping_mul(2_654_435_761) % COUNT;
    for _ in 0..COUNT {
        let number = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(number).expect("the range ends below 65536");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}
