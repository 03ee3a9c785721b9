//! The peer leg: jobs to peers and jobs from peers, as protobuf over HTTP/2 on a port of its own.
//!
//! For `shell`. [`client`] sends, over one `link` a peer, [`serve`] receives; both speak `wire`.
//! The response headers are the acknowledgement: they carry fresh load, and go out with the answer when that is there
//! within a few milliseconds, else alone. A refusal is a 503 with its reason in a header, before anything ran.
//! Not here: which peer gets a job, and what to do when one is lost (`shoal-core`). Encryption between peers is not
//! there yet: [`serve::accept`] and `link` are the two places where a TLS stream will take the place of the TCP stream;
//! `config` allows plain traffic on loopback and private ranges only.

pub mod client;
mod link;
pub mod serve;

pub use client::{ForwardError, ForwardLimits, PeerClient, Reply, Said};
pub use serve::{Cached, Ended, Offered, PeerDoor};
