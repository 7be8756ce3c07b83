//! `exo-ingest ship`: sends a journal to an archive, offline or beside a live node.

#![forbid(unsafe_code)]

use super::calls::data_dir::DataDir;
use super::calls::{print_json, progress_line, remark, stop_on_signals};
use super::live::is_engine;
use super::store::{StoreFlags, node_name};
use super::{Failure, print};
use crate::archive::recovery::counted;
use crate::handover::cursor::Cursor;
use crate::handover::secrets::hide_in_url;
use crate::handover::ship::{ShipError, ShipReport, Shipment};
use crate::handover::sink::Stored;
use crate::handover::slice::{NodeName, ObjectName};
use clap::Args;
use indicatif::HumanBytes;
use live::LiveFlags;
use serde::Serialize;
use std::path::PathBuf;

mod live;

/// Send a journal to an archive or a message engine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShipArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// The archive: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIR;
    /// the engine: nats://HOST:PORT or tls://HOST:PORT, several separated by commas
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    store: StoreFlags,
    /// The node's name in the archive [default: the name of this host]
    #[arg(long, value_name = "NAME", value_parser = NodeName::parse)]
    node: Option<NodeName>,
    /// Uploads at a time
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Where to remember how far it came [default: in the data directory, below sinks/]
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Send nothing; list the objects that would be sent
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    live: LiveFlags,
}

const EXAMPLES: &str = "\
Examples:
  exo-ingest ship --data-dir /var/lib/exo-ingest --to s3://recordings/exo
  exo-ingest ship --data-dir /mnt/rescued --node edge-7 --cursor ship.cursor --to file:///archive
  exo-ingest ship --data-dir data --to s3://recordings/exo \\
    --sink-option endpoint=http://127.0.0.1:8333 --sink-option allow_http=true
  exo-ingest ship --data-dir data --to nats://engine:4222 --audio acme --create-streams 4

Sends what is durable and not in the archive yet. It can be interrupted: the same command goes on. \
Of a live node it sends the slices that are complete; the rest comes with the next run. On a disk \
that is mounted read-only, give --cursor FILE; without a cursor it asks the archive what it has.

Credentials come from the store's usual variables, such as AWS_ACCESS_KEY_ID and \
AWS_SECRET_ACCESS_KEY.

Exit codes: 0 all was sent, 1 the store or the engine failed or the command was interrupted, 2 \
wrong usage, 3 the journal is damaged (the damage is named, and the rest was sent) or a deleted \
call could not be erased.";

#[derive(Serialize)]
struct Document<'a> {
    url: String,
    node: &'a str,
    is_dry_run: bool,
    slices: u64,
    bytes: u64,
    slices_before: u64,
    shards_live: u64,
    damages: &'a [String],
    lost: &'a [String],
    expired: &'a [String],
    /// Deleted calls that the archive has erased now.
    calls_erased: u64,
    /// Deleted calls that it has not erased yet.
    erasures_waiting: u64,
    is_interrupted: bool,
    /// What would be sent, with --dry-run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Object>,
}

/// An object that would be sent.
#[derive(Serialize)]
struct Object {
    name: String,
    bytes: u64,
}

/// Sends the journal.
pub(super) fn ship(args: &ShipArgs) -> Result<(), Failure> {
    if is_engine(&args.to) {
        return live::ship(args);
    }
    let (data_dir, journal) = (args.data_dir.path()?, args.data_dir.open()?);
    let node = node_name(args.node.as_ref())?;
    let sink = args.store.open_with(&args.to, args.live.ca(), !args.dry_run)?;
    let default_path = || Cursor::path(&data_dir, &args.to);
    let cursor_path = args.cursor.clone().unwrap_or_else(default_path);
    let stop = stop_on_signals()
        .map_err(|error| Failure::Run(format!("cannot wait for signals: {error}")))?;
    let jobs = usize::from(args.jobs);
    let shipment = Shipment {
        journal: &journal,
        node: node.clone(),
        cursor_path,
        jobs,
        is_dry: args.dry_run,
        stop: &stop,
    };
    let (bar, mut objects, mut sent) = (progress_line(), Vec::new(), (0, 0));
    let mut told = |name: &ObjectName, bytes: u64, stored: Option<Stored>| {
        match stored {
            None => objects.push(Object { name: name.to_string(), bytes }),
            Some(Stored::New) => sent = (sent.0 + 1, sent.1 + bytes),
            Some(Stored::Before) => {}
        }
        bar.set_message(format!("{}, {}", counted(sent.0, "object"), HumanBytes(sent.1)));
        bar.tick();
    };
    let shipped = shipment.send(sink, &mut told);
    bar.finish_and_clear();
    let report = shipped?;
    if let Some(error) = report.cursor_error.as_ref().filter(|_| !args.dry_run) {
        remark(&format!(
            "cannot keep the cursor in {}: {error}; the next run asks the archive what it has, or \
             give --cursor FILE",
            shipment.cursor_path.display()
        ));
    }
    if args.json {
        print_json(&document(args, &node, &report, objects))?;
    } else {
        for object in &objects {
            print(&format!("{}  {}\n", object.name, counted(object.bytes, "byte")))?;
        }
        print(&text(args, &report))?;
    }
    outcome(&report)
}

fn document<'a>(
    args: &'a ShipArgs,
    node: &'a NodeName,
    report: &'a ShipReport,
    objects: Vec<Object>,
) -> Document<'a> {
    Document {
        url: hide_in_url(&args.to),
        node: node.as_str(),
        is_dry_run: args.dry_run,
        slices: report.slices,
        bytes: report.bytes,
        slices_before: report.slices_before,
        shards_live: report.shards_live,
        damages: &report.damages,
        lost: &report.lost,
        expired: &report.expired,
        calls_erased: report.calls_erased,
        erasures_waiting: report.erasures_waiting,
        is_interrupted: report.is_interrupted,
        objects,
    }
}

fn text(args: &ShipArgs, report: &ShipReport) -> String {
    for damage in &report.damages {
        remark(&format!("damage, sent as it is: {damage}"));
    }
    for lost in &report.lost {
        remark(&format!("lost before it was sent: {lost}"));
    }
    for expired in &report.expired {
        remark(&format!("removed by retention before it was sent: {expired}"));
    }
    for failure in &report.erasure_failures {
        remark(&format!("a deleted call is still in the archive: {failure}"));
    }
    let would = if args.dry_run { "would be sent" } else { "sent" };
    let (slices, bytes) = (counted(report.slices, "slice"), counted(report.bytes, "byte"));
    let mut text = format!("{slices} {would} to {}: {bytes}\n", hide_in_url(&args.to));
    if report.slices_before > 0 {
        text += &format!("{} there already\n", counted(report.slices_before, "slice"));
    }
    text += &erasures(report.calls_erased, report.erasures_waiting);
    if report.shards_live > 0 {
        let live = counted(report.shards_live, "shard");
        text += &format!("{live} of live nodes: the rest comes with the next run\n");
    }
    text
}

/// What became of deleted calls.
fn erasures(done: u64, waiting: u64) -> String {
    let mut text = String::new();
    if done > 0 {
        text += &format!("{} erased there, too\n", counted(done, "deleted call"));
    }
    if waiting > 0 {
        let calls = counted(waiting, "deleted call");
        text += &format!("{calls} not erased there yet: run the command again\n");
    }
    text
}

fn outcome(report: &ShipReport) -> Result<(), Failure> {
    if report.is_interrupted {
        return Err(Failure::Run(
            "a signal ended the work early: the same command goes on with the rest".into(),
        ));
    }
    if let Some(failure) = report.erasure_failures.first() {
        return Err(Failure::Damaged(format!("not all deleted calls could be erased: {failure}")));
    }
    let places = report.damages.len() as u64;
    if places == 0 && report.lost.is_empty() {
        return Ok(());
    }
    Err(Failure::Damaged(format!(
        "the journal is damaged in {} and has lost {}: everything that is there was sent",
        counted(places, "place"),
        counted(report.lost.len() as u64, "range")
    )))
}

impl From<ShipError> for Failure {
    fn from(error: ShipError) -> Failure {
        match error {
            ShipError::Journal(error) => error.into(),
            ShipError::Sink(error) => error.into(),
            ShipError::Thread(_) => Failure::Run(error.to_string()),
        }
    }
}
