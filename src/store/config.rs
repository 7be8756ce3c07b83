#![forbid(unsafe_code)]
//! How a node keeps its journal.

use crate::ack_level::AckLevel;
use std::path::PathBuf;
use std::time::Duration;

/// How a node keeps its journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalConfig {
    /// `data_dir`: made with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// `ack`.
    pub level: AckLevel,
    /// `journal.segment_size`, bytes: whole blocks.
    pub segment_size: u64,
    /// `journal.sync_interval`.
    pub sync_interval: Duration,
    /// `journal.stall_timeout`.
    pub stall_timeout: Duration,
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
    /// `journal.prefill`: writes zeros to a segment before it is used.
    pub prefill: bool,
}

impl JournalConfig {
    /// The default settings for `data_dir`.
    pub fn new(data_dir: PathBuf) -> Self {
        JournalConfig {
            data_dir,
            level: AckLevel::Durable,
            segment_size: 128 << 20,
            sync_interval: Duration::from_millis(20),
            stall_timeout: Duration::from_secs(60),
            retain_bytes: None,
            retain_age: None,
            reserve: None,
            prefill: false,
        }
    }
}

/// The limits of a journal that may change while it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// [`JournalConfig::retain_bytes`].
    pub retain_bytes: Option<u64>,
    /// [`JournalConfig::retain_age`].
    pub retain_age: Option<Duration>,
    /// [`JournalConfig::reserve`].
    pub reserve: Option<u64>,
}

impl JournalConfig {
    /// Its limits that may change.
    pub fn limits(&self) -> RetentionLimits {
        let JournalConfig { retain_bytes, retain_age, reserve, .. } = *self;
        RetentionLimits { retain_bytes, retain_age, reserve }
    }
}
