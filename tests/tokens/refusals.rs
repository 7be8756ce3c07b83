//! Every way in which a token can be wrong, generated, with the reason for its refusal. Beside each
//! stands a similar token that is good.
//!
//! `cargo test --test tokens refusals -- --nocapture` prints the table.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use exo_ingest::cli::keygen::{KeyBits, generate_into};
use exo_ingest::clock::UnixMicros;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Duration;

/// When the tokens are checked, seconds since 1970.
const NOW: u64 = 1_700_000_000;

const HEADER: &str = r#"{"alg":"RS256","typ":"JWT"}"#;

/// A key pair as files' texts and as ring's.
struct Pair {
    signing: RsaKeyPair,
    public_pem: String,
    jwk: Value,
}

impl Pair {
    fn generate() -> Pair {
        let dir = tempfile::tempdir().expect("a directory");
        let files = generate_into(dir.path(), KeyBits::Bits2048).expect("a pair");
        let read = |path| std::fs::read_to_string(path).expect("a key file");
        let private: String =
            read(&files.private).lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(private).expect("base64");
        let jwks: Value = serde_json::from_str(&read(&files.jwks)).expect("JSON");
        Pair {
            signing: RsaKeyPair::from_pkcs8(&der).expect("a private key"),
            public_pem: read(&files.public),
            jwk: jwks["keys"][0].clone(),
        }
    }

    fn sign_with(&self, padding: &'static dyn RsaEncoding, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(payload));
        let mut signature = vec![0; self.signing.public().modulus_len()];
        self.signing
            .sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{message}.{}", encode(signature))
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        self.sign_with(&RSA_PKCS1_SHA256, header, payload)
    }

    fn verifier(&self, policy: TokenPolicy) -> Verifier {
        Verifier::new(KeySet::parse(self.public_pem.as_bytes()).expect("a key"), policy)
    }

    /// The JWK with some members replaced, or taken out where null.
    fn jwk_with(&self, changes: Value) -> Value {
        let mut jwk = self.jwk.clone();
        change(&mut jwk, changes);
        jwk
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn change(object: &mut Value, changes: Value) {
    let object = object.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.clone(), value.clone()),
        };
    }
}

/// Good claims with some members replaced, or taken out where null.
fn claims(changes: Value) -> String {
    let mut claims =
        json!({"tenant_id": "acme", "interaction_id": "call-1", "iat": NOW - 10, "exp": NOW + 60});
    change(&mut claims, changes);
    claims.to_string()
}

fn good() -> String {
    claims(json!({}))
}

/// The verifier's decision on a token, as a label; "good" if it accepts the token.
fn judge(verifier: &Verifier, token: &str) -> &'static str {
    verifier
        .verify(token, UnixMicros(NOW * 1_000_000))
        .map_or_else(|error| error.label(), |_| "good")
}

/// Rows of name, expected and got.
#[derive(Default)]
struct Table {
    rows: Vec<(String, &'static str, &'static str)>,
}

impl Table {
    fn check(
        &mut self,
        name: impl Into<String>,
        verifier: &Verifier,
        token: &str,
        expected: &'static str,
    ) {
        self.rows.push((name.into(), expected, judge(verifier, token)));
    }
}

#[test]
fn every_refusal_has_its_reason() {
    let (ours, theirs) = (Pair::generate(), Pair::generate());
    let verifier = ours.verifier(TokenPolicy::default());
    let mut table = Table::default();
    table.check("a good token", &verifier, &ours.sign(HEADER, &good()), "good");
    algorithms(&mut table, &ours, &verifier);
    embedded_keys(&mut table, &ours, &theirs, &verifier);
    kids(&mut table, &ours, &theirs, &verifier);
    headers(&mut table, &ours, &verifier);
    forms(&mut table, &ours, &theirs, &verifier);
    identities(&mut table, &ours, &verifier);
    dates(&mut table, &ours, &verifier);
    clocks(&mut table, &ours);
    policies(&mut table, &ours, &verifier);
    tenants(&mut table, &ours);

    for (name, expected, got) in &table.rows {
        println!(
            "{name:<58} {expected:<20} {got:<20} {}",
            if expected == got { "" } else { "WRONG" }
        );
    }
    let wrong = table.rows.iter().filter(|(_, expected, got)| expected != got).count();
    println!("{} tokens, {wrong} judged wrong", table.rows.len());
    assert_eq!(wrong, 0);
    for reason in exo_ingest::auth::TokenError::ALL {
        assert!(
            table.rows.iter().any(|(_, _, got)| *got == reason.label()),
            "no token met {}",
            reason.label()
        );
    }
}

fn algorithms(table: &mut Table, ours: &Pair, verifier: &Verifier) {
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
fn embedded_keys(table: &mut Table, ours: &Pair, theirs: &Pair, verifier: &Verifier) {
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

fn kids(table: &mut Table, ours: &Pair, theirs: &Pair, one: &Verifier) {
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

fn headers(table: &mut Table, ours: &Pair, verifier: &Verifier) {
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

fn forms(table: &mut Table, ours: &Pair, theirs: &Pair, verifier: &Verifier) {
    let token = ours.sign(HEADER, &good());
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let other = encode(claims(json!({"tenant_id": "evil"})));
    let json_form =
        json!({"payload": payload, "protected": header, "signature": signature}).to_string();
    let rows = [
        ("empty", String::new(), "parts"),
        ("one part", header.to_owned(), "parts"),
        ("two parts", format!("{header}.{payload}"), "parts"),
        ("trailing dot", format!("{token}."), "parts"),
        ("leading dot", format!(".{token}"), "parts"),
        ("five parts (JWE)", format!("{header}.{payload}.AA.AA.{signature}"), "parts"),
        ("two tokens", format!("{token}.{token}"), "parts"),
        ("JSON serialisation", json_form, "parts"),
        ("no header", format!(".{payload}.{signature}"), "header"),
        ("no payload", format!("{header}..{signature}"), "signature"),
        ("no signature", format!("{header}.{payload}."), "signature"),
        ("another payload", format!("{header}.{other}.{signature}"), "signature"),
        ("another key's signature", theirs.sign(HEADER, &good()), "signature"),
        (
            "signature cut short",
            format!("{header}.{payload}.{}", encode(&bytes[..255])),
            "signature",
        ),
        (
            "signature with a byte more",
            format!("{header}.{payload}.{}", encode([&bytes[..], &[0]].concat())),
            "signature",
        ),
        (
            "a zero before the signature",
            format!("{header}.{payload}.{}", encode([&[0], &bytes[..]].concat())),
            "signature",
        ),
        ("zero signature", format!("{header}.{payload}.{}", encode([0; 256])), "signature"),
        ("signature of ones", format!("{header}.{payload}.{}", encode([0xff; 256])), "signature"),
        ("space before", format!(" {token}"), "encoding"),
        ("space after it", format!("{token} "), "encoding"),
        ("line end after it", format!("{token}\r\n"), "encoding"),
        ("space inside", format!("{header}. {payload}.{signature}"), "encoding"),
        (
            "line end inside",
            format!("{header}.{}\n{}.{signature}", &payload[..4], &payload[4..]),
            "encoding",
        ),
        ("padding on the signature", format!("{token}=="), "encoding"),
        ("padding on the header", format!("{header}=.{payload}.{signature}"), "encoding"),
        ("NUL inside", format!("{header}.{payload}\0.{signature}"), "encoding"),
        ("not ASCII", format!("{header}.{payload}.é{signature}"), "encoding"),
        ("Bearer before", format!("Bearer {token}"), "encoding"),
        ("percent-encoded", token.replace('.', "%2E"), "parts"),
    ];
    for (name, token, expected) in rows {
        table.check(name, verifier, &token, expected);
    }
    // The last character for 256 bytes has four bits without a meaning. They must be zeros.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = signature.bytes().next_back().expect("a character");
    let index = alphabet.iter().position(|&byte| byte == last).expect("base64url");
    let twin = char::from(alphabet[index | 1]);
    table.check(
        "the signature's other spelling",
        verifier,
        &format!("{}{twin}", &token[..token.len() - 1]),
        "encoding",
    );
    let standard = format!("{header}.{payload}.{}", signature.replace('-', "+").replace('_', "/"));
    let expected = if standard == token { "good" } else { "encoding" };
    table.check("base64 that is not base64url", verifier, &standard, expected);
    let filler = |size: usize| ours.sign(HEADER, &claims(json!({"filler": "x".repeat(size)})));
    let at_limit = (2300..2800).map(filler).find(|token| token.len() == 4096);
    table.check("4,096 bytes", verifier, &at_limit.expect("base64 has that length"), "good");
    let above = (2300..2800).map(filler).find(|token| token.len() == 4097 || token.len() == 4098);
    table.check(
        "a byte or two over 4 KiB",
        verifier,
        &above.expect("base64 has that length"),
        "too_large",
    );
    table.check("1 MiB", verifier, &"A".repeat(1 << 20), "too_large");
}

fn identities(table: &mut Table, ours: &Pair, verifier: &Verifier) {
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

fn dates(table: &mut Table, ours: &Pair, verifier: &Verifier) {
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

fn clocks(table: &mut Table, ours: &Pair) {
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

fn policies(table: &mut Table, ours: &Pair, any: &Verifier) {
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

fn tenants(table: &mut Table, ours: &Pair) {
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
