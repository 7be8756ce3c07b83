//! What this kernel can do, asked before anything is bound or promised. Each lack is an error that names its remedy.
#![forbid(unsafe_code)]

use super::buffer_ring::BufferRing;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io::{Error, ErrorKind};

/// Which of the kernel's features may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelFeatures {
    /// All that the probe finds.
    #[default]
    Newest,
    /// Only what Linux 6.1 has, so that the older paths run (and are tested) on a newer kernel.
    V6_1,
}

/// What the probe found; decides which paths run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Receive buffers are filled incrementally (6.12).
    pub incremental_buffers: bool,
    /// The kernel gathers completions itself before it wakes us (6.12).
    pub min_wait: bool,
}

impl Features {
    /// One line for the start-up log.
    pub fn describe(&self) -> String {
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

/// What the host lacks.
#[derive(Debug)]
pub enum Lack {
    /// No io_uring in this kernel, or none for this container.
    NoIoUring,
    /// io_uring is switched off for us.
    Forbidden {
        /// `kernel.io_uring_disabled`, where it could be read.
        sysctl: Option<u8>,
    },
    /// A flag or operation of Linux 6.1 is missing.
    KernelTooOld {
        /// What is missing.
        feature: &'static str,
        /// `uname -r`.
        release: String,
    },
    /// Not enough lockable memory for the kernel's queues, without which nothing goes.
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
    /// Not enough memory.
    Memory {
        /// What for.
        purpose: &'static str,
        /// Bytes wanted.
        wanted: usize,
    },
    /// Something else went wrong.
    Other {
        /// During what.
        step: &'static str,
        /// The kernel's word.
        error: Error,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::NoIoUring => f.write_str(
                "io_uring is not available: use a kernel built with CONFIG_IO_URING (Linux 6.1 or later), and in a container \
                 a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
            ),
            Lack::Forbidden { sysctl: Some(value @ 1..) } => write!(
                f,
                "io_uring is switched off on this host (kernel.io_uring_disabled = {value}): run \
                 `sysctl -w kernel.io_uring_disabled=0`, or with value 1 put this user into the group named by \
                 kernel.io_uring_group"
            ),
            Lack::Forbidden { .. } => f.write_str(
                "io_uring is forbidden to this process: allow io_uring_setup, io_uring_enter and io_uring_register in the \
                 container's seccomp profile, or check kernel.io_uring_disabled",
            ),
            Lack::KernelTooOld { feature, release } => {
                write!(f, "this kernel ({release}) lacks {feature}: exo-ingest needs Linux 6.1 or later (6.12 for its fastest paths)")
            }
            Lack::QueueMemory { wanted, limit } => write!(
                f,
                "cannot lock {} KiB of memory for io_uring's queues (limit: {}): raise it with `ulimit -l`, systemd's \
                 LimitMEMLOCK= or docker's --ulimit memlock=, or lower the number of shards",
                wanted.div_ceil(1024),
                show_limit(*limit),
            ),
            Lack::LockedMemory { wanted, limit } => {
                let limit = show_limit(*limit);
                write!(
                    f,
                    "cannot lock another {} KiB of memory for a shard's frame ring (limit: {limit} for everything this user has \
                     locked): raise it with `ulimit -l`, systemd's LimitMEMLOCK= or docker's --ulimit memlock=, or pass \
                     --allow-unregistered to run without",
                    wanted / 1024,
                )
            }
            Lack::OpenFiles { wanted, limit } => write!(
                f,
                "needs {wanted} open files but the hard limit is {limit}: raise it with `ulimit -Hn`, systemd's LimitNOFILE= \
                 or docker's --ulimit nofile=, or lower --max-calls"
            ),
            Lack::Memory { purpose, wanted } => write!(
                f,
                "not enough memory for {purpose} ({} KiB): free some, raise the container's memory limit, or lower \
                 limits.ring_size or the number of shards",
                wanted / 1024,
            ),
            Lack::Other { step, error } => write!(f, "{step} failed: {error}"),
        }
    }
}

impl std::error::Error for Lack {}

fn show_limit(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |limit| format!("{} KiB", limit / 1024))
}

/// Asks the kernel for everything a shard's ring uses, on a small ring that is dropped again.
pub fn probe(allowed: KernelFeatures) -> Result<Features, Lack> {
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
pub fn build_ring(submissions: u32, completions: u32) -> Result<IoUring, Lack> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(submissions)
        .map_err(|error| setup_lack(error, (submissions as usize * 64) + (completions as usize * 16)))
}

fn setup_lack(error: Error, wanted: usize) -> Lack {
    match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NOSYS.raw_os_error() => Lack::NoIoUring,
        Some(code) if code == rustix::io::Errno::PERM.raw_os_error() => Lack::Forbidden { sysctl: io_uring_disabled() },
        Some(code) if code == rustix::io::Errno::ACCESS.raw_os_error() => Lack::Forbidden { sysctl: io_uring_disabled() },
        Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => {
            too_old("IORING_SETUP_SINGLE_ISSUER or IORING_SETUP_DEFER_TASKRUN")
        }
        Some(code) if code == rustix::io::Errno::NOMEM.raw_os_error() => {
            Lack::QueueMemory { wanted, limit: locked_memory_limit() }
        }
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
            Lack::OpenFiles { wanted: 1, limit: open_files_limit() }
        }
        _ => Lack::Other { step: "setting up an io_uring", error },
    }
}

fn require_operations(ring: &IoUring) -> Result<(), Lack> {
    let mut probe = Probe::new();
    let asked = ring.submitter().register_probe(&mut probe);
    asked.map_err(|error| Lack::Other { step: "asking io_uring for its operations", error })?;
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
        // Multishot receive (6.0) has no code of its own; zero-copy send came with the same release.
        (opcode::SendZc::CODE, "the operations of Linux 6.0"),
    ];
    match wanted.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, feature)) => Err(too_old(feature)),
        None => Ok(()),
    }
}

fn register_buffers(incremental: bool) -> Result<(), Lack> {
    // A ring of its own, dropped before the buffers: that also unregisters them.
    let ring = build_ring(8, 16)?;
    let buffers = BufferRing::register(&ring, incremental);
    drop(ring);
    match buffers {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(too_old("provided buffer rings")),
        Err(error) if error.kind() == ErrorKind::OutOfMemory => {
            // Only the ring of entries is locked: a page or so.
            Err(Lack::QueueMemory { wanted: crate::constants::BLOCK_SIZE, limit: locked_memory_limit() })
        }
        Err(error) => Err(Lack::Other { step: "registering receive buffers", error }),
    }
}

fn too_old(feature: &'static str) -> Lack {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Lack::KernelTooOld { feature, release }
}

fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The soft limit on locked memory, bytes; `None` is no limit.
pub fn locked_memory_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

fn open_files_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the soft limit on open files to the hard one and returns it; an error if that is less than `wanted`.
pub fn raise_open_files(wanted: u64) -> Result<u64, Lack> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if hard < wanted {
        return Err(Lack::OpenFiles { wanted, limit: hard });
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| Lack::Other { step: "raising the limit on open files", error: error.into() })?;
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
        assert_eq!(older.describe(), "kernel paths: receive buffers whole (6.1), bounded wait by timeout (6.1)");
        // Both came with 6.12, so a kernel has both or none.
        assert_eq!(newest.incremental_buffers, newest.min_wait);
    }

    #[test]
    fn every_lack_names_its_remedy() {
        let code = |errno: rustix::io::Errno| Error::from_raw_os_error(errno.raw_os_error());
        let cases = [
            (setup_lack(code(rustix::io::Errno::NOSYS), 0), "seccomp"),
            (Lack::Forbidden { sysctl: Some(2) }, "sysctl -w kernel.io_uring_disabled=0"),
            (Lack::Forbidden { sysctl: Some(0) }, "seccomp"),
            (setup_lack(code(rustix::io::Errno::INVAL), 0), "needs Linux 6.1"),
            (setup_lack(code(rustix::io::Errno::NOMEM), 4096), "ulimit -l"),
            (Lack::LockedMemory { wanted: 4096, limit: Some(1024) }, "--allow-unregistered"),
            (Lack::LockedMemory { wanted: 4096, limit: Some(8192) }, "for everything this user has locked"),
            (setup_lack(code(rustix::io::Errno::MFILE), 0), "ulimit -Hn"),
            (Lack::OpenFiles { wanted: 10, limit: 5 }, "--max-calls"),
            (Lack::Memory { purpose: "the frame ring", wanted: 1024 }, "limits.ring_size"),
        ];
        for (lack, remedy) in cases {
            let text = lack.to_string();
            println!("{text}");
            assert!(text.contains(remedy), "{text:?} does not name {remedy:?}");
        }
    }

    #[test]
    fn more_open_files_than_the_hard_limit_is_an_error_with_both_numbers() {
        let limit = open_files_limit();
        if limit == u64::MAX {
            return; // Nothing is more than no limit.
        }
        let text = raise_open_files(limit + 1).unwrap_err().to_string();
        assert!(text.contains(&limit.to_string()) && text.contains(&(limit + 1).to_string()), "{text}");
        assert_eq!(raise_open_files(1).unwrap(), limit);
    }
}
