//! Client certificates (mTLS): which clients may connect, and what their certificates say.

use super::certificate::Certificate;
use super::identity::{self, IdentityError};
use crate::auth::ClientName;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::fmt;
use std::sync::Arc;

/// `tls.client_auth`: whether a client must show a certificate, if a CA for clients is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without one.
    #[default]
    Required,
    /// A client may connect without one; if it shows one, it must be valid.
    Optional,
}

/// Why a file contains no CA for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCaError {
    /// It is not PEM, or a block of it does not decode.
    NotPem,
    /// It contains no certificate.
    Empty,
    /// A certificate in it does not decode.
    Malformed,
}

impl fmt::Display for ClientCaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientCaError::NotPem => {
                "it is not PEM: give a file with the certificates of the CAs of your clients"
            }
            ClientCaError::Empty => {
                "it holds no certificate: give the PEM file of the CA that signs your clients"
            }
            ClientCaError::Malformed => {
                "a certificate in it cannot be decoded: export the CA again as PEM"
            }
        })
    }
}

impl std::error::Error for ClientCaError {}

/// The verifier of client certificates for the CAs in `text`, and the names of those CAs.
pub(crate) fn verifier(
    text: &[u8],
    auth: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<Certificate>), ClientCaError> {
    let authorities = identity::chain(text).map_err(|error| match error {
        IdentityError::NotPem(_) => ClientCaError::NotPem,
        _ => ClientCaError::Empty,
    })?;
    let said = authorities.iter().map(|der| Certificate::parse(der)).collect::<Option<Vec<_>>>();
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|_| ClientCaError::Malformed)?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let verifier = builder.build().map_err(|_| ClientCaError::Malformed)?;
    Ok((verifier, said.ok_or(ClientCaError::Malformed)?))
}

/// The names in the certificate that a client has shown: the first of its chain, in DER. `None` if
/// it does not decode: then the client has no name.
pub(crate) fn client_name(der: &[u8]) -> Option<ClientName> {
    let Certificate { subject, common_names, dns_names, uris, .. } = Certificate::parse(der)?;
    Some(ClientName { subject: ClientName::cut_subject(&subject), common_names, dns_names, uris })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ClientTenant;
    use exo_ingest_harness::certificates::{Authority, named};
    use std::collections::HashSet;

    #[test]
    fn the_chosen_names_of_a_certificate_are_its_tenants() {
        let der = named("acme", &["tenant.example"], &["urn:tenant:acme"]);
        let name = client_name(&der).unwrap();
        assert_eq!(&*name.subject, "CN=acme");
        assert_eq!(name.tenants(ClientTenant::Off), None);
        for (by, tenant) in [
            (ClientTenant::CommonName, "acme"),
            (ClientTenant::DnsName, "tenant.example"),
            (ClientTenant::Uri, "urn:tenant:acme"),
        ] {
            assert_eq!(name.tenants(by), Some(HashSet::from([tenant.into()])), "{by:?}");
        }
        let nameless = client_name(&named("acme", &[], &[])).unwrap();
        assert_eq!(
            nameless.tenants(ClientTenant::Uri),
            Some(HashSet::new()),
            "it may be no tenant"
        );
        assert_eq!(client_name(b"no certificate"), None);
    }

    #[test]
    fn a_file_without_a_ca_is_refused() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let parse = |text: &str| {
            verifier(text.as_bytes(), ClientAuth::Required, &provider).map(|(_, said)| said.len())
        };
        let ca = Authority::new("clients");
        assert_eq!(parse(&format!("{}{}", ca.pem, Authority::new("others").pem)), Ok(2));
        assert_eq!(parse(""), Err(ClientCaError::Empty));
        assert_eq!(
            parse("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n"),
            Err(ClientCaError::NotPem)
        );
        assert_eq!(
            parse("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Err(ClientCaError::Malformed)
        );
    }
}
