//! Journals in memory, as a node would write them: for tests and benchmarks.
//!
//! An image does what the writer does, without its scheduling. The same frame ring lays out the
//! same records. Each sealed batch goes to the end of the newest segment at once. Each segment
//! begins with the records of the calls that continue.

#![forbid(unsafe_code)]

use super::layout::{RunName, create_data_dir, create_shard_dir, segment_path};
use super::marks::{FoundMarks, Marks};
use crate::call::{CallIdentity, Epoch, Seq};
use crate::clock::{Moment, Now, UnixMicros};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::payload::CALL_SIZE_MAX;
use crate::format::record::{chain_crc, header_crc};
use crate::format::{
    BatchHeader, CallRecord, HEADER_SIZE, Lsn, RecordHeader, RecordKind, SegmentHeader,
    SegmentUuid, Unsynced, segment,
};
use crate::io::memory::Region;
use crate::journal::frame_ring::{
    CallEnd, CallStart, Chunk, FrameRing, RING_SIZE_MIN, SealedBatch,
};
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// When a run of an image starts; its clock counts from there.
pub const STARTED_AT: UnixMicros = UnixMicros(1_800_000_000_000_000);

/// An epoch of a call, as it is appended.
#[derive(Clone, Debug)]
pub struct CallEpoch {
    /// Tenant and interaction of the call.
    pub identity: CallIdentity,
    /// The epoch's id.
    pub epoch: Epoch,
    /// Sample rate, Hz.
    pub sample_rate: u32,
    /// Frames so far.
    pub frames: u64,
    /// Bytes of whole samples so far.
    pub bytes: u64,
    /// Whether it has an end record.
    pub has_ended: bool,
}

/// One segment, with the bytes of its file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Counts from 1.
    pub id: u64,
    /// The whole file, with preallocated bytes that are not written yet.
    pub bytes: Vec<u8>,
    /// Where its batches start and end.
    pub batches: Vec<std::ops::Range<usize>>,
    /// Number of bytes at its start that are durable, as its batches say.
    pub durable: usize,
}

impl Segment {
    /// Where its last batch ends, bytes in the file.
    pub fn end_of_batches(&self) -> usize {
        self.batches.last().map_or(BLOCK_SIZE, |batch| batch.end)
    }
}

/// One shard's journal of one run.
#[derive(Debug)]
pub struct Image {
    run: RunName,
    shard: u16,
    segment_size: usize,
    version: u16,
    ring: FrameRing,
    now: Now,
    segments: Vec<Segment>,
    holds_syncs: bool,
    epochs: BTreeMap<Epoch, CallEpoch>,
}

impl Image {
    /// A journal with one segment. `segment_size` is a multiple of the block size.
    pub fn new(run: RunName, shard: u16, segment_size: usize) -> io::Result<Image> {
        Image::with_version(run, shard, segment_size, segment::VERSION)
    }

    /// As [`Image::new`], with segment headers of another `version` that can be read.
    pub fn with_version(
        run: RunName,
        shard: u16,
        segment_size: usize,
        version: u16,
    ) -> io::Result<Image> {
        let ring = FrameRing::new(Region::allocate(RING_SIZE_MIN)?, Kernel::detect());
        let now = Now { moment: Moment::ZERO, unix: run.started_at };
        let mut image = Image {
            run,
            shard,
            segment_size,
            version,
            ring,
            now,
            segments: Vec::new(),
            holds_syncs: false,
            epochs: BTreeMap::new(),
        };
        image.pass(1);
        image.begin_segment(Lsn(0));
        Ok(image)
    }

    /// Lets time pass.
    pub fn pass(&mut self, micros: u64) {
        self.now.unix.0 += micros;
        self.now.moment = self.now.moment + std::time::Duration::from_micros(micros);
        self.ring.set_now(self.now);
    }

    /// Whether syncs are delayed. While they are, no written byte becomes durable. Otherwise every
    /// byte is durable at once.
    pub fn hold_syncs(&mut self, held: bool) {
        self.holds_syncs = held;
        self.sync();
    }

    fn sync(&mut self) {
        if let Some(newest) = self.segments.last_mut().filter(|_| !self.holds_syncs) {
            newest.durable = newest.end_of_batches();
        }
    }

    /// Begins an epoch of a call; later epochs have greater ids.
    pub fn start(&mut self, tenant: &str, interaction: &str, sample_rate: u32) -> Epoch {
        self.pass(1);
        let epoch = Epoch { boot: self.run.boot, micros: self.now.unix.0, shard: self.shard };
        let identity = CallIdentity { tenant: tenant.into(), interaction: interaction.into() };
        self.epochs.insert(
            epoch,
            CallEpoch { identity, epoch, sample_rate, frames: 0, bytes: 0, has_ended: false },
        );
        let call_epoch = &self.epochs[&epoch];
        let start = CallStart {
            call: call_epoch.identity.key(),
            identity: &call_epoch.identity,
            epoch,
            sample_rate: call_epoch.sample_rate,
            started_at: UnixMicros(epoch.micros),
            token_issued_at: 0,
            token_expires_at: 0,
            peer: None,
        };
        let appended = self.ring.append_call(&start);
        assert!(appended.is_ok(), "an image is sealed before its ring is full");
        epoch
    }

    /// Appends a whole frame to an epoch.
    pub fn frame(&mut self, epoch: Epoch, audio: &[u8]) {
        self.chunks(epoch, &[audio], true);
    }

    /// Appends a frame in pieces, without the last one unless `complete`.
    pub fn chunks(&mut self, epoch: Epoch, pieces: &[&[u8]], complete: bool) {
        if self.ring.free_size() < 2 * BATCH_SIZE_MAX {
            self.seal();
        }
        let Some(call_epoch) = self.epochs.get_mut(&epoch) else { return };
        let (call, seq) = (call_epoch.identity.key().record_number(), Seq(call_epoch.frames + 1));
        let mut offset = 0;
        for (index, piece) in pieces.iter().enumerate() {
            let last = complete && index + 1 == pieces.len();
            let chunk =
                Chunk { call, epoch, seq, offset: offset as u32, last, received_at: self.now.unix };
            let appended = self.ring.append_audio(chunk, piece, MaskKey::default());
            assert!(appended.is_ok(), "an image is sealed before its ring is full");
            offset += piece.len();
        }
        if complete {
            call_epoch.frames += 1;
            call_epoch.bytes += (offset - offset % 2) as u64;
        }
    }

    /// Ends an epoch.
    pub fn end(&mut self, epoch: Epoch, ending: u16) {
        let Some(call_epoch) = self.epochs.get_mut(&epoch) else { return };
        call_epoch.has_ended = true;
        let (call, ended_at) = (call_epoch.identity.key().record_number(), self.now.unix);
        let end = CallEnd {
            call,
            epoch,
            frames: call_epoch.frames,
            bytes: call_epoch.bytes,
            ending,
            ended_at,
        };
        let appended = self.ring.append_end(&end);
        assert!(appended.is_ok(), "an image is sealed before its ring is full");
    }

    /// Forgets an epoch that has ended: an image of very many calls would grow with them.
    pub fn forget(&mut self, epoch: Epoch) {
        self.epochs.remove(&epoch);
    }

    /// Seals the open batch and writes it, to a new segment if the newest one has no room.
    pub fn seal(&mut self) {
        self.ring.seal();
        while let Some(batch) = self.ring.poll_sealed() {
            self.write(&batch);
            self.ring.set_written(batch.end());
            self.ring.set_durable(batch.end());
        }
    }

    fn write(&mut self, batch: &SealedBatch) {
        if self.newest().end_of_batches() + batch.size > self.segment_size {
            self.roll();
        }
        let segment = self.newest();
        let (at, start) = (segment.end_of_batches(), self.start_of(segment));
        let uuid = uuid(&self.run, self.shard, segment.id);
        let unsynced = Unsynced::at(at as u64, segment.durable as u64);
        self.ring.stamp(batch, uuid, Lsn(start.0 + at as u64), unsynced);
        let bytes = self.ring.batch_bytes(batch).to_vec();
        let segment = self.segments.last_mut().expect("an image has a segment");
        segment.bytes[at..at + batch.size].copy_from_slice(&bytes);
        segment.batches.push(at..at + batch.size);
        self.sync();
    }

    /// Begins a new segment for what follows; it repeats the records of its calls.
    pub fn roll(&mut self) {
        let newest = self.newest();
        let end = Lsn(self.start_of(newest).0 + newest.end_of_batches() as u64);
        self.begin_segment(end);
    }

    /// Does what a failed sync causes: writes the newest `count` batches (or all, if fewer) again,
    /// to a new segment.
    pub fn fence(&mut self, count: usize) {
        self.ring.seal();
        let newest = self.newest();
        let kept = newest.batches.len().saturating_sub(count);
        let fenced: Vec<Vec<u8>> = newest.batches[kept..]
            .iter()
            .map(|batch| newest.bytes[batch.clone()].to_vec())
            .collect();
        let end = newest.batches.get(kept).map_or(newest.end_of_batches(), |batch| batch.start);
        let end = Lsn(self.start_of(newest).0 + end as u64);
        self.begin_segment(end);
        for mut bytes in fenced {
            let (id, at) = (self.newest().id, self.newest().end_of_batches());
            let lsn = Lsn(self.start_of(self.newest()).0 + at as u64);
            let header = bytes.first_chunk().map(BatchHeader::decode);
            let Some(Ok(header)) = header else { continue };
            let unsynced = Unsynced::at(at as u64, self.newest().durable as u64);
            let header =
                BatchHeader { segment: uuid(&self.run, self.shard, id), lsn, unsynced, ..header };
            bytes[..HEADER_SIZE].copy_from_slice(&header.encode());
            let segment = self.segments.last_mut().expect("an image has a segment");
            segment.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
            segment.batches.push(at..at + bytes.len());
            self.sync();
        }
    }

    fn begin_segment(&mut self, predecessor_end: Lsn) {
        let id = self.segments.last().map_or(1, |segment| segment.id + 1);
        let header = SegmentHeader {
            version: self.version,
            shard: self.shard,
            run: self.run.number(),
            id,
            uuid: uuid(&self.run, self.shard, id),
            predecessor: if id == 1 {
                SegmentUuid::default()
            } else {
                uuid(&self.run, self.shard, id - 1)
            },
            predecessor_end,
            start: Lsn((id - 1) * self.segment_size as u64),
            size: self.segment_size as u64,
            created_at: self.now.unix,
        };
        let mut bytes = vec![0; self.segment_size];
        if let Some(block) = bytes.first_chunk_mut() {
            header.encode(block);
        }
        let durable = if self.holds_syncs { 0 } else { BLOCK_SIZE };
        let mut segment = Segment { id, bytes, batches: Vec::new(), durable };
        let unsynced = Unsynced::at(BLOCK_SIZE as u64, durable as u64);
        if let Some(batch) =
            self.call_batch(header.uuid, Lsn(header.start.0 + BLOCK_SIZE as u64), unsynced)
        {
            segment.bytes[BLOCK_SIZE..BLOCK_SIZE + batch.len()].copy_from_slice(&batch);
            segment.batches.push(BLOCK_SIZE..BLOCK_SIZE + batch.len());
        }
        self.segments.push(segment);
        self.sync();
    }

    /// The records of the calls that continue, in a batch with number 0.
    fn call_batch(&self, segment: SegmentUuid, lsn: Lsn, unsynced: Unsynced) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEADER_SIZE];
        let (mut records_crc, mut record_count) = (0, 0);
        let mut add = |bytes: &mut Vec<u8>, header: RecordHeader, payload: &[u8]| {
            let encoded = header.encode();
            records_crc = chain_crc(records_crc, header_crc(&encoded));
            bytes.extend(encoded);
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(HEADER_SIZE), 0);
        };
        for call_epoch in self.epochs.values().filter(|call_epoch| !call_epoch.has_ended) {
            let mut payload = [0; CALL_SIZE_MAX];
            let record = CallRecord {
                call: call_epoch.identity.key(),
                tenant: &call_epoch.identity.tenant,
                interaction: &call_epoch.identity.interaction,
                sample_rate: call_epoch.sample_rate,
                started_at: UnixMicros(call_epoch.epoch.micros),
                token_issued_at: 0,
                token_expires_at: 0,
                peer: None,
            };
            let size = record.encode(&mut payload);
            let header = RecordHeader {
                payload_crc: crc32c::crc32c(&payload[..size]),
                length: size as u32,
                kind: RecordKind::Call,
                call: record.call.record_number(),
                epoch: call_epoch.epoch,
                received_at: record.started_at,
                ..RecordHeader::pad(HEADER_SIZE, 0)
            };
            add(&mut bytes, header, &payload[..size]);
            record_count += 1;
        }
        let rest = bytes.len().next_multiple_of(BLOCK_SIZE) - bytes.len();
        if rest > 0 {
            add(&mut bytes, RecordHeader::pad(rest, 0), &vec![0; rest - HEADER_SIZE]);
        }
        let size = bytes.len() as u32;
        let sealed_at = self.now.unix;
        let header = BatchHeader {
            size,
            record_count,
            unsynced,
            segment,
            number: 0,
            lsn,
            sealed_at,
            records_crc,
        };
        bytes[..HEADER_SIZE].copy_from_slice(&header.encode());
        (record_count > 0).then_some(bytes)
    }

    fn newest(&self) -> &Segment {
        self.segments.last().expect("an image has a segment")
    }

    fn start_of(&self, segment: &Segment) -> Lsn {
        Lsn((segment.id - 1) * self.segment_size as u64)
    }

    /// The run it belongs to.
    pub fn run(&self) -> &RunName {
        &self.run
    }

    /// The shard.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// The segments so far, oldest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments, so that tests can damage them.
    pub fn segments_mut(&mut self) -> &mut [Segment] {
        &mut self.segments
    }

    /// An epoch as it was appended.
    pub fn call_epoch(&self, epoch: Epoch) -> Option<&CallEpoch> {
        self.epochs.get(&epoch)
    }

    /// Writes the segments below a data directory, with marks if their version has them and there
    /// are none. Returns the shard's directory.
    pub fn store(&self, data_dir: &Path) -> io::Result<PathBuf> {
        create_data_dir(data_dir)?;
        let dir = create_shard_dir(data_dir, &self.run, self.shard)?;
        if self.version != segment::VERSION_1 && Marks::find(&dir)? == FoundMarks::Missing {
            // An image does not know the other shards of its run.
            Marks::new(0).store(&dir)?;
        }
        for segment in &self.segments {
            std::fs::write(segment_path(&dir, segment.id), &segment.bytes)?;
        }
        Ok(dir)
    }
}

/// The run that an image belongs to, in tests that need only one.
pub fn run(pid: u32) -> RunName {
    RunName { boot: 1, started_at: UnixMicros(STARTED_AT.0 + u64::from(pid) * 1_000_000_000), pid }
}

fn uuid(run: &RunName, shard: u16, id: u64) -> SegmentUuid {
    let mut bytes = [0xA7; 16];
    bytes[..4].copy_from_slice(&run.pid.to_le_bytes());
    bytes[4..6].copy_from_slice(&shard.to_le_bytes());
    bytes[6..14].copy_from_slice(&id.to_le_bytes());
    SegmentUuid(bytes)
}

/// One batch with whole frames of these sizes, of a call that has no call record.
pub fn batch(sizes: &[usize]) -> Vec<u8> {
    let memory = Region::allocate(RING_SIZE_MIN).expect("memory for a small ring");
    let mut ring = FrameRing::new(memory, Kernel::detect());
    let epoch = Epoch { boot: 1, micros: 2, shard: 0 };
    for (index, size) in sizes.iter().enumerate() {
        let seq = Seq(index as u64 + 1);
        let chunk = Chunk { call: 42, epoch, seq, offset: 0, last: true, received_at: STARTED_AT };
        let appended = ring.append_audio(chunk, &vec![seq.0 as u8; *size], MaskKey::default());
        assert!(appended.is_ok(), "a batch's worth of frames");
    }
    ring.seal();
    let batch = ring.poll_sealed().expect("what was sealed");
    ring.batch_bytes(&batch).to_vec()
}
