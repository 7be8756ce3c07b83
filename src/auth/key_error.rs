//! Why a key file was refused.

use super::keys::{KEY_BITS_MAX, KEY_BITS_MIN};
use std::fmt;

/// Why a key file was refused; each message says what to do. A JWK's `position` counts from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Larger than any key file.
    TooLarge,
    /// Neither PEM nor a JSON object.
    Unrecognised,
    /// A private key where a public one belongs, as PEM or as a JWK with private (or shared) members.
    Private,
    /// A public key where a private one belongs.
    Public,
    /// A private key under a passphrase.
    Encrypted,
    /// A certificate.
    Certificate,
    /// A PEM block of another kind: its label.
    PemLabel(String),
    /// More than one PEM block: how many.
    PemCount(usize),
    /// A PEM block that does not decode, or holds no RSA key.
    PemContent,
    /// Not a JSON object, or none with `keys` or `kty`: what is wrong.
    Json(String),
    /// A member stands twice in one object of the file.
    DuplicateMember,
    /// A JWK with a member of a wrong type or value.
    Jwk {
        /// Which key of the file.
        position: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A modulus of a length that is not allowed, bits.
    Size(usize),
    /// No RSA key: an even modulus, or a public exponent that is even, below 3 or above 2^33.
    Numbers,
    /// A private key that ring does not sign with.
    CannotSign,
    /// No key in a JWKS may be used: how many there are.
    NoneUsable(usize),
    /// Two usable keys have this `kid`.
    DuplicateKid(String),
    /// One of several usable keys has no `kid`.
    MissingKid {
        /// Which key of the file.
        position: usize,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::TooLarge => f.write_str("the file is larger than any key file: give one PEM public key or a JWKS"),
            KeyError::Unrecognised => f.write_str("this is neither a PEM key nor a JWKS: give one of the two"),
            KeyError::Private => f.write_str(
                "this holds a private key and the node must not have it: give the public one \
                 (`openssl rsa -in private.pem -pubout`, or the public.pem that `exo-ingest keygen` wrote)",
            ),
            KeyError::Public => f.write_str("this is a public key and cannot sign: give the private one"),
            KeyError::Encrypted => f.write_str(
                "the private key is under a passphrase: take it off with `openssl pkcs8 -in FILE -out private.pem`",
            ),
            KeyError::Certificate => f.write_str(
                "this is a certificate: take the key out of it with `openssl x509 -in FILE -noout -pubkey` and give that",
            ),
            KeyError::PemLabel(label) => {
                write!(
                    f,
                    "the PEM block is labelled {label:?}: give an RSA key (PUBLIC KEY or RSA PUBLIC KEY for a node, "
                )?;
                f.write_str("PRIVATE KEY or RSA PRIVATE KEY for signing)")
            }
            KeyError::PemCount(count) => {
                write!(f, "the file holds {count} PEM blocks: leave exactly one key in it, or give several keys as a JWKS")
            }
            KeyError::PemContent => f.write_str("the PEM block does not decode to an RSA key: export the key again"),
            KeyError::Json(problem) => write!(f, "this is no JWKS ({problem}): give {{\"keys\":[…]}} or one JWK"),
            KeyError::DuplicateMember => f.write_str("a member stands twice in one JSON object: remove one of the two"),
            KeyError::Jwk { position, problem } => write!(f, "key {position} of the JWKS: {problem}"),
            KeyError::Size(bits) => {
                write!(f, "the RSA key has {bits} bits: use one of {KEY_BITS_MIN} to {KEY_BITS_MAX} bits")
            }
            KeyError::Numbers => {
                f.write_str("the key's modulus or exponent is not that of an RSA key: export the key again")
            }
            KeyError::CannotSign => f.write_str(
                "this private key cannot sign RS256 here (its primes differ in size, its exponent is below 65537, or it is \
                 damaged): make another with `exo-ingest keygen`",
            ),
            KeyError::NoneUsable(count) => write!(
                f,
                "none of the {count} keys in the JWKS may verify RS256: give one with kty RSA, alg RS256 (or none), \
                 use sig (or none) and verify among its key_ops (or none)"
            ),
            KeyError::DuplicateKid(kid) => {
                write!(f, "two keys of the JWKS have the kid {kid:?}: give each its own, so that tokens can name them")
            }
            KeyError::MissingKid { position } => {
                write!(f, "key {position} of the JWKS has no kid: where there are several keys each needs one")
            }
        }
    }
}

impl std::error::Error for KeyError {}
