//! The node's own TLS: its handshakes and its record layer, under all that exo-load checks.

use std::path::Path;
use std::process::Command;

use exo_ingest_harness::NodeProcess;
use serde_json::Value;

use crate::certificates::{Authority, Identity};
use crate::journal;

fn node(authority: &Authority, identity: &Identity, data_dir: &Path) -> NodeProcess {
    let [certificate, key] = authority.files(identity);
    journal::node(data_dir, &["--tls-cert", &certificate, "--tls-key", &key])
}

fn url(node: &NodeProcess) -> String {
    format!("wss://{}/v1/ingest", node.address())
}

/// Calls that lose their connections by `how` and come back, the journal read afterwards.
fn play(authority: &Authority, identity: &Identity, flags: &[&str]) -> Value {
    let data = tempfile::tempdir().unwrap();
    let node = node(authority, identity, data.path());
    let (ca, pid, admin) =
        (authority.path(), node.pid().to_string(), node.admin().address().to_string());
    let data_dir = data.path().to_str().unwrap();
    let all = [
        "--ca",
        &ca,
        "--calls",
        "10",
        "--duration",
        "3s",
        "--ramp",
        "0s",
        "--frame-ms",
        "20",
        "--verify",
        data_dir,
    ];
    let storm = [
        "--reconnect-all-at",
        "1s",
        "--reconnect-share",
        "0.8",
        "--server-pid",
        &pid,
        "--admin",
        &admin,
    ];
    let (code, json) = journal::run_at(&url(&node), &[&all[..], &storm, flags].concat());
    assert_eq!((code, &json["verdict"]), (0, &"pass".into()), "{json:#}");
    let told = &json["storm"];
    assert_eq!(
        (&told["calls_left"], &told["calls_back"], &told["calls_lost"]),
        (&8.into(), &8.into(), &0.into())
    );
    assert!(json["verify"]["frames_equal"].as_u64() > Some(500), "{json:#}");
    json
}

#[test]
fn calls_over_tls_are_whole_and_come_back_by_tickets() {
    let authority = Authority::new();
    let json = play(&authority, &authority.sign(&["127.0.0.1"]), &["--tls-resume"]);
    let tls = &json["tls"];
    assert_eq!(
        (&tls["version"], &tls["server_key"]),
        (&"TLSv1.3".into(), &"ECDSA P-256".into()),
        "{tls:#}"
    );
    assert_eq!(
        (&tls["handshakes_full"], &tls["handshakes_resumed"]),
        (&10.into(), &8.into()),
        "{tls:#}"
    );
    assert_eq!(tls["ended_without_close_notify"], 0, "{tls:#}");
    // The node counts as we do.
    let counted =
        (&tls["node"]["tls_handshakes_full_total"], &tls["node"]["tls_handshakes_resumed_total"]);
    assert_eq!(counted, (&10.into(), &8.into()), "{tls:#}");
}

#[test]
fn tls_1_2_and_an_rsa_key_carry_calls_too() {
    let authority = Authority::new();
    let identity = authority.sign_rsa(&["127.0.0.1"]);
    let flags = ["--tls-versions", "1.2", "--tls-resume", "--reconnect-how", "close"];
    let tls = &play(&authority, &identity, &flags)["tls"];
    assert_eq!(
        (&tls["version"], &tls["server_key"]),
        (&"TLSv1.2".into(), &"RSA-2048".into()),
        "{tls:#}"
    );
    assert_eq!(
        (&tls["handshakes_full"], &tls["handshakes_resumed"]),
        (&10.into(), &8.into()),
        "{tls:#}"
    );
    assert_eq!(tls["ended_without_close_notify"], 0, "{tls:#}");
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused() {
    let (authority, other, data) =
        (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let node = node(&authority, &authority.sign(&["127.0.0.1"]), data.path());
    let output = crate::faulty::exo_load(&url(&node), &["--ca", &other.path()]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && errors.contains("none of the CAs in --ca"),
        "{errors}"
    );
}

#[test]
fn handshakes_are_done_and_ended_in_order() {
    let (authority, data) = (Authority::new(), tempfile::tempdir().unwrap());
    let node = node(&authority, &authority.sign(&["127.0.0.1"]), data.path());
    for version in ["1.2", "1.3"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
        command.args([
            "handshakes",
            "--url",
            &url(&node),
            "--ca",
            &authority.path(),
            "--tls-versions",
            version,
        ]);
        command.args([
            "--clients",
            "4",
            "--duration",
            "300ms",
            "--json",
            "--server-pid",
            &node.pid().to_string(),
        ]);
        let output = command.output().expect("exo-load starts");
        let json: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(output.status.code(), Some(0), "{json:#}");
        for (phase, kind) in json["phases"].as_array().unwrap().iter().zip(["full", "resumed"]) {
            assert!(phase[format!("handshakes_{kind}")].as_u64() > Some(0), "{json:#}");
            assert_eq!(phase["ended_without_close_notify"], 0, "{version} {kind}: {json:#}");
        }
    }
}
