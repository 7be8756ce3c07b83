//! What an archive has of a shard.

#![forbid(unsafe_code)]

use crate::archive::reader::{JournalError, ShardJournal};
use crate::constants::BLOCK_SIZE;
use crate::format::Lsn;
use crate::handover::sink::Listed;
use crate::handover::slice::{ObjectKind, ObjectName};
use std::collections::BTreeMap;

/// The objects of a shard that the archive has.
#[derive(Debug, Default)]
pub(in crate::handover) struct Held(BTreeMap<ObjectName, u64>);

impl Held {
    /// From a listing of the shard's objects.
    pub(in crate::handover) fn new(listed: Vec<Listed>) -> Held {
        Held(listed.into_iter().map(|Listed { name, size, .. }| (name, size)).collect())
    }

    /// Whether the archive has an object of this name and size.
    pub(in crate::handover) fn has(&self, name: &ObjectName, size: u64) -> bool {
        self.0.get(name) == Some(&size)
    }

    /// Whether the archive has an object of this name.
    pub(in crate::handover) fn has_any(&self, name: &ObjectName) -> bool {
        self.0.contains_key(name)
    }

    /// Whether slices cover all positions of a range.
    fn covers(&self, first: Lsn, end: Lsn) -> bool {
        let slices = self.0.keys().filter(|name| name.kind == ObjectKind::Slice);
        let mut next = first;
        for name in slices {
            if name.first <= next {
                next = next.max(name.end);
            }
        }
        next >= end
    }

    /// The end of the last slice before a position; 0 if there is none.
    fn end_before(&self, position: Lsn) -> Lsn {
        let slices = self.0.keys().filter(|name| name.kind == ObjectKind::Slice);
        slices.map(|name| name.end).filter(|end| *end <= position).max().unwrap_or_default()
    }

    /// Up to where whole segments of a shard are in the archive, from its first one on. If that one
    /// is not, up to where the archive had come before: what is between has expired.
    pub(in crate::handover) fn position(&self, shard: &ShardJournal) -> Result<Lsn, JournalError> {
        let mut position = match shard.segment_count() {
            0 => Lsn(0),
            _ => self.end_before(shard.header(0)?.map_or(Lsn(0), |header| header.start)),
        };
        for place in 0..shard.segment_count() {
            let (header, end) = (shard.header(place)?, shard.place(place)?.end);
            let (Some(header), Some(end)) = (header, end) else { break };
            let first = Lsn(header.start.0 + BLOCK_SIZE as u64);
            if end > first && !self.covers(first, end) {
                break;
            }
            position = position.max(end);
        }
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::image::{self, Image};
    use crate::archive::reader::Journal;
    use crate::handover::slice::NodeName;

    /// The archive had a slice; then its cursor was lost, and what followed the slice expired.
    #[test]
    fn what_expired_after_the_archives_last_slice_is_not_taken_for_sent() {
        let mut image = Image::new(image::run(1), 0, 64 * 1024).unwrap();
        let call = image.start("acme", "one", 8_000);
        image.frame(call, &[7; 700]);
        image.seal();
        image.roll();
        image.frame(call, &[8; 700]);
        image.seal();
        let dir = tempfile::tempdir().unwrap();
        let shard_dir = image.store(dir.path()).unwrap();
        std::fs::remove_file(crate::archive::layout::segment_path(&shard_dir, 1)).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let shard = &journal.shards()[0];
        let end = Lsn(2 * BLOCK_SIZE as u64);
        let node = NodeName::parse("node-1").unwrap();
        let (run, kind) = (*shard.run(), ObjectKind::Slice);
        let name = ObjectName { node, run, shard: 0, first: Lsn(0), end, kind };
        assert_eq!(Held::default().position(shard).unwrap(), Lsn(0));
        assert_eq!(Held(BTreeMap::from([(name, 1)])).position(shard).unwrap(), end);
    }
}
