//! `/metrics` in the classic text format, for scrapers that ask for it. The rules are those of
//! `promtool check metrics`, and the values are those of OpenMetrics.

use crate::EXO_INGEST;
use exo_ingest_harness::{Admin, Exposition, NodeProcess, Response, eventually};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

fn scrape(admin: &Admin, accept: &str) -> Response {
    let mut peer = admin.connect();
    peer.send(format!("GET /metrics HTTP/1.1\r\nHost: admin\r\n{accept}\r\n").as_bytes());
    peer.response()
}

/// The type of each family and the value of each sample. Panics if a line breaks a rule of the
/// format.
#[track_caller]
fn parse(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let (mut helped, mut family) = (String::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help");
            assert!(!help.is_empty(), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, helped, "help and type stand together");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            // promtool's rule for names: counters end in `_total`, and nothing else does.
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} is there twice"
            );
            family = name.to_owned();
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let suffix =
                name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
            let is_histogram = types[&family] == "histogram";
            assert_eq!(matches!(suffix, "_bucket" | "_sum" | "_count"), is_histogram, "{line}");
            assert!(suffix.is_empty() || is_histogram, "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
    }
    (types, samples)
}

#[test]
fn plain_text_is_the_classic_format_and_says_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(
        EXO_INGEST,
        &directory.path().join("data"),
        &["--set", "journal.reserve=0"],
    );
    let admin = node.admin();
    let player = node.play("one", 1, Duration::from_millis(1));
    eventually("there is something to count", || player.acked() >= 30);
    player.finish();
    eventually("it is over", || {
        admin.metrics().value(r#"exo_ingest_connections_open{shard="0"}"#) == 0.0
    });

    for accept in [
        "",
        "Accept: */*\r\n",
        "Accept: application/openmetrics-text; version=1.0.0, text/plain;q=0.5\r\n",
    ] {
        let response = scrape(&admin, accept);
        assert!(
            response
                .field("content-type")
                .expect("a type")
                .starts_with("application/openmetrics-text"),
            "{accept}"
        );
        assert!(response.body.ends_with("# EOF\n"));
    }
    let classic = scrape(&admin, "Accept: text/plain\r\n");
    assert_eq!(classic.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let (types, samples) = parse(&classic.body);
    assert_eq!(types["exo_ingest_build_info"], "gauge");
    assert_eq!(types["exo_ingest_frames_total"], "counter");
    assert!(samples[r#"exo_ingest_frames_total{shard="0"}"#] >= 30.0);
    assert!(samples.contains_key(r#"exo_ingest_ack_seconds_bucket{le="+Inf"}"#));
    // Each sample of one format is in the other, and values that no longer change are equal.
    let open = Exposition::parse(&scrape(&admin, "").body);
    let other = |one: &BTreeMap<String, f64>, two: &BTreeMap<String, f64>| {
        one.keys().filter(|series| !two.contains_key(*series)).cloned().collect::<Vec<_>>()
    };
    assert_eq!((other(&open.samples, &samples), other(&samples, &open.samples)), (vec![], vec![]));
    for name in [
        "exo_ingest_frames_total",
        "exo_ingest_audio_bytes_total",
        "exo_ingest_acks_total",
        "exo_ingest_calls_max",
    ] {
        let series =
            samples.keys().find(|series| series.split('{').next() == Some(name)).expect("a sample");
        assert_eq!(samples[series], open.samples[series], "{series}");
    }
    promtool(&classic.body);
}

/// Prometheus's own check, where it is installed.
fn promtool(text: &str) {
    let tool = std::env::var_os("PROMTOOL").unwrap_or("promtool".into());
    let mut command = Command::new(tool);
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!is_ci, "CI=true, and promtool is not installed");
        println!("left out, there is no promtool");
        return;
    };
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("an end");
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
    println!("promtool has nothing to say");
}
