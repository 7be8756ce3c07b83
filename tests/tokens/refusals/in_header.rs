//! What can be wrong in the header of a token: algorithm, keys, key id, other members.

use super::{HEADER, Pair, Table, encode, good};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RsaEncoding,
};
use serde_json::{Value, json};
use std::net::TcpListener;

pub fn algorithms(table: &mut Table, ours: &Pair, verifier: &Verifier) {
    let header = |alg: &str| json!({"alg": alg, "typ": "JWT"}).to_string();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = format!("{}.{}.", encode(header(alg)), encode(good()));
        table.check(format!("alg {alg:?}, no signature"), verifier, &unsigned, "algorithm");
        table.check(
            format!("alg {alg:?}, a good RS256 signature"),
            verifier,
            &ours.sign(&header(alg), &good()),
            "algorithm",
        );
    }
    let message = format!("{}.{}", encode(header("HS256")), encode(good()));
    let der: String = ours.public_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let secrets = [
        ("PEM", ours.public_pem.clone().into_bytes()),
        ("DER", STANDARD.decode(der).expect("base64")),
        ("nothing", vec![]),
    ];
    for (name, secret) in secrets {
        let tag = ring::hmac::sign(
            &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret),
            message.as_bytes(),
        );
        table.check(
            format!("HS256 with the public {name}"),
            verifier,
            &format!("{message}.{}", encode(tag)),
            "algorithm",
        );
        let message = format!("{}.{}", encode(HEADER), encode(good()));
        let tag = ring::hmac::sign(
            &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret),
            message.as_bytes(),
        );
        table.check(
            format!("said RS256, is HS256 with {name}"),
            verifier,
            &format!("{message}.{}", encode(tag)),
            "signature",
        );
    }
    let paddings: [(&str, &'static dyn RsaEncoding); 3] =
        [("PS256", &RSA_PSS_SHA256), ("RS384", &RSA_PKCS1_SHA384), ("RS512", &RSA_PKCS1_SHA512)];
    for (alg, padding) in paddings {
        table.check(alg, verifier, &ours.sign_with(padding, &header(alg), &good()), "algorithm");
        table.check(
            format!("said RS256, is {alg}"),
            verifier,
            &ours.sign_with(padding, HEADER, &good()),
            "signature",
        );
    }
    let rng = SystemRandom::new();
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("an EC key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng)
        .expect("an EC key");
    let message = format!("{}.{}", encode(header("ES256")), encode(good()));
    let signature = pair.sign(&rng, message.as_bytes()).expect("a signature");
    table.check("ES256", verifier, &format!("{message}.{}", encode(signature)), "algorithm");
    for alg in ["rs256", "RS256 ", " RS256", "RS256\0", "RSA-OAEP", "dir", "EdDSA"] {
        table.check(
            format!("alg {alg:?}"),
            verifier,
            &ours.sign(&header(alg), &good()),
            "algorithm",
        );
    }
    for alg in [
        r#"{"typ":"JWT"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["RS256"]}"#,
        r#"{"alg":256}"#,
        r#"{"ALG":"RS256"}"#,
    ] {
        table.check(format!("header {alg}"), verifier, &ours.sign(alg, &good()), "algorithm");
    }
}

/// A verifier that follows these headers lets the token choose its own key.
pub fn embedded_keys(table: &mut Table, ours: &Pair, theirs: &Pair, verifier: &Verifier) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
    let members = [
        ("jwk", theirs.jwk.clone()),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("jku", json!("file:///etc/passwd")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
        ("jwk", json!("not a key")),
        ("jku", json!(7)),
    ];
    for (name, value) in members {
        let header = json!({"alg": "RS256", name: value}).to_string();
        let shown = value.to_string().chars().take(22).collect::<String>();
        table.check(
            format!("{name} {shown}, signed by theirs"),
            verifier,
            &theirs.sign(&header, &good()),
            "signature",
        );
        table.check(
            format!("{name} {shown}, signed by ours"),
            verifier,
            &ours.sign(&header, &good()),
            "good",
        );
    }
    let refused = listener.accept().expect_err("no request may have come");
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock, "a header was followed");
}

pub fn kids(table: &mut Table, ours: &Pair, theirs: &Pair, one: &Verifier) {
    let file =
        json!({"keys": [ours.jwk_with(json!({"kid": "a"})), theirs.jwk_with(json!({"kid": "b"}))]});
    let set = Verifier::new(
        KeySet::parse(file.to_string().as_bytes()).expect("a set"),
        TokenPolicy::default(),
    );
    let header = |kid: Value| json!({"alg": "RS256", "kid": kid}).to_string();
    table.check("set: kid a, signed by a", &set, &ours.sign(&header(json!("a")), &good()), "good");
    table.check(
        "set: kid b, signed by b",
        &set,
        &theirs.sign(&header(json!("b")), &good()),
        "good",
    );
    table.check(
        "set: kid b, signed by a",
        &set,
        &ours.sign(&header(json!("b")), &good()),
        "signature",
    );
    table.check("set: no kid", &set, &ours.sign(HEADER, &good()), "unknown_key");
    let tricks = [
        "",
        "c",
        "A",
        "a ",
        "a\0",
        "a,b",
        "*",
        "../../../../dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "' OR '1'='1",
        "a'; DROP TABLE keys; --",
        "a' UNION SELECT 'a",
        "$(id)",
        "${jndi:ldap://x/y}",
        "а",
    ];
    for kid in tricks {
        let token = ours.sign(&header(json!(kid)), &good());
        table.check(format!("set: kid {kid:?}"), &set, &token, "unknown_key");
        table.check(format!("one key: kid {kid:?} is ignored"), one, &token, "good");
    }
    for kid in [json!(null), json!(1), json!(["a"]), json!({"a": 1}), json!(true)] {
        let token = ours.sign(&header(kid.clone()), &good());
        table.check(format!("set: kid {kid}"), &set, &token, "header");
        table.check(format!("one key: kid {kid}"), one, &token, "header");
    }
    let twice = r#"{"alg":"RS256","kid":"b","kid":"a"}"#;
    table.check("set: kid twice", &set, &ours.sign(twice, &good()), "duplicate_member");
    let curve = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "ec"});
    let other_key = json!({"keys": [ours.jwk, curve]});
    let counted = Verifier::new(
        KeySet::parse(other_key.to_string().as_bytes()).expect("a set"),
        TokenPolicy::default(),
    );
    table.check(
        "one usable key of two: kid ignored",
        &counted,
        &ours.sign(&header(json!("ec")), &good()),
        "good",
    );
}

pub fn headers(table: &mut Table, ours: &Pair, verifier: &Verifier) {
    for crit in [r#"["exp"]"#, "[]", r#"["b64"]"#, r#"["made-up"]"#, "null", r#""exp""#, "{}", "0"]
    {
        let header = format!(r#"{{"alg":"RS256","crit":{crit},"exp":1,"made-up":1}}"#);
        table.check(format!("crit {crit}"), verifier, &ours.sign(&header, &good()), "critical");
    }
    let rows = [
        (r#"{"alg":"RS256","b64":false}"#, "critical"),
        (r#"{"alg":"RS256","b64":false,"crit":["b64"]}"#, "critical"),
        (r#"{"alg":"RS256","b64":true}"#, "good"),
        (r#"{"alg":"RS256","b64":"false"}"#, "header"),
        (r#"{"alg":"RS256","b64":0}"#, "header"),
        (r#"{"alg":"RS256","alg":"RS256"}"#, "duplicate_member"),
        (r#"{"alg":"none","alg":"RS256"}"#, "duplicate_member"),
        (r#"{"alg":"RS256","\u0061lg":"none"}"#, "duplicate_member"),
        (r#"{"alg":"RS256","x":{"y":1,"y":2}}"#, "duplicate_member"),
        (r#"{"alg":"RS256","x":[{"y":1,"y":2}]}"#, "duplicate_member"),
        (r#"{"alg":"RS256","typ":"at+jwt"}"#, "good"),
        (r#"{"alg":"RS256","typ":1}"#, "header"),
        (r#"{"alg":"RS256","cty":"JWT"}"#, "nested"),
        (r#"{"alg":"RS256","cty":"jwt"}"#, "nested"),
        (r#"{"alg":"RS256","cty":"application/JWT"}"#, "nested"),
        (r#"{"alg":"RS256","cty":"json"}"#, "good"),
        (r#"{"alg":"RS256","cty":null}"#, "header"),
        (r#"["alg","RS256"]"#, "header"),
        (r#""RS256""#, "header"),
        ("", "header"),
        ("{", "header"),
        (r#"{"alg":"RS256"}x"#, "header"),
        (r#"{"alg":"RS256",}"#, "header"),
        (r#"{alg:"RS256"}"#, "header"),
        (r#"{"alg":"RS256"}{"alg":"RS256"}"#, "header"),
        (" {\"alg\" : \"RS256\"}\n", "good"),
        ("\u{feff}{\"alg\":\"RS256\"}", "header"),
    ];
    for (header, expected) in rows {
        table.check(format!("header {header:?}"), verifier, &ours.sign(header, &good()), expected);
    }
    let deep = format!(r#"{{"alg":"RS256","x":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    table.check("header nested 500 deep", verifier, &ours.sign(&deep, &good()), "header");
}
