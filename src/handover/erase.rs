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
use super::slice::{self, ObjectName, SliceError};
use crate::archive::reader::{Call, Journal};
use crate::constants::BLOCK_SIZE;
use crate::format::{HEADER_SIZE, RecordHeader};
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
        // It is gone: so is its audio.
        let Some(bytes) = mirror.get(&name)? else { continue };
        let again = without(&bytes, |header, _| is_ours(header))
            .map_err(|error| ArchiveEraseError::Slice(name.clone(), error))?;
        if let Some((bytes, of_slice)) = again {
            mirror.replace(&name, bytes)?;
            erased.add(of_slice);
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
) -> Result<Option<(Vec<u8>, ArchiveErased)>, SliceError> {
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
    Ok(Some((slice::made_again(&index, &batches)?.bytes, erased)))
}

/// Whether two slices of one name differ only by audio that was erased in ours, byte for byte.
pub(super) fn is_ours_erased(theirs: &[u8], ours: &[u8]) -> bool {
    let Ok(verified) = slice::verify(ours) else { return false };
    let mut erased = BTreeSet::new();
    let batches = &ours[BLOCK_SIZE..verified.index.index.end as usize];
    let read = slice::for_each_audio(&verified.index.header, batches, |header, _, at| {
        if header.erased {
            erased.insert(at);
        }
    });
    let again = without(theirs, |_, at| erased.contains(&at));
    read.is_ok() && matches!(again, Ok(Some((again, _))) if again == ours)
}
