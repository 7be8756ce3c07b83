//! Keys of a JWKS that a node does not use, and why.

use crate::constants::{KEY_BITS_MAX, KEY_BITS_MIN};
use std::fmt;

/// Longest part of a `kid` that is shown.
const KID_SHOWN_MAX: usize = 64;

/// A key of a JWKS that verifies no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its position in the file, from 1.
    pub position: usize,
    /// Its `kid`, if that is a string.
    pub(crate) kid: Option<Box<str>>,
    /// Why it is not used.
    pub(crate) reason: SkipReason,
}

/// Why a key is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// It is for another use than verifying RS256.
    OtherUse,
    /// A member is absent or wrong; the problem.
    Malformed(&'static str),
    /// A modulus whose length is not allowed, bits.
    Size(usize),
    /// Not an RSA key: an even modulus, or a public exponent that is even, below 3 or above 2^33.
    Numbers,
    /// It has no `kid`, and there are other keys.
    NoKid,
    /// An earlier key has the same `kid`.
    KidTaken,
}

impl SkippedKey {
    /// Whether the key has a fault. A key for another use has none.
    pub fn is_faulty(&self) -> bool {
        self.reason != SkipReason::OtherUse
    }
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} of the JWKS", self.position)?;
        if let Some(kid) = &self.kid {
            write!(f, " (kid {:?})", kid.chars().take(KID_SHOWN_MAX).collect::<String>())?;
        }
        f.write_str(" is not used: ")?;
        match self.reason {
            SkipReason::OtherUse => {
                f.write_str("its kty, alg, use or key_ops does not allow it to verify RS256")
            }
            SkipReason::Malformed(problem) => f.write_str(problem),
            SkipReason::Size(bits) => {
                write!(f, "it has {bits} bits, and not {KEY_BITS_MIN} to {KEY_BITS_MAX}")
            }
            SkipReason::Numbers => f.write_str("its n or e is not valid for RSA"),
            SkipReason::NoKid => {
                f.write_str("it has no kid, and each key needs one where there are several")
            }
            SkipReason::KidTaken => f.write_str("an earlier key has the same kid"),
        }
    }
}
