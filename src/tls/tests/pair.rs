//! A rustls client and a record layer, in memory.

#![forbid(unsafe_code)]

use super::*;
use crate::tls::keys::Suite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, SupportedCipherSuite,
};
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

/// A version with one of its suites.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combination {
    pub(crate) version: Version,
    pub(crate) suite: Suite,
    offered: SupportedCipherSuite,
}

/// All that rustls has: each version with each of its AEADs, once.
pub(crate) fn combinations() -> Vec<Combination> {
    let one = |version, suite, offered| Combination { version, suite, offered };
    let (old, new) = (Version::Tls12, Version::Tls13);
    vec![
        one(new, Suite::Aes128Gcm, cipher_suite::TLS13_AES_128_GCM_SHA256),
        one(new, Suite::Aes256Gcm, cipher_suite::TLS13_AES_256_GCM_SHA384),
        one(new, Suite::ChaCha20Poly1305, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
        one(old, Suite::Aes128Gcm, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        one(old, Suite::Aes256Gcm, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        one(
            old,
            Suite::ChaCha20Poly1305,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ]
}

/// A certificate for `localhost`, and its key.
fn identity() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

pub(crate) fn server_config() -> ServerConfig {
    let (certificate, key) = identity();
    let key = PrivateKeyDer::try_from(key.clone()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key);
    complete(config.expect("the key is the certificate's"))
}

pub(crate) fn client_config(combination: Combination) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0.clone()).expect("a certificate");
    let provider =
        CryptoProvider { cipher_suites: vec![combination.offered], ..default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config
}

pub(crate) fn new_client(config: ClientConfig) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    client.set_buffer_limit(None);
    client
}

/// What a client wants to send.
pub(crate) fn drain(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory takes all");
    }
    bytes
}

pub(crate) fn hear(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("memory is read");
        client.process_new_packets()?;
    }
    Ok(())
}

/// A handshake, byte by byte.
pub(crate) fn shake_hands(
    config: ServerConfig,
    combination: Combination,
) -> Result<(ClientConnection, Handshaken), TlsFailure> {
    let config = Arc::new(config);
    let mut client = new_client(client_config(combination));
    let mut handshake = Handshake::default();
    loop {
        for byte in drain(&mut client) {
            assert!(!handshake.has_work());
            handshake.push(&[byte]);
            if !handshake.has_work() {
                continue;
            }
            match handshake.step(&config) {
                Progress::Incomplete => {}
                Progress::Complete(mut handshaken) => {
                    let flight = handshaken.records.take_flight().unwrap_or_default();
                    hear(&mut client, &flight).expect("a good flight");
                    assert!(!client.is_handshaking());
                    return Ok((client, *handshaken));
                }
                Progress::Failed(failure) => return Err(failure),
            }
        }
        let flight = handshake.take_flight().expect("the client waits for it");
        hear(&mut client, &flight).expect("a good flight");
    }
}

/// Result of opening bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) data: Vec<u8>,
    pub(crate) is_closed: bool,
    pub(crate) failure: Option<TlsFailure>,
}

impl Outcome {
    pub(crate) fn data(data: Vec<u8>) -> Outcome {
        Outcome { data, ..Outcome::default() }
    }
}

/// Opens `bytes`, and adds the result.
pub(crate) fn open(
    records: &mut Records,
    spills: &mut SpillPool,
    bytes: &[u8],
    outcome: &mut Outcome,
) {
    let mut chunk = bytes.to_vec();
    let mut at = 0;
    loop {
        match records.open(&mut chunk, &mut at, spills, true) {
            Ok(None) => return,
            Ok(Some(Opened::Closed)) => outcome.is_closed = true,
            Ok(Some(Opened::Data(Place::Chunk(range)))) => {
                outcome.data.extend_from_slice(&chunk[range])
            }
            Ok(Some(Opened::Data(Place::Spill(spill, range)))) => {
                outcome.data.extend_from_slice(&spills.bytes(&spill)[range]);
                spills.release(spill);
            }
            Err(failure) => {
                assert!(outcome.failure.replace(failure).is_none(), "a connection fails once");
            }
        }
    }
}

/// Opens pieces with `keys`, from the first record on.
pub(crate) fn open_in<'a>(keys: RecordKeys, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut records, mut spills) = (Records::new(keys, Vec::new()), SpillPool::new(1));
    let mut outcome = Outcome::default();
    pieces.for_each(|piece| open(&mut records, &mut spills, piece, &mut outcome));
    assert_eq!(spills.used(), 0);
    outcome
}

/// Both ends of a connection after its handshake.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) client_is_closed: bool,
    pub(crate) records: Box<Records>,
    pub(crate) spills: SpillPool,
}

impl Pair {
    pub(crate) fn new(combination: Combination) -> Pair {
        let (client, handshaken) = shake_hands(server_config(), combination).expect("a handshake");
        let keys = handshaken.records.keys();
        assert_eq!((keys.version, keys.suite), (combination.version, combination.suite));
        assert!(
            handshaken.rest.is_empty() && !handshaken.is_resumed && handshaken.client.is_none()
        );
        Pair {
            client,
            client_is_closed: false,
            records: handshaken.records,
            spills: SpillPool::new(4),
        }
    }

    /// The bytes that the client sends for a payload.
    pub(crate) fn client_says(&mut self, payload: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(payload).expect("memory takes all");
        drain(&mut self.client)
    }

    /// What the client reads from bytes.
    pub(crate) fn client_hears(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        hear(&mut self.client, bytes)?;
        let mut heard = Vec::new();
        match self.client.reader().read_to_end(&mut heard) {
            Ok(_) => self.client_is_closed = true,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        Ok(heard)
    }

    /// Seals a payload, and lets the client open it.
    pub(crate) fn node_says(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload.len() + OVERHEAD_SIZE_MAX];
        let front = self.records.front_size();
        out[front..front + payload.len()].copy_from_slice(payload);
        let size = self.records.seal(&mut out, payload.len());
        self.client_hears(&out[..size]).expect("a good record")
    }

    pub(crate) fn seal_own(&mut self) -> Vec<u8> {
        let mut out = [0; 512];
        let size = self.records.seal_own(&mut out);
        out[..size].to_vec()
    }

    pub(crate) fn open(&mut self, bytes: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        open(&mut self.records, &mut self.spills, bytes, &mut outcome);
        outcome
    }

    /// A record layer in place of the client, which can send anything.
    pub(crate) fn impostor(&self) -> Records {
        let keys = *self.records.keys();
        Records::new(RecordKeys { receive: keys.send, send: keys.receive, ..keys }, Vec::new())
    }
}

/// Any content, sealed.
pub(crate) fn sealed(records: &mut Records, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + OVERHEAD_SIZE_MAX];
    let front = records.front_size();
    out[front..front + payload.len()].copy_from_slice(payload);
    let size = records.seal_as(kind, &mut out, payload.len());
    out.truncate(size);
    out
}
