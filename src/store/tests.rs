//! The store on a real directory.

use super::*;
use crate::archive::image::Image;
use crate::archive::index::SegmentIndex;
use crate::archive::layout::RunName;
use crate::archive::lock;
use crate::call::{CallIdentity, CallKey, Epoch, Seq};
use crate::constants::BLOCK_SIZE;
use crate::format::{HEADER_SIZE, Lsn};
use crate::io::memory::Region;
use crate::journal::frame_ring::{CallStart, Chunk, FrameRing, RING_SIZE_MIN};
use crate::proto::MaskKey;
use crate::proto::mask::Kernel;
use disk::Disk;
use indexer::Outcome;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

mod ending;
mod fencing;
mod recycling;

const SEGMENT_SIZE: u64 = 64 * 1024;

/// Tells each shard on a channel of its own; none of them has to listen.
fn tell_on(shards: Vec<Sender<StoreEvent>>) -> impl Fn(usize, StoreEvent) + Send + 'static {
    move |shard, event| {
        let _ = shards[shard].send(event);
    }
}

struct Fixture {
    data: tempfile::TempDir,
    store: Option<StoreThread>,
    requests: Option<SyncSender<(usize, SegmentRequest)>>,
    told: Receiver<StoreEvent>,
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
        let config = JournalConfig::new(data.path().join("data"), settings);
        let run = Run::begin(config, 1).unwrap();
        let shard_dir = run.shard_dirs[0].clone();
        let (tell, told) = channel();
        let (requests, receiver) = sync_channel(8);
        let store = run.start(receiver, tell_on(vec![tell])).unwrap();
        Fixture { data, store: Some(store), requests: Some(requests), told, shard_dir }
    }

    fn ask(&self, request: SegmentRequest) {
        self.requests.as_ref().unwrap().send((0, request)).unwrap();
    }

    fn told(&self) -> StoreEvent {
        self.told.recv_timeout(Duration::from_secs(10)).expect("told nothing in 10 s")
    }

    fn segment(&self) -> PreparedSegment {
        self.ask(SegmentRequest::Prepare);
        match self.told() {
            StoreEvent::Segment(segment) => segment,
            other => panic!("{other:?}"),
        }
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

    /// Writes bytes in place of a header, as a shard would.
    fn begin(&self, id: u64) {
        File::options()
            .write(true)
            .open(self.path(id))
            .unwrap()
            .write_all_at(&[1; BLOCK_SIZE], 0)
            .unwrap();
    }

    fn end(&mut self) {
        self.requests = None;
        if let Some(store) = self.store.take() {
            store.join();
        }
    }
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
        fixture.ask(SegmentRequest::Retire {
            id: 1,
            size: 8192,
            is_fenced: false,
            headers: RecordHeaders::default(),
        });
        fixture.begin(2);
        fixture.ask(SegmentRequest::Retire {
            id: 2,
            size: 4096,
            is_fenced: true,
            headers: RecordHeaders::default(),
        });
        assert_eq!(fixture.segment().id, 3);
        assert!(lock::shared_within(&file, Duration::from_secs(5)).unwrap());
        assert_eq!(std::fs::metadata(fixture.path(1)).unwrap().len(), 8192);
        assert_eq!(
            std::fs::metadata(fixture.path(2)).unwrap().len(),
            SEGMENT_SIZE,
            "a fenced file stays as it is"
        );
        fixture.end();
        assert!(!fixture.path(3).exists(), "prepared and never used");
        assert!(fixture.path(1).exists() && fixture.path(2).exists());
    }
}

#[test]
fn the_index_is_made_of_the_writers_notes_and_no_segment_is_read_back() {
    let mut fixture = Fixture::start(|_| ());
    let PreparedSegment { id, uuid, mut headers, .. } = fixture.segment();
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
    let room = SEGMENT_SIZE / RECORD_HEADERS_SHARE;
    assert!(room as usize >= 9 * HEADER_SIZE, "the store gives space for it");
    let batch = ring.poll_sealed().unwrap();
    ring.hand_over_headers(&batch, &mut headers);
    // None of its records is on the disk.
    fixture.begin(id);
    fixture.ask(SegmentRequest::Retire { id, size: 8192, is_fenced: false, headers });
    let file = File::open(fixture.path(id)).unwrap();
    assert!(lock::shared_within(&file, Duration::from_secs(5)).unwrap());
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
    let obstacle = layout::preparing_path(&fixture.shard_dir, 1);
    std::fs::create_dir(&obstacle).unwrap();
    fixture.ask(SegmentRequest::Prepare);
    assert!(matches!(fixture.told(), StoreEvent::NoRoom));
    std::fs::remove_dir(&obstacle).unwrap();
    assert!(matches!(fixture.told(), StoreEvent::Segment(PreparedSegment { id: 1, .. })));
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
fn retention_removes_the_oldest_that_is_not_written_or_read() {
    let mut fixture = Fixture::start(|_| ());
    for id in 1..=5 {
        assert_eq!(fixture.segment().id, id);
        fixture.begin(id);
        std::fs::write(layout::index_path(&fixture.shard_dir, id), "x").unwrap();
        if id < 5 {
            fixture.ask(SegmentRequest::Retire {
                id,
                size: SEGMENT_SIZE,
                is_fenced: true,
                headers: RecordHeaders::default(),
            });
        }
    }
    // The answer comes after those to the other requests. The files are cut by now, and stay as
    // they are.
    fixture.segment();
    for id in 1..=5 {
        let when = SystemTime::now() - Duration::from_secs(1000 - id * 100);
        File::options().write(true).open(fixture.path(id)).unwrap().set_modified(when).unwrap();
    }
    let reader = File::open(fixture.path(1)).unwrap();
    assert!(lock::shared_within(&reader, Duration::from_secs(5)).unwrap());
    let data_dir = fixture.data.path().join("data");
    let enforce =
        |bytes, age| retention::enforce(&data_dir, bytes, age, SystemTime::now()).unwrap().segments;
    let left = || layout::segments(&fixture.shard_dir).unwrap();
    assert_eq!(enforce(None, None), 0);
    // Five indexes count too.
    let indexes = 5 * BLOCK_SIZE as u64;
    assert_eq!(enforce(Some(6 * SEGMENT_SIZE + indexes), None), 0);
    assert_eq!(enforce(Some(4 * SEGMENT_SIZE + indexes), None), 2);
    assert_eq!(left(), [1, 4, 5, 6], "the first is being read");
    assert!(
        !layout::index_path(&fixture.shard_dir, 2).exists()
            && layout::index_path(&fixture.shard_dir, 4).exists()
    );
    assert_eq!(enforce(None, Some(Duration::from_secs(500))), 1);
    drop(reader);
    assert_eq!(enforce(None, Some(Duration::from_secs(500))), 1);
    assert_eq!(enforce(Some(1), Some(Duration::ZERO)), 0, "the rest is being written");
    assert_eq!(left(), [5, 6]);
    fixture.end();
}

#[test]
fn prepared_segments_of_a_killed_process_are_removed_and_written_ones_stay() {
    let mut fixture = Fixture::start(|_| ());
    fixture.segment();
    fixture.begin(1);
    fixture.segment();
    // As after a kill: its locks are gone, its files are not.
    for id in [3, 4] {
        std::fs::copy(fixture.path(id - 2), fixture.path(id)).unwrap();
    }
    let [left, made] = [5, 6].map(|id| layout::preparing_path(&fixture.shard_dir, id));
    std::fs::write(&left, "").unwrap();
    let maker = Disk::probe(fixture.data.path())
        .and_then(|disk| disk.create(&made, SEGMENT_SIZE, false))
        .unwrap();
    let data_dir = fixture.data.path().join("data");
    retention::tidy(&data_dir, SystemTime::now() + Duration::from_secs(3_600)).unwrap();
    assert_eq!(layout::segments(&fixture.shard_dir).unwrap(), [1, 2, 3]);
    assert!(!left.exists() && made.exists() && fixture.shard_dir.exists());
    drop(maker);
    retention::tidy(&data_dir, SystemTime::now()).unwrap();
    assert!(!made.exists());
    fixture.end();
    // Once empty, it is removed with its run; the data directory stays.
    std::fs::remove_file(fixture.path(1)).unwrap();
    std::fs::remove_file(fixture.path(3)).unwrap();
    retention::tidy(&data_dir, SystemTime::now() + Duration::from_secs(3_600)).unwrap();
    retention::tidy(&data_dir, SystemTime::now() + Duration::from_secs(7_200)).unwrap();
    assert_eq!(layout::runs(&data_dir).unwrap(), []);
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
fn indexes_without_their_segments_go_and_others_stay() {
    let mut fixture = Fixture::start(|_| ());
    fixture.segment();
    fixture.begin(1);
    let index = |id| layout::index_path(&fixture.shard_dir, id);
    let unfinished = index(3).with_extension("index-4711");
    let foreign = fixture.shard_dir.join("notes.index");
    for path in [&index(1), &index(2), &unfinished, &foreign] {
        std::fs::write(path, "x").unwrap();
    }
    retention::tidy(&fixture.data_dir(), SystemTime::now()).unwrap();
    assert!(index(1).exists() && !index(2).exists() && foreign.exists());
    assert!(unfinished.exists(), "new: another process may be writing it");
    retention::tidy(&fixture.data_dir(), SystemTime::now() + Duration::from_secs(3_600)).unwrap();
    assert!(index(1).exists() && !unfinished.exists() && foreign.exists());
    fixture.end();
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
    fixture.ask(SegmentRequest::Retire {
        id: 1,
        size: SEGMENT_SIZE,
        is_fenced: true,
        headers: RecordHeaders::default(),
    });
    fixture.segment();
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
