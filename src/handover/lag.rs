//! How much of the journal a sink lacks, and since when, measured from the journal's end.
//!
//! For the shards of this node the end is known from memory, so the measure is right while the sink
//! fails and nothing is read. For runs that ended it is the size of their files.

#![forbid(unsafe_code)]

use super::cursor::ShardName;
use crate::archive::layout::RunName;
use crate::archive::reader::{JournalError, ShardJournal};
use crate::constants::BLOCK_SIZE;
use crate::format::Lsn;
use crate::metrics::Counters;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the end of a shard is noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Notes of a shard. When there are more, every second one is forgotten: then a lag of hours is
/// told a little less exactly.
const NOTES_MAX: usize = 1_024;

/// The shards of this node: how far the journal of each is durable.
#[derive(Clone, Debug)]
pub struct OwnShards {
    run: RunName,
    /// By shard.
    counters: Vec<Arc<Counters>>,
}

impl OwnShards {
    /// The shards of a run with these counters.
    pub(crate) fn new(run: RunName, counters: Vec<Arc<Counters>>) -> OwnShards {
        OwnShards { run, counters }
    }

    fn names(&self) -> impl Iterator<Item = ShardName> {
        (0..self.counters.len() as u16).map(|shard| (self.run, shard))
    }

    /// Position up to which the journal of a shard is durable; `None` if this node does not write
    /// it.
    fn end(&self, (run, shard): &ShardName) -> Option<Lsn> {
        let counters = self.counters.get(usize::from(*shard)).filter(|_| *run == self.run)?;
        Some(Lsn(counters.journal_position_bytes.read()))
    }
}

/// Measures the lag of a sink.
#[derive(Debug, Default)]
pub(crate) struct LagMeter {
    own: Option<OwnShards>,
    shards: BTreeMap<ShardName, ShardLag>,
}

#[derive(Debug, Default)]
struct ShardLag {
    /// Position before which the sink has everything.
    position: Lsn,
    /// When an end was reached in the journal of this node, oldest first. The first one is after
    /// the position.
    notes: VecDeque<(Instant, u64)>,
    /// For a run of another process.
    files: Option<Files>,
}

/// What the files of a shard held when they were looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    /// Bytes after the position.
    bytes: u64,
    /// The position at that time.
    from: Lsn,
    /// Journal time of the first segment that the sink lacks a part of.
    since: SystemTime,
    looked_at: Instant,
}

impl LagMeter {
    /// With the ends of this node's shards. The sink has nothing of them yet.
    pub(crate) fn new(own: Option<OwnShards>) -> LagMeter {
        let names = own.iter().flat_map(OwnShards::names);
        let shards = names.map(|name| (name, ShardLag::default())).collect();
        LagMeter { own, shards }
    }

    /// The sink has everything before this position.
    pub(crate) fn set_position(&mut self, name: ShardName, position: Lsn) {
        let shard = self.shards.entry(name).or_default();
        shard.position = position.max(shard.position);
    }

    /// When the files of a shard were looked at last; `None`: never, or it is one of this node's.
    pub(crate) fn looked_at(&self, name: &ShardName) -> Option<Instant> {
        self.shards.get(name)?.files.map(|files| files.looked_at)
    }

    /// Whether the journal of a shard is written by this node.
    pub(crate) fn is_own(&self, name: &ShardName) -> bool {
        self.own.as_ref().is_some_and(|own| own.end(name).is_some())
    }

    /// Notes what the files of a shard hold that another process writes or has written.
    pub(crate) fn set_files(&mut self, name: ShardName, files: Files) {
        self.shards.entry(name).or_default().files = Some(files);
    }

    /// The sink has everything of this shard, and nothing more will come.
    pub(crate) fn end(&mut self, name: &ShardName) {
        self.shards.remove(name);
    }

    /// Forgets shards that are not in the data directory any more.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&ShardName) -> bool) {
        let own = &self.own;
        let is_own = |name: &ShardName| own.as_ref().is_some_and(|own| own.end(name).is_some());
        self.shards.retain(|name, _| is_there(name) || is_own(name));
    }

    /// The same for positions and ends that the caller knows.
    pub(crate) fn measure_ends(
        &mut self,
        now: Instant,
        ends: impl Iterator<Item = (ShardName, Lsn, Lsn)>,
    ) -> (u64, Duration) {
        ends.fold((0, Duration::ZERO), |(bytes, oldest), (name, position, end)| {
            self.set_position(name, position);
            let shard = self.shards.entry(name).or_default();
            let (lacking, age) = shard.measure(now, end);
            (bytes + lacking, oldest.max(age))
        })
    }

    /// Bytes that the sink lacks, and the age of the oldest of them.
    pub(crate) fn measure(&mut self, now: Instant) -> (u64, Duration) {
        let (mut bytes, mut oldest) = (0, Duration::ZERO);
        for (name, shard) in &mut self.shards {
            let end = self.own.as_ref().and_then(|own| own.end(name));
            let (lacking, age) = match (end, shard.files) {
                (Some(end), _) => shard.measure(now, end),
                (None, Some(files)) => files.measure(shard.position),
                (None, None) => (0, Duration::ZERO),
            };
            bytes += lacking;
            oldest = oldest.max(age);
        }
        (bytes, oldest)
    }
}

impl ShardLag {
    /// The journal of a shard of this node is durable up to `end`.
    fn measure(&mut self, now: Instant, end: Lsn) -> (u64, Duration) {
        let notes = &mut self.notes;
        let is_due = notes
            .back()
            .is_none_or(|(at, noted)| *noted < end.0 && now.duration_since(*at) >= NOTE_INTERVAL);
        if is_due && end > self.position {
            notes.push_back((now, end.0));
        }
        if notes.len() > NOTES_MAX {
            let mut place = 0;
            notes.retain(|_| {
                place += 1;
                place % 2 == 1
            });
        }
        // The first end that the sink lacks tells how old the oldest byte is.
        while notes.front().is_some_and(|(_, noted)| *noted <= self.position.0) {
            notes.pop_front();
        }
        let bytes = end.0.saturating_sub(self.position.0);
        let age = notes.front().map_or(Duration::ZERO, |(at, _)| now.duration_since(*at));
        // The header of a segment that has just begun is no audio.
        if bytes <= BLOCK_SIZE as u64 { (0, Duration::ZERO) } else { (bytes, age) }
    }
}

impl Files {
    /// Looks at the files of a shard from a position on. Reads a header, and no audio.
    pub(crate) fn look(shard: &ShardJournal, from: Lsn) -> Result<Files, JournalError> {
        let first = place_of(shard, from)?.unwrap_or(0);
        let sizes = (first..shard.segment_count())
            .map(|place| std::fs::metadata(shard.path(place)).map_or(0, |file| file.len()));
        let header = shard.header(first)?;
        let taken = header.map_or(0, |header| from.0.saturating_sub(header.start.0));
        let since = header.map(|header| UNIX_EPOCH + Duration::from_micros(header.created_at.0));
        Ok(Files {
            bytes: sizes.sum::<u64>().saturating_sub(taken),
            from,
            since: since.unwrap_or_else(SystemTime::now),
            looked_at: Instant::now(),
        })
    }

    fn measure(&self, position: Lsn) -> (u64, Duration) {
        let bytes = self.bytes.saturating_sub(position.0.saturating_sub(self.from.0));
        let age =
            if bytes == 0 { Duration::ZERO } else { self.since.elapsed().unwrap_or_default() };
        (bytes, age)
    }
}

/// The place of the segment that holds a position. `None`: all of them are after it.
fn place_of(shard: &ShardJournal, position: Lsn) -> Result<Option<usize>, JournalError> {
    let (mut low, mut high) = (0, shard.segment_count());
    while low < high {
        let middle = low + (high - low) / 2;
        match shard.start(middle)? {
            Some(start) if start <= position => low = middle + 1,
            // A bad header: an earlier place does no harm.
            _ => high = middle,
        }
    }
    Ok(low.checked_sub(1))
}

/// The number of the first segment that a sink has not taken whole, if it has everything before a
/// position. `None`: it has taken none.
pub(crate) fn first_lacking(
    shard: &ShardJournal,
    position: Lsn,
) -> Result<Option<u64>, JournalError> {
    let Some(place) = place_of(shard, position)? else { return Ok(None) };
    let is_taken = shard.place(place)?.end.is_some_and(|end| end <= position);
    Ok(shard.id(place).map(|id| id + u64::from(is_taken)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_shard_is_the_age_of_the_oldest_byte_that_the_sink_lacks() {
        const K: u64 = 100_000;
        let (mut shard, start) = (ShardLag::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let seconds = Duration::from_secs;
        assert_eq!(shard.measure(at(0), Lsn(K)), (K, seconds(0)));
        assert_eq!(shard.measure(at(10), Lsn(2 * K)), (2 * K, seconds(10)));
        assert_eq!(shard.measure(at(20), Lsn(3 * K)), (3 * K, seconds(20)));
        shard.position = Lsn(K);
        assert_eq!(shard.measure(at(21), Lsn(3 * K)), (2 * K, seconds(11)));
        shard.position = Lsn(K + K / 2);
        assert_eq!(shard.measure(at(22), Lsn(3 * K)), (K + K / 2, seconds(12)));
        shard.position = Lsn(3 * K);
        assert_eq!(shard.measure(at(23), Lsn(3 * K)), (0, seconds(0)));
        assert_eq!(shard.measure(at(99), Lsn(3 * K + 4096)), (0, seconds(0)), "a header");
        assert_eq!(shard.measure(at(100), Lsn(4 * K)), (K, seconds(1)));
    }

    #[test]
    fn an_outage_of_days_takes_no_more_memory() {
        let (mut shard, start) = (ShardLag::default(), Instant::now());
        for second in 0..100_000 {
            let (bytes, age) =
                shard.measure(start + Duration::from_secs(second), Lsn((second + 1) * 10_000));
            assert_eq!((bytes, age), ((second + 1) * 10_000, Duration::from_secs(second)));
        }
        assert!(shard.notes.len() <= NOTES_MAX);
    }

    #[test]
    fn files_count_until_their_position_is_reached() {
        let since = SystemTime::now() - Duration::from_secs(60);
        let files = Files { bytes: 500, from: Lsn(100), since, looked_at: Instant::now() };
        let (bytes, age) = files.measure(Lsn(300));
        assert!(bytes == 300 && age >= Duration::from_secs(60));
        assert_eq!(files.measure(Lsn(900)), (0, Duration::ZERO));
    }
}
