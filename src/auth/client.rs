//! The names in a client's certificate, and the tenants that it may record for.
//!
//! The certificate was verified before: only its names are read here.

use std::collections::HashSet;

/// `tls.client_tenant`: which name in a client's certificate must equal the tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientTenant {
    /// None: only the token names the tenant.
    #[default]
    Off,
    /// The common name of the subject.
    CommonName,
    /// A DNS name in `subjectAltName`.
    DnsName,
    /// A URI in `subjectAltName`.
    Uri,
}

/// A client that has shown a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientName {
    /// The subject of the certificate, for the log; cut if it is long.
    pub(crate) subject: Box<str>,
    /// The common names of the subject.
    pub(crate) common_names: Vec<String>,
    /// The DNS names of `subjectAltName`.
    pub(crate) dns_names: Vec<String>,
    /// The URIs of `subjectAltName`.
    pub(crate) uris: Vec<String>,
}

/// Longest subject in the log, bytes.
const SUBJECT_SIZE_MAX: usize = 256;

impl ClientName {
    /// The part of a subject that is stored.
    pub(crate) fn cut_subject(subject: &str) -> Box<str> {
        let end = subject.floor_char_boundary(SUBJECT_SIZE_MAX);
        subject.get(..end).unwrap_or_default().into()
    }

    /// The tenants that the client may record for; `None`: any tenant that its token names.
    pub(crate) fn tenants(&self, by: ClientTenant) -> Option<HashSet<Box<str>>> {
        let names = match by {
            ClientTenant::Off => return None,
            ClientTenant::CommonName => &self.common_names,
            ClientTenant::DnsName => &self.dns_names,
            ClientTenant::Uri => &self.uris,
        };
        Some(names.iter().map(|name| name.as_str().into()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_subject_is_cut_between_two_characters() {
        let long = format!("CN={}", "ü".repeat(200));
        let subject = ClientName::cut_subject(&long);
        assert!(
            long.starts_with(&*subject) && (250..=256).contains(&subject.len()),
            "{}",
            subject.len()
        );
        assert_eq!(&*ClientName::cut_subject("CN=a"), "CN=a");
    }
}
