//! A handshake without chance: random numbers, key exchange and signatures are constants. So the
//! flights of the client are recorded once. Played to a new server, they give the same keys each
//! time. It is also faster: no operation with a private key.

use exo_ingest::tls::keys::{RecordKeys, Version};
use exo_ingest::tls::records::{HEADER_SIZE, record_size};
use exo_ingest::tls::{Handshake, Progress, ServerConfig, complete};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{cipher_suite as suites, default_provider};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, ServerConnection,
    SignatureAlgorithm, SignatureScheme, SupportedCipherSuite,
};
use std::sync::{Arc, OnceLock};

/// All that rustls has: each version with each of its AEADs, once.
const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A session after its handshake, as often as it is needed.
pub struct Session {
    config: Arc<ServerConfig>,
    /// What the client sends in its handshake.
    said: Vec<u8>,
    /// The keys of the server.
    pub keys: RecordKeys,
}

impl Session {
    /// The session of a version and suite; `combination` is any number.
    pub fn of(combination: u8) -> &'static Session {
        static SESSIONS: OnceLock<Vec<Session>> = OnceLock::new();
        let all = SESSIONS.get_or_init(|| SUITES.into_iter().map(Session::new).collect());
        &all[usize::from(combination) % SUITES.len()]
    }

    fn new(suite: SupportedCipherSuite) -> Session {
        let config = server_config();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(client_config(suite), name).expect("a client");
        let (mut handshake, mut said) = (Handshake::default(), Vec::new());
        loop {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).expect("memory takes all");
            }
            said.extend_from_slice(&flight);
            handshake.push(&flight);
            match handshake.step(&config) {
                Progress::Incomplete => {}
                Progress::Complete(handshaken) => {
                    let keys = *handshaken.records.keys();
                    return Session { config, said, keys };
                }
                Progress::Failed(failure) => panic!("{failure:?}"),
            }
            let answer = handshake.take_flight().expect("the client waits for it");
            let mut rest = &answer[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("memory is read");
                client.process_new_packets().expect("a good handshake");
            }
        }
    }

    /// Whether it is TLS 1.3.
    pub fn is_new(&self) -> bool {
        self.keys.version == Version::Tls13
    }

    /// A rustls server after this handshake.
    pub fn server(&self) -> ServerConnection {
        let mut server = ServerConnection::new(Arc::clone(&self.config)).expect("a server");
        server.set_buffer_limit(None);
        let mut rest = &self.said[..];
        while rest.len() >= HEADER_SIZE {
            let (mut record, later) = rest.split_at(record_size(rest).expect("rustls' own"));
            server.read_tls(&mut record).expect("memory is read");
            server.process_new_packets().expect("a good handshake");
            rest = later;
        }
        assert!(!server.is_handshaking());
        let mut flights = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flights).expect("memory takes all");
        }
        server
    }
}

fn server_config() -> Arc<ServerConfig> {
    let provider = provider(default_provider().cipher_suites);
    let key = CertifiedKey::new(vec![CertificateDer::from(vec![0; 64])], Arc::new(Constant));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(complete(config))
}

fn client_config(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider(vec![suite])))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Constant))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn provider(cipher_suites: Vec<SupportedCipherSuite>) -> CryptoProvider {
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![&Constant],
        secure_random: &Constant,
        ..default_provider()
    }
}

/// Everything that is random or secret in a handshake: a constant.
#[derive(Debug)]
struct Constant;

const BYTES: [u8; 32] = [7; 32];

impl SecureRandom for Constant {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        bytes.fill(BYTES[0]);
        Ok(())
    }
}

impl SupportedKxGroup for Constant {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Constant))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Constant {
    fn complete(self: Box<Self>, _peer: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&BYTES[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &BYTES
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl SigningKey for Constant {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Constant))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Constant {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(BYTES.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

impl ServerCertVerifier for Constant {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
