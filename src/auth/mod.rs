//! Tokens, and the keys that verify them. Independent of the rest: no IO, no clock, no session.
//!
//! ```text
//! key file ──KeySet::parse──► KeySet ─┐
//!                                     ├─Verifier::new─► Verifier ─verify(token, now)─► Claims
//! configuration ─────► TokenPolicy ───┘                                    └─────────► TokenError
//! ```
//!
//! A [`Verifier`] is made once, and all shards share it. New keys make a new verifier, which
//! replaces the old one as a whole. No claim is used before the signature is verified; only `alg`
//! and `kid` are, to choose how to verify. Nothing in a token can make us open or fetch anything.

#![forbid(unsafe_code)]

mod claims;
mod client;
mod jwks;
mod key;
mod key_error;
mod keys;
mod mint;
mod pem;
mod provider;
mod skipped;
mod strict_json;
mod token;
mod token_error;

pub use claims::Claims;
pub use client::{ClientName, ClientTenant};
pub(crate) use key::AllowedTenants;
pub use key_error::KeyError;
pub use keys::KeySet;
pub use mint::{Grant, MintError, Signer};
pub use provider::install_provider;
pub use skipped::{SkipReason, SkippedKey};
pub(crate) use token::token_settings;
pub use token::{TokenPolicy, Verifier};
pub use token_error::TokenError;
