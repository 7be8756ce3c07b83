//! Limits of the process, and signals that kill by default. The node names them before it serves.
//! While it serves, they end no call that can go on.

use crate::EXO_INGEST;
use exo_ingest_harness::{
    Keys, NodeProcess, PATIENCE, Played, Player, assert_sound, audit, eventually,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// A quarter of a segment.
const LOW_FILE_SIZE: u64 = 1 << 20;

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a process's number")
}

/// Sets the soft limit of a running node, and returns the old one.
fn limit(node: &NodeProcess, resource: Resource, current: Option<u64>) -> Rlimit {
    let maximum = getrlimit(resource).maximum;
    prlimit(Some(pid(node.pid())), resource, Rlimit { current, maximum })
        .expect("a process of ours")
}

fn players(node: &NodeProcess, name: &str, seed: u64, pause: Duration) -> Vec<Player> {
    let start = |call| node.play(&format!("{name}-{call}"), seed + call, pause);
    (0..4).map(start).collect()
}

#[track_caller]
fn assert_acks_continue(calls: &[Player]) {
    let acked: Vec<u64> = calls.iter().map(Player::acked).collect();
    eventually("calls are acked as before", || {
        calls.iter().zip(&acked).all(|(call, acked)| call.acked() > acked + 20 || call.is_over())
    });
    assert!(!calls.iter().any(Player::is_over), "a call was ended");
}

#[track_caller]
fn end_well(calls: Vec<Player>) -> Vec<exo_ingest_harness::Played> {
    let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(
        ended.iter().all(|call| (call.close, call.stopped) == (Some(1000), Some(call.sent))),
        "{ended:#?}"
    );
    ended
}

/// Runs a command with a limit on file sizes, to its end.
fn run_with_file_size(bytes: u64, args: &[&str]) -> Output {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--fsize={bytes}"))
        .arg(EXO_INGEST)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    command.output().expect("prlimit, of util-linux")
}

/// Ends the node, and finds every acked frame in its journal.
#[track_caller]
fn end_soundly(node: NodeProcess, data_dir: &Path, played: &[Played]) {
    assert!(node.terminate().success());
    assert_sound(data_dir);
    println!("{:?}", audit(data_dir, played));
}

#[test]
fn a_file_size_limit_below_a_segment_is_named_before_the_node_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("public.pem");
    std::fs::write(&key, Keys::First.public_pem()).expect("a file");
    for bytes in [0, 4096, LOW_FILE_SIZE, (4 << 20) - 1] {
        let data_dir = directory.path().join(format!("data-{bytes}"));
        let (key, data) = (key.to_str().expect("UTF-8"), data_dir.to_str().expect("UTF-8"));
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--shards",
            "1",
            "--allow-unregistered",
        ];
        let set = ["--set", "limits.ring_size=16MiB", "--set", "journal.segment_size=4MiB"];
        let paths = ["--jwt-key", key, "--data-dir", data];
        let output = run_with_file_size(bytes, &[&args[..], &set, &paths].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{bytes}: {} {errors}",
            output.status
        );
        let line = errors.lines().find(|line| line.starts_with("error: ")).expect("an error");
        for words in ["4096 KiB", "ulimit -f", "LimitFSIZE", "journal.segment_size"] {
            assert!(line.contains(words), "{bytes}: {words}: {line}");
        }
        assert!(!data_dir.exists(), "the node made its data directory");
    }
}

#[test]
fn a_file_size_limit_lowered_while_it_serves_is_a_full_disk_and_a_raised_one_is_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    let mut played = Vec::new();
    // A whole number of blocks, a part of a block, nothing.
    for (round, bytes) in [LOW_FILE_SIZE, LOW_FILE_SIZE + 1000, 0].into_iter().enumerate() {
        let calls =
            players(&node, &format!("round-{round}"), 10 * round as u64, Duration::from_millis(2));
        eventually("they are acked", || calls.iter().all(|call| call.acked() >= 50));
        let before = limit(&node, Resource::Fsize, Some(bytes));
        eventually("every call is ended", || calls.iter().all(Player::is_over));
        let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
        assert!(
            ended.iter().all(|call| call.close == Some(1013)),
            "{bytes}: {ended:#?} {:#?}",
            node.log()
        );
        node.await_upgrade_status(503);
        let log = node.log();
        assert!(log.iter().any(|line| line.contains("raise the limit on file sizes")), "{log:#?}");
        limit(&node, Resource::Fsize, before.current);
        node.await_upgrade_status(101);
        played.extend(ended);
    }
    let calls = players(&node, "later", 100, Duration::from_millis(2));
    eventually("calls are acked again", || calls.iter().all(|call| call.acked() >= 50));
    played.extend(end_well(calls));
    end_soundly(node, &data_dir, &played);
}

#[test]
fn an_export_beyond_the_file_size_limit_fails_and_leaves_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    let calls = players(&node, "call", 1, Duration::ZERO);
    eventually("there is some audio", || calls.iter().all(|call| call.acked() >= 50));
    end_well(calls);
    assert!(node.terminate().success());
    let out = directory.path().join("out");
    std::fs::create_dir(&out).expect("a directory");
    let wav = out.join("call.wav");
    let (data, wav) = (data_dir.to_str().expect("UTF-8"), wav.to_str().expect("UTF-8"));
    for bytes in [0, 100_000] {
        let output = run_with_file_size(
            bytes,
            &["calls", "export", "acme/call-0", "-o", wav, "--data-dir", data],
        );
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{bytes}: {} {errors}", output.status);
        assert!(errors.contains("File too large"), "{errors}");
        assert_eq!(std::fs::read_dir(&out).expect("it is there").count(), 0, "{bytes}");
    }
    let keys = directory.path().join("keys");
    let output = run_with_file_size(10, &["keygen", "--out", keys.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1), "{}", output.status);
    assert_eq!(std::fs::read_dir(&keys).expect("it is made").count(), 0);
}

#[test]
fn signals_that_mean_nothing_to_a_node_end_no_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(
        EXO_INGEST,
        &directory.path().join("data"),
        &["--set", "journal.reserve=0"],
    );
    let calls = players(&node, "call", 1, Duration::from_millis(2));
    for signal in [Signal::XFSZ, Signal::PIPE, Signal::USR1, Signal::USR2, Signal::HUP] {
        kill_process(pid(node.pid()), signal).expect("it runs");
        assert_acks_continue(&calls);
    }
    let is_named =
        |number: i32| node.log().iter().any(|line| line.contains(&format!("signal={number}")));
    eventually("the two without a meaning are logged", || {
        [Signal::USR1, Signal::USR2].map(Signal::as_raw).map(is_named) == [true; 2]
    });
    end_well(calls);
    assert!(node.terminate().success());
}

#[test]
fn the_limit_on_cpu_time_drains_the_node_which_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = NodeProcess::start(
        EXO_INGEST,
        &directory.path().join("data"),
        &["--set", "journal.reserve=0", "--drain", "1s"],
    );
    let calls = players(&node, "call", 1, Duration::from_millis(2));
    eventually("they are acked", || calls.iter().all(|call| call.acked() >= 20));
    // The kernel repeats it each second.
    for _ in 0..3 {
        kill_process(pid(node.pid()), Signal::XCPU).expect("it runs");
    }
    eventually("every call is let go", || calls.iter().all(Player::is_over));
    let ended: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(ended.iter().all(|call| call.close == Some(1001)), "{ended:#?}");
    let mut log = Vec::new();
    eventually("it says why it ends", || {
        log = node.log();
        log.iter().any(|line| line.starts_with("error: ") && line.contains("ulimit -t"))
    });
    assert_eq!(node.wait().code(), Some(1), "{log:#?}");
}

/// A running node needs no more memory, so limits below what it has do no harm.
#[test]
fn limits_on_memory_lowered_while_it_serves_end_no_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    let calls = players(&node, "call", 1, Duration::from_millis(2));
    assert_acks_continue(&calls);
    for resource in [Resource::Memlock, Resource::As, Resource::Data] {
        limit(&node, resource, Some(64 << 10));
        assert_acks_continue(&calls);
        println!("{resource:?}: an upgrade gets {}", node.upgrade_status());
    }
    let played = end_well(calls);
    end_soundly(node, &data_dir, &played);
}

#[test]
fn a_limit_on_open_files_lowered_while_it_serves_ends_no_call_before_it_needs_a_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let args = ["--set", "journal.reserve=0", "--set", "journal.segment_size=256MiB"];
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &args);
    let calls = players(&node, "call", 1, Duration::from_millis(2));
    assert_acks_continue(&calls);
    let before = limit(&node, Resource::Nofile, Some(8));
    assert_acks_continue(&calls);
    limit(&node, Resource::Nofile, before.current);
    node.await_upgrade_status(101);
    let played = end_well(calls);
    end_soundly(node, &data_dir, &played);
}

#[test]
fn a_segment_that_finds_no_descriptor_is_a_full_disk_and_the_log_names_the_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    let node = NodeProcess::start(EXO_INGEST, &data_dir, &["--set", "journal.reserve=0"]);
    let calls = players(&node, "call", 1, Duration::from_millis(2));
    assert_acks_continue(&calls);
    let before = limit(&node, Resource::Nofile, Some(8));
    eventually("every call is ended", || calls.iter().all(Player::is_over));
    let played: Vec<_> = calls.into_iter().map(Player::finish).collect();
    assert!(played.iter().all(|call| call.close == Some(1013)), "{played:#?} {:#?}", node.log());
    assert!(
        node.log().iter().any(|line| line.contains("raise the limit on open files")),
        "{:#?}",
        node.log()
    );
    limit(&node, Resource::Nofile, before.current);
    node.await_upgrade_status(101);
    end_soundly(node, &data_dir, &played);
}

/// A node that reads its configuration from a pipe: it starts, and waits until the test writes.
struct Starting {
    child: Child,
    config: std::fs::File,
}

fn start_slowly(directory: &Path) -> Starting {
    let (key, fifo) = (directory.join("public.pem"), directory.join("config.toml"));
    std::fs::write(&key, Keys::First.public_pem()).expect("a file");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a fifo");
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().arg("serve").arg("--config").arg(&fifo).arg("--jwt-key").arg(&key);
    command.args([
        "--no-journal",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
        "--shards",
        "1",
        "--allow-unregistered",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    // This returns once the node has opened the pipe.
    let config = std::fs::File::options().write(true).open(&fifo).expect("the node reads it");
    Starting { child, config }
}

impl Starting {
    fn await_end(mut self) -> (ExitStatus, String, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("it does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().expect("piped").read_to_string(&mut out).expect("UTF-8");
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
        (status, out, err)
    }
}

#[test]
fn a_hangup_while_the_node_starts_does_not_end_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = start_slowly(directory.path());
    let number = pid(node.child.id());
    for _ in 0..3 {
        kill_process(number, Signal::HUP).expect("it runs");
    }
    node.config.write_all(b"[limits]\nring_size = \"16MiB\"\n").expect("it reads");
    node.config = std::fs::File::open("/dev/null").expect("a device");
    let mut line = [0; 13];
    let read = node.child.stdout.as_mut().expect("piped").read_exact(&mut line);
    if read.is_ok() {
        kill_process(number, Signal::TERM).expect("it runs");
    }
    let (status, _, errors) = node.await_end();
    assert_eq!((status.signal(), &line[..]), (None, &b"listening on "[..]), "{errors}");
    assert!(status.success(), "{status} {errors}");
}
