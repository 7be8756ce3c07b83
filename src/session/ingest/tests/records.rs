//! What the frame ring holds of a call.

#![forbid(unsafe_code)]

use super::*;
use crate::format::CallRecord;

#[test]
fn the_ring_holds_the_call_its_audio_and_its_end() {
    let mut call = Harness::live();
    call.audio(b"abcd");
    call.pass(millis(250));
    call.piece(MessageKind::Binary, true, false, 0, b"efg");
    call.piece(MessageKind::Binary, false, false, 3, b"");
    call.piece(MessageKind::Binary, false, true, 3, b"hi");
    call.audio(b"");
    call.text(STOP);

    let records = call.records();
    let (number, epoch) = (call.session.call.record_number(), call.session.epoch);
    assert!(records.iter().all(|(header, _)| (header.call, header.epoch) == (number, epoch)));

    let (header, payload) = &records[0];
    assert_eq!(header.kind, RecordKind::Call);
    let record = CallRecord::decode(payload).expect("a valid call record");
    assert_eq!(
        (record.call, record.tenant, record.interaction),
        (call.session.call, "tenant-abc", "call-123")
    );
    assert_eq!(
        (record.sample_rate, record.started_at),
        (24_000, UnixMicros(EPOCH_OF_UNIX * 1_000_000))
    );
    assert_eq!(
        (record.token_issued_at, record.token_expires_at),
        (EPOCH_OF_UNIX - 60, EPOCH_OF_UNIX + 1)
    );
    assert_eq!(record.peer.map(|peer| peer.to_string()).as_deref(), Some("[2001:db8::1]:4000"));

    let audio: Vec<_> = records[1..5]
        .iter()
        .map(|(header, payload)| {
            assert_eq!(header.kind, RecordKind::Audio);
            let after_ms = (header.received_at.0 - EPOCH_OF_UNIX * 1_000_000) / 1000;
            (header.seq.0, header.offset, header.last, &payload[..], after_ms)
        })
        .collect();
    let expected: [(u64, u32, bool, &[u8], u64); 4] = [
        (1, 0, true, b"abcd", 0),
        (2, 0, false, b"efg", 250),
        (2, 3, true, b"hi", 250), // the odd byte stays: readers drop it
        (3, 0, true, b"", 250),
    ];
    assert_eq!(audio, expected);

    let (header, payload) = &records[5];
    assert_eq!((header.kind, records.len()), (RecordKind::End, 6));
    let end = EndRecord::decode(payload).expect("a valid end record");
    let ended_at = UnixMicros(EPOCH_OF_UNIX * 1_000_000 + 250_000);
    assert_eq!(end, EndRecord { frames: 3, bytes: 8, ending: Ending::Stopped.number(), ended_at });
}

#[test]
fn a_frame_that_was_cut_is_not_counted_by_the_end_record() {
    let mut call = Harness::live();
    call.audio(b"ab");
    call.piece(MessageKind::Binary, true, false, 0, b"cd");
    call.disconnect(Disconnect::Reset);
    let records = call.records();
    let kinds: Vec<_> = records.iter().map(|(header, _)| (header.kind, header.last)).collect();
    let expected =
        [(RecordKind::Call, false), (RecordKind::Audio, true), (RecordKind::Audio, false)];
    assert_eq!(kinds[..3], expected);
    let end = EndRecord::decode(&records[3].1).expect("a valid end record");
    assert_eq!((end.frames, end.bytes, end.ending), (1, 2, Ending::Reset.number()));
}
