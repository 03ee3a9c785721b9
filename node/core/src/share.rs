//! A part of a whole, in percent.
//!
//! For everything that says how much of a device or of a memory is in use.
//! Invariants: 0 to 100; a share that is not known is `None` where a [`Share`] is optional, never 0.

use serde::{Deserialize, Serialize};

/// Whole percent, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8")]
pub struct Share(u8);

impl Share {
    /// Everything.
    pub const FULL: Self = Self(100);

    /// `percent`, cut to 100.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        Self(if percent < 100 { percent } else { 100 })
    }

    /// `part` of `whole`, rounded down and cut to 100; everything when `whole` is 0.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Self {
        let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(100);
        Self::percent(u8::try_from(percent.min(100)).unwrap_or(100))
    }

    /// Whole percent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl From<u8> for Share {
    fn from(percent: u8) -> Self {
        Self::percent(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_above_everything() {
        for (part, whole, expected) in [(0, 8, 0), (7, 8, 87), (9, 8, 100), (u64::MAX, 1, 100), (0, 0, 100)] {
            assert_eq!(Share::of(part, whole).get(), expected, "{part} of {whole}");
        }
        assert_eq!(Share::percent(255), Share::FULL);
    }
}
