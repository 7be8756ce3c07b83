//! Reads the audio records of one epoch from a sealed segment, at the places that its index says.
//! Nothing else is read, except for the rest of the disk's blocks that the records are in.
//!
//! Records that touch, or lie in the same block of the disk, are read at once. Each record is
//! checked: it must be the epoch's, and whole. Its index was made when it was. So a bad one is
//! damage.

#![forbid(unsafe_code)]

use crate::archive::index::places::{Cursor, RecordPlace, RecordPlaces};
use crate::archive::scan::{Corruption, Damage, check};
use crate::archive::source::{SegmentFile, Source, is_of_medium};
use crate::call::{Epoch, Seq};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::{FormatError, HEADER_SIZE, RecordHeader, RecordKind};
use crate::io::memory::Region;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;

/// Most bytes of a read, unless one record needs more.
const READ_SIZE_MAX: u64 = 128 * 1024;

/// A piece of a frame.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) header: RecordHeader,
    pub(super) payload: Vec<u8>,
}

/// Reads a segment at places.
#[derive(Debug)]
pub(super) struct Placed {
    file: SegmentFile,
    /// Reads start and end on multiples of this.
    alignment: u64,
    memory: Region,
    places: RecordPlaces,
    cursor: Cursor,
    damages: Vec<Damage>,
    bytes_read: u64,
}

impl Placed {
    /// Reads nothing yet. The error is that of allocating memory, or of asking for the alignment.
    pub(super) fn new(file: SegmentFile, places: RecordPlaces) -> io::Result<Placed> {
        let alignment = file.read_alignment()?;
        // What an index says is believed only as far as a batch can go.
        let sizes = places.iter().map(|place| size_of(&aligned(place, alignment)));
        let most = (BATCH_SIZE_MAX + 2 * BLOCK_SIZE) as u64;
        let all: u64 = places.iter().map(|place| place.size + 2 * alignment).sum();
        let size = sizes.max().unwrap_or(0).clamp(READ_SIZE_MAX.min(all), most);
        let size = size.max(alignment).next_multiple_of(BLOCK_SIZE as u64);
        Ok(Placed {
            file,
            alignment,
            memory: Region::allocate(size as usize)?,
            places,
            cursor: Cursor::default(),
            damages: Vec::new(),
            bytes_read: 0,
        })
    }

    /// The segment, for a reader of what comes after.
    pub(super) fn into_file(self) -> SegmentFile {
        self.file
    }

    pub(super) fn damages(&self) -> &[Damage] {
        &self.damages
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads the next records and adds those that are sound to `chunks`. `false`: there are none
    /// left. An error comes from the disk, if it is gone: what it cannot read is damage.
    pub(super) fn read(
        &mut self,
        ours: (u64, Epoch),
        chunks: &mut VecDeque<Chunk>,
    ) -> io::Result<bool> {
        let (group, range) = self.next_group();
        if group.is_empty() {
            return Ok(false);
        }
        match self.fetch(range.clone()) {
            Ok(filled) => {
                for place in group {
                    self.take(place, range.start, filled, ours, chunks);
                }
            }
            Err(error) if is_of_medium(&error) => self.read_each(&group, ours, chunks)?,
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Reads records one by one: a block that cannot be read costs only the records in it.
    fn read_each(
        &mut self,
        group: &[RecordPlace],
        ours: (u64, Epoch),
        chunks: &mut VecDeque<Chunk>,
    ) -> io::Result<()> {
        for place in group {
            let range = aligned(*place, self.alignment);
            match self.fetch(range.clone()) {
                Ok(filled) => self.take(*place, range.start, filled, ours, chunks),
                Err(error) if is_of_medium(&error) => {
                    let what = Corruption::Unreadable { size: place.size };
                    self.damages.push(Damage { offset: place.offset, what });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next records that lie together, and the bytes of the file to read for them.
    fn next_group(&mut self) -> (Vec<RecordPlace>, Range<u64>) {
        let (alignment, room) = (self.alignment, self.memory.len() as u64);
        let mut rest = self.places.cursor_at(self.cursor);
        let (mut group, mut range) = (Vec::new(), 0..0);
        loop {
            let before = self.places.cursor_of(&rest);
            let Some(place) = rest.next() else {
                self.cursor = before;
                return (group, range);
            };
            let next = aligned(place, alignment);
            let is_first = group.is_empty();
            let joins = next.start <= range.end && next.end - range.start <= room;
            if !is_first && !joins {
                self.cursor = before;
                return (group, range);
            }
            if is_first {
                range.start = next.start;
            }
            range.end = next.end.min(range.start + room);
            group.push(place);
        }
    }

    /// Reads bytes of the file to the start of the memory. Returns how many there are.
    fn fetch(&mut self, range: Range<u64>) -> io::Result<usize> {
        let (wanted, mut filled) = (size_of(&range) as usize, 0);
        while filled < wanted {
            let into = &mut self.memory[filled..wanted];
            let read = self.file.read_at(range.start + filled as u64, into)?;
            self.bytes_read += read as u64;
            filled += read;
            if read == 0 || !filled.is_multiple_of(self.alignment as usize) {
                break;
            }
        }
        Ok(filled)
    }

    /// Takes a record from the memory, which holds `filled` bytes of the file from `start` on.
    fn take(
        &mut self,
        place: RecordPlace,
        start: u64,
        filled: usize,
        ours: (u64, Epoch),
        chunks: &mut VecDeque<Chunk>,
    ) {
        let at = (place.offset - start) as usize;
        match record(&self.memory[..filled], at, place.size, ours) {
            Ok((header, payload)) => chunks.push_back(Chunk { header, payload: payload.to_vec() }),
            Err((seq, fault)) => {
                let (call, epoch) = ours;
                let what = match seq {
                    Some(seq) => Corruption::Payload { call, epoch, seq, fault },
                    None => Corruption::Records(fault),
                };
                self.damages.push(Damage { offset: place.offset, what });
            }
        }
    }
}

/// The frame of a bad record, if its header is sound, and what is wrong.
type RecordFault = (Option<Seq>, FormatError);

/// The record at `at`, if it is whole and one of the epoch.
fn record(
    bytes: &[u8],
    at: usize,
    size: u64,
    (call, epoch): (u64, Epoch),
) -> Result<(RecordHeader, &[u8]), RecordFault> {
    let rest = bytes.get(at..).unwrap_or_default();
    let encoded = rest.first_chunk::<HEADER_SIZE>().ok_or((None, FormatError::Truncated))?;
    let header = RecordHeader::decode(encoded).map_err(|fault| (None, fault))?;
    let is_ours = (header.call, header.epoch) == (call, epoch);
    if !is_ours || header.kind != RecordKind::Audio || header.record_size() as u64 != size {
        return Err((None, FormatError::Batch));
    }
    check(bytes, at, &header).map_err(|fault| (Some(header.seq), fault))?;
    let payload = rest.get(HEADER_SIZE..HEADER_SIZE + header.length as usize);
    Ok((header, payload.ok_or((Some(header.seq), FormatError::Truncated))?))
}

/// The bytes of the file that must be read for a record.
fn aligned(place: RecordPlace, alignment: u64) -> Range<u64> {
    let end = place.offset.saturating_add(place.size);
    place.offset - place.offset % alignment
        ..end.checked_next_multiple_of(alignment).unwrap_or(end - end % alignment)
}

fn size_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
mod tests {
    use crate::archive::image::{self, Image};
    use crate::archive::index::SegmentIndex;
    use crate::archive::layout::{index_path, segment_path};
    use crate::archive::reader::{CallEpoch, Journal};
    use crate::call::CallIdentity;
    use crate::constants::BLOCK_SIZE;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};

    const CALLS: u64 = 40;
    const FRAMES: u64 = 24;

    fn audio(call: u64, seq: u64, size: usize) -> Vec<u8> {
        (0..size).map(|at| (call * 7 + seq * 13) as u8 ^ at as u8).collect()
    }

    fn identity(call: u64) -> CallIdentity {
        CallIdentity { tenant: "acme".into(), interaction: format!("call-{call}").into() }
    }

    /// Calls at the same time, whose frames come in turn, over a few segments with indexes.
    fn sample(data_dir: &Path, call_count: u64, size: usize) -> PathBuf {
        let mut image = Image::new(image::run(1), 0, 4 * 1024 * 1024).unwrap();
        let calls: Vec<_> = (0..call_count)
            .map(|call| image.start("acme", &format!("call-{call}"), 8_000))
            .collect();
        for seq in 1..=FRAMES {
            for (call, epoch) in calls.iter().enumerate() {
                image.frame(*epoch, &audio(call as u64, seq, size));
            }
            if seq.is_multiple_of(8) {
                image.seal();
                image.roll();
            }
        }
        calls.iter().for_each(|call| image.end(*call, 1));
        image.seal();
        let shard_dir = image.store(data_dir).unwrap();
        std::fs::write(data_dir.join("boot"), "1\na\n").unwrap();
        let journal = Journal::open(data_dir).unwrap();
        for position in 0..journal.shards()[0].segment_count() {
            journal.shards()[0].index(position).unwrap();
        }
        shard_dir
    }

    fn found(data_dir: &Path, call: u64) -> (Journal, CallEpoch) {
        let journal = Journal::open(data_dir).unwrap();
        let mut found = journal.find(&identity(call)).unwrap().unwrap();
        (journal, found.epochs.remove(0))
    }

    /// The frames of a call that can be read, the damages, and the bytes that were read.
    fn read(data_dir: &Path, call: u64, size: usize) -> (Vec<u64>, Vec<String>, u64) {
        let (journal, call_epoch) = found(data_dir, call);
        let (mut frames, mut seqs) = (journal.frames(&call_epoch), Vec::new());
        while let Some(frame) = frames.next_frame().unwrap() {
            assert!(frame.audio == audio(call, frame.seq.0, size), "frame {}", frame.seq.0);
            seqs.push(frame.seq.0);
        }
        let damages = frames.damages().iter().map(|(_, damage)| damage.to_string()).collect();
        (seqs, damages, frames.stats().bytes_read)
    }

    /// Reads calls of a journal with so many at the same time. A lookup of a segment's index takes
    /// its header, a block of the table, the entry and the places; there are two for each segment.
    fn cost_of_calls(call_count: u64, size: usize) {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path(), call_count, size);
        for call in [0, call_count / 2, call_count - 1] {
            let (seqs, damages, bytes_read) = read(dir.path(), call, size);
            assert!(seqs.into_iter().eq(1..=FRAMES) && damages.is_empty(), "{damages:?}");
            let (_, call_epoch) = found(dir.path(), call);
            let (own, indexes) = (FRAMES * size as u64, call_epoch.parts.len() as u64 * 24 * 1024);
            println!("{call_count} calls, frames of {size}: {bytes_read} read for {own}");
            // Smaller frames share their block with those of other calls. How large a block is
            // depends on the disk.
            let is_of_blocks = size >= BLOCK_SIZE;
            assert!(!is_of_blocks || bytes_read <= 2 * own + indexes, "{bytes_read} for {own}");
        }
    }

    #[test]
    fn a_call_among_many_costs_little_more_than_its_own_bytes() {
        let number = std::env::var("EXO_INGEST_CALLS").ok().and_then(|text| text.parse().ok());
        cost_of_calls(number.unwrap_or(CALLS), 9_600);
    }

    #[test]
    fn frames_smaller_than_a_block_are_read_too_and_neighbours_at_once() {
        for size in [0, 1, 320, 4_096, 70_000] {
            let dir = tempfile::tempdir().unwrap();
            sample(dir.path(), CALLS, size);
            let (seqs, damages, _) = read(dir.path(), 5, size);
            assert!(seqs.into_iter().eq(1..=FRAMES) && damages.is_empty(), "{size}: {damages:?}");
        }
    }

    #[test]
    fn a_record_that_changed_since_is_named_and_costs_its_own_frame() {
        let dir = tempfile::tempdir().unwrap();
        let (size, call) = (500, 9);
        let shard_dir = sample(dir.path(), CALLS, size);
        let journal = Journal::open(dir.path()).unwrap();
        let index = journal.shards()[0].stored_index(1).unwrap();
        let number = identity(call).key().record_number();
        let ours = index.epochs.iter().find(|call_epoch| call_epoch.call == number).unwrap();
        let places: Vec<_> = ours.places.as_ref().unwrap().iter().collect();
        assert_eq!(places.len(), 8);
        let path = segment_path(&shard_dir, 2);
        let file = std::fs::File::options().write(true).read(true).open(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in [0, 4, 12, 13, 20, 60, 64, 64 + 499, 64 + 500, 64 + 511] {
            let offset = places[3].offset + at;
            file.write_all_at(&[good[offset as usize] ^ 0x11], offset).unwrap();
            let (seqs, damages, _) = read(dir.path(), call, size);
            assert!(seqs.into_iter().eq((1..=FRAMES).filter(|seq| *seq != 12)), "byte {at}");
            assert_eq!(damages.len(), 1, "byte {at}: {damages:?}");
            assert!(damages[0].starts_with(&format!("at byte {}: ", places[3].offset)));
            file.write_all_at(&good[offset as usize..][..1], offset).unwrap();
        }
        // A file that was cut: the later records are gone.
        file.set_len(places[3].offset + 64).unwrap();
        let (seqs, damages, _) = read(dir.path(), call, size);
        assert!(seqs.into_iter().eq((1..=11).chain(17..=FRAMES)), "{damages:?}");
        assert_eq!(damages.len(), 5);
    }

    #[test]
    fn without_places_or_with_known_damage_the_segment_is_read_from_end_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let (size, call) = (500, 3);
        let shard_dir = sample(dir.path(), CALLS, size);
        let (seqs, _, by_places) = read(dir.path(), call, size);
        assert!(seqs.into_iter().eq(1..=FRAMES));
        let journal = Journal::open(dir.path()).unwrap();
        let index = journal.shards()[0].stored_index(1).unwrap();
        let mut without = index.clone();
        without.epochs.iter_mut().for_each(|call_epoch| call_epoch.places = None);
        let damaged = SegmentIndex { damage_count: 1, ..index.clone() };
        for index in [without, damaged] {
            std::fs::write(index_path(&shard_dir, 2), index.encode()).unwrap();
            let (seqs, damages, bytes_read) = read(dir.path(), call, size);
            assert!(seqs.into_iter().eq(1..=FRAMES) && damages.is_empty());
            assert!(bytes_read > by_places + 100_000, "{bytes_read}, {by_places}");
        }
    }
}
