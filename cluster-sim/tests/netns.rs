//! Namespaces of the kernel itself, where they are permitted.
//!
//! In a test process of its own: it starts `ip` many times, and a child that is about to become its program has copies
//! of all sockets, which would keep ports of tests beside it in use.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_sim::netns::{Namespaces, available};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const LIMIT: Duration = Duration::from_secs(30);

/// Does something on a thread of its own in a namespace; sockets made there stay there.
fn inside<T: Send>(namespaces: &Namespaces, index: usize, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(namespaces.file(index)).expect("a namespace has a file");
    let enter = || {
        let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        entered.expect("who can make a namespace can enter it");
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join()).expect("a panic inside has been printed")
}

/// Interfaces and namespaces with the id of this process in their names.
fn ours() -> Vec<String> {
    let folders = ["/sys/class/net", "/run/netns"].into_iter();
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of_this = format!("{}-", std::process::id());
    let kinds = ["shb", "shv", "shoal-sim-"];
    names.filter(|name| kinds.iter().any(|kind| name.starts_with(&format!("{kind}{of_this}")))).collect()
}

#[test]
fn a_pulled_cable_is_silence_and_nothing_is_left_at_the_end() {
    if let Err(why) = available() {
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(is_root, why != "network namespaces need root", "{why}");
        assert_eq!(ours(), [""; 0], "what was begun is removed");
        eprintln!("not tried: {why}");
        return;
    }
    let mut gone = Command::new("true").spawn().expect("there is such a program");
    gone.wait().expect("it is a child of this process");
    let left = format!("shoal-sim-{}-0", gone.id());
    let made = Command::new("ip").args(["netns", "add", &left]).status().expect("it is available");
    assert!(made.success());

    let namespaces = Namespaces::create(2).expect("they are available");
    assert!(!Path::new("/run/netns").join(&left).exists(), "what a process that is gone has left is removed");
    let address = SocketAddr::from((namespaces.address(0), 8090));
    let _listener = inside(&namespaces, 0, || TcpListener::bind(address)).expect("nobody else is there");
    let dial = |limit| inside(&namespaces, 1, || TcpStream::connect_timeout(&address, limit));
    dial(LIMIT).expect("they reach each other");
    TcpStream::connect_timeout(&address, LIMIT).expect("this process reaches them over the bridge");
    namespaces.cut(0).expect("the cable is ours");
    let fault = dial(Duration::from_millis(200)).expect_err("the cable is out");
    assert_eq!(fault.kind(), ErrorKind::TimedOut, "a cut is silent: {fault}");
    namespaces.heal(0).expect("the cable is ours");
    let deadline = Instant::now() + LIMIT;
    while dial(Duration::from_secs(1)).is_err() {
        assert!(Instant::now() < deadline, "the cable is in, and nothing passes");
    }
    assert!(!ours().is_empty());
    drop(namespaces);
    assert_eq!(ours(), [""; 0]);
}
