//! Which key files a node accepts, and what it says about the others.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use exo_ingest::auth::{KeyError, KeySet, Signer, TokenPolicy, Verifier};
use exo_ingest::call::CallIdentity;
use exo_ingest::cli::keygen::{KeyBits, generate_into};
use exo_ingest::clock::UnixMicros;
use serde_json::{Value, json};

/// A DER element with the length forms that keys need.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short element").to_be_bytes();
    let mut element = vec![tag];
    match content.len() {
        0..0x80 => element.push(length[1]),
        0x80..0x100 => element.extend([0x81, length[1]]),
        _ => element.extend([0x82, length[0], length[1]]),
    }
    element.extend(content);
    element
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    der(2, &if bytes[0] >= 0x80 { [&[0], bytes].concat() } else { bytes.to_vec() })
}

fn pkcs1(n: &[u8], e: &[u8]) -> Vec<u8> {
    der(0x30, &[integer(n), integer(e)].concat())
}

fn spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    let rsa_encryption =
        der(0x30, &[&der(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1])[..], &[5, 0]].concat());
    der(0x30, &[rsa_encryption, der(3, &[&[0][..], &pkcs1(n, e)].concat())].concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A modulus of this many bits, with unknown factors.
fn modulus(bits: usize) -> Vec<u8> {
    let mut n = vec![0xa5; bits.div_ceil(8)];
    n[0] = 0xff >> (n.len() * 8 - bits);
    n[bits.div_ceil(8) - 1] = 0x01;
    n
}

const E: [u8; 3] = [1, 0, 1];

fn jwk(changes: Value) -> Value {
    let mut jwk =
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus(2048)), "e": "AQAB", "kid": "a"});
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => jwk.as_object_mut().expect("an object").remove(name),
            value => jwk.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
        };
    }
    jwk
}

fn parse(text: impl AsRef<[u8]>) -> Result<(usize, usize), KeyError> {
    KeySet::parse(text.as_ref()).map(|keys| (keys.key_count(), keys.skipped().len()))
}

/// The number of keys in a file that has none for us.
#[track_caller]
fn none_usable(outcome: Result<(usize, usize), KeyError>) -> usize {
    match outcome {
        Err(KeyError::NoneUsable(keys)) => keys.len(),
        outcome => panic!("{outcome:?}"),
    }
}

fn parse_set(keys: Value) -> Result<(usize, usize), KeyError> {
    parse(json!({"keys": keys}).to_string())
}

#[test]
fn one_pair_in_every_form_verifies_the_same_token() {
    let dir = tempfile::tempdir().expect("a directory");
    for bits in [KeyBits::Bits2048, KeyBits::Bits3072] {
        let files = generate_into(&dir.path().join(format!("{bits:?}")), bits).expect("a pair");
        let read = |path| std::fs::read_to_string(path).expect("a key file");
        let decode = |text: &str| {
            STANDARD
                .decode(text.lines().filter(|line| !line.starts_with('-')).collect::<String>())
                .expect("base64")
        };
        let jwks: Value = serde_json::from_str(&read(&files.jwks)).expect("JSON");
        let number = |name: &str| {
            URL_SAFE_NO_PAD
                .decode(jwks["keys"][0][name].as_str().expect("a number"))
                .expect("base64url")
        };
        let (n, e) = (number("n"), number("e"));
        let public = read(&files.public);
        assert_eq!(decode(&public), spki(&n, &e));
        let leading_zero = jwk(json!({"n": URL_SAFE_NO_PAD.encode([&[0], &n[..]].concat())}));

        // The private key has 26 bytes of PKCS#8, then PKCS#1.
        let private = read(&files.private);
        let inner = pem("RSA PRIVATE KEY", &decode(&private)[26..]);
        let identity = CallIdentity { tenant: "acme".into(), interaction: "call-1".into() };
        let grant = exo_ingest::auth::Grant {
            identity: &identity,
            issued_at: 1_000,
            expires_at: 2_000,
            kid: Some("any"),
        };
        let token =
            Signer::from_pem(private.as_bytes()).expect("PKCS#8").mint(&grant).expect("a token");
        assert_eq!(
            Signer::from_pem(inner.as_bytes()).expect("PKCS#1").mint(&grant).expect("a token"),
            token
        );

        let forms = [
            public.clone(),
            pem("RSA PUBLIC KEY", &pkcs1(&n, &e)),
            public.replace('\n', "\r\n"),
            format!("# the key of 2024\n\n{public}\n\n"),
            jwks.to_string(),
            format!(" \n{}", jwks["keys"][0]),
            format!("\u{feff}{jwks}"),
            format!("\u{feff}{public}"),
            leading_zero.to_string(),
        ];
        for text in forms {
            let keys =
                KeySet::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
            let claims = Verifier::new(keys, TokenPolicy::default())
                .verify(&token, UnixMicros(1_500_000_000));
            assert_eq!(claims.map(|claims| claims.identity), Ok(identity.clone()), "{text}");
        }
    }
}

#[test]
fn keys_of_2048_to_4096_bits() {
    for bits in [2048, 2049, 3072, 4095, 4096] {
        assert_eq!(parse(pem("PUBLIC KEY", &spki(&modulus(bits), &E))), Ok((1, 0)), "{bits}");
    }
    for bits in [512, 1024, 2040, 2047, 4097, 8192] {
        let n = modulus(bits);
        let jwk = jwk(json!({"n": URL_SAFE_NO_PAD.encode(&n)})).to_string();
        for text in [pem("PUBLIC KEY", &spki(&n, &E)), pem("RSA PUBLIC KEY", &pkcs1(&n, &E)), jwk] {
            assert_eq!(parse(&text), Err(KeyError::Size(bits)), "{text}");
        }
    }
    for e in [&[1][..], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1; 9]] {
        assert_eq!(
            parse(pem("RSA PUBLIC KEY", &pkcs1(&modulus(2048), e))),
            Err(KeyError::Numbers),
            "{e:?}"
        );
        let text = jwk(json!({"e": URL_SAFE_NO_PAD.encode(e)})).to_string();
        assert_eq!(parse(text), Err(KeyError::Numbers), "{e:?}");
    }
    assert_eq!(
        KeyError::Size(1024).to_string(),
        "the RSA key has 1024 bits: use one of 2048 to 4096 bits"
    );
}

#[test]
fn pem_files_that_hold_something_else() {
    let public = pem("PUBLIC KEY", &spki(&modulus(2048), &E));
    let der = spki(&modulus(2048), &E);
    for label in [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
    ] {
        assert_eq!(parse(pem(label, &der)), Err(KeyError::Private), "{label}");
        assert_eq!(
            parse(format!("{public}{}", pem(label, &der))),
            Err(KeyError::Private),
            "{label}"
        );
    }
    assert!(KeyError::Private.to_string().contains("give the public key"));
    assert_eq!(parse(pem("CERTIFICATE", &der)), Err(KeyError::Certificate));
    assert_eq!(
        parse(pem("CERTIFICATE REQUEST", &der)),
        Err(KeyError::PemLabel("CERTIFICATE REQUEST".to_owned()))
    );
    assert_eq!(parse(format!("{public}{public}")), Err(KeyError::PemCount(2)));
    let ec = der_of_ec();
    let pss = spki(&modulus(2048), &E)
        .windows(9)
        .position(|window| window == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1])
        .map(|start| {
            let mut der = spki(&modulus(2048), &E);
            der[start + 8] = 10;
            der
        })
        .expect("the algorithm");
    let broken = [
        pem("PUBLIC KEY", &ec),
        pem("PUBLIC KEY", &pss),
        pem("PUBLIC KEY", &der[..der.len() - 1]),
        pem("PUBLIC KEY", b""),
        pem("RSA PUBLIC KEY", &der),
        pem("RSA PUBLIC KEY", &[pkcs1(&modulus(2048), &E), vec![0]].concat()),
        pem("PUBLIC KEY", &pkcs1(&modulus(2048), &E)),
        public.replace("-----END PUBLIC KEY-----", ""),
        public.replace("-----END PUBLIC KEY-----", "-----END RSA PUBLIC KEY-----"),
        public.replacen('M', "?", 1),
        "-----BEGIN ".to_owned(),
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n".to_owned(),
    ];
    for text in broken {
        assert_eq!(parse(&text), Err(KeyError::PemContent), "{text}");
    }
    for text in [&b""[..], b"ssh-rsa AAAAB3NzaC1yc2E", b"\xff\xfe", b"[]", b"\"keys\"", &der] {
        assert_eq!(parse(text), Err(KeyError::Unrecognised), "{text:?}");
    }
    assert_eq!(parse("-----BEGIN ".repeat(2000)), Err(KeyError::TooLarge));
    assert_eq!(parse(format!("{{{}", " ".repeat(1 << 20))), Err(KeyError::TooLarge));
    // Deep nesting is bounded by the size of the file.
    let deep = (0..1200).fold(vec![], |inner, _| der_sequence(&inner));
    assert_eq!(parse(pem("PUBLIC KEY", &deep)), Err(KeyError::PemContent));
}

fn der_sequence(content: &[u8]) -> Vec<u8> {
    der(0x30, content)
}

/// SPKI of a point on P-256 (the curve's own generator).
fn der_of_ec() -> Vec<u8> {
    let algorithm = [
        der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]),
        der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]),
    ]
    .concat();
    let point = [&[0, 4][..], &[0x6b; 64]].concat();
    der(0x30, &[der(0x30, &algorithm), der(3, &point)].concat())
}

#[test]
fn keys_for_something_else_are_skipped() {
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "a"});
    let okp = json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"});
    let others = [
        ec.clone(),
        okp.clone(),
        json!({"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA"}),
        jwk(json!({"alg": "PS256"})),
        jwk(json!({"alg": "RS512"})),
        jwk(json!({"alg": "RSA-OAEP"})),
        jwk(json!({"alg": "unheard-of"})),
        jwk(json!({"use": "enc"})),
        jwk(json!({"use": "SIG"})),
        jwk(json!({"key_ops": ["encrypt"]})),
        jwk(json!({"key_ops": ["sign"]})),
        jwk(json!({"key_ops": []})),
    ];
    for other in others {
        assert_eq!(none_usable(parse_set(json!([other]))), 1, "{other}");
        assert_eq!(none_usable(parse(other.to_string())), 1, "{other}");
        assert_eq!(
            parse_set(json!([other, jwk(json!({"kid": null})), other])),
            Ok((1, 2)),
            "{other}"
        );
    }
    assert_eq!(none_usable(parse_set(json!([]))), 0);
    for good in [
        json!({"alg": "RS256"}),
        json!({"use": "sig"}),
        json!({"key_ops": ["sign", "verify"]}),
        json!({"x5t": "AA"}),
    ] {
        assert_eq!(parse(jwk(good.clone()).to_string()), Ok((1, 0)), "{good}");
    }
    let b = jwk(json!({"kid": "b"}));
    assert_eq!(parse_set(json!([jwk(json!({})), ec, b, okp])), Ok((2, 2)));
}

#[test]
fn jwks_files_that_are_refused_as_a_whole() {
    let (a, b) = (jwk(json!({})), jwk(json!({"kid": "b"})));
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth"] {
        assert_eq!(
            parse_set(json!([b, jwk(json!({name: "AA"}))])),
            Err(KeyError::Private),
            "{name}"
        );
    }
    assert_eq!(
        parse_set(json!([a, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}])),
        Err(KeyError::Private)
    );
    assert_eq!(parse_set(json!([a, {"kty": "oct", "k": "AA"}])), Err(KeyError::Private));
    assert_eq!(parse(json!({"keys": [a], "d": "AA"}).to_string()), Err(KeyError::Private));
    // Private material anywhere refuses the whole file, also in a key that cannot be used.
    for secret in
        [json!({"d": "AA"}), json!({"kty": 7, "k": "AA"}), jwk(json!({"n": "AQAB", "p": "AA"}))]
    {
        assert_eq!(parse_set(json!([a, secret])), Err(KeyError::Private), "{secret}");
    }
    for text in
        ["{", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"keys":[]}x"#, r#"{"keys":[\x00]}"#]
    {
        assert!(matches!(parse(text), Err(KeyError::Json(_))), "{text}");
    }
    assert_eq!(parse(r#"{"keys":[],"keys":[]}"#), Err(KeyError::DuplicateMember));
    let twice = a.to_string().replacen('{', r#"{"e":"Aw","#, 1);
    assert_eq!(parse(format!(r#"{{"keys":[{twice}]}}"#)), Err(KeyError::DuplicateMember));
}

/// Faulty keys, each with a word of its error.
fn faulty() -> Vec<(Value, &'static str)> {
    let plain = STANDARD.encode(modulus(2048));
    let sized = |bits: usize| jwk(json!({"kid": "c", "n": URL_SAFE_NO_PAD.encode(modulus(bits))}));
    vec![
        (sized(1024), "1024 bits"),
        (sized(8192), "8192 bits"),
        (jwk(json!({"kid": "c", "n": null})), "absent"),
        (jwk(json!({"kid": "c", "n": null, "e": null, "x5c": ["MIIC"]})), "absent"),
        (jwk(json!({"kid": "c", "n": plain})), "base64url"),
        (jwk(json!({"kid": "c", "n": plain.trim_end_matches('=')})), "base64url"),
        (jwk(json!({"kid": "c", "e": "AQAB=="})), "base64url"),
        (jwk(json!({"kid": "c", "e": "A+AB"})), "base64url"),
        (jwk(json!({"kid": "c", "e": "Ag"})), "n or e"),
        (jwk(json!({"kid": "c", "n": 1})), "n or e"),
        (jwk(json!({"kid": "c", "kty": null})), "kty"),
        (jwk(json!({"kid": "c", "kty": 1})), "kty"),
        (jwk(json!({"kid": 7})), "wrong type"),
        (jwk(json!({"kid": null})), "no kid"),
        (jwk(json!({"kid": "a"})), "same kid"),
        (jwk(json!({"kid": "c", "alg": 7})), "wrong type"),
        (jwk(json!({"kid": "c", "use": ["sig"]})), "wrong type"),
        (jwk(json!({"kid": "c", "key_ops": "verify"})), "wrong type"),
        (jwk(json!({"kid": "c", "tenants": "acme"})), "tenants"),
        (jwk(json!({"kid": "c", "tenants": []})), "tenants"),
        (jwk(json!({"kid": "c", "tenants": ["acme", 7]})), "tenants"),
        (jwk(json!({"kid": "c", "tenants": ["acme", ""]})), "tenants"),
        (jwk(json!({"kid": "c", "tenants": {}})), "tenants"),
        (json!("a"), "not an object"),
        (json!(null), "not an object"),
        (json!({}), "kty"),
    ]
}

#[test]
fn a_faulty_key_is_named_and_the_others_are_used() {
    let (a, b) = (jwk(json!({})), jwk(json!({"kid": "b"})));
    for (bad, words) in faulty() {
        for (keys, position) in [([&a, &b, &bad], 3), ([&a, &bad, &b], 2)] {
            let text = json!({"keys": keys}).to_string();
            let keys =
                KeySet::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{bad}: {error}"));
            let skipped = keys.skipped();
            assert_eq!((keys.key_count(), skipped.len()), (2, 1), "{bad}");
            assert_eq!((skipped[0].position, skipped[0].is_faulty()), (position, true), "{bad}");
            assert!(skipped[0].to_string().contains(words), "{bad}: {}", skipped[0]);
        }
    }
    // A key for another purpose is no fault.
    let keys =
        KeySet::parse(json!({"keys": [a, jwk(json!({"use": "enc"}))]}).to_string().as_bytes());
    assert!(keys.is_ok_and(|keys| keys.skipped().len() == 1 && !keys.skipped()[0].is_faulty()));
}

#[test]
fn a_file_of_faulty_keys_is_refused_and_says_what_is_wrong_with_them() {
    let nameless = jwk(json!({"kid": null}));
    for (bad, words) in faulty() {
        // Alone in a file these two can be used.
        if matches!(words, "no kid" | "same kid") {
            assert_eq!(parse_set(json!([bad])), Ok((1, 0)));
            continue;
        }
        let error =
            KeySet::parse(json!({"keys": [bad]}).to_string().as_bytes()).expect_err("no key");
        assert!(
            error.to_string().contains(words.split(' ').next().expect("a word")),
            "{bad}: {error}"
        );
        let error =
            KeySet::parse(json!({"keys": [bad, bad]}).to_string().as_bytes()).expect_err("no key");
        assert!(error.to_string().contains(words), "{bad}: {error}");
        // One good key is enough, whatever its name.
        assert_eq!(parse_set(json!([bad, nameless])), Ok((1, 1)), "{bad}");
    }
    let error = KeySet::parse(json!({"keys": [nameless, nameless]}).to_string().as_bytes())
        .expect_err("no kid");
    assert!(error.to_string().contains("no kid"), "{error}");
}

#[test]
fn files_that_cannot_sign() {
    let refused = |text: String| Signer::from_pem(text.as_bytes()).err();
    let public = spki(&modulus(2048), &E);
    assert_eq!(refused(pem("PUBLIC KEY", &public)), Some(KeyError::Public));
    assert_eq!(refused(pem("RSA PUBLIC KEY", &pkcs1(&modulus(2048), &E))), Some(KeyError::Public));
    assert_eq!(refused(pem("ENCRYPTED PRIVATE KEY", &public)), Some(KeyError::Encrypted));
    assert_eq!(refused(pem("PRIVATE KEY", &public)), Some(KeyError::PemContent));
    assert_eq!(
        refused(pem("EC PRIVATE KEY", &public)),
        Some(KeyError::PemLabel("EC PRIVATE KEY".to_owned()))
    );
    assert_eq!(refused(String::new()), Some(KeyError::Unrecognised));
    assert_eq!(refused("x".repeat(1 << 20)), Some(KeyError::TooLarge));
    let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
        -----END RSA PRIVATE KEY-----\n";
    assert_eq!(refused(encrypted.to_owned()), Some(KeyError::Encrypted));
    let private = |n: &[u8]| {
        let parts = [&[0][..], n, &E, &[3], &[3], &[5], &[1], &[1], &[1]];
        pem("RSA PRIVATE KEY", &der(0x30, &parts.map(integer).concat()))
    };
    assert_eq!(refused(private(&modulus(1024))), Some(KeyError::Size(1024)));
    assert_eq!(refused(private(&modulus(8192))), Some(KeyError::Size(8192)));
    assert_eq!(refused(private(&modulus(2048))), Some(KeyError::CannotSign));
    assert_eq!(refused(private(&modulus(2048)).repeat(2)), Some(KeyError::PemCount(2)));
}
