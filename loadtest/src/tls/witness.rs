//! Verifies the node's certificate (with `--insecure` it accepts any), and remembers the kind of
//! key that the node signs with. An RSA-2048 signature costs the node 26 times as much as one with
//! P-256.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// The verifier.
#[derive(Debug)]
pub struct Witness {
    /// None: every certificate and every signature is accepted.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    schemes: Vec<SignatureScheme>,
    key: OnceLock<String>,
}

impl Witness {
    /// A verifier that asks `verifier`, if there is one.
    pub fn new(verifier: Option<Arc<WebPkiServerVerifier>>, provider: &CryptoProvider) -> Self {
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        Self { verifier, schemes, key: OnceLock::new() }
    }

    /// The kind of key that the node has signed with.
    pub fn key(&self) -> Option<&str> {
        self.key.get().map(String::as_str)
    }

    fn note(&self, signed: &DigitallySignedStruct) {
        self.key.get_or_init(|| kind(signed.scheme, signed.signature().len()));
    }
}

/// The kind of key. An RSA signature is as long as its key.
fn kind(scheme: SignatureScheme, signature_size: usize) -> String {
    match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ECDSA P-256".to_owned(),
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ECDSA P-384".to_owned(),
        SignatureScheme::ED25519 => "Ed25519".to_owned(),
        SignatureScheme::RSA_PSS_SHA256
        | SignatureScheme::RSA_PSS_SHA384
        | SignatureScheme::RSA_PSS_SHA512
        | SignatureScheme::RSA_PKCS1_SHA256
        | SignatureScheme::RSA_PKCS1_SHA384
        | SignatureScheme::RSA_PKCS1_SHA512 => format!("RSA-{}", signature_size * 8),
        other => format!("{other:?}"),
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.verifier {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(signed);
        match &self.verifier {
            Some(verifier) => verifier.verify_tls12_signature(message, certificate, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(signed);
        match &self.verifier {
            Some(verifier) => verifier.verify_tls13_signature(message, certificate, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_kind_and_size() {
        for (scheme, size, name) in [
            (SignatureScheme::ECDSA_NISTP256_SHA256, 71, "ECDSA P-256"),
            (SignatureScheme::ECDSA_NISTP384_SHA384, 103, "ECDSA P-384"),
            (SignatureScheme::RSA_PSS_SHA256, 256, "RSA-2048"),
            (SignatureScheme::RSA_PKCS1_SHA512, 512, "RSA-4096"),
            (SignatureScheme::ED25519, 64, "Ed25519"),
        ] {
            assert_eq!(kind(scheme, size), name);
        }
    }
}
