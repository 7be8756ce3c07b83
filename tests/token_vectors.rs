//! Wycheproof's RS256 vectors through the node's own verifier: none judged wrong.

use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use serde_json::Value;

const VECTORS: &str = include_str!("vectors/jws-rs256.json");

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
