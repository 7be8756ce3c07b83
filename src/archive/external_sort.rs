//! Sorts more than fits into memory: sorted runs in a file without a name, then a merge of them.
//!
//! ```text
//! add ──► memory, up to SIZE_MAX ──sorted──► run, run, run … ──merge──► in order
//! ```
//! What fits into memory never becomes a file. Keys and values are bytes. Equal keys come out in
//! the order in which they were added. The file is in the system's temporary directory. It has no
//! name, so nothing of it stays if the process is killed.
//!
//! The `extsort` crate would need types that serialize themselves, and writes one named file for
//! each run.

#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Most bytes in memory before they become a run.
const SIZE_MAX: usize = 6 * 1024 * 1024;

/// Bytes of a run that are read at once, and most runs that are merged at once: 4 MiB together.
const READ_SIZE: usize = 64 * 1024;
const MERGE_MAX: usize = 64;

/// Takes keys with values, and gives them back in the order of the keys.
#[derive(Debug)]
pub(crate) struct ExternalSort {
    size_max: usize,
    bytes: Vec<u8>,
    /// Where each item starts in `bytes`.
    items: Vec<usize>,
    spill: Option<Spill>,
}

/// The file with the runs.
#[derive(Debug)]
struct Spill {
    file: Arc<File>,
    end: u64,
    /// Start and end of each run.
    runs: Vec<(u64, u64)>,
}

/// Bytes before the key and value of an item: their sizes, as u32.
const SIZES: usize = 8;

impl Default for ExternalSort {
    fn default() -> Self {
        ExternalSort::with_size(SIZE_MAX)
    }
}

impl ExternalSort {
    /// With at most `size_max` bytes in memory.
    fn with_size(size_max: usize) -> ExternalSort {
        ExternalSort { size_max, bytes: Vec::new(), items: Vec::new(), spill: None }
    }

    /// Adds an item. An error comes from the file.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let size = SIZES + key.len() + value.len();
        let held = self.bytes.len() + self.items.len() * size_of::<usize>();
        if !self.items.is_empty() && held + size > self.size_max {
            self.spill()?;
        }
        self.items.push(self.bytes.len());
        self.bytes.extend((key.len() as u32).to_le_bytes());
        self.bytes.extend((value.len() as u32).to_le_bytes());
        self.bytes.extend(key);
        self.bytes.extend(value);
        Ok(())
    }

    /// All items, sorted. An error comes from the file.
    pub(crate) fn finish(mut self) -> io::Result<Sorted> {
        if self.spill.is_none() {
            self.sort();
            return Ok(Sorted::Memory { bytes: self.bytes, items: self.items.into_iter() });
        }
        self.spill()?;
        let Some(mut spill) = self.spill else { return Ok(Sorted::default()) };
        (self.bytes, self.items) = (Vec::new(), Vec::new());
        while spill.runs.len() > MERGE_MAX {
            spill.merge_first()?;
        }
        let runs = spill.runs.iter();
        let runs = runs.map(|(from, to)| Run::new(&spill.file, *from, *to)).collect();
        Merge::new(runs).map(Sorted::Merge)
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.items.sort_by(|one, other| key(&bytes[*one..]).cmp(key(&bytes[*other..])));
    }

    /// Writes what is in memory as a run.
    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => {
                let file = Arc::new(tempfile::tempfile()?);
                none.insert(Spill { file, end: 0, runs: Vec::new() })
            }
        };
        let mut out = RunWriter::new(spill);
        for item in &self.items {
            out.add(item_at(&self.bytes[*item..]))?;
        }
        out.finish()?;
        self.bytes.clear();
        self.items.clear();
        Ok(())
    }
}

impl Spill {
    /// Merges the first runs to one. The result goes to the front: its items came first.
    fn merge_first(&mut self) -> io::Result<()> {
        let merged: Vec<_> = self.runs.drain(..MERGE_MAX).collect();
        let runs = merged.iter().map(|(from, to)| Run::new(&self.file, *from, *to)).collect();
        let mut merge = Merge::new(runs)?;
        let mut out = RunWriter::new(self);
        while let Some(item) = merge.next_item()? {
            out.add(&item)?;
        }
        out.finish()?;
        self.runs.rotate_right(1);
        Ok(())
    }
}

/// Appends a run to the file.
struct RunWriter<'a> {
    spill: &'a mut Spill,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> RunWriter<'a> {
    fn new(spill: &'a mut Spill) -> Self {
        RunWriter { start: spill.end, spill, bytes: Vec::with_capacity(2 * READ_SIZE) }
    }

    fn add(&mut self, item: &[u8]) -> io::Result<()> {
        self.bytes.extend(item);
        if self.bytes.len() >= READ_SIZE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill.file.write_all_at(&self.bytes, self.spill.end)?;
        self.spill.end += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.spill.runs.push((self.start, self.spill.end));
        Ok(())
    }
}

/// The items in order.
#[derive(Debug)]
pub(crate) enum Sorted {
    /// All of them were in memory.
    Memory {
        /// The items.
        bytes: Vec<u8>,
        /// Where the next ones start.
        items: std::vec::IntoIter<usize>,
    },
    /// They are merged as they are asked for.
    Merge(Merge),
}

impl Default for Sorted {
    fn default() -> Self {
        Sorted::Memory { bytes: Vec::new(), items: Vec::new().into_iter() }
    }
}

impl Sorted {
    /// The next key and value. An error comes from the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let item = match self {
            Sorted::Memory { bytes, items } => {
                items.next().map(|at| item_at(&bytes[at..]).to_vec())
            }
            Sorted::Merge(merge) => merge.next_item()?,
        };
        Ok(item.map(|item| (key(&item).to_vec(), item[SIZES + key(&item).len()..].to_vec())))
    }
}

/// Merges runs.
#[derive(Debug)]
pub(crate) struct Merge {
    runs: Vec<Run>,
    heads: BinaryHeap<Reverse<Head>>,
}

/// The next item of a run.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    item: Vec<u8>,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        key(&self.item).cmp(key(&other.item)).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Merge {
    fn new(mut runs: Vec<Run>) -> io::Result<Merge> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (run, source) in runs.iter_mut().enumerate() {
            heads.extend(source.next()?.map(|item| Reverse(Head { item, run })));
        }
        Ok(Merge { runs, heads })
    }

    fn next_item(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(Reverse(Head { item, run })) = self.heads.pop() else { return Ok(None) };
        self.heads.extend(self.runs[run].next()?.map(|item| Reverse(Head { item, run })));
        Ok(Some(item))
    }
}

/// Reads a run.
#[derive(Debug)]
struct Run {
    file: Arc<File>,
    at: u64,
    end: u64,
    bytes: Vec<u8>,
    /// Bytes that were given.
    taken: usize,
}

impl Run {
    fn new(file: &Arc<File>, at: u64, end: u64) -> Run {
        Run { file: Arc::clone(file), at, end, bytes: Vec::new(), taken: 0 }
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let held = self.fill(SIZES)?;
        if held == 0 {
            return Ok(None);
        }
        let sizes = &self.bytes[self.taken..];
        let size = SIZES + word(sizes, 0) + word(sizes, 4);
        if held < SIZES || self.fill(size)? < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let item = self.bytes[self.taken..self.taken + size].to_vec();
        self.taken += size;
        Ok(Some(item))
    }

    /// Makes `size` bytes available, if there are so many. Returns how many are.
    fn fill(&mut self, size: usize) -> io::Result<usize> {
        let held = self.bytes.len() - self.taken;
        if held >= size || self.at == self.end {
            return Ok(held);
        }
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let wanted = (self.end - self.at).min(READ_SIZE.max(size - held) as u64) as usize;
        self.bytes.resize(held + wanted, 0);
        self.file.read_exact_at(&mut self.bytes[held..], self.at)?;
        self.at += wanted as u64;
        Ok(self.bytes.len())
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word) as usize)
}

/// The key of the item at the start of `bytes`.
fn key(bytes: &[u8]) -> &[u8] {
    &bytes[SIZES..SIZES + word(bytes, 0)]
}

/// The item at the start of `bytes`.
fn item_at(bytes: &[u8]) -> &[u8] {
    &bytes[..SIZES + word(bytes, 0) + word(bytes, 4)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A key and its value.
    type Item = (Vec<u8>, Vec<u8>);

    fn sorted(size_max: usize, items: &[Item]) -> (Vec<Item>, bool) {
        let mut sort = ExternalSort::with_size(size_max);
        for (key, value) in items {
            sort.add(key, value).unwrap();
        }
        let mut found = Vec::new();
        let mut sorted = sort.finish().unwrap();
        let is_merged = matches!(sorted, Sorted::Merge(_));
        while let Some(item) = sorted.next().unwrap() {
            found.push(item);
        }
        (found, is_merged)
    }

    proptest! {
        #[test]
        fn it_sorts_as_a_list_does(
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..5), 0..300),
            size_max in 1usize..5_000,
        ) {
            let items: Vec<_> = keys
                .into_iter()
                .enumerate()
                .map(|(at, key)| (key, vec![at as u8; at % 90]))
                .collect();
            let mut expected = items.clone();
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            let (found, _) = sorted(size_max, &items);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn many_runs_are_merged_a_few_at_a_time() {
        let key = |at: u64| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec();
        let items: Vec<_> = (0..20_000).map(|at| (key(at), at.to_le_bytes().to_vec())).collect();
        let mut expected = items.clone();
        expected.sort();
        let (found, is_merged) = sorted(4_000, &items);
        assert!(found == expected && is_merged);
        let (found, is_merged) = sorted(SIZE_MAX, &items);
        assert!(found == expected && !is_merged);
    }

    #[test]
    fn an_item_larger_than_the_memory_passes() {
        let items = [(b"b".to_vec(), vec![1; 500_000]), (b"a".to_vec(), vec![2; 300_000])];
        let (found, _) = sorted(1, &items);
        assert!(found == [items[1].clone(), items[0].clone()]);
    }
}
