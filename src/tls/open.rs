//! Opens received records: whole ones in place, cut ones in a spill buffer. Nothing of a record is
//! passed on before its tag is verified.
#![forbid(unsafe_code)]

use super::alert::{ALERT_SIZE, Alert, WARNING};
use super::keys::{RecordKeys, Suite, Version};
use super::records::{
    EXPLICIT_NONCE_SIZE, HEADER_SIZE, KEY_UPDATE_SIZE, NOTHING, Opened, PAYLOAD_SIZE_MAX, Partial,
    Place, QUIET_RECORDS_MAX, Records, TAG_SIZE, aad_1_2, content, record_size,
};
use super::spill::SpillPool;
use crate::metrics::TlsFailure;
use ring::aead::{Aad, Nonce};
use std::ops::Range;

/// `HandshakeType` of a KeyUpdate.
const KEY_UPDATE: u8 = 24;

/// A KeyUpdate's header: its type and its length, one byte.
const KEY_UPDATE_HEADER: [u8; 4] = [KEY_UPDATE, 0, 0, 1];

impl Records {
    /// Opens the bytes of `chunk` from `at` on, up to the next payload; `None` when all are taken.
    /// A part of a record at the end is kept. `is_call`: a call is live here and is entitled to a
    /// spill buffer.
    ///
    /// After a failure, and after [`Opened::Closed`], everything is dropped.
    pub fn open(
        &mut self,
        chunk: &mut [u8],
        at: &mut usize,
        spills: &mut SpillPool,
        is_call: bool,
    ) -> Result<Option<Opened>, TlsFailure> {
        while *at < chunk.len() && !self.is_deaf {
            let opened = self.open_next(chunk, at, spills, is_call);
            match opened {
                Ok(None) => {}
                Ok(Some(Opened::Closed)) => {
                    self.give_up(spills);
                    return opened;
                }
                Ok(Some(Opened::Data(_))) => return opened,
                Err(failure) => {
                    self.give_up(spills);
                    self.fail(failure);
                    return Err(failure);
                }
            }
        }
        Ok(None)
    }

    /// Takes one record, or a part of one.
    fn open_next(
        &mut self,
        chunk: &mut [u8],
        at: &mut usize,
        spills: &mut SpillPool,
        is_call: bool,
    ) -> Result<Option<Opened>, TlsFailure> {
        if let Partial::Header(_, 0) = self.partial
            && chunk.len() - *at >= HEADER_SIZE
        {
            let size = self.check_header(&chunk[*at..])?;
            if let Some(record) = chunk.get_mut(*at..*at + size) {
                let start = *at;
                *at += size;
                let opened = self.open_record(record)?;
                return Ok(opened.map(|payload| {
                    Opened::at(payload, |Range { start: from, end: to }| {
                        Place::Chunk(start + from..start + to)
                    })
                }));
            }
        }
        self.gather(&chunk[..], at, spills, is_call)?;
        match std::mem::replace(&mut self.partial, NOTHING) {
            Partial::Body { spill, filled, size } if filled == size => {
                let opened = self.open_record(&mut spills.bytes(&spill)[..usize::from(size)]);
                match opened {
                    Ok(Some(Payload::Data(range))) => {
                        Ok(Some(Opened::Data(Place::Spill(spill, range))))
                    }
                    other => {
                        spills.release(spill);
                        Ok(other?.map(|_| Opened::Closed))
                    }
                }
            }
            partial => {
                self.partial = partial;
                Ok(None)
            }
        }
    }

    /// Takes more of a cut record, up to its end.
    fn gather(
        &mut self,
        chunk: &[u8],
        at: &mut usize,
        spills: &mut SpillPool,
        is_call: bool,
    ) -> Result<(), TlsFailure> {
        if let Partial::Header(header, have) = &mut self.partial {
            let wanted = HEADER_SIZE - usize::from(*have);
            let part = &chunk[*at..chunk.len().min(*at + wanted)];
            header[usize::from(*have)..][..part.len()].copy_from_slice(part);
            *at += part.len();
            *have += part.len() as u8;
            if usize::from(*have) < HEADER_SIZE {
                return Ok(());
            }
            let header = *header;
            let size = self.check_header(&header)? as u16;
            let spill = spills.acquire(is_call).ok_or(TlsFailure::NoSpillBuffer)?;
            spills.bytes(&spill)[..HEADER_SIZE].copy_from_slice(&header);
            self.partial = Partial::Body { spill, filled: HEADER_SIZE as u16, size };
        }
        if let Partial::Body { spill, filled, size } = &mut self.partial {
            let wanted = usize::from(*size - *filled);
            let part = &chunk[*at..chunk.len().min(*at + wanted)];
            spills.bytes(spill)[usize::from(*filled)..][..part.len()].copy_from_slice(part);
            *at += part.len();
            *filled += part.len() as u16;
        }
        Ok(())
    }

    /// Size of the record whose header `bytes` begin with.
    fn check_header(&self, bytes: &[u8]) -> Result<usize, TlsFailure> {
        // RFC 8446 §5: after the handshake everything is sealed, and the outer type says "data". A
        // late change_cipher_spec is refused like everything else.
        let is_known = match self.keys.version {
            Version::Tls13 => bytes[0] == content::DATA,
            Version::Tls12 => matches!(bytes[0], content::ALERT..=content::DATA),
        };
        if !is_known {
            return Err(TlsFailure::UnexpectedMessage);
        }
        record_size(bytes).ok_or(TlsFailure::RecordOverflow)
    }

    /// Opens a whole record in place, and handles the messages of the record layer itself.
    fn open_record(&mut self, record: &mut [u8]) -> Result<Option<Payload>, TlsFailure> {
        let (kind, range) = self.decrypt(record)?;
        if kind != content::HANDSHAKE && self.message_size > 0 {
            return Err(TlsFailure::UnexpectedMessage);
        }
        let payload = &record[range.clone()];
        match kind {
            content::DATA if !payload.is_empty() => {
                self.quiet = 0;
                return Ok(Some(Payload::Data(range)));
            }
            content::DATA => {}
            content::ALERT => {
                if self.handle_alert(payload)? {
                    return Ok(Some(Payload::Closed));
                }
            }
            content::HANDSHAKE => self.handle_handshake(payload)?,
            _ => return Err(TlsFailure::UnexpectedMessage),
        }
        self.quiet += 1;
        if self.quiet > QUIET_RECORDS_MAX {
            return Err(TlsFailure::UnexpectedMessage);
        }
        Ok(None)
    }

    /// Verifies and decrypts; returns the type of the content, and where it is.
    fn decrypt(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), TlsFailure> {
        let RecordKeys { version, suite, receive, .. } = &mut self.keys;
        let (header, body) = record.split_at_mut(HEADER_SIZE);
        let (kind, front) = (header[0], header_front(*version, *suite));
        let bad = TlsFailure::BadRecordMac;
        if body.len() < front + TAG_SIZE {
            return Err(bad);
        }
        let size = body.len() - front - TAG_SIZE;
        let (explicit, sealed) = body.split_at_mut(front);
        let nonce = match <[u8; EXPLICIT_NONCE_SIZE]>::try_from(&*explicit) {
            Ok(explicit) => receive.nonce_with(explicit),
            Err(_) => receive.nonce(),
        };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = match version {
            Version::Tls13 => self.opening.open_in_place(nonce, Aad::from(&*header), sealed),
            Version::Tls12 => {
                let aad = aad_1_2(receive.sequence, [kind, header[1], header[2]], size);
                self.opening.open_in_place(nonce, Aad::from(aad), sealed)
            }
        };
        let plain = opened.map_err(|_| bad)?;
        receive.sequence += 1;
        let (kind, size) = match version {
            Version::Tls12 => (kind, size),
            // RFC 8446 §5.4: the type is the last byte that is not padding. Padding counts: it does
            // not make a record longer than the limit.
            Version::Tls13 => {
                if plain.len() > PAYLOAD_SIZE_MAX + 1 {
                    return Err(TlsFailure::RecordOverflow);
                }
                let end = plain.iter().rposition(|byte| *byte != 0);
                let end = end.ok_or(TlsFailure::UnexpectedMessage)?;
                (plain[end], end)
            }
        };
        if size > PAYLOAD_SIZE_MAX {
            return Err(TlsFailure::RecordOverflow);
        }
        Ok((kind, HEADER_SIZE + front..HEADER_SIZE + front + size))
    }

    /// Returns whether the peer has closed its side.
    fn handle_alert(&self, payload: &[u8]) -> Result<bool, TlsFailure> {
        if payload.is_empty() {
            // RFC 8446 §5.4, RFC 5246 §6.2.1: only application data may be empty.
            return Err(TlsFailure::UnexpectedMessage);
        }
        let alert: [u8; ALERT_SIZE] = payload.try_into().map_err(|_| TlsFailure::DecodeError)?;
        let [level, description] = alert;
        if description == Alert::CloseNotify as u8 {
            return Ok(true);
        }
        let is_warning = match self.keys.version {
            // RFC 8446 §6: the level can be ignored.
            Version::Tls13 => description == Alert::UserCanceled as u8,
            Version::Tls12 => level == WARNING,
        };
        if is_warning { Ok(false) } else { Err(TlsFailure::PeerAlert) }
    }

    /// The only handshake message that may come now is a KeyUpdate. It may come in pieces. Nothing
    /// may follow it in its record, because that would be sealed with the wrong key (RFC 8446
    /// §5.1).
    fn handle_handshake(&mut self, payload: &[u8]) -> Result<(), TlsFailure> {
        if self.keys.version == Version::Tls12 {
            return Err(TlsFailure::Renegotiation);
        }
        if payload.is_empty() {
            return Err(TlsFailure::UnexpectedMessage);
        }
        let have = usize::from(self.message_size);
        let taken = payload.len().min(KEY_UPDATE_SIZE - have);
        self.message[have..have + taken].copy_from_slice(&payload[..taken]);
        self.message_size += taken as u8;
        let message = &self.message[..have + taken];
        if message[0] != KEY_UPDATE {
            return Err(TlsFailure::UnexpectedMessage);
        }
        // A wrong length is refused before its bytes have come.
        if message.len() >= KEY_UPDATE_HEADER.len() && !message.starts_with(&KEY_UPDATE_HEADER) {
            return Err(TlsFailure::DecodeError);
        }
        if taken < payload.len() {
            return Err(TlsFailure::UnexpectedMessage);
        }
        if message.len() < KEY_UPDATE_SIZE {
            return Ok(());
        }
        self.message_size = 0;
        let is_requested = match self.message[KEY_UPDATE_SIZE - 1] {
            0 => false,
            1 => true,
            _ => return Err(TlsFailure::IllegalParameter),
        };
        let RecordKeys { suite, receive, .. } = &mut self.keys;
        receive.update(*suite);
        self.opening = receive.expand(*suite);
        self.updates += 1;
        // Answered once, however often it was requested.
        self.update_due |= is_requested;
        Ok(())
    }
}

/// Bytes between the header of a received record and its ciphertext.
fn header_front(version: Version, suite: Suite) -> usize {
    match (version, suite) {
        (Version::Tls13, _) | (Version::Tls12, Suite::ChaCha20Poly1305) => 0,
        (Version::Tls12, _) => EXPLICIT_NONCE_SIZE,
    }
}

/// What a record contains for the caller.
enum Payload {
    Data(Range<usize>),
    Closed,
}

impl Opened {
    fn at(payload: Payload, place: impl FnOnce(Range<usize>) -> Place) -> Opened {
        match payload {
            Payload::Data(range) => Opened::Data(place(range)),
            Payload::Closed => Opened::Closed,
        }
    }
}
