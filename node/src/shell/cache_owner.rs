//! Being the owner of results: what peers ask of this node's cache, and what they give to it.
//!
//! Part of `shell`.
//! Invariants: nothing is computed for a peer; cluster and model of each message are compared with those of this node
//! before anything of it counts, so a stale revision or another precision neither gets nor gives; what a peer gives is
//! bounded as everything in the cache is.
//! Not here: asking others (`cache_leg`); what a message may hold (`wire`).

use std::sync::Arc;
use std::time::Duration;

use shoal_core::id::NodeId;
use shoal_engine::Embedding;

use super::Shell;
use super::cached::Results;
use crate::cache::{CacheKey, KEPT_AT_ONCE_MAX};
use crate::forward::Cached;
use crate::telemetry::CacheServed;
use crate::wire::{self, CacheFound, CacheGet, CachePut, KeyBytes};

impl Shell {
    /// A peer asks this node for results.
    pub(super) fn on_cache_get(&self, get: &CacheGet) -> Cached {
        let said = match self.for_this_cache(&get.cluster, &get.origin, &get.model) {
            Ok((results, _)) => match get.split() {
                Ok(keys) => Cached::Found(look_up(results, &keys)),
                Err(fault) => Cached::Absurd { message: fault.to_string() },
            },
            Err(said) => said,
        };
        self.count_served("get", &said);
        said
    }

    /// A peer gives this node results.
    pub(super) fn on_cache_put(&self, put: CachePut) -> Cached {
        let said = match self.for_this_cache(&put.cluster, &put.origin, &put.model) {
            Ok((results, dimensions_max)) => match put.check(dimensions_max) {
                Ok(rows) => {
                    let era = results.cache.era();
                    for (number, (key, row)) in (1..).zip(rows) {
                        // A gift is sent as soon as it was computed.
                        results.cache.keep(era, CacheKey::new(key), Arc::new(row), Duration::ZERO);
                        if number % KEPT_AT_ONCE_MAX == 0 {
                            results.cache.settle();
                        }
                    }
                    results.cache.settle();
                    Cached::Kept
                }
                Err(fault) => Cached::Absurd { message: fault.to_string() },
            },
            Err(said) => said,
        };
        self.count_served("put", &said);
        said
    }

    /// The cache that a message is for, and the dimensions of its model.
    fn for_this_cache(&self, cluster: &str, origin: &str, model: &str) -> Result<(&Results, u32), Cached> {
        let own = &*self.0.facts.cluster;
        if *cluster != *own {
            return Err(Cached::Absurd { message: format!("this is cluster `{own}`") });
        }
        NodeId::new(origin).map_err(|fault| Cached::Absurd { message: fault.to_string() })?;
        let results = self.0.results.as_ref().ok_or(Cached::Off)?;
        let loaded = self.0.loaded.load();
        let loaded = loaded.as_ref().filter(|loaded| *loaded.key == *model).ok_or(Cached::OtherModel)?;
        Ok((results, loaded.card.dimensions))
    }

    fn count_served(&self, message: &'static str, said: &Cached) {
        let outcome = match said {
            Cached::Found(_) | Cached::Kept => "ok",
            Cached::Off => "off",
            Cached::OtherModel => "other_model",
            Cached::Absurd { .. } => "absurd",
        };
        self.0.telemetry.cache.served.get_or_create(&CacheServed { message, outcome }).inc();
    }
}

/// What is kept of `keys`, as far as it fits into one message. All of one width, as those of one call are.
fn look_up(results: &Results, keys: &[KeyBytes]) -> CacheFound {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for (at, key) in (0..).zip(keys) {
        let Some((row, age)) = results.cache.get_with_age(&CacheKey::new(*key)) else { continue };
        bytes += row.values.len() * size_of::<f32>();
        if wire::FOUND_VALUES_BYTES_MAX < bytes {
            break;
        }
        found.push((at, row, age));
    }
    let width = found.first().map_or(0, |(_, row, _): &(u32, Arc<Embedding>, Duration)| row.values.len());
    found.retain(|(_, row, _)| row.values.len() == width);
    let found: Vec<_> = found.iter().map(|(at, row, age)| (*at, &**row, *age)).collect();
    CacheFound::new(&found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_engine::{Card, CostGuess, Pooling};

    use crate::cache::Limits;
    use crate::shell::Loaded;
    use crate::shell::peer_door::tests::shell;

    const MODEL: &str = "m@r/f32";

    fn row(value: f32) -> Embedding {
        Embedding { values: vec![value, -value], tokens: 7 }
    }

    fn key(number: u8) -> KeyBytes {
        [number; wire::KEY_BYTES]
    }

    /// A node whose model gives vectors of two dimensions.
    fn loaded() -> Shell {
        let shell = shell();
        let card = Card {
            name: "m".to_owned(),
            revision: "r".to_owned(),
            precision: "f32",
            dimensions: 2,
            tokens_max: 16,
            pooling: Pooling::Mean,
            normalize: true,
            stand_in: true,
            cost: CostGuess::PerItem,
        };
        let (name, revision) = (Arc::from("m"), Arc::from("r"));
        shell.0.loaded.store(Some(Arc::new(Loaded { card, key: Arc::from(MODEL), name, revision, at_s: 0 })));
        shell
    }

    fn get(keys: &[KeyBytes]) -> CacheGet {
        let (cluster, origin) = ("c".to_owned(), "there".to_owned());
        CacheGet { cluster, origin, model: MODEL.to_owned(), keys: wire::join_keys(keys) }
    }

    fn put(keys: &[KeyBytes], rows: &[Embedding]) -> CachePut {
        let CacheGet { cluster, origin, model, keys } = get(keys);
        CachePut { cluster, origin, model, keys, rows: Some(CachePut::rows(rows.iter())) }
    }

    fn found(shell: &Shell, keys: &[KeyBytes]) -> Vec<(usize, Embedding)> {
        match shell.on_cache_get(&get(keys)) {
            Cached::Found(found) => {
                let found = found.check(keys.len(), 2).unwrap();
                found.into_iter().map(|found| (found.at, found.row)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_peer_gave_is_found_by_its_key_and_nothing_else_is() {
        let shell = loaded();
        assert_eq!(shell.on_cache_put(put(&[key(1), key(2)], &[row(0.1), row(0.2)])), Cached::Kept);
        assert_eq!(found(&shell, &[key(2), key(3), key(1)]), [(0, row(0.2)), (2, row(0.1))]);
        assert_eq!(found(&shell, &[key(3)]), []);
    }

    #[tokio::test]
    async fn another_revision_precision_or_cluster_neither_gets_nor_gives() {
        let shell = loaded();
        shell.on_cache_put(put(&[key(1)], &[row(0.1)]));
        for model in ["m@s/f32", "m@r/f16", "n@r/f32", "m@r", ""] {
            let stale = CacheGet { model: model.to_owned(), ..get(&[key(1)]) };
            assert_eq!(shell.on_cache_get(&stale), Cached::OtherModel, "{model}");
            let stale = CachePut { model: model.to_owned(), ..put(&[key(2)], &[row(0.2)]) };
            assert_eq!(shell.on_cache_put(stale), Cached::OtherModel, "{model}");
        }
        let foreign = CacheGet { cluster: "d".to_owned(), ..get(&[key(1)]) };
        assert!(matches!(shell.on_cache_get(&foreign), Cached::Absurd { .. }));
        let nobody = CachePut { origin: "no id".to_owned(), ..put(&[key(2)], &[row(0.2)]) };
        assert!(matches!(shell.on_cache_put(nobody), Cached::Absurd { .. }));
        assert_eq!(found(&shell, &[key(1), key(2)]), [(0, row(0.1))]);
        shell.0.loaded.store(None);
        assert_eq!(shell.on_cache_get(&get(&[key(1)])), Cached::OtherModel, "it has no model yet");
    }

    #[tokio::test]
    async fn hostile_gifts_and_questions_are_told_so_and_leave_nothing() {
        let shell = loaded();
        let wide = Embedding { values: vec![0.0; 3], tokens: 1 };
        let nan = Embedding { values: vec![f32::NAN, 0.0], tokens: 1 };
        for hostile in [put(&[key(1)], &[wide]), put(&[key(1)], &[nan]), put(&[key(1)], &[]), put(&[], &[row(1.0)])] {
            let said = shell.on_cache_put(hostile.clone());
            assert!(matches!(said, Cached::Absurd { .. }), "{hostile:?}: {said:?}");
        }
        let many = vec![key(1); wire::KEYS_MAX + 1];
        for hostile in [get(&[]), get(&many)] {
            assert!(matches!(shell.on_cache_get(&hostile), Cached::Absurd { .. }));
        }
        assert_eq!(found(&shell, &[key(1)]), []);
    }

    #[tokio::test]
    async fn an_answer_holds_vectors_of_one_width_and_no_more_than_a_message_may() {
        let shell = loaded();
        let narrow = Embedding { values: vec![1.0], tokens: 1 };
        shell.on_cache_put(put(&[key(1)], &[row(0.1)]));
        shell.on_cache_put(put(&[key(2)], &[narrow]));
        assert_eq!(found(&shell, &[key(1), key(2)]), [(0, row(0.1))], "no call asks for both");
        // Wider than its model would ever give, to fill a message with few.
        let limits = Limits { bytes_max: 100 << 20, ttl: Duration::from_secs(60) };
        let roomy = Results::new(limits, 0, &shell.0.telemetry.cache);
        let large = Arc::new(Embedding { values: vec![0.5; 50_000], tokens: 1 });
        let keys: Vec<_> = (10..20).map(key).collect();
        let (cache, age) = (&roomy.cache, Duration::from_secs(30));
        for key in &keys {
            cache.keep(cache.era(), CacheKey::new(*key), Arc::clone(&large), age);
        }
        let found = look_up(&roomy, &keys);
        assert_eq!(found.at, [0, 1, 2, 3, 4]);
        assert!(found.ages_ms.iter().all(|&age_ms| (30_000..60_000).contains(&age_ms)), "{:?}", found.ages_ms);
    }
}
