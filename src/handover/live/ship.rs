//! Hands a shard's journal over to the message engine, as far as it is durable now.

#![forbid(unsafe_code)]

use super::chunker::{AudioOf, Chunker};
use super::engine::EngineError;
use super::publisher::Publisher;
use crate::archive::reader::{GapReason, JournalError, ShardJournal, Step};
use crate::clock::UnixMicros;
use crate::format::Lsn;
use std::fmt;
use std::time::Duration;

/// Why a shard was not handed over.
#[derive(Debug)]
pub(crate) enum ShipError {
    /// The journal cannot be read.
    Journal(JournalError),
    /// The engine does not take it.
    Engine(EngineError),
}

impl fmt::Display for ShipError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShipError::Journal(error) => error.fmt(formatter),
            ShipError::Engine(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for ShipError {}

impl From<JournalError> for ShipError {
    fn from(error: JournalError) -> ShipError {
        ShipError::Journal(error)
    }
}

impl From<EngineError> for ShipError {
    fn from(error: EngineError) -> ShipError {
        ShipError::Engine(error)
    }
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShippedShard {
    /// Everything before this position is acknowledged. A new start begins here.
    pub(crate) position: Lsn,
    /// Bad stretches of the journal.
    pub(crate) damages: u64,
    /// Segments that are not there, though retention did not remove them.
    pub(crate) lost_segments: u64,
    /// Records of audio whose call the journal does not name.
    pub(crate) nameless: u64,
}

/// Hands over the records of a shard from `from` on, up to what is durable now. Tells `progress`
/// the bytes read, batch by batch, and the position that is acknowledged, segment by segment.
pub(crate) async fn ship_shard(
    shard: &ShardJournal,
    from: Lsn,
    (node, audio_of): (&str, &AudioOf),
    (publisher, patience): (&mut Publisher, Duration),
    mut progress: impl FnMut(u64, Option<Lsn>) -> Result<(), ShipError>,
) -> Result<ShippedShard, ShipError> {
    let mut chunker = Chunker::new(node, audio_of.clone());
    let mut batches = shard.batches(from);
    let mut shipped = ShippedShard::default();
    let (mut next, mut now, mut missing_reason) = (from, UnixMicros(0), None);
    loop {
        match batches.advance()? {
            Step::Batch => {
                let Some(batch) = batches.batch() else { continue };
                // A node is writing it.
                if batch.end() > batches.durable_lsn() {
                    break;
                }
                for found in batches.records() {
                    let is_known = found.lsn < from || found.header.batch == 0;
                    chunker.handle_record(&found.header, found.payload, found.lsn, is_known);
                }
                now = batch.sealed_at.unwrap_or(now);
                chunker.handle_time(now);
                next = next.max(batch.end());
                progress(batch.bytes.len() as u64, None)?;
                while let Some(message) = chunker.poll_message() {
                    publisher.settle(false, patience).await?;
                    publisher.push(message);
                }
            }
            Step::Segment => {
                let start = batches.segment().map_or(next, |segment| segment.start);
                if let Some(reason) = missing_reason.take().filter(|_| start > next) {
                    chunker.handle_missing(reason);
                }
            }
            Step::SegmentEnd => {
                let position = chunker.position(next);
                let position = publisher.oldest().map_or(position, |oldest| oldest.min(position));
                progress(0, Some(position))?;
            }
            Step::Missing(missing) => {
                missing_reason = Some(missing.reason);
                if missing.reason != GapReason::Expired {
                    shipped.lost_segments += missing.last - missing.first + 1;
                }
            }
            Step::Pending => break,
            Step::End => {
                chunker.handle_end(now, next);
                while let Some(message) = chunker.poll_message() {
                    publisher.settle(false, patience).await?;
                    publisher.push(message);
                }
                break;
            }
        }
    }
    publisher.settle(true, patience).await?;
    shipped.damages = batches.take_damages().len() as u64;
    shipped.nameless = chunker.nameless();
    shipped.position = chunker.position(next);
    progress(0, Some(shipped.position))?;
    Ok(shipped)
}
