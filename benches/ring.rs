//! Appending frames to the ring: one receive after the other. Batches are sealed and released when
//! they are full.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::archive::index::IndexBuilder;
use exo_ingest::call::{CallIdentity, CallKey, Epoch, Seq};
use exo_ingest::clock::UnixMicros;
use exo_ingest::constants::{BLOCK_SIZE, PENDING_HEADERS_SHARE};
use exo_ingest::format::{Lsn, SegmentUuid, record_size};
use exo_ingest::io::memory::Region;
use exo_ingest::journal::frame_ring::{CallStart, Chunk, FrameRing, Noted, RecordHeaders};
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::mask::Kernel;
use std::hint::black_box;

/// A frame of 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;

/// Far more than the last-level cache.
const RING_SIZE: usize = 256 * 1024 * 1024;

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_audio_9600");
    group.throughput(Throughput::Bytes(FRAME_SIZE as u64));
    let frame = vec![0x5A; FRAME_SIZE + 8];
    let masked = &frame[8..]; // where a payload lies after a frame header of 8 bytes
    let key = MaskKey([0x37, 0xFA, 0x21, 0x3D]);
    for kernel in Kernel::available() {
        // With a journal, the contents of its segments are recorded too.
        for (name, notes_size) in [("", 0), (" noted", RING_SIZE / PENDING_HEADERS_SHARE)] {
            let mut ring =
                FrameRing::new(Region::allocate(RING_SIZE).expect("256 MiB of memory"), kernel);
            ring.keep_headers(notes_size);
            let mut headers = RecordHeaders::with_room(4 << 20);
            let mut seq = 0;
            group.bench_function(
                BenchmarkId::from_parameter(format!("{}{name}", kernel.name())),
                |bencher| {
                    bencher.iter(|| {
                        seq += 1;
                        let epoch = Epoch { boot: 1, micros: 2, shard: 0 };
                        let chunk = Chunk {
                            call: 7,
                            epoch,
                            seq: Seq(seq),
                            offset: 0,
                            last: true,
                            received_at: UnixMicros(seq),
                        };
                        ring.append_audio(chunk, black_box(masked), key)
                            .expect("released as it is sealed");
                        // A batch seals itself at 1 MiB, about every 108th frame; a segment has 128
                        // of them.
                        if let Some(batch) = ring.poll_sealed() {
                            black_box(ring.batch_bytes(&batch).len());
                            ring.set_written(batch.end());
                            if batch.number % 128 == 0 {
                                headers.begin(SegmentUuid::default(), Lsn(0));
                            }
                            ring.hand_over_headers(&batch, &mut headers);
                            ring.set_durable(batch.end());
                        }
                    });
                },
            );
            assert!(notes_size == 0 || headers.notes(0).is_some(), "everything was noted");
        }
    }
    group.finish();
}

/// Calls of one shard in the benchmarks below. Their frames come in turn.
const CALL_COUNT: u64 = 2_000;

/// Sizes of frames: 20 ms and 200 ms at 8 kHz and at 24 kHz.
const FRAME_SIZES: [usize; 4] = [320, 960, 3_200, 9_600];

/// A ring with `CALL_COUNT` live calls, whose records have been taken out.
fn ring_of_calls(headers: &mut RecordHeaders) -> FrameRing {
    let mut ring =
        FrameRing::new(Region::allocate(RING_SIZE).expect("256 MiB of memory"), Kernel::detect());
    ring.keep_headers(RING_SIZE / PENDING_HEADERS_SHARE);
    for call in 0..CALL_COUNT {
        let identity =
            CallIdentity { tenant: "acme".into(), interaction: format!("call-{call}").into() };
        let start = CallStart {
            call: CallKey(u128::from(call)),
            identity: &identity,
            epoch: epoch(call),
            sample_rate: 24_000,
            started_at: UnixMicros(1),
            token_issued_at: 1,
            token_expires_at: 2,
            peer: None,
        };
        ring.append_call(&start).expect("released as it is sealed");
        drain(&mut ring, headers);
    }
    ring.seal();
    drain(&mut ring, headers);
    ring
}

fn epoch(call: u64) -> Epoch {
    Epoch { boot: 1, micros: 1_000_000 + call * 977, shard: 0 }
}

/// Sealed batches are durable at once.
fn drain(ring: &mut FrameRing, headers: &mut RecordHeaders) {
    while let Some(batch) = ring.poll_sealed() {
        ring.set_written(batch.end());
        ring.hand_over_headers(&batch, headers);
        ring.set_durable(batch.end());
    }
}

/// One frame of each call in turn: `count` in all.
fn append_frames(
    ring: &mut FrameRing,
    headers: &mut RecordHeaders,
    frame: &[u8],
    from: u64,
    count: u64,
) {
    for number in from..from + count {
        let (call, seq) = (number % CALL_COUNT, Seq(number / CALL_COUNT + 1));
        // A turn takes a few dozen receives.
        let received_at = UnixMicros(number / 32);
        let chunk = Chunk { call, epoch: epoch(call), seq, offset: 0, last: true, received_at };
        ring.append_audio(chunk, black_box(frame), MaskKey([1, 2, 3, 4]))
            .expect("released as it is sealed");
        drain(ring, headers);
    }
}

/// What a frame costs in the ring by its size, with the records for indexes.
fn append_noted(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_frame_noted");
    group.throughput(Throughput::Elements(1));
    for size in FRAME_SIZES {
        let mut headers = RecordHeaders::with_room(64 << 20);
        let mut ring = ring_of_calls(&mut headers);
        let (frame, mut number) = (vec![0x5A; size], 0);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                if number % 250_000 == 0 {
                    headers.begin(SegmentUuid::default(), Lsn(0));
                }
                append_frames(&mut ring, &mut headers, &frame, number, 1);
                number += 1;
            });
        });
        assert!(headers.notes(0).is_some(), "everything was noted");
    }
    group.finish();
}

/// Making the index of a segment of 128 MiB from its records: the work of the store's thread,
/// beside the shards.
fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index_of_noted_frames");
    for size in FRAME_SIZES {
        let mut headers = RecordHeaders::with_room(64 << 20);
        let mut ring = ring_of_calls(&mut headers);
        let count = (128 << 20) / record_size(size) as u64;
        append_frames(&mut ring, &mut headers, &vec![0x5A; size], 0, count);
        let notes = headers.notes(0).expect("all of it was noted");
        let sizes = notes.records().map(|record| match record {
            Ok(Noted::Batch(size)) => size,
            _ => 0,
        });
        let end = BLOCK_SIZE as u64 + sizes.sum::<u64>();
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                IndexBuilder::of_headers(black_box(&headers), 1, 0, 1, end, UnixMicros(0))
                    .expect("all of it was noted")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append, append_noted, index);
criterion_main!(benches);
