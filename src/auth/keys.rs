//! The node's public keys, parsed once.
//!
//! One key serves every token, whatever `kid` says: the common case, where nobody sets it. Of several, `kid` chooses; it is
//! looked up in a map in memory and used for nothing else.

use super::key_error::KeyError;
use super::{jwks, pem, provider};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use std::collections::{HashMap, HashSet};

/// Smallest RSA modulus, bits: below it factoring is in reach (NIST SP 800-131A).
pub const KEY_BITS_MIN: usize = 2048;

/// Largest RSA modulus, bits: a signature of 8192 bits costs twelve times as much to verify and buys a flood of bad tokens.
pub const KEY_BITS_MAX: usize = 4096;

/// Largest PEM file, bytes. A key of [`KEY_BITS_MAX`] takes 800; the rest is room for comments.
const PEM_SIZE_MAX: usize = 8 * 1024;

/// Largest JWKS file, bytes: some hundred keys with long lists of tenants.
const JWKS_SIZE_MAX: usize = 1024 * 1024;

/// The public keys of the node, parsed once.
#[derive(Debug)]
pub struct KeySet {
    keys: Keys,
    skipped_count: usize,
}

#[derive(Debug)]
enum Keys {
    One(Key),
    Several(HashMap<Box<str>, Key>),
}

impl KeySet {
    /// From a file's text: a PEM with one RSA public key (SPKI or PKCS#1), a JWKS, or a single JWK.
    ///
    /// Keys of a JWKS that may not verify RS256 (another `kty`, `alg` or `use`, no `verify` in `key_ops`) are skipped; any
    /// other fault refuses the file as a whole.
    pub fn parse(text: &[u8]) -> Result<KeySet, KeyError> {
        provider::install_provider();
        if text.trim_ascii_start().starts_with(b"{") {
            if text.len() > JWKS_SIZE_MAX {
                return Err(KeyError::TooLarge);
            }
            let file = jwks::parse(text)?;
            return KeySet::from_keys(file.keys, file.skipped_count);
        }
        if text.len() > PEM_SIZE_MAX {
            return Err(KeyError::TooLarge);
        }
        if !pem::is_pem(text) {
            return Err(KeyError::Unrecognised);
        }
        Ok(KeySet { keys: Keys::One(Key::from_pem(text)?), skipped_count: 0 })
    }

    fn from_keys(mut keys: Vec<(usize, Key)>, skipped_count: usize) -> Result<KeySet, KeyError> {
        if keys.len() <= 1 {
            let (_, key) = keys.pop().ok_or(KeyError::NoneUsable(skipped_count))?;
            return Ok(KeySet { keys: Keys::One(key), skipped_count });
        }
        let mut by_kid = HashMap::with_capacity(keys.len());
        for (position, key) in keys {
            let kid = key.kid.clone().ok_or(KeyError::MissingKid { position })?;
            if by_kid.contains_key(&kid) {
                return Err(KeyError::DuplicateKid(kid.into()));
            }
            by_kid.insert(kid, key);
        }
        Ok(KeySet { keys: Keys::Several(by_kid), skipped_count })
    }

    /// The number of keys that tokens are verified with; at least 1.
    pub fn key_count(&self) -> usize {
        match &self.keys {
            Keys::One(_) => 1,
            Keys::Several(by_kid) => by_kid.len(),
        }
    }

    /// The number of keys of the file that may not verify RS256 and were left aside.
    pub fn skipped_count(&self) -> usize {
        self.skipped_count
    }

    /// The key for a token whose header names `kid`; `None` where there are several and it names none of them.
    pub(super) fn key(&self, kid: Option<&str>) -> Option<&Key> {
        match &self.keys {
            Keys::One(key) => Some(key),
            Keys::Several(by_kid) => by_kid.get(kid?),
        }
    }
}

/// One public key and what it may sign.
#[derive(Debug)]
pub(super) struct Key {
    /// Always modulus and exponent, without leading zeros: ring then has no DER to parse per token.
    pub(super) decoding: DecodingKey,
    kid: Option<Box<str>>,
    tenants: Option<HashSet<Box<str>>>,
}

impl Key {
    /// From what jsonwebtoken read. `tenants`: the only ones the key may sign for, where given.
    pub(super) fn new(
        decoding: &DecodingKey,
        kid: Option<Box<str>>,
        tenants: Option<HashSet<Box<str>>>,
    ) -> Result<Key, KeyError> {
        let (n, e) = match decoding.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
            DecodingKeyKind::SecretOrDer(der) => provider::public_components(der).map_err(|_| KeyError::PemContent)?,
        };
        let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));
        check_numbers(n, e)?;
        Ok(Key { decoding: DecodingKey::from_rsa_raw_components(n, e), kid, tenants })
    }

    fn from_pem(text: &[u8]) -> Result<Key, KeyError> {
        let labels = pem::labels(text);
        for label in &labels {
            match label {
                Some("PUBLIC KEY" | "RSA PUBLIC KEY") => {}
                Some(label) if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
                Some("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE") => return Err(KeyError::Certificate),
                Some(label) => return Err(KeyError::PemLabel(label.chars().take(64).collect())),
                None => return Err(KeyError::PemContent),
            }
        }
        if labels.len() != 1 {
            return Err(KeyError::PemCount(labels.len()));
        }
        let der = pem::rsa_public_key(text).ok_or(KeyError::PemContent)?;
        Key::new(&DecodingKey::from_rsa_der(&der), None, None)
    }

    /// Whether the key may sign for `tenant`.
    pub(super) fn allows(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }
}

/// RFC 7518 §6.3.1.1 forbids them in a JWK, some libraries write one; the number is the same, and ring wants none.
fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Refuses at load what ring would refuse at every token. `n` and `e` have no leading zeros.
fn check_numbers(n: &[u8], e: &[u8]) -> Result<(), KeyError> {
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) {
        return Err(KeyError::Size(bits));
    }
    // ring takes odd exponents from 3 to 2^33 - 1.
    let exponent = if e.len() <= 8 { e.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)) } else { u64::MAX };
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !is_odd(n) || !is_odd(e) || !(3..1 << 33).contains(&exponent) {
        return Err(KeyError::Numbers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_rsa_keys_only() {
        let mut n = vec![0xff; 256];
        assert_eq!(check_numbers(&n, &[1, 0, 1]), Ok(()));
        assert_eq!(check_numbers(&n, &[3]), Ok(()));
        assert_eq!(check_numbers(&n, &[1, 0xff, 0xff, 0xff, 0xff]), Ok(()));
        for e in [&[][..], &[1], &[2], &[4], &[2, 0, 0, 0, 1], &[1; 9], &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(check_numbers(&n, e), Err(KeyError::Numbers), "{e:?}");
        }
        n[255] = 0xfe;
        assert_eq!(check_numbers(&n, &[3]), Err(KeyError::Numbers));
        n[0] = 0x7f;
        assert_eq!(check_numbers(&n, &[3]), Err(KeyError::Size(2047)));
        assert_eq!(check_numbers(&[], &[3]), Err(KeyError::Size(0)));
        assert_eq!(check_numbers(&[0xff; 512], &[3]), Ok(()));
        assert_eq!(check_numbers(&[[1].as_slice(), &[0xff; 512]].concat(), &[3]), Err(KeyError::Size(4097)));
        assert_eq!(without_leading_zeros(&[0, 0, 1, 0]), [1, 0]);
        assert_eq!(without_leading_zeros(&[0, 0]), [0; 0]);
    }
}
