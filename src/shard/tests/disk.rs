//! The disk below a scripted shard, its store, and a reader of it that shares nothing with the
//! journal's own but the format of batches.

#![forbid(unsafe_code)]

use super::*;
use crate::ack_level::AckLevel;
use crate::archive::index::{IndexBuilder, SegmentIndex};
use crate::archive::layout::RunName;
use crate::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use crate::constants::BLOCK_SIZE;
use crate::format::batch::BatchReader;
use crate::format::{RecordKind, SegmentUuid};
use crate::io::FileHandle;
use crate::journal::frame_ring::RecordHeaders;
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{Backlog, PreparedSegment, SegmentRequest, WriterSettings};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};

/// The run that scripted shards belong to.
pub(super) const RUN: RunName =
    RunName { boot: 1, started_at: UnixMicros(SCRIPT_START_UNIX * 1_000_000), pid: 7 };

pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a shard of a test writes, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskSettings {
    pub(super) level: AckLevel,
    pub(super) segment_size: usize,
    pub(super) backlog: Backlog,
    /// With the level `replicated`; `level` is `durable` then.
    pub(super) replication: Option<ReplicationSettings>,
}

/// A segment that the shard has done with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retired {
    /// How many events of the log were before it.
    pub(super) position: usize,
    pub(super) id: u64,
    pub(super) size: u64,
    pub(super) is_fenced: bool,
}

/// Chunks of audio: by turn, frame and offset, with whether one is the last of its frame.
type Chunks = BTreeMap<(CallEpoch, u64, u32), (Vec<u8>, bool)>;

/// Complete frames: by turn and number.
pub(super) type Frames = BTreeMap<(CallEpoch, u64), Vec<u8>>;

/// Answers the shard's requests for segments, as the store does.
pub(super) struct Disk {
    pub(super) settings: DiskSettings,
    requests: Receiver<(usize, SegmentRequest)>,
    mailbox: MailboxSender,
    /// Segment 1, 2, 3 …
    pub(super) files: Vec<FileHandle>,
    pub(super) retired: Vec<Retired>,
    pub(super) has_room: bool,
    is_owing: bool,
    /// Segments that were noted whole, and held against what was written.
    pub(super) noted: u64,
    /// Record headers that are done with.
    spare_headers: Vec<RecordHeaders>,
    shard: u16,
    /// What is in segments that do not change any more.
    known: HashMap<u64, Chunks>,
}

impl Disk {
    /// A disk, and how the shard with this number asks it for segments.
    pub(super) fn new(
        settings: DiskSettings,
        shard: u16,
        mailbox: MailboxSender,
    ) -> (Disk, ShardJournalConfig) {
        let (sender, requests) = sync_channel(2);
        let writer = WriterSettings {
            level: settings.level,
            journal: JournalSettings { stall_timeout: STALL_TIMEOUT, ..JournalSettings::default() },
            backlog: settings.backlog,
            shard,
            run: RUN.number(),
            clock: crate::clock::JournalClock::default(),
        };
        let (files, retired, known) = (Vec::new(), Vec::new(), HashMap::new());
        let (noted, spare_headers, has_room, is_owing) = (0, Vec::new(), true, false);
        let disk = Disk {
            settings,
            requests,
            mailbox,
            files,
            retired,
            has_room,
            is_owing,
            noted,
            spare_headers,
            shard,
            known,
        };
        (
            disk,
            ShardJournalConfig {
                settings: writer,
                requests: sender,
                first: None,
                replication: settings.replication,
            },
        )
    }

    /// Does what the shard has asked for. Whether mail for it has come of that, which wakes it.
    pub(super) fn serve(&mut self, world: &World) -> bool {
        let mut has_mail = false;
        while let Ok((_, request)) = self.requests.try_recv() {
            has_mail |= request == SegmentRequest::Prepare;
            match request {
                SegmentRequest::Prepare if self.has_room => self.give(world),
                SegmentRequest::Prepare => {
                    self.is_owing = true;
                    self.mailbox.try_send(Message::NoRoom).expect("a mailbox has room for it");
                }
                SegmentRequest::Sealed => {}
                SegmentRequest::Retire { id, size, is_fenced, headers } => {
                    if !is_fenced && headers.notes(0).is_some() {
                        self.hold_against_what_was_written(world, id, size, &headers);
                    }
                    self.spare_headers.push(headers);
                    self.retired.push(Retired { position: world.log_size(), id, size, is_fenced });
                }
            }
        }
        has_mail
    }

    /// The index made from what the writer noted is the one that is made by reading the segment.
    fn hold_against_what_was_written(
        &mut self,
        world: &World,
        id: u64,
        size: u64,
        headers: &RecordHeaders,
    ) {
        let (mut image, run) = (world.durable_image(self.files[id as usize - 1]), RUN.number());
        image.truncate(size as usize);
        let place =
            Place { run: RUN, shard: self.shard, id, after: None, end: None, is_fresh: false };
        let mut scan =
            SegmentScan::open(&image[..], place, ScanOptions::default()).unwrap().unwrap();
        scan.set_durable_end(size);
        let mut builder = IndexBuilder::default();
        while scan.advance().unwrap() == Advance::Batch {
            scan.records().for_each(|found| builder.add(&found));
        }
        let read: SegmentIndex = builder.finish(run, self.shard, id, &scan);
        let noted = IndexBuilder::of_headers(headers, run, self.shard, id, size, read.ended_at);
        assert_eq!(noted.as_ref(), Some(&read), "segment {id}");
        self.noted += 1;
    }

    /// From now on there is room for segments, or none.
    pub(super) fn set_room(&mut self, world: &World, has_room: bool) {
        self.has_room = has_room;
        if has_room && std::mem::take(&mut self.is_owing) {
            self.give(world);
        }
    }

    fn give(&mut self, world: &World) {
        let size = self.settings.segment_size;
        let file = world.create_file(size);
        self.files.push(file);
        let id = self.files.len() as u64;
        let (uuid, size) = (SegmentUuid([id as u8; 16]), size as u64);
        let headers =
            self.spare_headers.pop().unwrap_or_else(|| RecordHeaders::with_room(size as usize));
        let segment = PreparedSegment { id, uuid, file, size, headers };
        self.mailbox.try_send(Message::Segment(segment)).expect("a mailbox has room for it");
    }

    /// The file that is being written, and the one at hand.
    pub(super) fn newest(&self) -> impl Iterator<Item = FileHandle> {
        self.files.iter().rev().take(2).copied()
    }

    /// All frames that a power loss now would surely leave; or, where that is all that is promised,
    /// a kill.
    pub(super) fn frames(&mut self, world: &World) -> Frames {
        let mut all = Chunks::new();
        for (index, file) in self.files.iter().enumerate() {
            let id = index as u64 + 1;
            if let Some(chunks) = self.known.get(&id) {
                all.extend(chunks.iter().map(|(place, chunk)| (*place, chunk.clone())));
                continue;
            }
            let image = match self.settings.level {
                AckLevel::Durable | AckLevel::Replicated => world.durable_image(*file),
                AckLevel::Written | AckLevel::Received => world.live_image(*file),
            };
            let chunks = chunks_in(&image);
            if self.retired.iter().any(|retired| retired.id == id) {
                self.known.insert(id, chunks.clone());
            }
            all.extend(chunks);
        }
        let (mut frames, mut open) = (Frames::new(), (CallEpoch::default(), 0, Vec::new()));
        for ((epoch, seq, offset), (bytes, is_last)) in all {
            if (open.0, open.1) != (epoch, seq) {
                open = (epoch, seq, Vec::new());
            }
            if open.2.len() == offset as usize {
                open.2.extend(bytes);
                if is_last {
                    frames.insert((epoch, seq), std::mem::take(&mut open.2));
                }
            }
        }
        frames
    }
}

/// The chunks in a segment, as far as its batches go.
fn chunks_in(image: &[u8]) -> Chunks {
    let (mut chunks, mut at) = (Chunks::new(), BLOCK_SIZE);
    while let Some(Ok(batch)) = image.get(at..).map(BatchReader::open) {
        at += batch.header().size as usize;
        for record in
            batch.map_while(Result::ok).filter(|record| record.header.kind == RecordKind::Audio)
        {
            let header = record.header;
            chunks.insert(
                (header.epoch, header.seq.0, header.offset),
                (record.payload.to_vec(), header.last),
            );
        }
    }
    chunks
}
