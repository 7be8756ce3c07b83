//! Appending frames to the ring: one receive's worth after the other, sealed and released as batches fill.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::call::{Epoch, Seq};
use exo_ingest::clock::UnixMicros;
use exo_ingest::constants::NOTES_SHARE;
use exo_ingest::frame_ring::{Chunk, FrameRing, Manifest};
use exo_ingest::io::memory::Region;
use exo_ingest::journal::format::{Lsn, SegmentUuid};
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
        // With a journal, what is in its segments is noted on the way.
        for (name, notes_size) in [("", 0), (" noted", RING_SIZE / NOTES_SHARE)] {
            let mut ring = FrameRing::new(Region::allocate(RING_SIZE).expect("256 MiB of memory"), kernel);
            ring.keep_notes(notes_size);
            let mut manifest = Manifest::with_room(4 << 20);
            let mut seq = 0;
            group.bench_function(BenchmarkId::from_parameter(format!("{}{name}", kernel.name())), |bencher| {
                bencher.iter(|| {
                    seq += 1;
                    let epoch = Epoch { boot: 1, micros: 2, shard: 0 };
                    let chunk = Chunk { call: 7, epoch, seq: Seq(seq), offset: 0, last: true, received_at: UnixMicros(seq) };
                    ring.append_audio(chunk, black_box(masked), key).expect("released as it is sealed");
                    // A batch seals itself at 1 MiB, about every 108th frame; a segment has 128 of them.
                    if let Some(batch) = ring.poll_sealed() {
                        black_box(ring.batch_bytes(&batch).len());
                        ring.set_written(batch.end());
                        if batch.number % 128 == 0 {
                            manifest.begin(SegmentUuid::default(), Lsn(0));
                        }
                        ring.hand_over_notes(&batch, &mut manifest);
                        ring.set_durable(batch.end());
                    }
                });
            });
            assert!(notes_size == 0 || manifest.records().is_some(), "everything was noted");
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
