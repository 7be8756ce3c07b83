//! Where the journal is: the flag, the variable, or the node's configuration file.

#![forbid(unsafe_code)]

use super::source::Source;
use super::{Failure, remark};
use crate::archive::reader::Journal;
use crate::config::sources::CONFIG_VARIABLE;
use crate::config::{Config, Inputs};
use clap::Args;
use std::cell::Cell;
use std::path::PathBuf;

/// Directory of the journal.
#[derive(Debug, Args)]
pub(in crate::cli) struct DataDir {
    /// The node's data directory
    #[arg(long, value_name = "DIR", env = "EXO_INGEST_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The node's configuration file: it names the data directory if nothing else does
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    /// Directories that the disk could not list when the journal was opened.
    #[arg(skip)]
    unlisted: Cell<usize>,
}

impl DataDir {
    /// The directory. A flag overrides the variable, and the variable overrides the file.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.data_dir {
            return Ok(path.clone());
        }
        let Some(file) = &self.config else {
            return Err(Failure::Usage(
                "where is the journal? give the node's --data-dir, or its --config FILE".into(),
            ));
        };
        let inputs = Inputs { file: Some(file.clone()), ..Inputs::default() };
        let config = Config::load(inputs, std::env::vars_os())?;
        config.settings.data_dir.ok_or_else(|| {
            Failure::Usage(format!(
                "{} sets no data_dir: give the node's --data-dir",
                file.display()
            ))
        })
    }

    /// The journal, without a look at its calls.
    pub(crate) fn open(&self) -> Result<Journal, Failure> {
        let journal = Journal::open(&self.path()?).map_err(|error| {
            let text = error.to_string();
            // Some errors say it already.
            let hint = "give the same --data-dir as to the node";
            Failure::Run(if text.contains("--data-dir") { text } else { format!("{text}; {hint}") })
        })?;
        let unlisted = journal.unlisted();
        // Some commands open it again and again.
        if self.unlisted.replace(unlisted.len()) == 0 {
            for error in unlisted {
                remark(&format!("damage: {error}: what is in this directory is left out"));
            }
        }
        Ok(journal)
    }

    /// The outcome of a command. Done, it still fails if a part of the journal was left out.
    pub(crate) fn complete(&self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        outcome?;
        match self.unlisted.get() {
            0 => Ok(()),
            count => Err(Failure::Damaged(format!(
                "the disk cannot list {} of the journal: see above; everything else was read",
                if count == 1 { "a directory".into() } else { format!("{count} directories") }
            ))),
        }
    }

    /// The calls of the journal.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        Ok(Source::new(self.open()?))
    }
}
