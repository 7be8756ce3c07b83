//! TLS on the data path: rustls does the handshake, and our record layer does everything after it.
//!
//! ```text
//!  ClientHello … Finished ─► handshake (rustls) ─secrets─► records ──► plaintext, in place
//!                                   │                       │  ▲ open: received records
//!                                   └── flights, tickets    │  └ seal: records that we send
//!                                                           └ spill: records in pieces
//! ```
//! rustls is used for the handshake only: its buffered connection copies each byte twice more, and
//! the next version drops its unbuffered one. The record layer needs one AEAD operation of `ring`
//! per record, in the receive buffer. Its state for a connection is plain bytes
//! ([`keys::RecordKeys`]), which another process could take over.
//!
//! How configurations are made:
//!
//! ```text
//!  files ──control──► texts ──load──► ServerConfig ──mailbox──► shards
//!                               ├ identity, certificate     a chain and its key
//!                               ├ by_name                   SNI picks one
//!                               ├ tickets                   resumes sessions
//!                               └ client_auth               mTLS: names of the client
//! ```
//! This module reads no file and no clock, and does no IO. No other module knows rustls.
#![forbid(unsafe_code)]

pub(crate) mod alert;
pub(crate) mod by_name;
pub(crate) mod certificate;
pub mod client_auth;
pub(crate) mod handshake;
pub mod identity;
pub mod keys;
pub mod load;
mod open;
pub mod records;
pub(crate) mod secrets;
pub(crate) mod server;
pub(crate) mod spill;
pub(crate) mod tickets;

#[cfg(test)]
pub(crate) mod tests;

/// Makes ring the cryptography of clients that do not choose one themselves, as that of object
/// stores. A second call changes nothing.
pub(crate) fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub use crate::metrics::TlsFailure;
pub use handshake::{Handshake, Handshaken, Progress};
pub use records::{Opened, Place, Records};
pub use rustls::ServerConfig;
pub use server::complete;
pub use spill::SpillPool;
