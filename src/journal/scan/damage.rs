//! What can be wrong in a segment, named for people.

#![forbid(unsafe_code)]

use crate::call::{Epoch, Seq};
use crate::constants::BLOCK_SIZE;
use crate::journal::format::FormatError;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

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
        /// Up to the next sound batch, or to where nothing was durable.
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

/// Something bad, and the bytes in the file of its batch, or of as much of a stretch without one.
#[derive(Clone, Debug)]
pub(super) struct Flaw {
    pub(super) damage: Damage,
    pub(super) batch: Range<u64>,
}

impl Flaw {
    /// Where what it names ends: a stretch may straddle the durable end, anything else is of one batch and does not.
    fn end(&self) -> u64 {
        let size = if let Harm::Batch { size, .. } = self.damage.what { size } else { 1 };
        self.damage.offset.saturating_add(size)
    }
}

/// What is bad and has something sound behind it, in the order in which it was found: damage if it was durable.
#[derive(Debug, Default)]
pub(super) struct Flaws(VecDeque<Flaw>);

impl Flaws {
    /// A segment's header is bad.
    pub(super) fn of_header(fault: FormatError) -> Flaws {
        let damage = Damage { offset: 0, what: Harm::SegmentHeader(fault) };
        Flaws(VecDeque::from([Flaw { damage, batch: 0..BLOCK_SIZE as u64 }]))
    }

    pub(super) fn push(&mut self, flaw: Flaw) {
        self.0.push_back(flaw);
    }

    /// What was durable as a whole is damage.
    pub(super) fn decide(&mut self, durable_end: u64, damages: &mut Vec<Damage>) {
        while let Some(flaw) = self.0.pop_front_if(|flaw| flaw.end() <= durable_end) {
            damages.push(flaw.damage);
        }
    }

    /// Nothing more was durable: returns the bytes of batches that were not.
    pub(super) fn conclude(&mut self, durable_end: u64, damages: &mut Vec<Damage>) -> u64 {
        let (mut unsynced, mut counted_to) = (0, durable_end);
        for Flaw { mut damage, batch } in self.0.drain(..) {
            if damage.offset < durable_end {
                if let Harm::Batch { size, .. } = &mut damage.what {
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

impl fmt::Display for Harm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Harm::SegmentHeader(fault) => write!(formatter, "segment header: {fault}"),
            Harm::Batch { size, fault } => write!(formatter, "batch: {fault}; no sound one for {size} bytes"),
            Harm::Records(fault) => write!(formatter, "record: {fault}"),
            Harm::Payload { seq: Seq(0), fault, .. } => write!(formatter, "record of a call's start or end: {fault}"),
            Harm::Payload { seq: Seq(seq), fault, .. } => write!(formatter, "audio of frame {seq}: {fault}"),
            Harm::Skipped { from, count } => write!(formatter, "{count} batches from number {from} on are missing"),
            Harm::Missing { size } => write!(formatter, "{size} bytes that were written are missing"),
        }
    }
}
