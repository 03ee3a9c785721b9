//! Messages of the shoal's result cache: what a node asks the owner of a result, and what it gives to it.
//!
//! Part of `wire`. A node that does not know these paths answers 404, as does one whose cache is off.
//! Invariants: each message names cluster and model, so that neither a stale revision nor another precision is ever
//! meant; every count and size is checked here before anybody acts on it; a found result has exactly the dimensions
//! that were asked for, all finite. Whether its numbers are right nobody can tell: peers are trusted with that.
//! Not here: how keys are made (`cache`).

use std::time::Duration;

use bytes::Bytes;
use shoal_engine::Embedding;

use super::{Rows, WireError, read_rows, rows_message};

/// Path of [`CacheGet`]; the answer is a [`CacheFound`].
pub const CACHE_GET_PATH: &str = "/shoal.v1/cache_get";
/// Path of [`CachePut`]; the answer is empty.
pub const CACHE_PUT_PATH: &str = "/shoal.v1/cache_put";
/// Length of a key.
pub const KEY_BYTES: usize = 32;
/// Most keys in one message.
pub const KEYS_MAX: usize = 512;
/// Most bytes of vectors in a [`CacheFound`]; what does not fit is not told.
pub const FOUND_VALUES_BYTES_MAX: usize = 1 << 20;
/// Longest [`CacheFound`]: the vectors, and some bytes about each.
pub const FOUND_BYTES_MAX: usize = FOUND_VALUES_BYTES_MAX + KEYS_MAX * 16 + 1024;
/// Most bytes of vectors in a [`CachePut`], so that the message is within what any peer takes.
pub const PUT_VALUES_BYTES_MAX: usize = super::CHUNK_BYTES;

/// A key as it travels.
pub type KeyBytes = [u8; KEY_BYTES];

/// Asks for results that were computed before. Nothing is computed for it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheGet {
    /// Cluster of the sender.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Node id of the sender.
    #[prost(string, tag = "2")]
    pub origin: String,
    /// `name@revision/precision` of the results.
    #[prost(string, tag = "3")]
    pub model: String,
    /// Keys, one after the other.
    #[prost(bytes = "bytes", tag = "4")]
    pub keys: Bytes,
}

/// What was found.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CacheFound {
    /// Positions of the keys that were found, rising.
    #[prost(uint32, repeated, tag = "1")]
    pub at: Vec<u32>,
    /// Their vectors, in that order; absent when nothing was found.
    #[prost(message, optional, tag = "2")]
    pub rows: Option<Rows>,
    /// Milliseconds since each was computed, in that order; absent where an earlier version does not tell.
    #[prost(uint32, repeated, tag = "3")]
    pub ages_ms: Vec<u32>,
}

/// One result of a [`CacheFound`].
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRow {
    /// Position of its key in the question.
    pub at: usize,
    pub row: Embedding,
    /// Since it was computed; zero where that is not told.
    pub age: Duration,
}

/// Gives results to their owner.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CachePut {
    /// Cluster of the sender.
    #[prost(string, tag = "1")]
    pub cluster: String,
    /// Node id of the sender.
    #[prost(string, tag = "2")]
    pub origin: String,
    /// `name@revision/precision` of the results.
    #[prost(string, tag = "3")]
    pub model: String,
    /// Keys, one after the other.
    #[prost(bytes = "bytes", tag = "4")]
    pub keys: Bytes,
    /// Their vectors, in that order.
    #[prost(message, optional, tag = "5")]
    pub rows: Option<Rows>,
}

/// Keys, one after the other.
#[must_use]
pub fn join_keys<'a>(keys: impl IntoIterator<Item = &'a KeyBytes>) -> Bytes {
    keys.into_iter().flatten().copied().collect()
}

fn split_keys(keys: &[u8]) -> Result<Vec<KeyBytes>, WireError> {
    let (keys, rest) = keys.as_chunks::<KEY_BYTES>();
    if !rest.is_empty() || !(1..=KEYS_MAX).contains(&keys.len()) {
        return Err(WireError::Inconsistent("not 1 to 512 keys of 32 bytes"));
    }
    Ok(keys.to_vec())
}

impl CacheGet {
    /// The keys.
    ///
    /// # Errors
    /// [`WireError::Inconsistent`] for a length that is none of keys, for none and for too many.
    pub fn split(&self) -> Result<Vec<KeyBytes>, WireError> {
        split_keys(&self.keys)
    }
}

impl CacheFound {
    /// `found` results with the positions of their keys, all of one width, at most [`FOUND_VALUES_BYTES_MAX`].
    #[must_use]
    pub fn new(found: &[(u32, &Embedding, Duration)]) -> Self {
        let at = found.iter().map(|(at, ..)| *at).collect();
        let rows = (!found.is_empty()).then(|| rows_message(found.iter().map(|(_, row, _)| *row)));
        let ages_ms = found.iter().map(|(.., age)| u32::try_from(age.as_millis()).unwrap_or(u32::MAX)).collect();
        Self { at, rows, ages_ms }
    }

    /// The results with the positions of their keys: answer to a question for `keys` keys of results that have
    /// `dimensions` values.
    ///
    /// # Errors
    /// [`WireError::Inconsistent`]: nothing of it counts.
    pub fn check(self, keys: usize, dimensions: u32) -> Result<Vec<FoundRow>, WireError> {
        let Some(rows) = self.rows.filter(|rows| !rows.tokens.is_empty()) else {
            let is_empty = self.at.is_empty();
            return is_empty.then(Vec::new).ok_or(WireError::Inconsistent("positions without vectors"));
        };
        let in_order = self.at.is_sorted_by(|one, next| one < next);
        let in_range = self.at.last().is_none_or(|&last| usize::try_from(last).is_ok_and(|last| last < keys));
        if !in_order || !in_range || rows.tokens.len() != self.at.len() {
            return Err(WireError::Inconsistent("the positions are not those of a question"));
        }
        if rows.dimensions != dimensions {
            return Err(WireError::Inconsistent("vectors of another width than was asked for"));
        }
        if !self.ages_ms.is_empty() && self.ages_ms.len() != self.at.len() {
            return Err(WireError::Inconsistent("as many ages as vectors are expected"));
        }
        let ages = self.ages_ms.iter().map(|&age_ms| Duration::from_millis(age_ms.into()));
        let rows = self.at.iter().zip(read_rows(&rows)?).zip(ages.chain(std::iter::repeat(Duration::ZERO)));
        Ok(rows.map(|((&at, row), age)| FoundRow { at: at as usize, row, age }).collect())
    }
}

impl CachePut {
    /// The vectors of `rows`, all of one width and together at most [`PUT_VALUES_BYTES_MAX`] or only one.
    #[must_use]
    pub fn rows<'a>(rows: impl Iterator<Item = &'a Embedding>) -> Rows {
        rows_message(rows)
    }

    /// The results, of a model that gives at most `dimensions_max` values.
    ///
    /// # Errors
    /// [`WireError::Inconsistent`]: nothing of it counts.
    pub fn check(self, dimensions_max: u32) -> Result<Vec<(KeyBytes, Embedding)>, WireError> {
        let keys = split_keys(&self.keys)?;
        let rows = self.rows.ok_or(WireError::Inconsistent("keys without vectors"))?;
        if dimensions_max < rows.dimensions {
            return Err(WireError::Inconsistent("vectors wider than those of the model"));
        }
        if rows.tokens.len() != keys.len() {
            return Err(WireError::Inconsistent("as many vectors as keys are expected"));
        }
        Ok(keys.into_iter().zip(read_rows(&rows)?).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn row(value: f32) -> Embedding {
        Embedding { values: vec![value, -value], tokens: 7 }
    }

    fn keys(count: u8) -> Vec<KeyBytes> {
        (0..count).map(|number| [number; KEY_BYTES]).collect()
    }

    fn put(keys: &[KeyBytes], rows: &[Embedding]) -> CachePut {
        let rows = Some(CachePut::rows(rows.iter()));
        CachePut { keys: join_keys(keys), rows, ..CachePut::default() }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let get = CacheGet { keys: join_keys(&keys(3)), ..CacheGet::default() };
        assert_eq!(CacheGet::decode(&*get.encode_to_vec()).unwrap().split().unwrap(), keys(3));
        let (young, old) = (Duration::from_millis(7), Duration::from_secs(3600));
        let found = CacheFound::new(&[(0, &row(1.0), young), (2, &row(0.1), old)]);
        let found = CacheFound::decode(&*found.encode_to_vec()).unwrap();
        let earlier = CacheFound { ages_ms: vec![], ..found.clone() };
        let expected = |ages: [Duration; 2]| {
            [(0, 1.0, ages[0]), (2, 0.1, ages[1])].map(|(at, value, age)| FoundRow { at, row: row(value), age })
        };
        assert_eq!(found.check(3, 2).unwrap(), expected([young, old]));
        assert_eq!(earlier.check(3, 2).unwrap(), expected([Duration::ZERO; 2]), "as earlier versions tell it");
        let nothing = CacheFound::decode(&*CacheFound::new(&[]).encode_to_vec()).unwrap();
        assert_eq!(nothing.check(3, 2).unwrap(), []);
        let put = put(&keys(2), &[row(1.0), row(2.0)]);
        let kept = CachePut::decode(&*put.encode_to_vec()).unwrap().check(2).unwrap();
        assert_eq!(kept, [(keys(2)[0], row(1.0)), (keys(2)[1], row(2.0))]);
    }

    #[test]
    fn a_largest_answer_is_within_the_limit_of_its_reader() {
        let rows: Vec<_> = (0..KEYS_MAX).map(|_| Embedding { values: vec![0.5; 512], tokens: u32::MAX }).collect();
        let found: Vec<_> = (0..).zip(&rows).map(|(at, row)| (at, row, Duration::MAX)).collect();
        assert_eq!(found.len() * 512 * 4, FOUND_VALUES_BYTES_MAX);
        assert!(CacheFound::new(&found).encoded_len() <= FOUND_BYTES_MAX);
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for bytes in [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, (KEYS_MAX + 1) * KEY_BYTES] {
            let get = CacheGet { keys: vec![0; bytes].into(), ..CacheGet::default() };
            assert!(get.split().is_err(), "{bytes}");
        }
    }

    #[test]
    fn an_answer_that_contradicts_the_question_counts_for_nothing() {
        let found = |at: &[u32], rows: &[Embedding]| {
            let rows = (!rows.is_empty()).then(|| CachePut::rows(rows.iter()));
            CacheFound { at: at.to_vec(), rows, ages_ms: vec![] }
        };
        let wide = Embedding { values: vec![1.0; 3], tokens: 1 };
        let nan = Embedding { values: vec![1.0, f32::NAN], tokens: 1 };
        let infinite = Embedding { values: vec![f32::INFINITY, 0.0], tokens: 1 };
        for hostile in [
            found(&[0], &[]),
            found(&[0, 1], &[row(1.0)]),
            found(&[0], &[row(1.0), row(2.0)]),
            found(&[1, 0], &[row(1.0), row(2.0)]),
            found(&[1, 1], &[row(1.0), row(2.0)]),
            found(&[3], &[row(1.0)]),
            found(&[u32::MAX], &[row(1.0)]),
            found(&[0], &[wide]),
            found(&[0], &[nan]),
            found(&[0], &[infinite]),
            CacheFound { ages_ms: vec![1, 2], ..found(&[0], &[row(1.0)]) },
        ] {
            assert!(hostile.clone().check(3, 2).is_err(), "{hostile:?}");
        }
        let mut short = found(&[0], &[row(1.0)]);
        short.rows.as_mut().unwrap().values = Bytes::from_static(&[0; 7]);
        assert!(short.check(3, 2).is_err());
        let rows = Some(Rows { dimensions: 0, values: Bytes::new(), tokens: vec![1] });
        let empty = CacheFound { at: vec![0], rows, ages_ms: vec![] };
        assert!(empty.check(3, 0).is_err(), "a vector without values");
    }

    #[test]
    fn a_gift_that_makes_no_sense_is_refused() {
        let bad = Embedding { values: vec![0.0, f32::NEG_INFINITY], tokens: 1 };
        for hostile in [
            put(&keys(2), &[row(1.0)]),
            put(&keys(1), &[row(1.0), row(2.0)]),
            put(&[], &[row(1.0)]),
            put(&keys(1), &[bad]),
            CachePut { rows: None, ..put(&keys(1), &[row(1.0)]) },
        ] {
            assert!(hostile.clone().check(2).is_err(), "{hostile:?}");
        }
        assert!(put(&keys(1), &[row(1.0)]).check(1).is_err(), "wider than the model");
        assert_eq!(put(&keys(1), &[row(1.0)]).check(2).unwrap().len(), 1, "narrower ones were asked for by a caller");
    }
}
