//! Every way in which a token can be wrong, generated, with the reason for its refusal. Beside each
//! stands a similar token that is good.
//!
//! `cargo test --test tokens refusals -- --nocapture` prints the table.

mod in_claims;
mod in_header;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use exo_ingest::cli::keygen::{KeyBits, generate_into};
use exo_ingest::clock::UnixMicros;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaEncoding, RsaKeyPair};
use serde_json::{Value, json};

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
    in_header::algorithms(&mut table, &ours, &verifier);
    in_header::embedded_keys(&mut table, &ours, &theirs, &verifier);
    in_header::kids(&mut table, &ours, &theirs, &verifier);
    in_header::headers(&mut table, &ours, &verifier);
    forms(&mut table, &ours, &theirs, &verifier);
    in_claims::identities(&mut table, &ours, &verifier);
    in_claims::dates(&mut table, &ours, &verifier);
    in_claims::clocks(&mut table, &ours);
    in_claims::policies(&mut table, &ours, &verifier);
    in_claims::tenants(&mut table, &ours);

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
