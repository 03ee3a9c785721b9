//! Events in the order of their time, and within one moment in the order in which they were made.
//!
//! For `world`. Most events lie less than a third of a second ahead, so they go into a wheel of short slots, each
//! sorted when its time comes; the rest waits in a heap until the wheel gets there.
//! Invariants: pops never go back in time; equal moments come out in the order of pushes, so that runs repeat exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use shoal_core::time::MonoTime;

/// A slot of the wheel is `2^SLOT_BITS` microseconds.
const SLOT_BITS: u32 = 6;
/// Slots of the wheel; with the above it reaches 262 ms ahead.
const SLOTS: usize = 1 << 12;
const WORDS: usize = SLOTS / 64;

/// Events that are to come.
#[derive(Debug)]
pub struct Queue<E> {
    /// Slot `s` holds the entries whose slot number is `s` modulo [`SLOTS`], in the order of pushes.
    wheel: Vec<Vec<Entry<E>>>,
    /// Which slots hold something, one bit each.
    occupied: [u64; WORDS],
    /// Number of the slot that is being emptied; every entry of the wheel is in it or at most [`SLOTS`] after it.
    slot: u64,
    /// What is left of that slot, the next one last.
    current: Vec<Entry<E>>,
    far: BinaryHeap<Reverse<Entry<E>>>,
    made: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (u64, u64) {
        (self.at, self.number)
    }

    fn slot(&self) -> u64 {
        self.at >> SLOT_BITS
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E: Copy> Default for Queue<E> {
    fn default() -> Self {
        Self {
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            occupied: [0; WORDS],
            slot: 0,
            current: Vec::new(),
            far: BinaryHeap::new(),
            made: 0,
            len: 0,
        }
    }
}

impl<E: Copy> Queue<E> {
    /// Adds an event. One for a moment that is over comes out next.
    pub fn push(&mut self, at: MonoTime, event: E) {
        self.made += 1;
        self.len += 1;
        let entry = Entry { at: at.as_micros().max(self.slot << SLOT_BITS), number: self.made, event };
        if entry.slot() <= self.slot {
            let place = self.current.partition_point(|later| entry < *later);
            self.current.insert(place, entry);
        } else if entry.slot() < self.slot + SLOTS as u64 {
            self.put(entry);
        } else {
            self.far.push(Reverse(entry));
        }
    }

    /// Takes the next event out, with its time.
    pub fn pop(&mut self) -> Option<(MonoTime, E)> {
        if self.current.is_empty() && !self.advance() {
            return None;
        }
        let entry = self.current.pop()?;
        self.len -= 1;
        Some((MonoTime::from_micros(entry.at), entry.event))
    }

    /// Events that are to come.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn put(&mut self, entry: Entry<E>) {
        let index = index_of(entry.slot());
        self.occupied[index / 64] |= 1 << (index % 64);
        self.wheel[index].push(entry);
    }

    /// Makes the next slot that holds something the current one. Returns whether there is one.
    fn advance(&mut self) -> bool {
        let near = self.next_occupied();
        let far = self.far.peek().map(|Reverse(entry)| entry.slot());
        let Some(next) = [near, far].into_iter().flatten().min() else { return false };
        self.slot = next;
        while self.far.peek().is_some_and(|Reverse(entry)| entry.slot() < next + SLOTS as u64) {
            let Some(Reverse(entry)) = self.far.pop() else { break };
            self.put(entry);
        }
        let index = index_of(next);
        self.occupied[index / 64] &= !(1 << (index % 64));
        // The emptied vector takes the slot's place, so that its memory is used again.
        std::mem::swap(&mut self.current, &mut self.wheel[index]);
        self.current.sort_unstable_by(|one, other| other.cmp(one));
        true
    }

    /// Number of the first slot after the current one that holds something.
    fn next_occupied(&self) -> Option<u64> {
        let first = self.slot + 1;
        let mut offset = 0;
        while offset < SLOTS as u64 {
            let index = index_of(first + offset);
            let word = self.occupied[index / 64] >> (index % 64);
            if word != 0 {
                let found = offset + u64::from(word.trailing_zeros());
                return (found < SLOTS as u64).then_some(first + found);
            }
            offset += 64 - (index % 64) as u64;
        }
        None
    }
}

fn index_of(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).expect("less than the number of slots")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::prng::Prng;

    fn at(micros: u64) -> MonoTime {
        MonoTime::from_micros(micros)
    }

    #[test]
    fn events_of_one_moment_keep_their_order() {
        let mut queue = Queue::default();
        for number in 0..9 {
            queue.push(at(500), number);
            queue.push(at(400_000), number + 100);
        }
        let mut popped = Vec::new();
        while let Some((_, number)) = queue.pop() {
            popped.push(number);
        }
        assert_eq!(popped, (0..9).chain(100..109).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_for_the_past_comes_next_and_time_stands() {
        let mut queue = Queue::default();
        queue.push(at(1000), 'a');
        queue.push(at(1001), 'c');
        assert_eq!(queue.pop(), Some((at(1000), 'a')));
        queue.push(at(3), 'b');
        let (moment, event) = queue.pop().unwrap();
        assert_eq!(event, 'b');
        assert!(moment <= at(1000) && at(960) <= moment, "{moment:?}");
    }

    /// Against a plain sorted list, with pushes between pops, near and far.
    #[test]
    fn the_order_is_that_of_time_and_number_whatever_the_distance() {
        let mut chance = Prng::new(3);
        let (mut queue, mut model) = (Queue::default(), std::collections::BTreeMap::new());
        let mut now = 0u64;
        for number in 0..60_000u64 {
            let reach = [1, 100, 10_000, 300_000, 5_000_000, 60_000_000][chance.below(6)];
            let time = now + chance.below(reach) as u64;
            queue.push(at(time), number);
            model.insert((time, number), number);
            if chance.below(3) != 0 {
                let ((time, _), expected) = model.pop_first().unwrap();
                let (moment, found) = queue.pop().unwrap();
                assert_eq!((moment, found), (at(time), expected));
                now = time;
            }
            assert_eq!(queue.len(), model.len());
        }
        while let Some(((time, _), expected)) = model.pop_first() {
            assert_eq!(queue.pop(), Some((at(time), expected)));
        }
        assert!(queue.is_empty());
    }
}
