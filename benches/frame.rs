//! The frame decoder alone. It finds payload, and neither copies nor unmasks it, so the size of a
//! frame must not matter.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::limits::Limits;
use exo_ingest::proto::MaskKey;
use exo_ingest::proto::frame::{Decoder, FrameLimits, Opcode, WsEvent, write_header};
use std::hint::black_box;

/// Frames of the recommended size in one buffer.
const FRAME_COUNT: usize = 100;
const PAYLOAD_SIZE: usize = 9_600;

/// One TCP segment on an Ethernet.
const SEGMENT_SIZE: usize = 1_448;

fn frames(payload_size: usize) -> Vec<u8> {
    let key = MaskKey([1, 2, 3, 4]);
    let mut frame = vec![0; 10];
    let header_size = write_header(Opcode::Binary, payload_size, &mut frame);
    frame.truncate(header_size);
    frame[1] |= 0x80;
    frame.extend_from_slice(&key.0);
    frame.resize(frame.len() + payload_size, 0);
    frame.repeat(FRAME_COUNT)
}

/// Decodes `input` in reads of `read_size`. Returns the number of payload bytes and of messages.
fn decode(input: &mut [u8], read_size: usize, limits: &FrameLimits) -> (usize, usize) {
    let mut decoder = Decoder::default();
    let (mut bytes, mut messages) = (0, 0);
    for received in input.chunks_mut(read_size) {
        let mut at = 0;
        while at < received.len() {
            let (taken, event) = decoder.decode(&mut received[at..], limits).expect("good frames");
            at += taken;
            if let Some(WsEvent::Data(piece)) = black_box(event) {
                bytes += piece.payload.len();
                messages += usize::from(piece.last);
            }
        }
    }
    (bytes, messages)
}

fn decoder(criterion: &mut Criterion) {
    let Limits { message_size_max, text_size_max, fragments_max, .. } = Limits::production();
    let limits = FrameLimits { message_size_max, text_size_max, fragments_max };
    let mut group = criterion.benchmark_group("frame decode, 100 frames");
    group.throughput(Throughput::Elements(FRAME_COUNT as u64));
    for (name, payload_size, read_size) in [
        ("9600 bytes, whole", PAYLOAD_SIZE, usize::MAX),
        ("9600 bytes, segments of 1448", PAYLOAD_SIZE, SEGMENT_SIZE),
        ("160 bytes, whole", 160, usize::MAX),
    ] {
        let mut input = frames(payload_size);
        let read_size = read_size.min(input.len());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert_eq!(
                    decode(&mut input, read_size, &limits),
                    (FRAME_COUNT * payload_size, FRAME_COUNT)
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoder);
criterion_main!(benches);
