//! Announces recordings of an archive to a message engine: the event `recording_ready`.

#![forbid(unsafe_code)]

use super::Failure;
use crate::archive::reader::Journal;
use crate::cli::calls::recording::{Recording, ended_at, started_at};
use crate::cli::calls::remark;
use crate::cli::read::runtime;
use crate::clock::UnixMicros;
use crate::format::Lsn;
use crate::handover::live::engine::{Engine, EngineConfig};
use crate::handover::live::event::{Events, ReadyRecording};
use crate::handover::live::message::{Content, EpochName, LiveMessage};
use crate::handover::live::publisher::Publisher;
use crate::handover::mirror::Mirror;
use clap::Args;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the engine may acknowledge nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where events go.
#[derive(Debug, Args)]
#[command(next_help_heading = "For a message engine")]
pub(super) struct EventFlags {
    /// Announce recordings to this engine: nats://HOST:PORT or tls://HOST:PORT
    #[arg(long, value_name = "URL")]
    events: Option<String>,
    /// File with credentials for the engine: .creds, or a line USER:PASSWORD
    #[arg(long, value_name = "FILE", requires = "events")]
    credentials: Option<PathBuf>,
    /// Certificates that the engine's certificate must be signed by, in PEM, instead of the system's
    #[arg(long, value_name = "FILE", requires = "events")]
    ca: Option<PathBuf>,
}

impl EventFlags {
    /// Connects, if there is an engine.
    pub(super) fn connect(&self) -> Result<Option<Announcer>, Failure> {
        let Some(url) = self.events.clone() else { return Ok(None) };
        let (credentials, ca) = (self.credentials.clone(), self.ca.clone());
        let runtime = runtime()?;
        let engine = runtime.block_on(async {
            let mut engine = Engine::connect(&EngineConfig { url, credentials, ca }).await?;
            for told in engine.find_streams(None).await? {
                remark(&format!("warning: {told}"));
            }
            Ok::<Engine, Failure>(engine)
        })?;
        Ok(Some(Announcer { runtime, engine }))
    }
}

/// A connection to the engine.
pub(super) struct Announcer {
    runtime: Runtime,
    engine: Engine,
}

/// The part of a receipt that an event repeats.
#[derive(Debug, Deserialize)]
struct ReceiptHead {
    object: String,
    sha256: String,
    started_at: String,
    sample_rate: u32,
    frames: u64,
    bytes: u64,
    seconds: f64,
    gaps: Vec<serde_json::Value>,
    damages: Vec<String>,
}

impl Announcer {
    /// Announces a recording that has a receipt. Returns when the engine has acknowledged it.
    pub(super) fn announce(
        &mut self,
        mirror: &Mirror,
        journal: &Journal,
        recording: &Recording,
        receipt: &str,
    ) -> Result<(), Failure> {
        let unreadable = |why: String| {
            Failure::Run(format!(
                "the receipt {receipt} cannot be read ({why}): remove it, and run the command again"
            ))
        };
        let text = mirror.get_file(receipt)?.ok_or_else(|| unreadable("it is gone".into()))?;
        let head: ReceiptHead =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let ready = ReadyRecording {
            archive: mirror.url(),
            object: &head.object,
            receipt,
            sha256: &head.sha256,
            started_at: &head.started_at,
            sample_rate: head.sample_rate,
            frames: head.frames,
            bytes: head.bytes,
            seconds: head.seconds,
            is_complete: head.gaps.is_empty() && head.damages.is_empty(),
        };
        let Some((_, first)) = recording.epochs.first() else { return Ok(()) };
        let node = mirror.objects_of(journal, first).into_iter().next().map(|name| name.node);
        let epoch = EpochName {
            started_at: started_at(first),
            node: node.as_ref().map_or("", |node| node.as_str()).into(),
            epoch: first.epoch,
        };
        let at = recording.epochs.iter().filter_map(|(_, call_epoch)| ended_at(call_epoch)).max();
        let events = Events { identity: &recording.identity, epoch: &epoch };
        // The same whenever it is made again from the same receipt.
        let json = events.recording_ready(&ready, at.unwrap_or(UnixMicros(0)));
        let identity = recording.identity.clone();
        let content = Content::Event { name: "recording_ready", seq: 0, json };
        let message = LiveMessage { call: first.call, identity, epoch, content, from: Lsn(0) };
        let mut publisher = Publisher::new(self.engine.clone());
        publisher.push(message);
        Ok(self.runtime.block_on(publisher.settle(true, PATIENCE))?)
    }
}
