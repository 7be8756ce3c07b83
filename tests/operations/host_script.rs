//! `tuning/host.sh` on a tree of its own: what it checks and sets, and that `revert` restores it.

use std::fs::{create_dir_all, read_to_string, write};
use std::path::Path;
use std::process::{Command, Output};

fn host(root: &Path, args: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/host.sh");
    let mut command = Command::new("bash");
    command.arg(script).args(args).arg("--root").arg(root);
    command.output().expect("bash")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const SETTINGS: [(&str, &str, &str); 6] = [
    ("proc/sys/net/core/somaxconn", "128", "4096"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192", "8192"),
    ("proc/sys/net/ipv4/tcp_syncookies", "0", "1"),
    ("proc/sys/vm/swappiness", "60", "10"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "1000", "32000"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "performance"),
];

fn values(root: &Path) -> Vec<String> {
    let value = |path| read_to_string(root.join(path)).expect("a setting").trim().to_owned();
    SETTINGS.iter().map(|(path, ..)| value(path)).collect()
}

#[test]
fn it_sets_what_differs_keeps_the_old_values_and_restores_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    for (path, before, _) in SETTINGS {
        let path = root.join(path);
        create_dir_all(path.parent().expect("it has one")).expect("a directory");
        write(path, format!("{before}\n")).expect("a setting");
    }
    let before = SETTINGS.map(|(_, before, _)| before.to_owned());
    let wanted = SETTINGS.map(|(_, _, wanted)| wanted.to_owned());

    let checked = host(root, &["check"]);
    assert_eq!(checked.status.code(), Some(1));
    let lines = text(&checked);
    assert_eq!(lines.lines().filter(|line| line.starts_with("differs ")).count(), 5, "{lines}");
    assert!(lines.contains("not here"), "this tree has no io_uring setting: {lines}");
    let document: serde_json::Value =
        serde_json::from_slice(&host(root, &["check", "--json"]).stdout).expect("JSON");
    assert_eq!(document.as_array().map(Vec::len), Some(7));

    let planned = host(root, &["apply", "--dry-run"]);
    assert!(planned.status.success() && text(&planned).contains("would set"));
    assert_eq!(values(root), before, "a dry run changes nothing");
    assert!(!root.join("var").exists() && !root.join("etc").exists());

    // Twice, as after a change of options: the first old values stay.
    assert!(host(root, &["apply"]).status.success());
    assert!(host(root, &["apply", "--calls", "8000"]).status.success());
    assert_eq!(values(root), wanted);
    assert_eq!(host(root, &["check"]).status.code(), Some(0));
    let kept = read_to_string(root.join("etc/sysctl.d/91-exo-ingest-host.conf")).expect("a file");
    assert!(kept.contains("net.core.somaxconn = 4096") && kept.contains("vm.swappiness = 10"));
    assert!(!kept.contains("tcp_max_syn_backlog"), "it had more already: {kept}");

    assert!(host(root, &["revert"]).status.success());
    assert_eq!(values(root), before);
    assert!(!root.join("etc/sysctl.d/91-exo-ingest-host.conf").exists());
    assert!(text(&host(root, &["revert"])).contains("nothing to revert"));
}

#[test]
fn wrong_arguments_say_what_to_write() {
    let root = tempfile::tempdir().expect("a directory");
    for (args, hint) in [
        (&["aply"][..], "check, apply or revert"),
        (&["check", "--calls", "many"], "such as 8000"),
        (&["check", "--cpus", "2..9"], "such as 2-9,12"),
        (&["check", "--nic", "eth7"], "no network card eth7"),
        (&["check", "--fast"], "--fast is no option"),
    ] {
        let output = host(root.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(hint), "{args:?}: {error}");
    }
}
