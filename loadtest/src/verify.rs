//! `--verify`: the journal holds every promised byte, and no frame of this run that was not sent.
//!
//! The reader of the journal is our own ([`mod@format`], [`segment`]), written from the description
//! of the format. So it finds a mistake that the node's writer and reader share. Each shard is read
//! in order by one thread. The audio that was sent is not kept: it is made again from its numbers.
//!
//! Audio that retention has removed is *expired*, not missing. The journal tells which that is.
//! The oldest segment of the shard is not its first one. The frames come before the first frame
//! that is present, and were due before the first batch of that segment was sealed. All other
//! absent frames are missing.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::audio::Audio;
use crate::ledger::{Entry, Ledger};
use crate::stats::Tally;

mod epochs;
mod format;
mod ranges;
mod segment;
mod window;

use epochs::{CallEpoch, CallEpochs, Expected, OLDER, Owner};
use segment::Segment;
use window::Window;

/// Bytes read at once: some batches.
const WINDOW_SIZE: usize = 4 << 20;

/// Examples kept of each kind of fault.
const EXAMPLES_MAX: usize = 5;

/// What is wrong, by kind.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<String, Tally>);

impl Faults {
    /// Counts a fault. `what` is called only if the example is kept.
    fn add(&mut self, kind: &str, what: impl FnOnce() -> String) {
        if !self.0.contains_key(kind) {
            self.0.insert(kind.to_owned(), Tally::default());
        }
        let Some(tally) = self.0.get_mut(kind) else { return };
        tally.count += 1;
        if tally.examples.len() < EXAMPLES_MAX {
            tally.examples.push(what());
        }
    }

    fn merge(&mut self, other: Self) {
        for (kind, part) in other.0 {
            let sum = self.0.entry(kind).or_default();
            sum.count += part.count;
            let room = EXAMPLES_MAX.saturating_sub(sum.examples.len());
            sum.examples.extend(part.examples.into_iter().take(room));
        }
    }
}

/// The result of a verification. All frames are those of this run.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Verification {
    /// Where the journal is.
    pub data_dir: PathBuf,
    /// False if frames of different calls can be equal (`sine`, WAV): two that have changed places
    /// may then go unnoticed.
    pub audio_is_distinct: bool,
    /// Frames that an ack or `stopped` promised.
    pub frames_promised: u64,
    /// Their bytes.
    pub bytes_promised: u64,
    /// Promised frames that are there, whole and byte for byte.
    pub frames_equal: u64,
    /// Their bytes.
    pub bytes_equal: u64,
    /// Promised frames that retention has removed.
    pub frames_expired: u64,
    /// Promised frames that are not there.
    pub frames_missing: u64,
    /// Frames that differ from what was sent, promised or not.
    pub frames_different: u64,
    /// Frames that were never sent.
    pub frames_unexpected: u64,
    /// Frames that were sent, not promised, and are there.
    pub frames_beyond: u64,
    /// What is wrong. Damage is listed here; it fails the run only if a promised frame is missing.
    pub faults: Faults,
    /// Segments that were found.
    pub segments: u64,
    /// Segments that ended before the run began, and were not read.
    pub segments_older: u64,
    /// Bytes read of them.
    pub bytes_read: u64,
    /// Length of the verification.
    pub seconds: f64,
    /// Bytes read a second.
    pub gigabytes_per_second: f64,
}

impl Verification {
    /// True if all promised frames that have not expired are there, and at least one is.
    pub fn holds(&self) -> bool {
        let bad = self.frames_missing + self.frames_different + self.frames_unexpected;
        bad == 0 && self.frames_equal > 0
    }
}

/// A shard of a journal: its segments, open and locked, and the calls in them.
struct Shard<'a> {
    segments: Vec<Segment>,
    calls: CallEpochs<'a>,
    bytes_read: u64,
    segments_older: u64,
}

/// Checks before the run that a directory can hold a journal.
pub fn check(data_dir: &Path) -> Result<(), String> {
    let runs = runs(data_dir)
        .map_err(|error| format!("--verify: cannot read {}: {error}", data_dir.display()))?;
    if runs.is_empty() {
        return Err(format!(
            "--verify: {} holds no journal (no run-… directory); give the node's --data-dir",
            data_dir.display()
        ));
    }
    Ok(())
}

/// Reads the journal and compares it with what was sent.
pub fn verify(data_dir: &Path, ledger: &Ledger, audio: &Audio, threads: usize) -> Verification {
    let begin = Instant::now();
    let expected = Expected::new(ledger, audio);
    let mut faults = Faults::default();
    let mut shards = open_shards(data_dir, &expected, &mut faults);
    let sizes = shards.iter().flat_map(|shard| &shard.segments).map(Segment::size);
    let progress = progress(sizes.sum());
    read_all(&mut shards, threads, &progress, ledger.audio.started_at);
    progress.finish_and_clear();
    let mut verification = Verification {
        data_dir: data_dir.to_owned(),
        audio_is_distinct: audio.is_distinct(),
        segments: shards.iter().map(|shard| shard.segments.len() as u64).sum(),
        segments_older: shards.iter().map(|shard| shard.segments_older).sum(),
        bytes_read: shards.iter().map(|shard| shard.bytes_read).sum(),
        ..Verification::default()
    };
    judge(&mut verification, &expected, &mut shards, &mut faults);
    for shard in shards {
        faults.merge(shard.calls.faults);
    }
    verification.faults = faults;
    verification.seconds = begin.elapsed().as_secs_f64();
    verification.gigabytes_per_second = verification.bytes_read as f64 / 1e9 / verification.seconds;
    verification
}

/// The runs in a data directory: their numbers and directories.
fn runs(data_dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        // run-<boot>-<started_at>-<pid>; the middle one is its number.
        let parts: Vec<&str> = name.to_str().unwrap_or_default().split('-').collect();
        if let ["run", _, started_at, _] = parts[..]
            && let Ok(number) = started_at.parse()
        {
            runs.push((number, entry.path()));
        }
    }
    runs.sort_unstable();
    Ok(runs)
}

/// Opens all shards of all runs. Locks are held until the verification is done: retention does not
/// remove a locked segment.
fn open_shards<'a>(
    data_dir: &Path,
    expected: &'a Expected<'a>,
    faults: &mut Faults,
) -> Vec<Shard<'a>> {
    let mut shards = Vec::new();
    let mut unreadable = |path: &Path, error: std::io::Error| {
        faults.add("unreadable", || format!("{}: {error}", path.display()));
    };
    let runs = runs(data_dir).unwrap_or_else(|error| {
        unreadable(data_dir, error);
        Vec::new()
    });
    for (run, directory) in runs {
        let entries =
            match fs::read_dir(&directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                Ok(entries) => entries,
                Err(error) => {
                    unreadable(&directory, error);
                    continue;
                }
            };
        for entry in entries {
            let name = entry.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix("shard-")?.parse::<u16>().ok());
            let Some(number) = number else { continue };
            match segment::open_all(&entry.path(), run, number) {
                Ok(segments) => shards.push(Shard {
                    segments,
                    calls: CallEpochs::new(expected),
                    bytes_read: 0,
                    segments_older: 0,
                }),
                Err(error) => unreadable(&entry.path(), error),
            }
        }
    }
    shards
}

fn progress(bytes: u64) -> ProgressBar {
    let terminal = std::io::stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style =
        ProgressStyle::with_template("verify {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Reads the shards: one thread for each, `threads` at a time.
fn read_all(shards: &mut [Shard<'_>], threads: usize, progress: &ProgressBar, started_at: u64) {
    let next = AtomicUsize::new(0);
    let shards: Vec<_> = shards.iter_mut().map(std::sync::Mutex::new).collect();
    let work = || {
        let mut window = Window::new(WINDOW_SIZE);
        while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Each is taken once.
            if let Ok(mut shard) = shard.lock() {
                shard.read(&mut window, progress, started_at);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(shards.len()) {
            scope.spawn(work);
        }
        work();
    });
}

impl Shard<'_> {
    fn read(&mut self, window: &mut Window, progress: &ProgressBar, started_at: u64) {
        let mut peek = Window::new(format::BLOCK_SIZE);
        let mut sealed_at = |segment: &Segment| segment.first_sealed_at(&mut peek).ok().flatten();
        for (place, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(place + 1);
            if let Some(next) = next.filter(|next| next.id != segment.id + 1) {
                let missing =
                    format!("segments {} to {} are not there", segment.id + 1, next.id - 1);
                self.calls.faults.add("damaged", || format!("{}: {missing}", next.path.display()));
            }
            if let Some(Err(fault)) = &segment.header {
                let what = || {
                    format!("{} at 0: {fault}; the segment cannot be read", segment.path.display())
                };
                self.calls.faults.add("damaged", what);
            }
            // All of it was sealed before the run began: it holds nothing of this run.
            if next
                .and_then(&mut sealed_at)
                .is_some_and(|sealed_at| sealed_at.saturating_add(OLDER) < started_at)
            {
                self.calls.first_sealed_at = self.calls.first_sealed_at.or(sealed_at(segment));
                self.segments_older += 1;
                progress.inc(segment.size());
                continue;
            }
            match segment.scan(end_of(&self.segments, place), window, &mut self.calls) {
                Ok(bytes) => self.bytes_read += bytes,
                Err(error) => self
                    .calls
                    .faults
                    .add("unreadable", || format!("{}: {error}", segment.path.display())),
            }
            progress.inc(segment.size());
        }
    }

    /// If retention has removed segments: audio from before this moment may be gone. Unix time,
    /// microseconds.
    fn horizon(&self) -> Option<u64> {
        let is_cut = self.segments.first().is_some_and(|segment| segment.id > 1);
        self.calls.first_sealed_at.filter(|_| is_cut)
    }
}

/// Where a segment ended, if a later one says so.
fn end_of(segments: &[Segment], place: usize) -> Option<u64> {
    let header = |segment: &Segment| segment.header.and_then(Result::ok);
    let this = header(&segments[place])?;
    let later = || segments[place + 1..].iter().filter_map(header);
    if let Some(next) = later().find(|next| next.predecessor == this.uuid) {
        return Some(next.predecessor_end);
    }
    // The next segment names one before this one, or none as its predecessor. So nothing of this
    // one was durable, and nothing in it counts.
    let named = later().next()?.predecessor;
    let is_passed_over = named == format::Uuid::default()
        || segments[..place].iter().filter_map(header).any(|one| one.uuid == named);
    is_passed_over.then_some(this.start)
}

/// Counts the frames of each connection.
fn judge(
    verification: &mut Verification,
    expected: &Expected<'_>,
    shards: &mut [Shard<'_>],
    faults: &mut Faults,
) {
    let horizons: Vec<Option<u64>> = shards.iter().map(Shard::horizon).collect();
    let horizon_max = horizons.iter().flatten().max().copied();
    let entries = expected.ledger.entries();
    let mut found: Vec<Option<(&CallEpoch, Option<u64>)>> = vec![None; entries.len()];
    // In order of time: where several epochs could be several connections of a call, the first
    // epoch is the first connection.
    let mut epochs: Vec<_> = shards
        .iter()
        .zip(&horizons)
        .flat_map(|(shard, horizon)| {
            shard.calls.epochs.iter().map(move |(key, found)| (key.1, found, *horizon))
        })
        .collect();
    epochs.sort_unstable_by_key(|(epoch, ..)| *epoch);
    for (_, epoch, horizon) in epochs {
        let Owner::Ours(call) = epoch.owner else { continue };
        verification.frames_different += epoch.different.count_to(u64::MAX);
        verification.frames_unexpected += epoch.unexpected.count_to(u64::MAX);
        if epoch.first_seq == 0 {
            continue; // no audio
        }
        match epoch.candidates.iter().find(|place| found[**place].is_none()) {
            Some(place) => found[*place] = Some((epoch, horizon)),
            None => {
                let count = epoch.equal.count_to(u64::MAX);
                verification.frames_unexpected += count;
                let name = expected.name(call);
                faults.add("unexpected", || {
                    format!("{name}: a second copy of one connection, with {count} frames")
                });
            }
        }
    }
    let size = expected.audio.payload_size() as u64;
    for (entry, found) in entries.iter().zip(found) {
        let nothing = CallEpoch::default();
        let (epoch, horizon) = found.unwrap_or((&nothing, horizon_max));
        judge_entry(verification, expected, entry, (epoch, horizon), faults);
    }
    verification.frames_promised = expected.ledger.promised();
    verification.bytes_promised = verification.frames_promised * size;
    verification.bytes_equal = verification.frames_equal * size;
}

fn judge_entry(
    verification: &mut Verification,
    expected: &Expected<'_>,
    entry: &Entry,
    (epoch, horizon): (&CallEpoch, Option<u64>),
    faults: &mut Faults,
) {
    let audio = &expected.ledger.audio;
    let name = expected.name(entry.call);
    let equal = epoch.equal.count_to(entry.promised);
    verification.frames_equal += equal;
    verification.frames_beyond += epoch.equal.count_to(entry.sent) - equal;
    // The first frame that was due after the horizon: it and later ones cannot have expired.
    let live_seq = horizon.map_or(1, |horizon| {
        let first_due = audio.started_at + entry.first_due / 1_000;
        (horizon + 1).saturating_sub(first_due).div_ceil(audio.interval / 1_000) + 1
    });
    let present_seq = if epoch.first_seq == 0 { u64::MAX } else { epoch.first_seq };
    for (first, last) in epoch.equal.gaps_to(entry.promised) {
        let expired_to = if first == 1 { last.min(live_seq.min(present_seq) - 1) } else { 0 };
        let expired = (expired_to + 1).saturating_sub(first);
        verification.frames_expired += expired;
        let (first, mut missing) = (first + expired, (last + 1).saturating_sub(first + expired));
        // These are counted as different.
        missing -= (first..=last).filter(|seq| epoch.different.contains(*seq)).count() as u64;
        verification.frames_missing += missing;
        if missing > 0 {
            let connection = format!("its connection after frame {}", entry.frames_before);
            let what = || {
                format!(
                    "{name}: {missing} of frames {first} to {last} of {connection}; it was \
                     promised up to {}",
                    entry.promised
                )
            };
            faults.add("missing", what);
        }
    }
    if let Some(end) = epoch.end
        && (end.frames > entry.sent
            || end.frames < entry.promised
            || end.bytes != end.frames * audio.frame_size as u64)
    {
        verification.frames_different += 1;
        let what = || {
            let (sent, promised) = (entry.sent, entry.promised);
            format!(
                "{name}: its end record says {end:?}; {sent} frames were sent and {promised} \
                 promised"
            )
        };
        faults.add("different", what);
    }
}
