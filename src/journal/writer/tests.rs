//! The writer on the scripted disk. The tests read back what was promised from what a power loss
//! would leave.

use super::*;
use crate::call::{CallIdentity, Epoch, Seq};
use crate::clock::{JournalClock, UnixMicros};
use crate::constants::BATCH_SIZE_MAX;
use crate::format::batch::BatchReader;
use crate::format::{RecordKind, SegmentHeader};
use crate::io::memory::Region;
use crate::io::scripted::{Scripted, World};
use crate::io::{Io, OpKind, UserData, Wait};
use crate::journal::frame_ring::{CallEnd, CallStart, Chunk, RING_SIZE_MIN, RecordHeaders};
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use std::collections::BTreeSet;

mod depth;
mod disk;
mod faults;
mod random;
mod sealing;

const RUN: u64 = 77;
const SYNC_INTERVAL: Duration = Duration::from_millis(20);
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A frame of a call: epoch and number.
type FrameId = (u64, u64);

/// A writer, its ring, and a disk that makes segments on request.
struct Journal {
    world: World,
    io: Scripted,
    ring: FrameRing,
    writer: Writer,
    segment_size: u64,
    /// Segments made, in order: file and id.
    files: Vec<(FileHandle, u64)>,
    retired: Vec<SegmentRequest>,
    /// Segments that the disk can still make; then there is no room.
    segments_left: usize,
    epochs: u64,
    frames: std::collections::BTreeMap<u64, u64>,
    /// Promises asked for: position, and the frame promised.
    asked: Vec<(RingPosition, FrameId)>,
    kept: BTreeSet<FrameId>,
}

impl Journal {
    fn new(level: AckLevel, segment_size: u64) -> Journal {
        Journal::with(level, segment_size, Backlog::production(), RING_SIZE_MIN)
    }

    fn with(level: AckLevel, segment_size: u64, backlog: Backlog, ring_size: usize) -> Journal {
        let world = World::new();
        let mut io = world.io(1, 64);
        let mut ring = FrameRing::new(Region::allocate(ring_size).unwrap(), Kernel::detect());
        ring.set_now(world.now());
        io.use_region(ring.memory());
        let settings = WriterSettings {
            level,
            journal: JournalSettings {
                sync_interval: SYNC_INTERVAL,
                stall_timeout: STALL_TIMEOUT,
                segment_age: None,
                ..JournalSettings::default()
            },
            backlog,
            shard: 3,
            run: RUN,
            clock: JournalClock::default(),
        };
        let writer = Writer::new(settings, ring_size, world.now().moment);
        let (files, retired, asked) = (Vec::new(), Vec::new(), Vec::new());
        let (epochs, frames, kept) = (0, Default::default(), BTreeSet::new());
        let segments_left = usize::MAX;
        Journal {
            world,
            io,
            ring,
            writer,
            segment_size,
            files,
            retired,
            segments_left,
            epochs,
            frames,
            asked,
            kept,
        }
    }

    /// A new call; returns its epoch.
    fn start(&mut self) -> u64 {
        self.epochs += 1;
        let identity = CallIdentity {
            tenant: "acme".into(),
            interaction: format!("call-{}", self.epochs).into(),
        };
        let start = CallStart {
            call: identity.key(),
            identity: &identity,
            epoch: epoch(self.epochs),
            sample_rate: 24_000,
            started_at: self.world.now().unix,
            token_issued_at: 1,
            token_expires_at: 2,
            peer: None,
        };
        self.ring.append_call(&start).unwrap();
        self.frames.insert(self.epochs, 0);
        self.epochs
    }

    /// Appends one frame of a call and asks for its promise; false if the ring is full.
    fn frame(&mut self, call: u64, size: usize) -> bool {
        let seq = self.frames[&call] + 1;
        let payload = vec![seq as u8; size];
        let (epoch, received_at) = (epoch(call), self.world.now().unix);
        let chunk =
            Chunk { call: call * 10, epoch, seq: Seq(seq), offset: 0, last: true, received_at };
        if self.ring.append_audio(chunk, &payload, MaskKey::default()).is_err() {
            return false;
        }
        self.frames.insert(call, seq);
        self.ask(call);
        true
    }

    fn ask(&mut self, call: u64) {
        self.asked.push((self.ring.head(), (call, self.frames[&call])));
        self.writer.handle_promise(self.ring.head());
    }

    fn end(&mut self, call: u64) {
        let (frames, bytes, ending) = (self.frames[&call], 0, 1);
        let end = CallEnd {
            call: call * 10,
            epoch: epoch(call),
            frames,
            bytes,
            ending,
            ended_at: UnixMicros(1),
        };
        self.ring.append_end(&end).unwrap();
    }

    /// One turn of a shard, the journal's part of it.
    fn turn(&mut self) {
        self.io.submit(Wait::No).unwrap();
        let now = self.world.now();
        self.ring.set_now(now);
        while let Some(completion) = self.io.completion() {
            match completion.user_data.kind {
                OpKind::Write => {
                    let slot = WriteSlot(completion.user_data.index);
                    self.writer.handle_written(now, slot, completion.result, &mut self.ring);
                }
                OpKind::Sync => self.writer.handle_synced(now, completion.result, &mut self.ring),
                kind => panic!("{kind:?}"),
            }
        }
        self.writer.handle_turn(now, &mut self.ring);
        while let Some(operation) =
            self.writer.poll_operation(now, &mut self.ring, self.io.scratch())
        {
            match operation {
                Operation::Write { slot, write } => {
                    self.io.write(write, UserData::of_slot(OpKind::Write, slot.0));
                }
                Operation::Sync { file } => self.io.sync(file, UserData::lone(OpKind::Sync)),
            }
        }
        while let Some(request) = self.writer.poll_request() {
            match request {
                SegmentRequest::Prepare if self.segments_left == 0 => self.writer.handle_no_room(),
                SegmentRequest::Prepare => self.prepare(),
                SegmentRequest::Retire { .. } | SegmentRequest::Sealed => {
                    self.retired.push(request);
                }
            }
        }
        let reached = match self.writer.settings.level {
            AckLevel::Durable | AckLevel::Replicated => self.ring.durable(),
            AckLevel::Written => self.ring.written(),
            AckLevel::Received => self.ring.head(),
        };
        let kept =
            self.asked.extract_if(.., |(position, _)| *position <= reached).map(|(_, frame)| frame);
        self.kept.extend(kept);
    }

    fn prepare(&mut self) {
        self.segments_left -= 1;
        let (file, id) =
            (self.world.create_file(self.segment_size as usize), self.files.len() as u64 + 1);
        self.files.push((file, id));
        let uuid = SegmentUuid([id as u8; 16]);
        let headers = RecordHeaders::with_room(self.segment_size as usize);
        self.writer.handle_segment(PreparedSegment {
            id,
            uuid,
            file,
            size: self.segment_size,
            headers,
        });
    }

    fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Turns, with time passing, until every promise is kept.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.asked.is_empty() {
                return;
            }
            self.turn();
            self.world.advance(Duration::from_millis(1));
        }
        panic!("promises are not kept: {:?}, {:?}", self.asked.first(), self.writer);
    }

    fn file(&self, index: usize) -> FileHandle {
        self.files[index].0
    }

    /// The frames that could be read from the files after a power failure now. `survives` decides
    /// which bytes that are not durable remain.
    fn after_power_loss(&self, mut survives: impl FnMut() -> bool) -> BTreeSet<FrameId> {
        self.read(|world, file| world.crash_image(file, &mut survives))
    }

    fn read(&self, mut image: impl FnMut(&World, FileHandle) -> Vec<u8>) -> BTreeSet<FrameId> {
        self.files.iter().flat_map(|(file, _)| frames_in(&image(&self.world, *file))).collect()
    }
}

fn epoch(number: u64) -> Epoch {
    Epoch { boot: 1, micros: number, shard: 3 }
}

/// The whole batches of a segment: the number and size of each.
fn batches_in(image: &[u8]) -> Vec<(u64, usize)> {
    let Ok(header) = SegmentHeader::decode(image.first_chunk().unwrap()) else { return Vec::new() };
    let (mut at, mut batches) = (BLOCK_SIZE, Vec::new());
    while let Some(batch) = batch_at(image, at, &header) {
        batches.push((batch.header().number, batch.header().size as usize));
        at += batch.header().size as usize;
    }
    batches
}

/// Batches of a segment: the number of each, its offset, and the durable end that it states.
fn claims_in(image: &[u8]) -> Vec<(u64, u64, Option<u64>)> {
    let Ok(header) = SegmentHeader::decode(image.first_chunk().unwrap()) else { return Vec::new() };
    let (mut at, mut claims) = (BLOCK_SIZE, Vec::new());
    while let Some(batch) = batch_at(image, at, &header) {
        let header = batch.header();
        claims.push((header.number, at as u64, header.unsynced.durable_end(at as u64)));
        at += header.size as usize;
    }
    claims
}

fn batch_at<'a>(image: &'a [u8], at: usize, segment: &SegmentHeader) -> Option<BatchReader<'a>> {
    let batch = BatchReader::open(image.get(at..)?).ok()?;
    let belongs = batch.header().segment == segment.uuid
        && batch.header().lsn == Lsn(segment.start.0 + at as u64);
    belongs.then_some(batch)
}

/// Whole frames in a segment. The segment can be read by itself: each call's record is before its
/// first frame.
fn frames_in(image: &[u8]) -> Vec<FrameId> {
    let Ok(header) = SegmentHeader::decode(image.first_chunk().unwrap()) else { return Vec::new() };
    assert_eq!((header.shard, header.run), (3, RUN));
    let (mut at, mut calls, mut frames) = (BLOCK_SIZE, BTreeSet::new(), Vec::new());
    while let Some(batch) = batch_at(image, at, &header) {
        at += batch.header().size as usize;
        // A torn payload is for the reader to handle: the records after it do not count here.
        for record in batch.map_while(Result::ok) {
            let epoch = record.header.epoch.micros;
            match record.header.kind {
                RecordKind::Call => {
                    assert!(calls.insert(epoch), "call {epoch} twice in one segment")
                }
                RecordKind::Audio => {
                    assert!(calls.contains(&epoch), "no record of call {epoch} before its frames");
                    assert!(record.payload.iter().all(|byte| *byte == record.header.seq.0 as u8));
                    frames.push((epoch, record.header.seq.0));
                }
                RecordKind::End | RecordKind::Pad => {}
            }
        }
    }
    frames
}
