//! Whether the objects of a shard cover its journal without a hole.
//!
//! Within a segment each slice begins where the one before ended. The first slice of a segment says
//! where the segment before it ended. A note says why a range has no slice.

#![forbid(unsafe_code)]

use super::slice::{ObjectKind, ObjectName, SliceHeader};
use crate::constants::BLOCK_SIZE;
use crate::format::{Lsn, SegmentUuid};
use serde::Serialize;

/// Why a range of a shard's journal is not in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoleReason {
    /// It was sent and is not there any more, or it was never sent.
    Missing,
    /// The node had lost it before it was sent.
    LostBefore,
    /// The node's retention had removed it before it was sent.
    Expired,
}

/// A range of a shard's journal that is not in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where it begins.
    pub first: Lsn,
    /// Where it ends: the position after it.
    pub end: Lsn,
    /// Why.
    pub reason: HoleReason,
}

/// Takes the objects of one shard in order, and gives the holes between them.
#[derive(Debug)]
pub struct Coverage<'a> {
    notes: &'a [ObjectName],
    /// The segment of the last slice; `None` before the first.
    segment: Option<SegmentUuid>,
    covered: Lsn,
}

impl<'a> Coverage<'a> {
    /// For a shard with these notes.
    pub fn new(notes: &'a [ObjectName]) -> Coverage<'a> {
        Coverage { notes, segment: None, covered: Lsn(0) }
    }

    /// The next slice. Returns the holes before it. What came before the first slice of an archive
    /// is no hole if no note says so: the store's lifecycle rules may have removed it.
    pub fn slice(&mut self, header: &SliceHeader) -> Vec<Hole> {
        let segment = &header.segment;
        let begins_at = Lsn(segment.start.0 + BLOCK_SIZE as u64);
        let mut holes = Vec::new();
        match self.segment {
            None => holes = self.noted(header.first),
            Some(uuid) if uuid == segment.uuid => self.gap(self.covered, header.first, &mut holes),
            Some(_) => {
                self.gap(self.covered, segment.predecessor_end, &mut holes);
                self.gap(self.covered.max(begins_at), header.first, &mut holes);
            }
        }
        self.segment = Some(segment.uuid);
        self.covered = self.covered.max(header.end);
        holes
    }

    /// An object whose range is known only by its name.
    pub fn unreadable(&mut self, name: &ObjectName) {
        self.covered = self.covered.max(name.end);
    }

    /// The end of the list: holes after the last slice.
    pub fn finish(&mut self) -> Vec<Hole> {
        let mut holes = Vec::new();
        let end = self.notes.iter().map(|note| note.end).max().unwrap_or(Lsn(0));
        match self.segment {
            Some(_) => self.gap(self.covered, end, &mut holes),
            None => holes = self.noted(end),
        }
        // A note without a size stands for segments of an unknown size.
        let unsized_notes = self
            .notes
            .iter()
            .filter(|note| note.kind == ObjectKind::Lost && note.first == note.end);
        holes.extend(unsized_notes.map(|note| Hole {
            first: note.first,
            end: note.end,
            reason: HoleReason::LostBefore,
        }));
        holes
    }

    /// Whether the journal of the shard ended where the archive does.
    pub fn has_ended(&self) -> bool {
        let ended = self.notes.iter().filter(|note| note.kind == ObjectKind::Ended);
        ended.map(|note| note.end).max().is_some_and(|end| end >= self.covered)
    }

    /// What notes say of the time before a position, and nothing else.
    fn noted(&self, end: Lsn) -> Vec<Hole> {
        let sized = self.notes.iter().filter(|note| note.first < note.end && note.end <= end);
        let hole = |note: &ObjectName| {
            let reason = reason_of(note)?;
            Some(Hole { first: note.first, end: note.end, reason })
        };
        sized.filter_map(hole).collect()
    }

    /// Adds what no slice covers between two positions, with the reasons that notes give.
    fn gap(&self, first: Lsn, end: Lsn, holes: &mut Vec<Hole>) {
        let mut next = first;
        for note in self.notes.iter().filter(|note| note.first < end && note.end > first) {
            let Some(reason) = reason_of(note) else { continue };
            if note.first > next {
                holes.push(Hole { first: next, end: note.first, reason: HoleReason::Missing });
            }
            let from = note.first.max(next);
            next = next.max(note.end.min(end));
            holes.push(Hole { first: from, end: next, reason });
        }
        if next < end {
            holes.push(Hole { first: next, end, reason: HoleReason::Missing });
        }
    }
}

/// Why there is no slice, by a note.
fn reason_of(note: &ObjectName) -> Option<HoleReason> {
    match note.kind {
        ObjectKind::Expired => Some(HoleReason::Expired),
        ObjectKind::Lost => Some(HoleReason::LostBefore),
        ObjectKind::Slice | ObjectKind::Ended => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};
    use crate::archive::layout::segment_path;
    use crate::archive::reader::Journal;
    use crate::handover::shard_slices::{Made, ShardSlices};
    use crate::handover::slice::NodeName;

    /// The slices and notes of a journal of four segments. Some of the segments are gone.
    fn objects(gone: &[u64]) -> (Vec<SliceHeader>, Vec<ObjectName>) {
        let mut image = Image::new(image::run(1), 0, 128 * 1024).unwrap();
        let epoch = image.start("acme", "one", 8_000);
        for number in 0..48u8 {
            image.frame(epoch, &[number; 8_000]);
            image.seal();
        }
        assert_eq!(image.segments().len(), 4);
        let dir = tempfile::tempdir().unwrap();
        let shard_dir = image.store(dir.path()).unwrap();
        for id in gone {
            std::fs::remove_file(segment_path(&shard_dir, *id)).unwrap();
        }
        let journal = Journal::open(dir.path()).unwrap();
        let node = NodeName::parse("n").unwrap();
        let mut source = ShardSlices::with_size(node, &journal.shards()[0], 32 * 1024);
        let (mut slices, mut notes) = (Vec::new(), Vec::new());
        loop {
            match source.advance().unwrap() {
                Made::Slice(slice) => slices.push(slice.header),
                Made::Note(note) => notes.push(note),
                Made::Pending | Made::End => return (slices, notes),
            }
        }
    }

    fn holes(slices: &[SliceHeader], notes: &[ObjectName]) -> (Vec<Hole>, bool) {
        let mut coverage = Coverage::new(notes);
        let mut holes: Vec<Hole> = slices.iter().flat_map(|slice| coverage.slice(slice)).collect();
        holes.extend(coverage.finish());
        (holes, coverage.has_ended())
    }

    #[test]
    fn every_slice_that_is_gone_leaves_its_hole() {
        let (slices, notes) = objects(&[]);
        assert!(slices.len() > 8, "{}", slices.len());
        assert_eq!(holes(&slices, &notes), (Vec::new(), true));
        for gone in 1..slices.len() {
            let mut left = slices.clone();
            let SliceHeader { first, end, .. } = left.remove(gone);
            let found = holes(&left, &notes).0;
            assert_eq!(found.len(), 1, "slice {gone}");
            // If it was all of its segment, only the end of the segment before is known.
            assert!(found[0].first <= first && found[0].end == end, "slice {gone}: {found:?}");
            assert_eq!(found[0].reason, HoleReason::Missing);
        }
        // What came before the first slice may have been removed by rules of the store.
        assert_eq!(holes(&slices[1..], &notes), (Vec::new(), true));
        // Without the last note, more may come.
        assert_eq!(holes(&slices, &[]), (Vec::new(), false));
    }

    #[test]
    fn notes_explain_what_was_never_sent() {
        let (slices, notes) = objects(&[3]);
        let (found, has_ended) = holes(&slices, &notes);
        assert!(has_ended);
        let reasons: Vec<HoleReason> = found.iter().map(|hole| hole.reason).collect();
        assert_eq!(reasons, [HoleReason::LostBefore], "the marks do not say that it expired");
        let (found, _) = holes(&slices, &notes[1..]);
        assert_eq!(found[0].reason, HoleReason::Missing, "without the note it does not");
    }

    #[test]
    fn notes_before_the_first_slice_and_without_a_slice_are_holes() {
        let (slices, notes) = objects(&[3]);
        let at = slices.iter().position(|slice| slice.first >= notes[0].end).unwrap();
        let expected = [(notes[0].first, notes[0].end)];
        for slices in [&slices[at..], &[]] {
            let found = holes(slices, &notes).0;
            let ranges: Vec<_> = found.iter().map(|hole| (hole.first, hole.end)).collect();
            assert_eq!(ranges, expected, "{} slices", slices.len());
        }
    }
}
