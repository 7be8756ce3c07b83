//! How much room the frame ring has for appends and for pads.
#![forbid(unsafe_code)]

use super::{FrameRing, RingPosition};
use crate::constants::{
    BATCH_SIZE_MAX, BLOCK_SIZE, CALL_RECORD_SIZE_MAX, END_RECORD_SIZE, RECORD_EXPANSION_MAX,
    SEAL_SIZE_MAX,
};
use crate::format::payload::{CALL_SIZE_MAX, END_SIZE};
use crate::format::record::PAYLOAD_SIZE_MAX;
use crate::format::{HEADER_SIZE, record_size};

impl FrameRing {
    /// Room that an append surely finds, bytes, with record headers and padding ([`record_size`]).
    /// A call record takes at most [`CALL_RECORD_SIZE_MAX`], an end record [`END_RECORD_SIZE`]. An
    /// append succeeds if and only if its records take up at most this. The same holds for a series
    /// of appends together. A [`FrameRing::seal`] between them costs up to [`SEAL_SIZE_MAX`], and
    /// nothing of the reserve.
    ///
    /// It is less than the free bytes, because batches have a cost: a header, and a pad of up to a
    /// block. The last batch's pad is free: it ends with its block, and each limit that it can meet
    /// is the end of a block. For the other batches each appended byte is taxed by 1/64.
    ///
    /// Why that is enough: let `c` be the bytes of records in the open batch, and let `c/128` be
    /// saved for closing it. A record of `r` bytes that fits adds `r/128` to the savings, less than
    /// its tax. A record that does not fit finds `c/128` saved, and must leave `r/128` for its own
    /// batch. It has to pay for a pad and a header, at most a block. Tax and savings come to
    /// `r/64+c/128-r/128`, which is `(r+c)/128`. That is a block once `r+c` is half a batch, and
    /// here `r+c` is more than a whole batch.
    pub(crate) fn free_size(&self) -> usize {
        match &self.open {
            Some(open) => {
                let appended = self.head.0 - open.start.0 - HEADER_SIZE as u64;
                ((self.usable_size(self.head) * 128).saturating_sub(appended) / 130) as usize
            }
            None => self.free_size_between_batches(self.head),
        }
    }

    /// [`FrameRing::free_size`] if the head were there and no batch open.
    fn free_size_between_batches(&self, head: RingPosition) -> usize {
        (self.usable_size(head).saturating_sub(HEADER_SIZE as u64) * 128 / 130) as usize
    }

    /// Free bytes after `head`, without the bytes before the end of a lap that a batch may have to
    /// skip.
    fn usable_size(&self, head: RingPosition) -> u64 {
        let (size, limit) =
            (self.memory.len() as u64, self.released().0 + self.memory.len() as u64);
        let lap_end = (head.0 / size + 1) * size;
        let last_start = lap_end - BATCH_SIZE_MAX as u64;
        let this_lap = limit.min(last_start).saturating_sub(head.0);
        let next_lap = limit.min(last_start + size).saturating_sub(lap_end);
        this_lap + next_lap
    }

    /// Reserves `size` bytes of [`FrameRing::free_size`]: no pad may use them. They are for records
    /// that must find room in every case.
    pub fn set_reserve(&mut self, size: usize) {
        self.reserve = size;
    }

    /// Whether the pad of a seal may be made now: it uses nothing of the reserve.
    pub(super) fn may_pad(&self) -> bool {
        self.reserve == 0 || self.free_size_between_batches(self.block_end()) >= self.reserve
    }

    /// End of the block that contains the head.
    pub(super) fn block_end(&self) -> RingPosition {
        RingPosition(self.head.0.next_multiple_of(BLOCK_SIZE as u64))
    }
}

/// Bytes that [`FrameRing::append_audio`] takes up for a piece of `size` bytes: one record, or
/// several if the piece is larger than a batch.
pub const fn audio_size(size: usize) -> usize {
    let whole = size.saturating_sub(1) / PAYLOAD_SIZE_MAX;
    whole * record_size(PAYLOAD_SIZE_MAX) + record_size(size - whole * PAYLOAD_SIZE_MAX)
}

const _: () = assert!(CALL_RECORD_SIZE_MAX == record_size(CALL_SIZE_MAX));
const _: () = assert!(END_RECORD_SIZE == record_size(END_SIZE));
const _: () = assert!(SEAL_SIZE_MAX == BLOCK_SIZE);
const _: () = assert!(
    RECORD_EXPANSION_MAX * 7 >= record_size(1) && RECORD_EXPANSION_MAX * 6 >= record_size(0)
);
