//! What can be wrong in a segment, named for people.

#![forbid(unsafe_code)]

use crate::call::{Epoch, Seq};
use crate::journal::format::FormatError;
use std::fmt;

/// What was wrong in a segment, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Byte in the file.
    pub offset: u64,
    /// What.
    pub what: Harm,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The segment's header is bad; its batches tell what it said.
    SegmentHeader(FormatError),
    /// No batch is sound where one has to be, for so many bytes.
    Batch {
        /// Up to the next sound batch.
        size: u64,
        /// What is wrong with the bytes at the offset.
        fault: FormatError,
    },
    /// A record's header is bad, or the batch does not hold the records it should.
    Records(FormatError),
    /// A record's payload is bad: audio is lost where it is audio.
    Payload {
        /// The call's record number.
        call: u64,
        /// The connection's turn at it.
        epoch: Epoch,
        /// The frame; 0 where it is no audio.
        seq: Seq,
        /// What is wrong.
        fault: FormatError,
    },
    /// Batches are missing between two that follow on each other.
    Skipped {
        /// The number of the first one.
        from: u64,
        /// How many.
        count: u64,
    },
    /// The next segment says that this one went on for so many bytes.
    Missing {
        /// How many.
        size: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at byte {}: {}", self.offset, self.what)
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Harm::SegmentHeader(fault) => write!(formatter, "segment header: {fault}"),
            Harm::Batch { size, fault } => write!(formatter, "batch: {fault}; the next sound one is {size} bytes on"),
            Harm::Records(fault) => write!(formatter, "record: {fault}"),
            Harm::Payload { seq: Seq(0), fault, .. } => write!(formatter, "record of a call's start or end: {fault}"),
            Harm::Payload { seq: Seq(seq), fault, .. } => write!(formatter, "audio of frame {seq}: {fault}"),
            Harm::Skipped { from, count } => write!(formatter, "{count} batches from number {from} on are missing"),
            Harm::Missing { size } => write!(formatter, "{size} bytes that were written are missing"),
        }
    }
}
