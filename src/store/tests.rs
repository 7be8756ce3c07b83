//! The store on a real directory.

use super::error::trouble;
use super::*;
use crate::archive::image::Image;
use crate::archive::index::SegmentIndex;
use crate::archive::layout::{self, RunName};
use crate::archive::lock;
use crate::archive::marks::Marks;
use crate::archive::pins::Pins;
use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::clock::UnixMicros;
use crate::constants::{BLOCK_SIZE, RECORD_HEADERS_SHARE};
use crate::format::{HEADER_SIZE, Lsn, SegmentHeader, SegmentUuid};
use crate::io::memory::Region;
use crate::journal::frame_ring::{CallStart, Chunk, FrameRing, RING_SIZE_MIN, RecordHeaders};
use crate::journal::settings::JournalSettings;
use crate::journal::writer::{PreparedSegment, SegmentRequest};
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use indexer::Outcome;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

mod budget;
mod ending;
mod fencing;
mod leftovers;
mod live;
mod removing;
mod reuse;
mod serving;
mod sizes;

const SEGMENT_SIZE: u64 = 64 * 1024;

/// Tells each shard on a channel of its own; none of them has to listen.
fn tell_on(
    shards: Vec<Sender<StoreEvent>>,
) -> impl Fn(usize, StoreEvent) -> Result<(), StoreEvent> + Send + Sync + 'static {
    move |shard, event| {
        let _ = shards[shard].send(event);
        Ok(())
    }
}

/// Waits until something holds that other threads bring about.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Fixture {
    data: tempfile::TempDir,
    store: Option<StoreThread>,
    requests: Option<SyncSender<(usize, SegmentRequest)>>,
    told: Receiver<StoreEvent>,
    first: RefCell<Option<PreparedSegment>>,
    shard_dir: PathBuf,
}

impl Fixture {
    fn start(adjust: impl FnOnce(&mut JournalSettings)) -> Fixture {
        let data = tempfile::tempdir().unwrap();
        Fixture::start_in(data, adjust)
    }

    fn start_in(data: tempfile::TempDir, adjust: impl FnOnce(&mut JournalSettings)) -> Fixture {
        let mut settings = JournalSettings {
            segment_size: SEGMENT_SIZE,
            reserve: Some(1),
            ..JournalSettings::default()
        };
        adjust(&mut settings);
        Fixture::start_with(data, |config| config.settings = settings)
    }

    fn start_with(data: tempfile::TempDir, adjust: impl FnOnce(&mut JournalConfig)) -> Fixture {
        let settings = JournalSettings {
            segment_size: SEGMENT_SIZE,
            reserve: Some(1),
            ..JournalSettings::default()
        };
        let mut config = JournalConfig::new(data.path().join("data"), settings);
        config.level = crate::ack_level::AckLevel::Written;
        // The machine's directory for temporary files may be in memory.
        adjust(&mut config);
        let run = Run::begin(config, 1).unwrap();
        let shard_dir = run.shard_dirs[0].clone();
        let (tell, told) = channel();
        let (requests, receiver) = sync_channel(8);
        let (store, mut first) = run.start(receiver, tell_on(vec![tell])).unwrap();
        let first = RefCell::new(first.remove(0));
        Fixture { data, store: Some(store), requests: Some(requests), told, first, shard_dir }
    }

    fn ask(&self, request: SegmentRequest) {
        self.requests.as_ref().unwrap().send((0, request)).unwrap();
    }

    fn told(&self) -> StoreEvent {
        self.told.recv_timeout(Duration::from_secs(60)).expect("told nothing in a minute")
    }

    /// The next segment.
    fn segment(&self) -> PreparedSegment {
        if let Some(first) = self.first.take() {
            return first;
        }
        self.ask(SegmentRequest::Prepare);
        match self.told() {
            StoreEvent::Segment(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    fn retire(&self, id: u64, size: u64, is_fenced: bool) {
        let headers = RecordHeaders::default();
        self.ask(SegmentRequest::Retire { id, size, is_fenced, headers });
    }

    /// Retires a segment, and waits until the store is done with it.
    fn retire_and_wait(&self, id: u64, size: u64) {
        self.retire(id, size, false);
        let file = File::open(self.path(id)).unwrap();
        assert!(lock::shared_within(&file, Duration::from_secs(60)).unwrap());
    }

    fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn run(&self) -> RunName {
        let name = self.shard_dir.parent().and_then(Path::file_name).unwrap();
        RunName::parse(name.to_str().unwrap()).unwrap()
    }

    fn path(&self, id: u64) -> PathBuf {
        layout::segment_path(&self.shard_dir, id)
    }

    fn ids(&self) -> Vec<u64> {
        layout::segments(&self.shard_dir).unwrap()
    }

    /// Writes bytes in place of a header, as a shard would.
    fn begin(&self, id: u64) {
        File::options()
            .write(true)
            .open(self.path(id))
            .unwrap()
            .write_all_at(&[1; BLOCK_SIZE], 0)
            .unwrap();
    }

    /// Ends the node. Returns its data directory.
    fn end(&mut self) {
        self.requests = None;
        if let Some(store) = self.store.take() {
            store.join();
        }
    }

    fn end_for_next(mut self) -> tempfile::TempDir {
        self.end();
        self.data
    }
}

fn begin(data_dir: &Path, settings: JournalSettings, shard_count: usize) -> Run {
    // The machine's directory for temporary files may be in memory.
    let level = crate::ack_level::AckLevel::Written;
    let config = JournalConfig { level, ..JournalConfig::new(data_dir.to_owned(), settings) };
    Run::begin(config, shard_count).unwrap()
}

/// Writes the header of a segment that began at a journal time.
fn write_header(shard_dir: &Path, run: RunName, id: u64, created_at: u64) {
    let header = SegmentHeader {
        version: crate::format::segment::VERSION,
        shard: 0,
        run: run.number(),
        id,
        uuid: SegmentUuid([id as u8; 16]),
        predecessor: SegmentUuid::default(),
        predecessor_end: Lsn(0),
        start: Lsn(0),
        size: SEGMENT_SIZE,
        created_at: UnixMicros(created_at),
    };
    let mut block = [0; BLOCK_SIZE];
    header.encode(&mut block);
    let path = layout::segment_path(shard_dir, id);
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all_at(&block, 0).unwrap();
}

#[test]
fn segments_are_allocated_locked_and_private_and_cut_and_unlocked_when_they_are_retired() {
    for prefill in [false, true] {
        let mut fixture = Fixture::start(|config| config.prefill = prefill);
        let (first, second) = (fixture.segment(), fixture.segment());
        assert_eq!((first.id, second.id, first.size), (1, 2, SEGMENT_SIZE));
        assert!(first.uuid != second.uuid && first.uuid != SegmentUuid::default());
        let file = File::open(fixture.path(1)).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (SEGMENT_SIZE, 0o600));
        let data_dir = std::fs::metadata(fixture.data.path().join("data")).unwrap();
        assert_eq!(data_dir.permissions().mode() & 0o777, 0o700);
        assert!(!lock::try_shared(&file).unwrap(), "its writer holds it");
        fixture.begin(1);
        fixture.retire(1, 8192, false);
        fixture.begin(2);
        fixture.retire(2, 4096, true);
        assert_eq!(fixture.segment().id, 3);
        assert!(lock::shared_within(&file, Duration::from_secs(60)).unwrap());
        assert_eq!(std::fs::metadata(fixture.path(1)).unwrap().len(), 8192);
        assert_eq!(
            std::fs::metadata(fixture.path(2)).unwrap().len(),
            SEGMENT_SIZE,
            "a fenced file stays as it is"
        );
        fixture.end();
        assert!(!fixture.path(3).exists(), "prepared and never used");
        assert!(fixture.path(1).exists() && fixture.path(2).exists());
        let marks = Marks::load(&fixture.shard_dir).unwrap().unwrap();
        assert_eq!((marks.shard_count, marks.removed_to, marks.ended), (1, 0, Some(2)));
    }
}

/// Notes a call with five frames, in one durable batch of 4,096 bytes. Returns its epoch.
fn note_call(headers: &mut RecordHeaders, uuid: SegmentUuid) -> Epoch {
    let mut ring = FrameRing::new(Region::allocate(RING_SIZE_MIN).unwrap(), Kernel::detect());
    ring.keep_headers(4096);
    let epoch = Epoch { boot: 1, micros: 2, shard: 0 };
    let identity = CallIdentity { tenant: "tenant".into(), interaction: "call".into() };
    let (call, started_at) = (CallKey(42), UnixMicros(1));
    let start = CallStart {
        call,
        identity: &identity,
        epoch,
        sample_rate: 8_000,
        started_at,
        token_issued_at: 0,
        token_expires_at: 0,
        peer: None,
    };
    ring.append_call(&start).unwrap();
    for seq in (1..=5).map(Seq) {
        let chunk =
            Chunk { call: 42, epoch, seq, offset: 0, last: true, received_at: UnixMicros(1) };
        ring.append_audio(chunk, &[0; 100], MaskKey::default()).unwrap();
    }
    ring.seal();
    headers.begin(uuid, Lsn(0));
    let batch = ring.poll_sealed().unwrap();
    ring.hand_over_headers(&batch, headers);
    headers.publish();
    epoch
}

#[test]
fn the_index_is_made_of_the_writers_notes_and_no_segment_is_read_back() {
    let mut fixture = Fixture::start(|_| ());
    let PreparedSegment { id, uuid, mut headers, .. } = fixture.segment();
    let room = SEGMENT_SIZE / RECORD_HEADERS_SHARE;
    assert!(room as usize >= 9 * HEADER_SIZE, "the store gives space for it");
    let epoch = note_call(&mut headers, uuid);
    // None of its records is on the disk.
    fixture.begin(id);
    fixture.ask(SegmentRequest::Retire { id, size: 8192, is_fenced: false, headers });
    let file = File::open(fixture.path(id)).unwrap();
    assert!(lock::shared_within(&file, Duration::from_secs(60)).unwrap());
    let index = SegmentIndex::load(&fixture.shard_dir, id, uuid)
        .expect("an index before the segment is unlocked");
    assert_eq!((index.end, index.durable_end, index.batches, index.records), (8192, 8192, 1, 6));
    assert_eq!(
        (index.epochs[0].call, index.epochs[0].epoch, index.epochs[0].frames.count()),
        (42, epoch, 5)
    );
    fixture.end();
}

#[test]
fn without_room_the_shard_is_told_and_gets_its_segment_once_there_is_some() {
    let mut fixture = Fixture::start(|config| config.segment_size = 1 << 60);
    fixture.ask(SegmentRequest::Prepare);
    assert!(matches!(fixture.told(), StoreEvent::NoRoom));
    fixture.end();

    // The same, and then room returns: remove a directory that blocks the file's name.
    let mut fixture = Fixture::start(|_| ());
    assert_eq!(fixture.segment().id, 1);
    let obstacle = layout::preparing_path(&fixture.shard_dir, 2);
    std::fs::create_dir(&obstacle).unwrap();
    fixture.ask(SegmentRequest::Prepare);
    assert!(matches!(fixture.told(), StoreEvent::NoRoom));
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(matches!(fixture.told(), StoreEvent::Segment(PreparedSegment { id: 2, .. })));
    fixture.end();
}

#[test]
fn a_reserve_larger_than_the_disk_is_told_at_once() {
    let mut fixture = Fixture::start(|config| config.reserve = Some(u64::MAX));
    assert!(matches!(fixture.told(), StoreEvent::Reserve { is_low: true }));
    fixture.end();
}

#[test]
fn a_reserve_of_nothing_is_never_reached() {
    let mut fixture = Fixture::start(|config| config.reserve = Some(0));
    // The free space is checked before the first request, so mail about it would come first.
    assert_eq!(fixture.segment().id, 1);
    fixture.end();
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_that_says_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Run::begin(JournalConfig::new(path.clone(), JournalSettings::default()), 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--data-dir") && error.contains(&path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn a_sealed_segment_that_reads_short_gets_no_index() {
    let mut fixture = Fixture::start(|_| ());
    let mut image = Image::new(fixture.run(), 0, SEGMENT_SIZE as usize).unwrap();
    let epoch = image.start("acme", "one", 8_000);
    // No batch says that an earlier one was durable.
    image.hold_syncs(true);
    for _ in 0..3 {
        image.frame(epoch, &[7; 5_000]);
        image.seal();
    }
    let segment = &image.segments()[0];
    let (last, size) = (segment.batches[2].clone(), segment.end_of_batches() as u64);
    fixture.segment();
    let index = layout::index_path(&fixture.shard_dir, 1);
    let sealed = || indexer::Sealed {
        run: fixture.run(),
        shard: 0,
        directory: fixture.shard_dir.clone(),
        id: 1,
        size: Some(size),
    };
    fixture.retire(1, SEGMENT_SIZE, true);
    let file = File::open(fixture.path(1)).unwrap();
    assert!(lock::shared_within(&file, Duration::from_secs(60)).unwrap());
    drop(file);
    // The disk lost the last batch, or everything.
    for lost in [last.clone(), 0..last.end] {
        let mut bytes = segment.bytes.clone();
        bytes[lost.clone()].fill(0);
        std::fs::write(fixture.path(1), &bytes[..size as usize]).unwrap();
        assert_eq!(indexer::index(sealed()).unwrap(), Outcome::Short, "{lost:?}");
        assert!(!index.exists(), "{lost:?}");
    }
    // A lost batch in the middle, or a lost end of the last one (a payload and the pad), is damage:
    // the whole segment was durable. The index says so for later readers.
    for (lost, damages) in
        [(segment.batches[1].clone(), 1), (last.end - BLOCK_SIZE..last.end, 2), (0..0, 0)]
    {
        let mut bytes = segment.bytes.clone();
        bytes[lost].fill(0);
        std::fs::write(fixture.path(1), &bytes[..size as usize]).unwrap();
        assert_eq!(indexer::index(sealed()).unwrap(), Outcome::Stored);
        let stored = SegmentIndex::decode(&std::fs::read(&index).unwrap()).unwrap();
        assert_eq!(
            (stored.damage_count, stored.bytes_unsynced, stored.durable_end),
            (damages, 0, size)
        );
    }
    std::fs::remove_file(fixture.path(1)).unwrap();
    assert_eq!(indexer::index(sealed()).unwrap(), Outcome::Gone);
    fixture.end();
}

#[test]
fn a_full_disk_and_one_that_fails_are_told_apart() {
    let text = |errno: rustix::io::Errno| trouble(Path::new("/d"), &errno.into());
    for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
        assert!(
            text(errno).starts_with("no room for a segment in /d (")
                && text(errno).contains("--retain-bytes")
        );
    }
    for errno in [
        rustix::io::Errno::IO,
        rustix::io::Errno::ROFS,
        rustix::io::Errno::ACCESS,
        rustix::io::Errno::FBIG,
    ] {
        assert!(text(errno).starts_with("cannot make a segment in /d ("), "{}", text(errno));
    }
    assert!(text(rustix::io::Errno::FBIG).contains("journal.segment_size"));
}
