//! JSON objects without ambiguity: a member that appears twice, at any depth, refuses the text.
//!
//! RFC 7515 §4 and RFC 7519 §4 let a parser refuse two equal names, or take the last one. Two
//! parsers that choose differently see two different tokens under one signature, so we refuse.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Why a text was refused.
#[derive(Debug)]
pub(super) enum JsonError {
    /// A member appears twice in one object.
    Duplicate,
    /// Not JSON, more than one value, or nested beyond serde_json's 128 levels.
    Syntax(serde_json::Error),
    /// JSON, but not an object.
    NotAnObject,
}

/// Parses `text`, which must be one JSON object and nothing else.
pub(super) fn parse_object(text: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let duplicate = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let parsed = Strict { duplicate: &duplicate }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match parsed {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(JsonError::NotAnObject),
        Err(_) if duplicate.get() => Err(JsonError::Duplicate),
        Err(error) => Err(JsonError::Syntax(error)),
    }
}

/// Builds a [`Value`], and stores why it failed, because a serde error carries only text.
#[derive(Clone, Copy)]
struct Strict<'a> {
    duplicate: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element_seed(self)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                self.duplicate.set(true);
                return Err(A::Error::custom("a member appears twice"));
            }
            let value = map.next_value_seed(self)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_objects_are_read_as_by_serde_json() {
        let text = br#" {"a": [1, -2, 2.5, "x\u00e9", null, true, {"b": {}}],
            "c": 18446744073709551615, "d": 1e300} "#;
        let expected: Value = serde_json::from_slice(text).expect("JSON");
        assert_eq!(Value::Object(parse_object(text).expect("an object")), expected);
    }

    #[test]
    fn duplicate_members_are_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"a":3}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[[{"a":1,"a":2}]]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(matches!(parse_object(text.as_bytes()), Err(JsonError::Duplicate)), "{text}");
        }
        assert!(parse_object(br#"{"a":{"a":1},"A":2}"#).is_ok());
    }

    #[test]
    fn texts_other_than_a_single_object_are_refused() {
        for text in ["[]", "1", "\"a\"", "null"] {
            assert!(matches!(parse_object(text.as_bytes()), Err(JsonError::NotAnObject)), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        for text in [
            "",
            "{",
            "{}{}",
            "{} x",
            "{'a':1}",
            r#"{"a":1,}"#,
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\ud800"}"#,
            &deep,
        ] {
            assert!(matches!(parse_object(text.as_bytes()), Err(JsonError::Syntax(_))), "{text}");
        }
        assert!(matches!(parse_object(b"{\"a\":\"\xff\"}"), Err(JsonError::Syntax(_))));
        assert!(matches!(parse_object(b"\xef\xbb\xbf{}"), Err(JsonError::Syntax(_))));
    }
}
