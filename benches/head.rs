//! A request head, from its bytes to the verdict: what an upgrade costs without its token.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exo_ingest::proto::handshake::{Judgement, Situation, judge};
use exo_ingest::proto::http::{HeadBuffer, HeadProgress};
use std::hint::black_box;

/// An upgrade with a token of the usual size.
fn upgrade() -> Vec<u8> {
    let token = "eyJhbGciOiJSUzI1NiJ9.".to_string() + &"a".repeat(700);
    format!(
        "GET /v1/ingest HTTP/1.1\r\nHost: localhost:8443\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Key: 1XyFbnGLx3lVKaVQcZUzpw==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Authorization: Bearer {token}\r\n\
         User-Agent: Python/3.12 websockets/13.1\r\n\r\n"
    )
    .into_bytes()
}

fn judge_in_pieces(request: &[u8], piece_size: usize) {
    let mut buffer = HeadBuffer::default();
    let mut progress = HeadProgress::Incomplete;
    for piece in request.chunks(piece_size) {
        progress = buffer.push(black_box(piece)).1;
    }
    assert_eq!(progress, HeadProgress::Complete);
    let head = buffer.head().expect("a good head");
    let judgement = judge(&head, Situation::default(), None);
    assert!(matches!(black_box(judgement), Judgement::Upgrade { .. }));
}

fn heads(criterion: &mut Criterion) {
    let request = upgrade();
    let mut group = criterion.benchmark_group("head");
    group.throughput(Throughput::Bytes(request.len() as u64));
    group.bench_function("upgrade, whole", |bencher| {
        bencher.iter(|| judge_in_pieces(&request, request.len()))
    });
    group.bench_function("upgrade, byte by byte", |bencher| {
        bencher.iter(|| judge_in_pieces(&request, 1))
    });
    let health = b"GET /health HTTP/1.1\r\nHost: localhost:8443\r\n\r\n";
    group.throughput(Throughput::Bytes(health.len() as u64));
    group.bench_function("health", |bencher| {
        bencher.iter(|| {
            let mut buffer = HeadBuffer::default();
            buffer.push(black_box(health));
            let head = buffer.head().expect("a good head");
            black_box(judge(&head, Situation::default(), None));
        });
    });
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
