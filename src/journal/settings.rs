#![forbid(unsafe_code)]
//! The settings of a journal: for its writers, and for the store of its files.

use std::time::Duration;

/// How a journal is written, and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// `journal.retain_bytes`: bytes on disk of all segments and indexes, with those in use. `None`
    /// keeps everything. Room is made before a segment is. So only bytes that cannot be removed
    /// exceed the limit: segments being read, a shard's two in use if the limit is smaller, and
    /// indexes stored since the last segment was made.
    pub retain_bytes: Option<u64>,
    /// `journal.retain_age`; `None` keeps everything. Checked every five seconds. With it no file
    /// is recycled: a recycled file keeps old audio after the new segment's end for a while.
    pub retain_age: Option<Duration>,
    /// `journal.reserve`, bytes: 0 for none; `None`: 5 % of the filesystem, at least 1 GiB.
    pub reserve: Option<u64>,
    /// `journal.segment_size`, bytes: whole blocks.
    pub segment_size: u64,
    /// `journal.sync_interval`: least time between two syncs.
    pub sync_interval: Duration,
    /// `journal.stall_timeout`: time without progress of the disk before calls are closed.
    pub stall_timeout: Duration,
    /// `journal.prefill`: writes zeros to a segment before it is used.
    pub prefill: bool,
}

impl Default for JournalSettings {
    /// The defaults of a node.
    fn default() -> Self {
        JournalSettings {
            retain_bytes: None,
            retain_age: None,
            reserve: None,
            segment_size: 128 << 20,
            sync_interval: Duration::from_millis(20),
            stall_timeout: Duration::from_secs(60),
            prefill: false,
        }
    }
}
