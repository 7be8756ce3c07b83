//! `tuning/host.sh` on a tree of its own: what it checks and sets, and that `revert` restores it.
//! The tree has a card with queues, interrupts and a driver, which a virtual machine may not have.

use std::fs::{create_dir_all, read_to_string, write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/host.sh");
const SYSCTL_FILE: &str = "etc/sysctl.d/91-exo-ingest-host.conf";
const UDEV_FILE: &str = "etc/udev/rules.d/91-exo-ingest-host.rules";
const LIMITS_FILE: &str = "etc/systemd/system/exo-ingest.service.d/91-exo-ingest-host.conf";
const UNIT_FILE: &str = "etc/systemd/system/exo-ingest-host.service";
const UNIT_LINK: &str = "etc/systemd/system/multi-user.target.wants/exo-ingest-host.service";

/// Path, value before, value after `apply --calls 8000`.
type Rows = [(&'static str, &'static str, &'static str)];

const SETTINGS: [(&str, &str, &str); 9] = [
    ("proc/sys/net/core/somaxconn", "128", "4096"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192", "8192"),
    ("proc/sys/net/ipv4/tcp_syncookies", "0", "1"),
    ("proc/sys/net/ipv4/tcp_mem", "1000\t2000\t3000", "281250 375000 562500"),
    ("proc/sys/vm/swappiness", "60", "10"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "1000", "32000"),
    ("proc/sys/fs/nr_open", "1048576", "1048576"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "performance"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never", "madvise"),
];

/// The card has two queues, and may have four. The shards are on CPUs 2, 3, 4 and 33.
const CARD: [(&str, &str, &str); 12] = [
    ("driver/queues", "1", "2"),
    ("driver/ring", "256", "512"),
    ("driver/usecs", "500", "100"),
    ("proc/irq/30/smp_affinity_list", "0-63", "0-63"),
    ("proc/irq/31/smp_affinity_list", "0-63", "2"),
    ("proc/irq/32/smp_affinity_list", "0-63", "3"),
    ("proc/irq/39/smp_affinity_list", "0-63", "2"),
    ("proc/irq/40/smp_affinity_list", "0-63", "0-63"),
    ("sys/class/net/eth9/queues/rx-0/rps_cpus", "00000000,00000000", "2,0000001c"),
    ("sys/class/net/eth9/queues/rx-1/rps_cpus", "00000000,00000000", "2,0000001c"),
    ("sys/class/net/eth9/queues/tx-0/xps_cpus", "00000000,00000000", "14"),
    ("sys/class/net/eth9/queues/tx-1/xps_cpus", "00000000,00000000", "2,00000008"),
];

/// Plays the driver of the card: it keeps its values in files.
const ETHTOOL: &str = r#"#!/bin/sh
cd "${0%/*}" || exit
case $1 in
-l) printf 'Pre-set maximums:\nCombined: 2\nCurrent hardware settings:\n'
    printf 'RX: n/a\nCombined: %s\n' "$(cat queues)" ;;
-g) printf 'Pre-set maximums:\nRX: 512\nTX: 512\nCurrent hardware settings:\n'
    printf 'RX: %s\nTX: 256\n' "$(cat ring)" ;;
-c) printf 'Adaptive RX: off  TX: off\nrx-usecs: %s\n' "$(cat usecs)" ;;
-L) echo "$4" >queues ;;
-G) echo "$4" >ring ;;
-C) echo "$4" >usecs ;;
*) exit 1 ;;
esac
"#;

struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    fn with(rows: &Rows) -> Tree {
        let tree = Tree { directory: tempfile::tempdir().expect("a directory") };
        for (path, before, _) in rows {
            tree.write(path, &format!("{before}\n"));
        }
        tree
    }

    fn with_card() -> Tree {
        let tree = Tree::with(&CARD);
        for irq in [30, 31, 32, 39, 40] {
            tree.write(&format!("sys/devices/pci0/msi_irqs/{irq}"), "msix\n");
        }
        tree.write("sys/devices/pci0/virtio7/vendor", "0x1af4\n");
        // As with virtio: the interrupts belong to the device above the card's.
        let device = tree.path("sys/class/net/eth9/device");
        std::os::unix::fs::symlink("../../../devices/pci0/virtio7", device).expect("a link");
        let interrupts = " 30: 0 0 PCI-MSIX 0-edge virtio7-config\n 31: 0 0 PCI-MSIX 1-edge \
                          virtio7-input.0\n 32: 0 0 PCI-MSIX 2-edge virtio7-input.1\n 39: 0 0 \
                          PCI-MSIX 3-edge comp4@pci:0000:00:07.0\n 40: 0 0 PCI-MSIX 4-edge \
                          mlx5_async0@pci:0000:00:07.0\n";
        tree.write("proc/interrupts", interrupts);
        tree.write("driver/ethtool", ETHTOOL);
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        create_dir_all(path.parent().expect("it has one")).expect("a directory");
        write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        read_to_string(self.path(path)).expect(path).trim().to_owned()
    }

    fn values(&self, rows: &Rows) -> Vec<String> {
        rows.iter().map(|(path, ..)| self.read(path)).collect()
    }

    fn host(&self, args: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.arg(SCRIPT).args(args).arg("--root").arg(self.directory.path());
        if self.path("driver/ethtool").exists() {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(self.path("driver/ethtool"), mode).expect("a mode");
            command.env("HOST_ETHTOOL", self.path("driver/ethtool"));
        }
        command.output().expect("sh")
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.host(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn before(rows: &Rows) -> Vec<String> {
    rows.iter().map(|(_, before, _)| (*before).to_owned()).collect()
}

fn after(rows: &Rows) -> Vec<String> {
    rows.iter().map(|(.., after)| (*after).to_owned()).collect()
}

#[test]
fn it_sets_what_differs_keeps_the_old_values_and_restores_them() {
    let tree = Tree::with(&SETTINGS);
    let checked = tree.host(&["check"]);
    assert_eq!(checked.status.code(), Some(1));
    let lines = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(lines.lines().filter(|line| line.starts_with("differs ")).count(), 7, "{lines}");
    assert!(lines.contains("not here"), "this tree has no io_uring setting: {lines}");
    let document: serde_json::Value =
        serde_json::from_slice(&tree.host(&["check", "--json"]).stdout).expect("JSON");
    assert_eq!(document.as_array().map(Vec::len), Some(10));

    let planned = tree.succeeds(&["apply", "--dry-run"]);
    assert!(planned.contains("would set net.core.somaxconn (sysctl) from 128 to 4096"));
    assert_eq!(tree.values(&SETTINGS), before(&SETTINGS), "a dry run changes nothing");
    assert!(!tree.path("var").exists() && !tree.path("etc").exists());

    // Twice, as after a change of options: the first old values stay.
    tree.succeeds(&["apply"]);
    // The kernel shows a choice among all of them; the tree shows what was written.
    assert_eq!(tree.values(&SETTINGS), after(&SETTINGS));
    tree.succeeds(&["apply", "--calls", "8000"]);
    tree.succeeds(&["check"]);
    let kept = tree.read(SYSCTL_FILE);
    assert!(kept.contains("net.core.somaxconn = 4096") && kept.contains("vm.swappiness = 10"));
    assert!(kept.contains("net.ipv4.tcp_mem = 281250 375000 562500"), "{kept}");
    assert!(!kept.contains("tcp_max_syn_backlog"), "it had more already: {kept}");
    assert!(tree.read(UDEV_FILE).contains("scaling_governor}=\"performance\""));
    assert!(tree.read(LIMITS_FILE).contains("LimitNOFILE=524288\nLimitMEMLOCK=infinity"));
    assert!(tree.read(UNIT_FILE).contains("host.sh\" apply --calls 8000"), "for huge pages");

    tree.succeeds(&["revert", "--dry-run"]);
    assert!(tree.path(SYSCTL_FILE).exists());
    tree.succeeds(&["revert"]);
    let mut restored = before(&SETTINGS);
    restored[3] = "1000 2000 3000".to_owned();
    restored[8] = "always".to_owned();
    assert_eq!(tree.values(&SETTINGS), restored);
    for file in [SYSCTL_FILE, UDEV_FILE, LIMITS_FILE, UNIT_FILE, UNIT_LINK] {
        assert!(tree.path(file).symlink_metadata().is_err(), "{file}");
    }
    assert!(tree.succeeds(&["revert"]).contains("nothing to revert"));
}

#[test]
fn a_card_gets_queues_interrupts_and_steering_and_has_its_own_back_after() {
    let tree = Tree::with_card();
    let options = ["--nic", "eth9", "--cpus", "2-4,33"];
    let with_options = |command: &'static str| [&[command][..], &options[..]].concat();

    let planned = tree.succeeds(&[&with_options("apply")[..], &["--dry-run"]].concat());
    assert!(planned.contains("would set /proc/irq/31/smp_affinity_list"), "{planned}");
    assert_eq!(tree.values(&CARD), before(&CARD), "a dry run changes nothing");

    tree.succeeds(&with_options("apply"));
    assert_eq!(tree.values(&CARD), after(&CARD));
    tree.succeeds(&with_options("check"));
    let rules = tree.read(UDEV_FILE);
    assert!(rules.contains("-L eth9 combined 2") && rules.contains("-G eth9 rx 512"), "{rules}");
    let unit = tree.read(UNIT_FILE);
    assert!(unit.contains("apply --calls 8000 --nic eth9 --cpus 2-4,33\n"), "{unit}");

    tree.succeeds(&["revert"]);
    // The kernel shows a mask with all of its words again.
    let restored = tree.values(&CARD).into_iter().zip(before(&CARD));
    for (value, before) in restored {
        assert!(value == before || before.starts_with("00000000") && value == "0", "{value}");
    }
}

#[test]
fn interrupts_can_be_beside_the_shards() {
    let tree = Tree::with_card();
    let options = ["--nic", "eth9", "--cpus", "2-3", "--irq-cpus", "8-9"];
    tree.succeeds(&[&["apply"][..], &options].concat());
    assert_eq!(tree.read("proc/irq/31/smp_affinity_list"), "8");
    assert_eq!(tree.read("proc/irq/32/smp_affinity_list"), "9");
    // There are as many queues as shards: each has one of its own.
    assert_eq!(tree.read("sys/class/net/eth9/queues/rx-0/rps_cpus"), "00000000,00000000");
    assert_eq!(tree.read("sys/class/net/eth9/queues/tx-1/xps_cpus"), "8");
}

#[test]
fn after_a_reboot_the_numbers_of_interrupts_mean_others() {
    let tree = Tree::with_card();
    tree.write("proc/sys/kernel/random/boot_id", "first\n");
    let apply = ["apply", "--nic", "eth9", "--cpus", "2-4,33"];
    tree.succeeds(&apply);
    tree.write("proc/sys/kernel/random/boot_id", "second\n");
    tree.write("proc/irq/31/smp_affinity_list", "5\n");
    tree.write("proc/irq/32/smp_affinity_list", "3\n");
    tree.succeeds(&apply);
    tree.succeeds(&["revert"]);
    assert_eq!(tree.read("proc/irq/31/smp_affinity_list"), "5");
    assert_eq!(tree.read("proc/irq/32/smp_affinity_list"), "3", "not the value of the first boot");
    assert_eq!(tree.read("driver/ring"), "256", "the card's own values are those of the first");
}

#[test]
fn what_a_host_does_not_allow_is_said_and_kept_for_the_next_try() {
    let tree = Tree::with_card();
    // A driver that refuses: it shows values and sets none.
    tree.write("driver/ethtool", &ETHTOOL.replace("-G) echo \"$4\" >ring", "-G) exit 1"));
    let output = tree.host(&["apply", "--nic", "eth9", "--cpus", "2-3"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("cannot set eth9 (ring) to 512: this host does not allow it"), "{told}");
    assert!(told.contains("set eth9 (coalescing) from 500 to 100"), "the rest is set: {told}");
    let reverted = tree.host(&["revert"]);
    assert_eq!(reverted.status.code(), Some(1));
    assert!(tree.path("var/lib/exo-ingest-host/old").exists());
    tree.write("driver/ethtool", ETHTOOL);
    tree.succeeds(&["revert"]);
    assert!(!tree.path("var/lib/exo-ingest-host").exists());
}

#[test]
fn wrong_arguments_say_what_to_write() {
    let tree = Tree::with(&[]);
    for (args, hint) in [
        (&["aply"][..], "check, apply or revert"),
        (&["check", "--calls", "many"], "such as 8000"),
        (&["check", "--cpus", "2..9"], "such as 2-9,12"),
        (&["check", "--irq-cpus", "all"], "such as 2-9,12"),
        (&["check", "--nic", "eth7"], "no network card eth7"),
        (&["check", "--nic", "../../etc"], "such as eth0"),
        (&["check", "--fast"], "--fast is no option"),
    ] {
        let output = tree.host(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(hint), "{args:?}: {error}");
    }
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts_of_tuning() {
    let directory = Path::new(SCRIPT).parent().expect("tuning");
    let scripts = std::fs::read_dir(directory).expect("tuning").map(|entry| entry.unwrap().path());
    let scripts: Vec<_> =
        scripts.filter(|path| path.extension().is_some_and(|e| e == "sh")).collect();
    assert!(scripts.len() > 1);
    match Command::new("shellcheck").args(&scripts).output() {
        Err(_) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: install shellcheck to run this");
        }
        output => {
            let output = output.expect("shellcheck is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
