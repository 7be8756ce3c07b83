//! TLS for tests: a certificate, configurations of node and client with it, and the client's side
//! of a [`Peer`](crate::Peer)'s connection, by rustls.

use rcgen::generate_simple_self_signed;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig,
    SupportedCipherSuite,
};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// A self-signed certificate for `localhost`, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// A new one.
    pub fn make() -> Certificate {
        let made = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Certificate { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    /// The configuration of a node with it.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.clone()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("the key is the certificate's");
        config.ticketer = rustls::crypto::ring::Ticketer::new().expect("random numbers");
        Arc::new(exo_ingest::tls::complete(config))
    }

    /// The configuration of a client that trusts only this certificate, after `change`.
    pub fn client(&self, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
        self.client_with(default_provider().cipher_suites, change)
    }

    /// The same with these cipher suites.
    pub fn client_with(
        &self,
        cipher_suites: Vec<SupportedCipherSuite>,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = CryptoProvider { cipher_suites, ..default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        change(&mut config);
        Arc::new(config)
    }
}

/// The client's side of a TLS connection.
#[derive(Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    connection: ClientConnection,
}

impl Client {
    /// A client before its handshake.
    pub fn new(config: &Arc<ClientConfig>) -> Client {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        connection.set_buffer_limit(None);
        Client { config: Arc::clone(config), connection }
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// rustls' connection.
    pub fn connection(&mut self) -> &mut ClientConnection {
        &mut self.connection
    }

    /// rustls' connection, to keep.
    pub fn into_connection(self) -> ClientConnection {
        self.connection
    }

    /// Completes a handshake.
    pub fn shake_hands(&mut self, socket: &mut TcpStream) -> Result<Option<HandshakeKind>> {
        while self.connection.is_handshaking() {
            self.flush(socket)?;
            if self.connection.is_handshaking() && self.receive(socket)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush(socket)?;
        Ok(self.connection.handshake_kind())
    }

    /// Sends bytes.
    pub fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> Result<()> {
        let records = self.seal(bytes);
        socket.write_all(&records)
    }

    /// The records for these bytes, which are not sent.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.connection.writer().write_all(bytes).expect("memory takes all");
        self.pending()
    }

    /// The records that wait to be sent.
    pub fn pending(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut records).expect("memory takes all");
        }
        records
    }

    /// Reads some bytes; 0 at `close_notify`. An end without `close_notify` is an error.
    pub fn read(&mut self, socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.receive(socket)?;
                }
                outcome => return outcome,
            }
        }
    }

    fn receive(&mut self, socket: &mut TcpStream) -> Result<usize> {
        let size = loop {
            match self.connection.read_tls(socket) {
                // As in `Peer::read_more`: the kernel removes a ring by a signal.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let outcome = self.connection.process_new_packets();
        // An alert, or the answer to a KeyUpdate. If the node has ended, it does not matter.
        let _ = self.flush(socket);
        outcome.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        Ok(size)
    }

    fn flush(&mut self, socket: &mut TcpStream) -> Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(socket)?;
        }
        Ok(())
    }
}
