//! JWK and JWK Set files (RFC 7517), as far as they can hold keys for RS256.

use super::key::{AllowedTenants, Key};
use super::key_error::KeyError;
use super::skipped::{SkipReason, SkippedKey};
use super::strict_json::{self, JsonError};
use crate::call::valid_id;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{CommonParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Members that only private and shared keys have (RFC 7518 §6.2.2, §6.3.2, §6.4).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Content of a file.
pub(super) struct Jwks {
    /// Keys that may verify RS256, with their position in the file from 1.
    pub(super) keys: Vec<(usize, Key)>,
    /// The others.
    pub(super) skipped: Vec<SkippedKey>,
}

/// Parses `{"keys":[…]}` or a single JWK.
///
/// RFC 7517 §5: skip keys that are unknown, lack a member, or have one out of range. An issuer
/// publishes keys for other uses too, and such a key must not make ours unusable. Private key
/// material refuses the file, because it must not be here at all.
pub(super) fn parse(text: &[u8]) -> Result<Jwks, KeyError> {
    let mut file = strict_json::parse_object(text).map_err(|error| match error {
        JsonError::Duplicate => KeyError::DuplicateMember,
        // The message of serde_json says where and what kind; it repeats nothing of the text.
        JsonError::Syntax(error) => KeyError::Json(error.to_string()),
        JsonError::NotAnObject => KeyError::Json("it is not an object".to_owned()),
    })?;
    let entries = match file.remove("keys") {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(KeyError::Json("keys is not an array".to_owned())),
        None if file.contains_key("kty") => vec![Value::Object(std::mem::take(&mut file))],
        None => return Err(KeyError::Json("it has neither keys nor kty".to_owned())),
    };
    if has_secret(&file) || entries.iter().any(|entry| entry.as_object().is_some_and(has_secret)) {
        return Err(KeyError::Private);
    }
    let mut jwks = Jwks { keys: Vec::new(), skipped: Vec::new() };
    for (index, entry) in entries.into_iter().enumerate() {
        let position = index + 1;
        let kid = entry["kid"].as_str().map(Box::from);
        match parse_key(entry) {
            Ok(key) => jwks.keys.push((position, key)),
            Err(reason) => jwks.skipped.push(SkippedKey { position, kid, reason }),
        }
    }
    Ok(jwks)
}

fn has_secret(members: &Map<String, Value>) -> bool {
    SECRET_MEMBERS.iter().any(|&name| members.contains_key(name))
}

fn parse_key(entry: Value) -> Result<Key, SkipReason> {
    let Value::Object(mut members) = entry else {
        return Err(SkipReason::Malformed("it is not an object"));
    };
    match members.get("kty") {
        Some(Value::String(kty)) if kty == "RSA" => {}
        Some(Value::String(_)) => return Err(SkipReason::OtherUse),
        _ => return Err(SkipReason::Malformed("its kty is absent or not a string")),
    }
    let tenants = members.remove("tenants");
    let jwk: Jwk = serde_json::from_value(Value::Object(members))
        .map_err(|_| SkipReason::Malformed("a member is absent or has the wrong type"))?;
    if !may_verify(&jwk.common) {
        return Err(SkipReason::OtherUse);
    }
    let tenants = tenants
        .map(|value| parse_tenants(value).ok_or(SkipReason::Malformed(TENANTS_PROBLEM)))
        .transpose()?
        .map_or_else(AllowedTenants::default, AllowedTenants::only);
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| {
        SkipReason::Malformed("its n or e is absent or not base64url without padding")
    })?;
    Key::new(&decoding, jwk.common.key_id.map(String::into_boxed_str), tenants).map_err(|error| {
        match error {
            KeyError::Size(bits) => SkipReason::Size(bits),
            _ => SkipReason::Numbers,
        }
    })
}

fn may_verify(common: &CommonParameters) -> bool {
    common.key_algorithm.is_none_or(|algorithm| algorithm == KeyAlgorithm::RS256)
        && common.public_key_use.as_ref().is_none_or(|key_use| *key_use == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

const TENANTS_PROBLEM: &str =
    "its tenants is not a list of tenant ids: name at least one, or leave it out to allow all";

fn parse_tenants(value: Value) -> Option<HashSet<Box<str>>> {
    let Value::Array(elements) = value else {
        return None;
    };
    let tenants = elements.into_iter().map(|element| match element {
        Value::String(tenant) if valid_id(&tenant) => Some(tenant.into_boxed_str()),
        _ => None,
    });
    tenants.collect::<Option<HashSet<_>>>().filter(|tenants| !tenants.is_empty())
}
