//! Reads one segment, batch by batch, believing nothing.
//!
//! A bad batch has one of three reasons, and what follows tells which. A later sound batch of the same segment, which says
//! that the bad one was durable: the medium, or a hand, damaged what was whole; that is *damage*, and it is named. A later
//! sound batch that does not say so: the disk took them in another order, and the power went before a sync; that was *not
//! durable*, and is counted. Nothing: the writer was interrupted; that is a *torn tail*. Nothing that was promised as durable
//! is in either, unless the next segment says that this one went further. The scan goes on, and from all of them records
//! that are sound in themselves are kept. See [what was durable](super::format#what-was-durable-and-what-a-power-loss-may-have-taken).

#![forbid(unsafe_code)]

use super::format::{BatchHeader, FormatError, HEADER_SIZE, Lsn, RecordHeader, RecordKind, SegmentHeader, SegmentUuid};
use super::layout::RunName;
use super::salvage::{Entry, Spot, sift, walk};
use super::source::{Source, Window};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use damage::{Flaw, Flaws};
use std::io;

mod damage;
#[cfg(test)]
mod tests;

pub use damage::{Damage, Harm};

/// What a segment's path says about it, and the segments beside it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The run its directory belongs to.
    pub run: RunName,
    /// The shard its directory belongs to.
    pub shard: u16,
    /// Its number in its name.
    pub id: u64,
    /// Where the segment before it starts; what is in this one comes later.
    pub after: Option<Lsn>,
    /// Where it ended, as the segment behind it says.
    pub end: Option<Lsn>,
}

/// What to look for, and how hard.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanOptions {
    /// Only this call's records, by their number; the payloads of others are not looked at.
    pub call: Option<u64>,
    /// The segment is being written: a bad batch is read once more, and may be whole a moment later.
    pub is_live: bool,
    /// Do not look for sound batches behind a bad one of a live segment: it is its end so far ([`Advance::Pending`]).
    pub follows: bool,
    /// Give records out unchecked, those with a bad payload too.
    pub takes_unchecked: bool,
}

/// A segment that holds nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Allocated or recycled, and not begun: there is nothing of this segment in it.
    Unbegun,
    /// Its header is bad and no batch in it is sound.
    Lost(FormatError),
}

/// What [`SegmentScan::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// [`SegmentScan::records`] has a batch's records, or what was salvaged of some; there may be none.
    Batch,
    /// Nothing more yet; ask again later. Only where [`ScanOptions::follows`] is set.
    Pending,
    /// The end.
    End,
}

/// A record that was found sound.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, checked unless asked otherwise; zeros where it was erased.
    pub payload: &'a [u8],
    /// Where it is in the file, bytes.
    pub offset: u64,
    /// Where it is in the shard's journal.
    pub lsn: Lsn,
}

/// Numbers of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanTally {
    /// Sound batch headers.
    pub batches: u64,
    /// Records given out.
    pub records: u64,
    /// Records found where a batch was bad.
    pub salvaged: u64,
    /// Number of the first batch; 0 before it.
    pub first_batch: u64,
    /// Number of the last batch; 0 before it.
    pub last_batch: u64,
    /// Bytes of batches that are bad, have a sound one behind them, and were not durable; known at the end.
    pub bytes_unsynced: u64,
    /// Something is bad, here or in a torn tail or behind the end that another segment knows, that was not durable.
    pub is_lossy: bool,
}

/// A scan over one segment: call [`SegmentScan::advance`], then look at the records, until it is at the end.
#[derive(Debug)]
pub struct SegmentScan<S> {
    window: Window<S>,
    place: Place,
    options: ScanOptions,
    uuid: SegmentUuid,
    start: Lsn,
    header: Option<SegmentHeader>,
    /// Where the next batch has to start, bytes in the file.
    offset: u64,
    /// Where the records below are, bytes in the file.
    base: u64,
    entries: Vec<Entry>,
    spots: Vec<Spot>,
    /// Bad things of which it is not known yet whether a sound batch follows.
    pending: Vec<Flaw>,
    /// Bad things of which it is not known yet whether they were durable.
    undecided: Flaws,
    damages: Vec<Damage>,
    /// So many bytes at the front are known to have been durable.
    durable_end: u64,
    torn_at: Option<u64>,
    /// The stretch in front of the next batch is named as damage.
    has_crossed: bool,
    /// The end was found, and what could be salvaged there was.
    is_finished: bool,
    tally: ScanTally,
}

impl<S: Source> SegmentScan<S> {
    /// Reads the header. An error is the source's.
    pub fn open(source: S, place: Place, options: ScanOptions) -> io::Result<Result<SegmentScan<S>, Unread>> {
        let mut window = Window::new(source)?;
        let bytes = window.bytes(0, BLOCK_SIZE)?;
        let is_blank = bytes.iter().all(|byte| *byte == 0);
        let decoded = match bytes.first_chunk::<BLOCK_SIZE>() {
            Some(block) => SegmentHeader::decode(block),
            None => Err(FormatError::Truncated),
        };
        let (uuid, start, undecided) = match decoded {
            Ok(header) if (header.run, header.shard, header.id) != (place.run.number(), place.shard, place.id) => {
                return Ok(Err(Unread::Unbegun));
            }
            Ok(header) => (header.uuid, header.start, Flaws::default()),
            Err(fault) => match infer(&mut window, &place, is_blank)? {
                Some((uuid, start)) => (uuid, start, Flaws::of_header(fault)),
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
            spots: Vec::new(),
            pending: Vec::new(),
            undecided,
            damages: Vec::new(),
            durable_end: 0,
            torn_at: None,
            has_crossed: false,
            is_finished: false,
            tally: ScanTally::default(),
        }))
    }

    /// On to the next batch. An error is the source's.
    pub fn advance(&mut self) -> io::Result<Advance> {
        self.entries.clear();
        if self.is_finished {
            self.tear();
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
            if self.options.is_live && self.options.follows {
                self.window.forget();
                return Ok(Advance::Pending);
            }
            let Some(next) = self.find_batch(offset + BLOCK_SIZE as u64)? else { return self.finish(fault) };
            if self.options.is_live {
                // It may have been written while we looked.
                self.window.forget();
                if self.batch_at(offset)?.is_ok() {
                    continue;
                }
            }
            self.cross(next, fault)?;
            return Ok(Advance::Batch);
        }
    }

    /// The batch header at `offset`, if it is one of this segment, for there, and the batch is all there.
    fn batch_at(&mut self, offset: u64) -> io::Result<Result<BatchHeader, FormatError>> {
        let size_left = self.window.source().size().saturating_sub(offset);
        let bytes = self.window.bytes(offset, BLOCK_SIZE)?;
        let Some(first) = bytes.first_chunk() else { return Ok(Err(FormatError::Truncated)) };
        let batch = match BatchHeader::decode(first) {
            Ok(batch) => batch,
            Err(fault) => return Ok(Err(fault)),
        };
        let expected = Lsn(self.start.0.wrapping_add(offset));
        let last = self.tally.last_batch;
        if batch.segment != self.uuid || batch.lsn != expected || (last > 0 && batch.number <= last) {
            return Ok(Err(FormatError::Batch));
        }
        if self.options.is_live && (u64::from(batch.size) > size_left || !self.is_whole(offset, &batch)?) {
            return Ok(Err(FormatError::Truncated));
        }
        Ok(Ok(batch))
    }

    /// Whether all of a live segment's batch has been written: its header may be there before its records are.
    fn is_whole(&mut self, offset: u64, batch: &BatchHeader) -> io::Result<bool> {
        let bytes = self.window.bytes(offset, batch.size as usize)?;
        let Ok(reader) = super::batch::BatchReader::open(bytes) else { return Ok(false) };
        Ok(reader.into_iter().all(|record| record.is_ok()))
    }

    /// The next batch of this segment at `from` or behind it. What the segment behind this one says does not count any more
    /// is not looked for.
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

    /// Where this segment ended, bytes in the file, if another one says so.
    fn end_offset(&self) -> Option<u64> {
        // One of which nothing was durable ended before it began.
        Some(self.place.end?.0.saturating_sub(self.start.0))
    }

    /// So many bytes at the front were durable, as far as anybody says.
    pub fn durable_end(&self) -> u64 {
        self.end_offset().unwrap_or(self.durable_end)
    }

    /// Takes the records of a batch whose header is sound.
    fn take(&mut self, batch: &BatchHeader) -> io::Result<()> {
        self.set_durable_end(batch.unsynced.durable_end(self.offset).unwrap_or(0));
        self.settle();
        let last = self.tally.last_batch;
        if last > 0 && batch.number > last + 1 && !std::mem::take(&mut self.has_crossed) {
            let what = Harm::Skipped { from: last + 1, count: batch.number - last - 1 };
            self.damages.push(Damage { offset: self.offset, what });
        }
        self.tally.batches += 1;
        self.tally.last_batch = batch.number;
        if self.tally.first_batch == 0 {
            self.tally.first_batch = batch.number;
        }
        self.base = self.offset;
        self.offset += u64::from(batch.size);
        self.spots.clear();
        let bytes = self.window.bytes(self.base, batch.size as usize)?;
        walk(bytes, batch, &mut self.entries, &mut self.spots);
        if !self.spots.is_empty() {
            self.keep_trusted();
            self.tally.salvaged += self.entries.len() as u64;
            for spot in &self.spots {
                let damage = Damage { offset: self.base + spot.offset as u64, what: Harm::Records(spot.fault) };
                self.pending.push(Flaw { damage, batch: self.base..self.offset });
            }
        }
        self.check_payloads();
        Ok(())
    }

    /// Takes what is in a stretch without a sound batch header, up to the batch at `next`.
    fn cross(&mut self, next: u64, fault: FormatError) -> io::Result<()> {
        let number_next = match self.batch_at(next)? {
            Ok(batch) => batch.number,
            Err(_) => u64::MAX, // it changed under us: a live segment
        };
        let damage = Damage { offset: self.offset, what: Harm::Batch { size: next - self.offset, fault } };
        self.has_crossed = true;
        // Batches of repeated call records, at the start, have the number 0.
        let first = if self.tally.last_batch > 0 { self.tally.last_batch + 1 } else { 0 };
        let count = number_next.max(1).saturating_sub(first);
        self.base = self.offset;
        // As much as one batch at a time; a record that straddles two pieces is in one batch with a sound header or lost.
        self.offset = next.min(self.base + BATCH_SIZE_MAX as u64);
        self.pending.push(Flaw { damage, batch: self.base..self.offset });
        let size = (self.offset - self.base) as usize;
        let bytes = self.window.bytes(self.base, size)?;
        sift(bytes, |number| u64::from(number.wrapping_sub(first as u32)) < count, &mut self.entries);
        self.keep_trusted();
        self.tally.salvaged += self.entries.len() as u64;
        self.check_payloads();
        Ok(())
    }

    /// The end of what is sound: tells a clean one from a torn one.
    fn finish(&mut self, fault: FormatError) -> io::Result<Advance> {
        self.base = self.offset;
        self.is_finished = true;
        let durable_end = self.durable_end();
        // What was durable is no torn tail, whether or not something sound is behind it.
        let (durable, torn) = self.pending.drain(..).partition(|flaw| flaw.damage.offset < durable_end);
        self.pending = durable;
        self.settle();
        self.pending = torn;
        if self.offset < durable_end {
            self.damages.push(Damage { offset: self.offset, what: Harm::Missing { size: durable_end - self.offset } });
        }
        let (base, uuid, lsn) = (self.base, self.uuid, self.lsn());
        let bytes = self.window.bytes(base, BATCH_SIZE_MAX)?;
        if fault != FormatError::Batch {
            // A header that was hit, or written in part. The number of its batch stands in its records, too.
            let is_remnant = is_remnant(bytes, uuid, lsn);
            // Segments are whole blocks: this one was cut.
            let is_cut = !bytes.len().is_multiple_of(BLOCK_SIZE);
            let second = bytes.get(HEADER_SIZE..).and_then(|rest| rest.first_chunk());
            let said = second.and_then(|header| RecordHeader::decode(header).ok()).map(|header| header.batch);
            let last = self.tally.last_batch;
            let number = if last > 0 { Some(last as u32 + 1) } else { said.filter(|_| is_remnant) };
            // Records of the next batch tell even where nothing of its header is left.
            sift(bytes, |found| Some(found) == number, &mut self.entries);
            self.keep_trusted();
            if is_remnant || is_cut || !self.entries.is_empty() {
                self.tally.salvaged += self.entries.len() as u64;
                let damage = Damage { offset: base, what: Harm::Batch { size: 0, fault } };
                self.pending.push(Flaw { damage, batch: base..base });
                self.check_payloads();
                return Ok(Advance::Batch);
            }
        }
        self.tear();
        Ok(Advance::End)
    }

    /// What is bad and has nothing sound behind it was not finished, unless somebody knows better; and what is undecided
    /// will stay so: it was not durable.
    fn tear(&mut self) {
        let durable_end = self.durable_end();
        if self.place.end.is_none() {
            let offsets = self.pending.iter().map(|flaw| flaw.damage.offset);
            self.torn_at = self.torn_at.or(offsets.filter(|offset| *offset >= durable_end).min());
        }
        self.tally.is_lossy |= self.pending.drain(..).any(|flaw| flaw.damage.offset >= durable_end);
        let unsynced = self.undecided.conclude(durable_end, &mut self.damages);
        self.tally.is_lossy |= unsynced > 0;
        self.tally.bytes_unsynced += unsynced;
    }

    /// What is bad and has something sound behind it is damage if it was durable; behind the end that another segment knows,
    /// nothing counts.
    fn settle(&mut self) {
        let end = self.end_offset().unwrap_or(u64::MAX);
        for flaw in self.pending.drain(..) {
            match flaw.damage.offset < end {
                true => self.undecided.push(flaw),
                false => self.tally.is_lossy = true,
            }
        }
        self.undecided.decide(self.durable_end(), &mut self.damages);
    }

    /// Of records without a sound batch around them, keeps those that this run can have written: a recycled file still holds
    /// another's.
    fn keep_trusted(&mut self) {
        let Place { run, shard, .. } = self.place;
        let ours = |header: &RecordHeader| {
            header.epoch.boot == run.boot && header.epoch.shard == shard && header.received_at >= run.started_at
        };
        self.entries.retain(|entry| ours(&entry.header));
    }

    /// Drops the records that are not asked for, and those whose payload is bad.
    fn check_payloads(&mut self) {
        let ScanOptions { call, takes_unchecked, .. } = self.options;
        let (base, batch_end) = (self.base, self.offset);
        let bytes = self.window.held_bytes(base);
        let pending = &mut self.pending;
        self.entries.retain(|Entry { offset, header }| {
            if call.is_some_and(|call| call != header.call) {
                return false;
            }
            let checked = check(bytes, *offset, header);
            if let Err(fault) = checked {
                let RecordHeader { call, epoch, seq, .. } = *header;
                let what = Harm::Payload { call, epoch, seq, fault };
                let damage = Damage { offset: base + *offset as u64, what };
                pending.push(Flaw { damage, batch: base..batch_end });
            }
            takes_unchecked || checked.is_ok()
        });
        self.tally.records += self.entries.len() as u64;
    }

    /// The records that the last [`SegmentScan::advance`] came to, in the order in which they were written.
    pub fn records(&self) -> impl Iterator<Item = Found<'_>> {
        let (bytes, base, start) = (self.window.held_bytes(self.base), self.base, self.start);
        self.entries.iter().filter_map(move |Entry { offset, header }| {
            let payload = bytes.get(offset + HEADER_SIZE..offset + HEADER_SIZE + header.length as usize)?;
            let offset = base + *offset as u64;
            Some(Found { header: *header, payload, offset, lsn: Lsn(start.0.wrapping_add(offset)) })
        })
    }

    /// What is wrong, as far as it is sure; complete at the end.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Where it was torn, bytes in the file; known at the end.
    pub fn torn_at(&self) -> Option<u64> {
        self.torn_at
    }

    /// Where the next batch starts or has to, bytes in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Position of the next batch in the shard's journal.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.start.0.wrapping_add(self.offset))
    }

    /// The header; `None` where it is bad.
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Names this use of the file.
    pub fn uuid(&self) -> SegmentUuid {
        self.uuid
    }

    /// Position of the file's first byte in the shard's journal.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// Numbers so far.
    pub fn tally(&self) -> &ScanTally {
        &self.tally
    }

    /// What it reads.
    pub fn source_mut(&mut self) -> &mut S {
        self.window.source_mut()
    }

    /// What it read.
    pub fn into_source(self) -> S {
        self.window.into_source()
    }

    /// The segment is not being written any more, and ended at `end` if the one behind it says so.
    pub fn set_sealed(&mut self, end: Option<Lsn>) {
        self.place.end = end;
        self.options.is_live = false;
        self.window.forget();
    }

    /// So many bytes at the front are known to have been durable, from elsewhere than the segments.
    pub fn set_durable_end(&mut self, size: u64) {
        self.durable_end = self.durable_end.max(size);
    }

    /// Goes on at `lsn` instead, if a batch starts there; whatever is between is not looked at.
    pub fn skip_to(&mut self, lsn: Lsn) {
        let offset = lsn.0.saturating_sub(self.start.0);
        if offset > self.offset && offset.is_multiple_of(BLOCK_SIZE as u64) {
            self.offset = offset;
        }
    }
}

/// Whether a record's payload and the padding behind it are as they were written, or erased.
fn check(bytes: &[u8], offset: usize, header: &RecordHeader) -> Result<(), FormatError> {
    let behind = offset + header.record_size();
    let (payload, padding) = bytes
        .get(offset + HEADER_SIZE..behind)
        .and_then(|payload| payload.split_at_checked(header.length as usize))
        .ok_or(FormatError::Truncated)?;
    header.check_payload(payload)?;
    match header.kind {
        _ if padding.iter().any(|byte| *byte != 0) => Err(FormatError::Padding),
        RecordKind::Call => super::format::CallRecord::decode(payload).map(|_| ()),
        RecordKind::End => super::format::EndRecord::decode(payload).map(|_| ()),
        RecordKind::Audio | RecordKind::Pad => Ok(()),
    }
}

/// What the header of a segment said, as its first sound batch tells it: for a header that is bad.
///
/// A recycled file whose new header never reached the disk also holds sound batches, those of its former use. The place of a
/// segment's first batch was blanked before the file got its name, so what stands there is of this use. Further on it has to
/// be shown: see [`is_at_home`].
///
/// Behind a `blank` header only that one place is looked at: nearly always the file has been allocated and no more.
fn infer<S: Source>(window: &mut Window<S>, place: &Place, blank: bool) -> io::Result<Option<(SegmentUuid, Lsn)>> {
    let first = BLOCK_SIZE as u64;
    let size = window.source().size();
    let mut offset = first;
    while offset < if blank { 2 * first } else { size } {
        let bytes = window.bytes(offset, BLOCK_SIZE)?;
        let batch = bytes.first_chunk().map(BatchHeader::decode);
        if let Some(Ok(batch)) = batch
            && let Some(start) = batch.lsn.0.checked_sub(offset)
        {
            let is_later = place.after.is_none_or(|after| after.0 < start) && batch.sealed_at >= place.run.started_at;
            let is_ours = is_later && (offset == first || is_at_home(bytes, place, start, size));
            return Ok(is_ours.then_some((batch.segment, Lsn(start))));
        }
        offset += first;
    }
    Ok(None)
}

/// Whether a batch that is not the first of its file belongs there, and not to what the file held before: another segment of
/// the same run, maybe another shard's. Its first record tells whose it is; among a shard's own segments the former use is
/// the older one, which shows if any segment beside this one is there. Alone, it is not believed.
fn is_at_home(batch: &[u8], place: &Place, start: u64, size: u64) -> bool {
    let record = batch.get(HEADER_SIZE..).and_then(<[u8]>::first_chunk).map(RecordHeader::decode);
    let is_of_shard = record.is_some_and(|record| {
        record.is_ok_and(|record| (record.epoch.boot, record.epoch.shard) == (place.run.boot, place.shard))
    });
    let fits = place.end.is_some_and(|end| start < end.0 && end.0 - start <= size);
    is_of_shard && (place.after.is_some() || fits)
}

/// Whether bytes that are no batch header were to be one of this segment at this place: its name or the position is there.
fn is_remnant(bytes: &[u8], uuid: SegmentUuid, lsn: Lsn) -> bool {
    bytes.get(16..32) == Some(&uuid.0) || bytes.get(40..48) == Some(&lsn.0.to_le_bytes())
}
