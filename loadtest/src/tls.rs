//! TLS of `wss://`: which CAs exo-load trusts, what it offers, which tickets it keeps, and what its
//! errors mean. [`crate::socket`] moves the bytes.
//!
//! It uses rustls, as most clients in Rust do. The node has a record layer of its own, so a mistake
//! in it shows here.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
use serde::Serialize;

use crate::cli::tls::{TlsArgs, TlsVersion};
use crate::target::Target;

mod explain;
mod tickets;
mod witness;

pub use explain::explain;
use tickets::{Store, Tickets};
use witness::Witness;

/// The node knows no other protocol inside TLS.
const ALPN: &[u8] = b"http/1.1";

/// Longest wait for the first handshake.
const KNOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest wait for the node to end that connection.
const KNOCK_END_WAIT: Duration = Duration::from_secs(1);

/// How the generator makes TLS connections.
pub struct Tls {
    /// Uses no ticket: its handshakes are full ones. Without `--tls-resume` only this one is used.
    fresh: Arc<ClientConfig>,
    /// Uses a ticket if there is one.
    resuming: Arc<ClientConfig>,
    name: ServerName<'static>,
    witness: Arc<Witness>,
    /// Which CAs are trusted.
    pub trust: Trust,
    /// `--tls-resume`.
    pub resumes: bool,
    /// `--client-cert`.
    pub shows_certificate: bool,
    facts: OnceLock<Facts>,
}

/// Which CAs the node's certificate may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// CAs of the system's store.
    System,
    /// CAs of `--ca`.
    Ca,
    /// No CA: the certificate is not checked (`--insecure`).
    Nobody,
}

/// What the first handshake has agreed on.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: String,
    /// Cipher suite.
    pub cipher_suite: String,
    /// Key exchange group.
    pub key_exchange: String,
    /// The key that the node signs with: `ECDSA P-256`, `RSA-2048`.
    pub server_key: String,
}

/// Why there can be no TLS.
#[derive(Debug)]
pub enum TlsError {
    /// A flag of `wss://` with a `ws://` URL.
    PlainUrl(&'static str),
    /// A file of a flag cannot be used.
    File(&'static str, PathBuf, String),
    /// The system's store has no certificates.
    NoStore(String),
    /// A name that no certificate can have.
    Name(String),
    /// The flags do not go together.
    Config(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainUrl(flag) => write!(f, "{flag} is for wss:// URLs; give one with --url"),
            Self::File(flag, path, error) => write!(f, "{flag}: {}: {error}", path.display()),
            Self::NoStore(error) => write!(
                f,
                "--url: the system's store holds no CA certificates ({error}); give that of the \
                 node's CA with --ca FILE"
            ),
            Self::Name(name) => write!(
                f,
                "'{name}' is no name that a certificate can have; give the name in the node's \
                 certificate with --tls-name"
            ),
            Self::Config(error) => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Makes it from the flags; none for a `ws://` URL. `connections` bounds the tickets kept.
    pub fn new(
        args: &TlsArgs,
        target: &Target,
        connections: u64,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        if !target.is_secure() {
            return args.first_given().map_or(Ok(None), |flag| Err(TlsError::PlainUrl(flag)));
        }
        let name = args.tls_name.as_deref().unwrap_or_else(|| target.name());
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let trust = match (&args.ca, args.insecure) {
            (_, true) => Trust::Nobody,
            (Some(_), _) => Trust::Ca,
            (None, _) => Trust::System,
        };
        let witness = Arc::new(Witness::new(verifier(args, &provider)?, &provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(&args.tls_versions));
        let builder = builder
            .map_err(TlsError::Config)?
            .dangerous()
            .with_custom_certificate_verifier(witness.clone());
        let mut fresh = match (&args.client_cert, &args.client_key) {
            (Some(chain), Some(key)) => builder
                .with_client_auth_cert(certificates("--client-cert", chain)?, private_key(key)?)
                .map_err(|error| TlsError::File("--client-key", key.clone(), error.to_string()))?,
            _ => builder.with_no_client_auth(),
        };
        fresh.alpn_protocols = vec![ALPN.to_vec()];
        fresh.resumption = Resumption::disabled();
        let mut resuming = fresh.clone();
        if args.tls_resume {
            // A node may give two tickets for each connection, and each can be used once.
            let tickets = Arc::new(Tickets::new(
                usize::try_from(connections).unwrap_or(usize::MAX).saturating_mul(2),
            ));
            fresh.resumption = Resumption::store(Arc::new(Store::keeping(tickets.clone())));
            resuming.resumption = Resumption::store(Arc::new(Store::using(tickets)));
        }
        Ok(Some(Arc::new(Self {
            fresh: Arc::new(fresh),
            resuming: Arc::new(resuming),
            name,
            witness,
            trust,
            resumes: args.tls_resume,
            shows_certificate: args.client_cert.is_some(),
            facts: OnceLock::new(),
        })))
    }

    /// A connection before its first byte. `again`: a ticket may be used.
    pub fn begin(&self, again: bool) -> Result<ClientConnection, rustls::Error> {
        let config = if again { &self.resuming } else { &self.fresh };
        let mut connection = ClientConnection::new(config.clone(), self.name.clone())?;
        // A frame is sealed whole, however large. Its bytes are taken right after that.
        connection.set_buffer_limit(None);
        Ok(connection)
    }

    /// What the first handshake agreed on; none before the first.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.get()
    }

    /// Remembers what the first handshake has agreed on.
    pub fn note(&self, connection: &ClientConnection) {
        let unknown = || "unknown".to_owned();
        self.facts.get_or_init(|| Facts {
            version: match connection.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
                _ => unknown(),
            },
            cipher_suite: connection
                .negotiated_cipher_suite()
                .map_or_else(unknown, |suite| format!("{:?}", suite.suite())),
            key_exchange: connection
                .negotiated_key_exchange_group()
                .map_or_else(unknown, |group| format!("{:?}", group.name())),
            server_key: self.witness.key().map_or_else(unknown, str::to_owned),
        });
    }

    /// One handshake on a socket of its own.
    fn knock(&self, mut socket: TcpStream, wait: Duration, target: &Target) -> Result<(), String> {
        let timed =
            socket.set_read_timeout(Some(wait)).and_then(|()| socket.set_write_timeout(Some(wait)));
        let done = timed.and_then(|()| {
            let mut connection = self.begin(false).map_err(io::Error::other)?;
            while connection.is_handshaking() {
                connection.complete_io(&mut socket)?;
            }
            self.note(&connection);
            connection.send_close_notify();
            connection.complete_io(&mut socket)?;
            // The node may count the handshake only when the connection ends: wait for that.
            socket.set_read_timeout(Some(wait.min(KNOCK_END_WAIT)))?;
            while matches!(connection.read_tls(&mut socket), Ok(1..))
                && connection.process_new_packets().is_ok()
            {}
            Ok(())
        });
        done.map_err(|error| explain::refusal(&error, target, self.trust))
    }
}

/// Connects once before thousands of calls do. The error is a sentence that says what is wrong.
pub fn knock(target: &Target, tls: Option<&Tls>, wait: Duration) -> Result<(), String> {
    let wait = wait.clamp(Duration::from_millis(1), KNOCK_WAIT_MAX);
    let address = target.address;
    let socket = TcpStream::connect_timeout(&address, wait).map_err(|error| {
        format!("nothing answers at {address} ({error}); start a node there, or give its --url")
    })?;
    tls.map_or(Ok(()), |tls| tls.knock(socket, wait, target))
}

fn versions(asked: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V13, &version::TLS13), (TlsVersion::V12, &version::TLS12)];
    let is_asked = |version: &TlsVersion| asked.is_empty() || asked.contains(version);
    all.into_iter().filter(|(version, _)| is_asked(version)).map(|(_, version)| version).collect()
}

/// None if nothing is verified.
fn verifier(
    args: &TlsArgs,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, TlsError> {
    if args.insecure {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    match &args.ca {
        Some(path) => {
            for certificate in certificates("--ca", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| TlsError::File("--ca", path.clone(), error.to_string()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // A store may hold certificates that rustls cannot read. They are ignored.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let error = found
                    .errors
                    .first()
                    .map_or_else(|| "none were found".to_owned(), ToString::to_string);
                return Err(TlsError::NoStore(error));
            }
        }
    }
    let built =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    built.map(Some).map_err(|error| TlsError::Config(rustls::Error::General(error.to_string())))
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |error: String| TlsError::File(flag, path.to_owned(), error);
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>);
    let found = read.map_err(|error| failed(in_words(&error)))?;
    if found.is_empty() {
        return Err(failed(
            "holds no certificate; give a PEM file with BEGIN CERTIFICATE lines".to_owned(),
        ));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed =
        |error: pem::Error| TlsError::File("--client-key", path.to_owned(), in_words(&error));
    PrivateKeyDer::from_pem_file(path).map_err(failed)
}

/// A PEM error in words.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => {
            "holds no private key; give a PEM file with a BEGIN PRIVATE KEY line".to_owned()
        }
        pem::Error::Io(error) => format!("cannot be read ({error})"),
        other => format!("is no PEM file that can be read ({other})"),
    }
}
