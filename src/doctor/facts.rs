//! Everything that is collected before any check runs.

use super::cgroup::CgroupFacts;
use super::counters::{Counters, Sample};
use super::cpu::CpuFacts;
use super::disk::{DiskFacts, DiskLook};
use super::files::FileFacts;
use super::kernel::KernelFacts;
use super::limits::LimitFacts;
use super::memory::MemoryFacts;
use super::network::NetworkFacts;
use super::nic::NicFacts;
use super::plan::Plan;
use super::pressure::PressureFacts;
use super::root::Root;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Facts about the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(super) kernel: KernelFacts,
    pub(super) limits: LimitFacts,
    pub(super) cgroup: CgroupFacts,
    pub(super) memory: MemoryFacts,
    pub(super) pressure: PressureFacts,
    pub(super) network: NetworkFacts,
    pub(super) nic: NicFacts,
    pub(super) cpu: CpuFacts,
    pub(super) disk: DiskFacts,
    pub(super) files: FileFacts,
    /// `None`: one look only.
    pub(super) counters: Option<Sample>,
}

/// How closely to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Whether to ask io_uring and the network card what they can do. A sandbox may forbid the
    /// second, and log it.
    pub(crate) asks_kernel: bool,
    pub(crate) disk: DiskLook,
    /// Shortest time between two looks at the counters; `None`: one look.
    pub(crate) counters: Option<Duration>,
}

impl Look {
    /// Closely: takes some seconds.
    pub(crate) const FULL: Look =
        Look { asks_kernel: true, disk: DiskLook::Measure, counters: Some(Duration::from_secs(1)) };

    /// Beside a node that starts or serves: writes nothing, and takes a few milliseconds.
    pub(crate) const LIGHT: Look =
        Look { asks_kernel: false, disk: DiskLook::Read, counters: None };
}

impl Facts {
    /// Collects them. `files` are the caller's, because reading keys takes its runtime.
    pub(crate) fn read(
        root: &Root,
        plan: &Plan,
        allowed: &[usize],
        files: FileFacts,
        look: Look,
    ) -> Facts {
        let nic = NicFacts::read(root, plan, look.asks_kernel);
        let start = Instant::now();
        let before = look.counters.map(|time| (time, Counters::read(root, nic.name.as_deref())));
        let mut facts = Facts {
            kernel: KernelFacts::read(root, plan, look.asks_kernel),
            limits: LimitFacts::read(root),
            cgroup: CgroupFacts::read(root),
            memory: MemoryFacts::read(root),
            pressure: PressureFacts::read(root),
            network: NetworkFacts::read(root),
            cpu: CpuFacts::read(root, allowed),
            disk: DiskFacts::read(root, plan, look.disk),
            files,
            nic,
            counters: None,
        };
        facts.counters = before.map(|(time, before)| {
            std::thread::sleep(time.saturating_sub(start.elapsed()));
            let after = Counters::read(root, facts.nic.name.as_deref());
            Sample { before, after, time: start.elapsed() }
        });
        facts
    }

    /// Keeps what the kernel and the disk answered to an earlier, closer look.
    pub(crate) fn keep_answers_of(&mut self, earlier: &Facts) {
        self.kernel.io_uring.clone_from(&earlier.kernel.io_uring);
        self.nic.ethtool.clone_from(&earlier.nic.ethtool);
        self.disk.abilities = earlier.disk.abilities;
        self.disk.run.clone_from(&earlier.disk.run);
        self.disk.journal_size = earlier.disk.journal_size;
    }

    /// The counters of this look, compared with those of the last one.
    pub(crate) fn set_counters(&mut self, sample: Sample) {
        self.counters = Some(sample);
    }

    /// The interface of the calls.
    pub(crate) fn nic_name(&self) -> Option<&str> {
        self.nic.name.as_deref()
    }

    /// Those that plans are made from: see [`HostFacts`].
    pub(crate) fn host(&self) -> HostFacts {
        let run = self.disk.run.as_ref().and_then(|run| run.as_ref().ok());
        let memory = self.memory.memory.size;
        HostFacts {
            cpus: Some(self.cpu.allowed.len()).filter(|count| *count > 0),
            memory_bytes: Some(memory).filter(|size| *size > 0),
            disk_write_bytes_per_second: run.map(|run| run.bytes_per_second),
            disk_syncs_per_second: run.map(|run| run.syncs_per_second),
            disk_sync_max_ms: run.map(|run| run.sync_millis_max),
            disk_free_bytes: self.disk.examined.as_ref().map(|examined| examined.free),
            network_bits_per_second: self.nic.speed,
        }
    }
}

/// The part of the facts that `exo-load plan --host-report` reads. Unknown values are null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HostFacts {
    cpus: Option<usize>,
    memory_bytes: Option<u64>,
    disk_write_bytes_per_second: Option<u64>,
    disk_syncs_per_second: Option<u64>,
    disk_sync_max_ms: Option<f64>,
    disk_free_bytes: Option<u64>,
    network_bits_per_second: Option<u64>,
}
