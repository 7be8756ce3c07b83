//! What cannot be run at all: exit code 1 and one sentence that says what to do.

use crate::faulty::{Fault, Node, SHORT, exo_load};

#[track_caller]
fn refused(url: &str, flags: &[&str], part: &str) {
    let output = exo_load(url, flags);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(part), "'{part}' is not in: {errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn urls() {
    refused("http://127.0.0.1/", &[], "not ws");
    refused("ws://", &[], "no WebSocket URL");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&format!("ws://{free}/v1/ingest"), &[], "nothing answers");
    refused(&format!("wss://{free}/v1/ingest"), &["--insecure"], "nothing answers");
}

#[test]
fn tokens_and_keys() {
    let node = Node::start(Fault::None);
    refused(&node.url, &["--token", "nonsense"], "not a JWT");
    refused(&node.url, &["--key", "/no/such/file.pem"], "cannot read /no/such/file.pem");
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, "nonsense").unwrap();
    refused(&node.url, &["--key", key.to_str().unwrap()], "keygen");
    let bare = std::process::Command::new(env!("CARGO_BIN_EXE_exo-load"))
        .args(["run", "--url", &node.url])
        .args(SHORT)
        .env_remove("JWT_TOKEN")
        .output()
        .unwrap();
    assert_eq!(bare.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bare.stderr).contains("no token"));
}

#[test]
fn flags() {
    let node = Node::start(Fault::None);
    for (flags, part) in [
        (&["--calls", "0"][..], "--calls"),
        (&["--calls", "999999"], "ulimit"),
        (&["--duration", "60"], "unit"),
        (&["--slo", "akc.p99<1ms"], "not measured"),
        (&["--audio", "no-such-file"], "neither prng nor sine"),
        (&["--cpus", "5-1"], "CPU list"),
        (&["--frame-ms", "1", "--sample-rate", "44100"], "whole number of samples"),
        (&["--server-pid", "4294967295"], "is it running"),
        (&["--out", "/proc/no/such"], "cannot write"),
        (&["--verify", "/proc/self/task"], "holds no journal"),
        (&["--verify", "/no/such"], "cannot read /no/such"),
    ] {
        refused(&node.url, flags, part);
    }
}

#[test]
fn help_is_no_error() {
    for flags in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_exo-load"))
            .args(flags)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
}
