//! The pass over audio bytes: each kernel this CPU runs, beside memcpy, hot to hot and into a ring that no cache holds.

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use exo_ingest::io::memory::Region;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::mask::{self, Kernel};
use std::hint::black_box;

/// A frame of 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;

/// Far more than the last-level cache.
const RING_SIZE: usize = 256 * 1024 * 1024;

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// Copies frame after frame to successive lines of `target`, as the frame ring does.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, place: &str, target: &mut [u8]) {
    let frame = vec![0x5A; FRAME_SIZE + 8];
    let source = &frame[8..]; // where a payload lies after a frame header of 8 bytes
    let slots = target.len() / FRAME_SIZE;
    let mut slot = 0;
    let mut next = move || {
        slot = (slot + 1) % slots;
        slot * FRAME_SIZE
    };
    for kernel in Kernel::available() {
        group.bench_function(BenchmarkId::new(kernel.name(), place), |bencher| {
            bencher.iter(|| {
                let to = &mut target[next()..][..FRAME_SIZE];
                black_box(mask::unmask_copy(kernel, to, black_box(source), KEY))
            });
        });
    }
    group.bench_function(BenchmarkId::new("memcpy", place), |bencher| {
        bencher.iter(|| black_box(&mut target[next()..][..FRAME_SIZE]).copy_from_slice(black_box(source)));
    });
}

fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask_copy_9600");
    group.throughput(Throughput::Bytes(FRAME_SIZE as u64));
    let mut ring = Region::allocate(RING_SIZE).expect("256 MiB of memory");
    measure(&mut group, "hot", &mut ring[..FRAME_SIZE]);
    measure(&mut group, "ring", &mut ring);
    group.finish();
}

criterion_group!(benches, unmask);
criterion_main!(benches);
