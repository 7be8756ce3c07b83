//! A handshake by rustls. It gets whole records, one at a time, until the handshake is complete.
//! Then the keys are extracted and rustls is dropped.
#![forbid(unsafe_code)]

use super::alert::Alert;
use super::keys::{DirectionKeys, RecordKeys, Suite, Version};
use super::records::{HEADER_SIZE, RECORD_SIZE_MAX, Records, record_size};
use super::secrets::{TrafficSecrets, listen};
use crate::constants::{TLS_HANDSHAKE_SIZE_MAX, TLS_HANDSHAKE_STEP};
use crate::metrics::TlsFailure;
use rustls::pki_types::CertificateDer;
use rustls::{
    ConnectionTrafficSecrets, Error, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use std::sync::Arc;

/// The first byte of a TLS connection: a handshake record. No HTTP request starts with it.
pub(crate) const FIRST_BYTE: u8 = 0x16;

/// A handshake in progress.
#[derive(Default)]
pub struct Handshake {
    /// Received bytes that rustls has not got yet.
    input: Vec<u8>,
    /// Bytes given to rustls.
    taken: usize,
    /// Made with the first whole record, so a peer that sends half a hello costs only the bytes of
    /// it.
    server: Option<Box<ServerConnection>>,
    secrets: TrafficSecrets,
    /// Bytes to send.
    flight: Vec<u8>,
    /// A whole record is there, and the handshake waits for its turn.
    pub(crate) is_queued: bool,
}

/// Result of a step.
#[derive(Debug)]
pub enum Progress {
    /// More records must come.
    Incomplete,
    /// It is complete.
    Complete(Box<Handshaken>),
    /// It has failed. The flight tells the peer.
    Failed(TlsFailure),
}

/// A complete handshake.
#[derive(Debug)]
pub struct Handshaken {
    /// Opens and seals from now on. It holds the last flight.
    pub records: Box<Records>,
    /// Bytes received after the handshake: records that still have to be opened.
    pub(crate) rest: Vec<u8>,
    /// An earlier session was resumed.
    pub(crate) is_resumed: bool,
    /// The client's certificate, if it has shown one.
    pub(crate) client: Option<CertificateDer<'static>>,
}

impl Handshake {
    /// A handshake that is refused before it begins: the peer gets `flight`.
    pub(crate) fn refused(flight: &[u8]) -> Self {
        Handshake { flight: flight.to_vec(), ..Handshake::default() }
    }

    /// Takes bytes in; [`Handshake::step`] reads them.
    pub fn push(&mut self, bytes: &[u8]) {
        let needed = self.input.len() + bytes.len();
        if needed > self.input.capacity() {
            let capacity = needed.next_multiple_of(TLS_HANDSHAKE_STEP);
            self.input.reserve_exact(capacity - self.input.len());
        }
        self.input.extend_from_slice(bytes);
    }

    /// Whether [`Handshake::step`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.input.len() >= HEADER_SIZE
            && self.next_size(&self.input).map_or(true, |size| size <= self.input.len())
    }

    /// Returns the size of the record that `bytes` begin with. A record that makes the handshake
    /// too large is refused at its header: this bounds the bytes that wait in rustls and in
    /// `input` together.
    fn next_size(&self, bytes: &[u8]) -> Result<usize, TlsFailure> {
        let size = record_size(bytes).ok_or(TlsFailure::RecordOverflow)?;
        if self.taken + size > TLS_HANDSHAKE_SIZE_MAX {
            return Err(TlsFailure::HandshakeTooLarge);
        }
        Ok(size)
    }

    /// Whether it accepts more bytes. A whole record always fits.
    pub(crate) fn takes_bytes(&self) -> bool {
        self.input.len() < RECORD_SIZE_MAX
    }

    /// Whether the peer has begun a handshake that is worth finishing.
    pub(crate) fn has_begun(&self) -> bool {
        self.server.is_some()
    }

    /// Returns the bytes to send, if any.
    pub fn take_flight(&mut self) -> Option<Vec<u8>> {
        (!self.flight.is_empty()).then(|| std::mem::take(&mut self.flight))
    }

    /// Whether there are bytes to send.
    pub(crate) fn has_flight(&self) -> bool {
        !self.flight.is_empty()
    }

    /// Gives up: frees everything except what must still be sent.
    pub(crate) fn abandon(&mut self) {
        *self = Handshake { flight: std::mem::take(&mut self.flight), ..Handshake::default() };
    }

    /// Handles the whole records that have arrived. This is where signatures are made.
    pub fn step(&mut self, config: &Arc<ServerConfig>) -> Progress {
        let mut at = 0;
        let outcome = self.handle_records(config, &mut at);
        self.input.drain(..at);
        if self.input.is_empty() {
            // The next record may come much later.
            self.input = Vec::new();
        }
        match outcome {
            Ok(false) => Progress::Incomplete,
            Ok(true) => match self.complete() {
                Ok(handshaken) => Progress::Complete(Box::new(handshaken)),
                Err(failure) => self.fail(failure),
            },
            Err(failure) => self.fail(failure),
        }
    }

    fn fail(&mut self, failure: TlsFailure) -> Progress {
        // rustls writes the alert for what it detects itself. It has not seen this record.
        if failure == TlsFailure::RecordOverflow && !self.has_begun() {
            self.flight.extend_from_slice(&Alert::RecordOverflow.plain_record());
        }
        self.abandon();
        Progress::Failed(failure)
    }

    /// Whether the handshake is complete.
    fn handle_records(
        &mut self,
        config: &Arc<ServerConfig>,
        at: &mut usize,
    ) -> Result<bool, TlsFailure> {
        while self.input.len() - *at >= HEADER_SIZE {
            let size = self.next_size(&self.input[*at..])?;
            let Some(mut record) = self.input.get(*at..*at + size) else { break };
            *at += size;
            self.taken += size;
            let server = match &mut self.server {
                Some(server) => server,
                none => {
                    let server = ServerConnection::new(Arc::clone(config));
                    none.insert(Box::new(server.map_err(|_| TlsFailure::Internal)?))
                }
            };
            while !record.is_empty() {
                // rustls reads nothing when it is full or has seen `close_notify`.
                if !matches!(server.read_tls(&mut record), Ok(1..)) {
                    return Err(TlsFailure::BadHandshake);
                }
            }
            let outcome = listen(&mut self.secrets, || server.process_new_packets());
            while server.wants_write() {
                server.write_tls(&mut self.flight).map_err(|_| TlsFailure::Internal)?;
            }
            outcome.map_err(|error| classify(&error))?;
            if !server.is_handshaking() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Extracts the keys from a complete handshake.
    fn complete(&mut self) -> Result<Handshaken, TlsFailure> {
        let server = self.server.take().ok_or(TlsFailure::Internal)?;
        let is_resumed = server.handshake_kind() == Some(HandshakeKind::Resumed);
        let client = server.peer_certificates().and_then(|chain| chain.first()).cloned();
        let version = match server.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => return Err(TlsFailure::Internal),
        };
        // rustls refuses this unless the configuration allows it.
        let extracted = server.dangerous_extract_secrets().map_err(|_| TlsFailure::Internal)?;
        let TrafficSecrets { client: client_secret, server: server_secret } = self.secrets;
        let (suite, receive) = direction(client_secret.0, &extracted.rx)?;
        let (_, send) = direction(server_secret.0, &extracted.tx)?;
        let keys = RecordKeys { version, suite, receive, send };
        let flight = std::mem::take(&mut self.flight);
        let records = Box::new(Records::new(keys, flight));
        Ok(Handshaken { records, rest: std::mem::take(&mut self.input), is_resumed, client })
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").field("taken", &self.taken).finish_non_exhaustive()
    }
}

fn direction(
    secret: [u8; super::keys::SECRET_SIZE_MAX],
    (sequence, keys): &(u64, ConnectionTrafficSecrets),
) -> Result<(Suite, DirectionKeys), TlsFailure> {
    let (suite, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (Suite::ChaCha20Poly1305, key, iv)
        }
        _ => return Err(TlsFailure::Internal),
    };
    Ok((suite, DirectionKeys::new(secret, key.as_ref(), iv.as_ref(), *sequence)))
}

/// The counter for an error of rustls. The peer gets the matching alert.
fn classify(error: &Error) -> TlsFailure {
    match error {
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFailure::Incompatible,
        Error::InvalidCertificate(_)
        | Error::NoCertificatesPresented
        | Error::UnsupportedNameType
        | Error::InvalidCertRevocationList(_) => TlsFailure::ClientCertificate,
        Error::AlertReceived(_) => TlsFailure::PeerAlert,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord => TlsFailure::BadHandshake,
        _ => TlsFailure::Internal,
    }
}
