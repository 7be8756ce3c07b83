//! TLS to the message engine and to an object store, with certificates of a CA that the system does
//! not know.

use crate::journal::{CALLS, Journal};
use crate::live::text;
use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use crate::{EXO_INGEST, live, live_node, programs};
use exo_ingest_harness::certificates::Authority;
use exo_ingest_harness::{Keys, NatsCluster, NodeProcess, TENANT, eventually};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Certificates of tests, as files.
struct Certificates {
    dir: TempDir,
    authority: Authority,
}

impl Certificates {
    fn new() -> Certificates {
        let certificates = Certificates {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::new("the CA of the servers"),
        };
        certificates.store("ca.pem", &certificates.authority.pem);
        certificates.store("wrong.pem", &Authority::new("another CA").pem);
        certificates.store("empty.pem", "");
        certificates
    }

    fn store(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A message engine whose certificate has this name.
    fn engine(&self, name: &str) -> Option<NatsCluster> {
        let [certificate, key] = self.authority.issue(&[name]).write(self.dir.path(), name);
        let (certificate, key) = (certificate.display(), key.display());
        let more = format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\n");
        NatsCluster::start_with(&programs(), 1, &more)
    }
}

fn exo_ingest(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(args).envs(variables.iter().copied()).output().unwrap()
}

/// `serve --check` with these settings: its exit code, and what it says.
fn check(settings: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.pem");
    std::fs::write(&key, Keys::First.public_pem()).unwrap();
    let (key, data) = (key.to_str().unwrap(), dir.path().join("data"));
    let args = ["serve", "--check", "--listen", "127.0.0.1:0", "--admin", "off", "--jwt-key", key];
    let more = ["--allow-unregistered", "--data-dir", data.to_str().unwrap()];
    let output = exo_ingest(&[&args[..], &more, settings].concat(), variables);
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_check_says_what_is_wrong_with_the_certificate_of_an_engine() {
    let certificates = Certificates::new();
    let Some(engine) = certificates.engine("127.0.0.1") else { return };
    let Some(named) = certificates.engine("engine.example") else { return };
    let (url, named) = (engine.url_with("tls://"), named.url_with("tls://"));
    let check = |url: &str, ca: Option<&str>, variables: &[(&str, &str)]| {
        let ca = ca.map(|name| format!("live.ca={}", certificates.text(name)));
        let mut settings = vec!["--live", url, "--set", "live.create_streams=1"];
        settings.extend(["--set", "live.replicas=1"]);
        settings.extend(ca.iter().flat_map(|ca| ["--set", ca]));
        check(&settings, variables)
    };
    let refused = "invalid peer certificate: UnknownIssuer: check the server's certificate, and \
                   name its CA with --ca FILE (for serve: live.ca)";
    for (url, ca, code, expected) in [
        (&url, None, 1, refused),
        (&url, Some("wrong.pem"), 1, refused),
        (&url, Some("empty.pem"), 1, "empty.pem holds no certificate in PEM"),
        (&url, Some("missing.pem"), 1, "cannot read the certificates"),
        (&named, Some("ca.pem"), 1, "invalid peer certificate: certificate not valid for name"),
        (&url, Some("ca.pem"), 0, "takes messages in all streams"),
    ] {
        let (found, told) = check(url, ca, &[]);
        assert_eq!(found, Some(code), "{ca:?}: {told}");
        assert!(told.contains(expected), "{ca:?}: {told}");
    }
    // The system's certificates count where none are named.
    let ca = certificates.text("ca.pem");
    let (code, told) = check(&url, None, &[("SSL_CERT_FILE", &ca)]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = check(&url, Some("wrong.pem"), &[("SSL_CERT_FILE", &ca)]);
    assert_eq!(code, Some(1), "only those that are named count: {told}");
    // One that has no TLS is not talked to without it.
    let Some(plain) = NatsCluster::start(&programs(), 1) else { return };
    let (code, told) = check(&plain.url_with("tls://"), Some("ca.pem"), &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("FAIL  message engine: cannot use the message engine at tls"), "{told}");
}

#[test]
fn calls_go_to_an_engine_and_come_back_over_tls() {
    let certificates = Certificates::new();
    let Some(engine) = certificates.engine("127.0.0.1") else { return };
    let (dir, url) = (tempfile::tempdir().unwrap(), engine.url_with("tls://"));
    let ca = certificates.text("ca.pem");
    let setting = format!("live.ca={ca}");
    let args = ["--live-audio", "all", "--set", &setting];
    let node = live_node::start(dir.path(), &url, 1, &args);
    let players = live_node::play(&node, &["one"]);
    live_node::await_acks(&players, 100);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    let call = format!("{TENANT}/one");
    let read = ["read", "--from", &url, &call, "-o", "-"];
    let found = exo_ingest(&[&read[..], &["--ca", &ca]].concat(), &[]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    assert!(found.stdout == live_node::export(dir.path(), "one"));
    let refused = exo_ingest(&read, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("name its CA with --ca FILE"));
    // A journal without a node.
    let journal = live::journal();
    let mut ship = live::ship_args(journal.path(), &url, "1");
    ship.extend(["--ca", &ca]);
    let shipped = exo_ingest(&ship, &[]);
    assert!(shipped.status.success(), "{}", text(&shipped.stderr));
}

/// Flags of commands for a store with TLS.
fn flags(port: u16) -> Vec<String> {
    let endpoint = format!("endpoint=https://127.0.0.1:{port}");
    ["--sink-option", &endpoint, "--sink-option", "region=us-east-1"].map(str::to_owned).to_vec()
}

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];

#[test]
fn an_archive_is_sent_and_read_over_tls() {
    let certificates = Certificates::new();
    let issued = certificates.authority.issue(&["127.0.0.1"]);
    let Some(store) = Seaweed::start_tls(&issued) else { return };
    let (journal, url, ca) = (Journal::new(6), "s3://recordings/exo", certificates.text("ca.pem"));
    let run = |args: &[&str], more: &[&str], variables: &[(&str, &str)]| {
        let flags = flags(store.tls_port());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let output =
            exo_ingest(&[args, &flags[..], more].concat(), &[&KEYS[..], variables].concat());
        (output.status.code(), output.stdout, text(&output.stderr).to_owned())
    };
    let data = journal.data();
    let ship = ["ship", "--node", "node-1", "--to", url, "--data-dir", data.to_str().unwrap()];
    // It does not ask again for five minutes.
    for ca in [None, Some("wrong.pem")] {
        let option = ca.map(|name| format!("ca={}", certificates.text(name)));
        let more: Vec<&str> = option.iter().flat_map(|ca| ["--sink-option", ca]).collect();
        let (code, _, told) = run(&ship, &more, &[]);
        assert_eq!(code, Some(1), "{told}");
        let hint = "UnknownIssuer: check the server's certificate, and name its CA with \
                    --sink-option ca=FILE (for serve: archive.ca)";
        assert!(told.contains(hint) && told.lines().count() == 1, "{told}");
    }
    let missing = format!("ca={}", certificates.text("missing.pem"));
    let (code, _, told) = run(&ship, &["--sink-option", &missing], &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("cannot read the certificates"), "{told}");
    let (code, _, told) = run(&ship, &["--ca", &ca], &[]);
    assert_eq!(code, Some(0), "{told}");
    let option = format!("ca={ca}");
    for call in CALLS {
        let export = ["archive", "export", call, "-o", "-", "--from", url];
        let (code, found, told) = run(&export, &["--sink-option", &option], &[]);
        assert_eq!(code, Some(0), "{told}");
        assert!(found == journal.wav(call), "{call}");
    }
    // As a certificate of the system.
    let verify = ["archive", "verify", "--from", url];
    let (code, _, told) = run(&verify, &[], &[("SSL_CERT_FILE", &ca)]);
    assert_eq!(code, Some(0), "{told}");
}

/// Settings of a node for a store with TLS, with the file of this CA.
fn settings(port: u16, ca: Option<&Path>) -> Vec<String> {
    let options = format!(
        "archive.options=endpoint=https://127.0.0.1:{port},region=us-east-1,\
         access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY}"
    );
    let archive = ["--archive", "s3://recordings/exo", "--set", &options].map(str::to_owned);
    let ca = ca.map(|path| ["--set".to_owned(), format!("archive.ca={}", path.display())]);
    archive.into_iter().chain(ca.into_iter().flatten()).collect()
}

#[test]
fn a_node_sends_its_journal_over_tls_and_its_check_says_what_is_wrong() {
    let certificates = Certificates::new();
    let issued = certificates.authority.issue(&["127.0.0.1"]);
    let Some(store) = Seaweed::start_tls(&issued) else { return };
    let settings = |ca: Option<&str>| {
        let path = ca.map(|name| certificates.path(name));
        settings(store.tls_port(), path.as_deref())
    };
    for (ca, code, expected) in [
        (None, 1, "name its CA with --sink-option ca=FILE (for serve: archive.ca)"),
        (Some("wrong.pem"), 1, "invalid peer certificate: UnknownIssuer"),
        (Some("empty.pem"), 2, "empty.pem holds no certificate in PEM"),
        (Some("missing.pem"), 2, "cannot read the certificates"),
        (Some("ca.pem"), 0, "takes, gives and deletes an object"),
    ] {
        let settings = settings(ca);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let (found, told) = check(&settings, &[]);
        assert_eq!(found, Some(code), "{ca:?}: {told}");
        assert!(told.contains(expected), "{ca:?}: {told}");
    }
    let (dir, settings) = (tempfile::tempdir().unwrap(), settings(Some("ca.pem")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let node = NodeProcess::start(
        EXO_INGEST,
        dir.path(),
        &[&crate::forward::FAST[..], &settings].concat(),
    );
    let players = live_node::play(&node, &["one"]);
    live_node::await_acks(&players, 300);
    assert!(node.terminate().success());
    players.into_iter().for_each(|player| drop(player.finish()));
    let (flags, ca) = (flags(store.tls_port()), format!("ca={}", certificates.text("ca.pem")));
    let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (call, url) = (format!("{TENANT}/one"), "s3://recordings/exo");
    args.extend(["archive", "export", &call, "-o", "-", "--from", url, "--sink-option", &ca]);
    args.rotate_left(flags.len());
    eventually("the call is in the archive", || {
        let found = exo_ingest(&args, &KEYS);
        found.status.success() && found.stdout == live_node::export(dir.path(), "one")
    });
}
