//! Credentials of the message engine that change while a node runs: it goes on with the new ones.

use crate::live::text;
use crate::{EXO_INGEST, live_node, programs};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use exo_ingest_harness::certificates::write_private;
use exo_ingest_harness::{NatsCluster, NodeProcess, Player, TENANT, eventually, now_secs};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the engine has of the call, for a reader with these credentials.
fn read(url: &str, credentials: &Path) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["read", "--from", url, &format!("{TENANT}/one"), "-o", "-"]);
    command.arg("--credentials").arg(credentials).output().unwrap()
}

/// A node with a call.
struct Running {
    dir: tempfile::TempDir,
    url: String,
    credentials: PathBuf,
    node: NodeProcess,
    players: Vec<Player>,
}

impl Running {
    fn start(engine: &NatsCluster, credentials: &Path) -> Running {
        let (dir, url) = (tempfile::tempdir().unwrap(), engine.url());
        let setting = format!("live.credentials={}", credentials.display());
        let args = ["--live-audio", "all", "--set", &setting];
        let node = live_node::start(dir.path(), &url, 1, &args);
        let players = live_node::play(&node, &["one"]);
        Running { dir, url, credentials: credentials.to_owned(), node, players }
    }

    /// What the engine has of the call.
    fn read(&self) -> Output {
        read(&self.url, &self.credentials)
    }

    /// Waits until the engine takes audio that is played from now on.
    #[track_caller]
    fn await_handed_over(&self) {
        let before = self.players[0].sent_bytes() as usize;
        live_node::await_acks(&self.players, 50);
        eventually("the engine takes audio", || self.read().stdout.len() > before);
    }

    /// Waits until the node says that the engine fails.
    #[track_caller]
    fn await_failure(&self) {
        eventually("the node says that the engine fails", || {
            self.node.admin().request("GET", "/ready").body.contains("sink_fails")
        });
    }

    /// Ends the node. The engine has every byte.
    fn finish(self) {
        let Running { dir, url, credentials, node, players } = self;
        assert!(node.terminate().success());
        players.into_iter().for_each(|player| drop(player.finish()));
        let found = read(&url, &credentials);
        assert!(found.status.success(), "{}", text(&found.stderr));
        assert!(found.stdout == live_node::export(dir.path(), "one"));
    }
}

/// Lines of a server's configuration: its only user.
fn user(password: &str) -> String {
    format!("authorization {{ users: [{{ user: exo, password: \"{password}\" }}] }}\n")
}

#[test]
fn a_node_goes_on_with_a_new_password() {
    let Some(engine) = NatsCluster::start_with(&programs(), 1, &user("first:one")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    write_private(&file, "exo:first:one\n");
    let running = Running::start(&engine, &file);
    running.await_handed_over();
    // First the file, and then the engine.
    write_private(&file, "exo:second\n");
    engine.reload_with(&user("second"));
    running.await_handed_over();
    // First the engine, and the file once the node is refused.
    engine.reload_with(&user("third"));
    running.await_failure();
    write_private(&file, "exo:third\n");
    running.await_handed_over();
    running.finish();
}

#[test]
fn a_password_in_the_url_counts_and_a_wrong_one_is_named() {
    let Some(engine) = NatsCluster::start_with(&programs(), 1, &user("a@b")) else { return };
    let journal = crate::live::journal();
    let ship = |start: &str| {
        let url = engine.url_with(start);
        let output = crate::live::run(&crate::live::ship_args(journal.path(), &url, "1"));
        (output.status.code(), text(&output.stderr).to_owned())
    };
    for (start, expected) in [
        ("nats://exo:wrong@", ": check the credentials"),
        ("nats://", ": check the credentials"),
        ("nats://exo@", "the URL has a user without a password"),
    ] {
        let (code, told) = ship(start);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(expected) && !told.contains("wrong@"), "{told}");
    }
    let (code, told) = ship("nats://exo:a%40b@");
    assert_eq!(code, Some(0), "{told}");
}

/// A token of NATS: what `issuer` says of `subject`.
fn token(issuer: &KeyPair, subject: &KeyPair, expires: Option<u64>, nats: &Value) -> String {
    let mut claims = json!({
        "jti": "x", "iat": now_secs(), "name": "x", "nats": nats,
        "iss": issuer.public_key(), "sub": subject.public_key(),
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Accounts of an operator, as of a large installation.
struct Operator {
    account: KeyPair,
    /// Lines of the server's configuration.
    lines: String,
}

impl Operator {
    fn new() -> Operator {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let system = KeyPair::new_account();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let of_account = json!({ "type": "account", "version": 2, "limits": limits });
        let plain = json!({
            "type": "account", "version": 2,
            "limits": { "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1,
                "imports": -1, "exports": -1, "wildcards": true },
        });
        let of_operator = json!({ "type": "operator", "version": 2 });
        let lines = format!(
            "operator: \"{}\"\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload {{ {}: \"{}\", {}: \"{}\" }}\n",
            token(&operator, &operator, None, &of_operator),
            system.public_key(),
            account.public_key(),
            token(&operator, &account, None, &of_account),
            system.public_key(),
            token(&operator, &system, None, &plain),
        );
        Operator { account, lines }
    }

    /// The text of a new `.creds` file, for this many seconds.
    fn credentials(&self, seconds: u64) -> String {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let token = token(&self.account, &user, Some(now_secs() + seconds), &claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}

#[test]
fn a_node_goes_on_with_a_new_credentials_file_when_the_old_one_expires() {
    let operator = Operator::new();
    let Some(engine) = NatsCluster::start_with(&programs(), 1, &operator.lines) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.creds");
    write_private(&file, &operator.credentials(15));
    let running = Running::start(&engine, &file);
    running.await_handed_over();
    // Nothing renews it in time: the engine closes the connection.
    running.await_failure();
    assert_ne!(running.read().status.code(), Some(0));
    write_private(&file, &operator.credentials(3_600));
    running.await_handed_over();
    running.finish();
}
