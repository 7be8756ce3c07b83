//! The first hour of a new user: short runs, a busy machine, Ctrl-C, a directory in use.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::faulty::{Fault, Node, command, exo_load, result};

fn table(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A generator that stops for a moment: a few of its frames are late, and there is no p99.9.
#[test]
fn a_few_late_frames_of_a_short_run_are_shown_and_pass() {
    let node = Node::start(Fault::None);
    let flags = ["--calls", "1", "--duration", "3s", "--sendlag-max", "100ms", "--json"];
    let child = command(&node.url, &flags).stdout(Stdio::piped()).spawn().expect("exo-load starts");
    node.wait_for_frames(20);
    let send =
        |signal| rustix::process::kill_process(Pid::from_child(&child), signal).expect("it runs");
    send(Signal::STOP);
    std::thread::sleep(Duration::from_millis(200));
    send(Signal::CONT);
    let output = child.wait_with_output().expect("its output");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &json["verdict"]), (Some(0), &"pass".into()), "{json:#}");
    assert!(json["generator"]["frames_late"].as_u64() >= Some(1), "{json:#}");
    assert!(json["generator"]["sendlag_p999_ns"].as_u64() > Some(100_000_000), "{json:#}");
}

#[test]
fn late_frames_are_counted_in_the_table() {
    let output = exo_load(&Node::start(Fault::None).url, &["--sendlag-max", "1ns"]);
    let table = table(&output);
    assert_eq!(output.status.code(), Some(3), "{table}");
    let line = table
        .lines()
        .find(|line| line.starts_with("send lag"))
        .unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains(" of ") && line.contains("late by more than 1 ns"), "{line}");
    let last = table.lines().last().unwrap();
    assert!(
        last.starts_with("INVALID: ") && last.contains("prove nothing") && last.contains("--cpus"),
        "{last}"
    );
}

#[test]
fn a_run_without_an_ack_due_is_no_pass() {
    let flags = ["--frame-ms", "200", "--duration", "1800ms"];
    let node = Node::start(Fault::None);
    let (code, json) = result(&node, &flags);
    assert_eq!(
        (code, &json["verdict"], &json["counts"]["acks_due"]),
        (3, &"invalid".into(), &0.into()),
        "{json:#}"
    );
    let table = table(&exo_load(&node.url, &flags));
    let last = table.lines().last().unwrap();
    assert!(
        last.starts_with("INVALID: no ACK was due") && last.contains("--duration 3s"),
        "{last}"
    );
    // What was not measured is no zero.
    let line = table.lines().find(|line| line.starts_with("ack ")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["ack", "0", "-", "-", "-", "-"],
        "{table}"
    );
}

#[test]
fn an_interrupted_run_writes_what_it_has() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let node = Node::start(Fault::None);
        let flags = ["--duration", "60s", "--out", out.to_str().unwrap()];
        let child =
            command(&node.url, &flags).stdout(Stdio::piped()).spawn().expect("exo-load starts");
        node.wait_for_frames(60);
        rustix::process::kill_process(Pid::from_child(&child), signal).expect("it runs");
        let output = child.wait_with_output().expect("its output");
        assert_eq!(output.status.code(), Some(130), "{}", table(&output));
        assert!(
            table(&output).ends_with("\nINTERRUPTED: shorter than asked for, PASS until then\n"),
            "{}",
            table(&output)
        );
        let json: Value =
            serde_json::from_str(&fs::read_to_string(out.join("result.json")).unwrap()).unwrap();
        crate::schema::check(&json);
        assert_eq!(
            (&json["interrupted"], &json["exit_code"]),
            (&true.into(), &130.into()),
            "{json:#}"
        );
        assert!(out.join("report.html").exists() && out.join("ledger.json").exists());
        // Half a run is no baseline.
        let refused = exo_load(&node.url, &["--baseline", out.to_str().unwrap()]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("was interrupted"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_directory_with_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let out_text = out.to_str().unwrap();
    let node = Node::start(Fault::None);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.txt"), "years of work").unwrap();
    fs::write(out.join("report.html"), "mine").unwrap();
    let refused = exo_load(&node.url, &["--out", out_text]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("something else (thesis.txt)") && errors.contains("--force"),
        "{errors}"
    );
    assert!(node.heard.lock().unwrap().is_empty(), "it is found out before the run");
    fs::remove_file(out.join("thesis.txt")).unwrap();
    let errors = String::from_utf8(exo_load(&node.url, &["--out", out_text]).stderr).unwrap();
    assert!(errors.contains("something else (report.html)"), "another program's report: {errors}");
    assert_eq!(fs::read_to_string(out.join("report.html")).unwrap(), "mine");
    fs::write(out.join("thesis.txt"), "years of work").unwrap();
    assert_eq!(result(&node, &["--out", out_text, "--force"]).0, 0);
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "years of work");
    // The next run replaces an earlier result, but not if it cannot start.
    fs::remove_file(out.join("thesis.txt")).unwrap();
    assert_eq!(result(&node, &["--out", out_text]).0, 0);
    let before = fs::read_to_string(out.join("env.json")).unwrap();
    assert!(!before.is_empty());
    assert_eq!(
        exo_load(&node.url, &["--out", out_text, "--token", "nonsense"]).status.code(),
        Some(1)
    );
    assert_eq!(fs::read_to_string(out.join("env.json")).unwrap(), before);
}

#[test]
fn a_file_is_played_from_its_start_by_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("speech.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    // The file has three seconds. The run plays one of them.
    (0..72_000i32).for_each(|sample| writer.write_sample((sample % 32_749) as i16).unwrap());
    writer.finalize().unwrap();
    let file = fs::read(&path).unwrap();
    let node = Node::start(Fault::None);
    let (code, json) = result(&node, &["--audio", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{json:#}");
    let heard = node.heard.lock().unwrap();
    for call in ["load-0", "load-1", "load-2"] {
        let said: Vec<u8> = heard
            .iter()
            .filter(|(name, _)| name == call)
            .flat_map(|(_, audio)| audio.clone())
            .collect();
        assert!(
            said.len() > 10 * 960 && file[44..].starts_with(&said),
            "{call} said {} bytes of something else",
            said.len()
        );
    }
}

#[test]
fn one_call_is_no_plural() {
    let table = table(&exo_load(&Node::start(Fault::None).url, &["--calls", "1"]));
    assert!(table.starts_with("1 call, ") && table.contains("of 1 core,"), "{table}");
    assert!(!table.contains("(s)"), "{table}");
}

#[test]
fn the_nodes_limit_is_kept_with_the_result() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1_024]);
            let body = "# TYPE exo_ingest_calls_max gauge\nexo_ingest_calls_max 1600\n# EOF\n";
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let node = Node::start(Fault::None);
    let pid = std::process::id().to_string();
    let (code, json) = result(&node, &["--server-pid", &pid, "--admin", &admin]);
    assert_eq!((code, &json["server"]["calls_max"]), (0, &1_600.into()), "{json:#}");
    let refused = exo_load(&node.url, &["--server-pid", &pid, "--admin", "127.0.0.1:1"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && errors.contains("--admin"), "{errors}");
}
