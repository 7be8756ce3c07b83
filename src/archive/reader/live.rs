//! Segments that are being written: what their live index says, and the records after that.

#![forbid(unsafe_code)]

use super::{JournalError, Segment, ShardJournal, at};
use crate::archive::index::{EpochIndex, IndexBuilder, IndexFile, SegmentIndex};
use crate::archive::scan::{Advance, ScanOptions, SegmentScan};
use crate::archive::source::{Holder, SegmentFile};
use crate::format::Lsn;

impl ShardJournal {
    /// The live index of a segment, if there is a good one. It counts only while the segment is
    /// being written.
    pub(super) fn live_index(&self, position: usize) -> Result<Option<IndexFile>, JournalError> {
        let header = self.header(position)?;
        Ok(header.and_then(|header| IndexFile::open_live(self.dir(), header.id, header.uuid)))
    }

    /// The epochs of a call in a segment that is being written: first what the live index says,
    /// then what comes after. An epoch may occur in both. `None` if there is no live index.
    pub(super) fn find_live(
        &self,
        position: usize,
        call: u64,
    ) -> Result<Option<Vec<EpochIndex>>, JournalError> {
        let Some((mut index, file)) = self.open_live(position)? else { return Ok(None) };
        let (end, Ok(found)) = (index.head().end, index.find(call)) else { return Ok(None) };
        let mut call_epochs: Vec<_> = found.into_iter().map(|(call_epoch, _)| call_epoch).collect();
        let tail = self.epochs_after(position, file, end, Some(call))?;
        call_epochs.extend(tail.into_iter().filter(|call_epoch| call_epoch.call == call));
        Ok(Some(call_epochs))
    }

    /// As [`ShardJournal::find_live`], all epochs.
    pub(super) fn list_live(&self, position: usize) -> Result<Option<SegmentIndex>, JournalError> {
        let Some((index, file)) = self.open_live(position)? else { return Ok(None) };
        let Ok(mut index) = index.into_epochs() else { return Ok(None) };
        let tail = self.epochs_after(position, file, index.end, None)?;
        index.epochs.extend(tail);
        Ok(Some(index))
    }

    /// `None`, too, if the segment is sealed by now, was left by a crash, or cannot be opened: the
    /// caller reads it without a live index, and names the error.
    fn open_live(&self, position: usize) -> Result<Option<(IndexFile, SegmentFile)>, JournalError> {
        let index = self.live_index(position)?;
        Ok(index.and_then(|index| match SegmentFile::open(&self.path(position)) {
            Ok(file) if file.holder() == Holder::Writer => Some((index, file)),
            Ok(_) | Err(_) => None,
        }))
    }

    fn epochs_after(
        &self,
        position: usize,
        file: SegmentFile,
        from: u64,
        call: Option<u64>,
    ) -> Result<Vec<EpochIndex>, JournalError> {
        let Some(mut scan) = self.tail(position, file, from, call)? else { return Ok(Vec::new()) };
        let (path, mut builder) = (self.path(position), IndexBuilder::default());
        while scan.advance().map_err(at(&path))? == Advance::Batch {
            scan.records().for_each(|found| builder.add(&found));
        }
        let id = self.id(position).unwrap_or(0);
        Ok(builder.finish(self.run().number(), self.shard(), id, &scan).epochs)
    }

    /// Reads a segment that is being written from a batch on, up to what is written now.
    pub(super) fn tail(
        &self,
        position: usize,
        file: SegmentFile,
        from: u64,
        call: Option<u64>,
    ) -> Result<Option<SegmentScan<SegmentFile>>, JournalError> {
        let options = ScanOptions { call, follows: true, ..ScanOptions::default() };
        Ok(match self.scan(position, file, options)? {
            Segment::Scan(mut scan) => {
                scan.skip_to(Lsn(scan.start().0.saturating_add(from)));
                Some(*scan)
            }
            Segment::Unread(_) | Segment::Gone => None,
        })
    }
}
