//! `--out`: every file is there, can be read back, and holds no secret. `--server-pid` measures a
//! process.

use std::fs;
use std::process::{Command, Output};

use crate::faulty::{Fault, Node, TOKEN, result};
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

#[test]
fn the_files_of_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("a/b");
    let node = Node::start(Fault::None);
    let pid = std::process::id().to_string();
    let flags = [
        "--out",
        out.to_str().unwrap(),
        "--token",
        TOKEN,
        "--duration",
        "1500ms",
        "--server-pid",
        &pid,
        "--note",
        "node at 1",
    ];
    let (code, json) = result(&node, &flags);
    assert_eq!(code, 0, "{json:#}");
    let read = |name: &str| {
        fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };

    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("result.json")).unwrap(), json);
    assert!(json["server"]["rss_bytes"].as_u64() > Some(0), "{json:#}");
    assert!(json["server"]["cpu_ns_per_frame"].is_u64(), "{json:#}");
    assert!(json["generator"]["cpu_percent"].as_f64() > Some(0.0), "{json:#}");

    let env: serde_json::Value = serde_json::from_str(&read("env.json")).unwrap();
    assert!(env["host"]["kernel"].is_string() && env["host"]["cores"].as_u64() > Some(0));
    assert_eq!(env["note"], "node at 1");
    assert!(read("report.html").contains("node at 1"));
    assert!(env["command"].as_array().unwrap().iter().any(|arg| arg == "--token"));

    let log = read("latency.hlog");
    let mut acks = 0;
    let mut tags = std::collections::BTreeSet::new();
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let tag = interval.tag().unwrap().as_str().to_owned();
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            interval.encoded_histogram(),
        );
        let histogram: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut &bytes.unwrap()[..]).unwrap();
        acks += if tag == "ack" { histogram.len() } else { 0 };
        tags.insert(tag);
    }
    assert_eq!(Some(acks), json["counts"]["acks"].as_u64());
    assert_eq!(tags.into_iter().collect::<Vec<_>>(), ["ack", "sendlag", "setup"]);

    let csv = read("intervals.csv");
    let mut lines = csv.lines();
    let columns = lines.next().unwrap().split(',').count();
    let frames: u64 = lines
        .map(|line| {
            assert_eq!(line.split(',').count(), columns, "{line}");
            line.split(',').nth(2).unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(Some(frames), json["counts"]["frames"].as_u64());

    assert!(read("ack.hgrm").contains("#[Max"));
    for file in fs::read_dir(&out).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(TOKEN), "a token was written to disk");
    }
}

fn exo_load(before: &[&str], args: &[&str]) -> Output {
    let words = [before, &[env!("CARGO_BIN_EXE_exo-load")], args].concat();
    Command::new(words[0]).args(&words[1..]).output().expect("a command")
}

#[test]
fn a_page_goes_through_a_link_that_stays_and_what_cannot_be_written_leaves_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let (out, page) = (directory.path().join("out"), directory.path().join("page.html"));
    let node = Node::start(Fault::None);
    let (code, json) =
        result(&node, &["--out", out.to_str().unwrap(), "--token", TOKEN, "--duration", "500ms"]);
    assert_eq!(code, 0, "{json:#}");
    let link = out.join("report.html");
    fs::rename(&link, &page).unwrap();
    let written = fs::read(&page).unwrap();
    fs::write(&page, "old").unwrap();
    std::os::unix::fs::symlink(&page, &link).unwrap();
    let names =
        || fs::read_dir(&out).unwrap().count() + fs::read_dir(directory.path()).unwrap().count();
    let count = names();
    let report = ["report", out.to_str().unwrap()];
    // Without a handler the signal of the limit would kill it.
    let output = exo_load(&["prlimit", "--fsize=1000"], &report);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        (output.status.code(), errors.contains("File too large")),
        (Some(1), true),
        "{errors}"
    );
    assert_eq!((fs::read(&page).unwrap(), names()), (b"old".to_vec(), count));
    assert!(exo_load(&[], &report).status.success());
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!((fs::read(&page).unwrap().len(), names()), (written.len(), count));
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_exo-load"));
    assert_eq!(command.arg("--help").stdout(full).status().unwrap().code(), Some(1));
}
