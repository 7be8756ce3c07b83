//! Hands one shard over: reads it, makes messages, publishes them, and notes what the engine has.

#![forbid(unsafe_code)]

use super::chunker::Chunker;
use super::engine::Engine;
use super::publisher::{Outcome, Publisher};
use super::replicated::Replicated;
use super::shared::{Shared, name_of};
use crate::archive::reader::{
    Batches, GapReason, JournalError, MissingSegments, ShardJournal, Step,
};
use crate::clock::UnixMicros;
use crate::format::Lsn;
use crate::handover::cursor::ShardName;
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tokio::task::yield_now;
use tokio::time::sleep;

/// Pause when there is nothing to read, while calls go on and without any.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));

/// Shortest time between two reports to a shard.
const REPORT_INTERVAL: Duration = Duration::from_millis(5);

/// How often the position is noted, and how often a silent shard's chunks are looked at.
const NOTE_INTERVAL: Duration = Duration::from_millis(250);

/// How the work on a shard has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The engine has all of it, and no more will come.
    Complete,
    /// Another process writes it, or the journal does not agree with the node's memory: begin again
    /// from the cursor, later.
    Unsure,
}

/// What reading has brought.
enum Progress {
    Some,
    Nothing,
    Unsure,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pipeline {
    shared: Rc<Shared>,
    name: ShardName,
    dir: PathBuf,
    is_own: bool,
    batches: Batches,
    chunker: Chunker,
    publisher: Publisher,
    replicated: Replicated,
    /// Where it began.
    from: Lsn,
    /// Where the last batch ended.
    read_to: Lsn,
    /// When it was sealed.
    sealed_at: UnixMicros,
    /// Segments that are not acknowledged whole, and where they start.
    segments: VecDeque<(u64, Lsn)>,
    /// Segments before the next one that are not there.
    missing: Option<MissingSegments>,
    /// Everything was read, and no more will come.
    is_over: bool,
    noted_at: Instant,
    reported_at: Instant,
    looked_at: Instant,
    resent: u64,
}

impl Pipeline {
    pub(super) fn new(
        shared: Rc<Shared>,
        engine: Engine,
        shard: &ShardJournal,
        from: Lsn,
    ) -> Pipeline {
        let name = name_of(shard);
        let (now, config) = (Instant::now(), &shared.config);
        Pipeline {
            is_own: shared.is_own(&name),
            name,
            dir: shard.dir().to_owned(),
            batches: shard.batches(from),
            chunker: Chunker::new(config.node.as_str(), config.audio_of.clone()),
            publisher: Publisher::new(engine),
            replicated: Replicated::default(),
            from,
            read_to: Lsn(0),
            sealed_at: UnixMicros(0),
            segments: VecDeque::new(),
            missing: None,
            is_over: false,
            noted_at: now,
            reported_at: now,
            looked_at: now,
            resent: 0,
            shared,
        }
    }

    /// Works until the shard is complete. A shard of this node is, once the node has ended.
    pub(super) async fn run(mut self) -> Result<Ended, JournalError> {
        loop {
            let mut has_read = false;
            if !self.is_over && self.publisher.has_room() {
                match self.read()? {
                    Progress::Some => has_read = true,
                    Progress::Nothing => {}
                    Progress::Unsure => return Ok(Ended::Unsure),
                }
            }
            // Sends what was read, too.
            while let Some(outcome) = self.publisher.next().now_or_never() {
                self.take(outcome);
            }
            if self.reported_at.elapsed() >= REPORT_INTERVAL {
                self.report();
            }
            let is_complete = self.is_over && self.publisher.is_idle();
            if is_complete || self.noted_at.elapsed() >= NOTE_INTERVAL {
                self.note(is_complete);
            }
            if is_complete {
                return Ok(Ended::Complete);
            }
            if has_read {
                yield_now().await;
                continue;
            }
            let pause = match (self.replicated.has_reports(), self.chunker.has_calls()) {
                (true, _) => REPORT_INTERVAL,
                (false, true) => PAUSES.0,
                (false, false) => PAUSES.1,
            };
            tokio::select! {
                outcome = self.publisher.next() => self.take(outcome),
                () = sleep(pause) => {}
            }
        }
    }

    /// Reads a little, as far as it is durable.
    fn read(&mut self) -> Result<Progress, JournalError> {
        // A shard of this node grows until the node has ended.
        let grows = self.is_own && !self.shared.is_stopping();
        if grows {
            let (run, shard) = &self.name;
            let durable = self.shared.shards.durable_lsn(run, *shard).unwrap_or_default();
            // Without this a look would read the disk, to find nothing.
            if durable <= self.read_to.max(self.batches.lsn()) {
                return Ok(self.look_at_chunks());
            }
            self.batches.set_durable(durable)?;
        }
        match self.batches.advance()? {
            Step::Segment => {
                if let Some(segment) = self.batches.segment() {
                    let (id, start) = (segment.id, segment.start);
                    self.segments.push_back((id, start));
                    // What retention removed after it was handed over is not missing.
                    if let Some(missing) = self.missing.take().filter(|_| start > self.next()) {
                        self.tell_missing(missing);
                    }
                }
            }
            Step::Batch => {
                let Some(batch) = self.batches.batch() else { return Ok(Progress::Some) };
                if grows && batch.end() > self.batches.durable_lsn() {
                    return Ok(Progress::Unsure);
                }
                let (end, from) = (batch.end(), self.from);
                self.sealed_at = batch.sealed_at.unwrap_or(self.sealed_at);
                for found in self.batches.records() {
                    let is_known = found.lsn < from || found.header.batch == 0;
                    self.chunker.handle_record(&found.header, found.payload, found.lsn, is_known);
                }
                self.chunker.handle_time(self.sealed_at);
                self.read_to = self.read_to.max(end);
            }
            Step::SegmentEnd => {
                for (path, damage) in self.batches.take_damages() {
                    tracing::warn!(
                        "the journal is damaged, and the rest is handed over: {}: {damage}",
                        path.display()
                    );
                }
            }
            Step::Missing(missing) => self.missing = Some(missing),
            Step::Pending if self.is_own => return Ok(Progress::Nothing),
            Step::Pending => return Ok(Progress::Unsure),
            Step::End if grows => return Ok(Progress::Nothing),
            Step::End => {
                // A cursor beyond the end says that its events were handed over.
                if self.from <= self.read_to {
                    self.chunker.handle_end(self.sealed_at, self.read_to);
                }
                self.is_over = true;
            }
        }
        self.push();
        Ok(Progress::Some)
    }

    /// A shard without new records may have chunks that have waited long enough.
    fn look_at_chunks(&mut self) -> Progress {
        if self.looked_at.elapsed() < NOTE_INTERVAL {
            return Progress::Nothing;
        }
        self.looked_at = Instant::now();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixMicros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        self.chunker.handle_time(now.max(self.sealed_at));
        self.push();
        Progress::Nothing
    }

    fn tell_missing(&mut self, missing: MissingSegments) {
        self.chunker.handle_missing(missing.reason);
        let MissingSegments { first, last, reason } = missing;
        let dir = self.dir.display();
        match reason {
            GapReason::Expired => tracing::error!(
                "retention was faster than the message engine: segments {first} to {last} of {dir} \
                 were not handed over"
            ),
            _ => tracing::error!(
                "segments {first} to {last} of {dir} are not there, and were not handed over"
            ),
        }
    }

    /// Gives new messages to the publisher.
    fn push(&mut self) {
        while let Some(message) = self.chunker.poll_message() {
            if self.reports() {
                self.replicated.push(self.publisher.next_number(), &message);
            }
            self.publisher.push(message);
        }
    }

    /// Everything before this position was read, by this or an earlier start.
    fn next(&self) -> Lsn {
        self.read_to.max(self.from)
    }

    fn reports(&self) -> bool {
        self.is_own && self.shared.config.reports
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged(number, message) => {
                let (stream, size) = (self.publisher.stream_of(&message), message.payload().len());
                self.shared.view.acknowledge_in(&stream, size as u64);
                if self.reports() {
                    self.replicated.acknowledge(number, &message);
                }
            }
            Outcome::Failed { stream, told, .. } => self.shared.view.fail_in(&stream, &told),
        }
    }

    /// Tells the shard what the engine has.
    fn report(&mut self) {
        if !self.replicated.has_reports() {
            return;
        }
        self.reported_at = Instant::now();
        let frames = self.replicated.take_reports();
        if let Err(refused) = self.shared.shards.report_replicated(self.name.1, frames) {
            self.replicated.put_back(refused);
        }
    }

    /// Notes how far the engine is.
    fn note(&mut self, is_complete: bool) {
        self.noted_at = Instant::now();
        let next = self.next();
        let handed = self.publisher.oldest().map_or(next, |oldest| oldest.min(next));
        let mut position = self.chunker.position(handed);
        if is_complete && self.from <= self.read_to {
            // Beyond the end: see `read`.
            position = Lsn(next.0 + 1);
        }
        self.shared.set_waiting(self.name, self.publisher.waiting());
        // Work that begins again at the cursor reports nothing from before it. So the shard must
        // know first. Once it has ended, it takes every report.
        self.report();
        if self.replicated.has_reports() {
            return;
        }
        self.shared.note(self.name, position, handed);
        if let Some(pins) = &self.shared.config.pins {
            while self.segments.get(1).is_some_and(|(_, start)| *start <= position) {
                self.segments.pop_front();
            }
            if let Some((first, _)) = self.segments.front() {
                pins.raise(&self.dir, *first);
            }
        }
        let resent = self.publisher.stats().resent;
        self.shared.view.add_resent(resent - std::mem::replace(&mut self.resent, resent));
    }
}
