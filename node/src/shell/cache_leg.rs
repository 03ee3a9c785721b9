//! The result cache between nodes: asking the owner of a result, and giving it one.
//!
//! Part of `shell`.
//! Invariants: a question goes only where computing would take longer than two round trips, to a peer that is ready,
//! reached and of the same model, with a limit of milliseconds; a peer that has no cache, or keeps silent, is left in
//! peace for a while; questions and gifts that are out are bounded, and a gift never delays an answer.
//! Not here: what a call does with all that (`cached`); being the owner (`cache_owner`).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_core::id::NodeId;
use shoal_core::lifecycle::Standing;
use shoal_core::node::Input;
use shoal_core::peers::PeerView;
use shoal_core::time::Micros;
use shoal_engine::Embedding;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::cached::Results;
use super::{Shell, duration};
use crate::cache::CacheKey;
use crate::forward::Said;
use crate::gossip::Member;
use crate::telemetry::CacheOutcome;
use crate::wire::{self, CacheGet, CachePut, FoundRow};

/// Round trips that an owner may take to answer: it only looks.
const LIMIT_ROUND_TRIPS: u64 = 4;
/// It may take so long however near it is: round trips are measured without what a busy machine adds.
const LIMIT_MIN: Duration = Duration::from_millis(5);
const LIMIT_MAX: Duration = Duration::from_millis(20);
/// Below so many round trips of own work an owner is not asked.
const WORTH_ROUND_TRIPS: u64 = 2;
/// Questions that are out at one moment.
const GETS_MAX: usize = 256;
/// Gifts that are out at one moment, each of at most [`wire::PUT_VALUES_BYTES_MAX`] or one vector.
const PUTS_MAX: usize = 64;
/// How long a gift may take.
const PUT_LIMIT: Duration = Duration::from_secs(1);
/// A peer that has no cache for this model is asked again after this time.
const UNKNOWN_REST: Duration = Duration::from_secs(60);
/// A peer that did not answer so many questions in a row is asked again after a pause.
const SILENCES_MAX: u32 = 3;
const SILENT_REST: Duration = Duration::from_secs(1);

/// What this node has out, and whom it leaves in peace.
#[derive(Debug)]
pub(super) struct Leg {
    gets: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    rests: Mutex<BTreeMap<NodeId, Rest>>,
}

/// What became of a message to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It answered, or took what it was given.
    Ok,
    /// Not in time.
    Silent,
    /// No connection, or an answer that is none.
    Broken,
    /// It has no cache for this model.
    Unknown,
}

impl Told {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

/// A peer that did not answer lately.
#[derive(Debug, Default)]
struct Rest {
    silences: u32,
    /// It is not asked before.
    until: Option<Instant>,
}

impl Default for Leg {
    fn default() -> Self {
        let (gets, puts) = (Semaphore::new(GETS_MAX), Semaphore::new(PUTS_MAX));
        Self { gets: Arc::new(gets), puts: Arc::new(puts), rests: Mutex::default() }
    }
}

impl Leg {
    fn rests(&self) -> MutexGuard<'_, BTreeMap<NodeId, Rest>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_resting(&self, peer: &NodeId) -> bool {
        self.rests().get(peer).and_then(|rest| rest.until).is_some_and(|until| Instant::now() < until)
    }

    fn on_told(&self, peer: &NodeId, told: Told) {
        let mut rests = self.rests();
        match told {
            Told::Ok => drop(rests.remove(peer)),
            Told::Unknown => {
                let rest = Rest { silences: 0, until: Some(Instant::now() + UNKNOWN_REST) };
                rests.insert(peer.clone(), rest);
            }
            Told::Silent | Told::Broken => {
                let rest = rests.entry(peer.clone()).or_default();
                rest.silences = rest.silences.saturating_add(1);
                if SILENCES_MAX <= rest.silences {
                    rest.until = Some(Instant::now() + SILENT_REST);
                }
            }
        }
    }

    /// Forgets whoever is not among `members`: the table is as large as the shoal.
    pub(super) fn keep_only(&self, members: &[Member]) {
        self.rests().retain(|peer, _| members.iter().any(|member| member.id == *peer));
    }
}

/// How an owner may be asked, now.
#[derive(Debug)]
pub(super) struct Way {
    owner: NodeId,
    addr: SocketAddr,
    limit: Duration,
    _permit: OwnedSemaphorePermit,
}

/// What an owner is asked for: at most [`wire::KEYS_MAX`] results, all of one width.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) model: Arc<str>,
    pub(super) keys: Vec<CacheKey>,
    pub(super) dimensions: u32,
}

impl Shell {
    /// Time until a job of such texts would be done here; `None` where it would not be.
    pub(super) fn estimate(&self, units: &[u32]) -> Option<Duration> {
        let estimate = self.lock().node.estimate(self.0.clock.now(), units);
        estimate.map(duration)
    }

    /// The owner of a result, if that is not this node.
    pub(super) fn other_owner(&self, key: CacheKey) -> Option<NodeId> {
        let table = self.0.owners.table();
        let owner = table.owners(key.number()).next()?;
        (*owner != self.0.facts.node_id).then(|| owner.clone())
    }

    /// The ways to those of `owners` that are worth asking for texts of these `units` that are due by `deadline`.
    pub(super) fn ways<'a>(
        &self,
        owners: impl Iterator<Item = &'a NodeId>,
        units: &[u32],
        deadline: Instant,
    ) -> HashMap<NodeId, Way> {
        let Some(results) = &self.0.results else { return HashMap::new() };
        let mut trips: BTreeMap<&NodeId, Option<Micros>> = owners.map(|owner| (owner, None)).collect();
        let estimate = {
            let state = self.lock();
            let now = self.0.clock.now();
            for peer in state.node.peers(now) {
                if let Some(trip) = trips.get_mut(&peer.facts.id) {
                    *trip = answers(&peer).then_some(peer.rtt);
                }
            }
            state.node.estimate(now, units)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut ways = HashMap::new();
        for (owner, trip) in trips {
            match self.way(results, owner, (trip, estimate), left) {
                Ok(way) => drop(ways.insert(owner.clone(), way)),
                Err(outcome) => self.count_get(outcome),
            }
        }
        ways
    }

    fn way(
        &self,
        results: &Results,
        owner: &NodeId,
        (trip, estimate): (Option<Micros>, Option<Micros>),
        left: Duration,
    ) -> Result<Way, &'static str> {
        let trip = trip.ok_or("unready")?;
        if estimate.is_some_and(|estimate| estimate < trip.times(WORTH_ROUND_TRIPS)) {
            return Err("cheap");
        }
        if results.leg.is_resting(owner) {
            return Err("resting");
        }
        let addr = self.peer_addr(owner).ok_or("unready")?;
        let permit = Arc::clone(&results.leg.gets).try_acquire_owned().map_err(|_| "full")?;
        // Never longer than it would take to do without.
        let limit = duration(trip.times(LIMIT_ROUND_TRIPS)).clamp(LIMIT_MIN, LIMIT_MAX);
        let limit = limit.min(left).min(estimate.map_or(LIMIT_MAX, duration));
        Ok(Way { owner: owner.clone(), addr, limit, _permit: permit })
    }

    /// Asks an owner. Returns what it has; nothing where it does not answer in time.
    pub(super) async fn ask(self, way: Way, question: Question) -> Vec<FoundRow> {
        let (Some(results), Question { model, keys, dimensions }) = (&self.0.results, question) else {
            return Vec::new();
        };
        let get = CacheGet {
            cluster: self.0.facts.cluster.to_string(),
            origin: self.0.facts.node_id.to_string(),
            model: model.to_string(),
            keys: wire::join_keys(keys.iter().map(CacheKey::bytes)),
        };
        let answered = timeout(way.limit, self.0.client.cache_get(way.addr, &get)).await;
        let (told, found) = match answered {
            Err(_) => (Told::Silent, None),
            Ok(Ok((None, _))) => (Told::Unknown, None),
            Ok(Ok((Some(found), said))) => match found.check(keys.len(), dimensions) {
                Ok(found) => {
                    self.on_word(&way.owner, said);
                    (Told::Ok, Some(found))
                }
                Err(fault) => {
                    tracing::debug!(peer = %way.owner, %fault, "an answer out of a cache is not believed");
                    (Told::Broken, None)
                }
            },
            Ok(Err(fault)) => {
                tracing::debug!(peer = %way.owner, %fault, "the owner of a result was asked in vain");
                (Told::Broken, None)
            }
        };
        self.count_get(told.name());
        results.leg.on_told(&way.owner, told);
        found.unwrap_or_default()
    }

    /// Gives results to their owner, beside the answer to the caller. What is too much is dropped.
    pub(super) fn give(&self, owner: &NodeId, model: &Arc<str>, rows: Vec<(CacheKey, Arc<Embedding>)>) {
        let Some(results) = &self.0.results else { return };
        let Some(addr) = self.peer_addr(owner) else { return };
        if results.leg.is_resting(owner) {
            return;
        }
        let width = rows.first().map_or(0, |(_, row)| row.values.len()).max(1) * size_of::<f32>();
        let most = (wire::PUT_VALUES_BYTES_MAX / width).clamp(1, wire::KEYS_MAX);
        for rows in rows.chunks(most) {
            let Ok(permit) = Arc::clone(&results.leg.puts).try_acquire_owned() else {
                self.count_put("full");
                continue;
            };
            let (shell, owner, model, rows) = (self.clone(), owner.clone(), Arc::clone(model), rows.to_vec());
            tokio::spawn(async move {
                shell.put((owner, addr), &model, &rows).await;
                drop(permit);
            });
        }
    }

    async fn put(&self, (owner, addr): (NodeId, SocketAddr), model: &str, rows: &[(CacheKey, Arc<Embedding>)]) {
        let put = CachePut {
            cluster: self.0.facts.cluster.to_string(),
            origin: self.0.facts.node_id.to_string(),
            model: model.to_owned(),
            keys: wire::join_keys(rows.iter().map(|(key, _)| key.bytes())),
            rows: Some(CachePut::rows(rows.iter().map(|(_, row)| &**row))),
        };
        let told = match timeout(PUT_LIMIT, self.0.client.cache_put(addr, &put)).await {
            Err(_) => Told::Silent,
            Ok(Ok((true, said))) => {
                self.on_word(&owner, said);
                Told::Ok
            }
            Ok(Ok((false, _))) => Told::Unknown,
            Ok(Err(fault)) => {
                tracing::debug!(peer = %owner, %fault, "results were not taken by their owner");
                Told::Broken
            }
        };
        self.count_put(told.name());
        if let Some(results) = &self.0.results {
            results.leg.on_told(&owner, told);
        }
    }

    /// A peer that answers lives, and says how it is.
    fn on_word(&self, peer: &NodeId, said: Said) {
        let word = self.believe(peer, said);
        self.drive(Input::Heard { peer: peer.clone(), word });
    }

    fn count_get(&self, outcome: &'static str) {
        self.0.telemetry.cache.gets.get_or_create(&CacheOutcome { outcome }).inc();
    }

    fn count_put(&self, outcome: &'static str) {
        self.0.telemetry.cache.puts.get_or_create(&CacheOutcome { outcome }).inc();
    }
}

/// It takes work, is reached, and has this node's model.
fn answers(peer: &PeerView<'_>) -> bool {
    let facts = peer.facts;
    let lives = facts.alive || peer.answers_unheard;
    lives && facts.serves && facts.standing == Standing::Ready && peer.gate.passes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_silent_rests_for_a_moment_and_one_without_a_cache_for_long() {
        let (leg, peer) = (Leg::default(), NodeId::new("peer").unwrap());
        for _ in 1..SILENCES_MAX {
            leg.on_told(&peer, Told::Silent);
            assert!(!leg.is_resting(&peer));
        }
        leg.on_told(&peer, Told::Broken);
        assert!(leg.is_resting(&peer));
        leg.on_told(&peer, Told::Ok);
        assert!(!leg.is_resting(&peer), "any answer ends it");
        leg.on_told(&peer, Told::Unknown);
        assert!(leg.is_resting(&peer));
        leg.keep_only(&[]);
        assert!(!leg.is_resting(&peer), "and so does leaving the shoal");
    }
}
