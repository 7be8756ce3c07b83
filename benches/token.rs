//! What a token costs at the upgrade: all of [`Verifier::verify`], by size of the key. Also a
//! refusal before the signature is checked, and the signature alone in ring.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use exo_ingest::auth::{KeySet, TokenPolicy, Verifier};
use exo_ingest::clock::UnixMicros;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::Value;
use std::hint::black_box;

fn token(criterion: &mut Criterion) {
    let vectors: Value = serde_json::from_str(include_str!("../tests/vectors/own-rs256.json"))
        .expect("the vectors are JSON");
    let now = UnixMicros(vectors["now"].as_u64().expect("a time") * 1_000_000);
    let mut group = criterion.benchmark_group("token");
    for vector in vectors["tokens"].as_array().expect("tokens") {
        let keys = KeySet::parse(vector["jwk"].to_string().as_bytes()).expect("a key");
        let verifier = Verifier::new(keys, TokenPolicy::default());
        let token = vector["token"].as_str().expect("a token");
        assert!(verifier.verify(token, now).is_ok());
        group.bench_function(format!("verify {} bits", vector["bits"]), |bencher| {
            bencher.iter(|| verifier.verify(black_box(token), black_box(now)));
        });
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).expect("base64url");
        let number = |name: &str| decode(vector["jwk"][name].as_str().expect("a number"));
        let key = RsaPublicKeyComponents { n: number("n"), e: number("e") };
        let (signed, signature) = token.rsplit_once('.').expect("a signature");
        let signature = decode(signature);
        group.bench_function(format!("ring alone {} bits", vector["bits"]), |bencher| {
            bencher.iter(|| {
                key.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    black_box(signed.as_bytes()),
                    black_box(&signature),
                )
            });
        });
        let unsigned =
            format!("eyJhbGciOiJub25lIn0.{}", token.split_once('.').expect("a header").1);
        assert!(verifier.verify(&unsigned, now).is_err());
        group.bench_function(format!("refuse alg none {} bits", vector["bits"]), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&unsigned), black_box(now)));
        });
    }
    group.finish();
}

criterion_group!(benches, token);
criterion_main!(benches);
