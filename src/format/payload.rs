//! Payloads of call and end records.
//!
//! ```text
//! call:  0  u8  version      2                     end:  0  u8  version   1
//!        1  u8  encoding     1 pcm16                     1  u8  zero
//!        2  u16 tenant       its size, bytes             2  u16 ending    why, as a number
//!        4  u16 interaction  its size, bytes             4  u32 zero
//!        6  u16 peer         its size, bytes              8  u64 frames    complete ones
//!        8  u32 sample_rate  Hz                         16  u64 bytes     of whole samples in them
//!       12  u32 zero                                    24  u64 ended_at  Unix time, microseconds
//!       16  u128 call        the whole key
//!       32  u64 started_at   Unix time, microseconds
//!       40  u64 iat          of the token, Unix time in seconds; 0: no token
//!       48  u64 exp          of the token, Unix time in seconds; 0: no token
//!       56  tenant, then interaction: UTF-8; then the peer's address, such as
//!           198.51.100.7:4000 or [2001:db8::1]:4000, or nothing if it is not known
//! ```
//!
//! Version 1 of a call record has zero at 6, and no peer. It is read like a record without a peer.

#![forbid(unsafe_code)]

use super::{FormatError, field, set};
use crate::address::{PEER_TEXT_MAX, PeerAddress, PeerText};
use crate::call::CallKey;
use crate::clock::UnixMicros;
use crate::constants::ID_SIZE_MAX;

/// Version of the payload of call records.
const CALL_VERSION: u8 = 2;

/// The version before, without the peer.
const CALL_VERSION_1: u8 = 1;

/// Version of the payload of end records.
const END_VERSION: u8 = 1;

/// Largest payload of a call record, bytes.
pub(crate) const CALL_SIZE_MAX: usize = IDS + 2 * ID_SIZE_MAX + PEER_TEXT_MAX;

/// Payload of an end record, bytes.
pub(crate) const END_SIZE: usize = 32;

const ENCODING: usize = 1;
const ENCODING_PCM16: u8 = 1;
const TENANT_SIZE: usize = 2;
const INTERACTION_SIZE: usize = 4;
const PEER_SIZE: usize = 6;
const SAMPLE_RATE: usize = 8;
const RESERVED_WORD: usize = 12;
const CALL: usize = 16;
const STARTED_AT: usize = 32;
const ISSUED_AT: usize = 40;
const EXPIRES_AT: usize = 48;
const IDS: usize = 56;

const END_RESERVED_BYTE: usize = 1;
const ENDING: usize = 2;
const END_RESERVED_WORD: usize = 4;
const FRAMES: usize = 8;
const BYTES: usize = 16;
const ENDED_AT: usize = 24;

const _: () = assert!(ENDED_AT + 8 == END_SIZE);
const _: () = assert!(ID_SIZE_MAX <= u16::MAX as usize);

/// Identity of a call. Its encoding is always pcm16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRecord<'a> {
    /// The call's whole key; the record header holds its low half.
    pub(crate) call: CallKey,
    /// The customer: 1 to 256 bytes without control characters.
    pub tenant: &'a str,
    /// The customer's id of the call: 1 to 256 bytes without control characters.
    pub(crate) interaction: &'a str,
    /// Sample rate, Hz.
    pub(crate) sample_rate: u32,
    /// When `start` arrived.
    pub(crate) started_at: UnixMicros,
    /// The token's `iat`, seconds since 1970; 0 if there was no token.
    pub(crate) token_issued_at: u64,
    /// The token's `exp`, seconds since 1970; 0 if there was no token.
    pub(crate) token_expires_at: u64,
    /// Where the call came from; `None` if that is not known.
    pub(crate) peer: Option<PeerAddress>,
}

/// The key of the call and when it started, from a payload that [`CallRecord::encode`] has made.
pub(crate) fn key_and_start(payload: &[u8]) -> (CallKey, UnixMicros) {
    let started_at = u64::from_le_bytes(field(payload, STARTED_AT));
    (CallKey(u128::from_le_bytes(field(payload, CALL))), UnixMicros(started_at))
}

impl<'a> CallRecord<'a> {
    /// Writes it to the start of `out` and returns its size. An id over the limit is cut, but no
    /// session accepts one.
    pub(crate) fn encode(&self, out: &mut [u8; CALL_SIZE_MAX]) -> usize {
        let tenant = &self.tenant[..self.tenant.floor_char_boundary(ID_SIZE_MAX)];
        let interaction = &self.interaction[..self.interaction.floor_char_boundary(ID_SIZE_MAX)];
        let peer = self.peer.map_or(PeerText::NONE, |peer| peer.text());
        out[..IDS].fill(0);
        out[0] = CALL_VERSION;
        out[ENCODING] = ENCODING_PCM16;
        set(out, TENANT_SIZE, (tenant.len() as u16).to_le_bytes());
        set(out, INTERACTION_SIZE, (interaction.len() as u16).to_le_bytes());
        set(out, PEER_SIZE, (peer.bytes().len() as u16).to_le_bytes());
        set(out, SAMPLE_RATE, self.sample_rate.to_le_bytes());
        set(out, CALL, self.call.0.to_le_bytes());
        set(out, STARTED_AT, self.started_at.0.to_le_bytes());
        set(out, ISSUED_AT, self.token_issued_at.to_le_bytes());
        set(out, EXPIRES_AT, self.token_expires_at.to_le_bytes());
        let mut size = IDS;
        for text in [tenant.as_bytes(), interaction.as_bytes(), peer.bytes()] {
            out[size..size + text.len()].copy_from_slice(text);
            size += text.len();
        }
        size
    }

    /// Decodes a record's payload.
    pub fn decode(payload: &'a [u8]) -> Result<CallRecord<'a>, FormatError> {
        let (head, texts) = payload.split_first_chunk::<IDS>().ok_or(FormatError::Truncated)?;
        if !matches!(head[0], CALL_VERSION | CALL_VERSION_1) {
            return Err(FormatError::Version(u16::from(head[0])));
        }
        if head[ENCODING] != ENCODING_PCM16 {
            return Err(FormatError::Encoding(head[ENCODING]));
        }
        let [tenant_size, interaction_size, peer_size] = [TENANT_SIZE, INTERACTION_SIZE, PEER_SIZE]
            .map(|at| usize::from(u16::from_le_bytes(field(head, at))));
        let has_peer = head[0] == CALL_VERSION;
        if (!has_peer && peer_size > 0) || field::<4>(head, RESERVED_WORD) != [0; 4] {
            return Err(FormatError::Reserved);
        }
        if texts.len() != tenant_size + interaction_size + peer_size {
            return Err(FormatError::Size(payload.len() as u64));
        }
        let (tenant, texts) = texts.split_at_checked(tenant_size).ok_or(FormatError::Truncated)?;
        let (interaction, peer) =
            texts.split_at_checked(interaction_size).ok_or(FormatError::Truncated)?;
        Ok(CallRecord {
            call: CallKey(u128::from_le_bytes(field(head, CALL))),
            tenant: id(tenant)?,
            interaction: id(interaction)?,
            sample_rate: u32::from_le_bytes(field(head, SAMPLE_RATE)),
            started_at: UnixMicros(u64::from_le_bytes(field(head, STARTED_AT))),
            token_issued_at: u64::from_le_bytes(field(head, ISSUED_AT)),
            token_expires_at: u64::from_le_bytes(field(head, EXPIRES_AT)),
            peer: match peer {
                [] => None,
                peer => Some(PeerAddress::parse(peer).ok_or(FormatError::Peer)?),
            },
        })
    }
}

/// How an epoch of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndRecord {
    /// Complete frames.
    pub(crate) frames: u64,
    /// Bytes of whole samples in them.
    pub(crate) bytes: u64,
    /// The reason, as the session numbers it.
    pub(crate) ending: u16,
    /// When it ended.
    pub(crate) ended_at: UnixMicros,
}

impl EndRecord {
    /// Encodes the payload.
    pub(crate) fn encode(&self) -> [u8; END_SIZE] {
        let mut out = [0; END_SIZE];
        out[0] = END_VERSION;
        set(&mut out, ENDING, self.ending.to_le_bytes());
        set(&mut out, FRAMES, self.frames.to_le_bytes());
        set(&mut out, BYTES, self.bytes.to_le_bytes());
        set(&mut out, ENDED_AT, self.ended_at.0.to_le_bytes());
        out
    }

    /// Decodes a record's payload.
    pub fn decode(payload: &[u8]) -> Result<EndRecord, FormatError> {
        let (head, rest) = payload.split_first_chunk::<END_SIZE>().ok_or(FormatError::Truncated)?;
        if head[0] != END_VERSION {
            return Err(FormatError::Version(u16::from(head[0])));
        }
        if !rest.is_empty() {
            return Err(FormatError::Size(payload.len() as u64));
        }
        if head[END_RESERVED_BYTE] != 0 || field::<4>(head, END_RESERVED_WORD) != [0; 4] {
            return Err(FormatError::Reserved);
        }
        Ok(EndRecord {
            frames: u64::from_le_bytes(field(head, FRAMES)),
            bytes: u64::from_le_bytes(field(head, BYTES)),
            ending: u16::from_le_bytes(field(head, ENDING)),
            ended_at: UnixMicros(u64::from_le_bytes(field(head, ENDED_AT))),
        })
    }
}

/// Accepts only ids that a session accepts, because readers print them.
fn id(bytes: &[u8]) -> Result<&str, FormatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Id)?;
    let good = (1..=ID_SIZE_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(FormatError::Id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record<'a>(tenant: &'a str, interaction: &'a str) -> CallRecord<'a> {
        CallRecord {
            call: CallKey(0x0123_4567_89AB_CDEF_1122_3344_5566_7788),
            tenant,
            interaction,
            sample_rate: 24_000,
            started_at: UnixMicros(1_800_000_000_000_000),
            token_issued_at: 1_799_999_990,
            token_expires_at: 1_800_003_590,
            peer: None,
        }
    }

    fn from<'a>(peer: &str, record: CallRecord<'a>) -> CallRecord<'a> {
        CallRecord { peer: PeerAddress::parse(peer.as_bytes()), ..record }
    }

    fn encoded(record: &CallRecord<'_>) -> Vec<u8> {
        let mut out = [0xEE; CALL_SIZE_MAX];
        let size = record.encode(&mut out);
        out[..size].to_vec()
    }

    #[test]
    fn a_call_record_has_its_places() {
        let record = from("198.51.100.7:4000", record("acme", "call-1"));
        let bytes = encoded(&record);
        let mut expected = vec![2, 1, 4, 0, 6, 0, 17, 0, 0xC0, 0x5D, 0, 0, 0, 0, 0, 0];
        expected.extend([
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45,
            0x23, 0x01,
        ]);
        expected.extend(1_800_000_000_000_000u64.to_le_bytes());
        expected.extend(1_799_999_990u64.to_le_bytes());
        expected.extend(1_800_003_590u64.to_le_bytes());
        expected.extend(b"acmecall-1198.51.100.7:4000");
        assert_eq!(bytes, expected);
        assert_eq!(CallRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn a_call_record_of_version_1_has_no_peer() {
        let known = record("acme", "call-1");
        let mut bytes = encoded(&known);
        bytes[0] = 1;
        assert_eq!(CallRecord::decode(&bytes), Ok(known));
        let mut with_peer = encoded(&from("198.51.100.7:4000", known));
        with_peer[0] = 1;
        assert_eq!(CallRecord::decode(&with_peer), Err(FormatError::Reserved));
    }

    #[test]
    fn ids_of_every_allowed_size_come_back_and_longer_ones_are_cut() {
        let longest = "é".repeat(128);
        let longest = longest.as_str();
        let mut size_max = 0;
        for (tenant, interaction) in
            [("a", "b"), ("a/b", longest), (longest, "東京"), (longest, longest)]
        {
            for peer in ["", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"] {
                let record = from(peer, record(tenant, interaction));
                let bytes = encoded(&record);
                assert_eq!(CallRecord::decode(&bytes), Ok(record));
                size_max = size_max.max(bytes.len());
            }
        }
        assert_eq!(size_max, CALL_SIZE_MAX);
        let long = format!("x{longest}");
        let bytes = encoded(&record(&long, "b"));
        assert_eq!(
            CallRecord::decode(&bytes).unwrap().tenant,
            &long[..255],
            "cut between characters"
        );
    }

    #[test]
    fn faults_of_a_call_record_are_named() {
        let good = encoded(&record("acme", "call-1"));
        let forged = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            CallRecord::decode(&bytes).unwrap_err()
        };
        assert_eq!(forged(0, 0), FormatError::Version(0));
        assert_eq!(forged(0, 3), FormatError::Version(3));
        assert_eq!(forged(ENCODING, 7), FormatError::Encoding(7));
        assert_eq!(forged(PEER_SIZE, 7), FormatError::Size(66));
        // The last byte of the interaction becomes a peer.
        let mut peer = good.clone();
        (peer[INTERACTION_SIZE], peer[PEER_SIZE]) = (5, 1);
        assert_eq!(CallRecord::decode(&peer), Err(FormatError::Peer));
        assert_eq!(forged(RESERVED_WORD, 7), FormatError::Reserved);
        assert_eq!(forged(TENANT_SIZE, 5), FormatError::Size(66));
        assert_eq!(forged(TENANT_SIZE + 1, 5), FormatError::Size(66));
        assert_eq!(forged(IDS, 0xFF), FormatError::Id);
        assert_eq!(forged(IDS, b'\n'), FormatError::Id);
        for size in 0..IDS {
            assert_eq!(CallRecord::decode(&good[..size]), Err(FormatError::Truncated));
        }
        assert_eq!(CallRecord::decode(&encoded(&record("", "b"))), Err(FormatError::Id));
    }

    #[test]
    fn an_end_record_has_its_places_and_its_faults_are_named() {
        let end = EndRecord {
            frames: 0x0102,
            bytes: 0x0304,
            ending: 0x0506,
            ended_at: UnixMicros(0x0708),
        };
        let bytes = end.encode();
        let mut expected = [0; 32];
        (expected[0], expected[2], expected[3]) = (1, 6, 5);
        (expected[8], expected[9], expected[16], expected[17], expected[24], expected[25]) =
            (2, 1, 4, 3, 8, 7);
        assert_eq!(bytes, expected);
        assert_eq!(EndRecord::decode(&bytes), Ok(end));
        assert_eq!(EndRecord::decode(&bytes[..31]), Err(FormatError::Truncated));
        assert_eq!(EndRecord::decode(&[&bytes[..], &[0]].concat()), Err(FormatError::Size(33)));
        for (at, fault) in
            [(0, FormatError::Version(9)), (1, FormatError::Reserved), (7, FormatError::Reserved)]
        {
            let mut forged = bytes;
            forged[at] = 9;
            assert_eq!(EndRecord::decode(&forged), Err(fault));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..700),
            plausible: bool,
        ) {
            if plausible && bytes.len() > IDS {
                // Pass the first checks, so that the later ones run.
                bytes[..16].copy_from_slice(&[2, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes[INTERACTION_SIZE] = (bytes.len() - IDS).saturating_sub(8) as u8;
            }
            if let Ok(record) = CallRecord::decode(&bytes) {
                prop_assert_eq!(encoded(&record), bytes.clone());
            }
            if let Ok(record) = EndRecord::decode(&bytes) {
                prop_assert_eq!(record.encode().to_vec(), bytes);
            }
        }
    }
}
