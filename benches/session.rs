//! From the bytes of ten audio frames to the bytes of their ACK: decoder, session and frame ring,
//! as a shard runs them, in the clear and with TLS. Also a TLS record alone.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::ack_level::AckLevel;
use exo_ingest::auth::Claims;
use exo_ingest::call::{CallIdentity, EpochSource};
use exo_ingest::clock::{Moment, Now, UnixMicros};
use exo_ingest::constants::ACK_INTERVAL_FRAMES;
use exo_ingest::io::memory::Region;
use exo_ingest::journal::frame_ring::FrameRing;
use exo_ingest::limits::Limits;
use exo_ingest::metrics::Counters;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::frame::{Decoder, FrameLimits, WsEvent};
use exo_ingest::proto::mask::Kernel;
use exo_ingest::session::ingest::{IngestSession, IngestSettings, IngestShared};
use exo_ingest::session::{Context, Session};
use exo_ingest::tenants::Tenants;
use exo_ingest::tls::keys::RecordKeys;
use exo_ingest::tls::{Handshake, Opened, Place, Progress, Records, SpillPool};
use exo_ingest_harness::tls::{Certificate, Client};
use rustls::crypto::ring::cipher_suite;
use rustls::{ClientConnection, SupportedCipherSuite};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

const START: &str = concat!(
    r#"{"event":"start","interaction_id":"call-123","tenant_id":"tenant-abc","#,
    r#""sample_rate":24000,"encoding":"pcm16"}"#
);

const KEY: MaskKey = MaskKey([0x37, 0xFA, 0x21, 0x3D]);

/// A small ring: this measures the code, not the memory bus (see the `unmask` benchmark for that).
const RING_SIZE: usize = 8 * 1024 * 1024;

/// One TCP segment on an Ethernet.
const SEGMENT_SIZE: usize = 1_448;

/// One connection of a shard, and what the shard uses for it.
struct Shard {
    session: IngestSession,
    decoder: Decoder,
    frame_limits: FrameLimits,
    ring: FrameRing,
    epochs: EpochSource,
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
        let claims = Claims {
            identity,
            issued_at: 0,
            expires_at: u64::MAX,
            allowed_tenants: Default::default(),
        };
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
            let (taken, event) =
                self.decoder.decode(received, &self.frame_limits).expect("sound frames");
            let (ring, epochs, counters) = (&mut self.ring, &mut self.epochs, &self.counters);
            let mut context = Context { ring, epochs, counters, peer: None };
            match event {
                Some(WsEvent::Data(piece)) => {
                    self.session.handle_data(self.now, piece, &mut context);
                }
                Some(WsEvent::Control(control)) => {
                    self.session.handle_control(self.now, control, &mut context)
                }
                None => {}
            }
            while let Some(action) = self.session.poll_action() {
                black_box(action);
            }
            // Level `received`: the promise holds at once.
            while let Some(seq) = self.session.poll_promise() {
                self.session.handle_promise(self.now, seq, AckLevel::Received, &mut context);
            }
            sent += self.session.poll_transmit(self.now, &mut out);
            black_box((&out, self.session.poll_timeout()));
            received = &mut received[taken..];
        }
        sent
    }

    /// Frees room in the ring, as the end of a turn without a journal does.
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
            frame.extend_from_slice(
                &u16::try_from(size).expect("a frame of 16-bit length").to_be_bytes(),
            );
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

/// The cost of one second of a call, without IO, by the length of its frames. In real time a
/// receive brings one frame, and a turn takes one receive of a call.
fn second_of_audio(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session_second_of_audio");
    group.throughput(Throughput::Elements(1));
    for rate in [8_000, 24_000] {
        for frame_ms in [20, 60, 100, 200] {
            let frame = masked_frame(0x2, &vec![0x5A; 2 * rate * frame_ms / 1000]);
            // Frames of one second.
            let count = 1000 / frame_ms;
            let mut shard = Shard::new();
            group.bench_function(
                BenchmarkId::new(format!("{rate}_hz"), format!("{frame_ms}_ms")),
                |bencher| {
                    bencher.iter_batched_ref(
                        || vec![frame.clone(); count],
                        |frames| {
                            frames.iter_mut().for_each(|frame| {
                                black_box(shard.receive(frame));
                            });
                            shard.release();
                        },
                        BatchSize::SmallInput,
                    );
                },
            );
        }
    }
    group.finish();
}

/// A client and the record layer of its node, after their handshake with this suite.
fn shake_hands(suite: SupportedCipherSuite) -> (ClientConnection, RecordKeys) {
    let certificate = Certificate::make();
    let config = certificate.server();
    let mut client = Client::new(&certificate.client_with(vec![suite], |_| {}));
    let mut handshake = Handshake::default();
    loop {
        handshake.push(&client.pending());
        let flight = match handshake.step(&config) {
            Progress::Incomplete => handshake.take_flight().expect("the client waits for it"),
            Progress::Complete(handshaken) => {
                return (client.into_connection(), *handshaken.records.keys());
            }
            Progress::Failed(failure) => panic!("{failure:?}"),
        };
        let mut rest = &flight[..];
        while !rest.is_empty() {
            client.connection().read_tls(&mut rest).expect("memory is read");
            client.connection().process_new_packets().expect("a good flight");
        }
    }
}

fn sealed(client: &mut ClientConnection, payload: &[u8]) -> Vec<u8> {
    client.writer().write_all(payload).expect("memory takes all");
    let mut records = Vec::new();
    client.write_tls(&mut records).expect("memory takes all");
    records
}

/// Opens `received`, which comes in pieces of `size`, and returns what comes out.
fn open(
    records: &mut Records,
    spills: &mut SpillPool,
    received: &mut [u8],
    size: usize,
    mut take: impl FnMut(&mut [u8]),
) {
    for chunk in received.chunks_mut(size) {
        let mut at = 0;
        while let Some(opened) = records.open(chunk, &mut at, spills, true).expect("good records") {
            match opened {
                Opened::Data(Place::Chunk(range)) => take(&mut chunk[range]),
                Opened::Data(Place::Spill(spill, range)) => {
                    take(&mut spills.bytes(&spill)[range]);
                    spills.release(spill);
                }
                Opened::Closed => unreachable!("the client has not closed"),
            }
        }
    }
}

fn over_tls(criterion: &mut Criterion) {
    let suites = [
        ("aes_128", cipher_suite::TLS13_AES_128_GCM_SHA256),
        ("aes_256", cipher_suite::TLS13_AES_256_GCM_SHA384),
        ("chacha20", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ];
    let mut group = criterion.benchmark_group("session_over_tls");
    for (name, suite) in suites {
        let (mut client, keys) = shake_hands(suite);
        let frame = masked_frame(0x2, &[0x5A; 9_600]);
        let record = sealed(&mut client, &frame);
        let ten = (1..ACK_INTERVAL_FRAMES)
            .fold(record.clone(), |ten, _| [ten, sealed(&mut client, &frame)].concat());
        let mut spills = SpillPool::new(4);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        for (cut, size) in [("whole", usize::MAX), ("segments", SEGMENT_SIZE)] {
            group.bench_function(BenchmarkId::new(format!("open_record_{cut}"), name), |bencher| {
                bencher.iter_batched_ref(
                    || (record.clone(), Records::new(keys, Vec::new())),
                    |(received, records)| {
                        let size = size.min(received.len());
                        open(records, &mut spills, received, size, |payload| {
                            black_box(payload);
                        });
                    },
                    BatchSize::SmallInput,
                );
            });
        }
        group.bench_function(BenchmarkId::new("seal_ack", name), |bencher| {
            let mut records = Records::new(keys, Vec::new());
            let mut out = [0; 512];
            bencher.iter(|| black_box(records.seal(&mut out, 26)));
        });
        group.throughput(Throughput::Bytes(ACK_INTERVAL_FRAMES * frame.len() as u64));
        let mut shard = Shard::new();
        group.bench_function(BenchmarkId::new("ten_frames_in", name), |bencher| {
            bencher.iter_batched_ref(
                || (ten.clone(), Records::new(keys, Vec::new())),
                |(received, records)| {
                    let size = received.len();
                    let mut sent = 0;
                    open(records, &mut spills, received, size, |payload| {
                        sent += shard.receive(payload)
                    });
                    assert!(sent > 0, "ten frames are acked");
                    let mut out = [0; 512];
                    black_box(records.seal(&mut out, sent));
                    shard.release();
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bytes_to_ack, second_of_audio, over_tls);
criterion_main!(benches);
