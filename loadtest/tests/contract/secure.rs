//! `wss://`: calls over TLS are played and checked like any, and what is wrong with TLS is said.

use std::fs;
use std::net::SocketAddr;

use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::certificates::Authority;
use crate::faulty::{Fault, Node, command, exo_load, result_at};
use crate::tls_front::{Front, Way, config, config_of};

const LOOPBACK: [&str; 1] = ["127.0.0.1"];

/// A node with a TLS front, with a certificate of `authority`.
pub fn front(authority: &Authority, node: &Node, way: Way) -> Front {
    Front::start(node.address(), config(&authority.sign(&LOOPBACK), None, way), way)
}

/// Exit code and what a run says on standard error.
fn refused(url: &str, flags: &[&str]) -> String {
    let output = exo_load(url, flags);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{errors}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    errors
}

#[test]
fn calls_are_played_and_checked_like_any() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = front(&authority, &node, Way::Right);
    let (code, json) = result_at(&front.url, &["--ca", &authority.path()]);
    assert_eq!((code, &json["verdict"]), (0, &"pass".into()), "{json:#}");
    let tls = &json["tls"];
    assert_eq!(
        (&tls["version"], &tls["server_key"]),
        (&"TLSv1.3".into(), &"ECDSA P-256".into()),
        "{tls:#}"
    );
    assert_eq!((&tls["trust"], &tls["is_verified"]), (&"ca".into(), &true.into()), "{tls:#}");
    assert_eq!(
        (&tls["handshakes_full"], &tls["handshakes_resumed"]),
        (&3.into(), &0.into()),
        "{tls:#}"
    );
    assert!(tls["own_cpu_ns_full"].as_u64() > Some(0), "{tls:#}");
    assert_eq!(tls["ended_without_close_notify"], 0, "{tls:#}");
    assert_eq!(json["latency_ns"]["tls"]["count"], 3);
    assert_eq!(json["run"]["tls"], true);
    assert_eq!(json["counts"]["frames"], node.heard.lock().unwrap().len());
}

#[test]
fn a_fault_of_the_node_shows_through_tls() {
    let (authority, node) = (Authority::new(), Node::start(Fault::AckOffByOne));
    let (code, json) =
        result_at(&front(&authority, &node, Way::Right).url, &["--ca", &authority.path()]);
    assert_eq!(code, 2, "{json:#}");
    assert!(json["failures"]["ack_wrong"]["count"].as_u64() >= Some(3), "{json:#}");
}

#[test]
fn frames_larger_than_a_record_arrive_whole() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = front(&authority, &node, Way::Right);
    // 38,400 bytes: three records.
    let flags = [
        "--ca",
        &authority.path(),
        "--calls",
        "1",
        "--sample-rate",
        "192000",
        "--frame-ms",
        "100",
        "--no-stop",
    ];
    let (code, json) = result_at(&front.url, &[&flags[..], &["--duration", "1500ms"]].concat());
    assert_eq!(code, 0, "{json:#}");
    let heard = node.heard.lock().unwrap();
    assert!(
        heard.len() >= 10 && heard.iter().all(|(_, audio)| audio.len() == 38_400),
        "{}",
        heard.len()
    );
}

#[test]
fn both_versions_are_spoken_and_either_alone() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let identity = authority.sign_rsa(&LOOPBACK);
    for (spoken, asked, version) in
        [(&TLS12, "1.2,1.3", "TLSv1.2"), (&TLS12, "1.2", "TLSv1.2"), (&TLS13, "1.3", "TLSv1.3")]
    {
        let config = config_of(&identity, None, Way::Right, &[spoken]);
        let front = Front::start(node.address(), config, Way::Right);
        let (code, json) =
            result_at(&front.url, &["--ca", &authority.path(), "--tls-versions", asked]);
        assert_eq!((code, &json["tls"]["version"]), (0, &version.into()), "{json:#}");
        assert_eq!(json["tls"]["server_key"], "RSA-2048", "{json:#}");
    }
    let front =
        Front::start(node.address(), config_of(&identity, None, Way::Right, &[&TLS13]), Way::Right);
    let errors = refused(&front.url, &["--ca", &authority.path(), "--tls-versions", "1.2"]);
    assert!(errors.contains("--tls-versions"), "{errors}");
}

#[test]
fn a_certificate_of_another_authority_is_refused_with_the_flag_that_helps() {
    let (authority, other, node) = (Authority::new(), Authority::new(), Node::start(Fault::None));
    let front = front(&authority, &node, Way::Right);
    let errors = refused(&front.url, &["--ca", &other.path()]);
    assert!(errors.contains("none of the CAs in --ca"), "{errors}");
    // The system's store, which is another authority's here.
    let output = command(&front.url, &[]).env("SSL_CERT_FILE", other.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && errors.contains("give the CA's certificate with --ca FILE"),
        "{errors}"
    );
    // A store that has it is as good as the flag.
    let output =
        command(&front.url, &["--json"]).env("SSL_CERT_FILE", authority.path()).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &json["tls"]["trust"]),
        (Some(0), &"system".into()),
        "{json:#}"
    );
    assert!(!node.heard.lock().unwrap().is_empty(), "of the last run alone");
}

#[test]
fn nothing_is_said_to_a_node_that_is_not_trusted() {
    let (authority, other, node) = (Authority::new(), Authority::new(), Node::start(Fault::None));
    refused(&front(&authority, &node, Way::Right).url, &["--ca", &other.path()]);
    assert!(node.heard.lock().unwrap().is_empty() && node.upgrades() == 0);
}

#[test]
fn what_is_not_checked_is_told_everywhere() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = Front::start(
        node.address(),
        config(&authority.sign(&["elsewhere"]), None, Way::Right),
        Way::Right,
    );
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let flags = ["--insecure", "--out", out.to_str().unwrap()];
    let output = exo_load(&front.url, &flags);
    let (table, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{table}{errors}");
    assert!(
        table.contains("NOT checked (--insecure)") && errors.contains("--insecure"),
        "{table}{errors}"
    );
    let json: Value =
        serde_json::from_str(&fs::read_to_string(out.join("result.json")).unwrap()).unwrap();
    crate::schema::check(&json);
    assert_eq!(
        (&json["tls"]["is_verified"], &json["tls"]["trust"]),
        (&false.into(), &"nobody".into()),
        "{json:#}"
    );
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("NOT checked") && page.contains("<h2>TLS</h2>"));
    assert!(out.join("tls.hgrm").exists() && !out.join("storm_back.hgrm").exists());
}

#[test]
fn the_name_is_checked_and_can_be_given() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = Front::start(
        node.address(),
        config(&authority.sign(&["node.example"]), None, Way::Right),
        Way::Right,
    );
    let errors = refused(&front.url, &["--ca", &authority.path()]);
    assert!(errors.contains("--tls-name") && errors.contains("node.example"), "{errors}");
    let (code, json) =
        result_at(&front.url, &["--ca", &authority.path(), "--tls-name", "node.example"]);
    assert_eq!(code, 0, "{json:#}");
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (authority, clients, node) = (Authority::new(), Authority::new(), Node::start(Fault::None));
    let config = config(&authority.sign(&LOOPBACK), Some(&clients), Way::Right);
    let front = Front::start(node.address(), config, Way::Right);
    let [certificate, key] = clients.client_files();
    let ca = authority.path();
    let flags = ["--ca", &ca, "--client-cert", &certificate, "--client-key", &key];
    let (code, json) = result_at(&front.url, &flags);
    assert_eq!((code, &json["tls"]["client_certificate"]), (0, &true.into()), "{json:#}");
    // TLS 1.3 refuses after the client's last word, so that each call meets it.
    let (code, json) = result_at(&front.url, &["--ca", &ca]);
    let refused = &json["failures"]["tls_failed"];
    assert_eq!((code, &refused["count"]), (2, &3.into()), "{json:#}");
    assert!(
        refused["examples"][0].as_str().is_some_and(|text| text.contains("--client-cert")),
        "{json:#}"
    );
}

#[test]
fn a_record_that_was_changed_fails_the_call() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let (code, json) =
        result_at(&front(&authority, &node, Way::Tampers).url, &["--ca", &authority.path()]);
    assert_eq!((code, &json["failures"]["tls_failed"]["count"]), (2, &3.into()), "{json:#}");
}

#[test]
fn new_keys_are_taken_and_answered() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let (code, json) =
        result_at(&front(&authority, &node, Way::UpdatesKeys).url, &["--ca", &authority.path()]);
    assert_eq!(code, 0, "{json:#}");
}

#[test]
fn an_end_without_close_notify_is_counted() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let (code, json) =
        result_at(&front(&authority, &node, Way::NoCloseNotify).url, &["--ca", &authority.path()]);
    assert_eq!((code, &json["tls"]["ended_without_close_notify"]), (0, &3.into()), "{json:#}");
}

#[test]
fn tickets_are_used_by_calls_that_come_back() {
    let authority = Authority::new();
    let ca = authority.path();
    let reconnect = [
        "--ca",
        &ca,
        "--calls",
        "2",
        "--reconnect",
        "--reconnect-interval",
        "50ms",
        "--duration",
        "1200ms",
    ];
    for (versions, flags, way, full, resumed) in [
        ("1.3", &["--tls-resume"][..], Way::Right, 2, 1),
        ("1.2", &["--tls-resume"], Way::Right, 2, 1),
        ("1.3", &[], Way::Right, 3, 0),
        ("1.3", &["--tls-resume"], Way::NoTickets, 3, 0),
    ] {
        let node = Node::start(Fault::DropFirst);
        let front = front(&authority, &node, way);
        let (code, json) =
            result_at(&front.url, &[&reconnect[..], flags, &["--tls-versions", versions]].concat());
        assert_eq!((code, &json["counts"]["reconnects"]), (0, &1.into()), "{json:#}");
        let tls = &json["tls"];
        let counted = (&tls["handshakes_full"], &tls["handshakes_resumed"]);
        assert_eq!(
            counted,
            (&full.into(), &resumed.into()),
            "{versions} {flags:?} {way:?}: {tls:#}"
        );
    }
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let (ca, missing) = (authority.path(), authority.file("none.pem"));
    for (flags, part) in [
        (&["--ca", ca.as_str()][..], "--ca is for wss:// URLs"),
        (&["--insecure"], "--insecure is for wss:// URLs"),
        (&["--tls-resume"], "--tls-resume is for wss:// URLs"),
    ] {
        let errors = refused(&node.url, flags);
        assert!(errors.contains(part), "{errors}");
    }
    let key = authority.file("empty.pem");
    fs::write(&key, "no certificate").unwrap();
    for (flags, part) in [
        (&["--ca", ca.as_str(), "--insecure"][..], "cannot be used with"),
        (&["--ca", missing.as_str()], "cannot be read"),
        (&["--ca", key.as_str()], "holds no certificate"),
        (&["--ca", ca.as_str(), "--client-cert", ca.as_str()], "--client-key"),
        (
            &["--ca", ca.as_str(), "--client-cert", ca.as_str(), "--client-key", ca.as_str()],
            "holds no private key",
        ),
        (&["--ca", ca.as_str(), "--tls-versions", "1.1"], "1.1"),
        (&["--ca", ca.as_str()], "ws://"),
    ] {
        // The last one meets a node without TLS.
        let errors = refused(&node.url.replace("ws://", "wss://"), flags);
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn a_real_nodes_journal_has_what_came_through_tls() {
    let (authority, data) = (Authority::new(), tempfile::tempdir().unwrap());
    let node = crate::journal::node(data.path(), &[]);
    let front = before(&authority, node.address());
    let data_dir = data.path().to_str().unwrap();
    let ca = authority.path();
    let flags = [
        "--ca",
        ca.as_str(),
        "--calls",
        "4",
        "--duration",
        "3s",
        "--ramp",
        "0s",
        "--verify",
        data_dir,
    ];
    let (code, json) =
        crate::journal::run_at(&front.url, &[&flags[..], &["--frame-ms", "20"]].concat());
    assert_eq!(code, 0, "{json:#}");
    assert!(json["verify"]["frames_equal"].as_u64() > Some(100), "{json:#}");
}

/// A front before a real node.
pub fn before(authority: &Authority, node: SocketAddr) -> Front {
    Front::start(node, config(&authority.sign(&LOOPBACK), None, Way::Right), Way::Right)
}
