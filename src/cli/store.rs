//! Flags that say where an archive is.

#![forbid(unsafe_code)]

use super::Failure;
use super::calls::remark;
use crate::handover::sink::{CA, ObjectSink, SinkError, SinkOptions};
use crate::handover::slice::NodeName;
use clap::Args;
use std::path::Path;
use std::time::Duration;

/// How to reach an object store.
#[derive(Debug, Args)]
pub(super) struct StoreFlags {
    /// An option of the store, like endpoint=http://127.0.0.1:8333, region=eu-central-1,
    /// storage_class=GLACIER_IR or tag.kind=audio; may be repeated
    #[arg(long = "sink-option", value_name = "KEY=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// How long to repeat a request to a store that fails for a passing reason
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    give_up: Duration,
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

impl StoreFlags {
    /// Opens the store at `url`. Retries are told on standard error.
    pub(super) fn open(&self, url: &str, creates_directory: bool) -> Result<ObjectSink, Failure> {
        self.open_with(url, None, creates_directory)
    }

    /// The same with the certificates in a file, besides those of options and of the system.
    pub(super) fn open_with(
        &self,
        url: &str,
        ca: Option<&Path>,
        creates_directory: bool,
    ) -> Result<ObjectSink, Failure> {
        let ca = ca.map(|path| (CA.to_owned(), path.display().to_string()));
        let options = SinkOptions {
            url: url.to_owned(),
            options: self.options.iter().cloned().chain(ca).collect(),
            give_up: self.give_up,
            creates_directory,
        };
        Ok(options.open(Box::new(remark))?)
    }
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Failure {
        match error {
            SinkError::Usage(text) => Failure::Usage(text),
            SinkError::Store(text) | SinkError::Differs(text) => Failure::Run(text),
        }
    }
}

/// The name that was given, or that of this host.
pub(super) fn node_name(given: Option<&NodeName>) -> Result<NodeName, Failure> {
    if let Some(name) = given {
        return Ok(name.clone());
    }
    let host = rustix::system::uname();
    NodeName::parse(&host.nodename().to_string_lossy()).map_err(|_| {
        Failure::Usage("this host's name cannot name the node: give --node NAME".into())
    })
}
