//! Alerts (RFC 8446 §6): the message at the end of a TLS connection, normal or not.
#![forbid(unsafe_code)]

use crate::metrics::TlsFailure;

/// Size of an alert message.
pub(crate) const ALERT_SIZE: usize = 2;

/// Level of an alert that does not end the connection by itself. TLS 1.3 ignores levels.
pub(crate) const WARNING: u8 = 1;

const FATAL: u8 = 2;

/// The alerts that this node sends or understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alert {
    /// The sender sends no more.
    CloseNotify = 0,
    /// A message that is not allowed here.
    UnexpectedMessage = 10,
    /// A record whose tag is wrong.
    BadRecordMac = 20,
    /// A record that is too long.
    RecordOverflow = 22,
    /// Renegotiation is refused.
    HandshakeFailure = 40,
    /// A field has an impossible value.
    IllegalParameter = 47,
    /// A message that cannot be read.
    DecodeError = 50,
    /// The node lacks a resource.
    InternalError = 80,
    /// The sender gives up for its own reasons; `close_notify` follows.
    UserCanceled = 90,
}

impl Alert {
    /// The alert that the record layer sends after a failure. `None`: the peer has ended the
    /// connection, or rustls has already written the alert.
    pub(crate) const fn after(failure: TlsFailure) -> Option<Alert> {
        match failure {
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

    /// The message inside a record.
    pub(crate) const fn message(self) -> [u8; ALERT_SIZE] {
        match self {
            Alert::CloseNotify | Alert::UserCanceled => [WARNING, self as u8],
            _ => [FATAL, self as u8],
        }
    }

    /// A whole record, for a peer that has no keys yet.
    pub(crate) const fn plain_record(self) -> [u8; 7] {
        let [level, description] = self.message();
        [21, 3, 3, 0, ALERT_SIZE as u8, level, description]
    }
}
