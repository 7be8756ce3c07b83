//! `exo-ingest serve --check`: what it examines, what it prints, and the exit code that tells a
//! supervisor whether to try again.

use crate::EXO_INGEST;
use exo_ingest_harness::Keys;
use exo_ingest_harness::certificates::{Authority, Issued, write_private};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The nodes here get a free port and little memory.
const SMALL: [&str; 8] = [
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "off",
    "--shards",
    "1",
    "--set",
    "limits.ring_size=16MiB",
];

/// A directory with all files that a node needs.
struct Place {
    directory: tempfile::TempDir,
    ca: Authority,
}

/// The result of a check.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// Asserts that a line of standard output starts with `verdict` and has all of `words`.
    #[track_caller]
    fn says(&self, verdict: &str, words: &[&str]) {
        let is_it =
            |line: &&str| line.starts_with(verdict) && words.iter().all(|word| line.contains(word));
        assert!(
            self.stdout.lines().any(|line| is_it(&line)),
            "no {verdict} {words:?}:\n{}{}",
            self.stdout,
            self.stderr
        );
    }
}

impl Place {
    fn new() -> Place {
        let place =
            Place { directory: tempfile::tempdir().unwrap(), ca: Authority::new("servers") };
        std::fs::write(place.at("public.pem"), Keys::First.public_pem()).unwrap();
        std::fs::create_dir(place.at("data")).unwrap();
        place.issue("exo", &place.ca.issue(&["exo.example"]));
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, stem: &str, issued: &Issued) {
        issued.write(self.directory.path(), stem);
    }

    /// Checks with keys, a data directory and `args`. Files in `args` are those of the directory.
    fn check(&self, args: &[&str]) -> Outcome {
        self.run(&["--jwt-key", "public.pem", "--data-dir", "data", "--allow-unregistered"], args)
    }

    /// The same with one certificate and with `args`.
    fn check_tls(&self, args: &[&str]) -> Outcome {
        let tls = ["--tls-cert", "exo.pem", "--tls-key", "exo-key.pem"];
        self.check(&[&tls[..], args].concat())
    }

    fn run(&self, usual: &[&str], args: &[&str]) -> Outcome {
        let mut command = Command::new(EXO_INGEST);
        command
            .env_clear()
            .current_dir(self.directory.path())
            .args(["serve", "--check"])
            .args(usual);
        let has_own = |flag: &str| args.contains(&flag);
        let small =
            SMALL.chunks(2).filter(|pair| !has_own(pair[0]) || pair[0] == "--set").flatten();
        let output = command.args(small).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

#[test]
fn a_node_that_would_start_is_0_and_every_part_has_its_line() {
    let place = Place::new();
    std::fs::write(place.at("clients.pem"), &Authority::new("clients").pem).unwrap();
    let outcome = place.check_tls(&["--set", "tls.client_ca=clients.pem"]);
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    for (verdict, words) in [
        ("ok", &["configuration", "durable"][..]),
        ("ok", &["token keys", "public.pem", "1 used"]),
        ("ok", &["certificate", "exo.pem", "exo.example", "P-256"]),
        ("ok", &["session tickets", "none"]),
        ("ok", &["client CA", "CN=clients"]),
        ("ok", &["data directory", "writable"]),
        ("ok", &["kernel", "receive buffers"]),
        ("ok", &["open files"]),
        ("ok", &["memory", "frame ring 16MiB"]),
        ("ok", &["address", "is free"]),
    ] {
        outcome.says(verdict, words);
    }
    assert_eq!(std::fs::read_dir(place.at("data")).unwrap().count(), 0, "a check leaves no file");
    let plain =
        place.run(&["--jwt-key", "public.pem", "--no-journal", "--allow-unregistered"], &[]);
    assert_eq!(plain.code, Some(0), "{}{}", plain.stdout, plain.stderr);
    plain.says("ok", &["TLS", "plain"]);
    plain.says("ok", &["data directory", "in memory only"]);
}

#[test]
fn what_has_to_be_changed_first_is_2_and_named() {
    let place = Place::new();
    place.issue("other", &place.ca.issue(&["other.example"]));
    std::fs::write(place.at("bad.pem"), "no key at all").unwrap();
    std::fs::write(place.at("tickets"), "short\n").unwrap();
    let serve_names = ["--tls-cert", "exo.pem", "--tls-key", "other-key.pem"];
    for (outcome, words) in [
        (place.run(&["--no-journal"], &[]), &["token keys", "--jwt-key"][..]),
        (place.run(&["--no-journal", "--jwt-key", "bad.pem"], &[]), &["token keys", "bad.pem"]),
        (place.run(&["--no-journal", "--jwt-key", "none.pem"], &[]), &["token keys", "none.pem"]),
        (place.run(&["--jwt-key", "public.pem"], &[]), &["data directory", "--data-dir"]),
        (place.check(&serve_names), &["TLS", "other-key.pem", "exo.pem", "does not belong"]),
        (
            place.check(&["--tls-cert", "bad.pem", "--tls-key", "exo-key.pem"]),
            &["TLS", "bad.pem", "no certificate"],
        ),
        (
            place.check(&["--tls-cert", "none.pem", "--tls-key", "exo-key.pem"]),
            &["TLS", "none.pem"],
        ),
        (place.check_tls(&["--set", "tls.ticket_keys=tickets"]), &["TLS", "tickets", "line 1"]),
        (
            place.check_tls(&["--set", "tls.client_ca=bad.pem"]),
            &["TLS", "bad.pem", "no certificate"],
        ),
    ] {
        assert_eq!(outcome.code, Some(2), "{words:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.says("FAIL", words);
        assert!(outcome.stderr.contains("1 check failed"), "{}", outcome.stderr);
        // The rest was checked too.
        outcome.says("ok", &["kernel"]);
    }
}

#[test]
fn settings_that_do_not_go_together_are_2() {
    let place = Place::new();
    for (args, words) in [
        (&["--tls-cert", "exo.pem"][..], "one --tls-key for each --tls-cert"),
        (
            &["--tls-cert", "exo.pem", "--tls-cert", "exo.pem", "--tls-key", "exo-key.pem"],
            "2 certificates and 1 keys",
        ),
        (&["--set", "tls.ticket_keys=tickets"], "needs tls.cert"),
        (&["--set", "tls.client_ca=ca.pem"], "needs tls.cert"),
        (
            &["--tls-cert", "a", "--tls-key", "b", "--set", "tls.client_tenant=cn"],
            "needs tls.client_ca",
        ),
        (&["--set", "tls.client_tenant=dn"], "off, cn, dns, uri"),
    ] {
        let outcome = place.check(args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(words), "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn what_may_pass_is_1() {
    let place = Place::new();
    let taken = std::fs::File::open(place.at("data")).unwrap();
    assert!(exo_ingest::archive::lock::try_exclusive(&taken).unwrap());
    let outcome = place.check(&[]);
    assert_eq!(outcome.code, Some(1), "{}{}", outcome.stdout, outcome.stderr);
    outcome.says("FAIL", &["data directory", "another process has locked it"]);
    drop(taken);
    let outcome = place.check(&["--listen", "192.0.2.1:8443"]);
    assert_eq!(outcome.code, Some(1), "{}{}", outcome.stdout, outcome.stderr);
    outcome.says("FAIL", &["address", "192.0.2.1:8443", "not an address of this host"]);
    let outcome = place.check(&["--max-calls", "100000000"]);
    assert_eq!(outcome.code, Some(1), "{}{}", outcome.stdout, outcome.stderr);
    outcome.says("FAIL", &["host", "open files"]);
}

/// Both kinds of faults together: the lasting one decides.
#[test]
fn of_two_faults_the_lasting_one_sets_the_code() {
    let place = Place::new();
    let outcome =
        place.run(&["--jwt-key", "none.pem", "--no-journal"], &["--listen", "192.0.2.1:8443"]);
    assert_eq!(outcome.code, Some(2), "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stderr.contains("2 checks failed"), "{}", outcome.stderr);
}

#[test]
fn what_is_allowed_and_unwise_is_a_warning_and_0() {
    let place = Place::new();
    let running = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = running.local_addr().unwrap().to_string();
    place.issue("old", &place.ca.issue_for_days(&["old.example"], 400, 365));
    place.issue("soon", &place.ca.issue_for_days(&["soon.example"], 90, 97));
    place.issue(
        "rsa",
        &Issued::self_signed(&["rsa.example"], include_str!("../keys/first-private.pem")),
    );
    write_private(&place.at("tickets"), "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=\n");
    let open_to_all = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(place.at("exo-key.pem"), open_to_all).unwrap();
    let pairs: Vec<String> = ["old", "soon", "rsa"]
        .iter()
        .flat_map(|stem| {
            [
                "--tls-cert".into(),
                format!("{stem}.pem"),
                "--tls-key".into(),
                format!("{stem}-key.pem"),
            ]
        })
        .collect();
    let mut args: Vec<&str> = pairs.iter().map(String::as_str).collect();
    args.extend(["--listen", &address, "--set", "tls.ticket_keys=tickets"]);
    let outcome = place.check_tls(&args);
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    outcome.says("warn", &["exo-key.pem", "chmod o-r"]);
    outcome.says("warn", &["old.pem", "old.example", "has expired"]);
    outcome.says("warn", &["soon.pem", "soon.example", "expires in"]);
    outcome.says("warn", &["rsa.pem", "26 times"]);
    outcome.says("warn", &["address", &address, "is in use"]);
    outcome.says("ok", &["session tickets", "1 from the file"]);
}

/// A node makes a missing directory. A check does not.
#[test]
fn a_check_makes_no_directory() {
    let place = Place::new();
    let outcome = place
        .run(&["--jwt-key", "public.pem", "--data-dir", "new/data", "--allow-unregistered"], &[]);
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    outcome.says("ok", &["data directory", "new/data", "will make it in"]);
    assert!(!Path::new(&place.at("new")).exists());
}
