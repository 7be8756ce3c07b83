//! The live index: what a node has written so far of the index of a segment that it is writing. So
//! a reader of a live call need not read the audio of all others. It lies beside the segment, and
//! is removed once the segment has its index.
//!
//! Nothing depends on it. It covers a part of the segment from the start on: whole batches, all of
//! them durable. What comes after that is read from the segment. A reader uses it only while the
//! node holds the segment, and checks each record that it names.
//!
//! ```text
//! ┌────────┬─────────────────────────────┬─────────────────────────────┬─────
//! │ header │ places, entries, table      │ places, entries, table      │ …      appended only
//! │ 4,096  │ of the first step           │ of the second step          │
//! └────────┴─────────────────────────────┴─────────────────────────────┴─────
//! ```
//! - The header is that of an index, with its own magic. Its `entries_size` is the offset of the
//!   last table, and its `places_size` is where the file ends. It is written last in each step,
//!   over the one before. A reader that finds it half written looks again.
//! - Places are the 16 bytes that name the epoch's places of the step before, or zeros, and then
//!   the new ones. So a follower reads only what is new to it.
//! - An entry is that of an index, of everything in the segment so far. Each step has entries of
//!   the epochs that have changed.
//! - The table is that of an index, with all epochs. Its rows name entries by offsets in the file.
//!
//! All checksums but that of the header start from the checksum of the segment's uuid. Nothing is
//! synced: after a power loss the file is not used.
//!
//! Rejected: one file of places in the order of writing, without a table. A follower of one call
//! among 8,000 would read the places of all.

#![forbid(unsafe_code)]

use super::file::PLACES_AT_SIZE;
use super::table::{Block, TableWriter};
use super::{FILE_SIZE_MAX, LIVE_MAGIC, NotedIndex, PlacesAt, ROW_SIZE, SegmentIndex, row, seed};
use crate::archive::layout::live_index_path;
use crate::call::Epoch;
use crate::clock::UnixMicros;
use crate::constants::BLOCK_SIZE;
use crate::format::{Lsn, SegmentUuid};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// About how many bytes an entry takes with its places.
const ENTRY_SIZE: u64 = 256;

/// Appends steps to a live index.
#[derive(Debug)]
pub(crate) struct LiveIndexWriter {
    file: File,
    /// Bytes written.
    size: u64,
    /// What the header says, without epochs.
    head: SegmentIndex,
    /// Where the last entry and the last places of each epoch are, by its position.
    epochs: Vec<Written>,
}

/// What the file holds of an epoch.
#[derive(Clone, Copy, Debug)]
struct Written {
    call: u64,
    epoch: Epoch,
    /// Offset and size of its last entry.
    entry: (u32, u32),
    places: Option<PlacesAt>,
}

impl LiveIndexWriter {
    /// Makes the file of a segment, for this use of the segment's file.
    pub(crate) fn create(
        shard_dir: &Path,
        (run, shard, id): (u64, u16, u64),
        (uuid, start): (SegmentUuid, Lsn),
    ) -> io::Result<LiveIndexWriter> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let options = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(live_index_path(shard_dir, id))?;
        let head = SegmentIndex {
            run,
            shard,
            id,
            uuid,
            start,
            end: 0,
            batches: 0,
            records: 0,
            torn_at: None,
            durable_end: 0,
            bytes_unsynced: 0,
            is_lossy: false,
            damage_count: 0,
            ended_at: UnixMicros(0),
            epochs: Vec::new(),
        };
        Ok(LiveIndexWriter { file, size: BLOCK_SIZE as u64, head, epochs: Vec::new() })
    }

    /// Where the batches end that it covers, bytes in the segment.
    pub(crate) fn end(&self) -> u64 {
        self.head.end
    }

    /// About how many bytes the next step takes.
    pub(crate) fn step_size(noted: &NotedIndex) -> u64 {
        let (changed, all) = (noted.changed_count() as u64, noted.epoch_count() as u64);
        changed * ENTRY_SIZE + all * ROW_SIZE as u64 + 2 * BLOCK_SIZE as u64
    }

    /// Appends what was noted since the last step. After an error the file is of no use any more.
    pub(crate) fn append(&mut self, noted: &mut NotedIndex) -> io::Result<()> {
        let (seed, mut out) = (seed(self.head.uuid), Vec::new());
        for (position, call_epoch) in noted.take_changed() {
            let (call, epoch) = (call_epoch.call, call_epoch.epoch);
            let mut places = self.epochs.get(position).and_then(|written| written.places);
            let new = call_epoch.places.as_ref().ok_or(io::ErrorKind::InvalidData)?;
            if !new.as_bytes().is_empty() {
                let at = out.len();
                out.extend(places.map_or([0; PLACES_AT_SIZE], |before| before.encode()));
                out.extend(new.as_bytes());
                places = Some(PlacesAt::new(self.size as usize + at, &out[at..], seed));
            }
            let at = out.len();
            call_epoch.encode(seed, places, &mut out);
            let entry = (self.size as u32 + at as u32, (out.len() - at) as u32);
            let written = Written { call, epoch, entry, places };
            match self.epochs.get_mut(position) {
                Some(known) => *known = written,
                // Positions count up, in the order in which epochs change for the first time.
                None => self.epochs.push(written),
            }
        }
        out.resize(out.len().next_multiple_of(BLOCK_SIZE), 0);
        let table_at = self.size + out.len() as u64;
        let fences = self.write_table(seed, &mut out);
        let end = self.size + out.len() as u64;
        if end > FILE_SIZE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all_at(&out, self.size)?;
        self.size = end;
        let (batches, records) = noted.counts();
        let head = &mut self.head;
        (head.end, head.durable_end) = (noted.end(), noted.end());
        (head.batches, head.records) = (batches, records);
        let header = head.encode_header(LIVE_MAGIC, self.epochs.len(), &fences, (table_at, end));
        self.file.write_all_at(&header, 0)
    }

    /// Appends the table of all epochs to `out`.
    fn write_table(&self, seed: u32, out: &mut Vec<u8>) -> super::Fences {
        let mut rows: Vec<_> = self.epochs.iter().collect();
        rows.sort_unstable_by_key(|written| (written.call, written.epoch));
        let mut table = TableWriter::<ROW_SIZE>::new(seed);
        let mut add = |block: &Block| -> Result<(), std::convert::Infallible> {
            out.extend(block);
            Ok(())
        };
        for Written { call, epoch, entry: (at, size), .. } in rows {
            let Ok(()) = table.add(&row(*call, *epoch, *at, *size), &mut add);
        }
        let Ok((fences, _)) = table.finish(&mut add);
        fences
    }
}
