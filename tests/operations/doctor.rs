//! `exo-ingest doctor`: its JSON, its exit codes, its script, and that it agrees with
//! `tuning/host.sh`.

use crate::EXO_INGEST;
use crate::host_requirements::WITHOUT_IO_URING;
use exo_ingest_harness::{NodeProcess, PATIENCE, is_installed};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{create_dir_all, rename, write};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;

fn doctor(args: &[&str]) -> Output {
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().arg("doctor").args(args).output().expect("the program")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[track_caller]
fn json(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

/// The check with this id.
#[track_caller]
fn check<'a>(document: &'a Value, id: &str) -> &'a Value {
    let checks = document["checks"].as_array().expect("a list");
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id}"))
}

#[track_caller]
fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// All ids, as `explain` lists them.
fn ids() -> Vec<String> {
    let listed = text(&doctor(&["explain"]));
    listed.lines().map(|line| line.split(' ').next().expect("a word").to_owned()).collect()
}

fn put(root: &Path, name: &str, value: &str) {
    let path = root.join(name);
    create_dir_all(path.parent().expect("it has one")).expect("a directory");
    // At once, so that no look finds it empty.
    let next = path.with_extension("next");
    write(&next, format!("{value}\n")).and_then(|()| rename(&next, path)).expect("a file");
}

/// A machine that lacks much.
fn poor_machine() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, value) in [
        ("proc/sys/net/core/somaxconn", "128"),
        ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192"),
        ("proc/sys/net/ipv4/tcp_syncookies", "0"),
        ("proc/sys/net/ipv4/tcp_mem", "1000 2000 3000"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "1000"),
        ("proc/sys/vm/swappiness", "60"),
        ("proc/sys/kernel/io_uring_disabled", "2"),
        ("proc/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 7 7"),
        ("proc/net/route", "Iface\neth0 00000000 0 3 0 0 0 00000000 0 0 0"),
        ("proc/self/limits", "Max open files 1024 2048 files"),
        ("proc/irq/30/smp_affinity_list", "0"),
        ("proc/irq/31/smp_affinity_list", "0"),
        ("sys/class/net/eth0/speed", "1000"),
        ("sys/class/net/eth0/device/msi_irqs/30", "msix"),
        ("sys/class/net/eth0/device/msi_irqs/31", "msix"),
        ("sys/devices/system/cpu/online", "0-3"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
    ] {
        put(directory.path(), name, value);
    }
    directory
}

#[test]
fn json_has_all_checks_and_the_facts_that_plans_are_made_from() {
    let output = doctor(&["--calls", "8000", "--json"]);
    let document = json(&output);
    assert_eq!((&document["version"], &document["calls"]), (&1.into(), &8000.into()));
    let checks = document["checks"].as_array().expect("a list");
    let found: Vec<_> = checks.iter().map(|check| check["id"].as_str().expect("text")).collect();
    assert_eq!(found, ids());
    let wanted = "id condition required current severity result reason fix where commands";
    let wanted: BTreeSet<&str> = wanted.split(' ').collect();
    for check in checks {
        assert_eq!(keys(check), wanted, "{check}");
        let (severity, result) = (&check["severity"], &check["result"]);
        assert!(["fatal", "warning", "info"].iter().any(|it| severity == it), "{check}");
        assert!(["pass", "fail", "skipped"].iter().any(|it| result == it), "{check}");
        assert_eq!(result == "skipped", check["reason"].is_string(), "{check}");
        assert!(check["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{check}");
    }
    let facts = "cpus memory_bytes disk_write_bytes_per_second disk_syncs_per_second \
                 disk_sync_max_ms disk_free_bytes network_bits_per_second";
    assert_eq!(keys(&document["facts"]), facts.split_whitespace().collect());
    assert!(document["facts"]["cpus"].as_u64() > Some(0));
    assert!(document["facts"]["memory_bytes"].as_u64() > Some(1 << 20));
    assert!(document["facts"]["disk_write_bytes_per_second"].is_null(), "no --data-dir");
    let failed = |severity| {
        checks.iter().any(|check| check["result"] == "fail" && check["severity"] == severity)
    };
    assert_eq!(output.status.code(), Some(if failed("fatal") { 2 } else { 0 }));
    assert_eq!(check(&document, "kernel.io_uring")["result"], "pass");
}

#[test]
fn every_id_is_explained_and_is_on_the_page() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let ids = ids();
    assert!(ids.len() > 50, "{ids:?}");
    for id in &ids {
        let output = doctor(&["explain", id]);
        let said = text(&output);
        assert!(output.status.success() && said.starts_with(&format!("{id}\n")), "{said}");
        for part in ["\nseverity  ", "\nwhy  ", "\ncheck  ", "\nfix  ", "\nsee  "] {
            assert!(said.contains(part), "{part:?}: {said}");
        }
        assert!(page.contains(&format!("| `{id}` |")), "docs/doctor.md lacks {id}");
    }
    let output = doctor(&["explain", "net.somaxcon"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("did you mean net.somaxconn?"), "{error}");
}

#[test]
fn a_failed_fatal_check_is_2_and_a_warning_is_2_with_strict() {
    let tree = poor_machine();
    let root = tree.path().to_str().expect("UTF-8");
    let output = doctor(&["--calls", "8000", "--root", root]);
    let (report, error) = (text(&output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{report}");
    assert!(report.contains("FATAL  limits.open_files") && report.contains("has    2,048"));
    assert!(error.contains("fatal checks failed") && error.contains("doctor explain"), "{error}");
    // 1 Gbit/s is too little for 8,000 calls, and 2,048 files are.
    put(tree.path(), "sys/class/net/eth0/speed", "10000");
    put(tree.path(), "proc/self/limits", "Max open files 1024 524288 files");
    let args = ["--calls", "8000", "--root", root];
    let output = doctor(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = doctor(&[&args[..], &["--strict"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let output = doctor(&["--calls", "1", "--root", "/nonexistent"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("not a directory"), "{error}");
}

#[test]
fn too_few_descriptors_of_the_process_are_found() {
    if !is_installed("prlimit") {
        return;
    }
    let mut command = Command::new("prlimit");
    command.args(["--nofile=1000:1000", EXO_INGEST, "doctor", "--calls", "2000", "--json"]);
    let output = command.output().expect("prlimit");
    assert_eq!(output.status.code(), Some(2));
    let document = json(&output);
    let found = check(&document, "limits.open_files");
    assert_eq!((&found["result"], &found["severity"]), (&"fail".into(), &"fatal".into()));
    assert_eq!(found["current"], "1,000");
}

/// As a container without io_uring.
#[test]
fn a_seccomp_filter_that_refuses_io_uring_is_found() {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_IO_URING, "1", EXO_INGEST, "doctor", "--calls", "1", "--json"]);
    let output = match command.output() {
        Ok(output) if !output.stdout.is_empty() => output,
        _ => return println!("left out, there is no python3 that may set a seccomp filter"),
    };
    assert_eq!(output.status.code(), Some(2));
    let document = json(&output);
    for id in ["kernel.io_uring", "kernel.seccomp"] {
        let found = check(&document, id);
        assert_eq!((&found["result"], &found["severity"]), (&"fail".into(), &"fatal".into()));
        assert!(found["fix"].as_str().is_some_and(|fix| fix.contains("seccomp")), "{found}");
    }
}

/// A network namespace has its own settings.
#[test]
fn settings_of_a_real_kernel_are_read() {
    if !is_installed("unshare") {
        return;
    }
    let script = format!(
        "echo 16 > /proc/sys/net/core/somaxconn || exit 77; \
         exec {EXO_INGEST} doctor --calls 1 --json"
    );
    let mut command = Command::new("unshare");
    let output = command.args(["-Urn", "sh", "-c", &script]).output().expect("unshare");
    if output.stdout.is_empty() {
        return println!("left out: {}", String::from_utf8_lossy(&output.stderr));
    }
    let document = json(&output);
    let found = check(&document, "net.somaxconn");
    assert_eq!((&found["result"], &found["current"]), (&"fail".into(), &"16".into()));
    let found = check(&document, "nic.speed");
    assert!(found["reason"].as_str().is_some_and(|reason| reason.contains("no route")), "{found}");
}

#[test]
fn the_script_of_fixes_is_a_shell_script() {
    let tree = poor_machine();
    let root = tree.path().to_str().expect("UTF-8");
    let output = doctor(&["--calls", "8000", "--root", root, "--output-script"]);
    let script = text(&output);
    for line in [
        "# net.somaxconn (warning)",
        "sysctl -w net.core.somaxconn=4096 || failed=1",
        "sysctl -w net.netfilter.nf_conntrack_max=32000 || failed=1",
        "# limits.open_files (fatal)",
        "# nic.interrupts (info)",
    ] {
        assert!(script.lines().any(|it| it == line), "{line:?} is not in\n{script}");
    }
    assert!(!script.contains("tcp_max_syn_backlog"), "it is high enough: {script}");
    let mut shell = Command::new("sh");
    let mut shell = shell.arg("-n").stdin(Stdio::piped()).spawn().expect("a shell");
    let stdin = shell.stdin.take().expect("piped");
    { stdin }.write_all(script.as_bytes()).expect("the shell reads it");
    assert!(shell.wait().expect("an end").success(), "{script}");
}

#[test]
fn watch_prints_what_changes_until_ctrl_c() {
    let tree = poor_machine();
    let mut command = Command::new(EXO_INGEST);
    command.env_clear().args(["doctor", "--calls", "8000", "--watch", "1", "--root"]);
    let mut child = command.arg(tree.path()).stdout(Stdio::piped()).spawn().expect("the program");
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || {
        // The channel is closed if the test has failed.
        stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    let await_line = |words: &[&str]| loop {
        let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line {words:?}"));
        println!("{line}");
        if words.iter().all(|word| line.contains(word)) {
            return;
        }
    };
    await_line(&["watching every 1 s"]);
    await_line(&["net.somaxconn", "128"]);
    put(tree.path(), "proc/sys/net/core/somaxconn", "4096");
    put(tree.path(), "proc/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 7 9");
    await_line(&["counters.listen", "ListenDrops +2"]);
    await_line(&["net.somaxconn", "4096", "(was warn)"]);
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is ours");
    assert_eq!(child.wait().expect("an end").code(), Some(0));
    reader.join().expect("no panic");
}

#[test]
fn the_disk_is_measured_and_nothing_is_left_but_never_beside_a_node() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().to_str().expect("UTF-8");
    let args = ["--calls", "10", "--data-dir", data_dir, "--json"];
    let document = json(&doctor(&args));
    let facts = &document["facts"];
    for name in ["disk_write_bytes_per_second", "disk_syncs_per_second", "disk_free_bytes"] {
        assert!(facts[name].as_u64() > Some(0), "{name}: {document}");
    }
    assert!(facts["disk_sync_max_ms"].as_f64() > Some(0.0));
    assert_eq!(std::fs::read_dir(directory.path()).expect("ours").count(), 0);

    let node = NodeProcess::start(EXO_INGEST, directory.path(), &["--ack", "written"]);
    let document = json(&doctor(&args));
    let found = check(&document, "disk.write_rate");
    let reason = found["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&format!("process {}", node.pid())), "{found}");
    assert!(document["facts"]["disk_write_bytes_per_second"].is_null());
    let log = node.log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("host check: ")).collect();
    let is_one = |line: &str| line.contains(" passed") && line.contains("doctor --calls 16000");
    assert!(lines.len() == 1 && is_one(lines[0]), "{lines:?}");
}

/// What `host.sh check` says about a tree.
fn host_script(root: &Path, args: &[&str]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/host.sh");
    let mut command = Command::new("bash");
    command.args([script, "check", "--json", "--calls", "3000"]).args(args);
    let output = command.arg("--root").arg(root).output().expect("bash");
    json(&output).as_array().expect("a list").clone()
}

/// Each setting of the script has a check that wants the same and judges the same.
#[test]
fn the_doctor_and_the_host_script_agree() {
    let tree = poor_machine();
    let good = [
        ("proc/sys/net/core/somaxconn", "4096"),
        ("proc/sys/net/ipv4/tcp_syncookies", "1"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "12000"),
        ("proc/sys/vm/swappiness", "10"),
        ("proc/sys/net/ipv4/tcp_mem", "200000 300000 400000"),
        ("proc/sys/kernel/io_uring_disabled", "0"),
        ("proc/irq/30/smp_affinity_list", "1"),
        ("proc/irq/31/smp_affinity_list", "2"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
    ];
    let root = tree.path();
    let shown = root.to_str().expect("UTF-8");
    for is_good in [false, true] {
        let document =
            json(&doctor(&["--calls", "3000", "--cpus", "1-2", "--json", "--root", shown]));
        let mut verdicts = BTreeSet::new();
        for setting in host_script(root, &["--nic", "eth0", "--cpus", "1-2"]) {
            let (id, place) = (setting["id"].as_str(), setting["where"].as_str());
            let (id, place) = (id.expect("text"), place.expect("text"));
            let pattern = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
            let wanted = if id == "governor" { pattern } else { place };
            let checks = document["checks"].as_array().expect("a list");
            if let Some(number) = id.strip_prefix("irq-") {
                let cpu = setting["wanted"].as_str().expect("text");
                let command = format!("echo {cpu} > /proc/irq/{number}/smp_affinity_list");
                let found = check(&document, "nic.interrupts");
                let commands = found["commands"].as_array().expect("a list");
                assert!(commands.contains(&command.into()), "{found}");
                assert_eq!(found["result"] == "pass", is_good, "{found}");
                continue;
            }
            // Settings that the doctor judges in other words (`nic.steering`, `nic.rings`,
            // `memory.huge_pages`), or not: the unit needs `nr-open`, and the node has a limit.
            let is_own = ["nr-open", "thp", "queues", "ring", "coalescing"].contains(&id);
            if is_own || id.starts_with("rps-") || id.starts_with("xps-") {
                continue;
            }
            let found = checks.iter().find(|check| check["where"] == wanted);
            let found = found.unwrap_or_else(|| panic!("the doctor has no check for {setting}"));
            // The doctor shows bytes, and the script the pages that the kernel takes.
            assert!(id == "tcp-mem" || found["required"] == setting["wanted"], "{found}");
            verdicts.insert((id.to_owned(), found["result"] == "pass", setting["result"] == "ok"));
        }
        assert!(verdicts.len() >= 7, "{verdicts:?}");
        for (id, doctor, script) in &verdicts {
            // One of two CPUs has the right governor already.
            let is_one_of_two = id == "governor" && !is_good;
            assert!(doctor == script || is_one_of_two, "{id}: {doctor} {script}");
        }
        assert_eq!(verdicts.iter().all(|(_, _, script)| *script), is_good, "{verdicts:?}");
        good.iter().for_each(|(name, value)| put(root, name, value));
    }
}
