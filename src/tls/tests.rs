//! Tests the record layer against rustls, and against itself where rustls cannot send what is
//! needed.

#![forbid(unsafe_code)]

mod damaged;
pub(crate) mod pair;
mod refusals;

use super::alert::Alert;
use super::keys::{RecordKeys, Version};
use super::records::{OVERHEAD_SIZE_MAX, Records};
use super::*;
use crate::constants::TLS_HANDSHAKE_SIZE_MAX;
use pair::{Outcome, Pair, combinations, drain, open_in};
use rustls::AlertDescription;

/// A few payloads: a tiny one, one of a frame, and one that the peer cuts into two records.
fn payloads() -> Vec<Vec<u8>> {
    [1, 17, 300, 9_608, 20_000].map(|size| (0..size).map(|at| (at % 251) as u8).collect()).to_vec()
}

#[test]
fn the_bytes_of_a_client_are_returned_unchanged() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        for payload in payloads() {
            let sealed = pair.client_says(&payload);
            let outcome = pair.open(&sealed);
            assert_eq!(outcome, Outcome::data(payload), "{combination:?}");
        }
        assert_eq!(pair.spills.taken(), 0, "whole records need no spill buffer");
    }
}

#[test]
fn every_split_point_and_every_receive_size_gives_the_same() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        let keys = *pair.records.keys();
        let said: Vec<Vec<u8>> = [1, 40, 5, 700].map(|size| vec![size as u8; size]).to_vec();
        let sealed: Vec<u8> = said.iter().flat_map(|payload| pair.client_says(payload)).collect();
        let expected = Outcome::data(said.concat());
        for size in 1..=sealed.len() {
            assert_eq!(open_in(keys, sealed.chunks(size)), expected, "{combination:?} by {size}");
        }
        for split in 0..=sealed.len() {
            let (one, other) = sealed.split_at(split);
            assert_eq!(
                open_in(keys, [one, other].into_iter()),
                expected,
                "{combination:?} at {split}"
            );
        }
    }
}

#[test]
fn the_largest_records_fit_a_spill_buffer() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        let payload = vec![7; 1 << 14];
        let sealed = pair.client_says(&payload);
        let (one, other) = sealed.split_at(sealed.len() - 1);
        assert_eq!(pair.open(one), Outcome::data(Vec::new()));
        assert_eq!((pair.spills.used(), pair.records.waiting_size()), (1, one.len()));
        assert_eq!(pair.open(other), Outcome::data(payload));
        assert_eq!((pair.spills.used(), pair.records.waiting_size()), (0, 0));
    }
}

#[test]
fn a_client_reads_what_is_sealed() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        for size in [1, 2, 24, 125, 500, 1 << 14] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 249) as u8).collect();
            let mut out = vec![0; size + OVERHEAD_SIZE_MAX];
            let front = pair.records.front_size();
            out[front..front + size].copy_from_slice(&payload);
            let size = pair.records.seal(&mut out, size);
            assert_eq!(pair.client_hears(&out[..size]).unwrap(), payload, "{combination:?}");
        }
    }
}

#[test]
fn close_notify_works_both_ways_and_nothing_is_opened_after_it() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        let mut said = pair.client_says(b"last");
        pair.client.send_close_notify();
        said.extend(drain(&mut pair.client));
        said.extend([0; 100]);
        let expected = Outcome { data: b"last".to_vec(), is_closed: true, failure: None };
        assert_eq!(pair.open(&said), expected, "{combination:?}");
        assert_eq!(pair.open(&said), Outcome::data(Vec::new()), "later bytes are dropped");
        assert!(pair.records.close() && !pair.records.close());
        assert!(pair.records.has_output() && !pair.records.takes_payload());
        let sealed = pair.seal_own();
        assert!(pair.client_hears(&sealed).unwrap().is_empty());
        assert!(pair.client_is_closed && !pair.records.has_output());
        assert_eq!(pair.seal_own(), b"");
    }
}

#[test]
fn a_clients_key_update_is_followed_and_answered() {
    for combination in combinations().into_iter().filter(|one| one.version == Version::Tls13) {
        let mut pair = Pair::new(combination);
        let before = *pair.records.keys();
        for round in 0..5u8 {
            // rustls asks for our update with its own.
            pair.client.refresh_traffic_keys().unwrap();
            let mut said = drain(&mut pair.client);
            said.extend(pair.client_says(&[round; 20]));
            assert_eq!(pair.open(&said), Outcome::data(vec![round; 20]), "{combination:?}");
            assert!(pair.records.has_output());
            let answer = pair.seal_own();
            assert!(pair.client_hears(&answer).unwrap().is_empty());
            assert_eq!(pair.seal_own(), b"", "one answer for one request");
            assert_eq!(pair.node_says(&[round]), [round]);
        }
        assert_eq!(pair.records.take_updates(), 10);
        assert_ne!(pair.records.keys().receive.secret, before.receive.secret);
        assert_ne!(pair.records.keys().send.secret, before.send.secret);
    }
}

#[test]
fn keys_are_replaced_before_they_have_sealed_too_much() {
    for combination in combinations() {
        let mut pair = Pair::new(combination);
        pair.records.set_records_max(6);
        let mut seals = 0;
        for round in 0..20u8 {
            let own = pair.seal_own();
            if !own.is_empty() {
                seals += 1;
                pair.client_hears(&own).unwrap();
            }
            if !pair.records.takes_payload() {
                break;
            }
            assert_eq!(pair.node_says(&[round]), [round], "{combination:?}");
            assert!(pair.records.keys().send.sequence <= 7);
        }
        match combination.version {
            Version::Tls13 => assert!((3..=4).contains(&seals), "{seals} KeyUpdates"),
            // There are no new keys: the connection ends normally.
            Version::Tls12 => assert!(pair.client_is_closed),
        }
    }
}

#[test]
fn without_a_spill_buffer_a_connection_fails_and_others_go_on() {
    let combination = combinations()[0];
    let mut pair = Pair::new(combination);
    pair.spills = SpillPool::new(1);
    let taken = pair.spills.acquire(true).unwrap();
    let keys = *pair.records.keys();
    let sealed = pair.client_says(&[1; 100]);
    let outcome = pair.open(&sealed[..50]);
    assert_eq!(outcome.failure, Some(TlsFailure::NoSpillBuffer));
    let alert = pair.seal_own();
    assert_eq!(
        pair.client_hears(&alert),
        Err(rustls::Error::AlertReceived(AlertDescription::InternalError))
    );
    // A record in one piece needs no buffer.
    let mut other = Records::new(keys, Vec::new());
    let mut whole = sealed.clone();
    let opened = other.open(&mut whole, &mut 0, &mut pair.spills, true);
    assert!(matches!(opened, Ok(Some(Opened::Data(Place::Chunk(_))))));
    pair.spills.release(taken);
}

#[test]
fn a_failed_connection_gives_its_spill_buffer_back() {
    let mut pair = Pair::new(combinations()[0]);
    let mut sealed = pair.client_says(&[1; 100]);
    let end = sealed.len() - 1;
    sealed[end] ^= 1;
    pair.open(&sealed[..50]);
    assert_eq!(pair.spills.used(), 1);
    assert_eq!(pair.open(&sealed[50..]).failure, Some(TlsFailure::BadRecordMac));
    assert_eq!(pair.spills.used(), 0);
    let mut pair = Pair::new(combinations()[0]);
    let sealed = pair.client_says(&[1; 100]);
    pair.open(&sealed[..50]);
    pair.records.give_up(&mut pair.spills);
    assert_eq!((pair.spills.used(), pair.records.waiting_size()), (0, 0));
    assert_eq!(pair.open(&sealed[50..]), Outcome::data(Vec::new()));
}

#[test]
fn a_connection_needs_no_more_than_a_kilobyte() {
    println!("{} bytes, {} of them plain", size_of::<Records>(), size_of::<RecordKeys>());
    assert!(size_of::<Records>() <= 1024);
}

#[test]
fn alerts_of_peers_without_keys_are_whole_records() {
    assert_eq!(Alert::InternalError.plain_record(), [21, 3, 3, 0, 2, 2, 80]);
    assert_eq!(Alert::CloseNotify.message(), [1, 0]);
}

#[test]
fn a_handshake_has_a_bound_on_its_bytes() {
    let config = std::sync::Arc::new(pair::server_config());
    let mut handshake = Handshake::default();
    // A hello that claims 60,000 bytes, in records of a thousand.
    let mut message = vec![1, 0, 0xea, 0x60];
    let mut sent = 0;
    loop {
        message.resize(1000, 0);
        handshake.push(&[22, 3, 1, 3, 0xe8]);
        handshake.push(&message);
        message.clear();
        sent += 1005;
        match handshake.step(&config) {
            Progress::Incomplete => assert!(sent <= TLS_HANDSHAKE_SIZE_MAX, "{sent}"),
            Progress::Failed(TlsFailure::HandshakeTooLarge) => break,
            other => panic!("{other:?} after {sent}"),
        }
    }
    assert!(sent > TLS_HANDSHAKE_SIZE_MAX && !handshake.has_begun(), "its memory is freed");
}

#[test]
fn a_record_that_makes_a_handshake_too_large_is_refused_at_its_header() {
    let config = std::sync::Arc::new(pair::server_config());
    let mut handshake = Handshake::default();
    let largest = [&[22, 3, 1, 0x40, 0, 1, 0, 0xea, 0x60][..], &[0; (1 << 14) - 4]].concat();
    handshake.push(&largest);
    assert!(matches!(handshake.step(&config), Progress::Incomplete));
    handshake.push(&largest[..4]);
    assert!(!handshake.has_work());
    handshake.push(&largest[4..5]);
    assert!(handshake.has_work());
    let outcome = handshake.step(&config);
    assert!(matches!(outcome, Progress::Failed(TlsFailure::HandshakeTooLarge)), "{outcome:?}");
}

#[test]
fn an_incomplete_configuration_gives_no_keys() {
    let mut config = pair::server_config();
    config.enable_secret_extraction = false;
    let failed = pair::shake_hands(config, combinations()[0]).unwrap_err();
    assert_eq!(failed, TlsFailure::Internal);
}
