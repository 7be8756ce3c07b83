//! OpenSSL's client does what the rustls client does not. It asks for another handshake, it
//! replaces its keys with and without asking for ours, and it offers versions and suites that are
//! refused.

use exo_ingest::metrics::TlsFailure;
use exo_ingest_harness::tls::Certificate;
use exo_ingest_harness::{TestNode, eventually, on_both_kernels};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n";

/// `openssl s_client`, and its output so far.
struct Client {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Client {
    fn start(node: &TestNode, args: &[&str]) -> Client {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &node.address().to_string(),
            "-servername",
            "localhost",
        ]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut output in outputs {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(size @ 1..) = output.read(&mut buffer) {
                    said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..size]));
                }
            });
        }
        Client { child, said }
    }

    fn type_in(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    #[track_caller]
    fn expect(&self, words: &str, count: usize) {
        let said = || self.said.lock().unwrap().clone();
        eventually(&format!("{words} × {count}"), || said().matches(words).count() >= count);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a test on both kernel paths, if openssl is installed.
fn with_openssl(test: impl Fn(&TestNode)) {
    if Command::new("openssl").arg("version").output().is_err() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci, "openssl is not installed");
        return println!("skipped: openssl is not installed");
    }
    on_both_kernels(|features| {
        test(&TestNode::start(features, |setup| setup.tls = Some(Certificate::make().server())));
    });
}

#[test]
fn it_replaces_its_keys_and_ours() {
    with_openssl(|node| {
        let mut client = Client::start(node, &["-tls1_3"]);
        client.expect("Verify return code", 1);
        // One letter in a write of its own is a command. K asks for new keys of the node too.
        client.type_in(b"K\n");
        client.expect("KEYUPDATE", 1);
        client.type_in(b"k\n");
        client.expect("KEYUPDATE", 2);
        client.type_in(REQUEST);
        client.expect(r#"{"status":"ok","service":"ingest"}"#, 1);
        assert_eq!(node.count(|counters| &counters.tls_key_updates), 3);
    });
}

#[test]
fn another_handshake_is_refused() {
    with_openssl(|node| {
        let mut client = Client::start(node, &["-tls1_2"]);
        client.expect("Verify return code", 1);
        client.type_in(b"R\n");
        client.expect("RENEGOTIATING", 1);
        client.expect("handshake failure", 1);
        eventually("it is counted", || node.tls_failures(TlsFailure::Renegotiation) == 1);
        node.await_no_connections();
    });
}

#[test]
fn old_versions_and_suites_without_an_aead_are_refused() {
    with_openssl(|node| {
        let refused = [
            &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..],
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],
            &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"],
        ];
        for args in refused {
            Client::start(node, args).expect(" alert ", 1);
        }
        eventually("all are counted", || {
            node.tls_failures(TlsFailure::Incompatible) == refused.len() as u64
        });
        assert_eq!(node.count(|counters| &counters.tls_handshakes_full), 0);
    });
}

#[test]
fn each_version_and_group_of_ours_is_served() {
    with_openssl(|node| {
        for args in [&["-tls1_2"][..], &["-tls1_3"], &["-tls1_3", "-groups", "P-521:P-256"]] {
            let mut client = Client::start(node, args);
            client.expect("Verify return code", 1);
            client.type_in(REQUEST);
            client.expect("HTTP/1.1 200 OK", 1);
        }
        // The last is answered by a HelloRetryRequest: rustls has no P-521 key exchange on ring.
        assert_eq!(node.count(|counters| &counters.tls_handshakes_full), 3);
    });
}
