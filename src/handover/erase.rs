//! Erases audio from the slices of an archive: recordings are personal data.
//!
//! ```text
//! a slice ──► records of the call marked, their payloads zeros ──► the slice made again, under the
//!                                                                  same name
//! ```
//! A slice is replaced as a whole. Until then it is as it was, so an interrupted run leaves some
//! slices erased and others not. A second run does the rest. A slice that was erased here has the
//! same bytes as one of a journal that the call was deleted from.

#![forbid(unsafe_code)]

use super::mirror::{Mirror, MirrorError};
use super::sink::Change;
use super::slice::{self, ObjectName, SliceError, SliceHeader};
use crate::archive::reader::{Call, Journal};
use crate::constants::BLOCK_SIZE;
use crate::format::{HEADER_SIZE, RecordHeader};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fmt;

mod requested;

pub(super) use requested::{Outcome, erase_requested};

/// Why a call was not erased, or only a part of it.
#[derive(Debug)]
pub enum ArchiveEraseError {
    /// The store, or the mirror.
    Mirror(MirrorError),
    /// A slice is not sound, so it cannot be made again.
    Slice(ObjectName, SliceError),
}

impl fmt::Display for ArchiveEraseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveEraseError::Mirror(error) => error.fmt(formatter),
            ArchiveEraseError::Slice(name, error) => {
                formatter.write_str(&damaged_slice(name, error))
            }
        }
    }
}

/// Says that a slice cannot be erased, and what to do.
pub(super) fn damaged_slice(name: &ObjectName, error: &SliceError) -> String {
    format!(
        "{name} is damaged and was not erased ({error}): remove the object from the store, or send \
         it again from the journal, and repeat the command"
    )
}

impl std::error::Error for ArchiveEraseError {}

impl From<MirrorError> for ArchiveEraseError {
    fn from(error: MirrorError) -> ArchiveEraseError {
        ArchiveEraseError::Mirror(error)
    }
}

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ArchiveErased {
    /// Slices that were replaced.
    pub slices: u64,
    /// Audio records.
    pub records: u64,
    /// Bytes of audio.
    pub bytes: u64,
}

/// Erases the audio of all epochs of a call. What was erased before does not count again.
pub fn erase_call(
    mirror: &Mirror,
    journal: &Journal,
    call: &Call,
) -> Result<ArchiveErased, ArchiveEraseError> {
    let of_epochs = call.epochs.iter().flat_map(|it| mirror.objects_of(journal, it));
    let names: BTreeSet<ObjectName> = of_epochs.collect();
    let is_ours = |header: &RecordHeader| {
        call.epochs.iter().any(|it| (it.call, it.epoch) == (header.call, header.epoch))
    };
    let mut erased = ArchiveErased::default();
    for name in names {
        // If it is gone, so is its audio.
        let changed = mirror.change(&name, |bytes| without(bytes, |header, _| is_ours(header)))?;
        match changed.map_err(|error| ArchiveEraseError::Slice(name.clone(), error))? {
            Change::Made(of_slice) => erased.add(of_slice),
            Change::Nothing | Change::Gone => {}
        }
    }
    Ok(erased)
}

impl ArchiveErased {
    /// Adds what was erased elsewhere.
    pub(super) fn add(&mut self, other: ArchiveErased) {
        self.slices += other.slices;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// A slice without the audio of some records, chosen by their headers and places in the object.
/// `None`: it has none of them any more.
pub(super) fn without(
    bytes: &[u8],
    is_chosen: impl Fn(&RecordHeader, usize) -> bool,
) -> Result<Option<(Bytes, ArchiveErased)>, SliceError> {
    let index = slice::verify(bytes)?.index;
    let mut batches = bytes[BLOCK_SIZE..index.index.end as usize].to_vec();
    let mut found = Vec::new();
    slice::for_each_audio(&index.header, &batches, |header, payload, at| {
        let is_done = header.erased && header.check_payload(payload).is_ok();
        if !is_done && is_chosen(header, at) {
            found.push((*header, at - BLOCK_SIZE));
        }
    })?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut erased = ArchiveErased { slices: 1, records: found.len() as u64, bytes: 0 };
    for (header, at) in found {
        let (head, size) = (header.erase().encode(), header.length as usize);
        batches[at..at + HEADER_SIZE].copy_from_slice(&head);
        batches[at + HEADER_SIZE..][..size].fill(0);
        erased.bytes += size as u64;
    }
    Ok(Some((slice::made_again(&index, &batches)?.bytes.into(), erased)))
}

/// What a slice of the archive is to one of the same name that was made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It has the same batches. Only what is known of their durability may differ: the segment
    /// after them may not have begun yet when one of the slices was made.
    Same,
    /// As [`Likeness::Same`], but for audio that it still has and that is erased in ours.
    Older,
    /// It differs in anything else.
    Other,
}

/// Compares a slice of the archive with ours.
pub(super) fn compare(theirs: &[u8], ours: &[u8]) -> Likeness {
    let (Ok(before), Ok(now)) = (slice::verify(theirs), slice::verify(ours)) else {
        return Likeness::Other;
    };
    let (before, now) = (before.index, now.index);
    let durable_end = now.header.durable_end;
    if (SliceHeader { durable_end, ..before.header.clone() }) != now.header {
        return Likeness::Other;
    }
    // Equal headers: they have the same size.
    let stretch = BLOCK_SIZE..now.index.end as usize;
    let batches = &ours[stretch.clone()];
    if theirs[stretch.clone()] == *batches {
        return Likeness::Same;
    }
    let mut erased = BTreeSet::new();
    let read = slice::for_each_audio(&now.header, batches, |header, _, at| {
        if header.erased {
            erased.insert(at);
        }
    });
    match (read, without(theirs, |_, at| erased.contains(&at))) {
        (Ok(()), Ok(Some((again, _)))) if again[stretch] == *batches => Likeness::Older,
        _ => Likeness::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Lsn;
    use crate::handover::slice::tests::slice;
    use crate::handover::slice::{NodeName, Slice};

    /// The slice, with another statement about what is durable.
    fn told(slice: &Slice, durable_end: Lsn) -> Vec<u8> {
        let mut index = slice::verify(&slice.bytes).unwrap().index;
        index.header.durable_end = durable_end;
        let batches = &slice.bytes[BLOCK_SIZE..index.index.end as usize];
        slice::made_again(&index, batches).unwrap().bytes
    }

    #[test]
    fn only_erased_audio_and_what_is_known_of_durability_may_differ() {
        let slice = slice();
        let index = slice::verify(&slice.bytes).unwrap().index.index;
        let calls: Vec<u64> = index.epochs.iter().map(|it| it.call).collect();
        let erased = |bytes: &[u8], call| {
            without(bytes, |header, _| header.call == call).unwrap().unwrap().0
        };
        let (one, two) = (erased(&slice.bytes, calls[0]), erased(&slice.bytes, calls[1]));
        assert_eq!(compare(&slice.bytes, &slice.bytes), Likeness::Same);
        assert_eq!(compare(&slice.bytes, &one), Likeness::Older);
        assert_eq!(compare(&two, &erased(&one, calls[1])), Likeness::Older);
        assert_eq!(compare(&one, &slice.bytes), Likeness::Other, "the archive has less");
        assert_eq!(compare(&one, &two), Likeness::Other);
        let early = told(&slice, slice.header.first);
        assert_ne!(early, slice.bytes);
        assert_eq!(compare(&early, &slice.bytes), Likeness::Same);
        assert_eq!(compare(&early, &one), Likeness::Older);
        let mut other = slice.header.clone();
        other.node = NodeName::parse("node-2").unwrap();
        let batches = slice.bytes[..index.end as usize].to_vec();
        let other = slice::finish(other, batches, &index).bytes;
        assert_eq!(compare(&other, &slice.bytes), Likeness::Other);
        let mut damaged = slice.bytes.clone();
        damaged[BLOCK_SIZE + 100] ^= 1;
        assert_eq!(compare(&damaged, &slice.bytes), Likeness::Other);
    }
}
