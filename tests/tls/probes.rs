//! A client that breaks the rules of TLS on purpose, by tlslite-ng, beside a live call. Every probe
//! of `tests/clients/python/tls_probes.py` comes out as the RFCs have it, nothing is left of it,
//! and the call is whole. `tests/clients/install.sh` makes the client ready.

use crate::EXO_INGEST;
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::{
    INTERACTION, Message, NodeProcess, Peer, Played, TENANT, audio, audit, eventually, mint, wire,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Probes that the program has.
const PROBE_COUNT: usize = 222;

/// The pause between two frames of the live call.
const FRAME_PAUSE: Duration = Duration::from_millis(20);

/// The Python that has tlslite-ng; `None` where it is not installed.
fn python() -> Option<PathBuf> {
    // Cargo's directory for tests lies in the target directory; so does the environment.
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients/python");
    if environment.join("installed.txt").exists() {
        return Some(environment.join("bin/python"));
    }
    let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    let words = "tlslite-ng is not installed: run tests/clients/install.sh";
    assert!(!is_set("CI", "true") && !is_set("EXO_INGEST_REQUIRE_CLIENTS", "1"), "{words}");
    println!("skipped: {words}");
    None
}

fn trusting(ca: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A call that goes on for as long as it is wanted to.
struct Call {
    peer: Peer,
    seq: u64,
    acked: u64,
}

impl Call {
    /// Sends one frame, and reads an ack that is due.
    fn go_on(&mut self) {
        self.seq += 1;
        self.peer.send(&wire::binary(&audio(1, self.seq)));
        if self.seq.is_multiple_of(10) {
            self.peer.expect_ack(self.seq);
            self.acked = self.seq;
        }
    }
}

fn probe(python: &Path, kernel_features: &str) {
    let directory = tempfile::tempdir().unwrap();
    let ca = Authority::new("servers");
    let [certificate, key] = ca.issue(&["localhost"]).write(directory.path(), "node");
    let data = directory.path().join("data");
    let mut args = vec!["--kernel-features", kernel_features, "--set", "journal.reserve=0"];
    args.extend(["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]);
    let node = NodeProcess::start(EXO_INGEST, &data, &args);
    let mut peer = Peer::connect_tls(node.address(), &trusting(&ca));
    peer.upgrade(&mint(TENANT, INTERACTION));
    peer.start(TENANT, INTERACTION);
    let mut call = Call { peer, seq: 0, acked: 0 };

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/python/tls_probes.py");
    let mut command = Command::new(python);
    command.arg(script).arg(node.address().to_string());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        call.go_on();
        std::thread::sleep(FRAME_PAUSE);
    }
    let output = child.wait_with_output().unwrap();
    let [said, errors] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let bad: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(output.status.success() && bad.is_empty(), "{kernel_features}: {bad:#?}\n{errors}");
    assert_eq!(said.lines().count(), PROBE_COUNT, "{said}");

    let admin = node.admin();
    eventually("the probes' connections are gone", || {
        admin.metrics().sum("exo_ingest_connections_open") == 1.0
    });
    let metrics = admin.metrics();
    assert_eq!(metrics.sum("exo_ingest_tls_spill_buffers_used"), 0.0);
    let failed = |reason: &str| {
        metrics.value(&format!(r#"exo_ingest_tls_failures_total{{reason="{reason}"}}"#))
    };
    for reason in ["bad_record_mac", "record_overflow", "unexpected_message", "decode_error"] {
        assert!(failed(reason) > 0.0, "{reason}");
    }
    assert_eq!(failed("internal"), 0.0);

    while call.acked == 0 || !call.seq.is_multiple_of(10) {
        call.go_on();
    }
    call.peer.send(&wire::text(r#"{"event":"stop"}"#));
    let message = call.peer.receive();
    assert!(matches!(&message, Message::Text(text) if text.contains("stopped")), "{message:?}");
    call.peer.expect_close(1000, "");
    let pid = node.pid();
    assert!(node.terminate().success());
    let played = Played {
        interaction: INTERACTION.to_owned(),
        pid,
        seed: 1,
        sent: call.seq,
        acked: call.seq,
        stopped: Some(call.seq),
        close: Some(1000),
    };
    assert_eq!(audit(&data, &[played]).acked, call.seq);
    println!("kernel features {kernel_features}: {PROBE_COUNT} probes, {} frames", call.seq);
}

#[test]
fn every_probe_comes_out_as_the_rfcs_have_it_and_a_live_call_is_whole() {
    let Some(python) = python() else { return };
    for kernel_features in ["newest", "6.1"] {
        probe(&python, kernel_features);
    }
}
