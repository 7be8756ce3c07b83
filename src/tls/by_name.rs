//! Chooses one of several certificates by the name that a client asks for (SNI, RFC 6066 §3).
//!
//! ```text
//!  name of the hello ──exact──► certificates that name it ──┐  the first of them whose kind of key
//!       │            ──*.rest─► certificates with a wildcard ┼► the client knows; else the first
//!       └ none, or unknown ───► the first one configured ────┘
//! ```
//! A client that asks for an unknown name gets the first certificate and decides for itself. An
//! alert would break clients that connect by address or through a proxy.

use super::identity::Identity;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// All certificates of a node; at least one.
#[derive(Debug)]
pub(crate) struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
    /// From a name in lower case (`*.example.org` for a wildcard) to the certificates that have it.
    names: HashMap<Box<str>, Vec<usize>>,
}

impl ByName {
    /// `None` if there is no identity.
    pub(crate) fn new(identities: &[Identity]) -> Option<ByName> {
        let mut names: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, identity) in identities.iter().enumerate() {
            for name in &identity.certificate.dns_names {
                names.entry(name.to_ascii_lowercase().into()).or_default().push(index);
            }
        }
        let keys: Vec<_> = identities.iter().map(|identity| Arc::clone(&identity.key)).collect();
        (!keys.is_empty()).then_some(ByName { keys, names })
    }

    fn pick(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let found = name.and_then(|name| self.find(&name.to_ascii_lowercase()));
        let candidates =
            found.map_or(&[][..], Vec::as_slice).iter().filter_map(|index| self.keys.get(*index));
        let fallback = self.keys.first();
        let mut candidates = candidates.chain(fallback);
        let first = candidates.clone().next();
        candidates.find(|key| key.key.choose_scheme(schemes).is_some()).or(first).cloned()
    }

    fn find(&self, name: &str) -> Option<&Vec<usize>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        // RFC 6125 §6.4.3: a wildcard stands for one label, the leftmost one.
        let wildcard = || name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        self.names.get(name).or_else(|| self.names.get(wildcard()?.as_str()))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exo_ingest_harness::certificates::{Authority, Issued};

    fn identity(issued: &Issued) -> Identity {
        let provider = rustls::crypto::ring::default_provider();
        Identity::parse(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), &provider).unwrap()
    }

    #[test]
    fn a_name_picks_its_certificate_and_any_other_the_first() {
        let ca = Authority::new("test CA");
        let hosts: [&[&str]; 3] =
            [&["One.example"], &["*.wild.example", "apex.example"], &["a.wild.example"]];
        let all: Vec<_> = hosts.iter().map(|names| identity(&ca.issue(names))).collect();
        let by_name = ByName::new(&all).unwrap();
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        for (name, index) in [
            (None, 0),
            (Some("one.example"), 0),
            (Some("ONE.example."), 0),
            (Some("b.wild.example"), 1),
            (Some("apex.example"), 1),
            (Some("a.wild.example"), 2),
            (Some("a.b.wild.example"), 0),
            (Some("wild.example"), 0),
            (Some("unknown"), 0),
        ] {
            let picked = by_name.pick(name, &schemes).unwrap();
            assert!(Arc::ptr_eq(&picked, &all[index].key), "{name:?}");
        }
        assert!(ByName::new(&[]).is_none());
    }

    #[test]
    fn a_client_gets_a_certificate_that_it_can_check() {
        let ca = Authority::new("test CA");
        let one = identity(&ca.issue(&["one.example"]));
        let other = identity(&ca.issue_with(&["one.example"], &rcgen::PKCS_ECDSA_P384_SHA384));
        let all = [one, other];
        let by_name = ByName::new(&all).unwrap();
        for (scheme, index) in [
            (SignatureScheme::ECDSA_NISTP256_SHA256, 0),
            (SignatureScheme::ECDSA_NISTP384_SHA384, 1),
            (SignatureScheme::ED25519, 0),
        ] {
            let picked = by_name.pick(Some("one.example"), &[scheme]).unwrap();
            assert!(Arc::ptr_eq(&picked, &all[index].key), "{scheme:?}");
        }
    }
}
