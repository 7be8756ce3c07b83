//! `exo-ingest dev --tls` makes a CA and a certificate on first use. It prints commands that trust
//! the CA, and they run as printed.

use crate::EXO_INGEST;
use exo_ingest_harness::is_installed;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running node and the text that it has printed for its user.
struct Dev {
    child: Child,
    greeting: Vec<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dev {
    /// Starts it in `place`, and reads that text.
    fn start(place: &Path) -> Dev {
        let mut command = Command::new(EXO_INGEST);
        command.args([
            "dev",
            "--tls",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--no-journal",
            "--ack",
            "received",
        ]);
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(place)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut greeting = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            greeting.push(line);
            if greeting.last().is_some_and(|line| line.contains("token mint")) {
                break;
            }
        }
        Dev { child, greeting }
    }

    /// The line with all of `words`.
    #[track_caller]
    fn line(&self, words: &[&str]) -> &str {
        let found = self.greeting.iter().find(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no line with {words:?}: {:#?}", self.greeting))
    }
}

#[test]
fn the_commands_that_it_prints_trust_the_ca_that_it_made() {
    let place = tempfile::tempdir().unwrap();
    let node = Dev::start(place.path());
    assert!(node.line(&["  url  "]).contains("wss://127.0.0.1:"));
    assert!(node.line(&["exo-load"]).contains("--ca exo-dev/tls-ca.pem"));
    for (client, program) in [("# curl", "curl"), ("# Node", "node"), ("# Python", "python3")] {
        let line = node.line(&[client]);
        if is_installed(program) {
            let output = Command::new("/bin/sh")
                .args(["-c", line])
                .current_dir(place.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains(r#"{"status":"ok","service":"ingest"}"#),
                "{line}\n{said}{errors}"
            );
        }
    }
}

#[test]
fn its_files_are_made_once_and_the_key_is_private() {
    let place = tempfile::tempdir().unwrap();
    drop(Dev::start(place.path()));
    let at = |name: &str| place.path().join("exo-dev").join(name);
    let mode = std::fs::metadata(at("tls-key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read = || {
        ["tls-ca.pem", "tls-cert.pem", "tls-key.pem"].map(|name| std::fs::read(at(name)).unwrap())
    };
    let before = read();
    let again = Dev::start(place.path());
    assert!(again.line(&["  url  "]).contains("wss://"));
    assert_eq!(read(), before);
}
