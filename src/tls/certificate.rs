//! Content of a certificate: its names, its dates, its kind of key.
//!
//! This module does not decide whether a certificate is trusted: rustls does.

use core::net::IpAddr;
use x509_cert::Certificate as Parsed;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// `commonName` (RFC 4519).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// `rsaEncryption` (RFC 8017).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// `id-ecPublicKey` (RFC 5480), and the curve P-256.
const ELLIPTIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// ECDSA on P-256: the cheapest to sign with.
    P256,
    /// RSA of any length.
    Rsa,
    /// Anything else.
    Other,
}

impl KeyKind {
    /// Name in text for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            KeyKind::P256 => "P-256",
            KeyKind::Rsa => "RSA",
            KeyKind::Other => "another kind of key",
        }
    }
}

/// Content of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The subject in the form of RFC 4514, such as `CN=example,O=Acme`. May be empty.
    pub(crate) subject: String,
    /// The common names of the subject.
    pub(crate) common_names: Vec<String>,
    /// DNS names of `subjectAltName`, as they are written.
    pub(crate) dns_names: Vec<String>,
    /// URIs of `subjectAltName`.
    pub(crate) uris: Vec<String>,
    /// Addresses of `subjectAltName`.
    pub(crate) addresses: Vec<IpAddr>,
    /// Start of its validity, seconds since 1970.
    pub(crate) not_before: u64,
    /// End of its validity, seconds since 1970.
    pub(crate) not_after: u64,
    /// The kind of its key.
    pub(crate) key_kind: KeyKind,
    /// Subject and issuer in DER. They show which certificate signed which.
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
}

impl Certificate {
    /// Reads DER; `None` if it is not a certificate.
    pub(crate) fn parse(der: &[u8]) -> Option<Certificate> {
        let body = Parsed::from_der(der).ok()?.tbs_certificate;
        let key = &body.subject_public_key_info.algorithm;
        let curve =
            key.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let mut certificate = Certificate {
            subject: body.subject.to_string(),
            common_names: Vec::new(),
            dns_names: Vec::new(),
            uris: Vec::new(),
            addresses: Vec::new(),
            not_before: body.validity.not_before.to_unix_duration().as_secs(),
            not_after: body.validity.not_after.to_unix_duration().as_secs(),
            key_kind: match (key.oid, curve) {
                (RSA, _) => KeyKind::Rsa,
                (ELLIPTIC, Some(P256)) => KeyKind::P256,
                _ => KeyKind::Other,
            },
            subject_der: body.subject.to_der().ok()?,
            issuer_der: body.issuer.to_der().ok()?,
        };
        for attribute in body.subject.0.iter().flat_map(|part| part.0.iter()) {
            if attribute.oid == COMMON_NAME {
                certificate.common_names.extend(text(&attribute.value));
            }
        }
        // A second `subjectAltName`, or one that does not decode, counts as none, so it admits no
        // client.
        let names = body.get::<SubjectAltName>().ok().flatten().map(|(_, names)| names.0);
        names.unwrap_or_default().into_iter().for_each(|name| certificate.add(name));
        Some(certificate)
    }

    fn add(&mut self, name: GeneralName) {
        match name {
            GeneralName::DnsName(name) => self.dns_names.push(name.as_str().to_owned()),
            GeneralName::UniformResourceIdentifier(uri) => self.uris.push(uri.as_str().to_owned()),
            GeneralName::IpAddress(bytes) => {
                let bytes = bytes.as_bytes();
                let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
                self.addresses.extend(v4.ok().or(v6.ok()));
            }
            _ => {}
        }
    }

    /// Whether this certificate names `issuer` as its issuer.
    pub(crate) fn names_as_issuer(&self, issuer: &Certificate) -> bool {
        self.issuer_der == issuer.subject_der
    }

    /// A short name for a log line: its first DNS name or address, else its subject.
    pub(crate) fn label(&self) -> String {
        let address = || self.addresses.first().map(ToString::to_string);
        let named = self.dns_names.first().cloned().or_else(address);
        named.unwrap_or_else(|| self.subject.clone())
    }
}

/// The text of an attribute of a subject, in the encodings that certificates use for names.
fn text(value: &x509_cert::attr::AttributeValue) -> Option<String> {
    let utf8 = || value.decode_as::<Utf8StringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let printable =
        || value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let teletex =
        || value.decode_as::<TeletexStringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    utf8().or_else(printable).or_else(ia5).or_else(teletex)
}
