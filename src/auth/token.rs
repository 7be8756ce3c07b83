//! The form, key and signature of a token (RFC 7515, RFC 7519). The order makes a bad token cheap:
//! size, form and header are checked before any multiplication, and the signature before any claim
//! is read.

use super::claims::Claims;
use super::key::Key;
use super::keys::KeySet;
use super::provider;
use super::strict_json::{self, JsonError};
use super::token_error::TokenError;
use crate::clock::UnixMicros;
use crate::constants::TOKEN_SIZE_MAX;
use crate::declare::settings_struct;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use serde_json::{Map, Value};
use std::time::Duration;

/// The rows of [`TokenPolicy`], for the macro that is named first.
macro_rules! token_settings {
    ($macro:ident! $($head:tt)*) => {
        $macro! {
            $($head)*
            issuer: Option<String> = None;
            {
                "jwt.issuer" flag "jwt-issuer", TEXT,
                "Required `iss` of a token; unset: not checked"
            }
            audience: Option<String> = None;
            {
                "jwt.audience" flag "jwt-audience", TEXT,
                "Required value in the `aud` of a token; unset: not checked"
            }
            /// For `exp`, `nbf` and `iat`.
            leeway: Duration = Duration::from_secs(5);
            {
                "jwt.leeway" flag "jwt-leeway", DURATION_OR_ZERO,
                "Clock tolerance for the times in a token"
            }
        }
    };
}
pub(crate) use token_settings;

token_settings! { settings_struct!
    /// What a token must satisfy beyond the fixed checks.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct TokenPolicy;
}

/// Verifies tokens with a key set and a policy. All shards share it, and it is replaced as a whole.
#[derive(Debug)]
pub struct Verifier {
    keys: KeySet,
    policy: TokenPolicy,
}

impl Verifier {
    /// A verifier with `keys`.
    pub fn new(keys: KeySet, policy: TokenPolicy) -> Verifier {
        provider::install_provider();
        Verifier { keys, policy }
    }

    /// Checks everything: form, key, signature, claims, times.
    pub fn verify(&self, token: &str, now: UnixMicros) -> Result<Claims, TokenError> {
        let (key, payload) = self.check_signature(token)?;
        let claims = object(&payload, TokenError::Claims)?;
        let claims = Claims::check(&claims, &self.policy, now)?;
        if !key.tenants.allow(&claims.identity.tenant) {
            return Err(TokenError::TenantNotAllowed);
        }
        Ok(Claims { allowed_tenants: key.tenants.clone(), ..claims })
    }

    /// The key and the tenant that a token names, for the log. Neither is verified.
    pub(crate) fn claimed(token: &str) -> (Option<String>, Option<String>) {
        let Ok(parts) = Parts::split(token) else { return (None, None) };
        let named = |part: &str, name: &str| {
            let object = object(&decode(part).ok()?, TokenError::Claims).ok()?;
            object.get(name).and_then(Value::as_str).map(str::to_owned)
        };
        (named(parts.header, "kid"), named(parts.payload, "tenant_id"))
    }

    /// The keys that verify tokens.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// Checks form, key and signature, and returns the payload, whatever it is. A token that passes
    /// is signed, but not yet valid.
    pub fn verify_signature(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        self.check_signature(token).map(|(_, payload)| payload)
    }

    fn check_signature(&self, token: &str) -> Result<(&Key, Vec<u8>), TokenError> {
        let parts = Parts::split(token)?;
        let header = object(&decode(parts.header)?, TokenError::Header)?;
        let payload = decode(parts.payload)?;
        check_header(&header)?;
        let kid = optional_string(&header, "kid")?;
        let key = self.keys.key(kid).ok_or(TokenError::UnknownKey)?;
        match jsonwebtoken::crypto::verify(
            parts.signature,
            parts.signed.as_bytes(),
            &key.decoding,
            Algorithm::RS256,
        ) {
            Ok(true) => Ok((key, payload)),
            Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => Err(TokenError::Encoding),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }
}

/// The parts of a JWS in compact serialisation (RFC 7515 §7.1), still encoded.
#[derive(Debug)]
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// `header.payload`: what the signature covers.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_SIZE_MAX {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Parts)?;
        if payload.contains('.') {
            return Err(TokenError::Parts);
        }
        Ok(Parts { header, payload, signature, signed })
    }
}

/// Strict base64url: no padding, no white space, no bits set after the last byte.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Encoding)
}

fn object(text: &[u8], otherwise: TokenError) -> Result<Map<String, Value>, TokenError> {
    strict_json::parse_object(text).map_err(|error| match error {
        JsonError::Duplicate => TokenError::Duplicate,
        JsonError::Syntax(_) | JsonError::NotAnObject => otherwise,
    })
}

/// Refuses what a header must not say. `jwk`, `jku`, `x5u`, `x5c` and `x5t` are not even read: keys
/// come only from the key file.
fn check_header(header: &Map<String, Value>) -> Result<(), TokenError> {
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(TokenError::Algorithm);
    }
    // RFC 7515 §4.1.11: we know no extension that it could list, and an empty or malformed list is
    // invalid too.
    if header.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    match header.get("b64") {
        None | Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Err(TokenError::Critical),
        Some(_) => return Err(TokenError::Header),
    }
    optional_string(header, "typ")?;
    let content_type = optional_string(header, "cty")?.unwrap_or_default();
    if content_type.eq_ignore_ascii_case("JWT")
        || content_type.eq_ignore_ascii_case("application/jwt")
    {
        return Err(TokenError::Nested);
    }
    Ok(())
}

fn optional_string<'a>(
    header: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, TokenError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts() {
        let parts = Parts::split("aa.bb.cc").expect("three parts");
        assert_eq!(
            (parts.header, parts.payload, parts.signature, parts.signed),
            ("aa", "bb", "cc", "aa.bb")
        );
        let parts = Parts::split("..").expect("three empty parts");
        assert_eq!((parts.header, parts.payload, parts.signature, parts.signed), ("", "", "", "."));
        for token in ["", "a", "a.b", "a.b.c.", "a.b.c.d", ".a.b.c", "a.b.c.d.e", "...."] {
            assert_eq!(Parts::split(token).err(), Some(TokenError::Parts), "{token}");
        }
        assert!(Parts::split(&"x".repeat(TOKEN_SIZE_MAX)).err() == Some(TokenError::Parts));
        assert!(Parts::split(&"x".repeat(TOKEN_SIZE_MAX + 1)).err() == Some(TokenError::TooLarge));
    }

    #[test]
    fn base64url_has_one_spelling() {
        assert_eq!(decode("_-8"), Ok(vec![0xff, 0xef]));
        assert_eq!(decode(""), Ok(vec![]));
        for part in ["_-9", "_-8=", "_-8 ", " _-8", "_-8\n", "/+8", "a", "é"] {
            assert_eq!(decode(part), Err(TokenError::Encoding), "{part:?}");
        }
    }
}
