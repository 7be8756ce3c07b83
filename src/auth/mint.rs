//! Signs tokens: for `token mint`, `dev`, load and tests. A serving node never signs.

use super::key_error::KeyError;
use super::{pem, provider};
use crate::call::{CallIdentity, valid_id};
use crate::constants::{KEY_BITS_MAX, KEY_BITS_MIN, TOKEN_SIZE_MAX};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::fmt;

/// Largest private PEM file, bytes. A key of 4096 bits takes 3.3 KiB.
const PRIVATE_PEM_SIZE_MAX: usize = 16 * 1024;

/// A private key that signs tokens.
#[derive(Debug)]
pub struct Signer {
    key: EncodingKey,
}

/// Content of a token.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    /// `tenant_id` and `interaction_id`.
    pub identity: &'a CallIdentity,
    /// `iat`, seconds since 1970.
    pub issued_at: u64,
    /// `exp`, seconds since 1970.
    pub expires_at: u64,
    /// Name of the key, for nodes that have several.
    pub kid: Option<&'a str>,
}

/// Why a token was not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintError {
    /// The tenant is not a valid id.
    TenantId,
    /// The interaction is not a valid id.
    InteractionId,
    /// The token would be larger than nodes accept.
    TooLarge,
    /// The key did not sign.
    Signing,
}

impl Signer {
    /// From a private PEM: PKCS#8 `PRIVATE KEY` or PKCS#1 `RSA PRIVATE KEY`, 2048 to 4096 bits,
    /// without a passphrase.
    pub fn from_pem(text: &[u8]) -> Result<Signer, KeyError> {
        provider::install_provider();
        if text.len() > PRIVATE_PEM_SIZE_MAX {
            return Err(KeyError::TooLarge);
        }
        let labels = pem::labels(text);
        for label in &labels {
            match label {
                Some("PRIVATE KEY" | "RSA PRIVATE KEY") => {}
                Some("ENCRYPTED PRIVATE KEY") => return Err(KeyError::Encrypted),
                Some(label) if label.ends_with("PUBLIC KEY") => return Err(KeyError::Public),
                Some(label) => return Err(KeyError::PemLabel(label.chars().take(64).collect())),
                None => return Err(KeyError::PemContent),
            }
        }
        match labels.len() {
            0 => return Err(KeyError::Unrecognised),
            1 => {}
            count => return Err(KeyError::PemCount(count)),
        }
        if memchr::memmem::find(text, b"Proc-Type: 4,ENCRYPTED").is_some() {
            return Err(KeyError::Encrypted);
        }
        let key =
            EncodingKey::from_rsa_der(&pem::rsa_private_key(text).ok_or(KeyError::PemContent)?);
        let bits = provider::private_key_bits(key.as_bytes()).map_err(|_| KeyError::PemContent)?;
        if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) {
            return Err(KeyError::Size(bits));
        }
        // Signs once, to find out now, and not at the first token, whether ring accepts the key.
        jsonwebtoken::crypto::sign(b"", &key, Algorithm::RS256)
            .map_err(|_| KeyError::CannotSign)?;
        Ok(Signer { key })
    }

    /// Signs a token.
    pub fn mint(&self, grant: &Grant<'_>) -> Result<String, MintError> {
        if !valid_id(&grant.identity.tenant) {
            return Err(MintError::TenantId);
        }
        if !valid_id(&grant.identity.interaction) {
            return Err(MintError::InteractionId);
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid = grant.kid.map(str::to_owned);
        let claims = serde_json::json!({
            "tenant_id": grant.identity.tenant,
            "interaction_id": grant.identity.interaction,
            "iat": grant.issued_at,
            "exp": grant.expires_at,
        });
        let token =
            jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| MintError::Signing)?;
        if token.len() > TOKEN_SIZE_MAX {
            return Err(MintError::TooLarge);
        }
        Ok(token)
    }

    /// The public part as a JWK for a node's key file. `alg` is RS256, `use` is sig, `kid` is its
    /// thumbprint (RFC 7638).
    pub fn public_jwk(&self) -> Result<Jwk, MintError> {
        let mut jwk =
            Jwk::from_encoding_key(&self.key, Algorithm::RS256).map_err(|_| MintError::Signing)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_id =
            Some(jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| MintError::Signing)?);
        Ok(jwk)
    }
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MintError::TenantId => "the tenant must be 1 to 256 bytes without control characters",
            MintError::InteractionId => {
                "the interaction must be 1 to 256 bytes without control characters"
            }
            MintError::TooLarge => {
                "the token would be over 4 KiB, and every node would refuse it: use a shorter kid"
            }
            MintError::Signing => {
                "the key does not sign RS256: make another with `exo-ingest keygen`"
            }
        })
    }
}

impl std::error::Error for MintError {}
