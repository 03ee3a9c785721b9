//! Records by number instead of by name: one index, no search, and a stale number finds nothing.
//!
//! For `world`, which keeps everything that is in flight in such tables.
//! Invariants: a key of a record that was taken out never finds a later one; a later record has a larger number.

/// Where a record is. Small, so that an event can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Counts the records of the table.
    made: u32,
    slot: u32,
}

impl Key {
    /// The key of nothing.
    pub const NONE: Self = Self { made: u32::MAX, slot: u32::MAX };

    /// One number that no other key of the same table has; a record that was made later has a larger one.
    #[must_use]
    pub fn number(self) -> u64 {
        (u64::from(self.made) << 32) | u64::from(self.slot)
    }

    /// How many records were made before this one: a short name for people.
    #[must_use]
    pub fn ordinal(self) -> u32 {
        self.made
    }

    /// The key that has this [`Key::number`].
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { made: half(number >> 32), slot: half(number) }
    }
}

/// Records by [`Key`].
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    made: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), made: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts a record in.
    pub fn insert(&mut self, value: T) -> Key {
        let made = self.made;
        self.made = made.checked_add(1).filter(|&next| next != u32::MAX).expect("a run makes less than 2^32 records");
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = (made, Some(value));
            return Key { made, slot };
        }
        let slot = u32::try_from(self.entries.len()).expect("there are at most as many places as records");
        self.entries.push((made, Some(value)));
        Key { made, slot }
    }

    /// The record, unless it was taken out.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        let (made, value) = self.entries.get(key.slot as usize)?;
        value.as_ref().filter(|_| *made == key.made)
    }

    /// The record, unless it was taken out.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (made, value) = self.entries.get_mut(key.slot as usize)?;
        value.as_mut().filter(|_| *made == key.made)
    }

    /// Takes the record out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (made, value) = self.entries.get_mut(key.slot as usize)?;
        if *made != key.made || value.is_none() {
            return None;
        }
        self.free.push(key.slot);
        value.take()
    }

    /// All records, in an order that is the same in every run.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let slots = 0u32..;
        slots
            .zip(&self.entries)
            .filter_map(|(slot, (made, value))| value.as_ref().map(|value| (Key { made: *made, slot }, value)))
    }

    /// All records, in the same order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        let slots = 0u32..;
        slots
            .zip(&mut self.entries)
            .filter_map(|(slot, (made, value))| value.as_mut().map(|value| (Key { made: *made, slot }, value)))
    }

    /// Records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_although_its_place_is_used_again() {
        let mut slab = Slab::default();
        let (one, two) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.remove(one), Some('a'));
        let three = slab.insert('c');
        assert_eq!(slab.get(one), None);
        assert_eq!(slab.remove(one), None);
        assert_eq!(slab.get_mut(one), None);
        assert_eq!((slab.get(two), slab.get(three), slab.len()), (Some(&'b'), Some(&'c'), 2));
        assert_eq!(slab.get(Key::NONE), None);
        assert_eq!(slab.iter().map(|(_, value)| *value).collect::<String>(), "cb");
        assert_eq!(Key::from_number(three.number()), three);
        assert!(two.number() < three.number());
    }
}
