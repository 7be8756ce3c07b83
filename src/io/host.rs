#![forbid(unsafe_code)]
//! Resources of the host for this process: CPUs, memory, and how much memory may be locked. Nothing
//! is cached: read it once, at start.

use super::affinity::allowed_cpus;
use super::cgroup::{self, Directory};
use super::probe::locked_memory_limit;
use rustix::thread::{CapabilitySet, capabilities};
use std::path::{Path, PathBuf};

/// Resources that this process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// CPUs, ascending; empty if the kernel does not say.
    pub(crate) cpus: Vec<usize>,
    /// Memory.
    pub(crate) memory: Memory,
    /// Bytes that may be locked; `None` is no limit.
    pub(crate) locked: Option<u64>,
}

/// The smallest of the machine's memory and the limits of all cgroups of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes.
    pub(crate) size: u64,
    /// The file that sets the limit; `None`: it is the whole memory of the machine.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Host {
    /// Asks the kernel. A value that cannot be read is no limit.
    pub(crate) fn read() -> Host {
        let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Host {
            cpus: allowed_cpus().unwrap_or_default(),
            memory: Memory::within(machine_memory(), &memberships, Path::new("/sys/fs/cgroup")),
            locked: locked_memory_limit().filter(|_| !may_lock_without_limit()),
        }
    }
}

impl Memory {
    /// `memberships` is `/proc/self/cgroup`; `root` is where cgroups are mounted.
    pub(crate) fn within(machine: u64, memberships: &str, root: &Path) -> Memory {
        let mut memory = Memory { size: machine, cgroup: None };
        for file in limit_files(memberships, root) {
            // A cgroup without a limit has `max` (v2) or a number larger than any memory (v1).
            let limit = std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(size) = limit.filter(|size| *size < memory.size) {
                memory = Memory { size, cgroup: Some(file) };
            }
        }
        memory
    }
}

/// The files that may limit the memory of this process.
fn limit_files(memberships: &str, root: &Path) -> Vec<PathBuf> {
    let directories = cgroup::directories(memberships, root, "memory");
    let files = directories.into_iter().flat_map(|Directory { path, is_second }| {
        let names: &[&str] =
            if is_second { &["memory.max", "memory.high"] } else { &["memory.limit_in_bytes"] };
        names.iter().map(move |name| path.join(name))
    });
    files.collect()
}

/// Size of the machine's memory, bytes. Not from `/proc/meminfo`, because a unit may hide that
/// (`ProcSubset=pid`).
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Whether the kernel does not limit our locked memory: with CAP_IPC_LOCK in its first user
/// namespace. In any other namespace, as in a rootless container, the capability exists but does
/// not count.
fn may_lock_without_limit() -> bool {
    let has_capability =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    has_capability && users.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: u64 = 64 << 30;

    /// The limit in a tree of files.
    fn within(memberships: &str, files: &[(&str, &str)]) -> (u64, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let Memory { size, cgroup } = Memory::within(MACHINE, memberships, root.path());
        (size, cgroup.map(|file| file.strip_prefix(root.path()).unwrap().display().to_string()))
    }

    fn limit(size: u64, file: &str) -> (u64, Option<String>) {
        (size, Some(file.into()))
    }

    #[test]
    fn the_lowest_limit_of_all_parents_counts() {
        let v2 = "0::/system.slice/exo-ingest.service\n";
        let unlimited = [
            ("system.slice/exo-ingest.service/memory.max", "max\n"),
            ("system.slice/memory.max", "max\n"),
        ];
        assert_eq!(within(v2, &unlimited), (MACHINE, None));
        let own = "system.slice/exo-ingest.service/memory.max";
        let slice = "system.slice/memory.max";
        assert_eq!(within(v2, &[(own, "4294967296\n"), (slice, "max\n")]), limit(4 << 30, own));
        assert_eq!(
            within(v2, &[(own, "4294967296\n"), (slice, "2147483648\n")]),
            limit(2 << 30, slice)
        );
        let high = "system.slice/exo-ingest.service/memory.high";
        assert_eq!(
            within(v2, &[(own, "4294967296\n"), (high, "1073741824\n")]),
            limit(1 << 30, high)
        );
        // Version 1 writes this if there is no limit.
        let none = "9223372036854771712\n";
        let v1 = "5:cpu,cpuacct:/other\n4:hugetlb,memory:/docker/0123\n0::/\n";
        let own = "memory/docker/0123/memory.limit_in_bytes";
        assert_eq!(
            within(v1, &[(own, none), ("memory/memory.limit_in_bytes", none)]),
            (MACHINE, None)
        );
        assert_eq!(within(v1, &[(own, "8589934592\n")]), limit(8 << 30, own));
        assert_eq!(within(v1, &[("cpu/other/memory.limit_in_bytes", "1\n")]), (MACHINE, None));
        let both = [(own, "8589934592\n"), ("unified/memory.max", "4294967296\n")];
        assert_eq!(within(v1, &both), limit(4 << 30, "unified/memory.max"));
    }

    #[test]
    fn in_a_container_the_root_is_the_containers() {
        // Without a cgroup namespace the path is that of the host; with one it may lead out of the
        // namespace.
        for memberships in ["0::/docker/0123\n", "0::/../../other\n", "0::/\n"] {
            assert_eq!(
                within(memberships, &[("memory.max", "1073741824\n")]),
                limit(1 << 30, "memory.max")
            );
        }
        assert_eq!(
            within("4:memory:/docker/0123\n", &[("memory/memory.limit_in_bytes", "1024")]).0,
            1024
        );
    }

    #[test]
    fn unreadable_files_are_no_limit() {
        assert_eq!(within("", &[]), (MACHINE, None));
        assert_eq!(within("nonsense\n4:memory\n", &[("memory.max", "1")]), (MACHINE, None));
        assert_eq!(within("0::/\n", &[("memory.max", "plenty")]), (MACHINE, None));
    }

    #[test]
    fn this_host_has_memory_and_cpus() {
        let host = Host::read();
        assert!(host.memory.size > 64 << 20 && !host.cpus.is_empty(), "{host:?}");
    }
}
