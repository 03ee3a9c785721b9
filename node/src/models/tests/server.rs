//! A hub on loopback for tests: serves a directory as a repository and misbehaves on request.
//!
//! One request a connection, plain HTTP/1.1. Ends when it is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::super::catalogue::sha256_of;
use super::super::hub::HubOptions;

/// What the hub does wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Connections for the weights end after so many bytes of the body; one entry a connection, in order.
    pub(super) cuts: Vec<usize>,
    /// `Range` is not understood.
    pub(super) ignores_ranges: bool,
    /// The listing says this digest for the weights.
    pub(super) listed_digest: Option<String>,
    /// The listing says so many bytes more than there are.
    pub(super) listed_bytes_more: u64,
    /// Every answer has this status.
    pub(super) status: Option<u16>,
    /// What comes for the weights; the listing still tells of the true ones.
    pub(super) weights: Option<Vec<u8>>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

#[derive(Debug)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    digests: BTreeMap<String, String>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Request>>,
    ends: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

pub(super) const WEIGHTS: &str = "model.safetensors";

impl Server {
    /// Serves the files of `directory` under any repository's name.
    pub(super) fn start(directory: &Path, faults: Faults) -> Self {
        let (mut files, mut digests) = (BTreeMap::new(), BTreeMap::new());
        let mut folders = vec![(String::new(), directory.to_owned())];
        while let Some((prefix, folder)) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
                if path.is_dir() {
                    folders.push((format!("{name}/"), path));
                } else {
                    digests.insert(name.clone(), sha256_of(&path).unwrap());
                    files.insert(name, fs::read(path).unwrap());
                }
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            files,
            digests,
            faults: Mutex::new(faults),
            requests: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    break;
                }
                // A caller that left is part of some tests.
                let _ = stream.and_then(|stream| answer(&shared, stream));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub(super) fn hubs(&self) -> HubOptions {
        let endpoint = format!("http://{}", self.address);
        HubOptions {
            huggingface: endpoint.clone(),
            modelscope: endpoint,
            huggingface_token: Some("secret".to_owned()),
            retry_pause: Duration::ZERO,
        }
    }

    pub(super) fn set(&self, faults: Faults) {
        *self.state.faults.lock().unwrap() = faults;
    }

    /// All requests so far whose path has `part`.
    pub(super) fn requests(&self, part: &str) -> Vec<Request> {
        self.state.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    pub(super) fn forget_requests(&self) {
        self.state.requests.lock().unwrap().clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::SeqCst);
        // Wakes the thread out of its wait for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Request { path: first.split(' ').nth(1).unwrap_or_default().to_owned(), headers })
}

fn answer(state: &State, mut stream: TcpStream) -> std::io::Result<()> {
    let request = read_request(&stream)?;
    let mut faults = state.faults.lock().unwrap().clone();
    state.requests.lock().unwrap().push(request.clone());
    if let Some(status) = faults.status {
        return write!(stream, "HTTP/1.1 {status} no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    if request.path.starts_with("/api/models/") || request.path.contains("/repo/files?") {
        let listing = listing(state, &faults, request.path.starts_with("/api/models/"));
        let (length, text) = (listing.len(), listing);
        return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    }
    let name = match request.path.split_once("FilePath=") {
        Some((_, name)) => name,
        None => request.path.split_once("/resolve/").unwrap().1.split_once('/').unwrap().1,
    };
    let mut body = state.files[name].clone();
    let mut cut = usize::MAX;
    if name == WEIGHTS {
        body = faults.weights.clone().unwrap_or(body);
        if !faults.cuts.is_empty() {
            cut = faults.cuts.remove(0);
            state.faults.lock().unwrap().cuts = faults.cuts;
        }
    }
    let tag = format!("\"{}-{:x}\"", body.len(), body.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    let is_same_version = request.headers.get("if-range").is_none_or(|wanted| *wanted == tag);
    let range = request.headers.get("range").filter(|_| !faults.ignores_ranges && is_same_version);
    let start: usize =
        range.map_or(0, |range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap());
    let rest = &body[start..];
    let head = match range {
        Some(_) => {
            format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{}/{}", body.len() - 1, body.len())
        }
        None => "HTTP/1.1 200 OK".to_owned(),
    };
    write!(stream, "{head}\r\netag: {tag}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len())?;
    stream.write_all(&rest[..cut.min(rest.len())])
}

fn listing(state: &State, faults: &Faults, huggingface: bool) -> String {
    let bytes = |name: &str| {
        let more = if name == WEIGHTS { faults.listed_bytes_more } else { 0 };
        state.files[name].len() as u64 + more
    };
    let digest = |name: &str| match &faults.listed_digest {
        Some(digest) if name == WEIGHTS => digest.clone(),
        _ => state.digests[name].clone(),
    };
    if huggingface {
        let file = |name: &String| match name.as_str() {
            WEIGHTS => json!({"rfilename": name, "size": bytes(name), "lfs": {"sha256": digest(name)}}),
            _ => json!({"rfilename": name, "size": bytes(name)}),
        };
        json!({"sha": "abc123", "siblings": state.files.keys().map(file).collect::<Vec<_>>()}).to_string()
    } else {
        let file = |name: &String| json!({"Path": name, "Size": bytes(name), "Sha256": digest(name), "Type": "blob"});
        json!({"Code": 200, "Data": {"Files": state.files.keys().map(file).collect::<Vec<_>>()}}).to_string()
    }
}
