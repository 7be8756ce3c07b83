//! `handshakes`: how many a node does, full ones and resumed ones.

use std::process::{Command, Output};

use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::certificates::Authority;
use crate::faulty::{Fault, Node};
use crate::secure;
use crate::tls_front::{Front, Way, config_of};

fn handshakes(url: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
    command.args(["handshakes", "--url", url, "--clients", "4", "--duration", "300ms"]).args(flags);
    command.output().expect("exo-load starts")
}

fn measured(url: &str, flags: &[&str]) -> (i32, Value) {
    let output = handshakes(url, &[flags, &["--json"]].concat());
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().expect("an exit code"), json)
}

#[test]
fn full_and_resumed_ones_are_counted_apart() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let identity = authority.sign(&["127.0.0.1"]);
    let pid = std::process::id().to_string();
    for (spoken, version) in [(&TLS13, "TLSv1.3"), (&TLS12, "TLSv1.2")] {
        let config = config_of(&identity, None, Way::Right, &[spoken]);
        let front = Front::start(node.address(), config, Way::Right);
        // The front runs in this process.
        let (code, json) = measured(&front.url, &["--ca", &authority.path(), "--server-pid", &pid]);
        assert_eq!((code, &json["tls"]["version"]), (0, &version.into()), "{json:#}");
        let [full, resumed] = [&json["phases"][0], &json["phases"][1]];
        assert_eq!(
            (&full["kind"], &resumed["kind"]),
            (&"full".into(), &"resumed".into()),
            "{json:#}"
        );
        assert_eq!(full["handshakes_resumed"], 0, "{json:#}");
        assert!(full["handshakes_full"].as_u64() > Some(0), "{json:#}");
        assert!(resumed["handshakes_resumed"].as_u64() > Some(0), "{json:#}");
        for phase in [full, resumed] {
            assert_eq!(phase["failures"], serde_json::json!({}), "{json:#}");
            assert!(
                phase["server"]["cpu_percent"].is_f64() && phase["per_second"].as_f64() > Some(0.0),
                "{json:#}"
            );
        }
    }
}

#[test]
fn one_kind_alone_is_a_table_too() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = secure::front(&authority, &node, Way::Right);
    for kind in ["full", "resumed"] {
        let output = handshakes(&front.url, &["--insecure", "--kinds", kind]);
        let table = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{table}{output:?}");
        assert!(
            table.contains("ECDSA P-256") && table.contains("not checked (--insecure)"),
            "{table}"
        );
        assert!(table.lines().last().is_some_and(|line| line.starts_with(kind)), "{table}");
    }
}

#[test]
fn a_node_without_tickets_resumes_nothing() {
    let (authority, node) = (Authority::new(), Node::start(Fault::None));
    let front = secure::front(&authority, &node, Way::NoTickets);
    let (code, json) = measured(&front.url, &["--ca", &authority.path(), "--kinds", "resumed"]);
    assert_eq!((code, &json["phases"][0]["handshakes_resumed"]), (2, &0.into()), "{json:#}");
    let output = handshakes(&front.url, &["--ca", &authority.path(), "--kinds", "resumed"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("gives no tickets"), "{output:?}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let (authority, other, node) = (Authority::new(), Authority::new(), Node::start(Fault::None));
    let front = secure::front(&authority, &node, Way::Right);
    for (url, flags, part) in [
        (&node.url, &[][..], "wss://"),
        (&front.url, &["--ca", &other.path()], "--ca"),
        (&front.url, &["--ca", &authority.path(), "--clients", "0"], "--clients"),
    ] {
        let output = handshakes(url, flags);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && errors.contains(part), "{errors}");
    }
}
