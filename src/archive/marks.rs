//! The file `marks` in each shard's directory. It tells an expired segment from a lost one.
//!
//! ```text
//! exo-ingest marks 1
//! shards 2             how many shards the run has
//! removed-to 17        segments with id <= 17 may be missing: retention removed them
//! ended 42             the last segment that holds data (0: none); only after the run's end
//! crc32c 9f03b1aa      over the bytes of the lines before
//! ```
//! A run makes the file before its first segment. `removed-to` is raised, and durable, before a
//! segment is removed. So a crash between the two leaves a segment too many, and never a missing
//! segment without its mark. Segments of a shard have the ids 1, 2, 3 and so on, without a hole.
//! So a missing id above `removed-to`, and at most `ended` or the last id that is there, is lost.
//!
//! Runs of the first format have no such file. What is missing of them counts as expired. The
//! headers of segments say which format it is. In the second one a missing or damaged file is
//! damage, and what is missing of the shard counts as lost: nothing proves that it has expired.

#![forbid(unsafe_code)]

use super::layout::sync_dir;
use super::medium::is_of_medium;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the file.
pub const MARKS_FILE: &str = "marks";

/// Its first line. The number is that of the format.
const TITLE: &str = "exo-ingest marks 1";

/// A longer file is damaged: five lines with the largest numbers have 97 bytes.
const SIZE_MAX: u64 = 256;

/// What retention removed of a shard's segments, and where the shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The number of shards of the run: each has a directory, until the whole run is removed.
    pub shard_count: u16,
    /// Segments up to this id may be missing: retention removed them. 0: none.
    pub removed_to: u64,
    /// The last segment that holds data, 0 if none does. `None`: the run has not ended, or it
    /// crashed.
    pub ended: Option<u64>,
}

/// What is found in a shard's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundMarks {
    /// The marks.
    Sound(Marks),
    /// No file: the run is of the first format, or the file is lost. Headers of segments tell.
    Missing,
    /// A file that cannot be read, or whose checksum or text is wrong.
    Damaged,
}

impl Marks {
    /// Marks of a run that begins with this number of shards.
    pub(crate) fn new(shard_count: u16) -> Marks {
        Marks { shard_count, removed_to: 0, ended: None }
    }

    /// The marks in `shard_dir`. `None` if they are missing or damaged: then nothing is known to
    /// be lost. [`Marks::find`] tells the two apart.
    pub fn load(shard_dir: &Path) -> io::Result<Option<Marks>> {
        Marks::find(shard_dir).map(|found| match found {
            FoundMarks::Sound(marks) => Some(marks),
            FoundMarks::Missing | FoundMarks::Damaged => None,
        })
    }

    /// The marks in `shard_dir`, or why there are none. An error means that the directory or the
    /// device cannot be used. A sector that cannot be read is damage.
    pub fn find(shard_dir: &Path) -> io::Result<FoundMarks> {
        let mut text = Vec::new();
        let read = File::open(path(shard_dir))
            .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut text));
        match read {
            Ok(_) => Ok(Marks::decode(&text).map_or(FoundMarks::Damaged, FoundMarks::Sound)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FoundMarks::Missing),
            Err(error) if is_of_medium(&error) => Ok(FoundMarks::Damaged),
            Err(error) => Err(error),
        }
    }

    /// Replaces the marks in `shard_dir`. They are durable when this returns. After a power failure
    /// the file has either the old or the new text.
    pub fn store(&self, shard_dir: &Path) -> io::Result<()> {
        let (path, next) = (path(shard_dir), next_path(shard_dir));
        // A killed process may have left this file, or a user a link. Never write through it.
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = File::options().write(true).create_new(true).mode(0o600).open(&next);
        let written = written.and_then(|mut file| {
            file.write_all(self.encode().as_bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => {
                std::fs::rename(&next, path)?;
                sync_dir(shard_dir)
            }
            Err(error) => {
                let _ = std::fs::remove_file(&next);
                match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        self.overwrite(&path)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Writes the marks over those that are there. It takes no room on a full disk, which only the
    /// removal of segments may free. The text lies in one sector, and it only gets longer.
    fn overwrite(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options().write(true).open(path)?;
        file.write_all(self.encode().as_bytes())?;
        file.sync_all()
    }

    /// Whether a segment that is not there was removed by retention.
    pub fn is_expired(&self, id: u64) -> bool {
        id <= self.removed_to
    }

    /// The ids that must be there, of a shard whose last segment on the disk is `last` (0: none).
    /// What is missing of them is lost.
    pub fn kept_ids(&self, last: u64) -> std::ops::RangeInclusive<u64> {
        self.removed_to.saturating_add(1)..=self.ended.unwrap_or(0).max(last)
    }

    fn encode(&self) -> String {
        let Marks { shard_count, removed_to, ended } = self;
        let mut text = format!("{TITLE}\nshards {shard_count}\nremoved-to {removed_to}\n");
        if let Some(ended) = ended {
            text.push_str(&format!("ended {ended}\n"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {crc:08x}\n"));
        text
    }

    fn decode(bytes: &[u8]) -> Option<Marks> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut marks = Marks::new(0);
        for line in text.lines() {
            match line.split_once(' ')? {
                ("shards", number) => marks.shard_count = number.parse().ok()?,
                ("removed-to", number) => marks.removed_to = number.parse().ok()?,
                ("ended", number) => marks.ended = Some(number.parse().ok()?),
                _ => {}
            }
        }
        // One set of marks has one text, checksum and all: no other text passes.
        (marks.encode() == text).then_some(marks)
    }
}

/// The file of marks in a shard's directory.
pub fn path(shard_dir: &Path) -> PathBuf {
    shard_dir.join(MARKS_FILE)
}

/// The name of the file until it is whole.
pub(crate) fn next_path(shard_dir: &Path) -> PathBuf {
    shard_dir.join(format!("{MARKS_FILE}.next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { shard_count: 2, removed_to: 17, ended: Some(42) };

    #[test]
    fn marks_are_read_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Marks::find(dir.path()).unwrap(), FoundMarks::Missing);
        assert_eq!(Marks::load(dir.path()).unwrap(), None);
        let largest = Marks { shard_count: u16::MAX, removed_to: u64::MAX, ended: Some(u64::MAX) };
        for marks in [Marks::new(1), MARKS, Marks { ended: Some(0), ..MARKS }, largest] {
            marks.store(dir.path()).unwrap();
            assert_eq!(Marks::find(dir.path()).unwrap(), FoundMarks::Sound(marks));
            assert_eq!(Marks::load(dir.path()).unwrap(), Some(marks));
        }
        assert!(largest.encode().len() as u64 <= SIZE_MAX);
        let text = MARKS.encode();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["exo-ingest marks 1", "shards 2", "removed-to 17", "ended 42"]);
        assert!(lines.len() == 5 && lines[4].starts_with("crc32c "), "{text}");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let text = MARKS.encode().into_bytes();
        let found = |bytes: &[u8]| {
            std::fs::write(path(dir.path()), bytes).unwrap();
            Marks::find(dir.path()).unwrap()
        };
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(found(&damaged), FoundMarks::Damaged, "bit {bit} of byte {at}");
            }
            assert_eq!(found(&text[..at]), FoundMarks::Damaged, "cut at {at}");
        }
        for added in ["\n", "ended 42\n", " ", &"x".repeat(1000)] {
            assert_eq!(found(&[&text[..], added.as_bytes()].concat()), FoundMarks::Damaged);
        }
        assert_eq!(found(&text), FoundMarks::Sound(MARKS));
    }

    #[test]
    fn a_missing_segment_is_expired_up_to_the_mark_and_lost_above_it() {
        assert!(MARKS.is_expired(17) && !MARKS.is_expired(18));
        assert_eq!(MARKS.kept_ids(40), 18..=42);
        // A segment with an id above the end may be there without data.
        assert_eq!(MARKS.kept_ids(43), 18..=43);
        let live = Marks { ended: None, ..MARKS };
        assert_eq!(live.kept_ids(40), 18..=40);
        assert!(live.kept_ids(0).is_empty() && Marks::new(1).kept_ids(0).is_empty());
    }

    #[test]
    fn nothing_is_written_through_a_file_or_link_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (next, elsewhere) = (dir.path().join("marks.next"), dir.path().join("elsewhere"));
        std::fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &next).unwrap();
        MARKS.store(dir.path()).unwrap();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
        assert!(!next.exists() && path(dir.path()).symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn marks_are_raised_in_place_where_there_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut marks = Marks::new(1);
        marks.store(dir.path()).unwrap();
        for removed_to in [9, 10, 99, 100, 1_000_000] {
            marks.removed_to = removed_to;
            marks.overwrite(&path(dir.path())).unwrap();
            assert_eq!(Marks::load(dir.path()).unwrap(), Some(marks));
        }
    }
}
