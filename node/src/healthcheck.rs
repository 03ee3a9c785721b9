//! `shoal healthcheck`: asks a running node whether it can answer.
//!
//! For `main`, in containers that have no curl. One request over plain blocking sockets: a runtime would be most of its
//! cost.
//! Invariants: no step takes more than two seconds, whatever is at the other end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, and each read or write, may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The status line and the reason fit; more is not read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks the node at `api` for `/readyz`.
///
/// # Errors
/// Why it cannot answer, for people.
pub fn ask(api: SocketAddr) -> Result<(), String> {
    let answer = exchange(api).map_err(|fault| fault.to_string())?;
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or_default();
    match status {
        "200" => Ok(()),
        "" => Err("this is not HTTP".to_owned()),
        status => Err(format!("status {status}")),
    }
}

fn exchange(api: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&api, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_once(answer: &'static str) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The whole head: closing with bytes unread would reset the connection.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0u8];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        });
        addr
    }

    #[test]
    fn only_a_200_is_healthy() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("status 503".to_owned())),
            ("hello", Err("this is not HTTP".to_owned())),
            ("", Err("this is not HTTP".to_owned())),
        ] {
            assert_eq!(ask(answer_once(answer)), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_told_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        assert!(ask(addr).unwrap_err().contains("refused"));
    }
}
