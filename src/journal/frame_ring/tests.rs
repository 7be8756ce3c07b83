use super::*;
use crate::address::PeerAddress;
use crate::call::CallIdentity;
use crate::constants::{
    CALL_RECORD_SIZE_MAX, END_RECORD_SIZE, RECEIVE_BUFFER_SIZE, SEAL_SIZE_MAX,
    SHED_CONNECTIONS_MAX, ends_size, ring_size_min, room_needed,
};
use crate::format::batch::BatchReader;
use crate::format::{SegmentUuid, Unsynced};
use std::sync::OnceLock;

mod model;
mod notes;

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// A few megabytes of noise. Payloads are slices of it.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut state = 1u64;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(3 * BATCH_SIZE_MAX).collect()
    })
}

fn ring_of(size: usize) -> FrameRing {
    FrameRing::new(Region::allocate(size).unwrap(), Kernel::detect())
}

fn chunk(seq: u64) -> Chunk {
    let epoch = Epoch { boot: 1, micros: 2, shard: 3 };
    Chunk {
        call: 42,
        epoch,
        seq: Seq(seq),
        offset: 0,
        last: true,
        received_at: UnixMicros(seq + 1_000),
    }
}

fn unmasked(masked: &[u8]) -> Vec<u8> {
    let mut bytes = masked.to_vec();
    mask::unmask_in_place(&mut bytes, KEY);
    bytes
}

/// Seals the open batch, takes the only sealed batch and returns it.
fn sealed(ring: &mut FrameRing) -> SealedBatch {
    ring.seal();
    let batch = ring.poll_sealed().unwrap();
    assert_eq!(ring.poll_sealed(), None);
    batch
}

fn finish(ring: &mut FrameRing, batch: &SealedBatch) {
    ring.set_written(batch.end());
    ring.set_durable(batch.end());
}

#[test]
fn a_frame_is_laid_out_as_the_format_says() {
    for kernel in Kernel::available() {
        let mut ring = FrameRing::new(Region::allocate(RING_SIZE_MIN).unwrap(), kernel);
        ring.set_now(Now { moment: Moment::from_nanos(7), unix: UnixMicros(70) });
        let masked = &noise()[..9_601];
        ring.append_audio(Chunk { offset: 5, last: false, ..chunk(1) }, masked, KEY).unwrap();
        assert_eq!(ring.head(), RingPosition(64 + 64 + 9_664));
        assert_eq!(ring.open_since(), Some(Moment::from_nanos(7)));
        ring.set_now(Now { moment: Moment::from_nanos(8), unix: UnixMicros(80) });
        let batch = sealed(&mut ring);
        assert_eq!(
            (batch.number, batch.start, batch.size, batch.record_count),
            (1, RingPosition(0), 12_288, 1)
        );
        assert_eq!((batch.opened_at, batch.sealed_at), (Moment::from_nanos(7), UnixMicros(80)));
        assert_eq!((ring.head(), ring.sealed()), (batch.end(), batch.end()));

        let reader = BatchReader::open(ring.batch_bytes(&batch)).unwrap();
        assert_eq!(reader.header().sealed_at, UnixMicros(80));
        let records: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(records.len(), 1);
        assert!(records[0].payload == unmasked(masked));
        let expected = RecordHeader {
            payload_crc: crc32c::crc32c(&unmasked(masked)),
            length: 9_601,
            kind: RecordKind::Audio,
            last: false,
            erased: false,
            call: 42,
            epoch: chunk(1).epoch,
            seq: Seq(1),
            offset: 5,
            batch: 1,
            received_at: UnixMicros(1_001),
        };
        assert_eq!(records[0].header, expected);
    }
}

#[test]
fn a_call_and_its_end_come_back() {
    let mut ring = ring_of(RING_SIZE_MIN);
    let identity = CallIdentity { tenant: "acme".into(), interaction: "call/1".into() };
    let start = CallStart {
        call: identity.key(),
        identity: &identity,
        epoch: chunk(1).epoch,
        sample_rate: 24_000,
        started_at: UnixMicros(11),
        token_issued_at: 12,
        token_expires_at: 13,
        peer: PeerAddress::parse(b"198.51.100.7:4000"),
    };
    let (call, epoch) = (identity.key().record_number(), start.epoch);
    ring.append_call(&start).unwrap();
    let end =
        CallEnd { call, epoch, frames: 3, bytes: 28_800, ending: 4, ended_at: UnixMicros(99) };
    ring.append_end(&end).unwrap();
    let batch = sealed(&mut ring);
    let records: Vec<_> =
        BatchReader::open(ring.batch_bytes(&batch)).unwrap().map(Result::unwrap).collect();
    let read = CallRecord::decode(records[0].payload).unwrap();
    assert_eq!((read.call, read.tenant, read.interaction), (identity.key(), "acme", "call/1"));
    assert_eq!((read.sample_rate, read.started_at), (24_000, UnixMicros(11)));
    assert_eq!((read.token_issued_at, read.token_expires_at), (12, 13));
    assert_eq!(read.peer, start.peer);
    let ended = EndRecord { frames: 3, bytes: 28_800, ending: 4, ended_at: UnixMicros(99) };
    assert_eq!(EndRecord::decode(records[1].payload), Ok(ended));
    for (record, kind, at) in
        [(&records[0], RecordKind::Call, 11), (&records[1], RecordKind::End, 99)]
    {
        assert_eq!(
            (record.header.kind, record.header.call, record.header.epoch),
            (kind, call, epoch)
        );
        assert_eq!(
            (record.header.received_at, record.header.seq, record.header.last),
            (UnixMicros(at), Seq(0), false)
        );
    }
    assert!(record_size(records[0].payload.len()) <= CALL_RECORD_SIZE_MAX);
    assert_eq!(record_size(records[1].payload.len()), END_RECORD_SIZE);
}

#[test]
fn stamping_again_changes_the_batch_header_and_nothing_else() {
    let mut ring = ring_of(RING_SIZE_MIN);
    ring.append_audio(chunk(1), &noise()[..500], KEY).unwrap();
    let batch = sealed(&mut ring);
    ring.stamp(&batch, SegmentUuid([1; 16]), Lsn(4096), Unsynced::at(4096, 0));
    let first = ring.batch_bytes(&batch).to_vec();
    ring.stamp(&batch, SegmentUuid([2; 16]), Lsn(8192), Unsynced::at(8192, 4096));
    let second = ring.batch_bytes(&batch);
    assert_eq!(first[HEADER_SIZE..], second[HEADER_SIZE..]);
    let reader = BatchReader::open(second).unwrap();
    assert_eq!((reader.header().segment, reader.header().lsn), (SegmentUuid([2; 16]), Lsn(8192)));
    assert_eq!(reader.header().number, BatchReader::open(&first).unwrap().header().number);
}

#[test]
fn without_an_open_batch_there_is_nothing_to_seal() {
    let mut ring = ring_of(RING_SIZE_MIN);
    ring.seal();
    assert_eq!((ring.poll_sealed(), ring.head(), ring.open_since()), (None, RingPosition(0), None));
    ring.append_audio(chunk(1), b"", KEY).unwrap();
    let batch = sealed(&mut ring);
    assert_eq!((batch.size, ring.sealed_count()), (BLOCK_SIZE, 1));
    ring.seal();
    assert_eq!((ring.poll_sealed(), ring.sealed_count()), (None, 1));
}

#[test]
fn a_record_that_does_not_fit_seals_the_batch_and_opens_the_next() {
    let mut ring = ring_of(RING_SIZE_MIN);
    for seq in 1..=108 {
        ring.append_audio(chunk(seq), &noise()[..9_600], KEY).unwrap();
    }
    assert_eq!(ring.poll_sealed(), None);
    ring.append_audio(chunk(109), &noise()[..9_600], KEY).unwrap();
    let batch = ring.poll_sealed().unwrap();
    assert_eq!((batch.record_count, batch.size), (108, BATCH_SIZE_MAX - BLOCK_SIZE));
    // A record as large as a batch can hold fills a batch alone, without a pad.
    ring.append_audio(chunk(110), &noise()[..PAYLOAD_SIZE_MAX], KEY).unwrap();
    ring.seal();
    let sizes: Vec<_> = std::iter::from_fn(|| ring.poll_sealed())
        .map(|batch| (batch.record_count, batch.size))
        .collect();
    assert_eq!(sizes, [(1, 12_288), (1, BATCH_SIZE_MAX)]);
}

#[test]
fn a_piece_larger_than_a_batch_becomes_several_records() {
    let mut ring = ring_of(RING_SIZE_MIN);
    let masked = &noise()[..2 * PAYLOAD_SIZE_MAX + 77];
    assert_eq!(audio_size(masked.len()), 2 * BATCH_SIZE_MAX - 2 * HEADER_SIZE + 64 + 128);
    ring.append_audio(Chunk { offset: 1_000, ..chunk(1) }, masked, KEY).unwrap();
    ring.seal();
    let (mut bytes, mut records) = (Vec::<u8>::new(), Vec::new());
    while let Some(batch) = ring.poll_sealed() {
        for record in BatchReader::open(ring.batch_bytes(&batch)).unwrap() {
            let record = record.unwrap();
            bytes.extend(record.payload);
            records.push((record.header.offset as usize, record.header.last));
        }
    }
    assert!(bytes == unmasked(masked));
    let size = PAYLOAD_SIZE_MAX;
    assert_eq!(records, [(1_000, false), (1_000 + size, false), (1_000 + 2 * size, true)]);
    assert_eq!(audio_size(0), 64);
    assert_eq!(audio_size(PAYLOAD_SIZE_MAX), PAYLOAD_SIZE_MAX + 64);
    assert_eq!(audio_size(PAYLOAD_SIZE_MAX + 1), PAYLOAD_SIZE_MAX + 64 + 128);
}

#[test]
fn padding_never_shows_earlier_bytes() {
    let mut ring = ring_of(RING_SIZE_MIN);
    // Fill a whole lap with ones, then write records with every size of padding over it.
    for seq in 0..1_000 {
        if ring.append_audio(chunk(seq), &[0xFF; 9_600], MaskKey::default()).is_err() {
            ring.release_sealed();
        }
    }
    ring.seal();
    ring.release_sealed();
    for size in 0..200 {
        ring.append_audio(chunk(1), &noise()[..size], KEY).unwrap();
    }
    let batch = sealed(&mut ring);
    assert!(batch.end().0 > RING_SIZE_MIN as u64, "on a later lap");
    assert_eq!(
        BatchReader::open(ring.batch_bytes(&batch)).unwrap().map(Result::unwrap).count(),
        200
    );
}

#[test]
fn an_empty_ring_has_the_same_room_at_every_position() {
    let mut ring = ring_of(RING_SIZE_MIN);
    let room = ring.free_size();
    assert!(room > RING_SIZE_MIN * 72 / 100, "{room}");
    for seq in 0..2_000 {
        ring.append_audio(chunk(seq), &noise()[..1 + seq as usize * 61 % 9_000], KEY).unwrap();
        let batch = sealed(&mut ring);
        finish(&mut ring, &batch);
        assert_eq!((ring.free_size(), ring.used_size()), (room, 0));
    }
    assert!(ring.head().0 > 2 * RING_SIZE_MIN as u64);
}

#[test]
#[should_panic(expected = "up to what is written")]
fn durable_does_not_pass_written() {
    let mut ring = ring_of(RING_SIZE_MIN);
    ring.append_audio(chunk(1), b"x", KEY).unwrap();
    let batch = sealed(&mut ring);
    ring.set_durable(batch.end());
}

#[test]
#[should_panic(expected = "written after it was given out")]
fn written_does_not_pass_a_batch_that_was_not_taken() {
    let mut ring = ring_of(RING_SIZE_MIN);
    ring.append_audio(chunk(1), b"x", KEY).unwrap();
    ring.seal();
    ring.set_written(ring.sealed());
}

#[test]
#[should_panic(expected = "still in the ring")]
fn a_released_batch_is_not_read() {
    let mut ring = ring_of(RING_SIZE_MIN);
    ring.append_audio(chunk(1), b"x", KEY).unwrap();
    let batch = sealed(&mut ring);
    finish(&mut ring, &batch);
    ring.batch_bytes(&batch);
}

#[test]
fn a_ring_filled_to_the_last_record_can_still_be_sealed() {
    for size in [0, 1_000, 9_600] {
        for released in 1..12 {
            // The oldest batch still in use starts anywhere on the lap, so the ring is full
            // anywhere on the next one.
            let mut ring = ring_of(RING_SIZE_MIN);
            for _ in 0..released {
                ring.append_audio(chunk(1), &noise()[..200_000 + released], KEY).unwrap();
                ring.seal();
            }
            ring.release_sealed();
            while ring.append_audio(chunk(2), &noise()[..size], KEY).is_ok() {}
            assert!(ring.free_size() < audio_size(size));
            ring.seal();
            let used = ring.used_size();
            assert!(
                used <= RING_SIZE_MIN && used > RING_SIZE_MIN * 73 / 100,
                "{used} of {RING_SIZE_MIN}"
            );
        }
    }
}

/// Sizes that make batches close at the worst moments: a large record closes a nearly empty batch,
/// a small one closes a full batch.
#[test]
fn the_promised_room_is_there_for_the_worst_mixes() {
    let half = PAYLOAD_SIZE_MAX / 2;
    let mixes: [&[usize]; 6] = [
        &[0],
        &[half + 64],
        &[0, PAYLOAD_SIZE_MAX],
        &[half, half + 64],
        &[0, half - 64, half + 64, 4_000],
        &[PAYLOAD_SIZE_MAX, 1, 70_000],
    ];
    for mix in mixes {
        let mut ring = ring_of(RING_SIZE_MIN);
        for offset in 0..40 {
            // Start the series from different places of the lap.
            ring.append_audio(chunk(1), &noise()[..offset * 5_000], KEY).unwrap();
            ring.seal();
            ring.release_sealed();
            let (promised, mut taken) = (ring.free_size(), 0);
            for (seq, size) in mix.iter().cycle().enumerate().take(4_000) {
                if taken + audio_size(*size) > promised {
                    break;
                }
                ring.append_audio(chunk(seq as u64), &noise()[..*size], KEY)
                    .expect("within the promised room");
                taken += audio_size(*size);
            }
            ring.seal();
            ring.release_sealed();
        }
    }
}

#[test]
fn a_call_is_known_until_its_end_is_durable() {
    let mut ring = ring_of(RING_SIZE_MIN);
    let identity = CallIdentity { tenant: "acme".into(), interaction: "call/1".into() };
    let epoch = |micros| Epoch { boot: 1, micros, shard: 0 };
    for micros in [1, 2, 3] {
        let (call, started_at) = (identity.key(), UnixMicros(micros));
        let (sample_rate, token_issued_at, token_expires_at) = (8_000, 0, 0);
        let identity = &identity;
        let start = CallStart {
            call,
            identity,
            epoch: epoch(micros),
            sample_rate,
            started_at,
            token_issued_at,
            token_expires_at,
            peer: None,
        };
        ring.append_call(&start).unwrap();
    }
    let known = |ring: &FrameRing, after| {
        ring.calls_after(after).map(|call| call.epoch.micros).collect::<Vec<_>>()
    };
    let end = CallEnd {
        call: 0,
        epoch: epoch(2),
        frames: 0,
        bytes: 0,
        ending: 1,
        ended_at: UnixMicros(9),
    };
    let before = sealed(&mut ring);
    ring.append_end(&end).unwrap();
    assert_eq!(known(&ring, None), [1, 2, 3]);
    assert_eq!(known(&ring, Some(epoch(1))), [2, 3]);
    let call = ring.calls_after(Some(epoch(2))).next().unwrap();
    assert_eq!((call.call, call.started_at), (identity.key().record_number(), UnixMicros(3)));
    assert_eq!(CallRecord::decode(call.payload).unwrap().interaction, "call/1");
    finish(&mut ring, &before);
    assert_eq!(known(&ring, None), [1, 2, 3], "its end record is not durable");
    let batch = sealed(&mut ring);
    finish(&mut ring, &batch);
    assert_eq!(known(&ring, None), [1, 3]);
    // A ring without room for the end record removes the call too.
    while ring.append_audio(chunk(1), &noise()[..9_600], KEY).is_ok() {}
    while ring.append_end(&CallEnd { epoch: epoch(9), ..end }).is_ok() {}
    ring.append_end(&CallEnd { epoch: epoch(1), ..end }).unwrap_err();
    ring.seal();
    ring.release_sealed();
    assert_eq!(known(&ring, None), [3]);
}

fn end(epoch: u64) -> CallEnd {
    let epoch = Epoch { boot: 1, micros: epoch, shard: 3 };
    CallEnd { call: 42, epoch, frames: 1, bytes: 0, ending: 0, ended_at: UnixMicros(epoch.micros) }
}

#[test]
fn a_seal_leaves_the_reserve() {
    let count = 20;
    for released in 1..12 {
        let mut ring = ring_of(RING_SIZE_MIN);
        for _ in 0..released {
            ring.append_audio(chunk(1), &noise()[..200_000 + released], KEY).unwrap();
            ring.seal();
        }
        ring.release_sealed();
        let reserve = ends_size(count);
        ring.set_reserve(reserve);
        // Append as much as is accepted. One more empty frame would be too much.
        while ring.free_size() >= reserve + SEAL_SIZE_MAX + audio_size(0) {
            let size = if ring.free_size() > reserve + 100_000 { 60_000 } else { 0 };
            ring.append_audio(chunk(2), &noise()[..size], KEY).unwrap();
        }
        for epoch in 0..count {
            ring.seal();
            ring.append_end(&end(epoch as u64)).expect("the reserve is for it");
        }
        ring.seal();
        assert!(ring.open_since().is_some(), "what came after the one seal that had room waits");
        ring.release_sealed();
        ring.seal();
        assert_eq!(ring.open_since(), None, "until something is released");
    }
}

/// In whatever state the last open batch is: waiting data is accepted once all other batches are
/// released.
#[test]
fn the_smallest_ring_for_so_many_connections_has_room_again() {
    for connections_max in [1, 16, 20_000] {
        let kept = connections_max + SHED_CONNECTIONS_MAX;
        let needed = room_needed(RECEIVE_BUFFER_SIZE, kept);
        let mut ring = ring_of(ring_size_min(connections_max).next_multiple_of(BLOCK_SIZE));
        ring.set_reserve(ends_size(kept));
        for seq in 0..40 {
            let pieces = [PAYLOAD_SIZE_MAX - 200_000, 130_000 + seq * 1_500];
            pieces.iter().for_each(|size| {
                ring.append_audio(chunk(seq as u64), &noise()[..*size], KEY).unwrap()
            });
            assert!(
                ring.free_size() >= needed,
                "{} of {needed} for {connections_max}",
                ring.free_size()
            );
            ring.seal();
            assert_eq!(ring.open_since(), None);
            assert!(ring.free_size() >= needed - SEAL_SIZE_MAX);
            ring.release_sealed();
        }
        assert!(ring.head().0 > 2 * ring.memory().len() as u64 || connections_max > 16);
    }
}
