//! The kernel's numbers for this process. `/proc` is memory: reading it waits for no disk.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::os::unix::fs::MetadataExt;

/// The numbers at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// User and system time of all threads.
    pub(crate) cpu_seconds: f64,
    /// Resident memory; `None` without `/proc`.
    pub(crate) resident_size: Option<u64>,
    /// The part of it that is mapped from files: the program.
    pub(crate) file_size: Option<u64>,
    /// Open descriptors.
    pub(crate) open_files: Option<u64>,
    /// Most descriptors that it may have; `None`: no limit.
    pub(crate) open_files_max: Option<u64>,
}

pub(super) fn sample() -> Process {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let (resident_size, file_size) = memory().unzip();
    Process {
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        resident_size,
        file_size,
        open_files: open_files(),
        open_files_max: getrlimit(Resource::Nofile).current,
    }
}

/// Resident memory, and the part of it that is mapped from files.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let page_size = rustix::param::page_size() as u64;
    let mut next = || Some(fields.next()?.ok()? * page_size);
    Some((next()?, next()?))
}

/// Since Linux 6.2 the directory's size is the number of descriptors. Before, it is zero, and they
/// are counted.
fn open_files() -> Option<u64> {
    match std::fs::metadata("/proc/self/fd").ok()?.size() {
        0 => Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_files_and_time() {
        let before = sample();
        let files: Vec<_> = (0..100).map(|_| tempfile::tempfile().unwrap()).collect();
        let after = sample();
        // Other tests of this process open and close descriptors too.
        assert!(after.open_files >= Some(100), "{after:?}");
        assert!(after.open_files <= after.open_files_max);
        assert!(
            after.resident_size > Some(1 << 20)
                && after.cpu_seconds >= before.cpu_seconds
                && before.cpu_seconds > 0.0
        );
        drop(files);
    }
}
