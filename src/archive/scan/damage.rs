//! Faults in a segment, named for people.

#![forbid(unsafe_code)]

use crate::call::{Epoch, Seq};
use crate::constants::BLOCK_SIZE;
use crate::format::FormatError;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

/// A fault in a segment, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// The fault.
    pub(crate) what: Corruption,
}

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corruption {
    /// The segment's header is bad. Its batches say what it contained.
    SegmentHeader(FormatError),
    /// There is no sound batch where one must be, for this many bytes.
    Batch {
        /// Up to the next sound batch, or up to the end of the durable bytes.
        size: u64,
        /// What is wrong with the bytes at the offset.
        fault: FormatError,
    },
    /// A record's header is bad, or the batch holds other records than it should.
    Records(FormatError),
    /// A record's payload is bad. If it is audio, audio is lost.
    Payload {
        /// The call's record number.
        call: u64,
        /// The epoch.
        epoch: Epoch,
        /// The frame; 0 if it is not audio.
        seq: Seq,
        /// What is wrong.
        fault: FormatError,
    },
    /// Batches are missing between two consecutive ones.
    Skipped {
        /// The number of the first missing one.
        from: u64,
        /// How many are missing.
        count: u64,
    },
    /// The disk cannot read these bytes.
    Unreadable {
        /// Number of bytes: whole blocks.
        size: u64,
    },
    /// The next segment says that this one was longer.
    Missing {
        /// Number of missing bytes.
        size: u64,
    },
}

impl Corruption {
    /// Whether the disk cannot read the bytes. No power failure explains that.
    pub(super) fn is_unreadable(&self) -> bool {
        match *self {
            Corruption::Unreadable { .. } => true,
            Corruption::SegmentHeader(fault)
            | Corruption::Batch { fault, .. }
            | Corruption::Records(fault)
            | Corruption::Payload { fault, .. } => fault == FormatError::Unreadable,
            Corruption::Skipped { .. } | Corruption::Missing { .. } => false,
        }
    }
}

/// A fault, and the file offsets of its batch, or of a piece of a stretch without a batch.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub(super) damage: Damage,
    pub(super) batch: Range<u64>,
}

impl Suspect {
    /// Where the fault ends. A stretch may cross the durable end. Any other fault lies in one batch
    /// and does not.
    fn end(&self) -> u64 {
        let size = if let Corruption::Batch { size, .. } = self.damage.what { size } else { 1 };
        self.damage.offset.saturating_add(size)
    }
}

/// Faults with sound bytes after them, in the order of finding. They are damage if they were
/// durable.
#[derive(Debug, Default)]
pub(super) struct Suspects(VecDeque<Suspect>);

impl Suspects {
    /// A segment's header is bad.
    pub(super) fn of_header(fault: FormatError) -> Suspects {
        let damage = Damage { offset: 0, what: Corruption::SegmentHeader(fault) };
        Suspects(VecDeque::from([Suspect { damage, batch: 0..BLOCK_SIZE as u64 }]))
    }

    pub(super) fn push(&mut self, suspect: Suspect) {
        self.0.push_back(suspect);
    }

    /// Faults that lie wholly before the durable end are damage.
    pub(super) fn decide(&mut self, durable_end: u64, damages: &mut Vec<Damage>) {
        while let Some(suspect) = self.0.pop_front_if(|suspect| suspect.end() <= durable_end) {
            damages.push(suspect.damage);
        }
    }

    /// No more bytes were durable. Returns the bytes of batches that were not.
    pub(super) fn conclude(&mut self, durable_end: u64, damages: &mut Vec<Damage>) -> u64 {
        let (mut unsynced, mut counted_to) = (0, durable_end);
        for Suspect { mut damage, batch } in self.0.drain(..) {
            if damage.offset < durable_end {
                if let Corruption::Batch { size, .. } = &mut damage.what {
                    *size = (*size).min(durable_end - damage.offset);
                }
                damages.push(damage);
            }
            unsynced += batch.end.saturating_sub(batch.start.max(counted_to));
            counted_to = counted_to.max(batch.end);
        }
        unsynced
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at byte {}: {}", self.offset, self.what)
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Corruption::SegmentHeader(fault) => write!(formatter, "segment header: {fault}"),
            Corruption::Batch { size, fault } => {
                write!(formatter, "batch: {fault}; {size} bytes without a sound batch")
            }
            Corruption::Records(fault) => write!(formatter, "record: {fault}"),
            Corruption::Payload { seq: Seq(0), fault, .. } => {
                write!(formatter, "record of a call's start or end: {fault}")
            }
            Corruption::Payload { seq: Seq(seq), fault, .. } => {
                write!(formatter, "audio of frame {seq}: {fault}")
            }
            Corruption::Skipped { from, count } => {
                write!(formatter, "{count} batches from number {from} on are missing")
            }
            Corruption::Unreadable { size } => {
                write!(formatter, "the disk cannot read {size} bytes")
            }
            Corruption::Missing { size } => {
                write!(formatter, "{size} bytes that were written are missing")
            }
        }
    }
}
