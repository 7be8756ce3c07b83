//! Reads one segment, batch by batch, and trusts none of its bytes.
//!
//! A bad batch has one of three reasons. The batches after it tell which:
//! - A later sound batch of the same segment says that the bad one was durable. Then the medium or
//!   a person damaged bytes that were whole: this is *damage*, and it is named.
//! - A later sound batch does not say so. Then the disk wrote them in another order, and power
//!   failed before a sync: the batch was *not durable*, and is counted.
//! - There is no later sound batch. Then the writer was interrupted: this is a *torn tail*.
//!
//! Bytes that the disk cannot read are damage in all three cases.
//!
//! The last two hold nothing that was promised as durable, unless the next segment says that this
//! one was longer. The scan continues after all three, and keeps records in them that are sound by
//! themselves. In a live segment, bad bytes that were not durable are still being written: the scan
//! ends there. See [what was
//! durable](crate::format#what-was-durable-and-what-a-power-loss-may-have-taken).

#![forbid(unsafe_code)]

use super::record_search::{Defect, Entry, search, walk};
use super::source::{Source, Window};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::{
    BatchHeader, FormatError, HEADER_SIZE, Lsn, RecordHeader, RecordKind, SegmentHeader,
    SegmentUuid,
};
use damage::{Suspect, Suspects};
use place::{infer, is_remnant};
use std::io;

mod damage;
mod options;
mod piece;
mod place;
#[cfg(test)]
mod tests;

pub(crate) use damage::{Corruption, Damage};
pub use options::{Advance, Found, ScanOptions, ScanStats, Unread};
pub use piece::Piece;
pub use place::Place;

/// A scan over one segment. Call [`SegmentScan::advance`], then read the records, until the end.
#[derive(Debug)]
pub struct SegmentScan<S> {
    window: Window<S>,
    place: Place,
    options: ScanOptions,
    uuid: SegmentUuid,
    start: Lsn,
    header: Option<SegmentHeader>,
    /// Where the next batch must start, offset in the file.
    offset: u64,
    /// Where the records below are, offset in the file.
    base: u64,
    entries: Vec<Entry>,
    defects: Vec<Defect>,
    /// Faults; it is not known yet whether a sound batch follows them.
    pending: Vec<Suspect>,
    /// Faults; it is not known yet whether their bytes were durable.
    undecided: Suspects,
    damages: Vec<Damage>,
    /// The number of bytes at the start that are known to have been durable.
    durable_end: u64,
    torn_at: Option<u64>,
    /// The stretch before the next batch is named as damage.
    has_crossed: bool,
    /// The end was found, and the records there were taken.
    is_finished: bool,
    /// What the end means was decided.
    is_over: bool,
    stats: ScanStats,
}

impl<S: Source> SegmentScan<S> {
    /// Reads the header. An error comes from the source.
    pub fn open(
        source: S,
        place: Place,
        options: ScanOptions,
    ) -> io::Result<Result<SegmentScan<S>, Unread>> {
        let mut window = Window::new(source)?;
        // A prepared segment has nothing after its header.
        window.read_exactly();
        let bytes = window.bytes(0, BLOCK_SIZE)?;
        let is_blank = bytes.iter().all(|byte| *byte == 0);
        let decoded = match bytes.first_chunk::<BLOCK_SIZE>() {
            Some(block) => SegmentHeader::decode(block),
            None => Err(FormatError::Truncated),
        };
        if options.follows || is_blank {
            window.read_little();
        } else {
            window.read_much();
        }
        let mut damages = Vec::new();
        let is_unreadable = window.is_unreadable(0..BLOCK_SIZE as u64);
        let decoded = if is_unreadable { Err(FormatError::Unreadable) } else { decoded };
        let (uuid, start, undecided) = match decoded {
            Ok(header)
                if (header.run, header.shard, header.id)
                    != (place.run.number(), place.shard, place.id) =>
            {
                return Ok(Err(Unread::Unbegun));
            }
            Ok(header) => (header.uuid, header.start, Suspects::default()),
            Err(fault) => match infer(&mut window, &place, is_blank)? {
                Some((uuid, start)) if is_unreadable => {
                    damages.push(Damage { offset: 0, what: Corruption::SegmentHeader(fault) });
                    (uuid, start, Suspects::default())
                }
                Some((uuid, start)) => (uuid, start, Suspects::of_header(fault)),
                None if is_blank => return Ok(Err(Unread::Unbegun)),
                None => return Ok(Err(Unread::Lost(fault))),
            },
        };
        Ok(Ok(SegmentScan {
            window,
            place,
            options,
            uuid,
            start,
            header: decoded.ok(),
            offset: BLOCK_SIZE as u64,
            base: 0,
            entries: Vec::new(),
            defects: Vec::new(),
            pending: Vec::new(),
            undecided,
            damages,
            durable_end: 0,
            torn_at: None,
            has_crossed: false,
            is_finished: false,
            is_over: false,
            stats: ScanStats::default(),
        }))
    }

    /// Moves to the next batch. An error comes from the source.
    pub fn advance(&mut self) -> io::Result<Advance> {
        self.entries.clear();
        if self.is_finished {
            if !std::mem::replace(&mut self.is_over, true) {
                self.tear();
            }
            return Ok(Advance::End);
        }
        let mut is_second_look = false;
        loop {
            let offset = self.offset;
            let fault = match self.batch_at(offset)? {
                Ok(batch) => {
                    self.take(&batch)?;
                    return Ok(Advance::Batch);
                }
                Err(fault) => fault,
            };
            if self.options.is_live && !is_second_look {
                self.window.forget();
                is_second_look = true;
                continue;
            }
            let waits = self.options.is_live && self.options.follows;
            if waits && fault != FormatError::Unreadable {
                self.window.forget();
                return Ok(Advance::Pending);
            }
            let Some(next) = self.find_batch(offset + BLOCK_SIZE as u64)? else {
                if waits {
                    self.window.forget();
                    return Ok(Advance::Pending);
                }
                return self.finish(fault);
            };
            if self.options.is_live {
                // The batch may have been written since it was read.
                self.window.forget();
                if self.batch_at(offset)?.is_ok() {
                    continue;
                }
                if !self.was_durable(offset, next)? {
                    if waits {
                        return Ok(Advance::Pending);
                    }
                    // Several writes are under way and may end in any order: this is the end so
                    // far.
                    (self.is_finished, self.is_over) = (true, true);
                    self.tear();
                    return Ok(Advance::End);
                }
            }
            self.cross(next, fault)?;
            return Ok(Advance::Batch);
        }
    }

    /// The batch header at `offset`, if it belongs to this segment and position, and the whole
    /// batch is there.
    fn batch_at(&mut self, offset: u64) -> io::Result<Result<BatchHeader, FormatError>> {
        let size_left = self.window.source().size().saturating_sub(offset);
        let bytes = self.window.bytes(offset, BLOCK_SIZE)?;
        let Some(first) = bytes.first_chunk() else { return Ok(Err(FormatError::Truncated)) };
        let batch = match BatchHeader::decode(first) {
            Ok(batch) => batch,
            Err(fault) => return Ok(Err(self.fault(offset, BLOCK_SIZE, fault))),
        };
        let expected = Lsn(self.start.0.wrapping_add(offset));
        let last = self.stats.last_batch;
        if batch.segment != self.uuid || batch.lsn != expected || (last > 0 && batch.number <= last)
        {
            return Ok(Err(FormatError::Batch));
        }
        if self.options.is_live
            && (u64::from(batch.size) > size_left || !self.is_whole(offset, &batch)?)
        {
            return Ok(Err(FormatError::Truncated));
        }
        Ok(Ok(batch))
    }

    /// The fault of bytes in the window: the disk's, if it cannot read them.
    fn fault(&self, offset: u64, size: usize, fault: FormatError) -> FormatError {
        match self.window.is_unreadable(offset..offset + size as u64) {
            true => FormatError::Unreadable,
            false => fault,
        }
    }

    /// Takes in a fault in the bytes of `batch`. Later bytes tell what it is, unless the disk
    /// cannot read it.
    fn suspect(&mut self, damage: Damage, batch: std::ops::Range<u64>) {
        if !damage.what.is_unreadable() {
            self.pending.push(Suspect { damage, batch });
        } else if self.end_offset().is_none_or(|end| damage.offset < end) {
            self.damages.push(damage);
        }
    }

    /// Whether a live segment's batch has been written completely. Its header may arrive before its
    /// records.
    fn is_whole(&mut self, offset: u64, batch: &BatchHeader) -> io::Result<bool> {
        let bytes = self.window.bytes(offset, batch.size as usize)?;
        let Ok(reader) = crate::format::batch::BatchReader::open(bytes) else { return Ok(false) };
        Ok(reader.into_iter().all(|record| record.is_ok()))
    }

    /// The next batch of this segment at or after `from`. Does not search after the end that the
    /// next segment states.
    fn find_batch(&mut self, from: u64) -> io::Result<Option<u64>> {
        let size = self.window.source().size();
        let limit = self.end_offset().map_or(size, |end| end.min(size));
        let mut offset = from;
        while offset < limit {
            if self.batch_at(offset)?.is_ok() {
                return Ok(Some(offset));
            }
            offset += BLOCK_SIZE as u64;
        }
        Ok(None)
    }

    /// Whether the bytes at `offset` were durable, as the batches from `from` on say.
    fn was_durable(&mut self, offset: u64, from: u64) -> io::Result<bool> {
        let mut next = Some(from);
        while let Some(at) = next {
            let size = match self.batch_at(at)? {
                Ok(batch) if batch.unsynced.durable_end(at).is_some_and(|end| end > offset) => {
                    return Ok(true);
                }
                Ok(batch) => u64::from(batch.size),
                // A writer changed it meanwhile.
                Err(_) => BLOCK_SIZE as u64,
            };
            next = self.find_batch(at + size)?;
        }
        Ok(offset < self.durable_end())
    }

    /// Where this segment ended, offset in the file, if another one states it.
    fn end_offset(&self) -> Option<u64> {
        // A segment without durable data ended before it began.
        Some(self.place.end?.0.saturating_sub(self.start.0))
    }

    /// The number of bytes at the start that were durable, as far as is known.
    pub fn durable_end(&self) -> u64 {
        self.end_offset().unwrap_or(self.durable_end)
    }

    /// Takes the records of a batch with a sound header.
    fn take(&mut self, batch: &BatchHeader) -> io::Result<()> {
        self.set_durable_end(batch.unsynced.durable_end(self.offset).unwrap_or(0));
        self.settle();
        let last = self.stats.last_batch;
        if last > 0 && batch.number > last + 1 && !std::mem::take(&mut self.has_crossed) {
            let what = Corruption::Skipped { from: last + 1, count: batch.number - last - 1 };
            self.damages.push(Damage { offset: self.offset, what });
        }
        self.stats.batches += 1;
        self.stats.last_batch = batch.number;
        if self.stats.batches == 1 {
            self.stats.sealed_at.0 = batch.sealed_at;
        }
        self.stats.sealed_at.1 = batch.sealed_at;
        if self.stats.first_batch == 0 {
            self.stats.first_batch = batch.number;
        }
        self.base = self.offset;
        self.offset += u64::from(batch.size);
        self.defects.clear();
        let bytes = self.window.bytes(self.base, batch.size as usize)?;
        walk(bytes, batch, &mut self.entries, &mut self.defects);
        if !self.defects.is_empty() {
            self.keep_trusted();
            self.stats.salvaged += self.entries.len() as u64;
            for defect in std::mem::take(&mut self.defects) {
                let offset = self.base + defect.offset as u64;
                let fault = self.fault(offset, HEADER_SIZE, defect.fault);
                let damage = Damage { offset, what: Corruption::Records(fault) };
                self.suspect(damage, self.base..self.offset);
            }
        }
        self.check_payloads();
        Ok(())
    }

    /// Takes the records in a stretch without a sound batch header, up to the batch at `next`.
    fn cross(&mut self, next: u64, fault: FormatError) -> io::Result<()> {
        let number_next = match self.batch_at(next)? {
            Ok(batch) => batch.number,
            // A writer changed it meanwhile: a live segment.
            Err(_) => u64::MAX,
        };
        let damage = Damage {
            offset: self.offset,
            what: Corruption::Batch { size: next - self.offset, fault },
        };
        self.has_crossed = true;
        // Batches of repeated call records, at the start, have number 0.
        let first = if self.stats.last_batch > 0 { self.stats.last_batch + 1 } else { 0 };
        let count = number_next.max(1).saturating_sub(first);
        self.base = self.offset;
        // Take at most the size of a batch at a time. A record that lies in two pieces is lost, or
        // in a batch with a sound header.
        self.offset = next.min(self.base + BATCH_SIZE_MAX as u64);
        self.suspect(damage, self.base..self.offset);
        let size = (self.offset - self.base) as usize;
        let bytes = self.window.bytes(self.base, size)?;
        search(
            bytes,
            |number| u64::from(number.wrapping_sub(first as u32)) < count,
            &mut self.entries,
        );
        self.keep_trusted();
        self.stats.salvaged += self.entries.len() as u64;
        self.check_payloads();
        Ok(())
    }

    /// Handles the end of the sound bytes: tells a clean end from a torn one.
    fn finish(&mut self, fault: FormatError) -> io::Result<Advance> {
        self.base = self.offset;
        self.is_finished = true;
        let durable_end = self.durable_end();
        // Bytes that were durable are not a torn tail, whether or not sound bytes follow.
        let (durable, torn) =
            self.pending.drain(..).partition(|suspect| suspect.damage.offset < durable_end);
        self.pending = durable;
        self.settle();
        self.pending = torn;
        if self.offset < durable_end {
            self.damages.push(Damage {
                offset: self.offset,
                what: Corruption::Missing { size: durable_end - self.offset },
            });
        }
        let (base, uuid, lsn) = (self.base, self.uuid, self.lsn());
        let bytes = self.window.bytes(base, BATCH_SIZE_MAX)?;
        if fault != FormatError::Batch {
            // A batch header that was damaged, or written in part. Its records have the batch
            // number, too.
            let is_remnant = is_remnant(bytes, uuid, lsn);
            // Segments are whole blocks: this one was cut.
            let is_cut = !bytes.len().is_multiple_of(BLOCK_SIZE);
            let second = bytes.get(HEADER_SIZE..).and_then(|rest| rest.first_chunk());
            let said = second
                .and_then(|header| RecordHeader::decode(header).ok())
                .map(|header| header.batch);
            let last = self.stats.last_batch;
            let number = if last > 0 { Some(last as u32 + 1) } else { said.filter(|_| is_remnant) };
            // Records of the next batch count even if its header is gone.
            search(bytes, |found| Some(found) == number, &mut self.entries);
            self.keep_trusted();
            if is_remnant || is_cut || !self.entries.is_empty() {
                self.stats.salvaged += self.entries.len() as u64;
                let damage = Damage { offset: base, what: Corruption::Batch { size: 0, fault } };
                self.suspect(damage, base..base);
                self.check_payloads();
                return Ok(Advance::Batch);
            }
        }
        self.is_over = true;
        self.tear();
        Ok(Advance::End)
    }

    /// Bad bytes with nothing sound after them were not finished, unless it is known that they were
    /// durable. Undecided faults remain undecided, and count as not durable.
    fn tear(&mut self) {
        let durable_end = self.durable_end();
        let end = self.end_offset().unwrap_or(u64::MAX);
        let unreadable = self.window.unreadable().iter().filter(|bad| bad.start < end);
        self.damages.extend(unreadable.map(|bad| Damage {
            offset: bad.start,
            what: Corruption::Unreadable { size: bad.end.min(end) - bad.start },
        }));
        if self.place.end.is_none() {
            let offsets = self.pending.iter().map(|suspect| suspect.damage.offset);
            self.torn_at = self.torn_at.or(offsets.filter(|offset| *offset >= durable_end).min());
        }
        self.stats.is_lossy |=
            self.pending.drain(..).any(|suspect| suspect.damage.offset >= durable_end);
        let unsynced = self.undecided.conclude(durable_end, &mut self.damages);
        self.stats.is_lossy |= unsynced > 0;
        self.stats.bytes_unsynced += unsynced;
    }

    /// Bad bytes with sound ones after them are damage if they were durable. Bytes after the end
    /// that another segment states do not count.
    fn settle(&mut self) {
        let end = self.end_offset().unwrap_or(u64::MAX);
        for suspect in self.pending.drain(..) {
            match suspect.damage.offset < end {
                true => self.undecided.push(suspect),
                false => self.stats.is_lossy = true,
            }
        }
        self.undecided.decide(self.durable_end(), &mut self.damages);
    }

    /// Keeps only records that this run can have written. They have no sound batch around them, and
    /// a recycled file still holds another segment's records.
    fn keep_trusted(&mut self) {
        let Place { run, shard, .. } = self.place;
        let ours =
            |header: &RecordHeader| (header.epoch.boot, header.epoch.shard) == (run.boot, shard);
        self.entries.retain(|entry| ours(&entry.header));
    }

    /// Drops records that are not asked for, and records with a bad payload.
    fn check_payloads(&mut self) {
        let ScanOptions { call, takes_unchecked, .. } = self.options;
        let (base, batch_end) = (self.base, self.offset);
        let bytes = self.window.held_bytes(base);
        let (window, mut faults) = (&self.window, Vec::new());
        self.entries.retain(|Entry { offset, header }| {
            if call.is_some_and(|call| call != header.call) {
                return false;
            }
            let checked = check(bytes, *offset, header);
            if let Err(mut fault) = checked {
                let (at, size) = (base + *offset as u64, header.record_size() as u64);
                if window.is_unreadable(at..at + size) {
                    fault = FormatError::Unreadable;
                }
                let RecordHeader { call, epoch, seq, .. } = *header;
                let what = Corruption::Payload { call, epoch, seq, fault };
                faults.push(Damage { offset: at, what });
            }
            takes_unchecked || checked.is_ok()
        });
        for damage in faults {
            self.suspect(damage, base..batch_end);
        }
        self.stats.records += self.entries.len() as u64;
    }

    /// The records of the last [`SegmentScan::advance`], in the order of writing.
    pub fn records(&self) -> impl Iterator<Item = Found<'_>> {
        let (bytes, base, start) = (self.window.held_bytes(self.base), self.base, self.start);
        self.entries.iter().filter_map(move |Entry { offset, header }| {
            let payload =
                bytes.get(offset + HEADER_SIZE..offset + HEADER_SIZE + header.length as usize)?;
            let offset = base + *offset as u64;
            Some(Found { header: *header, payload, offset, lsn: Lsn(start.0.wrapping_add(offset)) })
        })
    }

    /// The damage that is certain so far; complete at the end.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Where the segment was torn, offset in the file. Known at the end.
    pub fn torn_at(&self) -> Option<u64> {
        self.torn_at
    }

    /// Where the next batch starts or must start, offset in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Position of the next batch in the shard's journal.
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(self.start.0.wrapping_add(self.offset))
    }

    /// The header; `None` if it is bad.
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Names this use of the file.
    pub fn uuid(&self) -> SegmentUuid {
        self.uuid
    }

    /// Position of the file's first byte in the shard's journal.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    /// Counts so far.
    pub fn stats(&self) -> &ScanStats {
        &self.stats
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.window.bytes_read()
    }

    /// The source that is read.
    pub(crate) fn source_mut(&mut self) -> &mut S {
        self.window.source_mut()
    }

    /// Returns the source.
    pub(crate) fn into_source(self) -> S {
        self.window.into_source()
    }

    /// Tells the scan that the segment is not being written any more. It ended at `end` if the next
    /// segment states that.
    pub(crate) fn set_sealed(&mut self, end: Option<Lsn>) {
        self.place.end = end;
        self.options.is_live = false;
        self.window.forget();
    }

    /// Tells the scan that the first `size` bytes were durable, as the caller knows from elsewhere.
    pub fn set_durable_end(&mut self, size: u64) {
        self.durable_end = self.durable_end.max(size);
    }

    /// Continues at `lsn` instead, if a batch starts there. Skips everything between.
    pub(crate) fn skip_to(&mut self, lsn: Lsn) {
        let offset = lsn.0.saturating_sub(self.start.0);
        if offset > self.offset && offset.is_multiple_of(BLOCK_SIZE as u64) {
            self.offset = offset;
        }
    }
}

/// Whether a record's payload and padding are as they were written, or erased.
pub(super) fn check(bytes: &[u8], offset: usize, header: &RecordHeader) -> Result<(), FormatError> {
    let behind = offset + header.record_size();
    let (payload, padding) = bytes
        .get(offset + HEADER_SIZE..behind)
        .and_then(|payload| payload.split_at_checked(header.length as usize))
        .ok_or(FormatError::Truncated)?;
    header.check_payload(payload)?;
    match header.kind {
        _ if padding.iter().any(|byte| *byte != 0) => Err(FormatError::Padding),
        RecordKind::Call => crate::format::CallRecord::decode(payload).map(|_| ()),
        RecordKind::End => crate::format::EndRecord::decode(payload).map(|_| ()),
        RecordKind::Audio | RecordKind::Pad => Ok(()),
    }
}
