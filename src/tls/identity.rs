//! A certificate with its chain and its private key, from the text of two PEM files.

use super::certificate::{Certificate, KeyKind};
use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;

/// An identity that the server can prove.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The signing key, with its chain.
    pub(crate) key: Arc<CertifiedKey>,
    /// Content of the first certificate in the chain.
    pub(crate) certificate: Certificate,
    /// What is allowed but looks wrong, as sentences without the name of the file.
    pub(crate) warnings: Vec<String>,
}

/// Why two files are not a valid identity. Each error prints as half a sentence after the names of
/// the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The text is not PEM, or a block of it does not decode.
    NotPem(File),
    /// The certificate file contains no certificate.
    NoCertificate,
    /// A certificate does not decode.
    Certificate,
    /// The key file contains no key.
    NoKey,
    /// The key file contains only a public key.
    PublicKey,
    /// The key has a passphrase.
    Encrypted,
    /// The key file contains more than one key.
    SeveralKeys,
    /// ring cannot sign with such a key.
    Unusable,
    /// The key belongs to another certificate.
    Mismatch,
    /// The key belongs to a later certificate of the chain.
    Order,
}

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The file with the certificates.
    Certificate,
    /// The file with the key.
    Key,
}

impl IdentityError {
    /// The file that must be changed.
    pub const fn file(self) -> File {
        match self {
            IdentityError::NotPem(file) => file,
            IdentityError::NoCertificate | IdentityError::Certificate | IdentityError::Order => {
                File::Certificate
            }
            _ => File::Key,
        }
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdentityError::NotPem(_) => "it is not PEM: give a file with -----BEGIN …----- blocks",
            IdentityError::NoCertificate => {
                "it holds no certificate: give the PEM file with the certificate of the server \
                 first, then those of its issuers"
            }
            IdentityError::Certificate => {
                "a certificate in it cannot be decoded: export it again with `openssl x509 -in \
                 FILE -out cert.pem`"
            }
            IdentityError::NoKey => {
                "it holds no private key: give the PEM file with the key of the certificate"
            }
            IdentityError::PublicKey => {
                "it holds a public key: give the private key of the certificate"
            }
            IdentityError::Encrypted => {
                "the private key is encrypted: remove the passphrase with `openssl pkey -in FILE \
                 -out key.pem`"
            }
            IdentityError::SeveralKeys => {
                "it holds more than one private key: leave the one that belongs to the certificate"
            }
            IdentityError::Unusable => {
                "the private key cannot be used: give an ECDSA key on P-256 or P-384, an Ed25519 \
                 key, or RSA with 2048 to 8192 bits"
            }
            IdentityError::Mismatch => {
                "the private key does not belong to the certificate: give both files of one \
                 certificate, and as many --tls-key as --tls-cert, in the same order"
            }
            IdentityError::Order => {
                "the certificate of the server is not the first one in it: put it first, then \
                 those of its issuers"
            }
        })
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// From the texts of a certificate file and a key file, which may be the same file.
    pub(crate) fn parse(
        certificates: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<Identity, IdentityError> {
        let chain = chain(certificates)?;
        let said = chain.iter().map(|der| Certificate::parse(der)).collect::<Option<Vec<_>>>();
        let said = said.ok_or(IdentityError::Certificate)?;
        let key = private_key(key)?;
        let signing =
            provider.key_provider.load_private_key(key).map_err(|_| IdentityError::Unusable)?;
        let belongs =
            |chain: Vec<CertificateDer<'static>>| CertifiedKey::new(chain, Arc::clone(&signing));
        let key = belongs(chain.clone());
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let is_later =
                    |der: &CertificateDer<'static>| belongs(vec![der.clone()]).keys_match().is_ok();
                let is_there = chain.iter().skip(1).any(is_later);
                return Err(if is_there { IdentityError::Order } else { IdentityError::Mismatch });
            }
            Err(_) => return Err(IdentityError::Certificate),
        }
        let warnings = warnings(&said);
        let certificate = said.into_iter().next().ok_or(IdentityError::NoCertificate)?;
        Ok(Identity { key: Arc::new(key), certificate, warnings })
    }
}

/// What clients may refuse, and what costs the server more than necessary.
fn warnings(chain: &[Certificate]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(first) = chain.first() else { return warnings };
    if first.key_kind == KeyKind::Rsa {
        warnings.push(
            "it has an RSA key: a handshake costs 26 times the CPU of one with P-256. Ask your CA \
             for an ECDSA certificate on P-256"
                .into(),
        );
    }
    if first.dns_names.is_empty() && first.addresses.is_empty() {
        warnings.push("it names no host in subjectAltName: clients will refuse it".into());
    }
    if !chain.is_sorted_by(|certificate, issuer| certificate.names_as_issuer(issuer)) {
        warnings.push(
            "its chain is out of order: put the certificate of its issuer after each certificate, \
             or some clients will refuse it"
                .into(),
        );
    }
    warnings
}

/// All blocks of a PEM file, in order; `None` if one does not decode, or has no end because the
/// file was copied in part.
fn blocks(text: &[u8]) -> Option<Vec<pem::Pem>> {
    let blocks = pem::parse_many(text).ok()?;
    (blocks.len() == memchr::memmem::find_iter(text, b"-----BEGIN ").count()).then_some(blocks)
}

/// All certificates of a PEM file, in order.
pub(super) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let blocks = blocks(text).ok_or(IdentityError::NotPem(File::Certificate))?;
    let is_certificate =
        |block: &pem::Pem| matches!(block.tag(), "CERTIFICATE" | "X509 CERTIFICATE");
    let chain: Vec<_> = blocks
        .into_iter()
        .filter(is_certificate)
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if chain.is_empty() { Err(IdentityError::NoCertificate) } else { Ok(chain) }
}

/// The single private key of a PEM file.
fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let blocks = blocks(text).ok_or(IdentityError::NotPem(File::Key))?;
    let mut keys = Vec::new();
    let mut is_public = false;
    for block in blocks {
        // RFC 1421: how OpenSSL wrote encrypted keys before PKCS#8.
        let is_encrypted =
            block.headers().get("Proc-Type").is_some_and(|value| value.contains("ENCRYPTED"));
        let tag = block.tag().to_owned();
        let der = block.into_contents();
        match tag.as_str() {
            "ENCRYPTED PRIVATE KEY" => return Err(IdentityError::Encrypted),
            tag if is_encrypted && tag.ends_with("PRIVATE KEY") => {
                return Err(IdentityError::Encrypted);
            }
            "PRIVATE KEY" => keys.push(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))),
            "EC PRIVATE KEY" => keys.push(PrivateKeyDer::from(PrivateSec1KeyDer::from(der))),
            "RSA PRIVATE KEY" => keys.push(PrivateKeyDer::from(PrivatePkcs1KeyDer::from(der))),
            tag => is_public |= tag.ends_with("PUBLIC KEY"),
        }
    }
    match (keys.len(), keys.pop()) {
        (1, Some(key)) => Ok(key),
        (0, _) if is_public => Err(IdentityError::PublicKey),
        (0, _) => Err(IdentityError::NoKey),
        _ => Err(IdentityError::SeveralKeys),
    }
}

#[cfg(test)]
mod tests;
