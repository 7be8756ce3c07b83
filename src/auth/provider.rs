//! Uses ring as the cryptography of jsonwebtoken: RS256 and nothing else.
//!
//! jsonwebtoken knows formats, and asks a [`CryptoProvider`] for signatures. Ours has no other
//! algorithm. So no header, no key and no mistake of ours can select one.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result, new_error};
use jsonwebtoken::jwk::{EllipticCurve, ThumbprintHash};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

/// Makes ring the provider of this process for jsonwebtoken. May be called any number of times,
/// from any thread. Everything in this crate that signs or verifies calls it first.
pub fn install_provider() {
    // It fails only if there is a provider already: ours, or that of a program that embeds this
    // crate and chose earlier.
    let _ = RING.install_default();
}

static RING: CryptoProvider = CryptoProvider {
    signer_factory: new_signer,
    verifier_factory: new_verifier,
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: public_components_of_private_key,
        rsa_pub_components_from_public_key: public_components,
        ec_pub_components_from_private_key: refuse_ec,
        ed_pub_components_from_private_key: refuse_ed,
        compute_digest,
    },
};

fn new_signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    check_algorithm(*algorithm, key.family())?;
    let pair = RsaKeyPair::from_der(key.as_bytes())
        .map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
    Ok(Box::new(Rs256Signer(pair)))
}

fn new_verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    check_algorithm(*algorithm, key.family())?;
    // A copy for each token, because the box must not borrow from the key. It takes some 100 ns;
    // the signature takes some 20,000.
    Ok(Box::new(Rs256Verifier(key.clone())))
}

fn check_algorithm(algorithm: Algorithm, family: AlgorithmFamily) -> Result<()> {
    if algorithm != Algorithm::RS256 {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    if family != AlgorithmFamily::Rsa {
        return Err(new_error(ErrorKind::InvalidKeyFormat));
    }
    Ok(())
}

struct Rs256Signer(RsaKeyPair);

impl signature::Signer<Vec<u8>> for Rs256Signer {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| signature::Error::new())?;
        Ok(signature)
    }
}

impl JwtSigner for Rs256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

struct Rs256Verifier(DecodingKey);

impl signature::Verifier<Vec<u8>> for Rs256Verifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let outcome =
            match self.0.kind() {
                DecodingKeyKind::RsaModulusExponent { n, e } => RsaPublicKeyComponents { n, e }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
                DecodingKeyKind::SecretOrDer(der) => {
                    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der)
                        .verify(message, signature)
                }
            };
        outcome.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

/// Modulus and exponent, big-endian without leading zeros, of a PKCS#1 `RSAPrivateKey`.
fn public_components_of_private_key(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let pair =
        RsaKeyPair::from_der(der).map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
    let components = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
    Ok((components.n, components.e))
}

/// Modulus and exponent, big-endian without leading zeros, of a PKCS#1 `RSAPublicKey`.
pub(super) fn public_components(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let key = pkcs1::RsaPublicKey::try_from(der)
        .map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
    Ok((key.modulus.as_bytes().to_vec(), key.public_exponent.as_bytes().to_vec()))
}

/// The length of the modulus of a PKCS#1 `RSAPrivateKey`, bits.
pub(super) fn private_key_bits(der: &[u8]) -> Result<usize> {
    let key = pkcs1::RsaPrivateKey::try_from(der)
        .map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
    let modulus = key.modulus.as_bytes();
    Ok(modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize))
}

fn refuse_ec(_key: &[u8], _algorithm: Algorithm) -> Result<(EllipticCurve, Vec<u8>, Vec<u8>)> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

fn refuse_ed(_key: &[u8], _curve: &EllipticCurve) -> Result<Vec<u8>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

/// For JWK thumbprints (RFC 7638), which we make with SHA-256 only.
fn compute_digest(data: &[u8], hash: ThumbprintHash) -> Result<Vec<u8>> {
    match hash {
        ThumbprintHash::SHA256 => {
            Ok(ring::digest::digest(&ring::digest::SHA256, data).as_ref().to_vec())
        }
        _ => Err(Error::from(ErrorKind::UnsupportedAlgorithm)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_other_algorithm() {
        install_provider();
        install_provider();
        let secret = EncodingKey::from_secret(b"secret");
        let error = jsonwebtoken::crypto::sign(b"message", &secret, Algorithm::HS256)
            .expect_err("HS256 is not provided");
        assert!(matches!(error.kind(), ErrorKind::UnsupportedAlgorithm));
        let key = DecodingKey::from_rsa_raw_components(&[0xff; 256], &[1, 0, 1]);
        for algorithm in [
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::ES256,
            Algorithm::HS256,
        ] {
            assert!(
                jsonwebtoken::crypto::verify("AA", b"message", &key, algorithm).is_err(),
                "{algorithm:?}"
            );
        }
        let shared = DecodingKey::from_secret(b"secret");
        assert!(jsonwebtoken::crypto::verify("AA", b"message", &shared, Algorithm::RS256).is_err());
        assert!(
            !jsonwebtoken::crypto::verify("AA", b"message", &key, Algorithm::RS256)
                .expect("RS256 is provided")
        );
    }

    #[test]
    fn thumbprint_of_rfc_7638() {
        install_provider();
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6\
                 tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5\
                 v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD0\
                 8qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU\
                 8awapJzKnqDKgw";
        let jwk: jsonwebtoken::jwk::Jwk =
            serde_json::from_value(serde_json::json!({"kty": "RSA", "n": n, "e": "AQAB"}))
                .expect("a JWK");
        let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).expect("a thumbprint");
        assert_eq!(thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
