//! The socket that gossip runs on: plain UDP, one datagram a message, everything counted.
//!
//! Part of `gossip`; chitchat asks for it through its [`Transport`].
//! Invariants: a datagram that is no message, and an error that passes, never end the loop that receives; what is
//! counted is what went through the socket, junk included. `recv` may be dropped at any await and loses nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable as _, Serializable as _};
use tokio::net::UdpSocket;

use crate::telemetry::GossipMetrics;

/// Longest payload that a datagram can have.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// What chitchat's traits return: they are written for a macro that boxes every future.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'a>>;

/// Opens sockets that count into `metrics`.
#[derive(Debug)]
pub(super) struct CountedUdp {
    pub(super) metrics: GossipMetrics,
}

impl Transport for CountedUdp {
    fn open<'life, 'made>(&'life self, listen: SocketAddr) -> Boxed<'made, Box<dyn Socket>>
    where
        'life: 'made,
        Self: 'made,
    {
        Box::pin(async move {
            let socket = UdpSocket::bind(listen).await?;
            let received = vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice();
            let metrics = self.metrics.clone();
            Ok(Box::new(CountedSocket { socket, metrics, sending: Vec::new(), received }) as Box<dyn Socket>)
        })
    }
}

struct CountedSocket {
    socket: UdpSocket,
    metrics: GossipMetrics,
    sending: Vec<u8>,
    received: Box<[u8]>,
}

impl Socket for CountedSocket {
    fn send<'life, 'made>(&'life mut self, to: SocketAddr, message: ChitchatMessage) -> Boxed<'made, ()>
    where
        'life: 'made,
        Self: 'made,
    {
        Box::pin(async move {
            self.sending.clear();
            message.serialize(&mut self.sending);
            let sent = self.socket.send_to(&self.sending, to).await?;
            self.metrics.sent.count(sent);
            Ok(())
        })
    }

    fn recv<'life, 'made>(&'life mut self) -> Boxed<'made, (SocketAddr, ChitchatMessage)>
    where
        'life: 'made,
        Self: 'made,
    {
        Box::pin(async move {
            loop {
                let (length, from) = match self.socket.recv_from(&mut self.received).await {
                    Ok(received) => received,
                    Err(fault) if passes(&fault) => {
                        tracing::debug!(%fault, "a datagram of gossip could not be received");
                        continue;
                    }
                    Err(fault) => return Err(fault.into()),
                };
                self.metrics.received.count(length);
                match ChitchatMessage::deserialize(&mut &self.received[..length]) {
                    Ok(message) => return Ok((from, message)),
                    // A line a datagram would be a way to fill a disk, hence no louder.
                    Err(fault) => {
                        self.metrics.garbled.inc();
                        tracing::debug!(%from, length, %fault, "what came is no message of gossip");
                    }
                }
            }
        })
    }
}

/// Whether the socket works after this error. A refused or reset one is the answer to an earlier datagram: nobody
/// listened there.
fn passes(fault: &io::Error) -> bool {
    matches!(
        fault.kind(),
        io::ErrorKind::OutOfMemory
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Telemetry;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> T {
        tokio::time::timeout(LIMIT, work).await.expect("in time").expect("no error")
    }

    #[tokio::test]
    async fn messages_and_junk_are_counted_and_junk_ends_nothing() {
        let telemetry = Telemetry::new("0", "n");
        let udp = CountedUdp { metrics: telemetry.gossip.clone() };
        let junk = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut sender = within(udp.open("127.0.0.1:0".parse().unwrap())).await;
        // The port is known only before it is bound: the transport does not tell it.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut receiver = within(udp.open(free)).await;

        junk.send_to(b"no gossip", free).await.unwrap();
        junk.send_to(b"", free).await.unwrap();
        let length = ChitchatMessage::BadCluster.serialize_to_vec().len();
        within(sender.send(free, ChitchatMessage::BadCluster)).await;
        let (_, message) = within(receiver.recv()).await;
        assert_eq!(message, ChitchatMessage::BadCluster);

        let text = telemetry.text();
        let received = length + b"no gossip".len();
        for expected in [
            format!("shoal_gossip_bytes_total{{direction=\"sent\"}} {length}"),
            format!("shoal_gossip_bytes_total{{direction=\"received\"}} {received}"),
            "shoal_gossip_datagrams_total{direction=\"sent\"} 1".to_owned(),
            "shoal_gossip_datagrams_total{direction=\"received\"} 3".to_owned(),
            "shoal_gossip_garbled_total 2".to_owned(),
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn only_an_error_that_passes_lets_the_loop_go_on() {
        use io::ErrorKind::{ConnectionRefused, NotConnected, PermissionDenied};
        let passing = [ConnectionRefused, NotConnected, PermissionDenied].map(|kind| passes(&io::Error::from(kind)));
        assert_eq!(passing, [true, false, false]);
    }
}
