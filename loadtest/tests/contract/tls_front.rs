//! A TLS front before a plain node: rustls' server role on two threads a connection, right or wrong
//! in one chosen way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::certificates::{Authority, Identity};

/// What the front does, or does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As it should.
    Right,
    /// It gives no tickets, and takes none.
    NoTickets,
    /// It ends connections without close_notify.
    NoCloseNotify,
    /// It changes a byte of what the node says after `started`.
    Tampers,
    /// It changes its keys with each message of the node, and asks the peer to do so.
    UpdatesKeys,
}

/// The front.
pub struct Front {
    /// For `--url`.
    pub url: String,
}

impl Front {
    /// Before the node at `node`, on a port of its own. Its threads end with the test.
    pub fn start(node: SocketAddr, config: ServerConfig, way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("wss://{}/v1/ingest", listener.local_addr().expect("an address"));
        let config = Arc::new(config);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, config) = (client.expect("accept"), config.clone());
                // Whatever ends a connection is the generator's to report.
                thread::spawn(move || serve(&client, node, config, way));
            }
        });
        Self { url }
    }
}

/// A configuration with this certificate. `clients`: each has to show one of this authority's.
pub fn config(identity: &Identity, clients: Option<&Authority>, way: Way) -> ServerConfig {
    config_of(identity, clients, way, rustls::ALL_VERSIONS)
}

/// The same with these versions alone.
pub fn config_of(
    identity: &Identity,
    clients: Option<&Authority>,
    way: Way,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate()).expect("a certificate");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let mut config = builder
        .with_single_cert(vec![identity.certificate.clone()], identity.key())
        .expect("its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if way == Way::NoTickets {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Ticketer::new().expect("random numbers");
    }
    config
}

/// A connection: one thread reads what the client says, one what the node says. Both send to the
/// client, with the connection locked.
struct Bridge<'a> {
    tls: Mutex<ServerConnection>,
    client: &'a TcpStream,
    node: TcpStream,
    way: Way,
}

fn serve(
    client: &TcpStream,
    node: SocketAddr,
    config: Arc<ServerConfig>,
    way: Way,
) -> io::Result<()> {
    let tls = Mutex::new(ServerConnection::new(config).map_err(io::Error::other)?);
    let bridge = Bridge { tls, client, node: TcpStream::connect(node)?, way };
    bridge.node.set_nodelay(true)?;
    client.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| bridge.node_to_client());
        // The client's end, however it came, is the node's to see.
        let done = bridge.client_to_node();
        let how = if done.is_ok() { Shutdown::Write } else { Shutdown::Both };
        bridge.node.shutdown(how)
    })
}

impl Bridge<'_> {
    fn tls(&self) -> MutexGuard<'_, ServerConnection> {
        self.tls.lock().expect("nobody panics with it")
    }

    fn send(&self, tls: &mut ServerConnection) -> io::Result<()> {
        let mut client = self.client;
        while tls.wants_write() {
            tls.write_tls(&mut client)?;
        }
        Ok(())
    }

    fn client_to_node(&self) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        let (mut client, mut node) = (self.client, &self.node);
        loop {
            let size = client.read(&mut buffer)?;
            if size == 0 {
                return Ok(());
            }
            let (mut sealed, mut plain) = (&buffer[..size], Vec::new());
            let mut tls = self.tls();
            let mut is_closed = false;
            while !sealed.is_empty() && !is_closed {
                tls.read_tls(&mut sealed)?;
                let state = tls.process_new_packets();
                self.send(&mut tls)?;
                let state = state.map_err(io::Error::other)?;
                let end = plain.len();
                plain.resize(end + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain[end..])?;
                is_closed = state.peer_has_closed();
            }
            drop(tls);
            node.write_all(&plain)?;
            if is_closed {
                return Ok(());
            }
        }
    }

    fn node_to_client(&self) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        let (mut client, mut node) = (self.client, &self.node);
        for message in 0.. {
            let size = node.read(&mut buffer)?;
            let mut tls = self.tls();
            if size == 0 {
                if self.way != Way::NoCloseNotify {
                    tls.send_close_notify();
                    self.send(&mut tls)?;
                }
                return client.shutdown(Shutdown::Write);
            }
            tls.writer().write_all(&buffer[..size])?;
            match self.way {
                // The answer to the upgrade and `started` come first.
                Way::Tampers if message >= 2 => {
                    let mut sealed = Vec::new();
                    while tls.wants_write() {
                        tls.write_tls(&mut sealed)?;
                    }
                    *sealed.last_mut().expect("a record") ^= 1;
                    client.write_all(&sealed)?;
                }
                Way::UpdatesKeys => {
                    tls.refresh_traffic_keys().map_err(io::Error::other)?;
                    self.send(&mut tls)?;
                }
                _ => self.send(&mut tls)?,
            }
        }
        Ok(())
    }
}
