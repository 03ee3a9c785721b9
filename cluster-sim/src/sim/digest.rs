//! One number for everything that happened.
//!
//! For comparing runs: equal digests mean that every event and every decision was the same, in the same order.
//! Invariants: the number is the same on every platform for the same words (FNV-1a by words instead of bytes, with a
//! final mix, so that a difference in a high bit reaches the low ones).

/// What was fed in, as 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Feeds one word.
    pub fn word(&mut self, word: u64) {
        // The rotation carries what a multiplication leaves in the high bits back to the low ones.
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    /// Feeds text.
    pub fn bytes(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.word(byte.into()));
    }

    /// The number.
    #[must_use]
    pub fn value(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_every_bit_count() {
        let of = |words: &[u64]| {
            let mut digest = Digest::default();
            words.iter().for_each(|&word| digest.word(word));
            digest.value()
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[]), of(&[0]));
        let all: std::collections::BTreeSet<u64> = (0..64).map(|bit| of(&[1 << bit, 7])).collect();
        assert_eq!(all.len(), 64);
    }
}
