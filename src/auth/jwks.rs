//! JWK and JWK Set files (RFC 7517) as far as they can hold keys for RS256.

use super::key_error::KeyError;
use super::keys::Key;
use super::strict_json::{self, JsonError};
use crate::call::valid_id;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{CommonParameters, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Members that only private and shared keys have (RFC 7518 §6.2.2, §6.3.2, §6.4).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What a file holds.
pub(super) struct Jwks {
    /// Keys that may verify RS256, with their position in the file from 1.
    pub(super) keys: Vec<(usize, Key)>,
    /// How many others there are.
    pub(super) skipped_count: usize,
}

/// Parses `{"keys":[…]}` or a single JWK.
pub(super) fn parse(text: &[u8]) -> Result<Jwks, KeyError> {
    let mut file = strict_json::parse_object(text).map_err(|error| match error {
        JsonError::Duplicate => KeyError::DuplicateMember,
        // serde_json's message says where and what kind, and repeats nothing of the text.
        JsonError::Syntax(error) => KeyError::Json(error.to_string()),
        JsonError::NotAnObject => KeyError::Json("it is not an object".to_owned()),
    })?;
    let entries = match file.remove("keys") {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(KeyError::Json("keys is not an array".to_owned())),
        None if file.contains_key("kty") => vec![Value::Object(file)],
        None => return Err(KeyError::Json("it has neither keys nor kty".to_owned())),
    };
    let mut jwks = Jwks { keys: Vec::new(), skipped_count: 0 };
    for (index, entry) in entries.into_iter().enumerate() {
        let position = index + 1;
        let Value::Object(members) = entry else {
            return Err(KeyError::Jwk { position, problem: "it is not an object" });
        };
        match parse_key(members, position)? {
            Some(key) => jwks.keys.push((position, key)),
            None => jwks.skipped_count += 1,
        }
    }
    Ok(jwks)
}

/// `None`: a key for something else.
fn parse_key(mut members: Map<String, Value>, position: usize) -> Result<Option<Key>, KeyError> {
    let wrong = |problem| KeyError::Jwk { position, problem };
    if SECRET_MEMBERS.iter().any(|&name| members.contains_key(name)) {
        return Err(KeyError::Private);
    }
    match members.get("kty") {
        Some(Value::String(kty)) if kty == "RSA" => {}
        Some(Value::String(_)) => return Ok(None),
        _ => return Err(wrong("its kty is absent or not a string")),
    }
    let tenants = members.remove("tenants");
    let jwk: Jwk = serde_json::from_value(Value::Object(members)).map_err(|_| wrong("a member has the wrong type"))?;
    if !may_verify(&jwk.common) {
        return Ok(None);
    }
    let tenants = tenants.map(|value| parse_tenants(value).ok_or_else(|| wrong(TENANTS_PROBLEM))).transpose()?;
    let decoding =
        DecodingKey::from_jwk(&jwk).map_err(|_| wrong("its n or e is absent or not base64url without padding"))?;
    Key::new(&decoding, jwk.common.key_id.map(String::into_boxed_str), tenants).map(Some)
}

fn may_verify(common: &CommonParameters) -> bool {
    common.key_algorithm.is_none_or(|algorithm| algorithm == KeyAlgorithm::RS256)
        && common.public_key_use.as_ref().is_none_or(|key_use| *key_use == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

const TENANTS_PROBLEM: &str = "its tenants is not a list of tenant ids: name at least one, or leave it out to allow all";

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
