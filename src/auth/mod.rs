//! Tokens and the keys they are verified with. Stands alone: no IO, no clock, no session.
//!
//! ```text
//! key file ──KeySet::parse──► KeySet ──┐
//!                                      ├──Verifier::new──► Verifier ──verify(token, now)──► Claims
//! configuration ─────► TokenPolicy ────┘                                     └────────────► TokenError
//! ```
//!
//! A [`Verifier`] is made once and shared by all shards; new keys make a new one, which is swapped in whole. What a token
//! says is never used before its signature holds, but for `alg` and `kid`, which choose how to check it. Nothing in a token
//! makes us open or fetch anything.

#![forbid(unsafe_code)]

mod claims;
mod jwks;
mod key_error;
mod keys;
mod mint;
mod pem;
mod provider;
mod strict_json;
mod token;
mod token_error;

pub use claims::Claims;
pub use key_error::KeyError;
pub use keys::{KEY_BITS_MAX, KEY_BITS_MIN, KeySet};
pub use mint::{Grant, MintError, Signer};
pub use provider::install_provider;
pub use token::{TokenPolicy, Verifier};
pub use token_error::TokenError;
