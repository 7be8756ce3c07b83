//! Damaged streams: the result must equal that of the server of rustls.

#![forbid(unsafe_code)]

use super::pair::{Combination, client_config, hear, new_client, server_config};
use super::*;
use crate::tls::keys::{DirectionKeys, Suite};
use crate::tls::records::{HEADER_SIZE, record_size};
use crate::tls::secrets::{TrafficSecrets, listen};
use proptest::prelude::*;
use rustls::{ClientConnection, ConnectionTrafficSecrets, ServerConnection};
use std::io::{Read, Write};
use std::sync::Arc;

/// Damage to a stream of records.
#[derive(Clone, Debug)]
enum Damage {
    /// Bits of a byte are flipped, but not in the first three bytes of a header.
    Flip(usize, u8),
    /// The stream ends here.
    Cut(usize),
    /// Bytes are removed.
    Remove(usize, usize),
    /// Bytes are repeated.
    Repeat(usize, usize),
    /// Records change places.
    Swap(usize, usize),
    None,
}

fn damages() -> impl Strategy<Value = Damage> {
    let place = 0usize..100_000;
    prop_oneof![
        4 => (place.clone(), 1u8..=255).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => place.clone().prop_map(Damage::Cut),
        1 => (place.clone(), 1usize..200).prop_map(|(at, size)| Damage::Remove(at, size)),
        1 => (place.clone(), 1usize..200).prop_map(|(at, size)| Damage::Repeat(at, size)),
        1 => (place.clone(), place).prop_map(|(one, other)| Damage::Swap(one, other)),
        1 => Just(Damage::None),
    ]
}

fn cut_into_records(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while stream.len() >= HEADER_SIZE {
        let (record, rest) = stream.split_at(record_size(stream).expect("rustls' own"));
        records.push(record.to_vec());
        stream = rest;
    }
    records
}

fn damage(records: &[Vec<u8>], damage: &Damage) -> Vec<u8> {
    let mut stream = records.concat();
    let size = stream.len();
    match *damage {
        Damage::Flip(at, bits) => {
            let mut at = at % size;
            let mut start = 0;
            for record in records {
                // rustls may treat another outer type or version differently.
                if (start..start + 3).contains(&at) {
                    at = start + 3;
                }
                start += record.len();
            }
            stream[at] ^= bits;
        }
        Damage::Cut(at) => stream.truncate(at % size),
        Damage::Remove(at, count) => {
            let at = at % size;
            stream.drain(at..(at + count).min(size));
        }
        Damage::Repeat(at, count) => {
            let at = at % size;
            let copy = stream[at..(at + count).min(size)].to_vec();
            stream.splice(at..at, copy);
        }
        Damage::Swap(one, other) => {
            let (mut records, count) = (records.to_vec(), records.len());
            records.swap(one % count, other % count);
            stream = records.concat();
        }
        Damage::None => {}
    }
    stream
}

/// A client and a rustls server after their handshake, and the client's first traffic secret.
fn connected(combination: Combination) -> (ClientConnection, ServerConnection, TrafficSecrets) {
    let mut client = new_client(client_config(combination));
    let mut server = ServerConnection::new(Arc::new(server_config())).expect("a server");
    server.set_buffer_limit(None);
    let mut secrets = TrafficSecrets::default();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let said = drain(&mut client);
        let mut rest = &said[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory is read");
            listen(&mut secrets, || server.process_new_packets()).expect("a good handshake");
        }
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).expect("memory takes all");
        }
        hear(&mut client, &flight).expect("a good handshake");
    }
    (client, server, secrets)
}

/// The result of a rustls server for a stream, and whether it fails.
fn judge(server: &mut ServerConnection, mut stream: &[u8]) -> (Vec<u8>, bool) {
    let mut heard = Vec::new();
    let mut has_failed = false;
    while !stream.is_empty() && !has_failed {
        let size = server.read_tls(&mut stream).expect("memory is read");
        has_failed = server.process_new_packets().is_err();
        let _ = server.reader().read_to_end(&mut heard);
        if size == 0 {
            break;
        }
    }
    (heard, has_failed)
}

/// The keys of a client, from what it returns at its end. The first record of `stream` was sealed
/// with `sequence`.
fn keys_of(
    client: ClientConnection,
    combination: Combination,
    sequence: u64,
    secrets: TrafficSecrets,
) -> RecordKeys {
    let extracted = client.dangerous_extract_secrets().expect("it is allowed");
    let direction = |keys: &ConnectionTrafficSecrets| match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            DirectionKeys::new(secrets.client.0, key.as_ref(), iv.as_ref(), sequence)
        }
        _ => unreachable!("rustls has no other"),
    };
    let Combination { version, suite, .. } = combination;
    let _: Suite = suite;
    RecordKeys {
        version,
        suite,
        receive: direction(&extracted.tx.1),
        send: direction(&extracted.rx.1),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 96 } else { 2_000 }))]

    #[test]
    fn damaged_streams_come_out_as_with_rustls(
        which in 0usize..6,
        sizes in prop::collection::vec(0usize..3_000, 1..8),
        hurt in damages(),
        piece in 1usize..5_000,
    ) {
        let combination = combinations()[which];
        let (mut client, mut server, secrets) = connected(combination);
        let sequence = u64::from(combination.version == Version::Tls12);
        let mut stream = Vec::new();
        for size in sizes {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            client.writer().write_all(&payload).expect("memory takes all");
            stream.extend(drain(&mut client));
        }
        prop_assume!(!stream.is_empty());
        let damaged = damage(&cut_into_records(&stream), &hurt);
        let (heard, has_failed) = judge(&mut server, &damaged);

        let keys = keys_of(client, combination, sequence, secrets);
        let (mut records, mut spills) = (Records::new(keys, Vec::new()), SpillPool::new(1));
        let mut outcome = Outcome::default();
        for piece in damaged.chunks(piece) {
            pair::open(&mut records, &mut spills, piece, &mut outcome);
        }

        prop_assert_eq!(outcome.data, heard);
        if has_failed {
            prop_assert!(outcome.failure.is_some());
        }
        // We refuse records longer than RFC 8446 allows at their header, and rustls waits for more.
        if outcome.failure == Some(TlsFailure::BadRecordMac) {
            prop_assert!(has_failed);
        }
    }
}
