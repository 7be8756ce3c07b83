//! The notes of all frames that carriers send have room, in the ring and in a segment.

#![forbid(unsafe_code)]

use super::*;
use crate::constants::{PENDING_HEADERS_SHARE, RECORD_HEADERS_SHARE};

const RING_SIZE: usize = 2 * RING_SIZE_MIN;
const SEGMENT_SIZE: usize = 4 * RING_SIZE_MIN;

/// Appends frames until the ring is full. Returns their number.
fn fill(ring: &mut FrameRing, size: usize) -> u64 {
    // Each frame of the usual [`chunk`] comes at another time: that takes the most notes.
    (1..).take_while(|seq| ring.append_audio(chunk(*seq), &noise()[..size], KEY).is_ok()).count()
        as u64
}

#[test]
fn nothing_overflows_with_frames_of_ten_milliseconds_or_more() {
    for size in [160, 320, 480, 640, 960, 1_920, 9_600] {
        let mut ring = ring_of(RING_SIZE);
        ring.keep_headers(RING_SIZE / PENDING_HEADERS_SHARE);
        let mut headers = RecordHeaders::with_room(SEGMENT_SIZE / RECORD_HEADERS_SHARE as usize);
        headers.begin(SegmentUuid([1; 16]), Lsn(0));
        let (mut frames, mut bytes) = (0, 0);
        // The disk stands still until the ring is full, again and again.
        while bytes + RING_SIZE <= SEGMENT_SIZE {
            frames += fill(&mut ring, size);
            ring.seal();
            while let Some(batch) = ring.poll_sealed() {
                bytes += batch.size;
                ring.hand_over_headers(&batch, &mut headers);
                finish(&mut ring, &batch);
            }
        }
        assert!(bytes > SEGMENT_SIZE / 3);
        let noted = headers.notes(0).unwrap_or_else(|| panic!("frames of {size} bytes overflow"));
        let read = noted.records().map(|record| match record.unwrap() {
            Noted::Chunk(chunk) => u64::from(chunk.length as usize == size),
            Noted::Record(..) | Noted::Batch(_) => 0,
        });
        assert_eq!(read.sum::<u64>(), frames);
    }
}
