//! New keys under load: they take effect all at once, on all shards, and live calls go on.

use crate::EXO_INGEST;
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use exo_ingest::session::ingest::ClaimMatch;
use exo_ingest_harness::{
    Admin, INTERACTION, Keys, Message, NodeProcess, Peer, TENANT, TestNode, eventually,
    on_both_kernels, wire,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The public part of a pair as a JWK, with these members.
fn jwk(keys: Keys, members: Value) -> Value {
    let mut jwk = serde_json::to_value(keys.signer().public_jwk().expect("a key")).expect("JSON");
    for (name, value) in members.as_object().expect("an object") {
        jwk[name] = value.clone();
    }
    jwk
}

/// The status that an upgrade with a token of `keys` gets.
fn status(node: &TestNode, keys: Keys, interaction: &str) -> u16 {
    let mut peer = node.connect();
    peer.send(wire::upgrade_request(&keys.mint(TENANT, interaction)).as_bytes());
    peer.response().status
}

#[test]
fn the_old_key_is_dead_and_the_new_one_good_while_calls_go_on() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 4);
        let mut calls: Vec<_> =
            (0..8).map(|number| node.call_as(TENANT, &number.to_string())).collect();
        assert_eq!(status(&node, Keys::Second, INTERACTION), 401);
        let mut seq = 0;
        for (new, old) in
            [(Keys::Second, Keys::First), (Keys::First, Keys::Second), (Keys::Second, Keys::First)]
        {
            let mail = node.count(|counters| &counters.mailbox_messages);
            node.node().set_keys(new.verifier(TokenPolicy::default()));
            eventually("all shards have them", || {
                node.count(|counters| &counters.mailbox_messages) >= mail + 4
            });
            // Connections spread over the shards: every shard must have the new key.
            for _ in 0..16 {
                assert_eq!(status(&node, old, "other"), 401);
                assert_eq!(status(&node, new, "other"), 101);
            }
            for call in &mut calls {
                call.send_frames(10, 960);
                call.expect_ack(seq + 10);
            }
            seq += 10;
        }
        assert_eq!(node.count(|counters| &counters.sessions_refused), 0);
    });
}

/// A key that is in every set is never refused while the sets change.
#[test]
fn no_good_token_is_refused_during_a_swap() {
    on_both_kernels(|features| {
        let node = TestNode::start(features, |setup| setup.shards = 2);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                for number in 0..150 {
                    assert_eq!(status(&node, Keys::First, &number.to_string()), 101);
                }
            });
            while !client.is_finished() {
                node.node().set_keys(Keys::First.verifier(TokenPolicy::default()));
                std::thread::yield_now();
            }
        });
    });
}

/// The status that an upgrade with a token of `keys` gets from this process.
fn process_status(node: &NodeProcess, keys: Keys) -> u16 {
    let mut peer = Peer::connect(node.address());
    peer.send(wire::upgrade_request(&keys.mint(TENANT, INTERACTION)).as_bytes());
    peer.response().status
}

fn skipped(admin: &Admin) -> f64 {
    admin.metrics().value(r#"exo_ingest_keys{state="skipped"}"#)
}

/// Real issuers have published each of these neighbours.
#[test]
fn a_key_that_cannot_be_used_does_not_block_a_rotation() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(
        EXO_INGEST,
        &directory.path().join("data"),
        &["--set", "journal.reserve=0"],
    );
    let admin = node.admin();
    let n = jwk(Keys::First, json!({}))["n"].as_str().expect("a number").to_owned();
    let neighbours = [
        json!({"kty": "RSA", "kid": "old", "n": n[..172], "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "large", "n": n.repeat(4), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "bare", "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "certificate", "x5c": ["MIIC"]}),
        json!({"kty": "RSA", "kid": "padded", "n": format!("{n}=="), "e": "AQAB"}),
        json!({"kid": "untyped", "n": n, "e": "AQAB"}),
        json!({"kty": "RSA", "kid": 7, "n": n, "e": "AQAB"}),
    ];
    let (mut new, mut old) = (Keys::Second, Keys::First);
    for (round, neighbour) in neighbours.into_iter().enumerate() {
        assert_eq!(
            (process_status(&node, new), process_status(&node, old)),
            (401, 101),
            "{neighbour}"
        );
        node.reload_keys(
            &json!({"keys": [neighbour, jwk(new, json!({"kid": "new"}))]}).to_string(),
        );
        eventually("the new key is good", || process_status(&node, new) == 101);
        assert_eq!(process_status(&node, old), 401, "{neighbour}");
        assert_eq!(skipped(&admin), 1.0);
        let named = || node.log().iter().filter(|line| line.contains("key 1 of the JWKS")).count();
        eventually("the log names it", || named() > round);
        assert_eq!(named(), round + 1, "{:#?}", node.log());
        (new, old) = (old, new);
    }
    // Without a usable key, or with a private one, the old set stays.
    let secret = json!({"kty": "oct", "k": "AAAA"});
    for bad in [
        json!([{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]),
        json!([secret, jwk(new, json!({"kid": "new"}))]),
    ] {
        let before = node.log().iter().filter(|line| line.contains("not reloaded")).count();
        node.reload_keys(&json!({ "keys": bad }).to_string());
        eventually("it is refused", || {
            node.log().iter().filter(|line| line.contains("not reloaded")).count() > before
        });
        assert_eq!((process_status(&node, new), process_status(&node, old)), (401, 101), "{bad}");
        assert_eq!(skipped(&admin), 1.0);
    }
    assert!(node.terminate().success());
}

#[test]
fn a_key_of_one_tenant_records_for_no_other_at_every_claim_match() {
    on_both_kernels(|features| {
        for claim_match in [ClaimMatch::Strict, ClaimMatch::Tenant, ClaimMatch::Off] {
            let node = TestNode::start(features, |setup| setup.ingest.claim_match = claim_match);
            let keys =
                json!({"keys": [jwk(Keys::Second, json!({"kid": "new", "tenants": ["a", "c"]}))]});
            let keys = KeySet::parse(keys.to_string().as_bytes()).expect("a key");
            let mail = node.count(|counters| &counters.mailbox_messages);
            node.node().set_keys(Arc::new(Verifier::new(keys, TokenPolicy::default())));
            eventually("it has them", || node.count(|counters| &counters.mailbox_messages) > mail);
            let start = |tenant: &str, interaction: &str| {
                let mut peer = node.connect();
                peer.send(wire::upgrade_request(&Keys::Second.mint("a", "one")).as_bytes());
                assert_eq!(peer.response().status, 101);
                peer.send(&wire::text(&wire::start_text(tenant, interaction)));
                peer
            };
            let mut refused = start("b", "one");
            let Message::Text(text) = refused.receive() else {
                panic!("an error event comes first")
            };
            assert!(text.contains(r#""claim_mismatch""#), "{claim_match:?}: {text}");
            assert!(matches!(refused.receive(), Message::Close(Some(4403), _)), "{claim_match:?}");
            // Both rules apply: the key's tenants, and the claims that are compared.
            for (tenant, interaction, is_good) in [
                ("a", "one", true),
                ("a", "two", claim_match != ClaimMatch::Strict),
                ("c", "one", claim_match == ClaimMatch::Off),
            ] {
                let Message::Text(text) = start(tenant, interaction).receive() else {
                    panic!("an event comes first")
                };
                assert_eq!(
                    text.contains(r#""started""#),
                    is_good,
                    "{claim_match:?} {tenant} {interaction}: {text}"
                );
            }
            assert_eq!(
                status(&node, Keys::Second, "one"),
                401,
                "the token's own tenant is another"
            );
        }
    });
}
