//! The calls whose frames may still be written. Each new segment repeats their call records (see
//! [`crate::format`]).
//!
//! A call is in this set from its call record until its end record is durable. So its call record
//! is at hand whenever a frame of it is written, even again, and even after its connection has
//! gone. The set grows and shrinks with calls, never per frame.

#![forbid(unsafe_code)]

use super::RingPosition;
use crate::call::Epoch;
use crate::clock::UnixMicros;
use crate::format::payload::key_and_start;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// A call record to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RepeatedCall<'a> {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// The call's record number.
    pub(crate) call: u64,
    /// Where its first record in the ring ends.
    pub(crate) end: RingPosition,
    /// When `start` arrived.
    pub(crate) started_at: UnixMicros,
    /// The record's payload.
    pub(crate) payload: &'a [u8],
}

#[derive(Debug)]
struct Call {
    end: RingPosition,
    payload: Box<[u8]>,
}

/// Calls by epoch, and the ended ones by the position of their end.
#[derive(Debug, Default)]
pub(super) struct CallTable {
    calls: BTreeMap<Epoch, Call>,
    ended: VecDeque<(RingPosition, Epoch)>,
}

impl CallTable {
    /// A call record with this encoded payload was appended, which ends at `end`.
    pub(super) fn begin(&mut self, epoch: Epoch, end: RingPosition, payload: &[u8]) {
        self.calls.insert(epoch, Call { end, payload: payload.into() });
    }

    /// No more of the call will be appended. `head` is after its last record.
    pub(super) fn end(&mut self, epoch: Epoch, head: RingPosition) {
        self.ended.push_back((head, epoch));
    }

    /// Everything up to `durable` is durable. Calls that ended before it need no repeated record.
    pub(super) fn forget(&mut self, durable: RingPosition) {
        while let Some((_, epoch)) = self.ended.pop_front_if(|(end, _)| *end <= durable) {
            self.calls.remove(&epoch);
        }
    }

    /// Calls after the epoch `after`, in order of their epochs.
    pub(super) fn iter_after(
        &self,
        after: Option<Epoch>,
    ) -> impl Iterator<Item = RepeatedCall<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.calls.range((from, Bound::Unbounded)).map(|(epoch, call)| {
            let (key, started_at) = key_and_start(&call.payload);
            RepeatedCall {
                epoch: *epoch,
                call: key.record_number(),
                end: call.end,
                started_at,
                payload: &call.payload,
            }
        })
    }
}
