//! What measuring latencies costs: a shard for one value, a shard for a turn with its frames and
//! acks, and the control plane for a full set.
//!
//! For the cost of a frame, divide the second one by the frames of a turn.

use criterion::{Criterion, criterion_group, criterion_main};
use exo_ingest::clock::Moment;
use exo_ingest::latency::{Latencies, LatencyCollector, LatencyRequest};
use std::hint::black_box;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Times that vary over two octaves, as those of a loop do, so that neither branches nor cache
/// lines repeat.
struct Wandering(u64);

impl Wandering {
    fn next(&mut self) -> Moment {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Moment::from_nanos(100_000 + (self.0 >> 45))
    }
}

/// Both clocks, as the shard's IO reads them.
fn read_clocks() -> Moment {
    let [boot, wall] = [rustix::time::ClockId::Boottime, rustix::time::ClockId::Realtime]
        .map(rustix::time::clock_gettime);
    black_box(wall);
    Moment::ZERO + Duration::new(boot.tv_sec as u64, boot.tv_nsec as u32)
}

fn record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("latency");
    let mut latencies = Latencies::new();
    let mut wandering = Wandering(1);
    group.bench_function("a_value", |bencher| {
        bencher.iter(|| latencies.turn.record(Moment::ZERO, black_box(wandering.next())));
    });
    // The clock is read after the frames and at the end. The loop reads it at the start of a turn
    // anyway.
    group.bench_function("a_turn", |bencher| {
        bencher.iter(|| {
            let (arrived, promised, acked) = (wandering.next(), wandering.next(), wandering.next());
            black_box(read_clocks());
            latencies.frame_ring.record_n(Moment::ZERO, black_box(arrived), 8);
            latencies.frame_durable.record_n(Moment::ZERO, black_box(promised), 8);
            latencies.ack.record(Moment::ZERO, black_box(acked));
            latencies.ack_sent.record(Moment::ZERO, black_box(acked));
            black_box(read_clocks());
            latencies.turn.record(Moment::ZERO, black_box(arrived));
        });
    });
    group.finish();
}

/// The set of one shard. The shard itself only swaps it.
fn collect(criterion: &mut Criterion) {
    let (sender, mailbox) = channel::<LatencyRequest>();
    let mut collector =
        LatencyCollector::new(1, move |_, request| sender.send(request).map_err(|unsent| unsent.0));
    let mut own = Box::<Latencies>::default();
    let mut wandering = Wandering(1);
    criterion.bench_function("latency/collect_a_shard", |bencher| {
        bencher.iter(|| {
            for latency in [
                &mut own.turn,
                &mut own.frame_ring,
                &mut own.frame_durable,
                &mut own.ack,
                &mut own.ack_sent,
            ] {
                latency.record(Moment::ZERO, wandering.next());
            }
            collector.request();
            mailbox.recv().expect("it was sent").answer(&mut own);
            assert!(collector.collect());
        });
    });
}

criterion_group!(benches, record, collect);
criterion_main!(benches);
