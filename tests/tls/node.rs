//! A node that serves wss://, as a process, and clients by other authors: certificates by name,
//! tickets, client certificates, and files that change while the node runs.

use crate::EXO_INGEST;
use exo_ingest_harness::certificates::{Authority, Issued, write_private};
use exo_ingest_harness::{
    INTERACTION, NodeProcess, PATIENCE, TENANT, eventually, is_installed, mint, wire,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A node with certificates in a directory, and the CA that signed them.
struct Place {
    node: NodeProcess,
    ca: Authority,
    directory: tempfile::TempDir,
}

impl Place {
    /// Starts it with one certificate for `exo.example` and 127.0.0.1, another for `*.two.example`,
    /// and the arguments that `prepare` returns.
    fn start(prepare: impl FnOnce(&Path) -> Vec<String>) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let ca = Authority::new("servers");
        std::fs::write(directory.path().join("ca.pem"), &ca.pem).unwrap();
        let mut args = vec!["--set".to_owned(), "journal.reserve=0".to_owned()];
        for (stem, names) in
            [("one", &["exo.example", "127.0.0.1"][..]), ("two", &["*.two.example"])]
        {
            let [certificate, key] = ca.issue(names).write(directory.path(), stem).map(text);
            args.extend(["--tls-cert".into(), certificate, "--tls-key".into(), key]);
        }
        args.extend(prepare(directory.path()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let node = NodeProcess::start(EXO_INGEST, &directory.path().join("data"), &args);
        Place { node, ca, directory }
    }

    fn at(&self, name: &str) -> String {
        text(self.directory.path().join(name))
    }

    /// A client that trusts the CA, with the certificate `own` if there is one.
    fn client(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem.as_bytes()).unwrap()).unwrap();
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder =
            builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_slice_iter(own.chain_pem.as_bytes())
                    .map(Result::unwrap)
                    .collect();
                let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    /// A connection to a name.
    fn connect(&self, client: &Arc<ClientConfig>, name: &'static str) -> Secure {
        let socket = TcpStream::connect(self.node.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let connection =
            ClientConnection::new(Arc::clone(client), ServerName::try_from(name).unwrap()).unwrap();
        Secure(StreamOwned::new(connection, socket))
    }

    /// The certificate that the node has for a name now, in DER.
    fn shown(&self, name: &'static str) -> Vec<u8> {
        let mut connection = self.connect(&self.client(None), name);
        assert!(connection.health().starts_with("HTTP/1.1 200"));
        connection.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    /// The output of a command, run in the directory, with the node's address as `$NODE` and its
    /// port as `$PORT`.
    fn shell(&self, script: &str) -> String {
        let address = self.node.address();
        let mut command = Command::new("/bin/sh");
        command.args(["-ec", script]).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("NODE", address.to_string()).env("PORT", address.port().to_string());
        let output = command.output().unwrap();
        let [out, errors] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{script}\n{out}{errors}");
        out + &errors
    }

    fn reload(&self) {
        self.shell(&format!("kill -HUP {}", self.node.pid()));
    }

    fn await_log(&self, words: &str) {
        eventually(words, || self.node.log().iter().any(|line| line.contains(words)));
    }
}

/// A client's side of a TLS connection.
struct Secure(StreamOwned<ClientConnection, TcpStream>);

impl Secure {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads until `words` have come, or the end; returns all of it.
    fn read_until(&mut self, words: &str) -> String {
        let mut text = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let size = match self.0.read(&mut buffer) {
                Ok(size) => size,
                Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&text)),
            };
            text.extend_from_slice(&buffer[..size]);
            let so_far = String::from_utf8_lossy(&text).into_owned();
            if size == 0 || so_far.contains(words) {
                return so_far;
            }
        }
    }

    fn health(&mut self) -> String {
        self.send(b"GET /health HTTP/1.1\r\nHost: exo\r\n\r\n");
        self.read_until("\"ingest\"}")
    }

    fn upgrade(&mut self, tenant: &str) -> String {
        self.send(wire::upgrade_request(&mint(tenant, INTERACTION)).as_bytes());
        self.read_until("\r\n\r\n")
    }
}

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn openssl_gets_the_certificate_it_asks_for_and_resumes_in_both_versions() {
    if !is_installed("openssl") {
        return;
    }
    let place = Place::start(|_| Vec::new());
    let ask = "openssl s_client -connect $NODE -CAfile ca.pem -verify_return_error";
    for (name, subject) in [
        ("exo.example", "exo.example"),
        ("a.two.example", "two.example"),
        ("none.example", "exo.example"),
    ] {
        let said = place.shell(&format!(
            "{ask} -servername {name} -showcerts | openssl x509 -noout -ext subjectAltName"
        ));
        assert!(said.contains(subject), "{name}: {said}");
    }
    for version in ["-tls1_2", "-tls1_3"] {
        // The ticket of TLS 1.3 comes after the handshake, and the answer to a request after the
        // ticket.
        let request = "printf 'GET /health HTTP/1.1\\r\\nHost: exo\\r\\n\\r\\n'";
        let ask =
            format!("({request}; sleep 0.5) | {ask} -servername exo.example {version} -ign_eof");
        let first = place.shell(&format!("{ask} -sess_out session"));
        assert!(first.contains("New, TLSv1") && first.contains(r#""status":"ok""#), "{first}");
        let second = place.shell(&format!("{ask} -sess_in session"));
        assert!(second.contains("Reused, TLSv1"), "{version}: {second}");
    }
}

#[test]
fn curl_node_and_python_trust_the_ca_that_they_are_told() {
    let place = Place::start(|_| Vec::new());
    let node = r#"NODE_EXTRA_CA_CERTS=ca.pem node -e 'require("https").get(
                  `https://${process.env.NODE}/health`,
                  answer => answer.pipe(process.stdout))'"#;
    let python = r#"SSL_CERT_FILE=ca.pem python3 -c 'import os, urllib.request as r
print(r.urlopen("https://" + os.environ["NODE"] + "/health").read().decode())'"#;
    for (program, script) in [
        ("curl", "curl -sS --cacert ca.pem https://$NODE/health"),
        ("node", node),
        ("python3", python),
    ] {
        if is_installed(program) {
            let said = place.shell(script);
            assert!(said.contains(r#"{"status":"ok","service":"ingest"}"#), "{program}: {said}");
        }
    }
}

#[test]
fn certificates_change_while_calls_go_on_and_a_bad_one_changes_nothing() {
    let place = Place::start(|_| Vec::new());
    let admin = place.node.admin();
    let reloads = |outcome: &str| {
        admin.metrics().value(&format!(
            r#"exo_ingest_reloads_total{{what="certificates",outcome="{outcome}"}}"#
        ))
    };
    let mut call = place.connect(&place.client(None), "exo.example");
    assert!(call.upgrade(TENANT).starts_with("HTTP/1.1 101"));
    call.send(&wire::text(&wire::start_text(TENANT, INTERACTION)));
    call.read_until("started");

    // By a change of the file, without a signal.
    let next = place.ca.issue(&["exo.example"]);
    next.write(place.directory.path(), "one");
    eventually("the new certificate is shown", || place.shown("exo.example") == der(&next));
    assert_eq!(reloads("taken"), 1.0);

    // By a signal, with a key that does not fit: the old one stays. A metric and the log say so.
    let stranger = place.ca.issue(&["exo.example"]);
    write_private(Path::new(&place.at("one-key.pem")), &stranger.key_pem);
    place.reload();
    place.await_log("certificates not reloaded, the old ones stay");
    assert_eq!(place.shown("exo.example"), der(&next));
    assert!(reloads("refused") >= 1.0);
    let last = place.ca.issue_for_days(&["exo.example"], 80, 90);
    last.write(place.directory.path(), "one");
    place.reload();
    eventually("the last certificate is shown", || place.shown("exo.example") == der(&last));

    // The last one expires soon. A metric, the log and /ready say so, and /ready stays ready.
    let expiry = admin.metrics().value(&format!(
        r#"exo_ingest_tls_certificate_expiry_timestamp_seconds{{file="{}"}}"#,
        place.at("one.pem")
    ));
    let left = expiry - exo_ingest_harness::now_secs() as f64;
    assert!((9.9 * 86400.0..10.1 * 86400.0).contains(&left), "{left}");
    place.await_log("expires in");
    let ready = admin.get("/ready");
    assert!(
        ready.contains(r#""status":"ready""#)
            && ready.contains(r#""warning":"certificate_expires""#),
        "{ready}"
    );

    // The call goes on.
    for _ in 0..10 {
        call.send(&wire::binary(&[0; 960]));
    }
    call.read_until(r#"{"event":"ack","seq":10}"#);
    assert!(place.node.terminate().success());
}

#[test]
fn a_clients_certificate_is_logged_with_its_call_and_binds_it_to_its_tenant() {
    let clients = Authority::new("clients");
    let acme = clients.issue_to_client(TENANT);
    let place = Place::start(|directory| {
        let path = directory.join("clients.pem");
        std::fs::write(&path, &clients.pem).unwrap();
        let settings = [format!("tls.client_ca={}", path.display()), "tls.client_tenant=cn".into()];
        settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
    });
    let client = place.client(Some(&acme));
    let mut call = place.connect(&client, "exo.example");
    assert!(call.upgrade(TENANT).starts_with("HTTP/1.1 101"));
    call.send(&wire::text(&wire::start_text(TENANT, INTERACTION)));
    call.send(&wire::text(r#"{"event":"stop"}"#));
    call.read_until("stopped");
    place.await_log("call ended");
    let line = place.node.log().into_iter().find(|line| line.contains("call ended")).unwrap();
    assert!(line.contains(&format!(r#"client="CN={TENANT}""#)), "{line}");

    // A good token for another tenant.
    let refused = place.connect(&client, "exo.example").upgrade("umbrella");
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("client_forbidden"),
        "{refused}"
    );
    let admin = place.node.admin();
    assert_eq!(
        admin.metrics().value(r#"exo_ingest_refusals_total{reason="client_forbidden"}"#),
        1.0
    );

    // Without a client certificate nothing is answered, not even a liveness check.
    let mut stranger = place.connect(&place.client(None), "exo.example");
    let mut answer = Vec::new();
    let sent = stranger.0.write_all(b"GET /health HTTP/1.1\r\nHost: exo\r\n\r\n");
    let read = stranger.0.read_to_end(&mut answer);
    assert!(sent.is_err() || read.is_err(), "{:?}", String::from_utf8_lossy(&answer));
    assert!(place.node.terminate().success());
}
