//! Scanning a segment: the work of recovery and `calls verify` for every byte, and the cost of
//! exporting one call of many.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::archive::image::{self, Image};
use exo_ingest::archive::scan::{Advance, Place, ScanOptions, SegmentScan};
use std::hint::black_box;

/// A frame of 200 ms at 24 kHz.
const FRAME_SIZE: usize = 9_600;

const SEGMENT_SIZE: usize = 64 * 1024 * 1024;

fn scan(criterion: &mut Criterion) {
    let mut image = Image::new(image::run(1), 0, SEGMENT_SIZE).expect("memory");
    let epochs: Vec<_> =
        (0..100).map(|call| image.start("acme", &format!("call-{call}"), 24_000)).collect();
    let frame = vec![0x5A; FRAME_SIZE];
    while image.segments().len() == 1 {
        epochs.iter().for_each(|epoch| image.frame(*epoch, &frame));
        image.seal();
    }
    let segment = &image.segments()[0];
    let place =
        Place { run: *image.run(), shard: 0, id: 1, after: None, end: None, is_fresh: false };
    let call = image.call_epoch(epochs[7]).expect("an epoch").identity.key().record_number();
    let mut group = criterion.benchmark_group("scan_segment_64MiB");
    group.throughput(Throughput::Bytes(segment.end_of_batches() as u64));
    group.sample_size(20);
    for (name, call) in [("all", None), ("one_of_100_calls", Some(call))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let options = ScanOptions { call, ..ScanOptions::default() };
                let scan = SegmentScan::open(black_box(&segment.bytes[..]), place, options)
                    .expect("memory is read");
                let mut scan = scan.expect("a good header");
                let mut bytes = 0;
                while scan.advance().expect("memory is read") == Advance::Batch {
                    bytes += scan.records().map(|found| found.payload.len()).sum::<usize>();
                }
                assert!(bytes > 0 && scan.damages().is_empty());
                bytes
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
