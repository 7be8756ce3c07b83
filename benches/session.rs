//! From the bytes of ten audio frames to the bytes of their one ACK: decoder, session and frame ring, as a shard runs them.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::auth::Claims;
use exo_ingest::call::{CallIdentity, EpochSource};
use exo_ingest::clock::{Moment, Now, UnixMicros};
use exo_ingest::constants::ACK_INTERVAL_FRAMES;
use exo_ingest::frame_ring::FrameRing;
use exo_ingest::io::memory::Region;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::Counters;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::frame::{Decoder, FrameLimits, WsEvent};
use exo_ingest::proto::mask::Kernel;
use exo_ingest::session::ingest::{IngestSession, IngestSettings, IngestShared};
use exo_ingest::session::{Context, Session};
use exo_ingest::tenants::Tenants;
use std::hint::black_box;
use std::sync::Arc;

const START: &str =
    r#"{"event":"start","interaction_id":"call-123","tenant_id":"tenant-abc","sample_rate":24000,"encoding":"pcm16"}"#;

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// A small ring: what is measured is the way of the bytes, not that of the memory bus (see the `unmask` benchmark for that).
const RING_SIZE: usize = 8 * 1024 * 1024;

/// One connection of a shard and what it works on.
struct Shard {
    session: IngestSession,
    decoder: Decoder,
    frame_limits: FrameLimits,
    ring: FrameRing,
    epochs: EpochSource,
    limits: Limits,
    counters: Counters,
    now: Now,
}

impl Shard {
    fn new() -> Self {
        let limits = Limits { max_ahead: None, ..Limits::production() };
        let tenants = Tenants::new(1, None);
        let identity = CallIdentity { tenant: "tenant-abc".into(), interaction: "call-123".into() };
        let permit = tenants.admit(&identity.tenant).expect("there is no quota");
        let now = Now { moment: Moment::from_nanos(1), unix: UnixMicros(1) };
        let shared = IngestShared::new(Arc::new(IngestSettings::new(limits.clone())));
        let claims = Claims { identity, issued_at: 0, expires_at: u64::MAX };
        let memory = Region::allocate(RING_SIZE).expect("8 MiB are free");
        let mut shard = Shard {
            session: IngestSession::new(now, claims, permit, shared),
            decoder: Decoder::default(),
            frame_limits: FrameLimits {
                message_size_max: limits.message_size_max,
                text_size_max: limits.text_size_max,
                fragments_max: limits.fragments_max,
            },
            ring: FrameRing::new(memory, Kernel::detect()),
            epochs: EpochSource::new(0, 0),
            limits,
            counters: Counters::default(),
            now,
        };
        let started = shard.receive(&mut masked_frame(0x1, START.as_bytes()));
        assert!(started > 0 && shard.session.is_live());
        shard
    }

    /// Handles what one receive brought; returns the number of bytes sent.
    fn receive(&mut self, mut received: &mut [u8]) -> usize {
        let mut out = [0; 512];
        let mut sent = 0;
        while !received.is_empty() {
            let (taken, event) = self.decoder.decode(received, &self.frame_limits).expect("sound frames");
            let (ring, epochs, limits, counters) = (&mut self.ring, &mut self.epochs, &self.limits, &self.counters);
            let mut context = Context { ring, epochs, limits, counters };
            match event {
                Some(WsEvent::Data(piece)) => self.session.handle_data(self.now, piece, &mut context),
                Some(WsEvent::Control(control)) => self.session.handle_control(self.now, control, &mut context),
                None => {}
            }
            while let Some(action) = self.session.poll_action() {
                black_box(action);
            }
            // Level `received`: the promise holds at once.
            while let Some(seq) = self.session.poll_promise() {
                self.session.handle_promise(self.now, seq, &mut context);
            }
            sent += self.session.poll_transmit(self.now, &mut out);
            black_box((&out, self.session.poll_timeout()));
            received = &mut received[taken..];
        }
        sent
    }

    /// Gives the ring's room back, as the end of a turn without a journal does.
    fn release(&mut self) {
        self.ring.seal();
        while self.ring.poll_sealed().is_some() {}
        self.ring.release_sealed();
    }
}

fn masked_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ 0..=125 => frame.push(0x80 | size as u8),
        size => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(size).expect("a frame of 16-bit length").to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY.0);
    let payload_start = frame.len();
    frame.extend_from_slice(payload);
    KEY.apply(&mut frame[payload_start..]);
    frame
}

fn bytes_to_ack(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session_bytes_to_ack");
    for frame_size in [0, 160, 9_600] {
        let frame = masked_frame(0x2, &vec![0x5A; frame_size]);
        let mut shard = Shard::new();
        group.throughput(Throughput::Bytes(ACK_INTERVAL_FRAMES * frame.len() as u64));
        group.bench_function(BenchmarkId::new("ten_frames_in", frame_size), |bencher| {
            bencher.iter_batched_ref(
                || frame.repeat(ACK_INTERVAL_FRAMES as usize),
                |received| {
                    let sent = shard.receive(received);
                    assert!(sent > 0, "ten frames are acked");
                    shard.release();
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bytes_to_ack);
criterion_main!(benches);
