//! From the texts of files to a [`ServerConfig`]: if one file is invalid, none is used.
//!
//! It reads no file and no clock; the control plane does.

use super::by_name::ByName;
use super::certificate::Certificate;
use super::client_auth::{self, ClientAuth, ClientCaError};
use super::identity::{File, Identity, IdentityError};
use super::tickets::{TicketKeys, TicketKeysError};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CipherSuite, ServerConfig};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The files, and what clients must do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `tls.cert` and `tls.key`, in pairs. The first pair serves clients that name no known host.
    pub identities: Vec<(PathBuf, PathBuf)>,
    /// `tls.ticket_keys`; `None`: the process makes its own keys.
    pub ticket_keys: Option<PathBuf>,
    /// `tls.client_ca`; `None`: clients show no certificate.
    pub client_ca: Option<PathBuf>,
    /// `tls.client_auth`.
    pub client_auth: ClientAuth,
}

impl TlsSettings {
    /// The files that other users should not be able to read.
    pub(crate) fn secret_files(&self) -> Vec<&PathBuf> {
        self.identities.iter().map(|(_, key)| key).chain(&self.ticket_keys).collect()
    }

    /// Every file, in the order of [`TlsTexts::from_files`].
    pub fn files(&self) -> Vec<PathBuf> {
        let pairs = self.identities.iter().flat_map(|(cert, key)| [cert, key]);
        pairs.chain(&self.ticket_keys).chain(&self.client_ca).cloned().collect()
    }
}

/// Texts of the files, in the order of [`TlsSettings::files`].
#[derive(Debug)]
pub struct TlsTexts {
    identities: Vec<(Vec<u8>, Vec<u8>)>,
    ticket_keys: Option<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl TlsTexts {
    /// `texts`: one for each of [`TlsSettings::files`], in their order. `None` if there are too
    /// few.
    pub fn from_files(settings: &TlsSettings, texts: Vec<Vec<u8>>) -> Option<TlsTexts> {
        let mut texts = texts.into_iter();
        let mut identities = Vec::with_capacity(settings.identities.len());
        for _ in &settings.identities {
            identities.push((texts.next()?, texts.next()?));
        }
        let mut optional = |path: &Option<PathBuf>| {
            if path.is_some() { texts.next().map(Some) } else { Some(None) }
        };
        Some(TlsTexts {
            identities,
            ticket_keys: optional(&settings.ticket_keys)?,
            client_ca: optional(&settings.client_ca)?,
        })
    }
}

/// A valid configuration, and what is known about its certificates.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Serves the handshakes of all shards.
    pub config: Arc<ServerConfig>,
    /// The certificates, in the order of the settings.
    pub(crate) certificates: Vec<LoadedCertificate>,
    /// The number of keys in the file of ticket keys; `None`: the process has its own, or there are
    /// no tickets.
    pub ticket_keys: Option<usize>,
    /// The CAs of clients, by name.
    pub client_cas: Vec<String>,
    /// What is allowed but looks wrong, as sentences.
    pub warnings: Vec<String>,
}

/// A certificate of the server, and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadedCertificate {
    /// The file.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) certificate: Certificate,
}

/// Why there is no configuration. It contains nothing of the text of a file.
#[derive(Debug)]
pub enum TlsError {
    /// A certificate or its key is refused.
    Identity {
        /// The file that must be changed.
        path: PathBuf,
        /// The other one of the pair.
        other: PathBuf,
        /// Why.
        error: IdentityError,
    },
    /// The ticket keys are refused.
    TicketKeys {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TicketKeysError,
    },
    /// The CA of clients is refused.
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ClientCaError,
    },
    /// There is no certificate, there are no random numbers, or rustls refuses its input.
    Other(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Identity { path, other, error: error @ IdentityError::Mismatch } => {
                write!(
                    f,
                    "the key file {} does not match {}: {error}",
                    path.display(),
                    other.display()
                )
            }
            TlsError::Identity { path, error, .. } => {
                let what = if error.file() == File::Key { "key" } else { "certificate" };
                write!(f, "the TLS {what} file {} is refused: {error}", path.display())
            }
            TlsError::TicketKeys { path, error } => {
                write!(f, "the file of ticket keys {} is refused: {error}", path.display())
            }
            TlsError::ClientCa { path, error } => {
                write!(f, "the file of client CAs {} is refused: {error}", path.display())
            }
            TlsError::Other(reason) => write!(f, "TLS cannot be configured: {reason}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Makes configurations, one each time the files are read. Ticket keys of the process survive a
/// reload.
#[derive(Debug)]
pub struct TlsLoader {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    process_tickets: Arc<dyn ProducesTickets>,
}

impl TlsLoader {
    /// Fails if the system has no random numbers.
    pub fn new(settings: TlsSettings) -> Result<TlsLoader, TlsError> {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| cost(suite.suite()));
        let provider = Arc::new(provider);
        let no_random = || TlsError::Other("the system has no random numbers".into());
        let process_tickets = super::tickets::of_this_process().ok_or_else(no_random)?;
        Ok(TlsLoader { settings, provider, process_tickets })
    }

    /// The settings that it was made for.
    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    /// Makes a configuration from `texts`.
    pub fn load(&self, texts: &TlsTexts) -> Result<Loaded, TlsError> {
        let (identities, mut warnings) = self.identities(texts)?;
        let by_name = ByName::new(&identities)
            .ok_or_else(|| TlsError::Other("there is no certificate".into()))?;
        let (tickets, ticket_keys) = self.tickets(texts)?;
        let versions = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        let clients = self.clients(texts)?;
        let has_clients = clients.is_some();
        let (builder, client_cas) = match clients {
            Some((verifier, cas)) => (versions.with_client_cert_verifier(verifier), cas),
            None => (versions.with_no_client_auth(), Vec::new()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(by_name));
        // Of the suites that both sides know, use the one that opens audio at the least cost for
        // the node.
        config.ignore_client_order = true;
        // Not a session store, which all shards would lock; tickets need none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if has_clients {
            // A ticket would stand for a certificate that was checked hours ago, against CAs that
            // may have been removed since. With client certificates, every connection proves itself
            // anew.
            if ticket_keys.is_some() {
                warnings.push(
                    "tls.ticket_keys has no effect: with tls.client_ca no connection is resumed"
                        .into(),
                );
            }
        } else {
            config.ticketer = tickets;
        }
        let paths = self.settings.identities.iter().map(|(path, _)| path.clone());
        let certificates = paths
            .zip(identities)
            .map(|(path, identity)| LoadedCertificate { path, certificate: identity.certificate })
            .collect();
        Ok(Loaded {
            config: Arc::new(super::complete(config)),
            certificates,
            ticket_keys,
            client_cas,
            warnings,
        })
    }

    fn identities(&self, texts: &TlsTexts) -> Result<(Vec<Identity>, Vec<String>), TlsError> {
        let mut identities = Vec::with_capacity(texts.identities.len());
        let mut warnings = Vec::new();
        for ((certificate, key), (cert_path, key_path)) in
            texts.identities.iter().zip(&self.settings.identities)
        {
            let identity = Identity::parse(certificate, key, &self.provider).map_err(|error| {
                let (path, other) = match error.file() {
                    File::Certificate => (cert_path.clone(), key_path.clone()),
                    File::Key => (key_path.clone(), cert_path.clone()),
                };
                TlsError::Identity { path, other, error }
            })?;
            let about = |text: &String| format!("the certificate {}: {text}", cert_path.display());
            warnings.extend(identity.warnings.iter().map(about));
            identities.push(identity);
        }
        Ok((identities, warnings))
    }

    fn tickets(
        &self,
        texts: &TlsTexts,
    ) -> Result<(Arc<dyn ProducesTickets>, Option<usize>), TlsError> {
        let (Some(path), Some(text)) = (&self.settings.ticket_keys, &texts.ticket_keys) else {
            return Ok((Arc::clone(&self.process_tickets), None));
        };
        let clock: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
        let keys = TicketKeys::parse(text, clock)
            .map_err(|error| TlsError::TicketKeys { path: path.clone(), error })?;
        let count = keys.count();
        Ok((Arc::new(keys), Some(count)))
    }

    fn clients(&self, texts: &TlsTexts) -> Result<Option<Clients>, TlsError> {
        let (Some(path), Some(text)) = (&self.settings.client_ca, &texts.client_ca) else {
            return Ok(None);
        };
        let (verifier, said) =
            client_auth::verifier(text, self.settings.client_auth, &self.provider)
                .map_err(|error| TlsError::ClientCa { path: path.clone(), error })?;
        Ok(Some((verifier, said.into_iter().map(|ca| ca.subject).collect())))
    }
}

/// Orders cipher suites by the cost of opening a record with ring. A frame of 9,600 bytes takes 1.5
/// µs with AES-128-GCM, and ten times as much with ChaCha20.
fn cost(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
        _ => 2,
    }
}

/// The verifier of clients, and the names of their CAs.
type Clients = (Arc<dyn rustls::server::danger::ClientCertVerifier>, Vec<String>);
