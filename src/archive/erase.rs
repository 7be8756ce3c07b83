//! Erases a call's audio in place: recordings are personal data.
//!
//! Each audio record is marked, then its payload is overwritten with zeros. Headers stay, so the
//! rest of the segment can be read and checked as before. All segments of the call are locked
//! before the first byte changes. If power fails in between, `verify` names records that were
//! marked but not overwritten, and erasing again completes them.
//!
//! Retention may have recycled a call's first segments already. Then old audio may remain after the
//! end of a new segment in such a file, until it is overwritten or cut off.
//! `erase/previous_contents.rs` searches for it.
//!
//! This cannot erase copies that a disk or a copy-on-write filesystem keeps of overwritten blocks.

#![forbid(unsafe_code)]

use super::layout::{index_path, sync_dir};
use super::lock;
use super::reader::{Call, Journal, JournalError, Segment, ShardJournal};
use super::scan::{Advance, ScanOptions};
use super::source::SegmentFile;
use crate::call::Epoch;
use crate::format::{HEADER_SIZE, RecordHeader, RecordKind};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

mod previous_contents;

use previous_contents::End;

/// Zeros for one write.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Segments that held the call.
    pub(crate) segments: u64,
    /// Audio records, with those that were erased before.
    pub records: u64,
    /// Bytes of audio.
    pub(crate) bytes: u64,
}

/// Why nothing was erased, or only a part.
#[derive(Debug)]
pub enum EraseError {
    /// The segment is being written or read. It holds the call, or old audio of it from the file's
    /// earlier use. Nothing was changed.
    Held(PathBuf),
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

/// A segment that is locked for erasing.
struct Target<'a> {
    shard: &'a ShardJournal,
    position: usize,
    path: PathBuf,
    file: File,
    epochs: Vec<Epoch>,
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
    for ((shard, position), epochs) in places {
        let Some(shard) = journal.shards().get(shard) else { continue };
        let path = shard.path(position);
        match lock(&path) {
            Ok(Some(file)) => targets.push(Target { shard, position, path, file, epochs }),
            Ok(None) => return Err(EraseError::Held(path)),
            // Retention removed it first, so its audio is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(JournalError { path, error }.into()),
        }
    }
    let epochs: Vec<Epoch> = call.epochs.iter().map(|call_epoch| call_epoch.epoch).collect();
    let ours = |header: &RecordHeader| header.call == number && epochs.contains(&header.epoch);
    let is_target = |path: &Path| targets.iter().any(|target| target.path == path);
    let earlier = previous_contents::find(journal, ours, is_target)?;
    let mut erased = Erased::default();
    for target in &targets {
        let end = target.erase(number, &mut erased)?;
        let behind = previous_contents::erase_behind(&target.file, end, ours);
        behind.map_err(|error| JournalError { path: target.path.clone(), error })?;
        progress();
    }
    for segment in earlier {
        segment.erase()?;
    }
    Ok(erased)
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
    /// Erases the call's records. Returns where the segment's batches end.
    fn erase(&self, call: u64, erased: &mut Erased) -> Result<End, JournalError> {
        let at = |error| JournalError { path: self.path.clone(), error };
        let (records, end) = self.records(call)?;
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
        for (offset, header) in &records {
            self.file.write_all_at(&header.erase().encode(), *offset).map_err(at)?;
        }
        // Sync the marks first: a missing payload under an unmarked header would look like damage.
        self.file.sync_data().map_err(at)?;
        for (offset, header) in &records {
            blank(&self.file, offset + HEADER_SIZE as u64, u64::from(header.length)).map_err(at)?;
            erased.bytes += u64::from(header.length);
        }
        self.file.sync_data().map_err(at)?;
        erased.records += records.len() as u64;
        erased.segments += 1;
        Ok(end)
    }

    /// Finds the call's audio records, sound or not, and where the segment's batches end.
    fn records(&self, call: u64) -> Result<(Vec<(u64, RecordHeader)>, End), JournalError> {
        let at = |error| JournalError { path: self.path.clone(), error };
        let file = self
            .file
            .try_clone()
            .and_then(|file| SegmentFile::of_owner(file, &self.path))
            .map_err(at)?;
        let options =
            ScanOptions { call: Some(call), takes_unchecked: true, ..ScanOptions::default() };
        let Segment::Scan(mut scan) = self.shard.scan(self.position, file, options)? else {
            return Ok((Vec::new(), End::default()));
        };
        let mut records = Vec::new();
        while scan.advance().map_err(at)? == Advance::Batch {
            let audio = scan.records().filter(|found| found.header.kind == RecordKind::Audio);
            let ours = audio.filter(|found| self.epochs.contains(&found.header.epoch));
            records.extend(ours.map(|found| (found.offset, found.header)));
        }
        Ok((records, End { offset: scan.offset(), is_torn: scan.torn_at().is_some() }))
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
        assert_eq!(erased, Erased { segments: 4, records: 9, bytes: 9 * FRAME.len() as u64 });
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
                assert_eq!(erase_one(dir.path()).unwrap(), erased, "erasing twice is the same");
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
        assert_eq!(erase_one(dir.path()).unwrap(), erased, "erasing twice is the same");
    }
}
