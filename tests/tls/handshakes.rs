//! What the TLS settings make of a handshake: which certificate a client gets, when a session is
//! resumed, which clients are accepted. A rustls client talks to the node's own configuration
//! without a socket.

use exo_ingest::tls::client_auth::ClientAuth;
use exo_ingest::tls::load::{Loaded, TlsLoader, TlsSettings, TlsTexts};
use exo_ingest_harness::certificates::{Authority, Issued};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConfigBuilder, HandshakeKind, NamedGroup,
    RootCertStore, ServerConnection, SupportedProtocolVersion,
};
use std::sync::Arc;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Two keys for tickets, in the form of a file.
const OLD_KEY: &str = "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=\n";
const NEW_KEY: &str = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=\n";

/// The files of a node, as texts.
#[derive(Clone, Default)]
struct Files {
    identities: Vec<(String, String)>,
    ticket_keys: Option<String>,
    client_ca: Option<String>,
    client_auth: ClientAuth,
}

impl Files {
    fn of(issued: &[&Issued]) -> Files {
        let identities = issued
            .iter()
            .map(|issued| (issued.chain_pem.clone(), issued.key_pem.clone()))
            .collect();
        Files { identities, ..Files::default() }
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            identities: self
                .identities
                .iter()
                .map(|_| ("cert.pem".into(), "key.pem".into()))
                .collect(),
            ticket_keys: self.ticket_keys.as_ref().map(|_| "tickets".into()),
            client_ca: self.client_ca.as_ref().map(|_| "clients.pem".into()),
            client_auth: self.client_auth,
        }
    }

    /// A node's configuration.
    fn load(&self) -> Loaded {
        self.load_with(&TlsLoader::new(self.settings()).expect("random numbers"))
    }

    fn load_with(&self, loader: &TlsLoader) -> Loaded {
        let pairs = self.identities.iter().flat_map(|(chain, key)| [chain, key]);
        let texts = pairs
            .chain(&self.ticket_keys)
            .chain(&self.client_ca)
            .map(|text| text.clone().into_bytes());
        let texts =
            TlsTexts::from_files(&self.settings(), texts.collect()).expect("one for each file");
        loader.load(&texts).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn client(
    ca: &Authority,
    version: &'static SupportedProtocolVersion,
) -> ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("a certificate"))
        .expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    builder.expect("a version").with_root_certificates(roots)
}

fn anonymous(ca: &Authority, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(client(ca, version).with_no_client_auth())
}

/// A client with a certificate.
fn known(
    ca: &Authority,
    version: &'static SupportedProtocolVersion,
    own: &Issued,
) -> Arc<ClientConfig> {
    let chain = CertificateDer::pem_slice_iter(own.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("a chain");
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("a key");
    Arc::new(client(ca, version).with_client_auth_cert(chain, key).expect("they match"))
}

/// Both sides after the handshake.
struct Outcome {
    client: ClientConnection,
    server: ServerConnection,
}

impl Outcome {
    fn kind(&self) -> HandshakeKind {
        self.server.handshake_kind().expect("it is over")
    }

    /// The certificate that the client got.
    fn shown(&self) -> &[u8] {
        self.client.peer_certificates().expect("there is one")[0].as_ref()
    }
}

/// A handshake, and the tickets after it.
fn shake(client: &Arc<ClientConfig>, node: &Loaded, name: &str) -> Result<Outcome, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(&node.config))?;
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets()?;
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).expect("memory");
        }
        let mut rest = &answer[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets()?;
        }
        if bytes.is_empty() && answer.is_empty() {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok(Outcome { client, server });
        }
    }
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).expect("a certificate").to_vec()
}

#[test]
fn the_name_that_a_client_asks_for_selects_the_certificate() {
    let ca = Authority::new("servers");
    let (one, two) = (ca.issue(&["one.example", "127.0.0.1"]), ca.issue(&["*.two.example"]));
    let node = Files::of(&[&one, &two]).load();
    for version in VERSIONS {
        let client = anonymous(&ca, version);
        for (name, issued) in [("one.example", &one), ("a.two.example", &two), ("127.0.0.1", &one)]
        {
            let outcome =
                shake(&client, &node, name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(outcome.shown(), der(issued), "{name}");
        }
        // An unknown name gets the first one, and the client decides.
        let error = shake(&client, &node, "three.example").err().expect("it names another host");
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    }
}

#[test]
fn a_client_that_comes_again_skips_the_signature_on_every_node_with_the_same_keys() {
    let ca = Authority::new("servers");
    let files = Files::of(&[&ca.issue(&["exo.example"])]);
    let with_keys = |keys: &str| Files { ticket_keys: Some(keys.to_owned()), ..files.clone() };
    let (old, both) = (with_keys(OLD_KEY).load(), with_keys(&format!("{NEW_KEY}{OLD_KEY}")).load());
    let (new, alone) = (with_keys(NEW_KEY).load(), files.load());
    for version in VERSIONS {
        for (first, then, is_resumed) in [
            (&old, &old, true),
            (&alone, &alone, true),
            // A rotation of keys: first the new key is added, later the old one is removed.
            (&old, &both, true),
            (&both, &new, true),
            (&both, &old, false),
            (&old, &new, false),
            (&alone, &old, false),
        ] {
            let client = anonymous(&ca, version);
            assert_eq!(shake(&client, first, "exo.example").unwrap().kind(), HandshakeKind::Full);
            let kind = shake(&client, then, "exo.example").unwrap().kind();
            assert_eq!(kind == HandshakeKind::Resumed, is_resumed, "{version:?}: {kind:?}");
        }
    }
}

#[test]
fn tickets_outlive_a_reload_and_a_new_certificate() {
    let ca = Authority::new("servers");
    let files = Files::of(&[&ca.issue(&["exo.example"])]);
    let loader = TlsLoader::new(files.settings()).expect("random numbers");
    let before = files.load_with(&loader);
    let after = Files::of(&[&ca.issue(&["exo.example"])]).load_with(&loader);
    for version in VERSIONS {
        let client = anonymous(&ca, version);
        shake(&client, &before, "exo.example").unwrap();
        assert_eq!(shake(&client, &after, "exo.example").unwrap().kind(), HandshakeKind::Resumed);
    }
}

/// A client's store that ignores names: it offers a ticket from one host to all hosts.
#[derive(Debug)]
struct Confused(ClientSessionMemoryCache);

impl Confused {
    fn name(&self) -> ServerName<'static> {
        ServerName::try_from("one.example").expect("a name")
    }
}

impl ClientSessionStore for Confused {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(self.name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&self.name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(self.name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&self.name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&self.name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(self.name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&self.name())
    }
}

#[test]
fn a_ticket_is_for_the_name_that_it_was_made_for() {
    let ca = Authority::new("servers");
    let node = Files::of(&[&ca.issue(&["one.example"]), &ca.issue(&["two.example"])]).load();
    for version in VERSIONS {
        let mut client = client(&ca, version).with_no_client_auth();
        client.resumption = Resumption::store(Arc::new(Confused(ClientSessionMemoryCache::new(8))));
        let client = Arc::new(client);
        shake(&client, &node, "one.example").unwrap();
        assert_eq!(shake(&client, &node, "one.example").unwrap().kind(), HandshakeKind::Resumed);
        assert_eq!(shake(&client, &node, "two.example").unwrap().kind(), HandshakeKind::Full);
    }
}

#[test]
fn a_client_has_to_show_a_certificate_of_the_ca_where_one_is_set() {
    let (ca, clients, strangers) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
    let files =
        Files { client_ca: Some(clients.pem.clone()), ..Files::of(&[&ca.issue(&["exo.example"])]) };
    let required = files.load();
    let optional = Files { client_auth: ClientAuth::Optional, ..files }.load();
    assert_eq!(required.client_cas, ["CN=clients"]);
    let (good, bad) = (clients.issue_to_client("acme"), strangers.issue_to_client("acme"));
    for version in VERSIONS {
        let ends = |client: &Arc<ClientConfig>, node: &Loaded| {
            let outcome = shake(client, node, "exo.example").ok()?;
            Some(outcome.server.peer_certificates().map(|chain| chain[0].to_vec()))
        };
        let (bare, acme, stranger) =
            (anonymous(&ca, version), known(&ca, version, &good), known(&ca, version, &bad));
        assert_eq!(ends(&acme, &required), Some(Some(der(&good))));
        assert_eq!(ends(&bare, &required), None);
        assert_eq!(ends(&bare, &optional), Some(None));
        assert_eq!(ends(&acme, &optional), Some(Some(der(&good))));
        for node in [&required, &optional] {
            assert_eq!(ends(&stranger, node), None, "of another CA");
        }
    }
}

#[test]
fn no_ticket_replaces_a_client_certificate() {
    let (ca, clients) = (Authority::new("servers"), Authority::new("clients"));
    let plain = Files {
        ticket_keys: Some(OLD_KEY.to_owned()),
        ..Files::of(&[&ca.issue(&["exo.example"])])
    };
    let mutual = Files { client_ca: Some(clients.pem.clone()), ..plain.clone() };
    let (plain, mutual) = (plain.load(), mutual.load());
    assert!(
        mutual.warnings.iter().any(|warning| warning.contains("tls.ticket_keys has no effect"))
    );
    for version in VERSIONS {
        let acme = known(&ca, version, &clients.issue_to_client("acme"));
        for _ in 0..3 {
            assert_eq!(shake(&acme, &mutual, "exo.example").unwrap().kind(), HandshakeKind::Full);
        }
        // A ticket from a node with the same keys that asks for no certificate.
        let bare = anonymous(&ca, version);
        shake(&bare, &plain, "exo.example").unwrap();
        assert_eq!(shake(&bare, &plain, "exo.example").unwrap().kind(), HandshakeKind::Resumed);
        assert!(shake(&bare, &mutual, "exo.example").is_err(), "{version:?}");
    }
}

#[test]
fn the_cheapest_common_cipher_is_chosen_whatever_the_client_prefers() {
    let ca = Authority::new("servers");
    let node = Files::of(&[&ca.issue(&["exo.example"])]).load();
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let client = anonymous(&ca, version);
        assert_ne!(
            client.crypto_provider().cipher_suites[0].suite(),
            suite,
            "the client would rather have another"
        );
        let outcome = shake(&client, &node, "exo.example").unwrap();
        assert_eq!(outcome.server.negotiated_cipher_suite().unwrap().suite(), suite);
    }
}

#[test]
fn a_client_that_keeps_nothing_shakes_hands_in_full_each_time() {
    let ca = Authority::new("servers");
    let node = Files::of(&[&ca.issue(&["exo.example"])]).load();
    for version in VERSIONS {
        let mut client = client(&ca, version).with_no_client_auth();
        client.resumption = Resumption::disabled();
        let client = Arc::new(client);
        for _ in 0..2 {
            assert_eq!(shake(&client, &node, "exo.example").unwrap().kind(), HandshakeKind::Full);
        }
    }
}
