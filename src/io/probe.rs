//! What this kernel can do. This is checked before anything is bound or promised. Each error names
//! its remedy.
#![forbid(unsafe_code)]

use super::BufferGroup;
use super::buffer_ring::BufferRing;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io::{Error, ErrorKind};

/// The kernel features that may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelFeatures {
    /// All that the probe finds.
    #[default]
    Newest,
    /// Only those of Linux 6.1, so that the older paths run (and are tested) on a newer kernel.
    V6_1,
}

/// Result of the probe; it decides which paths run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Receive buffers are filled incrementally (6.12).
    pub(crate) incremental_buffers: bool,
    /// The kernel gathers completions itself before it wakes us (6.12).
    pub(crate) min_wait: bool,
}

impl Features {
    /// Text for one line of the start-up log.
    pub(crate) fn describe(&self) -> String {
        let path = |newer: bool| if newer { "6.12" } else { "6.1" };
        format!(
            "kernel paths: receive buffers {} ({}), bounded wait {} ({})",
            if self.incremental_buffers { "incremental" } else { "whole" },
            path(self.incremental_buffers),
            if self.min_wait { "in the kernel" } else { "by timeout" },
            path(self.min_wait),
        )
    }
}

/// A requirement that the host does not meet.
#[derive(Debug)]
pub enum HostError {
    /// No io_uring in this kernel, or none for this container.
    NoIoUring,
    /// This process may not use io_uring.
    Forbidden {
        /// `kernel.io_uring_disabled`, if it could be read.
        sysctl: Option<u8>,
    },
    /// A flag or operation of Linux 6.1 is missing.
    KernelTooOld {
        /// The missing feature.
        feature: &'static str,
        /// `uname -r`.
        release: String,
    },
    /// Not enough lockable memory for the kernel's queues, which are always needed.
    QueueMemory {
        /// Bytes wanted.
        wanted: usize,
        /// `RLIMIT_MEMLOCK` in bytes; `None` is no limit.
        limit: Option<u64>,
    },
    /// Not enough lockable memory for the frame ring.
    LockedMemory {
        /// Bytes wanted.
        wanted: usize,
        /// `RLIMIT_MEMLOCK` in bytes; `None` is no limit.
        limit: Option<u64>,
    },
    /// Not enough file descriptors.
    OpenFiles {
        /// Descriptors wanted.
        wanted: u64,
        /// The hard `RLIMIT_NOFILE`.
        limit: u64,
    },
    /// Files may not grow to the size of a segment.
    FileSize {
        /// Bytes of a segment.
        wanted: u64,
        /// The soft `RLIMIT_FSIZE`, bytes.
        limit: u64,
    },
    /// Not enough memory.
    Memory {
        /// Purpose of the memory.
        purpose: &'static str,
        /// Bytes wanted.
        wanted: usize,
    },
    /// Another error.
    Other {
        /// The step that failed.
        step: &'static str,
        /// The error of the kernel.
        error: Error,
    },
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::NoIoUring => f.write_str(
                "io_uring is not available: use a kernel built with CONFIG_IO_URING (Linux 6.1 or \
                 later), and in a container a seccomp profile that allows io_uring_setup, \
                 io_uring_enter and io_uring_register",
            ),
            HostError::Forbidden { sysctl: Some(value @ 1..) } => write!(
                f,
                "io_uring is switched off on this host (kernel.io_uring_disabled = {value}): run \
                 `sysctl -w kernel.io_uring_disabled=0`, or with value 1 put this user into the \
                 group named by kernel.io_uring_group"
            ),
            HostError::Forbidden { .. } => f.write_str(
                "this process may not use io_uring: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile, or check \
                 kernel.io_uring_disabled",
            ),
            HostError::KernelTooOld { feature, release } => {
                write!(
                    f,
                    "this kernel ({release}) lacks {feature}: exo-ingest needs Linux 6.1 or later \
                     (6.12 for its fastest paths)"
                )
            }
            HostError::QueueMemory { wanted, limit } => write!(
                f,
                "cannot lock {} KiB of memory for io_uring's queues (limit: {}): raise it with \
                 `ulimit -l`, systemd's LimitMEMLOCK= or docker's --ulimit memlock=, or lower the \
                 number of shards",
                wanted.div_ceil(1024),
                show_limit(*limit),
            ),
            HostError::LockedMemory { wanted, limit } => {
                let limit = show_limit(*limit);
                write!(
                    f,
                    "cannot lock another {} KiB of memory for a shard's frame ring (limit: \
                     {limit} for all memory that this user has locked): raise it with `ulimit \
                     -l`, systemd's LimitMEMLOCK= or docker's --ulimit memlock=, or pass \
                     --allow-unregistered to run without",
                    wanted / 1024,
                )
            }
            HostError::OpenFiles { wanted, limit } => write!(
                f,
                "the node needs {wanted} open files, but the hard limit is {limit}: raise it with \
                 `ulimit -Hn`, systemd's LimitNOFILE= or docker's --ulimit nofile=, or lower \
                 --max-calls"
            ),
            HostError::FileSize { wanted, limit } => write!(
                f,
                "this process may write files of {} KiB, but a segment of the journal has {} KiB: \
                 raise the limit with `ulimit -f`, systemd's LimitFSIZE= or docker's --ulimit \
                 fsize=, or set a smaller journal.segment_size",
                limit / 1024,
                wanted / 1024,
            ),
            HostError::Memory { purpose, wanted } => write!(
                f,
                "not enough memory for {purpose} ({} KiB): free some, raise the container's \
                 memory limit, or lower limits.ring_size or the number of shards",
                wanted / 1024,
            ),
            HostError::Other { step, error } => write!(f, "{step} failed: {error}"),
        }
    }
}

impl std::error::Error for HostError {}

fn show_limit(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |limit| format!("{} KiB", limit / 1024))
}

/// Asks the kernel for everything that a shard's ring uses, on a small ring that is then dropped.
pub(crate) fn probe(allowed: KernelFeatures) -> Result<Features, HostError> {
    let ring = build_ring(8, 16)?;
    require_operations(&ring)?;
    if !ring.params().is_feature_ext_arg() {
        return Err(too_old("waiting with a timeout (IORING_FEAT_EXT_ARG)"));
    }
    let newest = allowed == KernelFeatures::Newest;
    let min_wait = newest && ring.params().is_feature_min_timeout();
    let incremental_buffers = newest && register_buffers(true).is_ok();
    if !incremental_buffers {
        register_buffers(false)?;
    }
    Ok(Features { incremental_buffers, min_wait })
}

/// Makes a ring as a shard uses it. The calling thread becomes its single issuer.
pub(crate) fn build_ring(submissions: u32, completions: u32) -> Result<IoUring, HostError> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(submissions)
        .map_err(|error| {
            setup_error(error, (submissions as usize * 64) + (completions as usize * 16))
        })
}

fn setup_error(error: Error, wanted: usize) -> HostError {
    match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NOSYS.raw_os_error() => HostError::NoIoUring,
        Some(code) if code == rustix::io::Errno::PERM.raw_os_error() => {
            HostError::Forbidden { sysctl: io_uring_disabled() }
        }
        Some(code) if code == rustix::io::Errno::ACCESS.raw_os_error() => {
            HostError::Forbidden { sysctl: io_uring_disabled() }
        }
        Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => {
            too_old("IORING_SETUP_SINGLE_ISSUER or IORING_SETUP_DEFER_TASKRUN")
        }
        Some(code) if code == rustix::io::Errno::NOMEM.raw_os_error() => {
            HostError::QueueMemory { wanted, limit: locked_memory_limit() }
        }
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
            HostError::OpenFiles { wanted: 1, limit: open_files_limit() }
        }
        _ => HostError::Other { step: "setting up an io_uring", error },
    }
}

fn require_operations(ring: &IoUring) -> Result<(), HostError> {
    let mut probe = Probe::new();
    let asked = ring.submitter().register_probe(&mut probe);
    asked
        .map_err(|error| HostError::Other { step: "asking io_uring for its operations", error })?;
    let wanted = [
        (opcode::AcceptMulti::CODE, "multishot accept"),
        (opcode::RecvMulti::CODE, "multishot receive"),
        (opcode::Send::CODE, "send"),
        (opcode::Shutdown::CODE, "shutdown"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Close::CODE, "close"),
        (opcode::Read::CODE, "read"),
        (opcode::WriteFixed::CODE, "write from registered memory"),
        (opcode::Fsync::CODE, "fsync"),
        // Multishot receive (6.0) has no opcode of its own; zero-copy send came with the same
        // release.
        (opcode::SendZc::CODE, "the operations of Linux 6.0"),
    ];
    match wanted.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, feature)) => Err(too_old(feature)),
        None => Ok(()),
    }
}

fn register_buffers(incremental: bool) -> Result<(), HostError> {
    // A separate ring, dropped before the buffers: that also unregisters them.
    let ring = build_ring(8, 16)?;
    let buffers = BufferRing::register(&ring, BufferGroup::Receive, incremental);
    drop(ring);
    match buffers {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            Err(too_old("provided buffer rings"))
        }
        Err(error) if error.kind() == ErrorKind::OutOfMemory => {
            // Only the entry ring is locked: about a page.
            Err(HostError::QueueMemory {
                wanted: crate::constants::BLOCK_SIZE,
                limit: locked_memory_limit(),
            })
        }
        Err(error) => Err(HostError::Other { step: "registering receive buffers", error }),
    }
}

fn too_old(feature: &'static str) -> HostError {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    HostError::KernelTooOld { feature, release }
}

fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The soft limit on locked memory, bytes; `None` is no limit.
pub(crate) fn locked_memory_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// An error if the soft limit on file sizes does not allow files of `wanted` bytes. Rejected: to
/// raise it to the hard limit, as for open files. A limit on file sizes is set on purpose, and the
/// limit on open files is a default.
pub(crate) fn require_file_size(wanted: u64) -> Result<(), HostError> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if limit < wanted => Err(HostError::FileSize { wanted, limit }),
        _ => Ok(()),
    }
}

fn open_files_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the soft limit on open files to the hard limit and returns it; an error if that is less
/// than `wanted`.
pub(crate) fn raise_open_files(wanted: u64) -> Result<u64, HostError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if hard < wanted {
        return Err(HostError::OpenFiles { wanted, limit: hard });
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| HostError::Other {
        step: "raising the limit on open files",
        error: error.into(),
    })?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_finds_what_this_kernel_has_and_hides_it_on_request() {
        let newest = probe(KernelFeatures::Newest).unwrap();
        let older = probe(KernelFeatures::V6_1).unwrap();
        assert_eq!(older, Features { incremental_buffers: false, min_wait: false });
        assert_eq!(
            older.describe(),
            "kernel paths: receive buffers whole (6.1), bounded wait by timeout (6.1)"
        );
        // Both came with 6.12, so a kernel has both or neither.
        assert_eq!(newest.incremental_buffers, newest.min_wait);
    }

    #[test]
    fn every_lack_names_its_remedy() {
        let code = |errno: rustix::io::Errno| Error::from_raw_os_error(errno.raw_os_error());
        let cases = [
            (setup_error(code(rustix::io::Errno::NOSYS), 0), "seccomp"),
            (HostError::Forbidden { sysctl: Some(2) }, "sysctl -w kernel.io_uring_disabled=0"),
            (HostError::Forbidden { sysctl: Some(0) }, "seccomp"),
            (setup_error(code(rustix::io::Errno::INVAL), 0), "needs Linux 6.1"),
            (setup_error(code(rustix::io::Errno::NOMEM), 4096), "ulimit -l"),
            (HostError::LockedMemory { wanted: 4096, limit: Some(1024) }, "--allow-unregistered"),
            (
                HostError::LockedMemory { wanted: 4096, limit: Some(8192) },
                "for all memory that this user has locked",
            ),
            (setup_error(code(rustix::io::Errno::MFILE), 0), "ulimit -Hn"),
            (HostError::OpenFiles { wanted: 10, limit: 5 }, "--max-calls"),
            (HostError::FileSize { wanted: 4 << 20, limit: 1 << 20 }, "ulimit -f"),
            (HostError::Memory { purpose: "the frame ring", wanted: 1024 }, "limits.ring_size"),
        ];
        for (error, remedy) in cases {
            let text = error.to_string();
            println!("{text}");
            assert!(text.contains(remedy), "{text:?} does not name {remedy:?}");
        }
    }

    #[test]
    fn more_open_files_than_the_hard_limit_is_an_error_with_both_numbers() {
        let limit = open_files_limit();
        if limit == u64::MAX {
            return; // No number exceeds "no limit".
        }
        let text = raise_open_files(limit + 1).unwrap_err().to_string();
        assert!(
            text.contains(&limit.to_string()) && text.contains(&(limit + 1).to_string()),
            "{text}"
        );
        assert_eq!(raise_open_files(1).unwrap(), limit);
    }
}
