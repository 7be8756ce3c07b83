//! What can be wrong in the claims of a token: names, dates, issuer, audience, tenants.

use super::{HEADER, NOW, Pair, Table, claims, good};
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use serde_json::{Value, json};
use std::time::Duration;

pub fn identities(table: &mut Table, ours: &Pair, verifier: &Verifier) {
    for name in ["tenant_id", "interaction_id"] {
        for value in [
            json!("a"),
            json!("call/1"),
            json!("Zürich ☎"),
            json!("x".repeat(256)),
            json!("é".repeat(128)),
        ] {
            let shown = value.to_string().chars().take(16).collect::<String>();
            table.check(
                format!("{name} {shown}"),
                verifier,
                &ours.sign(HEADER, &claims(json!({name: value}))),
                "good",
            );
        }
        let mut bad =
            vec![json!(7), json!(["acme"]), json!({"id": "acme"}), json!(true), json!("")];
        bad.extend([json!("x".repeat(257)), json!("é".repeat(129))]);
        bad.extend(["a\nb", "a\0", "\u{7f}", "\u{85}", "\u{1b}[2J"].map(|text| json!(text)));
        for value in bad {
            let shown = value.to_string().chars().take(16).collect::<String>();
            table.check(
                format!("{name} {shown}"),
                verifier,
                &ours.sign(HEADER, &claims(json!({name: value}))),
                name_of(name),
            );
        }
        table.check(
            format!("no {name}"),
            verifier,
            &ours.sign(HEADER, &claims(json!({name: null}))),
            name_of(name),
        );
        let null = good().replace(&format!("\"{name}\":"), &format!("\"{name}\":null,\"x\":"));
        table.check(format!("{name} null"), verifier, &ours.sign(HEADER, &null), name_of(name));
        let twice = good().replacen('{', &format!("{{\"{name}\":\"other\","), 1);
        table.check(
            format!("{name} twice"),
            verifier,
            &ours.sign(HEADER, &twice),
            "duplicate_member",
        );
    }
    let payloads =
        ["", "null", "[]", "1", "\"text\"", "{", "{}{}", "not JSON", "{\"tenant_id\":\"\\ud800\"}"];
    for payload in payloads {
        table.check(format!("claims {payload:?}"), verifier, &ours.sign(HEADER, payload), "claims");
    }
    table.check("claims {}", verifier, &ours.sign(HEADER, "{}"), "tenant_id");
    let nested = good().replacen('{', "{\"x\":{\"y\":1,\"y\":1},", 1);
    table.check(
        "claims with a nested twin",
        verifier,
        &ours.sign(HEADER, &nested),
        "duplicate_member",
    );
    let inner = ours.sign(HEADER, &good());
    table.check("a token in a token", verifier, &ours.sign(HEADER, &inner), "claims");
}

/// The label is the claim's name.
fn name_of(name: &str) -> &'static str {
    ["tenant_id", "interaction_id", "iat", "exp", "nbf"]
        .into_iter()
        .find(|label| *label == name)
        .expect("a claim")
}

pub fn dates(table: &mut Table, ours: &Pair, verifier: &Verifier) {
    for name in ["iat", "exp", "nbf"] {
        let mut bad =
            vec![json!(NOW.to_string()), json!(true), json!([NOW]), json!({"s": NOW}), json!("")];
        bad.extend([json!(-1), json!(-0.5), json!(i64::MIN), json!(f64::MIN)]);
        for value in bad {
            let token = ours.sign(HEADER, &claims(json!({name: value})));
            table.check(format!("{name} {value:.24}"), verifier, &token, name_of(name));
        }
        for (raw, expected) in
            [("null", name_of(name)), ("1e999", "claims"), ("-1e999", "claims"), ("NaN", "claims")]
        {
            let payload =
                claims(json!({name: null})).replacen('{', &format!("{{\"{name}\":{raw},"), 1);
            table.check(format!("{name} {raw}"), verifier, &ours.sign(HEADER, &payload), expected);
        }
        for raw in ["Infinity", "0x10", "01", "1_000", "+1", ".5", "1."] {
            let payload =
                claims(json!({name: null})).replacen('{', &format!("{{\"{name}\":{raw},"), 1);
            table.check(format!("{name} {raw}"), verifier, &ours.sign(HEADER, &payload), "claims");
        }
        let twice = claims(json!({name: NOW})).replacen('{', &format!("{{\"{name}\":{NOW},"), 1);
        table.check(
            format!("{name} twice"),
            verifier,
            &ours.sign(HEADER, &twice),
            "duplicate_member",
        );
    }
    let mut check = |changes: Value, expected| {
        table.check(
            format!("{changes:.44}"),
            verifier,
            &ours.sign(HEADER, &claims(changes.clone())),
            expected,
        );
    };
    check(json!({"iat": null}), "iat");
    check(json!({"exp": null}), "exp");
    check(json!({"nbf": NOW}), "good");
    check(json!({"iat": 0, "nbf": 0}), "good");
    check(json!({"iat": -0.0}), "good");
    check(json!({"exp": 0}), "expired");
    for huge in [json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(f64::MAX), json!(NOW * 1000)]
    {
        check(json!({"exp": huge}), "good");
        check(json!({"iat": huge}), "issued_in_future");
        check(json!({"nbf": huge}), "not_yet_valid");
    }
}

pub fn clocks(table: &mut Table, ours: &Pair) {
    let strict = ours.verifier(TokenPolicy { leeway: Duration::ZERO, ..TokenPolicy::default() });
    let lenient = ours.verifier(TokenPolicy::default());
    let mut check = |verifier: &Verifier, leeway: u64, changes: Value, expected| {
        let name = format!("leeway {leeway} s, now {NOW}: {changes}");
        table.check(name, verifier, &ours.sign(HEADER, &claims(changes)), expected);
    };
    check(&strict, 0, json!({"exp": NOW}), "expired");
    check(&strict, 0, json!({"exp": NOW + 1}), "good");
    check(&strict, 0, json!({"exp": NOW as f64 + 0.25}), "good");
    check(&strict, 0, json!({"exp": NOW as f64 - 0.25}), "expired");
    check(&strict, 0, json!({"nbf": NOW}), "good");
    check(&strict, 0, json!({"nbf": NOW + 1}), "not_yet_valid");
    check(&strict, 0, json!({"nbf": NOW as f64 + 0.25}), "not_yet_valid");
    check(&strict, 0, json!({"iat": NOW}), "good");
    check(&strict, 0, json!({"iat": NOW + 1}), "issued_in_future");
    check(&lenient, 5, json!({"exp": NOW - 4}), "good");
    check(&lenient, 5, json!({"exp": NOW as f64 - 4.75}), "good");
    check(&lenient, 5, json!({"exp": NOW - 5}), "expired");
    check(&lenient, 5, json!({"exp": NOW - 6}), "expired");
    check(&lenient, 5, json!({"nbf": NOW + 5}), "good");
    check(&lenient, 5, json!({"nbf": NOW as f64 + 5.25}), "not_yet_valid");
    check(&lenient, 5, json!({"nbf": NOW + 6}), "not_yet_valid");
    check(&lenient, 5, json!({"iat": NOW + 5}), "good");
    check(&lenient, 5, json!({"iat": NOW + 6}), "issued_in_future");
    check(&lenient, 5, json!({"iat": NOW + 3, "exp": NOW - 3}), "good");
}

pub fn policies(table: &mut Table, ours: &Pair, any: &Verifier) {
    let issuer =
        ours.verifier(TokenPolicy { issuer: Some("us".to_owned()), ..TokenPolicy::default() });
    let audience = ours
        .verifier(TokenPolicy { audience: Some("ingest".to_owned()), ..TokenPolicy::default() });
    for (value, expected) in [
        (json!("us"), "good"),
        (json!("US"), "issuer"),
        (json!("us "), "issuer"),
        (json!("them"), "issuer"),
        (json!(["us"]), "issuer"),
        (json!(1), "issuer"),
        (json!(null), "issuer"),
    ] {
        let token = ours.sign(HEADER, &claims(json!({"iss": value})));
        table.check(format!("iss {value}, demanded us"), &issuer, &token, expected);
        table.check(format!("iss {value}, none demanded"), any, &token, "good");
    }
    for (value, expected) in [
        (json!("ingest"), "good"),
        (json!(["other", "ingest"]), "good"),
        (json!(["ingest", 1]), "audience"),
        (json!([["ingest"]]), "audience"),
        (json!([]), "audience"),
        (json!(["ingest2"]), "audience"),
        (json!("other"), "audience"),
        (json!({"ingest": 1}), "audience"),
        (json!(null), "audience"),
    ] {
        let token = ours.sign(HEADER, &claims(json!({"aud": value})));
        table.check(format!("aud {value}, demanded ingest"), &audience, &token, expected);
        table.check(format!("aud {value}, none demanded"), any, &token, "good");
    }
}

pub fn tenants(table: &mut Table, ours: &Pair) {
    let jwk = ours.jwk_with(json!({"tenants": ["acme", "acme-2"]}));
    let verifier = Verifier::new(
        KeySet::parse(jwk.to_string().as_bytes()).expect("a key"),
        TokenPolicy::default(),
    );
    for (tenant, expected) in [
        ("acme", "good"),
        ("acme-2", "good"),
        ("acme-3", "tenant_not_allowed"),
        ("Acme", "tenant_not_allowed"),
        ("acme ", "tenant_not_allowed"),
        ("*", "tenant_not_allowed"),
    ] {
        let token = ours.sign(HEADER, &claims(json!({"tenant_id": tenant})));
        table.check(
            format!("tenant {tenant:?}, key for acme, acme-2"),
            &verifier,
            &token,
            expected,
        );
    }
}
