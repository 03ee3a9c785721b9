//! Which process opened a TCP connection on this machine, and whether anybody listens on a port.
//!
//! For the doors. Linux only: the kernel is asked for one socket by its addresses (`sock_diag`, see `sock_diag(7)`),
//! and `/proc` says which process holds it. The table `/proc/net/tcp` would do too, but to read it takes the kernel
//! ten milliseconds of processor where its hash of connections is large, however few there are.
//! Invariants: only processes whose ids were given are looked into; what is read is bounded.

use std::fs;
use std::io;
use std::net::SocketAddrV4;

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Open files of one process that are looked at.
const FILES_MAX: usize = 65_536;

/// `SOCK_DIAG_BY_FAMILY`, of a question and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`: the answer is a negative error number.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`, alone: one socket, not a list.
const REQUEST: u16 = 1;
const HEADER_BYTES: usize = 16;
const QUESTION_BYTES: u32 = 16 + 56;
/// Where the state and the number of a socket are in an answer, `struct inet_diag_msg` behind the header.
const STATE_AT: usize = HEADER_BYTES + 1;
const INODE_AT: usize = HEADER_BYTES + 68;
/// `TCP_LISTEN`.
const LISTENING: u8 = 10;

/// Whose is the socket at `local` that is connected to `remote`: a place in `pids`, or `None` when it is of none of
/// them or gone already.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn owner(local: SocketAddrV4, remote: SocketAddrV4, pids: &[Option<u32>]) -> io::Result<Option<usize>> {
    let Some(socket) = look_up(local, Some(remote))? else { return Ok(None) };
    let link = format!("socket:[{}]", socket.inode);
    let holds = |pid: u32| {
        // A process that has just ended holds nothing.
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().take(FILES_MAX).flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
    };
    Ok(pids.iter().position(|pid| pid.is_some_and(holds)))
}

/// Whether a socket listens for connections to `address`.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn listens(address: SocketAddrV4) -> io::Result<bool> {
    // With nobody at the other end only a listener fits.
    Ok(look_up(address, None)?.is_some_and(|socket| socket.state == LISTENING))
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    state: u8,
    inode: u32,
}

/// The TCP socket with these addresses, if there is one.
fn look_up(local: SocketAddrV4, remote: Option<SocketAddrV4>) -> io::Result<Option<Socket>> {
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    sendto(&kernel, &question(local, remote), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 4096];
    // The answer is there when the question was taken.
    let (length, _) = recv(&kernel, &mut answer, RecvFlags::DONTWAIT)?;
    read(&answer[..length])
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: numbers of this machine, but addresses and ports as on the wire.
fn question(local: SocketAddrV4, remote: Option<SocketAddrV4>) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const IPPROTO_TCP: u8 = 6;
    let remote = remote.unwrap_or(SocketAddrV4::new([0, 0, 0, 0].into(), 0));
    let mut bytes = Vec::new();
    bytes.extend(QUESTION_BYTES.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence and sender: there is one question and one answer.
    bytes.extend([0; 8]);
    bytes.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    // Any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for address in [local, remote] {
        bytes.extend(address.ip().octets());
        // Room for an address of IPv6.
        bytes.extend([0; 12]);
    }
    // Any interface, and no cookie that would name an older socket.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([u8::MAX; 8]);
    bytes
}

fn read(answer: &[u8]) -> io::Result<Option<Socket>> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about a socket is too short");
    let number = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(unreadable);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(unreadable)?;
    if u16::from_ne_bytes(kind) == ERROR {
        return match -i32::from_ne_bytes(number(HEADER_BYTES)?) {
            absent if absent == Errno::NOENT.raw_os_error() => Ok(None),
            error => Err(io::Error::from_raw_os_error(error)),
        };
    }
    let inode = u32::from_ne_bytes(number(INODE_AT)?);
    Ok(Some(Socket { state: answer[STATE_AT], inode }))
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
    fn an_answer_that_is_cut_short_or_tells_of_an_error_is_no_socket() {
        let told = |error: i32| [&[0; 4][..], &ERROR.to_ne_bytes(), &[0; 10], &(-error).to_ne_bytes()].concat();
        assert_eq!(read(&told(2)).unwrap(), None);
        assert_eq!(read(&told(1)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for length in [0, 5, HEADER_BYTES, INODE_AT + 3] {
            assert_eq!(read(&vec![0; length]).unwrap_err().kind(), io::ErrorKind::InvalidData, "{length} bytes");
        }
    }
}
