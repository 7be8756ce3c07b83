//! The record layer of a connection after its handshake: its state, and how it seals. Opening is in
//! `open.rs`.
//!
//! ```text
//!  TLS 1.3:  23 3 3 len len │ payload type │ tag       nonce = iv xor sequence, AAD = header
//!  TLS 1.2:  ty 3 3 len len │ nonce │ payload │ tag    AAD = sequence, type, version, size
//!                             └ 8 bytes, AES-GCM alone
//! ```
#![forbid(unsafe_code)]

use super::alert::Alert;
use super::keys::{RecordKeys, Suite, Version};
use super::spill::{Spill, SpillPool};
use crate::auth::ClientName;
use crate::constants::SPILL_SIZE;
use crate::metrics::TlsFailure;
use ring::aead::{Aad, LessSafeKey, Nonce};
use std::ops::Range;

/// Bytes before a record's content.
pub const HEADER_SIZE: usize = 5;

/// Largest payload of a record (RFC 8446 §5.1).
pub const PAYLOAD_SIZE_MAX: usize = 1 << 14;

/// Largest record: a payload, its type, padding and tag (RFC 8446 §5.2). AEAD suites of TLS 1.2 add
/// less.
pub const RECORD_SIZE_MAX: usize = HEADER_SIZE + PAYLOAD_SIZE_MAX + 256;

/// Most bytes that sealing adds to a payload.
pub(crate) const OVERHEAD_SIZE_MAX: usize = HEADER_SIZE + EXPLICIT_NONCE_SIZE + TAG_SIZE;

/// TLS 1.2 with AES-GCM carries part of the nonce.
pub(super) const EXPLICIT_NONCE_SIZE: usize = 8;

pub(super) const TAG_SIZE: usize = 16;

/// Most records in a row without data: empty ones, warnings, KeyUpdates. A real peer sends one or
/// two. Each costs us an AEAD operation, and a KeyUpdate also new keys.
pub(super) const QUIET_RECORDS_MAX: u8 = 32;

/// Size of a KeyUpdate message.
pub(super) const KEY_UPDATE_SIZE: usize = 5;

/// Content types.
pub(super) mod content {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const DATA: u8 = 23;
}

/// Size of the record that `bytes` begin with, with its header; `None` if no record is that large.
/// `bytes` has at least a header.
pub fn record_size(bytes: &[u8]) -> Option<usize> {
    let size = HEADER_SIZE + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    (size <= RECORD_SIZE_MAX).then_some(size)
}

/// Result of opening received bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Payload, never empty.
    Data(Place),
    /// `close_notify`: the peer sends no more. Anything after it is dropped.
    Closed,
}

/// Where a payload is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// In the received bytes.
    Chunk(Range<usize>),
    /// In a spill buffer, which the caller must release.
    Spill(Spill, Range<usize>),
}

/// The part of a record that has arrived.
#[derive(Debug)]
pub(super) enum Partial {
    /// The first bytes of its header, and how many.
    Header([u8; HEADER_SIZE], u8),
    /// The first `filled` bytes of it in a spill buffer, with its header; and its size.
    Body { spill: Spill, filled: u16, size: u16 },
}

pub(super) const NOTHING: Partial = Partial::Header([0; HEADER_SIZE], 0);

/// State of our side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Open,
    /// This alert must be sent, and nothing after it.
    Due(Alert),
    /// Nothing more will be sent.
    Over,
}

/// The record layer of a connection. Boxed; at most 1 KiB, without the flight.
pub struct Records {
    /// The peer's name, if a certificate says it. Stored here, it costs a plain connection nothing.
    pub(crate) client: Option<Box<ClientName>>,
    pub(super) keys: RecordKeys,
    /// The expanded receive key.
    pub(super) opening: LessSafeKey,
    pub(super) partial: Partial,
    /// The bytes so far of a KeyUpdate that arrives in pieces.
    pub(super) message: [u8; KEY_UPDATE_SIZE],
    pub(super) message_size: u8,
    /// Records in a row that carried no data.
    pub(super) quiet: u8,
    /// Nothing more is opened, after `close_notify` or a failure.
    pub(super) is_deaf: bool,
    /// A KeyUpdate of ours is due.
    pub(super) update_due: bool,
    ending: Ending,
    /// KeyUpdates, from both sides.
    pub(super) updates: u32,
    /// Records that one key may seal.
    records_max: u64,
    /// The end of the handshake, and tickets.
    flight: Vec<u8>,
}

impl Records {
    /// Continues with `keys`, after `flight` was sent.
    pub fn new(keys: RecordKeys, flight: Vec<u8>) -> Self {
        Records {
            client: None,
            opening: keys.receive.expand(keys.suite),
            keys,
            partial: NOTHING,
            message: [0; KEY_UPDATE_SIZE],
            message_size: 0,
            quiet: 0,
            is_deaf: false,
            update_due: false,
            ending: Ending::Open,
            updates: 0,
            records_max: keys.suite.records_max(),
            flight,
        }
    }

    /// The current keys.
    pub fn keys(&self) -> &RecordKeys {
        &self.keys
    }

    /// Bytes of a cut record that wait for its rest; they are opened with the next bytes.
    pub fn waiting_size(&self) -> usize {
        match &self.partial {
            Partial::Header(..) => 0,
            Partial::Body { filled, .. } => usize::from(*filled),
        }
    }

    /// Returns the spill buffer of a cut record. Nothing is opened after this.
    pub fn give_up(&mut self, spills: &mut SpillPool) {
        self.is_deaf = true;
        if let Partial::Body { spill, .. } = std::mem::replace(&mut self.partial, NOTHING) {
            spills.release(spill);
        }
    }

    /// Returns the number of KeyUpdates since the last call.
    pub(crate) fn take_updates(&mut self) -> u64 {
        u64::from(std::mem::take(&mut self.updates))
    }

    /// The connection has failed: nothing more is opened, and the peer gets the alert.
    pub(crate) fn fail(&mut self, failure: TlsFailure) {
        self.is_deaf = true;
        if self.ending == Ending::Open {
            self.ending = Alert::after(failure).map_or(Ending::Over, Ending::Due);
        }
    }

    /// Our side ends: `close_notify` is due. Returns false if it was due before.
    pub fn close(&mut self) -> bool {
        let is_open = self.ending == Ending::Open;
        if is_open {
            self.ending = Ending::Due(Alert::CloseNotify);
        }
        is_open
    }

    /// Whether payload can still be sealed.
    pub fn takes_payload(&self) -> bool {
        self.ending == Ending::Open
    }

    /// Returns what must be sent unchanged, before everything else.
    pub(crate) fn take_flight(&mut self) -> Option<Vec<u8>> {
        (!self.flight.is_empty()).then(|| std::mem::take(&mut self.flight))
    }

    /// Whether the record layer itself has something to send.
    pub(crate) fn has_output(&self) -> bool {
        !self.flight.is_empty() || self.update_due || matches!(self.ending, Ending::Due(_))
    }

    /// Seals a message of the record layer itself, an alert or a KeyUpdate, into `out`. Returns its
    /// size on the wire, or 0 for nothing. `out` has a little more than [`OVERHEAD_SIZE_MAX`]
    /// bytes.
    pub fn seal_own(&mut self, out: &mut [u8]) -> usize {
        if self.keys.send.sequence >= self.records_max {
            match self.keys.version {
                Version::Tls13 => self.update_due = true,
                Version::Tls12 => self.fail(TlsFailure::KeyExhausted),
            }
        }
        if let Ending::Due(alert) = self.ending {
            self.ending = Ending::Over;
            return self.seal_message(content::ALERT, &alert.message(), out);
        }
        if !std::mem::take(&mut self.update_due) || self.ending == Ending::Over {
            return 0;
        }
        // RFC 8446 §4.6.3: does not request one in return, otherwise two sides could go on forever.
        let size = self.seal_message(content::HANDSHAKE, &[24, 0, 0, 1, 0], out);
        self.keys.send.update(self.keys.suite);
        self.updates += 1;
        size
    }

    fn seal_message(&mut self, kind: u8, message: &[u8], out: &mut [u8]) -> usize {
        let front = self.front_size();
        out[front..front + message.len()].copy_from_slice(message);
        self.seal_as(kind, out, message.len())
    }

    /// Bytes of a record before its payload.
    pub fn front_size(&self) -> usize {
        match (self.keys.version, self.keys.suite) {
            (Version::Tls13, _) | (Version::Tls12, Suite::ChaCha20Poly1305) => HEADER_SIZE,
            (Version::Tls12, _) => HEADER_SIZE + EXPLICIT_NONCE_SIZE,
        }
    }

    /// Seals `size` bytes of payload, which are in `out` after [`Records::front_size`] bytes;
    /// returns the size on the wire. The rest of `out` has room for what sealing adds: at most
    /// [`OVERHEAD_SIZE_MAX`] in all.
    pub fn seal(&mut self, out: &mut [u8], size: usize) -> usize {
        self.seal_as(content::DATA, out, size)
    }

    pub(super) fn seal_as(&mut self, kind: u8, out: &mut [u8], size: usize) -> usize {
        debug_assert!(size <= PAYLOAD_SIZE_MAX || cfg!(test));
        let RecordKeys { version, suite, send, .. } = &mut self.keys;
        // A record is sent once for ten frames or more, so keeping the expanded key is not worth
        // its memory.
        let key = send.expand(*suite);
        let nonce = send.nonce();
        let front = match (*version, *suite) {
            (Version::Tls13, _) | (Version::Tls12, Suite::ChaCha20Poly1305) => HEADER_SIZE,
            (Version::Tls12, _) => HEADER_SIZE + EXPLICIT_NONCE_SIZE,
        };
        let (outer, inner_size) = match version {
            Version::Tls13 => {
                out[front + size] = kind;
                (content::DATA, size + 1)
            }
            Version::Tls12 => {
                out[HEADER_SIZE..front].copy_from_slice(&nonce[4..][..front - HEADER_SIZE]);
                (kind, size)
            }
        };
        let end = front + inner_size;
        let length = ((end - HEADER_SIZE + TAG_SIZE) as u16).to_be_bytes();
        let header = [outer, 3, 3, length[0], length[1]];
        out[..HEADER_SIZE].copy_from_slice(&header);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let inner = &mut out[front..end];
        let sealed = match version {
            Version::Tls13 => key.seal_in_place_separate_tag(nonce, Aad::from(header), inner),
            Version::Tls12 => {
                let aad = aad_1_2(send.sequence, [kind, 3, 3], size);
                key.seal_in_place_separate_tag(nonce, Aad::from(aad), inner)
            }
        };
        let tag = sealed.expect("no record is longer than the AEAD takes");
        out[end..end + TAG_SIZE].copy_from_slice(tag.as_ref());
        send.sequence += 1;
        end + TAG_SIZE
    }

    #[cfg(test)]
    pub(crate) fn set_records_max(&mut self, records_max: u64) {
        self.records_max = records_max;
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Records");
        shown.field("keys", &self.keys).field("ending", &self.ending).finish_non_exhaustive()
    }
}

/// Additional data of TLS 1.2 (RFC 5246 §6.2.3.3).
pub(super) fn aad_1_2(sequence: u64, opening: [u8; 3], size: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&opening);
    aad[11..].copy_from_slice(&(size as u16).to_be_bytes());
    aad
}

const _: () = assert!(size_of::<Records>() <= 1024);
const _: () = assert!(RECORD_SIZE_MAX <= u16::MAX as usize);

// A record that came in pieces is put together in one spill buffer.
const _: () = assert!(RECORD_SIZE_MAX <= SPILL_SIZE);
