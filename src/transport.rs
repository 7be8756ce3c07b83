//! Between socket bytes and protocol bytes: nothing for a plain connection, TLS for the others.
#![forbid(unsafe_code)]

use crate::auth::ClientName;
use crate::tls::{Handshake, Records};

/// How the bytes of a connection are wrapped.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Not wrapped.
    Plain,
    /// The port speaks TLS, and the first byte will show whether the peer does.
    Undecided,
    /// In TLS; the handshake is in progress or has failed.
    Handshake(Box<Handshake>),
    /// In TLS records.
    Records(Box<Records>),
}

impl Transport {
    /// The name of the peer, if a certificate says it.
    pub(crate) fn client(&self) -> Option<&ClientName> {
        match self {
            Transport::Records(records) => records.client.as_deref(),
            Transport::Plain | Transport::Undecided | Transport::Handshake(_) => None,
        }
    }

    /// Whether protocol bytes can be sent.
    pub(crate) fn takes_payload(&self) -> bool {
        match self {
            Transport::Plain => true,
            Transport::Undecided | Transport::Handshake(_) => false,
            Transport::Records(records) => records.takes_payload(),
        }
    }

    /// Whether the TLS layer itself has something to send.
    pub(crate) fn has_output(&self) -> bool {
        match self {
            Transport::Plain | Transport::Undecided => false,
            Transport::Handshake(handshake) => handshake.has_flight(),
            Transport::Records(records) => records.has_output(),
        }
    }

    /// Whether it accepts more bytes.
    pub(crate) fn takes_bytes(&self) -> bool {
        match self {
            Transport::Handshake(handshake) => handshake.takes_bytes(),
            Transport::Plain | Transport::Undecided | Transport::Records(_) => true,
        }
    }

    /// A handshake waits for its turn here: the timeout of the peer does not run.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self, Transport::Handshake(handshake) if handshake.is_queued)
    }

    /// Bytes that were accepted but not passed on: they come out with the next bytes.
    pub(crate) fn waiting_size(&self) -> usize {
        match self {
            Transport::Records(records) => records.waiting_size(),
            Transport::Plain | Transport::Undecided | Transport::Handshake(_) => 0,
        }
    }

    /// Returns handshake messages that must be sent unchanged, before everything else.
    pub(crate) fn take_flight(&mut self) -> Option<Vec<u8>> {
        match self {
            Transport::Plain | Transport::Undecided => None,
            Transport::Handshake(handshake) => handshake.take_flight(),
            Transport::Records(records) => records.take_flight(),
        }
    }

    /// Ends our side; returns whether there is something to send for it.
    pub(crate) fn close(&mut self) -> bool {
        match self {
            Transport::Records(records) => records.close(),
            Transport::Plain | Transport::Undecided | Transport::Handshake(_) => false,
        }
    }
}
