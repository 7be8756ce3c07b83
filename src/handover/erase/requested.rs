//! Erases calls in an archive because they were deleted from a journal.
//!
//! A request says which shards of which runs hold the call, and up to which position. So the names
//! of one shard are listed, and slices are looked at from that position backwards, until one is
//! older than the call. The cost depends on how long the call was, not on the size of the archive.

#![forbid(unsafe_code)]

use super::{ArchiveErased, damaged_slice, without};
use crate::format::RecordHeader;
use crate::handover::cursor::ShardName;
use crate::handover::erasures::{ErasedEpoch, Erasure};
use crate::handover::sink::{Change, ObjectSink, SinkError};
use crate::handover::slice::{NodeName, ObjectKind, ObjectName};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// How much older than the start of a call a slice must be, so that no slice before it has the
/// call: the records of a shard are nearly in the order of their times. Microseconds.
const MARGIN: u64 = 60 * 1_000_000;

/// What became of requests.
#[derive(Debug, Default)]
pub(in crate::handover) struct Outcome {
    /// The files of requests that are done.
    pub(in crate::handover) done: Vec<PathBuf>,
    /// What could not be erased, a sentence each. Its requests are not done.
    pub(in crate::handover) failures: Vec<String>,
    pub(in crate::handover) erased: ArchiveErased,
    /// WAV files, receipts and marks that were removed.
    pub(in crate::handover) files: u64,
}

/// Erases the calls of requests. The error is that of a store that does not answer.
pub(in crate::handover) async fn erase_requested(
    sink: &ObjectSink,
    requests: Vec<(PathBuf, Erasure)>,
) -> Result<Outcome, SinkError> {
    let mut shards: BTreeMap<(&NodeName, ShardName), Vec<Wanted>> = BTreeMap::new();
    for (number, (_, erasure)) in requests.iter().enumerate() {
        for epoch in &erasure.epochs {
            let wanted = Wanted { request: number, epoch: *epoch, is_found: false };
            shards.entry((&erasure.node, epoch.shard)).or_default().push(wanted);
        }
    }
    let (mut outcome, mut failed) = (Outcome::default(), BTreeSet::new());
    for ((node, (run, shard)), wanted) in shards {
        let prefix = ObjectName::shard_prefix(node, &run, shard);
        let listed = sink.list(&prefix).await?;
        let names = listed.into_iter().map(|listed| listed.name);
        let names = names.filter(|name| name.kind == ObjectKind::Slice).collect();
        erase_in_shard(sink, names, wanted, &mut outcome, &mut failed).await?;
    }
    for (number, (path, erasure)) in requests.into_iter().enumerate() {
        // After the slices: a compaction that begins now finds no audio.
        outcome.files += remove_files(sink, &erasure).await?;
        if !failed.contains(&number) {
            outcome.done.push(path);
        }
    }
    Ok(outcome)
}

/// An epoch to erase.
struct Wanted {
    /// Number of its request.
    request: usize,
    epoch: ErasedEpoch,
    /// Every slice that may hold it has been looked at.
    is_found: bool,
}

async fn erase_in_shard(
    sink: &ObjectSink,
    names: Vec<ObjectName>,
    mut wanted: Vec<Wanted>,
    outcome: &mut Outcome,
    failed: &mut BTreeSet<usize>,
) -> Result<(), SinkError> {
    for name in names.into_iter().rev() {
        let is_active = |it: &&Wanted| !it.is_found && name.first < it.epoch.end;
        let active: Vec<usize> =
            wanted.iter().enumerate().filter(|(_, it)| is_active(it)).map(|(at, _)| at).collect();
        if active.is_empty() {
            if wanted.iter().all(|it| it.is_found) {
                break;
            }
            continue;
        }
        let mut fail = |sentence, wanted: &[Wanted]| {
            outcome.failures.push(sentence);
            failed.extend(active.iter().map(|at| wanted[*at].request));
        };
        let index = match sink.slice_index(&name).await? {
            Some(Ok(index)) => index.index,
            Some(Err(error)) => {
                fail(damaged_slice(&name, &error), &wanted);
                continue;
            }
            // It is gone: so is its audio.
            None => continue,
        };
        let is_here = |epoch: &ErasedEpoch| {
            index.epochs.iter().any(|it| (it.call, it.epoch) == (epoch.call, epoch.epoch))
        };
        let here: BTreeSet<_> = active
            .iter()
            .map(|at| &wanted[*at].epoch)
            .filter(|epoch| is_here(epoch))
            .map(|epoch| (epoch.call, epoch.epoch))
            .collect();
        if !here.is_empty() {
            let is_wanted = |header: &RecordHeader, _| here.contains(&(header.call, header.epoch));
            match sink.change(&name.to_string(), |bytes| without(bytes, is_wanted)).await? {
                Ok(Change::Made(of_slice)) => outcome.erased.add(of_slice),
                // If it is gone, so is its audio.
                Ok(Change::Nothing | Change::Gone) => {}
                Err(error) => fail(damaged_slice(&name, &error), &wanted),
            }
        }
        let Some(newest) = index.epochs.iter().map(|it| it.last_received_at.0).max() else {
            continue;
        };
        for at in active {
            let started_at = wanted[at].epoch.started_at.0;
            wanted[at].is_found = newest.saturating_add(MARGIN) < started_at;
        }
    }
    Ok(())
}

/// The part of a receipt that says which recording it is of.
#[derive(Debug, Deserialize)]
struct ReceiptHead {
    epochs: Vec<ReceiptEpoch>,
}

#[derive(Debug, Deserialize)]
struct ReceiptEpoch {
    started_at: String,
}

impl ReceiptHead {
    /// Whether one of its epochs is one of these. Receipts have milliseconds.
    fn is_of(&self, epochs: &[ErasedEpoch]) -> bool {
        self.epochs.iter().any(|it| {
            let Ok(at) = humantime::parse_rfc3339(&it.started_at) else { return false };
            let Ok(since) = at.duration_since(std::time::UNIX_EPOCH) else { return false };
            epochs.iter().any(|epoch| u128::from(epoch.started_at.0) / 1_000 == since.as_millis())
        })
    }
}

/// Removes the WAV files and receipts of recordings with one of the epochs. Another recording of
/// the call keeps its own. A WAV file whose receipt never came is left to `archive compact`.
async fn remove_files(sink: &ObjectSink, erasure: &Erasure) -> Result<u64, SinkError> {
    let mut removed = 0;
    for base in &erasure.files {
        for name in sink.names_from(base).await? {
            let Some(whole) = name.strip_suffix(".json") else { continue };
            // An id may begin with another one.
            let more = whole.strip_prefix(base.as_str());
            if !more.is_some_and(|more| more.is_empty() || is_number(more)) {
                continue;
            }
            let Some(text) = sink.get(&name).await? else { continue };
            let receipt = serde_json::from_slice::<ReceiptHead>(&text);
            if receipt.is_ok_and(|receipt| receipt.is_of(&erasure.epochs)) {
                // The receipt comes last: without it nothing finds the rest.
                for ending in ["wav", "ready", "json"] {
                    let name = format!("{whole}.{ending}");
                    if sink.has(&name).await? {
                        sink.remove(&name).await?;
                        removed += 1;
                    }
                }
            }
        }
    }
    Ok(removed)
}

/// Whether a name goes on with the start of a recording.
fn is_number(more: &str) -> bool {
    let digits = more.strip_prefix('-');
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit()))
}
