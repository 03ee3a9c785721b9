//! Names of things: nodes, their incarnations, jobs, batches.
//!
//! For everything that keeps a table. Distinct types, so that a job's number can never be used as a batch's.
//! Invariants: a [`NodeId`] is short and printable, because it becomes a gossip key, a header and a metric label.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest [`NodeId`] in bytes. A gossip digest carries every id, and a digest must fit a datagram.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// The name of a node: 1 to 64 bytes of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// Why a text is no [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// Empty, or longer than [`NODE_ID_BYTES_MAX`].
    #[error("a node id has 1 to {NODE_ID_BYTES_MAX} characters")]
    Length,
    /// A character outside the alphabet.
    #[error("a node id consists of A-Z a-z 0-9 . _ -")]
    Character,
}

impl NodeId {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`NodeIdError`] when `text` is too long, empty, or has a character outside the alphabet.
    pub fn new(text: &str) -> Result<Self, NodeIdError> {
        if text.is_empty() || NODE_ID_BYTES_MAX < text.len() {
            return Err(NodeIdError::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            return Err(NodeIdError::Character);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl TryFrom<String> for NodeId {
    type Error = NodeIdError;

    fn try_from(text: String) -> Result<Self, NodeIdError> {
        Self::new(&text)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One run of a node's process. A later run of the same node has a larger number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub u64);

/// One call, or a chunk of one, within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

impl JobId {
    /// Numbers from here on belong to the machine, which cuts the chunks; those below to whoever drives it.
    const CHUNKS: u64 = 1 << 63;

    /// The chunk with this number.
    #[must_use]
    pub fn of_chunk(number: u64) -> Self {
        Self(Self::CHUNKS | number)
    }

    /// Whether it is a chunk of a call.
    #[must_use]
    pub fn is_chunk(self) -> bool {
        Self::CHUNKS <= self.0
    }
}

/// One forward pass, within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchId(pub u64);

/// Which placement of a job a message is about: 1 is the first. An answer to an older one is late and is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt(pub u8);

/// One text of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowRef {
    /// The call.
    pub job: JobId,
    /// Position of the text in the call.
    pub row: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_that_could_break_a_header_or_a_datagram_is_refused() {
        for (text, expected) in [
            ("node-1.eu_west", Ok(())),
            ("", Err(NodeIdError::Length)),
            (&"x".repeat(64), Ok(())),
            (&"x".repeat(65), Err(NodeIdError::Length)),
            ("a b", Err(NodeIdError::Character)),
            ("a\r\nb", Err(NodeIdError::Character)),
            ("节点", Err(NodeIdError::Character)),
        ] {
            assert_eq!(NodeId::new(text).map(|_| ()), expected, "{text:?}");
        }
    }
}
