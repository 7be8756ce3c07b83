//! One public key, checked when it is read, and the tenants that it may sign for.

use super::key_error::KeyError;
use super::{pem, provider};
use crate::constants::{KEY_BITS_MAX, KEY_BITS_MIN};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use std::collections::HashSet;
use std::sync::Arc;

/// One public key and what it may sign.
#[derive(Debug)]
pub(super) struct Key {
    /// Always modulus and exponent, without leading zeros. So ring has no DER to parse for each
    /// token.
    pub(super) decoding: DecodingKey,
    pub(super) kid: Option<Box<str>>,
    /// The tenants that the key may sign for.
    pub(super) tenants: AllowedTenants,
}

/// The tenants that a key may sign for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedTenants {
    /// `None`: all of them. Shared by the key's sessions.
    only: Option<Arc<HashSet<Box<str>>>>,
}

impl AllowedTenants {
    /// Only these.
    pub(crate) fn only(tenants: HashSet<Box<str>>) -> AllowedTenants {
        AllowedTenants { only: Some(Arc::new(tenants)) }
    }

    /// Those that are also in `others`.
    pub(crate) fn within(&self, others: &HashSet<Box<str>>) -> AllowedTenants {
        AllowedTenants::only(others.iter().filter(|tenant| self.allow(tenant)).cloned().collect())
    }

    /// Whether `tenant` is among them.
    pub fn allow(&self, tenant: &str) -> bool {
        self.only.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }
}

impl Key {
    /// From the key that jsonwebtoken read.
    pub(super) fn new(
        decoding: &DecodingKey,
        kid: Option<Box<str>>,
        tenants: AllowedTenants,
    ) -> Result<Key, KeyError> {
        let (n, e) = match decoding.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
            DecodingKeyKind::SecretOrDer(der) => {
                provider::public_components(der).map_err(|_| KeyError::PemContent)?
            }
        };
        let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));
        check_numbers(n, e)?;
        Ok(Key { decoding: DecodingKey::from_rsa_raw_components(n, e), kid, tenants })
    }

    pub(super) fn from_pem(text: &[u8]) -> Result<Key, KeyError> {
        let labels = pem::labels(text);
        for label in &labels {
            match label {
                Some("PUBLIC KEY" | "RSA PUBLIC KEY") => {}
                Some(label) if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
                Some("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE") => {
                    return Err(KeyError::Certificate);
                }
                Some(label) => return Err(KeyError::PemLabel(label.chars().take(64).collect())),
                None => return Err(KeyError::PemContent),
            }
        }
        if labels.len() != 1 {
            return Err(KeyError::PemCount(labels.len()));
        }
        let der = pem::rsa_public_key(text).ok_or(KeyError::PemContent)?;
        Key::new(&DecodingKey::from_rsa_der(&der), None, AllowedTenants::default())
    }
}

/// RFC 7518 §6.3.1.1 forbids leading zeros in a JWK, but some libraries write one. The number is
/// the same, and ring accepts none.
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
    // ring accepts odd exponents from 3 to 2^33 - 1.
    let exponent = if e.len() <= 8 {
        e.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    } else {
        u64::MAX
    };
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
    fn only_numbers_of_rsa_keys_are_accepted() {
        let mut n = vec![0xff; 256];
        assert_eq!(check_numbers(&n, &[1, 0, 1]), Ok(()));
        assert_eq!(check_numbers(&n, &[3]), Ok(()));
        assert_eq!(check_numbers(&n, &[1, 0xff, 0xff, 0xff, 0xff]), Ok(()));
        for e in [
            &[][..],
            &[1],
            &[2],
            &[4],
            &[2, 0, 0, 0, 1],
            &[1; 9],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            assert_eq!(check_numbers(&n, e), Err(KeyError::Numbers), "{e:?}");
        }
        n[255] = 0xfe;
        assert_eq!(check_numbers(&n, &[3]), Err(KeyError::Numbers));
        n[0] = 0x7f;
        assert_eq!(check_numbers(&n, &[3]), Err(KeyError::Size(2047)));
        assert_eq!(check_numbers(&[], &[3]), Err(KeyError::Size(0)));
        assert_eq!(check_numbers(&[0xff; 512], &[3]), Ok(()));
        assert_eq!(
            check_numbers(&[[1].as_slice(), &[0xff; 512]].concat(), &[3]),
            Err(KeyError::Size(4097))
        );
        assert_eq!(without_leading_zeros(&[0, 0, 1, 0]), [1, 0]);
        assert_eq!(without_leading_zeros(&[0, 0]), [0; 0]);
    }
}
