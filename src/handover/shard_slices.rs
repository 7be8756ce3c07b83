//! The slices of one shard, from its files.

#![forbid(unsafe_code)]

use super::slice::{NodeName, ObjectKind, ObjectName, Slice};
use super::slicer::Slicer;
use crate::archive::layout::RunName;
use crate::archive::reader::{Batches, GapReason, JournalError, ShardJournal, Step};
use crate::archive::scan::Damage;
use crate::archive::seal;
use crate::format::Lsn;
use std::path::PathBuf;

/// What comes next of a shard.
#[derive(Debug)]
pub enum Made {
    /// A slice. All of it is durable.
    Slice(Slice),
    /// A note about a range that cannot be sent, or about the end of the shard's journal.
    Note(ObjectName),
    /// Nothing more yet: a node is writing. Ask again later.
    Pending,
    /// Nothing more.
    End,
}

/// Gives the slices of a shard, in order.
#[derive(Debug)]
pub struct ShardSlices {
    node: NodeName,
    run: RunName,
    run_dir: PathBuf,
    shard: u16,
    batches: Batches,
    slicer: Slicer,
    /// Everything before this position is in the archive, or has been given.
    covered: Lsn,
    /// Why segments before the next one are missing.
    missing: Option<ObjectKind>,
    has_ended: bool,
}

impl ShardSlices {
    /// The slices of a shard after `from`: positions before it are in the archive.
    pub fn new(node: NodeName, shard: &ShardJournal, from: Lsn) -> ShardSlices {
        let run_dir = shard.dir().parent().unwrap_or(shard.dir()).to_owned();
        ShardSlices {
            run: *shard.run(),
            run_dir,
            shard: shard.shard(),
            batches: shard.batches(from),
            slicer: Slicer::new(node.clone()),
            node,
            covered: from,
            missing: None,
            has_ended: false,
        }
    }

    /// With smaller slices, for tests.
    #[cfg(test)]
    pub(super) fn with_size(node: NodeName, shard: &ShardJournal, size: usize) -> ShardSlices {
        let slicer = Slicer::with_size(node.clone(), size);
        ShardSlices { slicer, ..ShardSlices::new(node, shard, Lsn(0)) }
    }

    /// The next slice or note.
    pub fn advance(&mut self) -> Result<Made, JournalError> {
        loop {
            let (durable, synced) = (self.batches.durable_lsn(), self.batches.synced_lsn());
            let damages = self.batches.segment_damages();
            if let Some(slice) = self.slicer.poll_slice(durable, synced, damages) {
                if slice.header.end <= self.covered {
                    continue;
                }
                self.covered = slice.header.end;
                return Ok(Made::Slice(slice));
            }
            match self.batches.advance()? {
                Step::Segment => {
                    let Some(header) = self.batches.segment() else { continue };
                    let end = header.predecessor_end;
                    self.slicer.begin_segment(self.run, header);
                    if let Some(note) = self.take_note(end) {
                        return Ok(Made::Note(note));
                    }
                }
                Step::Batch => {
                    if let Some(batch) = self.batches.batch() {
                        self.slicer.add(&batch, self.batches.records());
                    }
                }
                Step::SegmentEnd => self.slicer.end_segment(),
                Step::Missing(missing) => {
                    self.missing = Some(match missing.reason {
                        GapReason::Expired => ObjectKind::Expired,
                        _ => ObjectKind::Lost,
                    });
                }
                Step::Pending => return Ok(Made::Pending),
                Step::End => return Ok(self.end()),
            }
        }
    }

    /// Position up to which the journal was read.
    pub fn read_to(&self) -> Lsn {
        self.batches.lsn().max(self.covered)
    }

    /// The damage in segments that are done, and their files. A second call gives only what is new.
    pub fn take_damages(&mut self) -> Vec<(PathBuf, Damage)> {
        self.batches.take_damages()
    }

    /// A note for the missing segments before one that says where they ended.
    fn take_note(&mut self, end: Lsn) -> Option<ObjectName> {
        let kind = self.missing.take()?;
        // What expired before the archive began needs no note.
        let is_needed = self.covered < end && (self.covered > Lsn(0) || kind == ObjectKind::Lost);
        let first = self.covered;
        self.covered = first.max(end);
        is_needed.then(|| self.note(first, end, kind))
    }

    /// The last notes, and the end.
    fn end(&mut self) -> Made {
        if self.missing.take() == Some(ObjectKind::Lost) {
            // How much was in them is not known.
            return Made::Note(self.note(self.covered, self.covered, ObjectKind::Lost));
        }
        // A run that is alive begins another segment sooner or later.
        let is_over = seal::is_alive(&self.run_dir).is_ok_and(|is_alive| !is_alive);
        if !is_over || std::mem::replace(&mut self.has_ended, true) {
            return if is_over { Made::End } else { Made::Pending };
        }
        Made::Note(self.note(self.covered, self.covered, ObjectKind::Ended))
    }

    fn note(&self, first: Lsn, end: Lsn, kind: ObjectKind) -> ObjectName {
        let (node, run, shard) = (self.node.clone(), self.run, self.shard);
        ObjectName { node, run, shard, first, end, kind }
    }
}
