//! `--verify`: every promised byte is in the node's journal, and nothing of this run's calls that was not sent.
//!
//! Reads the journal with a reader of its own ([`mod@format`], [`segment`]), written from the format's description: a mistake
//! that the node's writer and reader share shows here. Segments are streamed in order, one thread and one window a shard;
//! what was sent is made anew from its numbers, not kept.
//!
//! Audio that retention has removed is *expired*, not missing. The journal itself says so: the first segment that a shard
//! still has is not its first, and the frames are those before the first one present, due before that segment's first batch
//! was sealed. Whatever else is not there is missing.

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

mod format;
mod ranges;
mod segment;
mod turns;
mod window;

use segment::Segment;
use turns::{Expected, OLDER, Owner, Turn, Turns};
use window::Window;

/// Read at once: some batches.
const WINDOW_SIZE: usize = 4 << 20;

/// Examples kept of each kind of fault.
const EXAMPLES_MAX: usize = 5;

/// What is wrong, by kind.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<String, Tally>);

impl Faults {
    /// Counts one; what it says is only made up where it is kept.
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

    /// Kinds and tallies.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tally)> {
        self.0.iter().map(|(kind, tally)| (kind.as_str(), tally))
    }
}

/// What a verification found. Frames are this run's.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Verification {
    /// Where the journal is.
    pub data_dir: PathBuf,
    /// False where the audio does not tell calls and frames apart (`sine`, WAV): an exchange of two may go unseen.
    pub audio_is_distinct: bool,
    /// Frames that an ack or `stopped` promised.
    pub frames_promised: u64,
    /// Their bytes.
    pub bytes_promised: u64,
    /// Of these, those that are there, whole and byte for byte.
    pub frames_equal: u64,
    /// Their bytes.
    pub bytes_equal: u64,
    /// Of these, those that retention has removed.
    pub frames_expired: u64,
    /// Of these, those that are not there.
    pub frames_missing: u64,
    /// Frames that are there and not what was sent, promised or not.
    pub frames_different: u64,
    /// Frames that are there and were never sent.
    pub frames_unexpected: u64,
    /// Sent, not promised, and there all the same.
    pub frames_beyond: u64,
    /// What is wrong. Damage of which nothing promised is missing is listed, and fails nothing.
    pub faults: Faults,
    /// Segments looked at.
    pub segments: u64,
    /// Of these, those that ended before the run began, and were not read.
    pub segments_older: u64,
    /// Bytes read of them.
    pub bytes_read: u64,
    /// How long it took.
    pub seconds: f64,
    /// Read in a second.
    pub gigabytes_per_second: f64,
}

impl Verification {
    /// True if all that was promised and has not expired is there, and something was.
    pub fn holds(&self) -> bool {
        let bad = self.frames_missing + self.frames_different + self.frames_unexpected;
        bad == 0 && self.frames_equal > 0
    }

    /// The lines of the table.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        use std::fmt::Write;
        writeln!(
            out,
            "verify     {} frames ({} bytes) promised: {} found and equal ({} bytes), {} expired, {} missing; \
             {} different, {} unexpected, {} beyond the last promise",
            self.frames_promised,
            self.bytes_promised,
            self.frames_equal,
            self.bytes_equal,
            self.frames_expired,
            self.frames_missing,
            self.frames_different,
            self.frames_unexpected,
            self.frames_beyond,
        )?;
        let (segments, seconds, rate) = (self.segments - self.segments_older, self.seconds, self.gigabytes_per_second);
        writeln!(out, "             {segments} segments, {} bytes in {seconds:.1} s, {rate:.2} GB/s", self.bytes_read)?;
        if !self.audio_is_distinct {
            writeln!(
                out,
                "             this audio repeats itself: frames or calls exchanged may go unseen; --audio prng shows them"
            )?;
        }
        if self.frames_equal == 0 {
            writeln!(out, "             nothing was verified: is {} this node's data directory?", self.data_dir.display())?;
        }
        for (kind, tally) in self.faults.iter() {
            writeln!(out, "verify     {kind}: {}", tally.count)?;
            for example in &tally.examples {
                writeln!(out, "             {example}")?;
            }
        }
        Ok(())
    }
}

/// A shard of a run's journal: its segments, open and locked, and what is in them.
struct Shard<'a> {
    segments: Vec<Segment>,
    turns: Turns<'a>,
    bytes_read: u64,
    segments_older: u64,
}

/// Whether a directory can hold a journal: asked before the run.
pub fn check(data_dir: &Path) -> Result<(), String> {
    let runs = runs(data_dir).map_err(|error| format!("--verify: cannot read {}: {error}", data_dir.display()))?;
    if runs.is_empty() {
        return Err(format!(
            "--verify: {} holds no journal (no run-… directory); give the node's --data-dir",
            data_dir.display()
        ));
    }
    Ok(())
}

/// Reads the journal and holds it against what was sent.
pub fn verify(data_dir: &Path, ledger: &Ledger, audio: &Audio, threads: usize) -> Verification {
    let begin = Instant::now();
    let expected = Expected::new(ledger, audio);
    let mut faults = Faults::default();
    let mut shards = open_shards(data_dir, &expected, &mut faults);
    let sizes = shards.iter().flat_map(|shard| &shard.segments).map(Segment::size);
    let progress = progress(sizes.sum());
    read_all(&mut shards, threads, &progress, ledger.speech.started_at);
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
        faults.merge(shard.turns.faults);
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

/// All shards of all runs. Locks are held until the verification is done: retention passes locked segments over.
fn open_shards<'a>(data_dir: &Path, expected: &'a Expected<'a>, faults: &mut Faults) -> Vec<Shard<'a>> {
    let mut shards = Vec::new();
    let mut unreadable = |path: &Path, error: std::io::Error| {
        faults.add("unreadable", || format!("{}: {error}", path.display()));
    };
    let runs = runs(data_dir).unwrap_or_else(|error| {
        unreadable(data_dir, error);
        Vec::new()
    });
    for (run, directory) in runs {
        let entries = match fs::read_dir(&directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => {
                unreadable(&directory, error);
                continue;
            }
        };
        for entry in entries {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("shard-")?.parse::<u16>().ok());
            let Some(number) = number else { continue };
            match segment::open_all(&entry.path(), run, number) {
                Ok(segments) => {
                    shards.push(Shard { segments, turns: Turns::new(expected), bytes_read: 0, segments_older: 0 })
                }
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
    let style = ProgressStyle::with_template("verify {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Reads the shards, each by one thread.
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
            let behind = self.segments.get(place + 1);
            if let Some(behind) = behind.filter(|behind| behind.id != segment.id + 1) {
                let missing = format!("segments {} to {} are not there", segment.id + 1, behind.id - 1);
                self.turns.faults.add("damaged", || format!("{}: {missing}", behind.path.display()));
            }
            if let Some(Err(fault)) = &segment.header {
                let what = || format!("{} at 0: {fault}; nothing in it can be read", segment.path.display());
                self.turns.faults.add("damaged", what);
            }
            // Whatever is in it was sealed before the run began: nothing there is this run's.
            if behind.and_then(&mut sealed_at).is_some_and(|sealed_at| sealed_at.saturating_add(OLDER) < started_at) {
                self.turns.first_sealed_at = self.turns.first_sealed_at.or(sealed_at(segment));
                self.segments_older += 1;
                progress.inc(segment.size());
                continue;
            }
            match segment.scan(end_of(&self.segments, place), window, &mut self.turns) {
                Ok(bytes) => self.bytes_read += bytes,
                Err(error) => self.turns.faults.add("unreadable", || format!("{}: {error}", segment.path.display())),
            }
            progress.inc(segment.size());
        }
    }

    /// Retention has removed segments of it: audio that came before this moment may be gone. Unix time, microseconds.
    fn horizon(&self) -> Option<u64> {
        let is_cut = self.segments.first().is_some_and(|segment| segment.id > 1);
        self.turns.first_sealed_at.filter(|_| is_cut)
    }
}

/// Where a segment ended, if one behind it says so.
fn end_of(segments: &[Segment], place: usize) -> Option<u64> {
    let header = |segment: &Segment| segment.header.and_then(Result::ok);
    let this = header(&segments[place])?;
    let behind = || segments[place + 1..].iter().filter_map(header);
    if let Some(next) = behind().find(|next| next.predecessor == this.uuid) {
        return Some(next.predecessor_end);
    }
    // One behind it that names one in front of it, or none: nothing of this one was durable, and nothing in it counts.
    let named = behind().next()?.predecessor;
    let is_passed_over =
        named == format::Uuid::default() || segments[..place].iter().filter_map(header).any(|one| one.uuid == named);
    is_passed_over.then_some(this.start)
}

/// Counts, connection by connection.
fn judge(verification: &mut Verification, expected: &Expected<'_>, shards: &mut [Shard<'_>], faults: &mut Faults) {
    let horizons: Vec<Option<u64>> = shards.iter().map(Shard::horizon).collect();
    let horizon_max = horizons.iter().flatten().max().copied();
    let entries = expected.ledger.entries();
    let mut found: Vec<Option<(&Turn, Option<u64>)>> = vec![None; entries.len()];
    // By epoch, so that of turns that may be any of a call's connections the first one is the first.
    let mut turns: Vec<_> = shards
        .iter()
        .zip(&horizons)
        .flat_map(|(shard, horizon)| shard.turns.turns.iter().map(move |(key, turn)| (key.1, turn, *horizon)))
        .collect();
    turns.sort_unstable_by_key(|(epoch, ..)| *epoch);
    for (_, turn, horizon) in turns {
        let Owner::Ours(call) = turn.owner else { continue };
        verification.frames_different += turn.different.count_to(u64::MAX);
        verification.frames_unexpected += turn.unexpected.count_to(u64::MAX);
        if turn.first_seq == 0 {
            continue; // no audio
        }
        match turn.candidates.iter().find(|place| found[**place].is_none()) {
            Some(place) => found[*place] = Some((turn, horizon)),
            None => {
                let count = turn.equal.count_to(u64::MAX);
                verification.frames_unexpected += count;
                let name = expected.name(call);
                faults.add("unexpected", || format!("{name}: a second turn with {count} frames of one connection"));
            }
        }
    }
    let size = expected.audio.payload_size() as u64;
    for (entry, found) in entries.iter().zip(found) {
        let nothing = Turn::default();
        let (turn, horizon) = found.unwrap_or((&nothing, horizon_max));
        judge_entry(verification, expected, entry, (turn, horizon), faults);
    }
    verification.frames_promised = expected.ledger.promised();
    verification.bytes_promised = verification.frames_promised * size;
    verification.bytes_equal = verification.frames_equal * size;
}

fn judge_entry(
    verification: &mut Verification,
    expected: &Expected<'_>,
    entry: &Entry,
    (turn, horizon): (&Turn, Option<u64>),
    faults: &mut Faults,
) {
    let speech = &expected.ledger.speech;
    let name = expected.name(entry.call);
    let equal = turn.equal.count_to(entry.promised);
    verification.frames_equal += equal;
    verification.frames_beyond += turn.equal.count_to(entry.sent) - equal;
    // The first frame whose due time is behind the horizon: from there on none can have expired.
    let live_seq = horizon.map_or(1, |horizon| {
        let first_due = speech.started_at + entry.first_due / 1_000;
        (horizon + 1).saturating_sub(first_due).div_ceil(speech.interval / 1_000) + 1
    });
    let present_seq = if turn.first_seq == 0 { u64::MAX } else { turn.first_seq };
    for (first, last) in turn.equal.gaps_to(entry.promised) {
        let expired_to = if first == 1 { last.min(live_seq.min(present_seq) - 1) } else { 0 };
        let expired = (expired_to + 1).saturating_sub(first);
        verification.frames_expired += expired;
        let (first, mut missing) = (first + expired, (last + 1).saturating_sub(first + expired));
        // Those are counted as different.
        missing -= (first..=last).filter(|seq| turn.different.contains(*seq)).count() as u64;
        verification.frames_missing += missing;
        if missing > 0 {
            let connection = format!("its connection after frame {}", entry.frames_before);
            let what = || {
                format!("{name}: {missing} of frames {first} to {last} of {connection}, promised up to {}", entry.promised)
            };
            faults.add("missing", what);
        }
    }
    if let Some(end) = turn.end
        && (end.frames > entry.sent || end.frames < entry.promised || end.bytes != end.frames * speech.frame_size as u64)
    {
        verification.frames_different += 1;
        let what = || {
            let (sent, promised) = (entry.sent, entry.promised);
            format!("{name}: its end record says {end:?}, {sent} frames were sent and {promised} promised")
        };
        faults.add("different", what);
    }
}
