//! Finds one call without a look at the others.
//!
//! Call tables say which segments may hold it, for 256 segments at a time
//! ([`call_table`](crate::archive::call_table)). In a segment its index is searched. In a segment
//! that is being written its live index is searched, and what was written after that is read. A
//! segment with neither is read from end to end.

#![forbid(unsafe_code)]

use super::calls::{EpochPiece, group};
use super::catalog::Call;
use super::gathered::Gathered;
use super::{Journal, JournalError, Listed, ShardJournal};
use crate::archive::call_table::{CallTable, GROUP_SIZE, group_of};
use crate::archive::index::EpochIndex;
use crate::call::{CallIdentity, Epoch};
use std::collections::BTreeMap;

impl Journal {
    /// The call with these ids. Reads call tables, the indexes of the segments that no table
    /// covers, and those of the call's own segments.
    pub fn find(&self, identity: &CallIdentity) -> Result<Option<Call>, JournalError> {
        let key = identity.key();
        let mut found = Vec::new();
        for (place, shard) in self.shards().iter().enumerate() {
            for (epoch, gathered) in shard.find(key.record_number())? {
                found.push(EpochPiece { shard: place, call: key.record_number(), epoch, gathered });
            }
        }
        found.sort_by_key(|piece| (piece.epoch, piece.shard));
        let Some(call_epochs) = group(found).remove(&Some(key.0)) else { return Ok(None) };
        Ok(match self.listed(false, call_epochs)? {
            Some(Listed::Call(call)) => Some(call),
            Some(Listed::Nameless(_)) | None => None,
        })
    }
}

impl ShardJournal {
    /// The epochs of a call, by its record number.
    fn find(&self, call: u64) -> Result<BTreeMap<Epoch, Gathered>, JournalError> {
        let mut found: BTreeMap<Epoch, Gathered> = BTreeMap::new();
        // The last segment that was begun, and whether it is being written.
        let mut last = None;
        for position in self.candidates(call) {
            let Some((call_epochs, is_live)) = self.find_in(position, call)? else { continue };
            last = Some((position, is_live));
            let id = self.id(position).unwrap_or(0);
            for call_epoch in call_epochs {
                found.entry(call_epoch.epoch).or_default().add(position, id, call_epoch);
            }
        }
        if let Some((position, is_live)) = last
            && !self.has_successor(position)?
            && (is_live || self.is_written_after(position))
        {
            let here = found.values_mut();
            here.filter(|gathered| gathered.last_position() == Some(position))
                .for_each(Gathered::set_live);
        }
        Ok(found)
    }

    /// Positions of the segments that may hold the call, in order.
    fn candidates(&self, call: u64) -> Vec<usize> {
        let (ids, mut found, mut from) = (self.ids(), Vec::new(), 0);
        while let Some(first) = ids.get(from) {
            let group = group_of(*first);
            let to = from + ids[from..].partition_point(|id| group_of(*id) == group);
            // A short group has no table. Retention or the writer has cut it off.
            let table = CallTable::open(self.dir(), group)
                .filter(|table| table.is_of(self.run().number(), self.shard()));
            let range = table.as_ref().and_then(|table| table.find(call).ok());
            let may_hold = |id: u64| match (&table, &range) {
                (Some(table), Some(range)) if table.covers(id) => {
                    range.as_ref().is_some_and(|range| range.contains(&id))
                }
                _ => true,
            };
            found.extend((from..to).filter(|position| may_hold(ids[*position])));
            from = to;
        }
        found
    }

    /// The epochs of a call in a segment, and whether it is being written. `None` if there is
    /// nothing to read.
    fn find_in(
        &self,
        position: usize,
        call: u64,
    ) -> Result<Option<(Vec<EpochIndex>, bool)>, JournalError> {
        if let Some(mut index) = self.index_file(position)
            && let Ok(found) = index.find(call)
        {
            let epochs = found.into_iter().map(|(call_epoch, _)| call_epoch).collect();
            return Ok(Some((epochs, false)));
        }
        if let Some(found) = self.find_live(position, call)? {
            return Ok(Some((found, true)));
        }
        Ok(self.index(position)?.map(|(index, is_live)| {
            let ours = index.epochs.into_iter().filter(|call_epoch| call_epoch.call == call);
            (ours.collect(), is_live)
        }))
    }
}

const _: () = assert!(GROUP_SIZE > 1);
