//! Erases a call's audio from an archive: recordings are personal data.
//!
//! ```text
//! slices of the call ──► files of the mirror ──► archive::erase, as in a journal ──► slices again,
//!                                                                     under the same names
//! ```
//! A slice is replaced as a whole. Until then it is as it was, so an interrupted run leaves some
//! slices erased and others not. A second run does the rest.

#![forbid(unsafe_code)]

use super::mirror::{Mirror, MirrorError};
use super::slice::{self, ObjectName, SliceError};
use crate::archive::erase::{self, EraseError};
use crate::archive::reader::{Call, Journal};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Why a call was not erased, or only a part of it.
#[derive(Debug)]
pub enum ArchiveEraseError {
    /// The store, or the mirror.
    Mirror(MirrorError),
    /// The mirror's files.
    Erase(EraseError),
    /// A slice is not sound, so it cannot be made again.
    Slice(ObjectName, SliceError),
}

impl fmt::Display for ArchiveEraseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveEraseError::Mirror(error) => error.fmt(formatter),
            ArchiveEraseError::Erase(error) => error.fmt(formatter),
            ArchiveEraseError::Slice(name, error) => write!(
                formatter,
                "{name} is damaged and was not erased ({error}): remove the object from the store, \
                 or send it again from the journal, and repeat the command"
            ),
        }
    }
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
    // Each slice of the call, as it was.
    let mut before: BTreeMap<PathBuf, (ObjectName, slice::SliceIndex, Vec<u8>)> = BTreeMap::new();
    for call_epoch in &call.epochs {
        for (path, name) in mirror.objects_of(journal, call_epoch) {
            if before.contains_key(&path) {
                continue;
            }
            // It is gone: so is its audio.
            let Some(bytes) = mirror.get(&name)? else { continue };
            let verified = slice::verify(&bytes)
                .map_err(|error| ArchiveEraseError::Slice(name.clone(), error))?;
            mirror.fill(&path, &verified.index, &bytes)?;
            let tail = bytes[bytes.len() - slice::TAIL_SIZE..].to_vec();
            before.insert(path, (name, verified.index, tail));
        }
    }
    let done = erase::erase(journal, call, &mut || {}).map_err(ArchiveEraseError::Erase)?;
    let (records, bytes) = (done.records, done.bytes);
    let mut erased = ArchiveErased { slices: 0, records, bytes };
    for (path, (name, index, tail)) in before {
        let batches = mirror.batches(&path)?;
        let slice = slice::made_again(&index, &batches)
            .map_err(|error| ArchiveEraseError::Slice(name.clone(), error))?;
        if slice.tail() != tail {
            mirror.replace(&name, slice.bytes)?;
            erased.slices += 1;
        }
    }
    Ok(erased)
}
