//! Segments made of the files of old ones: what counts towards the limit, and what readers see at
//! each moment.

use super::*;
use crate::archive::reader::Journal;
use crate::archive::recovery::{RecoveryReport, verify};
use crate::call::Epoch;
use std::os::unix::fs::MetadataExt;

/// Segments within the limit: two in use, and two sealed ones.
const KEPT: u64 = 4;

/// A store, and the bytes that a shard's writer would write to its segments.
struct Writing {
    fixture: Fixture,
    image: Image,
    epoch: Epoch,
}

impl Writing {
    fn start(adjust: impl FnOnce(&mut JournalSettings)) -> Writing {
        let fixture = Fixture::start(|config| {
            config.retain_bytes = Some(KEPT * SEGMENT_SIZE);
            adjust(config);
        });
        let mut image = Image::new(fixture.run(), 0, SEGMENT_SIZE as usize).unwrap();
        let epoch = image.start("acme", "one", 8_000);
        Writing { fixture, image, epoch }
    }

    /// Plans the contents of the next segment: different frames, up to its end.
    fn plan(&mut self) {
        for _ in 0..6 {
            let seq = self.image.call_epoch(self.epoch).unwrap().frames + 1;
            self.image.pass(1_000);
            self.image.frame(self.epoch, &[seq as u8 | 1; 8_000]);
            self.image.seal();
        }
        self.image.roll();
    }

    /// Gets a segment, fills it and retires it. Returns its file's inode.
    fn fill(&mut self, id: u64) -> u64 {
        let prepared = self.fixture.segment();
        assert_eq!((prepared.id, prepared.size), (id, SEGMENT_SIZE));
        let inode = self.inode(id);
        self.plan();
        self.write(id, SEGMENT_SIZE as usize);
        inode
    }

    /// Writes the start of a planned segment: `size` bytes, or up to its batches' end.
    fn write(&self, id: u64, size: usize) {
        let segment = &self.image.segments()[id as usize - 1];
        let size = size.min(segment.end_of_batches());
        let file = File::options().write(true).open(self.fixture.path(id)).unwrap();
        file.write_all_at(&segment.bytes[..size], 0).unwrap();
    }

    /// Retires it and waits for its index. Until then it is being read and cannot be recycled.
    fn retire(&self, id: u64) {
        let size = self.image.segments()[id as usize - 1].end_of_batches() as u64;
        self.fixture.ask(SegmentRequest::Retire {
            id,
            size,
            is_fenced: false,
            headers: RecordHeaders::default(),
        });
        let index = layout::index_path(&self.fixture.shard_dir, id);
        for _ in 0..2_000 {
            let file = File::open(self.fixture.path(id)).unwrap();
            if index.exists() && lock::try_exclusive(&file).unwrap() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no index in 10 s");
    }

    fn inode(&self, id: u64) -> u64 {
        std::fs::metadata(self.fixture.path(id)).unwrap().ino()
    }

    fn frames_before(&self, id: u64) -> u64 {
        6 * (id - 1)
    }

    /// The data directory as a kill would leave it: the files without their locks.
    fn crash(&self) -> tempfile::TempDir {
        let left = tempfile::tempdir().unwrap();
        let run = self.fixture.run();
        let shard_dir = layout::create_shard_dir(left.path(), &run, 0).unwrap();
        for entry in std::fs::read_dir(&self.fixture.shard_dir).unwrap().flatten() {
            std::fs::copy(entry.path(), shard_dir.join(entry.file_name())).unwrap();
        }
        left
    }
}

/// Reads back the frames of the only call; each must have its own bytes.
fn read_back(data_dir: &Path) -> (Vec<u64>, RecoveryReport) {
    let journal = Journal::open(data_dir).unwrap();
    let report = verify(&journal, &mut || {}).unwrap();
    let catalog = journal.catalog(&mut || {}).unwrap();
    assert!(catalog.calls.len() <= 1 && catalog.nameless.is_empty(), "{catalog:?}");
    let mut seqs = Vec::new();
    for call_epoch in catalog.calls.iter().flat_map(|call| &call.epochs) {
        let mut frames = journal.frames(call_epoch);
        while let Some(frame) = frames.next_frame().unwrap() {
            assert!(
                frame.audio.len() == 8_000
                    && frame.audio.iter().all(|byte| *byte == frame.seq.0 as u8 | 1)
            );
            seqs.push(frame.seq.0);
        }
    }
    (seqs, report)
}

#[test]
fn at_the_limit_each_segment_reuses_the_oldest_ones_file_and_the_limit_holds() {
    for prefill in [false, true] {
        let mut writing = Writing::start(|config| config.prefill = prefill);
        let mut inodes = Vec::new();
        for id in 1..=20 {
            inodes.push(writing.fill(id));
            let held = retention::bytes_held(&writing.fixture.data_dir()).unwrap();
            assert!(held <= KEPT * SEGMENT_SIZE, "{held} bytes with segment {id}");
            writing.retire(id);
        }
        assert_eq!(layout::segments(&writing.fixture.shard_dir).unwrap(), [17, 18, 19, 20]);
        for (position, inode) in inodes.iter().enumerate().skip(KEPT as usize) {
            assert_eq!(*inode, inodes[position - KEPT as usize], "segment {}", position + 1);
        }
        let (seqs, report) = read_back(&writing.fixture.data_dir());
        assert!(
            seqs.into_iter().eq(writing.frames_before(17) + 1..=writing.frames_before(21))
                && report.is_sound(),
            "{report}"
        );
        writing.fixture.end();
    }
}

#[test]
fn a_recycled_segment_cut_off_anywhere_shows_its_own_frames_and_no_old_ones() {
    let mut writing = Writing::start(|_| ());
    for id in 1..=4 {
        writing.fill(id);
        writing.retire(id);
    }
    let prepared = writing.fixture.segment();
    assert_eq!(layout::segments(&writing.fixture.shard_dir).unwrap(), [2, 3, 4, prepared.id]);
    let stale = std::fs::read(writing.fixture.path(5)).unwrap();
    assert!(stale[..2 * BLOCK_SIZE].iter().all(|byte| *byte == 0), "its start is blank");
    assert_eq!(stale.len(), SEGMENT_SIZE as usize);
    let old = &writing.image.segments()[0];
    let behind = 2 * BLOCK_SIZE..old.end_of_batches();
    assert!(stale[behind.clone()] == old.bytes[behind], "and old bytes after it");
    writing.plan();
    let fresh = writing.image.segments()[4].clone();
    let end = fresh.end_of_batches();
    for size in (0..end).step_by(512).chain([end]) {
        writing.write(5, size);
        let left = writing.crash();
        let shard_dir = left.path().join(relative(&writing));
        // Also alone: then no neighbour shows which bytes are older.
        for alone in [false, true] {
            if alone {
                for id in 2..=4 {
                    std::fs::remove_file(layout::segment_path(&shard_dir, id)).unwrap();
                    std::fs::remove_file(layout::index_path(&shard_dir, id)).unwrap();
                }
            }
            let (seqs, report) = read_back(left.path());
            let before =
                if alone { 0 } else { writing.frames_before(5) - writing.frames_before(2) };
            let whole = fresh.batches.iter().filter(|batch| batch.end <= size).count() as u64;
            let read = seqs.len() as u64 - before;
            // The first batch repeats the call's record, and each other one has a frame. One more
            // batch may be sound in part.
            let least = whole.saturating_sub(1);
            assert!(
                (least..=least + 1).contains(&read),
                "{size}, {alone}: {read} frames of {whole} whole batches"
            );
            assert!(seqs.last().is_none_or(|seq| *seq <= writing.frames_before(6)));
            assert!(report.is_sound() && report.damages.is_empty(), "{size}, {alone}: {report}");
            assert!(
                report.frames_double == 0 && report.frames_cut == 0,
                "{size}, {alone}: {report}"
            );
        }
    }
    writing.fixture.end();
}

fn relative(writing: &Writing) -> PathBuf {
    writing.fixture.shard_dir.strip_prefix(writing.fixture.data_dir()).unwrap().to_owned()
}

#[test]
fn interrupted_recycling_leaves_the_old_segment_or_a_file_that_readers_ignore() {
    let mut writing = Writing::start(|config| config.retain_bytes = None);
    for id in 1..=3 {
        writing.fill(id);
        writing.retire(id);
    }
    let all = writing.frames_before(4);
    let step = |count: usize| {
        let left = writing.crash();
        let shard_dir = left.path().join(relative(&writing));
        let (segment, preparing) =
            (layout::segment_path(&shard_dir, 1), layout::preparing_path(&shard_dir, 4));
        let blank =
            || File::options().write(true).open(&preparing)?.write_all_at(&[0; 2 * BLOCK_SIZE], 0);
        let steps: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| {
                std::fs::rename(
                    layout::index_path(&shard_dir, 1),
                    layout::unfinished_index_path(&shard_dir, 5),
                )
            },
            &|| std::fs::rename(&segment, &preparing),
            &blank,
            &|| std::fs::rename(&preparing, layout::segment_path(&shard_dir, 4)),
        ];
        steps[..count].iter().for_each(|step| step().unwrap());
        left
    };
    for count in 0..=4 {
        let left = step(count);
        let (seqs, report) = read_back(left.path());
        let first = if count < 2 { 1 } else { writing.frames_before(2) + 1 };
        assert!(
            seqs.into_iter().eq(first..=all) && report.is_sound(),
            "after step {count}: {report}"
        );
        assert_eq!(
            (report.segments_unbegun, report.torn_tails.len()),
            (u64::from(count == 4), 0),
            "after step {count}"
        );
        // The next start tidies it up.
        retention::tidy(left.path(), SystemTime::now() + 2 * retention::YOUNG).unwrap();
        let files = std::fs::read_dir(left.path().join(relative(&writing))).unwrap().count();
        assert_eq!(files, [6, 6, 4, 4, 4][count], "after step {count}");
    }
    writing.fixture.end();
}

#[test]
fn with_an_age_limit_files_are_removed_and_not_recycled() {
    let mut writing = Writing::start(|config| config.retain_age = Some(Duration::from_secs(3_600)));
    for id in 1..=4 {
        writing.fill(id);
        writing.retire(id);
    }
    writing.fixture.segment();
    assert_eq!(layout::segments(&writing.fixture.shard_dir).unwrap(), [2, 3, 4, 5]);
    assert!(std::fs::read(writing.fixture.path(5)).unwrap().iter().all(|byte| *byte == 0));
    writing.fixture.end();
}

#[test]
fn a_segment_that_cannot_be_recycled_gets_a_new_file() {
    let mut writing = Writing::start(|_| ());
    for id in 1..=4 {
        writing.fill(id);
        writing.retire(id);
    }
    // A directory with that name prevents putting its index aside.
    std::fs::create_dir(layout::unfinished_index_path(&writing.fixture.shard_dir, 5)).unwrap();
    assert_eq!(writing.fixture.segment().id, 5);
    assert_eq!(
        layout::segments(&writing.fixture.shard_dir).unwrap(),
        [1, 2, 3, 4, 5],
        "over the limit is better than stuck"
    );
    assert!(std::fs::read(writing.fixture.path(5)).unwrap().iter().all(|byte| *byte == 0));
    writing.fixture.end();
}

#[test]
fn segments_of_earlier_runs_are_removed_to_make_room() {
    let mut writing = Writing::start(|_| ());
    for id in 1..=4 {
        writing.fill(id);
        writing.retire(id);
    }
    writing.fixture.end();
    let data = std::mem::replace(&mut writing.fixture.data, tempfile::tempdir().unwrap());
    let mut next =
        Fixture::start_in(data, |config| config.retain_bytes = Some(KEPT * SEGMENT_SIZE));
    next.segment();
    assert_eq!(layout::segments(&writing.fixture.shard_dir).unwrap(), [2, 3, 4]);
    assert!(std::fs::read(next.path(1)).unwrap().iter().all(|byte| *byte == 0), "a new file");
    next.end();
}

#[test]
fn the_keepers_list_of_segments_stays_valid_between_two_listings() {
    let mut writing = Writing::start(|config| config.retain_bytes = None);
    for id in 1..=4 {
        writing.fill(id);
        writing.retire(id);
    }
    let (data_dir, shard_dir) = (writing.fixture.data_dir(), writing.fixture.shard_dir.clone());
    let disk = Disk::probe(writing.fixture.data.path()).unwrap();
    let mut inventory = retention::Inventory::default();
    let mut recycled = |segments: u64, added: u64, is_looked_at: bool| {
        let now = Instant::now();
        inventory.good_until = (!is_looked_at).then_some(now + Duration::from_secs(3_600));
        (0..added).for_each(|_| inventory.add(SEGMENT_SIZE));
        let sizes = (segments * SEGMENT_SIZE, SEGMENT_SIZE);
        let (removed, claimed) = inventory.make_room(&data_dir, sizes, disk, |_| true).unwrap();
        (removed.segments, claimed.map(|claimed| claimed.segment.id))
    };
    assert_eq!(recycled(100, 0, true), (0, None));
    let reader = File::open(writing.fixture.path(1)).unwrap();
    assert!(lock::try_shared(&reader).unwrap());
    // Removed by another process.
    std::fs::remove_file(writing.fixture.path(2)).unwrap();
    // Four are known, each smaller than a whole one, and two more are made. The oldest one that
    // exists and is free is taken.
    assert_eq!(recycled(5, 2, false), (0, Some(3)));
    drop(reader);
    // The third was handed out and not used: it counts as gone until the next listing.
    assert_eq!(recycled(4, 0, false), (0, Some(1)));
    assert_eq!(recycled(1, 0, false), (0, Some(4)));
    // No more are known, so it lists again.
    assert_eq!(recycled(1, 0, false), (2, Some(1)));
    assert_eq!(layout::segments(&shard_dir).unwrap(), [1]);
    writing.fixture.end();
}

#[test]
fn a_shard_may_reuse_the_file_of_another_shards_segment_and_shows_nothing_of_it() {
    let data = tempfile::tempdir().unwrap();
    let settings = JournalSettings {
        segment_size: SEGMENT_SIZE,
        reserve: Some(0),
        retain_bytes: Some(2 * SEGMENT_SIZE),
        ..JournalSettings::default()
    };
    let run = Run::begin(JournalConfig::new(data.path().to_owned(), settings), 2).unwrap();
    let (name, directories) = (run.name, run.shard_dirs.clone());
    let (tell, told): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
    let (requests, receiver) = sync_channel(8);
    let store = run.start(receiver, tell_on(tell)).unwrap();
    let segment = |shard: usize| {
        requests.send((shard, SegmentRequest::Prepare)).unwrap();
        match told[shard].recv_timeout(Duration::from_secs(10)).unwrap() {
            StoreEvent::Segment(segment) => segment,
            other => panic!("{other:?}"),
        }
    };
    let image = |shard: u16, interaction: &str| {
        let mut image = Image::new(name, shard, SEGMENT_SIZE as usize).unwrap();
        let epoch = image.start("acme", interaction, 8_000);
        for _ in 0..4 {
            (0..8).for_each(|_| image.frame(epoch, &[shard as u8 + 1; 1_000]));
            image.seal();
        }
        image
    };
    let (old, new) = (image(0, "old"), image(1, "new"));
    let paths = [0, 1].map(|shard: usize| layout::segment_path(&directories[shard], 1));
    segment(0);
    let inode = std::fs::metadata(&paths[0]).unwrap().ino();
    let bytes = &old.segments()[0].bytes;
    File::options().write(true).open(&paths[0]).unwrap().write_all_at(bytes, 0).unwrap();
    let size = old.segments()[0].end_of_batches() as u64;
    requests
        .send((
            0,
            SegmentRequest::Retire {
                id: 1,
                size,
                is_fenced: false,
                headers: RecordHeaders::default(),
            },
        ))
        .unwrap();
    let index = layout::index_path(&directories[0], 1);
    while !index.exists() || !lock::try_exclusive(File::open(&paths[0]).unwrap()).unwrap() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The second segment fills the limit. The third reuses the first one's file.
    assert_eq!((segment(0).id, segment(1).id), (2, 1));
    assert!(!paths[0].exists() && !index.exists());
    assert_eq!(std::fs::metadata(&paths[1]).unwrap().ino(), inode);
    let fresh = &new.segments()[0];
    let file = File::options().write(true).open(&paths[1]).unwrap();
    // Cut in the middle of its fourth batch, where a batch of the old segment continues: both have
    // the same number.
    let cut = fresh.batches[3].start + BLOCK_SIZE;
    assert_eq!(fresh.batches, old.segments()[0].batches);
    for begun in [BLOCK_SIZE / 2, BLOCK_SIZE, 2 * BLOCK_SIZE, cut] {
        file.write_all_at(&fresh.bytes[..begun], 0).unwrap();
        let left = tempfile::tempdir().unwrap();
        for shard in 0..2 {
            let directory = layout::create_shard_dir(left.path(), &name, shard).unwrap();
            for id in layout::segments(&directories[usize::from(shard)]).unwrap() {
                let from = layout::segment_path(&directories[usize::from(shard)], id);
                std::fs::copy(from, layout::segment_path(&directory, id)).unwrap();
            }
        }
        let journal = Journal::open(left.path()).unwrap();
        let report = verify(&journal, &mut || {}).unwrap();
        assert!(report.is_sound(), "{begun}: {report}");
        let catalog = journal.catalog(&mut || {}).unwrap();
        let interactions: Vec<_> =
            catalog.calls.iter().map(|call| &*call.identity.interaction).collect();
        assert!(
            interactions.iter().all(|interaction| *interaction == "new"),
            "{begun}: {interactions:?}"
        );
        let call_epochs: Vec<_> =
            catalog.calls.iter().flat_map(|call| &call.epochs).chain(&catalog.nameless).collect();
        assert!(
            call_epochs.iter().all(|call_epoch| call_epoch.epoch.shard == 1),
            "{begun}: {call_epochs:#?}"
        );
        assert_eq!(report.frames >= 24, begun == cut, "{begun}: {report}");
    }
    drop(requests);
    store.join();
}
