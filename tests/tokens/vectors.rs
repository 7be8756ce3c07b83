//! Wycheproof's RS256 vectors, and our own, through the node's verifier. None may be judged wrong.

use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use exo_ingest::clock::UnixMicros;
use serde_json::Value;

const VECTORS: &str = include_str!("../vectors/jws-rs256.json");

#[test]
fn wycheproof_rs256() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let (mut valid_count, mut invalid_count, mut wrong) = (0, 0, Vec::new());
    for group in vectors["testGroups"].as_array().expect("groups") {
        let keys = KeySet::parse(group["public"].to_string().as_bytes()).expect("a usable key");
        let verifier = Verifier::new(keys, TokenPolicy::default());
        for test in group["tests"].as_array().expect("tests") {
            let token = test["jws"].as_str().expect("a token");
            let outcome = verifier.verify_signature(token);
            let expected = match test["result"].as_str() {
                Some("valid") => true,
                Some("invalid") => false,
                other => panic!("a vector with the result {other:?}"),
            };
            *(if expected { &mut valid_count } else { &mut invalid_count }) += 1;
            if outcome.is_ok() != expected {
                wrong.push(format!("{} {}: {outcome:?}", test["tcId"], test["comment"]));
            }
        }
    }
    println!("{}", vectors["source"].as_str().expect("a source"));
    println!("{valid_count} valid, {invalid_count} invalid, {} wrong", wrong.len());
    assert_eq!((valid_count, invalid_count), (8, 225));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The largest keys too. Making one takes too long for a test, so the tokens are stored. Their
/// private keys are deleted.
#[test]
fn our_own_tokens_of_each_size() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/own-rs256.json"))
        .expect("the vectors are JSON");
    let now = UnixMicros(vectors["now"].as_u64().expect("a time") * 1_000_000);
    let mut sizes = Vec::new();
    for vector in vectors["tokens"].as_array().expect("tokens") {
        let keys = KeySet::parse(vector["jwk"].to_string().as_bytes()).expect("a key");
        let verifier = Verifier::new(keys, TokenPolicy::default());
        let token = vector["token"].as_str().expect("a token");
        let claims = verifier.verify(token, now).expect("a good token");
        assert_eq!(
            (&*claims.identity.tenant, &*claims.identity.interaction),
            ("tenant-abc", "call-123")
        );
        // A change of any character of the signed part, or of the signature, is found.
        for position in 0..token.len() {
            let mut changed = token.as_bytes().to_vec();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(verifier.verify(&changed, now).is_err(), "byte {position} of {token}");
        }
        sizes.push(vector["bits"].as_u64().expect("a size"));
    }
    assert_eq!(sizes, [2048, 4096]);
}
