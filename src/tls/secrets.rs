//! Traffic secrets of TLS 1.3, taken from rustls through its key log. KeyUpdate needs them.
//!
//! rustls returns keys at the end of a handshake, but no secrets. It passes them to a key log while
//! it handles a message, on the calling thread. A slot of that thread receives them, and they go
//! nowhere else.
#![forbid(unsafe_code)]

use super::keys::SECRET_SIZE_MAX;
use rustls::KeyLog;
use std::cell::RefCell;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The first application traffic secrets of both sides; zeros until they are known.
#[derive(Clone, Copy, Default)]
pub(crate) struct TrafficSecrets {
    /// The client seals with this one.
    pub(crate) client: Secret,
    /// The server seals with this one.
    pub(crate) server: Secret,
}

/// A secret, padded with zeros.
#[derive(Clone, Copy)]
pub(crate) struct Secret(pub [u8; SECRET_SIZE_MAX]);

impl Default for Secret {
    fn default() -> Self {
        Secret([0; SECRET_SIZE_MAX])
    }
}

thread_local! {
    static HEARD: RefCell<TrafficSecrets> = RefCell::default();
}

/// The value for [`rustls::ServerConfig::key_log`].
#[derive(Debug)]
pub(crate) struct SecretSlot;

impl KeyLog for SecretSlot {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| {
            let slot = match label {
                CLIENT => &mut heard.client,
                SERVER => &mut heard.server,
                _ => return,
            };
            if let Some(place) = slot.0.get_mut(..secret.len()) {
                place.copy_from_slice(secret);
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

/// Calls `f`, in which rustls may log secrets, and adds them to `secrets`.
pub(crate) fn listen<T>(secrets: &mut TrafficSecrets, f: impl FnOnce() -> T) -> T {
    HEARD.with_borrow_mut(|heard| *heard = *secrets);
    let outcome = f();
    HEARD.with_borrow_mut(|heard| *secrets = std::mem::take(heard));
    outcome
}
