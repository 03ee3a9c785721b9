//! Asking the nodes: one request to the first, then one to each of its peers, all at the same time.
//!
//! Part of `status`. Invariants: a peer has one second and [`ANSWER_BYTES_MAX`] bytes, however it behaves; at most
//! [`ASKED_MAX`] are asked; so a whole look ends within [`FIRST_LIMIT`] and [`PEER_LIMIT`], whoever hangs.
//! Not here: what the answers mean (`said`, `merge`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::merge::{Fault, Gathered, Reached};
use super::said::{PeerSaid, Said};
use super::text::Text;

/// How long the first node may take: without it there is nothing to show.
const FIRST_LIMIT: Duration = Duration::from_secs(2);
/// How long each peer may take.
const PEER_LIMIT: Duration = Duration::from_secs(1);
/// Longest answer: five times what 256 peers take.
const ANSWER_BYTES_MAX: usize = 512 << 10;
/// Longest head of an answer, and the most of a body that is read at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Most nodes that are asked, the first included.
const ASKED_MAX: usize = 256;

/// Asks the node at `api`, and all that it names.
///
/// # Errors
/// Why the first node gave no answer, for people.
pub(super) async fn survey(api: SocketAddr) -> Result<Gathered, String> {
    let asked = ask(api, FIRST_LIMIT).await.map_err(|fault| match fault {
        Fault::Refused(why) => why.to_string(),
        Fault::Silent => format!("no answer within {} s", FIRST_LIMIT.as_secs()),
        Fault::Garbled(why) => format!("what answers is no shoal node ({why})"),
        Fault::Old => "there is no /status: an older shoal, or something else".to_owned(),
        Fault::NoAddress | Fault::Crowd => "not asked".to_owned(),
    })?;
    let mut others = BTreeMap::new();
    let mut asking = JoinSet::new();
    let named: BTreeMap<&Text, &PeerSaid> = asked.peers.iter().map(|peer| (&peer.node_id, peer)).collect();
    for (name, peer) in named.into_iter().filter(|(name, _)| **name != asked.node_id) {
        let fault = match peer.api_addr.parse::<SocketAddr>() {
            Ok(addr) if asking.len() + 1 < ASKED_MAX => {
                let name = name.clone();
                asking.spawn(async move { (name, ask(addr, PEER_LIMIT).await) });
                continue;
            }
            Ok(_) => Fault::Crowd,
            Err(_) => Fault::NoAddress,
        };
        others.insert(name.clone(), Reached::Failed(fault));
    }
    while let Some(ended) = asking.join_next().await {
        let (name, answer) = ended.expect("asking does not panic, and nobody ends it");
        let reached = answer.map_or_else(Reached::Failed, |said| Reached::Answered(Box::new(said)));
        others.insert(name, reached);
    }
    Ok(Gathered { asked_at: api, asked, others })
}

async fn ask(addr: SocketAddr, limit: Duration) -> Result<Said, Fault> {
    timeout(limit, exchange(addr)).await.unwrap_or(Err(Fault::Silent))
}

/// One `GET /status` on a connection of its own.
async fn exchange(addr: SocketAddr) -> Result<Said, Fault> {
    let stream = TcpStream::connect(addr).await.map_err(|fault| Fault::Refused(Text::from(fault.to_string())))?;
    let garbled = |fault: &dyn std::error::Error| Fault::Garbled(Text::from(fault.to_string()));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|fault| garbled(&fault))?;
    // The connection ends before its last bytes are looked at: then the exchange goes on alone.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let call = async {
        let request = Request::builder().method(Method::GET).uri("/status").header(HOST, addr.to_string());
        let request = request.body(Empty::<Bytes>::new()).expect("a fixed path and the text of an address");
        let answer = sender.send_request(request).await.map_err(|fault| garbled(&fault))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(Fault::Old),
            status => return Err(Fault::Garbled(Text::from(format!("status {}", status.as_u16())))),
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|fault| garbled(&*fault))?.to_bytes();
        Said::read(&body).map_err(Fault::Garbled)
    };
    tokio::select! {
        never = drive => match never {},
        said = call => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A door that answers every call with these bytes and then hangs up, or, without any, never.
    async fn door(answer: Option<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(answer) = answer.clone() else {
                    held.push(stream);
                    continue;
                };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let _ = stream.write_all(&answer).await;
            }
        });
        addr
    }

    fn ok(body: &str) -> Option<Vec<u8>> {
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    /// Nobody listens there.
    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_read_in_every_framing() {
        let body = r#"{"node_id":"a"}"#;
        let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{body}\r\n0\r\n\r\n");
        let to_the_end = format!("HTTP/1.0 200 OK\r\n\r\n{body}");
        for answer in [ok(body), Some(chunked.into_bytes()), Some(to_the_end.into_bytes())] {
            let told = answer.as_ref().map(|answer| String::from_utf8_lossy(answer).into_owned());
            let said = exchange(door(answer).await).await;
            assert_eq!(said.map(|said| said.node_id), Ok(Text::from("a")), "{told:?}");
        }
    }

    #[tokio::test]
    async fn whatever_is_no_answer_has_its_own_name() {
        let too_long = format!(r#"{{"node_id":"a","version":"{}"}}"#, "x".repeat(ANSWER_BYTES_MAX));
        let endless_head = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1 << 20));
        let raw = |text: &str| Some(text.as_bytes().to_vec());
        let cases = [
            ("404", raw("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), "Old"),
            ("502", raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"), "Garbled(\"status 502\")"),
            ("another service", ok("<html>"), "Garbled(\"expected value at line 1 column 1\")"),
            ("no HTTP", raw("SSH-2.0-x\r\n"), "Garbled("),
            ("nothing", raw(""), "Garbled("),
            ("half", raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"), "Garbled("),
            ("too long", ok(&too_long), "Garbled(\"length limit exceeded\")"),
            ("an endless head", raw(&endless_head), "Garbled("),
        ];
        for (name, answer, expected) in cases {
            let fault = exchange(door(answer).await).await.unwrap_err();
            assert!(format!("{fault:?}").starts_with(expected), "{name}: {fault:?}");
        }
        let refused = exchange(closed().await).await.unwrap_err();
        assert!(format!("{refused:?}").contains("refused"), "{refused:?}");
        assert_eq!(ask(door(None).await, Duration::from_millis(50)).await.unwrap_err(), Fault::Silent);
    }

    #[tokio::test]
    async fn every_peer_is_asked_and_those_that_hang_cost_their_limit_together() {
        let hung = door(None).await;
        let sound = door(ok(r#"{"node_id":"sound"}"#)).await;
        let mut peers: Vec<String> =
            (0..300).map(|number| format!(r#"{{"node_id":"hung-{number:03}","api_addr":"{hung}"}}"#)).collect();
        peers.push(format!(r#"{{"node_id":"a-sound","api_addr":"{sound}"}}"#));
        peers.push(r#"{"node_id":"a-name","api_addr":"localhost:80"}"#.to_owned());
        peers.push(format!(r#"{{"node_id":"asked","api_addr":"{hung}"}}"#));
        let first = door(ok(&format!(r#"{{"node_id":"asked","peers":[{}]}}"#, peers.join(",")))).await;
        let limit = (FIRST_LIMIT + PEER_LIMIT) * 3;
        let gathered = timeout(limit, survey(first)).await.expect("they are asked at the same time").unwrap();
        assert_eq!(gathered.others.len(), 302, "itself it does not ask");
        let of = |name: &str| match &gathered.others[&Text::from(name)] {
            Reached::Answered(said) => said.node_id.to_string(),
            Reached::Failed(fault) => format!("{fault:?}"),
        };
        assert_eq!((of("a-sound").as_str(), of("a-name").as_str()), ("sound", "NoAddress"));
        let count = |fault: &str| gathered.others.keys().filter(|name| of(name) == fault).count();
        assert_eq!((count("Silent"), count("Crowd")), (ASKED_MAX - 2, 300 + 2 - ASKED_MAX));
    }

    #[tokio::test]
    async fn a_first_node_that_gives_no_answer_is_told_in_words() {
        for (addr, words) in [
            (closed().await, "refused"),
            (door(ok("hello")).await, "no shoal node"),
            (door(Some(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec())).await, "no /status"),
            (door(None).await, "no answer within 2 s"),
        ] {
            let why = survey(addr).await.unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
