//! A server on loopback that says exactly what a test tells it to.
//!
//! For the tests of this package only. One script a connection, in the order in which connections come; one line a
//! request, except [`Line::Close`] and [`Line::Silence`], which end the connection's script.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server does about one request.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    /// A whole answer.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// Bytes as they are. A following [`Line::Close`] closes without waiting for another request.
    Raw(&'static str),
    /// Read the request, then close without a byte.
    Close,
    /// Read the request, then never answer.
    Silence,
}

impl Line {
    pub(crate) fn ok(body: &str) -> Self {
        Self::Answer { status: 200, headers: Vec::new(), body: body.to_owned() }
    }
}

/// The running server; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Scripted {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Scripted {
    pub(crate) async fn start(scripts: Vec<Vec<Line>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            for script in scripts {
                let Ok((stream, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(play(stream, script));
            }
            drop(listener);
            open.join_all().await;
        });
        Self { address, connections, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn play(mut stream: TcpStream, script: Vec<Line>) {
    let mut answered_already = false;
    for line in script {
        if !answered_already && !read_request(&mut stream).await {
            return;
        }
        answered_already = false;
        match line {
            Line::Answer { status, headers, body } => {
                let mut text = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
                headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
                let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes()).await;
            }
            Line::Raw(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                answered_already = true;
            }
            Line::Close => return,
            Line::Silence => std::future::pending().await,
        }
    }
    // Kept open until the client leaves: a script that is over is not a connection that is over.
    let _ = read_request(&mut stream).await;
}

/// Reads head and body of one request; false when the client left.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse::<usize>().unwrap());
            if end + 4 + length <= bytes.len() {
                return true;
            }
        }
        let mut part = [0u8; 4096];
        match stream.read(&mut part).await {
            Ok(count) if 0 < count => bytes.extend_from_slice(&part[..count]),
            Ok(_) | Err(_) => return false,
        }
    }
}
