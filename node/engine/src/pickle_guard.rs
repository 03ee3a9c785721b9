//! Looks through a PyTorch file's pickled structure before candle's parser builds it.
//!
//! For `weights`. That parser runs no code, but it copies whatever is taken out of the memo: thirty nested tuples in
//! two hundred bytes become more objects than memory holds, and deep nesting overflows the stack when it is dropped.
//! Both end the process, so they are found here, by counting objects instead of making them.
//! Invariants: every instruction that candle knows is counted as candle carries it out; an unknown one is an error.
//! Source: Python's pickletools, protocols 0 to 2.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zip::ZipArchive;

/// Largest structure in bytes; that of a model with a thousand tensors has about 200,000.
const STRUCTURE_BYTES_MAX: u64 = 16 << 20;
/// Structures in one file; PyTorch writes one.
const STRUCTURES_MAX: usize = 4;
/// Objects that the parser makes in all, copies included; a model with a thousand tensors needs about 50,000.
const OBJECTS_MAX: u64 = 2_000_000;
/// Deepest nesting; a state dictionary has about 8.
const DEPTH_MAX: u32 = 64;

/// Whether candle's parser can be let loose on the file.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check_file(place: &Path) -> Result<(), String> {
    let file = File::open(place).map_err(|cause| cause.to_string())?;
    let mut archive = ZipArchive::new(file).map_err(|cause| format!("it is no zip file: {cause}"))?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .filter(|name| name.ends_with("data.pkl"))
        .collect();
    if names.is_empty() || STRUCTURES_MAX < names.len() {
        return Err(format!("it has {} entries data.pkl, one is usual", names.len()));
    }
    for name in names {
        let entry = archive.by_name(&name).map_err(|cause| format!("{name}: {cause}"))?;
        let mut structure = Vec::new();
        // Unpacked bytes are counted, not the size that the archive claims.
        entry.take(STRUCTURE_BYTES_MAX + 1).read_to_end(&mut structure).map_err(|cause| format!("{name}: {cause}"))?;
        if STRUCTURE_BYTES_MAX < structure.len() as u64 {
            return Err(format!("{name} unpacks to more than {STRUCTURE_BYTES_MAX} bytes"));
        }
        check(&structure).map_err(|what| format!("{name}: {what}"))?;
    }
    Ok(())
}

/// Size and depth of one object.
#[derive(Clone, Copy, Debug)]
struct Cost {
    objects: u64,
    depth: u32,
}

impl Cost {
    /// The same object when it also holds `parts`.
    fn with(self, parts: &[Self]) -> Self {
        Self {
            objects: parts.iter().fold(self.objects, |sum, part| sum.saturating_add(part.objects)),
            depth: parts.iter().fold(self.depth, |depth, part| depth.max(part.depth + 1)),
        }
    }
}

const LEAF: Cost = Cost { objects: 1, depth: 1 };

/// What is on the parser's stack.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Mark,
    Object(Cost),
}

/// The parser's stack and memo, with costs instead of objects.
#[derive(Debug, Default)]
struct Counter {
    stack: Vec<Slot>,
    memo: HashMap<u32, Cost>,
    /// Objects made so far.
    made: u64,
}

fn check(structure: &[u8]) -> Result<(), String> {
    let mut counter = Counter::default();
    let mut rest = structure;
    while counter.step(&mut rest)? {}
    Ok(())
}

impl Counter {
    /// Carries out one instruction; false at the end of the structure.
    fn step(&mut self, rest: &mut &[u8]) -> Result<bool, String> {
        let [instruction] = bytes(rest)?;
        match instruction {
            // Protocol number.
            0x80 => skip(rest, 1)?,
            // Integers, a float, a long of up to 255 bytes, a string.
            b'K' => self.leaf(rest, 1)?,
            b'M' => self.leaf(rest, 2)?,
            b'J' => self.leaf(rest, 4)?,
            b'G' => self.leaf(rest, 8)?,
            0x8a => {
                let [length] = bytes(rest)?;
                self.leaf(rest, usize::from(length))?;
            }
            b'X' => {
                let length = u32::from_le_bytes(bytes(rest)?);
                self.leaf(rest, length as usize)?;
            }
            // The name of a class, on two lines.
            b'c' => {
                line(rest)?;
                line(rest)?;
                self.push(LEAF)?;
            }
            // True, false, None, and empty tuple, list and dictionary.
            // candle takes "dictionary from the mark on" (d) for an empty one too.
            0x88 | 0x89 | b'N' | b')' | b']' | b'}' | b'd' => self.push(LEAF)?,
            b'(' => {
                self.make(1)?;
                self.stack.push(Slot::Mark);
            }
            // Tuples, from the mark on or of one to three.
            b't' => {
                let parts = self.pop_to_mark()?;
                self.join(&parts)?;
            }
            0x85 => self.join_last(1)?,
            0x86 => self.join_last(2)?,
            0x87 => self.join_last(3)?,
            // A reference, calls, states: one or two objects in a new one.
            b'Q' => self.join_last(1)?,
            b'R' | b'b' | 0x81 => self.join_last(2)?,
            // Into the list or dictionary below.
            b'a' => {
                let value = self.pop()?;
                self.insert(&[value])?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[value, key])?;
            }
            b'e' | b'u' => {
                let parts = self.pop_to_mark()?;
                self.insert(&parts)?;
            }
            // Out of the memo and into it: both copy.
            b'h' => {
                let [id] = bytes(rest)?;
                self.recall(u32::from(id))?;
            }
            b'j' => {
                let id = u32::from_le_bytes(bytes(rest)?);
                self.recall(id)?;
            }
            b'q' => {
                let [id] = bytes(rest)?;
                self.remember(u32::from(id))?;
            }
            b'r' => {
                let id = u32::from_le_bytes(bytes(rest)?);
                self.remember(id)?;
            }
            b'.' => return Ok(false),
            other => return Err(format!("instruction {other:#04x} is not one of a state dictionary")),
        }
        Ok(true)
    }

    fn leaf(&mut self, rest: &mut &[u8], length: usize) -> Result<(), String> {
        skip(rest, length)?;
        self.push(LEAF)
    }

    fn make(&mut self, objects: u64) -> Result<(), String> {
        self.made = self.made.saturating_add(objects);
        if OBJECTS_MAX < self.made { Err(format!("it makes more than {OBJECTS_MAX} objects")) } else { Ok(()) }
    }

    fn push(&mut self, cost: Cost) -> Result<(), String> {
        if DEPTH_MAX < cost.depth {
            return Err(format!("its objects are nested deeper than {DEPTH_MAX}"));
        }
        self.make(1)?;
        self.stack.push(Slot::Object(cost));
        Ok(())
    }

    fn pop(&mut self) -> Result<Cost, String> {
        match self.stack.pop() {
            Some(Slot::Object(cost)) => Ok(cost),
            // To the parser a mark is an object like any other.
            Some(Slot::Mark) => Ok(LEAF),
            None => Err("it takes an object from an empty stack".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Cost>, String> {
        let mut parts = Vec::new();
        loop {
            match self.stack.pop() {
                Some(Slot::Object(cost)) => parts.push(cost),
                Some(Slot::Mark) => return Ok(parts),
                None => return Err("a mark is missing".to_owned()),
            }
        }
    }

    fn join_last(&mut self, count: usize) -> Result<(), String> {
        let parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        self.join(&parts)
    }

    /// One new object that holds all of `parts`.
    fn join(&mut self, parts: &[Cost]) -> Result<(), String> {
        self.push(LEAF.with(parts))
    }

    /// `parts` into the object that is last on the stack.
    fn insert(&mut self, parts: &[Cost]) -> Result<(), String> {
        let holder = self.pop()?;
        self.push(holder.with(parts))
    }

    fn recall(&mut self, id: u32) -> Result<(), String> {
        let Some(cost) = self.memo.get(&id).copied() else {
            return Err(format!("it takes object {id} from the memo, which is not there"));
        };
        self.make(cost.objects)?;
        self.push(cost)
    }

    fn remember(&mut self, id: u32) -> Result<(), String> {
        let cost = self.pop()?;
        self.stack.push(Slot::Object(cost));
        self.make(cost.objects)?;
        self.memo.insert(id, cost);
        Ok(())
    }
}

fn bytes<const COUNT: usize>(rest: &mut &[u8]) -> Result<[u8; COUNT], String> {
    let mut found = [0; COUNT];
    rest.read_exact(&mut found).map_err(|_: io::Error| ended())?;
    Ok(found)
}

fn skip(rest: &mut &[u8], count: usize) -> Result<(), String> {
    *rest = rest.get(count..).ok_or_else(ended)?;
    Ok(())
}

fn line(rest: &mut &[u8]) -> Result<(), String> {
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(ended)?;
    skip(rest, end + 1)
}

fn ended() -> String {
    "the structure ends early".to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check, check_file};

    #[test]
    fn a_state_dictionary_passes() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gte-zh/pytorch_model.bin");
        check_file(&fixture).unwrap();
    }

    #[test]
    fn objects_that_double_each_time_are_refused() {
        // An empty tuple into the memo; then a pair of two copies of it, again and again.
        let mut bomb = vec![0x80, 2, b')', b'q', 0];
        for _ in 0..40 {
            bomb.extend([b'h', 0, b'h', 0, 0x86, b'q', 0]);
        }
        bomb.push(b'.');
        assert!(check(&bomb).unwrap_err().contains("objects"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut deep = vec![b')'];
        deep.extend([0x85; 1000]);
        deep.push(b'.');
        assert!(check(&deep).unwrap_err().contains("nested deeper"));
        // Many entries of one dictionary are not deep.
        let mut wide = vec![b'}'];
        wide.extend(b"K\x01N".iter().chain(b"s").copied().collect::<Vec<_>>().repeat(1000));
        wide.push(b'.');
        check(&wide).unwrap();
        let mut shallow = vec![b')'];
        shallow.extend([0x85; 60]);
        shallow.push(b'.');
        check(&shallow).unwrap();
    }

    #[test]
    fn a_structure_that_is_cut_off_or_unknown_is_refused() {
        for (structure, words) in [
            (&b""[..], "ends early"),
            (b"X\xFF\xFF\xFF\xFFabc", "ends early"),
            (b"cname", "ends early"),
            (b"\x85.", "empty stack"),
            (b"t.", "mark is missing"),
            (b"h\x07.", "not there"),
            (b"i.", "instruction 0x69"),
        ] {
            let refused = check(structure).unwrap_err();
            assert!(refused.contains(words), "{structure:?}: {refused}");
        }
    }
}
