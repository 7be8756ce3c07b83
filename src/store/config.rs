#![forbid(unsafe_code)]
//! How a node keeps its journal.

use crate::ack_level::AckLevel;
use crate::archive::pins::Pins;
use crate::journal::settings::JournalSettings;
use std::path::PathBuf;
use std::sync::Arc;

/// How a node keeps its journal.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// `data_dir`: made with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// `ack`.
    pub level: AckLevel,
    /// `journal.*`.
    pub(crate) settings: JournalSettings,
    /// Segments that retention must leave, because a required sink has not taken them: the pins of
    /// each.
    pub(crate) pins: Vec<Arc<Pins>>,
}

impl JournalConfig {
    /// A durable journal in `data_dir`.
    pub fn new(data_dir: PathBuf, settings: JournalSettings) -> Self {
        JournalConfig { data_dir, level: AckLevel::Durable, settings, pins: Vec::new() }
    }
}
