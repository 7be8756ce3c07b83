//! Messages that are not allowed after a handshake, and the alert for each.

#![forbid(unsafe_code)]

use super::pair::sealed;
use super::*;
use crate::tls::records::{QUIET_RECORDS_MAX, content};
use pair::Combination;
use rustls::Error;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];

fn each(version: Version) -> impl Iterator<Item = Combination> {
    combinations().into_iter().filter(move |combination| combination.version == version)
}

/// A client sends these messages, one record each, and the node fails; nothing but `data` is
/// returned.
#[track_caller]
fn fails(combination: Combination, said: &[(u8, &[u8])], data: &[u8], failure: TlsFailure) {
    let mut pair = Pair::new(combination);
    let mut impostor = pair.impostor();
    let bytes: Vec<u8> =
        said.iter().flat_map(|(kind, payload)| sealed(&mut impostor, *kind, payload)).collect();
    let outcome = pair.open(&bytes);
    let expected = Outcome { data: data.to_vec(), is_closed: false, failure: Some(failure) };
    assert_eq!(outcome, expected, "{combination:?}");
    assert!(!pair.records.takes_payload());
    let own = pair.seal_own();
    match Alert::after(failure) {
        None => assert_eq!(own, b"", "{failure:?}"),
        Some(alert) => {
            let told = pair.client_hears(&own).unwrap_err();
            let description = rustls::AlertDescription::from(alert as u8);
            assert_eq!(told, Error::AlertReceived(description), "{failure:?}");
        }
    }
    assert_eq!(pair.seal_own(), b"", "nothing comes after an alert");
}

#[test]
fn messages_that_are_not_allowed_are_refused() {
    let unexpected = TlsFailure::UnexpectedMessage;
    let data: (u8, &[u8]) = (content::DATA, b"data");
    for one in each(Version::Tls13) {
        // A ticket, a certificate request, a hello.
        for kind in [1, 4, 13] {
            fails(one, &[data, (content::HANDSHAKE, &[kind, 0, 0, 0])], b"data", unexpected);
        }
        fails(one, &[(content::HANDSHAKE, &[])], b"", unexpected);
        fails(one, &[(20, &[1])], b"", unexpected);
        fails(one, &[(24, b"heartbeat")], b"", unexpected);
        // Not a content type at all.
        fails(one, &[(0, &[0; 40])], b"", unexpected);
        // After a KeyUpdate, in its record; data within one.
        fails(one, &[(content::HANDSHAKE, &[24, 0, 0, 1, 0, 24])], b"", unexpected);
        fails(one, &[(content::HANDSHAKE, &[24, 0]), data], b"", unexpected);
        fails(one, &[(content::HANDSHAKE, &[24, 0]), (content::ALERT, &[1, 0])], b"", unexpected);
        fails(one, &[(content::HANDSHAKE, &[24, 0, 0, 1, 2])], b"", TlsFailure::IllegalParameter);
        // A KeyUpdate with another length than it has, whatever follows.
        for wrong in [&[24, 0, 0, 0][..], &[24, 0, 0, 2, 0], &[24, 0, 0, 2, 0, 0], &[24, 1, 0, 1]] {
            fails(one, &[(content::HANDSHAKE, wrong), data], b"", TlsFailure::DecodeError);
        }
    }
    for one in each(Version::Tls12) {
        fails(
            one,
            &[data, (content::HANDSHAKE, &[1, 0, 0, 0])],
            b"data",
            TlsFailure::Renegotiation,
        );
        fails(one, &[(content::HANDSHAKE, &KEY_UPDATE)], b"", TlsFailure::Renegotiation);
        fails(one, &[(20, &[1])], b"", unexpected);
        fails(one, &[(24, b"heartbeat")], b"", unexpected);
    }
    for one in combinations() {
        fails(one, &[(content::ALERT, &[2])], b"", TlsFailure::DecodeError);
        fails(one, &[(content::ALERT, &[])], b"", unexpected);
        fails(one, &[(content::ALERT, &[2, 0, 2, 0])], b"", TlsFailure::DecodeError);
        fails(one, &[data, (content::ALERT, &[2, 80])], b"data", TlsFailure::PeerAlert);
    }
    // TLS 1.3 ignores levels.
    fails(combinations()[0], &[(content::ALERT, &[1, 80])], b"", TlsFailure::PeerAlert);
}

#[test]
fn other_bytes_are_refused_at_their_header() {
    for one in combinations() {
        let is_new = one.version == Version::Tls13;
        for (header, failure) in [
            ([20, 3, 3, 0, 1], TlsFailure::UnexpectedMessage),
            ([0x47, 0x45, 0x54, 0x20, 0x2f], TlsFailure::UnexpectedMessage),
            ([23, 3, 3, 0x41, 1], TlsFailure::RecordOverflow),
            ([23, 3, 3, 0xff, 0xff], TlsFailure::RecordOverflow),
        ] {
            for size in [1, 5] {
                let mut pair = Pair::new(one);
                let failures: Vec<_> =
                    header.chunks(size).filter_map(|piece| pair.open(piece).failure).collect();
                assert_eq!(failures, [failure], "{one:?} {header:?}");
            }
        }
        // In TLS 1.3 everything that is sealed looks like data.
        let mut pair = Pair::new(one);
        assert_eq!(pair.open(&[22, 3, 3, 0, 100]).failure.is_some(), is_new, "{one:?}");
    }
}

#[test]
fn a_record_with_a_wrong_byte_gives_nothing() {
    for one in combinations() {
        let mut pair = Pair::new(one);
        let keys = *pair.records.keys();
        let (good, bad) = (pair.client_says(b"good"), pair.client_says(&[9; 50]));
        for at in 0..bad.len() {
            for bit in [1, 0x80] {
                let mut damaged = [good.clone(), bad.clone()].concat();
                damaged[good.len() + at] ^= bit;
                let mut records = Records::new(keys, Vec::new());
                let mut outcome = Outcome::default();
                pair::open(&mut records, &mut pair.spills, &damaged, &mut outcome);
                assert_eq!(outcome.data, b"good", "{one:?} at {at}");
                // A longer length waits for more bytes, and then the tag will be wrong.
                let is_waiting = records.waiting_size() > 0;
                assert_eq!(outcome.failure.is_none(), is_waiting, "{one:?} at {at}");
                records.give_up(&mut pair.spills);
            }
        }
    }
}

#[test]
fn records_that_come_twice_or_not_at_all_are_refused() {
    for one in combinations() {
        let mut pair = Pair::new(one);
        let keys = *pair.records.keys();
        let said: Vec<_> =
            [b"first", b"other", b"third"].iter().map(|text| pair.client_says(*text)).collect();
        for (order, data) in
            [(&[0, 0][..], "first"), (&[1, 0], ""), (&[0, 2], "first"), (&[0, 1, 1], "firstother")]
        {
            let bytes: Vec<u8> = order.iter().flat_map(|index| said[*index].clone()).collect();
            let outcome = open_in(keys, [&bytes[..]].into_iter());
            let failure = Some(TlsFailure::BadRecordMac);
            assert_eq!(
                outcome,
                Outcome { data: data.into(), is_closed: false, failure },
                "{one:?}"
            );
        }
    }
}

#[test]
fn too_many_records_without_data_end_the_connection() {
    let max = usize::from(QUIET_RECORDS_MAX);
    for one in combinations() {
        let mut quiet: Vec<(u8, &[u8])> = vec![(content::DATA, b"")];
        match one.version {
            Version::Tls13 => quiet.extend([
                (content::ALERT, &[1, 90][..]),
                // Its keys change with it: see below.
            ]),
            Version::Tls12 => quiet.push((content::ALERT, &[1, 100])),
        }
        for kind in quiet {
            let mut said = vec![kind; max];
            said.push((content::DATA, b"data"));
            said.extend(vec![kind; max + 1]);
            fails(one, &said, b"data", TlsFailure::UnexpectedMessage);
        }
    }
}

#[test]
fn key_updates_come_in_pieces_and_are_bounded() {
    for one in each(Version::Tls13) {
        let mut pair = Pair::new(one);
        let mut impostor = pair.impostor();
        let mut send = |pair: &mut Pair, message: &[u8], piece: usize| {
            let bytes: Vec<u8> = message
                .chunks(piece)
                .flat_map(|piece| sealed(&mut impostor, content::HANDSHAKE, piece))
                .collect();
            impostor.keys.send.update(impostor.keys.suite);
            let data = sealed(&mut impostor, content::DATA, b"data");
            pair.open(&[bytes, data].concat())
        };
        for piece in 1..=5 {
            assert_eq!(
                send(&mut pair, &KEY_UPDATE, piece),
                Outcome::data(b"data".to_vec()),
                "{one:?}"
            );
            assert!(!pair.records.has_output(), "it was not asked for");
        }
        for piece in 1..=5 {
            send(&mut pair, &KEY_UPDATE_REQUESTED, piece);
        }
        assert!(pair.records.has_output());
        assert!(!pair.seal_own().is_empty());
        assert_eq!(pair.seal_own(), b"", "one answer to all of them");
        let mut impostor = pair.impostor();
        let mut failures = 0;
        for _ in 0..=QUIET_RECORDS_MAX {
            let bytes = sealed(&mut impostor, content::HANDSHAKE, &KEY_UPDATE_REQUESTED);
            impostor.keys.send.update(impostor.keys.suite);
            failures +=
                usize::from(pair.open(&bytes).failure == Some(TlsFailure::UnexpectedMessage));
        }
        assert_eq!(failures, 1);
    }
}

#[test]
fn padding_is_removed() {
    for one in each(Version::Tls13) {
        let mut pair = Pair::new(one);
        let mut impostor = pair.impostor();
        for padding in [0, 1, 15, 400, (1 << 14) - 4] {
            // The type, then zeros; the type is written in place of the last one.
            let mut inner = b"data".to_vec();
            let expected = inner.clone();
            let bytes = match padding {
                0 => sealed(&mut impostor, content::DATA, &inner),
                _ => {
                    inner.push(content::DATA);
                    inner.resize(4 + padding, 0);
                    sealed(&mut impostor, 0, &inner)
                }
            };
            assert_eq!(pair.open(&bytes), Outcome::data(expected), "{one:?} {padding}");
        }
        // One byte of padding more than a record may carry (RFC 8446 §5.4).
        let mut inner = b"data".to_vec();
        inner.push(content::DATA);
        inner.resize((1 << 14) + 1, 0);
        let bytes = sealed(&mut pair.impostor(), 0, &inner);
        let outcome = open_in(*pair.records.keys(), [&bytes[..]].into_iter());
        assert_eq!(outcome.failure, Some(TlsFailure::RecordOverflow), "{one:?}");
        // More than a record may carry (RFC 8446 §5.2), but within the limit of its header.
        let bytes = {
            let mut out = vec![0; (1 << 14) + 1 + OVERHEAD_SIZE_MAX];
            let front = impostor.front_size();
            out[front..].fill(1);
            let size = impostor.seal_as(content::DATA, &mut out, (1 << 14) + 1);
            out.truncate(size);
            out
        };
        assert_eq!(pair.open(&bytes).failure, Some(TlsFailure::RecordOverflow));
    }
}
