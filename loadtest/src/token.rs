//! Tokens for the calls: minted with a private key (RS256), or the claims of a given token.
//!
//! Nothing is verified here: the node does that. The text of a token is never printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use serde::{Deserialize, Serialize};

/// Mints tokens with one private key.
pub struct Signer {
    key: KeyPair,
    /// First part of every token, encoded, with the dot after it.
    header: String,
}

/// The claims of a minted token.
#[derive(Serialize)]
pub struct Grant<'a> {
    /// Tenant.
    pub tenant_id: &'a str,
    /// Call.
    pub interaction_id: &'a str,
    /// Issued at, Unix seconds.
    pub iat: u64,
    /// Expires at, Unix seconds.
    pub exp: u64,
}

/// The ids in a given token.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Tenant, where the token names one.
    pub tenant_id: Option<String>,
    /// Call, where the token names one.
    pub interaction_id: Option<String>,
}

/// Why there is no token.
#[derive(Debug)]
pub enum TokenError {
    /// The key file holds no usable private key.
    Key(String),
    /// The signature failed.
    Sign,
    /// The given token is not three base64url parts around a JSON object.
    Malformed,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(why) => {
                write!(
                    f,
                    "--key: no RSA private key in PEM form ({why}); make one with 'exo-ingest \
                     keygen --out DIR'"
                )
            }
            Self::Sign => {
                f.write_str("--key: signing a token failed; is the key at least 2048 bits long?")
            }
            Self::Malformed => f.write_str(
                "the token is not a JWT (three base64url parts with dots between); mint one with \
                 'exo-ingest token mint'",
            ),
        }
    }
}

impl std::error::Error for TokenError {}

impl Signer {
    /// Reads a private key in PKCS#8 or PKCS#1 PEM. `kid` goes into each token's header.
    pub fn from_pem(text: &str, kid: Option<&str>) -> Result<Self, TokenError> {
        let block = pem::parse(text).map_err(|error| TokenError::Key(error.to_string()))?;
        let key = match block.tag() {
            "PRIVATE KEY" => KeyPair::from_pkcs8(block.contents()),
            "RSA PRIVATE KEY" => KeyPair::from_der(block.contents()),
            tag => return Err(TokenError::Key(format!("it holds a {tag}"))),
        }
        .map_err(|error| TokenError::Key(error.to_string()))?;
        let mut header = serde_json::json!({"alg": "RS256", "typ": "JWT"});
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(header.to_string()));
        Ok(Self { key, header })
    }

    /// Mints one token: about a millisecond of CPU with a 2048-bit key.
    pub fn mint(&self, grant: &Grant<'_>) -> Result<String, TokenError> {
        let claims = serde_json::to_string(grant).map_err(|_| TokenError::Sign)?;
        let mut token = self.header.clone();
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| TokenError::Sign)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl Claims {
    /// Reads a token's ids without verifying it.
    pub fn of(token: &str) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use rsa::pkcs1::EncodeRsaPrivateKey;
    use rsa::pkcs8::{EncodePrivateKey, LineEnding};

    use super::*;

    #[test]
    fn minted_tokens_verify_and_read_back() {
        let key = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        let pkcs8 = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap();
        let grant = Grant {
            tenant_id: "t",
            interaction_id: "load-7",
            iat: 1_700_000_000,
            exp: 1_700_003_600,
        };
        for pem in [pkcs8.as_str(), pkcs1.as_str()] {
            let signer = Signer::from_pem(pem, Some("k1")).unwrap();
            let token = signer.mint(&grant).unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let public =
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, signer.key.public().as_ref());
            public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
            let header = URL_SAFE_NO_PAD.decode(signed.split('.').next().unwrap()).unwrap();
            let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
            assert_eq!(header, serde_json::json!({"alg": "RS256", "kid": "k1", "typ": "JWT"}));
            let claims = Claims::of(&token).unwrap();
            assert_eq!(claims.tenant_id.as_deref(), Some("t"));
            assert_eq!(claims.interaction_id.as_deref(), Some("load-7"));
        }
    }

    #[test]
    fn bad_keys_and_tokens_are_named() {
        assert!(Signer::from_pem("nonsense", None).is_err());
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let error = Signer::from_pem(public, None).err().unwrap().to_string();
        assert!(error.contains("PUBLIC KEY") && error.contains("keygen"), "{error}");
        for token in ["", "abc", "a.b", "a.!!.c", "a.e30.c.d"] {
            assert!(Claims::of(token).is_err(), "{token}");
        }
        assert_eq!(Claims::of("a.e30.c").unwrap(), Claims::default());
    }
}
