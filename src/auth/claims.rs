//! The claims of a valid token, and the checks that make it valid.

use super::TokenPolicy;
use super::key::AllowedTenants;
use super::token_error::TokenError;
use crate::call::{CallIdentity, valid_id};
use crate::clock::UnixMicros;
use serde_json::{Map, Number, Value};

/// Last second of the year 9999. A later date counts as this one, so arithmetic on claims cannot
/// overflow.
const SECONDS_MAX: u64 = 253_402_300_799;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// The claims of a valid token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `tenant_id` and `interaction_id`.
    pub identity: CallIdentity,
    /// `iat`, seconds since 1970, rounded down; at most the end of the year 9999.
    pub issued_at: u64,
    /// `exp`, seconds since 1970, rounded down; at most the end of the year 9999.
    pub expires_at: u64,
    /// The tenants that the token's key may sign for. A `start` may name no other tenant, whatever
    /// else it is compared with.
    pub allowed_tenants: AllowedTenants,
}

impl Claims {
    /// Checks the claims of a token with a valid signature.
    pub(super) fn check(
        claims: &Map<String, Value>,
        policy: &TokenPolicy,
        now: UnixMicros,
    ) -> Result<Claims, TokenError> {
        let tenant = id(claims.get("tenant_id")).ok_or(TokenError::TenantId)?;
        let interaction = id(claims.get("interaction_id")).ok_or(TokenError::InteractionId)?;
        let issued_at = date(claims.get("iat")).ok_or(TokenError::IssuedAt)?;
        let expires_at = date(claims.get("exp")).ok_or(TokenError::ExpiresAt)?;
        let not_before = match claims.get("nbf") {
            Some(value) => date(Some(value)).ok_or(TokenError::NotBefore)?,
            None => UnixMicros(0),
        };

        let leeway = u64::try_from(policy.leeway.as_micros()).unwrap_or(u64::MAX);
        let latest = now.0.saturating_add(leeway);
        // RFC 7519 §4.1.4: at the moment `exp` the token is no longer valid.
        if expires_at.0.saturating_add(leeway) <= now.0 {
            return Err(TokenError::Expired);
        }
        if not_before.0 > latest {
            return Err(TokenError::NotYetValid);
        }
        if issued_at.0 > latest {
            return Err(TokenError::IssuedInFuture);
        }
        if policy.issuer.as_deref().is_some_and(|issuer| !is(claims.get("iss"), issuer)) {
            return Err(TokenError::Issuer);
        }
        if policy
            .audience
            .as_deref()
            .is_some_and(|audience| !is_or_holds(claims.get("aud"), audience))
        {
            return Err(TokenError::Audience);
        }
        Ok(Claims {
            identity: CallIdentity { tenant: tenant.into(), interaction: interaction.into() },
            issued_at: issued_at.as_secs(),
            expires_at: expires_at.as_secs(),
            allowed_tenants: AllowedTenants::default(),
        })
    }
}

fn id(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|id| valid_id(id))
}

/// A NumericDate (RFC 7519 §2): seconds, possibly with a fraction. `None`: absent, not a number, or
/// negative.
fn date(value: Option<&Value>) -> Option<UnixMicros> {
    let Some(Value::Number(number)) = value else {
        return None;
    };
    match number.as_u64() {
        Some(seconds) => Some(UnixMicros(seconds.min(SECONDS_MAX) * MICROS_PER_SECOND)),
        None => fractional_date(number),
    }
}

fn fractional_date(number: &Number) -> Option<UnixMicros> {
    let seconds = number.as_f64().filter(|seconds| *seconds >= 0.0)?;
    // Rounded, not cut: 0.29 s times a million is 289,999.99…; the cast cannot saturate.
    Some(UnixMicros((seconds.min(SECONDS_MAX as f64) * MICROS_PER_SECOND as f64).round() as u64))
}

fn is(value: Option<&Value>, demanded: &str) -> bool {
    value.and_then(Value::as_str) == Some(demanded)
}

/// `aud` is a string or an array of strings (RFC 7519 §4.1.3).
fn is_or_holds(value: Option<&Value>, demanded: &str) -> bool {
    match value {
        Some(Value::Array(elements)) => {
            elements.iter().all(Value::is_string)
                && elements.iter().any(|element| is(Some(element), demanded))
        }
        value => is(value, demanded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dates_are_numbers_from_zero() {
        let micros = |value: Value| date(Some(&value)).map(|date| date.0);
        assert_eq!(micros(json!(0)), Some(0));
        assert_eq!(micros(json!(1_700_000_000)), Some(1_700_000_000_000_000));
        assert_eq!(micros(json!(1_700_000_000.25)), Some(1_700_000_000_250_000));
        assert_eq!(micros(json!(0.29)), Some(290_000));
        assert_eq!(micros(json!(-0.0)), Some(0));
        for huge in
            [json!(SECONDS_MAX), json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(f64::MAX)]
        {
            assert_eq!(micros(huge), Some(SECONDS_MAX * MICROS_PER_SECOND));
        }
        for other in [
            json!(-1),
            json!(-0.5),
            json!(i64::MIN),
            json!("1"),
            json!(null),
            json!([1]),
            json!({}),
            json!(true),
        ] {
            assert_eq!(micros(other.clone()), None, "{other}");
        }
        assert_eq!(date(None), None);
    }

    #[test]
    fn the_largest_leeway_does_not_overflow() {
        let claims = json!({
            "tenant_id": "t", "interaction_id": "i", "iat": u64::MAX, "exp": 0, "nbf": 1e300
        });
        let policy = TokenPolicy { leeway: std::time::Duration::MAX, ..TokenPolicy::default() };
        let checked =
            Claims::check(claims.as_object().expect("an object"), &policy, UnixMicros(u64::MAX));
        // exp + leeway saturates at the present moment, so the token has expired.
        assert_eq!(checked, Err(TokenError::Expired));
        let checked = Claims::check(
            claims.as_object().expect("an object"),
            &policy,
            UnixMicros(u64::MAX - 1),
        );
        assert_eq!(checked.map(|claims| claims.issued_at), Ok(SECONDS_MAX));
    }
}
