//! `--realtime`: workers run before ordinary threads if that is allowed. If it is not, nothing is
//! played.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::faulty::{Fault, Node, TOKEN, command, flags};

/// An account without privileges, on every Linux.
const NOBODY: u32 = 65_534;

const REALTIME: [&str; 2] = ["--realtime", "--json"];

/// Scheduling policies of a process's threads by name; a thread that is just ending is left out.
fn policies(pid: u32) -> Vec<(String, u32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let policy = |stat: String| {
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        // Field 41 of proc_pid_stat(5); the fields begin with the third.
        Some((name.to_owned(), fields.split_ascii_whitespace().nth(41 - 3)?.parse().ok()?))
    };
    stats.filter_map(policy).collect()
}

/// Exit code 1, one sentence that says what to do, and no call at the node.
#[track_caller]
fn assert_refused(output: &Output, node: &Node) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for part in ["--realtime", "CAP_SYS_NICE", "ulimit -r", "leave out the flag"] {
        assert!(errors.contains(part), "'{part}' is not in: {errors}");
    }
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(output.stdout.is_empty() && node.heard.lock().unwrap().is_empty());
}

#[test]
fn workers_go_before_ordinary_threads() {
    const FIFO: u32 = 1;
    let node = Node::start(Fault::None);
    let mut command = command(&node.url, &REALTIME);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("exo-load starts");
    let mut worker_seen = false;
    while child.try_wait().expect("a child").is_none() {
        for (name, policy) in policies(child.id()) {
            worker_seen |= name == "exo-load-0" && policy == FIFO;
            // The main thread collects figures, and may wait for that.
            assert!(name != "exo-load" || policy != FIFO);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("its output");
    if output.status.code() == Some(1) {
        // This machine does not allow it.
        return assert_refused(&output, &node);
    }
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    crate::schema::check(&json);
    assert_eq!(
        (output.status.code(), &json["run"]["realtime"]),
        (Some(0), &Value::Bool(true)),
        "{json:#}"
    );
    assert!(worker_seen, "no worker had the policy");
}

#[test]
fn without_permission_nothing_is_played() {
    let node = Node::start(Fault::None);
    let directory = tempfile::tempdir().expect("a directory");
    let binary = directory.path().join("exo-load");
    fs::copy(env!("CARGO_BIN_EXE_exo-load"), &binary).expect("a copy");
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions")
    };
    open(directory.path());
    open(&binary);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -r 0; exec \"$0\" \"$@\""]).arg(&binary).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command
        .args(flags(&node.url, &REALTIME))
        .env("JWT_TOKEN", TOKEN)
        .output()
        .expect("sh starts");
    assert_refused(&output, &node);
}
