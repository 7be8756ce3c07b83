//! What a crash may leave of a scripted shard's files: the log of what happened to them, played up
//! to the cut.

#![forbid(unsafe_code)]

use super::Dice;
use crate::constants::BLOCK_SIZE;
use crate::format::SegmentHeader;
use crate::format::batch::BatchReader;
use crate::io::FileHandle;
use crate::io::scripted::SECTOR_SIZE;
use crate::io::scripted::log::Event;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What ends the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// Of what no sync has covered, anything may be left.
    Power,
    /// Of the process alone: what was written is there; what was under way may be.
    Kill,
}

/// A write, as far as the disk has it.
#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Rc<[u8]>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Under way.
    Pending,
    /// So many bytes were taken. The others may have come to the disk too.
    Taken(usize),
    /// It failed, or a sync that should have covered it did: no later sync makes it durable.
    Doubtful,
    /// As before, of a write that had been taken whole: a process that reads it still finds it.
    Unsynced,
    /// A sync covered it.
    Durable,
}

/// One file, up to the cut.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    size: usize,
    durable: Vec<u8>,
    /// Writes that are not durable as a whole, by number.
    writes: BTreeMap<u64, Write>,
}

/// All files of a shard, up to the cut.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) files: BTreeMap<i32, File>,
    /// Syncs under way: the file, and the writes that each covers.
    syncs: BTreeMap<u64, (FileHandle, Vec<u64>)>,
}

impl Files {
    /// One more event has happened.
    pub(super) fn play(&mut self, event: &Event) {
        match event {
            Event::Created { file, size } => {
                self.files.insert(
                    file.0,
                    File { size: *size, durable: vec![0; *size], writes: BTreeMap::new() },
                );
            }
            Event::Writing { operation, file, offset, bytes } => {
                let write = Write { offset: *offset, bytes: Rc::clone(bytes), fate: Fate::Pending };
                self.file(*file).writes.insert(*operation, write);
            }
            Event::Syncing { operation, file } => {
                let is_covered = |(number, write): (&u64, &Write)| {
                    matches!(write.fate, Fate::Taken(_)).then_some(*number)
                };
                let covered = self.file(*file).writes.iter().filter_map(is_covered).collect();
                self.syncs.insert(*operation, (*file, covered));
            }
            Event::Done { operation, result } => match self.syncs.remove(operation) {
                Some((file, covered)) => self.file(file).synced(&covered, result.is_ok()),
                None => {
                    let fate = result.map_or(Fate::Doubtful, |size| Fate::Taken(size as usize));
                    let mut writes =
                        self.files.values_mut().filter_map(|file| file.writes.get_mut(operation));
                    writes.next().expect("a write that was submitted").fate = fate;
                }
            },
            Event::Told { .. } => {}
        }
    }

    /// Whether a crash leaves nothing to chance.
    pub(super) fn is_sure(&self, crash: Crash) -> bool {
        let is_sure = |write: &Write| match write.fate {
            Fate::Taken(size) => crash == Crash::Kill && size == write.bytes.len(),
            Fate::Unsynced => crash == Crash::Kill,
            Fate::Pending | Fate::Doubtful | Fate::Durable => false,
        };
        self.files.values().flat_map(|file| file.writes.values()).all(is_sure)
    }

    fn file(&mut self, file: FileHandle) -> &mut File {
        self.files.get_mut(&file.0).expect("a file that was created")
    }
}

impl File {
    fn synced(&mut self, covered: &[u64], is_good: bool) {
        for number in covered {
            let Some(write) = self.writes.get_mut(number) else { continue };
            let Fate::Taken(size) = write.fate else { continue };
            write.fate = match is_good {
                true => Fate::Durable,
                false if size == write.bytes.len() => Fate::Unsynced,
                false => Fate::Doubtful,
            };
            if is_good {
                lay(&mut self.durable, write.offset, &write.bytes[..size]);
                if size == write.bytes.len() {
                    self.writes.remove(number);
                }
            }
        }
    }

    /// What is there whatever happens.
    fn sure(&self, crash: Crash) -> Vec<u8> {
        let mut image = self.durable.clone();
        if crash == Crash::Kill {
            for write in self.writes.values() {
                match write.fate {
                    Fate::Taken(size) => lay(&mut image, write.offset, &write.bytes[..size]),
                    Fate::Unsynced => lay(&mut image, write.offset, &write.bytes),
                    Fate::Pending | Fate::Doubtful | Fate::Durable => {}
                }
            }
        }
        image
    }

    /// Where the first batch is that need not be there as a whole: before it nothing may be
    /// called damaged, or torn.
    pub(super) fn sure_end(&self, crash: Crash) -> u64 {
        let image = self.sure(crash);
        // Without a header the places of the batches are unknown.
        let has_header =
            image.first_chunk().is_some_and(|block| SegmentHeader::decode(block).is_ok());
        let mut at = if has_header { BLOCK_SIZE } else { 0 };
        while at > 0
            && let Some(Ok(batch)) = image.get(at..).map(BatchReader::open)
            && batch.clone().all(|record| record.is_ok())
        {
            at += batch.header().size as usize;
        }
        at as u64
    }

    /// What may be left: whatever is sure, and of the rest any sectors, in any order.
    pub(super) fn left(&self, crash: Crash, dice: &mut Dice) -> Vec<u8> {
        let mut image = self.sure(crash);
        let mut rest: Vec<&Write> = self.writes.values().collect();
        for place in (1..rest.len()).rev() {
            rest.swap(place, dice.within(0..place + 1));
        }
        // Disks tend to one way or the other, and torn in the middle is what finds bugs.
        let mood = dice.within(0..6);
        for write in rest {
            let count = write.bytes.len().div_ceil(SECTOR_SIZE);
            let (from, to, odds) = match (mood, dice.within(0..5)) {
                (0, _) | (5, 0) => continue,
                (1, _) | (5, 1) => (0, count, 1),
                (2, _) | (5, 2) => (0, dice.within(0..count + 1), 1),
                (3, _) | (5, 3) => (dice.within(0..count + 1), count, 1),
                _ => (0, count, 2),
            };
            for (index, sector) in write.bytes.chunks(SECTOR_SIZE).enumerate() {
                if (from..to).contains(&index) && dice.once_in(odds) {
                    lay(&mut image, write.offset + index * SECTOR_SIZE, sector);
                }
            }
        }
        // Beyond what is allocated a file grows with a write, and the length alone may have come to
        // the disk.
        let end =
            self.writes.values().map(|write| write.offset + write.bytes.len()).max().unwrap_or(0);
        if image.len() < end && dice.once_in(2) {
            image.resize(end, 0);
        }
        assert!(image.len() >= self.size);
        image
    }
}

/// Puts bytes into an image, which grows where it has to.
fn lay(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}
