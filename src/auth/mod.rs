//! Tokens and the keys they are verified with. Stands alone: no IO, no clock, no session.
//!
//! SKELETON: signatures fixed, bodies to be written.

use crate::call::CallIdentity;
use crate::clock::UnixMicros;
use std::time::Duration;

/// The public keys of the node, parsed once.
#[derive(Debug)]
pub struct KeySet {
    _private: (),
}

/// Why a key file was refused.
#[derive(Debug)]
pub struct KeyError;

impl KeySet {
    /// From a file's text: a PEM (SPKI or PKCS#1) with one key, or a JWKS.
    pub fn parse(_text: &[u8]) -> Result<KeySet, KeyError> {
        todo!()
    }
}

/// What is demanded of a token beyond the protocol page's fixed list.
#[derive(Clone, Debug)]
pub struct TokenPolicy {
    /// `iss` must be this, where set.
    pub issuer: Option<String>,
    /// `aud` must be or hold this, where set.
    pub audience: Option<String>,
    /// Tolerance for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
}

/// Verifies tokens: a key set and a policy. Shared by all shards, swapped whole.
#[derive(Debug)]
pub struct Verifier {
    _private: (),
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `tenant_id` and `interaction_id`.
    pub identity: CallIdentity,
    /// `iat`, seconds since 1970, rounded down.
    pub issued_at: u64,
    /// `exp`, seconds since 1970, rounded down.
    pub expires_at: u64,
}

/// Why a token was refused: a label for a counter, never for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Over 4 KiB.
    TooLarge,
}

impl Verifier {
    /// A verifier over `keys`.
    pub fn new(_keys: KeySet, _policy: TokenPolicy) -> Verifier {
        todo!()
    }

    /// Checks everything: form, key, signature, claims, times.
    pub fn verify(&self, _token: &str, _now: UnixMicros) -> Result<Claims, TokenError> {
        todo!()
    }
}
