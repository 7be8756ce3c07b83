#![forbid(unsafe_code)]
//! How a node keeps its journal.

use crate::ack_level::AckLevel;
use crate::archive::pins::Pins;
use crate::journal::settings::JournalSettings;
use std::path::PathBuf;
use std::sync::Arc;

/// What happens when required sinks lack more of the journal than they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverBudget {
    /// New calls get 503; calls that are live go on.
    Refuse,
    /// Retention removes the oldest segments although a sink lacks them.
    DropOldest,
}

/// How much of the journal may wait on the disk for required sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// `forward.budget`.
    pub bytes: u64,
    /// `forward.over_budget`.
    pub over: OverBudget,
}

/// How a node keeps its journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// `data_dir`: made with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// `ack`.
    pub level: AckLevel,
    /// `journal.*`.
    pub(crate) settings: JournalSettings,
    /// Segments that retention must leave, because a required sink has not taken them: for each
    /// such sink.
    pub(crate) pins: Vec<Arc<Pins>>,
    /// How much may wait for these sinks; `None`: as much as the disk holds.
    pub(crate) budget: Option<Budget>,
}

impl JournalConfig {
    /// A durable journal in `data_dir`.
    pub fn new(data_dir: PathBuf, settings: JournalSettings) -> Self {
        let level = AckLevel::Durable;
        JournalConfig { data_dir, level, settings, pins: Vec::new(), budget: None }
    }
}
