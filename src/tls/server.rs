//! What the node needs in a rustls configuration, whatever its certificates are.
#![forbid(unsafe_code)]

use super::secrets::SecretSlot;
use rustls::ServerConfig;
use std::sync::Arc;

/// A client gets one ticket with each handshake, also with a resumed one, so it needs no second.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// Completes a configuration with what the record layer relies on. A node with an incomplete
/// configuration refuses every handshake.
pub fn complete(mut config: ServerConfig) -> ServerConfig {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretSlot);
    // A client that offers protocols, but not this one, cannot talk to us.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Early data can be replayed, and a `start` must not be.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    // No tickets if sessions are not resumed.
    config.send_tls13_tickets = config.send_tls13_tickets.min(TICKETS_PER_HANDSHAKE);
    config
}
