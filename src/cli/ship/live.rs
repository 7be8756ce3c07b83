//! `exo-ingest ship` to a message engine.

#![forbid(unsafe_code)]

use super::ShipArgs;
use crate::cli::Failure;
use crate::cli::calls::{print_json, progress, remark};
use crate::cli::live::audio_of;
use crate::cli::read::runtime;
use crate::cli::store::node_name;
use crate::format::Lsn;
use crate::handover::cursor::{Cursor, ShardName};
use crate::handover::erasures::Erasures;
use crate::handover::live::engine::{Engine, EngineConfig, StreamPlan};
use crate::handover::live::erase::erase_sent;
use crate::handover::live::publisher::{PublishStats, Publisher};
use crate::handover::live::ship::{ShipError, ShippedShard, ship_shard};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags for a message engine.
#[derive(Debug, Args)]
#[command(next_help_heading = "For a message engine (nats://, tls://)")]
pub(in crate::cli) struct LiveFlags {
    /// Tenants whose audio is handed over, or all; events go out for all calls
    #[arg(long, value_name = "TENANT,…|all", default_value = "all", value_delimiter = ',')]
    audio: Vec<String>,
    /// File with credentials for the engine: .creds, or a line USER:PASSWORD
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Certificates in PEM: an engine's must be signed by one of them; a store's, by one of them or
    /// of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Make the streams that are missing: this many for audio
    #[arg(long, value_name = "COUNT")]
    create_streams: Option<u16>,
    /// Copies of each message, for --create-streams
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    replicas: usize,
    /// How long the engine keeps messages, for --create-streams
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        value_parser = humantime::parse_duration
    )]
    stream_age: Duration,
    /// End with an error if the engine acknowledges nothing for this time
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    give_up_after: Duration,
}

impl LiveFlags {
    /// The file with certificates, which stores take too.
    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

#[derive(Debug, Default, Serialize)]
struct Document {
    messages: u64,
    bytes: u64,
    known: u64,
    resent: u64,
    /// Deleted calls that the engine has erased now.
    calls_erased: u64,
    /// Their messages of audio.
    messages_erased: u64,
    /// Deleted calls that it has not erased yet.
    erasures_waiting: u64,
    shards: Vec<ShardDocument>,
}

#[derive(Debug, Serialize)]
struct ShardDocument {
    run: String,
    shard: u16,
    position: u64,
    damages: u64,
    lost_segments: u64,
    nameless_records: u64,
}

/// Hands a journal over.
pub(super) fn ship(args: &ShipArgs) -> Result<(), Failure> {
    if args.dry_run {
        return Err(Failure::Usage("--dry-run is for archives: leave it out".into()));
    }
    let (data_dir, journal) = (args.data_dir.path()?, args.data_dir.open()?);
    let node = node_name(args.node.as_ref())?;
    let default_path = || Cursor::path(&data_dir, &args.to);
    let cursor_path = args.cursor.clone().unwrap_or_else(default_path);
    let live = &args.live;
    let audio_of = audio_of(&live.audio);
    let config = EngineConfig {
        url: args.to.clone(),
        credentials: live.credentials.clone(),
        ca: live.ca.clone(),
    };
    let plan = live.create_streams.map(|slots| StreamPlan {
        slots: slots.max(1),
        replicas: live.replicas,
        max_age: live.stream_age,
    });
    let bar = progress(journal.segment_count(), "handing over segments");
    let document = runtime()?.block_on(async {
        let mut engine = Engine::connect(&config).await?;
        for told in engine.find_streams(plan.as_ref()).await? {
            remark(&format!("warning: {told}"));
        }
        let mut document = Document::default();
        let loaded = Cursor::load(&cursor_path, &args.to, &node).ok().flatten();
        let mut cursor = loaded.unwrap_or_else(|| Cursor::new(&args.to, node.clone()));
        let names: Vec<ShardName> =
            journal.shards().iter().map(|shard| (*shard.run(), shard.shard())).collect();
        cursor.keep(|shard| names.contains(shard));
        for (shard, name) in journal.shards().iter().zip(names) {
            let from = cursor.position(&name).unwrap_or_default();
            let mut publisher = Publisher::new(engine.clone());
            let progress = |_, position: Option<Lsn>| {
                if let Some(position) = position {
                    bar.inc(1);
                    cursor.advance(name, position);
                    // Without a cursor the next run sends more, and does no harm.
                    let _ = cursor.store(&cursor_path);
                }
                Ok::<(), ShipError>(())
            };
            let from_node = (node.as_str(), &audio_of);
            let publisher_of_shard = (&mut publisher, live.give_up_after);
            let shipped = ship_shard(shard, from, from_node, publisher_of_shard, progress).await?;
            document.add(publisher.stats());
            document.shards.push(ShardDocument::new(shard, shipped));
        }
        let requests = Erasures::new(&data_dir, &args.to);
        let position = |shard: &ShardName| cursor.position(shard);
        let erased = erase_sent(&engine, &requests, position, live.give_up_after).await?;
        erased.remarks.iter().for_each(|told| remark(told));
        document.calls_erased = erased.calls;
        document.messages_erased = erased.messages;
        document.erasures_waiting = erased.waiting;
        Ok::<Document, Failure>(document)
    })?;
    bar.finish_and_clear();
    tell(args, &document)
}

fn tell(args: &ShipArgs, document: &Document) -> Result<(), Failure> {
    let Document { messages, bytes, known, resent, shards, .. } = document;
    if args.json {
        print_json(document)?;
    } else {
        remark(&format!(
            "{messages} messages with {bytes} bytes are acknowledged; the engine had {known} of \
             them already; {resent} were sent again"
        ));
        let told = super::erasures(document.calls_erased, document.erasures_waiting);
        told.lines().for_each(remark);
    }
    let sum = |count: fn(&ShardDocument) -> u64| shards.iter().map(count).sum::<u64>();
    let (damages, lost) = (sum(|shard| shard.damages), sum(|shard| shard.lost_segments));
    if damages + lost > 0 {
        return Err(Failure::Damaged(format!(
            "the journal has {damages} bad places and lacks {lost} segments: the rest was handed \
             over, and `exo-ingest calls verify` names them"
        )));
    }
    Ok(())
}

impl Document {
    fn add(&mut self, stats: PublishStats) {
        self.messages += stats.messages;
        self.bytes += stats.bytes;
        self.known += stats.known;
        self.resent += stats.resent;
    }
}

impl ShardDocument {
    fn new(shard: &crate::archive::reader::ShardJournal, shipped: ShippedShard) -> ShardDocument {
        ShardDocument {
            run: shard.run().to_string(),
            shard: shard.shard(),
            position: shipped.position.0,
            damages: shipped.damages,
            lost_segments: shipped.lost_segments,
            nameless_records: shipped.nameless,
        }
    }
}

impl From<ShipError> for Failure {
    fn from(error: ShipError) -> Failure {
        Failure::Run(error.to_string())
    }
}
