//! Erases a call's audio in place: recordings are personal data.
//!
//! Each audio record is marked, then its payload is overwritten with zeros. Headers stay, so the
//! rest of the segment can be read and checked as before. Before the first byte changes, each
//! segment of the call is locked once and let go: a call that is being written keeps all of its
//! audio. Then one segment after the other is locked and erased. So a call may have any number of
//! segments. If power fails in between, or another process locks a segment in between, erasing
//! again completes it. `verify` names records that were marked but not overwritten.
//!
//! Of the first format, retention may have recycled a call's first segments already. Then old audio
//! may remain after the end of a new segment in such a file, until it is overwritten or cut off.
//! `erase/previous_contents.rs` searches for it.
//!
//! What the disk cannot read or write is passed over and named: maybe the call's audio is there.
//!
//! This cannot erase copies that a disk or a copy-on-write filesystem keeps of overwritten blocks.

#![forbid(unsafe_code)]

use super::layout::{index_path, sync_dir};
use super::lock;
use super::reader::{Call, Journal, JournalError, Segment, ShardJournal};
use super::recovery::NamedDamage;
use super::scan::{Advance, Corruption, ScanOptions, Unread};
use super::source::{SegmentFile, is_of_medium};
use crate::call::Epoch;
use crate::format::{FormatError, HEADER_SIZE, RecordHeader, RecordKind, SegmentHeader};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod previous_contents;

use previous_contents::End;

/// Zeros for one write.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What was erased. What had been erased before does not count again.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Segments that held audio of the call.
    pub segments: u64,
    /// Audio records.
    pub records: u64,
    /// Bytes of audio.
    pub bytes: u64,
    /// Places in the call's segments that the disk cannot read or write. Audio of the call may
    /// remain there.
    pub unreadable: Vec<NamedDamage>,
}

/// The header of a record, and its offset in the file.
type PlacedHeader = (u64, RecordHeader);

/// Why nothing was erased, or only a part.
#[derive(Debug)]
pub enum EraseError {
    /// The segment is being written or read. It holds the call, or old audio of it from the file's
    /// earlier use. Nothing was changed.
    Held(PathBuf),
    /// As [`EraseError::Held`], after some segments were erased.
    HeldLater(PathBuf),
    /// A file could not be read or written.
    Journal(JournalError),
}

impl fmt::Display for EraseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EraseError::Held(path) => write!(
                formatter,
                "nothing was erased: {} is being written or read: try again later",
                path.display()
            ),
            EraseError::HeldLater(path) => write!(
                formatter,
                "some audio was not erased: {} is being read: run the command again",
                path.display()
            ),
            EraseError::Journal(error) => {
                write!(formatter, "some audio was not erased: {error}: run the command again")
            }
        }
    }
}

impl std::error::Error for EraseError {}

impl From<JournalError> for EraseError {
    fn from(error: JournalError) -> Self {
        EraseError::Journal(error)
    }
}

/// A segment that holds audio of the call.
struct Target<'a> {
    shard: &'a ShardJournal,
    position: usize,
    epochs: &'a [Epoch],
}

/// Erases the audio of all epochs of a call. Calls `progress` after each segment. An empty call
/// erases nothing.
pub fn erase(
    journal: &Journal,
    call: &Call,
    progress: &mut dyn FnMut(),
) -> Result<Erased, EraseError> {
    let Some(number) = call.epochs.first().map(|call_epoch| call_epoch.call) else {
        return Ok(Erased::default());
    };
    let mut places: BTreeMap<(usize, usize), Vec<Epoch>> = BTreeMap::new();
    for call_epoch in &call.epochs {
        for part in &call_epoch.parts {
            places.entry((call_epoch.shard, part.segment)).or_default().push(call_epoch.epoch);
        }
    }
    let mut targets = Vec::new();
    for (&(shard, position), epochs) in &places {
        let Some(shard) = journal.shards().get(shard) else { continue };
        match lock(&shard.path(position)) {
            // The lock ends here.
            Ok(Some(_)) => targets.push(Target { shard, position, epochs }),
            Ok(None) => return Err(EraseError::Held(shard.path(position))),
            // Retention removed it first, so its audio is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(JournalError { path: shard.path(position), error }.into()),
        }
    }
    let epochs: Vec<Epoch> = call.epochs.iter().map(|call_epoch| call_epoch.epoch).collect();
    let ours = |header: &RecordHeader| header.call == number && epochs.contains(&header.epoch);
    let is_target = |place: (usize, usize)| places.contains_key(&place);
    let earlier = previous_contents::find(journal, ours, is_target)?;
    let mut erased = Erased::default();
    for target in &targets {
        let path = target.shard.path(target.position);
        if let Some(file) = lock_again(&path)? {
            let end = target.erase(number, &path, &file, &mut erased)?;
            let behind = previous_contents::erase_behind(&path, &file, end, ours);
            behind.map_err(|error| JournalError { path, error })?;
        }
        progress();
    }
    for (path, end) in earlier {
        if let Some(file) = lock_again(&path)? {
            let behind = previous_contents::erase_behind(&path, &file, Some(end), ours);
            behind.map_err(|error| JournalError { path, error })?;
        }
    }
    Ok(erased)
}

/// How long an erasure that has begun waits for a reader of its next segment.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Locks a segment whose lock could be had a moment ago. `None`: retention has removed it.
fn lock_again(path: &Path) -> Result<Option<File>, EraseError> {
    let start = Instant::now();
    loop {
        match lock(path) {
            Ok(Some(file)) => return Ok(Some(file)),
            Ok(None) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(None) => return Err(EraseError::HeldLater(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError { path: path.to_owned(), error }.into()),
        }
    }
}

/// Writes zeros.
fn blank(file: &File, mut offset: u64, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let size = left.min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..size as usize], offset)?;
        offset += size;
        left -= size;
    }
    Ok(())
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().read(true).write(true).open(path)?;
    let is_ours = lock::try_exclusive(&file)? && lock::is_still(path, &file)?;
    Ok(is_ours.then_some(file))
}

impl Target<'_> {
    /// Erases the call's records in a segment that is locked. Returns where its batches end; `None`
    /// if it has only bytes of its own.
    fn erase(
        &self,
        call: u64,
        path: &Path,
        file: &File,
        erased: &mut Erased,
    ) -> Result<Option<End>, JournalError> {
        let at = |error| JournalError { path: path.to_owned(), error };
        let (records, end) = self.records(call, path, erased)?;
        if records.is_empty() {
            return Ok(end);
        }
        // The segment will no longer match its index.
        let index = index_path(self.shard.dir(), self.shard.id(self.position).unwrap_or(0));
        match std::fs::remove_file(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError { path: index, error });
            }
            _ => {}
        }
        // Remove the index for good before the audio: after a power failure, a surviving index
        // would be believed.
        sync_dir(self.shard.dir()).map_err(at)?;
        let mut marked = Vec::new();
        for (offset, header) in records {
            match file.write_all_at(&header.erase().encode(), offset) {
                Err(error) if is_of_medium(&error) => {
                    erased.unreadable.push(self.unwritable(offset, &error))
                }
                written => {
                    written.map_err(at)?;
                    marked.push((offset, header));
                }
            }
        }
        // Sync the marks first: a missing payload under an unmarked header would look like damage.
        file.sync_data().map_err(at)?;
        for (offset, header) in &marked {
            match blank(file, offset + HEADER_SIZE as u64, u64::from(header.length)) {
                Err(error) if is_of_medium(&error) => {
                    erased.unreadable.push(self.unwritable(*offset, &error));
                }
                blanked => {
                    blanked.map_err(at)?;
                    erased.bytes += u64::from(header.length);
                    erased.records += 1;
                }
            }
        }
        file.sync_data().map_err(at)?;
        erased.segments += 1;
        Ok(end)
    }

    fn unwritable(&self, offset: u64, error: &io::Error) -> NamedDamage {
        let what = format!("a record cannot be overwritten: {error}");
        NamedDamage { file: self.shard.path(self.position), offset, what, call: None }
    }

    /// Finds the call's audio records that are not erased yet, sound or not, and where the
    /// segment's batches end.
    fn records(
        &self,
        call: u64,
        path: &Path,
        erased: &mut Erased,
    ) -> Result<(Vec<PlacedHeader>, Option<End>), JournalError> {
        let at = |error| JournalError { path: path.to_owned(), error };
        let mut name = |offset, what: String| {
            let file = path.to_owned();
            erased.unreadable.push(NamedDamage { file, offset, what, call: None });
        };
        let file = SegmentFile::of_owner(path).map_err(at)?;
        let options =
            ScanOptions { call: Some(call), takes_unchecked: true, ..ScanOptions::default() };
        let mut scan = match self.shard.scan(self.position, file, options)? {
            Segment::Scan(scan) => scan,
            Segment::Unread(Unread::Lost(FormatError::Unreadable)) => {
                name(0, Corruption::SegmentHeader(FormatError::Unreadable).to_string());
                return Ok((Vec::new(), None));
            }
            Segment::Unread(_) | Segment::Gone => {
                return Ok((Vec::new(), Some(End::default())));
            }
        };
        let mut records = Vec::new();
        while scan.advance().map_err(at)? == Advance::Batch {
            let audio = scan.records().filter(|found| found.header.kind == RecordKind::Audio);
            let ours = audio.filter(|found| self.epochs.contains(&found.header.epoch));
            let is_done = |header: &RecordHeader, payload: &[u8]| {
                header.erased && header.check_payload(payload).is_ok()
            };
            let left = ours.filter(|found| !is_done(&found.header, found.payload));
            records.extend(left.map(|found| (found.offset, found.header)));
        }
        for damage in scan.damages() {
            if let Corruption::Unreadable { .. } = damage.what {
                name(damage.offset, damage.what.to_string());
            }
        }
        let end = End { offset: scan.offset(), is_torn: scan.torn_at().is_some() };
        // Nothing but zeros follows in a file that was new.
        let may_be_recycled = scan.header().is_none_or(SegmentHeader::may_be_recycled);
        Ok((records, may_be_recycled.then_some(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};
    use crate::archive::layout::segment_path;
    use crate::archive::reader::EpochState;
    use crate::archive::recovery::verify;

    const FRAME: &[u8] = b"what was said, and by whom, for a while; 64 bytes and a few more";

    fn sample(dir: &Path) -> (PathBuf, u64) {
        let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
        let (one, other) = (image.start("acme", "one", 8_000), image.start("acme", "other", 8_000));
        for _ in 0..3 {
            for epoch in [one, other] {
                image.frame(epoch, FRAME);
                image.chunks(epoch, &[FRAME, FRAME], true);
            }
            image.seal();
            image.roll();
        }
        image.end(one, 1);
        image.end(other, 1);
        image.seal();
        (image.store(dir).unwrap(), image.segments().len() as u64)
    }

    fn nothing() -> Erased {
        Erased::default()
    }

    fn erase_one(dir: &Path) -> Result<Erased, EraseError> {
        let journal = Journal::open(dir)?;
        let catalog = journal.catalog(&mut || {})?;
        erase(&journal, &catalog.calls[0], &mut || {})
    }

    fn count_of_audio(shard_dir: &Path, first: u64, last: u64) -> usize {
        let count = |id| {
            let bytes = std::fs::read(segment_path(shard_dir, id)).unwrap();
            memchr::memmem::find_iter(&bytes, FRAME).count()
        };
        (first..=last).map(count).sum()
    }

    #[test]
    fn erased_audio_is_gone_and_everything_else_is_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (shard_dir, segments) = sample(dir.path());
        assert_eq!(count_of_audio(&shard_dir, 1, segments), 18);
        let erased = erase_one(dir.path()).unwrap();
        let expected =
            Erased { segments: 3, records: 9, bytes: 9 * FRAME.len() as u64, ..nothing() };
        assert_eq!(erased, expected);
        assert_eq!(count_of_audio(&shard_dir, 1, segments), 9, "those of the other call");
        for round in 0..2 {
            let journal = Journal::open(dir.path()).unwrap();
            let report = verify(&journal, &mut || {}).unwrap();
            assert_eq!(
                (report.frames, report.frames_erased, report.is_sound()),
                (12, 6, true),
                "{report}"
            );
            let catalog = journal.catalog(&mut || {}).unwrap();
            let call_epoch = &catalog.calls[0].epochs[0];
            assert!(matches!(call_epoch.state, EpochState::Ended(_)));
            let mut frames = journal.frames(call_epoch);
            let mut count = 0;
            while let Some(frame) = frames.next_frame().unwrap() {
                assert!(frame.is_erased && frame.audio.is_empty() && frame.size > 0);
                count += 1;
            }
            assert_eq!(count, 6);
            drop(frames);
            if round == 0 {
                assert_eq!(erase_one(dir.path()).unwrap(), nothing(), "nothing is erased twice");
            }
        }
    }

    #[test]
    fn a_segment_that_is_held_keeps_all_of_the_call() {
        let dir = tempfile::tempdir().unwrap();
        let (shard_dir, segments) = sample(dir.path());
        let writer = File::open(segment_path(&shard_dir, 3)).unwrap();
        assert!(lock::try_exclusive(&writer).unwrap());
        let error = erase_one(dir.path()).unwrap_err();
        assert!(error.to_string().starts_with("nothing was erased: "), "{error}");
        assert_eq!(count_of_audio(&shard_dir, 1, segments), 18);
    }

    #[test]
    fn an_interrupted_erasure_is_named_and_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (shard_dir, segments) = sample(dir.path());
        let before = std::fs::read(segment_path(&shard_dir, 1)).unwrap();
        erase_one(dir.path()).unwrap();
        let after = std::fs::read(segment_path(&shard_dir, 1)).unwrap();
        // Marked but not overwritten. Or, if a disk reorders writes, overwritten but not marked.
        for is_marked in [true, false] {
            let mut bytes = before.clone();
            for (at, line) in after.chunks(64).enumerate() {
                let old = &mut bytes[at * 64..at * 64 + 64];
                let is_header = old[12] == 2 && line[13] & 2 != 0;
                if is_header == is_marked {
                    old.copy_from_slice(line);
                }
            }
            assert!(bytes != before && bytes != after);
            std::fs::write(segment_path(&shard_dir, 1), &bytes).unwrap();
            let report = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
            assert_eq!(report.damages.len(), 3, "{report}");
            if is_marked {
                assert!(report.to_string().contains("delete the call again"), "{report}");
            }
            erase_one(dir.path()).unwrap();
            assert!(std::fs::read(segment_path(&shard_dir, 1)).unwrap() == after);
            assert!(verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap().is_sound());
        }
        assert_eq!(count_of_audio(&shard_dir, 1, segments), 9);
    }

    /// A run whose second segment reuses the file of its first one and was not sealed. The call
    /// `one` is in the first and third, and in the old bytes of the second.
    fn recycled(dir: &Path) -> PathBuf {
        let mut image = Image::with_version(image::run(1), 0, 64 * 1024, 1).unwrap();
        let one = image.start("acme", "one", 8_000);
        (0..40).for_each(|_| image.frame(one, FRAME));
        image.seal();
        (0..40).for_each(|_| image.frame(one, FRAME));
        image.seal();
        let old = image.segments()[0].bytes.clone();
        image.roll();
        image.frame(one, FRAME);
        image.end(one, 1);
        image.seal();
        image.roll();
        let other = image.start("acme", "other", 8_000);
        image.frame(other, b"another call.");
        image.seal();
        let segment = image.segments_mut().last_mut().unwrap();
        let end = segment.end_of_batches();
        segment.bytes[end..].copy_from_slice(&old[end..]);
        let shard_dir = image.store(dir).unwrap();
        std::fs::remove_file(segment_path(&shard_dir, 1)).unwrap();
        shard_dir
    }

    #[test]
    fn what_a_recycled_file_held_of_the_call_is_erased_too() {
        let dir = tempfile::tempdir().unwrap();
        let shard_dir = recycled(dir.path());
        let count = || {
            let bytes = std::fs::read(segment_path(&shard_dir, 3)).unwrap();
            memchr::memmem::find_iter(&bytes, FRAME).count()
        };
        assert!(count() >= 40, "{}", count());
        let before = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
        // It cannot be erased while it is being written, so nothing is erased.
        let writer = File::open(segment_path(&shard_dir, 3)).unwrap();
        assert!(lock::try_exclusive(&writer).unwrap());
        assert!(matches!(
            erase_one(dir.path()),
            Err(EraseError::Held(path)) if path == segment_path(&shard_dir, 3)
        ));
        assert!(count_of_audio(&shard_dir, 2, 3) > 40);
        drop(writer);
        let erased = erase_one(dir.path()).unwrap();
        assert_eq!((erased.segments, erased.records), (1, 1));
        assert_eq!(count_of_audio(&shard_dir, 2, 3), 0);
        let after = verify(&Journal::open(dir.path()).unwrap(), &mut || {}).unwrap();
        assert_eq!((after.frames, after.is_sound()), (before.frames, before.is_sound()), "{after}");
        assert_eq!((after.frames_erased, after.torn_tails), (1, before.torn_tails));
        assert_eq!(erase_one(dir.path()).unwrap(), nothing(), "nothing is erased twice");
    }

    #[test]
    fn a_call_of_any_number_of_segments_needs_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::new(image::run(1), 0, 16 * 1024).unwrap();
        let one = image.start("acme", "one", 8_000);
        for _ in 0..60 {
            image.frame(one, FRAME);
            image.seal();
            image.roll();
        }
        image.end(one, 1);
        image.seal();
        image.store(dir.path()).unwrap();
        // Files of this process that are open in this directory. Other tests have their own.
        let open = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
            targets.filter(|target| target.starts_with(dir.path())).count()
        };
        let journal = Journal::open(dir.path()).unwrap();
        let catalog = journal.catalog(&mut || {}).unwrap();
        let mut most = 0;
        let erased = erase(&journal, &catalog.calls[0], &mut || most = most.max(open())).unwrap();
        assert_eq!((erased.records, erased.segments), (60, 60));
        assert!(most <= 3, "{most} are open");
    }
}
