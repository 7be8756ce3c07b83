//! The start of a segment: its header, and the records of live calls.

#![forbid(unsafe_code)]

use super::segment::{OpenSegment, Stage};
use crate::call::{Epoch, Seq};
use crate::clock::{Now, UnixMicros};
use crate::constants::{BATCH_SIZE_MAX, BLOCK_SIZE};
use crate::format::record::{chain_crc, header_crc};
use crate::format::{
    BatchHeader, HEADER_SIZE, Lsn, RecordHeader, RecordKind, SegmentUuid, Unsynced, record_size,
};
use crate::journal::frame_ring::{FrameRing, RecordHeaders, RepeatedCall, RingPosition};

/// Lays out the next part of a segment's start at the front of `scratch`: the header, and records
/// of the calls that began before the batch at `first`. Returns the next stage and the size.
pub(super) fn open(
    segment: &mut OpenSegment,
    place: (u16, u64),
    predecessor: (SegmentUuid, Lsn),
    (ring, first): (&FrameRing, RingPosition),
    scratch: &mut [u8],
    now: Now,
) -> (Stage, usize) {
    let (after, mut size) = match segment.stage {
        Stage::Calls(after) => (Some(after), 0),
        Stage::Header | Stage::Batches => (None, 0),
    };
    if segment.stage == Stage::Header
        && let Some(block) = scratch.first_chunk_mut::<BLOCK_SIZE>()
    {
        segment.header(place, predecessor).encode(block);
        size = BLOCK_SIZE;
    }
    let calls = ring.calls_after(after).filter(|call| call.end <= first);
    let offset = segment.offset + size as u64;
    let place = CallPlace {
        segment: segment.prepared.uuid,
        lsn: Lsn(segment.start.0 + offset),
        unsynced: Unsynced::at(offset, segment.durable),
        sealed_at: now.unix,
    };
    match write_calls(&mut scratch[size..], calls, place, &mut segment.prepared.headers) {
        Some(batch) if batch.is_cut => (Stage::Calls(batch.last), size + batch.size),
        Some(batch) => (Stage::Batches, size + batch.size),
        None => (Stage::Batches, size),
    }
}

/// Where and when a batch of call records is written.
#[derive(Clone, Copy, Debug)]
struct CallPlace {
    segment: SegmentUuid,
    lsn: Lsn,
    unsynced: Unsynced,
    sealed_at: UnixMicros,
}

/// A batch that holds only call records.
#[derive(Debug, PartialEq, Eq)]
struct CallBatch {
    /// Size of the batch, bytes: whole blocks.
    size: usize,
    /// The last call in it.
    last: Epoch,
    /// It has no room for all of them.
    is_cut: bool,
}

/// Lays out a batch with number 0 at the front of `out`, with as many of `calls` as fit. `None` if
/// there are no calls.
fn write_calls<'a>(
    out: &mut [u8],
    calls: impl Iterator<Item = RepeatedCall<'a>>,
    CallPlace { segment, lsn, unsynced, sealed_at }: CallPlace,
    headers: &mut RecordHeaders,
) -> Option<CallBatch> {
    let room = out.len().min(BATCH_SIZE_MAX);
    let (mut at, mut record_count, mut records_crc, mut last, mut is_cut) =
        (HEADER_SIZE, 0, 0, None, false);
    for call in calls {
        let size = record_size(call.payload.len());
        if at + size > room {
            is_cut = true;
            break;
        }
        records_crc = write_call(&mut out[at..at + size], &call, records_crc, headers);
        at += size;
        record_count += 1;
        last = Some(call.epoch);
    }
    let last = last?;
    let size = at.next_multiple_of(BLOCK_SIZE);
    if size > at {
        let encoded = RecordHeader::pad(size - at, 0).encode();
        out[at..at + HEADER_SIZE].copy_from_slice(&encoded);
        out[at + HEADER_SIZE..size].fill(0);
        records_crc = chain_crc(records_crc, header_crc(&encoded));
    }
    let header = BatchHeader {
        size: size as u32,
        record_count,
        unsynced,
        segment,
        number: 0,
        lsn,
        sealed_at,
        records_crc,
    };
    out[..HEADER_SIZE].copy_from_slice(&header.encode());
    headers.end_batch(size);
    Some(CallBatch { size, last, is_cut })
}

/// Writes one record over all of `out`. Returns the batch's running checksum, with this record.
fn write_call(
    out: &mut [u8],
    call: &RepeatedCall<'_>,
    records_crc: u32,
    headers: &mut RecordHeaders,
) -> u32 {
    let header = RecordHeader {
        payload_crc: crc32c::crc32c(call.payload),
        length: call.payload.len() as u32,
        kind: RecordKind::Call,
        last: false,
        erased: false,
        call: call.call,
        epoch: call.epoch,
        seq: Seq(0),
        offset: 0,
        batch: 0,
        received_at: call.started_at,
    };
    let encoded = header.encode();
    let (front, padded) = out.split_at_mut(HEADER_SIZE);
    let (payload, padding) = padded.split_at_mut(call.payload.len());
    front.copy_from_slice(&encoded);
    payload.copy_from_slice(call.payload);
    padding.fill(0);
    headers.note(&encoded, call.payload);
    chain_crc(records_crc, header_crc(&encoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::BatchReader;

    #[test]
    fn call_records_are_laid_out_like_any_batch_and_stop_where_the_room_ends() {
        let payload = [7; 100];
        let epoch = |micros| Epoch { boot: 1, micros, shard: 2 };
        let call = |micros: u64| RepeatedCall {
            epoch: epoch(micros),
            call: micros * 10,
            end: RingPosition(0),
            started_at: UnixMicros(micros),
            payload: &payload,
        };
        // 192 bytes each: 21 fit into a block after its header, 42 into two.
        for (count, room, fits) in
            [(1, 8192, 1), (21, 8192, 21), (22, 8192, 22), (42, 8192, 42), (43, 8192, 42)]
        {
            let mut out = vec![0xEE; room];
            let unsynced = Unsynced::at(4096, 0);
            let place = CallPlace {
                segment: SegmentUuid([9; 16]),
                lsn: Lsn(4096),
                unsynced,
                sealed_at: UnixMicros(5),
            };
            let batch =
                write_calls(&mut out, (1..=count).map(call), place, &mut RecordHeaders::default())
                    .unwrap();
            assert_eq!((batch.last, batch.is_cut), (epoch(fits), fits < count));
            let reader = BatchReader::open(&out).unwrap();
            assert_eq!((reader.header().size as usize, reader.header().number), (batch.size, 0));
            let header = reader.header();
            assert_eq!(
                (header.segment, header.lsn, header.unsynced),
                (place.segment, place.lsn, place.unsynced)
            );
            let numbers: Vec<u64> = reader.map(|record| record.unwrap().header.call).collect();
            assert!(numbers.into_iter().eq((1..=fits).map(|micros| micros * 10)));
        }
        let (segment, unsynced) = (SegmentUuid::default(), Unsynced::UNKNOWN);
        let place = CallPlace { segment, lsn: Lsn(0), unsynced, sealed_at: UnixMicros(0) };
        assert_eq!(
            write_calls(&mut [0; 4096], std::iter::empty(), place, &mut RecordHeaders::default()),
            None
        );
    }
}
