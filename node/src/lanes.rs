//! The threads that carry connections: one runtime each, and a connection stays on the thread it was given.
//!
//! For `listen` and `forward`, which give each connection its lane, and `serve`, which starts them. What a request
//! needs of this node (its connection, its task, the connection to the peer that computes it) happens on one thread, so
//! nothing has to wake another one on the way: a runtime that moves tasks between threads does that several times for
//! each forward, and it was half of what a forward cost.
//! The price: a connection never moves, so work that does not give way holds up its neighbours. Bodies are bounded, and
//! large answers are written in steps.
//! Not here: what runs on a connection; the thread of the node itself, which accepts, ticks and pings.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// All lanes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lanes(Arc<[Lane]>);

#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Connections that it carries.
    open: AtomicUsize,
    /// The thread ends when this is dropped. A lane that only borrows a runtime has none.
    _stop: Option<oneshot::Sender<()>>,
}

/// Says that a lane carries one more connection, until it is dropped.
#[derive(Debug)]
pub struct LaneGuard {
    lanes: Lanes,
    at: usize,
}

impl Lanes {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The system gives no thread, or no descriptor for a runtime.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|_| Lane::start()).collect::<io::Result<Arc<[Lane]>>>().map(Self)
    }

    /// The runtime of the caller as the only lane.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn here() -> Self {
        Self(Arc::from([Lane { handle: Handle::current(), open: AtomicUsize::new(0), _stop: None }]))
    }

    /// The lane for one more connection: that which carries the fewest.
    #[must_use]
    pub fn assign(&self) -> LaneGuard {
        let open = |at: &usize| self.0[*at].open.load(Ordering::Relaxed);
        let at = (0..self.0.len()).min_by_key(open).expect("there is at least one lane");
        self.0[at].open.fetch_add(1, Ordering::Relaxed);
        LaneGuard { lanes: self.clone(), at }
    }
}

impl Lane {
    fn start() -> io::Result<Self> {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("shoal-io".to_owned()).spawn(move || {
            // Both ways to end mean the same: nobody is left who could give it a connection.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, open: AtomicUsize::new(0), _stop: Some(stop) })
    }
}

impl LaneGuard {
    /// Where the connection's task is to be spawned.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.lanes.0[self.at].handle
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        self.lanes.0[self.at].open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection between two lanes: the thread that accepted it waits for it no longer.
#[derive(Debug)]
pub struct Moving(std::net::TcpStream);

impl Moving {
    /// # Errors
    /// The system does not let go of it.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.into_std().map(Self)
    }

    /// Of a connection that was accepted outside of any runtime.
    ///
    /// # Errors
    /// The system does not let it be waited for.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }

    /// From now on the calling task's thread waits for it.
    ///
    /// # Errors
    /// The system has no more room for what is waited for.
    pub fn arrive(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn connections_are_spread_evenly_and_a_place_is_given_back() {
        let lanes = Lanes::start(3).unwrap();
        let mut guards: Vec<LaneGuard> = (0..6).map(|_| lanes.assign()).collect();
        let open = |lanes: &Lanes| lanes.0.iter().map(|lane| lane.open.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(open(&lanes), [2, 2, 2]);
        let left = guards.remove(4).at;
        assert_eq!(lanes.assign().at, left, "the lane with the fewest is taken");
        drop(guards);
        assert_eq!(open(&lanes), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_connection_that_moved_is_served_on_the_thread_of_its_lane() {
        let lanes = Lanes::start(1).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (lane, moving) = (lanes.assign(), Moving::new(stream).unwrap());
        let served = lane.handle().spawn(async move {
            let mut stream = moving.arrive().unwrap();
            let said = stream.read_u8().await.unwrap();
            stream.write_u8(said + 1).await.unwrap();
            std::thread::current().name().map(str::to_owned)
        });
        caller.write_u8(41).await.unwrap();
        assert_eq!(caller.read_u8().await.unwrap(), 42);
        assert_eq!(served.await.unwrap().as_deref(), Some("shoal-io"));
    }
}
