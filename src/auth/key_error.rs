//! Why a key file was refused.

use super::skipped::{SkipReason, SkippedKey};
use crate::constants::{KEY_BITS_MAX, KEY_BITS_MIN};
use std::fmt;

/// Why a key file was refused; each message says what to do. The `position` of a JWK counts from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Larger than any key file.
    TooLarge,
    /// Neither PEM nor a JSON object.
    Unrecognised,
    /// A private key instead of a public one, as PEM or as a JWK with private (or shared) members.
    Private,
    /// A public key instead of a private one.
    Public,
    /// A private key with a passphrase.
    Encrypted,
    /// A certificate.
    Certificate,
    /// A PEM block of another kind; its label.
    PemLabel(String),
    /// More than one PEM block; how many.
    PemCount(usize),
    /// A PEM block that does not decode, or holds no RSA key.
    PemContent,
    /// Not a JSON object, or one without `keys` or `kty`; the problem.
    Json(String),
    /// A member appears twice in one object of the file.
    DuplicateMember,
    /// A JWK with a member of a wrong type or value.
    Jwk {
        /// Position of the key in the file.
        position: usize,
        /// The problem.
        problem: &'static str,
    },
    /// A modulus whose length is not allowed, bits.
    Size(usize),
    /// Not an RSA key: an even modulus, or a public exponent that is even, below 3 or above 2^33.
    Numbers,
    /// A private key that ring cannot sign with.
    CannotSign,
    /// A JWKS without a usable key; the problem of each key.
    NoneUsable(Vec<SkippedKey>),
}

/// Most keys that one message explains.
const KEYS_SHOWN_MAX: usize = 4;

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::TooLarge => f.write_str(
                "the file is larger than any key file: give one PEM public key or a JWKS",
            ),
            KeyError::Unrecognised => {
                f.write_str("this is neither a PEM key nor a JWKS: give one of the two")
            }
            KeyError::Private => f.write_str(
                "this holds a private key, which a node must not have: give the public key \
                 (`openssl rsa -in private.pem -pubout`, or the public.pem that `exo-ingest \
                 keygen` wrote)",
            ),
            KeyError::Public => {
                f.write_str("this is a public key and cannot sign: give the private one")
            }
            KeyError::Encrypted => f.write_str(
                "the private key is encrypted: remove the passphrase with `openssl pkcs8 -in FILE \
                 -out private.pem`",
            ),
            KeyError::Certificate => f.write_str(
                "this is a certificate: extract its key with `openssl x509 -in FILE -noout \
                 -pubkey` and give the key",
            ),
            KeyError::PemLabel(label) => {
                write!(
                    f,
                    "the PEM block is labelled {label:?}: give an RSA key (PUBLIC KEY or RSA \
                     PUBLIC KEY for a node, "
                )?;
                f.write_str("PRIVATE KEY or RSA PRIVATE KEY for signing)")
            }
            KeyError::PemCount(count) => {
                write!(
                    f,
                    "the file holds {count} PEM blocks: leave exactly one key in it, or give \
                     several keys as a JWKS"
                )
            }
            KeyError::PemContent => {
                f.write_str("the PEM block does not decode to an RSA key: export the key again")
            }
            KeyError::Json(problem) => {
                write!(f, "this is not a JWKS ({problem}): give {{\"keys\":[…]}} or one JWK")
            }
            KeyError::DuplicateMember => {
                f.write_str("a JSON object has the same member twice: remove one of the two")
            }
            KeyError::Jwk { position, problem } => {
                write!(f, "key {position} of the JWKS: {problem}")
            }
            KeyError::Size(bits) => {
                write!(
                    f,
                    "the RSA key has {bits} bits: use one of {KEY_BITS_MIN} to {KEY_BITS_MAX} bits"
                )
            }
            KeyError::Numbers => f.write_str(
                "the modulus or exponent of the key is not valid for RSA: export the key again",
            ),
            KeyError::CannotSign => f.write_str(
                "this private key cannot sign RS256 here (its primes differ in size, its exponent \
                 is below 65537, or it is damaged): make another with `exo-ingest keygen`",
            ),
            KeyError::NoneUsable(keys) => {
                write!(
                    f,
                    "none of the {} keys in the JWKS can verify RS256: give one with kty RSA and \
                     {KEY_BITS_MIN} to {KEY_BITS_MAX} bits, where alg is RS256 or absent, use is \
                     sig or absent, and key_ops holds verify or is absent",
                    keys.len()
                )?;
                keys.iter().take(KEYS_SHOWN_MAX).try_for_each(|key| write!(f, "; {key}"))
            }
        }
    }
}

impl std::error::Error for KeyError {}

impl KeyError {
    /// What is wrong with the only key of a file; `None` where the key is for another use.
    pub(super) fn of_only(key: &SkippedKey) -> Option<KeyError> {
        match key.reason {
            SkipReason::Malformed(problem) => {
                Some(KeyError::Jwk { position: key.position, problem })
            }
            SkipReason::Size(bits) => Some(KeyError::Size(bits)),
            SkipReason::Numbers => Some(KeyError::Numbers),
            SkipReason::OtherUse | SkipReason::NoKid | SkipReason::KidTaken => None,
        }
    }
}
