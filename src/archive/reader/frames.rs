//! The audio of an epoch, frame by frame in order. It takes a few megabytes of memory for any
//! length.
//!
//! Segments hold an epoch's chunks in order, one segment after the other, with one exception. After
//! a failed sync two segments hold the same batches. If a record is damaged in one, the copy in the
//! other may be whole. So the segments are merged by frame and offset. Each is opened when its
//! first frame is due. Chunks that come twice are dropped.

#![forbid(unsafe_code)]

use super::catalog::CallEpoch;
use super::{Journal, JournalError, Segment, ShardJournal, at};
use crate::archive::scan::{Advance, Damage, ScanOptions, SegmentScan};
use crate::archive::source::SegmentFile;
use crate::call::Seq;
use crate::clock::UnixMicros;
use crate::format::{RecordHeader, RecordKind};
use std::collections::VecDeque;
use std::path::PathBuf;

/// A complete frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number in the epoch.
    pub seq: Seq,
    /// Its bytes as received, with an odd one at the end; empty if the frame is erased.
    pub audio: &'a [u8],
    /// Number of bytes received.
    pub size: usize,
    /// When its last piece arrived.
    pub received_at: UnixMicros,
    /// Whether it was erased on demand.
    pub is_erased: bool,
}

/// Counts of what was skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramesStats {
    /// Chunks that came twice.
    pub doubles: u64,
    /// Frames that are incomplete.
    pub incomplete: u64,
}

/// Gives the frames of an epoch, one after the other.
#[derive(Debug)]
pub struct Frames<'a> {
    shard: Option<&'a ShardJournal>,
    call_epoch: &'a CallEpoch,
    next_part: usize,
    streams: Vec<Stream>,
    assembly: Assembly,
    damages: Vec<(PathBuf, Damage)>,
}

impl Journal {
    /// The audio of an epoch of this journal's catalog.
    pub fn frames<'a>(&'a self, call_epoch: &'a CallEpoch) -> Frames<'a> {
        Frames {
            shard: self.shards().get(call_epoch.shard),
            call_epoch,
            next_part: 0,
            streams: Vec::new(),
            assembly: Assembly::default(),
            damages: Vec::new(),
        }
    }
}

impl Frames<'_> {
    /// The next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, JournalError> {
        loop {
            let Some(chunk) = self.next_chunk()? else {
                self.assembly.finish();
                return Ok(None);
            };
            if self.assembly.add(&chunk.header, &chunk.payload) {
                return Ok(Some(self.assembly.frame()));
            }
        }
    }

    /// What was skipped so far.
    pub fn stats(&self) -> FramesStats {
        self.assembly.stats
    }

    /// The damage found so far, and its file. Complete at the end.
    pub fn damages(&self) -> &[(PathBuf, Damage)] {
        &self.damages
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>, JournalError> {
        loop {
            let due = self
                .streams
                .iter()
                .enumerate()
                .filter_map(|(place, stream)| Some((stream.due()?, place)))
                .min();
            let part = self.call_epoch.parts.get(self.next_part);
            if let Some(part) = part
                && due.is_none_or(|((seq, _), _)| part.first_seq <= seq)
            {
                self.open(part.segment)?;
                self.next_part += 1;
                continue;
            }
            let Some((_, place)) = due else { return Ok(None) };
            let chunk = self.streams[place].chunks.pop_front();
            self.refill(place)?;
            return Ok(chunk);
        }
    }

    fn open(&mut self, segment: usize) -> Result<(), JournalError> {
        let Some(shard) = self.shard else { return Ok(()) };
        let options = ScanOptions { call: Some(self.call_epoch.call), ..ScanOptions::default() };
        if let Segment::Scan(scan) = shard.segment(segment, options)? {
            self.streams.push(Stream {
                scan,
                path: shard.path(segment),
                chunks: VecDeque::new(),
                is_at_end: false,
            });
            self.refill(self.streams.len() - 1)?;
        }
        Ok(())
    }

    /// Makes sure that a stream has a chunk to give, or removes the stream.
    fn refill(&mut self, place: usize) -> Result<(), JournalError> {
        let Some(stream) = self.streams.get_mut(place) else { return Ok(()) };
        while stream.chunks.is_empty() && !stream.is_at_end {
            stream.is_at_end = stream.scan.advance().map_err(at(&stream.path))? == Advance::End;
            let records = stream.scan.records();
            let ours = records.filter(|found| found.header.epoch == self.call_epoch.epoch);
            let audio = ours.filter(|found| found.header.kind == RecordKind::Audio);
            stream.chunks.extend(
                audio.map(|found| Chunk { header: found.header, payload: found.payload.to_vec() }),
            );
        }
        if stream.is_at_end && stream.chunks.is_empty() {
            let stream = self.streams.remove(place);
            self.damages
                .extend(stream.scan.damages().iter().map(|damage| (stream.path.clone(), *damage)));
        }
        Ok(())
    }
}

/// A segment whose chunks are being read.
#[derive(Debug)]
struct Stream {
    scan: Box<SegmentScan<SegmentFile>>,
    path: PathBuf,
    chunks: VecDeque<Chunk>,
    is_at_end: bool,
}

impl Stream {
    /// Frame and offset of its next chunk.
    fn due(&self) -> Option<(u64, u32)> {
        self.chunks.front().map(|chunk| (chunk.header.seq.0, chunk.header.offset))
    }
}

#[derive(Debug)]
struct Chunk {
    header: RecordHeader,
    payload: Vec<u8>,
}

/// Joins an epoch's chunks to frames.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    seq: u64,
    audio: Vec<u8>,
    size: u64,
    is_whole: bool,
    is_complete: bool,
    is_erased: bool,
    received_at: UnixMicros,
    pub(super) stats: FramesStats,
}

impl Assembly {
    /// Takes the next chunk in order. Returns whether it completes a frame.
    pub(super) fn add(&mut self, header: &RecordHeader, payload: &[u8]) -> bool {
        let (seq, offset) = (header.seq.0, u64::from(header.offset));
        if seq < self.seq || (seq == self.seq && (self.is_complete || offset < self.size)) {
            self.stats.doubles += 1;
            return false;
        }
        if seq > self.seq {
            self.finish();
            self.audio.clear();
            (self.seq, self.size, self.is_whole, self.is_complete, self.is_erased) =
                (seq, 0, true, false, false);
        }
        self.is_whole &= offset == self.size;
        self.is_erased |= header.erased;
        self.size = offset + payload.len() as u64;
        self.received_at = header.received_at;
        if self.is_whole {
            self.audio.extend_from_slice(payload);
        }
        self.is_complete = header.last;
        self.stats.incomplete += u64::from(header.last && !self.is_whole);
        header.last && self.is_whole
    }

    /// No more chunks of the frame will come.
    fn finish(&mut self) {
        self.stats.incomplete += u64::from(self.seq > 0 && !self.is_complete);
        self.is_complete = true;
    }

    /// The frame that was completed.
    pub(super) fn frame(&self) -> Frame<'_> {
        let audio = if self.is_erased { &[][..] } else { &self.audio };
        let (seq, received_at, is_erased) = (Seq(self.seq), self.received_at, self.is_erased);
        Frame { seq, audio, size: self.audio.len(), received_at, is_erased }
    }
}
