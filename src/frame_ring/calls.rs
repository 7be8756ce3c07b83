//! The calls whose records may still be written: each new segment repeats who they are (see [`crate::journal::format`]).
//!
//! A call is in here from its call record until everything up to its end record is durable. So it is known whenever a frame
//! of it is written, first or again, even where its connection is long gone. Grows and shrinks with calls, never per frame.

#![forbid(unsafe_code)]

use super::RingPosition;
use crate::call::Epoch;
use crate::clock::UnixMicros;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// A call record to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatedCall<'a> {
    /// The connection's turn.
    pub epoch: Epoch,
    /// The call's record number.
    pub call: u64,
    /// Where the record it had in the ring ends.
    pub end: RingPosition,
    /// When `start` came.
    pub started_at: UnixMicros,
    /// The record's payload.
    pub payload: &'a [u8],
}

#[derive(Debug)]
struct Call {
    call: u64,
    end: RingPosition,
    started_at: UnixMicros,
    payload: Box<[u8]>,
}

/// Calls by epoch, and those that have ended by where their end is.
#[derive(Debug, Default)]
pub(super) struct CallTable {
    calls: BTreeMap<Epoch, Call>,
    ended: VecDeque<(RingPosition, Epoch)>,
}

impl CallTable {
    /// A call record has been appended, which ends at `end`.
    pub(super) fn begin(&mut self, epoch: Epoch, call: u64, end: RingPosition, started_at: UnixMicros, payload: &[u8]) {
        self.calls.insert(epoch, Call { call, end, started_at, payload: payload.into() });
    }

    /// No more of the call will be appended; `head` is behind the last of it.
    pub(super) fn end(&mut self, epoch: Epoch, head: RingPosition) {
        self.ended.push_back((head, epoch));
    }

    /// Everything up to `durable` is: calls that ended before it need no repeating.
    pub(super) fn forget(&mut self, durable: RingPosition) {
        while let Some((_, epoch)) = self.ended.pop_front_if(|(end, _)| *end <= durable) {
            self.calls.remove(&epoch);
        }
    }

    /// Calls behind `after`, in order of their epochs.
    pub(super) fn iter_after(&self, after: Option<Epoch>) -> impl Iterator<Item = RepeatedCall<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.calls.range((from, Bound::Unbounded)).map(|(epoch, call)| RepeatedCall {
            epoch: *epoch,
            call: call.call,
            end: call.end,
            started_at: call.started_at,
            payload: &call.payload,
        })
    }
}
