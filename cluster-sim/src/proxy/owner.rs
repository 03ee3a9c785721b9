//! Which process opened a TCP connection on this machine, and whether anybody listens on a port.
//!
//! For the doors. Linux only: the tables of `/proc` say which socket has which addresses, and which process holds it.
//! Invariants: only processes whose ids were given are looked into; what is read is bounded.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddrV4;

/// The table of connections; far more than a machine full of nodes makes.
const TABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Open files of one process that are looked at.
const FILES_MAX: usize = 65_536;
/// State of a listening socket in the table.
const LISTENING: &str = "0A";

/// Whose is the socket at `local` that is connected to `remote`: a place in `pids`, or `None` when it is of none of
/// them or gone already.
///
/// # Errors
/// The table of connections cannot be read.
pub(super) fn owner(local: SocketAddrV4, remote: SocketAddrV4, pids: &[Option<u32>]) -> io::Result<Option<usize>> {
    let Some(inode) = inode(&table()?, local, remote) else { return Ok(None) };
    let link = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        // A process that has just ended holds nothing.
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().take(FILES_MAX).flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
    };
    Ok(pids.iter().position(|pid| pid.is_some_and(holds)))
}

/// Whether a socket listens exactly at `address`.
///
/// # Errors
/// The table of connections cannot be read.
pub(super) fn listens(address: SocketAddrV4) -> io::Result<bool> {
    let written = written(address);
    Ok(rows(&table()?).any(|row| row.local == written && row.state == LISTENING))
}

struct Row<'a> {
    local: &'a str,
    remote: &'a str,
    state: &'a str,
    inode: &'a str,
}

fn table() -> io::Result<String> {
    let mut text = String::new();
    fs::File::open("/proc/net/tcp")?.take(TABLE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        // Behind the state: queues, timer, retransmissions, user, timeouts.
        Some(Row { local, remote, state, inode: words.nth(5)? })
    })
}

fn inode(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (written(local), written(remote));
    let row = rows(table).find(|row| row.local == local && row.remote == remote)?;
    // A socket that no process holds any more has the number 0.
    row.inode.parse().ok().filter(|&inode| inode != 0)
}

/// An address as the table writes it: the four bytes as one number of this machine, then the port.
fn written(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
        address
    }

    #[test]
    fn a_connection_of_this_process_is_its_own_and_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (local, remote) = (v4(stream.local_addr().unwrap()), v4(stream.peer_addr().unwrap()));
        let own = Some(std::process::id());
        assert_eq!(owner(local, remote, &[None, Some(u32::MAX), own]).unwrap(), Some(2));
        assert_eq!(owner(local, remote, &[None, Some(u32::MAX)]).unwrap(), None);
        drop(stream);
        assert_eq!(owner(local, remote, &[own]).unwrap(), None, "a closed socket is nobody's");
    }

    #[test]
    fn a_port_is_listened_on_until_its_listener_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = v4(listener.local_addr().unwrap());
        assert!(listens(address).unwrap());
        drop(listener);
        assert!(!listens(address).unwrap());
    }

    #[test]
    fn a_table_that_is_no_table_has_no_rows() {
        for table in ["", "head", "head\n0: 0100007F:0050\n", "head\n0: a b 01 c\n"] {
            assert_eq!(rows(table).count(), 0, "{table:?}");
        }
    }
}
