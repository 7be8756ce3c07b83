//! The node's public keys, parsed once.
//!
//! A single key serves every token, whatever its `kid`: the common case, in which no `kid` is set.
//! With several keys, `kid` selects one. It is looked up in a map in memory and used for nothing
//! else.

use super::key::Key;
use super::key_error::KeyError;
use super::skipped::{SkipReason, SkippedKey};
use super::{jwks, pem, provider};
use std::collections::HashMap;

/// Largest PEM file, bytes. A key of [`KEY_BITS_MAX`](crate::constants::KEY_BITS_MAX) takes 800;
/// the rest is room for comments.
const PEM_SIZE_MAX: usize = 8 * 1024;

/// Largest JWKS file, bytes: some hundred keys with long lists of tenants.
const JWKS_SIZE_MAX: usize = 1024 * 1024;

/// The public keys of the node, parsed once.
#[derive(Debug)]
pub struct KeySet {
    keys: Keys,
    skipped: Vec<SkippedKey>,
}

#[derive(Debug)]
enum Keys {
    One(Key),
    Several(HashMap<Box<str>, Key>),
}

impl KeySet {
    /// From the text of a file: a PEM with one RSA public key (SPKI or PKCS#1), a JWKS, or a single
    /// JWK.
    ///
    /// Unusable keys of a JWKS are skipped: those for another use (another `kty`, `alg` or `use`,
    /// no `verify` in `key_ops`), and those with a fault. The file is refused if no key is left, or
    /// if one is private.
    pub fn parse(text: &[u8]) -> Result<KeySet, KeyError> {
        provider::install_provider();
        // An editor may write a byte order mark at the start.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if text.trim_ascii_start().starts_with(b"{") {
            if text.len() > JWKS_SIZE_MAX {
                return Err(KeyError::TooLarge);
            }
            let file = jwks::parse(text)?;
            return KeySet::from_keys(file.keys, file.skipped);
        }
        if text.len() > PEM_SIZE_MAX {
            return Err(KeyError::TooLarge);
        }
        if !pem::is_pem(text) {
            return Err(KeyError::Unrecognised);
        }
        Ok(KeySet { keys: Keys::One(Key::from_pem(text)?), skipped: Vec::new() })
    }

    fn from_keys(
        mut keys: Vec<(usize, Key)>,
        mut skipped: Vec<SkippedKey>,
    ) -> Result<KeySet, KeyError> {
        if keys.len() == 1
            && let Some((_, key)) = keys.pop()
        {
            return Ok(KeySet { keys: Keys::One(key), skipped });
        }
        let mut by_kid = HashMap::with_capacity(keys.len());
        for (position, key) in keys {
            let kid = key.kid.clone();
            let reason = match &kid {
                None => SkipReason::NoKid,
                Some(kid) if by_kid.contains_key(kid) => SkipReason::KidTaken,
                Some(kid) => {
                    by_kid.insert(kid.clone(), key);
                    continue;
                }
            };
            skipped.push(SkippedKey { position, kid, reason });
        }
        if !by_kid.is_empty() {
            skipped.sort_unstable_by_key(|key| key.position);
            return Ok(KeySet { keys: Keys::Several(by_kid), skipped });
        }
        // If there is one key, its own fault says most.
        let only = if skipped.len() == 1 { KeyError::of_only(&skipped[0]) } else { None };
        Err(only.unwrap_or(KeyError::NoneUsable(skipped)))
    }

    /// Number of keys that verify tokens; at least 1.
    pub fn key_count(&self) -> usize {
        match &self.keys {
            Keys::One(_) => 1,
            Keys::Several(by_kid) => by_kid.len(),
        }
    }

    /// The keys of the file that verify no token.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// The key for a token whose header names `kid`; `None` if there are several keys and it names
    /// none of them.
    pub(super) fn key(&self, kid: Option<&str>) -> Option<&Key> {
        match &self.keys {
            Keys::One(key) => Some(key),
            Keys::Several(by_kid) => by_kid.get(kid?),
        }
    }
}
