//! Why a TLS connection failed.
#![forbid(unsafe_code)]

use super::alert::Alert;

/// Why a TLS connection failed, for counters and for the alert to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// Version, cipher suite or ALPN: the two sides have none in common.
    Incompatible,
    /// The client's certificate is missing or not accepted.
    ClientCertificate,
    /// A handshake message is wrong.
    BadHandshake,
    /// The handshake is larger than that of any real client.
    HandshakeTooLarge,
    /// The handshake was not complete in time.
    HandshakeTimeout,
    /// The peer ended the connection during the handshake.
    HungUp,
    /// The peer sent a fatal alert.
    PeerAlert,
    /// The tag of a record is wrong.
    BadRecordMac,
    /// A record is too long.
    RecordOverflow,
    /// A message that is not allowed here, or too many that carry no data.
    UnexpectedMessage,
    /// A message that cannot be read.
    DecodeError,
    /// A field has an impossible value.
    IllegalParameter,
    /// The peer asked for renegotiation in TLS 1.2.
    Renegotiation,
    /// A record came in pieces while all spill buffers were in use.
    NoSpillBuffer,
    /// A TLS 1.2 connection has sent as many records as one key may seal.
    KeyExhausted,
    /// The TLS library failed for another reason.
    Internal,
}

impl TlsFailure {
    /// Number of variants.
    pub(crate) const COUNT: usize = 16;

    /// Index in arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The alert that the record layer sends. `None`: the peer has ended the connection, or rustls
    /// has already written the alert.
    pub(crate) const fn alert(self) -> Option<Alert> {
        match self {
            TlsFailure::BadRecordMac => Some(Alert::BadRecordMac),
            TlsFailure::RecordOverflow => Some(Alert::RecordOverflow),
            TlsFailure::UnexpectedMessage => Some(Alert::UnexpectedMessage),
            TlsFailure::DecodeError => Some(Alert::DecodeError),
            TlsFailure::IllegalParameter => Some(Alert::IllegalParameter),
            TlsFailure::Renegotiation => Some(Alert::HandshakeFailure),
            TlsFailure::NoSpillBuffer | TlsFailure::Internal => Some(Alert::InternalError),
            TlsFailure::KeyExhausted => Some(Alert::CloseNotify),
            TlsFailure::Incompatible
            | TlsFailure::ClientCertificate
            | TlsFailure::BadHandshake
            | TlsFailure::HandshakeTooLarge
            | TlsFailure::HandshakeTimeout
            | TlsFailure::HungUp
            | TlsFailure::PeerAlert => None,
        }
    }
}

const _: () = assert!(TlsFailure::Internal as usize + 1 == TlsFailure::COUNT);
