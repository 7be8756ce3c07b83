//! A Prometheus that scrapes each second, and questions to it.

use crate::{EXO_INGEST, run};
use exo_ingest_harness::{PATIENCE, eventually};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The label `instance` of the node, whatever its address is.
pub(crate) const INSTANCE: &str = "node-1";

/// A Prometheus. It is killed when this is dropped.
pub(crate) struct Prometheus {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one with the program's rules after `args`.
    pub(crate) fn start(args: &[&str]) -> Prometheus {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        run(Command::new(EXO_INGEST)
            .env_clear()
            .args(["alerts", "-o"])
            .arg(path("rules.yml"))
            .args(args));
        std::fs::write(path("prometheus.yml"), CONFIG).expect("a file");
        std::fs::write(path("targets.json"), "[]").expect("a file");
        let log = File::create(path("log")).expect("a file");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it is installed");
        let mut prometheus = Prometheus { process, address: ([127, 0, 0, 1], 0).into(), directory };
        eventually("Prometheus listens", || match prometheus.find_address() {
            Some(address) => {
                prometheus.address = address;
                true
            }
            None => false,
        });
        eventually("Prometheus is ready", || {
            prometheus.get("/-/ready").is_some_and(|(status, _)| status == 200)
        });
        prometheus
    }

    fn find_address(&self) -> Option<SocketAddr> {
        let log = std::fs::read_to_string(self.directory.path().join("log")).ok()?;
        let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
        rest.lines().next()?.trim().parse().ok()
    }

    /// From now on it scrapes this address.
    pub(crate) fn scrape(&self, admin: SocketAddr) {
        let targets = json!([{
            "targets": [admin.to_string()],
            "labels": {"instance": INSTANCE},
        }]);
        let path = self.directory.path().join("targets.json");
        write_whole(&path, &targets.to_string());
    }

    /// The values of an expression now.
    pub(crate) fn query(&self, expr: &str) -> Vec<f64> {
        let expr = utf8_percent_encode(expr, NON_ALPHANUMERIC);
        let answer = self.ask(&format!("/api/v1/query?query={expr}"));
        let result = answer["data"]["result"].as_array().expect("a vector").clone();
        let value = |series: Value| series["value"][1].as_str()?.parse().ok();
        result.into_iter().filter_map(value).collect()
    }

    /// The alerts of this name that fire now.
    pub(crate) fn firing(&self, name: &str) -> Vec<Value> {
        let answer = self.ask("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().expect("a list").iter();
        let is_it =
            |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        alerts.filter(is_it).cloned().collect()
    }

    /// Waits until an alert fires; returns it.
    #[track_caller]
    pub(crate) fn await_alert(&self, name: &str) -> Value {
        let mut found = Vec::new();
        eventually(&format!("{name} fires"), || {
            std::thread::sleep(Duration::from_millis(100));
            found = self.firing(name);
            !found.is_empty()
        });
        found.remove(0)
    }

    /// Waits until an alert does not fire any more.
    #[track_caller]
    pub(crate) fn await_end_of_alert(&self, name: &str) {
        eventually(&format!("{name} resolves"), || {
            std::thread::sleep(Duration::from_millis(100));
            self.firing(name).is_empty()
        });
    }

    #[track_caller]
    fn ask(&self, target: &str) -> Value {
        let (status, body) = self.get(target).expect("an answer");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
        assert!(status == 200 && answer["status"] == "success", "{target}: {body}");
        answer
    }

    /// Status and body. HTTP/1.0, so that the body ends with the connection.
    fn get(&self, target: &str) -> Option<(u16, String)> {
        let mut socket = TcpStream::connect(self.address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(socket, "GET {target} HTTP/1.0\r\nHost: prometheus\r\n\r\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            println!("{}", log.unwrap_or_default());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Prometheus may read the file at any moment.
fn write_whole(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).and_then(|()| std::fs::rename(next, path)).expect("ours");
}

const CONFIG: &str = "\
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: exo-ingest
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
";
