//! The audio of an epoch, frame by frame in order. It takes a few megabytes of memory for any
//! length.
//!
//! Segments hold an epoch's chunks in order, one segment after the other, with one exception. After
//! a failed sync two segments hold the same batches. If a record is damaged in one, the copy in the
//! other may be whole. So the segments are merged by frame and offset. Each is opened when its
//! first frame is due. Chunks that come twice are dropped.
//!
//! The index of a segment says where the epoch's records are, and only they are read
//! (`reader/placed.rs`). In a segment that is being written the live index says so, and the segment
//! is read from where that ends. A segment is read from end to end if it has neither, if its index
//! has no places, or if damage was found in it when its index was made: then the damage is named.

#![forbid(unsafe_code)]

use super::catalog::CallEpoch;
use super::placed::{Chunk, Placed};
use super::{Journal, JournalError, Segment, ShardJournal, at};
use crate::archive::index::places::RecordPlaces;
use crate::archive::scan::{Advance, Corruption, Damage, ScanOptions, SegmentScan, Unread};
use crate::archive::source::{Holder, SegmentFile, is_of_medium};
use crate::call::{Epoch, Seq};
use crate::clock::UnixMicros;
use crate::format::{FormatError, RecordHeader, RecordKind};
use std::collections::VecDeque;
use std::io;
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
    /// Bytes read from segments and their indexes.
    pub bytes_read: u64,
}

/// Gives the frames of an epoch, one after the other.
#[derive(Debug)]
pub struct Frames<'a> {
    shard: Option<&'a ShardJournal>,
    chunks: Chunks,
    assembly: Assembly,
}

impl Journal {
    /// The audio of an epoch of this journal's catalog.
    pub fn frames(&self, call_epoch: &CallEpoch) -> Frames<'_> {
        Frames {
            shard: self.shards().get(call_epoch.shard),
            chunks: Chunks::new(call_epoch),
            assembly: Assembly::default(),
        }
    }
}

impl Frames<'_> {
    /// The next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, JournalError> {
        let Some(shard) = self.shard else { return Ok(None) };
        loop {
            let Some(chunk) = self.chunks.next(shard)? else {
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
        FramesStats { bytes_read: self.chunks.bytes_read(), ..self.assembly.stats }
    }

    /// The damage found so far, and its file. Complete at the end.
    pub fn damages(&self) -> &[(PathBuf, Damage)] {
        &self.chunks.damages
    }
}

/// The chunks of an epoch in order of frames and offsets, from all of its segments.
#[derive(Debug)]
pub(super) struct Chunks {
    call: u64,
    epoch: Epoch,
    /// Positions of the segments that are not opened yet.
    parts: VecDeque<usize>,
    /// The segment after those that are read.
    next: Option<Next>,
    streams: Vec<Stream>,
    damages: Vec<(PathBuf, Damage)>,
    /// Bytes read from segments that are done.
    bytes_read: u64,
}

impl Chunks {
    pub(super) fn new(call_epoch: &CallEpoch) -> Chunks {
        Chunks {
            call: call_epoch.call,
            epoch: call_epoch.epoch,
            parts: call_epoch.parts.iter().map(|part| part.segment).collect(),
            next: None,
            streams: Vec::new(),
            damages: Vec::new(),
            bytes_read: 0,
        }
    }

    /// Leaves the last segment out, and returns its position.
    pub(super) fn pop_last(&mut self) -> Option<usize> {
        self.parts.pop_back()
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self, shard: &ShardJournal) -> Result<Option<Chunk>, JournalError> {
        loop {
            if self.next.is_none()
                && let Some(position) = self.parts.pop_front()
            {
                self.next = match self.first_seq(shard, position) {
                    // No audio of the epoch, only records of its start or end.
                    Some(0) => None,
                    Some(first_seq) => Some(Next::Waits { position, first_seq }),
                    None => self.open(shard, position)?.map(Box::new).map(Next::Opened),
                };
                continue;
            }
            let due = self
                .streams
                .iter()
                .enumerate()
                .filter_map(|(place, stream)| Some((stream.due()?, place)))
                .min();
            let is_due = |next: &mut Next| due.is_none_or(|((seq, _), _)| next.first_seq() <= seq);
            match self.next.take_if(is_due) {
                Some(Next::Opened(stream)) => {
                    self.streams.push(*stream);
                    continue;
                }
                Some(Next::Waits { position, .. }) => {
                    let opened = self.open(shard, position)?;
                    self.streams.extend(opened);
                    continue;
                }
                None => {}
            }
            let Some((_, place)) = due else { return Ok(None) };
            let mut stream = self.streams.remove(place);
            let chunk = stream.chunks.pop_front();
            if let Some(stream) = self.refill(shard, stream)? {
                self.streams.insert(place, stream);
            }
            return Ok(chunk);
        }
    }

    /// The epoch's first frame in a segment, as its index says; 0 if it has no chunk of one there.
    /// `None` if there is no index, as of a segment that is being written.
    fn first_seq(&mut self, shard: &ShardJournal, position: usize) -> Option<u64> {
        let mut index = shard.index_file(position)?;
        let found = index.find(self.call).ok()?;
        self.bytes_read += index.bytes_read();
        let ours = found.iter().find(|(call_epoch, _)| call_epoch.epoch == self.epoch);
        Some(ours.map_or(0, |(call_epoch, _)| call_epoch.first_seq))
    }

    /// Opens a segment and reads its first chunk. `None` if there is none.
    fn open(
        &mut self,
        shard: &ShardJournal,
        position: usize,
    ) -> Result<Option<Stream>, JournalError> {
        let path = shard.path(position);
        let file = match SegmentFile::open(&path) {
            Ok(file) => file,
            // Retention removed it first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_of_medium(&error) => {
                return Ok(self.lose(path, FormatError::Unreadable));
            }
            Err(error) => return Err(at(&path)(error)),
        };
        // The lock keeps the index as it is: erasing audio takes the segment's lock first.
        let (placed, tail) = match file.holder() {
            Holder::Readers => (self.places(shard, position)?, None),
            Holder::Writer => match self.live_places(shard, position)? {
                Some((places, end)) => (Some(places), Some((position, end))),
                None => (None, None),
            },
        };
        let records = match placed {
            Some(places) => Records::Placed(Placed::new(file, places).map_err(at(&path))?),
            None => {
                let options = ScanOptions { call: Some(self.call), ..ScanOptions::default() };
                match shard.scan(position, file, options)? {
                    Segment::Scan(scan) => Records::Scan(scan),
                    Segment::Unread(Unread::Lost(fault)) => return Ok(self.lose(path, fault)),
                    Segment::Unread(Unread::Unbegun) | Segment::Gone => return Ok(None),
                }
            }
        };
        let chunks = VecDeque::new();
        self.refill(shard, Stream { records, path, chunks, tail, is_at_end: false })
    }

    /// A whole segment cannot be read.
    fn lose(&mut self, path: PathBuf, fault: FormatError) -> Option<Stream> {
        self.damages.push((path, Damage { offset: 0, what: Corruption::SegmentHeader(fault) }));
        None
    }

    /// Where the epoch's records are in a segment, if its index says so.
    fn places(
        &mut self,
        shard: &ShardJournal,
        position: usize,
    ) -> Result<Option<RecordPlaces>, JournalError> {
        let Some(mut index) = shard.index_file_of_use(position)? else { return Ok(None) };
        if index.head().damage_count > 0 {
            return Ok(None);
        }
        let found = index.find(self.call).unwrap_or_default();
        let ours = found.iter().find(|(call_epoch, _)| call_epoch.epoch == self.epoch);
        let places = ours.and_then(|(_, places)| index.places(places.as_ref()?).ok());
        self.bytes_read += index.bytes_read();
        Ok(places)
    }

    /// Where the epoch's records are in a segment that is being written, as far as its live index
    /// goes, and how far that is.
    fn live_places(
        &mut self,
        shard: &ShardJournal,
        position: usize,
    ) -> Result<Option<(RecordPlaces, u64)>, JournalError> {
        let Some(mut index) = shard.live_index(position)? else { return Ok(None) };
        let found = index.find(self.call).unwrap_or_default();
        let ours = found.iter().find(|(call_epoch, _)| call_epoch.epoch == self.epoch);
        let places = match ours {
            Some((_, Some(at))) => index.places(at).ok(),
            // No audio yet.
            Some((_, None)) => Some(RecordPlaces::default()),
            None => None,
        };
        self.bytes_read += index.bytes_read();
        Ok(places.map(|places| (places, index.head().end)))
    }

    /// Continues after the live index of a segment: from here on the segment is read.
    fn read_tail(
        &mut self,
        shard: &ShardJournal,
        (position, from): (usize, u64),
        stream: Stream,
    ) -> Result<Option<Stream>, JournalError> {
        let Stream { records, path, chunks, .. } = stream;
        self.bytes_read += records.bytes_read();
        self.damages.extend(records.damages().iter().map(|damage| (path.clone(), *damage)));
        let Some(scan) = shard.tail(position, records.into_file(), from, Some(self.call))? else {
            return Ok(None);
        };
        let records = Records::Scan(Box::new(scan));
        Ok(Some(Stream { records, path, chunks, tail: None, is_at_end: false }))
    }

    /// Makes sure that a stream has a chunk to give; `None` if it has none left.
    fn refill(
        &mut self,
        shard: &ShardJournal,
        mut stream: Stream,
    ) -> Result<Option<Stream>, JournalError> {
        self.read_some(&mut stream)?;
        if stream.chunks.is_empty()
            && let Some(tail) = stream.tail
        {
            let Some(next) = self.read_tail(shard, tail, stream)? else { return Ok(None) };
            stream = next;
            self.read_some(&mut stream)?;
        }
        if !stream.chunks.is_empty() {
            return Ok(Some(stream));
        }
        self.bytes_read += stream.records.bytes_read();
        let path = stream.path;
        self.damages.extend(stream.records.damages().iter().map(|damage| (path.clone(), *damage)));
        Ok(None)
    }

    /// Reads until the stream has a chunk, or ends.
    fn read_some(&self, stream: &mut Stream) -> Result<(), JournalError> {
        let Stream { records, path, chunks, is_at_end, .. } = stream;
        while chunks.is_empty() && !*is_at_end {
            match records {
                Records::Placed(placed) => {
                    let ours = (self.call, self.epoch);
                    *is_at_end = !placed.read(ours, chunks).map_err(at(path))?;
                }
                Records::Scan(scan) => {
                    *is_at_end = scan.advance().map_err(at(path))? != Advance::Batch;
                    let records = scan.records();
                    let ours = records.filter(|found| found.header.epoch == self.epoch);
                    let audio = ours.filter(|found| found.header.kind == RecordKind::Audio);
                    chunks.extend(audio.map(|found| Chunk {
                        header: found.header,
                        payload: found.payload.to_vec(),
                    }));
                }
            }
        }
        Ok(())
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        let next = match &self.next {
            Some(Next::Opened(stream)) => Some(&**stream),
            _ => None,
        };
        let open = self.streams.iter().chain(next);
        self.bytes_read + open.map(|stream| stream.records.bytes_read()).sum::<u64>()
    }
}

/// The segment that is opened once its first frame is due.
#[derive(Debug)]
enum Next {
    /// Its index says which frame that is.
    Waits { position: usize, first_seq: u64 },
    /// It has no index, so it had to be opened to know.
    Opened(Box<Stream>),
}

impl Next {
    fn first_seq(&self) -> u64 {
        match self {
            Next::Waits { first_seq, .. } => *first_seq,
            Next::Opened(stream) => stream.due().map_or(0, |(seq, _)| seq),
        }
    }
}

/// A segment whose chunks are being read.
#[derive(Debug)]
struct Stream {
    records: Records,
    path: PathBuf,
    chunks: VecDeque<Chunk>,
    /// The segment's position, and from where on it is read once these records are.
    tail: Option<(usize, u64)>,
    is_at_end: bool,
}

/// How a segment is read.
#[derive(Debug)]
enum Records {
    /// Only the epoch's records.
    Placed(Placed),
    /// Everything.
    Scan(Box<SegmentScan<SegmentFile>>),
}

impl Records {
    fn damages(&self) -> &[Damage] {
        match self {
            Records::Placed(placed) => placed.damages(),
            Records::Scan(scan) => scan.damages(),
        }
    }

    /// Bytes read from the segment.
    fn bytes_read(&self) -> u64 {
        match self {
            Records::Placed(placed) => placed.bytes_read(),
            Records::Scan(scan) => scan.bytes_read(),
        }
    }

    fn into_file(self) -> SegmentFile {
        match self {
            Records::Placed(placed) => placed.into_file(),
            Records::Scan(scan) => scan.into_source(),
        }
    }
}

impl Stream {
    /// Frame and offset of its next chunk.
    fn due(&self) -> Option<(u64, u32)> {
        self.chunks.front().map(|chunk| (chunk.header.seq.0, chunk.header.offset))
    }
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
    pub(super) fn finish(&mut self) {
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
