//! Unmasking audio: each kernel that this CPU can run, and memcpy, from cache to cache and into a
//! ring that is larger than every cache.

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use exo_ingest::io::memory::Region;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::mask::{self, Kernel};
use std::hint::black_box;

/// Frames of 20 ms at 8 kHz and of 200 ms at 24 kHz.
const FRAME_SIZES: [usize; 2] = [320, 9_600];

/// Far more than the last-level cache.
const RING_SIZE: usize = 256 * 1024 * 1024;

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// Copies frame after frame to successive lines of `target`, as the frame ring does.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    place: &str,
    target: &mut [u8],
    frame_size: usize,
) {
    let frame = vec![0x5A; frame_size + 8];
    let source = &frame[8..]; // where a payload lies after a frame header of 8 bytes
    let slots = target.len() / frame_size;
    let mut slot = 0;
    let mut next = move || {
        slot = (slot + 1) % slots;
        slot * frame_size
    };
    for kernel in Kernel::available() {
        group.bench_function(BenchmarkId::new(kernel.name(), place), |bencher| {
            bencher.iter(|| {
                let to = &mut target[next()..][..frame_size];
                black_box(mask::unmask_copy(kernel, to, black_box(source), KEY))
            });
        });
    }
    group.bench_function(BenchmarkId::new("memcpy", place), |bencher| {
        bencher.iter(|| {
            black_box(&mut target[next()..][..frame_size]).copy_from_slice(black_box(source))
        });
    });
}

fn unmask(criterion: &mut Criterion) {
    let mut ring = Region::allocate(RING_SIZE).expect("256 MiB of memory");
    for frame_size in FRAME_SIZES {
        let mut group = criterion.benchmark_group(format!("unmask_copy_{frame_size}"));
        group.throughput(Throughput::Bytes(frame_size as u64));
        measure(&mut group, "hot", &mut ring[..frame_size], frame_size);
        measure(&mut group, "ring", &mut ring, frame_size);
        group.finish();
    }
}

criterion_group!(benches, unmask);
criterion_main!(benches);
